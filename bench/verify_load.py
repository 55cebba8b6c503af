"""`python -m bench.verify_load`: /verify under load, against a bare route under the same server.

The host is whole: its daemon syncs beside the API with a second host, on which devices are written
all the while. Every question is signed and for another device, every answer leaves a heartbeat and
a row of the log. The load comes from wrk, a process of its own, bounded in time. The bare route is
asked just before and just after, under the same gunicorn options and beside the same two hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from bench import hosts
from bench.hosts import INSERT, Host
from bench.questions import questions

RUNS = 5
SECONDS = 5
DEVICES = 100_000
ASKED = 20_000
CONNECTIONS = 16
WRITES_EVERY_S = 0.5
WRITES_AT_ONCE = 10
"""Devices written on the other host, as often as `WRITES_EVERY_S`, for the daemon to sync."""
SHARE_MIN = 0.6
P99_MS_MAX = 25
SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Load:
    """What wrk saw. failed: answers other than 2xx and 3xx, and broken connections."""

    requests: int
    seconds: float
    failed: int
    median_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Return requests per second."""
        return self.requests / self.seconds


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify_load", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
        runs = measure(Path(folder), options.runs, options.seconds)
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    if options.json:
        print(json.dumps(medians, indent=2))
        return
    print(
        f"{DEVICES} devices; {CONNECTIONS} connections for {options.seconds} s a load; one gunicorn"
        f" worker, {hosts.THREADS} threads; {WRITES_AT_ONCE} rows synced in every"
        f" {WRITES_EVERY_S} s; median of {options.runs} runs\n"
    )
    targets = {"verify / bare": f">= {SHARE_MIN}", "at half: p99 ms": f"< {P99_MS_MAX}"}
    rows = [
        (
            name,
            f"{value:,.2f}",
            f"{min(run[name] for run in runs):,.2f} to {max(run[name] for run in runs):,.2f}",
            targets.get(name, ""),
        )
        for name, value in medians.items()
    ]
    print(tabulate(rows, headers=("", "median", "range", "target"), disable_numparse=True))


def measure(folder: Path, runs: int, seconds: int) -> list[dict[str, float]]:
    """Start both hosts, and load one of them and the bare route in turn."""
    host, other = hosts.hosts(folder, "host-a", "host-b")
    host.fill(DEVICES)
    asked = folder / "questions"
    asked.write_text("\n".join(questions(host, ASKED)))
    route = folder / "route"
    route.write_text("/bare\n")
    bare, signing = (
        host.beside(SERVE_APP="bench.bare:app"),
        host.beside(OFFLINE_KEY=host.offline_key),
    )
    with (
        hosts.up(host, other),
        hosts.running(bare, bare.serving()),
        hosts.running(signing, signing.serving()),
        _writing(other),
    ):
        hosts.wait_for(f"{bare.url}/bare")
        hosts.wait_for(f"{signing.url}/health")
        found = []
        for _ in range(runs):
            before = _load(bare, route, seconds)
            full = _load(host, asked, seconds)
            # What a connection waits, to ask half as often as it just did.
            half = _load(host, asked, seconds, pause_ms=1000 * CONNECTIONS / full.per_s * 2)
            signed = _load(signing, asked, seconds)
            after = _load(bare, route, seconds)
            bare_per_s = (before.per_s + after.per_s) / 2
            found.append(
                {
                    "bare, requests/s": bare_per_s,
                    "verify, requests/s": full.per_s,
                    "verify / bare": full.per_s / bare_per_s,
                    "verify: p99 ms": full.p99_ms,
                    "at half: requests/s": half.per_s,
                    "at half: median ms": half.median_ms,
                    "at half: p99 ms": half.p99_ms,
                    "verify with an offline token / bare": signed.per_s / bare_per_s,
                    "failed": float(full.failed + half.failed + signed.failed),
                }
            )
        return found


def _load(host: Host, paths: Path, seconds: int, pause_ms: float = 0) -> Load:
    answer = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(CONNECTIONS)),
            *("--duration", f"{seconds}s", "--script", str(SCRIPT), host.url),
            *("--", str(paths), str(pause_ms)),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + hosts.WITHIN_S,
    )
    return Load(**json.loads(answer.stdout.splitlines()[-1]))


@contextlib.contextmanager
def _writing(host: Host) -> Iterator[None]:
    """Write devices on a host for as long as the `with` takes."""
    stopping = threading.Event()
    writer = threading.Thread(target=_write, args=(host.database, stopping))
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join()


def _write(database: Path, stopping: threading.Event) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=hosts.WITHIN_S)) as connection:
        number = 0
        while not stopping.wait(WRITES_EVERY_S):
            with connection:
                connection.executemany(INSERT, _devices(number))
            number += WRITES_AT_ONCE


def _devices(first: int) -> Sequence[tuple[str, ...]]:
    rest = ("Ana", "anual", "2026-01-01", "2027-01-01", "core", "2026-01-01 12:00:00")
    return [(f"device {number}", *rest) for number in range(first, first + WRITES_AT_ONCE)]


if __name__ == "__main__":
    main()
