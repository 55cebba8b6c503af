"""Who is asking: accounts, logging in, and sessions.

Owns the reading of both account tables and the session token. A token only names an account; its
role is read from the store at each request, so that a removed or demoted account loses its rights
at once. Sessions are signed with keys of their own, never with a secret that ships in clients.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

from api import passwords
from api.clock import Clock, column_text
from api.store import Store

SESSION_SECONDS = 12 * 60 * 60

# Searched in this order: where both tables hold a name, the administrator is meant.
_FIND = {
    "admin_users": """
        SELECT username, password_hash, must_change_password, 'admin' AS role
          FROM admin_users WHERE username = ?
    """,
    "users": """
        SELECT username, password_hash, 0 AS must_change_password, role
          FROM users WHERE username = ?
    """,
}
_LEGACY_SALTS = {"admin_users": "admin-salt::", "users": "user-salt::"}


@dataclass(frozen=True)
class Account:
    """Identify someone who may use the dashboard; `table` is where the account lives."""

    table: str
    username: str
    role: str
    must_change_password: bool
    password_hash: str

    @property
    def is_admin(self) -> bool:
        """Tell whether the account may administrate every licence."""
        return self.role == "admin"


class Sessions:
    """Issue and read session tokens; the first key signs, all are accepted."""

    def __init__(self, keys: tuple[str, ...], clock: Clock) -> None:
        self._serializer = URLSafeTimedSerializer(
            # itsdangerous signs with the last key of its list.
            list(reversed(keys)),
            salt="session",
            signer=_ClockSigner,
            signer_kwargs={"clock": clock, "digest_method": hashlib.sha256},
        )

    def issue(self, account: Account) -> str:
        """Return a token that names the account for 12 hours."""
        token = self._serializer.dumps([account.table, account.username])
        return token.decode() if isinstance(token, bytes) else token

    def account(self, token: str, store: Store) -> Account | None:
        """Return the account that a token names; None where the token or the account is gone."""
        try:
            table, username = self._serializer.loads(token, max_age=SESSION_SECONDS)
        except BadData:
            return None
        return find(store, table, username)


def log_in(store: Store, username: str, password: str) -> Account | None:
    """Return the account of a name and its password; an outdated hash is replaced on the way."""
    account = find(store, "admin_users", username) or find(store, "users", username)
    stored = account.password_hash if account else ""
    salt = _LEGACY_SALTS[account.table] if account else ""
    if not passwords.matches(password, stored, salt):
        return None
    if account and passwords.is_outdated(stored):
        _replace_hash(store, account, passwords.hashed(password))
    return account


def find(store: Store, table: str, username: str) -> Account | None:
    """Return an account of one of the two tables, or None."""
    row = store.row(_FIND[table], username)
    if row is None:
        return None
    return Account(
        table=table,
        username=row["username"],
        role=row["role"],
        must_change_password=bool(row["must_change_password"]),
        password_hash=row["password_hash"],
    )


def put_administrator(store: Store, username: str, password_hash: str, now: datetime) -> None:
    """Make an administrator who must change the password, or give a known one a new password."""
    with store.writing() as connection:
        connection.execute(
            """
            INSERT INTO admin_users (username, password_hash, must_change_password, created_at)
            VALUES (?, ?, 1, ?)
            ON CONFLICT (username) DO UPDATE
               SET password_hash = excluded.password_hash, must_change_password = 1
            """,
            (username, password_hash, column_text(now)),
        )


def _replace_hash(store: Store, account: Account, password_hash: str) -> None:
    with store.writing() as connection:
        # Only the hash that was checked: a password changed meanwhile, perhaps on a peer, stays.
        connection.execute(
            f"""
            UPDATE {account.table} SET password_hash = ?
             WHERE username = ? AND password_hash = ?
            """,
            (password_hash, account.username, account.password_hash),
        )


class _ClockSigner(TimestampSigner):
    """Sign with the host's clock instead of the wall clock."""

    def __init__(self, *args: Any, clock: Clock, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock().timestamp())
