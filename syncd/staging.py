"""Staging: entries in the temporary table `syncd_staged`, where they wait to be resolved.

To bring a section's keys and values there is a good part of a merge and needs no lock: temporary
tables are a connection's own. So the sections of a frame are staged `ahead`, each in a table of its
own, and only renamed once it is their turn. One that turns out to be split, filtered, or of a table
that has changed meanwhile is staged then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from syncd import bundle
from syncd.bundle import Section
from syncd.database import Connection
from syncd.errors import BundleError
from syncd.literals import literal_of
from syncd.table import ALIVE_BIT, DEAD_BIT, Column, Table

_MASKS = {bundle.NO_EXISTENCE: 0, bundle.ALIVE: ALIVE_BIT, bundle.DEAD: DEAD_BIT}
_CONSTANTS = {type(None), str, int}
_LEFT_ALONE = {"TEXT": str, "INTEGER": int, "BLOB": bytes}


@dataclass
class Staged:
    """Sections that were staged ahead. ordinals: this replica's for the origins of their frame."""

    ordinals: list[int] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    _tables: dict[int, tuple[str, Table]] = field(default_factory=dict)

    def add(self, connection: Connection, table: Table, section: Section) -> None:
        """Stage one of the sections ahead, if all that it has is known."""
        names = {column.name for column in table.columns}
        if section.key != [column.name for column in table.key] or not names.issuperset(
            section.columns
        ):
            return
        name = f"syncd_staged_{len(self._tables)}"
        _create(connection, name, table, section)
        self._tables[id(section)] = name, table

    def take(self, connection: Connection, table: Table, section: Section) -> bool:
        """Let a section be what `syncd_staged` has, if it was staged ahead; say whether it was."""
        name, as_of = self._tables.get(id(section), ("", None))
        if as_of != table:
            return False
        connection.run(f"ALTER TABLE temp.{name} RENAME TO syncd_staged")
        return True


def clear(connection: Connection) -> None:
    """Drop what was staged ahead and not taken, or put back because its transaction failed."""
    for (name,) in connection.rows(
        "SELECT name FROM temp.sqlite_schema WHERE type = 'table' AND name GLOB 'syncd_staged_*'"
    ):
        connection.run(f"DROP TABLE temp.{name}")


def columns_of(table: Table, section: Section) -> list[Column]:
    """Return the columns of a section, all of which the table must have."""
    named = {column.name: column for column in table.columns}
    return [named[name] for name in section.columns]


@contextlib.contextmanager
def entries(connection: Connection, table: Table) -> Iterator[None]:
    """Open an empty `syncd_staged` for entries without values.

    It has the key's cells, origin (ordinal), seq, hlc, mask, `met` (1 once the row is known to have
    had entries before), and `aside` (1 once it cannot be written where it belongs; see `show`).
    """
    connection.run(f"CREATE TEMP TABLE syncd_staged ({_ddl(table)})")
    yield
    connection.run("DROP TABLE temp.syncd_staged")


@contextlib.contextmanager
def changes(
    connection: Connection, table: Table, section: Section, staged: Staged
) -> Iterator[None]:
    """Open `syncd_staged` with a section's changes; raise `BundleError` if a row occurs twice.

    Besides what `entries` have there are the cells of its columns, which hold values as they came.
    """
    if not staged.take(connection, table, section):
        _create(connection, "syncd_staged", table, section)
    yield
    connection.run("DROP TABLE temp.syncd_staged")


def _ddl(table: Table) -> str:
    return (
        f"id INTEGER PRIMARY KEY, {table.key_ddl()}, origin INTEGER, seq INTEGER, hlc INTEGER,"
        " mask INTEGER, met INTEGER DEFAULT 0, aside INTEGER DEFAULT 0"
    )


def _create(connection: Connection, name: str, table: Table, section: Section) -> None:
    """Stage a section in a temporary table; raise `BundleError` if a row occurs twice in it."""
    columns = columns_of(table, section)
    mask = _MASKS[section.existence] | sum(column.bit for column in columns)
    constants = {
        column.cell: literal
        for column, values in zip(columns, section.values, strict=True)
        if (literal := _constant(values)) is not None
    }
    ddl = [_ddl(table), *(_declared(column, constants) for column in columns)]
    connection.run(f"CREATE TEMP TABLE {name} ({', '.join(ddl)})")
    packed = {
        **dict(zip(table.key_cells, section.keys, strict=True)),
        **{
            column.cell: values
            for column, values in zip(columns, section.values, strict=True)
            if column.cell not in constants
        },
    }
    cells = ["origin", "seq", "hlc", *packed]
    connection.many(
        f"INSERT INTO temp.{name} ({', '.join(cells)}, mask)"
        f" VALUES ({', '.join('?' * len(cells))}, {mask})",
        zip(
            section.origins,
            section.seqs,
            section.hlcs,
            *(column.values for column in packed.values()),
            strict=True,
        ),
    )
    for cell, column in packed.items():
        connection.many(
            f"UPDATE temp.{name} SET {cell} = CAST({cell} AS TEXT) WHERE id = ?",
            [(row + 1,) for row in column.raw_text],
        )
    _refuse_repeats(connection, name, table, section)


def _declared(column: Column, constants: dict[str, str]) -> str:
    constant = constants.get(column.cell)
    return column.cell if constant is None else f"{column.cell} DEFAULT {constant}"


def _constant(column: bundle.Column) -> str | None:
    """Return the SQL of the one value that a column has throughout, if that can be told quickly."""
    values = column.values
    if column.raw_text or not values or type(values[0]) not in _CONSTANTS:
        return None
    # 1 and 1.0 are equal, and are two values.
    if values.count(values[0]) < len(values) or len(set(map(type, values))) > 1:
        return None
    literal = literal_of(values[0])
    # Python hands no statement with a NUL in it to SQLite.
    return None if "\0" in literal else literal


def _refuse_repeats(connection: Connection, name: str, table: Table, section: Section) -> None:
    if _are_plain(table, section) and len(_distinct(section)) == len(section):
        return
    # Two keys that differ on the wire may still be one here, after the column's affinity.
    cells = ", ".join(table.key_cells)
    if connection.value(f"SELECT 1 FROM temp.{name} GROUP BY {cells} HAVING count(*) > 1 LIMIT 1"):
        raise BundleError(f"table {table.name!r}: one row occurs twice among changes of one kind")


def _are_plain(table: Table, section: Section) -> bool:
    """Say whether all keys are of a kind that their column's affinity leaves as it is."""
    return all(
        not packed.raw_text and set(map(type, packed.values)) <= {_LEFT_ALONE.get(column.affinity)}
        for column, packed in zip(table.key, section.keys, strict=True)
    )


def _distinct(section: Section) -> set[object]:
    columns = [packed.values for packed in section.keys]
    return set(columns[0] if len(columns) == 1 else zip(*columns, strict=True))
