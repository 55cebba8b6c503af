"""Three hosts at work: written to in every way, killed, stopped, cut off, and equal in the end.

The hosts are started once and shared; each test leaves all three up and in step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from processes.live_hosts import (
    EQUAL_WITHIN_S,
    READY_WITHIN_S,
    SECRETS,
    STOPS_WITHIN_S,
    Cluster,
    LiveHost,
    eventually,
)

pytestmark = pytest.mark.processes

NAMES = ("host-a", "host-b", "host-c")
BULK_ROWS = 30_000
GONE_WITHIN_S = 3
"""How long processes may outlive the `up` that started them."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("hosts"), NAMES)
    try:
        made.start()
        made.wait_until_equal()
        yield made
    finally:
        made.destroy()


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """Hosts that are all up, whatever the test before has come to."""
    started.repair()
    return started


@pytest.fixture(scope="module")
def token(started: Cluster) -> str:
    """A session of the administrator, valid on every host."""
    return started["host-a"].login(started.password)


def insert(device_id: str, owner: str = "Ana") -> str:
    return (
        "INSERT INTO devices (device_id, owner_name, license_type, start_date)"
        f" VALUES ('{device_id}', '{owner}', 'anual', '2026-01-01')"
    )


@contextmanager
def cut_off(cluster: Cluster, name: str) -> Iterator[None]:
    """Take a host off the network."""
    for link in cluster.links_of(name):
        link.cut()
    try:
        yield
    finally:
        for link in cluster.links_of(name):
            link.heal()


@contextmanager
def frozen(host: LiveHost) -> Iterator[None]:
    """Stop every process of a host where it stands, as a sleeping machine does."""
    host.signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        host.signal_all(signal.SIGCONT)


def test_an_administrator_made_on_one_host_logs_in_on_all(cluster: Cluster) -> None:
    """The account is a row like any other."""
    for name in NAMES:
        assert cluster[name].login(cluster.password)


def test_a_licence_made_through_any_api_shows_on_all_hosts(cluster: Cluster, token: str) -> None:
    """Created on each host through HTTP, with the session of one of them."""
    made = [f"http-{name}" for name in NAMES]
    for name, device_id in zip(NAMES, made, strict=True):
        cluster[name].create(token, device_id, owner_name=f"of {name}")
    cluster.wait_until_equal(*made)
    for name in NAMES:
        answer = cluster[name].call(token, "GET", "/admin/devices").json()
        assert set(made) <= {item["device_id"] for item in answer["items"]}


def test_what_the_sqlite_shell_writes_shows_on_all_hosts(cluster: Cluster, token: str) -> None:
    """Inserts, updates and deletions by a program that knows nothing of syncd."""
    a, b, c = (cluster[name] for name in NAMES)
    a.create(token, "shell-updated")
    a.create(token, "shell-deleted")
    cluster.wait_until_equal("shell-updated", "shell-deleted")
    a.shell(insert("shell-a"))
    b.shell(insert("shell-b"), "UPDATE devices SET notes = 'olá' WHERE device_id = 'shell-updated'")
    c.shell(insert("shell-c"), "DELETE FROM devices WHERE device_id = 'shell-deleted'")
    c.shell("INSERT INTO blocked_devices (device_id, reason) VALUES ('shell-x', 'stolen')")
    eventually(
        lambda: all("shell-deleted" not in host.device_ids() for host in (a, b, c)), EQUAL_WITHIN_S
    )
    cluster.wait_until_equal("shell-a", "shell-b", "shell-c")
    for host in (a, b, c):
        assert host.tables()["devices"]["shell-updated"]["notes"] == "olá"
        assert host.tables()["blocked_devices"]["shell-x"]["reason"] == "stolen"


def test_local_ids_stay_each_hosts_own(cluster: Cluster) -> None:
    """Two hosts that give the same number to two licences keep both licences apart."""
    a, b = cluster["host-a"], cluster["host-b"]
    with cut_off(cluster, "host-a"), cut_off(cluster, "host-b"):
        top = max(host.rows("SELECT max(id) FROM devices")[0][0] for host in (a, b)) + 100
        for host, device_id in ((a, "same-id-a"), (b, "same-id-b")):
            host.shell(
                "INSERT INTO devices (id, device_id, license_type, start_date)"
                f" VALUES ({top}, '{device_id}', 'anual', '2026-01-01')"
            )
    cluster.wait_until_equal("same-id-a", "same-id-b")
    for host, device_id in ((a, "same-id-a"), (b, "same-id-b")):
        assert host.rows(f"SELECT id FROM devices WHERE device_id = '{device_id}'") == [(top,)]


def test_a_host_cut_off_catches_up_in_both_directions(cluster: Cluster, token: str) -> None:
    """Written to on both sides of the cut, different columns of one licence included."""
    a, b, c = (cluster[name] for name in NAMES)
    a.create(token, "cut-shared", owner_name="Ana")
    cluster.wait_until_equal("cut-shared")
    with cut_off(cluster, "host-c"):
        a.create(token, "cut-a")
        a.call(token, "POST", "/admin/devices/cut-shared/deactivate", action="block")
        b.shell(insert("cut-b"))
        c.create(token, "cut-c")
        c.shell("UPDATE devices SET last_hostname = 'seen' WHERE device_id = 'cut-shared'")
        cluster.wait_until_equal("cut-a", "cut-b", hosts=("host-a", "host-b"))
        eventually(lambda: a.status_of("host-c")["state"] == "failing", EQUAL_WITHIN_S, a.log)
        assert not {"cut-a", "cut-b"} & c.device_ids()
        assert "cut-c" not in a.device_ids() | b.device_ids()
    cluster.wait_until_equal("cut-a", "cut-b", "cut-c")
    shared = c.tables()["devices"]["cut-shared"]
    assert (shared["status"], shared["last_hostname"]) == ("blocked", "seen")
    eventually(lambda: a.status_of("host-c")["state"] == "ok", EQUAL_WITHIN_S, a.log)


def test_changes_go_round_a_broken_link(cluster: Cluster, token: str) -> None:
    """Where two hosts cannot reach each other, the third one passes their changes on."""
    a, b = cluster["host-a"], cluster["host-b"]
    pair = [cluster.links[ends] for ends in (("host-a", "host-b"), ("host-b", "host-a"))]
    for link in pair:
        link.cut()
    try:
        a.create(token, "round-a")
        b.create(token, "round-b")
        cluster.wait_until_equal("round-a", "round-b")
    finally:
        for link in pair:
            link.heal()


def test_a_host_that_sleeps_wakes_up_and_catches_up(cluster: Cluster, token: str) -> None:
    """Every process of a host stands still for a while; the others go on without it."""
    a, c = cluster["host-a"], cluster["host-c"]
    with frozen(c):
        a.create(token, "asleep-a")
        c.shell(insert("asleep-c"))
        cluster.wait_until_equal("asleep-a", hosts=("host-a", "host-b"))
        eventually(lambda: a.status_of("host-c")["state"] == "failing", EQUAL_WITHIN_S, a.log)
        assert a.status_of("host-b")["state"] == "ok"
    cluster.wait_until_equal("asleep-a", "asleep-c")


def test_a_killed_api_ends_the_host_which_comes_back_in_step(cluster: Cluster, token: str) -> None:
    """`up` ends non-zero and leaves nothing behind; started again, it gets what it missed."""
    a, b, c = (cluster[name] for name in NAMES)
    assert c.process is not None
    os.kill(c.api_pid(), signal.SIGKILL)
    assert c.process.wait(STOPS_WITHIN_S) == 1
    assert "the API ended with -9" in c.log()
    eventually(lambda: not c.pids(), GONE_WITHIN_S, lambda: f"left: {c.pids()}")
    a.create(token, "while-away-a")
    b.shell(insert("while-away-b"))
    c.shell(insert("while-away-c"))
    c.start()
    c.wait_until_up()
    cluster.wait_until_equal("while-away-a", "while-away-b", "while-away-c")


def test_a_killed_worker_is_replaced_without_the_host_ending(cluster: Cluster) -> None:
    """gunicorn starts another worker; the daemon does not even notice."""
    c = cluster["host-c"]
    master, daemon = c.api_pid(), c.daemon_pid()
    workers = c.pids() - {master, daemon, c.process.pid if c.process else None}
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: not workers & c.pids() and c.is_healthy(), READY_WITHIN_S, c.log)
    assert not c.has_ended()
    assert (c.api_pid(), c.daemon_pid()) == (master, daemon)


def test_commands_work_beside_a_running_host(cluster: Cluster, token: str, tmp_path: Path) -> None:
    """`init`, `sync`, `export` and `import` share the file with API and daemon."""
    a, b = cluster["host-a"], cluster["host-b"]
    a.create(token, "beside")
    cluster.wait_until_equal("beside")
    bundle = str(tmp_path / "all.syncd")
    assert "unchanged" in a.command("-m", "syncd", "init")
    outcomes = json.loads(a.command("-m", "syncd", "sync", "--json"))
    assert [outcome["ok"] for outcome in outcomes] == [True, True]
    a.command("-m", "syncd", "export", bundle)
    imported = json.loads(b.command("-m", "syncd", "import", bundle, "--json"))
    assert (imported["applied"], imported["conflicting"], imported["held"]) == (0, 0, 0)
    cluster.wait_until_equal("beside")


def test_a_client_gets_the_same_answer_from_every_host(cluster: Cluster, token: str) -> None:
    """Whoever the client asks, a licence made elsewhere a moment ago is there."""
    cluster["host-a"].create(token, "asked-everywhere")
    cluster.wait_until_equal("asked-everywhere")
    answers = [
        requests.get(f"{cluster[name].url}/verify", params=_verification(), timeout=20).json()
        for name in NAMES
    ]
    assert [answer["allow"] for answer in answers] == [True] * len(NAMES)
    assert len({answer["config"]["license_expires_at"] for answer in answers}) == 1


def test_a_second_daemon_on_the_same_file_does_not_start(cluster: Cluster, tmp_path: Path) -> None:
    """Two `up` by mistake: one daemon holds the file; the other's is tried later each time."""
    a = cluster["host-a"]
    holder = a.daemon_pid()
    twin = LiveHost("host-a", tmp_path / "twin", env={"DB_PATH": str(a.database)})
    try:
        twin.start()
        eventually(lambda: "next start in 2 s" in twin.log(), READY_WITHIN_S, twin.log)
    finally:
        twin.destroy()
    assert "next start in 1 s" in twin.log()
    assert f"process {holder} (host-a)" in twin.log()
    assert a.daemon_pid() == holder
    assert not a.has_ended()


def test_a_daemon_killed_in_mid_round_is_started_again_and_goes_on(
    cluster: Cluster, token: str
) -> None:
    """Killed after the first frames of a large pull; the API beside it answers all the while.

    The last test here, as it leaves large tables behind.
    """
    a, b = cluster["host-a"], cluster["host-b"]
    known = len(b.device_ids())
    killed = b.daemon_pid()
    assert killed is not None
    a.shell(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        f" WHERE i < {BULK_ROWS}) INSERT INTO devices (device_id, license_type, start_date)"
        " SELECT printf('bulk-%06d', i), 'anual', '2026-01-01' FROM n"
    )
    eventually(lambda: _count(b) > known, EQUAL_WITHIN_S, b.log)
    os.kill(killed, signal.SIGKILL)
    assert known < _count(b) < known + BULK_ROWS
    assert b.is_healthy()
    b.create(token, "during-kill")
    eventually(lambda: b.daemon_pid() not in (None, killed), READY_WITHIN_S, b.log)
    assert "the daemon ended with -9" in b.log()
    cluster.wait_until_equal("during-kill", f"bulk-{BULK_ROWS:06d}")


def _verification() -> dict[str, str]:
    asked = {
        "id": "asked-everywhere",
        "version": "1.0.0",
        "ts": datetime.now(UTC).strftime("%Y%m%d%H%M%S"),
    }
    text = "|".join([*asked.values(), SECRETS["SHARED_SECRET"]])
    signature = hashlib.sha256(text.encode()).hexdigest()
    return {**asked, "sig": signature, "api_key": SECRETS["API_KEY"]}


def _count(host: LiveHost) -> int:
    count: int = host.rows("SELECT count(*) FROM devices")[0][0]
    return count
