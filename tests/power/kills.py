"""A real child process that dies by SIGKILL before its n-th step.

A step begins or ends a transaction, on any file, or is a system call that changes a folder: what
lies between two of them, SQLite and the system make whole or undo. With SYNCD_KILL_AT=statements
every SQL statement is a step. The child is forked, so it is a process of its own at the price of
none, and the product knows nothing of it: statements are seen by SQLite's trace, calls by Python's
audit hooks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EVERY_STATEMENT = os.environ.get("SYNCD_KILL_AT") == "statements"
_BOUNDARIES = ("BEGIN IMMEDIATE", "COMMIT", "PRAGMA")
_CALLS = ("os.rename", "os.remove", "os.truncate", "fcntl.flock")
STEPS_MAX = 5_000


def kills(work: Callable[[], object]) -> Iterator[int]:
    """Yield after each kill, for every step of some work, and once after all of it."""
    for step in range(1, STEPS_MAX):
        is_done = runs_to_its_end(work, killed_at=step)
        yield step
        if is_done:
            return
    raise AssertionError("work that does not end")


def runs_to_its_end(work: Callable[[], object], *, killed_at: int) -> bool:
    """Do some work in a child; say False if it was killed before it was done."""
    child = os.fork()
    if not child:
        _work_and_exit(work, killed_at)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the child failed by itself; see its traceback"
    return True


def _work_and_exit(work: Callable[[], object], killed_at: int) -> None:
    try:
        _count(killed_at)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _count(killed_at: int) -> None:
    left = killed_at

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def trace(statement: str) -> None:
        if EVERY_STATEMENT or statement.startswith(_BOUNDARIES):
            step()

    def audit(event: str, _: object) -> None:
        if event in _CALLS:
            step()

    connect: Any = sqlite3.connect

    def traced(*args: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **named)
        connection.set_trace_callback(trace)
        return connection

    setattr(sqlite3, "connect", traced)  # noqa: B010
    sys.addaudithook(audit)


class Folder:
    """A folder that can be put back as it was, every file under its old inode."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._contents = {file: file.read_bytes() for file in path.iterdir()}

    def restore(self) -> None:
        """Put every file back; a file that was not there goes."""
        for file in self.path.iterdir():
            if file not in self._contents:
                file.unlink()
        for file, content in self._contents.items():
            file.write_bytes(content)

    def state(self) -> tuple[object, ...]:
        """Return what stands in the folder, databases as SQL; equal states recover equally."""
        found: list[object] = []
        for file in sorted(self.path.iterdir()):
            if file.suffix in (".db", ".db-syncd"):
                with contextlib.closing(sqlite3.connect(file)) as connection:
                    found.append("\n".join(connection.iterdump()))
            elif not file.name.endswith(("-wal", "-shm", "-journal")):
                found.append((file.name, file.read_bytes()))
        return tuple(found)
