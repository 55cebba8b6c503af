"""Clocks that are wrong: what is held for it, released, and brought back to the present."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from engine.conftest import MakeHosts
from engine.hosts import DEVICES, DEVICES_KEY, Host, Key, ask, pull, settle
from syncd import disclaim
from syncd.clock import hlc_of_ms
from syncd.errors import NotReleasable, NotRepairable
from syncd.identity import sidecar_of

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS
DRIFT_MS = 300_000
LOGS = "CREATE TABLE logs (line TEXT PRIMARY KEY, more)"
BOTH: dict[str, Key] = {**DEVICES_KEY, "logs": None}


def insert(host: Host, device: str, note: object = None) -> None:
    """Insert a device."""
    host.write("INSERT INTO devices (device_id, note) VALUES (?, ?)", device, note)


def note(host: Host, value: object, device: str = "d") -> None:
    """Write a device's note."""
    host.write("UPDATE devices SET note = ? WHERE device_id = ?", value, device)


def pass_time(ms: int, *hosts: Host) -> None:
    """Let time pass for some hosts."""
    for host in hosts:
        host.clock.ms += ms
        host.replica.release()


def assert_same(*hosts: Host) -> None:
    """Check that hosts in step show the same and hold nothing."""
    settle(*hosts)
    first, *others = hosts
    for host in hosts:
        assert host.held() == 0
        assert host.rows("PRAGMA integrity_check") == [("ok",)]
    for other in others:
        assert other.devices() == first.devices()
    assert len({host.replica.vector() for host in hosts}) == 1
    for receiver, sender in itertools.permutations(hosts, 2):
        assert ask(receiver, sender)[1].sections == []


def test_a_third_host_logs_what_lost_to_a_change_that_its_sender_held(
    make_hosts: MakeHosts,
) -> None:
    """A sender that is behind has both values and neither lost there; both come in one pull."""
    ahead, behind, third = make_hosts("ahead", "behind", "third")
    behind.clock.ms -= YEAR_MS
    insert(behind, "d", "old")
    insert(ahead, "d", "new")
    pull(behind, ahead)
    assert behind.devices()["d"][1] == "old"
    pull(third, behind)
    assert third.devices()["d"][1] == "new"
    assert ("devices", "note", "old", "new") in third.conflicts()
    assert behind.conflicts() == []


class TestRelease:
    """`syncd held release` merges what is held for its stamp now."""

    def test_what_is_older_of_the_same_row_comes_along(self, make_hosts: MakeHosts) -> None:
        """A row that was deleted before it was written again does not die when that time comes."""
        ahead, behind = make_hosts("ahead", "behind")
        behind.clock.ms -= HOUR_MS
        insert(ahead, "d", "first")
        pull(behind, ahead)
        ahead.write("DELETE FROM devices")
        insert(ahead, "d", "again")
        insert(ahead, "other")
        pull(behind, ahead)
        (born,) = (h.id for h in behind.replica.held() if h.value == "again")
        assert born is not None
        assert behind.replica.release_held([born])
        assert behind.devices() == {"d": ("new", "again")}
        pass_time(2 * HOUR_MS, behind)
        pass_time(HOUR_MS, ahead)
        assert set(behind.devices()) == {"d", "other"}
        assert_same(behind, ahead)
        assert set(behind.devices()) == {"d", "other"}

    def test_a_released_change_shows_everywhere_and_stays_a_thing_of_now(
        self, make_hosts: MakeHosts
    ) -> None:
        """A wrote while a day ahead. Released on B it shows on C too, and later writes beat it,
        also once the day has come."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "first")
        settle(a, b, c)
        a.clock.ms += DAY_MS
        note(a, "of tomorrow")
        a.clock.ms -= DAY_MS
        for host in (b, c):
            pull(host, a)
        assert b.replica.release_host(None) == 1
        assert b.devices() == {"d": ("new", "of tomorrow")}
        assert b.held() == 0
        pull(c, b)
        assert c.devices() == b.devices()
        assert c.held() == 0
        pass_time(1_000, a, b, c)
        note(c, "of later")
        pull(b, c)
        assert b.devices() == {"d": ("new", "of later")}
        pass_time(2 * DAY_MS, a, b, c)
        for receiver, sender in itertools.permutations((b, c), 2):
            pull(receiver, sender)
            assert receiver.devices() == {"d": ("new", "of later")}

    def test_one_change_is_released_alone(self, make_hosts: MakeHosts) -> None:
        """By its id, with all its registers; its neighbours go on waiting."""
        a, b = make_hosts("a", "b")
        a.clock.ms += DAY_MS
        insert(a, "one", 1)
        insert(a, "two", 2)
        pull(b, a)
        ids = {one.key: one.id for one in b.replica.held()}
        assert len(b.replica.held()) == 6
        assert b.replica.release_held([ids["'two'"] or 0]) == 1
        assert b.devices() == {"two": ("new", 2)}
        assert {one.key for one in b.replica.held()} == {"'one'"}

    def test_a_host_is_released_by_its_name(self, make_hosts: MakeHosts) -> None:
        """And not what another host wrote."""
        a, b, c = make_hosts("a", "b", "c")
        for host in (a, c):
            host.clock.ms += DAY_MS
            insert(host, host.node)
            pull(b, host)
        assert b.replica.release_host("nobody") == 0
        assert b.replica.release_host("a") == 1
        assert b.devices().keys() == {"a"}
        assert {one.node for one in b.replica.held()} == {"c"}

    def test_the_order_of_what_is_released_stays(self, make_hosts: MakeHosts) -> None:
        """Births, deaths and values of one row end as their stamps say, whichever were held."""
        a, b = make_hosts("a", "b")
        a.clock.ms += DAY_MS
        for sql in (
            "INSERT INTO devices (device_id, note) VALUES ('d', 1), ('gone', 1)",
            "UPDATE devices SET note = 2 WHERE device_id = 'd'",
            "DELETE FROM devices WHERE device_id = 'gone'",
            "DELETE FROM devices WHERE device_id = 'd'",
            "INSERT INTO devices (device_id, note) VALUES ('d', 3)",
            "UPDATE devices SET status = 'blocked'",
        ):
            a.write(sql)
            pull(b, a)
        b.replica.release_host("a")
        assert b.devices() == a.devices() == {"d": ("blocked", 3)}
        assert b.held() == 0

    def test_what_waits_for_something_else_cannot_be_released(self, make_hosts: MakeHosts) -> None:
        """An unknown id, and a change of a column that is not there, say so and change nothing."""
        a, b = make_hosts("a", "b")
        a.write("ALTER TABLE devices ADD COLUMN extra")
        a.enrol()
        a.write("INSERT INTO devices (device_id, extra) VALUES ('d', 1)")
        pull(b, a)
        (waiting,) = b.replica.held()
        with pytest.raises(NotReleasable, match="waits for its table or column"):
            b.replica.release_held([waiting.id or 0])
        with pytest.raises(NotReleasable, match="no held change 99"):
            b.replica.release_held([99])
        assert b.replica.held() == [waiting]
        assert b.replica.release_host(None) == 0

    def test_a_change_of_an_unknown_table_goes_on_waiting_for_it(
        self, make_hosts: MakeHosts
    ) -> None:
        """Released, it is of now, and shows as soon as the table is there."""
        (a,) = make_hosts("a", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        (b,) = make_hosts("b")
        a.clock.ms += YEAR_MS
        a.write("INSERT INTO logs VALUES ('one', 1), ('two', 2)")
        pull(b, a)
        assert b.replica.release_host("a") == 2
        assert {one.reason for one in b.replica.held()} == {"unknown table"}
        b.writer.executescript(LOGS)
        b.enrol(BOTH)
        assert sorted(b.rows("SELECT * FROM logs")) == [("one", 1), ("two", 2)]

    def test_a_withdrawn_change_is_taken_in_no_more(self, make_hosts: MakeHosts) -> None:
        """C hears of the withdrawal before A, who does not know of it, sends it the original."""
        a, b, c = make_hosts("a", "b", "c")
        insert(b, "e")
        a.clock.ms += DAY_MS
        insert(a, "d", "of tomorrow")
        pull(b, a)
        old = ask(c, a)
        b.replica.release_host("a")
        pull(c, b, frame_entries=1, frames_max=1)
        assert c.replica.vector()[a.identity] == 0
        counts = c.replica.merge(*old)
        assert (counts.older, counts.held) == (1, 0)
        assert c.held() == 0
        pull(c, b)
        assert c.devices() == {"d": ("new", "of tomorrow"), "e": ("new", None)}

    def test_what_a_pull_has_not_brought_yet_is_not_withdrawn(self, make_hosts: MakeHosts) -> None:
        """The pull breaks off; the rest of it arrives after the release and is held, not lost."""
        a, b = make_hosts("a", "b")
        a.clock.ms += DAY_MS
        for number in range(4):
            insert(a, f"device {number}")
        pull(b, a, frame_entries=2, frames_max=1)
        assert b.replica.release_host("a") == 0
        pull(b, a, frame_entries=2)
        assert b.replica.release_host("a") == 4
        assert b.devices() == a.devices()


class TestTwoReasonsToWait:
    """A change of an unknown column may be in the future as well: the last reason decides."""

    def test_a_column_that_came_while_the_clock_was_behind(self, make_hosts: MakeHosts) -> None:
        a, b = make_hosts("a", "b")
        a.write("ALTER TABLE devices ADD COLUMN extra")
        a.enrol()
        a.write("INSERT INTO devices (device_id, extra) VALUES ('d', 'seen')")
        pull(b, a)
        assert [one.reason for one in b.replica.held()] == ["unknown column"]
        b.clock.ms -= HOUR_MS
        b.write("ALTER TABLE devices ADD COLUMN extra")
        b.enrol()
        assert [one.reason for one in b.replica.held()] == ["future"]
        pass_time(HOUR_MS, b)
        assert b.rows("SELECT device_id, extra FROM devices") == [("d", "seen")]
        assert b.held() == 0

    def test_a_time_that_comes_before_the_column(self, make_hosts: MakeHosts) -> None:
        a, b = make_hosts("a", "b")
        insert(a, "d")
        pull(b, a)
        a.write("ALTER TABLE devices ADD COLUMN extra")
        a.enrol()
        a.clock.ms += HOUR_MS
        a.write("UPDATE devices SET extra = 'seen'")
        pull(b, a)
        assert [one.reason for one in b.replica.held()] == ["future"]
        pass_time(HOUR_MS, b)
        assert [one.reason for one in b.replica.held()] == ["unknown column"]
        b.write("ALTER TABLE devices ADD COLUMN extra")
        b.enrol()
        assert b.rows("SELECT device_id, extra FROM devices") == [("d", "seen")]


def test_what_was_held_and_lost_by_the_time_of_a_snapshot_is_logged(make_hosts: MakeHosts) -> None:
    """B holds A's row until its time has come, and writes the same row before it looks again. A
    takes B to have known of it, and has forgotten deletions that B lacks."""
    a, b = make_hosts("a", "b")
    a.clock.ms += DAY_MS
    insert(a, "gone")
    insert(a, "d", "of a")
    pull(b, a)
    assert b.devices() == {}
    a.write("DELETE FROM devices WHERE device_id = 'gone'")
    a.replica.fold()
    for host in (a, b):
        host.clock.ms += 91 * DAY_MS
    assert a.replica.compact().deaths == 1
    insert(b, "d", "of b")
    pull(a, b)
    pull(b, a)
    assert a.devices() == b.devices() == {"d": ("new", "of b")}
    assert [*a.conflicts(), *b.conflicts()] == [("devices", "note", "of a", "of b")]


class TestClockRepair:
    """`syncd clock repair` on a host whose clock ran ahead and is right again."""

    def test_a_host_comes_back_from_the_future(self, make_hosts: MakeHosts) -> None:
        """A wrote for a day while its clock was a year ahead; repaired, all of it shows on B and C,
        and from then on the last writer wins again."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "first")
        insert(a, "e", "first")
        settle(a, b, c)
        a.clock.ms += YEAR_MS
        note(a, "of the future")
        insert(a, "f")
        a.write("DELETE FROM devices WHERE device_id = 'e'")
        a.clock.ms -= YEAR_MS
        note(a, "stamped ahead all the same")
        pull(b, a)
        pull(c, b)
        assert b.devices() == c.devices() == {"d": ("new", "first"), "e": ("new", "first")}
        assert a.replica.status().clock_ahead_ms > YEAR_MS - DAY_MS
        assert a.replica.repair_clock() == 3
        assert a.replica.status().clock_ahead_ms <= DRIFT_MS
        pass_time(1_000, a, b, c)
        assert_same(a, b, c)
        assert c.devices() == {"d": ("new", "stamped ahead all the same"), "f": ("new", None)}
        pass_time(DRIFT_MS, a, b, c)
        note(c, "later")
        pass_time(2 * YEAR_MS, a, b, c)
        assert_same(a, b, c)
        assert a.devices()["d"] == ("new", "later")

    def test_a_clock_that_is_right_or_still_wrong_needs_no_repair(
        self, make_hosts: MakeHosts
    ) -> None:
        """What holds other hosts' changes is not touched either."""
        a, b = make_hosts("a", "b")
        a.clock.ms += YEAR_MS
        insert(a, "d")
        assert a.replica.repair_clock() == 0
        pull(b, a)
        before = list(b.writer.iterdump())
        assert b.replica.repair_clock() == 0
        assert list(b.writer.iterdump()) == before

    def test_what_lost_to_the_future_does_not_win_elsewhere(self, make_hosts: MakeHosts) -> None:
        """B's write lost on A to one of the future, and A told C that it has it; C never saw it.

        After the repair A's value must beat it on B too, though B's clock is a little ahead.
        """
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "first")
        settle(a, b, c)
        a.clock.ms += YEAR_MS
        note(a, "of the future")
        b.clock.ms += DRIFT_MS - 10_000
        note(b, "of b")
        pull(a, b)
        a.clock.ms -= YEAR_MS
        pull(c, a)
        pull(b, a)
        assert a.replica.repair_clock() == 1
        pass_time(1_000, a, b, c)
        assert_same(a, b, c)
        assert b.devices() == {"d": ("new", "of the future")}

    def test_a_second_host_that_followed_writes_anew_what_it_had_merged(
        self, make_hosts: MakeHosts
    ) -> None:
        """D's clock was ahead too: it merged A's write, which beat C's there, and said that it has
        C's. When A is repaired, D and E, who believed it, must not be left without C's write."""
        a, c, d, e = hosts = make_hosts("a", "c", "d", "e")
        insert(a, "x", "first")
        settle(*hosts)
        for host in (a, d):
            host.clock.ms += YEAR_MS
        a.write("UPDATE devices SET note = 'of the future'")
        pull(d, a)
        a.clock.ms -= YEAR_MS
        a.replica.repair_clock()
        pass_time(DRIFT_MS + 1_000, a, c, d, e)
        c.write("UPDATE devices SET note = 'newer than the repair'")
        pull(d, c)
        pull(e, d)
        d.clock.ms -= YEAR_MS
        settle(*hosts)
        d.replica.repair_clock()
        pass_time(1_000, *hosts)
        assert_same(*hosts)

    def test_what_was_merged_of_withdrawn_changes_is_written_anew(
        self, make_hosts: MakeHosts
    ) -> None:
        """D merged what is withdrawn now, and is never repaired itself. Once the time comes at
        which it lives, its value must be on all hosts or on none."""
        a, b, d = hosts = make_hosts("a", "b", "d")
        insert(a, "x", "first")
        settle(*hosts)
        for host in (a, d):
            host.clock.ms += YEAR_MS
        a.write("UPDATE devices SET note = 'of the future'")
        a.write("UPDATE devices SET status = 'of the future'")
        pull(d, a)
        a.clock.ms -= YEAR_MS
        a.replica.repair_clock()
        pass_time(DRIFT_MS + 1_000, a, b)
        b.write("UPDATE devices SET note = 'newer than the repair'")
        settle(*hosts)
        assert a.devices() == b.devices()
        pass_time(2 * YEAR_MS, *hosts)
        assert_same(*hosts)

    def test_rows_written_anew_are_settled_at_once(self, make_hosts: MakeHosts) -> None:
        """D's own row has the value that A's wanted. D hears no more than that A's is withdrawn:
        written anew, A's row is the newer."""
        a, d = make_hosts("a", "d", ddl=DEVICES.replace("note", "note UNIQUE"))
        for host in (a, d):
            host.clock.ms += YEAR_MS
        insert(a, "of a", "same")
        d.clock.ms += HOUR_MS
        insert(d, "of d", "same")
        pull(d, a)
        assert d.devices().keys() == {"of d"}
        a.clock.ms -= YEAR_MS
        a.replica.repair_clock()
        header, frame = ask(d, a)
        nothing = msgspec.structs.replace(frame, sections=[], position=frame.after, claim=None)
        d.replica.merge(header, nothing)
        assert d.devices().keys() == {"of a"}

    def test_a_clock_stays_above_what_could_not_be_withdrawn(self, make_hosts: MakeHosts) -> None:
        """D has half of what A sends, from the future, when D's clock is set right and A is said to
        be gone for good. The half stays under its stamps, so a write of D's must still be newer
        than they are."""
        a, d = make_hosts("a", "d")
        for host in (a, d):
            host.clock.ms += YEAR_MS
        for number in range(4):
            insert(a, f"device {number}")
        pull(d, a, frame_entries=2, frames_max=1)
        d.clock.ms -= YEAR_MS
        with pytest.raises(NotRepairable):
            d.replica.repair_clock()
        d.replica.peers.forget("a")
        d.replica.repair_clock()
        note(d, "of d", "device 0")
        settle(a, d)
        assert a.devices()["device 0"] == d.devices()["device 0"] == ("new", "of d")

    def test_unique_values_are_settled_by_the_new_stamps(self, make_hosts: MakeHosts) -> None:
        """A row of the future and one of now want one value; all hosts agree who shows."""
        ddl = DEVICES.replace("note", "note UNIQUE")
        a, b = make_hosts("a", "b", ddl=ddl)
        a.clock.ms += YEAR_MS
        insert(a, "of the future", "same")
        a.clock.ms -= YEAR_MS
        insert(b, "of now", "same")
        pull(b, a)
        assert b.devices().keys() == {"of now"}
        a.replica.repair_clock()
        pass_time(1_000, a, b)
        settle(a, b)
        assert a.devices() == b.devices() == {"of the future": ("new", "same")}
        pass_time(DRIFT_MS, a, b)
        b.write("DELETE FROM devices")
        settle(a, b)
        assert a.devices() == b.devices() == {"of now": ("new", "same")}

    def test_the_order_within_a_row_stays(self, make_hosts: MakeHosts) -> None:
        """A death and a later birth, both of the future, are still in that order; a register of
        now keeps its stamp, and loses to a newer write of another host."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "first")
        insert(a, "e", "first")
        settle(a, b)
        a.clock.ms += YEAR_MS
        a.write("DELETE FROM devices WHERE device_id = 'd'")
        insert(a, "d", "born again")
        a.write("UPDATE devices SET status = 'of the future' WHERE device_id = 'e'")
        a.clock.ms -= YEAR_MS
        pass_time(10_000, b)
        note(b, "newer", "e")
        a.replica.repair_clock()
        pass_time(20_000, a, b)
        assert_same(a, b)
        assert a.devices() == {"d": ("new", "born again"), "e": ("of the future", "newer")}

    def test_a_repaired_clock_goes_on_above_everything_merged(self, make_hosts: MakeHosts) -> None:
        """Else the next write on this host would show here and lose to an older one elsewhere."""
        a, b = make_hosts("a", "b")
        a.clock.ms += YEAR_MS
        insert(a, "d")
        a.clock.ms -= YEAR_MS
        a.replica.repair_clock()
        note(a, "next")
        (newest,) = a.rows("SELECT max(hlc) FROM syncd_changes_devices")
        a.replica.fold()
        (last,) = a.rows("SELECT max(hlc) FROM syncd_changes_devices")
        assert last > newest
        assert hlc_of_ms(a.clock.ms) < last[0] < hlc_of_ms(a.clock.ms + 2 * DRIFT_MS)
        pass_time(10_000, a, b)
        assert_same(a, b)
        assert b.devices() == {"d": ("new", "next")}

    def test_what_was_begun_to_be_read_is_read_to_its_end_first(
        self, make_hosts: MakeHosts
    ) -> None:
        """B's birth of a row, from the future as well, loses on A to a death, and the line goes
        dead. If the death got a stamp of now, the birth would be newer on C, and A, which takes it
        in no more, would lack the row for good."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "first")
        insert(a, "e", "first")
        settle(a, b, c)
        for host in (a, b):
            host.clock.ms += YEAR_MS
        b.write("DELETE FROM devices WHERE device_id = 'd'")
        insert(b, "d", "of b")
        note(b, "of b", "e")
        pull(c, b)
        pass_time(10, a)
        a.write("DELETE FROM devices WHERE device_id = 'd'")
        pull(a, b, frame_entries=1, frames_max=2)
        for host in (a, b):
            host.clock.ms -= YEAR_MS
        with pytest.raises(NotRepairable, match="not all has come yet of b;"):
            a.replica.repair_clock()
        pull(a, b)
        assert a.replica.repair_clock() == 2
        settle(a, b, c)
        pass_time(2 * YEAR_MS, a, b, c)
        assert_same(a, b, c)

    def test_a_frame_that_comes_once_more_neither_begins_nor_ends_a_pull(
        self, make_hosts: MakeHosts
    ) -> None:
        """One from the midst of a pull that has ended, and the last of one before another."""
        a, b = make_hosts("a", "b")
        a.clock.ms += YEAR_MS
        insert(a, "d")
        insert(b, "e")
        insert(b, "f")
        first, last = pull(a, b, frame_entries=1)
        a.replica.merge(*first)
        a.clock.ms -= YEAR_MS
        assert a.replica.repair_clock() == 1
        a.clock.ms += YEAR_MS
        note(a, "of the future")
        a.clock.ms -= YEAR_MS
        insert(b, "g")
        insert(b, "h")
        pull(a, b, frame_entries=1, frames_max=1)
        a.replica.merge(*last)
        with pytest.raises(NotRepairable):
            a.replica.repair_clock()

    def test_a_snapshot_is_read_to_its_end_first(self, make_hosts: MakeHosts) -> None:
        """It goes over positions that were read before."""
        a, b, c = make_hosts("a", "b", "c")
        insert(b, "e")
        insert(b, "f")
        settle(a, b, c)
        b.write("DELETE FROM devices WHERE device_id = 'e'")
        pull(c, b)
        pull(b, c)
        pass_time(91 * DAY_MS, b, c)
        pull(b, c)
        b.replica.compact()
        a.clock.ms = b.clock.ms + YEAR_MS
        insert(a, "d")
        a.clock.ms -= YEAR_MS
        pull(a, b, frame_entries=1, frames_max=1)
        assert a.replica.peers.progress(b.replica.origin())
        with pytest.raises(NotRepairable):
            a.replica.repair_clock()
        pull(a, b)
        assert a.replica.repair_clock() == 1

    @pytest.mark.parametrize("heard", ["at last", "of before"])
    def test_a_host_that_has_another_origin_by_now_need_not_end_what_it_began(
        self, make_hosts: MakeHosts, heard: str
    ) -> None:
        """B is set back to a backup while A pulls from it. That it has another origin A may have
        heard from C before."""
        a, b, c = make_hosts("a", "b", "c")
        insert(b, "e")
        insert(b, "f")
        b.replica.fold()
        under_way = ask(a, b, frame_entries=1)
        backup = b.content()
        b.overwrite(backup)
        b.replica.close()
        sidecar_of(b.path).unlink()
        b.replica = b.replica_of(DEVICES_KEY)
        if heard == "of before":
            insert(b, "g")
            pull(c, b)
            pull(a, c)
        a.replica.merge(*under_way)
        if heard == "of before":
            a.replica.peers.recognise("office", b.identity)
        settle(a, b, c)
        assert b.replica.status().renewed_ms is not None
        a.clock.ms += YEAR_MS
        insert(a, "d")
        a.clock.ms -= YEAR_MS
        assert a.replica.repair_clock() == 1

    def test_what_is_read_anew_is_read_to_its_end_first(self, make_hosts: MakeHosts) -> None:
        """As after a column was dropped, when the vector goes back."""
        a, b = make_hosts("a", "b")
        a.clock.ms += YEAR_MS
        insert(a, "d")
        insert(b, "e")
        pull(a, b)
        a.clock.ms -= YEAR_MS
        with a.replica.writing() as connection:
            disclaim.read_again(connection)
        with pytest.raises(NotRepairable):
            a.replica.repair_clock()
        pull(a, b)
        assert a.replica.repair_clock() == 1


class TestWrongClocksTogether:
    """Clocks that jump, releases and repairs on any host, rounds that break off."""

    @pytest.mark.parametrize("ddl", [DEVICES, DEVICES.replace("note", "note UNIQUE")])
    @pytest.mark.parametrize("seed", range(4))
    def test_hosts_agree_once_their_clocks_are_right(
        self, make_hosts: MakeHosts, ddl: str, seed: int
    ) -> None:
        """Whether they are repaired then, or the time comes at which they lived."""
        chance = random.Random(seed)
        hosts = make_hosts("a", "b", "c", ddl=ddl)
        for step in range(40):
            pass_time(chance.choice([1, 1_000, 60_000]), *hosts)
            _do_something(chance, hosts, step)
        right_ms = max(host.clock.ms for host in hosts)
        for host in hosts:
            host.clock.ms = right_ms
        if seed % 2:
            pass_time(3 * YEAR_MS, *hosts)
        settle(*hosts)
        for host in hosts:
            host.replica.repair_clock()
        pass_time(DRIFT_MS + 1_000, *hosts)
        settle(*hosts)
        pass_time(YEAR_MS, *hosts)
        assert_same(*hosts)


def _do_something(chance: random.Random, hosts: list[Host], step: int) -> None:
    host, other = chance.sample(hosts, 2)
    device = chance.choice("xyz")
    match chance.choice(["write"] * 5 + ["pull"] * 4 + ["clock", "release", "repair"]):
        case "write":
            sql = chance.choice(
                [
                    "INSERT OR IGNORE INTO devices (note, device_id) VALUES (?, ?)",
                    "UPDATE OR IGNORE devices SET note = ? WHERE device_id = ?",
                    "UPDATE devices SET status = ? WHERE device_id = ?",
                    "DELETE FROM devices WHERE ? IS NOT NULL AND device_id = ?",
                ]
            )
            host.write(sql, step % 4, device)
        case "pull":
            pull(host, other, frame_entries=2, frames_max=chance.choice([None, 1]))
        case "clock":
            host.clock.ms = other.clock.ms + chance.choice([0, -HOUR_MS, DAY_MS, YEAR_MS])
        case "release":
            host.replica.release_host(chance.choice([None, other.node]))
        case "repair":
            host.replica.repair_clock()
