"""The coverage-guided fuzzer, for a fixed number of runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.broken_streams import NOT_EVENTS

from rxcohere.testing import Transcript, transcript_names

TARGET = Path(__file__).with_name("atheris_target.py")
RUNS = 50_000
HANG = 1800
"""Seconds after which it hangs; it is not timed by this."""


@pytest.mark.nightly
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed, which guides the mutations by coverage",
)
def test_coverage_guided_mutations(tmp_path: Path) -> None:
    """Mutations that are kept when they reach new code find no error but the documented ones."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in transcript_names():
        body = Transcript.load(name).body
        (corpus / name).write_bytes(body)
        lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line[:1] == b"d"]
        (corpus / f"{name}-data").write_bytes(b"\n".join(lines))
    (corpus / "rubbish").write_bytes(b"\n".join(each[:1000] for each in NOT_EVENTS))
    options = [f"-runs={RUNS}", "-max_len=4096", "-timeout=20", f"-artifact_prefix={tmp_path}/"]
    ran = subprocess.run(
        [sys.executable, str(TARGET), *options, str(corpus)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=HANG,
        text=True,
        errors="replace",
    )
    # The last lines have the traceback, libFuzzer's seed and the input in Base64.
    assert ran.returncode == 0, ran.stdout[-8000:]
    assert re.search(rf"Done {RUNS} runs", ran.stdout), ran.stdout[-2000:]
