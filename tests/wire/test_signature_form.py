"""Signatures have the form that RFC 9421 gives them, so that a second implementation can make them.

The expected values are computed here by hand from the RFC's text, not with the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from pathlib import Path

import pytest

from syncd import signing, wire
from syncd.errors import SignatureError
from wire.sites import NEW, OLD, Clock, Site, keyring, pull_body, signed_headers


def by_hand(secret: str, lines: list[str]) -> str:
    base = "\n".join(lines).encode()
    return base64.b64encode(hmac.new(secret.encode(), base, hashlib.sha256).digest()).decode()


def digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def parameters(headers: dict[str, str]) -> str:
    label, _, found = headers["Signature-Input"].partition("=")
    assert label == "syncd"
    return found


def test_a_request_is_signed_as_the_rfc_says() -> None:
    """The signature base is method, path, query, digest and the parameters, line by line."""
    clock, body = Clock(), b"the body"
    headers = signed_headers(keyring(OLD, clock=clock), "/sync/v1/pull", body, query="a=1")
    expected = by_hand(
        OLD["secret"],
        [
            '"@method": POST',
            '"@path": /sync/v1/pull',
            '"@query": ?a=1',
            f'"content-digest": {digest(body)}',
            f'"@signature-params": {parameters(headers)}',
        ],
    )
    assert headers["Content-Digest"] == digest(body)
    assert headers["Signature"] == f"syncd=:{expected}:"


def test_a_request_says_key_times_nonce_and_purpose() -> None:
    """Made now, valid for two minutes, for syncd only, under the first key's id."""
    clock = Clock()
    headers = signed_headers(keyring(OLD, NEW, clock=clock), "/sync/v1/pull", b"")
    found = parameters(headers)
    assert f";created={clock() // 1000};" in found
    assert f";expires={clock() // 1000 + 120};" in found
    assert ';keyid="k1"' in found
    assert "alg=" not in found
    assert ';tag="syncd"' in found
    nonce = re.search(r';nonce="([^"]+)"', found)
    assert nonce is not None
    assert len(nonce[1]) >= 16


def test_no_two_requests_share_a_nonce() -> None:
    """The same request twice in the same second has two nonces."""
    ring = keyring(OLD, clock=Clock())
    assert len({signed_headers(ring, "/", b"")["Signature-Input"] for _ in range(100)}) == 100


def test_a_request_made_by_hand_is_answered(tmp_path: Path) -> None:
    """A second implementation that follows the RFC, parameters in its own order, is understood."""
    site = Site(tmp_path, "b")
    body, now_s = pull_body(), site.clock() // 1000
    found = (
        '("content-digest" "@query" "@path" "@method");tag="syncd";nonce="0123456789abcdef"'
        f';keyid="k1";expires={now_s + 60};created={now_s}'
    )
    signature = by_hand(
        OLD["secret"],
        [
            f'"content-digest": {digest(body)}',
            '"@query": ?',
            f'"@path": {wire.PULL}',
            '"@method": POST',
            f'"@signature-params": {found}',
        ],
    )
    headers = {
        "Content-Digest": digest(body),
        "Signature-Input": f"mine={found}",
        "Signature": f"mine=:{signature}:",
    }
    answer = site.call(wire.PULL, body, headers)
    assert answer.status_code == 200
    expected = by_hand(
        OLD["secret"],
        [
            '"@status": 200',
            f'"content-digest": {digest(answer.data)}',
            f'"signature";req: mine=:{signature}:',
            f'"@signature-params": {parameters(dict(answer.headers.items()))}',
        ],
    )
    assert answer.headers["Signature"] == f"syncd=:{expected}:"
    site.close()


def test_a_files_signature_is_no_requests_nor_the_other_way_round() -> None:
    """What signs a file opens no door, and a request that was overheard signs no file."""
    clock, content = Clock(), b"a bundle"
    ring, sha256 = keyring(OLD, clock=clock), hashlib.sha256(content).digest()
    signed = ring.sign_file(sha256)
    ring.verify_file(sha256, signed)
    fields = {
        "Content-Digest": signed.content_digest,
        "Signature-Input": signed.signature_input,
        "Signature": signed.signature,
    }
    with pytest.raises(SignatureError):
        ring.verify_request(signing.Request("POST", "http://peer/", fields), content)
    overheard = signed_headers(ring, wire.PUSH, content)
    with pytest.raises(SignatureError):
        ring.verify_file(
            sha256,
            signing.FileSignature(
                overheard["Content-Digest"], overheard["Signature-Input"], overheard["Signature"]
            ),
        )


def test_a_file_stays_signed_for_years() -> None:
    """A bundle file that lay in a drawer is as good as on the day it was made."""
    clock, sha256 = Clock(), hashlib.sha256(b"a bundle").digest()
    ring = keyring(OLD, clock=clock)
    signed = ring.sign_file(sha256)
    clock.move_s(5 * 365 * 86_400)
    ring.verify_file(sha256, signed)


def test_a_keyring_shows_no_secret() -> None:
    """Neither a repr nor an error carries a key's secret into a log."""
    ring = keyring(OLD, clock=Clock())
    request = signing.Request("POST", "http://peer/", {})
    with pytest.raises(SignatureError) as caught:
        ring.verify_request(request, b"")
    assert OLD["secret"] not in repr(ring) + str(caught.value) + repr(caught.value)
