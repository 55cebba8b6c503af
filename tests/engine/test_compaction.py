"""Forgetting deaths: when, what becomes of hosts that lack them, and what survives it."""

from __future__ import annotations

import logging

import pytest

from engine.conftest import MakeHosts
from engine.hosts import (
    DAY_MS,
    DEVICES,
    Delivery,
    Host,
    ask,
    changes_in,
    pull,
    settle,
    small_frames,
)
from engine.model import Change
from syncd import compaction
from syncd.clock import ms_of_hlc
from syncd.errors import BundleGap
from syncd.vector import Vector

RETENTION_DAYS = 90


def insert(host: Host, *devices: str, status: str = "new") -> None:
    """Insert devices."""
    for device in devices:
        host.write("INSERT INTO devices (device_id, status) VALUES (?, ?)", device, status)


def delete(host: Host, *devices: str) -> None:
    """Delete devices."""
    for device in devices:
        assert host.write("DELETE FROM devices WHERE device_id = ?", device) == 1


def days_pass(days: int, *hosts: Host) -> None:
    """Let time pass for hosts; what they say to each other meanwhile is the test's business."""
    for host in hosts:
        host.clock.ms += days * DAY_MS


def forget_all(*hosts: Host) -> None:
    """Let hosts that are in step with each other outlast the retention and compact."""
    days_pass(RETENTION_DAYS + 1, *hosts)
    settle(*hosts)
    for host in hosts:
        host.replica.compact()


def changes_of(host: Host) -> set[Change]:
    """Return all that a host remembers."""
    return changes_in(host.replica.changes_since(Vector())[1])


def is_snapshot(delivered: list[Delivery]) -> bool:
    """Say whether what was delivered was a snapshot, all of it."""
    marked = {frame.snapshot is not None for _, frame in delivered}
    assert len(marked) == 1
    return marked.pop()


def away(make_hosts: MakeHosts, *, ddl: str = DEVICES) -> tuple[Host, Host]:
    """Return two hosts that had "kept" and "gone" in common.

    The second was silent while the first deleted "gone", inserted "later" and forgot the deletion.
    """
    a, x = make_hosts("a", "x", ddl=ddl)
    insert(a, "kept", "gone")
    settle(a, x)
    delete(a, "gone")
    insert(a, "later")
    days_pass(RETENTION_DAYS + 1, a, x)
    assert a.replica.compact().deaths == 1
    return a, x


class TestWhatIsForgotten:
    """A death goes after the retention, and once every live peer has it."""

    def test_a_death_that_all_have_goes_after_the_retention(self, make_hosts: MakeHosts) -> None:
        """Not a day before; what shows stays."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "e")
        delete(a, "d")
        settle(a, b)
        days_pass(RETENTION_DAYS - 1, a, b)
        settle(a, b)
        assert (a.replica.compact().deaths, b.replica.compact().deaths) == (0, 0)
        days_pass(2, a, b)
        settle(a, b)
        assert (a.replica.compact().deaths, b.replica.compact().deaths) == (1, 1)
        assert a.entries() == b.entries() == 1
        assert a.devices() == b.devices() == {"e": ("new", None)}

    def test_a_death_is_kept_while_a_live_peer_lacks_it(self, make_hosts: MakeHosts) -> None:
        """B was heard of yesterday, without it."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        delete(a, "d")
        days_pass(RETENTION_DAYS + 1, a, b)
        pull(a, b)
        assert a.replica.compact().deaths == 0
        assert not is_snapshot(pull(b, a))
        pull(a, b)
        assert a.replica.compact().deaths == 1

    def test_a_peer_heard_while_the_clock_ran_ahead_pins_no_longer_than_others(
        self, make_hosts: MakeHosts
    ) -> None:
        """A's clock was a year ahead when it last heard C, which was renamed since: C is silent."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d")
        days_pass(365, a)
        ask(c, a)
        days_pass(-365, a)
        delete(a, "d")
        settle(a, b)
        days_pass(RETENTION_DAYS + 1, a, b)
        settle(a, b)
        assert a.replica.compact().deaths == 1

    def test_what_a_peer_has_is_learned_from_its_requests(self, make_hosts: MakeHosts) -> None:
        """B only ever asks; A hears from that what B lacks."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        delete(a, "d")
        ask(b, a)
        days_pass(RETENTION_DAYS - 1, a, b)
        ask(b, a)
        days_pass(2, a, b)
        assert a.replica.compact().deaths == 0
        pull(b, a)
        assert a.replica.compact().deaths == 0, "B has not said yet that it has it"
        ask(b, a)
        assert a.replica.compact().deaths == 1

    @pytest.mark.parametrize("name", ["b", "office"])
    def test_a_dead_peer_pins_nothing_for_ever(self, make_hosts: MakeHosts, name: str) -> None:
        """Hazard 5: B, a peer that is called office here, is gone for good; once it has been silent
        for the retention it counts no more, and at once if it is forgotten."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "e")
        settle(a, b, c)
        delete(a, "d")
        pull(c, a)
        ask(c, a)
        days_pass(RETENTION_DAYS + 1, a, c)
        ask(c, a)
        assert a.replica.compact().deaths == 1
        delete(a, "e")
        days_pass(RETENTION_DAYS + 1, a, c)
        pull(c, a)
        pull(a, c)
        pull(a, b)
        assert a.replica.compact().deaths == 0
        a.replica.peers.recognise("office", b.identity)
        a.replica.peers.recognise("b", c.identity)
        assert a.replica.peers.forget(name) == 1
        assert a.replica.peers.origin("office") is None
        assert a.replica.peers.origin("b") == c.identity
        assert a.replica.compact().deaths == 1

    def test_column_writes_that_hang_on_a_dead_row_go_with_it(self, make_hosts: MakeHosts) -> None:
        """B wrote a row that A had deleted; neither its entry nor its value stays for ever."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        delete(a, "d")
        b.clock.ms += 10
        b.write("UPDATE devices SET note = 'too late'")
        settle(a, b)
        assert a.entries() == b.entries() == 2
        forget_all(a, b)
        assert a.entries() == b.entries() == 0
        assert a.rows("SELECT * FROM syncd_shadow_devices") == []

    def test_a_death_below_a_later_birth_goes_and_the_row_stays(
        self, make_hosts: MakeHosts
    ) -> None:
        """Hazard 5: the reaper never deletes what was inserted again meanwhile."""
        a, b = make_hosts("a", "b")
        insert(a, "d", status="first")
        delete(a, "d")
        insert(a, "d", status="second")
        settle(a, b)
        forget_all(a, b)
        assert a.entries() == b.entries() == 1
        assert a.devices() == b.devices() == {"d": ("second", None)}

    def test_the_conflict_log_goes_after_the_retention(self, make_hosts: MakeHosts) -> None:
        """Each line from when it was written."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        settle(a, b)
        for value in ("one", "two"):
            b.write("UPDATE devices SET status = ?", f"b {value}")
            a.clock.ms += 10
            a.write("UPDATE devices SET status = ?", f"a {value}")
            settle(a, b)
            days_pass(60, a, b)
        assert [lost for *_, lost, _ in a.conflicts()] == ["b one", "b two"]
        assert a.replica.compact().conflicts == 1
        assert [lost for *_, lost, _ in a.conflicts()] == ["b two"]

    def test_it_goes_in_slices(
        self, make_hosts: MakeHosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writers get their turn between two slices; all of it goes in the end."""
        monkeypatch.setattr(compaction, "SLICE_ROWS", 2)
        (a,) = make_hosts("a")
        names = [f"d{n}" for n in range(5)]
        insert(a, *names, "kept")
        delete(a, *names)
        a.replica.fold()
        days_pass(RETENTION_DAYS + 1, a)
        statements: list[str] = []
        a.replica._database._connection().set_trace_callback(statements.append)
        assert a.replica.compact().deaths == 5
        a.replica._database._connection().set_trace_callback(None)
        assert statements.count("BEGIN IMMEDIATE") == 3
        assert a.entries() == 1

    def test_a_row_that_comes_back_between_look_and_strike_keeps_its_values(
        self, make_hosts: MakeHosts
    ) -> None:
        """Hazard 5: B's write hangs on a row that A deleted when the reaper looks; C's insert makes
        it count before it strikes."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d")
        settle(a, b, c)
        delete(a, "d")
        c.clock.ms += 10
        delete(c, "d")
        insert(c, "d", status="of c")
        b.clock.ms += 20
        b.write("UPDATE devices SET note = 'of b'")
        pull(a, b)
        days_pass(RETENTION_DAYS + 1, a)
        with a.replica._database.read() as connection:
            (part,) = compaction.slices(connection, a.clock.ms, RETENTION_DAYS * DAY_MS)
        pull(a, c)
        with a.replica._database.write() as connection:
            compaction.forget(connection, part, a.clock.ms, RETENTION_DAYS * DAY_MS)
        assert a.devices() == {"d": ("of c", "of b")}
        (fresh,) = make_hosts("fresh")
        pull(fresh, a)
        assert fresh.devices() == a.devices()

    def test_what_was_written_to_a_living_row_is_not_forgotten(self, make_hosts: MakeHosts) -> None:
        """Only deaths, and what hangs on no birth, are: a host that comes later gets the rest."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "e")
        settle(a, b)
        b.write("UPDATE devices SET status = 'paid' WHERE device_id = 'd'")
        delete(b, "e")
        settle(a, b)
        before = {
            c for c in changes_in(a.replica.changes_since(Vector())[1]) if c.key[0][1] == b"d"
        }
        forget_all(a, b)

        told = set(changes_in(a.replica.changes_since(Vector())[1]))
        assert told == before
        (c,) = make_hosts("c")
        pull(c, a)
        assert c.devices() == a.devices() == {"d": ("paid", None)}


class TestSnapshots:
    """A host that lacks what is forgotten is sent everything, and knows from that what has gone."""

    def test_rows_deleted_meanwhile_go_and_unsent_writes_stay(self, make_hosts: MakeHosts) -> None:
        """Hazard 4: a host past the retention must not bring back what was deleted."""
        a, x = away(make_hosts)
        insert(x, "mine")
        x.write("UPDATE devices SET note = 'of x' WHERE device_id = 'kept'")
        assert is_snapshot(pull(x, a))
        assert x.devices() == {
            "kept": ("new", "of x"),
            "later": ("new", None),
            "mine": ("new", None),
        }
        settle(a, x)
        assert a.devices() == x.devices()
        assert not is_snapshot(pull(x, a))

    def test_it_does_not_matter_who_asks_first(self, make_hosts: MakeHosts) -> None:
        """A hears from X, before X has heard that its row is gone."""
        a, x = away(make_hosts)
        insert(x, "mine")
        x.write("UPDATE devices SET note = 'too late' WHERE device_id = 'gone'")
        pull(a, x)
        assert a.devices().keys() == {"kept", "later", "mine"}
        settle(a, x)
        assert a.devices() == x.devices()
        assert a.devices().keys() == {"kept", "later", "mine"}

    def test_a_snapshot_in_many_frames_goes_on_where_it_was_cut(
        self, make_hosts: MakeHosts
    ) -> None:
        """Until its end nothing is deleted; afterwards nothing is sent twice."""
        a, x = away(make_hosts)
        insert(a, *(f"more {n}" for n in range(6)))
        first = pull(x, a, frame_entries=2, frames_max=2)
        assert is_snapshot(first)
        assert "gone" in x.devices()
        x.replica.close()
        rest = pull(x, a, frame_entries=2)
        assert rest[0][1].after == first[-1][1].position
        assert x.devices() == a.devices()
        assert x.rows("SELECT * FROM syncd_came") == x.rows("SELECT * FROM syncd_snapshot") == []

    def test_a_snapshot_begins_anew_where_a_column_went_meanwhile(
        self, make_hosts: MakeHosts
    ) -> None:
        """The frame that had its values has come before, and they went with it."""
        a, x = away(make_hosts)
        a.write("UPDATE devices SET note = 'of a'")
        first = pull(x, a, frame_entries=1, frames_max=1)
        assert is_snapshot(first)
        x.enrol({"devices": {"key": ["device_id"], "columns": {"exclude": ["note"]}}})
        rest = pull(x, a, frame_entries=1)
        assert rest[0][1].after == 0
        x.enrol({"devices": ["device_id"]})
        assert x.devices() == a.devices()

    def test_a_snapshot_that_never_ends_deletes_nothing(self, make_hosts: MakeHosts) -> None:
        """Not even if other peers are heard of meanwhile."""
        a, x = away(make_hosts)
        pull(x, a, frame_entries=1, frames_max=1)
        assert "gone" in x.devices()
        x.write("UPDATE devices SET note = 1")
        x.replica.fold()
        assert x.devices().keys() >= {"kept", "gone"}

    def test_a_row_that_dies_and_is_forgotten_during_a_snapshot_goes(
        self, make_hosts: MakeHosts
    ) -> None:
        """X had its row in the first frame, then was silent for the retention again."""
        a, x = away(make_hosts)
        pull(x, a, frame_entries=1, frames_max=1)
        assert x.devices().keys() == {"kept", "gone"}
        delete(a, "kept")
        days_pass(RETENTION_DAYS + 1, a, x)
        assert a.replica.compact().deaths == 1
        rest = pull(x, a, frame_entries=1)
        assert rest[0][1].after == 0, "it begins anew"
        assert x.devices() == a.devices() == {"later": ("new", None)}

    def test_what_is_forgotten_that_the_receiver_has_does_not_begin_it_anew(
        self, make_hosts: MakeHosts
    ) -> None:
        """A forgets a death of X's own between two frames."""
        a, x = away(make_hosts)
        insert(x, "short")
        delete(x, "short")
        pull(a, x)
        days_pass(RETENTION_DAYS - 1, a, x)
        first = pull(x, a, frame_entries=1, frames_max=1)
        days_pass(2, a, x)
        assert a.replica.compact().deaths == 1
        rest = pull(x, a, frame_entries=1)
        assert rest[0][1].after == first[0][1].position
        assert x.devices() == a.devices()

    def test_a_frame_of_a_snapshot_that_does_not_continue_is_refused(
        self, make_hosts: MakeHosts
    ) -> None:
        """Its first frame never arrived."""
        a, x = away(make_hosts)
        with small_frames(1):
            header, frames = a.replica.frames_since(Vector())
            _, second = next(frames), next(frames)
        with pytest.raises(BundleGap):
            x.replica.merge(header, second)
        assert "gone" in x.devices()

    def test_a_file_of_everything_is_a_snapshot(self, make_hosts: MakeHosts) -> None:
        """The same frames, by another road; so is one that was made for a host so far behind."""
        for since in ("everything", "what X has"):
            a, x = away(make_hosts)
            base = Vector() if since == "everything" else x.replica.vector()
            with small_frames(1):
                header, frames = a.replica.frames_since(base)
                for frame in frames:
                    x.replica.merge(header, frame)
            assert x.devices() == a.devices()
            for host in (a, x):
                host.close()
                host.path.unlink()

    def test_an_empty_host_takes_everything(self, make_hosts: MakeHosts) -> None:
        """And has forgotten from then on what its source had."""
        a, _ = away(make_hosts)
        (fresh,) = make_hosts("fresh")
        pull(fresh, a, frame_entries=1)
        assert fresh.devices() == a.devices()
        assert fresh.replica.status().forgotten_ms == a.replica.status().forgotten_ms

    def test_a_host_that_has_all_is_not_sent_a_snapshot(self, make_hosts: MakeHosts) -> None:
        """It has the deaths that were forgotten, so it is told what is new and nothing else."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        delete(a, "d")
        settle(a, b)
        forget_all(a, b)
        insert(a, "e")
        assert [len(changes_in(frame)) for _, frame in pull(b, a)] == [3]

    def test_rows_that_were_held_back_go_too(self, make_hosts: MakeHosts) -> None:
        """X held a row for a UNIQUE value; it was deleted meanwhile, and must not return."""
        unique = DEVICES.replace("note", "note UNIQUE")
        a, x = make_hosts("a", "x", ddl=unique)
        a.write("INSERT INTO devices (device_id, note) VALUES ('gone', 'n')")
        x.clock.ms += 10
        x.write("INSERT INTO devices (device_id, note) VALUES ('mine', 'n')")
        pull(x, a)
        assert (set(x.devices()), x.held()) == ({"mine"}, 1)
        delete(a, "gone")
        days_pass(RETENTION_DAYS + 1, a, x)
        a.replica.compact()
        pull(x, a)
        assert (set(x.devices()), x.held()) == ({"mine"}, 0)
        delete(x, "mine")
        x.replica.fold()
        assert x.devices() == {}

    def test_a_row_displaced_by_one_that_went_returns(self, make_hosts: MakeHosts) -> None:
        """What held a UNIQUE value was deleted meanwhile; the value is free."""
        unique = DEVICES.replace("note", "note UNIQUE")
        a, x = make_hosts("a", "x", ddl=unique)
        x.write("INSERT INTO devices (device_id, note) VALUES ('mine', 'n')")
        a.clock.ms += 10
        a.write("INSERT INTO devices (device_id, note) VALUES ('gone', 'n')")
        pull(x, a)
        assert x.devices().keys() == {"gone"}
        delete(a, "gone")
        days_pass(RETENTION_DAYS + 1, a, x)
        a.replica.compact()
        pull(x, a)
        assert x.devices() == {"mine": ("new", "n")}

    def test_children_of_a_row_that_went_are_held(self, make_hosts: MakeHosts) -> None:
        """X wrote a child of a row that was deleted meanwhile: the constraint holds."""
        ddl = (
            "CREATE TABLE owners (name TEXT PRIMARY KEY);"
            "CREATE TABLE devices (device_id TEXT PRIMARY KEY, status TEXT DEFAULT 'new',"
            " note REFERENCES owners (name))"
        )
        tables: dict[str, list[str] | None] = {"owners": None, "devices": None}
        a, x = make_hosts("a", "x", ddl=ddl, tables=tables)
        a.write("INSERT INTO owners VALUES ('ann')")
        settle(a, x)
        a.write("DELETE FROM owners")
        days_pass(RETENTION_DAYS + 1, a, x)
        a.replica.compact()
        x.write("INSERT INTO devices (device_id, note) VALUES ('d', 'ann')")
        pull(x, a)
        assert x.rows("SELECT * FROM owners") == []
        assert (x.devices(), x.held()) == ({}, 1)
        assert x.rows("PRAGMA foreign_key_check") == []

    def test_held_changes_of_rows_that_went_go_too(self, make_hosts: MakeHosts) -> None:
        """X does not know the table yet; when its schema catches up the row must not show."""
        two = f"{DEVICES}; CREATE TABLE notes (name TEXT PRIMARY KEY, text)"
        (a,) = make_hosts("a", ddl=two, tables={"devices": ["device_id"], "notes": None})
        (x,) = make_hosts("x")
        a.write("INSERT INTO notes VALUES ('gone', 1), ('kept', 2)")
        pull(x, a)
        assert x.held() == 4
        a.write("DELETE FROM notes WHERE name = 'gone'")
        days_pass(RETENTION_DAYS + 1, a, x)
        assert a.replica.compact().deaths == 1
        pull(x, a)
        x.writer.execute("CREATE TABLE notes (name TEXT PRIMARY KEY, text)")
        x.enrol({"devices": ["device_id"], "notes": None})
        assert x.rows("SELECT * FROM notes") == [("kept", 2)]

    def test_held_columns_of_a_row_that_is_forgotten_do_not_keep_it_elsewhere(
        self, make_hosts: MakeHosts
    ) -> None:
        """A lacks a column of X's, holds what X wrote to it, deletes the row and forgets that."""
        (a,) = make_hosts("a")
        (x,) = make_hosts("x", ddl=DEVICES.replace("note", "note, extra"))
        x.write("INSERT INTO devices (device_id, extra) VALUES ('gone', 1), ('kept', 2)")
        settle(a, x)
        assert a.held() == 2
        delete(a, "gone")
        days_pass(RETENTION_DAYS + 1, a, x)
        assert a.replica.compact().deaths == 1
        assert a.held() == 1
        assert a.conflicts() == [("devices", "extra", 1, None)]
        pull(x, a)
        assert x.devices().keys() == a.devices().keys() == {"kept"}

    def test_a_table_that_the_sender_dropped_is_left_alone(self, make_hosts: MakeHosts) -> None:
        """Its rows did not come with the snapshot, and were not deleted."""
        two = f"{DEVICES}; CREATE TABLE notes (name TEXT PRIMARY KEY, text)"
        tables = {"devices": ["device_id"], "notes": None}
        a, x = make_hosts("a", "x", ddl=two, tables=tables)
        a.write("INSERT INTO notes VALUES ('n', 1)")
        insert(a, "gone")
        settle(a, x)
        delete(a, "gone")
        days_pass(RETENTION_DAYS + 1, a, x)
        assert a.replica.compact().deaths == 1
        a.writer.execute("DROP TABLE notes")
        a.enrol({"devices": ["device_id"]})
        assert is_snapshot(pull(x, a))
        assert x.devices() == {}
        assert x.rows("SELECT * FROM notes") == [("n", 1)]

    def test_hosts_that_drop_a_column_at_once_need_no_snapshot_for_ever(
        self, make_hosts: MakeHosts
    ) -> None:
        """Nobody has its values, and nobody goes back behind what all have forgotten."""
        a, b = make_hosts("a", "b")
        for host in (a, b):
            host.write("ALTER TABLE devices ADD COLUMN extra DEFAULT 1")
            host.enrol()
        insert(a, "of a", "gone of a")
        insert(b, "of b", "gone of b")
        delete(a, "gone of a")
        delete(b, "gone of b")
        settle(a, b)
        forget_all(a, b)
        for host in (a, b):
            host.enrol({"devices": {"key": ["device_id"], "columns": {"exclude": ["extra"]}}})
            host.writer.execute("ALTER TABLE devices DROP COLUMN extra")
            host.enrol({"devices": ["device_id"]})
        settle(a, b)
        insert(a, "next")
        assert not is_snapshot(pull(b, a))
        assert not is_snapshot(pull(a, b))
        assert a.devices() == b.devices()
        assert a.devices().keys() == {"of a", "of b", "next"}

    def test_status_and_log_say_it_on_both_sides(
        self, make_hosts: MakeHosts, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While it lasts and when it is over."""
        a, x = away(make_hosts)
        insert(a, "more")
        with caplog.at_level(logging.INFO, logger="syncd"):
            pull(x, a, frame_entries=1, frames_max=1)
            (there,), (here,) = a.replica.peers.contacts(), x.replica.peers.contacts()
            assert (there.name, there.needs_snapshot, there.in_snapshot) == ("x", True, False)
            assert (here.name, here.needs_snapshot, here.in_snapshot) == ("a", False, True)
            pull(x, a)
            ask(x, a)
        assert "a has forgotten deletions that this host lacks" in caplog.text
        assert "the snapshot of a is complete: 1 rows were deleted meanwhile" in caplog.text
        (there,), (here,) = a.replica.peers.contacts(), x.replica.peers.contacts()
        assert not any((there.needs_snapshot, there.lacks, here.in_snapshot))

    def test_what_was_written_to_a_row_that_was_deleted_meanwhile_is_logged(
        self, make_hosts: MakeHosts
    ) -> None:
        """X noted something, later than the death that nobody remembers any more."""
        a, x = away(make_hosts)
        x.write("UPDATE devices SET note = 'lost' WHERE device_id = 'gone'")
        x.write("UPDATE devices SET note = 'seen' WHERE device_id = 'kept'")
        pull(x, a)
        settle(a, x)
        assert a.devices() == x.devices()
        assert a.devices().keys() == {"kept", "later"}
        (conflict,) = x.replica.conflicts()
        assert (conflict.key, conflict.column, conflict.lost_value) == ("'gone'", "note", "lost")
        assert (conflict.won_node, conflict.won_by_death) == ("a", True)
        assert a.conflicts() == []
        x.replica.restore(conflict.id)
        assert x.devices()["gone"] == ("new", "lost")

    def test_what_arrives_for_a_row_whose_death_is_forgotten_is_logged(
        self, make_hosts: MakeHosts
    ) -> None:
        """A hears of X's note before X hears of the deletion. X's snapshot has the note."""
        a, x = away(make_hosts)
        x.write("UPDATE devices SET note = 'lost' WHERE device_id = 'gone'")
        x.write("UPDATE devices SET note = 'seen' WHERE device_id = 'kept'")
        header, frame = x.replica.changes_since(a.replica.vector())
        assert a.replica.merge(header, frame).conflicting == 1
        (conflict,) = a.replica.conflicts()
        assert (conflict.key, conflict.column, conflict.lost_value) == ("'gone'", "note", "lost")
        assert (conflict.lost_node, conflict.won_node, conflict.won_by_death) == ("x", "a", True)
        settle(a, x)
        assert a.devices() == x.devices()
        assert a.devices().keys() == {"kept", "later"}
        assert len(a.replica.conflicts()) == 1


class TestThirdHosts:
    """What was forgotten on one host may be remembered on another, and unknown to a third."""

    def test_an_old_row_does_not_come_back_through_a_host_that_took_a_snapshot(
        self, make_hosts: MakeHosts
    ) -> None:
        """C has the old row and pulls from B, which knows from A's snapshot that it is gone."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "kept", "gone")
        settle(a, b, c)
        delete(a, "gone")
        days_pass(RETENTION_DAYS + 1, a, b, c)
        a.replica.compact()
        assert is_snapshot(pull(b, a))
        pull(b, c)
        assert b.devices().keys() == {"kept"}
        assert is_snapshot(pull(c, b))
        assert c.devices() == b.devices() == a.devices()

    def test_a_death_that_another_host_still_has_is_no_news(self, make_hosts: MakeHosts) -> None:
        """A has forgotten it, B serves it on, and C gets it from B without a snapshot."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d", "e")
        settle(a, b, c)
        delete(a, "d")
        settle(a, b)
        days_pass(RETENTION_DAYS + 1, a, b, c)
        a.replica.compact()
        assert [frame.sections for _, frame in pull(a, b)] == [[]]
        assert not is_snapshot(pull(c, b))
        assert c.devices() == a.devices() == b.devices() == {"e": ("new", None)}
        assert not is_snapshot(pull(c, a)), "it has from B what A has forgotten"

    @pytest.mark.parametrize("first", ["a", "b", "snapshot"])
    def test_an_insert_older_than_a_forgotten_death_is_decided_alike(
        self, make_hosts: MakeHosts, first: str
    ) -> None:
        """X inserted a row before others inserted and deleted it. A has forgotten that, B has not.

        If B hears of it first its death still counts; else the row counts as newer than that.
        """
        a, b, x = make_hosts("a", "b", "x")
        insert(x, "d", status="of x")
        a.clock.ms += 1_000
        insert(a, "d", status="of a")
        insert(a, "e")
        delete(a, "d")
        settle(a, b)
        days_pass(RETENTION_DAYS + 1, a, b, x)
        a.replica.compact()
        if first == "snapshot":
            assert is_snapshot(pull(x, a))
        else:
            pull(a if first == "a" else b, x)
        settle(a, b, x)
        assert a.devices() == b.devices() == x.devices()
        assert ("d" in a.devices()) is (first != "b")
        if first != "b":
            assert a.devices()["d"] == ("of x", None)

    def test_a_change_of_its_own_time_keeps_its_stamp(self, make_hosts: MakeHosts) -> None:
        """X wrote yesterday: newer than what is forgotten, so nothing about it is in doubt."""
        a, x = away(make_hosts)
        insert(x, "mine")
        before = changes_of(x)
        pull(x, a)
        after = changes_of(x)
        mine = {change for change in before if change.stamp.origin == x.identity}
        assert mine
        assert mine <= after

    def test_two_halves_that_have_forgotten_each_other_come_together(
        self, make_hosts: MakeHosts
    ) -> None:
        """Both wrote, deleted and forgot while the line between them was down."""
        a, b = make_hosts("a", "b")
        insert(a, "by a", "by b", "kept")
        settle(a, b)
        for host in (a, b):
            insert(host, f"new {host.node}", f"short {host.node}")
            host.clock.ms += 10
            delete(host, f"by {host.node}", f"short {host.node}")
        days_pass(RETENTION_DAYS + 1, a, b)
        for host in (a, b):
            assert host.replica.compact().deaths == 2
        settle(a, b)
        assert a.devices() == b.devices()
        assert a.devices().keys() == {"kept", "new a", "new b"}

    def test_a_clock_far_behind_cannot_write_below_what_is_forgotten(
        self, make_hosts: MakeHosts
    ) -> None:
        """X's clock stands in the past; its next insert is newer than the forgotten death all the
        same, also on B, which remembers it."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        delete(a, "d")
        settle(a, b)
        days_pass(RETENTION_DAYS + 1, a, b)
        a.replica.compact()
        (x,) = make_hosts("x")
        x.clock.ms -= 10 * 365 * DAY_MS
        pull(x, a)
        insert(x, "d", status="again")
        settle(a, b, x)
        assert a.devices() == b.devices() == x.devices() == {"d": ("again", None)}

    def test_what_is_written_next_is_newer_than_what_was_lifted(
        self, make_hosts: MakeHosts
    ) -> None:
        """X's clock stands in the past, so it counts on from what it has given out."""
        a, b, x = make_hosts("a", "b", "x")
        x.clock.ms -= 10 * DAY_MS
        insert(x, "mine")
        insert(a, "d")
        delete(a, "d")
        settle(a, b)
        days_pass(RETENTION_DAYS + 1, a, b)
        settle(a, b)
        a.replica.compact()
        pull(x, a)
        (lifted,) = {change.stamp.hlc for change in changes_of(x)}
        insert(x, "next")
        assert max(change.stamp.hlc for change in changes_of(x)) > lifted

    def test_status_says_up_to_when_deletions_are_forgotten(self, make_hosts: MakeHosts) -> None:
        """The time of the newest one."""
        a, _ = away(make_hosts)
        forgotten_ms = a.replica.status().forgotten_ms
        with a.replica._database.read() as connection:
            assert forgotten_ms == ms_of_hlc(compaction.horizon(connection).hlc)
        assert forgotten_ms is not None
        assert forgotten_ms < a.clock.ms - RETENTION_DAYS * DAY_MS
