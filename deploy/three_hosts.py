"""Three licence hosts on this machine, in sync: what `make run` starts.

Each host is a `syncd up` of its own with its own database under data/, configured as on a real
host: the repository's config.yaml and the environment. Secrets are generated once and kept in
data/secrets.json; the administrator gets a new password at every start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
PORTS = {"host-a": 5001, "host-b": 5002, "host-c": 5003}
READY_WITHIN_S = 60
STOP_WITHIN_S = 30
DEMO = {
    "demo-0000000000000001": ("anual", "Ana Souza"),
    "demo-0000000000000002": ("mensal", "Bruno Lima"),
    "demo-0000000000000003": ("vitalicia", "Carla Dias"),
}
NEW_DEVICE = "demo-0000000000000004"


@dataclass(frozen=True)
class Host:
    """One of the three. process: its `syncd up`."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{PORTS[self.name]}"


def main() -> None:
    """Start, say how to try it, and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for port in PORTS.values():
        _refuse_taken(port)
    keys = _secrets()
    with contextlib.suppress(KeyboardInterrupt):
        print("setting up ...", flush=True)
        password = _administrator(keys)
        with _running(keys) as hosts:
            token = _login(hosts[0], password)
            _create_demo_licences(hosts, token)
            _explain(hosts, keys, password, token)
            while any(host.process.poll() is None for host in hosts):
                time.sleep(0.5)
            print("all hosts have ended")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"error: port {port} is taken; stop what listens there and try again")


def _secrets() -> dict[str, str]:
    file = DATA / "secrets.json"
    if file.exists():
        kept: dict[str, str] = json.loads(file.read_text())
        return kept
    DATA.mkdir(exist_ok=True)
    made = {
        "SYNC_KEYS": f"k1:{secrets.token_urlsafe(32)}",
        "SESSION_KEYS": secrets.token_urlsafe(32),
        "API_KEY": secrets.token_urlsafe(16),
        "SHARED_SECRET": secrets.token_urlsafe(16),
    }
    file.touch(mode=0o600)
    file.write_text(json.dumps(made))
    return made


def _environment(name: str, keys: dict[str, str]) -> dict[str, str]:
    others = [other for other in PORTS if other != name]
    return {
        **os.environ,
        **keys,
        "NODE_NAME": name,
        "DB_PATH": str(DATA / name / "protecao.db"),
        "SERVE_HOST": "127.0.0.1",
        "PORT": str(PORTS[name]),
        "SYNC_PEERS": ",".join(f"{other}=http://127.0.0.1:{PORTS[other]}" for other in others),
        "SYNC_INTERVAL": "1s",
        "LICENSE_SERVERS": ",".join(f"http://127.0.0.1:{port}" for port in PORTS.values()),
    }


def _administrator(keys: dict[str, str]) -> str:
    command = [sys.executable, "-m", "api", "create-admin", "--reset"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=_environment("host-a", keys),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.partition("password: ")[2].strip()


@contextlib.contextmanager
def _running(keys: dict[str, str]) -> Iterator[list[Host]]:
    hosts = []
    try:
        for name in PORTS:
            hosts.append(_start(name, keys))
        for host in hosts:
            _wait_until_up(host)
        yield hosts
    finally:
        print("\nstopping ...", flush=True)
        for host in hosts:
            host.process.terminate()
        for host in hosts:
            host.process.wait(STOP_WITHIN_S)
        print("stopped")


def _start(name: str, keys: dict[str, str]) -> Host:
    folder = DATA / name
    folder.mkdir(exist_ok=True)
    with (folder / "host.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncd", "up"],
            cwd=ROOT,
            env=_environment(name, keys),
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this process, which then stops them in order
        )
    return Host(name, process)


def _wait_until_up(host: Host) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and host.process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{host.url}/health", timeout=2).ok:
                return
        time.sleep(0.1)
    sys.exit(f"error: {host.name} did not start; see {DATA / host.name / 'host.log'}")


def _login(host: Host, password: str) -> str:
    answer = requests.post(
        f"{host.url}/admin/login", json={"username": "admin", "password": password}, timeout=10
    )
    answer.raise_for_status()
    token: str = answer.json()["token"]
    return token


def _create_demo_licences(hosts: list[Host], token: str) -> None:
    for device_id, (license_type, owner) in DEMO.items():
        requests.post(
            f"{hosts[0].url}/admin/devices/create",
            json={"device_id": device_id, "license_type": license_type, "owner_name": owner},
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        ).raise_for_status()
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if all(DEMO.keys() <= _devices(host, token) for host in hosts):
            return
        time.sleep(0.2)
    sys.exit("error: the hosts did not get in step; see the logs under data/")


def _devices(host: Host, token: str) -> set[str]:
    answer = requests.get(
        f"{host.url}/admin/devices", headers={"Authorization": f"Bearer {token}"}, timeout=10
    )
    items: list[dict[str, Any]] = answer.json().get("items", [])
    return {item["device_id"] for item in items}


def _verify_query(keys: dict[str, str]) -> str:
    ts = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    text = f"{NEW_DEVICE}|1.0.0|{ts}|{keys['SHARED_SECRET']}"
    return urlencode(
        {
            "id": NEW_DEVICE,
            "version": "1.0.0",
            "ts": ts,
            "sig": hashlib.sha256(text.encode()).hexdigest(),
            "api_key": keys["API_KEY"],
        }
    )


def _explain(hosts: list[Host], keys: dict[str, str], password: str, token: str) -> None:
    first, _, third = hosts
    query = _verify_query(keys)
    licence = json.dumps({"device_id": NEW_DEVICE, "license_type": "anual", "owner_name": "Davi"})
    print(
        f"""
Three licence hosts are up and in sync, each with its own database under data/:
  {"   ".join(f"{host.name} {host.url}" for host in hosts)}
  administrator: admin   password: {password}

1. Create a licence on {first.name}:
  curl -s -X POST {first.url}/admin/devices/create -H 'Authorization: Bearer {token}' \\
    -H 'Content-Type: application/json' -d '{licence}'

2. Verify it on {third.name} a moment later:
  curl -s '{third.url}/verify?{query}'

3. Stop {first.name} and verify again:
  kill {first.process.pid}; sleep 2; curl -s '{third.url}/verify?{query}'

Ctrl-C stops all of it.
""",
        flush=True,
    )


if __name__ == "__main__":
    main()
