"""Nudges that peers have sent: "I have news", waiting for the daemon to act on them.

The API takes them in and the daemon takes them out, which are two processes; so they stand in the
database's sidecar file, where both look. A nudge is no more than a reason for the next round to
come early: one that is lost costs an interval.
"""

from __future__ import annotations

from pathlib import Path

from syncd.database import Database
from syncd.identity import sidecar_of


class Nudges:
    """The origins of peers that have news."""

    def __init__(self, database_path: Path) -> None:
        self._database = Database(sidecar_of(database_path), create=True)
        self._ready = False

    def leave(self, origin: bytes) -> None:
        """Leave word that a peer has news."""
        self._prepare()
        with self._database.write() as connection:
            connection.run("INSERT OR IGNORE INTO nudge VALUES (?)", (origin,))

    def take(self) -> list[bytes]:
        """Return who has nudged since the last time."""
        self._prepare()
        with self._database.read() as connection:
            if not connection.value("SELECT EXISTS (SELECT 1 FROM nudge)"):
                return []
        with self._database.write() as connection:
            found = [origin for (origin,) in connection.rows("SELECT origin FROM nudge")]
            connection.run("DELETE FROM nudge")
        return found

    def version(self) -> int:
        """Return a number that changes when another connection has written to the sidecar."""
        self._prepare()
        return self._database.version()

    def _prepare(self) -> None:
        if self._ready:
            return
        self._database.make_wal()
        with self._database.write() as connection:
            connection.run(
                "CREATE TABLE IF NOT EXISTS nudge (origin BLOB PRIMARY KEY) WITHOUT ROWID"
            )
        self._ready = True
