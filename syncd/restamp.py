"""Restamping: writing anew what this replica has, as changes of its own, of now.

An entry gets this replica's origin and the next seqs, readings and positions; the registers it owns
and their values stay where they are, and so does the order among those restamped. What comes of it
is what the same writes would have left if they were made now, so it is sent to peers like any. The
journal must be folded: its last row is the counter that this goes on from.
"""

from __future__ import annotations

from syncd.changelog import take_seqs
from syncd.database import Connection
from syncd.held import take_positions
from syncd.table import Table


def clock(connection: Connection) -> int:
    """Return the last reading that this replica has given or merged."""
    hlc: int = connection.value("SELECT hlc FROM syncd_replica")
    return hlc


def set_clock(connection: Connection, hlc: int) -> None:
    """Let the next change get a reading behind this one; no merged reading may be greater."""
    connection.run("UPDATE syncd_replica SET hlc = ?", (hlc,))


def entries(connection: Connection, table: Table, chosen: str) -> int:
    """Restamp the entries `e` of a changelog that a condition chooses; return how many changes."""
    return _restamp(connection, table.changes, chosen)


def held(connection: Connection, chosen: str) -> int:
    """Restamp the held registers `e` that a condition chooses; return how many changes."""
    return _restamp(connection, "syncd_held", chosen)


def _restamp(connection: Connection, target: str, chosen: str) -> int:
    # Parts of one change, such as a birth that was held, stay parts of one.
    query = (
        "SELECT e.position AS was, dense_rank() OVER (ORDER BY e.hlc, i.id, e.seq) AS n"
        f" FROM {target} AS e JOIN syncd_origin AS i ON i.ordinal = e.origin WHERE {chosen}"
    )
    with connection.temporary("syncd_again", query) as parts:
        if not parts:
            return 0
        changes: int = connection.value("SELECT max(n) FROM temp.syncd_again")
        hlc, seq = clock(connection), take_seqs(connection, changes)
        connection.run(
            f"""
            UPDATE {target} AS e SET position = ? + a.rowid, seq = ? + a.n, hlc = ? + a.n,
                origin = (SELECT origin FROM syncd_replica)
            FROM temp.syncd_again AS a WHERE e.position = a.was
            """,
            (take_positions(connection, parts), seq, hlc),
        )
    connection.run("UPDATE syncd_replica SET hlc = hlc + ?", (changes,))
    return changes
