"""Sessions of the dashboard: tokens that every host accepts, and their end.

Owns the token and the two synced tables that end it early. A token only names an account; its role
is read at each request, so that a removed or demoted account loses its rights at once. It is signed
with keys of its own, never with a secret that ships in clients, and carries the account's *epoch*:
a new epoch ends all sessions of the account, whatever the hosts' clocks say.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

from api.auth import Account, find
from api.clock import Clock, column_text
from api.store import Store

LASTS = timedelta(hours=12)


@dataclass(frozen=True)
class Session:
    """Hold what a token says. id: of this one session."""

    table: str
    username: str
    id: str
    epoch: str


class Sessions:
    """Issue, read and end session tokens; the first key signs, all are accepted."""

    def __init__(self, keys: tuple[str, ...], store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._serializer = serializer(keys, "dashboard-session", clock)

    def issue(self, account: Account) -> str:
        """Return a token that names the account for 12 hours."""
        epoch = self._epoch(account.table, account.username)
        content = [account.table, account.username, secrets.token_urlsafe(12), epoch]
        return str(self._serializer.dumps(content))

    def account(self, token: str) -> Account | None:
        """Return the account that a token names; None where either has ended."""
        session = self.read(token)
        return find(self._store, session.table, session.username) if session else None

    def read(self, token: str) -> Session | None:
        """Return what a token says, None unless it is good now."""
        try:
            content = self._serializer.loads(token, max_age=int(LASTS.total_seconds()))
        except BadData:
            return None
        session = Session(*content)
        return None if self._is_ended(session) else session

    def end(self, session: Session) -> None:
        """End one session on every host."""
        with self._store.writing() as connection:
            connection.execute(
                "INSERT INTO ended_sessions VALUES (?, ?) ON CONFLICT DO NOTHING",
                (session.id, column_text(self._clock() + LASTS)),
            )

    def forget_expired(self) -> None:
        """Remove the memory of sessions that would have ended by themselves by now."""
        with self._store.writing() as connection:
            connection.execute(
                "DELETE FROM ended_sessions WHERE expires_at < ?", (column_text(self._clock()),)
            )

    def _is_ended(self, session: Session) -> bool:
        ended = self._store.row(
            """
            SELECT 1 FROM ended_sessions WHERE session = ?1
             UNION ALL
            SELECT 1 FROM session_epochs
             WHERE account = ?2 AND epoch <> ?3 AND kept IS NOT ?1
            """,
            session.id,
            account_key(session.table, session.username),
            session.epoch,
        )
        return ended is not None

    def _epoch(self, table: str, username: str) -> str:
        row = self._store.row(
            "SELECT epoch FROM session_epochs WHERE account = ?", account_key(table, username)
        )
        return str(row["epoch"]) if row else ""


def end_all(
    connection: sqlite3.Connection, table: str, username: str, kept: Session | None = None
) -> None:
    """End all sessions of an account on every host, but one if it is named."""
    connection.execute(
        """
        INSERT INTO session_epochs (account, epoch, kept) VALUES (?, ?, ?)
        ON CONFLICT (account) DO UPDATE SET epoch = excluded.epoch, kept = excluded.kept
        """,
        (account_key(table, username), secrets.token_urlsafe(12), kept.id if kept else None),
    )


def account_key(table: str, username: str) -> str:
    """Return how the tables of sessions name an account."""
    return f"{table}:{username}"


def serializer(keys: tuple[str, ...], purpose: str, clock: Clock) -> URLSafeTimedSerializer:
    """Return what signs tokens of a purpose; a token of one is worth nothing for another."""
    return URLSafeTimedSerializer(
        # itsdangerous signs with the last key of its list.
        list(reversed(keys)),
        salt=purpose,
        signer=_ClockSigner,
        signer_kwargs={"clock": clock, "digest_method": hashlib.sha256},
    )


class _ClockSigner(TimestampSigner):
    """Sign with the host's clock instead of the wall clock."""

    def __init__(self, *args: Any, clock: Clock, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock().timestamp())
