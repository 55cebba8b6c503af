"""Rounds over real sockets: what is exchanged, in how many frames, where a broken one goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from syncd import exchange, wire
from syncd.config import Peer
from syncd.exchange import Outcome, Stopped, client_of, run_round
from syncd.vector import Vector
from wire.scripted import scripted, signs
from wire.sites import NEW, Clock, Served, Site, packed, served

ROWS = 22_000
FRAMES = 3
"""What ROWS take, at 8,000 entries a frame."""


class Meet(Protocol):
    """Makes a host and serves it; the options are those of `Site`."""

    def __call__(self, node: str, **options: object) -> tuple[Site, Served]: ...


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Meet]:
    with contextlib.ExitStack() as stack:

        def make(node: str, **options: object) -> tuple[Site, Served]:
            site = Site(tmp_path, node, **options)  # type: ignore[arg-type]
            stack.callback(site.close)
            return site, stack.enter_context(served(site.app))

        yield make


def peer_at(server: Served, name: str = "there", *, push: bool = False) -> Peer:
    return Peer(name=name, url=server.url, push=push)


def stop_after(frames: int) -> Callable[[], bool]:
    """Ask the round to stop between two frames, after so many of them."""
    asked = 0

    def is_stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked >= frames

    return is_stopping


def state(site: Site) -> tuple[object, ...]:
    """Return what a host has merged and shows."""
    return site.notes(), dict(site.replica.vector())


def test_a_pull_takes_as_many_frames_as_it_needs(meet: Meet) -> None:
    """A large difference comes in frames of bounded size, each asked for by itself."""
    (here, _), (there, server) = meet("a"), meet("b")
    there.add_many(ROWS)
    outcome = here.round(peer_at(server))
    assert (outcome.ok, outcome.applied) == (True, ROWS)
    assert server.count(wire.PULL) == FRAMES
    assert here.notes() == there.notes()


def test_a_round_without_news_is_one_request_and_writes_nothing_of_the_users(meet: Meet) -> None:
    """Hosts that are in step cost one small request a round, and leave the peer's file alone."""
    (here, _), (there, server) = meet("a"), meet("b")
    there.add("x")
    here.round(peer_at(server))
    # Once more: now the peer has heard what we have.
    here.round(peer_at(server))
    theirs, mine = there.dump(), state(here)
    outcome = here.round(peer_at(server))
    assert outcome == Outcome(peer="there", ok=True, seconds=outcome.seconds)
    assert server.requests == [wire.PULL, wire.PULL, wire.PULL]
    assert there.dump() == theirs
    assert state(here) == mine


def test_a_stopped_round_goes_on_at_the_frame(meet: Meet) -> None:
    """What was merged before the stop is not pulled again, nor is anything left out."""
    (here, _), (there, server) = meet("a"), meet("b")
    there.add_many(ROWS)
    client = client_of(here.replica, peer_at(server))
    with pytest.raises(Stopped):
        run_round(here.replica, client, stop_after(1))
    client.close()
    assert server.count(wire.PULL) == 1
    assert 0 < len(here.notes()) < ROWS
    assert here.round(peer_at(server)).ok
    assert server.count(wire.PULL) == FRAMES
    assert here.notes() == there.notes()


def test_a_round_cut_off_goes_on_at_the_frame_after_a_restart(meet: Meet, tmp_path: Path) -> None:
    """The peer dies between two frames, then this process does; the next one goes on there."""
    (here, _), (there, server) = meet("a"), meet("b")
    there.add_many(ROWS)
    server.fail_after = 2
    outcome = here.round(peer_at(server))
    assert (outcome.ok, outcome.code) == (False, "peer_misbehaved")
    assert server.count(wire.PULL) == 2
    here.close()
    server.fail_after = None
    restarted = Site(tmp_path, "a")
    assert restarted.round(peer_at(server)).ok
    assert server.count(wire.PULL) == FRAMES
    assert restarted.notes() == there.notes()
    restarted.close()


def test_an_unfinished_pull_claims_nothing(meet: Meet) -> None:
    """Until the last frame is in, a host does not tell anyone that it has what the peer has."""
    (here, _), (there, server) = meet("a"), meet("b")
    there.add_many(ROWS)
    client = client_of(here.replica, peer_at(server))
    with pytest.raises(Stopped):
        run_round(here.replica, client, stop_after(2))
    client.close()
    assert here.replica.vector()[there.replica.origin()] == 0


def test_writes_between_two_frames_are_not_lost(meet: Meet) -> None:
    """A row that the peer changes while it is being pulled arrives with its last value."""
    (here, _), (there, server) = meet("a"), meet("b")
    there.add_many(ROWS)
    client = client_of(here.replica, peer_at(server))
    with pytest.raises(Stopped):
        run_round(here.replica, client, stop_after(1))
    client.close()
    there.sql("UPDATE note SET body = 'new' WHERE name IN ('1', '20000')")
    there.sql("DELETE FROM note WHERE name IN ('2', '20001')")
    there.add("late")
    assert here.round(peer_at(server)).ok
    assert here.notes() == there.notes()
    assert len(here.notes()) == ROWS - 1


def test_a_push_peer_is_both_pulled_from_and_pushed_to(meet: Meet) -> None:
    """A host that runs no daemon gets and gives everything in one round of the other's."""
    (here, _), (there, server) = meet("a"), meet("b")
    here.add("mine", 1)
    there.add("theirs", 2)
    outcome = here.round(peer_at(server, push=True))
    assert (outcome.ok, outcome.applied, outcome.sent) == (True, 1, 1)
    assert here.notes() == there.notes() == {"mine": 1, "theirs": 2}
    assert server.requests == [wire.PULL, wire.STATUS, wire.PUSH]


def test_a_peer_without_push_is_only_pulled_from(meet: Meet) -> None:
    """Without push: true nothing is written on the other side."""
    (here, _), (there, server) = meet("a"), meet("b")
    here.add("mine", 1)
    there.add("theirs", 2)
    before = there.notes()
    assert here.round(peer_at(server)).sent == 0
    assert there.notes() == before
    assert set(server.requests) == {wire.PULL}


def test_a_push_goes_in_frames_and_goes_on_at_the_frame(meet: Meet) -> None:
    """A push that is stopped between two frames does not send the first one again."""
    (here, _), (there, server) = meet("a"), meet("b")
    here.add_many(ROWS)
    peer = peer_at(server, push=True)
    client = client_of(here.replica, peer)
    with pytest.raises(Stopped):
        run_round(here.replica, client, stop_after(1))
    client.close()
    assert server.count(wire.PUSH) == 1
    outcome = here.round(peer)
    assert outcome.ok
    assert 0 < outcome.sent < ROWS
    assert server.count(wire.PUSH) == FRAMES
    assert there.notes() == here.notes()


def test_a_push_begins_anew_where_its_receiver_has_less_than_it_said(meet: Meet) -> None:
    """It has learned of a fork in between."""
    (here, _), (there, _) = meet("a"), meet("b")
    here.add("one")
    pushes = []

    def learning(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == wire.PUSH:
            pushes.append(environ)
            there.replica.guard.learn({here.replica.origin(): 0} if len(pushes) == 2 else {})
        return there.app(environ, start_response)

    with served(learning) as server:
        assert here.round(peer_at(server, push=True)).sent == 1
        here.add("two")
        outcome = here.round(peer_at(server, push=True))
    assert (outcome.ok, outcome.sent) == (True, 2)
    assert set(there.notes()) == {"one", "two"}
    assert len(pushes) == 3


def test_what_was_pushed_does_not_come_back(meet: Meet) -> None:
    """The next round in either direction finds nothing to apply and nothing to send."""
    (here, mine), (there, server) = meet("a"), meet("b")
    here.add("mine", 1)
    there.add("theirs", 2)
    here.round(peer_at(server, push=True))
    again = here.round(peer_at(server, push=True))
    back = there.round(peer_at(mine, push=True))
    for outcome in (again, back):
        assert (outcome.ok, outcome.applied, outcome.conflicting, outcome.sent) == (True, 0, 0, 0)


def test_changes_travel_on_through_a_host_in_between(meet: Meet) -> None:
    """C, which knows only B, gets A's rows, deletions and all, under A's name."""
    (a, at_a), (b, at_b), (c, _) = meet("a"), meet("b"), meet("c")
    a.add("kept", 1)
    a.add("doomed", 2)
    for receiver, sender in ((b, at_a), (c, at_b)):
        assert receiver.round(peer_at(sender)).ok
    assert c.notes() == {"kept": 1, "doomed": 2}
    a.sql("DELETE FROM note WHERE name = 'doomed'")
    a.sql("UPDATE note SET body = 3 WHERE name = 'kept'")
    for receiver, sender in ((b, at_a), (c, at_b)):
        assert receiver.round(peer_at(sender)).ok
    assert c.notes() == {"kept": 3}
    assert c.replica.vector()[a.replica.origin()] == a.replica.vector()[a.replica.origin()]


def test_changes_travel_through_hosts_that_push_and_pull(meet: Meet) -> None:
    """A pushes to B, which cannot call anyone; C pulls from B; nobody calls A or C."""
    (a, at_a), (b, at_b), (c, at_c) = meet("a"), meet("b"), meet("c")
    a.add("from a", 1)
    c.add("from c", 3)
    assert a.round(peer_at(at_b, push=True)).ok
    assert c.round(peer_at(at_b, push=True)).ok
    assert a.round(peer_at(at_b, push=True)).ok
    assert a.notes() == b.notes() == c.notes() == {"from a": 1, "from c": 3}
    assert at_a.requests == at_c.requests == []


def test_a_peer_that_lost_its_disk_gets_everything_again(meet: Meet, tmp_path: Path) -> None:
    """An empty file under the peer's old name and address is filled by pull and by push."""
    (here, mine), (there, server) = meet("a"), meet("b")
    here.add("mine", 1)
    there.add("theirs", 2)
    assert here.round(peer_at(server, push=True)).ok
    assert there.round(peer_at(mine)).ok
    server.stop()
    there.close()
    for file in tmp_path.glob("b.db*"):
        file.unlink()
    reborn, reborn_server = meet("b")
    assert reborn.notes() == {}
    reborn.add("anew", 3)
    assert here.round(peer_at(reborn_server, push=True)).ok
    assert reborn.notes() == here.notes() == {"mine": 1, "theirs": 2, "anew": 3}
    assert reborn.round(peer_at(mine)).ok


def test_both_directions_at_once_agree(meet: Meet) -> None:
    """Both hosts write the same rows, then each pulls from the other: equal, conflicts logged."""
    (a, at_a), (b, at_b) = meet("a"), meet("b")
    for site in (a, b):
        for number in range(20):
            site.add(f"n{number}", f"{site.config.node}{number}")
    assert a.round(peer_at(at_b)).ok
    assert b.round(peer_at(at_a)).ok
    assert a.round(peer_at(at_b)).ok
    assert a.notes() == b.notes()
    assert a.replica.status().conflicts + b.replica.status().conflicts > 0


def test_hosts_with_other_keys_exchange_nothing(meet: Meet) -> None:
    """A round with a host of another vendor is refused, remembered as such, and merges nothing."""
    (here, _), (there, server) = meet("a"), meet("b", keys=(NEW,))
    here.add("mine", 1)
    there.add("theirs", 2)
    before = there.dump()
    outcome = here.round(peer_at(server, push=True))
    assert (outcome.ok, outcome.code) == (False, "peer_refused")
    assert here.notes() == {"mine": 1}
    assert there.dump() == before


def test_an_outcome_is_remembered_until_the_next(meet: Meet) -> None:
    """Status tells the last success and the last error, and a success clears the error."""
    (here, _), (there, server) = meet("a", peers=[_placeholder()]), meet("b")
    there.add("x")
    peer = peer_at(server)
    assert here.round(peer).ok
    first = here.replica.status().peers[0]
    assert (first.success_ms, first.error, first.behind) == (here.clock(), None, 0)
    server.fail_after = 0
    assert isinstance(here.clock, Clock)
    here.clock.move_s(10)
    failed_ms = here.clock()
    assert not here.round(peer).ok
    second = here.replica.status().peers[0]
    assert (second.success_ms, second.error_ms) == (first.success_ms, failed_ms)
    assert second.error is not None
    assert second.error_code == "peer_misbehaved"
    server.fail_after = None
    here.clock.move_s(10)
    assert here.round(peer).ok
    third = here.replica.status().peers[0]
    assert (third.success_ms, third.error, third.error_code) == (here.clock(), None, None)


def test_a_round_with_a_peer_that_has_nothing_yet_is_a_success(meet: Meet) -> None:
    """Two hosts without a single row are in step, and are shown to be."""
    (here, _), (_, server) = meet("a", peers=[_placeholder()]), meet("b")
    assert here.replica.peers.in_step_ms() is None
    assert here.round(peer_at(server)).ok
    (peer,) = here.replica.status().peers
    assert (peer.success_ms, peer.error) == (here.clock(), None)
    assert here.replica.peers.in_step_ms() == here.clock()


def test_a_round_with_oneself_is_none(meet: Meet) -> None:
    """Whoever asks nobody else may not take itself for being in step."""
    here, server = meet("a")
    here.add("x")
    for _ in range(2):
        outcome = here.round(peer_at(server, push=True))
        assert (outcome.ok, outcome.code) == (False, "peer_misbehaved")
        assert "is this host itself" in str(outcome.error)
    assert here.replica.peers.in_step_ms() is None


@pytest.mark.parametrize("offset_s", [90, -90])
def test_the_clock_offset_of_a_peer_is_measured(offset_s: int, meet: Meet) -> None:
    """Status says how far the peer's clock is ahead of ours, or behind it."""
    clock = Clock()
    clock.move_s(offset_s)
    (here, _), (_, server) = meet("a", peers=[_placeholder()]), meet("b", clock=clock)
    assert here.round(peer_at(server)).ok
    (peer,) = here.replica.status().peers
    assert peer.offset_ms is not None
    assert abs(peer.offset_ms - offset_s * 1000) <= 2000


def test_a_peer_whose_clock_is_far_off_is_refused_with_a_hint(meet: Meet) -> None:
    """Beyond max_clock_drift no signature holds; the error points at the clocks."""
    clock = Clock()
    clock.move_s(3600)
    (here, _), (there, server) = meet("a"), meet("b", clock=clock)
    there.add("x")
    outcome = here.round(peer_at(server))
    assert outcome.code == "peer_refused"
    assert outcome.hint is not None
    assert "clocks" in outcome.hint
    assert here.notes() == {}


def test_sync_now_runs_one_round_with_each_peer_whatever_fails(meet: Meet) -> None:
    """A dead peer before a live one does not keep the live one from being synced."""
    (there, server) = meet("b")
    there.add("x", 1)
    here, _ = meet(
        "a",
        peers=[
            {"name": "dead", "url": "http://127.0.0.1:1"},
            {"name": "live", "url": server.url},
        ],
    )
    dead, live = exchange.sync_now(here.replica)
    assert (dead.peer, dead.ok, dead.code) == ("dead", False, "peer_unreachable")
    assert (live.peer, live.ok, live.applied) == ("live", True, 1)
    assert here.notes() == {"x": 1}


@pytest.mark.parametrize("prefix", ["/licences", "/v1.0/~me", "/a+b:c@d"])
def test_a_blueprint_may_be_mounted_below_a_path(prefix: str, tmp_path: Path) -> None:
    """The signature covers the path as the peer asked for it, wherever the application lives."""
    here, there = Site(tmp_path, "a"), Site(tmp_path, "b")
    there.add("x", 1)
    with served(DispatcherMiddleware(_nothing, {prefix: there.app.wsgi_app})) as server:
        outcome = here.round(Peer(name="b", url=f"{server.url}{prefix}"))
    assert outcome.error is None
    assert here.notes() == {"x": 1}
    here.close()
    there.close()


def _placeholder() -> dict[str, str]:
    return {"name": "there", "url": "http://127.0.0.1:1"}


def _nothing(_: object, start_response: Callable[..., object]) -> list[bytes]:
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]


def test_a_peer_that_never_comes_to_an_end_is_misbehaviour(tmp_path: Path) -> None:
    """Frames that promise more and bring nothing further end the round."""
    here, there = Site(tmp_path, "a"), Site(tmp_path, "b")
    there.add("x", 1)
    header, frame = there.replica.changes_since(Vector())
    stuck = packed(header, msgspec.structs.replace(frame, claim=None))
    with scripted(signs(there.keyring, 200, stuck)) as peer:
        client = client_of(here.replica, Peer(name="b", url=peer.url))
        outcome = run_round(here.replica, client, stop_after(20))
        client.close()
    assert (outcome.ok, outcome.code) == (False, "peer_misbehaved")
    here.close()
    there.close()
