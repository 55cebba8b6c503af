"""Candidates compare like the rows of their table: by its columns' affinities and collations."""

from __future__ import annotations

from typing import Any

import pytest

from engine.conftest import MakeHosts
from engine.hosts import settle
from syncd import ddl
from syncd.errors import SchemaError

# Of two rows, both hold the value "d", and what else decides whether an index is over them.
BOTH, ONE = 2, 1
ANY_CASE, LEFT_OUT = (("A", "a"), ONE), (("A", "b"), BOTH)
INDEXES: dict[str, tuple[str, str, tuple[Any, Any], int]] = {
    "text, meant by a number": ("u TEXT", "(v) WHERE u = 1", ("1", "1"), ONE),
    "number, meant by a text": ("u INTEGER", "(v) WHERE u = '1'", (1, 1), ONE),
    "number, left out by a text": ("u INTEGER", "(v) WHERE u <> '1'", (1, 2), BOTH),
    "any case, left out": ("u TEXT COLLATE NOCASE", "(v) WHERE u <> 'a'", ("A", "b"), BOTH),
    "any case, meant": ("u TEXT COLLATE NOCASE", "(v) WHERE u = 'a'", ("A", "a"), ONE),
    "expression of any case": ("u TEXT COLLATE NOCASE", "(v, (u = 'a'))", ("A", "a"), ONE),
    "expression of a number": ("u INTEGER", "(v, (u = '1'))", (1, 2), BOTH),
    "generated of a number": ("u INTEGER, g AS (u = '1')", "(g)", (1, 1), ONE),
    "generated of another": ("u INTEGER, g AS (u = '1')", "(g)", (1, 2), BOTH),
    "generated as a number": ("u TEXT, g INTEGER AS (u)", "(g)", ("1", "01"), ONE),
    "generated of a number's": ("u TEXT, g INT AS (u), h TEXT AS (g)", "(h)", ("1", "01"), ONE),
    "generated, in any case": ("u TEXT, g COLLATE NOCASE AS (u)", "(v) WHERE g = 'a'", *ANY_CASE),
    "generated, left out": ("u TEXT, g COLLATE NOCASE AS (u)", "(v) WHERE g <> 'a'", *LEFT_OUT),
}
REFERRING = ", p TEXT REFERENCES parents"


@pytest.mark.parametrize("referring", ["", REFERRING], ids=["", "referring"])
@pytest.mark.parametrize("case", INDEXES.values(), ids=INDEXES)
def test_an_index_is_over_the_same_rows_among_candidates(
    make_hosts: MakeHosts, case: tuple[str, str, tuple[Any, Any], int], referring: str
) -> None:
    """Births that refer to something all become candidates, others where something refuses them."""
    column, index, values, shown = case
    parents = "CREATE TABLE parents (name TEXT PRIMARY KEY)"
    rows = f"CREATE TABLE t (k TEXT PRIMARY KEY, {column}, v TEXT{referring})"
    schema = f"{parents}; {rows}; CREATE UNIQUE INDEX i ON t {index}"
    a, b = make_hosts("a", "b", ddl=schema, tables={"parents": None, "t": None})
    a.write("INSERT INTO t (k, u, v) VALUES ('x', ?, 'd')", values[0])
    b.clock.ms = a.clock.ms + 1_000
    b.write("INSERT INTO t (k, u, v) VALUES ('y', ?, 'd')", values[1])
    settle(a, b)
    expected = [("x",), ("y",)][-shown:]
    for host in (a, b):
        assert host.rows("SELECT k FROM t ORDER BY k") == expected
        assert host.held() == 2 - shown


def test_what_hangs_on_a_parent_is_told_by_its_key(make_hosts: MakeHosts) -> None:
    """A child whose column does not tell A from a hangs on one of them alone."""
    schema = "CREATE TABLE t (k TEXT PRIMARY KEY, up TEXT COLLATE NOCASE REFERENCES t)"
    a, b, c = make_hosts("a", "b", "c", ddl=schema, tables={"t": None})
    a.write("INSERT INTO t VALUES ('top', NULL), ('a', 'gone'), ('A', 'top'), ('x', 'A')")
    settle(a, b, c)
    for host in (a, b, c):
        assert host.rows("SELECT k FROM t ORDER BY k") == [("A",), ("top",), ("x",)]


def test_collations_are_read_from_declarations() -> None:
    """Wherever a declaration may say so, and nowhere else."""
    sql = """CREATE TABLE t (
        plain TEXT DEFAULT 'collate' CHECK (plain = 'A' COLLATE NOCASE),
        "any, case" TEXT COLLATE /* really */ NOCASE NOT NULL,
        [twice] TEXT COLLATE NOCASE collate "RTRIM", -- x COLLATE NOCASE
        made AS (plain COLLATE NOCASE) COLLATE 'rtrim',
        \N{GRINNING FACE} TEXT COLLATE NOCASE, e\N{COMBINING ACUTE ACCENT}t TEXT COLLATE NOCASE,
        UNIQUE (plain COLLATE NOCASE))"""
    assert ddl.collations(sql) == {
        "any, case": "NOCASE",
        "twice": "RTRIM",
        "made": "rtrim",
        "\N{GRINNING FACE}": "NOCASE",
        "e\N{COMBINING ACUTE ACCENT}t": "NOCASE",
    }


def test_a_collation_of_the_apps_own_is_not_asked_for(make_hosts: MakeHosts) -> None:
    """Where no index, CHECK or trigger needs it, a merge does without."""
    schema = "CREATE TABLE t (k TEXT PRIMARY KEY, name TEXT COLLATE german, up REFERENCES t)"
    a, b = make_hosts("a", "b", ddl="", tables={"t": None}, enrolled=False)
    for host in (a, b):
        host.writer.create_collation("german", lambda one, other: (one > other) - (one < other))
        host.writer.executescript(schema)
        host.replica.enrol()
    a.write("INSERT INTO t VALUES ('x', 'one', NULL), ('y', 'two', 'x')")
    settle(a, b)
    assert b.rows("SELECT * FROM t") == [("x", "one", None), ("y", "two", "x")]


def test_a_column_may_not_have_a_name_of_ours(make_hosts: MakeHosts) -> None:
    schema = "CREATE TABLE t (k TEXT PRIMARY KEY, syncd_id INTEGER)"
    (a,) = make_hosts("a", ddl=schema, tables={"t": None}, enrolled=False)
    with pytest.raises(SchemaError, match="syncd_id"):
        a.replica.enrol()
