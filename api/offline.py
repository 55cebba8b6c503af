"""The offline token: what lets a client that reaches no host trust what the last one said.

Owns the token's claims, and the texts signed by the vendor's root key that travel between hosts:
certificates of hosts' keys and lists of revoked ones. Only what the root's public key confirms is
ever believed, so the table may hold anything. A private key is never written there. A host whose
own key is revoked, or that has none, gives no token.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from api import jose
from api.clock import Clock
from api.history import Act
from api.jose import BadSignedTextError, HostKey
from api.licences import Licence, Verdict
from api.store import Store

READ_AGAIN_AFTER = timedelta(seconds=10)
NONCE = re.compile("[A-Za-z0-9_-]{16,64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Certificate:
    """Hold a host's key as the root certified it."""

    kid: str
    host: str
    jwk: dict[str, str]
    issued_s: int
    text: str


@dataclass(frozen=True)
class Trust:
    """Hold what the root says at one moment. revoked_list: the newest one, None without any."""

    certificates: tuple[Certificate, ...]
    revoked: frozenset[str]
    revoked_list: str | None

    @property
    def valid(self) -> Sequence[Certificate]:
        """Return the certificates of keys that are not revoked."""
        return [one for one in self.certificates if one.kid not in self.revoked]


class OfflineTokens:
    """Sign one host's tokens, and keep the signed texts of all."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        node: str,
        root: jose.Key | None,
        own: HostKey | None,
        grace: timedelta,
    ) -> None:
        self._store = store
        self._clock = clock
        self._node = node
        self._root = root
        self._own = own
        self._grace = grace
        self._read: tuple[datetime, Trust] | None = None
        if own:
            self.publish(own.certificate)

    def fields(
        self, device_id: str, licence: Licence | None, verdict: Verdict, nonce: str
    ) -> dict[str, str]:
        """Return what an answer carries: offline_token and offline_revoked, as far as there are.

        licence: None for a device that is not registered. nonce: "" where the client sent none.
        """
        trust = self.trust()
        if self._own is None or self._own.kid in trust.revoked:
            return {}
        claims = self._claims(device_id, licence, verdict)
        if nonce:
            claims["nonce"] = nonce
        revoked = {"offline_revoked": trust.revoked_list} if trust.revoked_list else {}
        return {"offline_token": self._own.signer.sign(claims), **revoked}

    def trust(self) -> Trust:
        """Return what the root says, read from the table every ten seconds."""
        now = self._clock()
        if self._read is None or not timedelta(0) <= now - self._read[0] < READ_AGAIN_AFTER:
            self._read = now, self._trust()
            self._tell_if_revoked(self._read[1])
        return self._read[1]

    def publish(self, text: str, act: Act | None = None) -> str:
        """Take in a certificate or a list of revoked keys for all hosts; return which it is.

        act: who hands it in, None for the host itself. Raises BadSignedTextError where it is
        neither, or the root did not sign it.
        """
        text = text.strip()
        kind = jose.typ_of(text)
        if self._root is None:
            raise BadSignedTextError("this host knows no root key (offline_root)")
        if kind not in (jose.CERTIFICATE, jose.REVOCATIONS):
            raise BadSignedTextError("neither a certificate nor a list of revoked keys")
        jose.verify(text, kind, self._root)
        digest = hashlib.sha256(text.encode()).hexdigest()
        with self._store.writing() as connection:
            connection.execute(
                "INSERT INTO root_signed (digest, text) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (digest, text),
            )
            if act:
                act.note(connection, "keys.publish", f"{kind} {digest[:16]}")
        self._read = None
        return kind

    def _claims(
        self, device_id: str, licence: Licence | None, verdict: Verdict
    ) -> dict[str, object]:
        issued_s, grace_s = int(self._clock().timestamp()), int(self._grace.total_seconds())
        expires = licence.expires if licence else None
        return {
            "iss": self._node,
            "sub": device_id,
            "allow": verdict.allow,
            "status": verdict.status,
            "features": list(licence.features) if licence else [],
            "license_type": licence.license_type if licence else None,
            "license_expires_at": expires.isoformat() if expires else None,
            "iat": issued_s,
            "grace": grace_s,
            "exp": issued_s + grace_s,
        }

    def _trust(self) -> Trust:
        texts = [row["text"] for row in self._store.rows("SELECT text FROM root_signed")]
        certificates = [
            Certificate(claims["kid"], claims["iss"], claims["jwk"], claims["iat"], text)
            for text, claims in self._confirmed(texts, jose.CERTIFICATE)
        ]
        lists = sorted(
            self._confirmed(texts, jose.REVOCATIONS), key=lambda one: (one[1]["iat"], one[0])
        )
        return Trust(
            certificates=tuple(sorted(certificates, key=lambda one: (one.host, -one.issued_s))),
            # A list that another one overtook still counts: no key comes back.
            revoked=frozenset(kid for _, claims in lists for kid in claims["kids"]),
            revoked_list=lists[-1][0] if lists else None,
        )

    def _confirmed(self, texts: Sequence[str], kind: str) -> list[tuple[str, jose.Claims]]:
        if self._root is None:
            return []
        found = []
        for text in texts:
            try:
                found.append((text, jose.verify(text, kind, self._root)))
            except BadSignedTextError:
                continue  # of the other kind, of another root, or nobody's
        return found

    def _tell_if_revoked(self, trust: Trust) -> None:
        if self._own and self._own.kid in trust.revoked:
            log.error("this host's offline key %s is revoked: no offline tokens", self._own.kid)
