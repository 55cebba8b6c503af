"""What cannot show yet is held, passed on all the same, and shows as soon as it can."""

from __future__ import annotations

from engine.conftest import MakeHosts
from engine.hosts import DEVICES, DEVICES_KEY, Host, Key, ask, changes_in, pull, settle
from syncd.clock import ms_of_hlc
from syncd.vector import Vector

HOUR_MS = 3_600_000
LOGS = "CREATE TABLE logs (line TEXT PRIMARY KEY, more)"
BOTH: dict[str, Key] = {**DEVICES_KEY, "logs": None}


def insert(host: Host, device: str, note: object = None) -> None:
    """Insert a device."""
    host.write("INSERT INTO devices (device_id, note) VALUES (?, ?)", device, note)


class TestFuture:
    """A clock that is ahead must not win for ever, nor stop those who refuse it."""

    def test_a_stamp_from_the_future_is_held_alone(self, make_hosts: MakeHosts) -> None:
        """The session goes on: everything else in the same frame shows."""
        a, b, c = make_hosts("a", "b", "c")
        insert(c, "fine")
        pull(a, c)
        a.clock.ms += HOUR_MS
        insert(a, "ahead")
        pull(b, a)
        assert b.devices().keys() == {"fine"}
        assert b.held() > 0
        assert b.replica.vector() == a.replica.vector()

    def test_a_value_from_the_future_leaves_the_present_one(self, make_hosts: MakeHosts) -> None:
        """Only the change that is ahead waits; the row shows what it did."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "present")
        pull(b, a)
        a.clock.ms += HOUR_MS
        a.write("UPDATE devices SET note = 'future'")
        a.write("UPDATE devices SET status = 'future'")
        pull(b, a)
        assert b.devices() == {"d": ("new", "present")}
        assert b.held() == 2

    def test_it_is_listed_with_what_shows_in_its_place(self, make_hosts: MakeHosts) -> None:
        """Both values, and whose they are; of a birth or a death, that it is one."""
        a, b = make_hosts("a", "b")
        insert(a, "gone")
        insert(a, "d", "present")
        pull(b, a)
        then_ms = a.clock.ms
        a.clock.ms += HOUR_MS
        a.write("UPDATE devices SET note = 'future'")
        insert(a, "e")
        a.write("DELETE FROM devices WHERE device_id = 'gone'")
        pull(b, a)
        present = ("'d'", "present", "a", then_ms)
        found = {
            (one.key, one.column, one.value): (
                *(one.winner_key, one.winner_value),
                *(one.winner_node, one.winner_time_ms),
            )
            for one in b.replica.held()
        }
        nothing = (None, None, None, None)
        assert found == {
            ("'gone'", "", "dead"): ("'gone'", "alive", "a", then_ms - 1),
            ("'d'", "note", "future"): present,
            ("'e'", "", "alive"): nothing,
            ("'e'", "status", "new"): nothing,
            ("'e'", "note", None): nothing,
        }

    def test_a_death_from_the_future_waits(self, make_hosts: MakeHosts) -> None:
        """A death is a change like any other."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        pull(b, a)
        a.clock.ms += HOUR_MS
        a.write("DELETE FROM devices")
        pull(b, a)
        assert b.devices() == {"d": ("new", None)}
        b.clock.ms += HOUR_MS
        b.replica.release()
        assert b.devices() == {}

    def test_a_stamp_within_the_drift_is_not_held(self, make_hosts: MakeHosts) -> None:
        """Clocks of five minutes' difference are in order."""
        a, b = make_hosts("a", "b")
        a.clock.ms += 299_000
        insert(a, "d")
        pull(b, a)
        assert b.devices() == {"d": ("new", None)}
        assert b.held() == 0

    def test_the_local_clock_is_not_dragged_along(self, make_hosts: MakeHosts) -> None:
        """After hearing from 2031 this host still writes under its own time."""
        a, b = make_hosts("a", "b")
        a.clock.ms += HOUR_MS
        insert(a, "ahead")
        pull(b, a)
        b.clock.ms += 10
        insert(b, "mine")
        stamps = [
            change.stamp.hlc
            for change in changes_in(b.replica.changes_since(Vector())[1])
            if change.stamp.origin == b.identity
        ]
        assert {ms_of_hlc(hlc) for hlc in stamps} == {b.clock.ms}

    def test_a_merged_stamp_moves_the_clock(self, make_hosts: MakeHosts) -> None:
        """A write after a merge is newer than what was merged, though its clock is behind."""
        a, b = make_hosts("a", "b")
        a.clock.ms += 60_000
        insert(a, "d", "from a")
        pull(b, a)
        b.write("UPDATE devices SET note = 'from b'")
        settle(a, b)
        assert a.devices() == b.devices() == {"d": ("new", "from b")}

    def test_a_held_change_shows_once_its_time_has_come(self, make_hosts: MakeHosts) -> None:
        """And takes its place among what was written meanwhile."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        pull(b, a)
        a.clock.ms += HOUR_MS
        a.write("UPDATE devices SET note = 'future'")
        a.write("UPDATE devices SET status = 'future'")
        pull(b, a)
        b.clock.ms += 2 * HOUR_MS
        b.write("UPDATE devices SET note = 'later still'")
        b.replica.release()
        assert b.devices() == {"d": ("future", "later still")}
        assert b.held() == 0
        a.clock.ms = b.clock.ms
        settle(a, b)
        assert a.devices() == b.devices()

    def test_a_death_and_a_birth_that_were_held_meet_a_row_of_several_changes(
        self, make_hosts: MakeHosts
    ) -> None:
        """Two changes own the row's columns when both come due; it is buried and born once."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        a.write("UPDATE devices SET note = 1")
        pull(b, a)
        a.clock.ms += HOUR_MS
        a.write("DELETE FROM devices")
        insert(a, "d", 2)
        pull(b, a)
        b.clock.ms += HOUR_MS
        b.replica.release()
        assert b.devices() == a.devices() == {"d": ("new", 2)}

    def test_a_held_change_is_passed_on(self, make_hosts: MakeHosts) -> None:
        """C, whose clock is right in the eyes of A, hears of A's change from B, who holds it."""
        a, b, c = make_hosts("a", "b", "c")
        a.clock.ms += HOUR_MS
        c.clock.ms += HOUR_MS
        insert(a, "d", 1)
        pull(b, a)
        pull(c, b)
        assert c.devices() == {"d": ("new", 1)}
        assert changes_in(ask(c, b)[1]) == set()

    def test_a_change_held_twice_is_held_once(self, make_hosts: MakeHosts) -> None:
        """It comes from two peers, and from each of them again."""
        a, b, c = make_hosts("a", "b", "c")
        a.clock.ms += HOUR_MS
        insert(a, "d", 1)
        pull(c, a)
        header, frame = ask(b, a)
        other = ask(b, c)
        for delivery in ((header, frame), other, (header, frame)):
            b.replica.merge(*delivery)
        assert b.held() == c.held() == 3


class TestUnknown:
    """Hosts are migrated one after the other."""

    def test_an_unknown_table_is_held_and_passed_on(self, make_hosts: MakeHosts) -> None:
        """A's table reaches C through B, which has never heard of it."""
        a, c = make_hosts("a", "c", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        (b,) = make_hosts("b")
        a.write("INSERT INTO logs VALUES ('one', 1), ('two', 2), ('gone', 3)")
        a.write("DELETE FROM logs WHERE line = 'gone'")
        insert(a, "d")
        pull(b, a)
        assert b.devices() == {"d": ("new", None)}
        assert b.held() > 0
        pull(c, b)
        assert sorted(c.rows("SELECT * FROM logs")) == [("one", 1), ("two", 2)]

    def test_later_changes_of_an_unknown_table_follow(self, make_hosts: MakeHosts) -> None:
        """Births, updates and deaths of the same rows, in rounds of their own and small frames."""
        a, c = make_hosts("a", "c", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        (b,) = make_hosts("b")
        for sql in (
            "INSERT INTO logs VALUES ('one', 1), ('two', 2), ('gone', 3)",
            "UPDATE logs SET more = 4",
            "DELETE FROM logs WHERE line = 'gone'",
            "INSERT OR REPLACE INTO logs VALUES ('gone', 5), ('one', NULL)",
            "UPDATE logs SET line = 'three' WHERE line = 'two'",
        ):
            a.write(sql)
            pull(b, a, frame_entries=2)
            pull(c, b, frame_entries=1)
            assert sorted(c.rows("SELECT * FROM logs")) == sorted(a.rows("SELECT * FROM logs"))

    def test_an_unknown_table_shows_once_it_is_enrolled(self, make_hosts: MakeHosts) -> None:
        """B gets the table later, and with it all it was sent before."""
        (a,) = make_hosts("a", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        (b,) = make_hosts("b")
        a.write("INSERT INTO logs VALUES ('one', 1), ('gone', 3)")
        pull(b, a)
        a.write("UPDATE logs SET more = 2")
        a.write("DELETE FROM logs WHERE line = 'gone'")
        pull(b, a)
        b.writer.executescript(LOGS)
        b.enrol(BOTH)
        assert b.rows("SELECT * FROM logs") == [("one", 2)]
        assert b.held() == 0
        b.write("UPDATE logs SET more = 3")
        settle(a, b)
        assert a.rows("SELECT * FROM logs") == b.rows("SELECT * FROM logs") == [("one", 3)]

    def test_the_reason_follows_the_schema_and_the_clock(self, make_hosts: MakeHosts) -> None:
        """B gets the table without a column of it: what came before and after waits for that."""

        def reasons(*values: object) -> set[str]:
            return {one.reason for one in b.replica.held() if one.value in values}

        (a,) = make_hosts("a", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        (b,) = make_hosts("b")
        a.write("INSERT INTO logs VALUES ('one', 1)")
        a.clock.ms += HOUR_MS
        a.write("INSERT INTO logs VALUES ('two', 2)")
        pull(b, a)
        assert reasons(1, 2) == {"unknown table"}
        b.writer.executescript("CREATE TABLE logs (line TEXT PRIMARY KEY)")
        b.enrol(BOTH)
        a.clock.ms -= HOUR_MS
        a.write("INSERT INTO logs VALUES ('three', 3)")
        pull(b, a)
        assert reasons(1) == {"unknown column"}
        assert reasons(2, 3) == {"future"}
        b.clock.ms += 2 * HOUR_MS
        b.replica.release()
        assert reasons(1, 2, 3) == {"unknown column"}
        b.writer.executescript("DROP TABLE logs")
        b.enrol(DEVICES_KEY)
        assert reasons(1, 2, 3) == {"unknown table"}

    def test_an_unknown_column_is_held_and_passed_on(self, make_hosts: MakeHosts) -> None:
        """The row shows without it on B, and with it on C."""
        a, b, c = make_hosts("a", "b", "c")
        for host in (a, c):
            host.write("ALTER TABLE devices ADD COLUMN extra")
            host.enrol()
        a.write("INSERT INTO devices (device_id, extra) VALUES ('d', 'from a')")
        pull(b, a)
        assert b.devices() == {"d": ("new", None)}
        assert b.held() == 1
        pull(c, b)
        assert c.rows("SELECT device_id, extra FROM devices") == [("d", "from a")]

    def test_an_unknown_column_shows_once_it_is_enrolled(self, make_hosts: MakeHosts) -> None:
        """Also for rows that died and were born again in between."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        insert(a, "gone")
        a.write("ALTER TABLE devices ADD COLUMN extra")
        a.enrol()
        a.write("UPDATE devices SET extra = 1")
        pull(b, a)
        a.write("DELETE FROM devices WHERE device_id = 'gone'")
        pull(b, a)
        b.clock.ms = a.clock.ms
        b.write("DELETE FROM devices WHERE device_id = 'd'")
        insert(b, "d")
        b.write("ALTER TABLE devices ADD COLUMN extra")
        b.enrol()
        settle(a, b)
        both = [host.rows("SELECT device_id, extra FROM devices") for host in (a, b)]
        assert both == [[("d", None)]] * 2
        assert b.held() == 0
