"""Enrolling: once, again after every migration, and never by halves."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from engine.conftest import MakeHosts
from engine.hosts import DEVICES, DEVICES_KEY, START_MS, Host, Key, changes_in, pull, settle
from syncd import comparison
from syncd.clock import ms_of_hlc
from syncd.enrolment import Enrolled
from syncd.errors import NotEnrolled, SchemaChanged, SchemaError
from syncd.vector import Vector


def insert(host: Host, device: str, note: object = None) -> None:
    """Insert a device."""
    host.write("INSERT INTO devices (device_id, note) VALUES (?, ?)", device, note)


def schema_of(host: Host) -> list[tuple[Any, ...]]:
    """Return everything that stands in the file's schema."""
    return host.rows("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")


def rebuild(host: Host, ddl: str, columns: Sequence[str]) -> None:
    """Migrate a table as SQLite recommends: make a new one, copy, drop, rename."""
    names = ", ".join(columns)
    host.writer.executescript(
        f"BEGIN; {ddl.replace('TABLE devices', 'TABLE rebuilt')};"
        f"INSERT INTO rebuilt ({names}) SELECT {names} FROM devices;"
        "DROP TABLE devices; ALTER TABLE rebuilt RENAME TO devices; COMMIT"
    )


def drop_note(host: Host, *, excluded: bool = False) -> None:
    """Take the column out of the sync, with its values or without them."""
    if not excluded:
        rebuild(host, DEVICES.replace(",\n        note", ""), ["id", "device_id", "status"])
    host.enrol(NOTE_EXCLUDED if excluded else None)


def take_note_in(host: Host) -> None:
    """Sync the column again."""
    if host.rows("SELECT 1 FROM pragma_table_info('devices') WHERE name = 'note'") == []:
        host.write("ALTER TABLE devices ADD COLUMN note")
    host.enrol(DEVICES_KEY)


class TestAgain:
    """Enrolling is part of every deployment."""

    def test_a_new_table_says_how_many_rows_it_had(self, make_hosts: MakeHosts) -> None:
        """What was there is counted and stamped."""
        (a,) = make_hosts("a", enrolled=False)
        insert(a, "d")
        insert(a, "e")
        assert a.enrol() == [Enrolled("devices", "new", rows=2)]

    def test_enrolling_again_changes_nothing_and_says_so(self, make_hosts: MakeHosts) -> None:
        """The same file, the same origin, the same vector."""
        (a,) = make_hosts("a")
        insert(a, "d")
        origin, vector, before = a.replica.origin(), a.replica.vector(), schema_of(a)
        assert a.enrol() == [Enrolled("devices", "unchanged")]
        assert (a.replica.origin(), a.replica.vector(), schema_of(a)) == (origin, vector, before)

    def test_writes_that_wait_are_not_lost_by_enrolling(self, make_hosts: MakeHosts) -> None:
        """What nobody has folded yet is sent under its own stamps."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        a.write("UPDATE devices SET note = 1")
        a.write("DELETE FROM devices")
        insert(a, "e")
        a.enrol()
        pull(b, a)
        assert b.devices() == a.devices() == {"e": ("new", None)}

    def test_a_table_that_is_no_longer_listed_stays_enrolled(self, make_hosts: MakeHosts) -> None:
        """To take a line out of the configuration must not lose data."""
        ddl = f"{DEVICES}; CREATE TABLE logs (line TEXT PRIMARY KEY)"
        both: dict[str, Key] = {**DEVICES_KEY, "logs": None}
        a, b = make_hosts("a", "b", ddl=ddl, tables=both)
        states = {e.table: e.state for e in a.enrol(DEVICES_KEY)}
        assert states == {"devices": "unchanged", "logs": "unlisted"}
        a.write("INSERT INTO logs VALUES ('one')")
        pull(b, a)
        assert b.rows("SELECT * FROM logs") == [("one",)]

    def test_a_table_added_to_the_configuration_is_enrolled(self, make_hosts: MakeHosts) -> None:
        """Beside those that are enrolled already."""
        a, b = make_hosts("a", "b")
        for host in (a, b):
            host.write("CREATE TABLE logs (line TEXT PRIMARY KEY)")
        a.write("INSERT INTO logs VALUES ('before')")
        for host in (a, b):
            assert {e.table: e.state for e in host.enrol({**DEVICES_KEY, "logs": None})} == {
                "devices": "unchanged",
                "logs": "new",
            }
        a.write("INSERT INTO logs VALUES ('after')")
        pull(b, a)
        assert b.rows("SELECT * FROM logs ORDER BY 1") == [("after",), ("before",)]

    def test_nothing_works_before_enrolling(self, make_hosts: MakeHosts) -> None:
        """And the error says what to do."""
        (a,) = make_hosts("a", enrolled=False)
        for call in (a.replica.vector, a.replica.origin, a.replica.fold, a.replica.status):
            with pytest.raises(NotEnrolled):
                call()


class TestExistingRows:
    """Rows that nobody stamped give way to any real write."""

    def test_any_real_write_beats_them(self, make_hosts: MakeHosts) -> None:
        """B enrolled a newer looking row; A really wrote its own, and by a slow clock."""
        a, b = make_hosts("a", "b", enrolled=False)
        for host in (a, b):
            insert(host, "d", f"from {host.node}")
            insert(host, "e", f"from {host.node}")
            host.enrol()
        a.clock.ms = 1
        a.write("UPDATE devices SET note = 'really' WHERE device_id = 'd'")
        a.write("DELETE FROM devices WHERE device_id = 'e'")
        settle(a, b)
        for host in (a, b):
            assert {device: note for device, (_, note) in host.devices().items()} == {"d": "really"}

    def test_they_do_not_revive_what_was_deleted(self, make_hosts: MakeHosts) -> None:
        """B has had the file for a year and joins now; what A deleted stays deleted."""
        a, b = make_hosts("a", "b", enrolled=False)
        for host in (a, b):
            insert(host, "d")
        a.enrol()
        a.write("DELETE FROM devices")
        b.enrol()
        settle(a, b)
        assert a.devices() == b.devices() == {}

    def test_a_small_frame_can_end_between_them(self, make_hosts: MakeHosts) -> None:
        """They share one clock reading; seq keeps them apart."""
        a, b = make_hosts("a", "b", enrolled=False)
        for number in range(7):
            insert(a, f"{number}")
        a.enrol()
        b.enrol()
        pull(b, a, frame_entries=2)
        assert b.devices() == a.devices()


STAMPED: dict[str, Key] = {"devices": {"key": ["device_id"], "stamp_from": "note"}}
TIME_MS = 1_600_000_000_000  # 2020-09-13 12:26:40 UTC


class TestStampsOfExistingRows:
    """A column may say when rows that are there were last written."""

    @pytest.mark.parametrize(
        ("written", "ms"),
        [
            ("2020-09-13 12:26:40", TIME_MS),
            ("2020-09-13 12:26:40.25", TIME_MS + 250),
            ("2020-09-13T12:26:40", TIME_MS),
            ("2020-09-13T12:26:40.123456Z", TIME_MS + 123),
            ("2020-09-13T14:26:40+02:00", TIME_MS),
            ("2020-09-13T14:26:40.500000+0200", TIME_MS + 500),
            ("2020-09-13 09:26:40 -03:00", TIME_MS),
            ("2020-09-13", TIME_MS - 44_800_000),
            (1_600_000_000, TIME_MS),
            (1_600_000_000.25, TIME_MS + 250),
            (TIME_MS, TIME_MS),
            (float(TIME_MS), TIME_MS),
            ("2999-01-01 00:00:00", START_MS),
            (32_000_000_000, START_MS),
            (None, 0),
            ("", 0),
            ("now", 0),
            ("yesterday", 0),
            ("2020-13-45 12:00:00", 0),
            ("12:26:40", 0),
            (b"2020-09-13 12:26:40", 0),
            (-5, 0),
            (1.6e18, 0),
            (float("inf"), 0),
            ("1969-12-31 23:59:59", 0),
        ],
    )
    def test_a_time_is_read_in_every_usual_form(
        self, make_hosts: MakeHosts, written: object, ms: int
    ) -> None:
        """As SQLite writes it, ISO, unix; one to come is now, and what is no time is the lowest."""
        (a,) = make_hosts("a", tables=STAMPED, enrolled=False)
        insert(a, "d", written)
        a.clock.ms = START_MS
        a.enrol()
        told = changes_in(a.replica.changes_since(Vector())[1])
        assert {ms_of_hlc(change.stamp.hlc) for change in told} == {ms}

    def test_copies_that_had_drifted_apart_converge_to_the_newer_rows(
        self, make_hosts: MakeHosts
    ) -> None:
        """Whoever enrols first; a row that only one of them has is kept."""
        ddl = f"{DEVICES}; ALTER TABLE devices ADD COLUMN updated_at TEXT"
        tables = {"devices": {"key": ["device_id"], "stamp_from": "updated_at"}}
        a, b, c = make_hosts("a", "b", "c", ddl=ddl, tables=tables, enrolled=False)
        rows: dict[Host, list[tuple[object, ...]]] = {
            a: [("d", "a", "2020-01-01 00:00:00"), ("e", "a", "2021-01-01T00:00:00Z")],
            b: [("d", "b", "2020-01-01T00:00:00.5"), ("e", "b", "2020-12-31 23:59:59")],
            c: [("d", "c", None), ("e", "c", "soon"), ("f", "c", "soon")],
        }
        for host, copy in rows.items():
            for row in copy:
                host.write(
                    "INSERT INTO devices (device_id, note, updated_at) VALUES (?, ?, ?)", *row
                )
            host.enrol()
        settle(c, b, a)
        for host in (a, b, c):
            notes = {device: note for device, (_, note) in host.devices().items()}
            assert notes == {"d": "b", "e": "a", "f": "c"}

    def test_a_row_of_the_future_gives_way_to_the_next_write(self, make_hosts: MakeHosts) -> None:
        """It is not held at others either, and does not poison the clock."""
        a, b = make_hosts("a", "b", tables=STAMPED, enrolled=False)
        insert(a, "d", "2999-01-01 00:00:00")
        for host in (a, b):
            host.enrol()
        pull(b, a)
        assert b.held() == 0
        b.clock.ms = a.clock.ms
        b.write("UPDATE devices SET note = 'next'")
        settle(a, b)
        assert a.devices() == b.devices() == {"d": ("new", "next")}

    def test_a_write_after_enrolling_is_newer_even_if_the_clock_steps_back(
        self, make_hosts: MakeHosts
    ) -> None:
        """The host's own stamps never fall behind those it gave to rows that were there."""
        a, b = make_hosts("a", "b", tables=STAMPED, enrolled=False)
        insert(a, "d", START_MS)
        for host in (a, b):
            host.enrol()
        pull(b, a)
        a.clock.ms -= 3_600_000
        a.write("DELETE FROM devices")
        settle(a, b)
        assert a.devices() == b.devices() == {}

    def test_a_newer_row_revives_what_was_deleted_before(self, make_hosts: MakeHosts) -> None:
        """B's copy was written after A's deletion, and says so."""
        a, b = make_hosts("a", "b", tables=STAMPED, enrolled=False)
        for host in (a, b):
            insert(host, "old", START_MS - 60_000)
            insert(host, "new", START_MS - 60_000)
        a.enrol()
        a.write("DELETE FROM devices")
        b.clock.ms = a.clock.ms + 60_000
        b.write("UPDATE devices SET note = ? WHERE device_id = 'new'", b.clock.ms)
        b.enrol()
        settle(a, b)
        assert a.devices().keys() == b.devices().keys() == {"new"}


NOTE_EXCLUDED: dict[str, Key] = {
    "devices": {"key": ["device_id"], "columns": {"exclude": ["note"]}}
}


class TestExcludedColumns:
    """A column that the user keeps on each host."""

    def test_it_is_never_sent_nor_overwritten(self, make_hosts: MakeHosts) -> None:
        """Each host has its own values; rows born elsewhere come with the DEFAULT."""
        ddl = DEVICES.replace("note", "note DEFAULT 'local'")
        a, b = make_hosts("a", "b", ddl=ddl, tables=NOTE_EXCLUDED)
        insert(a, "d", "of a")
        settle(a, b)
        assert b.devices() == {"d": ("new", "local")}
        b.write("UPDATE devices SET note = 'of b'")
        a.write("UPDATE devices SET note = 'a again', status = 'blocked'")
        told = changes_in(a.replica.changes_since(Vector())[1])
        assert "note" not in {change.register for change in told}
        settle(a, b)
        assert a.devices() == {"d": ("blocked", "a again")}
        assert b.devices() == {"d": ("blocked", "of b")}
        assert a.conflicts() == b.conflicts() == []

    def test_a_write_to_it_alone_is_no_change(self, make_hosts: MakeHosts) -> None:
        """A heartbeat that stays local costs nobody anything."""
        (a,) = make_hosts("a", tables=NOTE_EXCLUDED)
        insert(a, "d")
        before = a.replica.vector()
        a.write("UPDATE devices SET note = 'tick'")
        assert a.replica.vector() == before

    def test_a_row_that_is_displaced_for_a_while_keeps_it(self, make_hosts: MakeHosts) -> None:
        """Rows that leave the table and return bring their local values along, NULL included."""
        ddl = (
            "CREATE TABLE devices (device_id TEXT PRIMARY KEY, status UNIQUE,"
            " note NOT NULL DEFAULT 'local', extra DEFAULT 7)"
        )
        tables = {"devices": {"columns": {"exclude": ["note", "extra"]}}}
        a, b = make_hosts("a", "b", ddl=ddl, tables=tables)
        a.write("INSERT INTO devices VALUES ('loser', 'wanted', 'of a', NULL)")
        b.clock.ms = a.clock.ms + 1_000
        b.write("INSERT INTO devices VALUES ('winner', 'wanted', 'of b', 8)")
        settle(a, b)
        assert a.held() == b.held() == 1
        b.clock.ms = a.clock.ms = b.clock.ms + 1_000
        b.write("UPDATE devices SET status = 'other' WHERE device_id = 'winner'")
        settle(a, b)
        local = "SELECT device_id, note, extra FROM devices ORDER BY 1"
        assert a.rows(local) == [("loser", "of a", None), ("winner", "local", 7)]
        assert b.rows(local) == [("loser", "local", 7), ("winner", "of b", 8)]

    def test_it_may_be_part_of_a_unique_expression(self, make_hosts: MakeHosts) -> None:
        """The trigger that looks for displaced rows knows it."""
        ddl = f"{DEVICES}; CREATE UNIQUE INDEX note_once ON devices (lower(note))"
        a, b = make_hosts("a", "b", ddl=ddl, tables=NOTE_EXCLUDED)
        insert(a, "d", "same")
        settle(a, b)
        a.write("INSERT OR REPLACE INTO devices (device_id, note) VALUES ('e', 'SAME')")
        settle(a, b)
        assert a.devices().keys() == b.devices().keys() == {"e"}

    def test_excluding_a_column_that_was_synced_is_like_dropping_it(
        self, make_hosts: MakeHosts
    ) -> None:
        """The values stay where they are, also those of a row that is displaced just then."""
        ddl = "CREATE TABLE devices (device_id TEXT PRIMARY KEY, status UNIQUE, note)"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": None})
        a.write("INSERT INTO devices VALUES ('loser', 'wanted', 'of a')")
        b.clock.ms = a.clock.ms + 1_000
        b.write("INSERT INTO devices VALUES ('winner', 'wanted', 'of b')")
        settle(a, b)
        (enrolled,) = a.enrol({"devices": {"columns": {"exclude": ["note"]}}})
        assert enrolled == Enrolled("devices", "changed", excluded=("note",))
        b.clock.ms = a.clock.ms = b.clock.ms + 1_000
        b.write("UPDATE devices SET status = 'other', note = 'newer' WHERE device_id = 'winner'")
        settle(a, b)
        assert a.devices() == {"loser": ("wanted", "of a"), "winner": ("other", "of b")}
        assert b.devices() == {"loser": ("wanted", "of a"), "winner": ("other", "newer")}

    def test_a_column_that_is_excluded_no_more_is_a_new_one(self, make_hosts: MakeHosts) -> None:
        """What was written elsewhere shows; local values give way, and are sent where none is."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "of a")
        insert(a, "e")
        settle(a, b)
        a.enrol(NOTE_EXCLUDED)
        a.write("UPDATE devices SET note = 'local'")
        b.clock.ms = a.clock.ms
        b.write("UPDATE devices SET note = 'meanwhile' WHERE device_id = 'd'")
        settle(a, b)
        (enrolled,) = a.enrol(DEVICES_KEY)
        assert (enrolled.state, enrolled.added) == ("changed", ("note",))
        settle(a, b)
        assert a.devices()["d"] == b.devices()["d"] == ("new", "meanwhile")
        assert a.devices() == b.devices()

    def test_columns_beyond_sixty_can_be_excluded(self, make_hosts: MakeHosts) -> None:
        """The bound is on what is synced."""
        names = [f"c{n}" for n in range(63)]
        ddl = f"CREATE TABLE t (a TEXT PRIMARY KEY, {', '.join(names)})"
        tables = {"t": {"columns": {"exclude": names[:3]}}}
        a, b = make_hosts("a", "b", ddl=ddl, tables=tables)
        a.write("INSERT INTO t (a, c0, c62) VALUES ('k', 1, 2)")
        settle(a, b)
        assert b.rows("SELECT c0, c62 FROM t") == [(None, 2)]

    def test_migrations_without_end_leave_room_for_columns(self, make_hosts: MakeHosts) -> None:
        """The number of a column that is gone is free for another."""
        a, b = make_hosts("a", "b", ddl="CREATE TABLE t (a TEXT PRIMARY KEY)", tables={"t": None})
        for number in range(70):
            for host in (a, b):
                host.write(f"ALTER TABLE t ADD COLUMN c{number}")
                host.enrol()
            a.write(f"INSERT INTO t (a, c{number}) VALUES ('{number}', {number})")
            pull(b, a)
            for host in (a, b):
                host.enrol({"t": {"columns": {"exclude": [f"c{number}"]}}})
                host.write(f"ALTER TABLE t DROP COLUMN c{number}")
                host.enrol({"t": None})
        assert b.rows("SELECT * FROM t") == a.rows("SELECT * FROM t")


class TestMigrations:
    """Columns come and go."""

    def test_an_added_column_is_synced_from_then_on(self, make_hosts: MakeHosts) -> None:
        """Enrol again names it."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        for host in (a, b):
            host.write("ALTER TABLE devices ADD COLUMN extra DEFAULT 7")
            assert host.enrol() == [Enrolled("devices", "changed", added=("extra",))]
        a.write("UPDATE devices SET extra = 8")
        settle(a, b)
        assert b.rows("SELECT device_id, extra FROM devices") == [("d", 8)]

    def test_what_was_written_to_a_column_before_enrolling_it_is_sent(
        self, make_hosts: MakeHosts
    ) -> None:
        """Also for a row that had died and been born again, whose death is remembered."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        insert(a, "e")
        a.write("DELETE FROM devices WHERE device_id = 'e'")
        insert(a, "e")
        settle(a, b)
        a.write("ALTER TABLE devices ADD COLUMN extra DEFAULT 7")
        a.write("UPDATE devices SET extra = 8")
        insert(a, "f")
        (enrolled,) = a.enrol()
        assert enrolled == Enrolled("devices", "changed", rows=2, added=("extra",))
        b.write("ALTER TABLE devices ADD COLUMN extra DEFAULT 7")
        b.enrol()
        settle(a, b)
        shown = [host.rows("SELECT device_id, extra FROM devices ORDER BY 1") for host in (a, b)]
        assert shown == [[("d", 8), ("e", 8), ("f", 7)]] * 2

    def test_a_real_write_to_an_added_column_beats_what_was_there(
        self, make_hosts: MakeHosts
    ) -> None:
        """A's migration filled the column; B's user wrote it."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        for host in (a, b):
            host.write("ALTER TABLE devices ADD COLUMN extra")
        a.write("UPDATE devices SET extra = 'filled'")
        b.enrol()
        b.clock.ms = a.clock.ms - 1_000
        b.write("UPDATE devices SET extra = 'written'")
        a.clock.ms += 1_000
        a.enrol()
        settle(a, b)
        for host in (a, b):
            assert host.rows("SELECT extra FROM devices") == [("written",)]

    def test_a_dropped_column_leaves_the_rest_in_step(self, make_hosts: MakeHosts) -> None:
        """A rebuilds its table without the column; B still has it, and keeps its values."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "kept by b")
        settle(a, b)
        rebuild(a, DEVICES.replace(",\n        note", ""), ["id", "device_id", "status"])
        (enrolled,) = a.enrol()
        assert (enrolled.state, enrolled.dropped) == ("changed", ("note",))
        a.write("UPDATE devices SET status = 'blocked'")
        a.write("INSERT INTO devices (device_id) VALUES ('e')")
        b.write("UPDATE devices SET note = 'newer'")
        settle(a, b)
        assert b.devices() == {"d": ("blocked", "newer"), "e": ("new", None)}
        assert a.rows("SELECT device_id, status FROM devices ORDER BY 1") == [
            ("d", "blocked"),
            ("e", "new"),
        ]

    def test_a_column_that_comes_back_is_a_new_one(self, make_hosts: MakeHosts) -> None:
        """Dropped and added again: what B wrote to it in the meantime was held and shows."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "old")
        settle(a, b)
        rebuild(a, DEVICES.replace(",\n        note", ""), ["id", "device_id", "status"])
        a.enrol()
        b.clock.ms = a.clock.ms
        b.write("UPDATE devices SET note = 'meanwhile'")
        pull(a, b)
        a.write("ALTER TABLE devices ADD COLUMN note")
        (enrolled,) = a.enrol()
        assert enrolled.added == ("note",)
        assert a.devices() == {"d": ("new", "meanwhile")}
        a.write("UPDATE devices SET note = 'again'")
        settle(a, b)
        assert a.devices() == b.devices() == {"d": ("new", "again")}

    def test_a_rebuilt_table_is_captured_again_after_enrolling(self, make_hosts: MakeHosts) -> None:
        """Dropping a table drops its triggers without a word; enrolling puts them back."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        before = {row[1:] for row in schema_of(a) if row[0] == "trigger"}
        rebuild(a, DEVICES, ["id", "device_id", "status", "note"])
        assert not [row for row in schema_of(a) if row[0] == "trigger"]
        (enrolled,) = a.enrol()
        assert enrolled.state == "changed"
        assert {row[1:] for row in schema_of(a) if row[0] == "trigger"} == before
        a.write("UPDATE devices SET status = 'blocked'")
        insert(a, "e")
        settle(a, b)
        assert b.devices() == a.devices() == {"d": ("blocked", None), "e": ("new", None)}

    def test_rows_added_while_a_table_was_rebuilt_are_synced(self, make_hosts: MakeHosts) -> None:
        """A migration and an impatient user insert rows before the triggers are back."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        ddl = f"{DEVICES}; INSERT INTO rebuilt (id, device_id) VALUES (77, 'migrated')"
        rebuild(a, ddl, ["id", "device_id", "status", "note"])
        insert(a, "impatient")
        a.enrol()
        settle(a, b)
        assert a.devices() == b.devices()
        assert b.devices().keys() == {"d", "migrated", "impatient"}

    def test_rows_removed_while_a_table_was_rebuilt_are_removed_elsewhere(
        self, make_hosts: MakeHosts
    ) -> None:
        """A migration leaves rows behind; they do not live on at other hosts, nor come back."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        insert(a, "e")
        settle(a, b)
        rebuild(a, DEVICES, ["id", "device_id", "status", "note"])
        a.write("DELETE FROM devices WHERE device_id = 'd'")
        a.enrol()
        settle(a, b)
        assert a.devices() == b.devices() == {"e": ("new", None)}

    @pytest.mark.parametrize("how", ["init", "verify --repair"])
    def test_triggers_that_went_with_the_former_table_come_back(
        self, make_hosts: MakeHosts, how: str
    ) -> None:
        """A migration keeps the former table under another name, and empties it later."""
        a, b = make_hosts("a", "b")
        for device in "def":
            insert(a, device)
        settle(a, b)
        a.writer.executescript(
            "BEGIN; ALTER TABLE devices RENAME TO devices_of_old;"
            f"{DEVICES}; INSERT INTO devices SELECT * FROM devices_of_old; COMMIT"
        )
        a.write("DELETE FROM devices_of_old WHERE device_id = 'd'")
        a.write("DELETE FROM devices WHERE device_id = 'e'")
        insert(a, "g")
        pull(a, b)
        with pytest.raises(SchemaChanged):
            pull(b, a)
        if how == "init":
            a.enrol()
        else:
            comparison.mend(a.replica, comparison.findings(a.replica))
        assert comparison.findings(a.replica) == []
        a.write("DELETE FROM devices_of_old")
        a.write("UPDATE devices SET status = 'blocked'")
        settle(a, b)
        assert a.devices() == b.devices()
        assert b.devices() == dict.fromkeys("dfg", ("blocked", None))

    def test_a_dropped_column_is_not_lost_to_hosts_behind(self, make_hosts: MakeHosts) -> None:
        """B drops a column of which it had A's values; C, who hears B first, still gets them."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "precious")
        pull(b, a)
        rebuild(b, DEVICES.replace(",\n        note", ""), ["id", "device_id", "status"])
        b.enrol()
        pull(c, b)
        pull(c, a)
        assert c.devices() == a.devices() == {"d": ("new", "precious")}

    def test_what_was_missed_is_counted(self, make_hosts: MakeHosts) -> None:
        """Rows born and rows that died while nobody watched."""
        (a,) = make_hosts("a")
        for device in ("d", "e", "f"):
            insert(a, device)
        rebuild(a, DEVICES, ["id", "device_id", "status", "note"])
        a.write("DELETE FROM devices WHERE device_id = 'd'")
        insert(a, "new")
        assert a.enrol() == [Enrolled("devices", "changed", rows=1, deleted=1)]
        assert a.enrol() == [Enrolled("devices", "unchanged")]

    def test_a_host_of_its_own_values_gets_them_back_from_others(
        self, make_hosts: MakeHosts
    ) -> None:
        """B drops a column of which only A has B's values; C, behind B, gets them all the same."""
        a, b, c = make_hosts("a", "b", "c")
        insert(b, "d", "of b")
        pull(a, b)
        origin = b.identity
        rebuild(b, DEVICES.replace(",\n        note", ""), ["id", "device_id", "status"])
        b.enrol()
        assert b.identity != origin
        pull(c, b)
        pull(c, a)
        assert c.devices() == a.devices() == {"d": ("new", "of b")}

    @pytest.mark.parametrize("excluded", [False, True])
    def test_what_a_disclaimed_value_had_overwritten_comes_back(
        self, make_hosts: MakeHosts, *, excluded: bool
    ) -> None:
        """B alone had the newer value; the older one, which A still has, is right then."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "of a")
        pull(b, a)
        b.write("UPDATE devices SET note = 'of b'")
        b.replica.fold()
        drop_note(b, excluded=excluded)
        pull(a, b)
        take_note_in(b)
        settle(a, b)
        assert a.devices() == b.devices() == {"d": ("new", "of a")}

    def test_an_own_write_comes_back_that_a_disclaimed_value_had_overwritten(
        self, make_hosts: MakeHosts
    ) -> None:
        """B owns none of the values that went; but C still has B's, and A's is nowhere."""
        a, b, c = make_hosts("a", "b", "c")
        insert(c, "d")
        settle(a, b, c)
        b.clock.ms = c.clock.ms
        b.write("UPDATE devices SET note = 'of b'")
        pull(c, b)
        pull(a, b)
        a.clock.ms = b.clock.ms
        a.write("UPDATE devices SET note = 'of a'")
        pull(b, a)
        for host in (a, b):
            drop_note(host)
            take_note_in(host)
        settle(a, b, c)
        assert a.devices() == b.devices() == c.devices() == {"d": ("new", "of b")}

    def test_columns_of_several_tables_that_go_at_once_take_one_new_origin(
        self, make_hosts: MakeHosts
    ) -> None:
        """An origin is remembered everywhere and for ever."""
        ddl = "CREATE TABLE s (k TEXT PRIMARY KEY, v); CREATE TABLE t (k TEXT PRIMARY KEY, v)"
        (a,) = make_hosts("a", ddl=ddl, tables={"s": None, "t": None})
        for table in ("s", "t"):
            a.write(f"INSERT INTO {table} VALUES ('d', 1)")
        without: Key = {"columns": {"exclude": ["v"]}}
        a.enrol({"s": without, "t": without})
        assert a.rows("SELECT count(*) FROM syncd_origin") == [(2,)]

    def test_values_of_a_dropped_column_are_held_and_passed_on(self, make_hosts: MakeHosts) -> None:
        """B has them from A again, C from B alone, and B shows them if the column returns."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "of a")
        insert(b, "e", "of b")
        settle(a, b)
        rebuild(b, DEVICES.replace(",\n        note", ""), ["id", "device_id", "status"])
        b.enrol()
        pull(b, a)
        assert b.held() == 2
        assert b.replica.vector().covers(a.replica.vector())
        pull(c, b)
        assert c.devices() == a.devices()
        b.write("ALTER TABLE devices ADD COLUMN note")
        b.enrol()
        assert (b.devices(), b.held()) == (a.devices(), 0)

    def test_dropping_a_column_that_nobody_wrote_changes_no_identity(
        self, make_hosts: MakeHosts
    ) -> None:
        """There is nothing to disclaim."""
        (a,) = make_hosts("a")
        a.write("ALTER TABLE devices ADD COLUMN extra")
        a.enrol()
        insert(a, "d")
        origin, vector = a.identity, a.replica.vector()
        a.write("DELETE FROM devices")
        rebuild(a, DEVICES, ["id", "device_id", "status", "note"])
        assert a.enrol()[0].dropped == ("extra",)
        assert a.identity == origin
        assert a.replica.vector().covers(vector)

    @pytest.mark.parametrize("seeded", [False, True])
    def test_a_table_made_anew_deletes_nothing_and_fills_again(
        self, make_hosts: MakeHosts, *, seeded: bool
    ) -> None:
        """Somebody dropped it and the app made it again, perhaps with a row it always makes."""
        a, b = make_hosts("a", "b")
        insert(a, "seed", "changed since")
        for device in ("d", "e"):
            insert(a, device, "of a")
            insert(b, f"{device} of b", "of b")
        settle(a, b)
        before = b.devices()
        a.write("DROP TABLE devices")
        a.write(DEVICES)
        if seeded:
            insert(a, "seed", "default")
        (enrolled,) = a.enrol()
        assert (enrolled.state, enrolled.rows, enrolled.deleted) == ("new", int(seeded), 0)
        (warning,) = enrolled.warnings
        assert f"{5 - seeded} of its 5 rows" in warning
        settle(a, b)
        assert a.devices() == b.devices() == before
        a.write("DELETE FROM devices")
        settle(a, b)
        assert b.devices() == {}

    def test_rows_that_wait_count_neither_as_gone_nor_as_present(
        self, make_hosts: MakeHosts
    ) -> None:
        """Two are displaced; of the three in the table one is left, then two."""
        ddl = "CREATE TABLE devices (device_id TEXT PRIMARY KEY, note UNIQUE)"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": None})
        for device in ("d", "e", "f"):
            insert(a, device, f"wanted {device}")
        b.clock.ms = a.clock.ms + 1_000
        for device in ("d", "e"):
            insert(b, f"winner {device}", f"wanted {device}")
        settle(a, b)
        assert a.held() == b.held() == 2
        for host, left in ((a, "f"), (b, "[fw]*e")):
            rebuild(host, ddl, ["device_id", "note"])
            host.write("DELETE FROM devices WHERE device_id NOT GLOB ? AND device_id <> 'f'", left)
        assert a.enrol()[0].state == "new"
        assert b.enrol() == [Enrolled("devices", "changed", deleted=1)]

    def test_a_dropped_table_is_not_lost_to_hosts_behind(self, make_hosts: MakeHosts) -> None:
        """B has no use for a table any more; what comes for it is held there, and passed on."""
        ddl = f"{DEVICES}; CREATE TABLE logs (line TEXT PRIMARY KEY)"
        both: dict[str, Key] = {**DEVICES_KEY, "logs": None}
        a, b, c = make_hosts("a", "b", "c", ddl=ddl, tables=both)
        a.write("INSERT INTO logs VALUES ('of a')")
        b.write("INSERT INTO logs VALUES ('of b')")
        settle(a, b)
        b.write("DROP TABLE logs")
        assert {e.table: e.state for e in b.enrol(DEVICES_KEY)} == {
            "devices": "unchanged",
            "logs": "gone",
        }
        insert(b, "d")
        pull(b, a)
        pull(c, b)
        assert c.rows("SELECT line FROM logs ORDER BY 1") == [("of a",), ("of b",)]
        assert c.devices() == {"d": ("new", None)}
        assert b.held() == 2

    def test_an_unlisted_table_is_kept_up_to_date(self, make_hosts: MakeHosts) -> None:
        """It is still enrolled, so its migrations are followed as well."""
        ddl = f"{DEVICES}; CREATE TABLE logs (line TEXT PRIMARY KEY)"
        both: dict[str, Key] = {**DEVICES_KEY, "logs": None}
        a, b = make_hosts("a", "b", ddl=ddl, tables=both)
        for host in (a, b):
            host.write("ALTER TABLE logs ADD COLUMN extra")
            enrolled = {one.table: one for one in host.enrol(DEVICES_KEY)}
            assert enrolled["logs"] == Enrolled("logs", "unlisted", added=("extra",))
        a.write("INSERT INTO logs VALUES ('one', 1)")
        pull(b, a)
        assert b.rows("SELECT * FROM logs") == [("one", 1)]

    def test_rows_that_got_other_numbers_are_still_referred_to(self, make_hosts: MakeHosts) -> None:
        """A rebuild numbers the parents anew, and their children with them."""
        ddl = (
            f"{DEVICES}; CREATE TABLE logs (line TEXT PRIMARY KEY, device REFERENCES devices (id))"
        )
        both: dict[str, Key] = {**DEVICES_KEY, "logs": None}
        a, b = make_hosts("a", "b", ddl=ddl, tables=both)
        insert(a, "d")
        insert(a, "e")
        a.write("INSERT INTO logs VALUES ('of e', 2)")
        settle(a, b)
        renumbered = DEVICES.replace("AUTOINCREMENT", "AUTOINCREMENT CHECK (id > 10)")
        a.writer.executescript(
            f"{renumbered.replace('TABLE devices', 'TABLE rebuilt')};"
            "INSERT INTO rebuilt SELECT id + 10, device_id, status, note FROM devices;"
            "DROP TABLE devices; ALTER TABLE rebuilt RENAME TO devices"
        )
        a.enrol()
        a.write("UPDATE logs SET device = 11")
        settle(a, b)
        found = "SELECT line, device_id FROM logs JOIN devices ON id = device"
        assert a.rows(found) == b.rows(found) == [("of e", "d")]

    def test_a_new_unique_index_is_watched_after_enrolling(self, make_hosts: MakeHosts) -> None:
        """A REPLACE through it displaces rows; their deaths must be captured."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "same")
        settle(a, b)
        for host in (a, b):
            host.write("CREATE UNIQUE INDEX note_once ON devices (note)")
            assert host.enrol()[0].state == "changed"
        a.write("INSERT OR REPLACE INTO devices (device_id, note) VALUES ('e', 'same')")
        settle(a, b)
        assert b.devices() == a.devices() == {"e": ("new", "same")}

    def test_a_dropped_trigger_is_put_back(self, make_hosts: MakeHosts) -> None:
        """Somebody tidied up the schema."""
        (a,) = make_hosts("a")
        before = schema_of(a)
        name = next(row[1] for row in before if row[0] == "trigger")
        a.write(f"DROP TRIGGER {name}")
        assert a.enrol()[0].state == "changed"
        assert {row[1] for row in schema_of(a)} == {row[1] for row in before}


AUDITED = """
    CREATE TABLE devices (device_id TEXT PRIMARY KEY, status, note);
    CREATE TABLE logs (line TEXT PRIMARY KEY);
    CREATE TABLE seen (line);
"""
INTO_LOGS = "INSERT INTO logs VALUES (hex(randomblob(8)));"
TRIGGERS: dict[str, tuple[str, set[str]]] = {
    "on insert": (f"CREATE TRIGGER audit AFTER INSERT ON devices BEGIN {INTO_LOGS} END", {"audit"}),
    "on delete": (f"CREATE TRIGGER audit AFTER DELETE ON devices BEGIN {INTO_LOGS} END", {"audit"}),
    "on update of a column": (
        f"CREATE TRIGGER audit AFTER UPDATE OF note ON devices BEGIN {INTO_LOGS} END",
        {"audit"},
    ),
    "on update of a column that stays local": (
        f"CREATE TRIGGER audit AFTER UPDATE OF status ON devices BEGIN {INTO_LOGS} END",
        set(),
    ),
    "through a table that is not synced": (
        "CREATE TRIGGER first AFTER INSERT ON devices BEGIN INSERT INTO seen VALUES (1); END;"
        f"CREATE TRIGGER audit AFTER INSERT ON seen BEGIN {INTO_LOGS} END",
        {"audit"},
    ),
    "into its own table": (
        "CREATE TRIGGER audit AFTER INSERT ON devices BEGIN UPDATE devices SET note = 1; END",
        set(),
    ),
    "into a table that is not synced": (
        "CREATE TRIGGER audit AFTER INSERT ON devices BEGIN INSERT INTO seen VALUES (1); END",
        set(),
    ),
    "on a table that is not synced": (
        f"CREATE TRIGGER audit AFTER INSERT ON seen BEGIN {INTO_LOGS} END",
        set(),
    ),
}


class TestTriggersOfTheUsers:
    """A trigger on one synced table that writes another fires where the change is born only."""

    @pytest.mark.parametrize(("ddl", "named"), TRIGGERS.values(), ids=TRIGGERS.keys())
    def test_those_that_cross_are_named(
        self, make_hosts: MakeHosts, ddl: str, named: set[str]
    ) -> None:
        """At the table that sets them off, at every enrolment."""
        tables: dict[str, Key] = {"devices": {"columns": {"exclude": ["status"]}}, "logs": None}
        (a,) = make_hosts("a", ddl=f"{AUDITED}; {ddl}", tables=tables, enrolled=False)
        for _ in range(2):
            devices, logs = a.enrol()
            assert {warning.split()[1] for warning in devices.warnings} == named
            assert all("writes logs" in warning for warning in devices.warnings)
            assert logs.warnings == ()

    def test_one_that_is_configured_is_not_named(self, make_hosts: MakeHosts) -> None:
        """Who has seen that it is right is not told again, and is told of any other."""
        ddl = (
            f"{AUDITED}; CREATE TRIGGER known AFTER INSERT ON devices BEGIN {INTO_LOGS} END;"
            f"CREATE TRIGGER new AFTER INSERT ON devices BEGIN {INTO_LOGS} END"
        )
        tables: dict[str, Key] = {"devices": {"triggers": ["known"]}, "logs": None}
        (a,) = make_hosts("a", ddl=ddl, tables=tables, enrolled=False)
        (warning,) = a.enrol()[0].warnings
        assert warning.startswith("trigger new writes logs")

    def test_a_chain_is_told_link_by_link(self, make_hosts: MakeHosts) -> None:
        """Each trigger is named once, at its own table."""
        ddl = (
            f"{AUDITED}; CREATE TABLE third (line TEXT PRIMARY KEY);"
            f"CREATE TRIGGER one AFTER INSERT ON devices BEGIN {INTO_LOGS} END;"
            "CREATE TRIGGER two AFTER INSERT ON logs BEGIN INSERT INTO third VALUES (NEW.line); END"
        )
        tables: dict[str, Key] = {"devices": None, "logs": None, "third": None}
        (a,) = make_hosts("a", ddl=ddl, tables=tables, enrolled=False)
        named = {e.table: [warning.split()[1] for warning in e.warnings] for e in a.enrol()}
        assert named == {"devices": ["one"], "logs": ["two"], "third": []}


TWO_TABLES = f"{DEVICES}; CREATE TABLE logs (line TEXT PRIMARY KEY, kind)"
BOTH: dict[str, Key] = {**DEVICES_KEY, "logs": None}
DRIFTS = {
    "column renamed": "ALTER TABLE devices RENAME COLUMN note TO remark",
    "column generated": """
        CREATE TABLE rebuilt (
            id INTEGER PRIMARY KEY, device_id TEXT NOT NULL UNIQUE, status TEXT, note AS (status)
        );
        INSERT INTO rebuilt (id, device_id, status) SELECT id, device_id, status FROM devices;
        DROP TABLE devices; ALTER TABLE rebuilt RENAME TO devices
    """,
    "number gone": """
        CREATE TABLE rebuilt (device_id TEXT PRIMARY KEY, status TEXT DEFAULT 'new', note);
        INSERT INTO rebuilt SELECT device_id, status, note FROM devices;
        DROP TABLE devices; ALTER TABLE rebuilt RENAME TO devices
    """,
    "table gone": "ALTER TABLE devices RENAME TO away",
    "table a view": "ALTER TABLE devices RENAME TO away; CREATE VIEW devices AS SELECT * FROM away",
}


ADDED = {
    "reference": "ALTER TABLE devices ADD COLUMN up TEXT REFERENCES devices (device_id)",
    "partial index": "ALTER TABLE devices ADD COLUMN gone;"
    " CREATE UNIQUE INDEX present ON devices (note) WHERE gone IS NULL",
    "generated column": "ALTER TABLE devices ADD COLUMN more;"
    " ALTER TABLE devices ADD COLUMN made AS (note || more)",
}


class TestBetweenMigrationAndInit:
    """The daemon runs on while an app migrates; `syncd init` comes later."""

    @pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS.keys())
    def test_receiving_goes_on_and_sending_says_what_to_do(
        self, make_hosts: MakeHosts, drift: str
    ) -> None:
        """What comes for the table is held; what cannot be read is not vouched for."""
        a, b = make_hosts("a", "b", ddl=TWO_TABLES, tables=BOTH)
        insert(a, "d", "before")
        settle(a, b)
        a.writer.executescript(drift)
        b.write("INSERT INTO logs VALUES ('of b', 1)")
        b.write("UPDATE devices SET status = 'blocked'")
        a.write("INSERT INTO logs VALUES ('of a', 1)")
        pull(a, b)
        assert a.rows("SELECT line FROM logs ORDER BY 1") == [("of a",), ("of b",)]
        assert a.held() == 1
        assert a.replica.status().adrift.keys() == {"devices"}
        with pytest.raises(SchemaChanged, match="devices") as refusal:
            pull(b, a)
        assert "syncd init" in str(refusal.value.hint)
        with pytest.raises(SchemaChanged):
            a.replica.frames_since(Vector())

    @pytest.mark.parametrize("drift", [DRIFTS["column renamed"], DRIFTS["number gone"]])
    def test_init_makes_up_for_it(self, make_hosts: MakeHosts, drift: str) -> None:
        """What was held shows, and what was written meanwhile is sent."""
        a, b = make_hosts("a", "b", ddl=TWO_TABLES, tables=BOTH)
        insert(a, "d", "before")
        insert(a, "e")
        settle(a, b)
        a.writer.executescript(drift)
        a.write("DELETE FROM devices WHERE device_id = 'e'")
        a.write("INSERT INTO devices (device_id) VALUES ('f')")
        b.write("UPDATE devices SET status = 'blocked'")
        pull(a, b)
        a.enrol()
        assert a.replica.status().adrift == {}
        settle(a, b)
        states = "SELECT device_id, status FROM devices ORDER BY 1"
        assert a.rows(states) == b.rows(states) == [("d", "blocked"), ("f", "new")]

    def test_a_table_made_anew_is_not_sent_as_if_it_had_been_watched(
        self, make_hosts: MakeHosts
    ) -> None:
        """Its columns are the same, but values may stand there that no change is known for."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "before")
        settle(a, b)
        rebuild(a, DEVICES, ["id", "device_id", "status", "note"])
        a.write("UPDATE devices SET note = 'unseen'")
        assert a.replica.status().adrift == {"devices": ()}
        with pytest.raises(SchemaChanged, match="devices") as refusal:
            a.replica.frames_since(Vector())
        assert "syncd init" in str(refusal.value.hint)
        insert(b, "e")
        pull(a, b)
        assert a.devices()["e"] == ("new", None)
        a.enrol()
        assert a.replica.status().adrift == {}
        insert(a, "f")
        settle(a, b)
        assert b.devices().keys() == {"d", "e", "f"}

    @pytest.mark.parametrize("added", ADDED.values(), ids=ADDED.keys())
    def test_what_is_demanded_of_a_new_column_is_met_already(
        self, make_hosts: MakeHosts, added: str
    ) -> None:
        """Rows wait that might show, a write waits for the fold, and more comes."""
        ddl = DEVICES.replace("note", "note UNIQUE")
        a, b = make_hosts("a", "b", ddl=ddl)
        insert(a, "d", "wanted")
        b.clock.ms += 1_000
        insert(b, "e", "wanted")
        settle(a, b)
        assert a.held() == 1
        a.writer.executescript(added)
        insert(a, "f")
        insert(b, "g")
        pull(a, b)
        assert a.devices().keys() == {"e", "f", "g"}
        insert(a, "h")
        a.enrol()
        b.write("DELETE FROM devices WHERE device_id = 'e'")
        settle(a, b)
        assert a.devices() == b.devices()
        assert a.devices()["d"] == ("new", "wanted")

    def test_a_child_of_a_table_that_is_gone_says_what_to_do(self, make_hosts: MakeHosts) -> None:
        """Whether it may show cannot be said, so its changes stay with the peer."""
        child = "CREATE TABLE logs (line TEXT PRIMARY KEY, d REFERENCES devices (device_id))"
        ddl = f"{DEVICES}; {child}"
        a, b = make_hosts("a", "b", ddl=ddl, tables=BOTH)
        insert(b, "d")
        a.write("DROP TABLE devices")
        b.write("INSERT INTO logs VALUES ('of b', 'd')")
        with pytest.raises(SchemaChanged) as refusal:
            pull(a, b)
        assert "syncd init" in str(refusal.value.hint)
        a.write(DEVICES)
        a.enrol()
        settle(a, b)
        assert a.rows("SELECT * FROM logs") == [("of b", "d")]

    def test_writes_captured_before_a_table_went_are_kept(self, make_hosts: MakeHosts) -> None:
        """They wait in the journal of a table that is renamed away and comes back."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "before")
        a.write("ALTER TABLE devices RENAME TO away")
        a.replica.fold()
        a.write("INSERT INTO away (device_id) VALUES ('e')")
        a.write("ALTER TABLE away RENAME TO devices")
        settle(a, b)
        assert b.devices() == {"d": ("new", "before"), "e": ("new", None)}


REFUSED: dict[str, tuple[str, Key]] = {
    "no table": ("", None),
    "no key": ("CREATE TABLE t (a TEXT NOT NULL, b)", None),
    "bare integer": ("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", None),
    "bare integer, counted": ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a)", None),
    "bare integer, without rowid": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a) WITHOUT ROWID",
        None,
    ),
    "virtual table": ("CREATE VIRTUAL TABLE t USING fts5(a)", ["a"]),
    "view": ("CREATE TABLE u (a TEXT PRIMARY KEY); CREATE VIEW t AS SELECT * FROM u", ["a"]),
    "unknown column": ("CREATE TABLE t (a TEXT PRIMARY KEY)", ["nobody"]),
    "nullable key": ("CREATE TABLE t (a TEXT UNIQUE)", ["a"]),
    "half nullable key": ("CREATE TABLE t (a TEXT NOT NULL, b TEXT, UNIQUE (a, b))", ["a", "b"]),
    "not unique": ("CREATE TABLE t (a TEXT NOT NULL, b)", ["a"]),
    "unique only with another": (
        "CREATE TABLE t (a TEXT NOT NULL, b TEXT NOT NULL, UNIQUE (a, b))",
        ["a"],
    ),
    "unique in part": (
        "CREATE TABLE t (a TEXT NOT NULL, b); CREATE UNIQUE INDEX i ON t (a) WHERE b > 0",
        ["a"],
    ),
    "unique as expression": (
        "CREATE TABLE t (a TEXT NOT NULL, b); CREATE UNIQUE INDEX i ON t (lower(a))",
        ["a"],
    ),
    "nocase key": ("CREATE TABLE t (a TEXT NOT NULL COLLATE NOCASE UNIQUE, b)", ["a"]),
    "nocase primary key": ("CREATE TABLE t (a TEXT COLLATE NOCASE PRIMARY KEY, b)", None),
    "nocase index": (
        "CREATE TABLE t (a TEXT NOT NULL, b); CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE)",
        ["a"],
    ),
    "half nocase key": (
        "CREATE TABLE t (a TEXT NOT NULL, b TEXT NOT NULL COLLATE NOCASE, UNIQUE (a, b))",
        ["a", "b"],
    ),
    "nocase column under a binary index": (
        "CREATE TABLE t (a TEXT NOT NULL COLLATE NOCASE, b);"
        "CREATE UNIQUE INDEX i ON t (a COLLATE BINARY)",
        ["a"],
    ),
    "generated key": (
        "CREATE TABLE t (a TEXT, g TEXT NOT NULL AS (a || '!') STORED UNIQUE)",
        ["g"],
    ),
    "a key that is a number every host mints": (
        "CREATE TABLE t (device INTEGER NOT NULL UNIQUE REFERENCES devices (id))",
        ["device"],
    ),
    "a number every host mints that refers": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY REFERENCES devices (id), a TEXT NOT NULL UNIQUE)",
        ["a"],
    ),
    "a number of a log that refers": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY REFERENCES devices (id), a)",
        "generated",
    ),
    "a number that refers to a table that stays": (
        "CREATE TABLE s (a INTEGER PRIMARY KEY);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY REFERENCES s (a), b TEXT NOT NULL UNIQUE)",
        ["b"],
    ),
    "a generated reference": (
        "CREATE TABLE t (a TEXT PRIMARY KEY, kind, number INTEGER,"
        " device INTEGER AS (CASE kind WHEN 'device' THEN number END) REFERENCES devices (id))",
        None,
    ),
    "identities for rows without a number": ("CREATE TABLE t (a TEXT)", "generated"),
    "excluded column that is not there": (
        "CREATE TABLE t (a TEXT PRIMARY KEY)",
        {"columns": {"exclude": ["nobody"]}},
    ),
    "excluded key": (
        "CREATE TABLE t (a TEXT PRIMARY KEY, b)",
        {"columns": {"exclude": ["a"]}},
    ),
    "excluded column without default": (
        "CREATE TABLE t (a TEXT PRIMARY KEY, b NOT NULL)",
        {"columns": {"exclude": ["b"]}},
    ),
    "stamps from a column that is not there": (
        "CREATE TABLE t (a TEXT PRIMARY KEY)",
        {"stamp_from": "updated_at"},
    ),
    "too many columns": (
        f"CREATE TABLE t (a TEXT PRIMARY KEY, {', '.join(f'c{n}' for n in range(61))})",
        None,
    ),
}


class TestRefusals:
    """A table that cannot be synced safely is refused, and nothing is left behind."""

    @pytest.mark.parametrize(("ddl", "key"), REFUSED.values(), ids=REFUSED.keys())
    def test_a_refusal_leaves_the_schema_as_it_was(
        self, make_hosts: MakeHosts, ddl: str, key: list[str] | str | None
    ) -> None:
        """The other table of the configuration is not enrolled either."""
        tables: dict[str, Key] = {**DEVICES_KEY, "t": key}
        (a,) = make_hosts("a", ddl=f"{DEVICES}; {ddl}", tables=tables, enrolled=False)
        before = schema_of(a)
        with pytest.raises(SchemaError) as refusal:
            a.enrol()
        assert all(problem.startswith("tables.t") for problem in refusal.value.problems)
        assert schema_of(a) == before
        with pytest.raises(NotEnrolled):
            a.replica.vector()

    @pytest.mark.parametrize(("ddl", "key"), REFUSED.values(), ids=REFUSED.keys())
    def test_a_refusal_leaves_an_enrolled_file_as_it_was(
        self, make_hosts: MakeHosts, ddl: str, key: list[str] | str | None
    ) -> None:
        """A deployment adds a table that is refused; what was synced is synced on."""
        a, b = make_hosts("a", "b")
        a.writer.executescript(ddl)
        before = schema_of(a)
        with pytest.raises(SchemaError):
            a.enrol({**DEVICES_KEY, "t": key})
        assert schema_of(a) == before
        insert(a, "d")
        pull(b, a)
        assert b.devices() == a.devices()

    def test_all_problems_are_reported_at_once(self, make_hosts: MakeHosts) -> None:
        """Whoever mends a configuration wants to mend it in one go."""
        ddl = f"{DEVICES}; CREATE TABLE t (a TEXT, b); CREATE VIEW v AS SELECT 1"
        tables: dict[str, Key] = {
            "devices": None,
            "t": ["a", "b"],
            "u": ["x"],
            "v": ["y"],
        }
        (a,) = make_hosts("a", ddl=ddl, tables=tables, enrolled=False)
        with pytest.raises(SchemaError) as refusal:
            a.enrol()
        problems = refusal.value.problems
        for named in ("tables.devices", "tables.t.key", "'a'", "'b'", "tables.u", "tables.v"):
            assert any(named in problem for problem in problems), named
        assert len(problems) >= 5

    def test_a_bare_integer_key_names_both_ways_out(self, make_hosts: MakeHosts) -> None:
        """It is the first thing that users will meet."""
        (a,) = make_hosts("a", tables={"devices": None}, enrolled=False)
        with pytest.raises(SchemaError, match=r"key: \[columns\].*key: generated"):
            a.enrol()

    @pytest.mark.parametrize("key", [["status"], ["device_id", "status"], None])
    def test_the_key_of_an_enrolled_table_cannot_change(
        self, make_hosts: MakeHosts, key: list[str] | str | None
    ) -> None:
        """Everything that is stamped is stamped under the old key."""
        ddl = (
            "CREATE TABLE devices (device_id TEXT NOT NULL UNIQUE, status TEXT NOT NULL UNIQUE,"
            " note, UNIQUE (device_id, status), PRIMARY KEY (status, device_id))"
        )
        (a,) = make_hosts("a", ddl=ddl)
        before = schema_of(a)
        with pytest.raises(SchemaError, match="cannot change"):
            a.enrol({"devices": key})
        assert schema_of(a) == before

    def test_a_table_with_sixty_columns_is_synced(self, make_hosts: MakeHosts) -> None:
        """The bound is what a mask can hold, and not one less."""
        names = [f"c{n}" for n in range(60)]
        ddl = f"CREATE TABLE t (a TEXT PRIMARY KEY, {', '.join(names)})"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"t": None})
        a.write("INSERT INTO t (a, c0, c59) VALUES ('k', 1, 2)")
        settle(a, b)
        a.write("UPDATE t SET c58 = 3, c59 = 4")
        settle(a, b)
        assert b.rows("SELECT * FROM t") == a.rows("SELECT * FROM t")
        a.write("UPDATE t SET " + ", ".join(f"{name} = 5" for name in names))
        settle(a, b)
        assert b.rows("SELECT * FROM t") == [("k", *[5] * 60)]
        told = changes_in(b.replica.changes_since(Vector())[1])
        assert len({change.register for change in told}) == 61

    def test_a_reader_beside_an_enrolment_sees_all_or_nothing(self, make_hosts: MakeHosts) -> None:
        """A crash or a refusal in the middle undoes everything: it is one transaction."""
        ddl = f"{DEVICES}; CREATE TABLE logs (line TEXT PRIMARY KEY)"
        both: dict[str, Key] = {**DEVICES_KEY, "logs": None}
        (a,) = make_hosts("a", ddl=ddl, tables=both, enrolled=False)
        other = sqlite3.connect(a.path)
        count = "SELECT count(*) FROM sqlite_schema"
        before = other.execute(count).fetchone()
        seen = set()
        raw = a.replica._database._connection()
        raw.set_trace_callback(lambda _: seen.add(other.execute(count).fetchone()))
        a.enrol()
        raw.set_trace_callback(None)
        after = other.execute(count).fetchone()
        other.close()
        assert before != after
        assert seen <= {before, after}


@pytest.mark.parametrize("detail", ["PRIMARY KEY) WITHOUT ROWID", "PRIMARY KEY DESC)"])
def test_an_integer_key_that_is_no_rowid_is_a_value_like_others(
    make_hosts: MakeHosts, detail: str
) -> None:
    """Only the alias of a rowid is minted by each host."""
    ddl = f"CREATE TABLE t (name TEXT NOT NULL UNIQUE, id INTEGER {detail}"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"t": ["name"]})
    a.write("INSERT INTO t (name, id) VALUES ('seven', 7)")
    settle(a, b)
    assert b.rows("SELECT name, id FROM t") == [("seven", 7)]


def test_tables_beside_a_synced_one_are_warned_of(make_hosts: MakeHosts) -> None:
    """What refers to it, and what it refers to, once; not what is synced as well, nor itself."""
    ddl = """
        CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
        CREATE TABLE devices (
            id TEXT PRIMARY KEY, owner REFERENCES owners (name), first REFERENCES devices (id)
        );
        CREATE TABLE sessions (
            token TEXT NOT NULL UNIQUE, device REFERENCES devices (id),
            other REFERENCES devices (id)
        );
    """
    tables: dict[str, Key] = {"devices": None}
    (a,) = make_hosts("a", ddl=ddl, tables=tables, enrolled=False)
    (devices,) = a.enrol()
    assert [text.split(",")[0] for text in devices.warnings] == [
        "(owner) refers to owners",
        "sessions refers to it and is not synced: its rows stay when a merge takes their parent"
        " away",
    ]
    enrolled = a.enrol({"owners": ["name"], "devices": None, "sessions": ["token"]})
    assert not any(one.warnings for one in enrolled)
