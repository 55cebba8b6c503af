"""Disclaiming: registers whose values went, so that this host may not vouch for them any more.

A dropped column or table takes values along of which the vector says that they are here; a host
behind this one would believe it and never ask another. Disclaimed registers leave the changelog as
if they had never been merged, and the vector goes back below them: whoever has them sends them
again, and they are held until the schema knows them. What this host wrote itself can only come back
as another's, so it takes a new origin first.
"""

from __future__ import annotations

from collections.abc import Callable

from syncd.database import Connection
from syncd.schema import Table, drop_table

Renew = Callable[[], None]
"""Gives the replica a new origin, within the transaction."""

_ALL = -1


def registers(connection: Connection, table: Table, mask: int, renew: Renew) -> None:
    """Disclaim registers of a table. The journal must be folded."""
    lost = connection.rows(
        f"SELECT origin, min(seq) FROM {table.changes} WHERE mask & {mask} GROUP BY origin"
    )
    if not lost:
        return
    if connection.value("SELECT origin FROM syncd_replica") in dict(lost):
        renew()
    # Not below the horizon: whoever lacks that gets everything from us, and claims no less.
    connection.many(
        "UPDATE syncd_origin SET seq = min(seq, max(?2 - 1, coalesce("
        "(SELECT h.seq FROM syncd_horizon AS h WHERE h.origin = ordinal), 0))) WHERE ordinal = ?1",
        lost,
    )
    # A sender leaves out what stands below the cursor, whatever the vector lacks.
    connection.run("UPDATE syncd_cursor SET position = 0")
    connection.run(f"UPDATE {table.changes} SET mask = mask & ~({mask}) WHERE mask & {mask}")
    connection.run(f"DELETE FROM {table.changes} WHERE mask = 0")


def all_of(connection: Connection, table: Table, renew: Renew) -> None:
    """Disclaim everything of a table, and know it no more. The journal must be folded."""
    registers(connection, table, _ALL, renew)
    drop_table(connection, table)
