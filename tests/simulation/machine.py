"""A simulated host: real files, a writer, and a syncd process that can be killed at any statement.

What kill -9 leaves of SQLite is the bytes of its files at that moment: everything a process had
handed to the system stays, and nothing of it is tidied up. So a death copies database, write-ahead
log and sidecar as they are, uncommitted pages included, stops every further statement of that
process, and the next process finds those bytes in the same files. It recovers them as SQLite does.
The shared-memory file is left out: a process that is the first to open a database makes it anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from engine import model
from engine.hosts import Clock, table_rows
from engine.model import Key, cell

from simulation import images, shapes
from simulation.knowledge import Knowledge
from simulation.ledger import Loss
from simulation.shapes import Shape, Shapes
from simulation.steps import Crash
from syncd import endpoint
from syncd.config import Config
from syncd.database import Database
from syncd.identity import sidecar_of
from syncd.replica import Replica
from syncd.table import ALIVE_BIT, DEAD_BIT, SALT_BITS


class Killed(BaseException):
    """A process is dead. Nothing that handles errors may catch this."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self.process = process


class Watched(sqlite3.Connection):
    """A connection of the engine's, which tells its process of every statement."""

    process: Process | None = None
    is_main = False

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        """Execute one statement, if the process is still alive for it."""
        if self.process is None:
            return super().execute(sql, values)
        self.process.before(sql)
        cursor = super().execute(sql, values)
        self.process.after(sql, self.is_main)
        return cursor

    def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
        """Execute one statement for every row of values, if the process is still alive for it."""
        assert self.process is not None
        self.process.before(sql)
        return super().executemany(sql, rows)


class Process:
    """One run of syncd on a machine.

    pending: what to remember once the present transaction on the database commits.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.connections: list[Watched] = []
        self.pending: list[Callable[[], object]] = []
        self.doom: Crash | None = None
        self.remains: dict[Path, bytes] | None = None
        self._countdown = 0

    def condemn(self, doom: Crash) -> None:
        """Let this process die as told."""
        self.doom, self._countdown = doom, doom.countdown

    @contextlib.contextmanager
    def spared(self) -> Iterator[None]:
        """Let this process not die meanwhile."""
        doom, self.doom = self.doom, None
        yield
        self.doom = doom

    def inherit(self, other: Process) -> None:
        """Die as another process was told to."""
        self.doom, self._countdown = other.doom, other._countdown

    def before(self, sql: str) -> None:
        """Say that a statement is about to run; raise `Killed` if this is the end."""
        if self.remains is not None:
            raise Killed(self)
        if self.doom is not None and (
            self.doom.unit == "statement" or (self.doom.unit == "commit" and sql == "COMMIT")
        ):
            self._count()

    def after(self, sql: str, is_main: bool) -> None:
        """Say that a statement has run."""
        if sql not in ("COMMIT", "ROLLBACK"):
            return
        if is_main:
            pending, self.pending = self.pending, []
            if sql == "COMMIT":
                for remember in pending:
                    remember()
        if sql == "COMMIT" and self.doom is not None and self.doom.unit == "committed":
            self._count()

    def _count(self) -> None:
        self._countdown -= 1
        if self._countdown < 0:
            self.remains = {
                file: file.read_bytes() for file in self.machine.files() if file.exists()
            }
            raise Killed(self)


@dataclass(frozen=True)
class Copy:
    """A copy of a host's files, put aside, and what the host had at that moment."""

    host: int
    database: bytes
    sidecar: dict[str, bytes]
    knowledge: Knowledge


class Machine:
    """A host with its files, its clock, its writer and its process."""

    def __init__(
        self,
        folder: Path,
        number: int,
        peers: Sequence[int],
        tables: Shapes,
        version: int,
        *,
        enforced: bool,
        imaged: bool,
    ) -> None:
        self.number = number
        self.is_set_back = False
        self.node = f"h{number}"
        self.clock = Clock()
        self.tables = tables
        self.knowledge = Knowledge(tables, version)
        self.path = folder / f"h{number}.db"
        self._attic = folder / f"attic{number}"
        self._attic.mkdir()
        self._peers = peers
        self._incarnations = 0
        self._enforced = enforced
        self._imaged = imaged
        self.begin_empty()

    def begin_empty(self) -> None:
        """Make a new file, to be enrolled."""
        self.knowledge = Knowledge(self.tables, self.knowledge.version)
        self.writer = self._connect()
        self.writer.executescript(shapes.ddl(self.tables, self.knowledge.version))
        if self._imaged:
            images.make(self.writer, shapes.of_version(self.tables, self.knowledge.version))
        self.writer.close()
        self.start()

    def start(self) -> None:
        """Start a process, and a writer, over the files as they are."""
        self.process = Process(self)
        self.writer = self._connect()
        self.replica = Replica(
            self._config(), wall_ms=self.clock, new_origin=lambda: self.random("origin")
        )
        self.server = endpoint._Server(self.replica)

    def stop(self) -> None:
        """Let go of the files."""
        self.writer.close()
        for connection in self.process.connections:
            connection.close()

    def restart(self) -> None:
        """End the process in peace and start another, which the same fate awaits."""
        self.stop()
        condemned = self.process
        self.start()
        self.process.inherit(condemned)

    def rename(self) -> None:
        """Give the host another name."""
        self.node += "x"
        self.restart()

    def reboot(self) -> None:
        """Start again after a death."""
        remains = self.process.remains
        assert remains is not None
        self.stop()
        for file in self.files():
            if file in remains:
                file.write_bytes(remains[file])
            else:
                file.unlink(missing_ok=True)
        self.start()

    def files(self) -> list[Path]:
        """Return all files that a death leaves."""
        pair = [self.path, sidecar_of(self.path)]
        return [file for one in pair for file in (one, one.with_name(one.name + "-wal"))]

    def contents(self) -> dict[Path, bytes]:
        """Return what is in its files; SQLite makes an empty -wal for who only reads."""
        found = {file: file.read_bytes() for file in self.files() if file.exists()}
        return {file: content for file, content in found.items() if content}

    def copy(self) -> Copy:
        """Return a copy as one who makes a backup would have it."""
        self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        sidecar = [file for file in self.files()[2:] if file.exists()]
        return Copy(
            self.number,
            self.path.read_bytes(),
            {file.name.removeprefix(self.path.name): file.read_bytes() for file in sidecar},
            self.knowledge.copy(),
        )

    def put_back(self, copy: Copy, how: str) -> None:
        """Put a copy in place of this host's file; see `steps.Restore`."""
        if how in ("content", "volume"):
            self.stop()
            self.path.write_bytes(copy.database)
            if how == "volume":
                for file in self.files()[2:]:
                    suffix = file.name.removeprefix(self.path.name)
                    file.write_bytes(copy.sidecar.get(suffix, b""))
        else:
            self.lose_disk()
            self.path.write_bytes(copy.database)
            if how == "file":
                for suffix, content in copy.sidecar.items():
                    self.path.with_name(self.path.name + suffix).write_bytes(content)
        self.knowledge = copy.knowledge.copy()
        self.start()

    def lose_disk(self) -> None:
        """Take the files away. They are kept elsewhere, so that no new one gets their inodes."""
        self.stop()
        for file in self.files():
            if file.exists():
                file.rename(self._attic / str(len(list(self._attic.iterdir()))))

    @contextlib.contextmanager
    def without_triggers(self) -> Iterator[None]:
        """Take the triggers away meanwhile."""
        triggers = self.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        for name, _ in triggers:
            self.writer.execute(f"DROP TRIGGER {name}")
        yield
        for _, sql in triggers:
            self.writer.execute(sql)
        images.renew(self.writer)

    def shown(self) -> model.Tables:
        """Return what the tables show."""
        shown = shapes.of_version(self.tables, self.knowledge.version)
        return {name: self._rows_of(name, shape) for name, shape in shown.items()}

    def has(self, table: str) -> bool:
        """Say whether its schema has a table."""
        return self.tables[table].since <= self.knowledge.version

    def local(self) -> model.Tables:
        """Return what the tables show in columns that stay on this host."""
        return {
            name: table_rows(self.writer, name, shape.key, list(shape.local))
            for name, shape in shapes.of_version(self.tables, self.knowledge.version).items()
            if shape.local
        }

    def _rows_of(self, name: str, shape: Shape) -> model.Rows:
        columns = shape.columns_of(self.knowledge.version)
        named = self._keys_of(name, shape) if shape.generated else {}
        rows = table_rows(self.writer, name, ("id",) if shape.generated else shape.key, columns)
        for column, parent in shape.numbers.items():
            parents = self.tables[parent]
            keys = self._keys_of(parent, parents)
            place = columns.index(column)
            for key, row in rows.items():
                meant = keys.get(row[place : place + 1])
                there = model.NULL if meant is None else model.as_one(meant, parents.key)
                rows[key] = (*row[:place], there, *row[place + 1 :])
        return {named.get(key, key): row for key, row in rows.items()}

    def _keys_of(self, name: str, shape: Shape) -> dict[Key, Key]:
        """Return the key of each row of a table by its number."""
        if shape.generated:
            return self.identities(name)
        return {
            row[-1:]: key for key, row in table_rows(self.writer, name, shape.key, ["id"]).items()
        }

    def identities(self, table: str) -> dict[Key, Key]:
        """Return which identity each row of a table with generated keys has, by its number."""
        named: dict[Key, Key] = {
            (cell("integer", number),): (cell("blob", origin), cell("integer", birth))
            for number, origin, birth in self.rows(
                f"SELECT row, k0, k1 FROM syncd_numbers_{table} WHERE k0 IS NOT NULL AND NOT gone"
            )
        }
        own, folded = self.identity()
        for seq, number, salt, mask in self.rows(
            "SELECT j.seq, j.k0, coalesce(j.k1, 0), j.mask"
            " FROM syncd_journal AS j JOIN syncd_table AS t ON t.id = j.tbl"
            " WHERE t.name = ? AND j.seq > ? ORDER BY j.seq",
            table,
            folded,
        ):
            row = (cell("integer", number),)
            if mask & DEAD_BIT:
                named.pop(row, None)
            if mask & ALIVE_BIT:
                name = -1 - (seq << SALT_BITS | salt)
                named.setdefault(row, (cell("blob", own), cell("integer", name)))
        return named

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self.writer.execute(sql, values).fetchall()

    def identity(self) -> tuple[bytes, int]:
        """Return the origin of this file's next change, and the seq up to which it is folded."""
        ((origin, folded),) = self.rows(
            "SELECT o.id, o.seq FROM syncd_replica AS r JOIN syncd_origin AS o"
            " ON o.ordinal = r.origin"
        )
        return origin, folded

    def unfolded(self) -> int:
        """Count the writes that wait for the fold."""
        ((last,),) = self.rows("SELECT max(seq) FROM syncd_journal")
        return int(last - self.identity()[1])

    def losses(self) -> set[Loss]:
        """Return the values that the conflict log has as overwritten."""
        return set(
            self.rows(
                "SELECT c.lost_hlc, o.id, c.lost_seq, c.tbl, c.col FROM syncd_conflict AS c"
                " JOIN syncd_origin AS o ON o.ordinal = c.lost_origin"
                " WHERE c.reason = 'overwritten'"
            )
        )

    def held(self) -> set[Loss]:
        """Return the values that are held."""
        return set(
            self.rows(
                "SELECT h.hlc, o.id, h.seq, h.tbl, h.col FROM syncd_held AS h"
                " JOIN syncd_origin AS o ON o.ordinal = h.origin WHERE h.col <> ''"
            )
        )

    def random(self, purpose: str) -> bytes:
        """Return 16 bytes that nobody has had before, the same in every run."""
        self._incarnations += 1
        text = f"{self.number} {purpose} {self._incarnations}"
        return hashlib.sha256(text.encode()).digest()[:16]

    def _connect(self) -> sqlite3.Connection:
        writer = sqlite3.connect(self.path, isolation_level=None)
        writer.execute("PRAGMA synchronous = OFF")
        writer.execute(f"PRAGMA foreign_keys = {self._enforced}")
        writer.create_function("julianday", 0, self.clock.julian)
        writer.create_function("random", 0, lambda: int.from_bytes(self.random("salt")[:7]))
        return writer

    def _config(self) -> Config:
        tables = shapes.of_version(self.tables, self.knowledge.version)
        return Config.model_validate(
            {
                "node": self.node,
                "database": self.path,
                "tables": {name: shape.config for name, shape in tables.items()},
                "peers": [{"name": f"h{n}", "url": f"http://h{n}"} for n in self._peers],
                "sync": {"keys": [{"id": "k1", "secret": "x" * 40}]},
            }
        )


def open_watched(machines: dict[Path, Machine]) -> Callable[[Database], sqlite3.Connection]:
    """Return what opens the engine's connections, in place of `Database._open`."""
    opened = Database._open

    def watch(database: Database) -> sqlite3.Connection:
        watched = functools.partial(sqlite3.connect, factory=Watched)
        with mock.patch.object(sqlite3, "connect", watched):
            raw = opened(database)
        assert isinstance(raw, Watched)
        machine = machines[database.path]
        raw.create_function("julianday", 0, machine.clock.julian)
        raw.process, raw.is_main = machine.process, database.path == machine.path
        machine.process.connections.append(raw)
        return raw

    return watch
