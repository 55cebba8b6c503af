"""What a round costs depends on what changed, not on how much there is."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.conftest import MakeHosts
from engine.hosts import DEVICES, DEVICES_KEY, Host, Key, pull, settle

MANY = 2_000
PLACES = "CREATE TABLE places (site TEXT, number INTEGER, note UNIQUE, PRIMARY KEY (site, number))"
BOTH: dict[str, Key] = {**DEVICES_KEY, "places": None}

ONE_CHANGE = {
    "update": "UPDATE devices SET status = 'blocked' WHERE device_id = 'device 7'",
    "birth": "INSERT INTO devices (device_id) VALUES ('one more')",
    "death": "DELETE FROM devices WHERE device_id = 'device 7'",
    "new key": "UPDATE devices SET device_id = 'renamed' WHERE device_id = 'device 7'",
    "rebirth": "INSERT OR REPLACE INTO devices (device_id) VALUES ('dead 7')",
    "update of a dead row": "UPDATE devices SET note = 'late' WHERE device_id = 'grave 7'",
    "composite key": "UPDATE places SET note = 'moved' WHERE site = 'x' AND number = 7",
    "displaced row": "INSERT OR REPLACE INTO places VALUES ('y', 1, 'place 7')",
}


def fill(host: Host, rows: int) -> None:
    """Insert rows into both tables, and as many that will be dead."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    for kind in ("device", "dead", "grave"):
        host.write(
            f"{numbers} INSERT INTO devices (device_id, note) SELECT '{kind} ' || i, i FROM n"
        )
    host.write(f"{numbers} INSERT INTO places SELECT 'x', i, 'place ' || i FROM n")


def large_hosts(make_hosts: MakeHosts, rows: int, prefix: str = "") -> tuple[Host, Host]:
    """Return two hosts in step; b lacks the rows called graves and keeps values in their shadow."""
    a, b = make_hosts(f"{prefix}a", f"{prefix}b", ddl=f"{DEVICES};{PLACES}", tables=BOTH)
    fill(a, rows)
    a.replica.fold()
    settle(a, b)
    a.write("DELETE FROM devices WHERE device_id GLOB 'dead *'")
    settle(a, b)
    b.write("DELETE FROM devices WHERE device_id GLOB 'grave *'")
    a.write("UPDATE devices SET status = 'late' WHERE device_id GLOB 'grave *'")
    b.replica.fold()
    pull(b, a)
    a.replica.fold()
    assert b.rows("SELECT count(*) FROM syncd_shadow_devices") == [(rows,)]
    return a, b


@contextmanager
def traced(host: Host, seen: list[str]) -> Iterator[None]:
    """Collect the statements of a host's engine."""
    raw = host.replica._database._connection()
    raw.set_trace_callback(seen.append)
    yield
    raw.set_trace_callback(None)


def full_scans(host: Host, statements: list[str]) -> list[str]:
    """Return the plans, with their statements, that walk through a table that grows with the data.

    The statements are explained in order, beside the temporary tables they made for each other.
    """
    connection = sqlite3.connect(host.path)
    connection.create_function("syncd_is_utf8", 1, bool)  # of the engine's connections
    large = {t for name in BOTH for t in (name, f"syncd_changes_{name}", f"syncd_shadow_{name}")}
    found = []
    for sql in statements:
        verb = sql.split()[0]
        making = sql.startswith("CREATE TEMP TABLE")
        if making or verb in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            scanned = _scanned(connection, sql) & large
            found += [f"{table}: {sql}" for table in scanned if not _stops_at_once(sql)]
        if making or re.match(r"(DROP|ALTER) TABLE (IF EXISTS )?temp\.", sql):
            connection.execute(sql)
    connection.close()
    return found


def _scanned(connection: sqlite3.Connection, sql: str) -> set[str]:
    named = r'(?:FROM|JOIN|UPDATE|INTO)\s+(?:temp\.)?"?([^\s"(),]+)"?(?:\s+AS\s+(\w+))?'
    names: dict[str, str] = {alias or name: name for name, alias in re.findall(named, sql)}
    plan = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    scans = [re.match(r"SCAN (?:temp\.)?([^\s()]+)", detail) for detail in plan]
    scanned = {str(scan[1]) for scan in scans if scan}
    inner = re.findall(r"\)\s+AS\s+(\w+)", sql) + re.findall(r"(\w+)\s*\([^()]*\)\s+AS\s*\(", sql)
    unknown = scanned - names.keys() - set(names.values()) - {"CONSTANT", *inner}
    assert not unknown, f"what is {unknown} in: {sql}"
    return {names.get(alias, alias) for alias in scanned}


def _stops_at_once(sql: str) -> bool:
    """Recognise the question whether a table is empty, and a query for no rows at all."""
    return bool(re.fullmatch(r"SELECT EXISTS \(SELECT 1 FROM \S+\)|.* WHERE (0|false)", sql))


@pytest.mark.parametrize("analyzed", [False, True], ids=["", "analyzed"])
def test_a_round_with_one_change_scans_no_table(make_hosts: MakeHosts, analyzed: bool) -> None:
    """Neither the user's tables nor what syncd keeps beside them, at either end."""
    a, b = large_hosts(make_hosts, MANY)
    if analyzed:
        for host in (a, b):
            host.writer.execute("ANALYZE")
            host.replica.close()
    found = []
    for change, sql in ONE_CHANGE.items():
        a.write(sql)
        sent: list[str] = []
        received: list[str] = []
        with traced(a, sent), traced(b, received):
            pull(b, a)
        assert len(sent) > 10
        assert len(received) > 20
        found += [f"{change}, sender: {scan}" for scan in full_scans(a, sent)]
        found += [f"{change}, receiver: {scan}" for scan in full_scans(b, received)]
    assert not found, "\n".join(found)


def test_the_work_of_a_round_does_not_grow_with_the_tables(make_hosts: MakeHosts) -> None:
    """Counted in steps of SQLite's virtual machine, a round in a large file costs what it did."""
    small = _steps_of_rounds(*large_hosts(make_hosts, 50, "small-"))
    large = _steps_of_rounds(*large_hosts(make_hosts, MANY, "large-"))
    grown = {
        change: (small[change], steps)
        for change, steps in large.items()
        if steps > 1.2 * small[change] + 100
    }
    assert grown == {}


def _steps_of_rounds(a: Host, b: Host) -> dict[str, int]:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    for host in (a, b):
        host.replica._database._connection().set_progress_handler(count, 1)
    costs = {}
    for change, sql in ONE_CHANGE.items():
        a.write(sql)
        steps = 0
        pull(b, a)
        costs[change] = steps
    return costs


@pytest.mark.parametrize("numbered", [True, False])
def test_a_deep_tree_takes_no_more_turns_than_a_flat_one(
    make_hosts: MakeHosts, numbered: bool
) -> None:
    """Nor does it where it goes as its root does. Children come before their parents."""
    ddl = "CREATE TABLE nodes (node TEXT PRIMARY KEY, parent TEXT REFERENCES nodes (node))"
    key: Key = None
    if numbered:
        ddl = (
            "CREATE TABLE nodes (id INTEGER PRIMARY KEY, node TEXT NOT NULL UNIQUE,"
            " parent INTEGER REFERENCES nodes (id))"
        )
        key = ["node"]
    turns = {}
    for depth in (10, 200):
        names = [f"{depth}{side}" for side in "ab"]
        a, b = make_hosts(*names, ddl=ddl, tables={"nodes": key})
        for level in range(depth):
            above = "SELECT max(id) FROM nodes" if numbered else f"'{1000 - level + 1}'"
            if not numbered and not level:
                above = "NULL"
            a.write(f"INSERT INTO nodes (node, parent) VALUES (?, ({above}))", f"{1000 - level}")
        statements: list[str] = []
        with traced(b, statements):
            pull(b, a, frame_entries=depth // 2)
            assert b.rows("SELECT count(*) FROM nodes") == [(depth,)]
            a.write("DELETE FROM nodes WHERE node = '1000'")
            pull(b, a)
            assert b.rows("SELECT count(*) FROM nodes") == [(0,)]
        turns[depth] = {
            turn: sum(sql.startswith(turn) for sql in statements)
            for turn in ("DELETE FROM temp.syncd_candidate", "CREATE TEMP TABLE syncd_hiding")
        }
    assert turns[200] == turns[10]


@pytest.mark.parametrize("kind", ["", " WITHOUT ROWID"])
def test_what_hangs_on_a_row_is_not_looked_for_by_scans(make_hosts: MakeHosts, kind: str) -> None:
    """A root with many children would take as many of them, where no index is the user's."""
    ddl = (
        "CREATE TABLE nodes (a TEXT NOT NULL, b INT NOT NULL, above_a TEXT, above_b INT,"
        f" PRIMARY KEY (a, b), FOREIGN KEY (above_a, above_b) REFERENCES nodes (a, b)){kind}"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"nodes": None})
    a.write("INSERT INTO nodes VALUES ('root', 1, NULL, NULL), ('leaf', 1, 'root', 1)")
    settle(a, b)
    a.write("DELETE FROM nodes WHERE a = 'root'")
    statements: list[str] = []
    with traced(b, statements):
        pull(b, a)
    assert b.rows("SELECT * FROM nodes") == []
    hiding = [sql for sql in statements if "syncd_branches" in sql and "syncd_hiding" in sql]
    plans = ["\n".join(row[3] for row in b.rows(f"EXPLAIN QUERY PLAN {sql}")) for sql in hiding]
    assert plans
    for plan in plans:
        assert "SEARCH c USING AUTOMATIC" in plan.partition("RECURSIVE STEP")[2]


def test_many_displaced_rows_are_compared_by_index(make_hosts: MakeHosts) -> None:
    """Four times as many take no more than some four times as many steps of SQLite's."""
    taken: dict[int, list[int]] = {}
    for rows in (250, 1_000):
        ddl = "CREATE TABLE places (name TEXT PRIMARY KEY, note UNIQUE, near REFERENCES places)"
        a, b = make_hosts(f"a{rows}", f"b{rows}", ddl=ddl, tables={"places": None})
        b.clock.ms += 1_000
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})"
        for host in (a, b):
            host.write(f"{numbers} INSERT INTO places SELECT '{host.node} ' || i, i, NULL FROM n")
        taken[rows] = [_steps(a, b)]
        b.write("INSERT INTO places VALUES ('one more', 'new', NULL)")
        taken[rows].append(_steps(a, b))
        assert a.held() == rows
    assert all(many < 6 * few for few, many in zip(*taken.values(), strict=True)), taken


def _steps(receiver: Host, sender: Host) -> int:
    """Pull; return how many hundred steps SQLite's machine took for it at the receiver."""
    count = 0

    def one_more() -> int:
        nonlocal count
        count += 1
        return 0

    raw = receiver.replica._database._connection()
    raw.set_progress_handler(one_more, 100)
    pull(receiver, sender)
    raw.set_progress_handler(None, 0)
    return count
