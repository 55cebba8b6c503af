"""Where a request comes from: proxies that are believed, and what counts as one address.

Owns the reading of X-Forwarded-For. A header is believed only as far as it was written by proxies
that the operator named, so a stranger who sends one is known by the connection's address.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Network = IPv4Network | IPv6Network

SUBSCRIBER_BITS = 64
"""What one subscriber of IPv6 is given at least (RFC 6177); addresses inside it change at will."""


class TrustedProxies:
    """Set REMOTE_ADDR to the nearest address that is no trusted proxy's."""

    def __init__(self, app: WSGIApplication, proxies: Sequence[Network]) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        while self._is_trusted(environ.get("REMOTE_ADDR", "")) and forwarded:
            address = forwarded.pop().strip()
            if _parsed(address) is None:
                break  # whoever wrote this, the last proxy that we believe is all we know
            environ["REMOTE_ADDR"] = address
        return self._app(environ, start_response)

    def _is_trusted(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in proxies for proxies in self._proxies)


def network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, SUBSCRIBER_BITS), strict=False))
    return str(parsed) if parsed else address


@functools.lru_cache(maxsize=4096)
def _parsed(address: str) -> object:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
