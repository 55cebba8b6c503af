"""Nudges and long polls: news is told, not only asked for."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd import codec, packing, wire
from syncd.config import Peer
from syncd.exchange import client_of
from syncd.nudges import Nudges
from syncd.troubles import Troubles
from syncd.vector import Vector
from syncd.watch import Nudger, Watch
from wire.sites import Clock, Site, served, signed_headers


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """Two hosts with clocks of their own; a has a row."""
    clock = Clock()
    a, b = (Site(tmp_path, node, clock=clock) for node in "ab")
    a.add("x", 1)
    yield a, b
    a.close()
    b.close()


def nudge_of(sender: Site) -> bytes:
    """Return the nudge that a host sends of all it has."""
    replica = sender.replica
    return packing.encode(wire.Nudge(replica.config.node, replica.origin(), dict(replica.claim())))


def waiting_pull(asker: Site, wait_ms: int) -> bytes:
    """Ask for everything that is new, and be ready to wait for it."""
    replica = asker.replica
    return packing.encode(
        wire.PullRequest(replica.config.node, dict(replica.vector()), b"", 0, wait_ms=wait_ms)
    )


def post(site: Site, path: str, body: bytes, *, multithread: bool = True) -> tuple[int, bytes]:
    """Send a signed request into a site's application; return status and body."""
    answer = site.app.test_client().post(
        path,
        data=body,
        headers=signed_headers(site.keyring, path, body),
        environ_overrides={"wsgi.multithread": multithread},
    )
    return answer.status_code, answer.data


def test_a_nudge_with_news_is_left_for_the_daemon(pair: tuple[Site, Site]) -> None:
    """The API takes it in, the daemon takes it out, once."""
    a, b = pair
    assert post(b, wire.NUDGE, nudge_of(a)) == (200, b"")
    nudges = Nudges(b.replica.config.database)
    assert nudges.take() == [a.replica.origin()]
    assert nudges.take() == []


def test_a_nudge_without_news_is_forgotten(pair: tuple[Site, Site]) -> None:
    """What came by another road need not be asked for again."""
    a, b = pair
    with served(a.app) as server:
        b.round(Peer(name="a", url=server.url))
    post(b, wire.NUDGE, nudge_of(a))
    assert Nudges(b.replica.config.database).take() == []


def test_a_nudge_tells_of_writes_that_are_not_folded(pair: tuple[Site, Site]) -> None:
    """Else the first to hear of a write would be the one that came to fold it."""
    a, b = pair
    with served(a.app) as server:
        b.round(Peer(name="a", url=server.url))
    a.add("y", 2)
    assert a.replica.status().journal == 1
    post(b, wire.NUDGE, nudge_of(a))
    assert Nudges(b.replica.config.database).take() == [a.replica.origin()]
    assert a.replica.status().journal == 1


def test_a_nudge_that_is_not_signed_is_refused(pair: tuple[Site, Site]) -> None:
    """Anybody could keep the daemon busy otherwise."""
    a, b = pair
    assert b.app.test_client().post(wire.NUDGE, data=nudge_of(a)).status_code == 401
    assert Nudges(b.replica.config.database).take() == []


def test_a_pull_that_finds_nothing_waits_for_news(pair: tuple[Site, Site]) -> None:
    """The answer comes as soon as a row is written, by whatever program."""
    a, b = pair
    with served(a.app) as server:
        b.round(Peer(name="a", url=server.url))
    writer = threading.Timer(0.3, a.add, ("y", 2))
    writer.start()
    started = time.monotonic()
    _, answer = post(a, wire.PULL, waiting_pull(b, 5_000))
    took_s = time.monotonic() - started
    writer.join()
    (frame,) = codec.Reader(io.BytesIO(answer))
    assert [section.table for section in frame.sections] == ["note"]
    assert 0.2 < took_s < 4


@pytest.mark.parametrize(
    "reason", ["not asked to", "single thread", "a peer that is nudged", "no thread to spare"]
)
def test_a_pull_is_answered_at_once(pair: tuple[Site, Site], reason: str) -> None:
    """A waiting request must not keep clients from the API, nor wait in vain."""
    a, b = pair
    with served(a.app) as server, served(b.app) as other:
        b.round(Peer(name="a", url=server.url))
        if reason == "a peer that is nudged":
            peer = Peer(name="b", url=other.url)
            a.replica.config = a.replica.config.model_copy(update={"peers": (peer,)})
            a.round(peer)
    held = []
    if reason == "no thread to spare":
        for _ in range(2):  # of eight threads
            held.append(threading.Thread(target=post, args=(a, wire.PULL, waiting_pull(b, 3_000))))
        for thread in held:
            thread.start()
        time.sleep(0.5)
    started = time.monotonic()
    status, _ = post(
        a,
        wire.PULL,
        waiting_pull(b, 0 if reason == "not asked to" else 3_000),
        multithread=reason != "single thread",
    )
    assert status == 200
    assert time.monotonic() - started < 2
    for thread in held:
        thread.join()


def test_a_commit_by_any_program_is_noticed_and_told(pair: tuple[Site, Site]) -> None:
    """The watch sees it, the nudger tells the peer, the peer's daemon finds the nudge.

    Until then the news is folded, so that the pull that follows need not do it.
    """
    a, b = pair
    woken: list[str] = []
    stopping = threading.Event()
    with served(b.app) as server:
        peer = Peer(name="b", url=server.url)
        a.replica.config = a.replica.config.model_copy(update={"peers": (peer,)})
        nudger = Nudger(a.replica, client_of(a.replica, peer))
        wake = {"b": lambda: woken.append("b")}
        watch = Watch(a.replica, wake, {"b": nudger}, Troubles())
        threads = [
            threading.Thread(target=run, args=(stopping,)) for run in (watch.run, nudger.run)
        ]
        for thread in threads:
            thread.start()
        a.add("y", 2)
        nudges = Nudges(b.replica.config.database)
        deadline = time.monotonic() + 10
        while not (found := nudges.take()) and time.monotonic() < deadline:
            time.sleep(0.02)
        stopping.set()
        for thread in threads:
            thread.join()
    assert found == [a.replica.origin()]
    assert woken == []
    assert a.replica.status().journal == 0


def test_a_peer_that_has_everything_is_not_nudged(pair: tuple[Site, Site]) -> None:
    """What came from a peer is no news to it."""
    a, b = pair
    with served(a.app) as server:
        b.round(Peer(name="a", url=server.url))
        nudger = Nudger(b.replica, client_of(b.replica, Peer(name="a", url=server.url)))
        nudger.wanted.set()
        stopping = threading.Event()
        thread = threading.Thread(target=nudger.run, args=(stopping,))
        thread.start()
        time.sleep(0.3)
        stopping.set()
        thread.join()
        assert server.count(wire.NUDGE) == 0
    assert b.replica.peers.told("a") == Vector(a.replica.claim())


def test_one_thing_is_told_once(pair: tuple[Site, Site]) -> None:
    """The fold is a commit like any other, and nothing that a peer would not know of."""
    a, b = pair
    with served(b.app) as server:
        nudger = Nudger(a.replica, client_of(a.replica, Peer(name="b", url=server.url)))
        stopping = threading.Event()
        thread = threading.Thread(target=nudger.run, args=(stopping,), daemon=True)
        thread.start()
        for expected in (1, 1, 2):
            if expected == 2:
                a.add("y", 2)
            nudger.wanted.set()
            deadline = time.monotonic() + 10
            while server.count(wire.NUDGE) < expected and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.3)
            assert server.count(wire.NUDGE) == expected
        stopping.set()
        thread.join()
