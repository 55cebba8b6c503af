"""Rows that a death took away with values it did not know of: kept whole, and restored as such."""

from __future__ import annotations

from typing import Any

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, Key, pull, settle
from syncd.clock import system_wall_ms
from syncd.conflicts import Conflict
from syncd.errors import NotRestorable

DDL = """
CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, label);
CREATE TABLE licences (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device NOT NULL, slot INTEGER NOT NULL,
    owner INTEGER REFERENCES owners (id), value, serial TEXT UNIQUE, cache, ends,
    UNIQUE (device, slot)
);
"""
TABLES: dict[str, Key] = {
    "owners": ["name"],
    "licences": {"key": ["device", "slot"], "columns": {"exclude": ["cache"]}},
}
TRAVELS = """
SELECT l.device, l.slot, o.name, l.serial, l.ends
    FROM licences AS l LEFT JOIN owners AS o ON o.id = l.owner
"""
LICENCE = ("d\0 'x'", 7, "ana", "s", "2026")
RENEWED = ("d\0 'x'", 7, "ana", "s", "2027")


@pytest.fixture
def pair(make_hosts: MakeHosts) -> list[Host]:
    """Make two hosts that share a licence, with other numbers on each; b's clock is ahead."""
    a, b = hosts_of_today(make_hosts, "a", "b")
    b.write("INSERT INTO owners (id, name) VALUES (5, 'eve')")
    a.write("INSERT INTO owners (name) VALUES ('ana')")
    a.write(
        "INSERT INTO licences (device, slot, owner, serial, cache, ends)"
        " SELECT ?, ?, id, 's', 'of a', '2026' FROM owners",
        *LICENCE[:2],
    )
    settle(a, b)
    assert a.rows(TRAVELS) == b.rows(TRAVELS) == [LICENCE]
    b.clock.ms += 1_000
    return [a, b]


def hosts_of_today(make_hosts: MakeHosts, *nodes: str, **options: Any) -> list[Host]:
    """Make hosts whose clocks agree with that of the triggers when the engine writes."""
    hosts = make_hosts(*nodes, **{"ddl": DDL, "tables": TABLES, **options})
    now_ms = system_wall_ms()
    for host in hosts:
        host.clock.ms = now_ms
    return hosts


def taken_away(a: Host, b: Host, renewal: str = "UPDATE licences SET ends = '2027'") -> Conflict:
    """Let b delete the licence while a, not knowing, writes to it; return what was lost on a."""
    a.write(renewal)
    b.write("DELETE FROM licences")
    pull(a, b)
    assert a.rows(TRAVELS) == []
    (lost,) = a.replica.conflicts()
    a.clock.ms = b.clock.ms + 1_000
    return lost


def test_the_row_comes_back_whole_and_everywhere(pair: list[Host]) -> None:
    """With what nobody else had written meanwhile, and with what never leaves this host."""
    a, b = pair
    lost = taken_away(a, b)
    assert (lost.column, lost.lost_value, lost.won_by_death) == ("ends", "2027", True)
    a.replica.restore(lost.id)
    assert a.rows("SELECT cache FROM licences") == [("of a",)]
    settle(a, b)
    assert a.rows(TRAVELS) == b.rows(TRAVELS) == [RENEWED]


def test_it_is_restored_once(pair: list[Host]) -> None:
    """A second time there is a row to write the value to, and nothing else of it is touched."""
    a, b = pair
    lost = taken_away(a, b)
    a.replica.restore(lost.id)
    a.write("UPDATE licences SET serial = 'other', ends = 'wrong'")
    a.replica.restore(lost.id)
    assert a.rows("SELECT serial, ends FROM licences") == [("other", "2027")]


def test_a_value_that_lost_later_to_the_same_death_comes_back_with_the_row(
    make_hosts: MakeHosts,
) -> None:
    """It comes when the row is gone already, and the row as it went does not have it."""
    a, b, c = hosts_of_today(make_hosts, "a", "b", "c")
    a.write("INSERT INTO licences (device, slot, serial, ends) VALUES ('d', 1, 's', '2026')")
    settle(a, b, c)
    b.clock.ms += 1_000
    c.write("UPDATE licences SET serial = 'later'")
    taken_away(a, b)
    pull(a, c)
    later = next(one for one in a.replica.conflicts() if one.column == "serial")
    a.replica.restore(later.id)
    settle(a, b, c)
    for host in (a, b, c):
        assert host.rows("SELECT serial, ends FROM licences") == [("later", "2027")]


@pytest.mark.parametrize(
    "value",
    ["2.0", "9007199254740993", "9e999", "x'00ff'", "CAST(x'61ff' AS TEXT)", "char(97, 0, 98)"],
)
def test_values_of_all_kinds_come_back_as_they_were(pair: list[Host], value: str) -> None:
    """Also what a literal is not simply written as."""
    a, b = pair
    lost = taken_away(a, b, f"UPDATE licences SET value = {value}")
    a.replica.restore(lost.id)
    settle(a, b)
    for host in (a, b):
        told = host.rows(f"SELECT value IS {value}, typeof(value) = typeof({value}) FROM licences")
        assert told == [(1, 1)]


def test_a_row_that_was_hidden_is_kept_as_well(pair: list[Host]) -> None:
    """A newer one has its serial when it dies; once that is gone, it comes back as it was."""
    a, b = pair
    a.write("UPDATE licences SET ends = '2027'")
    a.write("UPDATE licences SET serial = 't'")
    b.write("INSERT INTO licences (device, slot, serial) VALUES ('thief', 1, 't')")
    pull(a, b)
    assert a.held() == 1
    b.write("DELETE FROM licences")
    settle(a, b)
    assert a.held() == 0
    a.clock.ms = b.clock.ms + 1_000
    lost = next(one for one in a.replica.conflicts() if one.column == "ends")
    a.replica.restore(lost.id)
    settle(a, b)
    assert a.rows(TRAVELS) == b.rows(TRAVELS) == [(*RENEWED[:3], "t", "2027")]


@pytest.mark.parametrize("taken_by", [1, 99], ids=["taken", "free"])
def test_a_row_comes_back_in_its_own_number_or_in_one_that_nobody_had(
    pair: list[Host], taken_by: int
) -> None:
    """Tables that are not enrolled may refer to it, and to others that are gone."""
    a, b = pair
    a.write("UPDATE owners SET label = 'lost' WHERE name = 'ana'")
    b.write("DELETE FROM owners WHERE name = 'ana'")
    settle(a, b)
    a.write("INSERT INTO owners (id, name) VALUES (?, 'zoe'), (100, 'last')", taken_by)
    a.replica.fold()
    a.write("DELETE FROM owners WHERE name = 'last'")
    (lost,) = a.replica.conflicts()
    a.replica.restore(lost.id)
    ((number, label),) = a.rows("SELECT id, label FROM owners WHERE name = 'ana'")
    assert (number, label) == (101 if taken_by == 1 else 1, "lost")


def test_columns_that_came_or_went_since_are_as_the_table_has_them(pair: list[Host]) -> None:
    """A new one gets its DEFAULT; what is gone is left out."""
    a, b = pair
    lost = taken_away(a, b)
    for host in (a, b):
        host.write("ALTER TABLE licences ADD COLUMN colour DEFAULT 'red'")
        host.write("ALTER TABLE licences RENAME COLUMN cache TO store")
        host.replica_of({**TABLES, "licences": ["device", "slot"]}).enrol()
    a.replica.restore(lost.id)
    assert a.rows(TRAVELS) == [RENEWED]
    assert a.rows("SELECT store, colour FROM licences") == [(None, "red")]


REFUSED = {
    "its parent": ("DELETE FROM owners WHERE name = 'ana'", "owners has no row 'ana' here"),
    "its value": (
        "INSERT INTO licences (device, slot, serial) VALUES ('thief', 1, 's')",
        "cannot be inserted again",
    ),
}


@pytest.mark.parametrize(("write", "why"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_be_there_now_is_refused(pair: list[Host], write: str, why: str) -> None:
    """Nothing is written, and what is in the way is named."""
    a, b = pair
    lost = taken_away(a, b)
    a.write(write)
    a.replica.fold()
    before = a.rows("SELECT device, serial FROM licences")
    with pytest.raises(NotRestorable, match=why):
        a.replica.restore(lost.id)
    assert a.rows("SELECT device, serial FROM licences") == before


def test_a_row_that_is_held_is_not_inserted_beside_itself(pair: list[Host]) -> None:
    """It is born again elsewhere, and does not show here for want of a UNIQUE value."""
    a, b = pair
    lost = taken_away(a, b)
    b.clock.ms = a.clock.ms
    b.write("INSERT INTO licences (device, slot, serial) VALUES (?, ?, 'taken')", *LICENCE[:2])
    a.clock.ms += 10
    a.write("INSERT INTO licences (device, slot, serial) VALUES ('newer', 1, 'taken')")
    pull(a, b)
    assert a.held() == 1
    with pytest.raises(NotRestorable, match="does not show the row") as refusal:
        a.replica.restore(lost.id)
    assert "It is held" in str(refusal.value.hint)


def logs_of_today(make_hosts: MakeHosts) -> list[Host]:
    """Make two hosts with a log, of which each host numbers the lines for itself."""
    ddl = """CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, line);
        CREATE TABLE remarks (name TEXT PRIMARY KEY, log INTEGER REFERENCES logs (id));"""
    a, b = hosts_of_today(
        make_hosts, "a", "b", ddl=ddl, tables={"logs": "generated", "remarks": None}
    )
    b.write("INSERT INTO logs (line) VALUES ('of b')")
    a.write("INSERT INTO logs (line) VALUES ('first'), ('second')")
    settle(a, b)
    b.clock.ms += 1_000
    return [a, b]


def test_a_line_of_a_log_comes_back_as_itself(make_hosts: MakeHosts) -> None:
    """Not as another one: on every host once, and in its old place where that is still free."""
    a, b = logs_of_today(make_hosts)
    ((number,),) = a.rows("SELECT id FROM logs WHERE line = 'first'")
    a.write("UPDATE logs SET line = 'lost' WHERE line = 'first'")
    b.write("DELETE FROM logs WHERE line = 'first'")
    pull(a, b)
    (lost,) = a.replica.conflicts()
    a.clock.ms = b.clock.ms + 1_000
    for _ in range(2):
        a.replica.restore(lost.id)
        settle(a, b)
        lines = [host.rows("SELECT line FROM logs ORDER BY line") for host in (a, b)]
        assert lines[0] == lines[1] == [("lost",), ("of b",), ("second",)]
    assert a.rows("SELECT id FROM logs WHERE line = 'lost'") == [(number,)]


def test_what_refers_to_a_row_that_comes_back_by_number_refers_to_it_again(
    make_hosts: MakeHosts,
) -> None:
    """A remark was made meanwhile, and is held for want of its line until that is back."""
    a, b = logs_of_today(make_hosts)
    a.write("UPDATE logs SET line = 'lost' WHERE line = 'first'")
    a.write("INSERT INTO remarks SELECT 'r', id FROM logs WHERE line = 'lost'")
    b.write("DELETE FROM logs WHERE line = 'first'")
    settle(a, b)
    assert a.rows("SELECT * FROM remarks") == b.rows("SELECT * FROM remarks") == []
    a.clock.ms = b.clock.ms + 1_000
    (lost,) = a.replica.conflicts()
    a.replica.restore(lost.id)
    settle(a, b)
    for host in (a, b):
        remarks = "SELECT r.name, l.line FROM remarks AS r JOIN logs AS l ON l.id = r.log"
        assert host.rows(remarks) == [("r", "lost")]


def test_what_was_written_to_a_dead_row_is_no_row(make_hosts: MakeHosts) -> None:
    """A deletes d, B writes to it later, C deletes it later still: A never had the rest again.

    C deletes e as well, which A has whole.
    """
    a, b, c = hosts_of_today(make_hosts, "a", "b", "c")
    for device in "de":
        a.write("INSERT INTO licences (device, slot, ends) VALUES (?, 1, '2026')", device)
    settle(a, b, c)
    a.write("DELETE FROM licences WHERE device = 'd'")
    a.write("UPDATE licences SET ends = 'of a'")
    b.clock.ms += 1_000
    b.write("UPDATE licences SET ends = 'of b' WHERE device = 'd'")
    c.clock.ms += 2_000
    c.write("DELETE FROM licences")
    pull(a, b)
    pull(a, c)
    of_e, of_d = a.replica.conflicts()
    with pytest.raises(NotRestorable, match="does not show the row"):
        a.replica.restore(of_d.id)
    a.replica.restore(of_e.id)
    assert a.rows("SELECT device, ends FROM licences") == [("e", "of a")]


def test_a_row_is_kept_once_however_many_of_its_values_lost(pair: list[Host]) -> None:
    """It may be a large one."""
    a, b = pair
    a.write("UPDATE licences SET ends = '2027', serial = 'other', value = 1")
    b.write("DELETE FROM licences")
    pull(a, b)
    assert a.rows("SELECT count(*), count(lost_row) FROM syncd_conflict") == [(3, 1)]
    a.clock.ms = b.clock.ms + 1_000
    for lost in a.replica.conflicts():
        a.replica.restore(lost.id)
    assert a.rows("SELECT ends, serial, value FROM licences") == [("2027", "other", 1)]


def items(make_hosts: MakeHosts, columns: str, more: str = "", **tables: Key) -> list[Host]:
    """Make two hosts that share the items x and y.

    columns: what an item has beside its key and v. more: further DDL. tables: as configured.
    """
    ddl = f"CREATE TABLE items (k TEXT PRIMARY KEY, v, {columns}); {more}"
    a, b = hosts_of_today(make_hosts, "a", "b", ddl=ddl, tables={"items": None, **tables})
    a.write("INSERT INTO items (k, v) VALUES ('x', 1), ('y', 1)")
    settle(a, b)
    return [a, b]


def lost_to_a_death(a: Host, b: Host) -> Conflict:
    """Let b delete x while a, not knowing, writes to its v; return what was lost on a."""
    a.write("UPDATE items SET v = 2 WHERE k = 'x'")
    b.clock.ms += 1_000
    b.write("DELETE FROM items WHERE k = 'x'")
    settle(a, b)
    a.clock.ms = b.clock.ms + 1_000
    return next(one for one in a.replica.conflicts() if one.column == "v")


def test_a_table_may_have_any_number_of_columns_that_stay(make_hosts: MakeHosts) -> None:
    """More than an expression of SQLite's may be deep."""
    names = [f"c{n}" for n in range(600)]
    a, b = items(
        make_hosts,
        ", ".join(f"{name} DEFAULT 1" for name in names),
        items={"columns": {"exclude": names}},
    )
    a.write("UPDATE items SET c599 = 'kept'")
    a.replica.restore(lost_to_a_death(a, b).id)
    assert a.rows("SELECT v, c0, c599 FROM items WHERE k = 'x'") == [(2, 1, "kept")]


@pytest.mark.parametrize("policy", ["REPLACE", "IGNORE", "ABORT", "ROLLBACK"])
def test_no_row_makes_room_for_one_that_comes_back(make_hosts: MakeHosts, policy: str) -> None:
    """Whatever the table does where one that is inserted has a value of another."""
    a, b = items(make_hosts, f"w UNIQUE ON CONFLICT {policy}")
    a.write("UPDATE items SET w = 'w' WHERE k = 'x'")
    settle(a, b)
    lost = lost_to_a_death(a, b)
    a.write("UPDATE items SET w = 'w' WHERE k = 'y'")
    with pytest.raises(NotRestorable, match="cannot be inserted again"):
        a.replica.restore(lost.id)
    assert a.rows("SELECT k, w FROM items") == [("y", "w")]


TRIGGERS = {
    "ignores": ("BEFORE INSERT", "SELECT RAISE(IGNORE);", "cannot be inserted again"),
    "aborts": ("BEFORE INSERT", "SELECT RAISE(ABORT, 'no');", "cannot be inserted again"),
    "deletes": ("AFTER INSERT", "DELETE FROM items WHERE k = NEW.k;", "could not show"),
}


@pytest.mark.parametrize(("when", "what", "why"), TRIGGERS.values(), ids=TRIGGERS)
def test_a_row_that_a_trigger_keeps_away_is_not_said_to_be_back(
    make_hosts: MakeHosts, when: str, what: str, why: str
) -> None:
    """It is refused, and nothing is written."""
    a, b = items(make_hosts, "w")
    lost = lost_to_a_death(a, b)
    a.write(f"CREATE TRIGGER own {when} ON items BEGIN {what} END")
    with pytest.raises(NotRestorable, match=why):
        a.replica.restore(lost.id)
    assert a.rows("SELECT k FROM items") == [("y",)]
    assert a.replica.status().journal == 0


def test_a_value_that_came_with_its_row_is_not_written_again(make_hosts: MakeHosts) -> None:
    """A table may allow inserts and no updates."""
    a, b = items(make_hosts, "w")
    lost = lost_to_a_death(a, b)
    a.write("CREATE TRIGGER final BEFORE UPDATE ON items BEGIN SELECT RAISE(ABORT, 'no'); END")
    a.replica.restore(lost.id)
    assert a.rows("SELECT v FROM items WHERE k = 'x'") == [(2,)]


def test_an_update_that_a_trigger_ignores_is_not_said_to_be_made(make_hosts: MakeHosts) -> None:
    """The row is there, and keeps another value."""
    a, b = items(make_hosts, "w")
    lost = lost_to_a_death(a, b)
    a.write("INSERT INTO items (k, v) VALUES ('x', 3)")
    a.write("CREATE TRIGGER final BEFORE UPDATE ON items BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(NotRestorable, match="cannot be 2 now"):
        a.replica.restore(lost.id)


def test_a_row_whose_parent_is_gone_is_not_brought_back_to_be_held(make_hosts: MakeHosts) -> None:
    """Also where it refers to it by a value, which SQLite itself would let it do."""
    parents = "CREATE TABLE parents (name TEXT PRIMARY KEY)"
    a, b = items(make_hosts, "p TEXT REFERENCES parents (name)", parents, parents=None)
    a.write("INSERT INTO parents VALUES ('p')")
    a.write("UPDATE items SET p = 'p' WHERE k = 'x'")
    settle(a, b)
    lost = lost_to_a_death(a, b)
    a.write("DELETE FROM parents")
    with pytest.raises(NotRestorable, match="could not show"):
        a.replica.restore(lost.id)
    assert a.rows("SELECT k FROM items") == [("y",)]
    assert a.held() == 0


def test_a_row_that_refers_to_itself_by_number_comes_back(make_hosts: MakeHosts) -> None:
    """Its parent is there as soon as it is."""
    a, b = hosts_of_today(
        make_hosts,
        *("a", "b"),
        ddl="CREATE TABLE items (id INTEGER PRIMARY KEY, k TEXT NOT NULL UNIQUE, v,"
        " boss INTEGER NOT NULL REFERENCES items (id))",
        tables={"items": ["k"]},
    )
    a.write("INSERT INTO items VALUES (7, 'x', 1, 7)")
    settle(a, b)
    a.replica.restore(lost_to_a_death(a, b).id)
    settle(a, b)
    for host in (a, b):
        assert host.rows("SELECT v FROM items WHERE boss = id") == [(2,)]
