"""What the endpoint refuses, and that the caller cannot tell why.

Every request here goes to a real blueprint in a bare Flask app, over a real database file. Each
refusal must be the same 401, must leave every table as it was, and must name its reason in the log.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from syncd import packing, signing, wire
from wire.sites import FOREIGN, NEW, OLD, Clock, Site, keyring, pull_body, push_body, signed_headers

# Every example must leave the site as it found it, so that they may share one.
_fuzzing = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

REFUSALS: dict[str, tuple[Callable[[Sending], None], str]] = {}


@dataclass
class Sending:
    """A well signed push under way, for a test to spoil."""

    site: Site
    clock: Clock
    path: str
    body: bytes
    headers: dict[str, str]
    query: str = ""
    before: list[str] = field(default_factory=list, repr=False)

    def send(self) -> TestResponse:
        return self.site.call(self.path, self.body, self.headers, query=self.query)

    def sign(self, ring: signing.Keyring) -> None:
        self.headers = signed_headers(ring, self.path, self.body, query=self.query)

    def edit(
        self, header: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]
    ) -> None:
        """Change what a header says; fail if it does not say it."""
        changed, count = re.subn(pattern, replacement, self.headers[header])
        assert count == 1, self.headers[header]
        self.headers[header] = changed


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "b")
    site.add("mine", 1)
    site.replica.fold()
    yield site
    site.close()


@pytest.fixture
def sending(site: Site, tmp_path: Path) -> Iterator[Sending]:
    sender = Site(tmp_path, "a", clock=site.clock)
    sender.add("theirs", 2)
    assert isinstance(site.clock, Clock)
    made = Sending(site, site.clock, wire.PUSH, push_body(sender), {})
    made.sign(sender.keyring)
    made.before = site.dump()
    yield made
    sender.close()


def refusal(reason: str) -> Callable[[Callable[[Sending], None]], Callable[[Sending], None]]:
    """Register a way to spoil a request, with the reason that the log must give."""

    def register(spoil: Callable[[Sending], None]) -> Callable[[Sending], None]:
        REFUSALS[spoil.__name__] = (spoil, reason)
        return spoil

    return register


@refusal(r"Content-Digest does not match")
def tampered_body(sending: Sending) -> None:
    sending.body = sending.body[:-1] + bytes([sending.body[-1] ^ 1])


@refusal(r"Content-Digest does not match")
def emptied_body(sending: Sending) -> None:
    sending.body = b""


@refusal(r"did not match")
def tampered_body_with_its_digest(sending: Sending) -> None:
    sending.body += b"x"
    other = signed_headers(keyring(NEW, clock=sending.clock), sending.path, sending.body)
    sending.headers["Content-Digest"] = other["Content-Digest"]


@refusal(r"did not match")
def added_query(sending: Sending) -> None:
    sending.query = "x=1"


@refusal(r"did not match")
def changed_query(sending: Sending) -> None:
    sending.query = "a=1&b=2"
    sending.sign(sending.site.keyring)
    sending.query = "a=1&b=3"


@refusal(r"did not match")
def removed_query(sending: Sending) -> None:
    sending.query = "a=1"
    sending.sign(sending.site.keyring)
    sending.query = ""


@refusal(r"did not match")
def other_path(sending: Sending) -> None:
    sending.path = wire.STATUS


@refusal(r"did not match")
def other_method(sending: Sending) -> None:
    sending.headers = signed_headers(sending.site.keyring, sending.path, sending.body, method="PUT")


@refusal(r"did not match")
def tampered_signature(sending: Sending) -> None:
    label, _, encoded = sending.headers["Signature"].partition("=:")
    raw = base64.b64decode(encoded.rstrip(":"))
    spoiled = bytes([raw[0] ^ 1]) + raw[1:]
    sending.headers["Signature"] = f"{label}=:{base64.b64encode(spoiled).decode()}:"


@refusal(r"[Ss]ignature.*present")
def missing_signature(sending: Sending) -> None:
    del sending.headers["Signature"]


@refusal(r"Signature-Input.*present")
def unsigned(sending: Sending) -> None:
    sending.headers = {}


@refusal(r"Malformed.*Signature-Input")
def garbled_signature_input(sending: Sending) -> None:
    sending.headers["Signature-Input"] = "syncd=((("


@refusal(r"content-digest")
def missing_digest(sending: Sending) -> None:
    del sending.headers["Content-Digest"]


@refusal(r"expired 301 s ago")
def expired(sending: Sending) -> None:
    sending.clock.move_s(signing.LIFETIME_S + 301)


@refusal(r"created 301 s in the future")
def created_in_the_future(sending: Sending) -> None:
    sending.clock.move_s(-301)


@refusal(r"valid for longer than allowed")
def prolonged(sending: Sending) -> None:
    sending.edit("Signature-Input", r"expires=(\d+)", _later)


@refusal(r"did not match")
def renewed(sending: Sending) -> None:
    sending.edit("Signature-Input", r"created=(\d+)", _later)
    sending.edit("Signature-Input", r"expires=(\d+)", _later)


@refusal(r"valid for longer than allowed")
def signed_for_a_year(sending: Sending) -> None:
    ring = keyring(OLD, clock=sending.clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "LIFETIME_S", 31_536_000)
        sending.sign(ring)


@refusal(r"did not match")
def renewed_nonce(sending: Sending) -> None:
    sending.edit("Signature-Input", r'nonce="[^"]+"', 'nonce="another"')


@refusal(r"no nonce")
def without_nonce(sending: Sending) -> None:
    request = signing.Request("POST", f"http://peer{sending.path}", {})
    sending.site.keyring._sign(request, signing._REQUEST_PARTS, sending.body)
    sending.headers = dict(request.headers)


@refusal(r"@query")
def query_not_covered(sending: Sending) -> None:
    request = signing.Request("POST", f"http://peer{sending.path}", {})
    parts = [part for part in signing._REQUEST_PARTS if part != "@query"]
    sending.site.keyring._sign(request, parts, sending.body, nonce="n")
    sending.headers = dict(request.headers)


@refusal(r"content-digest|Content-Digest")
def body_not_covered(sending: Sending) -> None:
    request = signing.Request("POST", f"http://peer{sending.path}", {})
    parts = [part for part in signing._REQUEST_PARTS if part != "content-digest"]
    # The library covers a body that it is given, so it is given none.
    sending.site.keyring._sign(request, parts, None, nonce="n")  # type: ignore[arg-type]
    sending.headers = dict(request.headers)


@refusal(r"k2")
def unknown_key_id(sending: Sending) -> None:
    sending.sign(keyring(NEW, clock=sending.clock))


@refusal(r"did not match")
def a_key_that_is_not_ours(sending: Sending) -> None:
    sending.sign(keyring(FOREIGN, clock=sending.clock))


@refusal(r"did not match")
def another_key_id(sending: Sending) -> None:
    sending.sign(keyring({**NEW, "id": "k1"}, clock=sending.clock))


@refusal(r"tag")
def a_signature_made_for_something_else(sending: Sending) -> None:
    sending.edit("Signature-Input", r'tag="syncd"', 'tag="other"')


@refusal(r"more than one signature|different labels")
def two_signatures(sending: Sending) -> None:
    for header in ("Signature-Input", "Signature"):
        twin = sending.headers[header].replace("syncd=", "twin=", 1)
        sending.headers[header] += f", {twin}"


@refusal(r"replayed: its nonce \S+ was used before")
def replayed(sending: Sending) -> None:
    assert sending.site.call(sending.path, sending.body, sending.headers).status_code == 200
    sending.before = sending.site.dump()


@refusal(r"replayed: its nonce \S+ was used before")
def replayed_as_it_expires(sending: Sending) -> None:
    assert sending.site.call(sending.path, sending.body, sending.headers).status_code == 200
    sending.before = sending.site.dump()
    sending.clock.move_s(signing.LIFETIME_S + 300)


def _later(found: re.Match[str]) -> str:
    return found[0].replace(found[1], str(int(found[1]) + 60))


def test_the_unspoiled_request_is_merged(sending: Sending) -> None:
    """Without a fault the same push is answered 200 and merged, so what follows tests the fault."""
    assert sending.send().status_code == 200
    assert sending.site.notes() == {"mine": 1, "theirs": 2}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_spoiled_request_is_refused_logged_and_changes_nothing(
    name: str, sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    """Every fault is a 401; the log gives the exact reason and every table stays as it was."""
    spoil, reason = REFUSALS[name]
    spoil(sending)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="syncd"):
        answer = sending.send()
    assert answer.status_code == 401
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(reason, record.getMessage()), record.getMessage()
    assert sending.path in record.getMessage()
    assert sending.site.dump() == sending.before


def test_the_caller_cannot_tell_one_refusal_from_another(site: Site, tmp_path: Path) -> None:
    """All 401s are equal byte for byte, status line, headers and body."""
    sender = Site(tmp_path, "a")
    seen = set()
    for spoil, _ in REFUSALS.values():
        assert isinstance(site.clock, Clock)
        now_ms = site.clock.ms
        sending = Sending(site, site.clock, wire.PUSH, push_body(sender), {})
        sending.sign(site.keyring)
        spoil(sending)
        answer = sending.send()
        seen.add((answer.status, tuple(answer.headers), answer.data))
        site.clock.ms = now_ms
    sender.close()
    assert len(seen) == 1


def test_a_refusal_says_nothing_about_us(sending: Sending) -> None:
    """A 401 has no body and no signature, which would prove that the key is held here."""
    unsigned(sending)
    answer = sending.send()
    assert answer.data == b""
    assert not {"Signature", "Signature-Input", "Content-Digest"} & set(answer.headers.keys())


@pytest.mark.parametrize("path", [wire.PULL, wire.PUSH, wire.STATUS])
def test_every_path_asks_for_a_signature(path: str, site: Site) -> None:
    """None of the three answers a stranger."""
    before = site.dump()
    assert site.call(path, pull_body(), {}).status_code == 401
    assert site.dump() == before


@pytest.mark.parametrize("path", [wire.PULL, wire.PUSH, wire.STATUS])
def test_only_post_is_answered(path: str, site: Site) -> None:
    """A link or a crawler cannot start anything."""
    assert site.app.test_client().get(path).status_code == 405


def test_a_request_just_within_the_drift_is_taken(sending: Sending) -> None:
    """Clocks may differ by max_clock_drift either way, to the second."""
    sending.clock.move_s(signing.LIFETIME_S + 300)
    assert sending.send().status_code == 200
    sending.clock.move_s(-signing.LIFETIME_S - 300)
    sending.sign(sending.site.keyring)
    sending.clock.move_s(-300)
    assert sending.send().status_code == 200


def test_a_replay_is_refused_by_a_second_worker(sending: Sending) -> None:
    """Nonces are shared by all workers on the same file, not kept per process."""
    assert sending.send().status_code == 200
    second = sending.site.new_app()
    before = sending.site.dump()
    answer = sending.site.call(sending.path, sending.body, sending.headers, app=second)
    assert answer.status_code == 401
    assert sending.site.dump() == before


def test_a_replay_is_refused_after_a_restart(sending: Sending, tmp_path: Path) -> None:
    """Nonces survive the end of every process that knew them."""
    assert sending.send().status_code == 200
    sending.site.close()
    restarted = Site(tmp_path, "b", clock=sending.clock)
    assert restarted.call(sending.path, sending.body, sending.headers).status_code == 401
    sending.sign(restarted.keyring)
    assert restarted.call(sending.path, sending.body, sending.headers).status_code == 200
    restarted.close()


def test_a_nonce_is_forgotten_once_it_cannot_be_used(sending: Sending) -> None:
    """The file of nonces holds the window's requests only, so it cannot grow without end."""
    assert sending.send().status_code == 200
    nonces = sending.site.database.with_name("b.db-syncd")
    sending.clock.move_s(signing.LIFETIME_S + 302)
    sending.sign(sending.site.keyring)
    assert sending.send().status_code == 200
    assert _rows(nonces, "nonce") == 1


def test_a_refused_request_does_not_use_up_its_nonce(sending: Sending) -> None:
    """Who cannot sign cannot make the real request look like a replay, nor fill the file."""
    good = dict(sending.headers)
    tampered_signature(sending)
    assert sending.send().status_code == 401
    sending.headers = good
    assert sending.send().status_code == 200


def test_a_query_that_was_signed_is_taken(sending: Sending) -> None:
    """The query counts as it was sent; a proxy's own marker may be signed by the peer."""
    sending.query = "a=1&b=%20%C3%A9"
    sending.sign(sending.site.keyring)
    assert sending.send().status_code == 200


def _rows(database: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


SIGNED_HEADERS = ("Signature-Input", "Signature", "Content-Digest")
# No server hands these on: a header ends there.
HEADER_TEXT = st.text(
    st.characters(max_codepoint=255, exclude_characters="\r\n\0"), min_size=1, max_size=40
)


@_fuzzing
@given(header=st.sampled_from(SIGNED_HEADERS), at=st.integers(0, 400), character=HEADER_TEXT)
def test_no_header_can_be_changed_in_one_place(
    header: str, at: int, character: str, sending: Sending
) -> None:
    """Whatever character stands anywhere in the signature's fields: 401, or the same meaning."""
    sending.sign(sending.site.keyring)
    value = sending.headers[header]
    at %= len(value)
    sending.headers[header] = value[:at] + character[0] + value[at + 1 :]
    assume(not _same_meaning(value, sending.headers[header]))
    assert sending.send().status_code == 401
    assert sending.site.dump() == sending.before


def _same_meaning(left: str, right: str) -> bool:
    # The last character before base64's padding has bits that no byte comes from.
    return re.sub(r".=*:$", "", left) == re.sub(r".=*:$", "", right)


@_fuzzing
@given(fields=st.fixed_dictionaries({}, optional=dict.fromkeys(SIGNED_HEADERS, HEADER_TEXT)))
def test_fields_of_any_form_are_refused_alike(fields: dict[str, str], sending: Sending) -> None:
    """A malformed signature is one refusal more, never a server error."""
    sending.headers = fields
    answer = sending.send()
    assert (answer.status_code, answer.data) == (401, b"")


@_fuzzing
@example(query="#x=1")
@given(query=st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=30))
def test_queries_of_any_form_are_refused_alike(query: str, sending: Sending) -> None:
    """A query that was not signed is one refusal more, even where it is no valid query."""
    answer = sending.site.app.test_client().post(
        sending.path,
        data=sending.body,
        headers=sending.headers,
        environ_overrides={"QUERY_STRING": query},
    )
    assert (answer.status_code, answer.data) == (401, b"")


@_fuzzing
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_a_body_can_be_flipped(at: int, bit: int, sending: Sending) -> None:
    """One bit anywhere in a body is one bit too many."""
    sending.sign(sending.site.keyring)
    good = sending.body
    spoiled = bytearray(good)
    spoiled[at % len(good)] ^= 1 << bit
    sending.body = bytes(spoiled)
    try:
        assert sending.send().status_code == 401
    finally:
        sending.body = good
    assert sending.site.dump() == sending.before


@_fuzzing
@given(body=st.binary(max_size=300))
def test_a_signed_body_that_means_nothing_is_a_signed_refusal(
    body: bytes, sending: Sending
) -> None:
    """Whoever has the key and sends garbage is told so, with a signature, and nothing is merged."""
    for path in (wire.PUSH, wire.PULL, wire.STATUS):
        sending.path, sending.body = path, body
        sending.sign(sending.site.keyring)
        answer = sending.send()
        assert answer.status_code == 400
        assert packing.decode(answer.data, wire.ErrorAnswer).code.startswith("bundle")
    assert sending.site.dump() == sending.before
