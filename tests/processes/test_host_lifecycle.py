"""One host's life: started in every way, ended by either signal, pushed to where it only serves."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import pytest
import requests
from wire.scripted import hangs, scripted

from processes.live_hosts import (
    EQUAL_WITHIN_S,
    READY_WITHIN_S,
    ROOT,
    STOPS_WITHIN_S,
    LiveHost,
    alone,
    equal,
    eventually,
)
from syncd.config import Serve
from syncd.supervisor import listen

pytestmark = pytest.mark.processes

GONE_WITHIN_S = 3
ENDS_AT_ONCE_WITHIN_S = 5
SLOW_APP = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)
pathlib.Path(__file__).with_name("loading").touch()
time.sleep(600)
"""
INSERT = (
    "INSERT INTO devices (device_id, license_type, start_date) VALUES ('{}', 'anual', '2026-01-01')"
)


def nothing_is_left(host: LiveHost) -> None:
    """Check that every process of a host is gone and its port is free."""
    eventually(lambda: not host.pids(), GONE_WITHIN_S, lambda: f"left: {host.pids()}\n{host.log()}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", host.port))


def has_ipv6() -> bool:
    """Say whether this machine has an address of IPv6, as not every container does."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def is_whole(host: LiveHost) -> bool:
    """Say whether `up`, gunicorn, its worker and the daemon run."""
    return len(host.pids()) == 4 and host.daemon_pid() is not None


def test_a_host_killed_in_mid_write_comes_back_with_all_it_had(tmp_path: Path) -> None:
    """Every process is killed at once while rows are written; what was committed is there.

    The second life ends by SIGTERM: all of it, with 0, leaving nothing behind.
    """
    with alone(tmp_path / "host") as host:
        first = host.start()
        host.wait_until_up()
        assert is_whole(host)
        for number in range(20):
            host.shell(INSERT.format(f"d{number}"))
            if number == 10:
                host.signal_all(signal.SIGKILL)
                first.wait(STOPS_WITHIN_S)
        second = host.start()
        host.wait_until_up()
        assert host.device_ids() == {f"d{number}" for number in range(20)}
        eventually(lambda: _folded(host) == 20, EQUAL_WITHIN_S, host.log)
        second.terminate()
        assert second.wait(STOPS_WITHIN_S) == 0, host.log()
        nothing_is_left(host)
        assert "Traceback" not in host.log()


def test_the_script_of_the_api_starts_a_whole_host(tmp_path: Path) -> None:
    """`cd api && python app.py` is API and daemon as one, and Ctrl-C ends both."""
    with alone(tmp_path / "host") as host:
        process = host.start(("app.py",), ROOT / "api")
        host.wait_until_up()
        assert is_whole(host)
        host.shell(INSERT.format("x"))
        eventually(lambda: _folded(host) == 1, EQUAL_WITHIN_S, host.log)
        process.send_signal(signal.SIGINT)
        assert process.wait(STOPS_WITHIN_S) == 0, host.log()
        nothing_is_left(host)
        assert "Traceback" not in host.log()


def test_a_host_ends_cleanly_while_it_starts(tmp_path: Path) -> None:
    """A deployment that is taken back at once leaves nothing running."""
    with alone(tmp_path / "host") as host:
        process = host.start()
        eventually(lambda: len(host.pids()) >= 2 or host.has_ended(), READY_WITHIN_S, host.log)
        process.terminate()
        assert process.wait(STOPS_WITHIN_S) == 0, host.log()
        nothing_is_left(host)


def test_a_host_ends_at_once_while_its_app_does_not_answer_yet(tmp_path: Path) -> None:
    """It does not wait for the answer, nor complain that there was none."""
    with alone(tmp_path / "host", SERVE_APP="slow:app", PYTHONPATH=str(tmp_path)) as host:
        (tmp_path / "slow.py").write_text(SLOW_APP)
        process = host.start()
        eventually((tmp_path / "loading").exists, READY_WITHIN_S, host.log)
        process.terminate()
        assert process.wait(ENDS_AT_ONCE_WITHIN_S) == 0
        assert "did not answer" not in host.log()
        nothing_is_left(host)


def test_a_host_whose_first_process_is_killed_ends_as_a_whole(tmp_path: Path) -> None:
    """API and daemon do not run on alone, holding address and database against the next start."""
    with alone(tmp_path / "host") as host:
        process = host.start()
        host.wait_until_up()
        assert is_whole(host)
        process.kill()
        process.wait(STOPS_WITHIN_S)
        eventually(lambda: not host.pids(), STOPS_WITHIN_S, host.log)
        nothing_is_left(host)
        assert "Traceback" not in host.log()


def test_a_host_without_its_secrets_says_all_that_is_missing(tmp_path: Path) -> None:
    """It ends with 2 before anything is started or created, naming variable and command."""
    secrets = ("SYNC_KEYS", "SESSION_KEYS", "API_KEY", "SHARED_SECRET")
    with alone(tmp_path / "host", **dict.fromkeys(secrets, "")) as host:
        assert host.start().wait(READY_WITHIN_S) == 2
        for name in secrets:
            assert f"({name})" in host.log()
        assert "syncd keygen" in host.log()
        assert not host.database.exists()
        assert not host.pids()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("serve_host", ["::1", "[::1]", "::"])
def test_a_host_listens_on_ipv6(serve_host: str, tmp_path: Path) -> None:
    """With or without brackets, one address or all: it comes up, and says where."""
    with alone(tmp_path / "host", SERVE_HOST=serve_host) as host:
        host.start()
        eventually(lambda: "http:" in host.log() or host.has_ended(), READY_WITHIN_S, host.log)
        assert f"http://[{serve_host.strip('[]')}]:{host.port}\n" in host.log()
        assert requests.get(f"http://[::1]:{host.port}/health", timeout=5).ok
        assert host.stop() == 0


def test_a_host_whose_port_is_taken_says_so_and_starts_nothing(tmp_path: Path) -> None:
    """Another program that answers there is not taken for the API."""
    with alone(tmp_path / "host") as host, scripted(hangs) as other:
        host.port = int(other.url.rpartition(":")[2])
        assert host.start().wait(READY_WITHIN_S) == 1
        assert f"error: cannot listen on 127.0.0.1:{host.port}: " in host.log()
        assert "hint: " in host.log()
        assert other.url not in host.log()
        assert "Traceback" not in host.log()
        assert not host.database.exists()
        assert not host.pids()


def test_a_host_waits_for_an_address_that_is_just_given_up() -> None:
    """A host that is started at once after another has ended, or while it ends, comes up."""
    taken = socket.create_server(("127.0.0.1", 0))
    serve = Serve(host="127.0.0.1", port=taken.getsockname()[1])
    giving_up = threading.Timer(0.5, taken.close)
    giving_up.start()
    listening = listen(serve, threading.Event())
    assert listening is not None
    with listening:
        assert listening.getsockname() == ("127.0.0.1", serve.port)
    giving_up.join()


def test_a_host_that_is_to_stop_waits_for_no_address() -> None:
    """It ends as it would at any other moment, and not with an error."""
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stop = threading.Timer(0.3, stopping.set)
        stop.start()
        serve = Serve(host="127.0.0.1", port=taken.getsockname()[1])
        assert listen(serve, stopping) is None
        stop.join()


def test_a_peer_that_only_serves_is_pulled_from_and_pushed_to(tmp_path: Path) -> None:
    """A host that runs the API and no daemon is kept in step by one that does."""
    with alone(tmp_path / "active") as active, alone(tmp_path / "passive") as passive:
        passive.env["NODE_NAME"] = "passive"
        passive.start(
            (
                *("-m", "gunicorn", "api.app:create_app()", "--no-control-socket"),
                *("--bind", f"127.0.0.1:{passive.port}", "--worker-class", "gthread"),
            )
        )
        passive.wait_until_answering()
        active.env["SYNC_PEERS"] = f'[{{name: passive, url: "{passive.url}", push: true}}]'
        active.start()
        active.wait_until_up()
        active.shell(INSERT.format("from-active"))
        passive.shell(INSERT.format("from-passive"))
        both = {"from-active", "from-passive"}
        eventually(
            lambda: active.device_ids() == passive.device_ids() == both,
            EQUAL_WITHIN_S,
            lambda: active.log() + passive.log(),
        )
        active.shell("DELETE FROM devices WHERE device_id = 'from-passive'")
        passive.shell("UPDATE devices SET notes = 'seen' WHERE device_id = 'from-active'")
        eventually(
            lambda: (
                equal([active, passive])
                and active.rows("SELECT device_id, notes FROM devices") == [("from-active", "seen")]
            ),
            EQUAL_WITHIN_S,
            lambda: active.log() + passive.log(),
        )
        assert passive.daemon_pid() is None


def _folded(host: LiveHost) -> int:
    """Count the changes of licences that the daemon has taken in."""
    count: int = host.rows("SELECT count(*) FROM syncd_changes_devices")[0][0]
    return count
