"""Deny only on fresh data: hosts that ask their peers over real sockets before they say no."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from licence_site import DEVICE, MakeSite, Serve, Site

import syncd

SOON = {"fresh_for": "300ms", "fresh_wait": "3s"}


@pytest.fixture
def there(make_site: MakeSite) -> Site:
    """Make a peer."""
    return make_site(node="there")


@pytest.fixture
def here(make_site: MakeSite, there: Site, serve: Serve) -> Site:
    """Make a host with a peer that answers; its data is old after 300 ms."""
    return make_site(SOON, peer=serve(there))


def _rounds(monkeypatch: pytest.MonkeyPatch, seconds: float = 0) -> list[float]:
    """Count the rounds, each taking some time more."""
    real, rounds = syncd.catch_up, []

    def counted(replica: syncd.Replica, within_s: float) -> bool:
        rounds.append(time.monotonic())
        time.sleep(seconds)
        return real(replica, within_s)

    monkeypatch.setattr("syncd.catch_up", counted)
    return rounds


def test_a_device_that_a_peer_knows_is_not_denied(here: Site, there: Site) -> None:
    """A licence sold on the peer a moment ago is asked for and found."""
    there.add_device()
    assert here.verify().get_json()["allow"] is True


def test_a_device_that_no_peer_knows_is_denied(here: Site) -> None:
    """Once a peer has said all that it has, an unknown device is one for sure."""
    assert here.verify().get_json() == {"allow": False, "msg": "ID não registrado."}


@pytest.mark.parametrize(
    "column", ["status = 'blocked'", "status = 'pending'", "end_date = '2026-01-01'"]
)
def test_a_denial_that_a_peer_has_overturned_is_not_given(
    here: Site, there: Site, column: str
) -> None:
    """A block that was lifted, an approval and a renewal on the peer count at once."""
    there.add_device()
    there.sql(f"UPDATE devices SET {column}")
    assert here.verify().get_json()["allow"] is False
    there.sql("UPDATE devices SET status = 'active', end_date = '2027-01-10'")
    time.sleep(0.35)
    assert here.verify().get_json()["allow"] is True


def test_old_data_denies_nothing_when_no_peer_answers(
    make_site: MakeSite, there: Site, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in step is not for ever: when the peer is gone, the host sends its client on."""
    here = make_site(SOON, peer=serve(there))
    assert here.verify().status_code == 403
    monkeypatch.setattr("syncd.catch_up", lambda *_: False)
    time.sleep(0.35)
    response = here.verify()
    assert response.status_code == 503
    assert b'"allow"' not in response.data


def test_an_approval_asks_nobody(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A licence that is good here is answered from here, however old the data."""
    rounds = _rounds(monkeypatch)
    here.add_device()
    assert here.verify().get_json()["allow"] is True
    assert rounds == []


def test_fresh_data_asks_nobody(
    make_site: MakeSite, there: Site, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a good round of whoever, the daemon's too, denials need no other for ten seconds."""
    here = make_site(peer=serve(there))
    syncd.sync_now(here.host.replica)
    rounds = _rounds(monkeypatch)
    assert {here.verify(f"{n:032}").status_code for n in range(20)} == {403}
    assert rounds == []


def test_a_clock_that_was_turned_back_makes_nothing_fresh(
    make_site: MakeSite, there: Site, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last round in the future proves nothing."""
    here = make_site(peer=serve(there))
    syncd.sync_now(here.host.replica)
    now_ms = here.host.replica.wall_ms()
    monkeypatch.setattr(here.host.replica, "wall_ms", lambda: now_ms - 60_000)
    rounds = _rounds(monkeypatch)
    here.verify()
    assert len(rounds) == 1


def test_requests_at_once_share_one_round(
    here: Site, there: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four clients that ask together cost one round, and each gets its answer."""
    there.add_device()
    rounds = _rounds(monkeypatch, seconds=0.1)
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: here.verify().get_json(), range(4)))
    assert all(answer["allow"] is True for answer in answers)
    assert len(rounds) == 1


def test_a_flood_costs_few_rounds_and_holds_no_other_up(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no peer answers, unknown ids wait in half of the threads at most, and then do not."""
    here = make_site({"fresh_wait": "1s"}, peer="http://127.0.0.1:1")
    rounds = _rounds(monkeypatch, seconds=0.2)
    started = time.monotonic()
    with ThreadPoolExecutor(16) as clients:
        statuses = list(clients.map(lambda n: here.verify(f"{n:032}").status_code, range(64)))
    took_s = time.monotonic() - started
    assert set(statuses) == {503}
    assert len(rounds) <= 1 + took_s


def test_a_round_that_found_nobody_is_not_repeated_at_once(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks next, within `fresh_wait`, is sent on without another round."""
    here = make_site({"fresh_wait": "1m"}, peer="http://127.0.0.1:1")
    rounds: list[syncd.Replica] = []

    def nobody(replica: syncd.Replica, _: float) -> bool:
        rounds.append(replica)
        return False

    monkeypatch.setattr("syncd.catch_up", nobody)
    assert [here.verify(f"{n:032}").status_code for n in range(3)] == [503] * 3
    assert len(rounds) == 1


def test_a_peer_that_hangs_is_not_waited_for_longer(
    make_site: MakeSite, there: Site, serve: Serve
) -> None:
    """A peer that accepts and says nothing costs `fresh_wait`, then the client goes on."""
    stuck = threading.Event()

    def hang() -> None:
        stuck.wait(5)

    there.app.before_request(hang)
    here = make_site({"fresh_wait": "500ms"}, peer=serve(there))
    started = time.monotonic()
    try:
        assert here.verify().status_code == 503
        assert time.monotonic() - started < 3
    finally:
        stuck.set()


def test_a_host_without_peers_asks_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, a host is sure of itself."""
    rounds = _rounds(monkeypatch)
    assert site.verify(DEVICE).status_code == 403
    assert rounds == []
