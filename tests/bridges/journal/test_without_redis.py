"""Where redis is not installed, all but `RedisJournal` works, and that says what to do."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["redis"] = None  # as if it were not there
import rxcohere.bridges.web
from rxcohere.bridges import journal
assert journal.MemoryJournal() and "RedisJournal" in dir(journal)
from rxcohere.bridges.journal import *
try:
    from rxcohere.bridges.journal import RedisJournal
except ImportError as error:
    print(error)
"""


def test_what_is_missing_besides_redis_is_named() -> None:
    """A module of any other name is not taken for the extra; nor is what there never was."""
    program = """
import sys
from rxcohere.bridges import journal
try:
    journal.RedisJornal
except AttributeError as error:
    print(error)
sys.modules["rxcohere.bridges.journal.feeds"] = None  # as if the installation were broken
try:
    journal.RedisJournal
except ModuleNotFoundError as error:
    print(error.name)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    misspelt, missing = run.stdout.splitlines()
    assert "RedisJornal" in misspelt
    assert missing == "rxcohere.bridges.journal.feeds"


def test_what_needs_redis_says_so() -> None:
    """The journal in memory, the web and a star import do not; `RedisJournal` names the extra."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "pip install 'rxcohere[redis]'" in run.stdout
