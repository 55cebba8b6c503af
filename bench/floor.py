"""What any trigger costs a writer: the floor below which no capture by triggers can be.

Each trigger appends to a table of its own; `syncd` is what a host has. One-row inserts go in turns,
a few hundred to each file at a time, as a machine's speed changes by the second.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from tabulate import tabulate

from bench import workload
from bench.workload import DDL, INSERT, ROWS, SINGLE_TRANSACTIONS

JOURNAL = "CREATE TABLE journal (seq INTEGER PRIMARY KEY, wall, mask, k0)"
TRIGGERS = {
    "one number": "INSERT INTO journal (mask) VALUES (1)",
    "the key": "INSERT INTO journal (k0) VALUES (NEW.device_id)",
    "the key and the time": "INSERT INTO journal (wall, k0) VALUES (julianday(), NEW.device_id)",
}
TURN = 500


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    runs = []
    for seed in range(1, options.runs + 1):
        with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
            runs.append(one_run(Path(folder), seed))
    print(f"one-row transactions / plain, median of {options.runs} runs\n")
    table = [
        (name, *(f(run[name] for run in runs) for f in (statistics.median, min, max)))
        for name in runs[0]
    ]
    print(
        tabulate(table, headers=("a trigger that appends", "median", "min", "max"), floatfmt=".2f")
    )


def one_run(folder: Path, seed: int) -> dict[str, float]:
    """Return what each trigger makes of the time of one-row inserts."""
    rows = workload.rows(ROWS + SINGLE_TRANSACTIONS, seed)
    writers = {
        name: workload.connect(folder / f"{name}.db") for name in ("plain", *TRIGGERS, "syncd")
    }
    for name, writer in writers.items():
        writer.execute(DDL)
        workload.bulk(writer, INSERT, rows[:ROWS])
        if name in TRIGGERS:
            writer.execute(JOURNAL)
            writer.execute(
                f"CREATE TRIGGER appends AFTER INSERT ON licences BEGIN {TRIGGERS[name]}; END"
            )
    workload.enrolled(folder / "syncd.db").close()
    for writer in writers.values():
        workload.empty_log(writer)
    seconds = dict.fromkeys(writers, 0.0)
    for start in range(ROWS, len(rows), TURN):
        for name, writer in writers.items():
            seconds[name] += workload.singles(writer, rows[start : start + TURN])
    for writer in writers.values():
        writer.close()
    return {name: seconds[name] / seconds["plain"] for name in writers if name != "plain"}


if __name__ == "__main__":
    main()
