"""A process is killed at every step of its work, and nothing is lost or half done by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine.hosts import scratch

from power.kills import Disk, kills, runs_to_its_end
from power.scenes import SCENES, Scene, scene
from syncd.identity import sidecar_of

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


def always_comes_right(this: Scene, expected: object, disk: Disk | None = None) -> None:
    """Kill the work at every step, and look what comes of each state that is left behind."""
    seen: set[object] = set()
    step = 0
    for step in kills(this.do, disk):
        if disk is not None:
            disk.cut_power()
        state = this.folder.state()
        if state not in seen:
            seen.add(state)
            this.assert_sent_is_kept()
            assert this.recover() == expected, f"killed before step {step}"
        this.folder.restore()
    assert step >= STEPS_MIN


POWER = ("pull", "serve", "new origin")
"""Where a power cut takes more than a kill does, so that it is the harder test."""


@pytest.mark.parametrize("name", [name for name in SCENES if name not in POWER])
def test_whatever_step_it_dies_at_all_comes_right(folder: Path, name: str) -> None:
    """Started again, it ends with the same rows, losses and held changes, on both hosts."""
    this = scene(folder, name)
    always_comes_right(this, undisturbed(this))


@pytest.mark.parametrize("name", POWER)
def test_whatever_the_disk_had_not_yet_is_pulled_again(folder: Path, name: str) -> None:
    """A power cut undoes commits, but none that a peer relies on and would skip the next of."""
    this = scene(folder, name)
    a = folder / "a.db"
    always_comes_right(this, undisturbed(this), Disk(a, sidecar_of(a)))
