"""News travels at once: hosts whose rounds are a minute apart, and a write that does not wait."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import pytest

from processes.live_hosts import Cluster, LiveHost, eventually

pytestmark = pytest.mark.processes

INTERVAL_S = 60
WITHIN_S = INTERVAL_S / 3


def has_synced(host: LiveHost, peer: str) -> bool:
    """Say whether a host has been in step with a peer."""
    return host.status_of(peer)["success_ms"] is not None


def shows(host: LiveHost, device: str) -> bool:
    """Say whether a host has a licence."""
    return device in host.device_ids()


def test_a_write_shows_long_before_the_next_round(tmp_path: Path) -> None:
    """To a peer that is nudged, and from there to a host that only pulls and waits for it."""
    cluster = Cluster(tmp_path, ("host-a", "host-b", "host-c"))
    a, b, c = cluster.hosts.values()
    for host in (a, b, c):
        host.env["SYNC_INTERVAL"] = f"{INTERVAL_S}s"
    # Nobody knows c, and c knows b alone.
    a.env["SYNC_PEERS"] = f"host-b={cluster.links['host-a', 'host-b'].url}"
    b.env["SYNC_PEERS"] = f"host-a={cluster.links['host-b', 'host-a'].url}"
    c.env["SYNC_PEERS"] = f"host-b={cluster.links['host-c', 'host-b'].url}"
    try:
        cluster.start()
        for host, peer in ((a, "host-b"), (b, "host-a"), (c, "host-b")):
            eventually(functools.partial(has_synced, host, peer), WITHIN_S, host.log)
        for number in range(3):
            device = f"written-at-once-{number}"
            started = time.monotonic()
            a.shell(
                "INSERT INTO devices (device_id, license_type, status, start_date)"
                f" VALUES ('{device}', 'anual', 'active', '2026-01-01')"
            )
            for host in (b, c):
                eventually(functools.partial(shows, host, device), WITHIN_S, host.log)
            assert time.monotonic() - started < WITHIN_S
    finally:
        cluster.destroy()
