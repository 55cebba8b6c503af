"""Whose address counts: the connection's, and behind named proxies the one they saw."""

from __future__ import annotations

import pytest
from licence_site import MakeSite

from api.addresses import network

CLIENT, PROXY, OTHER_PROXY = "203.0.113.9", "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize(
    ("connection", "forwarded", "seen"),
    [
        (CLIENT, None, CLIENT),
        (CLIENT, "198.51.100.7", CLIENT),
        (PROXY, CLIENT, CLIENT),
        (PROXY, f"198.51.100.7, {CLIENT}", CLIENT),
        (PROXY, f"{CLIENT}, {OTHER_PROXY}", CLIENT),
        (PROXY, f"198.51.100.7, {CLIENT}, {OTHER_PROXY}", CLIENT),
        (PROXY, "nonsense", PROXY),
        (PROXY, f"nonsense, {OTHER_PROXY}", OTHER_PROXY),
        (PROXY, "", PROXY),
        (PROXY, None, PROXY),
        ("::ffff:10.0.0.1", CLIENT, CLIENT),
    ],
)
def test_only_what_named_proxies_wrote_is_believed(
    make_site: MakeSite, connection: str, forwarded: str | None, seen: str
) -> None:
    """The nearest address that no named proxy has is the client's; the rest is hearsay."""
    site = make_site({"trusted_proxies": ["10.0.0.0/8"]})
    addresses: list[str | None] = []

    def note() -> None:
        from flask import request

        addresses.append(request.remote_addr)

    site.app.before_request(note)
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    site.get("/health", headers=headers, environ_overrides={"REMOTE_ADDR": connection})
    assert addresses == [seen]


def test_one_subscriber_is_one_address() -> None:
    """Addresses inside a /64 are one, an IPv4 address is one however it is written."""
    assert network("2001:db8::1") == network("2001:db8::2:3:4:5") != network("2001:db8:0:1::1")
    assert network("::ffff:203.0.113.9") == network("203.0.113.9") != network("203.0.113.8")
