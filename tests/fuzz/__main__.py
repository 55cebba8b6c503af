"""Fuzz one target with atheris: `PYTHONPATH=tests python -m fuzz TARGET [OPTION]...`.

Options are those of libFuzzer. What it finds to be of interest goes to build/fuzz/TARGET and serves
the next run; input that fails goes to build/fuzz. To keep what several runs have learned:
`python -m fuzz TARGET -merge=1 tests/fuzz/corpus/TARGET build/fuzz/TARGET`.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["syncd", "http_message_signatures", "http_sf"]):
    from fuzz.targets import TARGETS, run
    from syncd import codec, packing

ROOT = Path(__file__).resolve().parents[2]


def main(name: str, *options: str) -> None:
    """Fuzz until an option ends it or an input fails; the exit code is libFuzzer's."""
    # Bombs at the real bounds take a second each, and are replayed as they are by the tests.
    codec.FRAME_BYTES_MAX, packing.OBJECTS_MAX = 1024 * 1024, 64 * 1024
    found = ROOT / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    places = [str(found), str(Path(__file__).with_name("corpus") / name)]
    if any(option.startswith("-merge") for option in options):
        places = []
    limits = ["-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={found.parent}/{name}-"]
    atheris.Setup(
        [sys.argv[0], *limits, *options, *places],
        functools.partial(run, TARGETS[name]),
        enable_python_coverage=True,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
