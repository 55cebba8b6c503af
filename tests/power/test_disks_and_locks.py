"""A disk that is full, a lock that is held and a log that is cut: one error, nothing lost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands.cli_host import CliHost
from commands.daemon_process import Daemon, eventually, running

from api.store import Store
from syncd import database
from syncd.database import Database

INTERVAL = "100ms"
DISK = "8m"
BUSY_MS = 200
ROWS = 2_000
FULL = "database or disk is full"
LOCKED = "database is locked"


@dataclass
class DiskHost(CliHost):
    """A host whose database has a small disk of its own; its log has not."""

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def database(self) -> Path:
        return self.disk / "notes.db"

    @contextlib.contextmanager
    def app(self) -> Iterator[None]:
        """Keep the file open, as the app beside syncd does."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute("SELECT count(*) FROM note").fetchall()
            yield

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Let something else take all that is left of the disk."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        yield
        filler.unlink()


@pytest.fixture
def a(tmp_path: Path) -> Iterator[DiskHost]:
    """A host on a disk of its own."""
    host = DiskHost(
        tmp_path / "a", env={"SYNC_INTERVAL": INTERVAL}, tree={"database": "disk/notes.db"}
    )
    host.disk.mkdir()
    with mounted(host.disk):
        host.ready()
        yield host


def errors_once(daemon: Daemon, text: str, hint: str) -> None:
    """Check that a trouble was an error in the log once, and a failed round at most once."""
    lines = [line for line in daemon.log.read_text().splitlines() if text in line]
    said = [line for line in lines if "works again" not in line]
    assert sum(" ERROR " in line for line in said) <= 1, lines
    assert sum(" WARNING " in line for line in said) <= 1, lines
    assert said, lines
    assert all(hint in line for line in said), lines


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a small disk in memory."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a disk of its own takes root to mount: {made.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def b(tmp_path: Path) -> CliHost:
    """Its peer, with more rows than the disk takes while it is full."""
    host = CliHost(tmp_path / "b", node="b").ready()
    host.add_many(ROWS)
    return host


class TestFullDisk:
    """Whoever needs room says so, and goes on once there is some."""

    def test_a_round_is_one_error_and_can_be_repeated(self, a: DiskHost, b: CliHost) -> None:
        """Nothing is half merged; the app beside it reads on, and so does `status`."""
        a.add("mine", 1)
        with b.serving() as server, a.app():
            a.write_config(peers=[{"name": "b", "url": server.url}])
            with a.full_disk():
                done = a.process("sync")
                assert done.returncode == 1
                assert done.stderr.count(FULL) == 1, done.stderr
                assert "hint: Free space on the disk" in done.stderr
                assert "Traceback" not in done.stderr
                assert a.notes() == {"mine": 1}
                assert a.process("status").returncode == 0
            assert a.process("sync").returncode == 0
        assert a.notes() == {"mine": 1, **b.notes()}

    def test_the_daemon_says_it_once_and_goes_on(self, a: DiskHost, b: CliHost) -> None:
        """However many rounds fail, the log has one line and a hint; and one when all is well."""
        with b.serving() as server:
            a.write_config(peers=[{"name": "b", "url": server.url}])
            with running(a) as daemon:
                eventually(lambda: a.notes() == b.notes(), daemon)
                with a.full_disk():
                    b.sql("UPDATE note SET body = 'new'")
                    eventually(lambda: daemon.says(FULL), daemon)
                    asked = len(server.requests)
                    eventually(lambda: len(server.requests) > asked + 5, daemon)
                eventually(lambda: a.notes() == b.notes(), daemon)
                eventually(lambda: daemon.says("works again"), daemon)
                errors_once(daemon, FULL, "Free space on the disk")


class TestLocked:
    """A program that keeps a write transaction open stops no reader and loses nothing."""

    def test_a_command_is_one_error_and_can_be_repeated(
        self, tmp_path: Path, b: CliHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each that has to write ends with a hint after its time; `status` is not kept waiting."""
        monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", BUSY_MS)
        a = CliHost(tmp_path / "a").ready()
        a.add("mine", 1)
        with b.serving() as server:
            a.write_config(peers=[{"name": "b", "url": server.url}])
            with a.writing():
                for command in (("sync",), ("init",), ("export", tmp_path / "file.bundle")):
                    done = a.run(*command)
                    assert done.exit_code == 1
                    assert done.stderr.count(LOCKED) == 1, done.stderr
                    assert "hint: Look for a program that keeps" in done.stderr
                assert a.run("status").exit_code == 0
            assert a.run("sync").exit_code == 0
        assert a.notes() == {"mine": 1, **b.notes()}

    def test_the_daemon_says_it_once_and_goes_on(self, tmp_path: Path, b: CliHost) -> None:
        """What the others write meanwhile comes as soon as the lock is free."""
        a = CliHost(tmp_path / "a", env={"SYNC_INTERVAL": INTERVAL}).ready()
        with b.serving() as server:
            a.write_config(peers=[{"name": "b", "url": server.url}])
            with running(a, busy_timeout_ms=BUSY_MS) as daemon:
                eventually(lambda: a.notes() == b.notes(), daemon)
                with a.writing():
                    b.add("meanwhile", 1)
                    eventually(lambda: daemon.says(LOCKED), daemon)
                    asked = len(server.requests)
                    eventually(lambda: len(server.requests) > asked + 2, daemon)
                eventually(lambda: a.notes() == b.notes(), daemon)
                eventually(lambda: daemon.says("works again"), daemon)
                errors_once(daemon, LOCKED, "Look for a program")


class TestNewFile:
    """Several processes may find a file that is new, and make it ready at once."""

    @pytest.mark.parametrize(
        "make_ready",
        [lambda path: Store(path).row("SELECT 1"), lambda path: Database(path).make_wal()],
        ids=["api", "syncd"],
    )
    def test_whoever_comes_second_waits(
        self, tmp_path: Path, make_ready: Callable[[Path], object]
    ) -> None:
        """SQLite itself waits for nobody as the file turns to write-ahead logging."""
        path = tmp_path / "new.db"
        first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        first.execute("CREATE TABLE t (k)")
        first.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, lambda: first.execute("COMMIT"))
        release.start()
        make_ready(path)
        release.join()
        first.close()
        with contextlib.closing(sqlite3.connect(path)) as reader:
            assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


class TestCutLog:
    """The file system gave back less of the write-ahead log than was written to it."""

    @pytest.mark.parametrize(("command", "kept"), [("sync", 0.5), ("run", 0.0)])
    def test_what_peers_have_comes_back(
        self, tmp_path: Path, b: CliHost, command: str, kept: float
    ) -> None:
        """The host goes on, under a new origin: its next writes are none that peers had."""
        a = CliHost(tmp_path / "a", env={"SYNC_INTERVAL": INTERVAL}).ready()
        with b.serving() as server:
            a.write_config(peers=[{"name": "b", "url": server.url, "push": True}])
            with running(a) as daemon:
                for number in range(3):
                    a.add(f"sent {number}", number)
                    eventually(lambda: b.notes().keys() >= {f"sent {number}"}, daemon)  # noqa: B023
                eventually(lambda: a.notes() == b.notes(), daemon)
            cut_log(a.database, kept)
            assert a.notes() != b.notes()
            a.add("after", 1)
            if command == "sync":
                assert a.process("sync").returncode == 0
            else:
                with running(a) as daemon:
                    eventually(lambda: "after" in b.notes() and a.notes() == b.notes(), daemon)
            assert a.notes() == b.notes()
        assert len(a.notes()) == ROWS + 4
        assert a.json("status")["renewed_why"]


def cut_log(path: Path, kept: float) -> None:
    """Leave a part of a database's log, after the death of whoever had it open."""
    wal = path.with_name(path.name + "-wal")
    os.truncate(wal, int(wal.stat().st_size * kept))
    path.with_name(path.name + "-shm").unlink()
