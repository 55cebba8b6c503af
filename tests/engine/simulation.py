"""A world of hosts that write and exchange as a plan says, each held against the model as it goes.

The world knows what every statement meant to write: it compares the tables before and after it, the
stamps it reads from the journal. From there on the model alone says what every host must show.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from engine import model
from engine.hosts import (
    START_MS,
    Clock,
    Delivery,
    Host,
    changes_in,
    pull,
    small_frames,
)
from engine.model import ALIVE, DEAD, EXISTENCE, NULL, Cell, Change, Key, Stamp, cell
from syncd import changelog, codec
from syncd.codec import Reader
from syncd.errors import BundleGap
from syncd.held import DISPLACED
from syncd.replica import Replica
from syncd.vector import Vector


@dataclass(frozen=True)
class Shape:
    """A table as the world knows it. ddl: how it is made. config: the key to enrol it with.

    A table with constraints beside its key may hold rows back; see `model.settled`.
    """

    ddl: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    config: list[str] | None = None
    presets: dict[str, Cell] = field(default_factory=dict)
    uniques: tuple[tuple[str, ...], ...] = ()
    parents: tuple[tuple[tuple[str, ...], str], ...] = ()
    check: Callable[[dict[str, Cell]], bool] = lambda _: True


Shapes = dict[str, Shape]

PLAIN: Shapes = {
    # An integer minted on every host beside the key that counts.
    "devices": Shape(
        "CREATE TABLE devices (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " device_id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, seats INTEGER DEFAULT 1, note)",
        ("device_id",),
        ("status", "seats", "note"),
        ["device_id"],
        {"seats": ("integer", 1)},
    ),
    "places": Shape(
        "CREATE TABLE places (site TEXT NOT NULL, number INTEGER NOT NULL, score REAL,"
        " holder TEXT NOT NULL COLLATE NOCASE, PRIMARY KEY (site, number))",
        ("site", "number"),
        ("score", "holder"),
    ),
    "settings": Shape(
        "CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL,"
        " kind TEXT DEFAULT 'plain') WITHOUT ROWID",
        ("name",),
        ("value", "kind"),
        None,
        {"kind": ("text", b"plain")},
    ),
}


EARLIER: Shapes = {
    "devices": Shape(
        "CREATE TABLE devices (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " device_id TEXT NOT NULL UNIQUE, status TEXT NOT NULL)",
        ("device_id",),
        ("status",),
        ["device_id"],
    )
}
LATER: Shapes = {
    "devices": Shape(
        f"{EARLIER['devices'].ddl[:-1]}, seats, note)",
        ("device_id",),
        ("status", "seats", "note"),
        ["device_id"],
    )
}


def _in_order(row: dict[str, Cell]) -> bool:
    low, high = row["low"][1], row["high"][1]
    return not isinstance(low, int) or not isinstance(high, int) or low <= high


CONSTRAINED: Shapes = {
    "accounts": Shape(
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " email TEXT UNIQUE, phone TEXT UNIQUE, low INTEGER, high INTEGER, CHECK (low <= high))",
        ("name",),
        ("email", "phone", "low", "high"),
        ["name"],
        uniques=(("email",), ("phone",)),
        check=_in_order,
    ),
    "teams": Shape(
        "CREATE TABLE teams (team TEXT PRIMARY KEY, owner TEXT, room TEXT NOT NULL, seat INTEGER,"
        " UNIQUE (room, seat), FOREIGN KEY (owner) REFERENCES accounts (name)"
        " ON DELETE SET NULL ON UPDATE CASCADE)",
        ("team",),
        ("owner", "room", "seat"),
        uniques=(("room", "seat"),),
        parents=((("owner",), "accounts"),),
    ),
    "members": Shape(
        "CREATE TABLE members (team TEXT REFERENCES teams (team) ON DELETE CASCADE"
        " ON UPDATE CASCADE, name TEXT, note, PRIMARY KEY (team, name),"
        " FOREIGN KEY (name) REFERENCES accounts (name) ON DELETE CASCADE) WITHOUT ROWID",
        ("team", "name"),
        ("note",),
        parents=((("team",), "teams"), (("name",), "accounts")),
    ),
}


def _apart(row: dict[str, Cell]) -> bool:
    return NULL in (row["slug"], row["up"]) or row["slug"] != row["up"]


# Rows that beat what they rest on, or each other's support.
KNOTTED: Shapes = {
    "steps": Shape(
        "CREATE TABLE steps (step TEXT PRIMARY KEY NOT NULL, slug TEXT UNIQUE,"
        " up TEXT REFERENCES steps (step) ON DELETE CASCADE, CHECK (slug <> up))",
        ("step",),
        ("slug", "up"),
        uniques=(("slug",),),
        parents=((("up",), "steps"),),
        check=_apart,
    ),
    "clubs": Shape(
        "CREATE TABLE clubs (id INTEGER PRIMARY KEY, club TEXT NOT NULL UNIQUE, colour UNIQUE,"
        " captain TEXT REFERENCES players (player))",
        ("club",),
        ("colour", "captain"),
        ["club"],
        uniques=(("colour",),),
        parents=((("captain",), "players"),),
    ),
    "players": Shape(
        "CREATE TABLE players (player TEXT PRIMARY KEY NOT NULL, club TEXT REFERENCES clubs (club)"
        " ON DELETE SET NULL, shirt INTEGER, locker INTEGER UNIQUE, UNIQUE (club, shirt))"
        " WITHOUT ROWID",
        ("player",),
        ("club", "shirt", "locker"),
        uniques=(("club", "shirt"), ("locker",)),
        parents=((("club",), "clubs"),),
    ),
}


@dataclass(frozen=True)
class Statement:
    """One statement of a writer's. born: the key of the row it inserts, if it gets that far.

    undone: it runs in a savepoint that is rolled back.
    """

    table: str
    sql: str
    values: tuple[Any, ...] = ()
    born: tuple[Any, ...] | None = None
    undone: bool = False


@dataclass(frozen=True)
class Write:
    """A writer's transaction."""

    host: int
    statements: tuple[Statement, ...]
    commit: bool = True


@dataclass(frozen=True)
class Pull:
    """A round, cut off after some frames; each frame may arrive several times."""

    road: int
    frame_entries: int | None = None
    frames_max: int | None = None
    copies: int = 1


@dataclass(frozen=True)
class Carry:
    """A file with what the receiver lacks, or with everything, read to its end or to a point."""

    road: int
    everything: bool = False
    frame_entries: int | None = None
    frames_max: int | None = None


@dataclass(frozen=True)
class Redeliver:
    """A frame that was delivered before arrives again, at any host."""

    delivery: int
    host: int


@dataclass(frozen=True)
class SetClock:
    """A host's wall clock is set, forwards or back."""

    host: int
    skew_ms: int


@dataclass(frozen=True)
class Pass:
    """Time passes for everybody."""

    ms: int


@dataclass(frozen=True)
class Fold:
    """The daemon folds, in slices of few entries."""

    host: int
    entries: int


@dataclass(frozen=True)
class Backup:
    """Somebody copies a host's file and puts the copy aside."""

    host: int


@dataclass(frozen=True)
class Restore:
    """The last copy that was put aside takes the place of a host's file, its own or another's."""

    host: int


@dataclass(frozen=True)
class Migrate:
    """A host's application is deployed anew: its tables get the columns they lacked."""

    host: int


Step = Migrate | Write | Pull | Carry | Redeliver | SetClock | Pass | Fold | Backup | Restore


class World:
    """Hosts, the roads between them, and the set of changes each host must have by now.

    pragmas: what writers ask of SQLite, such as to enforce foreign keys. lacking: the tables of
    hosts that have an earlier version of them, with fewer columns at the end.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Shapes,
        roads: Sequence[tuple[int, int]],
        skews_ms: Sequence[int],
        before: Iterable[Write] = (),
        *,
        pragmas: Sequence[str] = (),
        lacking: Mapping[int, Shapes] | None = None,
    ) -> None:
        self.shapes = shapes
        self.holds_back = any(s.uniques or s.parents for s in shapes.values())
        self.roads = roads
        self.now_ms = START_MS
        self.skews_ms = list(skews_ms)
        self.ledger: dict[tuple[str, Key, str, Stamp], Cell] = {}
        self.mail: list[Delivery] = []
        self.backup: tuple[bytes, set[Change]] | None = None
        self.pragmas = pragmas
        self.lacking = dict(lacking or {})
        tables = {name: shape.config for name, shape in shapes.items()}
        self.hosts = [
            Host(folder, f"h{n}", ddl=self._ddl(n), tables=tables, clock=Clock(), enrolled=False)
            for n in range(len(skews_ms))
        ]
        self.sets: list[set[Change]] = [set() for _ in self.hosts]
        self._set_clocks()
        for host in self.hosts:
            self._configure(host)
        for write in before:
            for statement in write.statements:
                _attempt(self.hosts[write.host % len(self.hosts)].writer, statement)
        for number in range(len(self.hosts)):
            self._enrol(number)

    def close(self) -> None:
        """Close every host's connections."""
        for host in self.hosts:
            host.close()

    def run(self, steps: Iterable[Step]) -> None:
        """Take the steps of a plan, comparing a host with the model whenever it has changed."""
        for step in steps:
            match step:
                case Write():
                    self._write(step)
                case Pull():
                    self._pull(step)
                case Carry():
                    self._carry(step)
                case Redeliver():
                    self._redeliver(step)
                case SetClock(host, skew_ms):
                    self.skews_ms[host % len(self.hosts)] = skew_ms
                    self._set_clocks()
                case Pass(ms):
                    self.now_ms += ms
                    self._set_clocks()
                case Fold(host, entries):
                    self._fold(host % len(self.hosts), entries)
                case Migrate(host):
                    self._migrate(host % len(self.hosts))
                case Backup(host):
                    self._back_up(host % len(self.hosts))
                case Restore(host):
                    self._restore(host % len(self.hosts))

    def settle(self) -> None:
        """Let rounds pass along every road until the farthest host has heard everything."""
        for _ in self.hosts:
            for receiver, sender in self.roads:
                self._deliver(receiver, pull(self.hosts[receiver], self.hosts[sender]))

    def check_converged(self) -> None:
        """Every host shows what the model makes of all changes, and has nothing more to tell."""
        everything = set().union(*self.sets)
        for number, host in enumerate(self.hosts):
            assert self._shown(number) == self._settled(number, everything).shown, f"host {number}"
            assert host.rows("SELECT * FROM syncd_held") == []
            assert host.rows("PRAGMA foreign_key_check") == []
            assert host.rows("PRAGMA integrity_check") == [("ok",)]
        vectors = {host.replica.vector() for host in self.hosts}
        assert len(vectors) == 1
        for receiver, sender in self.roads:
            for _, frame in pull(self.hosts[receiver], self.hosts[sender]):
                assert frame.sections == []

    def _set_clocks(self) -> None:
        for host, skew_ms in zip(self.hosts, self.skews_ms, strict=True):
            host.clock.ms = self.now_ms + skew_ms

    def _enrol(self, number: int) -> None:
        host = self.hosts[number]
        rows = self._shown(number)
        host.replica.enrol()
        header, frame = host.replica.changes_since(Vector())
        enrolled = changes_in(frame)
        assert all(change.stamp.hlc == 0 for change in enrolled)
        assert self._alive(number, enrolled) == rows
        self._remember(number, enrolled, born_here=True)
        self.mail.append((header, frame))

    def _write(self, write: Write) -> None:
        number = write.host % len(self.hosts)
        connection = self.hosts[number].writer
        connection.execute("BEGIN IMMEDIATE")
        written: set[Change] = set()
        for statement in write.statements:
            written |= self._statement(number, statement)
        connection.execute("COMMIT" if write.commit else "ROLLBACK")
        if write.commit:
            self._remember(number, written, born_here=True)
        self._check(number)

    def _statement(self, number: int, statement: Statement) -> set[Change]:
        host = self.hosts[number]
        connection = host.writer
        last = connection.execute("SELECT max(seq) FROM syncd_journal").fetchone()[0]
        before = self._shown(number)
        if statement.undone:
            connection.execute("SAVEPOINT undone")
        changed = _attempt(connection, statement)
        if statement.undone:
            connection.execute("ROLLBACK TO undone")
            connection.execute("RELEASE undone")
        if not changed or statement.undone:
            return set()
        after = self._shown(number)
        born = None if statement.born is None else tuple(map(cell_of, statement.born))
        displaced, told = None, None
        if born and born in before[statement.table]:
            ((enforced,),) = connection.execute("PRAGMA foreign_keys")
            displaced = (statement.table, born) if enforced else None
            # Only then does a trigger tell that REPLACE deletes the row first.
            ((recursive,),) = connection.execute("PRAGMA recursive_triggers")
            told = born if recursive else None
        written: set[Change] = set()
        for table, shape in self._shapes_of(number).items():
            cells = len(shape.key)
            wrote = stamps_of(connection, table, cells, last, host.identity)
            ended = stamps_of(connection, table, cells, last, host.identity, suspects=True)
            reborn = born if table == statement.table else None
            replaced = replaced_by_cascade(
                shape.key, shape.parents, displaced, before[table], after[table]
            )
            if told and table == statement.table:
                replaced.add(told)
            if replaced:
                # REPLACE deletes before its statement writes.
                died = stamps_of(connection, table, cells, last, host.identity, first=True)
                ended |= {key: died[key] for key in replaced}
            meant = writes_between(shape.columns, before[table], after[table], reborn, replaced)
            written |= {
                Change((ended if value == DEAD else wrote)[key], table, key, name, value)
                for key, name, value in meant
            }
        return written

    def _pull(self, step: Pull) -> None:
        receiver, sender = self.roads[step.road % len(self.roads)]
        delivered = pull(
            self.hosts[receiver],
            self.hosts[sender],
            frame_entries=step.frame_entries,
            frames_max=step.frames_max,
        )
        self._deliver(receiver, delivered)
        for _ in range(step.copies - 1):
            for header, frame in delivered:
                self.hosts[receiver].replica.merge(header, frame)
        self._check(receiver)

    def _carry(self, step: Carry) -> None:
        receiver, sender = self.roads[step.road % len(self.roads)]
        since = Vector() if step.everything else self.hosts[receiver].replica.vector()
        file = io.BytesIO()
        with small_frames(step.frame_entries):
            codec.write(file, *self.hosts[sender].replica.frames_since(since))
        file.seek(0)
        reader = Reader(file)
        for count, frame in enumerate(reader):
            if count == step.frames_max:
                break
            self.hosts[receiver].replica.merge(reader.header, frame)
            self._remember(receiver, changes_in(frame))
        self._check(receiver)

    def _redeliver(self, step: Redeliver) -> None:
        header, frame = self.mail[step.delivery % len(self.mail)]
        number = step.host % len(self.hosts)
        try:
            self.hosts[number].replica.merge(header, frame)
        except BundleGap:
            pass
        else:
            self._remember(number, changes_in(frame))
        self._check(number)

    def _fold(self, number: int, entries: int) -> None:
        fold = changelog.fold
        with mock.patch.object(
            changelog, "fold", lambda connection, **options: fold(connection, entries, **options)
        ):
            self.hosts[number].replica.fold()
        self._check(number)

    def _back_up(self, number: int) -> None:
        host = self.hosts[number]
        host.replica.fold()
        self.backup = (host.content(), set(self.sets[number]))

    def _restore(self, number: int) -> None:
        """Replace a host's file; what it had and nobody else was sent is lost."""
        if self.backup is None:
            return
        host = self.hosts[number]
        content, changes = self.backup
        host.overwrite(content)
        self._configure(host)
        self.sets[number] = set(changes)
        host.replica.fold()
        self._check(number)

    def _configure(self, host: Host) -> None:
        for pragma in self.pragmas:
            host.writer.execute(f"PRAGMA {pragma}")

    def _deliver(self, receiver: int, delivered: list[Delivery]) -> None:
        self.mail += delivered
        for _, frame in delivered:
            self._remember(receiver, changes_in(frame))
        self._check(receiver)

    def _remember(self, number: int, changes: Iterable[Change], *, born_here: bool = False) -> None:
        """Add to what a host has; nobody may tell of a write that was never made."""
        for change in changes:
            write = (change.table, change.key, change.register, change.stamp)
            if born_here:
                self.ledger[write] = change.value
            assert self.ledger.get(write) == change.value, f"{change} was never written"
            self.sets[number].add(change)

    def _check(self, number: int) -> None:
        host = self.hosts[number]
        if self.holds_back and host.replica.status().journal:
            return  # what a write makes room for shows once the write is folded
        settled = self._settled(number, self.sets[number])
        assert self._shown(number) == settled.shown, f"host {number}"
        logged = displaced_in(host.replica, host.writer)
        assert settled.displaced <= logged <= settled.beaten, f"host {number}"

    def _shown(self, number: int) -> model.Tables:
        return {
            name: self.hosts[number].table(name, shape.key, shape.columns)
            for name, shape in self._shapes_of(number).items()
        }

    def _settled(self, number: int, changes: Iterable[Change]) -> model.Settled:
        changes = list(changes)
        demands = {
            name: model.Demands(
                (*s.key, *s.columns), tuple(map(model.Unique, s.uniques)), s.parents, s.check
            )
            for name, s in self._shapes_of(number).items()
        }
        return model.settled(changes, self._alive(number, changes), demands)

    def _alive(self, number: int, changes: Iterable[Change]) -> model.Tables:
        shapes = self._shapes_of(number)
        presets = {c: preset for s in shapes.values() for c, preset in s.presets.items()}
        return model.visible(changes, {n: s.columns for n, s in shapes.items()}, presets)

    def _shapes_of(self, number: int) -> Shapes:
        return self.shapes | self.lacking.get(number, {})

    def _ddl(self, number: int) -> str:
        return ";".join(shape.ddl for shape in self._shapes_of(number).values())

    def _migrate(self, number: int) -> None:
        host = self.hosts[number]
        for name, shape in self.lacking.pop(number, {}).items():
            for column in self.shapes[name].columns[len(shape.columns) :]:
                host.writer.execute(f"ALTER TABLE {name} ADD COLUMN {column}")
        host.enrol()
        self._check(number)


def _attempt(connection: sqlite3.Connection, statement: Statement) -> int:
    """Run a statement; return how many rows it wrote, none if SQLite refused it."""
    try:
        return connection.execute(statement.sql, statement.values).rowcount
    except sqlite3.IntegrityError:
        return 0
    except sqlite3.OperationalError as error:
        if "column" not in str(error):
            raise
        return 0  # the host has not been migrated yet


def writes_between(
    columns: Sequence[str],
    before: model.Rows,
    after: model.Rows,
    born: Key | None,
    replaced: Collection[Key] = (),
) -> set[tuple[Key, str, Cell]]:
    """Return the register writes that took a table from one state to another.

    replaced: rows that died between the two, and were born again.
    """
    written = {(key, EXISTENCE, DEAD) for key in (*(before.keys() - after.keys()), *replaced)}
    for key, row in after.items():
        whole = key not in before or key == born or key in replaced
        if whole:
            written.add((key, EXISTENCE, ALIVE))
        for position, name in enumerate(columns):
            if whole or before[key][position] != row[position]:
                written.add((key, name, row[position]))
    return written


def replaced_by_cascade(
    key: Sequence[str],
    parents: Iterable[tuple[Sequence[str], str]],
    displaced: tuple[str, Key] | None,
    before: model.Rows,
    after: model.Rows,
) -> set[Key]:
    """Return the rows of a table that one cascade took away and another put back.

    Where an UPDATE displaces a row, that one's children go with it, and the children of the row
    that takes over its key may get the keys that they had. key, parents: of the children, which
    cannot stay while their parent goes if its key is part of theirs. displaced: the parent's table
    and key.
    """
    places = [
        [key.index(name) for name in names]
        for names, parent in parents
        if displaced and parent == displaced[0] and set(names) <= set(key)
    ]
    return {
        row
        for row in before.keys() & after.keys()
        for place in places
        if displaced and tuple(row[n] for n in place) == displaced[1]
    }


def stamps_of(
    connection: sqlite3.Connection,
    table: str,
    cells: int,
    after: int,
    origin: bytes,
    *,
    suspects: bool = False,
    first: bool = False,
) -> dict[Key, Stamp]:
    """Return the last stamp that the journal gave each row since an entry, or the first one.

    suspects: whether to count entries that say no more than that a row may have been displaced; if
    it has, its death is one of them.
    """
    key = ", ".join(f"typeof(j.k{i}), j.k{i}" for i in range(cells))
    found = connection.execute(
        f"SELECT j.seq, j.hlc, {key} FROM ({changelog.READINGS}) AS j JOIN syncd_table AS t"
        " ON t.id = j.tbl WHERE j.seq > ? AND t.name = ? AND (j.mask <> 0 OR ?) ORDER BY j.seq",
        (after, table, suspects),
    )
    stamps: dict[Key, Stamp] = {}
    for seq, hlc, *values in found:
        row = tuple(cell(k, v) for k, v in zip(values[::2], values[1::2], strict=True))
        if not (first and row in stamps):
            stamps[row] = Stamp(hlc, origin, seq)
    return stamps


def cell_of(value: object) -> Cell:
    kinds = {int: "integer", float: "real", str: "text", bytes: "blob"}
    return cell(kinds.get(type(value), "null"), value)


def displaced_in(replica: Replica, reader: sqlite3.Connection) -> set[model.Id]:
    """Return the rows that the conflict log of a replica has as displaced now."""
    return {
        (one.table, tuple(map(cell_of, reader.execute(f"VALUES ({one.key})").fetchone())))
        for one in replica.conflicts()
        if one.reason == DISPLACED and one.ended_ms is None
    }
