"""Rebirth: taking changes that nobody was sent along to a new origin.

A file that was restored together with its sidecar goes on under its origin until a peer proves that
its seqs are given out already. What was folded by then has the seqs of other changes. It keeps its
stamps and gets the new origin, so that peers take it; the vector goes back below it, so that this
host gets the changes of its former self. Nothing here writes a user's table.
"""

from __future__ import annotations

from syncd import disclaim
from syncd.database import Connection
from syncd.schema import remembered


def take_along(connection: Connection, former: int, sent: int) -> None:
    """Give the changes of a former origin above the seq that was sent this replica's present one.

    former: an ordinal.
    """
    for table in remembered(connection).values():
        _move(connection, table.changes, former, sent)
    _move(connection, "syncd_held", former, sent)
    # Not below the horizon: whoever lacks that gets everything from us, and claims no less.
    connection.run(
        "UPDATE syncd_origin SET seq = min(seq, max(?2, coalesce("
        "(SELECT h.seq FROM syncd_horizon AS h WHERE h.origin = ordinal), 0))) WHERE ordinal = ?1",
        (former, sent),
    )
    disclaim.read_again(connection)


def _move(connection: Connection, target: str, former: int, sent: int) -> None:
    connection.run(
        f"UPDATE {target} SET origin = (SELECT origin FROM syncd_replica)"
        " WHERE origin = ? AND seq > ?",
        (former, sent),
    )
