"""The workload: 100,000 licence rows of eight columns with a UUID text key, always the same.

The values are drawn from a seeded generator, so that every machine works on the same bytes. Every
run has a seed of its own, because some of SQLite's costs hang on the chance order of the keys: a
statement that has triggers keeps the pages it changes in a statement journal, which goes to a file
for the rest of the transaction once a single statement changes more than 15.
"""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from syncd import Config, Replica

ROWS = 100_000
UPDATES = 50_000
SINGLE_TRANSACTIONS = 3_000

DDL = """CREATE TABLE licences (
    device_id TEXT PRIMARY KEY, owner_name TEXT, license_type TEXT, status TEXT,
    start_date TEXT, end_date TEXT, features TEXT, updated_at TEXT)"""
INSERT = "INSERT INTO licences VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
UPDATE = "UPDATE licences SET status = ? WHERE device_id = ?"

_FIRST = ("Ana", "Bruno", "Carla", "Davi", "Elisa", "Fábio", "Gabriela", "Hugo", "Iara", "João")
_LAST = ("Silva", "Souza", "Lima", "Dias", "Rocha", "Alves", "Melo", "Nunes", "Prado", "Reis")

Row = tuple[str, ...]


def rows(count: int, seed: int) -> list[Row]:
    """Return licence rows in no particular key order."""
    draw = random.Random(seed)
    made: list[Row] = []
    for _ in range(count):
        month, day, hour = draw.randint(1, 12), draw.randint(1, 28), draw.randint(0, 23)
        made.append(
            (
                str(uuid.UUID(int=draw.getrandbits(128), version=4)),
                f"{draw.choice(_FIRST)} {draw.choice(_LAST)} {draw.randint(1, 9999)}",
                draw.choice(("mensal", "trimestral", "semestral", "anual", "vitalicia")),
                draw.choice(("active", "active", "active", "blocked", "pending")),
                f"2026-{month:02d}-{day:02d}",
                f"2027-{month:02d}-{day:02d}",
                draw.choice(("core", "core,reports", "core,reports,export")),
                f"2026-{month:02d}-{day:02d} {hour:02d}:{draw.randint(0, 59):02d}:00",
            )
        )
    return made


def connect(path: Path) -> sqlite3.Connection:
    """Open a writer as an application would: WAL, synchronous NORMAL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def enrolled(path: Path) -> Replica:
    """Return a database that has the licences as a replica of them."""
    config = Config.model_validate(
        {
            "node": path.stem,
            "database": path,
            "tables": {"licences": {}},
            "sync": {"keys": [{"id": "bench", "secret": "x" * 32}]},
        }
    )
    replica = Replica(config)
    replica.enrol()
    return replica


def bulk(connection: sqlite3.Connection, sql: str, values: list[Row]) -> float:
    """Run one statement for all values in one transaction; return seconds."""

    def work() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(sql, values)
        connection.execute("COMMIT")

    return timed(work)


def singles(connection: sqlite3.Connection, values: list[Row]) -> float:
    """Insert each row in a transaction of its own; return seconds."""

    def work() -> None:
        for row in values:
            connection.execute(INSERT, row)

    return timed(work)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def empty_log(connection: sqlite3.Connection) -> None:
    """Copy a database's write-ahead log into it."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def file_bytes(connection: sqlite3.Connection, path: Path) -> int:
    """Return the size of a database once its write-ahead log is in it."""
    empty_log(connection)
    return path.stat().st_size
