"""Who has said what it has is listed, and can be forgotten; far behind hosts catch up by rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.cli_host import CliHost, refused
from syncd import Replica, load_config


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliHost, CliHost]:
    """Two hosts; `a` remembers deletions for no time at all."""
    a = CliHost(tmp_path / "a").ready()
    b = CliHost(tmp_path / "b", node="b").ready()
    a.write_config(sync={**a.tree["sync"], "retention": "0ms"})
    return a, b


def compact(host: CliHost) -> None:
    """Forget what is past the retention, as the daemon does once an hour."""
    replica = Replica(load_config(host.config))
    replica.compact()
    replica.close()


def test_a_peer_that_asked_is_listed_until_it_is_forgotten(pair: tuple[CliHost, CliHost]) -> None:
    """By the name it gave; it is not configured on the host that lists it."""
    a, b = pair
    a.write_config(sync={**a.tree["sync"], "retention": "1d"})
    a.add("x", 1)
    assert a.json("peers") == []
    assert "no peer has been heard of" in a.run("peers").stdout
    with a.serving() as server:
        b.write_config(peers=[{"name": "a", "url": server.url}])
        assert b.run("sync").exit_code == 0
        (heard,) = a.json("peers")
        assert (heard["name"], heard["state"], heard["lacks"]) == ("b", "live", 1)
        assert b.run("sync").exit_code == 0
        (heard,) = a.json("peers")
        assert heard["lacks"] == 0
    assert "live" in a.run("peers").stdout
    refused(a.run("peers", "forget", "c"), "no host 'c' has said what it has")
    assert a.json("peers", "forget", "b") == {"name": "b"}
    assert a.json("peers") == []


def test_a_host_far_behind_catches_up_in_a_round(pair: tuple[CliHost, CliHost]) -> None:
    """What was deleted and forgotten meanwhile goes, what it wrote itself stays; status says so."""
    a, b = pair
    a.add("kept", 1)
    a.add("gone", 2)
    with a.serving() as server:
        b.write_config(peers=[{"name": "a", "url": server.url}])
        assert b.run("sync").exit_code == 0
        b.add("mine", 3)
        a.sql("DELETE FROM note WHERE name = 'gone'")
        compact(a)
        assert "deletions forgotten up to" in a.run("status").stdout
        (heard,) = a.json("peers")
        assert heard["state"] == "behind"
        assert b.run("sync").exit_code == 0
    assert b.notes() == {"kept": 1, "mine": 3}
    assert b.json("status")["forgotten_ms"] == a.json("status")["forgotten_ms"]


def test_a_host_far_behind_is_pushed_a_snapshot(pair: tuple[CliHost, CliHost]) -> None:
    """B runs no daemon; A's round brings it everything, and takes what it had not sent."""
    a, b = pair
    a.add("gone", 2)
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url, "push": True}])
        assert a.run("sync").exit_code == 0
        assert b.notes() == {"gone": 2}
        a.sql("DELETE FROM note")
        a.add("kept", 1)
        b.add("mine", 3)
        compact(a)
        assert a.run("sync").exit_code == 0
    assert a.notes() == b.notes() == {"kept": 1, "mine": 3}
