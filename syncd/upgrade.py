"""Upgrades: bringing the bookkeeping that an earlier version of syncd wrote to the present format.

It happens when a file is first opened, in one transaction. What was merged, and what is known of
peers, stays as it is; so does the user's data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from syncd import schema
from syncd.database import Connection, Database


def _run(script: str, connection: Connection) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            connection.run(statement)


_SCRIPTS = {
    # The conflict log has rows that were displaced as well.
    2: """
ALTER TABLE syncd_conflict ADD COLUMN ended_ms INTEGER;
ALTER TABLE syncd_conflict ADD COLUMN reason TEXT NOT NULL DEFAULT 'overwritten';
ALTER TABLE syncd_conflict ADD COLUMN won_key TEXT NOT NULL DEFAULT '';
UPDATE syncd_conflict SET ended_ms = at_ms, won_key = key;
DROP INDEX syncd_conflict_lost;
CREATE UNIQUE INDEX syncd_conflict_lost
    ON syncd_conflict (lost_origin, lost_seq, tbl, col, reason);
CREATE INDEX syncd_conflict_open ON syncd_conflict (tbl) WHERE ended_ms IS NULL;
""",
    # An origin may have two histories, and two changes one seq.
    3: """
ALTER TABLE syncd_origin ADD COLUMN forked INTEGER;
DROP INDEX syncd_held_change;
CREATE UNIQUE INDEX syncd_held_change ON syncd_held (tbl, col, origin, seq, hlc);
DROP INDEX syncd_conflict_lost;
CREATE UNIQUE INDEX syncd_conflict_lost
    ON syncd_conflict (lost_origin, lost_seq, lost_hlc, tbl, col, reason);
""",
    # The conflict log keeps a row that a death took away.
    5: """
ALTER TABLE syncd_conflict ADD COLUMN lost_row TEXT;
""",
}


def _name_rows(connection: Connection) -> None:
    """A row may be referred to by number whose key is no single value, also if it is gone."""
    for table in schema.remembered(connection).values():
        if table.numbered and len(table.key) > 1:
            connection.run(f"ALTER TABLE {table.numbers} ADD COLUMN name TEXT")
        if table.numbered and table.is_generated:
            connection.run(
                f"ALTER TABLE {table.numbers} ADD COLUMN gone INTEGER NOT NULL DEFAULT 0"
            )


_STEPS: dict[int, Callable[[Connection], None]] = {
    **{former: functools.partial(_run, script) for former, script in _SCRIPTS.items()},
    4: _name_rows,
}
"""What leads to the next format, by the format that it starts from."""


def to_present(database: Database) -> None:
    """Upgrade a file, if it is enrolled and its format is one that came before."""
    with database.read() as connection:
        if _format(connection) not in _STEPS:
            return
    with database.write() as connection:
        while (found := _format(connection)) in _STEPS:
            _STEPS[found](connection)
            connection.run("UPDATE syncd_replica SET format = ?", (found + 1,))


def _format(connection: Connection) -> int | None:
    if not schema.is_enrolled(connection):
        return None
    found: int = connection.value("SELECT format FROM syncd_replica")
    return found
