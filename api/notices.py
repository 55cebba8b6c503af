"""Notices that a licence ends: by mail, three, two and one days before.

Owns who is told when, and that the cluster tells it once. No host leads. For each notice the hosts
that send mail have an order that all of them compute alike; the first sends at once, the next one
only an hour later and if nobody has said that it did. Who sends says so in a synced table, before
and after. A host that may be behind waits; one that is cut off for six hours sends all the same,
because a notice that comes twice is better than none. docs/api.md has the reasons.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from api.clock import column_text
from api.host import Host
from api.licences import Licence
from api.mail import MailError
from api.store import Store

DAYS_BEFORE = (3, 2, 1)
FROM_HOUR_UTC = 12
TURN = timedelta(hours=1)
CUT_OFF = timedelta(hours=6)
CLAIM_LASTS = timedelta(minutes=30)
HOST_LASTS = timedelta(hours=3)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Name one notice: of a device, of its last day, a number of days before."""

    device_id: str
    owner: str
    email: str
    ends: date
    days: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Return what identifies it on every host."""
        return self.device_id, self.ends.isoformat(), self.days

    @property
    def digest(self) -> str:
        """Return a text that is the same for this notice everywhere."""
        return hashlib.sha256("|".join(map(str, self.key)).encode()).hexdigest()[:32]


def send_due(here: Host) -> int:
    """Send what is this host's to send now; return how many were taken by the mail server."""
    if not here.mailer.is_enabled:
        return 0
    now = here.clock()
    _say_here(here, now)
    since = now - datetime.combine(now.date(), time(FROM_HOUR_UTC), UTC)
    if since < timedelta(0) or (since < CUT_OFF and not here.freshness.ensure()):
        return 0
    hosts = _hosts(here.store, now)
    sent = 0
    for notice in list(_due(here.store, now.date())):
        order = sorted(hosts, key=lambda host: _rank(notice, host))
        if since >= order.index(here.node) * TURN and _claim(here, notice, now):
            sent += _send(here, notice)
    return sent


def _due(store: Store, today: date) -> Iterator[Notice]:
    last = today + timedelta(days=max(DAYS_BEFORE))
    rows = store.rows(
        """
        SELECT d.*, 0 AS is_blocked FROM devices AS d
         WHERE status = 'active' AND coalesce(email, '') <> ''
           AND (end_date IS NULL OR substr(end_date, 1, 10) BETWEEN ?1 AND ?2)
           AND NOT EXISTS (SELECT 1 FROM blocks AS b WHERE b.device_id = d.device_id)
           AND NOT EXISTS (SELECT 1 FROM blocked_devices AS b WHERE b.device_id = d.device_id)
         ORDER BY device_id
        """,
        today.isoformat(),
        last.isoformat(),
    )
    for row in rows:
        ends = _last_day(row)
        if ends and (ends - today).days in DAYS_BEFORE:
            owner = row["owner_name"] or row["device_id"]
            yield Notice(row["device_id"], owner, row["email"].strip(), ends, (ends - today).days)


def _last_day(row: sqlite3.Row) -> date | None:
    """Return a licence's last day, None where it has none or an imported date is no date."""
    try:
        return Licence.of_row(dict(row)).expires
    except ValueError as error:
        log.error("device %s gets no notices: %s", row["device_id"], error)
        return None


def _claim(here: Host, notice: Notice, now: datetime) -> bool:
    """Say in the table that this host sends a notice; False where it has been dealt with."""
    with here.store.writing() as connection:
        claimed = connection.execute(
            """
            INSERT INTO notices (device_id, end_date, days, claimed_by, claimed_at)
            VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (device_id, end_date, days) DO UPDATE
               SET claimed_by = excluded.claimed_by, claimed_at = excluded.claimed_at
             WHERE outcome IS NULL AND claimed_at < ?6
            """,
            (*notice.key, here.node, column_text(now), column_text(now - CLAIM_LASTS)),
        )
    return claimed.rowcount == 1


def _send(here: Host, notice: Notice) -> bool:
    try:
        here.mailer.send(notice.email, _subject(notice), _text(notice), message_id=notice.digest)
        outcome = "sent"
    except MailError as error:
        log.error("notice for device %s was not sent: %s", notice.device_id, error)
        if not error.is_final:
            return False  # the claim ends, and whoever's turn it is tries again
        outcome = "refused"
    with here.store.writing() as connection:
        connection.execute(
            "UPDATE notices SET outcome = ? WHERE device_id = ? AND end_date = ? AND days = ?",
            (outcome, *notice.key),
        )
    return outcome == "sent"


def _say_here(here: Host, now: datetime) -> None:
    """Tell the other hosts that this one sends mail."""
    with here.store.writing() as connection:
        connection.execute(
            """
            INSERT INTO mail_hosts (host, seen_at) VALUES (?, ?)
            ON CONFLICT (host) DO UPDATE SET seen_at = excluded.seen_at
            """,
            (here.node, column_text(now)),
        )


def _hosts(store: Store, now: datetime) -> list[str]:
    rows = store.rows(
        "SELECT host FROM mail_hosts WHERE seen_at >= ?", column_text(now - HOST_LASTS)
    )
    return [row["host"] for row in rows]


def _rank(notice: Notice, host: str) -> str:
    """Order hosts for a notice (rendezvous hashing): alike everywhere, and fair."""
    return hashlib.sha256(f"{host}|{notice.digest}".encode()).hexdigest()


def _subject(notice: Notice) -> str:
    return f"Sua licença expira em {_in_days(notice)}"


def _text(notice: Notice) -> str:
    return (
        f"Olá, {notice.owner}.\n\n"
        f"A licença do dispositivo {notice.device_id} expira em {_in_days(notice)}, "
        f"no dia {notice.ends:%d/%m/%Y}.\n"
        "Renove-a para continuar usando o sistema.\n"
    )


def _in_days(notice: Notice) -> str:
    return "1 dia" if notice.days == 1 else f"{notice.days} dias"
