"""The six tables: made new, or adopted from a vendor's own file."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from licence_site import Site

from api.schema import migrate, migrations
from api.store import Store

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {
    "devices": "id device_id owner_name license_type status start_date end_date allow_offline "
    "custom_interval features update_url update_hash update_version notes last_seen_at "
    "last_seen_ip last_version last_hostname created_at updated_at cpf address email created_by",
    "blocked_devices": "id device_id reason created_at",
    "access_logs": "id device_id ip user_agent hostname client_version telemetry_json allowed "
    "message created_at host",
    "license_history": "id device_id action details admin created_at host",
    "admin_users": "id username password_hash must_change_password created_at",
    "users": "id username password_hash email role created_at updated_at",
}

# A vendor's file of an early version: none of the late columns, no accounts yet.
EARLY = """
    CREATE TABLE devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL UNIQUE, owner_name TEXT,
        license_type TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'active',
        start_date TEXT NOT NULL, end_date TEXT, allow_offline INTEGER NOT NULL DEFAULT 0,
        custom_interval INTEGER, features TEXT, update_url TEXT, update_hash TEXT,
        update_version TEXT, notes TEXT, last_seen_at TEXT, last_seen_ip TEXT, last_version TEXT,
        last_hostname TEXT, created_at TEXT DEFAULT (datetime('now')),
        updated_at TEXT DEFAULT (datetime('now')), address TEXT
    );
    INSERT INTO devices (id, device_id, license_type, start_date, address)
    VALUES (506, 'loja', 'anual', '2025-06-01', 'Rua A');
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a database file that does not exist yet."""
    return tmp_path / "vendor.db"


def test_a_new_file_gets_the_six_tables(path: Path) -> None:
    """Every table has exactly the vendor's columns, and a surrogate id of its own."""
    migrate(Store(path))
    for table, columns in COLUMNS.items():
        assert _columns(path, table) == columns.split()
    assert _pragma(path, "journal_mode") == "wal"


def test_init_with_the_config_that_ships_warns_of_nothing(path: Path) -> None:
    """What the API itself puts beside a vendor's tables is no surprise to its own config."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(EARLY)
    done = subprocess.run(
        [sys.executable, "-m", "syncd", "--config", "config.yaml", "init", "--json"],
        cwd=ROOT,
        env=os.environ | {"DB_PATH": str(path), "SYNC_KEYS": "k1:" + "0123456789abcdef" * 2},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    enrolled = {row["table"]: row for row in json.loads(done.stdout)}
    assert enrolled["devices"]["rows"] == 1
    assert [warning for row in enrolled.values() for warning in row["warnings"]] == []


@pytest.mark.parametrize(
    ("insert", "error"),
    [
        ("devices (device_id, license_type) VALUES ('x', 'anual')", "start_date"),
        ("devices (device_id, start_date) VALUES ('x', '2026-01-01')", "license_type"),
        ("blocked_devices (reason) VALUES ('x')", "device_id"),
        ("access_logs (device_id, allowed) VALUES ('x', 1)", "ip"),
        ("license_history (device_id) VALUES ('x')", "action"),
        ("admin_users (username) VALUES ('x')", "password_hash"),
        ("users (password_hash) VALUES ('x')", "username"),
    ],
)
def test_the_vendors_constraints_hold(path: Path, insert: str, error: str) -> None:
    """A row without what the vendor's tables require is refused."""
    migrate(Store(path))
    with pytest.raises(sqlite3.IntegrityError, match=f"NOT NULL.*{error}"):
        _run(path, f"INSERT INTO {insert}")


@pytest.mark.parametrize(
    "insert",
    [
        "devices (device_id, license_type, start_date) VALUES ('x', 'anual', '2026-01-01')",
        "blocked_devices (device_id) VALUES ('x')",
        "admin_users (username, password_hash) VALUES ('x', '')",
        "users (username, password_hash) VALUES ('x', '')",
    ],
)
def test_natural_keys_are_unique(path: Path, insert: str) -> None:
    """A second row of the same natural key is refused."""
    migrate(Store(path))
    _run(path, f"INSERT INTO {insert}")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        _run(path, f"INSERT INTO {insert}")


def test_a_vendors_file_is_adopted_with_its_rows(path: Path) -> None:
    """Late columns are added where they lack, and nothing that was there changes."""
    _run(path, EARLY)
    migrate(Store(path))
    assert set(_columns(path, "devices")) == set(COLUMNS["devices"].split())
    row = Store(path).row("SELECT id, device_id, address, cpf, created_by FROM devices")
    assert row is not None
    assert tuple(row) == (506, "loja", "Rua A", None, None)


def test_migrating_again_changes_nothing(path: Path) -> None:
    """Every start migrates; only the first has anything to do."""
    migrate(Store(path))
    _run(path, "INSERT INTO blocked_devices (device_id) VALUES ('x')")
    before = _dump(path)
    migrate(Store(path))
    assert _dump(path) == before


def test_processes_that_start_together_migrate_once(path: Path) -> None:
    """Eight starts at once leave one migrated file, and none of them fails."""
    _run(path, EARLY)
    failures: list[BaseException] = []
    together = threading.Barrier(8)

    def start() -> None:
        try:
            together.wait()
            migrate(Store(path))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    applied = [row["name"] for row in Store(path).rows("SELECT name FROM _sqlite_migrations")]
    assert applied == [migration.name for migration in migrations._migrations]


def test_a_write_that_fails_is_undone(path: Path) -> None:
    """A transaction is whole or nothing, and the connection is free again after it."""
    store = Store(path)
    migrate(store)
    insert_x = "INSERT INTO blocked_devices (device_id) VALUES ('x')"
    with pytest.raises(sqlite3.IntegrityError), store.writing() as connection:
        connection.executemany(insert_x, [(), ()])
    with store.writing() as connection:
        connection.execute("INSERT INTO blocked_devices (device_id) VALUES ('y')")
    assert [row["device_id"] for row in store.rows("SELECT device_id FROM blocked_devices")] == [
        "y"
    ]


def test_a_writer_takes_the_lock_before_it_reads(path: Path) -> None:
    """Two threads that count up from what they read never lose a count."""
    store = Store(path)
    migrate(store)
    _run(path, "INSERT INTO blocked_devices (device_id, reason) VALUES ('x', '0')")

    def count_up() -> None:
        for _ in range(50):
            with store.writing() as connection:
                (reason,) = connection.execute("SELECT reason FROM blocked_devices").fetchone()
                connection.execute("UPDATE blocked_devices SET reason = ?", (str(int(reason) + 1),))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = store.row("SELECT reason FROM blocked_devices")
    assert row is not None
    assert row["reason"] == "200"


def test_the_hosts_tables_are_the_vendors(site: Site) -> None:
    """A host makes its tables when it starts."""
    for table, columns in COLUMNS.items():
        assert _columns(site.database, table) == columns.split()


def _columns(path: Path, table: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _pragma(path: Path, name: str) -> object:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _dump(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def _run(path: Path, statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
