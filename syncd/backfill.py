"""Backfill: changes for what stood in a table before anybody watched.

A row gets its birth under the stamp that a column of it says, or under the lowest, so that any real
write beats it; so do the values of a column that was added since. The journal must be folded, and
nothing journalled, until all of it is done: the seqs are those that the journal would give next.
"""

from __future__ import annotations

from syncd import changelog, times
from syncd.database import Connection
from syncd.literals import quoted
from syncd.table import ALIVE_BIT, DEAD_BIT, Column, Table

LOWEST_HLC = 0


def rows(connection: Connection, table: Table, stamp_from: str | None, now_ms: int) -> int:
    """Write the births of all rows; return how many. stamp_from: the column that says when."""
    mask = ALIVE_BIT | table.columns_mask
    if stamp_from is None:
        return _write(connection, table, mask)
    reading = times.reading(f"u.{quoted(stamp_from)}", now_ms)
    count = _write(connection, table, mask, reading=reading)
    # What this host writes next is newer, even if its wall clock steps back.
    newest = connection.value(f"SELECT coalesce(max(hlc), 0) FROM {table.changes}")
    changelog.advance_clock(connection, newest)
    return count


def column(connection: Connection, table: Table, added: Column) -> int:
    """Write changes for the values of a column that differ from its DEFAULT; return how many."""
    return _write(connection, table, added.bit, f"{quoted(added.name)} IS NOT ({added.preset})")


def _write(
    connection: Connection,
    table: Table,
    mask: int,
    condition: str = "true",
    reading: str = str(LOWEST_HLC),
) -> int:
    """Write changes for rows `u` of the user's table. reading: the SQL of their clock readings."""
    filled = " AND ".join(f"{value} IS NOT NULL" for value in table.user_key("u"))
    pairs = zip(table.user_key("u"), table.key_cells, strict=True)
    key = ", ".join(f"{value} AS {cell}" for value, cell in pairs)
    base = connection.value("SELECT max(seq) FROM syncd_journal")
    # A death would take a value that is older than itself, here or where it is remembered longer.
    hlc = (
        f"max(t.syncd_hlc, (SELECT coalesce(max(e.hlc) + 1, {LOWEST_HLC}) FROM {table.changes} AS e"
        f" WHERE {table.on('t', 'e')} AND e.mask & {DEAD_BIT}),"
        f" (SELECT coalesce(max(hlc) + 1, {LOWEST_HLC}) FROM syncd_horizon))"
    )
    count = connection.run(
        f"INSERT INTO {table.changes}"
        f" SELECT {table.cells('t')}, r.position + t.syncd_n, r.origin, ? + t.syncd_n,"
        f" {hlc}, ?"
        " FROM syncd_replica AS r CROSS JOIN ("
        f"SELECT row_number() OVER (ORDER BY {', '.join(table.user_key('u'))}) AS syncd_n,"
        f" {key}, {reading} AS syncd_hlc"
        f" FROM {table.sql} AS u WHERE {filled} AND ({condition})) AS t",
        (base, mask),
    )
    connection.run("UPDATE syncd_replica SET position = position + ?", (count,))
    changelog.take_seqs(connection, count)
    return count
