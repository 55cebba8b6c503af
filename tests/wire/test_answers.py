"""A peer's answer counts only if it is signed for the very request it answers.

The peer is a real application behind a socket that changes the answer on its way. Whatever it does,
the round fails with the right error and every table of the user stays as it was.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path

import pytest

from syncd import codec, packing, wire
from syncd.config import Peer
from syncd.errors import PeerMisbehaved, PeerRefused, SyncError
from syncd.exchange import client_of
from syncd.peer import PeerClient
from wire.scripted import Answer, Script, asks, says, scripted, signs, spoils
from wire.sites import FOREIGN, NEW, Clock, Site, keyring, packed, push_body

Headers = Mapping[str, str]

ASKING = wire.PullRequest("a", {}, b"", 0)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "a")
    site.add("mine", 1)
    site.replica.fold()
    yield site
    site.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "b")
    site.add("theirs", 2)
    yield site
    site.close()


def client(here: Site, url: str) -> PeerClient:
    peer = Peer(name="b", url=url)
    return client_of(here.replica, peer, sleep=lambda _: None)


def refused_by_client(here: Site, script: Script) -> SyncError:
    """Run a round against a script; return the error, after checking that nothing was merged."""
    before = here.notes(), here.replica.vector()
    with scripted(script) as peer:
        asking = client(here, peer.url)
        with pytest.raises(SyncError) as caught:
            asking.pull(ASKING)
        asking.close()
        outcome = here.round(Peer(name="b", url=peer.url))
    assert not outcome.ok
    assert outcome.code == caught.value.code
    assert (here.notes(), here.replica.vector()) == before
    assert here.sql("SELECT count(*) FROM syncd_cursor") == [(0,)]
    return caught.value


def spoil(
    *,
    status: int | None = None,
    body: Callable[[bytes], bytes] = lambda body: body,
    headers: Callable[[Headers], Headers] = dict,
) -> Callable[[Answer], Answer]:
    return lambda answer: Answer(
        status or answer.status, headers(answer.headers), body(answer.body)
    )


def without(*names: str) -> Callable[[Headers], Headers]:
    return lambda headers: {k: v for k, v in headers.items() if k not in names}


SPOILED: dict[str, Callable[[Answer], Answer]] = {
    "a bit of the body": spoil(body=lambda body: body[:-1] + bytes([body[-1] ^ 1])),
    "the body and its digest": spoil(
        body=lambda _: b"x", headers=lambda found: {**found, "Content-Digest": _digest(b"x")}
    ),
    "the body cut short": spoil(body=lambda body: body[:-1]),
    "no body at all": spoil(body=lambda _: b""),
    "the status": spoil(status=409),
    "a success of another kind": spoil(status=206),
    "no signature": spoil(headers=without("Signature", "Signature-Input")),
    "no digest": spoil(headers=without("Content-Digest")),
    "another signature": spoil(headers=lambda found: {**found, "Signature": "syncd=:AAAA:"}),
}


@pytest.mark.parametrize("name", SPOILED)
def test_an_answer_changed_on_its_way_is_not_believed(name: str, here: Site, there: Site) -> None:
    """Status, body, digest and signature: change one, and the answer is worth nothing."""
    error = refused_by_client(here, spoils(asks(there.app), SPOILED[name]))
    assert isinstance(error, PeerMisbehaved)
    assert "without a signature that holds" in str(error)


def test_the_unspoiled_answer_is_merged(here: Site, there: Site) -> None:
    """Without a fault the same round brings the row, so the other tests test the fault."""
    with scripted(asks(there.app)) as peer:
        assert here.round(Peer(name="b", url=peer.url)).ok
    assert here.notes() == {"mine": 1, "theirs": 2}


def test_an_answer_recorded_earlier_fits_no_other_request(here: Site, there: Site) -> None:
    """Yesterday's whole and well signed answer, played back to today's request, is not believed."""
    recorded: list[Answer] = []

    def record(answer: Answer) -> Answer:
        recorded.append(answer)
        return answer

    with scripted(spoils(asks(there.app), record)) as peer:
        asking = client(here, peer.url)
        asking.pull(ASKING)
        asking.close()
    assert recorded[0].status == 200
    error = refused_by_client(here, lambda _, __: recorded[0])
    assert isinstance(error, PeerMisbehaved)


def test_the_answer_to_another_path_is_not_taken(here: Site, there: Site) -> None:
    """A status answer to the same bytes is no answer to a pull."""
    body = packing.encode(wire.StatusAnswer("b", b"o" * 16, {}, 0, 0))
    error = refused_by_client(here, signs(there.keyring, 200, body))
    assert isinstance(error, PeerMisbehaved)
    assert "sent no bundle" in str(error)


@pytest.mark.parametrize("keys", [FOREIGN, NEW], ids=["same id", "another id"])
def test_an_answer_signed_with_a_key_that_is_not_ours(keys: dict[str, str], here: Site) -> None:
    """A stranger in the peer's place cannot make us merge anything."""
    stranger = keyring(keys, clock=here.clock)
    error = refused_by_client(here, signs(stranger, 200, b"anything"))
    assert isinstance(error, PeerMisbehaved)


@pytest.mark.parametrize("seconds", [-421, 301], ids=["expired", "from the future"])
def test_an_answer_out_of_time_is_not_believed(seconds: int, here: Site, there: Site) -> None:
    """A peer's answer is bound to the clock as a request is."""
    clock = Clock()
    clock.ms = here.clock() + seconds * 1000
    error = refused_by_client(here, signs(keyring(*_keys(there), clock=clock), 200, b""))
    assert isinstance(error, PeerMisbehaved)


def test_a_signed_refusal_is_told_with_its_reason(here: Site, there: Site) -> None:
    """What a peer signs as its refusal reaches the operator, with its stable code."""
    body = packing.encode(wire.ErrorAnswer("bundle_gap", "something is missing"))
    error = refused_by_client(here, signs(there.keyring, 409, body))
    assert isinstance(error, PeerRefused)
    assert "something is missing (bundle_gap)" in str(error)


def test_a_signed_refusal_that_cannot_be_read_is_misbehaviour(here: Site, there: Site) -> None:
    """A refusal in another form is not shown to the operator as if it were one."""
    error = refused_by_client(here, signs(there.keyring, 409, b"<html>"))
    assert isinstance(error, PeerMisbehaved)


def test_a_401_says_where_to_look(here: Site) -> None:
    """A refused request names the peer, and hints at keys and clocks."""
    error = refused_by_client(here, says(401))
    assert isinstance(error, PeerRefused)
    assert "b refused" in str(error)
    assert error.hint is not None
    assert "keys" in error.hint
    assert "clocks" in error.hint


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(86_400, "86400 s ahead of ours"), (-7_200, "7200 s behind ours"), (30, None), (None, None)],
)
def test_a_401_names_the_difference_of_the_clocks(
    here: Site, ahead_s: int | None, said: str | None
) -> None:
    """The Date of the answer is all there is to go by; a small difference is no news."""
    headers = {} if ahead_s is None else {"Date": formatdate(here.clock() / 1000 + ahead_s)}
    error = refused_by_client(here, says(401, headers=headers))
    assert (said in str(error)) if said else ("clock" not in str(error))


def test_a_signed_bundle_of_two_frames_is_misbehaviour(here: Site, there: Site) -> None:
    """One answer is one frame: the cursor moves only by what was asked for."""
    reader = codec.Reader(io.BytesIO(push_body(there)))
    (frame,) = list(reader)
    error = refused_by_client(here, signs(there.keyring, 200, packed(reader.header, frame, frame)))
    assert isinstance(error, PeerMisbehaved)
    assert "2 frames" in str(error)


def test_a_signed_bundle_cut_short_is_misbehaviour(here: Site, there: Site) -> None:
    """A bundle that lacks its end is not merged even if it is signed."""
    error = refused_by_client(here, signs(there.keyring, 200, push_body(there)[:-10]))
    assert isinstance(error, PeerMisbehaved)


def test_a_push_is_believed_only_if_its_answer_is_signed(here: Site, there: Site) -> None:
    """An unsigned 200 to a push does not count as durable: the round fails and is tried again."""
    with scripted(asks(there.app), asks(there.app), says(200, b"fine"), asks(there.app)) as peer:
        configured = Peer(name="b", url=peer.url, push=True)
        first = here.round(configured)
        assert (first.ok, first.code) == (False, "peer_misbehaved")
        assert there.notes() == {"theirs": 2}
        assert here.round(configured).sent == 1
    assert there.notes() == {"mine": 1, "theirs": 2}


def _digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def _keys(site: Site) -> list[dict[str, str]]:
    return [
        {"id": key.id, "secret": key.secret.get_secret_value()} for key in site.config.sync.keys
    ]
