"""A target for atheris, the coverage-guided fuzzer: bytes as a body, and as the data of events.

::

    python tests/fuzz/atheris_target.py -runs=100000 CORPUS

with libFuzzer's own options. A crash leaves a file; run with that file in place of the corpus, the
target shows what it does.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["rxcohere"]):
    from fuzz.readings import parsed_as_far_as_possible, read_body, read_events


def read(data: bytes) -> None:
    """Nothing but a documented error may come of it, and those do not leave the readings."""
    read_body(data)
    read_events(parsed_as_far_as_possible(data.split(b"\n")))


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
