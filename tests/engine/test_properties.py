"""Whatever is written where and however it travels, all hosts end with what the model says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.hosts import scratch
from engine.simulation import (
    CONSTRAINED,
    EARLIER,
    KNOTTED,
    LATER,
    PLAIN,
    Backup,
    Carry,
    Fold,
    Migrate,
    Pass,
    Pull,
    Redeliver,
    Restore,
    SetClock,
    Shapes,
    Statement,
    Step,
    World,
    Write,
)

EXAMPLES = int(os.environ.get("SYNCD_HYPOTHESIS_EXAMPLES", "0"))
# The default run replays; a longer campaign looks elsewhere each time.
thorough = settings(
    max_examples=EXAMPLES or 30,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=bool(EXAMPLES),
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

KEYS: dict[str, list[tuple[Any, ...]]] = {
    "devices": [("a",), ("A",), ("é\0",)],
    "places": [("x", 1), ("x", 2), ("y", 2**63 - 1)],
    "settings": [("p",), ("q",), ("",)],
    "accounts": [("ann",), ("bob",), ("cy",)],
    "teams": [("t",), ("u",)],
    "members": [("t", "ann"), ("t", "bob"), ("u", "ann")],
    "steps": [("a",), ("b",), ("c",), ("d",)],
    "clubs": [("reds",), ("blues",), ("greens",)],
    "players": [("ann",), ("bob",), ("cy",)],
}
VALUES: dict[str, dict[str, list[Any]]] = {
    "devices": {
        "status": ["new", "blocked", "Blocked", "", b"new"],
        "seats": [None, 0, 1, "1", "many", 1.5, 2**63 - 1, -(2**63)],
        "note": [None, 1, 1.0, "1", b"1", "", b"", 2**53 + 1, "a\0b", "\N{GRINNING FACE}"],
    },
    "places": {
        "score": [None, 0, 1, 1.5, float("inf"), float("-inf"), "high", "2"],
        "holder": ["ann", "ANN", "bob", b"ann", 7],
    },
    "settings": {
        "value": [b"", b"\0\xff", "text", 1, 1.0],
        "kind": [None, "plain", "Plain", 3],
    },
    "accounts": {
        "email": [None, "x", "y"],
        "phone": [None, "1", "2"],
        "low": [None, 1, 5],
        "high": [None, 3, 9],
    },
    "teams": {"owner": [None, "ann", "bob"], "room": ["r", "s"], "seat": [None, 1]},
    "members": {"note": [None, 1]},
    "steps": {"slug": ["a", "z"], "up": [None, "a", "b", "c", "d"]},
    "clubs": {"colour": [None, 1, 2], "captain": [None, "ann", "bob"]},
    "players": {"club": [None, "reds", "blues"], "shirt": [1, 2], "locker": [None, 8]},
}
SHAPES = PLAIN | CONSTRAINED | KNOTTED
OPTIONAL = {"seats", "note", "score", "kind", "email", "phone", "low", "high", "owner", "seat"}
PRAGMAS = ["foreign_keys = ON", "recursive_triggers = ON"]
SKEWS_MS = [0, 0, 0, 1, -1, 1_000, -60_000, 100_000]


def _key_is(key: tuple[str, ...]) -> str:
    return " AND ".join(f"{name} = ?" for name in key)


@st.composite
def _row(draw: st.DrawFn, table: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw a row to insert: its key, and values for every column that has no default."""
    values = {
        name: draw(st.sampled_from(choices))
        for name, choices in VALUES[table].items()
        if name not in OPTIONAL or draw(st.booleans())
    }
    return draw(st.sampled_from(KEYS[table])), values


@st.composite
def _inserts(draw: st.DrawFn, table: str, verb: str) -> Statement:
    key, values = draw(_row(table))
    names = [*SHAPES[table].key, *values]
    marks = ", ".join("?" * len(names))
    sql = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({marks})"
    born = None if verb == "INSERT OR IGNORE" else key
    return Statement(table, sql, (*key, *values.values()), born)


@st.composite
def _upserts(draw: st.DrawFn, table: str) -> Statement:
    insert = draw(_inserts(table, "INSERT"))
    shape = SHAPES[table]
    name = draw(st.sampled_from(shape.columns))
    sql = (
        f"{insert.sql} ON CONFLICT ({', '.join(shape.key)}) DO UPDATE SET {name} = excluded.{name}"
    )
    return Statement(table, sql, insert.values)


@st.composite
def _updates(draw: st.DrawFn, table: str) -> Statement:
    names = draw(st.lists(st.sampled_from(sorted(VALUES[table])), min_size=1, unique=True))
    values = [draw(st.sampled_from(VALUES[table][name])) for name in names]
    sql = f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names)}"
    if draw(st.integers(0, 4)) == 4:
        return Statement(table, sql, tuple(values))
    key = draw(st.sampled_from(KEYS[table]))
    return Statement(table, f"{sql} WHERE {_key_is(SHAPES[table].key)}", (*values, *key))


@st.composite
def _deletes(draw: st.DrawFn, table: str) -> Statement:
    if draw(st.integers(0, 4)) == 4:
        return Statement(table, f"DELETE FROM {table}")
    key = draw(st.sampled_from(KEYS[table]))
    return Statement(table, f"DELETE FROM {table} WHERE {_key_is(SHAPES[table].key)}", key)


@st.composite
def _rekeys(draw: st.DrawFn, table: str) -> Statement:
    old, new = draw(st.permutations(KEYS[table]))[:2]
    verb = draw(st.sampled_from(["UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"]))
    shape = SHAPES[table]
    sets = ", ".join(f"{name} = ?" for name in shape.key)
    sql = f"{verb} {table} SET {sets} WHERE {_key_is(shape.key)}"
    # Where it replaces another row, that one's key dies and is born again.
    return Statement(table, sql, (*new, *old), new)


@st.composite
def _surrogates(draw: st.DrawFn) -> Statement:
    """Draw writes through the local id, which itself is nobody else's business."""
    victim, key = draw(st.sampled_from(KEYS["devices"])), draw(st.sampled_from(KEYS["devices"]))
    id_of = "(SELECT id FROM devices WHERE device_id = ?)"
    kind = draw(st.sampled_from(["local", "REPLACE", "IGNORE", "move", "move OR REPLACE"]))
    if kind == "local":
        return Statement("devices", "UPDATE devices SET id = id + 1000")
    if kind.startswith("move"):
        verb = "UPDATE" + kind.removeprefix("move")
        sql = f"{verb} devices SET id = {id_of}, note = id WHERE device_id = ?"
        return Statement("devices", sql, (*victim, *key))
    sql = (
        f"INSERT OR {kind} INTO devices (id, device_id, status)"
        f" VALUES ({id_of}, ?, 'through the id')"
    )
    return Statement("devices", sql, (*victim, *key), key if kind == "REPLACE" else None)


def _statements(tables: Sequence[str]) -> st.SearchStrategy[Statement]:
    kinds: list[st.SearchStrategy[Statement]] = [_surrogates()] if "devices" in tables else []
    for table in tables:
        kinds += [_inserts(table, "INSERT"), _inserts(table, "INSERT OR REPLACE")]
        kinds += [_updates(table), _updates(table), _deletes(table), _rekeys(table)]
        kinds += [_upserts(table), _inserts(table, "INSERT OR IGNORE")]
    return st.one_of(kinds)


def _writes(tables: Sequence[str], commit: st.SearchStrategy[bool]) -> st.SearchStrategy[Write]:
    undone = st.integers(0, 9).map(lambda n: n == 9)
    statement = st.builds(
        lambda s, u: Statement(s.table, s.sql, s.values, s.born, u), _statements(tables), undone
    )
    statements = st.lists(statement, min_size=1, max_size=4).map(tuple)
    return st.builds(Write, st.integers(0, 4), statements, commit)


def _steps(tables: Sequence[str]) -> st.SearchStrategy[Step]:
    roads, hosts = st.integers(0, 19), st.integers(0, 4)
    entries = st.sampled_from([None, 1, 2, 3])
    cut = st.sampled_from([None, None, 1, 2])
    writes = _writes(tables, st.integers(0, 9).map(lambda n: n < 9))
    pulls = st.builds(Pull, roads, entries, cut, st.sampled_from([1, 1, 2]))
    return st.one_of(
        writes,
        writes,
        pulls,
        pulls,
        st.builds(Carry, roads, st.booleans(), entries, cut),
        st.builds(Redeliver, st.integers(0, 99), hosts),
        st.builds(SetClock, hosts, st.sampled_from(SKEWS_MS)),
        st.builds(Pass, st.integers(0, 2)),
        st.builds(Fold, hosts, st.integers(1, 3)),
    )


Roads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """A run of the world.

    before: what each host's file held when it was enrolled. earlier: hosts that are yet to migrate.
    """

    roads: Roads
    skews_ms: tuple[int, ...]
    before: tuple[Write, ...]
    steps: tuple[Step, ...]
    pragmas: tuple[str, ...] = ()
    earlier: frozenset[int] = frozenset()


def _roads(hosts: int) -> dict[str, Roads]:
    """Return the roads (receiver, sender) of nets in which everybody hears of everybody."""
    line = [(n, n + 1) for n in range(hosts - 1)]
    star = [(0, n) for n in range(1, hosts)]
    everybody = [(a, b) for a in range(hosts) for b in range(hosts) if a != b]
    return {
        "line": _both_ways(line),
        "star": _both_ways(star),
        "ring": tuple((n, (n + 1) % hosts) for n in range(hosts)),
        "everybody": tuple(everybody),
    }


def _both_ways(roads: Sequence[tuple[int, int]]) -> Roads:
    return tuple(road for a, b in roads for road in ((a, b), (b, a)))


@st.composite
def plans(draw: st.DrawFn, shapes: Shapes) -> Plan:
    """Draw a plan for two to five hosts."""
    hosts = draw(st.sampled_from([2, 3, 3, 4, 5]))
    # Where all happens in one table, its rows meet more often.
    tables = list(shapes)[: draw(st.sampled_from([len(shapes), len(shapes) - 1, 1]))]
    return Plan(
        draw(st.sampled_from(list(_roads(hosts).values()))),
        tuple(draw(st.lists(st.sampled_from(SKEWS_MS), min_size=hosts, max_size=hosts))),
        tuple(draw(st.lists(_writes(tables, st.just(True)), max_size=2))),
        tuple(draw(st.lists(_steps(tables), max_size=25))),
        tuple(draw(st.sets(st.sampled_from(PRAGMAS)))),
    )


@st.composite
def plans_with_backups(draw: st.DrawFn) -> Plan:
    """Draw a plan for few hosts on which files are put aside and put back."""
    hosts = draw(st.integers(2, 3))
    number = st.integers(0, hosts - 1)
    writes = st.builds(Write, number, st.tuples(_inserts("devices", "INSERT OR REPLACE")))
    updates = st.builds(Write, number, st.tuples(_updates("devices")))
    pulls = st.builds(Pull, st.integers(0, 5))
    steps = st.one_of(
        writes, updates, pulls, pulls, st.builds(Backup, number), st.builds(Restore, number)
    )
    return Plan(
        _roads(hosts)["everybody"],
        (0,) * hosts,
        (),
        tuple(draw(st.lists(steps, min_size=4, max_size=20))),
    )


@st.composite
def plans_with_migrations(draw: st.DrawFn) -> Plan:
    """Draw a plan on which hosts get new columns one after the other, and the last at the end."""
    hosts = draw(st.integers(2, 4))
    number = st.integers(0, hosts - 1)
    usual = _steps(["devices"])
    steps = draw(st.lists(st.one_of(usual, usual, usual, st.builds(Migrate, number)), max_size=20))
    return Plan(
        draw(st.sampled_from(list(_roads(hosts).values()))),
        (0,) * hosts,
        (),
        (*steps, *(Migrate(n) for n in draw(st.permutations(range(hosts))))),
        earlier=draw(st.frozensets(number)),
    )


@st.composite
def plans_with_knots(draw: st.DrawFn) -> Plan:
    """Draw a plan on which rows want few values and rest on each other, heard of late."""
    hosts = draw(st.integers(2, 3))
    table = draw(st.sampled_from(["steps", "clubs", "players"]))
    tables = ["steps"] if table == "steps" else ["clubs", "players"]
    wanting = st.one_of(
        [_inserts(table, "INSERT OR IGNORE") for table in tables]
        + [_updates(table) for table in tables]
    )
    writes = st.builds(Write, st.integers(0, hosts - 1), st.tuples(wanting))
    steps = st.lists(st.tuples(writes, st.builds(Pass, st.just(1))), min_size=5, max_size=12)
    pulls = st.lists(st.builds(Pull, st.integers(0, 5), st.sampled_from([None, 1])), max_size=3)
    apart: list[Step] = [step for pair in draw(steps) for step in pair]
    for pull in draw(pulls):
        apart.insert(draw(st.integers(0, len(apart))), pull)
    return Plan(_roads(hosts)["everybody"], (0,) * hosts, (), tuple(apart))


def play(shapes: Shapes, plan: Plan) -> None:
    """Run a plan in a world of its own, to the end."""
    with scratch() as folder:
        world = World(
            Path(folder),
            shapes,
            plan.roads,
            plan.skews_ms,
            plan.before,
            pragmas=plan.pragmas,
            lacking=dict.fromkeys(plan.earlier, EARLIER),
        )
        try:
            world.run(plan.steps)
            world.settle()
            world.check_converged()
        finally:
            world.close()


@thorough
@given(plans(PLAIN))
def test_hosts_show_what_the_set_of_their_changes_says_and_converge(plan: Plan) -> None:
    """After every step a host shows the model of its set; after enough rounds all show the same."""
    play(PLAIN, plan)


@thorough
@given(plans(CONSTRAINED))
def test_hosts_agree_on_what_constraints_hold_back(plan: Plan) -> None:
    """Also where hosts claim one UNIQUE value, delete each other's parents, or break a CHECK."""
    play(CONSTRAINED, plan)


@thorough
@given(st.one_of(plans(KNOTTED), plans_with_knots()))
def test_hosts_agree_on_rows_that_beat_each_others_support(plan: Plan) -> None:
    """Where references form a circle, a row may rest on what it beats, or on what loses by it."""
    play(KNOTTED, plan)


@thorough
@given(plans_with_backups())
def test_restored_and_copied_files_lose_nothing_that_was_sent(plan: Plan) -> None:
    """Hazard 1: a file that is put back, or put in another's place, gives its seqs out again."""
    play({"devices": PLAIN["devices"]}, plan)


@thorough
@given(plans_with_migrations())
def test_hosts_of_two_versions_show_what_they_can_and_converge(plan: Plan) -> None:
    """Whoever lacks a column passes its values on, and has them once it is migrated."""
    play(LATER, plan)
