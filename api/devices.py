"""The registered devices, as the dashboard sees and changes them.

Owns the writes to `devices` that a person orders, each with its line in `license_history`, both in
one transaction. Creating a device again neither renews nor revives it: only what the request names
changes, and never the status. It knows no request and no role; the views decide who may.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from api import licences
from api.clock import column_text
from api.history import Act
from api.store import Store, Value

_BLOCKS = """
    EXISTS (SELECT 1 FROM blocks AS b WHERE b.device_id = d.device_id) AS is_blocked,
    EXISTS (SELECT 1 FROM blocked_devices AS b WHERE b.device_id = d.device_id) AS is_barred
"""
_FOUND = f"SELECT d.*, {_BLOCKS} FROM devices AS d WHERE d.device_id = ?"
JUDGED = f"""
    SELECT d.device_id, d.license_type, d.status, d.start_date, d.end_date, d.custom_interval,
           d.features, d.update_url, d.update_hash, d.update_version, {_BLOCKS}
      FROM devices AS d WHERE d.device_id = ?
"""
_STATUS = """
    CASE WHEN EXISTS (SELECT 1 FROM blocks AS b WHERE b.device_id = devices.device_id)
         THEN 'blocked' ELSE status END AS status
"""
LISTED = (
    f"id, device_id, owner_name, cpf, email, address, license_type, {_STATUS}, start_date, "
    "end_date, custom_interval, features, last_seen_at, last_seen_ip, last_hostname, last_version, "
    "created_by"
)
DESCRIBING = ("owner_name", "cpf", "email", "address")
NAMEABLE = ("license_type", *DESCRIBING, "created_by")
LICENSE_TYPE_DEFAULT = "anual"

Device = dict[str, Value]


class NotRenewableError(Exception):
    """A licence has no period to add."""


@dataclass(frozen=True)
class Renewal:
    """Say what a licence has become. end_date: None where it never ends."""

    license_type: str
    end_date: str | None


def listing(store: Store, created_by: str | None = None) -> list[Device]:
    """Return the devices, all or those that one account created, the oldest first."""
    rows = store.rows(
        f"SELECT {LISTED} FROM devices WHERE ?1 IS NULL OR created_by = ?1 ORDER BY id", created_by
    )
    return [dict(row) for row in rows]


@contextmanager
def ordering(store: Store, act: Act) -> Iterator[Order]:
    """Open one transaction for what one person orders; an exception undoes all of it."""
    with store.writing() as connection:
        yield Order(connection, act)


class Order:
    """Change devices in the name of one person, at one moment."""

    def __init__(self, connection: sqlite3.Connection, act: Act) -> None:
        self._connection = connection
        self._act = act

    def find(self, device_id: str) -> Device | None:
        """Return a device's row, or None; a device that is blocked has that status."""
        row = self._connection.execute(_FOUND, (device_id,)).fetchone()
        if row is None:
            return None
        return dict(row) | ({"status": "blocked"} if row["is_blocked"] else {})

    def register(self, device_id: str, named: Mapping[str, str]) -> str:
        """Create a device, or change the named columns of a known one; return its licence type.

        `named` holds columns of NAMEABLE. What it leaves out has a default only where the device is
        new.
        """
        device = self.find(device_id)
        if device is None:
            device = self._new_device(device_id, named)
            self._insert(device)
            self._note(device_id, "create", str(device["license_type"]))
        elif changes := _changes(device, named):
            self._update(device_id, changes)
            self._note(device_id, "update", ", ".join(changes))
        return named.get("license_type", str(device["license_type"]))

    def renew(self, device: Device, license_type: str | None = None) -> Renewal:
        """Give a device another period, of its own type or of another one.

        The status and a block stay as they are. Raises NotRenewableError where the licence is for
        life already, or its type has no known period.
        """
        renewed = license_type or str(device["license_type"])
        if renewed not in licences.TYPES or renewed == device["license_type"] == licences.LIFETIME:
            raise NotRenewableError
        start, end = licences.next_period(renewed, self._act.at.date(), _expires(device))
        end_date = end.isoformat() if end else None
        device_id = str(device["device_id"])
        self._update(
            device_id,
            {"license_type": renewed, "start_date": start.isoformat(), "end_date": end_date},
        )
        was = f"{device['license_type']!s} {device['end_date'] or '-'!s}"
        self._note(device_id, "renew", f"{was} -> {renewed} {end_date or '-'}")
        return Renewal(renewed, end_date)

    def set(self, device_id: str, column: str, value: str) -> None:
        """Set one column of a device."""
        self._update(device_id, {column: value})
        self._note(device_id, column, value)

    def set_status(self, device_id: str, status: str) -> None:
        """Block a device, or lift its block and give it another status."""
        if status != "blocked":
            # Also where a host that did not know of the block has overwritten the status.
            self._connection.execute("DELETE FROM blocks WHERE device_id = ?", (device_id,))
        self.set(device_id, "status", status)

    def delete(self, device_id: str) -> None:
        """Remove a device; its access log, its history and its block stay."""
        self._connection.execute("DELETE FROM devices WHERE device_id = ?", (device_id,))
        self._note(device_id, "delete", None)

    def _new_device(self, device_id: str, named: Mapping[str, str]) -> Device:
        license_type = named.get("license_type", LICENSE_TYPE_DEFAULT)
        today = self._act.at.date()
        return {
            "created_by": self._act.who,
            **named,
            "device_id": device_id,
            "license_type": license_type,
            "status": "active",
            "start_date": today.isoformat(),
            "end_date": _end_date(license_type, today),
            "created_at": column_text(self._act.at),
            "updated_at": column_text(self._act.at),
        }

    def _insert(self, device: Device) -> None:
        values = ", ".join(f":{column}" for column in device)
        self._connection.execute(
            f"INSERT INTO devices ({', '.join(device)}) VALUES ({values})", device
        )

    def _update(self, device_id: str, changes: Mapping[str, Value]) -> None:
        row = {**changes, "updated_at": column_text(self._act.at)}
        assignments = ", ".join(f"{column} = :{column}" for column in row)
        self._connection.execute(
            f"UPDATE devices SET {assignments} WHERE device_id = :device_id",
            {**row, "device_id": device_id},
        )

    def _note(self, device_id: str, action: str, details: str | None) -> None:
        self._act.note(self._connection, action, details, device_id=device_id)


def _changes(device: Device, named: Mapping[str, str]) -> dict[str, Value]:
    changes: dict[str, Value] = {
        column: value for column, value in named.items() if value != device[column]
    }
    if "license_type" in changes:
        # From the first day on, not from today: another type is not a renewal.
        start = licences.day(str(device["start_date"]))
        changes["end_date"] = _end_date(named["license_type"], start)
    return changes


def _expires(device: Device) -> date | None:
    start, end = str(device["start_date"]), device["end_date"]
    try:
        return licences.last_day(str(device["license_type"]), start, str(end) if end else None)
    except ValueError:
        return None  # A date that cannot be read holds no days to keep.


def _end_date(license_type: str, start: date) -> str | None:
    end = licences.end_date(license_type, start)
    return end.isoformat() if end else None
