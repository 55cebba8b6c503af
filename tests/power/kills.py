"""A real child process that dies by SIGKILL before its n-th step.

A step begins or ends a transaction, on any file, or is a system call that changes a folder: what
lies between two of them, SQLite and the system make whole or undo. With SYNCD_KILL_AT=statements
every SQL statement is a step. The child is forked, so it is a process of its own at the price of
none, and the product knows nothing of it: statements are seen by SQLite's trace, calls by Python's
audit hooks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

EVERY_STATEMENT = os.environ.get("SYNCD_KILL_AT") == "statements"
_BOUNDARIES = ("BEGIN IMMEDIATE", "COMMIT", "PRAGMA")
_CALLS = ("os.rename", "os.remove", "os.truncate", "fcntl.flock")
STEPS_MAX = 5_000


class Disk:
    """What of the write-ahead logs of some databases a disk has, and not only the system's cache.

    It has a log up to where it stood after the last commit with `synchronous = FULL`
    (sqlite.org/pragma.html#pragma_synchronous). The numbers are shared with the child.
    """

    def __init__(self, *databases: Path) -> None:
        self._databases = databases
        self._synced = memoryview(mmap.mmap(-1, 8 * max(1, len(databases)))).cast("q")

    def watch(self, database: Path, trace: Callable[[str], None]) -> Callable[[str], None]:
        """Return a trace that also notes what is made durable, before it calls the given one."""
        if database not in self._databases:
            return trace
        number = self._databases.index(database)
        last, is_full = "", False

        def watching(statement: str) -> None:
            nonlocal last, is_full
            if is_full and last == "COMMIT":
                self._synced[number] = _wal(database).stat().st_size
            if statement.startswith("PRAGMA synchronous"):
                is_full = statement.endswith("FULL")
            last = statement
            trace(statement)

        return watching

    def cut_power(self) -> None:
        """Take away from every log what the disk does not have, and what stood in memory."""
        for number, database in enumerate(self._databases):
            if _wal(database).exists():
                os.truncate(
                    _wal(database), min(self._synced[number], _wal(database).stat().st_size)
                )
            database.with_name(database.name + "-shm").unlink(missing_ok=True)
            self._synced[number] = 0


def _wal(database: Path) -> Path:
    return database.with_name(database.name + "-wal")


def kills(work: Callable[[], object], disk: Disk | None = None) -> Iterator[int]:
    """Yield after each kill, for every step of some work, and once after all of it."""
    for step in range(1, STEPS_MAX):
        is_done = runs_to_its_end(work, killed_at=step, disk=disk)
        yield step
        if is_done:
            return
    raise AssertionError("work that does not end")


def runs_to_its_end(
    work: Callable[[], object], *, killed_at: int, disk: Disk | None = None
) -> bool:
    """Do some work in a child; say False if it was killed before it was done."""
    watched = disk or Disk()
    child = os.fork()
    if not child:
        _work_and_exit(work, killed_at, watched)  # never returns: two would go on with the tests
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the child failed by itself; see its traceback"
    return True


def _work_and_exit(work: Callable[[], object], killed_at: int, disk: Disk) -> NoReturn:
    try:
        _count(killed_at, disk)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _count(killed_at: int, disk: Disk) -> None:
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

    def traced(path: Path, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(path, **named)
        connection.set_trace_callback(disk.watch(path, trace))
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
