"""What a licence host signs, and what the root key says about the host.

Owns the checks of a token that need neither a network nor a clock: signatures, types, the chain
from the pinned root key to the host's key, revocation, the device. Every failure is a
BadTokenError whose text may be shown and logged. What is no compact JWS by ES256 is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey


class BadTokenError(Exception):
    """A signed text that must not be believed, and why."""


class _Registry(jws.JWSRegistry):
    # A token's header carries a whole certificate, for which the library's bound has no room.
    max_header_length = 4096


_REGISTRY = _Registry(algorithms=["ES256"], strict_check_header=False)


@dataclass(frozen=True)
class RootKey:
    """Pin the vendor's root key: x and y of its public JWK (P-256), as base64url.

    Raises ValueError where these are no such key.
    """

    x: str
    y: str

    def __post_init__(self) -> None:
        _key({"x": self.x, "y": self.y})


@dataclass(frozen=True)
class Token:
    """Hold the claims of a host's token whose signatures hold. Times are seconds since 1970."""

    allow: bool
    nonce: str
    features: tuple[str, ...]
    issued: int
    last_moment: int


def open_token(text: str, root: RootKey, device_id: str, revoked: frozenset[str]) -> Token:
    """Return what a certified host says about this device; raises BadTokenError."""
    header = _header(text)
    certificate = _open(_text(header, "cert"), "host-key", _key({"x": root.x, "y": root.y}))
    kid = _text(certificate, "kid")
    if not kid or header.get("kid") != kid:
        raise BadTokenError("a chave do token não é a do certificado")
    if kid in revoked:
        raise BadTokenError("a chave do servidor foi revogada")
    claims = _open(text, "JWT", _certified_key(certificate))
    if claims.get("iss") != certificate.get("iss"):
        raise BadTokenError("o servidor do token não é o do certificado")
    if claims.get("sub") != device_id:
        raise BadTokenError("token de outra máquina")
    return Token(
        allow=claims.get("allow") is True,
        nonce=_text(claims, "nonce"),
        features=_texts(claims, "features"),
        issued=_integer(claims, "iat"),
        last_moment=_last_moment(claims),
    )


@dataclass(frozen=True)
class Revocations:
    """Hold the root's list of revoked keys. issued: seconds since 1970, -1 without a list."""

    issued: int = -1
    kids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, text: str, root: RootKey) -> Revocations:
        """Read a list; one that the root did not sign is no list."""
        try:
            claims = _open(text, "revoked-keys", _key({"x": root.x, "y": root.y}))
            return cls(_integer(claims, "iat"), frozenset(_texts(claims, "kids")))
        except BadTokenError:
            return cls()


def _last_moment(claims: Mapping[str, Any]) -> int:
    """The licence's last day is whole, in UTC as the hosts count it."""
    last = min(_integer(claims, "iat") + _integer(claims, "grace"), _integer(claims, "exp"))
    if claims.get("license_expires_at") is None:
        return last
    try:
        day = date.fromisoformat(_text(claims, "license_expires_at"))
    except ValueError:
        raise BadTokenError("token sem data de vencimento legível") from None
    return min(last, int(datetime.combine(day, time(23, 59, 59), UTC).timestamp()))


def _open(text: str, typ: str, key: ECKey) -> Mapping[str, Any]:
    header = _header(text)
    if (header.get("alg"), header.get("typ")) != ("ES256", typ):
        raise BadTokenError("token de outro tipo")
    try:
        claims = json.loads(jws.deserialize_compact(text, key, registry=_REGISTRY).payload)
    except (JoseError, ValueError):
        raise BadTokenError("assinatura inválida") from None
    if not isinstance(claims, dict):
        raise BadTokenError("token ilegível")
    return claims


def _header(text: str) -> Mapping[str, Any]:
    try:
        return jws.extract_compact(text.encode(), registry=_REGISTRY).headers()
    except (JoseError, ValueError):
        raise BadTokenError("token ilegível") from None


def _certified_key(certificate: Mapping[str, Any]) -> ECKey:
    try:
        return _key(certificate["jwk"])
    except (KeyError, ValueError):
        raise BadTokenError("assinatura inválida") from None


def _key(jwk: Mapping[str, Any]) -> ECKey:
    try:
        key = ECKey.import_key(
            {"kty": "EC", "crv": "P-256", "x": str(jwk["x"]), "y": str(jwk["y"])}
        )
        key.raw_value  # noqa: B018  (a point that is not on the curve is found only here)
    except (JoseError, KeyError, TypeError, ValueError) as error:
        raise ValueError("not a public key on P-256") from error
    return key


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _texts(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = claims.get(name)
    return tuple(map(str, values)) if isinstance(values, list) else ()


def _integer(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadTokenError(f"token sem {name}")
    return value
