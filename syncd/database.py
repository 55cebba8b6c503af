"""The one door to SQLite.

A `Database` is a file; `read()` and `write()` hand out a connection inside a transaction. A write
begins IMMEDIATE, because a deferred transaction that turns writer fails with SQLITE_BUSY_SNAPSHOT,
which no timeout cures (sqlite.org/rescode.html#busy_snapshot). Connections are one per thread and
are never carried across a fork. sqlite3's exceptions leave this module as ours.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tenacity

from syncd.errors import (
    ConstraintError,
    DatabaseBusy,
    DatabaseError,
    DatabaseMissing,
    SchemaChanged,
)
from syncd.literals import IS_UTF8, is_utf8, quoted, text_of

T = TypeVar("T")
_WRITING = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)

BUSY_TIMEOUT_MS = 30_000
WAL_CHECKPOINT_PAGES = 8_000
"""A bulk merge rewrites the same index pages in frame after frame; letting the WAL grow to some
32 MB before it is copied back halves what is written."""


_ROWS_AT_ONCE = 64
_PACKED_BYTES_MIN = 1024 * 1024
"""The least bound on a packed array; SQLite puts the same bound on all else it reads."""
_encode = msgspec.msgpack.Encoder(enc_hook=bytes).encode


class NoRoom(Exception):
    """Queries would have brought more into memory than they may."""


class NotPackable(Exception):
    """A query's values cannot be had as JSON: it cannot hold them exactly, or they are too many."""


class Room:
    """What a series of queries may bring into memory. rows: how many they have brought."""

    def __init__(self, bytes_max: float = math.inf) -> None:
        self.bytes_left = bytes_max
        self.rows = 0

    def take(self, rows: int, size: int) -> None:
        """Count rows of so many bytes in, or raise `NoRoom`."""
        self.rows += rows
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise NoRoom


_OF_VALUES = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_ERROR,
}
"""The primary codes of errors that depend on what the values are. The last has a statement that
cannot be compiled as well; no text tells the two apart, because it may quote the user's own."""


class Connection:
    """A connection inside a transaction; hands out rows as tuples."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self._found: dict[object, Any] = {}

    def once(self, what: object, find: Callable[[], T]) -> T:
        """Return what a search finds that is worth making only once in a transaction."""
        if what not in self._found:
            self._found[what] = find()
        found: T = self._found[what]
        return found

    def run(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> int:
        """Execute one statement; return the number of rows it changed."""
        return self.raw.execute(sql, values).rowcount

    def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self.raw.execute(sql, values).fetchall()

    def user_rows(
        self, sql: str, values: Sequence[Any] | dict[str, Any] = (), room: Room | None = None
    ) -> list[tuple[Any, ...]]:
        """Return all rows of a query over users' values, TEXT that is not UTF-8 as `RawText`.

        Raises `NoRoom` as soon as they are more than there is room for.
        """
        room = room or Room()
        try:
            return self._within(room, sql, values)
        except sqlite3.OperationalError as error:
            if "decode to UTF-8" not in str(error):
                raise
        # Asking Python for every text is slow, so it is only done where the fast way has failed.
        self.raw.text_factory = text_of
        try:
            return self._within(room, sql, values)
        finally:
            self.raw.text_factory = str

    def _within(
        self, room: Room, sql: str, values: Sequence[Any] | dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        with contextlib.closing(self.raw.execute(sql, values)) as cursor:
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                # Encoding them is the quickest way to learn their size.
                room.take(len(rows), len(_encode(rows)))
                found += rows
        return found

    def packed(
        self, expressions: Sequence[str], source: str, values: Sequence[Any], room: Room
    ) -> tuple[str, ...]:
        """Return what expressions are in each row of a query, each as one JSON array.

        source: the query from its FROM on. Raises `NotPackable` for BLOBs, for TEXT that is not
        UTF-8, and before an array outgrows the room; whether a REAL has kept all its digits is the
        caller's to ask.
        """
        arrays = ", ".join(f"json_group_array({_holdable(one)})" for one in expressions)
        usual = self.raw.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        bound = max(_PACKED_BYTES_MIN, min(room.bytes_left, usual))
        self.raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, int(bound))
        try:
            found: tuple[str, ...] = self.raw.execute(
                f"SELECT {arrays} {source}", values
            ).fetchone()
        except sqlite3.DataError as error:
            raise NotPackable from error
        except sqlite3.OperationalError as error:
            if "decode to UTF-8" in str(error) or "JSON cannot hold" in str(error):
                raise NotPackable from error
            raise
        finally:
            self.raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)
        return found

    def user_stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query over users' values, TEXT that is not UTF-8 as `RawText`.

        The query's order must not change within a transaction.
        """
        count = 0
        try:
            for row in self.raw.execute(sql):
                yield row
                count += 1
            return
        except sqlite3.OperationalError as error:
            if "decode to UTF-8" not in str(error):
                raise
        self.raw.text_factory = text_of
        try:
            yield from itertools.islice(self.raw.execute(sql), count, None)
        finally:
            self.raw.text_factory = str

    def row(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row, or None."""
        found: tuple[Any, ...] | None = self.raw.execute(sql, values).fetchone()
        return found

    def value(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """Return the first column of the first row, or None."""
        found = self.row(sql, values)
        return found[0] if found else None

    def writes_of(self, statements: Sequence[str]) -> set[tuple[str, str | None]]:
        """Return which tables statements would write, and the innermost trigger that does it.

        Nothing is run. The tables are those of the main schema.
        """
        writes: set[tuple[str, str | None]] = set()

        def authorize(
            action: int, table: str | None, _: str | None, schema: str | None, trigger: str | None
        ) -> int:
            if action in _WRITING and schema == "main" and table is not None:
                writes.add((table, trigger))
            return sqlite3.SQLITE_OK

        self.raw.set_authorizer(authorize)
        try:
            for statement in statements:
                self.raw.execute(f"EXPLAIN {statement}").close()
        finally:
            self.raw.set_authorizer(None)
        return writes

    def damage(self) -> list[tuple[str, str]]:
        """Return what SQLite finds wrong with the file: a table, "" if it is none's, and how.

        A table with a function or a collation that only the app has cannot be looked at, and is
        left out.
        """
        whole = self._damage("")
        if whole == []:
            return []
        tables = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")
        found = [
            (name, one) for (name,) in tables for one in self._damage(f"({quoted(name)})") or []
        ]
        return found or [("", one) for one in whole or []]

    def _damage(self, of: str) -> list[str] | None:
        """Return what is wrong with a part of the file, None if that cannot be said."""
        try:
            said = self.rows(f"PRAGMA integrity_check{of}")
        except sqlite3.DatabaseError as error:
            code = error.sqlite_errorcode & 0xFF
            if code == sqlite3.SQLITE_ERROR:
                return None
            if code != sqlite3.SQLITE_CORRUPT:
                raise
            return [str(error)]
        lines = [line for (text,) in said for line in text.splitlines()]
        # It begins with the name of the database. What a row's values are is no damage.
        others = ("***", "CHECK constraint failed", "NULL value in")
        return [line for line in lines if line != "ok" and not line.startswith(others)]

    def attempt(self, work: Callable[[], object]) -> bool:
        """Do some work; say False, and undo it alone, if a row's values do not allow it.

        They may break a constraint, or be nothing that an expression of the user's can be made of,
        such as JSON that is none. A statement that cannot be compiled is no more than that here:
        who does without the work must run into it elsewhere.
        """
        self.raw.execute("SAVEPOINT attempt")
        try:
            work()
        except (sqlite3.IntegrityError, sqlite3.OperationalError, sqlite3.DataError) as error:
            # A trigger or a constraint may have ended the whole transaction.
            if error.sqlite_errorcode & 0xFF not in _OF_VALUES or not self.raw.in_transaction:
                raise
            self.raw.execute("ROLLBACK TO attempt")
            return False
        finally:
            if self.raw.in_transaction:
                self.raw.execute("RELEASE attempt")
        return True

    def refused(
        self, work: Callable[[int, int], object], last: int, ranges_max: float = math.inf
    ) -> list[tuple[int, int]]:
        """Do some work for the numbers from 1 to the last; return those that values do not allow.

        work: does it for the rows with numbers from one to another. They come as ranges of one
        number each, but those beyond so many are not looked into. Raises the error if it is one
        without any row, such as a function that is not there.
        """
        if self.attempt(functools.partial(work, 1, last)):
            return []
        work(1, 0)
        found: list[tuple[int, int]] = []
        left = [(1, last)]
        while left:
            first, last = left.pop()
            if first >= last or len(found) >= ranges_max:
                found.append((first, last))
                continue
            middle = (first + last) // 2
            halves = (middle + 1, last), (first, middle)
            left += [half for half in halves if not self.attempt(functools.partial(work, *half))]
        return found

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Undo in the end what is written inside the `with`."""
        self.raw.execute("SAVEPOINT undone")
        try:
            yield
        finally:
            self.raw.execute("ROLLBACK TO undone")
            self.raw.execute("RELEASE undone")

    @contextlib.contextmanager
    def temporary(self, name: str, query: str) -> Iterator[int]:
        """Hold a query's result in a temporary table; yield its number of rows.

        An exception rolls the transaction back, and the temporary table with it.
        """
        self.run(f"CREATE TEMP TABLE {name} AS {query}")
        yield self.value(f"SELECT count(*) FROM temp.{name}")
        self.run(f"DROP TABLE temp.{name}")

    def define(self, name: str, function: Callable[..., Any]) -> None:
        """Make a function of any number of arguments known to this connection's SQL."""
        self.raw.create_function(name, -1, function, deterministic=True)

    def many(self, sql: str, rows: Any) -> None:
        """Execute one statement for every row of values."""
        self.raw.executemany(sql, rows)


class Database:
    """One SQLite file.

    create: whether to make it if it is not there. prepare: what to do to it before anything else.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        prepare: Callable[[Database], None] | None = None,
    ) -> None:
        self.path = path
        self._create = create
        self._prepare = prepare
        self._local = threading.local()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a snapshot: everything read inside is of one moment."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            yield connection

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Connection]:
        """Open a snapshot whose temporary tables stay, for this thread."""
        with self._transaction("BEGIN", "COMMIT") as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = False, patient: bool = True) -> Iterator[Connection]:
        """Open a write transaction; it commits at the end, or is undone by any exception.

        durable: once it has committed, a power loss cannot undo it nor anything committed before.
        patient: whether to wait for another writer; if not, there is a `DatabaseBusy` at once.
        """
        if not patient:
            self._connection().execute("PRAGMA busy_timeout = 0")
        if durable:
            self._connection().execute("PRAGMA synchronous = FULL")
        try:
            with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
                yield connection
        finally:
            if durable:
                self._connection().execute("PRAGMA synchronous = NORMAL")
            if not patient:
                self._connection().execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")

    def version(self) -> int:
        """Return a number that changes whenever another connection has committed.

        It costs no read of the file (sqlite.org/pragma.html#pragma_data_version).
        """
        with _translated(self.path):
            found: int = self._connection().execute("PRAGMA data_version").fetchone()[0]
        return found

    def make_wal(self) -> None:
        """Switch the file to write-ahead logging, so that readers and the writer do not wait.

        Whoever does the same at this moment is not waited for by SQLite itself.
        """

        def switch() -> None:
            with _translated(self.path):
                self._connection().execute("PRAGMA journal_mode = WAL").fetchone()

        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(DatabaseBusy),
            stop=tenacity.stop_after_delay(BUSY_TIMEOUT_MS / 1000),
            wait=tenacity.wait_random(max=0.05),
            reraise=True,
        )(switch)

    def copy(self) -> Database:
        """Return a private copy as of now, for this thread, that vanishes when it is closed.

        `prepare` is applied to the copy alone, if it was not to the file yet.
        """
        twin = Database(self.path)
        with _translated(self.path):
            raw = _configured(sqlite3.connect("", isolation_level=None))
            if is_there(self.path):
                self._opened().backup(raw)
        twin._local.raw, twin._local.pid, twin._local.file = raw, os.getpid(), None
        if self._prepare is not None:
            self._prepare(twin)
        return twin

    def close(self) -> None:
        """Close this thread's connection."""
        raw = getattr(self._local, "raw", None)
        if raw is not None:
            raw.close()
            self._local.raw = None

    @contextlib.contextmanager
    def _transaction(self, begin: str, end: str) -> Iterator[Connection]:
        with _translated(self.path):
            raw = self._connection()
            assert not raw.in_transaction, "transactions do not nest"
            raw.execute(begin)
            try:
                yield Connection(raw)
                raw.execute(end)
            except BaseException:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
                raise

    def _connection(self) -> sqlite3.Connection:
        raw = self._opened()
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            try:
                prepare(self)
            except BaseException:
                self._prepare = prepare  # whoever comes next tries again
                raise
        return raw

    def _opened(self) -> sqlite3.Connection:
        raw: sqlite3.Connection | None = getattr(self._local, "raw", None)
        if raw is None or self._local.pid != os.getpid():
            raw = self._open()
            self._local.raw, self._local.pid = raw, os.getpid()
            self._local.file = _identity_of(self.path)
        elif self._local.file not in (None, _identity_of(self.path)):
            # SQLite would go on with the former one, beside programs that have the new one
            # (sqlite.org/howtocorrupt.html, section 2.4).
            raise DatabaseError(
                f"{self.path} was replaced or removed while it was open",
                hint="Restart app and daemon; stop both before the file is replaced.",
            )
        return raw

    def _open(self) -> sqlite3.Connection:
        if not self._create and not is_there(self.path):
            raise DatabaseMissing(f"there is no database {self.path}")
        raw = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
        try:
            return _configured(raw)
        except BaseException:
            raw.close()  # what is no database is found out by the first pragma
            raise


def is_there(path: Path) -> bool:
    """Say whether there is such a file; raise `DatabaseError` where that cannot be seen."""
    return _identity_of(path) is not None


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of its name; None if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DatabaseError(f"{path}: {error.strerror}", hint=_CANNOT_WRITE) from error
    return found.st_dev, found.st_ino


def _configured(raw: sqlite3.Connection) -> sqlite3.Connection:
    for pragma in (
        # NORMAL under WAL keeps the file whole after power loss; the last commits may be lost
        # together, rows and vector alike, and are then pulled again.
        "synchronous = NORMAL",
        "temp_store = MEMORY",
        "cache_size = -16000",
        f"wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}",
        # Merging follows the origin's own cascades, which were captured there; a second cascade
        # here would be a change that nobody made.
        "foreign_keys = OFF",
    ):
        raw.execute(f"PRAGMA {pragma}")
    raw.create_function(IS_UTF8, 1, is_utf8, deterministic=True)
    return raw


def _holdable(expression: str) -> str:
    """Return an expression that JSON holds as what it is, or refuses.

    From SQLite 3.45 on a BLOB that reads as JSONB is taken for JSON (sqlite.org/jsonb.html): x'00'
    would become null. No JSONB begins with the byte that stands for BLOBs here.
    """
    if not _takes_jsonb():
        return expression
    return f"CASE typeof({expression}) WHEN 'blob' THEN x'FF' ELSE {expression} END"


@functools.cache
def _takes_jsonb() -> bool:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute("SELECT json_array(x'00')").fetchone()
        except sqlite3.OperationalError:
            return False
        return True


_CANNOT_WRITE = (
    "Check owner, permissions and mount of the file and of its folder; SQLite writes both."
)
_DAMAGED = (
    "Stop app and daemon, restore a backup or move the file away; what peers have comes back from"
    " them."
)
_HINTS = {
    sqlite3.SQLITE_FULL: "Free space on the disk; nothing was half written.",
    sqlite3.SQLITE_READONLY: _CANNOT_WRITE,
    sqlite3.SQLITE_CANTOPEN: _CANNOT_WRITE,
    sqlite3.SQLITE_PERM: _CANNOT_WRITE,
    sqlite3.SQLITE_IOERR: "Look at the disk and its free space, and at the system's log.",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
"""What an operator can do, by SQLite's primary result code (sqlite.org/rescode.html)."""


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConstraintError(f"{path}: {error}") from error
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DatabaseBusy(f"{path}: {error}") from error
        if str(error).startswith(("no such table", "no such column")):
            raise SchemaChanged(f"{path}: {error}") from error
        raise DatabaseError(f"{path}: {error}", hint=_HINTS.get(code)) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise DatabaseError(f"{path}: {error}", hint=_HINTS.get(code)) from error
