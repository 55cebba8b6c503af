"""Scenes: two hosts at a moment when one of them has work to do that may be cut short.

Tables of every kind are in them, changes that lose, change places under a UNIQUE, wait for a parent
or for their time, and deletions. A scene is done over and over, killed at another step each time.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from engine.hosts import DAY_MS, Clock, Host, Key, pull, settle, small_frames
from wire.sites import OLD, keyring

from power.kills import Folder
from syncd import bundlefile, compaction, comparison
from syncd.identity import sidecar_of
from syncd.vector import Vector

DDL = """
    CREATE TABLE owner (name TEXT PRIMARY KEY, label TEXT UNIQUE);
    CREATE TABLE thing (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        serial TEXT UNIQUE,
        owner TEXT REFERENCES owner(name),
        size INTEGER CHECK (size < 100)
    );
    CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL);
"""
TABLES: dict[str, Key] = {"owner": None, "thing": ["name"], "log": "generated"}
SHOWN = (
    "SELECT name, label FROM owner ORDER BY 1",
    "SELECT name, serial, owner, size FROM thing ORDER BY 1",
    "SELECT line FROM log ORDER BY 1",
)
AFTERWARDS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)"
    " INSERT INTO owner SELECT 'after ' || i, 'after ' || i FROM n"
)
SERVED = "SELECT count(*) FROM owner WHERE name LIKE 'served %'"
FRAME_ENTRIES = 10
SLICE_ROWS = 2


class Reopened(Host):
    """A host whose new origins, if it takes any, are none it has had."""

    def _new_origin(self) -> bytes:
        return secrets.token_bytes(16)


@dataclass(frozen=True)
class Scene:
    """A host `a` with work to do, and a peer `b`. folder: to put both back as they were."""

    folder: Folder
    clock: Clock
    work: Callable[[Scene], object]

    @contextlib.contextmanager
    def host(self, node: str) -> Iterator[Host]:
        """Open a host as a process that starts does."""
        opened = Reopened(
            self.folder.path, node, ddl="", tables=TABLES, clock=self.clock, enrolled=False
        )
        try:
            yield opened
        finally:
            opened.close()

    @property
    def bundle(self) -> Path:
        """The file that is exported or imported."""
        return self.folder.path / "file.bundle"

    def do(self) -> None:
        """Do the work, as the process that may be killed does; its tokens are always the same."""
        dice = random.Random(1)
        with (
            small_frames(FRAME_ENTRIES),
            mock.patch.object(secrets, "token_bytes", dice.randbytes),
            mock.patch.object(compaction, "SLICE_ROWS", SLICE_ROWS),
        ):
            self.work(self)

    def assert_sent_is_kept(self) -> None:
        """Check that a still has what it served, if b has it, and may go on under its origin."""
        with contextlib.closing(sqlite3.connect(self.folder.path / "b.db")) as connection:
            (sent,) = connection.execute(SERVED).fetchone()
        with self.host("a") as a:
            if sent:
                a.replica.origin()
                assert a.replica.status().renewed_why is None
                assert a.rows(SERVED) == [(sent,)]

    def recover(self) -> dict[str, Any]:
        """Write, do it again, let both hosts meet; return what stands on both.

        The app is quicker than syncd, and writes more than may have been lost: nobody shall tell by
        a count that something was.
        """
        with self.host("a") as a:
            a.write("INSERT INTO owner VALUES ('written after', 'w')")
            a.write(AFTERWARDS)
        self.work(self)
        with self.host("a") as a, self.host("b") as b:
            _assert_sound(a)
            b.write("INSERT INTO thing (name, owner) VALUES ('also after', 'written after')")
            settle(a, b)
            _assert_sound(a)
            assert _shown(a) == _shown(b)
            _assert_verified(a, b)
            assert not a.replica.status().journal
            if self.bundle.exists():
                with bundlefile.opened(self.bundle, RING) as reader:
                    assert list(reader)
            lost = a.rows("SELECT tbl, key, col, lost_value FROM syncd_conflict ORDER BY 1, 2, 3")
            return {"shown": _shown(a), "lost": lost, "held": a.held(), "held_by_b": b.held()}


def _shown(host: Host) -> list[list[tuple[Any, ...]]]:
    return [host.rows(query) for query in SHOWN]


def _assert_sound(host: Host) -> None:
    """Check what no death of a process may do to a file."""
    for path in (host.path, sidecar_of(host.path)):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    triggers = {
        name for (name,) in host.rows("SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger'")
    }
    assert triggers == set(TABLES)


def _assert_verified(a: Host, b: Host) -> None:
    """Check what `syncd verify` does, on both hosts."""
    for host in (a, b):
        assert comparison.findings(host.replica) == []
    asked = comparison.questions(a.replica)
    found, other = (comparison.answer(host.replica, asked) for host in (a, b))
    assert found.vector == other.vector
    assert found.answers == other.answers


def scene(folder: Path, name: str) -> Scene:
    """Prepare the scene of a name."""
    prepare, work = SCENES[name]
    clock = Clock()
    hosts = [
        Host(folder, node, ddl=DDL, tables=TABLES, clock=clock, enrolled=prepare is not _plain)
        for node in ("a", "b")
    ]
    prepare(*hosts)
    for host in hosts:
        host.content()
        host.close()
    return Scene(Folder(folder), clock, work)


def _plain(a: Host, b: Host) -> None:
    """Rows on both hosts, before anybody has heard of syncd on a."""
    b.enrol()
    _write(a, "a")
    _write(b, "b")


def _apart(a: Host, b: Host) -> None:
    """Both hosts were in step once, and have written since."""
    a.write("INSERT INTO owner VALUES ('shared', 's'), ('leaves', 'l')")
    a.write("INSERT INTO thing (name, serial, owner) VALUES ('both', '0', 'shared')")
    settle(a, b)
    for host in (a, b):
        _write(host, host.node)
    b.write("DELETE FROM owner WHERE name = 'leaves'")


def _write(host: Host, own: str) -> None:
    host.write("INSERT OR IGNORE INTO owner VALUES ('leaves', 'l'), ('shared', 's')")
    host.write(f"INSERT INTO owner VALUES ('of {own}', '{own}'), ('twice', 'the {own}')")
    host.write(f"INSERT INTO thing (name, serial, owner) VALUES ('{own} 1', '1', 'leaves')")
    host.write(f"INSERT INTO thing (name, serial, owner) VALUES ('{own} 2', '2{own}', 'of {own}')")
    host.write(f"UPDATE thing SET size = {ord(own) % 50} WHERE name IN ('both', '{own} 2')")
    host.write(f"INSERT INTO log (line) VALUES ('{own} one'), ('{own} two')")
    host.write(f"DELETE FROM log WHERE line = '{own} one'")


def _apart_and_copied(a: Host, b: Host) -> None:
    """The file of a is one that was copied from elsewhere: its sidecar is not its own."""
    _apart(a, b)
    a.replica.close()
    with contextlib.closing(sqlite3.connect(sidecar_of(a.path))) as connection, connection:
        connection.execute("UPDATE memory SET inode = inode + 1")


def _apart_with_file(a: Host, b: Host) -> None:
    """And a file of b's changes lies there."""
    _apart(a, b)
    with small_frames(FRAME_ENTRIES):
        bundlefile.write(a.path.with_name("file.bundle"), RING, *b.replica.frames_since(Vector()))


def _long_apart(a: Host, b: Host) -> None:
    """Each has deletions that the other lacks, past the retention."""
    _apart(a, b)
    for host in (a, b):
        host.write("DELETE FROM thing WHERE name IN ('both', ?)", f"{host.node} 1")
        host.replica.fold()
    a.clock.ms += 100 * DAY_MS


def _behind_the_horizon(a: Host, b: Host) -> None:
    """And what b has deleted, it has forgotten; what it has takes several frames."""
    for number in range(FRAME_ENTRIES):
        b.write("INSERT INTO owner VALUES (?1, ?1)", f"more {number}")
    _long_apart(a, b)
    assert b.replica.compact().deaths


def _in_doubt_of_time(a: Host, b: Host) -> None:
    """The clock of a was a day ahead when it wrote, and is right again."""
    _apart(a, b)
    a.clock.ms += DAY_MS
    a.write("UPDATE thing SET size = 3 WHERE name = 'both'")
    a.replica.fold()
    a.clock.ms -= DAY_MS


RING = keyring(OLD, clock=Clock())


def _init(this: Scene) -> None:
    with this.host("a") as a:
        a.enrol()


def _fold(this: Scene) -> None:
    with this.host("a") as a:
        a.replica.fold()


def _pull(this: Scene) -> None:
    with this.host("a") as a, this.host("b") as b:
        pull(a, b)


def _serve(this: Scene) -> None:
    with this.host("a") as a, this.host("b") as b:
        for number in range(3):
            a.write("INSERT OR IGNORE INTO owner VALUES (?1, ?1)", f"served {number}")
        pull(b, a)


def _export(this: Scene) -> None:
    with this.host("a") as a:
        if not this.bundle.exists():
            bundlefile.write(this.bundle, RING, *a.replica.frames_since(Vector()))


def _import(this: Scene) -> None:
    with this.host("a") as a, bundlefile.opened(this.bundle, RING) as reader:
        for frame in reader:
            a.replica.merge(reader.header, frame)


def _renew(this: Scene) -> None:
    with this.host("a") as a:
        a.replica.origin()


def _compact(this: Scene) -> None:
    with this.host("a") as a:
        a.replica.compact()
        assert a.replica.status().forgotten_ms


def _repair_clock(this: Scene) -> None:
    with this.host("a") as a:
        a.replica.repair_clock()


SCENES: dict[str, tuple[Callable[[Host, Host], None], Callable[[Scene], object]]] = {
    "init": (_plain, _init),
    "fold": (_apart, _fold),
    "pull": (_apart, _pull),
    "serve": (_apart, _serve),
    "export": (_apart, _export),
    "import": (_apart_with_file, _import),
    "new origin": (_apart_and_copied, _renew),
    "compaction": (_long_apart, _compact),
    "snapshot": (_behind_the_horizon, _pull),
    "clock repair": (_in_doubt_of_time, _repair_clock),
}
