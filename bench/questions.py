"""What a client asks: signed questions to /verify, each about another device."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlencode

from api.tokens import request_signature
from bench.hosts import Host

VERSION = "2.1.0"


def questions(host: Host, count: int) -> Iterator[str]:
    """Yield the paths of questions about a host's devices."""
    secret, ts = host.environment["SHARED_SECRET"], datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    for device_id in host.device_ids(count):
        query = {
            "id": device_id,
            "version": VERSION,
            "ts": ts,
            "sig": request_signature(device_id, VERSION, ts, secret),
            "api_key": host.environment["API_KEY"],
            "hostname": "BALCAO-01",
            "username": "caixa",
            "osbuild": "10.0.19045",
            "ram_total": "8192",
        }
        yield f"/verify?{urlencode(query)}"
