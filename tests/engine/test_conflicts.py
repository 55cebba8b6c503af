"""The conflict log: what lost to a write that did not know of it, once, and where it lost."""

from __future__ import annotations

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, ask, pull, settle
from syncd.errors import ConstraintError, NotRestorable


@pytest.fixture
def trio(make_hosts: MakeHosts) -> list[Host]:
    """Make three hosts that share a device; b's clock is ahead of a's, and c's of b's."""
    a, b, c = make_hosts("a", "b", "c")
    a.write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'new', 'first')")
    settle(a, b, c)
    b.clock.ms += 1_000
    c.clock.ms += 2_000
    return [a, b, c]


@pytest.mark.parametrize("first", ["winner", "loser"])
def test_a_concurrent_value_that_lost_is_logged_where_it_lost(trio: list[Host], first: str) -> None:
    """Either the loser's host hears of the winner, or the winner's host of the loser: one entry."""
    a, b, _ = trio
    a.write("UPDATE devices SET note = 'lost'")
    b.write("UPDATE devices SET note = 'won'")
    receiver, sender = (a, b) if first == "winner" else (b, a)
    pull(receiver, sender)
    settle(a, b)
    assert receiver.conflicts() == [("devices", "note", "lost", "won")]
    assert sender.conflicts() == []


def test_a_write_that_knew_what_it_replaced_is_no_conflict(trio: list[Host]) -> None:
    """B overwrites and deletes what A wrote, having seen it."""
    a, b, c = trio
    a.write("UPDATE devices SET note = 'old'")
    pull(b, a)
    b.write("UPDATE devices SET note = 'new'")
    settle(a, b, c)
    c.write("DELETE FROM devices")
    settle(a, b, c)
    c.write("INSERT INTO devices (device_id, note) VALUES ('d', 'again')")
    settle(a, b, c)
    assert [host.conflicts() for host in (a, b, c)] == [[], [], []]


def test_a_knowing_write_that_travels_ahead_is_no_conflict(trio: list[Host]) -> None:
    """C hears of B's knowing overwrite first, and of what it replaced afterwards, among news."""
    a, b, c = trio
    a.write("INSERT INTO devices (device_id, note) VALUES ('e', 'first')")
    settle(a, b, c)
    a.write("UPDATE devices SET note = 'old' WHERE device_id = 'd'")
    pull(b, a)
    b.write("UPDATE devices SET note = 'new' WHERE device_id = 'd'")
    pull(c, b)
    a.write("UPDATE devices SET note = 'news' WHERE device_id = 'e'")
    pull(c, a)
    assert c.devices() == {"d": ("new", "new"), "e": ("new", "news")}
    assert c.conflicts() == []


def test_equal_values_are_no_conflict(trio: list[Host]) -> None:
    """Both hosts blocked the device; nobody lost anything."""
    a, b, c = trio
    a.write("UPDATE devices SET status = 'blocked'")
    b.write("UPDATE devices SET status = 'blocked'")
    settle(a, b, c)
    assert [host.conflicts() for host in (a, b, c)] == [[], [], []]


def test_different_columns_are_no_conflict(trio: list[Host]) -> None:
    """Both writes stay."""
    a, b, c = trio
    a.write("UPDATE devices SET status = 'blocked'")
    b.write("UPDATE devices SET note = 'seen'")
    settle(a, b, c)
    assert [host.conflicts() for host in (a, b, c)] == [[], [], []]


@pytest.mark.parametrize("first", ["death", "update"])
def test_a_value_written_to_a_row_that_another_deleted_is_logged(
    trio: list[Host], first: str
) -> None:
    """B deletes while A, not knowing, notes something that nobody will see."""
    a, b, _ = trio
    a.write("UPDATE devices SET note = 'lost'")
    b.write("DELETE FROM devices")
    receiver, sender = (a, b) if first == "death" else (b, a)
    pull(receiver, sender)
    settle(a, b)
    assert a.devices() == b.devices() == {}
    assert receiver.conflicts() == [("devices", "note", "lost", None)]
    assert receiver.rows("SELECT won_dead FROM syncd_conflict") == [(1,)]
    assert sender.conflicts() == []


@pytest.mark.parametrize("first", ["death", "update"])
def test_a_value_written_after_a_death_that_its_writer_did_not_know_of_is_logged(
    trio: list[Host], first: str
) -> None:
    """A deletes; B, not knowing, notes something later. An update does not revive."""
    a, b, c = trio
    a.write("DELETE FROM devices")
    b.write("UPDATE devices SET note = 'lost'")
    receiver, sender = (b, a) if first == "death" else (a, b)
    pull(receiver, sender)
    settle(a, b, c)
    assert a.devices() == b.devices() == c.devices() == {}
    assert receiver.conflicts() == [("devices", "note", "lost", None)]
    assert receiver.rows("SELECT won_dead FROM syncd_conflict") == [(1,)]
    assert sender.conflicts() == c.conflicts() == []
    (conflict,) = receiver.replica.conflicts()
    assert (conflict.lost_node, conflict.won_node, conflict.won_by_death) == ("b", "a", True)
    assert conflict.lost_ms > conflict.won_ms


@pytest.mark.parametrize("one_frame", [True, False], ids=["together", "one by one"])
def test_a_value_of_a_row_that_lives_again_is_not_lost(trio: list[Host], one_frame: bool) -> None:
    """B replaces it and changes its status, not knowing that A had deleted it.

    The first of the columns has the least mask, so its section comes before that of the birth.
    """
    a, b, _ = trio
    a.write("DELETE FROM devices")
    for statement in (
        "INSERT OR REPLACE INTO devices (device_id, note) VALUES ('d', 'again')",
        "UPDATE devices SET status = 'seen'",
    ):
        b.write(statement)
        if not one_frame:
            b.replica.fold()
    pull(a, b, frame_entries=None if one_frame else 1)
    settle(a, b)
    assert a.devices() == b.devices() == {"d": ("seen", "again")}
    assert a.conflicts() == b.conflicts() == []


def test_a_value_that_lost_to_a_death_comes_back_to_a_row_that_is_inserted_again(
    trio: list[Host],
) -> None:
    """Where it was deleted only the value came: there it can be restored once the row is there."""
    a, b, _ = trio
    a.write("DELETE FROM devices")
    b.write("UPDATE devices SET note = 'lost'")
    pull(a, b)
    (conflict,) = a.replica.conflicts()
    with pytest.raises(NotRestorable, match="does not show the row") as refusal:
        a.replica.restore(conflict.id)
    assert "A host that showed it then" in str(refusal.value.hint)
    a.clock.ms += 5_000
    a.write("INSERT INTO devices (device_id, note) VALUES ('d', 'anew')")
    a.replica.restore(conflict.id)
    settle(a, b)
    assert a.devices() == b.devices() == {"d": ("new", "lost")}


REFUSED = {
    "a parent that is gone": (
        "REFERENCES parents (name)",
        "DELETE FROM parents WHERE name = 'of a'",
        "could not show",
    ),
    "a value that another has": (
        "UNIQUE ON CONFLICT REPLACE",
        "INSERT INTO items VALUES ('y', 'of a')",
        "cannot be 'of a' now",
    ),
}


@pytest.mark.parametrize(("demand", "then", "why"), REFUSED.values(), ids=REFUSED)
def test_a_value_that_would_take_a_row_away_is_not_restored(
    make_hosts: MakeHosts, demand: str, then: str, why: str
) -> None:
    """Neither its own, which would be held from then on, nor another one."""
    ddl = f"""CREATE TABLE parents (name TEXT PRIMARY KEY);
        CREATE TABLE items (k TEXT PRIMARY KEY, p TEXT {demand})"""
    a, b = make_hosts("a", "b", ddl=ddl, tables={"parents": None, "items": None})
    a.write("INSERT INTO parents VALUES ('of a'), ('of b')")
    a.write("INSERT INTO items VALUES ('x', NULL)")
    settle(a, b)
    b.clock.ms += 1_000
    for host in (a, b):
        host.write("UPDATE items SET p = ?", f"of {host.node}")
    settle(a, b)
    a.write(then)
    before = a.rows("SELECT * FROM items ORDER BY k")
    (lost,) = a.replica.conflicts()
    with pytest.raises(NotRestorable, match=why):
        a.replica.restore(lost.id)
    assert a.rows("SELECT * FROM items ORDER BY k") == before


def test_a_key_with_a_nul_is_told_whole(make_hosts: MakeHosts) -> None:
    """What comes behind it tells the row from another one."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id, note) VALUES (?1 || 'c', 'c'), (?1 || 'd', 'd')", "\0")
    settle(a, b)
    a.write("UPDATE devices SET note = 'lost' WHERE note = 'd'")
    b.clock.ms += 1_000
    b.write("UPDATE devices SET note = 'won' WHERE note = 'd'")
    settle(a, b)
    (lost,) = a.replica.conflicts()
    assert lost.key == "CAST(X'0064' AS TEXT)"
    a.replica.restore(lost.id)
    assert {note for _, note in a.devices().values()} == {"c", "lost"}


def test_two_births_log_the_columns_that_differ(make_hosts: MakeHosts) -> None:
    """Both insert the same device with other notes."""
    a, b = make_hosts("a", "b")
    b.clock.ms += 1_000
    a.write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'new', 'lost')")
    b.write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'new', 'won')")
    pull(b, a)
    settle(a, b)
    assert b.conflicts() == [("devices", "note", "lost", "won")]
    assert a.conflicts() == []


def test_a_loser_that_comes_again_and_from_two_peers_is_logged_once(trio: list[Host]) -> None:
    """It leaves no trace in the table, so it loses every time it comes."""
    a, b, c = trio
    a.write("UPDATE devices SET note = 'lost'")
    pull(b, a)
    for number in range(5):
        a.write("INSERT INTO devices (device_id) VALUES (?)", f"{number}")
    pull(b, a)
    c.write("UPDATE devices SET note = 'won'")
    from_a, from_b = (ask(c, host, frame_entries=1) for host in (a, b))
    assert from_a[1].claim is from_b[1].claim is None
    for delivery in (from_a, from_b, from_a, from_b):
        c.replica.merge(*delivery)
    settle(a, b, c)
    assert c.conflicts() == [("devices", "note", "lost", "won")]


def test_a_merge_counts_the_conflicts_it_logs(trio: list[Host]) -> None:
    """What the caller is told is what the log says."""
    a, b, _ = trio
    a.write("UPDATE devices SET note = 'lost', status = 'lost'")
    b.write("UPDATE devices SET note = 'won', status = 'won'")
    counts = b.replica.merge(*ask(b, a))
    assert counts.conflicting == len(b.conflicts()) == 2
    assert b.replica.status().conflicts == 2


def test_the_log_names_the_row_and_both_writers(trio: list[Host]) -> None:
    """Enough to find the row again and to ask who wrote what."""
    a, b, _ = trio
    a.write("UPDATE devices SET note = 'lost'")
    b.write("UPDATE devices SET note = 'won'")
    pull(b, a)
    ((key, lost, won),) = b.rows(
        "SELECT c.key, l.node, w.node FROM syncd_conflict AS c"
        " JOIN syncd_origin AS l ON l.ordinal = c.lost_origin"
        " JOIN syncd_origin AS w ON w.ordinal = c.won_origin"
    )
    assert (key, lost, won) == ("'d'", "a", "b")


def test_a_value_that_a_held_change_displaces_is_logged(trio: list[Host]) -> None:
    """B's clock is an hour ahead; A writes the same column while B's write waits."""
    a, b, _ = trio
    b.clock.ms += 3_600_000
    b.write("UPDATE devices SET note = 'from the future'")
    pull(a, b)
    a.write("UPDATE devices SET note = 'lost'")
    a.replica.fold()
    a.clock.ms += 3_600_000
    a.replica.release()
    assert a.conflicts() == [("devices", "note", "lost", "from the future")]


def test_values_that_only_differ_in_their_type_are_a_conflict(trio: list[Host]) -> None:
    """In a column without affinity 1 and 1.0 compare equal, and are two values all the same."""
    a, b, _ = trio
    a.write("UPDATE devices SET note = 1")
    b.write("UPDATE devices SET note = 1.0")
    settle(a, b)
    assert [*a.conflicts(), *b.conflicts()] == [("devices", "note", 1, 1.0)]
    assert a.rows("SELECT typeof(note) FROM devices") == [("real",)]


HIDDEN = {
    "its parent": "UPDATE parents SET name = 'other'",
    "a value": "INSERT INTO t (k, serial) VALUES ('other', 's')",
}


@pytest.mark.parametrize("why", HIDDEN.values(), ids=HIDDEN)
def test_what_a_birth_overwrites_of_a_row_that_is_hidden_is_logged(
    make_hosts: MakeHosts, why: str
) -> None:
    """B has merged the row and does not show it: who inserts it there could not see its values."""
    ddl = """CREATE TABLE parents (name TEXT PRIMARY KEY);
        CREATE TABLE t (k TEXT PRIMARY KEY, parent TEXT REFERENCES parents (name),
            serial TEXT UNIQUE, note TEXT)"""
    a, b = make_hosts("a", "b", ddl=ddl, tables={"parents": None, "t": None})
    a.write("INSERT INTO parents VALUES ('p')")
    settle(a, b)
    a.write("INSERT INTO t VALUES ('x', 'p', 's', 'precious')")
    b.clock.ms = a.clock.ms + 10
    b.write(why)
    pull(b, a)
    assert b.held() == 1
    b.write("INSERT INTO t (k, parent, note) VALUES ('x', NULL, 'mine')")
    settle(a, b)
    assert b.rows("SELECT parent, note FROM t WHERE k = 'x'") == [(None, "mine")]
    lost = {one.column: one for one in b.replica.conflicts() if one.reason == "overwritten"}
    assert {name: (one.lost_value, one.won_value) for name, one in lost.items()} == {
        "parent": ("p", None),
        "serial": ("s", None),
        "note": ("precious", "mine"),
    }
    assert all(one.ended_ms is not None for one in b.replica.conflicts())
    b.replica.restore(lost["note"].id)
    assert b.rows("SELECT note FROM t WHERE k = 'x'") == [("precious",)]


@pytest.mark.parametrize(
    "then", ["DELETE FROM t WHERE k = 'x'", "UPDATE t SET k = 'moved' WHERE k = 'x'"]
)
def test_so_it_is_where_the_birth_is_over_before_it_is_folded(
    make_hosts: MakeHosts, then: str
) -> None:
    """All that is left of it then is a death, of a row that nobody could have deleted otherwise."""
    ddl = "CREATE TABLE t (k TEXT PRIMARY KEY, serial TEXT UNIQUE, note TEXT, more)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"t": None})
    a.write("INSERT INTO t VALUES ('x', 's', 'precious', NULL)")
    b.clock.ms = a.clock.ms + 10
    b.write("INSERT INTO t (k, serial) VALUES ('other', 's')")
    pull(b, a)
    assert b.held() == 1
    b.write("INSERT INTO t (k) VALUES ('x')")
    b.write(then)
    settle(a, b)
    assert a.rows("SELECT k FROM t WHERE k = 'x'") == b.rows("SELECT k FROM t WHERE k = 'x'") == []
    lost = [one for one in b.replica.conflicts() if one.reason == "overwritten"]
    values = {one.column: one.lost_value for one in lost}
    assert values == {"serial": "s", "note": "precious", "more": None}
    assert all(one.won_by_death for one in lost)


def contest_a_serial(make_hosts: MakeHosts) -> list[Host]:
    """Let two hosts write one row, the second one last, and not hear of each other."""
    ddl = "CREATE TABLE t (k TEXT PRIMARY KEY, serial TEXT UNIQUE)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"t": None})
    a.write("INSERT INTO t VALUES ('x', 'first')")
    settle(a, b)
    b.clock.ms += 1_000
    a.write("UPDATE t SET serial = 'lost'")
    b.write("UPDATE t SET serial = 'won'")
    return [a, b]


def test_a_value_that_another_row_has_by_now_is_not_restored(make_hosts: MakeHosts) -> None:
    a, b = contest_a_serial(make_hosts)
    settle(a, b)
    b.write("INSERT INTO t VALUES ('y', 'lost')")
    settle(a, b)
    (lost,) = [one for host in (a, b) for one in host.replica.conflicts()]
    where = a if a.replica.conflicts() else b
    with pytest.raises(NotRestorable, match="cannot be 'lost' now"):
        where.replica.restore(lost.id)
    assert where.rows("SELECT * FROM t ORDER BY k") == [("x", "won"), ("y", "lost")]


def test_no_row_stays_displaced_in_a_table_that_went(make_hosts: MakeHosts) -> None:
    ddl = "CREATE TABLE t (k TEXT PRIMARY KEY, serial TEXT UNIQUE)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"t": None})
    a.write("INSERT INTO t VALUES ('x', 's')")
    b.clock.ms += 1_000
    b.write("INSERT INTO t VALUES ('y', 's')")
    settle(a, b)
    assert [one.ended_ms for one in a.replica.conflicts()] == [None]
    for host in (a, b):
        host.write("ALTER TABLE t RENAME TO u")
        host.enrol({"u": None})
    settle(a, b)
    assert None not in [one.ended_ms for one in a.replica.conflicts()]


def test_a_trigger_that_ends_the_transaction_is_told_as_it_is(make_hosts: MakeHosts) -> None:
    a, b = contest_a_serial(make_hosts)
    pull(a, b)
    a.write("CREATE TRIGGER no BEFORE UPDATE ON t BEGIN SELECT RAISE(ROLLBACK, 'never'); END")
    (lost,) = a.replica.conflicts()
    with pytest.raises(ConstraintError, match="never"):
        a.replica.restore(lost.id)
    assert a.rows("SELECT * FROM t") == [("x", "won")]
