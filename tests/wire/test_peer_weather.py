"""What the client makes of a peer that is down, asleep, behind a proxy, or not a syncd at all."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd import wire
from syncd.config import Peer
from syncd.errors import PeerAsleep, PeerError, PeerMisbehaved, PeerRefused, PeerUnreachable
from syncd.exchange import client_of
from syncd.peer import UNREACHABLE_TRIES, PeerClient
from wire.scripted import Script, asks, cuts, hangs, loses, says, scripted
from wire.sites import Site, served

ASKING = wire.PullRequest("a", {}, b"", 0)
WAKE_WITHIN_S = 0.6
SLACK_S = 1.5
"""What a loaded machine may add to a wait."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "a", wake_within=f"{WAKE_WITHIN_S}s")
    yield site
    site.close()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "a", wake_within="20s")
    yield site
    site.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "b")
    site.add("theirs", 2)
    yield site
    site.close()


class Waits(list[float]):
    """A sleep that only notes how long it would have taken."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client(here: Site, url: str, sleep: Waits | None = None) -> PeerClient:
    peer = Peer(name="b", url=url)
    return (
        client_of(here.replica, peer, sleep=sleep)
        if sleep is not None
        else client_of(here.replica, peer)
    )


def fails(here: Site, *script: Script, sleep: Waits | None = None) -> tuple[PeerError, int, float]:
    """Pull from a script; return the error, how often it was asked and the seconds it took."""
    with scripted(*script) as peer:
        asking = client(here, peer.url, sleep)
        started = time.monotonic()
        with pytest.raises(PeerError) as caught:
            asking.pull(ASKING)
        took = time.monotonic() - started
        asking.close()
        return caught.value, len(peer.asked), took


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, here: Site, there: Site) -> None:
    """A redirect fails the round and names its target, which is never asked, not even by GET."""
    with served(there.app) as target:
        location = f"{target.url}{wire.PULL}"
        error, asked, _ = fails(here, says(status, headers={"Location": location}))
        assert target.requests == []
    assert isinstance(error, PeerMisbehaved)
    assert location in str(error)
    assert error.hint is not None
    assert "url" in error.hint
    assert asked == 1


def test_a_refused_connection_is_given_up_after_a_few_tries(here: Site) -> None:
    """A port on which nothing listens is down, not asleep: few tries, short waits between them."""
    waits = Waits()
    asking = client(here, f"http://127.0.0.1:{closed_port()}", waits)
    with pytest.raises(PeerUnreachable) as caught:
        asking.pull(ASKING)
    asking.close()
    assert not isinstance(caught.value, PeerAsleep)
    assert "refused" in str(caught.value).lower()
    assert len(waits) == UNREACHABLE_TRIES - 1
    assert all(0 < wait <= 5 for wait in waits)


def test_a_name_that_does_not_resolve_is_unreachable(here: Site) -> None:
    """A wrong host name is an error of its own kind with the name in it, not a crash."""
    asking = client(here, "http://no-such-host.invalid", Waits())
    with pytest.raises(PeerUnreachable, match="b cannot be reached"):
        asking.pull(ASKING)
    asking.close()


def test_a_connection_cut_off_is_tried_again(patient: Site, there: Site) -> None:
    """A connection that breaks before the answer costs a try, not the round."""
    with scripted(cuts, asks(there.app)) as peer:
        assert patient.round(Peer(name="b", url=peer.url)).ok
        assert len(peer.asked) == 2
    assert patient.notes() == {"theirs": 2}


def test_every_try_is_signed_anew(patient: Site, there: Site) -> None:
    """A try that did arrive has used up its nonce, so the next one brings another."""
    with scripted(loses(asks(there.app)), asks(there.app)) as peer:
        assert patient.round(Peer(name="b", url=peer.url)).ok
        assert len({request.headers["Signature-Input"] for request in peer.asked}) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_peer_that_wakes_up_in_time_is_not_down(status: int, patient: Site, there: Site) -> None:
    """More answers of a host that starts its guest than tries for a dead one; then the round."""
    waking = [says(status, b"<html>starting</html>")] * (UNREACHABLE_TRIES + 2)
    with scripted(*waking, asks(there.app)) as peer:
        outcome = patient.round(Peer(name="b", url=peer.url))
        assert len(peer.asked) == len(waking) + 1
    assert outcome.ok
    assert patient.notes() == {"theirs": 2}


def test_a_connection_cut_while_the_peer_wakes_up_is_tried_again(
    patient: Site, there: Site
) -> None:
    """While a host swaps its placeholder for its guest, connections break; that is still waking."""
    with scripted(*[says(503)] * (UNREACHABLE_TRIES + 1), cuts, asks(there.app)) as peer:
        assert patient.round(Peer(name="b", url=peer.url)).ok
    assert patient.notes() == {"theirs": 2}


def test_waits_for_a_waking_peer_grow_and_stay_bounded(patient: Site, there: Site) -> None:
    """A host that starts is not hammered, and is asked again soon enough."""
    waits = Waits()
    with scripted(*[says(503)] * 8, asks(there.app)) as peer:
        asking = client(patient, peer.url, waits)
        asking.pull(ASKING)
        asking.close()
    assert len(waits) == 8
    assert waits[0] < 1 < waits[-1] <= 6


def test_a_peer_that_does_not_wake_up_is_asleep(here: Site) -> None:
    """A host that answers 503 for ever is given up after wake_within, with a hint."""
    error, asked, took = fails(here, says(503))
    assert isinstance(error, PeerAsleep)
    assert "503" in str(error)
    assert error.hint is not None
    assert "wake_within" in error.hint
    assert WAKE_WITHIN_S <= took < WAKE_WITHIN_S + SLACK_S
    assert asked >= 2


def test_a_peer_that_hangs_is_asleep_within_its_time(here: Site) -> None:
    """A peer that takes the request and says nothing costs wake_within, not several times that."""
    error, asked, took = fails(here, hangs)
    assert isinstance(error, PeerAsleep)
    assert WAKE_WITHIN_S * 0.9 <= took < WAKE_WITHIN_S + SLACK_S
    assert asked == 1


def test_a_peer_that_wakes_and_then_hangs_is_asleep_within_its_time(here: Site) -> None:
    """The time that a peer is given counts from the first try, whatever each try runs into."""
    here.config = here.config.model_copy(
        update={"sync": here.config.sync.model_copy(update={"wake_within": 3_000})}
    )
    here.replica.config = here.config
    error, _, took = fails(here, *[says(503)] * 3, hangs)
    assert isinstance(error, PeerAsleep)
    assert took < 4


def test_a_peer_that_stops_in_mid_answer_is_asleep_within_its_time(here: Site) -> None:
    """Headers and then silence is no better than silence."""
    error, _, took = fails(here, says(200, length=1000))
    assert isinstance(error, PeerUnreachable)
    assert took < WAKE_WITHIN_S + SLACK_S


def test_an_answer_that_drips_is_not_waited_for_for_ever(here: Site) -> None:
    """A byte now and then keeps a connection alive, but it does not keep a round alive."""
    with scripted(says(200, b"x", length=1_000_000, pause_s=WAKE_WITHIN_S / 4)) as peer:
        asking = PeerClient(
            Peer(name="b", url=peer.url),
            here.keyring,
            wake_within_s=WAKE_WITHIN_S,
            transfer_within_s=1,
        )
        started = time.monotonic()
        with pytest.raises(PeerMisbehaved, match="too slowly"):
            asking.pull(ASKING)
        assert time.monotonic() - started < 1 + WAKE_WITHIN_S + SLACK_S
        asking.close()


def test_a_web_page_is_misbehaviour(here: Site) -> None:
    """A 200 with HTML, such as a hoster's page, is told apart from a peer that is down."""
    error, asked, _ = fails(
        here, says(200, b"<html>parked</html>", headers={"Content-Type": "text/html"})
    )
    assert isinstance(error, PeerMisbehaved)
    assert "200" in str(error)
    assert error.hint is not None
    assert "url" in error.hint
    assert "keys" in error.hint
    assert asked == 1


@pytest.mark.parametrize("status", [204, 400, 403, 404, 405, 500])
def test_an_unsigned_answer_of_any_kind_is_misbehaviour(status: int, here: Site) -> None:
    """No status of somebody else's server is mistaken for a peer's, nor tried again."""
    error, asked, _ = fails(here, says(status))
    assert isinstance(error, PeerMisbehaved)
    assert str(status) in str(error)
    assert asked == 1


def test_a_host_that_refuses_the_size_is_named(here: Site) -> None:
    """An unsigned 413 is the proxy's in front of the peer, and says what to look for."""
    error, asked, _ = fails(here, says(413))
    assert isinstance(error, PeerRefused)
    assert "413" in str(error)
    assert asked == 1


def test_an_endless_body_is_cut_at_the_bound(here: Site) -> None:
    """An answer without an end is read up to the bound, not until memory is full."""
    error, asked, took = fails(here, says(200, bytes(1 << 20), length=None))
    assert isinstance(error, PeerMisbehaved)
    assert str(wire.BODY_BYTES_MAX) in str(error)
    assert asked == 1
    assert took < 10


def test_an_answer_that_unpacks_without_end_is_cut_at_the_bound(here: Site) -> None:
    """The bound holds after the content encoding is undone, whoever put it there."""
    packed = gzip.compress(bytes(wire.BODY_BYTES_MAX + 1_000_000), compresslevel=1)
    assert len(packed) < 1_000_000
    error, _, _ = fails(here, says(200, packed, headers={"Content-Encoding": "gzip"}))
    assert isinstance(error, PeerMisbehaved)
    assert str(wire.BODY_BYTES_MAX) in str(error)


def test_a_broken_content_encoding_is_misbehaviour(here: Site) -> None:
    """Bytes that are not what their encoding says are the peer's fault, not a crash."""
    error, asked, _ = fails(here, says(200, b"nonsense", headers={"Content-Encoding": "gzip"}))
    assert isinstance(error, PeerMisbehaved)
    assert asked == 1


def test_what_is_no_http_is_an_error_of_ours(here: Site) -> None:
    """A port that speaks something else gives a PeerError, not a library's exception."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(10)

        def talk() -> None:
            for _ in range(UNREACHABLE_TRIES):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"220 mail.example ESMTP\r\n")

        talking = threading.Thread(target=talk, daemon=True)
        talking.start()
        asking = client(here, f"http://127.0.0.1:{listening.getsockname()[1]}", Waits())
        with pytest.raises(PeerError):
            asking.pull(ASKING)
        asking.close()


def test_a_base_url_with_a_path_is_kept(here: Site, there: Site) -> None:
    """A peer may live below a path; requests go there, signed for that path."""
    with scripted(asks(there.app)) as peer:
        outcome = here.round(Peer(name="b", url=f"{peer.url}/licences/"))
        assert [request.path for request in peer.asked] == [f"/licences{wire.PULL}"]
    assert outcome.code == "peer_misbehaved"
