"""Enrolment: bringing the user's tables under syncd, once and again after every migration.

All tables are checked before anything is written, and everything is written in one transaction.
Rows that are there already get changes with the stamp that a column of theirs says, or with the
lowest, so that any real write beats them; so do the values of a column that was added since.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from syncd import capture, changelog, numbers, times
from syncd.config import TableConfig
from syncd.database import Connection, quoted
from syncd.errors import SchemaError
from syncd.introspection import Definition, define
from syncd.schema import (
    ALIVE_BIT,
    COLUMNS_MAX,
    DEAD_BIT,
    Column,
    Table,
    create_bookkeeping,
    create_column,
    create_table,
    drop_column,
    is_enrolled,
    load_tables,
    require_enrolled,
)

LOWEST_HLC = 0


@dataclass(frozen=True)
class Enrolled:
    """What enrolling did with one table.

    state: "new", "changed", "unchanged", or "unlisted" for a table that is no longer configured
    (it stays enrolled). rows: how many rows that were there already got a stamp. added: columns
    synced from now on; excluded: columns that stay on this host from now on; dropped: columns that
    are gone.
    """

    table: str
    state: str
    rows: int = 0
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


def enrol(
    connection: Connection,
    configs: Mapping[str, TableConfig],
    *,
    origin: bytes,
    node: str,
    now_ms: int,
) -> list[Enrolled]:
    """Enrol tables as they are configured; `origin` is used if the file is new to syncd.

    now_ms: this host's wall clock.
    Nothing of the journal may be unfolded. Raises `SchemaError` with every problem found.
    """
    definitions, problems = _definitions(connection, configs)
    known = load_tables(connection) if is_enrolled(connection) else {}
    for definition in definitions:
        table = known.get(definition.name)
        if table is not None and table.key != definition.key:
            problems.append(
                f"tables.{table.name}.key: enrolled with key"
                f" ({', '.join(c.name for c in table.key)}), which cannot change"
            )
    if problems:
        raise SchemaError(problems)
    if is_enrolled(connection):
        require_enrolled(connection)
        connection.run(
            "UPDATE syncd_origin SET node = ? WHERE ordinal = (SELECT origin FROM syncd_replica)"
            " AND node <> ?",
            (node, node),
        )
    else:
        create_bookkeeping(connection, origin, node)
    by_name = {definition.name: definition for definition in definitions}
    parents = {name: _parents(definition, by_name) for name, definition in by_name.items()}
    referred_to = {parent for of_table in parents.values() for parent in of_table.values()}
    results = [
        _enrol_one(
            connection,
            definition,
            known.get(definition.name),
            parents[definition.name],
            numbered=numbers.is_needed(definition, referred_to),
            now_ms=now_ms,
        )
        for definition in definitions
    ]
    results += [Enrolled(name, "unlisted") for name in known if name not in configs]
    return results


def _definitions(
    connection: Connection, configs: Mapping[str, TableConfig]
) -> tuple[list[Definition], list[str]]:
    definitions, problems = [], []
    for name, config in configs.items():
        found = define(connection, name, config)
        if isinstance(found, Definition):
            definitions.append(found)
        else:
            problems.extend(found)
    for definition in definitions:
        problems += _untranslatable(definition, {d.name: d for d in definitions})
    return definitions, problems


def _parents(definition: Definition, definitions: Mapping[str, Definition]) -> dict[str, str]:
    """Return the parents that columns refer to by row number, which every host mints for itself."""
    excluded = {name for name, _, _ in definition.excluded}
    return {
        column: reference.parent
        for reference in definition.foreign_keys
        if reference.parent in definitions
        for column, to in zip(reference.columns, reference.parent_columns, strict=True)
        if to == definitions[reference.parent].rowid and column not in excluded
    }


def _untranslatable(definition: Definition, definitions: Mapping[str, Definition]) -> list[str]:
    """Say which references by row number cannot travel as the parent's sync key."""
    key = {column.name for column in definition.key}
    problems = []
    for column, parent in _parents(definition, definitions).items():
        refers = f"tables.{definition.name}: ({column}) refers to the row number of {parent}"
        if len(definitions[parent].key) > 1:
            problems.append(f"{refers}, which has no key of one column to travel in its place")
        if column in key:
            problems.append(f"{refers}, so it is another one on every host and cannot be a key")
    return problems


def _enrol_one(
    connection: Connection,
    definition: Definition,
    known: Table | None,
    parents: Mapping[str, str],
    *,
    numbered: bool,
    now_ms: int,
) -> Enrolled:
    if known is None:
        return _enrol_new(connection, definition, parents, numbered=numbered, now_ms=now_ms)
    table = dataclasses.replace(
        known,
        columns=_placed(definition.columns, known.columns, 0, parents),
        excluded=_placed(definition.excluded, known.excluded, COLUMNS_MAX),
    )
    rows = _change_columns(connection, known, table)
    if numbered and not known.numbered:
        numbers.start(connection, known)
    refreshed = capture.install(connection, load_tables(connection)[known.name], definition)
    added = _without(table.columns, known.columns)
    excluded = _without(table.excluded, known.excluded)
    dropped = _without((*known.columns, *known.excluded), (*table.columns, *table.excluded))
    changed = refreshed or added or excluded or dropped
    return Enrolled(
        known.name,
        "changed" if changed else "unchanged",
        rows,
        added=tuple(column.name for column in added),
        dropped=tuple(column.name for column in dropped),
        excluded=tuple(column.name for column in excluded),
    )


def _enrol_new(
    connection: Connection,
    definition: Definition,
    parents: Mapping[str, str],
    *,
    numbered: bool,
    now_ms: int,
) -> Enrolled:
    table = Table(
        id=connection.value("SELECT coalesce(max(id), 0) + 1 FROM syncd_table"),
        name=definition.name,
        key=definition.key,
        columns=_placed(definition.columns, (), 0, parents),
        excluded=_placed(definition.excluded, (), COLUMNS_MAX),
        rowid=definition.rowid,
        numbered=numbered,
    )
    create_table(connection, table)
    if numbered:
        numbers.start(connection, table)
    mask = ALIVE_BIT | table.columns_mask
    if definition.stamp_from is None:
        rows = _stamp(connection, table, mask)
    else:
        reading = times.reading(f"u.{quoted(definition.stamp_from)}", now_ms)
        rows = _stamp(connection, table, mask, reading=reading)
        newest = connection.value(f"SELECT coalesce(max(hlc), 0) FROM {table.changes}")
        changelog.advance_clock(connection, newest)
    capture.install(connection, table, definition)
    excluded = tuple(column.name for column in table.excluded)
    return Enrolled(definition.name, "new", rows, excluded=excluded)


def _placed(
    registers: Sequence[tuple[str, str, str]],
    known: Sequence[Column],
    first: int,
    parents: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Column, ...]:
    """Return columns, those known as they are, the others under free numbers from `first` on."""
    kept = {column.name: column for column in known if column.name in {r[0] for r in registers}}
    taken = {column.number for column in kept.values()}
    free = (number for number in itertools.count(first) if number not in taken)
    return tuple(
        kept.get(name) or Column(next(free), name, affinity, preset, parents.get(name))
        for name, affinity, preset in registers
    )


def _without(columns: Sequence[Column], others: Sequence[Column]) -> list[Column]:
    names = {column.name for column in others}
    return [column for column in columns if column.name not in names]


def _change_columns(connection: Connection, known: Table, table: Table) -> int:
    """Give a table the columns it has now; return how many rows got a stamp for a new one."""
    for column in _without(known.excluded, table.excluded):
        drop_column(connection, table, column)
    gone = {column.name: column for column in _without(known.columns, table.columns)}
    for column in _without(table.excluded, known.excluded):
        create_column(connection, table, column)
        if column.name in gone:
            value = gone[column.name].local(gone[column.name].cell)
            connection.run(
                f"UPDATE {table.shadow} SET {column.cell} = coalesce({value}, {column.cell})"
            )
    _forget(connection, table, sum(column.bit for column in gone.values()))
    for column in gone.values():
        drop_column(connection, table, column)
    rows = 0
    for column in _without(table.columns, known.columns):
        create_column(connection, table, column)
        written = f"{quoted(column.name)} IS NOT ({column.preset})"
        rows += _stamp(connection, table, column.bit, written)
    return rows


def _forget(connection: Connection, table: Table, mask: int) -> None:
    """Take registers away from all changes."""
    connection.run(f"UPDATE {table.changes} SET mask = mask & ~{mask} WHERE mask & {mask}")
    connection.run(f"DELETE FROM {table.changes} WHERE mask = 0")


def _stamp(
    connection: Connection,
    table: Table,
    mask: int,
    condition: str = "true",
    reading: str = str(LOWEST_HLC),
) -> int:
    """Write changes for rows `u` that are already there; return their number.

    reading: the SQL of the clock reading that they get.
    """
    filled = " AND ".join(f"{value} IS NOT NULL" for value in table.user_key("u"))
    pairs = zip(table.user_key("u"), table.key_cells, strict=True)
    key = ", ".join(f"{value} AS {cell}" for value, cell in pairs)
    base = connection.value("SELECT max(seq) FROM syncd_journal")
    # A death that the changelog remembers would take a value that is older than itself.
    hlc = (
        f"max(t.syncd_hlc, (SELECT coalesce(max(e.hlc) + 1, {LOWEST_HLC}) FROM {table.changes} AS e"
        f" WHERE {table.on('t', 'e')} AND e.mask & {DEAD_BIT}))"
    )
    rows = connection.run(
        f"INSERT INTO {table.changes}"
        f" SELECT {table.cells('t')}, r.position + t.syncd_n, r.origin, ? + t.syncd_n,"
        f" {hlc}, ?"
        " FROM syncd_replica AS r CROSS JOIN ("
        f"SELECT row_number() OVER (ORDER BY {', '.join(table.user_key('u'))}) AS syncd_n,"
        f" {key}, {reading} AS syncd_hlc"
        f" FROM {table.sql} AS u WHERE {filled} AND ({condition})) AS t",
        (base, mask),
    )
    connection.run("UPDATE syncd_replica SET position = position + ?", (rows,))
    connection.run("UPDATE syncd_journal SET seq = seq + ? WHERE seq = ?", (rows, base))
    connection.run(
        "UPDATE syncd_origin SET seq = seq + ? WHERE ordinal = (SELECT origin FROM syncd_replica)",
        (rows,),
    )
    return rows
