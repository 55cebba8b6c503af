"""The API's connections to the host's SQLite file.

Owns how the file is opened, read and written: one connection per thread, WAL, and every writing
transaction opened with BEGIN IMMEDIATE, because a reader that turns writer under WAL fails with
SQLITE_BUSY_SNAPSHOT, which no timeout cures (sqlite.org/isolation.html). Others write the same
file at the same time. It knows no table.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tenacity

BUSY_TIMEOUT_S = 30
WAL_CHECKPOINT_PAGES = 10_000
"""More than the daemon lets the log grow to: it copies what it has merged back itself. At SQLite's
default that would fall to the next one-row write here (sqlite.org/wal.html#ckpt)."""

Value = str | int | float | bytes | None


class Store:
    """Hand each thread its own connection to one database file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def row(self, sql: str, *values: Value) -> sqlite3.Row | None:
        """Return the query's first row, or None."""
        row: sqlite3.Row | None = self.connection.execute(sql, values).fetchone()
        return row

    def rows(self, sql: str, *values: Value) -> list[sqlite3.Row]:
        """Return all rows of the query."""
        return self.connection.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a writing transaction: committed at the end, rolled back on any exception."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()
            raise

    @contextmanager
    def attached(self, file: Path, name: str) -> Iterator[sqlite3.Connection]:
        """Open a connection of its own with another file attached, which it can only read."""
        connection = _connect(self._path)
        try:
            # Nothing that the file defines, such as a view, may call what could do harm.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute(f"ATTACH ? AS {name}", (f"{file.absolute().as_uri()}?mode=ro",))
            yield connection
        finally:
            connection.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the calling thread's connection, opened at its first use.

        Raises `sqlite3.OperationalError` where the file has lost its name to another, or is gone:
        SQLite would go on with it, and nobody would ever see what is written.
        """
        if not hasattr(self._local, "connection"):
            self._local.connection = _connect(self._path)
            self._local.file = _identity(self._path)
        elif self._local.file != _identity(self._path):
            raise sqlite3.OperationalError(f"{self._path} was replaced while it was open; restart")
        connection: sqlite3.Connection = self._local.connection
        return connection

    def close(self) -> None:
        """Close the calling thread's connection."""
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path.absolute().as_uri(), timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True
    )
    connection.row_factory = sqlite3.Row
    # Imported names may be in Latin-1. One such row must not take the whole answer down.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    # Whoever does the same to a new file at this moment is not waited for by SQLite itself.
    tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked),
        stop=tenacity.stop_after_delay(BUSY_TIMEOUT_S),
        wait=tenacity.wait_random(max=0.05),
        reraise=True,
    )(connection.execute, "PRAGMA journal_mode = WAL")
    # NORMAL may lose the last commits at a power cut, never the file's integrity, and spares every
    # /verify an fsync (sqlite.org/pragma.html#pragma_synchronous).
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
    return connection


def _is_locked(error: BaseException) -> bool:
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    )
