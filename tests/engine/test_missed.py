"""What capture missed is found by comparing a table with its changelog."""

from __future__ import annotations

from engine.conftest import MakeHosts
from engine.hosts import Host, pull, settle
from syncd import missed, schema
from syncd.database import Database


def insert(host: Host, device: str, note: object = None) -> None:
    host.write("INSERT INTO devices (device_id, note) VALUES (?, ?)", device, note)


def drop_triggers(host: Host) -> None:
    """Do what a rebuild, or somebody who tidies up, does."""
    for (name,) in host.rows("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
        host.write(f'DROP TRIGGER "{name}"')


def found(host: Host) -> tuple[set[str], set[str]]:
    """Return the keys of the births and deaths that were missed."""
    host.replica.fold()
    database = Database(host.path)
    try:
        with database.read() as connection:
            table = schema.load_tables(connection)["devices"]
            births = {key for (key,) in connection.rows(missed.births(table, "t.device_id"))}
            deaths = {key for (key,) in connection.rows(missed.deaths(table, "e.k0"))}
    finally:
        database.close()
    return births, deaths


def record(host: Host) -> tuple[int, int]:
    database = Database(host.path)
    try:
        with database.write() as connection:
            table = schema.load_tables(connection)["devices"]
            return missed.record(connection, table, host.clock.ms)
    finally:
        database.close()


def test_nothing_is_missed_while_capture_watches(make_hosts: MakeHosts) -> None:
    """Births, deaths, rows merged, rows displaced and late writes to dead rows are all known."""
    ddl = "CREATE TABLE devices (device_id TEXT PRIMARY KEY, note UNIQUE)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": None})
    for device in ("kept", "deleted", "reborn"):
        insert(a, device)
    settle(a, b)
    a.write("DELETE FROM devices WHERE device_id <> 'kept'")
    insert(a, "reborn")
    b.write("UPDATE devices SET note = 'late' WHERE device_id = 'deleted'")
    insert(a, "loser", "wanted")
    b.clock.ms = a.clock.ms + 1_000
    insert(b, "winner", "wanted")
    settle(a, b)
    assert a.held() == b.held() == 1
    assert found(a) == found(b) == (set(), set())


def test_rows_that_came_and_went_without_triggers_are_found(make_hosts: MakeHosts) -> None:
    """Each once, and not those that stayed."""
    (a,) = make_hosts("a")
    for device in ("kept", "gone", "dead"):
        insert(a, device)
    a.write("DELETE FROM devices WHERE device_id = 'dead'")
    drop_triggers(a)
    insert(a, "new")
    insert(a, "dead")
    a.write("DELETE FROM devices WHERE device_id = 'gone'")
    assert found(a) == ({"new", "dead"}, {"gone"})


def test_a_row_inserted_beside_its_displaced_self_is_born_anew(make_hosts: MakeHosts) -> None:
    """It waits in the shadow, alive by its changelog; the one that stands there is another."""
    ddl = "CREATE TABLE devices (device_id TEXT PRIMARY KEY, note UNIQUE)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": None})
    insert(a, "d", "wanted")
    b.clock.ms += 1_000
    insert(b, "winner", "wanted")
    pull(a, b)
    drop_triggers(a)
    insert(a, "d", "other")
    assert found(a) == ({"d"}, set())


def test_what_is_recorded_is_missed_no_more_and_travels(make_hosts: MakeHosts) -> None:
    """As writes of the moment they are recorded at."""
    a, b = make_hosts("a", "b")
    for device in ("kept", "gone"):
        insert(a, device)
    settle(a, b)
    drop_triggers(a)
    insert(a, "new", 1)
    a.write("DELETE FROM devices WHERE device_id = 'gone'")
    a.replica.fold()
    assert record(a) == (1, 1)
    assert found(a) == (set(), set())
    a.enrol()
    pull(b, a)
    assert b.devices() == {"kept": ("new", None), "new": ("new", 1)}


def test_rows_of_generated_identity_are_found_as_well(make_hosts: MakeHosts) -> None:
    """By the numbers they have here."""
    ddl = "CREATE TABLE devices (id INTEGER PRIMARY KEY AUTOINCREMENT, device_id, note)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": "generated"})
    insert(b, "of b")
    for device in ("kept", "gone"):
        insert(a, device)
    settle(a, b)
    assert found(a) == (set(), set())
    drop_triggers(a)
    insert(a, "new", 1)
    a.write("DELETE FROM devices WHERE device_id IN ('gone', 'of b')")
    a.replica.fold()
    assert record(a) == (1, 2)
    a.enrol()
    pull(b, a)
    assert b.rows("SELECT device_id, note FROM devices ORDER BY 1") == [("kept", None), ("new", 1)]
