"""The tables that vendors bring, and how a database gets them.

Owns the six tables, column for column, as numbered migrations that run once each. The first also
adopts a vendor's own file, whose tables exist but may lack the columns that came late. A migration
never drops or rewrites what is there, and a released one is never edited.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from api.store import Store

TABLES = (
    """
    CREATE TABLE IF NOT EXISTS devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL UNIQUE,
        owner_name TEXT,
        license_type TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'active',
        start_date TEXT NOT NULL,
        end_date TEXT,
        allow_offline INTEGER NOT NULL DEFAULT 0,
        custom_interval INTEGER,
        features TEXT,
        update_url TEXT,
        update_hash TEXT,
        update_version TEXT,
        notes TEXT,
        last_seen_at TEXT,
        last_seen_ip TEXT,
        last_version TEXT,
        last_hostname TEXT,
        created_at TEXT DEFAULT (datetime('now')),
        updated_at TEXT DEFAULT (datetime('now'))
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS blocked_devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL UNIQUE,
        reason TEXT,
        created_at TEXT DEFAULT (datetime('now'))
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS access_logs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL,
        ip TEXT NOT NULL,
        user_agent TEXT,
        hostname TEXT,
        client_version TEXT,
        telemetry_json TEXT,
        allowed INTEGER NOT NULL,
        message TEXT,
        created_at TEXT DEFAULT (datetime('now'))
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS license_history (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL,
        action TEXT NOT NULL,
        details TEXT,
        admin TEXT,
        created_at TEXT DEFAULT (datetime('now'))
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS admin_users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        username TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        must_change_password INTEGER NOT NULL DEFAULT 1,
        created_at TEXT DEFAULT (datetime('now'))
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        username TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        email TEXT,
        role TEXT NOT NULL DEFAULT 'user',
        created_at TEXT DEFAULT (datetime('now')),
        updated_at TEXT DEFAULT (datetime('now'))
    )
    """,
)
ROOT_SIGNED = """
    CREATE TABLE root_signed (
        digest TEXT NOT NULL PRIMARY KEY,
        text TEXT NOT NULL
    )
"""
ACCOUNTS = (
    """
    CREATE TABLE ended_sessions (
        session TEXT NOT NULL PRIMARY KEY,
        expires_at TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE session_epochs (
        account TEXT NOT NULL PRIMARY KEY,
        epoch TEXT NOT NULL,
        kept TEXT
    )
    """,
    # Of this host alone: it is not enrolled.
    """
    CREATE TABLE attempts (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        forget_s REAL NOT NULL
    )
    """,
    "CREATE INDEX attempts_name ON attempts (name)",
)
BLOCKS_AND_LOGS = (
    # A block is a row of its own, so that no concurrent write to the device's status, from another
    # host that does not know of the block, can take it away: only who has seen it can delete it.
    """
    CREATE TABLE blocks (
        device_id TEXT NOT NULL PRIMARY KEY,
        created_at TEXT
    )
    """,
    "INSERT INTO blocks SELECT device_id, datetime('now') FROM devices WHERE status = 'blocked'",
    # Whatever program writes the status: to block is to write it, to lift is to write it over.
    """
    CREATE TRIGGER device_inserted_blocked AFTER INSERT ON devices
    WHEN NEW.status = 'blocked' BEGIN
        INSERT INTO blocks SELECT NEW.device_id, datetime('now')
         WHERE NOT EXISTS (SELECT 1 FROM blocks WHERE device_id = NEW.device_id);
    END
    """,
    """
    CREATE TRIGGER device_blocked AFTER UPDATE OF status ON devices
    WHEN NEW.status = 'blocked' AND OLD.status <> 'blocked' BEGIN
        INSERT INTO blocks SELECT NEW.device_id, datetime('now')
         WHERE NOT EXISTS (SELECT 1 FROM blocks WHERE device_id = NEW.device_id);
    END
    """,
    """
    CREATE TRIGGER device_unblocked AFTER UPDATE OF status ON devices
    WHEN OLD.status = 'blocked' AND NEW.status <> 'blocked' BEGIN
        DELETE FROM blocks WHERE device_id = NEW.device_id;
    END
    """,
    """
    CREATE TABLE clone_flags (
        device_id TEXT NOT NULL PRIMARY KEY,
        addresses TEXT NOT NULL,
        flagged_at TEXT NOT NULL,
        host TEXT,
        reviewed_at TEXT,
        reviewed_by TEXT
    )
    """,
    "CREATE INDEX access_logs_device ON access_logs (device_id, created_at)",
    "CREATE INDEX access_logs_created ON access_logs (created_at)",
    "CREATE INDEX license_history_device ON license_history (device_id, created_at)",
    """
    CREATE TABLE notices (
        device_id TEXT NOT NULL,
        end_date TEXT NOT NULL,
        days INTEGER NOT NULL,
        claimed_by TEXT,
        claimed_at TEXT,
        outcome TEXT,
        PRIMARY KEY (device_id, end_date, days)
    )
    """,
    "CREATE TABLE mail_hosts (host TEXT NOT NULL PRIMARY KEY, seen_at TEXT NOT NULL)",
    # Of this host alone: it is not enrolled.
    "CREATE TABLE job_runs (name TEXT NOT NULL PRIMARY KEY, ran_s REAL NOT NULL)",
)
LATE_DEVICE_COLUMNS = ("cpf", "address", "email", "created_by")

migrations = Migrations("licence-api")


@migrations(name="0001_vendor_tables")
def vendor_tables(db: Database) -> None:
    """Create the six tables, or adopt those that a vendor brings."""
    for table in TABLES:
        db.execute(table)
    devices = db.table("devices")
    for column in LATE_DEVICE_COLUMNS:
        if column not in devices.columns_dict:
            devices.add_column(column, str)


@migrations(name="0002_root_signed")
def root_signed(db: Database) -> None:
    """Make room for what the vendor's root key signs: certificates, lists of revoked keys."""
    db.execute(ROOT_SIGNED)


@migrations(name="0003_accounts")
def accounts(db: Database) -> None:
    """Make room for ended sessions and counted tries, and name the host in the history."""
    for statement in ACCOUNTS:
        db.execute(statement)
    db.table("license_history").add_column("host", str)


@migrations(name="0004_blocks_and_logs")
def blocks_and_logs(db: Database) -> None:
    """Make blocks rows of their own, and let the logs of all hosts be read together."""
    db.table("access_logs").add_column("host", str)
    for statement in BLOCKS_AND_LOGS:
        db.execute(statement)


def prepare_database(path: Path, tables: Collection[str]) -> None:
    """Bring a file's tables up to date before `syncd init` enrols them, if they are this API's."""
    if "devices" in tables:
        migrate(Store(path))


def migrate(store: Store) -> None:
    """Bring the store's tables up to date; safe to call at every start, by several processes."""
    with store.writing() as connection:
        # Several processes may start at once. The write lock, taken first, makes the second see
        # what the first has applied; each migration becomes a savepoint inside it.
        migrations.apply(Database(connection, recursive_triggers=False, execute_plugins=False))
