"""Writes that the triggers missed are found, and become writes of now."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.conftest import MakeHosts
from engine.hosts import DEVICES, DEVICES_KEY, Host, Key, changes_in, pull, settle
from engine.model import EXISTENCE
from syncd import comparison
from syncd.audit import BIRTH, COLUMNS, DEATH, TRIGGER
from syncd.bundle import Column
from syncd.clock import ms_of_hlc
from syncd.vector import Vector

LOGS = "CREATE TABLE logs (id INTEGER PRIMARY KEY, line TEXT)"
BOTH: dict[str, Key] = {**DEVICES_KEY, "logs": "generated"}
UNIQUE = DEVICES.replace("note", "note UNIQUE")


def findings(host: Host) -> set[tuple[str, str]]:
    """Return what an audit finds: problem and name."""
    return {(one.problem, one.name) for one in comparison.findings(host.replica)}


def past_the_triggers(host: Host, *statements: str) -> None:
    """Write as if there were no triggers."""
    host.replica.fold()
    triggers = host.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    for name, _ in triggers:
        host.writer.execute(f'DROP TRIGGER "{name}"')
    for statement in statements:
        host.writer.execute(statement)
    for _, sql in triggers:
        host.writer.execute(sql)


def insert(host: Host, devices: Sequence[str]) -> None:
    """Insert devices."""
    for device in devices:
        host.write("INSERT INTO devices (device_id) VALUES (?)", device)


class TestFindings:
    """What an audit says, and that it changes nothing."""

    def test_a_replica_in_use_is_sound(self, make_hosts: MakeHosts) -> None:
        """Merged rows, dead ones, ones that wait, held ones, local ones and logs."""
        a, b = make_hosts("a", "b", ddl=f"{UNIQUE};{LOGS}", tables=BOTH)
        for host in (a, b):
            host.write("INSERT INTO logs (line) VALUES ('one'), ('two')")
            insert(host, ["same", host.node, f"gone {host.node}"])
            host.write("UPDATE devices SET note = 'wanted' WHERE device_id = ?", host.node)
            host.write("DELETE FROM devices WHERE device_id GLOB 'gone*'")
        settle(a, b)
        a.write("DELETE FROM logs WHERE id = 1")
        a.clock.ms += 3_600_000
        insert(a, ["future"])
        settle(a, b)
        assert a.held() == 1
        assert b.held() > 1
        assert findings(a) == findings(b) == set()

    def test_triggers_that_are_missing_or_changed_are_named(self, make_hosts: MakeHosts) -> None:
        """One was dropped, one was weakened, one was left behind by an older version."""
        (a,) = make_hosts("a")
        (weak,) = a.rows("SELECT sql FROM sqlite_schema WHERE name = 'syncd_delete_devices'")
        a.writer.execute("DROP TRIGGER syncd_insert_devices")
        a.writer.execute("DROP TRIGGER syncd_delete_devices")
        a.writer.execute(weak[0].replace("BEGIN", "WHEN 0 BEGIN"))
        a.writer.execute(
            "CREATE TRIGGER syncd_older_devices AFTER INSERT ON devices BEGIN SELECT 1; END"
        )
        assert findings(a) == {
            (TRIGGER, "syncd_insert_devices"),
            (TRIGGER, "syncd_delete_devices"),
            (TRIGGER, "syncd_older_devices"),
        }

    def test_rows_written_and_deleted_past_the_triggers_are_named(
        self, make_hosts: MakeHosts
    ) -> None:
        """By key; rows without a key are local and none of our business."""
        (a,) = make_hosts("a", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        insert(a, ["kept", "gone"])
        a.write("INSERT INTO logs (line) VALUES ('one')")
        past_the_triggers(
            a,
            "DELETE FROM devices WHERE device_id = 'gone'",
            "INSERT INTO devices (device_id) VALUES ('it''s new')",
            "INSERT INTO logs VALUES (17, 'two')",
            "DELETE FROM logs WHERE line = 'one'",
        )
        (log,) = a.rows("SELECT quote(k0) || ', ' || quote(k1) FROM syncd_changes_logs")
        assert findings(a) == {
            (DEATH, "'gone'"),
            (BIRTH, "'it''s new'"),
            (BIRTH, "17"),
            (DEATH, log[0]),
        }

    def test_a_table_changed_since_it_was_enrolled_says_so(self, make_hosts: MakeHosts) -> None:
        """And nothing else can be said of it until `syncd init`."""
        (a,) = make_hosts("a")
        a.write("ALTER TABLE devices ADD COLUMN extra")
        assert findings(a) == {(COLUMNS, "extra")}
        comparison.mend(a.replica, comparison.findings(a.replica))
        assert findings(a) == {(COLUMNS, "extra")}
        a.enrol()
        assert findings(a) == set()

    def test_a_table_that_lost_a_column_says_so(self, make_hosts: MakeHosts) -> None:
        """Whoever rebuilt it has not run `syncd init` yet; the other tables are looked at."""
        (a,) = make_hosts("a", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        past_the_triggers(a, "INSERT INTO logs VALUES (17, 'new')")
        for name in ("insert", "update", "delete", "rekey", "displace_insert", "displace_update"):
            a.writer.execute(f"DROP TRIGGER IF EXISTS syncd_{name}_devices")
        a.writer.execute("ALTER TABLE devices DROP COLUMN note")
        assert findings(a) == {(COLUMNS, "note"), (BIRTH, "17")}
        a.writer.execute("DROP TABLE devices")
        assert findings(a) == {(COLUMNS, "the table is gone"), (BIRTH, "17")}

    def test_a_column_that_stays_on_this_host_is_none_of_its_business(
        self, make_hosts: MakeHosts
    ) -> None:
        """It is no column that has come since."""
        tables = {"devices": {"key": ["device_id"], "columns": {"exclude": ["note"]}}}
        (a,) = make_hosts("a", tables=tables)
        insert(a, ["d"])
        assert findings(a) == set()

    def test_an_audit_writes_nothing(self, make_hosts: MakeHosts) -> None:
        """Finding is not mending."""
        (a,) = make_hosts("a")
        insert(a, ["gone"])
        past_the_triggers(a, "DELETE FROM devices")
        a.writer.execute("DROP TRIGGER syncd_insert_devices")
        before = list(a.writer.iterdump())
        assert len(findings(a)) == 2
        assert list(a.writer.iterdump()) == before


class TestMending:
    """The table is right; what was missed becomes a write of now."""

    def test_missed_births_and_deaths_reach_the_other_hosts(self, make_hosts: MakeHosts) -> None:
        """Under stamps of now: they beat what was there before, and lose to what comes later."""
        a, b = make_hosts("a", "b", ddl=f"{DEVICES};{LOGS}", tables=BOTH)
        insert(a, ["kept", "gone", "back"])
        a.write("INSERT INTO logs (line) VALUES ('one'), ('two')")
        a.write("DELETE FROM devices WHERE device_id = 'back'")
        settle(a, b)
        b.clock.ms += 1_000
        b.write("UPDATE devices SET note = 'of b'")
        a.clock.ms = b.clock.ms + 1_000
        past_the_triggers(
            a,
            "DELETE FROM devices WHERE device_id = 'gone'",
            "INSERT INTO devices (device_id, note) VALUES ('new', 1), ('back', 2)",
            "DELETE FROM logs WHERE line = 'one'",
            "INSERT INTO logs (line) VALUES ('three')",
        )
        a.writer.execute("DROP TRIGGER syncd_update_devices")
        comparison.mend(a.replica, comparison.findings(a.replica))
        assert findings(a) == set()
        settle(a, b)
        expected = {"kept": ("new", "of b"), "new": ("new", 1), "back": ("new", 2)}
        assert a.devices() == b.devices() == expected
        lines = [host.rows("SELECT line FROM logs ORDER BY line") for host in (a, b)]
        assert lines == [[("three",), ("two",)]] * 2
        a.write("UPDATE devices SET note = 'captured again' WHERE device_id = 'kept'")
        settle(a, b)
        assert b.devices()["kept"] == ("new", "captured again")

    def test_a_table_made_anew_is_left_to_init(self, make_hosts: MakeHosts) -> None:
        """To delete its rows everywhere is nobody's wish; init gets them back."""
        a, b = make_hosts("a", "b")
        insert(b, ["one", "two", "three"])
        settle(a, b)
        before = b.devices()
        a.write("DROP TABLE devices")
        a.write(DEVICES)
        comparison.mend(a.replica, comparison.findings(a.replica))
        assert (DEATH, "'one'") in findings(a)
        a.enrol()
        settle(a, b)
        assert a.devices() == b.devices() == before

    def test_a_row_that_waited_and_was_inserted_all_the_same_shows_once(
        self, make_hosts: MakeHosts
    ) -> None:
        """It stood in the shadow; past the triggers its value was freed and it was written."""
        a, b = make_hosts("a", "b", ddl=UNIQUE)
        a.write("INSERT INTO devices (device_id, note) VALUES ('loser', 'wanted')")
        b.clock.ms += 1_000
        b.write("INSERT INTO devices (device_id, note) VALUES ('winner', 'wanted')")
        pull(a, b)
        assert a.devices().keys() == {"winner"}
        past_the_triggers(a, "UPDATE devices SET device_id = 'loser'")
        assert findings(a) == {(BIRTH, "'loser'"), (DEATH, "'winner'")}
        a.clock.ms += 2_000
        comparison.mend(a.replica, comparison.findings(a.replica))
        assert findings(a) == set()
        settle(a, b)
        assert a.devices() == b.devices() == {"loser": ("new", "wanted")}

    def test_only_the_columns_concerned_are_written_anew(self, make_hosts: MakeHosts) -> None:
        """The others keep their stamps, and lose to newer writes as before."""
        (a,) = make_hosts("a")
        insert(a, ["d", "e"])
        a.replica.fold()
        a.clock.ms += 1_000
        comparison.rewrite(
            a.replica, "devices", [Column(["d", "e", "unknown"])], [["note"], None, None]
        )
        changes = changes_in(a.replica.changes_since(Vector())[1])
        anew = {(c.key[0][1], c.register) for c in changes if ms_of_hlc(c.stamp.hlc) == a.clock.ms}
        assert anew == {(b"d", "note"), (b"e", EXISTENCE), (b"e", "status"), (b"e", "note")}

    def test_of_generated_rows_the_one_concerned_is_written_anew(
        self, make_hosts: MakeHosts
    ) -> None:
        """And not the one with the lowest number."""
        (a,) = make_hosts("a", ddl=LOGS, tables={"logs": "generated"})
        a.write("INSERT INTO logs (line) VALUES ('one'), ('two'), ('three')")
        a.replica.fold()
        ((origin, number),) = a.rows("SELECT k0, k1 FROM syncd_numbers_logs WHERE row = 2")
        a.clock.ms += 1_000
        comparison.rewrite(a.replica, "logs", [Column([origin]), Column([number])], [["line"]])
        assert a.rows(
            "SELECT n.row FROM syncd_changes_logs AS e JOIN syncd_numbers_logs AS n USING (k0, k1)"
            " WHERE e.hlc >> 16 = ?",
            a.clock.ms,
        ) == [(2,)]

    @pytest.mark.parametrize("kind", ["REAL", "BLOB"])
    def test_keys_of_every_kind_are_found_again(self, make_hosts: MakeHosts, kind: str) -> None:
        """Blobs, numbers and text that is not UTF-8."""
        ddl = f"CREATE TABLE odd (k {kind} NOT NULL, l TEXT, PRIMARY KEY (k, l))"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"odd": None})
        past_the_triggers(
            a, "INSERT INTO odd VALUES (X'00ff', CAST(X'fe' AS TEXT)), (1.5, 'it''s'), (2, '')"
        )
        assert len(findings(a)) == 3
        comparison.mend(a.replica, comparison.findings(a.replica))
        assert findings(a) == set()
        settle(a, b)
        sql = "SELECT quote(k), hex(l) FROM odd ORDER BY 1"
        assert a.rows(sql) == b.rows(sql)


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE notes (v CHECK (v > 0))",
        "CREATE TABLE notes (v CHECK (good(v)))",
        "CREATE TABLE notes (v COLLATE theirs); CREATE INDEX sorted ON notes (v)",
    ],
)
def test_what_is_the_apps_own_is_no_damage(make_hosts: MakeHosts, ddl: str) -> None:
    """A value that a CHECK would refuse, a function and a collation: the rest is looked at."""
    (a,) = make_hosts("a")
    a.writer.create_function("good", 1, lambda _: True, deterministic=True)
    a.writer.create_collation("theirs", lambda x, y: (x > y) - (x < y))
    a.writer.executescript(f"PRAGMA ignore_check_constraints = 1; {ddl}")
    a.write("INSERT INTO notes VALUES (-1), (-2)")
    a.write("INSERT INTO devices (device_id) VALUES ('d')")
    a.replica.fold()
    assert comparison.findings(a.replica) == []
    past_the_triggers(a, "INSERT INTO devices (device_id) VALUES ('missed')")
    assert [one.name for one in comparison.findings(a.replica)] == ["'missed'"]
