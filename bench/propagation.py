"""`python -m bench.propagation`: how long a committed write takes to show on another host.

Two licence hosts are started as `syncd up` on this machine, with the configured interval of 5 s. A
row is written to one file as by any program, and the other file is read until the row is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRITES = 40
PAUSE_S = 0.3
WITHIN_S = 60
INSERT = (
    "INSERT INTO devices (device_id, license_type, status, start_date)"
    " VALUES (?, 'anual', 'active', '2026-01-01')"
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.propagation", description=__doc__)
    parser.add_argument("--writes", type=int, default=WRITES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder,
        _hosts(Path(folder)) as files,
    ):
        source, target = (sqlite3.connect(file, isolation_level=None) for file in files)
        _shown_after_ms(source, target, "the first")  # rounds have begun
        took_ms = []
        for number in range(options.writes):
            time.sleep(PAUSE_S)
            took_ms.append(_shown_after_ms(source, target, f"write {number}"))
    result = {
        "writes": len(took_ms),
        "median_ms": round(statistics.median(took_ms)),
        "least_ms": round(min(took_ms)),
        "most_ms": round(max(took_ms)),
    }
    if options.json:
        print(json.dumps(result))
        return
    print("a write shows after {median_ms} ms (median of {writes};".format(**result), end=" ")
    print("{least_ms} to {most_ms} ms; target: 300 ms)".format(**result))


def _shown_after_ms(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> float:
    source.execute(INSERT, (f"device of {name}",))
    written = time.monotonic()
    find = "SELECT 1 FROM devices WHERE device_id = ?"
    while target.execute(find, (f"device of {name}",)).fetchone() is None:
        if time.monotonic() > written + WITHIN_S:
            raise SystemExit(f"{name} did not show within {WITHIN_S} s")
        time.sleep(0.001)
    return (time.monotonic() - written) * 1000


@contextlib.contextmanager
def _hosts(folder: Path) -> Iterator[list[Path]]:
    """Run two hosts that know each other; yield their database files."""
    ports = {"host-a": _free_port(), "host-b": _free_port()}
    keys = {
        name: secrets.token_hex(32) for name in ("API_KEY", "SHARED_SECRET", "SESSION_KEYS")
    } | {"SYNC_KEYS": f"k1:{secrets.token_hex(32)}"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "syncd", "up"],
            cwd=ROOT,
            env={
                **os.environ,
                **keys,
                "NODE_NAME": name,
                "DB_PATH": str(folder / f"{name}.db"),
                "SERVE_HOST": "127.0.0.1",
                "PORT": str(port),
                "SYNC_PEERS": ",".join(
                    f"{other}=http://127.0.0.1:{its}"
                    for other, its in ports.items()
                    if other != name
                ),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, port in ports.items()
    ]
    try:
        for port in ports.values():
            _wait_for(f"http://127.0.0.1:{port}/health")
        yield [folder / f"{name}.db" for name in ports]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(WITHIN_S)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
