"""The corpus of the fuzz targets, replayed: what was refused once stays refused, in bounded memory.

Fuzzing itself needs atheris and is `make fuzz`; this does not.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.seeds import CORPUS
from fuzz.targets import TARGETS, run

MEMORY_BYTES = 256 * 1024 * 1024
VALID = {"bundle": "whole", "frame": "updates", "message": "Header"}


@contextlib.contextmanager
def memory_of(size: int) -> Iterator[None]:
    """Let this process take so much memory on top of what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("target", TARGETS)
def test_only_errors_of_ours_come_out(target: str) -> None:
    """Every input is taken or refused with a `SyncError`, bombs too, where memory is short."""
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    with memory_of(MEMORY_BYTES):
        for file in inputs:
            run(TARGETS[target], file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_takes_what_is_valid(target: str) -> None:
    """A seed of this format passes to the end: the targets are no empty shells."""
    valid = VALID.get(target, "plain")
    TARGETS[target]((CORPUS / target / f"seed-{valid}").read_bytes())
