"""Hosts without a network: database files under the engine, one pulling from the other.

A `Host` is a replica and a writer beside it. The writer is a plain SQLite connection that knows
nothing of syncd; only its wall clock is ours, so that a test decides what is newer.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from engine.model import ALIVE, DEAD, EXISTENCE, Cell, Change, Rows, Stamp, cell
from syncd import bundle, extraction
from syncd.bundle import Frame, Header
from syncd.config import Config
from syncd.enrolment import Enrolled
from syncd.identity import sidecar_of
from syncd.replica import Replica

START_MS = 1_700_000_000_000
PULL_FRAMES_MAX = 1_000
_UNIX_EPOCH_JULIAN = 2_440_587.5
DAY_MS = 86_400_000

Key = list[str] | str | dict[str, Any] | None
"""A table's key as config.yaml has it: columns, `generated`, or None for the PRIMARY KEY."""

DEVICES = """
    CREATE TABLE devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL DEFAULT 'new',
        note
    )
"""
DEVICES_KEY: dict[str, Key] = {"devices": ["device_id"]}

Delivery = tuple[Header, Frame]


def copy_image(database: Path, folder: Path) -> None:
    """Copy a closed database's folder as an image of the disk does: files keep their inodes."""
    shutil.copytree(database.parent, folder)
    copy = folder / database.name
    sidecar = sqlite3.connect(sidecar_of(copy), isolation_level=None)
    sidecar.execute("UPDATE memory SET inode = ?", (copy.stat().st_ino,))
    sidecar.close()


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for one example of a property, in memory where the system has such a place.

    Examples by the hundred would wait for the disk more than for anything else.
    """
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


class Clock:
    """A wall clock that stands still until a test moves it."""

    def __init__(self, ms: int = START_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms

    def julian(self) -> float:
        """Return the same moment as julianday() would, in the middle of its millisecond."""
        return (self.ms + 0.5) / DAY_MS + _UNIX_EPOCH_JULIAN


class Host:
    """One database file, its replica, and a writer that does not know of either.

    made: all of the present test.
    """

    made: ClassVar[list[Host]] = []

    def __init__(
        self,
        folder: Path,
        node: str,
        *,
        ddl: str = DEVICES,
        tables: Mapping[str, Key] = DEVICES_KEY,
        clock: Clock | None = None,
        enrolled: bool = True,
    ) -> None:
        self.node = node
        self.path = folder / f"{node}.db"
        self.clock = clock or Clock()
        self._incarnations = 0
        self.writer = self.connect()
        self.writer.executescript(ddl)
        self.replica = self.replica_of(tables)
        self.made.append(self)
        if enrolled:
            self.replica.enrol()

    def connect(self) -> sqlite3.Connection:
        """Open another writer's connection, under this host's wall clock."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        connection.create_function("julianday", 0, self.clock.julian)
        return connection

    def replica_of(self, tables: Mapping[str, Key]) -> Replica:
        """Return the file as a replica of the given tables, each with its configured key."""
        config = Config.model_validate(
            {
                "node": self.node,
                "database": self.path,
                "tables": {
                    name: key if isinstance(key, dict) else {"key": key}
                    for name, key in tables.items()
                },
                "sync": {"keys": [{"id": "k1", "secret": "x" * 40}]},
            }
        )
        return Replica(config, wall_ms=self.clock, new_origin=self._new_origin)

    @property
    def identity(self) -> bytes:
        """The origin under which this file's next change will be born, as the file has it."""
        (origin,) = self.writer.execute(
            "SELECT o.id FROM syncd_replica AS r JOIN syncd_origin AS o ON o.ordinal = r.origin"
        ).fetchone()
        assert isinstance(origin, bytes)
        return origin

    def overwrite(self, content: bytes) -> None:
        """Put other bytes in place of the file, as one who restores a backup does."""
        self.close()
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.path.write_bytes(content)
        self.writer = self.connect()

    def content(self) -> bytes:
        """Return the file as one who makes a backup would have it."""
        self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self.path.read_bytes()

    def _new_origin(self) -> bytes:
        self._incarnations += 1
        return hashlib.sha256(f"{self.node} {self._incarnations}".encode()).digest()[:16]

    def enrol(self, tables: Mapping[str, Key] | None = None) -> list[Enrolled]:
        """Enrol again, as after a migration or a change of the configuration."""
        if tables is not None:
            self.replica.close()
            self.replica = self.replica_of(tables)
        return self.replica.enrol()

    def write(self, sql: str, *values: Any) -> int:
        """Run one statement of the user's a millisecond later; return how many rows it changed."""
        self.clock.ms += 1
        return self.writer.execute(sql, values).rowcount

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self.writer.execute(sql, values).fetchall()

    def table(self, name: str, key: Sequence[str], columns: Sequence[str]) -> Rows:
        """Return what a table shows, byte for byte."""
        return table_rows(self.writer, name, key, columns)

    def devices(self) -> dict[str, tuple[Any, Any]]:
        """Return status and note by device."""
        return {
            device: (status, note)
            for device, status, note in self.rows("SELECT device_id, status, note FROM devices")
        }

    def entries(self, table: str = "devices") -> int:
        """Return how many entries a table's changelog has."""
        self.replica.fold()
        ((count,),) = self.rows(f'SELECT count(*) FROM "syncd_changes_{table}"')
        assert isinstance(count, int)
        return count

    def conflicts(self) -> list[tuple[Any, ...]]:
        """Return the conflict log: table, column, the value that lost, the value that won."""
        return self.rows("SELECT tbl, col, lost_value, won_value FROM syncd_conflict ORDER BY id")

    def held(self) -> int:
        """Return how many registers are held."""
        return self.replica.status().held

    def close(self) -> None:
        """Close both connections."""
        self.writer.close()
        self.replica.close()


def table_rows(
    connection: sqlite3.Connection, name: str, key: Sequence[str], columns: Sequence[str]
) -> Rows:
    """Return what a table shows, byte for byte; rows with NULL in their key are not synced."""
    names = [*key, *columns]
    pairs = ", ".join(f'typeof("{n}"), "{n}"' for n in names)
    filled = " AND ".join(f'"{n}" IS NOT NULL' for n in key)
    cursor = connection.cursor()
    connection.text_factory = bytes
    try:
        found = cursor.execute(f'SELECT {pairs} FROM "{name}" WHERE {filled}').fetchall()
    finally:
        connection.text_factory = str
    rows = [_cells(row) for row in found]
    return {row[: len(key)]: row[len(key) :] for row in rows}


def _cells(row: tuple[Any, ...]) -> tuple[Cell, ...]:
    return tuple(
        cell(kind.decode(), value) for kind, value in zip(row[::2], row[1::2], strict=True)
    )


@contextlib.contextmanager
def small_frames(entries_max: int | None) -> Iterator[None]:
    """Make every frame end after so many entries; not to be entered by two threads at once."""
    if entries_max is None:
        yield
        return
    small = functools.partial(extraction.frame_after, entries_max=entries_max)
    with mock.patch.object(extraction, "frame_after", small):
        yield


def ask(receiver: Host, sender: Host, *, frame_entries: int | None = None) -> Delivery:
    """Return the next frame of what a receiver lacks of a sender."""
    vector, server = receiver.replica.vector(), sender.replica.origin()
    sender.replica.peers.hear(receiver.replica.origin(), receiver.node, vector)
    with small_frames(frame_entries):
        return sender.replica.changes_since(
            vector, receiver.replica.peers.cursor(server), receiver.replica.peers.progress(server)
        )


def pull(
    receiver: Host,
    sender: Host,
    *,
    frame_entries: int | None = None,
    frames_max: int | None = None,
) -> list[Delivery]:
    """Bring a receiver everything a sender has; return what was delivered.

    frame_entries: the size of a frame. frames_max: the frame after which the line goes dead.
    """
    delivered: list[Delivery] = []
    while frames_max is None or len(delivered) < frames_max:
        header, frame = ask(receiver, sender, frame_entries=frame_entries)
        receiver.replica.merge(header, frame)
        delivered.append((header, frame))
        if frame.claim is not None:
            break
        assert len(delivered) < PULL_FRAMES_MAX, "a pull that does not end"
    return delivered


def settle(*hosts: Host) -> None:
    """Let every host pull from every other until all have everything."""
    for _ in hosts:
        for receiver in hosts:
            for sender in hosts:
                if receiver is not sender:
                    pull(receiver, sender)


def changes_in(frame: Frame) -> set[Change]:
    """Return the register writes that a frame carries."""
    return {
        change
        for section in frame.sections
        for row, stamp in enumerate(_stamps(section, frame.origins))
        for change in _row_changes(section, row, stamp)
    }


def _stamps(section: bundle.Section, origins: list[bytes]) -> list[Stamp]:
    numbered = zip(
        section.hlcs,
        section.origins,
        section.seqs,
        strict=True,
    )
    return [Stamp(hlc, origins[number], seq) for hlc, number, seq in numbered]


def _row_changes(section: bundle.Section, row: int, stamp: Stamp) -> Iterator[Change]:
    key = tuple(_unpacked(column, row) for column in section.keys)
    if section.existence != bundle.NO_EXISTENCE:
        value = ALIVE if section.existence == bundle.ALIVE else DEAD
        yield Change(stamp, section.table, key, EXISTENCE, value)
    for name, column in zip(section.columns, section.values, strict=True):
        yield Change(stamp, section.table, key, name, _unpacked(column, row))


def _unpacked(column: bundle.Column, row: int) -> Cell:
    value = column.values[row]
    if row in column.raw_text:
        return cell("text", value)
    kinds = {int: "integer", float: "real", str: "text", bytes: "blob"}
    return cell(kinds.get(type(value), "null"), value)
