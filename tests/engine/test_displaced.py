"""A row that is displaced has lost a value that must be unique; the conflict log says to whom."""

from __future__ import annotations

from typing import Any

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, pull, settle
from syncd.conflicts import Conflict
from syncd.errors import NotRestorable
from syncd.held import DISPLACED

USERS = (
    "CREATE TABLE users (name TEXT NOT NULL PRIMARY KEY, mail TEXT UNIQUE, house, room,"
    " UNIQUE (house, room))"
)
DAY_MS = 24 * 3_600_000


@pytest.fixture
def pair(make_hosts: MakeHosts) -> list[Host]:
    """Make two hosts with a table of users; b's clock is ahead."""
    a, b = make_hosts("a", "b", ddl=USERS, tables={"users": None})
    b.clock.ms += 1_000
    return [a, b]


def add(host: Host, name: str, mail: str | None, house: Any = None, room: Any = None) -> None:
    """Insert a user."""
    host.write("INSERT INTO users VALUES (?, ?, ?, ?)", name, mail, house, room)


def names(host: Host) -> list[str]:
    """Return the users that show."""
    return [name for (name,) in host.rows("SELECT name FROM users ORDER BY 1")]


def log(host: Host) -> list[Conflict]:
    """Return the displaced rows that the log has, by their keys."""
    found = (one for one in host.replica.conflicts() if one.reason == DISPLACED)
    return sorted(found, key=lambda one: (one.key, one.column))


def test_a_displaced_row_is_logged_with_both_sides(pair: list[Host]) -> None:
    """On every host where it does not show, once, however often they meet."""
    a, b = pair
    add(a, "ana", "x")
    add(b, "bob", "x")
    settle(a, b)
    settle(a, b)
    for host in pair:
        (one,) = log(host)
        assert (one.table, one.key, one.column) == ("users", "'ana'", "mail")
        assert (one.lost_value, one.lost_node, one.lost_ms) == ("x", "a", a.clock.ms)
        assert (one.won_key, one.won_value, one.won_node) == ("'bob'", "x", "b")
        assert one.won_ms == b.clock.ms
        assert one.ended_ms is None


@pytest.mark.parametrize(
    "end",
    [
        "DELETE FROM users WHERE name = 'bob'",
        "UPDATE users SET mail = 'y' WHERE name = 'bob'",
    ],
)
def test_it_ends_when_the_row_shows_again(
    pair: list[Host], make_hosts: MakeHosts, end: str
) -> None:
    """The entry stays, as a displacement that was, and may come again."""
    a, b = pair
    (c,) = make_hosts("c", ddl=USERS, tables={"users": None})
    add(a, "ana", "x")
    add(b, "bob", "x")
    settle(a, b)
    began_ms = a.clock.ms
    a.clock.ms = b.clock.ms = began_ms + 60_000
    b.write(end)
    settle(a, b)
    assert "ana" in names(a)
    (one,) = log(a)
    assert (one.at_ms, one.ended_ms) == (began_ms, a.clock.ms)
    c.clock.ms = a.clock.ms + 60_000
    add(c, "cid", "x")
    a.clock.ms = c.clock.ms
    pull(a, c)
    (again,) = log(a)
    assert (again.id, again.won_key, again.ended_ms) == (one.id, "'cid'", None)
    assert again.at_ms == a.clock.ms


def test_it_ends_when_the_row_dies(pair: list[Host]) -> None:
    """A deletion elsewhere, of a row that does not show here."""
    a, b = pair
    add(a, "ana", "x")
    add(b, "bob", "x")
    pull(b, a)
    a.write("DELETE FROM users WHERE name = 'ana'")
    settle(a, b)
    (one,) = log(b)
    assert one.ended_ms == b.clock.ms
    assert b.replica.held() == []


def test_the_next_winner_takes_the_place_of_the_former(
    pair: list[Host], make_hosts: MakeHosts
) -> None:
    """Ana loses to bob, and both to cid: ana's entry goes on with the row that shows."""
    a, b = pair
    (c,) = make_hosts("c", ddl=USERS, tables={"users": None})
    add(a, "ana", "x")
    add(b, "bob", "x")
    settle(a, b)
    c.clock.ms = b.clock.ms + 1_000
    add(c, "cid", "x")
    settle(a, b, c)
    for host in (a, b):
        assert names(host) == ["cid"]
        assert [(one.key, one.won_key, one.ended_ms) for one in log(host)] == [
            ("'ana'", "'cid'", None),
            ("'bob'", "'cid'", None),
        ]


def test_every_value_that_is_lost_is_logged(pair: list[Host]) -> None:
    """One row may lose to several; of columns that are unique together all are named."""
    a, b = pair
    add(a, "ana", "x", "villa", 7)
    add(b, "bob", "x")
    add(b, "cid", None, "villa", 7)
    settle(a, b)
    assert names(a) == ["bob", "cid"]
    assert [(one.column, one.lost_value, one.won_key, one.won_value) for one in log(a)] == [
        ("house, room", "'villa', 7", "'cid'", "'villa', 7"),
        ("mail", "x", "'bob'", "x"),
    ]
    assert sorted((one.column, one.winner_key) for one in a.replica.held()) == [
        ("house, room", "'cid'"),
        ("mail", "'bob'"),
    ]
    b.write("DELETE FROM users WHERE name = 'bob'")
    settle(a, b)
    assert [(one.column, one.ended_ms is None) for one in log(a)] == [
        ("house, room", True),
        ("mail", False),
    ]


def test_a_local_write_that_takes_a_value_over_is_no_displacement(pair: list[Host]) -> None:
    """OR REPLACE deletes the other row, whose writer knew."""
    a, b = pair
    add(a, "ana", "x")
    settle(a, b)
    b.write("INSERT OR REPLACE INTO users (name, mail) VALUES ('bob', 'x')")
    settle(a, b)
    assert log(a) == log(b) == []


def test_restoring_it_turns_the_tables(pair: list[Host]) -> None:
    """Ana is written anew, shows everywhere, and bob is displaced by her."""
    a, b = pair
    add(a, "ana", "x", "villa", 7)
    add(b, "bob", "x")
    settle(a, b)
    (lost,) = log(a)
    a.clock.ms = b.clock.ms + 1_000
    assert a.replica.restore(lost.id).key == "'ana'"
    settle(a, b)
    for host in pair:
        assert host.rows("SELECT * FROM users") == [("ana", "x", "villa", 7)]
        assert [(one.key, one.ended_ms is None) for one in log(host)] == [
            ("'ana'", False),
            ("'bob'", True),
        ]
    with pytest.raises(NotRestorable, match="not displaced any more"):
        a.replica.restore(lost.id)


def test_an_open_entry_outlives_the_retention(pair: list[Host]) -> None:
    """It is forgotten when its end is past, not its beginning."""
    a, b = pair
    add(a, "ana", "x")
    add(b, "bob", "x")
    settle(a, b)
    retention_ms = a.replica.config.sync.retention
    a.clock.ms = b.clock.ms = a.clock.ms + retention_ms + DAY_MS
    settle(a, b)
    assert a.replica.compact().conflicts == 0
    b.write("DELETE FROM users WHERE name = 'bob'")
    settle(a, b)
    a.clock.ms += retention_ms - DAY_MS
    assert a.replica.compact().conflicts == 0
    assert len(log(a)) == 1
    a.clock.ms += 2 * DAY_MS
    assert a.replica.compact().conflicts == 1
    assert log(a) == []


def test_a_winner_that_is_written_again_is_told_as_it_is(pair: list[Host]) -> None:
    """Of its columns that must be unique another is written, by another host."""
    a, b = pair
    add(a, "ana", "x")
    add(b, "bob", "x")
    settle(a, b)
    began_ms = log(a)[0].at_ms
    a.clock.ms = b.clock.ms + 60_000
    a.write("UPDATE users SET house = 1 WHERE name = 'bob'")
    settle(a, b)
    for host in pair:
        (one,) = log(host)
        assert (one.won_key, one.won_node, one.won_ms) == ("'bob'", "a", a.clock.ms)
        assert one.ended_ms is None
        (waiting,) = host.replica.held()
        assert (waiting.winner_node, waiting.winner_time_ms) == ("a", a.clock.ms)
    assert log(a)[0].at_ms == began_ms


def test_what_held_a_row_back_may_go_with_a_migration(make_hosts: MakeHosts) -> None:
    """It shows as soon as `syncd init` has run."""
    ddl = "CREATE TABLE users (name TEXT NOT NULL PRIMARY KEY, mail); "
    index = "CREATE UNIQUE INDEX mails ON users (mail)"
    a, b = make_hosts("a", "b", ddl=ddl + index, tables={"users": None})
    b.clock.ms += 1_000
    for host, name in ((a, "ana"), (b, "bob")):
        host.write("INSERT INTO users VALUES (?, 'x')", name)
    settle(a, b)
    assert names(a) == ["bob"]
    a.write("DROP INDEX mails")
    a.enrol()
    assert names(a) == ["ana", "bob"]
    assert log(a)[0].ended_ms is not None


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("CAST(x'61FF' AS TEXT)", "CAST(X'61FF' AS TEXT)"),
        ("'Jos\u00e9'", "'Jos\u00e9'"),
        ("9e999", "9e999"),
        ("-9e999", "-9e999"),
        ("0.5", "0.5"),
        ("x'00FF'", "X'00FF'"),
    ],
)
def test_keys_of_all_kinds_are_told_and_restored(
    make_hosts: MakeHosts, written: str, told: str
) -> None:
    """Also text that is not UTF-8, and numbers without end."""
    ddl = "CREATE TABLE users (name NOT NULL PRIMARY KEY, mail UNIQUE)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"users": None})
    b.clock.ms += 1_000
    a.write(f"INSERT INTO users VALUES ({written}, 'x')")
    b.write("INSERT INTO users VALUES ('bob', 'x')")
    settle(a, b)
    (waiting,) = a.replica.held()
    (lost,) = log(a)
    assert (waiting.key, lost.key) == (told, told)
    a.clock.ms = b.clock.ms + 1_000
    a.replica.restore(lost.id)
    settle(a, b)
    for host in (a, b):
        assert host.rows(f"SELECT name IS {written} FROM users") == [(1,)]
