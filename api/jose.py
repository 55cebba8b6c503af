"""Keys and signatures in the forms of JOSE: JWK (RFC 7517) and compact JWS (RFC 7515).

Owns the one algorithm in use, ES256, which clients can check with what Windows brings along, and
the three kinds of text that are signed with it, told apart by the header's `typ`: a host's token, a
host's certificate, the list of revoked keys. It knows no setting, no database and no clock.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.util import json_b64encode, urlsafe_b64encode

ALGORITHM = "ES256"
CURVE = "P-256"
TOKEN = "JWT"  # noqa: S105  (the type of a token, none itself)
CERTIFICATE = "host-key"
REVOCATIONS = "revoked-keys"

Claims = dict[str, Any]
Key = ECKey


class _Registry(jws.JWSRegistry):
    # A token's header carries a whole certificate, which the library's bound has no room for.
    max_header_length = 4096


_REGISTRY = _Registry(algorithms=[ALGORITHM], strict_check_header=False)


class BadSignedTextError(ValueError):
    """A text that is not what it should be: malformed, or not signed by the key it must be."""


@dataclass(frozen=True)
class HostKey:
    """Hold what a host signs with. certificate: the root's word for it; host: whom it names."""

    key: ECKey
    certificate: str
    host: str

    @functools.cached_property
    def kid(self) -> str:
        """Return the key's id."""
        return kid_of(self.key)

    @functools.cached_property
    def signer(self) -> Signer:
        """Return what signs this host's tokens."""
        return Signer(TOKEN, self.key, self.kid, cert=self.certificate)


def generate() -> ECKey:
    """Return a new private key. Its id does not begin like an option, as it stands in commands."""
    key = ECKey.generate_key(CURVE, private=True)
    return generate() if kid_of(key).startswith("-") else key


def kid_of(key: ECKey) -> str:
    """Return a key's id: the base64url SHA-256 thumbprint of RFC 7638."""
    return key.thumbprint()


def public_jwk(key: ECKey) -> dict[str, str]:
    """Return the public part: kty, crv, x and y."""
    jwk = key.as_dict(private=False)
    return {name: str(jwk[name]) for name in ("kty", "crv", "x", "y")}


def private_jwk(key: ECKey) -> dict[str, str]:
    """Return the whole key: the public part and d."""
    return public_jwk(key) | {"d": str(key.as_dict(private=True)["d"])}


def read_key(jwk: object) -> ECKey:
    """Return the key of a JWK, a mapping or its JSON text; raises ValueError."""
    try:
        fields = json.loads(jwk) if isinstance(jwk, str) else jwk
        if not isinstance(fields, Mapping) or fields.get("crv") != CURVE:
            raise ValueError
        names = [name for name in ("kty", "crv", "x", "y", "d") if name in fields]
        key = ECKey.import_key({name: str(fields[name]) for name in names})
        key.raw_value  # noqa: B018  (a point that is not on the curve is found only here)
    except (ValueError, KeyError, JoseError):
        # Without the cause, which may quote the key.
        raise ValueError(f"not a {CURVE} key as JSON (JWK)") from None
    return key


class Signer:
    """Signs with one key under one header, which is encoded once."""

    def __init__(self, typ: str, key: ECKey, kid: str, **header: str) -> None:
        self._key = key
        self._header = json_b64encode({"alg": ALGORITHM, "typ": typ, "kid": kid, **header})

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return claims as a compact JWS."""
        payload = urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode())
        signed = self._header + b"." + payload
        signature = urlsafe_b64encode(_REGISTRY.get_alg(ALGORITHM).sign(signed, self._key))
        return (signed + b"." + signature).decode()


def sign(claims: Mapping[str, Any], typ: str, key: ECKey, kid: str) -> str:
    """Return claims as a compact JWS."""
    return Signer(typ, key, kid).sign(claims)


def verify(text: str, typ: str, key: ECKey) -> Claims:
    """Return the claims of a compact JWS of a kind; raises BadSignedTextError."""
    if typ_of(text) != typ:
        raise BadSignedTextError(f"not a text of type {typ}")
    try:
        claims = json.loads(jws.deserialize_compact(text, key, registry=_REGISTRY).payload)
    except (JoseError, ValueError) as error:
        raise BadSignedTextError("not signed by the key that it must be signed by") from error
    if not isinstance(claims, dict):
        raise BadSignedTextError("the claims are no JSON object")
    return claims


def typ_of(text: str) -> str | None:
    """Return what a compact JWS says that it is, unverified; raises BadSignedTextError."""
    try:
        header = jws.extract_compact(text.encode(), registry=_REGISTRY).headers()
    except (JoseError, ValueError) as error:
        raise BadSignedTextError("not a compact JWS") from error
    return header.get("typ")


def certify(root: ECKey, key: ECKey, host: str, issued_s: int) -> str:
    """Return the root's certificate for a host's key."""
    claims = {"kid": kid_of(key), "iss": host, "jwk": public_jwk(key), "iat": issued_s}
    return sign(claims, CERTIFICATE, root, kid_of(root))


def read_host_key(jwk: object, root: ECKey) -> HostKey:
    """Return a host's key, a private JWK with `cert` in it; raises ValueError."""
    key = read_key(jwk)
    fields = json.loads(jwk) if isinstance(jwk, str) else jwk
    certificate = str(fields.get("cert", "")) if isinstance(fields, Mapping) else ""
    if not key.is_private or not certificate:
        raise ValueError("it needs its private part d and its certificate cert")
    claims = verify(certificate, CERTIFICATE, root)
    if claims.get("kid") != kid_of(key):
        raise ValueError("its certificate is that of another key")
    return HostKey(key, certificate, str(claims.get("iss")))
