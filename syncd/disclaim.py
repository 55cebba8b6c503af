"""Disclaiming: registers whose values went, so that this host may not vouch for them any more.

A dropped column or table takes values along of which the vector says that they are here; a host
behind this one would believe it and never ask another. Disclaimed registers leave the changelog as
if they had never been merged, and the vector goes back to the horizon: whoever has them sends them
again, and they are held until the schema knows them. It must go back for every origin, because what
a lost value had overwritten is in no changelog here, may be all that others know, and may be of any
origin. What this host wrote itself can only come back as another's, so it takes a new origin first.
"""

from __future__ import annotations

from collections.abc import Callable

from syncd.database import Connection
from syncd.schema import drop_table
from syncd.table import Table

Renew = Callable[[], None]
"""Gives the replica a new origin, at most once within the transaction."""

_ALL = -1


def registers(connection: Connection, table: Table, mask: int, renew: Renew) -> None:
    """Disclaim registers of a table. The journal must be folded."""
    if not connection.value(f"SELECT EXISTS (SELECT 1 FROM {table.changes} WHERE mask & {mask})"):
        return
    renew()
    # Not below the horizon: whoever lacks that gets everything from us, and claims no less.
    connection.run(
        "UPDATE syncd_origin SET seq = min(seq, coalesce("
        "(SELECT h.seq FROM syncd_horizon AS h WHERE h.origin = ordinal), 0))"
        " WHERE ordinal <> (SELECT origin FROM syncd_replica)"
    )
    read_again(connection)
    connection.run(f"UPDATE {table.changes} SET mask = mask & ~({mask}) WHERE mask & {mask}")
    connection.run(f"DELETE FROM {table.changes} WHERE mask = 0")


def read_again(connection: Connection) -> None:
    """Read the changelogs of all senders from their beginning, as the vector went back.

    A sender leaves out what stands below the cursor, whatever the vector lacks.
    """
    connection.run("UPDATE syncd_cursor SET position = 0, complete = 0")
    for progress in ("syncd_snapshot", "syncd_came"):
        connection.run(f"DELETE FROM {progress}")


def all_of(connection: Connection, table: Table, renew: Renew) -> None:
    """Disclaim everything of a table, and know it no more. The journal must be folded."""
    registers(connection, table, _ALL, renew)
    drop_table(connection, table)
    # What is displaced now is kept beyond the retention; from here on it counts by its age.
    connection.run(
        "UPDATE syncd_conflict SET ended_ms = at_ms WHERE tbl = ? AND ended_ms IS NULL",
        (table.name,),
    )
