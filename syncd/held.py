"""Held changes: merged, not yet able to show, and passed on all the same.

One row of `syncd_held` is one register write: of a table or a column this host does not know yet,
or with a stamp from the future. Held changes have positions like any other entry, so that peers are
sent them; `due` takes out those whose time has come, for the merge to take in again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from syncd import bundle
from syncd.bundle import Column, Section
from syncd.clock import ms_of_hlc
from syncd.columnar import column_of
from syncd.database import Connection, Room
from syncd.literals import literal, literals_of
from syncd.schema import widen
from syncd.table import ALIVE_BIT, DEAD_BIT, Table

UNKNOWN_TABLE = "unknown table"
UNKNOWN_COLUMN = "unknown column"
FUTURE = "future"
DISPLACED = "displaced"
PARENT = "parent"
CONSTRAINT = "constraint"

ALIVE, DEAD = "alive", "dead"


def last_position(connection: Connection) -> int:
    """Return the position of the newest entry."""
    position: int = connection.value("SELECT position FROM syncd_replica")
    return position


def take_positions(connection: Connection, count: int) -> int:
    """Reserve positions for new entries; return the one below the first."""
    base = last_position(connection)
    connection.run("UPDATE syncd_replica SET position = ?", (base + count,))
    return base


def hold(connection: Connection, section: Section, reason: str) -> int:
    """Keep a section's registers, its origins being ordinals; return how many were new."""
    before = connection.value("SELECT count(*) FROM syncd_held")
    widen(connection, "syncd_held", len(section.key))
    if section.existence != bundle.NO_EXISTENCE:
        _hold_register(connection, section, "", None, reason)
    for name, column in zip(section.columns, section.values, strict=True):
        _hold_register(connection, section, name, column, reason)
    count: int = connection.value("SELECT count(*) FROM syncd_held") - before
    return count


def sections(connection: Connection, where: str, room: Room | None = None) -> Iterator[Section]:
    """Yield held changes as sections, their origins being ordinals; raise `NoRoom`.

    where: a condition on the held entry `e`.
    """
    groups = connection.rows(
        f"SELECT DISTINCT tbl, col, key_names, existence, reason = {literal(FUTURE)} AS ahead"
        f" FROM syncd_held AS e WHERE {where} ORDER BY tbl, col, existence, ahead"
    )
    for table, col, key_names, existence, ahead in groups:
        key = json.loads(key_names)
        cells = "".join(f", k{i}" for i in range(len(key)))
        rows = connection.user_rows(
            f"SELECT origin, seq, hlc{cells}, value FROM syncd_held AS e WHERE ({where})"
            " AND tbl = ? AND col = ? AND key_names = ? AND existence = ?"
            f" AND (reason = {literal(FUTURE)}) = ? ORDER BY e.position",
            (table, col, key_names, existence, ahead),
            room,
        )
        for layer in _layers(rows, len(key)):
            yield _section(table, col, key, existence, layer, ahead=bool(ahead))


def due(
    connection: Connection, tables: dict[str, Table], hlc_max: int, among: str = "true"
) -> list[Section]:
    """Take out the changes that can show by now, as sections whose origins are ordinals.

    among: a condition on the held entry `e`.
    """
    if not connection.value("SELECT EXISTS (SELECT 1 FROM syncd_held)"):
        return []
    where = f"e.hlc <= {hlc_max} AND ({_known(tables)}) AND ({among})"
    taken = list(sections(connection, where))
    if taken:
        connection.run(f"DELETE FROM syncd_held AS e WHERE {where}")
    return taken


def renew_reasons(connection: Connection, tables: dict[str, Table], hlc_max: int) -> None:
    """Say anew what changes wait for, once `due` has taken those that need not wait any more.

    It is what the merge would say of them now. A table may have come meanwhile, or come to know a
    column whose change is still in the future, and the time of a change before its column.
    """
    future = literal(FUTURE)
    is_known = f"e.tbl IN ({', '.join(map(literal, tables))})"
    # What waited for its time in a table that has gone since goes on being told as such to peers.
    reason = (
        f"CASE WHEN e.hlc > {hlc_max} AND ({is_known} OR e.reason = {future}) THEN {future}"
        f" WHEN {is_known} THEN {literal(UNKNOWN_COLUMN)} ELSE {literal(UNKNOWN_TABLE)} END"
    )
    connection.run(f"UPDATE syncd_held AS e SET reason = {reason} WHERE e.reason <> {reason}")


def _known(tables: dict[str, Table]) -> str:
    """Return the condition that held entry `e` is of a table and a column that are known."""
    of_tables = [
        f"(e.tbl = {literal(table.name)}"
        f" AND e.col IN ({', '.join(map(literal, ['', *(c.name for c in table.columns)]))}))"
        for table in tables.values()
    ]
    return " OR ".join(of_tables) or "false"


@dataclass(frozen=True)
class Held:
    """A register that waits. id: its change's, None for a row that a constraint holds back.

    key: SQL literals. column: '' for the row's birth or death, whose value is `ALIVE` or `DEAD`;
    of a row that is displaced as in `conflicts.Conflict`. node and time_ms: who wrote it, and when.
    Those of a winner say what shows in its place: for a value from the future, the present one; for
    a row that is displaced, the row that has the value, and which write decides that, its birth or
    that of its newest column that must be unique.
    """

    id: int | None
    table: str
    key: str
    column: str
    reason: str
    node: str
    time_ms: int
    value: Any = None
    winner_key: str | None = None
    winner_value: Any = None
    winner_node: str | None = None
    winner_time_ms: int | None = None


def listed(connection: Connection, tables: dict[str, Table]) -> list[Held]:
    """Return what is held for an unknown table or column or for its stamp."""
    present: dict[int, tuple[str, Any, str, int]] = {}
    for table in tables.values():
        present |= _present(connection, table)
    count = connection.value(
        "SELECT count(*) FROM pragma_table_info('syncd_held') WHERE name GLOB 'k[0-9]*'"
    )
    # A key of fewer columns leaves the last cells NULL, which no key's column is.
    literals = " || ".join(
        [
            literals_of(["h.k0"]),
            *(
                f"CASE WHEN h.k{i} IS NULL THEN '' ELSE ', ' || {literals_of([f'h.k{i}'])} END"
                for i in range(1, count)
            ),
        ]
    )
    return [
        Held(
            *(id_, name, key, column, reason, node, ms_of_hlc(hlc), value),
            *present.get(position, ()),
        )
        for position, id_, name, key, column, reason, node, hlc, value in connection.user_rows(
            "SELECT h.position, min(h.position) OVER (PARTITION BY h.origin, h.seq, h.hlc), h.tbl,"
            f" {literals}, h.col, h.reason, o.node, h.hlc, CASE h.existence"
            f" WHEN {bundle.ALIVE} THEN '{ALIVE}' WHEN {bundle.DEAD} THEN '{DEAD}' ELSE h.value END"
            " FROM syncd_held AS h JOIN syncd_origin AS o ON o.ordinal = h.origin"
            " ORDER BY h.position"
        )
    ]


def _present(connection: Connection, table: Table) -> dict[int, tuple[str, Any, str, int]]:
    """Return what stands where changes from the future are held, by their positions.

    That is the key, the value, who wrote it and when.
    """
    found: dict[int, tuple[str, Any, str, int]] = {}
    bits = {"": ALIVE_BIT | DEAD_BIT} | {column.name: column.bit for column in table.columns}
    values = {column.name: column.travelling("t") for column in table.columns}
    values[""] = f"CASE WHEN e.mask & {ALIVE_BIT} THEN '{ALIVE}' ELSE '{DEAD}' END"
    key = table.literals("e.")
    held = connection.rows(
        "SELECT DISTINCT col FROM syncd_held WHERE tbl = ? AND reason = ?", (table.name, FUTURE)
    )
    for name in {name for (name,) in held} & bits.keys():
        # The value of a column stands in the user's table, if its row shows.
        shown = f"JOIN {table.sql} AS t ON {table.on_user('t', 'h')}" if name else ""
        for position, *sides, hlc in connection.user_rows(
            f"SELECT h.position, {key}, {values[name]}, o.node, e.hlc FROM syncd_held AS h"
            f" JOIN {table.changes} AS e ON {table.on('e', 'h')} AND e.mask & {bits[name]} {shown}"
            " JOIN syncd_origin AS o ON o.ordinal = e.origin"
            " WHERE h.tbl = ? AND h.col = ? AND h.reason = ?",
            (table.name, name, FUTURE),
        ):
            found[position] = (*sides, ms_of_hlc(hlc))
    return found


@dataclass(frozen=True)
class Ahead:
    """A host of which changes are held because their stamps are ahead of this host's clock.

    changes: how many. ahead_ms: by how much the furthest is.
    """

    node: str
    changes: int
    ahead_ms: int


def ahead(connection: Connection, now_ms: int, hlc_max: int) -> list[Ahead]:
    """Return the hosts whose changes are held for their stamps, the furthest first."""
    return [
        Ahead(node, changes, ms_of_hlc(hlc) - now_ms)
        for node, changes, hlc in connection.rows(
            "SELECT o.node, count(DISTINCT h.origin || ' ' || h.seq || ' ' || h.hlc), max(h.hlc)"
            " FROM syncd_held AS h JOIN syncd_origin AS o ON o.ordinal = h.origin"
            " WHERE h.hlc > ? GROUP BY o.node ORDER BY 3 DESC",
            (hlc_max,),
        )
    ]


def is_future_due(connection: Connection, hlc_max: int) -> bool:
    """Say whether a change that was held for its stamp need not be any more."""
    return bool(
        connection.value(
            "SELECT EXISTS (SELECT 1 FROM syncd_held WHERE reason = ? AND hlc <= ?)",
            (FUTURE, hlc_max),
        )
    )


def _hold_register(
    connection: Connection, section: Section, col: str, column: Column | None, reason: str
) -> None:
    count = len(section)
    base = take_positions(connection, count)
    existence = bundle.NO_EXISTENCE if col else section.existence
    constant = (section.table, col, json.dumps(section.key), existence, reason)
    keys = ", ".join(f"k{i}" for i in range(len(section.key)))
    packed = [*section.keys, column or Column([None] * count)]
    casts = ["CASE WHEN ? THEN CAST(? AS TEXT) ELSE ? END" if c.raw_text else "?" for c in packed]
    cells: list[Sequence[Any]] = []
    for c in packed:
        if c.raw_text:
            raw = set(c.raw_text)
            cells += [[row in raw for row in range(count)], c.values]
        cells.append(c.values)
    connection.many(
        "INSERT OR IGNORE INTO syncd_held (tbl, col, key_names, existence, reason, position,"
        f" origin, seq, hlc, {keys}, value)"
        f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, {', '.join(casts)})",
        zip(
            *(itertools.repeat(value, count) for value in constant),
            range(base + 1, base + count + 1),
            section.origins,
            section.seqs,
            section.hlcs,
            *cells,
            strict=True,
        ),
    )


def _layers(rows: list[tuple[Any, ...]], keys: int) -> Iterator[list[tuple[Any, ...]]]:
    """Split rows so that no key occurs twice, older changes first."""
    while rows:
        seen: set[tuple[Any, ...]] = set()
        layer: list[tuple[Any, ...]] = []
        rest: list[tuple[Any, ...]] = []
        for row in rows:
            key = row[3 : 3 + keys]
            (rest if key in seen else layer).append(row)
            seen.add(key)
        yield layer
        rows = rest


def _section(
    table: str,
    col: str,
    key: list[str],
    existence: int,
    rows: list[tuple[Any, ...]],
    *,
    ahead: bool,
) -> Section:
    origins, seqs, hlcs, *cells = zip(*rows, strict=True)
    return Section(
        table=table,
        key=key,
        columns=[col] if col else [],
        existence=existence,
        origins=list(origins),
        seqs=list(seqs),
        hlcs=list(hlcs),
        keys=[column_of(cell) for cell in cells[: len(key)]],
        values=[column_of(cells[-1])] if col else [],
        ahead=ahead,
    )
