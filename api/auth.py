"""Who is asking: the accounts of both tables, and logging in.

Owns the reading of accounts and the check of a password. Hashes of imported files are accepted once
and replaced at that login. What a login is worth afterwards is the business of `api.sessions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from api import passwords
from api.store import Store

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


def log_in(store: Store, username: str, password: str) -> Account | None:
    """Return the account of a name and its password; an outdated hash is replaced on the way."""
    account = find(store, "admin_users", username) or find(store, "users", username)
    if not knows_password(account, password):
        return None
    if account and passwords.is_outdated(account.password_hash):
        _replace_hash(store, account, passwords.hashed(password))
    return account


def knows_password(account: Account | None, password: str) -> bool:
    """Check a password; it takes as long, and is wrong, where there is no account."""
    stored = account.password_hash if account else ""
    return passwords.matches(password, stored, _LEGACY_SALTS[account.table] if account else "")


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
