"""What a licence is, and what it allows on a given day.

Owns the licence types with their periods, the computing of an end date, and the verdict of
GET /verify. Pure: values in, values out; no database, no request, no clock. Dates are compared as
dates, never as text, since databases hold them with and without a time of day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from dateutil.relativedelta import relativedelta

LIFETIME = "vitalicia"
PERIODS = {
    "mensal": relativedelta(months=1),
    "trimestral": relativedelta(months=3),
    "semestral": relativedelta(months=6),
    "anual": relativedelta(years=1),
    "trianual": relativedelta(years=3),
}
TYPES = frozenset(PERIODS) | {LIFETIME}

INTERVAL_MINUTES = 30
INTERVAL_MINUTES_MIN = 15


@dataclass(frozen=True)
class Verdict:
    """Say whether a device may run today, why, and the client's words for it.

    status: active, expired, blocked, pending or unknown.
    """

    allow: bool
    status: str
    message: str


UNKNOWN = Verdict(False, "unknown", "ID não registrado.")
BARRED = Verdict(False, "blocked", "Este dispositivo está bloqueado.")


@dataclass(frozen=True)
class Licence:
    """Hold what a device's row says about its licence."""

    device_id: str
    license_type: str
    status: str
    expires: date | None
    interval: int
    features: tuple[str, ...]
    update: Mapping[str, str] | None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Licence:
        """Read a row of `devices` with `is_blocked` (devices.JUDGED).

        Raises ValueError where a date cannot be read.
        """
        return cls(
            device_id=row["device_id"],
            license_type=row["license_type"],
            status="blocked" if row["is_blocked"] else row["status"],
            expires=last_day(row["license_type"], row["start_date"], row["end_date"]),
            interval=_interval(row["custom_interval"]),
            features=_features(row["features"]),
            update=_update(row),
        )

    def verdict(self, today: date) -> Verdict:
        """Judge the licence; the last day of a licence still counts."""
        if self.status == "blocked":
            return Verdict(False, "blocked", "Licença bloqueada.")
        if self.expires is not None and today > self.expires:
            return Verdict(False, "expired", f"Licença expirada em {self.expires:%d/%m/%Y}")
        if self.status == "pending":
            return Verdict(False, "pending", "Licença aguardando aprovação.")
        return Verdict(True, "active", "Licença ativa.")


def end_date(license_type: str, start: date) -> date | None:
    """Return a licence's last day, clamped to the month's end; None where it has no known period.

    A vendor's file may hold types of its own. They have no period here, so they do not end.
    """
    period = PERIODS.get(license_type)
    return None if period is None else start + period


def next_period(license_type: str, today: date, expires: date | None) -> tuple[date, date | None]:
    """Return the first and the last day of a renewed licence; the last is None where it never ends.

    Days that are paid for are kept: the period begins where a licence that still runs would end.
    """
    start = max(today, expires) if expires else today
    return start, end_date(license_type, start)


def day(text: str) -> date:
    """Return the day of `YYYY-MM-DD` or, as older files have it, of `DD/MM/YYYY`.

    A time may follow. Raises ValueError for anything else.
    """
    if "/" in text:
        return datetime.strptime(text[:10], "%d/%m/%Y").replace(tzinfo=UTC).date()
    return date.fromisoformat(text[:10])


def last_day(license_type: str, start: str, end: str | None) -> date | None:
    """Return the last day of a row of `devices`, None where it never ends; raises ValueError."""
    if license_type == LIFETIME:
        return None
    return day(end) if end else end_date(license_type, day(start))


def _interval(custom: object) -> int:
    # SQLite columns are not typed: an imported file may hold '' here.
    if not isinstance(custom, int) or custom <= 0:
        return INTERVAL_MINUTES
    return max(INTERVAL_MINUTES_MIN, custom)


def _features(csv: str | None) -> tuple[str, ...]:
    names = (name.strip() for name in (csv or "").split(","))
    return tuple(name for name in names if name) or ("core",)


def _update(row: Mapping[str, Any]) -> Mapping[str, str] | None:
    if not row["update_url"]:
        return None
    return {
        "sha256": row["update_hash"] or "",
        "url": row["update_url"],
        "version": row["update_version"] or "",
    }
