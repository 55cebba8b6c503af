"""`syncd run`: the daemon as a process, one per database file, ended by a signal."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from wire.scripted import hangs, scripted

from commands.cli_host import CliHost
from commands.daemon_process import eventually, running
from syncd import supervisor
from syncd.daemon import STOP_WITHIN_S

STOPS_WITHIN_S = 5
INTERVAL = "100ms"


@pytest.fixture
def a(tmp_path: Path) -> CliHost:
    host = CliHost(tmp_path / "a", node="a", env={"SYNC_INTERVAL": INTERVAL})
    host.make_table()
    return host


@pytest.fixture
def b(tmp_path: Path) -> CliHost:
    return CliHost(tmp_path / "b", node="b").ready()


def test_the_daemon_enrols_and_syncs_on_schedule(a: CliHost, b: CliHost) -> None:
    """Without `init` and without a command, rows written at any time arrive."""
    b.add("early", 1)
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        with running(a) as daemon:
            eventually(lambda: a.notes() == {"early": 1}, daemon)
            b.add("late", 2)
            eventually(lambda: a.notes() == {"early": 1, "late": 2}, daemon)
            assert daemon.process.poll() is None
    assert a.json("status")["peers"][0]["state"] == "ok"


def test_the_daemon_folds_although_nobody_pulls(a: CliHost) -> None:
    """The journal of a host alone does not pile up."""
    with running(a) as daemon:
        a.add_many(2_000)
        eventually(lambda: a.json("status")["journal"] == 0, daemon)


def test_the_daemon_forgets_what_is_past_the_retention(a: CliHost) -> None:
    """A deletion leaves nothing behind once nobody needs it; the log says how many went."""
    a.write_config(sync={**a.tree["sync"], "retention": "0ms"})
    assert a.run("init").exit_code == 0
    a.add("kept")
    a.add("gone")
    a.sql("DELETE FROM note WHERE name = 'gone'")
    with running(a) as daemon:
        eventually(lambda: daemon.says("forgot 1 deletions and 0 conflicts"), daemon)
    assert a.sql("SELECT k0 FROM syncd_changes_note") == [("kept",)]
    assert a.notes() == {"kept": None}


def test_a_peer_that_hangs_delays_no_other(a: CliHost, b: CliHost) -> None:
    """Each peer has a job of its own."""
    b.add("x", 1)
    with scripted(hangs) as silent, b.serving() as server:
        a.write_config(
            peers=[{"name": "silent", "url": silent.url}, {"name": "b", "url": server.url}]
        )
        with running(a) as daemon:
            eventually(lambda: a.notes() == {"x": 1}, daemon)
            b.add("y", 2)
            eventually(lambda: a.notes() == {"x": 1, "y": 2}, daemon)


def test_a_second_daemon_on_the_same_file_says_who_holds_it(a: CliHost) -> None:
    """It names process and node and ends at once with 1; a killed daemon holds nothing."""
    with running(a) as first:
        second = a.process("run")
        assert second.returncode == 1
        assert f"process {first.process.pid} (a)" in second.stderr
        assert str(a.database) in second.stderr
        assert "Traceback" not in second.stderr
        assert first.process.poll() is None
    with running(a) as third:
        assert third.process.poll() is None


def test_a_signal_ends_it_cleanly(a: CliHost, b: CliHost) -> None:
    """Ctrl-C between two rounds: exit code 0, within seconds, without a traceback."""
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        with running(a) as daemon:
            daemon.process.send_signal(signal.SIGINT)
            assert daemon.process.wait(STOPS_WITHIN_S) == 0
            assert daemon.says("stopping")
            assert not daemon.says("Traceback")


def test_a_signal_ends_it_while_a_peer_hangs(a: CliHost) -> None:
    """A peer that never answers cannot hold a stopping daemon beyond its deadline."""
    with scripted(hangs) as silent:
        a.write_config(peers=[{"name": "silent", "url": silent.url}])
        with running(a, stop_within_s=1) as daemon:
            eventually(lambda: bool(silent.asked), daemon)
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(STOPS_WITHIN_S) == 0
            assert daemon.says("a round did not stop within 1 s")


def test_the_daemons_deadline_fits_into_that_of_the_whole_host() -> None:
    """`up` kills what has not ended by its own deadline, so the daemon's comes earlier."""
    assert STOP_WITHIN_S < supervisor.STOP_WITHIN_S <= 30


def test_a_signal_ends_it_while_it_waits_for_a_dead_peer(a: CliHost) -> None:
    """A wait between two tries is cut short."""
    a.write_config(peers=[{"name": "dead", "url": "http://127.0.0.1:1"}])
    with running(a) as daemon:
        eventually(lambda: daemon.says("trying again"), daemon)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(STOPS_WITHIN_S) == 0


def test_a_signal_in_mid_merge_loses_nothing(a: CliHost, b: CliHost) -> None:
    """Stopped between two frames of a large pull, the next daemon goes on there."""
    b.add_many(60_000)
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        with running(a) as daemon:
            eventually(lambda: bool(a.notes()), daemon)
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(15) == 0
        merged, asked = len(a.notes()), len(server.requests)
        assert 0 < merged < 60_000
        with running(a) as daemon:
            eventually(lambda: len(a.notes()) == 60_000, daemon)
            assert len(server.requests) - asked >= (60_000 - merged) // 10_000
    assert a.notes() == b.notes()


def test_a_daemon_that_cannot_enrol_says_why(a: CliHost) -> None:
    """A wrong table ends it with 2 and the problem, not with a loop of errors."""
    a.write_config(tables={"ghost": {}})
    done = a.process("run")
    assert done.returncode == 2
    assert "ghost" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "file_bytes_max", "problem"),
    [
        (Path.mkdir, resource.RLIM_INFINITY, "Is a directory"),
        (Path.touch, 0, "File too large"),
    ],
    ids=["no file", "no room"],
)
def test_a_daemon_that_cannot_have_its_lock_says_why(
    spoil: Callable[[Path], None], file_bytes_max: int, problem: str, a: CliHost
) -> None:
    """As in a folder that it may not write, or on a full disk: two lines, problem and hint."""
    lock = a.database.with_name("notes.db-syncd.lock")
    spoil(lock)
    done = a.process("run", file_bytes_max=file_bytes_max)
    assert done.returncode == 1
    said, hint = done.stderr.splitlines()
    assert said == f"error: {lock}: {problem}"
    assert hint.startswith("hint: ")


def test_a_daemon_without_a_folder_for_its_lock_says_that_there_is_no_database(a: CliHost) -> None:
    """It is the same to it whether the file is missing or its folder with it."""
    for path in ("none.db", "none/notes.db", "config.yaml/notes.db"):
        a.write_config(database=path)
        done = a.process("run")
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: there is no database {a.folder / path}\n")
        assert "Traceback" not in done.stderr
