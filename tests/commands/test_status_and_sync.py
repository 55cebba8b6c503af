"""`syncd status` and `syncd sync`: how far this host is, and one round now."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import syncd
from commands.cli_host import OTHER_KEYS, CliHost, refused


@pytest.fixture
def a(tmp_path: Path) -> CliHost:
    host = CliHost(tmp_path / "a", node="a").ready()
    host.add("x", 1)
    return host


@pytest.fixture
def b(tmp_path: Path) -> CliHost:
    host = CliHost(tmp_path / "b", node="b").ready()
    host.add("y", 2)
    return host


def dead_peer(name: str = "dead") -> dict[str, Any]:
    """Configure a peer at a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"name": name, "url": f"http://127.0.0.1:{probe.getsockname()[1]}"}


def peer_status(host: CliHost, name: str = "b") -> dict[str, Any]:
    (found,) = [peer for peer in host.json("status")["peers"] if peer["name"] == name]
    assert isinstance(found, dict)
    return found


def test_status_has_every_promised_field(a: CliHost, b: CliHost) -> None:
    """Node, origin, tables, journal, held, conflicts; per peer success, error, lags and offset."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}, dead_peer()])
        assert a.run("sync").exit_code == 1
    a.add("z")
    found = a.json("status")
    assert found["node"] == "a"
    assert len(bytes.fromhex(found["origin"])) == 16
    assert found["tables"] == {"note": 3}
    assert (found["journal"], found["held"], found["conflicts"]) == (1, 0, 0)
    assert found["vector"][found["origin"]] == 1
    assert found["vector"][b.json("status")["origin"]] == 1
    alive, dead = found["peers"]
    assert (alive["name"], alive["node"], alive["state"]) == ("b", "b", "ok")
    assert alive["error"] is None
    assert (alive["lag_changes"], alive["lag_seconds"]) in ((0, 0), (0, 1), (0, 2))
    assert abs(alive["offset_ms"]) < 5_000
    assert alive["success_ms"] >= alive["attempt_ms"] > 1_600_000_000_000
    assert (dead["name"], dead["state"], dead["success_ms"]) == ("dead", "failing", None)
    assert dead["error_code"] == "peer_unreachable"
    assert "refused" in dead["error"].lower()
    assert dead["error_ms"] >= dead["attempt_ms"]
    assert (dead["lag_seconds"], dead["offset_ms"]) == (None, None)


def test_status_names_origins_that_have_forked(a: CliHost, b: CliHost) -> None:
    """Under which two files have written; of the host, where it is known."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        a.run("sync")
    origin = b.json("status")["origin"]
    assert a.json("status")["forks"] == []
    with contextlib.closing(syncd.Replica(syncd.load_config(a.config, {}))) as replica:
        replica.guard.learn({bytes.fromhex(origin): 7})
    assert a.json("status")["forks"] == [{"node": "b", "origin": origin, "seq": 7}]
    text = a.run("status").stdout
    assert f"b: two files have written under origin {origin}, beyond change 7" in text


def test_status_of_a_peer_never_asked_is_new(a: CliHost) -> None:
    """Neither good nor bad is said of a peer that no round was run with."""
    a.write_config(peers=[dead_peer("b")])
    found = peer_status(a)
    assert found["state"] == "new"
    assert (found["success_ms"], found["error"], found["lag_seconds"]) == (None, None, None)
    assert found["lag_changes"] == 0


def test_status_changes_nothing(a: CliHost) -> None:
    """Looking does not touch the file, not even to fold."""
    before = a.dump()
    a.json("status")
    assert a.run("status").exit_code == 0
    assert a.dump() == before


def test_status_as_text_says_the_same(a: CliHost, b: CliHost) -> None:
    """For a person: tables, and peers with their state and their last error."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}, dead_peer()])
        a.run("sync")
    text = a.run("status").stdout
    for fragment in ("node a", "journal 0", "note", "ok", "failing", "cannot be reached", "never"):
        assert fragment in text, fragment


def test_status_without_peers_says_so(a: CliHost) -> None:
    """A host alone is not shown as a host in trouble."""
    assert "no peers are configured" in a.run("status").stdout
    assert a.json("status")["peers"] == []


def test_the_lag_in_seconds_grows_while_a_peer_is_away(a: CliHost, b: CliHost) -> None:
    """It counts from the last success, whatever failed since, and the error is shown beside it."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        assert a.run("sync").exit_code == 0
    a.sql("UPDATE syncd_peer SET success_ms = success_ms - 3600000")
    assert a.run("sync").exit_code == 1
    found = peer_status(a)
    assert found["state"] == "failing"
    assert 3600 <= found["lag_seconds"] <= 3660


def test_the_lag_in_changes_is_what_a_peer_has_and_we_lack(a: CliHost, b: CliHost) -> None:
    """A round that ended half-way leaves a lag, and the next whole one takes it away."""
    b.add_many(15_000)
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        server.fail_after = 1
        assert a.run("sync").exit_code == 1
        assert 0 < len(a.notes()) < 15_000
        assert peer_status(a)["lag_changes"] > 0
        server.fail_after = None
        assert a.run("sync").exit_code == 0
    assert peer_status(a)["lag_changes"] == 0


def test_sync_brings_what_a_peer_has_and_ends_with_0(a: CliHost, b: CliHost) -> None:
    """One round with each peer, and its outcome as JSON."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        (outcome,) = a.json("sync")
    assert (outcome["peer"], outcome["ok"], outcome["applied"]) == ("b", True, 1)
    assert (outcome["error"], outcome["code"], outcome["hint"]) == (None, None, None)
    assert a.notes() == {"x": 1, "y": 2}


def test_sync_with_a_failing_peer_ends_with_1(a: CliHost, b: CliHost) -> None:
    """The others are synced all the same, and the outcomes tell which failed and why."""
    with b.serving() as server:
        a.write_config(peers=[dead_peer(), {"name": "b", "url": server.url}])
        result = a.run("sync", "--json")
    assert result.exit_code == 1
    dead, alive = json.loads(result.stdout)
    assert (dead["peer"], dead["ok"], dead["code"]) == ("dead", False, "peer_unreachable")
    assert (alive["peer"], alive["ok"]) == ("b", True)
    assert a.notes() == {"x": 1, "y": 2}


def test_sync_with_a_peer_of_other_keys_says_where_to_look(a: CliHost, tmp_path: Path) -> None:
    """The text names the peer and hints at the keys."""
    other = CliHost(tmp_path / "b", node="b", tree={"sync": {"keys": OTHER_KEYS}}).ready()
    with other.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        result = a.run("sync")
    assert result.exit_code == 1
    assert "b refused the request" in result.stdout
    assert "keys" in result.stdout


def test_sync_with_one_peer_leaves_the_others_alone(a: CliHost, b: CliHost) -> None:
    """--peer names the one to ask."""
    with b.serving() as server:
        a.write_config(peers=[dead_peer(), {"name": "b", "url": server.url}])
        (outcome,) = a.json("sync", "--peer", "b")
    assert outcome["peer"] == "b"
    assert peer_status(a, "dead")["state"] == "new"


def test_sync_with_an_unknown_peer_ends_with_2(a: CliHost) -> None:
    """A mistyped name is a wrong usage, and the right ones are listed."""
    a.write_config(peers=[dead_peer("b"), dead_peer("c")])
    refused(a.run("sync", "--peer", "z"), "there is no peer 'z'", "b, c")


def test_sync_without_peers_does_nothing_and_says_so(a: CliHost) -> None:
    """Nothing to do is nothing wrong."""
    result = a.run("sync")
    assert (result.exit_code, result.stdout) == (0, "no peers are configured\n")
    assert a.json("sync") == []


def test_sync_pushes_to_a_peer_that_cannot_pull(a: CliHost, b: CliHost) -> None:
    """A peer marked push: true has everything after one command here."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url, "push": True}])
        (outcome,) = a.json("sync")
    assert outcome["sent"] == 1
    assert b.notes() == a.notes() == {"x": 1, "y": 2}


def test_a_round_of_a_restored_folder_loses_neither_old_nor_new_writes(
    a: CliHost, b: CliHost, tmp_path: Path
) -> None:
    """The first round finds out that the file was restored, and goes on with less than it had."""
    backup = tmp_path / "backup"
    with b.serving() as peer:
        a.write_config(peers=[{"name": "b", "url": peer.url, "push": True}])
        assert a.process("sync").returncode == 0
        shutil.copytree(a.folder, backup)
        a.add("lost-1")
        a.add("lost-2")
        assert a.process("sync").returncode == 0
        for file in a.folder.iterdir():  # in place, sidecar and all: the inodes stay
            of_then = backup / file.name
            file.write_bytes(of_then.read_bytes() if of_then.exists() else b"")
        a.add("new")
        synced = a.process("sync")
    assert synced.returncode == 0, synced.stdout
    assert a.notes() == b.notes()
    assert set(a.notes()) == {"x", "y", "lost-1", "lost-2", "new"}


def test_status_says_that_the_file_took_a_new_origin(tmp_path: Path) -> None:
    """And why: here, because the host was renamed."""
    host = CliHost(tmp_path, node="a").ready()
    assert "new origin" not in host.run("status").stdout
    host.tree["node"] = "b"
    host.write_config()
    assert host.run("export", tmp_path / "bundle").exit_code == 0
    assert "new origin since" in host.run("status").stdout
    assert "the host was called a and is called b now" in host.run("status").stdout
