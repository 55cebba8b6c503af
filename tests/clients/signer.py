"""A vendor's keys, and hosts that sign with them: what the API signs, and what it never would.

Owns real ES256 signatures over whatever claims a test wants, made with `cryptography` alone, so
that neither the clients' nor the API's own code vouches for them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Claims = Mapping[str, Any]
WEEK_S = 7 * 86_400


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(claims: Claims) -> str:
    """Return a header or a payload as it stands in a compact JWS."""
    return b64(json.dumps(claims, ensure_ascii=False, separators=(",", ":")).encode())


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Key:
    """A P-256 key with a name."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(default_factory=_new_key, repr=False)

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.private.public_key().public_numbers()
        x, y = (b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y}

    def sign(self, header: Claims, claims: Claims) -> str:
        """Return a compact JWS, its algorithm ES256 unless the header says otherwise."""
        text = f"{part({'alg': 'ES256', 'kid': self.kid, **header})}.{part(claims)}"
        return f"{text}.{b64(self.signature(text))}"

    def signature(self, text: str) -> bytes:
        """Return r and s of 32 bytes each."""
        r, s = decode_dss_signature(self.der(text))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def der(self, text: str) -> bytes:
        """Return the same in the form that X.509 uses, which is not that of a JWS."""
        return self.private.sign(text.encode(), ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True)
class Vendor:
    """The root key: it certifies hosts and revokes their keys."""

    root: Key = field(default_factory=lambda: Key("root"))

    def certificate(self, key: Key, host: str, typ: str = "host-key") -> str:
        claims = {"kid": key.kid, "iss": host, "jwk": key.jwk, "iat": 1_700_000_000}
        return self.root.sign({"typ": typ}, claims)

    def host(self, name: str) -> Signer:
        """Make a host's key and certify it."""
        key = Key(f"key-of-{name}")
        return Signer(name, key, self.certificate(key, name))

    def revoked(self, *kids: str, issued: int) -> str:
        """Return the list of revoked keys."""
        return self.root.sign({"typ": "revoked-keys"}, {"iat": issued, "kids": list(kids)})


@dataclass(frozen=True)
class Signer:
    """A host's certified key."""

    name: str
    key: Key
    certificate: str

    def claims(self, device_id: str, nonce: str, issued: float, **changed: Any) -> dict[str, Any]:
        """Return what a host says of an active yearly licence, with changes."""
        claims: dict[str, Any] = {
            "iss": self.name,
            "sub": device_id,
            "allow": True,
            "status": "active",
            "features": ["core", "relatórios"],
            "license_type": "anual",
            "license_expires_at": "2099-12-31",
            "iat": int(issued),
            "grace": WEEK_S,
            "exp": int(issued) + WEEK_S,
            "nonce": nonce,
        }
        return claims | changed

    def token(self, claims: Claims, **header: Any) -> str:
        """Return a token over claims, with changes to its header."""
        return self.key.sign({"typ": "JWT", "cert": self.certificate, **header}, claims)
