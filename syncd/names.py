"""Names: what stands for a row, as one value, in columns that refer to it by its local number.

Such a column travels as its parent's sync key. A key of one column is its own name. Of another the
map of numbers has the name: the list of its values as literals, in the order of their columns'
names. SQLite's own literals would not do: they differ by its version, by the file's encoding, and
for 1 and 1.0, which are one row; and each host lists a key's columns in an order of its own.
"""

from __future__ import annotations

from typing import Any

from syncd.database import Connection
from syncd.literals import literal_of, quoted, text_of
from syncd.table import Table

_INTEGERS_END = 1 << 63


def begin(connection: Connection, table: Table) -> None:
    """Name the rows of a table that others refer to, and let them be found by that."""
    if len(table.key) > 1:
        index = quoted(f"syncd_name_{table.name}")
        connection.run(f"CREATE INDEX IF NOT EXISTS {index} ON {table.numbers} (name)")
        give(connection, table)


def give(connection: Connection, table: Table) -> None:
    """Name the rows of the map that have no name yet, if others refer to them."""
    if not table.is_parent or len(table.key) == 1:
        return
    encoding = str(connection.value("PRAGMA encoding"))

    def name(*cells: Any) -> str:
        pairs = zip(cells[::2], cells[1::2], strict=True)
        return ", ".join(_part(kind, value, encoding) for kind, value in pairs)

    connection.define("syncd_name", name)
    by_name = sorted(zip(table.key, table.key_cells, strict=True), key=lambda pair: pair[0].name)
    values = ", ".join(
        f"typeof({cell}), CASE typeof({cell}) WHEN 'text' THEN CAST({cell} AS BLOB) ELSE {cell} END"
        for _, cell in by_name
    )
    filled = " AND ".join(f"{cell} IS NOT NULL" for cell in table.key_cells)
    connection.run(
        f"UPDATE {table.numbers} SET name = syncd_name({values}) WHERE name IS NULL AND {filled}"
    )


def _part(kind: str, value: Any, encoding: str) -> str:
    if kind == "text":
        return literal_of(text_of(value, encoding))
    if isinstance(value, float) and value.is_integer() and abs(value) < _INTEGERS_END:
        return str(int(value))
    return literal_of(value)
