"""A round without news: the answer is empty where a bundle would only repeat the request."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncd import codec, packing, wire
from syncd.bundle import Mark
from syncd.config import Peer
from syncd.errors import PeerMisbehaved
from syncd.exchange import client_of
from wire.scripted import Answer, Asked, asks, scripted, signs
from wire.sites import Clock, Site, served, signed_headers


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """Two hosts that have the same, and have said so to each other; their clocks are apart."""
    clock = Clock()
    clock.ms += 400
    here, there = Site(tmp_path, "a", clock=clock), Site(tmp_path, "b")
    there.clock.ms = clock.ms  # type: ignore[attr-defined]
    here.add("mine", 1)
    there.add("theirs", 2)
    for one, other in ((here, there), (there, here), (here, there), (there, here), (here, there)):
        with served(other.app) as server:
            assert one.round(Peer(name="peer", url=server.url)).ok
    yield here, there
    here.close()
    there.close()


def asking(here: Site, there: Site, **changed: Any) -> wire.PullRequest:
    """Return what a host asks that has all its peer has, but for what is changed."""
    server = there.replica.origin()
    request = wire.PullRequest(
        node="a",
        vector=dict(here.replica.vector()),
        server=server,
        after=here.replica.peers.cursor(server),
        origin=here.replica.origin(),
        mark=here.replica.marks.last_of(server),
        brief=True,
    )
    return msgspec.structs.replace(request, **changed)


def answer(there: Site, request: wire.PullRequest) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an answer."""
    body = packing.encode(request)
    found = there.call(wire.PULL, body, signed_headers(there.keyring, wire.PULL, body))
    assert found.status_code == 200
    return dict(found.headers), found.data


def test_nothing_to_say_is_said_with_nothing(pair: tuple[Site, Site]) -> None:
    """The answer has no body and no media type, and is signed."""
    headers, body = answer(pair[1], asking(*pair))
    assert body == b""
    assert "Content-Type" not in headers
    assert "Signature" in headers


def test_the_round_is_one_like_any_other(pair: tuple[Site, Site]) -> None:
    """It succeeds, and the peer counts as heard at that time."""
    here, there = pair
    here.clock.move_s(10)  # type: ignore[attr-defined]
    there.clock.move_s(10)  # type: ignore[attr-defined]
    with scripted(asks(there.app)) as peer:
        outcome = here.round(Peer(name="peer", url=peer.url))
        (asked,) = peer.asked
    assert outcome.ok
    assert answer_to(there, asked) == b""
    (status,) = here.sql("SELECT success_ms, offset_ms FROM syncd_peer WHERE name = 'peer'")
    assert status == (here.clock(), 0)
    assert here.sql("SELECT node FROM syncd_origin ORDER BY node") == [("a",), ("b",)]


def answer_to(there: Site, asked: Asked) -> bytes:
    """Return what a host answers to the body of a request."""
    return answer(there, packing.decode(asked.body, wire.PullRequest))[1]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"brief": False}, "a host of an earlier version reads no empty answer"),
        ({"server": b""}, "it has never heard of this host"),
        ({"server": b"o" * 16}, "the host is another since"),
        ({"after": 0}, "its cursor stands elsewhere"),
        ({"vector": {}}, "it lacks something"),
        ({"mark": None}, "it has not heard the mark"),
        ({"mark": Mark(1, 7)}, "it has heard another"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_not_repeated_is_said(
    pair: tuple[Site, Site], changed: dict[str, Any], why: str
) -> None:
    """Unless all that a bundle would say stands in the request, there is one."""
    _, body = answer(pair[1], asking(*pair, **changed))
    assert len(list(codec.Reader(io.BytesIO(body)))) == 1, why


def test_news_is_said(pair: tuple[Site, Site]) -> None:
    """A write ends it, and so does a change that comes from elsewhere."""
    here, there = pair
    there.add("more", 3)
    _, body = answer(there, asking(*pair))
    (frame,) = codec.Reader(io.BytesIO(body))
    assert sum(map(len, frame.sections)) == 1
    with served(there.app) as server:
        assert here.round(Peer(name="peer", url=server.url)).applied == 1


def test_withdrawals_are_said(pair: tuple[Site, Site]) -> None:
    """They stand in no request, so whoever knows of any is never brief."""
    there = pair[1]
    there.sql("INSERT INTO syncd_withdrawn SELECT ordinal, 90, 99, 7 FROM syncd_origin LIMIT 1")
    _, body = answer(there, asking(*pair))
    assert len(codec.Reader(io.BytesIO(body)).header.withdrawn) == 1


def test_forks_are_heard_from_who_asks(pair: tuple[Site, Site]) -> None:
    """A host that is only asked learns of them all the same; both knowing it, nothing is said."""
    here, there = pair
    forks = {here.replica.origin(): 5, b"f" * 16: 7}
    assert answer(there, asking(*pair, forks=forks))[1] == b""
    assert there.replica.forks() == forks
    (frame,) = codec.Reader(io.BytesIO(answer(there, asking(*pair))[1]))
    assert not frame.sections


def test_a_mark_that_was_lost_is_heard_again(pair: tuple[Site, Site]) -> None:
    """The first answer has it, so the second can be empty."""
    here, there = pair
    before = here.replica.marks.last_of(there.replica.origin())
    with contextlib.closing(sqlite3.connect(f"{here.database}-syncd")) as sidecar, sidecar:
        sidecar.execute("DELETE FROM heard")
    with scripted(asks(there.app)) as peer:
        for _ in range(2):
            assert here.round(Peer(name="peer", url=peer.url)).ok
        first, second = peer.asked
    assert answer_to(there, first) != b""
    assert answer_to(there, second) == b""
    assert before is not None
    assert here.replica.marks.last_of(there.replica.origin()) == before


@pytest.mark.parametrize(("ahead_s", "seen_ms"), [(0.4, 0), (40, 40_000), (-40, -40_000)])
def test_a_clock_that_is_off_is_seen(pair: tuple[Site, Site], ahead_s: float, seen_ms: int) -> None:
    """By an empty answer it is known to a second."""
    here, there = pair
    there.clock.move_s(ahead_s)  # type: ignore[attr-defined]
    with served(there.app) as server:
        assert here.round(Peer(name="peer", url=server.url)).ok
    ((offset_ms,),) = here.sql("SELECT offset_ms FROM syncd_peer WHERE name = 'peer'")
    assert abs(offset_ms - seen_ms) < 1_000
    assert (offset_ms == 0) == (seen_ms == 0)


def test_an_empty_answer_that_was_not_asked_for_is_none(pair: tuple[Site, Site]) -> None:
    """Who has never heard of the peer asks for a bundle."""
    here, there = pair
    script = signs(there.keyring, 200, b"")
    with scripted(script) as peer, contextlib.ExitStack() as stack:
        client = client_of(here.replica, Peer(name="peer", url=peer.url))
        stack.callback(client.close)
        with pytest.raises(PeerMisbehaved):
            client.pull(asking(*pair, brief=False))


def test_an_empty_answer_that_nobody_signed_is_not_believed(pair: tuple[Site, Site]) -> None:
    """A proxy that says 200 to everything is no peer that has no news."""
    with scripted(lambda _, __: Answer(200)) as peer:
        outcome = pair[0].round(Peer(name="peer", url=peer.url))
    assert (outcome.ok, outcome.code) == (False, "peer_misbehaved")
