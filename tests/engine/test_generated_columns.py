"""Constraints over generated columns, which no row has while it does not show."""

from __future__ import annotations

import itertools

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, pull, settle
from syncd import ddl

COLUMNS = "k TEXT PRIMARY KEY NOT NULL, a INT, b TEXT, g TEXT AS (b || a)"
UNIQUES = {
    "column": f"CREATE TABLE t ({COLUMNS} UNIQUE)",
    "stored": f"CREATE TABLE t ({COLUMNS} STORED UNIQUE)",
    "of another": f"CREATE TABLE t ({COLUMNS}, h TEXT AS (g || '!') UNIQUE)",
    "expression": f"CREATE TABLE t ({COLUMNS}); CREATE UNIQUE INDEX u ON t (lower(g))",
    "partial": f"CREATE TABLE t ({COLUMNS}); CREATE UNIQUE INDEX u ON t (b) WHERE g = 'p1'",
}
FAMILY = """
    CREATE TABLE parents (name TEXT PRIMARY KEY, code TEXT, initial TEXT AS (substr(code, 1, 1)));
    CREATE UNIQUE INDEX initials ON parents (initial);
    CREATE TABLE children (
        name TEXT PRIMARY KEY, of TEXT,
        parent TEXT AS (substr(of, 1, 1)) REFERENCES parents (initial)
    )
"""


@pytest.mark.parametrize("made", UNIQUES.values(), ids=UNIQUES)
def test_the_greater_stamp_keeps_a_value_that_is_made_of_others(
    make_hosts: MakeHosts, made: str
) -> None:
    """Whatever the order in which hosts hear of it; and what is displaced comes back."""
    for number, order in enumerate(itertools.permutations("abc")):
        nodes = [f"{node}{number}" for node in "abc"]
        a, b, c = make_hosts(*nodes, ddl=made, tables={"t": None})
        a.write("INSERT INTO t (k, a, b) VALUES ('x', 1, 'p')")
        b.write("INSERT INTO t (k, a, b) VALUES ('y', 2, 'p')")
        b.clock.ms += 1_000
        # Only now it wants what x has, and more newly.
        b.write("UPDATE t SET a = 1")
        by_name = dict(zip("abc", (a, b, c), strict=True))
        for sender in order:
            if by_name[sender] is not c:
                pull(c, by_name[sender], frame_entries=1)
        settle(a, b, c)
        assert {tuple(host.rows("SELECT k, a, b FROM t")) for host in (a, b, c)} == {
            (("y", 1, "p"),)
        }
        assert {host.held() for host in (a, b, c)} == {1}
        c.clock.ms += 2_000
        c.write("UPDATE t SET b = 'q'")
        settle(a, b, c)
        assert {tuple(host.rows("SELECT k, a, b FROM t ORDER BY k")) for host in (a, b, c)} == {
            (("x", 1, "p"), ("y", 1, "q"))
        }


def test_a_reference_made_of_a_column_to_one_that_is_made(make_hosts: MakeHosts) -> None:
    a, b = make_hosts("a", "b", ddl=FAMILY, tables={"children": None, "parents": None})
    for host in (a, b):
        host.writer.execute("PRAGMA foreign_keys = ON")
    a.write("INSERT INTO parents (name, code) VALUES ('ann', 'A1')")
    a.write("INSERT INTO children (name, of) VALUES ('cy', 'A of all')")
    settle(a, b)

    def shown(host: Host) -> list[tuple[str, str]]:
        return host.rows("SELECT name, parent FROM children")

    assert shown(b) == [("cy", "A")]
    b.write("PRAGMA foreign_keys = OFF")
    b.write("UPDATE parents SET code = 'B1'")
    settle(a, b)
    assert shown(a) == shown(b) == []
    assert a.held() == b.held() == 1
    a.write("UPDATE parents SET code = 'A2'")
    settle(a, b)
    assert shown(a) == shown(b) == [("cy", "A")]


CREATED = """
    CREATE TABLE "t (1" (k TEXT PRIMARY KEY, -- AS (no)
        a INT DEFAULT (CAST('1)' AS INT)), [g x] TEXT GENERATED ALWAYS AS (b || ',)' || a) STORED,
        H INT AS (length([g x]) * 2), "i" AS ("h" + 1) UNIQUE, CHECK (a > 0), UNIQUE (k, a)) STRICT
"""


def test_what_columns_are_made_of_is_read_from_their_table() -> None:
    made_of = ddl.generated(CREATED, ["g x", "h", "i"])
    assert made_of == {"g x": "b || ',)' || a", "h": "length([g x]) * 2", "i": '"h" + 1'}
    assert ddl.expanded("i", made_of) == "((length((b || ',)' || a)) * 2) + 1)"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("h", "(a)"),
        ('lower("H") || [h] || `h`', "lower((a)) || (a) || (a)"),
        ("h(1) || 'h' || x'00' || 1e5", "h(1) || 'h' || x'00' || 1e5"),
        ("hh + h2 /* h */ -- h", "hh + h2 /* h */ -- h"),
    ],
)
def test_names_are_told_from_what_looks_like_them(expression: str, expected: str) -> None:
    assert ddl.expanded(expression, {"h": "a", "x": "b", "e5": "c"}) == expected
