"""The tables that simulated hosts have, in two versions of their schema, and what is written there.

A `Shape` says of one table how it is made, what must be unique in it and what it refers to, so that
the model can decide what shows. Everything here is written from few keys and few values, so that
the hosts' writes meet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import model
from engine.model import NULL, Cell, Change, Demands, Unique
from engine.simulation import cell_of

VERSIONS = (1, 2)
Row = dict[str, Cell]


@dataclass(frozen=True)
class Shape:
    """A table. since: the version of the schema that brings it.

    enrolled: its configuration, the columns that stay on their host left out. generated: its rows
    have no key but the one syncd mints; `key` is then that of the merge. later: columns that
    version 2 adds, as they are declared. local: columns that stay on their host, each with its
    DEFAULT. presets: those of the synced columns. parents: columns that refer to a table's key, or,
    where `REFERENCES` has them, to the number of its rows.
    """

    ddl: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    enrolled: dict[str, Any] = field(default_factory=dict)
    presets: dict[str, Cell] = field(default_factory=dict)
    uniques: tuple[Unique, ...] = ()
    parents: tuple[tuple[tuple[str, ...], str], ...] = ()
    check: Callable[[Row], bool] = lambda _: True
    generated: bool = False
    since: int = 1
    local: dict[str, Cell] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, str]:
        """Return the columns that refer to a row by its number, each with the row's table."""
        return {names[0]: to for names, to in self.parents if names[0] in REFERENCES}

    @property
    def config(self) -> dict[str, Any]:
        """Return the table's configuration."""
        return self.enrolled | ({"columns": {"exclude": list(self.local)}} if self.local else {})

    def columns_of(self, version: int) -> tuple[str, ...]:
        """Return the synced columns beside the key, in a version of the schema."""
        return tuple(c for c in self.columns if version > 1 or c not in self.later)

    def demands(self, version: int) -> Demands:
        """Return the constraints, in a version of the schema."""
        names = (*self.key, *self.columns_of(version))
        required = [name for name in self.columns if name in REQUIRED]

        def check(row: Row) -> bool:
            return self.check(row) and all(row[name] != NULL for name in required)

        return Demands(names, self.uniques, self.parents, check)


Shapes = dict[str, Shape]


def of_version(shapes: Shapes, version: int) -> Shapes:
    """Return the tables that a version of the schema has."""
    return {name: shape for name, shape in shapes.items() if shape.since <= version}


def alive(shapes: Shapes, version: int, changes: Iterable[Change]) -> model.Tables:
    """Return the rows that are alive after some changes, whether they show or not."""
    tables = of_version(shapes, version)
    presets = {name: preset for s in tables.values() for name, preset in s.presets.items()}
    columns = {name: shape.columns_of(version) for name, shape in tables.items()}
    return model.visible(changes, columns, presets)


def settled(shapes: Shapes, version: int, changes: Collection[Change]) -> model.Settled:
    """Return what tables show after some changes, and what they do not."""
    demands = {name: s.demands(version) for name, s in of_version(shapes, version).items()}
    return model.settled(changes, alive(shapes, version, changes), demands)


def ddl(shapes: Shapes, version: int) -> str:
    """Return the script that makes an empty database of a version."""
    made = [shape.ddl for shape in shapes.values() if shape.since == 1]
    return ";".join(made + [migration(shapes)] * (version - 1))


def migration(shapes: Shapes) -> str:
    """Return the script that takes a database from version 1 to version 2."""
    added = [
        f"ALTER TABLE {name} ADD COLUMN {column} {declared}"
        for name, shape in shapes.items()
        for column, declared in shape.later.items()
    ]
    return ";".join([*added, *(shape.ddl for shape in shapes.values() if shape.since > 1)])


GENERATED_KEY = ("syncd_origin", "syncd_number")


def _in_order(row: Row) -> bool:
    low, high = row["low"][1], row["high"][1]
    return not isinstance(low, int) or not isinstance(high, int) or low <= high


PLAIN: Shapes = {
    # An integer minted on every host beside the key that counts.
    "devices": Shape(
        "CREATE TABLE devices (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " device_id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, seats INTEGER DEFAULT 1, note,"
        " memo TEXT DEFAULT 'ours')",
        ("device_id",),
        ("status", "seats", "note", "channel"),
        {"key": ["device_id"]},
        {"seats": ("integer", 1), "channel": ("text", b"stable")},
        local={"memo": ("text", b"ours")},
        later={"channel": "TEXT DEFAULT 'stable'"},
    ),
    # Its rows say when they were last written.
    "places": Shape(
        "CREATE TABLE places (site TEXT NOT NULL, number INTEGER NOT NULL, score REAL,"
        " holder TEXT NOT NULL COLLATE NOCASE, seen, PRIMARY KEY (site, number))",
        ("site", "number"),
        ("score", "holder", "seen"),
        {"stamp_from": "seen"},
    ),
    "settings": Shape(
        "CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL,"
        " kind TEXT DEFAULT 'plain') WITHOUT ROWID",
        ("name",),
        ("value", "kind"),
        presets={"kind": ("text", b"plain")},
    ),
    "tags": Shape(
        "CREATE TABLE tags (device TEXT NOT NULL, tag TEXT NOT NULL, weight INTEGER DEFAULT 0,"
        " PRIMARY KEY (device, tag))",
        ("device", "tag"),
        ("weight",),
        presets={"weight": ("integer", 0)},
        since=2,
    ),
}

CONSTRAINED: Shapes = {
    "accounts": Shape(
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " email TEXT UNIQUE, phone TEXT UNIQUE, low INTEGER, high INTEGER, CHECK (low <= high))",
        ("name",),
        ("email", "phone", "low", "high", "rank"),
        {"key": ["name"]},
        {"rank": ("integer", 5)},
        uniques=(Unique(("email",)), Unique(("phone",))),
        check=_in_order,
        later={"rank": "INTEGER NOT NULL DEFAULT 5"},
    ),
    "teams": Shape(
        "CREATE TABLE teams (team TEXT PRIMARY KEY, owner TEXT, room TEXT NOT NULL, seat INTEGER,"
        " memo, UNIQUE (room, seat), FOREIGN KEY (owner) REFERENCES accounts (name)"
        " ON DELETE SET NULL ON UPDATE CASCADE)",
        ("team",),
        ("owner", "room", "seat"),
        uniques=(Unique(("room", "seat")),),
        parents=((("owner",), "accounts"),),
        local={"memo": NULL},
    ),
    "members": Shape(
        "CREATE TABLE members (team TEXT REFERENCES teams (team) ON DELETE CASCADE"
        " ON UPDATE CASCADE, name TEXT, remark, PRIMARY KEY (team, name),"
        " FOREIGN KEY (name) REFERENCES accounts (name) ON DELETE CASCADE) WITHOUT ROWID",
        ("team", "name"),
        ("remark",),
        parents=((("team",), "teams"), (("name",), "accounts")),
    ),
    # Unique among a part of the rows; and in any case of its letters.
    "shifts": Shape(
        "CREATE TABLE shifts (shift TEXT PRIMARY KEY NOT NULL, desk TEXT,"
        " active INTEGER NOT NULL DEFAULT 1);"
        "CREATE UNIQUE INDEX one_active_shift ON shifts (desk) WHERE active = 1;"
        "CREATE UNIQUE INDEX shift_in_any_case ON shifts (shift COLLATE NOCASE)",
        ("shift",),
        ("desk", "active"),
        presets={"active": ("integer", 1)},
        uniques=(
            Unique(("desk",), among=lambda row: row["active"] == ("integer", 1)),
            Unique(("shift",), any_case=True),
        ),
    ),
    # A tree: rows that refer to rows of their own table, and may beat what they rest on.
    "nodes": Shape(
        "CREATE TABLE nodes (node TEXT PRIMARY KEY NOT NULL,"
        " parent TEXT REFERENCES nodes (node) ON DELETE RESTRICT, label TEXT UNIQUE)",
        ("node",),
        ("parent", "label"),
        uniques=(Unique(("label",)),),
        parents=((("parent",), "nodes"),),
    ),
    "badges": Shape(
        "CREATE TABLE badges (holder TEXT PRIMARY KEY NOT NULL REFERENCES accounts (name)"
        " ON DELETE RESTRICT, code TEXT UNIQUE)",
        ("holder",),
        ("code",),
        uniques=(Unique(("code",)),),
        parents=((("holder",), "accounts"),),
        since=2,
    ),
}

# Integers that every host mints for itself: as the only name of a row, and as a reference.
NUMBERED: Shapes = {
    "owners": Shape(
        "CREATE TABLE owners (id INTEGER PRIMARY KEY, owner TEXT NOT NULL UNIQUE, grade INTEGER)",
        ("owner",),
        ("grade",),
        {"key": ["owner"]},
    ),
    "leases": Shape(
        "CREATE TABLE leases (lease TEXT PRIMARY KEY NOT NULL, owner_id INTEGER"
        " REFERENCES owners (id) ON DELETE CASCADE, term INTEGER)",
        ("lease",),
        ("owner_id", "term"),
        parents=((("owner_id",), "owners"),),
    ),
    "events": Shape(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, what TEXT, owner_id INTEGER"
        " REFERENCES owners (id) ON DELETE SET NULL)",
        GENERATED_KEY,
        ("what", "owner_id"),
        {"key": "generated"},
        parents=((("owner_id",), "owners"),),
        generated=True,
    ),
}

# References by number to rows whose key is no single value.
KINDRED: Shapes = {
    "rooms": Shape(
        "CREATE TABLE rooms (id INTEGER PRIMARY KEY, house TEXT NOT NULL, door INTEGER NOT NULL,"
        " size INTEGER, UNIQUE (house, door))",
        ("house", "door"),
        ("size",),
        {"key": ["house", "door"]},
    ),
    "talks": Shape(
        "CREATE TABLE talks (id INTEGER PRIMARY KEY, what TEXT, slot INTEGER UNIQUE,"
        " room_id INTEGER REFERENCES rooms (id) ON DELETE SET NULL)",
        GENERATED_KEY,
        ("what", "slot", "room_id"),
        {"key": "generated"},
        uniques=(Unique(("slot",)),),
        parents=((("room_id",), "rooms"),),
        generated=True,
    ),
    "replies": Shape(
        "CREATE TABLE replies (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT,"
        " after_id INTEGER REFERENCES replies (id) ON DELETE SET NULL,"
        " talk_id INTEGER NOT NULL REFERENCES talks (id) ON DELETE CASCADE)",
        GENERATED_KEY,
        ("what", "after_id", "talk_id"),
        {"key": "generated"},
        parents=((("after_id",), "replies"), (("talk_id",), "talks")),
        generated=True,
    ),
    "likes": Shape(
        "CREATE TABLE likes (fan TEXT PRIMARY KEY NOT NULL, talk_id INTEGER REFERENCES talks (id)"
        " ON DELETE CASCADE, room_id INTEGER REFERENCES rooms (id) ON DELETE RESTRICT,"
        " stars INTEGER)",
        ("fan",),
        ("talk_id", "room_id", "stars"),
        parents=((("talk_id",), "talks"), (("room_id",), "rooms")),
    ),
}
REFERENCES = {
    "owner_id": "(SELECT id FROM owners WHERE owner = ?)",
    "room_id": "(SELECT id FROM rooms WHERE house || door = ?)",
    "talk_id": "(SELECT max(id) FROM talks WHERE what = ?)",
    "after_id": "(SELECT max(id) FROM replies WHERE what = ?)",
}
"""Columns that refer to a number: what a writer puts in place of a value."""

ALL = PLAIN | CONSTRAINED | NUMBERED | KINDRED
WORLDS: dict[str, Shapes] = {
    "plain": PLAIN,
    "constrained": CONSTRAINED,
    "numbered": NUMBERED,
    "kindred": KINDRED,
    "mixed": {name: ALL[name] for name in ("devices", "accounts", "teams", "tags")},
}

REFERRED = ("accounts", "owners", "rooms", "talks", "replies")
"""Tables that take columns of others along when a row goes: that would be a changed value, which
nobody sees who has not seen it written."""

APART = {
    "devices": ("status", "seats", "note"),
    "places": ("score", "seen"),
    "settings": ("kind",),
    "tags": ("weight",),
}
"""Columns on which no constraint and no other row depends, and which both versions have if they
have the table."""

TIMES: dict[Any, int | None] = {
    None: 0,
    "soon": 0,
    b"2023-11-14 22:00:00": 0,
    "2023-11-14 22:00:00": 1_699_999_200_000,
    "2023-11-14T19:00:00.250-03:00": 1_699_999_200_250,
    1_699_000_000: 1_699_000_000_000,
    1_699_000_000_123: 1_699_000_000_123,
    "2099-01-01": None,
}
"""What a row may say of when it was last written: the milliseconds since 1970, None: to come."""


def stamped(shape: Shape, row: model.Row, now_ms: int) -> int:
    """Return when a row that was there before says that it was written, 0 where it does not."""
    column = shape.enrolled.get("stamp_from")
    if column is None:
        return 0
    said = row[shape.columns.index(column)]
    (ms,) = {ms for value, ms in TIMES.items() if cell_of(value) == said}
    return now_ms if ms is None else min(now_ms, ms)


KEYS: dict[str, list[tuple[Any, ...]]] = {
    "devices": [("a",), ("A",), ("é\0",)],
    "places": [("x", 1), ("x", 2), ("y", 2**63 - 1)],
    "settings": [("p",), ("q",), ("",)],
    "tags": [("a", "t"), ("a", "u")],
    "accounts": [("ann",), ("bob",), ("cy",)],
    "teams": [("t",), ("u",)],
    "members": [("t", "ann"), ("t", "bob"), ("u", "ann")],
    "shifts": [("early",), ("Early",), ("late",)],
    "nodes": [("root",), ("mid",), ("leaf",)],
    "badges": [("ann",), ("bob",)],
    "owners": [("ann",), ("bob",)],
    "leases": [("l",), ("m",)],
    "events": [("boot",), ("login",)],
    "rooms": [("h'", 1), ("h'", 2), ("h'\0", 1)],
    "talks": [("hi",), ("yo",)],
    "replies": [("ah",), ("oh",)],
    "likes": [("ann",), ("bob",)],
}

VALUES: dict[str, dict[str, Sequence[Any]]] = {
    "devices": {
        "status": ["new", "blocked", "Blocked", "", b"new"],
        "seats": [None, 0, 1, "1", "many", 1.5, 2**63 - 1, -(2**63)],
        "note": [None, 1, 1.0, "1", b"1", "", b"", 2**53 + 1, "a\0b", "\N{GRINNING FACE}"],
        "channel": [None, "stable", "beta", 7],
        "memo": [None, "mine", 1],
    },
    "places": {
        "score": [None, 0, 1, 1.5, float("inf"), float("-inf"), "high", "2"],
        "holder": ["ann", "ANN", "bob", b"ann", 7],
        "seen": list(TIMES),
    },
    "settings": {
        "value": [b"", b"\0\xff", "text", 1, 1.0],
        "kind": [None, "plain", "Plain", 3],
    },
    "tags": {"weight": [None, 0, 3]},
    "accounts": {
        "email": [None, "x", "y"],
        "phone": [None, "1", "2"],
        "low": [None, 1, 5],
        "high": [None, 3, 9],
        "rank": [5, 6],
    },
    "teams": {
        "owner": [None, "ann", "bob"],
        "room": ["r", "s"],
        "seat": [None, 1],
        "memo": [None, "mine"],
    },
    "members": {"remark": [None, 1]},
    "shifts": {"desk": [None, "d", "e"], "active": [0, 1]},
    "nodes": {"parent": [None, "root", "mid", "leaf"], "label": [None, "leaf", "branch"]},
    "badges": {"code": [None, "c1", "c2"]},
    "owners": {"grade": [None, 1, 2]},
    "leases": {"owner_id": [None, "ann", "bob"], "term": [None, 1, 2]},
    "events": {"what": ["boot", "login", "halt"], "owner_id": [None, "ann", "bob"]},
    "rooms": {"size": [None, 1, 2]},
    "talks": {
        "what": ["hi", "yo"],
        "slot": [None, 1, 2],
        "room_id": [None, "h'1", "h'2", "h'\x001"],
    },
    "replies": {
        "what": ["ah", "oh"],
        "after_id": [None, "ah", "oh"],
        "talk_id": ["hi", "yo"],
    },
    "likes": {"talk_id": [None, "hi", "yo"], "room_id": [None, "h'1", "h'\x001"], "stars": [1, 2]},
}
REQUIRED = {"status", "holder", "value", "room"}
"""Columns without a default that must not be NULL: an INSERT names them."""
