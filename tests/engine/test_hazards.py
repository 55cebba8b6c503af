"""What has bitten systems of this kind before: each hazard of the design with its story.

Hazards 4 and 5, about what is forgotten, are in test_compaction.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, ask, changes_in, pull, settle, small_frames
from syncd import codec
from syncd.clock import hlc_of_ms
from syncd.errors import BundleGap
from syncd.vector import Vector

EMAILS = """
    CREATE TABLE devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL DEFAULT 'new',
        note,
        email TEXT COLLATE NOCASE UNIQUE
    )
"""


def insert(host: Host, device: str, status: str = "new", note: object = None) -> None:
    """Insert a device."""
    host.write(
        "INSERT INTO devices (device_id, status, note) VALUES (?, ?, ?)", device, status, note
    )


def between_statements(host: Host, act: Callable[[str], None] | None) -> None:
    """Call a function before every statement of a host's engine, with its SQL."""
    for database in (host.replica._database, host.replica._identity._sidecar):
        database._connection().set_trace_callback(act)


class TestRestore:
    """Hazard 1: a restore rewinds a host's counters; who trusts them skips what comes next."""

    def test_a_restore_rewinds_no_cursor_although_it_lost_no_write_of_its_own(
        self, make_hosts: MakeHosts
    ) -> None:
        """B had only passed on what A wrote, then was restored and wrote something itself."""
        a, b = make_hosts("a", "b")
        backup = b.content()
        insert(a, "from a")
        insert(a, "from a too")
        pull(b, a)
        pull(a, b)
        b.overwrite(backup)
        insert(b, "from b")
        pull(a, b)
        settle(a, b)
        assert a.devices() == b.devices()
        assert a.devices().keys() == {"from a", "from a too", "from b"}

    def test_a_restore_to_before_the_first_pull_gets_everything_again(
        self, make_hosts: MakeHosts
    ) -> None:
        """B is put back to when it was new; its peers do not believe that it still has anything."""
        a, b = make_hosts("a", "b")
        backup = b.content()
        insert(a, "from a")
        insert(b, "from b")
        settle(a, b)
        b.overwrite(backup)
        settle(a, b)
        assert b.devices() == a.devices()
        assert b.devices().keys() == {"from a", "from b"}


class TestNoOpSwallowing:
    """Hazard 2: a change that changes nothing is still a change."""

    def test_an_equal_value_carries_its_stamp_to_a_third_host(self, make_hosts: MakeHosts) -> None:
        """A and B write the same value; C, whose own write lies between, hears of it from A alone.

        Had A dropped B's newer write because nothing changed, C's would win on C and lose on B.
        """
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d")
        settle(a, b, c)
        for host, later_ms, status in ((a, 10, "same"), (c, 20, "other"), (b, 30, "same")):
            host.clock.ms += later_ms
            host.write("UPDATE devices SET status = ?", status)
        pull(a, b)
        pull(c, a)
        assert c.devices() == {"d": ("same", None)}
        settle(a, b, c)
        assert a.devices() == b.devices() == c.devices() == {"d": ("same", None)}

    def test_an_equal_birth_carries_its_stamp_past_a_death(self, make_hosts: MakeHosts) -> None:
        """A and B insert equal rows, C deletes A's between; B's newer birth must outlive that."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d")
        pull(c, a)
        c.clock.ms += 10
        c.write("DELETE FROM devices")
        b.clock.ms += 20
        insert(b, "d")
        pull(a, b)
        pull(c, a)
        settle(a, b, c)
        assert a.devices() == b.devices() == c.devices() == {"d": ("new", None)}


class TestTies:
    """Hazard 3: if equal stamps were settled by "mine wins", two hosts would swap for ever."""

    def test_equal_readings_of_two_hosts_are_settled_alike(self, make_hosts: MakeHosts) -> None:
        """Two hosts write at the same reading of their clocks; one value wins on both."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "from a")
        insert(b, "d", "from b")
        readings = {
            change.stamp.hlc
            for host in (a, b)
            for change in changes_in(host.replica.changes_since(Vector())[1])
        }
        assert readings == {hlc_of_ms(a.clock.ms)}
        settle(a, b)
        winner = "from a" if a.identity > b.identity else "from b"
        assert a.devices() == b.devices() == {"d": (winner, None)}

    def test_rows_that_nobody_stamped_are_settled_alike(self, make_hosts: MakeHosts) -> None:
        """Two hosts enrol files that differ; they agree in one round and then fall silent."""
        a, b = make_hosts("a", "b", enrolled=False)
        for host in (a, b):
            insert(host, "d", f"from {host.node}")
            insert(host, host.node)
            host.enrol()
        settle(a, b)
        assert a.devices() == b.devices()
        assert a.devices().keys() == {"a", "b", "d"}
        for receiver, sender in ((a, b), (b, a)):
            assert [frame.sections for _, frame in pull(receiver, sender)] == [[]]


DISPLACING = {
    "insert over a unique value": (
        "INSERT OR REPLACE INTO devices (device_id, email) VALUES ('c', 'A@x')",
        {"b", "c"},
    ),
    "insert over the local id": (
        "INSERT OR REPLACE INTO devices (id, device_id) VALUES (1, 'c')",
        {"b", "c"},
    ),
    "insert over two rows at once": (
        "INSERT OR REPLACE INTO devices (id, device_id, email) VALUES (2, 'c', 'a@x')",
        {"c"},
    ),
    "several rows, one over the other": (
        "INSERT OR REPLACE INTO devices (device_id, email) VALUES ('c', 'a@x'), ('d', 'a@x')",
        {"b", "d"},
    ),
    "update over a unique value": (
        "UPDATE OR REPLACE devices SET email = 'a@x' WHERE device_id = 'b'",
        {"b"},
    ),
    "update over the local id": (
        "UPDATE OR REPLACE devices SET id = 1 WHERE device_id = 'b'",
        {"b"},
    ),
    "update over a key": (
        "UPDATE OR REPLACE devices SET device_id = 'a' WHERE device_id = 'b'",
        {"a"},
    ),
    "ignored insert": (
        "INSERT OR IGNORE INTO devices (device_id, email) VALUES ('c', 'a@x')",
        {"a", "b"},
    ),
    "ignored update": (
        "UPDATE OR IGNORE devices SET email = 'a@x' WHERE device_id = 'b'",
        {"a", "b"},
    ),
    "upsert on another unique column": (
        "INSERT INTO devices (device_id, email) VALUES ('c', 'a@x')"
        " ON CONFLICT (email) DO UPDATE SET status = 'seen'",
        {"a", "b"},
    ),
}


class TestReplace:
    """Hazard 6: REPLACE takes away other rows without telling any trigger."""

    @pytest.mark.parametrize("recursive", ["OFF", "ON"])
    @pytest.mark.parametrize(("sql", "left"), DISPLACING.values(), ids=DISPLACING.keys())
    def test_a_displaced_row_dies_everywhere(
        self, make_hosts: MakeHosts, sql: str, left: set[str], recursive: str
    ) -> None:
        """The row that lost its place lived on elsewhere, with a licence nobody could revoke."""
        a, b, c = make_hosts("a", "b", "c", ddl=EMAILS)
        a.write("INSERT INTO devices (device_id, email) VALUES ('a', 'a@x'), ('b', 'b@x')")
        settle(a, b, c)
        a.writer.execute(f"PRAGMA recursive_triggers = {recursive}")
        a.write(sql)
        assert a.devices().keys() == left
        pull(b, a)
        pull(c, b)
        assert a.devices() == b.devices() == c.devices()

    def test_a_row_that_was_only_suspected_is_not_touched(self, make_hosts: MakeHosts) -> None:
        """An ignored insert must not look like a write to the row that stood in its way."""
        a, b = make_hosts("a", "b", ddl=EMAILS)
        a.write("INSERT INTO devices (device_id, email) VALUES ('a', 'a@x')")
        settle(a, b)
        a.write("INSERT OR IGNORE INTO devices (device_id, email) VALUES ('c', 'a@x')")
        _, frame = ask(b, a)
        assert frame.sections == []

    def test_a_displaced_row_that_returns_at_once_lives(self, make_hosts: MakeHosts) -> None:
        """Displaced and inserted again before anybody looked, it is there, with its new values."""
        a, b = make_hosts("a", "b", ddl=EMAILS)
        a.write("INSERT INTO devices (device_id, email, note) VALUES ('a', 'a@x', 'old')")
        settle(a, b)
        a.write("INSERT OR REPLACE INTO devices (device_id, email) VALUES ('c', 'a@x')")
        a.write("INSERT INTO devices (device_id, email) VALUES ('a', 'b@x')")
        settle(a, b)
        assert a.devices() == b.devices() == {"a": ("new", None), "c": ("new", None)}

    @pytest.mark.parametrize(
        "index",
        [
            "CREATE UNIQUE INDEX one ON devices (lower(note))",
            "CREATE UNIQUE INDEX one ON devices (note || '') WHERE status = 'new'",
            "CREATE UNIQUE INDEX one ON devices (note COLLATE NOCASE) WHERE status = 'new'",
            "CREATE UNIQUE INDEX one ON devices (device_id COLLATE NOCASE)",
        ],
    )
    def test_a_row_displaced_through_an_unusual_index_dies_everywhere(
        self, make_hosts: MakeHosts, index: str
    ) -> None:
        """An index on an expression, part of a table or another collation displaces too."""
        devices = (
            "CREATE TABLE devices (device_id TEXT NOT NULL UNIQUE, status TEXT DEFAULT 'new', note)"
        )
        a, b = make_hosts("a", "b", ddl=f"{devices}; {index}")
        a.write("INSERT INTO devices (device_id, note) VALUES ('a', 'same')")
        settle(a, b)
        other = "A" if "device_id" in index else "z"
        a.write("INSERT OR REPLACE INTO devices (device_id, note) VALUES (?, 'SAME')", other)
        if "|| ''" in index:
            a.write("INSERT OR REPLACE INTO devices (device_id, note) VALUES ('y', 'same')")
        assert "a" not in a.devices()
        settle(a, b)
        assert b.devices() == a.devices()


class TestDurability:
    """Hazard 8: a cursor that is saved before its rows are loses them in a crash."""

    def test_a_crash_at_any_statement_of_a_merge_leaves_all_of_a_frame_or_nothing(
        self, make_hosts: MakeHosts, tmp_path: Path
    ) -> None:
        """Whatever moment the power fails, rows, cursor and vector are of one frame's end."""
        a, b = make_hosts("a", "b")
        for number in range(8):
            insert(a, f"device {number}", note=b"x" * 3000)
        insert(b, "mine")
        b.replica.fold()
        seen = [self._state(b)]
        moments: list[dict[str, bytes]] = []
        # A small cache makes SQLite write pages of an unfinished transaction to the file.
        b.replica._database._connection().execute("PRAGMA cache_size = 4")
        between_statements(b, lambda _: self._remember(moments, b))
        for _ in range(3):
            pull(b, a, frame_entries=3, frames_max=1)
            seen.append(self._state(b))
        assert len(moments) > 5
        found = []
        origin = b.identity
        b.close()
        for moment in moments:
            self._restore(b, moment)
            crashed = Host(tmp_path, "b", ddl="", enrolled=False)
            found.append(self._state(crashed))
            assert found[-1] in seen
            pull(crashed, a)
            assert crashed.devices() == a.devices() | {"mine": ("new", None)}
            assert crashed.replica.origin() == origin, "a crash is no restore"
            crashed.close()
        assert all(state in found for state in seen[:-1])

    @pytest.mark.parametrize("fatal", ["syncd_cursor", "COMMIT"])
    def test_a_process_killed_before_its_commit_has_acknowledged_nothing(
        self, make_hosts: MakeHosts, tmp_path: Path, fatal: str
    ) -> None:
        """The daemon is killed after the rows and before the commit: it pulls them again."""
        a, b = make_hosts("a", "b")
        for number in range(5):
            insert(a, f"device {number}")
        before = self._state(b)
        path = tmp_path / "bundle"
        with path.open("wb") as file:
            codec.write(file, *a.replica.frames_since(Vector()))
        script = tmp_path / "doomed.py"
        script.write_text(DOOMED, encoding="utf-8")
        b.close()
        done = subprocess.run(
            [sys.executable, script, b.path, path, fatal], check=False, env=dict(os.environ)
        )
        assert done.returncode == -signal.SIGKILL
        b = Host(tmp_path, "b", ddl="", enrolled=False)
        assert self._state(b) == before
        pull(b, a)
        assert b.devices() == a.devices()
        b.close()

    @staticmethod
    def _state(host: Host) -> tuple[object, ...]:
        vector = dict(host.rows("SELECT id, seq FROM syncd_origin WHERE seq > 0"))
        cursors = host.rows("SELECT position FROM syncd_cursor")
        return tuple(sorted(host.devices())), tuple(sorted(vector.items())), tuple(cursors)

    @staticmethod
    def _remember(moments: list[dict[str, bytes]], host: Host) -> None:
        """Add what a crash at this moment would leave of a host's files, if it is anything new."""
        files = {
            file.name: file.read_bytes()
            for file in host.path.parent.glob(f"{host.path.name}*")
            if not file.name.endswith("-shm")
        }
        if files not in moments:
            moments.append(files)

    @staticmethod
    def _restore(host: Host, files: dict[str, bytes]) -> None:
        for file in host.path.parent.glob(f"{host.path.name}*"):
            if file.name.endswith(("-shm", "-wal")):
                file.unlink()
        for name, content in files.items():
            host.path.with_name(name).write_bytes(content)


DOOMED = """
import os, signal, sys
from syncd.codec import Reader
from syncd.config import Config
from syncd.replica import Replica

database, path, fatal = sys.argv[1:]
keys = [{"id": "k1", "secret": "x" * 40}]
tables = {"devices": {"key": ["device_id"]}}
replica = Replica(
    Config.model_validate(
        {"node": "b", "database": database, "tables": tables, "sync": {"keys": keys}}
    )
)
reader = Reader(open(path, "rb"))
frames = list(reader)
replica.fold()

def kill(sql):
    if fatal in sql:
        os.kill(os.getpid(), signal.SIGKILL)

raw = replica._database._connection()
raw.execute("PRAGMA cache_size = 4")
raw.execute("SELECT * FROM syncd_cursor").fetchall()
raw.set_trace_callback(lambda sql: kill(sql) if raw.in_transaction and raw.total_changes else None)
for frame in frames:
    replica.merge(reader.header, frame)
"""


class TestTimeIsNoCursor:
    """Hazard 9: stamped 10:00:01, committed 10:00:05, pulled at 10:00:03, never sent."""

    def test_a_transaction_committed_after_a_pull_is_sent_by_the_next(
        self, make_hosts: MakeHosts
    ) -> None:
        """The writer took its stamp before the pull and committed after it."""
        a, b = make_hosts("a", "b")
        a.replica.fold()
        a.writer.execute("BEGIN IMMEDIATE")
        insert(a, "slow")
        a.clock.ms += 2_000
        pull(b, a)
        assert b.devices() == {}
        a.writer.execute("COMMIT")
        pull(b, a)
        assert b.devices() == {"slow": ("new", None)}

    def test_old_stamps_that_arrive_late_are_passed_on(self, make_hosts: MakeHosts) -> None:
        """C's changes are older than all that B has had from A; A hears of them only now."""
        a, b, c = make_hosts("a", "b", "c")
        insert(c, "old")
        a.clock.ms += 60_000
        insert(a, "new")
        pull(b, a)
        pull(a, c)
        pull(b, a)
        assert b.devices().keys() == {"old", "new"}

    def test_a_clock_set_back_loses_no_write(self, make_hosts: MakeHosts) -> None:
        """The host's clock is set back an hour; what it writes then is sent and wins."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "first")
        pull(b, a)
        a.clock.ms -= 3_600_000
        a.write("UPDATE devices SET status = 'second'")
        insert(a, "e")
        pull(b, a)
        assert b.devices() == a.devices() == {"d": ("second", None), "e": ("new", None)}


class TestNoReStamping:
    """Hazard 10: a merge that stamps anew makes old data look new."""

    def test_a_change_keeps_its_stamp_along_its_way(self, make_hosts: MakeHosts) -> None:
        """What D is told by C is what A wrote: the same clock reading, origin and seq."""
        a, b, c, d = hosts = make_hosts("a", "b", "c", "d")
        insert(a, "d", note=1)
        a.write("UPDATE devices SET note = 2")
        for receiver, sender in ((b, a), (c, b)):
            receiver.clock.ms += 90_000
            pull(receiver, sender)
        told = changes_in(ask(d, c)[1])
        assert told == changes_in(ask(d, a)[1])
        assert {change.stamp.origin for change in told} == {hosts[0].identity}

    def test_an_old_value_on_a_detour_does_not_beat_a_newer_one(
        self, make_hosts: MakeHosts
    ) -> None:
        """B carries A's old value to C after C had written a newer one, however late it comes."""
        a, b, c = make_hosts("a", "b", "c")
        insert(a, "d")
        settle(a, b, c)
        a.write("UPDATE devices SET status = 'old'")
        pull(b, a)
        c.clock.ms += 1_000
        c.write("UPDATE devices SET status = 'new one'")
        b.clock.ms += 100_000
        pull(c, b)
        assert c.devices() == {"d": ("new one", None)}


class TestOtherWriters:
    """Hazards 11 and 13: writers beside the merge."""

    def test_a_writer_between_any_two_statements_of_a_merge_is_captured(
        self, make_hosts: MakeHosts
    ) -> None:
        """A switch that turns capture off must not be seen by others.

        Another program writes at every moment at which the merge lets it; each of its rows must
        arrive at the peer. And if a merge began as a reader and wrote later, one such write in
        between would fail it for good (SQLITE_BUSY_SNAPSHOT).
        """
        a, b = make_hosts("a", "b")
        for number in range(5):
            insert(a, f"from a {number}")
        other = b.connect()
        other.execute("PRAGMA busy_timeout = 0")
        written: list[str] = []
        refused: list[str] = []

        def write(sql: str) -> None:
            if len(written) == 50:
                return
            try:
                name = f"from b {len(written)}"
                other.execute("INSERT INTO devices (device_id) VALUES (?)", (name,))
                written.append(name)
            except sqlite3.OperationalError:
                refused.append(sql)

        between_statements(b, write)
        pull(b, a, frame_entries=2)
        between_statements(b, None)
        assert len(written) > 5
        assert len(refused) > 20
        other.close()
        pull(a, b)
        assert a.devices() == b.devices()
        assert a.devices().keys() >= set(written)

    def test_nobody_sees_the_triggers_missing(self, make_hosts: MakeHosts) -> None:
        """Whenever another connection looks, even in the middle of a merge, capture stands."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        other = b.connect()
        count = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"
        expected = other.execute(count).fetchone()
        seen: list[object] = []
        between_statements(b, lambda _: seen.append(other.execute(count).fetchone()))
        pull(b, a)
        between_statements(b, None)
        other.close()
        assert set(seen) == {expected}

    def test_a_merge_is_not_captured_as_a_write_of_this_host(self, make_hosts: MakeHosts) -> None:
        """What B merged does not come back to A as B's own."""
        a, b = make_hosts("a", "b")
        for sql in (
            "INSERT INTO devices (device_id) VALUES ('d'), ('e')",
            "UPDATE devices SET note = 1",
            "DELETE FROM devices WHERE device_id = 'e'",
        ):
            a.write(sql)
            pull(b, a)
            assert b.replica.vector()[b.identity] == 0
            assert pull(a, b)[0][1].sections == []

    def test_a_merge_waits_for_a_writer_instead_of_failing(self, make_hosts: MakeHosts) -> None:
        """Another program holds the write lock for a while; the merge comes after it."""
        a, b = make_hosts("a", "b")
        insert(a, "d")
        b.writer.execute("BEGIN IMMEDIATE")
        insert(b, "slow")
        thread = threading.Thread(target=pull, args=(b, a))
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
        b.writer.execute("COMMIT")
        thread.join(timeout=20)
        assert b.devices().keys() == {"d", "slow"}

    def test_hosts_that_are_written_all_the_time_exchange_and_converge(
        self, make_hosts: MakeHosts
    ) -> None:
        """An application writes at each host while both pull from each other, all at once."""
        first, second = make_hosts("a", "b")
        done = threading.Event()

        def write(host: Host) -> int:
            connection, count = host.connect(), 0
            while not done.wait(0.002):
                name = f"{host.node} {count % 50}"
                connection.execute(
                    "INSERT INTO devices (device_id, note) VALUES (?1, ?2)"
                    " ON CONFLICT (device_id) DO UPDATE SET note = ?2",
                    (name, count),
                )
                connection.execute("UPDATE devices SET status = ? WHERE id % 7 = 0", (name,))
                if count % 5 == 0:
                    connection.execute("DELETE FROM devices WHERE device_id = ?", (name,))
                count += 1
            connection.close()
            return count

        def exchange(receiver: Host, sender: Host) -> int:
            rounds = 0
            while not done.is_set():
                pull(receiver, sender)
                rounds += 1
            receiver.replica.close()
            sender.replica.close()
            return rounds

        # One patch around both threads: two that overlap would put back each other's.
        with small_frames(20), ThreadPoolExecutor() as pool:
            writers = [pool.submit(write, host) for host in (first, second)]
            there = pool.submit(exchange, first, second)
            back = pool.submit(exchange, second, first)
            time.sleep(1.5)
            done.set()
            counts = [future.result() for future in (*writers, there, back)]
        assert min(counts) > 0
        settle(first, second)
        assert first.devices() == second.devices() != {}

    def test_triggers_of_the_user_do_not_rewrite_what_is_merged(
        self, make_hosts: MakeHosts
    ) -> None:
        """A trigger marks each change at random; run again at the receiver it would differ."""
        touch = (
            "CREATE TRIGGER touch AFTER UPDATE OF note ON devices BEGIN"
            " UPDATE devices SET status = hex(randomblob(8)) WHERE id = NEW.id; END"
        )
        log = (
            "CREATE TABLE log (line TEXT PRIMARY KEY, device_id TEXT);"
            "CREATE TRIGGER log AFTER UPDATE ON devices BEGIN"
            " INSERT INTO log VALUES (hex(randomblob(8)), NEW.device_id); END"
        )
        devices = "CREATE TABLE devices (id INTEGER PRIMARY KEY, device_id TEXT NOT NULL UNIQUE"
        a, b = make_hosts(
            "a",
            "b",
            ddl=f"{devices}, status, note); {touch}; {log}",
            tables={"devices": ["device_id"], "log": None},
        )
        insert(a, "d")
        settle(a, b)
        a.write("UPDATE devices SET note = 1")
        settle(a, b)
        assert len(a.rows("SELECT * FROM log")) == 2
        assert a.devices() == b.devices()
        assert sorted(a.rows("SELECT * FROM log")) == sorted(b.rows("SELECT * FROM log"))
        b.write("UPDATE devices SET note = 2")
        assert len(b.rows("SELECT * FROM log")) == 4, "the user's triggers are still there"


class TestClippedPages:
    """Hazard 15: a page that ends early must not claim what lies beyond it."""

    def test_a_frame_that_ends_early_claims_nothing(self, make_hosts: MakeHosts) -> None:
        """Only the last frame moves the vector."""
        a, b = make_hosts("a", "b")
        for number in range(7):
            insert(a, f"device {number}")
        claims = []
        while b.replica.vector() != a.replica.vector():
            assert b.replica.vector()[a.identity] == 0
            claims += [frame.claim for _, frame in pull(b, a, frame_entries=2, frames_max=1)]
        assert claims[:-1] == [None] * 3
        assert claims[-1] == dict(a.replica.vector())

    def test_an_unfinished_pull_does_not_hide_the_rest_from_a_third_host(
        self, make_hosts: MakeHosts
    ) -> None:
        """B has some changes of A but not all; C, which hears B first, still gets them from A."""
        a, b, c = make_hosts("a", "b", "c")
        for number in range(6):
            insert(a, f"device {number}")
        a.write("UPDATE devices SET status = 'blocked' WHERE device_id = 'device 0'")
        pull(b, a, frame_entries=2, frames_max=1)
        pull(c, b)
        pull(c, a)
        assert c.devices() == a.devices()
        pull(b, c)
        assert b.devices() == a.devices()

    def test_a_pull_goes_on_where_it_was_cut(self, make_hosts: MakeHosts) -> None:
        """After an interruption the frames that arrived are not sent again."""
        a, b = make_hosts("a", "b")
        for number in range(6):
            insert(a, f"device {number}")
        first = changes_in(pull(b, a, frame_entries=2, frames_max=1)[0][1])
        second = changes_in(ask(b, a, frame_entries=2)[1])
        assert len(first) == len(second) == 6
        assert first.isdisjoint(second)

    def test_a_change_superseded_during_a_pull_is_not_missed(self, make_hosts: MakeHosts) -> None:
        """Between two frames A writes a row that was to come: B gets it under its new stamp."""
        a, b = make_hosts("a", "b")
        for number in range(4):
            insert(a, f"device {number}")
        pull(b, a, frame_entries=2, frames_max=1)
        a.write("UPDATE devices SET status = 'blocked'")
        a.write("DELETE FROM devices WHERE device_id = 'device 1'")
        pull(b, a, frame_entries=2)
        assert b.devices() == a.devices()

    def test_a_frame_whose_predecessor_is_missing_is_refused(self, make_hosts: MakeHosts) -> None:
        """The second frame of a pull arrives alone: it says from where it continues."""
        a, b, c = make_hosts("a", "b", "c")
        for number in range(4):
            insert(a, f"device {number}")
        *_, last = pull(b, a, frame_entries=2)
        with pytest.raises(BundleGap):
            c.replica.merge(*last)
        assert c.devices() == {}
        assert len(c.replica.vector()) == 0

    def test_a_bundle_that_lost_a_frame_claims_nothing(self, make_hosts: MakeHosts) -> None:
        """A file's first frame is lost; its last one must not vouch for what was in it."""
        a, b = make_hosts("a", "b")
        for number in range(4):
            insert(a, f"device {number}")
        with small_frames(2):
            header, frames = a.replica.frames_since(Vector())
            *_, last = frames
        with contextlib.suppress(BundleGap):
            b.replica.merge(header, last)
        pull(b, a)
        assert b.devices() == a.devices()


class TestPoisonedClock:
    """Hazard 12: one host in 2031 wins for years, or stalls everyone who refuses it."""

    DRIFT_MS = 300_000

    @pytest.mark.parametrize(
        "skew_ms", [86_400_000, 365 * 86_400_000], ids=["a day ahead", "a year ahead"]
    )
    def test_a_host_ahead_is_neither_followed_nor_in_the_way(
        self, make_hosts: MakeHosts, skew_ms: int
    ) -> None:
        """Its changes alone wait; what the others write shows, also on the rows that it wrote."""
        a, b, c = hosts = make_hosts("a", "b", "c")
        insert(b, "d", "first")
        settle(*hosts)
        c.clock.ms += skew_ms
        c.write("UPDATE devices SET status = 'poison'")
        insert(c, "poison")
        settle(*hosts)
        for host, status in ((a, "of a"), (b, "of b")):
            host.clock.ms = max(a.clock.ms, b.clock.ms) + 1_000
            host.write("UPDATE devices SET status = ? WHERE device_id = 'd'", status)
            settle(*hosts)
            assert a.devices() == b.devices() == {"d": (status, None)}
        assert a.replica.vector() == b.replica.vector() == c.replica.vector()
        for host in (a, b):
            assert host.replica.status().clock_ahead_ms < 60_000
            (ahead,) = host.replica.status().ahead
            assert (ahead.node, ahead.changes) == ("c", 2)
            assert abs(ahead.ahead_ms - skew_ms) < 60_000
            host.clock.ms += skew_ms
            host.replica.release()
            assert host.devices() == {"d": ("poison", None), "poison": ("new", None)}

    def test_the_log_names_the_host_that_is_ahead(
        self, make_hosts: MakeHosts, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With how far it is ahead, and what it costs."""
        a, b = make_hosts("a", "b")
        a.clock.ms += 86_400_000
        insert(a, "d")
        pull(b, a)
        assert "a: its clock is or was up to 86400 s ahead of ours; 1 of its changes" in caplog.text

    def test_a_clock_that_jumps_back_an_hour_stays_in_order(self, make_hosts: MakeHosts) -> None:
        """Writes after the jump still beat those before it, on every host, and none is held."""
        a, b = make_hosts("a", "b")
        insert(a, "d", "before")
        a.clock.ms -= 3_600_000
        for status in ("after", "at last"):
            a.write("UPDATE devices SET status = ?", status)
            settle(a, b)
            assert a.devices() == b.devices() == {"d": (status, None)}
        assert b.held() == 0
        b.clock.ms += 1_000
        b.write("UPDATE devices SET status = 'of b'")
        settle(a, b)
        assert a.devices() == {"d": ("at last", None)}, "by a's clock it is an hour ahead"
        a.clock.ms += 3_600_000
        a.replica.release()
        assert a.devices() == b.devices() == {"d": ("of b", None)}

    def test_a_host_at_1970_holds_what_it_cannot_judge_and_harms_nobody(
        self, make_hosts: MakeHosts
    ) -> None:
        """A dead battery: its own rows travel, under stamps that beat nothing; set right, it shows
        everything."""
        a, b = make_hosts("a", "b")
        insert(b, "d", "of b")
        right, a.clock.ms = a.clock.ms, 0
        insert(a, "d", "of 1970")
        insert(a, "mine")
        settle(a, b)
        assert b.devices() == {"d": ("of b", None), "mine": ("new", None)}
        assert a.devices() == {"d": ("of 1970", None), "mine": ("new", None)}
        a.clock.ms = right + 60_000
        a.replica.release()
        assert a.devices() == b.devices()
        a.write("UPDATE devices SET status = 'well again'")
        settle(a, b)
        assert b.devices() == {"d": ("well again", None), "mine": ("well again", None)}
