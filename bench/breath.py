"""`python -m bench.breath`: how long a one-row write waits while the daemon merges 100,000 rows.

A new host, started as `syncd up`, takes in the devices of another. All the while this process
writes single rows to the new host's file, as the API does: one connection, one transaction a row,
by the API's own store. Only writes that begin before the last row is there count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from api.store import Store
from bench import hosts, workload

RUNS = 5
ROWS = 100_000
PAUSE_S = 0.005
P99_MS_MAX = 100
WRITE = "INSERT INTO license_history (device_id, action, admin, host) VALUES (?, 'note', 'a', 'b')"
COUNT = "SELECT count(*) FROM devices"


@dataclass(frozen=True)
class Breath:
    """What one run saw. quiet: the same writes, before anything is merged."""

    writes: int
    failed: int
    seconds: float
    median_ms: float
    p99_ms: float
    most_ms: float
    quiet_p99_ms: float


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.breath", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw how long writes waited into this file")
    options = parser.parse_args()
    runs, waits_ms = [], []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
            run, waited = one_run(Path(folder))
        runs.append(run)
        waits_ms += waited
    if options.plot:
        _plot(waits_ms, options.plot)
    median = Breath(
        *(statistics.median(column) for column in zip(*map(_values, runs), strict=True))
    )
    if options.json:
        print(json.dumps(asdict(median), indent=2))
        return
    print(
        f"{ROWS} rows merged; a write every {PAUSE_S * 1000:.0f} ms at most; target: p99 <"
        f" {P99_MS_MAX} ms, none fails; the last line is the median of {options.runs} runs\n"
    )
    print(tabulate([asdict(run) for run in (*runs, median)], headers="keys", floatfmt=".1f"))


def one_run(folder: Path) -> tuple[Breath, list[float]]:
    """Let a new host take in all devices of another and write meanwhile; return every wait too."""
    source, target = hosts.hosts(folder, "host-a", "host-b")
    source.fill(ROWS)
    target.fill(0)
    with (
        hosts.running(source, source.serving()),
        contextlib.closing(Store(target.database).connection) as connection,
    ):
        hosts.wait_for(f"{source.url}/health")
        quiet = [_write_ms(connection) or 0.0 for _ in range(200)]
        with hosts.up(target):
            started = time.monotonic()
            waits = _write_until_merged(connection)
            seconds = time.monotonic() - started
    waited = [wait for wait in waits if wait is not None]
    return Breath(
        writes=len(waits),
        failed=len(waits) - len(waited),
        seconds=seconds,
        median_ms=statistics.median(waited),
        p99_ms=_p99(waited),
        most_ms=max(waited),
        quiet_p99_ms=_p99(quiet),
    ), waited


def _write_until_merged(connection: sqlite3.Connection) -> list[float | None]:
    waits: list[float | None] = []
    deadline = time.monotonic() + hosts.WITHIN_S * 2
    while connection.execute(COUNT).fetchone()[0] < ROWS:
        if time.monotonic() > deadline:
            raise SystemExit("the rows were not merged in time")
        waits.append(_write_ms(connection))
        time.sleep(PAUSE_S)
    return waits


def _write_ms(connection: sqlite3.Connection) -> float | None:
    """Write a row; return how long it took, None if it failed."""
    try:
        return workload.timed(lambda: connection.execute(WRITE, ("device",))) * 1000
    except sqlite3.OperationalError:
        return None


def _p99(waits_ms: Sequence[float]) -> float:
    return statistics.quantiles(waits_ms, n=100)[-1]


def _values(run: Breath) -> tuple[float, ...]:
    return tuple(asdict(run).values())


def _plot(waits_ms: Sequence[float], file: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415  (only drawing needs it)

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.ecdf(waits_ms)
    axes.axvline(P99_MS_MAX, linestyle=":")
    axes.set(xlabel="ms that a write takes", ylabel="writes that take no longer", xscale="log")
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
