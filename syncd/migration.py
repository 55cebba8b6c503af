"""Migration: following what became of an enrolled table since it was last looked at.

Columns come and go, and a rebuild of a table drops its triggers, so they are put back. A column
that left, dropped or excluded, is disclaimed; one that is new is backfilled. What the triggers
missed is no business of this module (`missed`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from syncd import backfill, capture, disclaim, numbers
from syncd.database import Connection
from syncd.disclaim import Renew
from syncd.introspection import Definition
from syncd.schema import create_column, drop_column, load_tables, remembered, set_rowid
from syncd.table import COLUMNS_MAX, Column, Parent, Table


def follow(
    connection: Connection,
    known: Table,
    definition: Definition,
    parents: Mapping[str, Parent],
    *,
    numbered: bool,
    renew: Renew,
) -> tuple[Table, int, bool]:
    """Bring what is known of a table up to date.

    Returns the table, how many rows got a stamp for a new column, and whether anything changed.
    """
    table = dataclasses.replace(
        known,
        columns=placed(definition.columns, known.columns, 0, parents),
        excluded=placed(definition.excluded, known.excluded, COLUMNS_MAX),
        rowid=definition.rowid,
    )
    if table.rowid != known.rowid:
        set_rowid(connection, table)
    rows = _change_columns(connection, known, table, renew)
    if numbered and not known.numbered:
        numbers.start(connection, table)
    refreshed = capture.install(connection, load_tables(connection)[known.name], definition)
    return table, rows, refreshed or table != known


def placed(
    registers: Sequence[tuple[str, str, str]],
    known: Sequence[Column],
    first: int,
    parents: Mapping[str, Parent] = MappingProxyType({}),
) -> tuple[Column, ...]:
    """Return columns, those known as they are, the others under free numbers from `first` on."""
    names = {name for name, _, _ in registers}
    kept = {column.name: column for column in known if column.name in names}
    taken = {column.number for column in kept.values()}
    free = (number for number in itertools.count(first) if number not in taken)
    return tuple(
        kept.get(name) or Column(next(free), name, affinity, preset, parents.get(name))
        for name, affinity, preset in registers
    )


def _change_columns(connection: Connection, known: Table, table: Table, renew: Renew) -> int:
    """Give a table the columns it has now; return how many rows got a stamp for a new one."""
    for column in _without(known.excluded, table.excluded):
        drop_column(connection, table, column)
    gone = {column.name: column for column in _without(known.columns, table.columns)}
    for column in _without(table.excluded, known.excluded):
        create_column(connection, table, column)
        if column.name in gone:
            value = _local(connection, gone[column.name])
            connection.run(
                f"UPDATE {table.shadow} SET {column.cell} = coalesce({value}, {column.cell})"
            )
    disclaim.registers(connection, table, sum(column.bit for column in gone.values()), renew)
    for column in gone.values():
        drop_column(connection, table, column)
    rows = 0
    for column in _without(table.columns, known.columns):
        create_column(connection, table, column)
        rows += backfill.column(connection, table, column)
    return rows


def _local(connection: Connection, column: Column) -> str:
    """Return the SQL of a value in the shadow as this host's table would hold it."""
    if column.parent is not None and column.parent.name not in remembered(connection):
        return "NULL"
    return column.local(column.cell)


def _without(columns: Sequence[Column], others: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column not in others]
