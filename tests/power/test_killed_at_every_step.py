"""A process is killed at every step of its work, and nothing is lost or half done by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine.hosts import scratch

from power.kills import kills, runs_to_its_end
from power.scenes import SCENES, Scene, scene

STEPS_MIN = 10


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory: what is written there survives the death of a process all the same."""
    with scratch() as name:
        yield Path(name)


def undisturbed(this: Scene) -> object:
    """Return what comes of it if nobody is killed."""
    assert runs_to_its_end(this.do, killed_at=0)
    outcome = this.recover()
    this.folder.restore()
    return outcome


@pytest.mark.parametrize("name", SCENES)
def test_whatever_step_it_dies_at_all_comes_right(folder: Path, name: str) -> None:
    """Started again, it ends with the same rows, losses and held changes, on both hosts."""
    this = scene(folder, name)
    expected = undisturbed(this)
    seen: set[object] = set()
    step = 0
    for step in kills(this.do):
        state = this.folder.state()
        if state not in seen:
            seen.add(state)
            assert this.recover() == expected, f"killed before step {step}"
        this.folder.restore()
    assert step >= STEPS_MIN
