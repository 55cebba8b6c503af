"""The record of administrative acts, in `license_history`.

Owns the form of its lines: who did what to which device, when, and on which host. A line is written
in the transaction of the act itself, so neither stands without the other. An act on no device, such
as a new account, has the empty device id.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from api.clock import column_text


@dataclass(frozen=True)
class Act:
    """Say in whose name, on which host and when something is done."""

    who: str
    host: str
    at: datetime

    def note(
        self,
        connection: sqlite3.Connection,
        action: str,
        details: str | None = None,
        *,
        device_id: str = "",
    ) -> None:
        """Write the line of one act."""
        connection.execute(
            """
            INSERT INTO license_history (device_id, action, details, admin, created_at, host)
            VALUES (?, ?, ?, ?, ?, ?)
            """,
            (device_id, action, details, self.who, column_text(self.at), self.host),
        )
