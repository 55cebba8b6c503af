"""`make bench`: the engine against plain SQLite, as ratios within one run.

Prints the median of several runs, each of which does everything once, plain and with syncd in turn.
The targets are printed beside the figures and decide nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sqlite3
import statistics
import tempfile
from pathlib import Path

from tabulate import tabulate

from bench import workload
from bench.workload import INSERT, ROWS, SINGLE_TRANSACTIONS, UPDATE, UPDATES, Row
from syncd import Replica, codec
from syncd.bundle import Frame, Header
from syncd.vector import Vector

TARGETS = {
    "capture: bulk insert / plain": 1.5,
    "capture: one-row transactions / plain": 1.15,
    "capture: bulk update / plain": 1.5,
    "extract / plain bulk insert": 0.75,
    "bundle MB": 5.5,
    "merge into empty / plain bulk insert": 1.5,
    "merge updates / plain bulk update": 1.5,
    "merge again / plain bulk insert": 0.1,
    "file / plain": 1.5,
    "file after updates / plain": 1.5,
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = []
    for seed in range(1, options.runs + 1):
        with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
            runs.append(one_run(Path(folder), seed))
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    if options.json:
        print(json.dumps(medians, indent=2))
        return
    print(
        f"{ROWS} rows of eight columns, UUID text key; {UPDATES} updates of one column;"
        f" {SINGLE_TRANSACTIONS} one-row transactions; WAL, synchronous NORMAL\n"
        f"median of {options.runs} runs; Python {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version}, {platform.machine()}\n"
    )
    table = [
        (
            name,
            f"{value:.2f}" if value < 1000 else f"{value:,.0f}",
            f"{min(run[name] for run in runs):.2f} to {max(run[name] for run in runs):.2f}",
            f"<= {TARGETS[name]}" if name in TARGETS else "",
        )
        for name, value in medians.items()
    ]
    print(tabulate(table, headers=("", "median", "range", "target"), disable_numparse=True))


def one_run(folder: Path, seed: int) -> dict[str, float]:
    """Measure everything once, on rows of their own."""
    rows = workload.rows(ROWS + SINGLE_TRANSACTIONS, seed)
    rows, singles = rows[:ROWS], rows[ROWS:]
    updates: list[Row] = [("renewed", row[0]) for row in rows[:UPDATES]]
    plain = _write_plain(folder / "plain.db", rows, singles, updates)

    captured, source = _replica(folder / "source.db")
    insert_s = workload.bulk(captured, INSERT, rows)
    fold_s = workload.timed(source.fold)
    source_bytes = workload.file_bytes(captured, folder / "source.db")
    extract_s, exported = _export(source, Vector())
    bundle_bytes = _size(exported)

    received, target = _replica(folder / "target.db")
    merge_s = _merge(target, exported)
    again_s = _merge(target, exported)
    target_bytes = workload.file_bytes(received, folder / "target.db")

    update_s = workload.bulk(captured, UPDATE, updates)
    fold_updates_s = workload.timed(source.fold)
    extract_updates_s, delta = _export(source, target.vector())
    merge_updates_s = _merge(target, delta)
    updated_bytes = workload.file_bytes(received, folder / "target.db")
    assert _content(captured) == _content(received), "the replicas differ"
    # Of the plain file too the log is empty by then: what the fold left there is not the writer's.
    workload.empty_log(captured)
    singles_s = workload.singles(captured, singles)
    for replica in (source, target):
        replica.close()
    for connection in (captured, received):
        connection.close()
    return {
        "capture: bulk insert / plain": insert_s / plain["insert"],
        "capture: one-row transactions / plain": singles_s / plain["singles"],
        "capture: bulk update / plain": update_s / plain["update"],
        "fold / plain bulk insert": fold_s / plain["insert"],
        "fold updates / plain bulk update": fold_updates_s / plain["update"],
        "extract / plain bulk insert": extract_s / plain["insert"],
        "extract updates / plain bulk update": extract_updates_s / plain["update"],
        "bundle MB": bundle_bytes / 1e6,
        "merge into empty / plain bulk insert": merge_s / plain["insert"],
        "merge updates / plain bulk update": merge_updates_s / plain["update"],
        "merge again / plain bulk insert": again_s / plain["insert"],
        "file / plain": target_bytes / plain["bytes"],
        "file of the origin / plain": source_bytes / plain["bytes"],
        "file after updates / plain": updated_bytes / plain["bytes after updates"],
        "plain bulk insert, rows/s": ROWS / plain["insert"],
        "merge into empty, rows/s": ROWS / merge_s,
    }


def _write_plain(
    path: Path, rows: list[Row], singles: list[Row], updates: list[Row]
) -> dict[str, float]:
    connection = workload.connect(path)
    connection.execute(workload.DDL)
    found = {"insert": workload.bulk(connection, INSERT, rows)}
    found["bytes"] = workload.file_bytes(connection, path)
    found["update"] = workload.bulk(connection, UPDATE, updates)
    found["bytes after updates"] = workload.file_bytes(connection, path)
    found["singles"] = workload.singles(connection, singles)
    connection.close()
    return found


def _replica(path: Path) -> tuple[sqlite3.Connection, Replica]:
    connection = workload.connect(path)
    connection.execute(workload.DDL)
    return connection, workload.enrolled(path)


Exported = tuple[Header, list[bytes]]


def _export(replica: Replica, since: Vector) -> tuple[float, Exported]:
    """Extract, encode and compress; return seconds and the packed frames."""
    packed: list[bytes] = []
    headers: list[Header] = []

    def work() -> None:
        header, frames = replica.frames_since(since)
        headers.append(header)
        packed.extend(codec.compress(frame) for frame in frames)

    seconds = workload.timed(work)
    return seconds, (headers[0], packed)


def _merge(replica: Replica, exported: Exported) -> float:
    """Unpack, decode and merge; return seconds."""
    header, packed = exported

    def work() -> None:
        for frame in packed:
            replica.merge_packed(header, frame)

    return workload.timed(work)


def _size(exported: Exported) -> int:
    header, packed = exported
    stream = io.BytesIO()
    frames: list[Frame] = [codec.decompress(frame) for frame in packed]
    return codec.write(stream, header, frames)


def _content(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT * FROM licences ORDER BY device_id").fetchall()


if __name__ == "__main__":
    main()
