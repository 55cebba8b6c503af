"""What is written to accounts: new ones, passwords, addresses.

Owns the writes to `users` and `admin_users` that a person orders, each with its line of history in
one transaction. A new password ends the account's other sessions. It knows no request; the views
decide who may.
"""

from __future__ import annotations

import sqlite3

from api import passwords, sessions
from api.auth import Account
from api.clock import column_text
from api.history import Act
from api.sessions import Session
from api.store import Store, Value

PROFILE = "id, username, email, role, created_at"
ROLES = ("user", "admin")
PASSWORD_LENGTH_MIN = 8


def listing(store: Store) -> list[dict[str, Value]]:
    """Return all accounts of the table `users`, the oldest first."""
    return [dict(row) for row in store.rows(f"SELECT {PROFILE} FROM users ORDER BY id")]


def profile(store: Store, account: Account) -> dict[str, Value] | None:
    """Return an account's row of `users`; None for one that is not kept there."""
    if account.table != "users":
        return None
    row = store.row(f"SELECT {PROFILE} FROM users WHERE username = ?", account.username)
    return dict(row) if row else None


def by_email(store: Store, email: str) -> list[str]:
    """Return the names of the users who have an address, in whatever case it is written."""
    rows = store.rows("SELECT username FROM users WHERE lower(trim(email)) = lower(?)", email)
    return [row["username"] for row in rows]


def create_user(
    store: Store, act: Act, *, username: str, password: str, email: str, role: str
) -> int | None:
    """Create a user and return its id; None where the name is taken, also by an administrator."""
    password_hash = passwords.hashed(password)
    with store.writing() as connection:
        taken = connection.execute(
            "SELECT 1 FROM users WHERE username = ?1 UNION ALL"
            " SELECT 1 FROM admin_users WHERE username = ?1",
            (username,),
        ).fetchone()
        if taken:
            return None
        now = column_text(act.at)
        added = connection.execute(
            """
            INSERT INTO users (username, password_hash, email, role, created_at, updated_at)
            VALUES (?, ?, ?, ?, ?, ?)
            """,
            (username, password_hash, email or None, role, now, now),
        )
        act.note(connection, "user.create", f"{username} ({role})")
    return added.lastrowid


def put_administrator(store: Store, act: Act, username: str, password: str) -> None:
    """Make an administrator who must change the password, or give a known one a new password."""
    password_hash = passwords.hashed(password)
    with store.writing() as connection:
        connection.execute(
            """
            INSERT INTO admin_users (username, password_hash, must_change_password, created_at)
            VALUES (?, ?, 1, ?)
            ON CONFLICT (username) DO UPDATE
               SET password_hash = excluded.password_hash, must_change_password = 1
            """,
            (username, password_hash, column_text(act.at)),
        )
        sessions.end_all(connection, "admin_users", username)
        act.note(connection, "admin.password", username)


def set_password(
    store: Store, act: Act, account: Account, password: str, kept: Session | None = None
) -> bool:
    """Give an account a new password and end its other sessions; False where it is gone."""
    password_hash = passwords.hashed(password)
    with store.writing() as connection:
        found = _write_hash(connection, account, password_hash, act)
        if found:
            sessions.end_all(connection, account.table, account.username, kept)
            act.note(connection, "password", account.username)
    return found


def set_email(store: Store, act: Act, account: Account, email: str) -> bool:
    """Give a user another address; False where it is gone."""
    with store.writing() as connection:
        changed = connection.execute(
            "UPDATE users SET email = ?, updated_at = ? WHERE username = ?",
            (email, column_text(act.at), account.username),
        )
        if changed.rowcount:
            act.note(connection, "user.email", account.username)
    return bool(changed.rowcount)


def _write_hash(
    connection: sqlite3.Connection, account: Account, password_hash: str, act: Act
) -> bool:
    also, values = {
        "admin_users": ("must_change_password = 0", ()),
        "users": ("updated_at = ?", (column_text(act.at),)),
    }[account.table]
    changed = connection.execute(
        f"UPDATE {account.table} SET password_hash = ?, {also} WHERE username = ?",
        (password_hash, *values, account.username),
    )
    return bool(changed.rowcount)
