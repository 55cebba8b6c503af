"""Tables that refer to each other in a circle: rows that support each other show together."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.conftest import MakeHosts
from engine.hosts import START_MS, Clock, Host, Key, pull, scratch, settle

CIRCLE = """
    CREATE TABLE teams (name TEXT PRIMARY KEY, captain REFERENCES players (name), colour UNIQUE);
    CREATE TABLE players (name TEXT PRIMARY KEY, team REFERENCES teams (name), shirt UNIQUE);
"""
CIRCLE_KEYS: dict[str, Key] = {"teams": None, "players": None}


def circle(host: Host) -> tuple[list[str], list[str]]:
    """Return the teams and the players that show."""
    teams = [name for (name,) in host.rows("SELECT name FROM teams ORDER BY name")]
    players = [name for (name,) in host.rows("SELECT name FROM players ORDER BY name")]
    return teams, players


def test_rows_of_two_tables_that_refer_to_each_other_show(make_hosts: MakeHosts) -> None:
    """Each is the other's parent, so neither can come first."""
    a, b = make_hosts("a", "b", ddl=CIRCLE, tables=CIRCLE_KEYS)
    a.write("INSERT INTO teams VALUES ('reds', 'ann', 'red')")
    a.write("INSERT INTO players VALUES ('ann', 'reds', 1)")
    a.write("INSERT INTO players VALUES ('bob', 'reds', 2)")
    pull(b, a, frame_entries=1)
    assert circle(b) == circle(a) == (["reds"], ["ann", "bob"])
    assert b.held() == 0


def test_a_table_may_have_any_name(make_hosts: MakeHosts) -> None:
    """Also that of a part of a tree, by which a query could call what it is looking for."""
    ddl = """
        CREATE TABLE branches (name TEXT PRIMARY KEY, up REFERENCES branches (name));
        CREATE TABLE leaves (name TEXT PRIMARY KEY, branch REFERENCES branches (name));
    """
    a, b = make_hosts("a", "b", ddl=ddl, tables={"branches": None, "leaves": None})
    a.write("INSERT INTO branches VALUES ('stem', NULL), ('twig', 'stem')")
    a.write("INSERT INTO leaves VALUES ('green', 'twig')")
    settle(a, b)
    assert b.rows("SELECT * FROM leaves") == [("green", "twig")]


def test_a_circle_that_loses_a_row_goes_as_a_whole_and_returns(make_hosts: MakeHosts) -> None:
    """Ann goes, so the team without its captain, so bob who played there; then ann is back."""
    a, b = make_hosts("a", "b", ddl=CIRCLE, tables=CIRCLE_KEYS)
    a.write("INSERT INTO teams VALUES ('reds', 'ann', 'red')")
    a.write("INSERT INTO players VALUES ('ann', 'reds', 1), ('bob', 'reds', 2)")
    settle(a, b)
    b.write("DELETE FROM players WHERE name = 'ann'")
    settle(a, b)
    assert circle(a) == circle(b) == ([], [])
    a.write("INSERT INTO players VALUES ('ann', NULL, 1)")
    settle(a, b)
    assert circle(a) == circle(b) == (["reds"], ["ann", "bob"])


def test_a_row_whose_support_loses_gives_way_to_what_it_beat(make_hosts: MakeHosts) -> None:
    """Bob's shirt is newer than ann's, but his team loses its colour; so ann has the shirt."""
    a, b, c = make_hosts("a", "b", "c", ddl=CIRCLE, tables=CIRCLE_KEYS)
    a.write("INSERT INTO players VALUES ('ann', NULL, 1)")
    b.clock.ms += 100
    b.write("INSERT INTO teams VALUES ('blues', 'bob', 'blue')")
    b.write("INSERT INTO players VALUES ('bob', 'blues', 1)")
    c.clock.ms += 200
    c.write("INSERT INTO teams VALUES ('others', NULL, 'blue')")
    settle(a, b, c)
    assert circle(a) == circle(b) == circle(c) == (["others"], ["ann"])
    c.write("UPDATE teams SET colour = 'green'")
    settle(a, b, c)
    assert circle(a) == circle(b) == circle(c) == (["blues", "others"], ["bob"])


def test_a_row_that_would_displace_its_own_support_does_not_show(make_hosts: MakeHosts) -> None:
    """Bob plays for a team whose captain is ann, and has taken her shirt; she takes it back."""
    a, b, c = make_hosts("a", "b", "c", ddl=CIRCLE, tables=CIRCLE_KEYS)
    a.write("INSERT INTO players VALUES ('ann', NULL, 1)")
    a.write("INSERT INTO teams VALUES ('reds', 'ann', 'red')")
    settle(a, b, c)
    c.clock.ms += 100
    c.write("UPDATE players SET shirt = 9")
    c.clock.ms += 1_000
    c.write("INSERT INTO players VALUES ('bob', 'reds', 1)")
    a.clock.ms += 500
    a.write("UPDATE players SET shirt = 5")
    a.write("UPDATE players SET shirt = 1")
    pull(b, c)
    settle(b, a)
    settle(a, b, c)
    assert circle(a) == circle(b) == circle(c) == (["reds"], ["ann"])
    assert a.held() == b.held() == c.held() == 1
    a.write("UPDATE players SET shirt = 7 WHERE name = 'ann'")
    settle(a, b, c)
    assert circle(a) == circle(b) == circle(c) == (["reds"], ["ann", "bob"])


_names = st.sampled_from(["p", "q", "r"])
_steps = st.one_of(
    st.tuples(st.just("INSERT OR IGNORE INTO teams VALUES (?, ?, ?)"), _names, _names, _names),
    st.tuples(st.just("INSERT OR IGNORE INTO players VALUES (?, ?, ?)"), _names, _names, _names),
    st.tuples(st.just("UPDATE OR IGNORE teams SET captain = ? WHERE name = ?"), _names, _names),
    st.tuples(st.just("UPDATE OR IGNORE teams SET colour = ? WHERE name = ?"), _names, _names),
    st.tuples(st.just("UPDATE OR IGNORE players SET shirt = ? WHERE name = ?"), _names, _names),
    st.tuples(st.just("DELETE FROM teams WHERE name = ?"), _names),
    st.tuples(st.just("DELETE FROM players WHERE name = ?"), _names),
    st.just(("pull",)),
)


@settings(max_examples=25, derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), _steps), max_size=20))
def test_hosts_agree_about_circles(steps: list[tuple[int, int, tuple[str, ...]]]) -> None:
    """Whatever was written where, and whoever heard of it first."""
    with scratch() as folder:
        hosts = [
            Host(Path(folder), node, ddl=CIRCLE, tables=CIRCLE_KEYS, clock=Clock(START_MS + ahead))
            for node, ahead in (("a", 0), ("b", 5), ("c", 50))
        ]
        for number, other, (sql, *values) in steps:
            if sql == "pull":
                pull(hosts[number], hosts[(number + 1 + other) % 3])
            else:
                hosts[number].write(sql, *values)
        settle(*hosts)
        settle(*hosts)
        shown = [
            [host.rows(f"SELECT * FROM {name} ORDER BY 1") for name in CIRCLE_KEYS]
            for host in hosts
        ]
        assert shown[0] == shown[1] == shown[2]
        for host in hosts:
            assert host.rows("PRAGMA foreign_key_check") == []
            host.close()


LADDER = "CREATE TABLE steps (name TEXT PRIMARY KEY, up TEXT UNIQUE REFERENCES steps (name))"


def test_a_row_that_beats_what_it_rests_on_takes_no_other_along(make_hosts: MakeHosts) -> None:
    """The new row wants the place of one, and rests on two, which rests on one."""
    a, b = make_hosts("a", "b", ddl=LADDER, tables={"steps": None})
    a.write("INSERT INTO steps VALUES ('one', NULL), ('two', 'one')")
    settle(a, b)
    b.write("UPDATE steps SET up = 'two' WHERE name = 'one'")
    a.clock.ms += 10
    a.write("INSERT INTO steps VALUES ('new', 'two')")
    settle(a, b)
    for host in (a, b):
        assert host.rows("SELECT * FROM steps ORDER BY 1") == [("one", "two"), ("two", "one")]
        assert host.held() == 1


_rungs = st.sampled_from("pqrs")


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["pull", "insert", "update", "delete"]),
            _rungs,
            st.none() | _rungs,
        ),
        max_size=14,
    )
)
def test_hosts_agree_about_references_that_are_unique(
    steps: list[tuple[int, str, str, str | None]],
) -> None:
    """Rows displace what they rest on, in circles and in chains."""
    with scratch() as folder:
        hosts = [
            Host(Path(folder), node, ddl=LADDER, tables={"steps": None}, clock=Clock())
            for node in "abc"
        ]
        for number, kind, name, up in steps:
            host = hosts[number]
            if kind == "pull":
                pull(host, hosts[(number + 1 + ord(name) % 2) % 3])
            elif kind == "insert":
                host.write("INSERT OR IGNORE INTO steps VALUES (?, ?)", name, up)
            elif kind == "update":
                host.write("UPDATE OR IGNORE steps SET up = ? WHERE name = ?", up, name)
            else:
                host.write("DELETE FROM steps WHERE name = ?", name)
        settle(*hosts)
        settle(*hosts)
        shown = [host.rows("SELECT * FROM steps ORDER BY 1") for host in hosts]
        assert shown[0] == shown[1] == shown[2]
        assert not any(host.rows("PRAGMA foreign_key_check") for host in hosts)
