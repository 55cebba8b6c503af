"""Rows that beat each other's support in turn: which of them show is the same on every host."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from unittest import mock

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, settle
from syncd import knots
from syncd.errors import NotRestorable
from syncd.held import DISPLACED
from syncd.knots import Graph

CATS = (
    "CREATE TABLE cats (name TEXT PRIMARY KEY, basket TEXT UNIQUE, mother REFERENCES cats (name),"
    " weight INTEGER DEFAULT 1, ration INTEGER DEFAULT 2, CHECK (weight <= ration))"
)
CATS_KEY = {"cats": None}


def cats(host: Host) -> str:
    """Return the names of those that show."""
    return "".join(name for (name,) in host.rows("SELECT name FROM cats ORDER BY 1"))


def born(host: Host, name: str, basket: str, mother: str | None = None) -> None:
    """Write a row a moment after the last one; all hosts have one clock here."""
    host.clock.ms += 1
    host.write("INSERT INTO cats (name, basket, mother) VALUES (?, ?, ?)", name, basket, mother)


def moved(host: Host, name: str, basket: str) -> None:
    """Write that a row wants another basket, likewise."""
    host.clock.ms += 1
    host.write("UPDATE cats SET basket = ? WHERE name = ?", basket, name)


@pytest.fixture
def hosts(make_hosts: MakeHosts) -> tuple[Host, Host]:
    """Two hosts under one wall clock."""
    a, b = make_hosts("a", "b", ddl=CATS, tables=CATS_KEY)
    b.clock = a.clock
    for host in (a, b):
        host.writer.create_function("julianday", 0, host.clock.julian)
    return a, b


def tie(a: Host, b: Host, last: str = "Q") -> None:
    """Write a knot: X wants Y's basket and has P for a mother; Q wants P's and has Y for one."""
    born(b, "Y", "small")
    born(a, "P", "large")
    rows = {"X": (a, "X", "small", "P"), "Q": (b, "Q", "large", "Y")}
    born(*rows.pop("Q" if last == "X" else "X"))
    born(*rows.pop(last))
    settle(a, b)


@pytest.mark.parametrize("last", ["X", "Q"])
def test_the_newest_row_shows_and_what_it_rests_on(hosts: tuple[Host, Host], last: str) -> None:
    """On both hosts, whichever had heard of what; and the other half as soon as it is gone."""
    a, b = hosts
    tie(a, b, last)
    assert cats(a) == cats(b) == ("PX" if last == "X" else "QY")
    a.write("DELETE FROM cats WHERE name = ?", last)
    settle(a, b)
    assert cats(a) == cats(b) == ("QY" if last == "X" else "PX")


def test_a_row_that_its_table_refuses_takes_no_part(hosts: tuple[Host, Host]) -> None:
    """Q would win, but is too heavy for its ration since two hosts wrote one of them each."""
    a, b = hosts
    born(b, "Y", "small")
    born(b, "Q", "large", "Y")
    settle(a, b)
    moved(a, "Q", "spare")
    moved(a, "Y", "spare too")
    moved(b, "Y", "new")
    moved(b, "Y", "small")
    born(a, "P", "large")
    born(a, "X", "small", "P")
    moved(b, "Q", "new")
    moved(b, "Q", "large")
    a.write("UPDATE cats SET ration = 1 WHERE name = 'Q'")
    b.write("UPDATE cats SET weight = 2 WHERE name = 'Q'")
    settle(a, b)
    assert cats(a) == cats(b) == "PX"


def test_who_shows_so_far_does_not_count(hosts: tuple[Host, Host]) -> None:
    """O has Q's basket on one host, and is older; K wants that of Q's mother, and has Q for one."""
    a, b = hosts
    born(a, "O", "large")
    born(b, "M", "small")
    born(b, "Q", "large", "M")
    born(a, "K", "small", "Q")
    settle(a, b)
    assert cats(a) == cats(b) == "MQ"


def displaced(host: Host) -> list[tuple[str, str]]:
    """Return the rows that are held as displaced, with those that have their values.

    That is what the conflict log has as well.
    """
    listed = [(one.key, one.winner_key) for one in host.replica.held() if one.reason == DISPLACED]
    log = [(one.key, one.won_key) for one in host.replica.conflicts() if one.ended_ms is None]
    assert sorted(listed) == sorted(log)
    return sorted(log)


def clash(a: Host, b: Host) -> None:
    """Write that P has what X wants, which is newer and has P for a mother."""
    born(a, "P", "old")
    settle(a, b)
    moved(a, "P", "large")
    born(b, "X", "large", "P")
    settle(a, b)


def test_a_row_that_wants_what_it_rests_on_has_lost_to_that(hosts: tuple[Host, Host]) -> None:
    """Though it is newer. Once its support has another value, it shows."""
    a, b = hosts
    clash(a, b)
    for host in hosts:
        assert cats(host) == "P"
        assert displaced(host) == [("'X'", "'P'")]
    moved(a, "P", "old")
    settle(a, b)
    for host in hosts:
        assert cats(host) == "PX"
        assert displaced(host) == []


def test_a_row_that_rests_on_its_rival_cannot_be_restored(hosts: tuple[Host, Host]) -> None:
    """Written anew it would not show either; nothing is written then."""
    a, b = hosts
    clash(a, b)
    before = b.replica.vector()
    (conflict,) = b.replica.conflicts()
    with pytest.raises(NotRestorable, match="could not show"):
        b.replica.restore(conflict.id)
    assert b.replica.vector() == before
    assert displaced(b) == [("'X'", "'P'")]


def test_a_knot_says_which_older_row_has_the_value_of_one_that_loses(
    hosts: tuple[Host, Host],
) -> None:
    """Q wants P's basket and is newer, but X, which is newer still, rests on P."""
    a, b = hosts
    born(b, "Z", "spare")
    settle(a, b)
    moved(a, "Z", "mid")
    born(a, "P", "large")
    born(b, "Y", "small")
    born(b, "W", "mid", "Y")
    born(b, "Q", "large", "Z")
    born(a, "X", "small", "P")
    settle(a, b)
    for host in hosts:
        assert cats(host) == "PXZ"
        assert displaced(host) == [("'Q'", "'P'"), ("'Y'", "'X'")]


def test_who_waits_for_a_parent_has_lost_to_nobody_older(hosts: tuple[Host, Host]) -> None:
    """X would displace R if P showed, whether or not something newer, in a knot, rests on R."""
    a, b = hosts
    for name, basket, mother in (("R", "r", None), ("G", "old", None), ("S", "s", "R")):
        born(a, name, basket, mother)
    settle(a, b)
    moved(a, "R", "large")
    moved(a, "G", "small")
    moved(a, "S", "mid")
    born(b, "P", "small", "G")
    born(b, "X", "large", "P")
    settle(a, b)
    moved(a, "S", "s")
    settle(a, b)
    moved(a, "S", "new")
    born(b, "T", "new", "S")
    settle(a, b)
    for host in hosts:
        assert cats(host) == "GRS"
        assert displaced(host) == [("'P'", "'G'"), ("'T'", "'S'")]


def test_a_knot_of_keys_that_are_no_utf8(hosts: tuple[Host, Host]) -> None:
    """The key of the row that loses is told, and the row is left alone by a restore."""
    a, b = hosts
    born(a, "P", "old")
    settle(a, b)
    moved(a, "P", "large")
    b.clock.ms += 1
    b.write("INSERT INTO cats (name, basket, mother) VALUES (CAST(x'58FF' AS TEXT), 'large', 'P')")
    settle(a, b)
    for host in hosts:
        assert cats(host) == "P"
        assert displaced(host) == [("CAST(X'58FF' AS TEXT)", "'P'")]
    with pytest.raises(NotRestorable):
        b.replica.restore(b.replica.conflicts()[0].id)


def test_a_knot_that_shows_is_left_alone(hosts: tuple[Host, Host]) -> None:
    """What is decided already is not written again, so the user's triggers are not set off."""
    a, b = hosts
    tie(a, b)
    for host in hosts:
        host.write("CREATE TABLE seen (what)")
        for event in ("INSERT", "DELETE", "UPDATE"):
            host.write(
                f"CREATE TRIGGER seen_{event} AFTER {event} ON cats"
                f" BEGIN INSERT INTO seen VALUES ('{event}'); END"
            )
    born(a, "other", "third")
    settle(a, b)
    assert b.rows("SELECT what FROM seen") == [("INSERT",)]


def _is_answer(
    rests: Mapping[int, Sequence[Sequence[int]]], rivals: Sequence[Sequence[int]], shown: set[int]
) -> bool:
    """Say whether some rows are those that show: all others have lost to them or their parents."""
    lost = {
        row
        for wanting in rivals
        for row in wanting
        if any(other < row and other in shown for other in wanting)
    }
    while more := {
        row
        for row, references in rests.items()
        if row not in lost and any(lost.issuperset(parents) for parents in references)
    }:
        lost |= more
    return shown == rests.keys() - lost


def test_without_a_knot_there_is_one_answer_and_with_one_an_answer_without_clashes() -> None:
    """Small graphs by chance, against all sets of rows that there are."""
    tied = 0
    for seed in range(3_000):
        dice = random.Random(seed)
        rows = range(1, dice.randint(2, 6) + 1)
        rests = {row: [[dice.choice(rows)] for _ in range(dice.randrange(3))] for row in rows}
        rivals = [dice.sample(rows, dice.randint(1, len(rows))) for _ in range(dice.randrange(3))]
        graph = Graph(rests, rivals)
        shown = {*rows} - graph.losers()
        if knotted := graph.knotted():
            tied += 1
            assert all(len(shown.intersection(wanting)) <= 1 for wanting in rivals)
            assert all(shown & {*parents} for row in shown for parents in rests[row])
            assert graph.among(knotted).losers() == knotted - shown
        else:
            answers = [
                {*some}
                for size in range(len(rows) + 1)
                for some in itertools.combinations(rows, size)
                if _is_answer(rests, rivals, {*some})
            ]
            assert [shown] == answers
    assert 500 < tied < 2_500


def test_many_rows_that_clash_with_what_they_rest_on_are_seen_at_once() -> None:
    """Each wants what a row of a chain has, and rests on its end."""
    length = 3_000
    chain = range(length + 1, 2 * length + 1)
    rests = {row: [[row + 1]] if row + 1 in chain else [] for row in chain}
    rests |= {row: [[chain[0]]] for row in range(1, length + 1)}
    graph = Graph(rests, [[row, row + length] for row in range(1, length + 1)])
    circles, looked_at = knots._circles, 0

    def counted(edges: dict[int, list[int]]) -> Iterator[list[int]]:
        nonlocal looked_at
        looked_at += len(edges)
        return circles(edges)

    with mock.patch.object(knots, "_circles", counted):
        assert graph.losers() == {*range(1, length + 1)}
    assert looked_at < 5 * len(rests)
