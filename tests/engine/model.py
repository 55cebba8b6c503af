"""The merge rules as a pure function, to hold the engine against.

A replica is a set of changes, each one register write of one row; what shows is computed from that
set alone, so it cannot depend on order, grouping, duplication or path. This is section 3 of the
design in plain Python: there is no SQL here and nothing of the engine's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Cell = tuple[str, bytes | int | None]
"""A value as SQLite tells it apart: its typeof() and its bytes, an integer as itself."""
Key = tuple[Cell, ...]
Row = tuple[Cell, ...]
Rows = dict[Key, Row]
Tables = dict[str, Rows]

EXISTENCE = ""
"""The register that says whether a row lives; every other register is named for its column."""
ALIVE: Cell = ("alive", None)
DEAD: Cell = ("dead", None)
NULL: Cell = ("null", None)


@dataclass(frozen=True, order=True)
class Stamp:
    """A clock reading and its origin, totally ordered; seq parts rows enrolled together."""

    hlc: int
    origin: bytes
    seq: int


@dataclass(frozen=True)
class Change:
    """One register write."""

    stamp: Stamp
    table: str
    key: Key
    register: str
    value: Cell


def cell(kind: str, value: object) -> Cell:
    """Return a value of a given typeof() so that equal cells are equal byte for byte."""
    match value:
        case None:
            return NULL
        case float():
            return kind, struct.pack(">d", value)
        case str():
            return kind, value.encode()
        case int() | bytes():
            return kind, value
    raise TypeError(f"not a value of SQLite: {value!r}")


def visible(
    changes: Iterable[Change], columns: Mapping[str, Sequence[str]], presets: Mapping[str, Cell]
) -> Tables:
    """Return the rows that show, by table and key.

    columns: each table's synced columns in order. presets: the DEFAULT of those that have one.
    """
    written: dict[tuple[str, Key], list[Change]] = {}
    for change in changes:
        written.setdefault((change.table, change.key), []).append(change)
    tables: Tables = {table: {} for table in columns}
    for (table, key), writes in written.items():
        if table in columns and _last(writes, EXISTENCE) == ALIVE:
            tables[table][key] = tuple(
                _last(writes, name) or presets.get(name, NULL) for name in columns[table]
            )
    return tables


@dataclass(frozen=True)
class Unique:
    """Columns that are unique together.

    among: which rows, None for all of them. any_case: whether letters count as equal that differ in
    their case only.
    """

    names: tuple[str, ...]
    among: Callable[[dict[str, Cell]], bool] | None = None
    any_case: bool = False

    def of(self, row: dict[str, Cell]) -> Row:
        """Return what must be unique of a row."""
        cells = (row[name] for name in self.names)
        return tuple(
            (kind, value.lower() if self.any_case and isinstance(value, bytes) else value)
            for kind, value in cells
        )


@dataclass(frozen=True)
class Demands:
    """The constraints of a table.

    names: its columns, the key first. uniques: sets of columns that are unique beside the key, and
    for which rows. parents: columns that refer to the key of a table. check: whether a row is
    acceptable.
    """

    names: tuple[str, ...]
    uniques: tuple[Unique, ...] = ()
    parents: tuple[tuple[tuple[str, ...], str], ...] = ()
    check: Callable[[dict[str, Cell]], bool] = lambda _: True


Id = tuple[str, Key]
"""A row by its table and its key."""


@dataclass(frozen=True)
class Settled:
    """What shows, and who does not for want of a unique value.

    displaced: the rows whose parents show and who want for nothing but a value that another row
    has. beaten: all who want one, of a newer row, whatever else they need, or of an older one, if
    their parents show or rest on them in turn.
    """

    shown: Tables
    displaced: set[Id]
    beaten: set[Id]


def settled(changes: Iterable[Change], alive: Tables, demands: Mapping[str, Demands]) -> Settled:
    """Return which of the rows that are alive show, so that no constraint is broken.

    A row shows that its table's CHECK accepts, whose parents show, and that clashes with none that
    shows and is newer, where a row is as new as the newest of its birth and its unique values (of
    all its values where only a part of the rows must be unique). Rows that refer to each other in a
    circle show together. See `_showing` for rows that beat each other's support.
    """
    claims: dict[Id, list[Change]] = {}
    for change in changes:
        claims.setdefault((change.table, change.key), []).append(change)
    rests: dict[Id, list[set[Id]]] = {}
    wanting: dict[tuple[str, Unique, Row], list[Id]] = {}
    newness: dict[Id, Stamp] = {}
    referred = {
        name: {
            reference: (name, key)
            for key in rows
            for reference in (key, (as_one(key, demands[name].names),))
        }
        for name, rows in alive.items()
    }
    for table, demanded in demands.items():
        unique = {EXISTENCE, *(name for one in demanded.uniques for name in one.names)}
        if any(one.among for one in demanded.uniques):
            unique.update(demanded.names)
        for key, values in alive[table].items():
            row = dict(zip(demanded.names, (*key, *values), strict=True))
            for one in demanded.uniques:
                if one.among is None or one.among(row):
                    wanting.setdefault((table, one, one.of(row)), []).append((table, key))
            writes = claims[table, key]
            died = max((w.stamp for w in writes if w.value == DEAD), default=None)
            newness[table, key] = max(
                write.stamp
                for write in writes
                if write.register in unique and (died is None or write.stamp > died)
            )
            if not demanded.check(row):
                continue
            references = [
                (tuple(row[name] for name in names), to) for names, to in demanded.parents
            ]
            rests[table, key] = [
                {referred[to][reference]} if reference in referred[to] else set()
                for reference, to in references
                if NULL not in reference
            ]
    rivals: dict[Id, set[Id]] = {}
    for (_, _, wanted), rows in wanting.items():
        if NULL not in wanted and len(rows) > 1:
            for id_ in rows:
                rivals.setdefault(id_, set()).update({*rows} - {id_})
    fit = {id_: others & rests.keys() for id_, others in rivals.items() if id_ in rests}
    showing = _showing(rests, fit, newness)
    hidden = rests.keys() - showing
    parents = _parents(rests)
    carried = {
        row
        for row in hidden
        if all(any(p in showing or row in _reach(p, parents) for p in one) for one in rests[row])
    }
    return Settled(
        {
            table: {key: values for key, values in alive[table].items() if (table, key) in showing}
            for table in demands
        },
        {row for row in hidden if all(one & {row, *showing} for one in rests[row])},
        {
            row
            for row, others in rivals.items()
            if row not in showing
            for winners in [others & showing]
            if any(newness[one] > newness[row] for one in winners) or (winners and row in carried)
        },
    )


def _showing(
    rests: Mapping[Id, list[set[Id]]],
    rivals: Mapping[Id, set[Id]],
    newness: Mapping[Id, Stamp],
) -> set[Id]:
    """Return the rows that show.

    None that clashes with what it rests on. Of the others, first all of which it is certain, then,
    while some beat each other's support, the newest of such rows as need nothing else, with what it
    rests on.
    """
    newer = {
        row: {one for one in others if newness[one] > newness[row]}
        for row, others in rivals.items()
    }
    showing: set[Id] = set()
    parents = _parents(rests)
    clashing = {
        row
        for row in rests
        for rested in [_reach(row, parents)]
        if any(not rivals.get(one, set()).isdisjoint(rested) for one in rested)
    }
    open_ = rests.keys() - clashing
    while open_:
        open_ = _carried(open_, rests, showing)
        unrivalled = {row for row in open_ if newer.get(row, set()).isdisjoint(open_)}
        chosen = _carried(unrivalled, rests, showing)
        if open_ and not chosen:
            needs = {row: newer.get(row, set()) & open_ | parents[row] & open_ for row in open_}
            knot = min((_reach(row, needs) for row in open_), key=len)
            first = max(knot, key=lambda row: newness[row])
            chosen = _reach(first, parents) - showing
        showing |= chosen
        open_ -= chosen.union(*(rivals.get(row, set()) for row in chosen))
    return showing


def _parents(rests: Mapping[Id, list[set[Id]]]) -> dict[Id, set[Id]]:
    """Return on which rows that a CHECK accepts each rests."""
    return {row: {one for some in rests[row] for one in some if one in rests} for row in rests}


def _carried(rows: set[Id], rests: Mapping[Id, list[set[Id]]], showing: set[Id]) -> set[Id]:
    """Return those of some rows that can show with each other and with what shows."""
    rows = {*rows}
    while lost := {
        row
        for row in rows
        if any(one.isdisjoint(showing) and one.isdisjoint(rows) for one in rests[row])
    }:
        rows -= lost
    return rows


def _reach(row: Id, edges: Mapping[Id, set[Id]]) -> set[Id]:
    """Return a row and all that edges lead to from there."""
    found: set[Id] = set()
    left = {row} & edges.keys()
    while left:
        found |= left
        left = set().union(*(edges[one] for one in left)) - found
    return found


def surviving(changes: Iterable[Change]) -> set[Change]:
    """Return the changes that own a register: what a replica must remember, deaths included."""
    last: dict[tuple[str, Key, str], Change] = {}
    died: dict[tuple[str, Key], Change] = {}
    for change in changes:
        row = change.table, change.key
        if change.value == DEAD:
            died[row] = max(died.get(row, change), change, key=lambda c: c.stamp)
        else:
            register = (*row, change.register)
            last[register] = max(last.get(register, change), change, key=lambda c: c.stamp)
    owning = {
        change
        for (table, key, _), change in last.items()
        if (table, key) not in died or change.stamp > died[table, key].stamp
    }
    return owning | set(died.values())


def as_one(key: Key, names: Sequence[str]) -> Cell:
    """Return a key as one value: that of a column that refers to a row by its number.

    names: those of its columns first.
    """
    if len(key) == 1:
        return key[0]
    parts = sorted(zip(names, key, strict=False))
    return "text", ", ".join(_literal(value) for _, value in parts).encode()


def _literal(value: Cell) -> str:
    match value:
        case "integer", int(number):
            return str(number)
        case "text", bytes(text):
            return "'" + text.decode().replace("'", "''") + "'"
        case "blob", bytes(blob):
            return f"X'{blob.hex().upper()}'"
    raise TypeError(f"not a part of a key here: {value!r}")


def _last(writes: list[Change], register: str) -> Cell | None:
    """Return the write with the greatest stamp, unless a death of the row came after it."""
    own = [write for write in writes if write.register == register]
    if not own:
        return None
    last = max(own, key=lambda write: write.stamp)
    died = any(write.value == DEAD and write.stamp > last.stamp for write in writes)
    return None if died else last.value
