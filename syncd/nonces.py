"""Nonces of requests already answered, so that none is answered twice.

They stand in the database's sidecar file, which all workers share and which survives a restart.
They are not in the database itself, because there every request would look like a commit to whoever
watches the file for news.
"""

from __future__ import annotations

from pathlib import Path

from syncd.database import Database
from syncd.identity import sidecar_of


class Nonces:
    """The nonces seen within the window in which a request may still be valid."""

    def __init__(self, database_path: Path) -> None:
        self._database = Database(sidecar_of(database_path), create=True)
        self._ready = False

    def use(self, key_id: str, nonce: str, *, now_s: int, expires_s: int) -> bool:
        """Remember a nonce until it expires; say False if it was used before."""
        self._prepare()
        with self._database.write() as connection:
            connection.run("DELETE FROM nonce WHERE expires_s < ?", (now_s,))
            return (
                connection.run(
                    "INSERT OR IGNORE INTO nonce VALUES (?, ?, ?)", (key_id, nonce, expires_s)
                )
                == 1
            )

    def _prepare(self) -> None:
        if self._ready:
            return
        self._database.make_wal()
        with self._database.write() as connection:
            connection.run(
                "CREATE TABLE IF NOT EXISTS nonce (key_id TEXT, nonce TEXT, expires_s INTEGER,"
                " PRIMARY KEY (key_id, nonce)) WITHOUT ROWID"
            )
            connection.run("CREATE INDEX IF NOT EXISTS nonce_expiry ON nonce (expires_s)")
        self._ready = True
