"""Signatures: requests, responses and files, as HTTP Message Signatures (RFC 9421).

A request covers method, path, query and Content-Digest, and names its key, when it was made, when
it expires and a nonce. A response covers its status, its own digest and the signature of the
request it answers, so that it fits no other. A bundle file carries the same kind of signature over
its digest. The keys are shared secrets (HMAC-SHA256): the first one signs, all are accepted.

Nothing here remembers nonces or reads clocks; the caller does both.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    InvalidSignature,
    MappingKeyResolver,
    VerificationKey,
)
from http_message_signatures.algorithms import HMAC_SHA256

from syncd.clock import WallClock
from syncd.config import Config, Key
from syncd.errors import SignatureError

LIFETIME_S = 120
"""How long a request may travel and wait before it is refused."""

_REQUEST_PARTS = ("@method", "@path", "@query", "content-digest")
_RESPONSE_PARTS = ("@status", "content-digest", '"signature";req')
_FILE_PARTS = ("content-digest",)
_TAG = "syncd"


@dataclass
class Request:
    """The parts of a request that are signed. url: absolute; only path and query count."""

    method: str
    url: str
    headers: MutableMapping[str, str]


@dataclass
class Response:
    """The parts of a response that are signed, and the request it answers."""

    status_code: int
    headers: MutableMapping[str, str]
    request: Any


@dataclass(frozen=True)
class Credentials:
    """What a verified request said of itself."""

    key_id: str
    nonce: str
    expires_s: int


@dataclass(frozen=True)
class FileSignature:
    """The three fields that sign a file, as they stand in its last record."""

    content_digest: str
    signature_input: str
    signature: str


@dataclass
class _FileMessage(Request):
    method: str = "POST"
    url: str = "http://bundle/"
    headers: MutableMapping[str, str] = field(default_factory=dict)


class _Verifier(HTTPMessageVerifier):
    """Verifies against the caller's clock."""

    def __init__(self, keys: MappingKeyResolver, now_s: float, skew_s: float | None) -> None:
        super().__init__(signature_algorithm=HMAC_SHA256, key_resolver=keys)
        self._now_s = now_s
        self._skew_s = skew_s

    def validate_created_and_expires(self, sig_input: Any, max_age: object = None) -> None:  # noqa: ARG002
        if self._skew_s is None:
            return  # a file is as good as the day it was signed
        created, expires = sig_input.params.get("created"), sig_input.params.get("expires")
        if type(created) is not int or type(expires) is not int:
            raise InvalidSignature("it does not say when it was created and when it expires")
        if created > self._now_s + self._skew_s:
            raise InvalidSignature(f"created {created - self._now_s:.0f} s in the future")
        if expires < self._now_s - self._skew_s:
            raise InvalidSignature(f"expired {self._now_s - expires:.0f} s ago")
        if expires - created > LIFETIME_S:
            raise InvalidSignature("valid for longer than allowed")


class _KeyResolver(MappingKeyResolver):
    """Says which key is unknown: during a rotation that is what an operator looks for."""

    def resolve_public_key(self, key_id: str) -> VerificationKey | None:
        found = super().resolve_public_key(key_id)
        if found is None:
            raise InvalidSignature(f"there is no key {key_id!r} here")
        return found


class Keyring:
    """The keys of this host, and its clock.

    skew_s: how far the clocks of two hosts may differ.
    """

    def __init__(self, keys: Sequence[Key], *, skew_s: float, now_s: Callable[[], float]) -> None:
        by_id = {key.id: key.secret.get_secret_value().encode() for key in keys}
        self._resolver = _KeyResolver(public_keys=by_id, private_keys=by_id)
        self._signing_id = keys[0].id
        self.skew_s = skew_s
        self.now_s = now_s
        self._signer = HTTPMessageSigner(
            signature_algorithm=HMAC_SHA256, key_resolver=self._resolver
        )

    def sign_request(self, request: Any, body: bytes) -> None:
        """Add the signature's fields to a request's headers."""
        self._sign(request, _REQUEST_PARTS, body, nonce=secrets.token_urlsafe(16))

    def verify_request(self, request: Any, body: bytes) -> Credentials:
        """Check a request, or raise `SignatureError`; whether the nonce is new is not checked."""
        parameters = self._verify(request, _REQUEST_PARTS, body, self.skew_s)
        nonce = parameters.get("nonce")
        if not nonce:
            raise SignatureError("it has no nonce")
        return Credentials(parameters["keyid"], nonce, parameters["expires"])

    def sign_response(self, response: Any, body: bytes) -> None:
        """Add the signature's fields to a response's headers, bound to its request."""
        self._sign(response, _RESPONSE_PARTS, body)

    def verify_response(self, response: Any, body: bytes) -> int:
        """Check that a response answers its request, or raise `SignatureError`.

        Returns when it was signed, in seconds since 1970 by the peer's clock.
        """
        signed_s: int = self._verify(response, _RESPONSE_PARTS, body, self.skew_s)["created"]
        return signed_s

    def sign_file(self, sha256: bytes) -> FileSignature:
        """Sign a file's digest."""
        message = _FileMessage(headers={"Content-Digest": _content_digest(sha256)})
        self._signer.sign(
            message,
            key_id=self._signing_id,
            created=datetime.fromtimestamp(int(self.now_s()), UTC),
            label=_TAG,
            tag=_TAG,
            covered_component_ids=_FILE_PARTS,
            use_existing_digest=True,
        )
        headers = message.headers
        return FileSignature(
            headers["Content-Digest"], headers["Signature-Input"], headers["Signature"]
        )

    def verify_file(self, sha256: bytes, signature: FileSignature) -> None:
        """Check a file's signature against its digest, or raise `SignatureError`."""
        if signature.content_digest != _content_digest(sha256):
            raise SignatureError("the file was changed after it was signed")
        message = _FileMessage(
            headers={
                "Content-Digest": signature.content_digest,
                "Signature-Input": signature.signature_input,
                "Signature": signature.signature,
            }
        )
        self._verify(message, _FILE_PARTS, None, None)

    def _sign(
        self, message: Any, parts: Sequence[str], body: bytes, nonce: str | None = None
    ) -> None:
        now_s = int(self.now_s())
        self._signer.sign(
            message,
            key_id=self._signing_id,
            created=datetime.fromtimestamp(now_s, UTC),
            expires=datetime.fromtimestamp(now_s + LIFETIME_S, UTC),
            nonce=nonce,
            label=_TAG,
            tag=_TAG,
            include_alg=False,
            covered_component_ids=parts,
            body=body,
        )

    def _verify(
        self, message: Any, parts: Sequence[str], body: bytes | None, skew_s: float | None
    ) -> dict[str, Any]:
        verifier = _Verifier(self._resolver, self.now_s(), skew_s)
        try:
            found = verifier.verify(
                message, max_age=None, expect_tag=_TAG, require_components=parts, body=body
            )
        except HTTPMessageSignaturesException as error:
            raise SignatureError(str(error)) from error
        if len(found) != 1:
            raise SignatureError("it has more than one signature")
        return dict(found[0].parameters)


def keyring_of(config: Config, wall_ms: WallClock) -> Keyring:
    """Return the keyring of a configuration."""
    return Keyring(
        config.sync.keys,
        skew_s=config.sync.max_clock_drift / 1000,
        now_s=lambda: wall_ms() / 1000,
    )


def _content_digest(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"
