"""`python -m bench.growth`: what a round costs, against the size of the database.

One host serves, as `syncd up` serves it, and this process has the rounds of another with it, each a
pull over HTTP. Both grow from 10,000 to 1,000,000 devices; at each size some rounds bring 100
changed devices and some bring nothing. CPU is counted on both sides, bytes both ways with the
headers of HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from bench import hosts, workload
from bench.hosts import Host
from bench.tap import Tap
from syncd import Replica
from syncd.exchange import client_of, run_round
from syncd.peer import PeerClient

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
CHANGES = 100
ROUNDS = 15
IDLE_ROUNDS = 50
GROWTH_MAX = 1.3
IDLE_BYTES_MAX = 1_000
IDLE_CPU_MS_MAX = 5
CHANGE = "UPDATE devices SET notes = ? WHERE device_id = ?"


@dataclass(frozen=True)
class Cost:
    """What a round costs at the median. cpu: of the host that pulls; served: of the other."""

    rows: int
    ms: float
    cpu_ms: float
    served_ms: float
    bytes: int
    idle_ms: float
    idle_cpu_ms: float
    idle_served_ms: float
    idle_bytes: int


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw the costs into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
        costs = measure(Path(folder), options.sizes)
    if options.plot:
        _plot(costs, options.plot)
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=2))
        return
    print(
        f"medians of {ROUNDS} rounds with {CHANGES} changes and of {IDLE_ROUNDS} idle ones;"
        f" targets: idle < {IDLE_BYTES_MAX} bytes and < {IDLE_CPU_MS_MAX} ms CPU on each side,"
        f" last / first <= {GROWTH_MAX}\n"
    )
    print(tabulate([asdict(cost) for cost in costs], headers="keys", floatfmt=".1f", intfmt=","))
    first, last = costs[0], costs[-1]
    print(
        f"\nlast / first: {last.ms / first.ms:.2f} of the time,"
        f" {(last.cpu_ms + last.served_ms) / (first.cpu_ms + first.served_ms):.2f} of the CPU"
    )


def measure(folder: Path, sizes: Sequence[int]) -> list[Cost]:
    """Let two hosts grow, and have rounds at each size."""
    host, other = hosts.hosts(folder, "host-a", "host-b")
    host.fill(0)
    other.fill(0)
    costs: list[Cost] = []
    with hosts.running(host, host.serving()) as server:
        hosts.wait_for(f"{host.url}/health")
        for size in sizes:
            host.fill(size - (costs[-1].rows if costs else 0))
            costs.append(_cost(size, host, other, server.pid))
    return costs


def _cost(size: int, host: Host, other: Host, server: int) -> Cost:
    replica = other.replica()
    with contextlib.closing(_client(replica, host.port)) as client:
        _round(replica, client)  # what has been filled in
        busy = _rounds(lambda: _round(replica, client), ROUNDS, server, lambda: _change(host))
        _round(replica, client)
        idle = _rounds(lambda: _round(replica, client), IDLE_ROUNDS, server)
    with Tap(host.port).forwarding() as tap, contextlib.closing(_client(replica, tap.port)) as slow:
        _round(replica, slow)
        _change(host)
        busy_bytes = _bytes(tap, lambda: _round(replica, slow))
        idle_bytes = _bytes(tap, lambda: _round(replica, slow))
    replica.close()
    return Cost(size, *busy, busy_bytes, *idle, idle_bytes)


def _client(replica: Replica, port: int) -> PeerClient:
    (peer,) = replica.config.peers
    return client_of(replica, peer.model_copy(update={"url": f"http://127.0.0.1:{port}"}))


def _round(replica: Replica, client: PeerClient) -> None:
    outcome = run_round(replica, client)
    assert outcome.ok, outcome.error


def _rounds(
    work: Callable[[], None], count: int, server: int, before: Callable[[], None] = lambda: None
) -> tuple[float, float, float]:
    """Return the median milliseconds of a round, and of CPU on each side."""
    took = []
    for _ in range(count):
        before()
        served_s, cpu_s = hosts.cpu_s(server), time.process_time()
        wall_ms = workload.timed(work) * 1000
        took.append(
            (
                wall_ms,
                (time.process_time() - cpu_s) * 1000,
                (hosts.cpu_s(server) - served_s) * 1000,
            )
        )
    wall, cpu, served = (statistics.median(column) for column in zip(*took, strict=True))
    return wall, cpu, served


def _bytes(tap: Tap, work: Callable[[], None]) -> int:
    before = tap.count
    work()
    return tap.count - before


def _change(host: Host) -> None:
    """Write a column of devices that lie anywhere in the table."""
    draw = random.Random()  # each time others
    with contextlib.closing(workload.connect(host.database)) as connection:
        (top,) = connection.execute("SELECT max(id) FROM devices").fetchone()
        ids = [draw.randint(1, top) for _ in range(CHANGES)]
        found = [
            connection.execute("SELECT device_id FROM devices WHERE id = ?", (id_,)).fetchone()
            for id_ in ids
        ]
        workload.bulk(connection, CHANGE, [(str(draw.random()), row[0]) for row in found])


def _plot(costs: Sequence[Cost], file: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415  (only drawing needs it)

    figure, (cpu_axes, bytes_axes) = pyplot.subplots(1, 2, figsize=(9, 4))
    rows = [cost.rows for cost in costs]
    busy_ms = [cost.cpu_ms + cost.served_ms for cost in costs]
    idle_ms = [cost.idle_cpu_ms + cost.idle_served_ms for cost in costs]
    cpu_axes.plot(rows, busy_ms, marker=".", label=f"{CHANGES} changes")
    cpu_axes.plot(rows, idle_ms, marker=".", label="idle")
    cpu_axes.set(xlabel="rows", ylabel="CPU of both, ms a round", xscale="log", ylim=(0, None))
    bytes_axes.plot(rows, [cost.bytes for cost in costs], marker=".", label=f"{CHANGES} changes")
    bytes_axes.plot(rows, [cost.idle_bytes for cost in costs], marker=".", label="idle")
    bytes_axes.set(xlabel="rows", ylabel="bytes a round", xscale="log", ylim=(0, None))
    for axes in (cpu_axes, bytes_axes):
        axes.legend()
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
