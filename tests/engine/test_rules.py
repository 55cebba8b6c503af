"""The merge rules, one by one: what becomes of a row when two hosts write it."""

from __future__ import annotations

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, pull, settle


def shared_device(make_hosts: MakeHosts, *nodes: str) -> list[Host]:
    """Return hosts that all have one device."""
    hosts = make_hosts(*nodes)
    hosts[0].write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'new', 'first')")
    settle(*hosts)
    return hosts


def test_writes_of_different_columns_both_stay(make_hosts: MakeHosts) -> None:
    """A blocks a device while B notes its heartbeat: both are kept."""
    a, b = shared_device(make_hosts, "a", "b")
    a.write("UPDATE devices SET status = 'blocked'")
    b.write("UPDATE devices SET note = 'heartbeat'")
    settle(a, b)
    assert a.devices() == b.devices() == {"d": ("blocked", "heartbeat")}


def test_the_later_of_two_writes_of_one_column_wins_everywhere(make_hosts: MakeHosts) -> None:
    """Which host pulls first does not matter, only which write has the greater stamp."""
    a, b = shared_device(make_hosts, "a", "b")
    b.clock.ms = a.clock.ms + 10
    a.write("UPDATE devices SET status = 'from a'")
    b.write("UPDATE devices SET status = 'from b'")
    pull(b, a)
    assert b.devices() == {"d": ("from b", "first")}
    pull(a, b)
    assert a.devices() == {"d": ("from b", "first")}


def test_two_births_of_one_key_are_one_row(make_hosts: MakeHosts) -> None:
    """Both insert the same key, then A alone updates a column: A's update stays."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'from a', 1)")
    b.clock.ms += 10
    b.write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'from b', 2)")
    a.clock.ms += 20
    a.write("UPDATE devices SET note = 3")
    settle(a, b)
    assert a.devices() == b.devices() == {"d": ("from b", 3)}


def test_an_update_does_not_revive_a_deleted_row(make_hosts: MakeHosts) -> None:
    """A deletes, B not knowing updates later: dead, until somebody inserts the row again."""
    a, b = shared_device(make_hosts, "a", "b")
    a.write("DELETE FROM devices")
    b.clock.ms += 10
    b.write("UPDATE devices SET status = 'late'")
    settle(a, b)
    assert a.devices() == b.devices() == {}


def test_a_later_insert_revives_a_deleted_row_with_its_own_values(make_hosts: MakeHosts) -> None:
    """A deletes, B inserts again: alive with B's values, although A's deletion arrives after."""
    a, b = shared_device(make_hosts, "a", "b")
    a.write("DELETE FROM devices")
    b.clock.ms += 10
    b.write("INSERT OR REPLACE INTO devices (device_id, status) VALUES ('d', 'again')")
    settle(a, b)
    assert a.devices() == b.devices() == {"d": ("again", None)}


def test_an_older_delete_does_not_hide_a_newer_insert(make_hosts: MakeHosts) -> None:
    """C hears of the new birth first and of the death later: the row stays."""
    a, b, c = shared_device(make_hosts, "a", "b", "c")
    a.write("DELETE FROM devices")
    b.clock.ms += 10
    b.write("INSERT OR REPLACE INTO devices (device_id, status) VALUES ('d', 'again')")
    pull(c, b)
    pull(c, a)
    assert c.devices() == {"d": ("again", None)}


def test_a_write_newer_than_the_next_birth_waits_for_it(make_hosts: MakeHosts) -> None:
    """C's write reaches A while the row is dead; it is newer than B's birth and wins its column."""
    a, b, c = shared_device(make_hosts, "a", "b", "c")
    a.write("DELETE FROM devices")
    b.clock.ms += 10
    b.write("INSERT OR REPLACE INTO devices (device_id, status, note) VALUES ('d', 'again', 'b')")
    c.clock.ms += 20
    c.write("UPDATE devices SET note = 'from c'")
    pull(a, c)
    assert a.devices() == {}
    settle(a, b, c)
    assert a.devices() == b.devices() == c.devices() == {"d": ("again", "from c")}


def test_a_write_that_waits_in_a_dead_row_is_passed_on(make_hosts: MakeHosts) -> None:
    """C's write to the dead row reaches B only through A, where the row never showed it."""
    a, b, c = shared_device(make_hosts, "a", "b", "c")
    a.write("DELETE FROM devices")
    c.clock.ms += 20
    c.write("UPDATE devices SET note = 'from c'")
    pull(a, c)
    b.clock.ms += 10
    b.write("INSERT OR REPLACE INTO devices (device_id, status, note) VALUES ('d', 'again', 'b')")
    pull(b, a)
    assert b.devices() == {"d": ("again", "from c")}


def test_a_row_may_die_and_return_again_and_again(make_hosts: MakeHosts) -> None:
    """Here and there, with late writes of a third host that find it dead."""
    a, b, c = shared_device(make_hosts, "a", "b", "c")
    for turn in range(4):
        a.write("DELETE FROM devices")
        settle(a, b)
        c.write("UPDATE devices SET note = ?", f"late {turn}")
        settle(b, c)
        b.clock.ms += 10
        b.write("INSERT INTO devices (device_id, status) VALUES ('d', ?)", f"turn {turn}")
        settle(a, b, c)
        assert a.devices() == b.devices() == c.devices() == {"d": (f"turn {turn}", None)}


def test_changing_a_key_is_a_death_and_a_birth(make_hosts: MakeHosts) -> None:
    """A renames a device; a later write to the old name by B does not bring it back."""
    a, b = shared_device(make_hosts, "a", "b")
    a.write("UPDATE devices SET device_id = 'e'")
    b.clock.ms += 10
    b.write("UPDATE devices SET status = 'late'")
    settle(a, b)
    assert a.devices() == b.devices() == {"e": ("new", "first")}


@pytest.mark.parametrize("demand", ["DEFAULT 'unset'", "NOT NULL", "NOT NULL DEFAULT 'unset'"])
def test_a_row_never_shows_before_the_values_it_was_born_with(
    make_hosts: MakeHosts, demand: str
) -> None:
    """A birth and updates of the same row fall into different frames; nobody shows half of it."""
    ddl = f"CREATE TABLE devices (device_id TEXT PRIMARY KEY, status {demand}, note {demand})"
    a, b = make_hosts("a", "b", ddl=ddl)
    for name in "de":
        a.write("INSERT INTO devices VALUES (?, 'new', 'first')", name)
    a.write("UPDATE devices SET note = 'second'")
    a.write("UPDATE devices SET status = 'third'")
    whole = {"d": ("third", "second"), "e": ("third", "second")}
    while b.devices() != whole:
        pull(b, a, frame_entries=1, frames_max=1)
        assert b.devices().items() <= whole.items()
