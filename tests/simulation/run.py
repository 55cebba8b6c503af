"""One run of a plan, and the smallest part of a failing one.

A failure is known by its kind: the invariant that broke, or the exception that came out of the
engine and where. Shrinking keeps a part of the steps if it fails in the same kind, and it is the
delta debugging of Zeller and Hildebrandt ("Simplifying and Isolating Failure-Inducing Input",
2002), over the numbers of the plan's steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simulation.invariants import Violation
from simulation.plan import Plan
from simulation.world import World

SHRINK_RUNS_MAX = 400
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Failure:
    """Why a run failed. kind: the invariant that broke, or the exception and where it came from."""

    kind: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """What became of a run. story: what happened, line by line. trace: the SHA-256 of that."""

    story: tuple[str, ...]
    trace: str
    failure: Failure | None


def play(plan: Plan) -> Outcome:
    """Run a plan in a world of its own, to the end."""
    with _folder() as folder, World(folder, plan) as world:
        failure = None
        try:
            world.run()
        except Exception as error:
            failure = Failure(_kind(error), f"{type(error).__name__}: {error}")
        story = tuple(world.story)
        trace = hashlib.sha256("\n".join(story).encode("utf-8", "backslashreplace")).hexdigest()
        return Outcome(story, trace, failure)


def shrink(plan: Plan, failure: Failure) -> list[int]:
    """Return the numbers of few steps of a plan that still fail in the same kind."""
    runs = 0

    def fails(kept: list[int]) -> bool:
        nonlocal runs
        runs += 1
        found = play(plan.only(kept)).failure
        return found is not None and found.kind == failure.kind

    kept, pieces = list(range(len(plan.steps))), 2
    while kept and pieces <= 2 * len(kept) and runs < SHRINK_RUNS_MAX:
        smaller = _first_failing(kept, min(pieces, len(kept)), fails)
        if smaller is None:
            pieces *= 2
        else:
            kept, pieces = smaller, max(pieces - 1, 2)
    return kept


def _first_failing(
    kept: list[int], pieces: int, fails: Callable[[list[int]], bool]
) -> list[int] | None:
    """Return the first way to leave a piece out that still fails."""
    size = -(-len(kept) // pieces)
    for start in range(0, len(kept), size):
        rest = kept[:start] + kept[start + size :]
        if fails(rest):
            return rest
    return None


def _kind(error: Exception) -> str:
    if isinstance(error, Violation):
        return error.invariant
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/syncd/" in frame.filename] or list(frames)
    return f"{type(error).__name__} in {Path(own[-1].filename).stem}.{own[-1].name}"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Open a folder, in memory where there is a file system for that: no run outlives the power."""
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="syncd-simulation-", dir=place) as folder:
        yield Path(folder)
