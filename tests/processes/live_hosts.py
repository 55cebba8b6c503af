"""Whole hosts as processes: `syncd up` with the licence API, as a hoster runs it.

Every host has a database file, a log and ports of its own, and reaches its peers over links that a
test can cut. Whatever is started carries a mark in its environment, by which all of it, children
of children included, is found and ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

ROOT = Path(__file__).resolve().parents[2]
SQLITE_SHELL = "/usr/bin/sqlite3"
MARK = "SYNCD_TEST_MARK"
READY_WITHIN_S = 40
EQUAL_WITHIN_S = 40
STOPS_WITHIN_S = 20
SECRETS = {
    "SYNC_KEYS": "k1:" + "0123456789abcdef" * 2,
    "SESSION_KEYS": "session-" * 5,
    "API_KEY": "key-of-the-clients",
    "SHARED_SECRET": "secret-of-the-clients",
}
_CONFIGURING = ("SYNC_", "SYNCD_", "SERVE_", "NODE_NAME", "DB_PATH", "FLASK_", "GUNICORN_")
_RELAY_BYTES = 65536


def free_port() -> int:
    """Return a port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(
    condition: Callable[[], bool], within_s: float, explain: Callable[[], str] = str
) -> None:
    """Wait until a condition holds; fail with an explanation if it does not in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"it did not come true within {within_s:.0f} s\n{explain()}")


class Link:
    """The way from one host to another: a port that relays to the other's, unless it is cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def cut(self) -> None:
        """Break every connection, and take no new ones."""
        with self._lock:
            self._is_cut = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """Let new connections through."""
        self._is_cut = False

    def close(self) -> None:
        """End for good."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                incoming, _ = self._listening.accept()
            except OSError:
                return
            if self._is_cut:
                incoming.close()
                continue
            try:
                outgoing = socket.create_connection(("127.0.0.1", self._port), 5)
            except OSError:
                incoming.close()
                continue
            for pair in ((incoming, outgoing), (outgoing, incoming)):
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with self._lock:
            self._open.add(source)
        with contextlib.suppress(OSError):
            source.settimeout(None)
            while data := source.recv(_RELAY_BYTES):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()


@dataclass
class LiveHost:
    """One host. env: variables beside the usual ones."""

    name: str
    folder: Path
    port: int = field(default_factory=free_port)
    env: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / "licences.db"

    @property
    def log_file(self) -> Path:
        return self.folder / "host.log"

    def log(self) -> str:
        """Return what the host has said so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def environment(self) -> dict[str, str]:
        """Return what deploy/three_hosts.py gives a host, with this host's values."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_CONFIGURING)}
        return {
            **kept,
            **SECRETS,
            "NODE_NAME": self.name,
            "DB_PATH": str(self.database),
            "SERVE_HOST": "127.0.0.1",
            "PORT": str(self.port),
            "SYNC_INTERVAL": "300ms",
            "SYNC_WAKE_WITHIN": "2s",
            MARK: self.mark,
            **self.env,
        }

    def start(
        self, command: Sequence[str] = ("-m", "syncd", "up"), cwd: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """Start the host's process; return before it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=cwd,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def wait_until_up(self) -> None:
        """Wait for the API's answer and for the daemon's lock."""
        self.wait_until_answering()
        eventually(lambda: self.daemon_pid() is not None, READY_WITHIN_S, self.log)

    def wait_until_answering(self) -> None:
        """Wait until the API says that it is healthy."""
        eventually(lambda: self.is_healthy() or self.has_ended(), READY_WITHIN_S, self.log)
        assert not self.has_ended(), self.log()

    def is_healthy(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/health", timeout=5).ok
        return False

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def command(self, *args: str) -> str:
        """Run another program on this host; return what it prints."""
        done = subprocess.run(
            [sys.executable, *args],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shell(self, *statements: str) -> None:
        """Write with the sqlite3 shell, which knows nothing of syncd."""
        subprocess.run(
            [SQLITE_SHELL, "-bail", "-cmd", ".timeout 20000", str(self.database)],
            input="".join(f"{statement};\n" for statement in statements),
            text=True,
            capture_output=True,
            timeout=60,
            check=True,
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=20)) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """Return what every synced table shows: by key, all columns but the local id.

        The rows of a log stand under what they say.
        """
        keys = yaml.safe_load((ROOT / "config.yaml").read_text())["tables"]
        with contextlib.closing(sqlite3.connect(self.database, timeout=20)) as connection:
            connection.row_factory = sqlite3.Row
            return {
                table: {
                    tuple(row.values())
                    if options["key"] == "generated"
                    else row[options["key"][0]]: row
                    for row in map(_without_id, connection.execute(f"SELECT * FROM {table}"))
                }
                for table, options in keys.items()
            }

    def device_ids(self) -> set[str]:
        return {found for (found,) in self.rows("SELECT device_id FROM devices")}

    def status_of(self, peer: str) -> dict[str, Any]:
        """Return what `syncd status` says of a peer."""
        found = json.loads(self.command("-m", "syncd", "status", "--json"))
        (state,) = [entry for entry in found["peers"] if entry["name"] == peer]
        assert isinstance(state, dict)
        return state

    def login(self, password: str) -> str:
        """Log the administrator in; return the session's token."""
        answer = requests.post(
            f"{self.url}/admin/login",
            json={"username": "admin", "password": password},
            timeout=20,
        )
        answer.raise_for_status()
        token: str = answer.json()["token"]
        return token

    def call(self, token: str, method: str, path: str, **body: str) -> requests.Response:
        """Call the dashboard's API; any refusal fails the test."""
        answer = requests.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
        )
        answer.raise_for_status()
        return answer

    def create(self, token: str, device_id: str, **columns: str) -> None:
        """Create a licence as the dashboard does."""
        self.call(token, "POST", "/admin/devices/create", device_id=device_id, **columns)

    def daemon_pid(self) -> int | None:
        """Return the process that holds the daemon's lock, if it runs."""
        with contextlib.suppress(OSError):
            text = self.database.with_name(self.database.name + "-syncd.lock").read_text()
            found = re.match(r"process (\d+) ", text)
            if found and int(found[1]) in self.pids():
                return int(found[1])
        return None

    def api_pid(self) -> int:
        """Return gunicorn's first process, the one that `up` started."""
        assert self.process is not None
        (pid,) = [
            pid
            for pid in self.pids()
            if _parent(pid) == self.process.pid and "gunicorn" in _command_line(pid)
        ]
        return pid

    def pids(self) -> set[int]:
        """Return all processes of this host, whoever is their parent by now."""
        mark = f"{MARK}={self.mark}".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.add(int(entry.name))
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every process of this host."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> int:
        """End the host as a hoster does; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOPS_WITHIN_S)

    def destroy(self) -> None:
        """End whatever is left of it."""
        if self.process is not None and self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        self.signal_all(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOPS_WITHIN_S)


class Cluster:
    """Hosts that all know one another, each over a link of its own."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.hosts = {name: LiveHost(name, folder / name) for name in names}
        self.links = {
            (one, other): Link(self.hosts[other].port)
            for one in names
            for other in names
            if one != other
        }
        for host in self.hosts.values():
            host.env["SYNC_PEERS"] = ",".join(
                f"{other}={link.url}"
                for (one, other), link in self.links.items()
                if one == host.name
            )
        self.password = ""

    def __getitem__(self, name: str) -> LiveHost:
        return self.hosts[name]

    def start(self) -> None:
        """Make the administrator, then bring all hosts up."""
        first = next(iter(self.hosts.values()))
        printed = first.command("-m", "api", "create-admin")
        self.password = printed.partition("password: ")[2].strip()
        for host in self.hosts.values():
            host.start()
        for host in self.hosts.values():
            host.wait_until_up()

    def repair(self) -> None:
        """Start again whatever has ended."""
        ended = [host for host in self.hosts.values() if host.has_ended()]
        for host in ended:
            host.signal_all(signal.SIGKILL)
            host.start()
        for host in ended:
            host.wait_until_up()

    def links_of(self, name: str) -> list[Link]:
        """Return the links from and to a host."""
        return [link for ends, link in self.links.items() if name in ends]

    def wait_until_equal(self, *device_ids: str, hosts: Sequence[str] = ()) -> None:
        """Wait until all hosts, or those named, show the same, with these devices among it."""
        asked = [self.hosts[name] for name in hosts or self.hosts]
        wanted = set(device_ids)
        eventually(
            lambda: all(wanted <= host.device_ids() for host in asked) and equal(asked),
            EQUAL_WITHIN_S,
            lambda: explain_difference(asked, wanted),
        )

    def destroy(self) -> None:
        """End all hosts and links."""
        for host in self.hosts.values():
            if host.process is not None and host.process.poll() is None:
                host.process.terminate()
        for host in self.hosts.values():
            host.destroy()
        for link in self.links.values():
            link.close()


def equal(hosts: Sequence[LiveHost]) -> bool:
    """Say whether hosts show the same in every synced table."""
    first, *others = (host.tables() for host in hosts)
    return all(other == first for other in others)


def explain_difference(hosts: Sequence[LiveHost], wanted: set[str]) -> str:
    """Say in what hosts differ, with the ends of their logs."""
    shown = {host.name: host.tables() for host in hosts}
    first = shown[hosts[0].name]
    lines = []
    for name, tables in shown.items():
        lines.append(f"{name} lacks {sorted(wanted - set(tables['devices']))[:5]}")
        lines += [
            f"{name}.{table}: {len(rows)} rows, {_differing(rows, first[table])} differ"
            for table, rows in tables.items()
        ]
    logs = [f"--- {host.name}\n" + "\n".join(host.log().splitlines()[-15:]) for host in hosts]
    return "\n".join(lines + logs)


def _without_id(row: sqlite3.Row) -> dict[str, Any]:
    return {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118


def _differing(rows: Mapping[Any, Any], others: Mapping[Any, Any]) -> list[Any]:
    return [key for key in {*rows, *others} if rows.get(key) != others.get(key)][:5]


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        # The second field is the name, in parentheses, and may hold spaces.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


@contextlib.contextmanager
def alone(folder: Path, **env: str) -> Iterator[LiveHost]:
    """Hold one host; it is not started yet."""
    host = LiveHost("alone", folder, env=env)
    try:
        yield host
    finally:
        host.destroy()
