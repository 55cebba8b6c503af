"""Devices that seem to be in use in two places at once.

Owns the detection, from the access logs of all hosts, and the flags that come of it. A flag is for
an administrator to look at: nothing is ever blocked by it, since whoever knows a device's id could
raise one. An address counts per subscriber and per family. One client that fails over between hosts
may be seen under another address by each, so addresses that no host saw both of prove less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations, pairwise

from api.addresses import network
from api.clock import column_text
from api.history import Act
from api.store import Store, Value

WINDOW = timedelta(hours=24)
SWITCHES_MIN = 4
SWITCHES_MIN_ACROSS_HOSTS = 8
DETECTOR = "clone detection"


@dataclass(frozen=True)
class Sighting:
    """Hold where a device asked from. host: which host it asked; hostname: its own name."""

    network: str
    hostname: str | None
    host: str | None


def detect(store: Store, act: Act) -> list[str]:
    """Flag devices on whose last day of logs two places alternate; return their ids."""
    since = column_text(act.at - WINDOW)
    candidates = store.rows(
        """
        SELECT l.device_id, max(f.reviewed_at) AS reviewed_at
          FROM access_logs AS l LEFT JOIN clone_flags AS f ON f.device_id = l.device_id
         WHERE l.created_at >= ?1 AND l.created_at > coalesce(f.reviewed_at, '')
           AND (f.device_id IS NULL OR f.reviewed_at IS NOT NULL)
         GROUP BY l.device_id HAVING count(DISTINCT l.ip) > 1
        """,
        since,
    )
    flagged = []
    for row in candidates:
        after = max(since, row["reviewed_at"] or "")
        places = two_places(_sightings(store, row["device_id"], after))
        if places:
            _flag(store, act, row["device_id"], places)
            flagged.append(row["device_id"])
    return flagged


def two_places(sightings: Sequence[Sighting]) -> tuple[str, str] | None:
    """Return two networks that alternate too often for one machine, or None.

    sightings: in the order of time.
    """
    by_network: dict[str, list[Sighting]] = defaultdict(list)
    for one in sightings:
        by_network[one.network].append(one)
    for first, second in combinations(by_network, 2):
        if (":" in first) != (":" in second):
            continue
        order = [one.network for one in sightings if one.network in (first, second)]
        switches = sum(before != after for before, after in pairwise(order))
        if switches >= _switches_min(by_network[first], by_network[second]):
            return first, second
    return None


def open_flags(store: Store) -> list[dict[str, Value]]:
    """Return the flags that nobody has reviewed, the newest first."""
    rows = store.rows(
        """
        SELECT device_id, addresses, flagged_at, host FROM clone_flags
         WHERE reviewed_at IS NULL ORDER BY flagged_at DESC, device_id
        """
    )
    return [dict(row) for row in rows]


def review(store: Store, act: Act, device_id: str) -> bool:
    """Close a flag; False where there is none. Only later evidence raises it again."""
    with store.writing() as connection:
        closed = connection.execute(
            """
            UPDATE clone_flags SET reviewed_at = ?, reviewed_by = ?
             WHERE device_id = ? AND reviewed_at IS NULL
            """,
            (column_text(act.at), act.who, device_id),
        )
        if closed.rowcount:
            act.note(connection, "clone.review", device_id=device_id)
    return bool(closed.rowcount)


def _switches_min(first: Sequence[Sighting], second: Sequence[Sighting]) -> int:
    hosts = [{one.host for one in side} for side in (first, second)]
    names = [{one.hostname for one in side if one.hostname} for side in (first, second)]
    is_plain = hosts[0] & hosts[1] or (all(names) and not names[0] & names[1])
    return SWITCHES_MIN if is_plain else SWITCHES_MIN_ACROSS_HOSTS


def _sightings(store: Store, device_id: str, after: str) -> list[Sighting]:
    rows = store.rows(
        """
        SELECT ip, hostname, host FROM access_logs
         WHERE device_id = ? AND created_at > ? ORDER BY created_at, host, id
        """,
        device_id,
        after,
    )
    return [Sighting(network(row["ip"]), row["hostname"], row["host"]) for row in rows]


def _flag(store: Store, act: Act, device_id: str, places: Sequence[str]) -> None:
    addresses = ", ".join(places)
    with store.writing() as connection:
        connection.execute(
            """
            INSERT INTO clone_flags (device_id, addresses, flagged_at, host) VALUES (?, ?, ?, ?)
            ON CONFLICT (device_id) DO UPDATE
               SET addresses = excluded.addresses, flagged_at = excluded.flagged_at,
                   host = excluded.host, reviewed_at = NULL, reviewed_by = NULL
            """,
            (device_id, addresses, column_text(act.at), act.host),
        )
        act.note(connection, "clone.flag", addresses, device_id=device_id)
