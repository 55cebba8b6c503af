"""Licence hosts as real processes on this machine, for what only a whole host can show.

A host is a folder with a database, a port of the loopback interface and an environment. Whatever is
started here is stopped here, each process by its own id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from api import jose
from api.app import open_database
from bench import workload
from syncd import Config, Replica, load_config, supervisor

ROOT = Path(__file__).resolve().parent.parent
WITHIN_S = 60
THREADS = 8
ROWS_AT_ONCE = 100_000
INSERT = (
    "INSERT INTO devices (device_id, owner_name, license_type, status, start_date, end_date,"
    " features, updated_at) VALUES (?, ?, ?, 'active', ?, ?, ?, ?)"
)


@dataclass
class Host:
    """One host. environment: its settings, in which those that all hosts share are included.

    offline_key: what it could sign offline tokens with, if it were told to.
    """

    name: str
    database: Path
    port: int
    environment: dict[str, str] = field(repr=False)
    offline_key: str = field(repr=False)
    _batches: int = 0

    @property
    def url(self) -> str:
        """Return where its API answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Config:
        """Return what its processes are configured with."""
        return load_config(ROOT / "config.yaml", environ=self.environment)

    def command(self, *arguments: str) -> list[str]:
        """Return a command of syncd's."""
        return [sys.executable, "-m", "syncd", *arguments]

    def serving(self) -> list[str]:
        """Return the command that serves its API as `syncd up` does."""
        return supervisor.api_command(self.config, f"127.0.0.1:{self.port}")

    def beside(self, **environment: str) -> Host:
        """Return another API process of this host, on a port of its own, with other settings."""
        port = free_port()
        changed = {**self.environment, "PORT": str(port), **environment}
        return dataclasses.replace(self, port=port, environment=changed)

    def fill(self, count: int) -> None:
        """Write more devices, with an active licence, and fold them."""
        _, replica = open_database(self.config)
        connection = workload.connect(self.database)
        for start in range(0, count, ROWS_AT_ONCE):
            self._batches += 1
            rows = workload.rows(min(ROWS_AT_ONCE, count - start), seed=self._batches)
            workload.bulk(connection, INSERT, [(*row[:3], *row[4:]) for row in rows])
            replica.fold()
        connection.close()
        replica.close()

    def device_ids(self, count: int) -> list[str]:
        """Return ids of some of its devices."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            rows = connection.execute("SELECT device_id FROM devices LIMIT ?", (count,))
            return [device_id for (device_id,) in rows]

    def replica(self) -> Replica:
        """Return its database as a replica of this process."""
        return Replica(self.config)


def hosts(folder: Path, *names: str) -> list[Host]:
    """Return hosts that know each other, not yet started."""
    root = jose.generate()
    ports = {name: free_port() for name in names}
    shared = {
        **{name: secrets.token_hex(32) for name in ("API_KEY", "SHARED_SECRET", "SESSION_KEYS")},
        "SYNC_KEYS": f"k1:{secrets.token_hex(32)}",
        "OFFLINE_ROOT": json.dumps(jose.public_jwk(root)),
        "SERVE_HOST": "127.0.0.1",
        "SERVE_THREADS": str(THREADS),
    }
    return [
        Host(
            name,
            folder / f"{name}.db",
            port,
            {
                **os.environ,
                **shared,
                "NODE_NAME": name,
                "DB_PATH": str(folder / f"{name}.db"),
                "PORT": str(port),
                "SYNC_PEERS": ",".join(
                    f"{other}=http://127.0.0.1:{its}"
                    for other, its in ports.items()
                    if other != name
                ),
            },
            _offline_key(root, name),
        )
        for name, port in ports.items()
    ]


def _offline_key(root: jose.Key, name: str) -> str:
    key = jose.generate()
    certificate = jose.certify(root, key, name, int(time.time()))
    return json.dumps(jose.private_jwk(key) | {"cert": certificate})


@contextlib.contextmanager
def running(host: Host, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of a host's processes; it is asked to end at the end, and killed if it does not."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=host.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def up(*those: Host) -> Iterator[None]:
    """Run hosts as `syncd up`, until they answer and then for as long as the `with` takes."""
    with contextlib.ExitStack() as stack:
        for host in those:
            stack.enter_context(running(host, host.command("up")))
        for host in those:
            wait_for(f"{host.url}/health")
        yield


def wait_for(url: str, every_s: float = 0.1) -> None:
    """Wait until a URL is answered."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(every_s)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_s(process: int) -> float:
    """Return the CPU that a process and its children have used, in seconds."""
    return sum(
        int(task.joinpath("schedstat").read_text().split()[0]) / 1e9
        for one in family(process)
        for task in Path(f"/proc/{one}/task").iterdir()
    )


def peak_mb(process: int) -> float:
    """Return the most memory that a process, or one of its children, has held at a time.

    Zero once it has ended.
    """
    with contextlib.suppress(OSError):
        return max(map(_peak_kib, family(process))) * 1024 / 1e6
    return 0.0


def family(process: int) -> list[int]:
    """Return the ids of a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *map(int, children)]


def _peak_kib(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0  # it has ended
