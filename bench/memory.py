"""`python -m bench.memory`: what a transfer of a whole database holds in memory, and sends again.

A host serves 1,000,000 devices, as `syncd up` serves them; a new host takes them in by `syncd
sync`. Then a second new host does, whose process is killed (SIGKILL) half-way and started again:
whatever went over the wire beyond what the first one needed was sent twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from bench import hosts, workload
from bench.hosts import Host
from bench.tap import Tap

SIZES = (10_000, 100_000, 1_000_000)
MB_MAX = 150
WITHIN_S = 600
LOOK_EVERY_S = 0.02
IN_THE_NEXT_FRAME_S = 0.08
COUNT = "SELECT count(*) FROM devices"


@dataclass(frozen=True)
class Transfer:
    """What one size took. again_frames: what was sent again after the kill, in frames."""

    rows: int
    seconds: float
    sent_mb: float
    receiver_mb: float
    server_mb: float
    again_frames: float


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw memory against rows into this file")
    options = parser.parse_args()
    transfers = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
            transfers.append(transfer(Path(folder), size))
    if options.plot:
        _plot(transfers, options.plot)
    if options.json:
        print(json.dumps([asdict(one) for one in transfers], indent=2))
        return
    print(f"targets: < {MB_MAX} MB of peak memory each; at most one frame sent again\n")
    print(tabulate([asdict(one) for one in transfers], headers="keys", intfmt=",", floatfmt=".1f"))


def transfer(folder: Path, rows: int) -> Transfer:
    """Fill one host and have two new ones take in what it has."""
    host, whole, broken = hosts.hosts(folder, "host-a", "host-b", "host-c")
    host.fill(rows)
    whole.fill(0)
    broken.fill(0)
    with hosts.running(host, host.serving()) as server, Tap(host.port).forwarding() as tap:
        hosts.wait_for(f"{host.url}/health")
        for receiver in (whole, broken):
            receiver.environment["SYNC_PEERS"] = f"host-a=http://127.0.0.1:{tap.port}"
        started = time.monotonic()
        receiver_mb = _sync(whole)
        seconds = time.monotonic() - started
        needed, frames = tap.count, tap.asked
        _sync(broken, kill_at=rows // 2)
        _sync(broken)
        assert _rows(whole) == _rows(broken) == rows
        again = max(0, tap.count - 2 * needed)
        server_mb = hosts.peak_mb(server.pid)
    return Transfer(rows, seconds, needed / 1e6, receiver_mb, server_mb, again / (needed / frames))


def _sync(host: Host, kill_at: int | None = None) -> float:
    """Take in all there is, or be killed at a number of rows; return the peak memory in MB."""
    process = subprocess.Popen(
        host.command("sync"), cwd=hosts.ROOT, env=host.environment, stdout=subprocess.DEVNULL
    )
    deadline, peak_mb = time.monotonic() + WITHIN_S, 0.0
    try:
        while process.poll() is None and time.monotonic() < deadline:
            # Not what `getrusage` says: that counts what this process held when it made the other.
            peak_mb = max(peak_mb, hosts.peak_mb(process.pid))
            if kill_at is not None and _rows(host) >= kill_at:
                time.sleep(IN_THE_NEXT_FRAME_S)
                return peak_mb
            time.sleep(LOOK_EVERY_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, "the transfer did not end well"
    return peak_mb


def _rows(host: Host) -> int:
    with contextlib.closing(workload.connect(host.database)) as connection:
        try:
            found: tuple[int] = connection.execute(COUNT).fetchone()
        except sqlite3.OperationalError:
            return 0  # its tables are still to be made
        return found[0]


def _plot(transfers: Sequence[Transfer], file: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415  (only drawing needs it)

    figure, axes = pyplot.subplots(figsize=(7, 4))
    rows = [one.rows for one in transfers]
    axes.plot(rows, [one.receiver_mb for one in transfers], marker=".", label="new host")
    axes.plot(rows, [one.server_mb for one in transfers], marker=".", label="serving host")
    axes.axhline(MB_MAX, linestyle=":")
    axes.set(xlabel="rows", ylabel="peak memory, MB", xscale="log", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
