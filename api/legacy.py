"""Merging a second database of a vendor's into this host's.

Owns what of such a file is taken. Rows are matched by their natural keys. A licence that is here is
neither renewed nor revived: of its row only what is empty here is filled in, and a block in the
file blocks. A device that was deleted here stays deleted. Logs are added, each line once however
often the file is merged. All of it is one transaction, and the file itself is only read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from api.devices import DESCRIBING
from api.history import Act
from api.store import Store

KEYS = {
    "devices": "device_id",
    "blocked_devices": "device_id",
    "admin_users": "username",
    "users": "username",
}
LOGS = ("access_logs", "license_history")
FILLED = (*DESCRIBING, "notes", "created_by")
COMPARED = ("license_type", "status", "start_date", "end_date")


class NotLegacyError(Exception):
    """The file is not a vendor's database."""


@dataclass(frozen=True)
class Difference:
    """Hold a value of a licence that the file has otherwise; the one here is kept."""

    device_id: str
    column: str
    here: str | None
    file: str | None


@dataclass
class Report:
    """Count what was taken. new: rows by table; blocked and skipped: device ids."""

    new: dict[str, int] = field(default_factory=dict)
    there: dict[str, int] = field(default_factory=dict)
    filled: int = 0
    blocked: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


def merge_file(
    store: Store,
    act: Act,
    file: Path,
    *,
    dry_run: bool,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Merge a file and report; raises NotLegacyError. progress: told of each table in turn."""
    with store.attached(file, "legacy") as connection:
        tables = _tables(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            report = Report()
            for table in tables:
                progress(table)
                _merge_table(connection, table, report)
            act.note(connection, "import", f"{file.name}: {report.new.get('devices', 0)} devices")
            connection.execute("ROLLBACK" if dry_run else "COMMIT")
        except BaseException:
            connection.rollback()
            raise
    return report


def _tables(connection: sqlite3.Connection) -> list[str]:
    try:
        rows = connection.execute("SELECT name FROM legacy.sqlite_schema WHERE type = 'table'")
        present = {name for (name,) in rows}
    except sqlite3.DatabaseError as error:
        raise NotLegacyError(f"not a SQLite database: {error}") from error
    if "devices" not in present:
        raise NotLegacyError("not a licence database: it has no table devices")
    return [table for table in (*KEYS, *LOGS) if table in present]


def _merge_table(connection: sqlite3.Connection, table: str, report: Report) -> None:
    if table == "devices":
        _merge_known_devices(connection, report)
    columns = _common_columns(connection, table)
    names = ", ".join(columns)
    known = _known(table, columns)
    (report.there[table],) = connection.execute(
        f"SELECT count(*) FROM legacy.{table} AS l WHERE {known}"
    ).fetchone()
    report.new[table] = connection.execute(
        f"INSERT INTO main.{table} ({names}) SELECT {names} FROM legacy.{table} AS l"
        f" WHERE NOT ({known}) AND NOT ({_is_gone(table)}) ORDER BY l.id"
    ).rowcount


def _known(table: str, columns: Sequence[str]) -> str:
    """Return the condition that a row of the file is here already."""
    # A log has no natural key: a line is the same if all of it is.
    compared = [KEYS[table]] if table in KEYS else columns
    same = " AND ".join(f"m.{column} IS l.{column}" for column in compared)
    return f"EXISTS (SELECT 1 FROM main.{table} AS m WHERE {same})"


def _is_gone(table: str) -> str:
    """Return the condition that a row of the file was deleted here."""
    if table != "devices":
        return "false"
    return (
        "EXISTS (SELECT 1 FROM main.license_history AS h"
        " WHERE h.device_id = l.device_id AND h.action = 'delete')"
    )


def _merge_known_devices(connection: sqlite3.Connection, report: Report) -> None:
    columns = _common_columns(connection, "devices")
    both = "FROM main.devices AS m JOIN legacy.devices AS l ON l.device_id = m.device_id"
    is_blocked = "EXISTS (SELECT 1 FROM main.blocks AS b WHERE b.device_id = m.device_id)"
    for column in COMPARED:
        report.differences += [
            Difference(*row)
            for row in connection.execute(
                f"SELECT m.device_id, '{column}', m.{column}, l.{column} {both}"
                f" WHERE m.{column} IS NOT l.{column} ORDER BY m.device_id"
            )
        ]
    report.skipped = _ids(
        connection,
        "SELECT l.device_id FROM legacy.devices AS l WHERE NOT EXISTS"
        " (SELECT 1 FROM main.devices AS m WHERE m.device_id = l.device_id)"
        f" AND {_is_gone('devices')}",
    )
    report.blocked = _ids(
        connection,
        f"SELECT m.device_id {both} WHERE l.status = 'blocked' AND NOT {is_blocked}",
    )
    connection.executemany(
        "UPDATE main.devices SET status = 'blocked' WHERE device_id = ?",
        [(device_id,) for device_id in report.blocked],
    )
    for column in (column for column in FILLED if column in columns):
        report.filled += connection.execute(
            f"UPDATE main.devices AS m SET {column} = l.{column} FROM legacy.devices AS l"
            f" WHERE l.device_id = m.device_id AND coalesce(m.{column}, '') = ''"
            f" AND coalesce(l.{column}, '') <> ''"
        ).rowcount


def _ids(connection: sqlite3.Connection, sql: str) -> list[str]:
    return [row[0] for row in connection.execute(f"{sql} ORDER BY 1")]


def _common_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns that both have, but for the id, which is each file's own."""

    def columns(schema: str) -> list[str]:
        return [row["name"] for row in connection.execute(f"PRAGMA {schema}.table_info({table})")]

    theirs = columns("legacy")
    return [column for column in columns("main") if column in theirs and column != "id"]
