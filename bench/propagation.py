"""`python -m bench.propagation`: how long a committed write takes to show on another host.

Two licence hosts are started as `syncd up` on this machine, with the configured interval of 5 s. A
row is written to one file as by any program, and the other file is read until the row is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from bench import hosts

WRITES = 40
PAUSE_S = 0.3
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
    with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
        source, target = hosts.hosts(Path(folder), "host-a", "host-b")
        with hosts.up(source, target):
            took_ms = _measure(source.database, target.database, options.writes)
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


def _measure(source_file: Path, target_file: Path, writes: int) -> list[float]:
    with (
        contextlib.closing(sqlite3.connect(source_file, isolation_level=None)) as source,
        contextlib.closing(sqlite3.connect(target_file, isolation_level=None)) as target,
    ):
        _shown_after_ms(source, target, "the first")  # rounds have begun
        took_ms = []
        for number in range(writes):
            time.sleep(PAUSE_S)
            took_ms.append(_shown_after_ms(source, target, f"write {number}"))
    return took_ms


def _shown_after_ms(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> float:
    source.execute(INSERT, (f"device of {name}",))
    written = time.monotonic()
    find = "SELECT 1 FROM devices WHERE device_id = ?"
    while target.execute(find, (f"device of {name}",)).fetchone() is None:
        if time.monotonic() > written + hosts.WITHIN_S:
            raise SystemExit(f"{name} did not show within {hosts.WITHIN_S} s")
        time.sleep(0.001)
    return (time.monotonic() - written) * 1000


if __name__ == "__main__":
    main()
