"""Integers that every host mints for itself: they stay home, and what they stand for travels."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.conftest import MakeHosts
from engine.hosts import DAY_MS, Clock, Host, Key, pull, scratch, settle
from syncd import changelog, comparison
from syncd.errors import NotRestorable, SchemaError

LOGS = """
    CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL, message TEXT)
"""
PLAIN_LOGS = LOGS.replace(" AUTOINCREMENT", "")
LOGS_KEY: dict[str, Key] = {"logs": "generated"}

FAMILY = """
    CREATE TABLE owners (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, boss INTEGER REFERENCES owners (id)
    );
    CREATE TABLE cars (
        plate TEXT PRIMARY KEY, owner INTEGER REFERENCES owners (id) ON DELETE SET NULL, colour
    );
"""
FAMILY_KEYS: dict[str, Key] = {"owners": ["name"], "cars": None}


def logs(host: Host) -> list[Any]:
    """Return what the log says, whatever the numbers."""
    return sorted(host.rows("SELECT device, message FROM logs"), key=str)


def cars(host: Host) -> list[Any]:
    """Return each car with its owner's name."""
    return sorted(
        host.rows(
            "SELECT c.plate, o.name FROM cars AS c LEFT JOIN owners AS o ON o.id = c.owner"
            " ORDER BY c.plate"
        )
    )


def bosses(host: Host) -> list[Any]:
    """Return each owner with the name of his boss."""
    return sorted(
        host.rows("SELECT o.name, b.name FROM owners AS o LEFT JOIN owners AS b ON b.id = o.boss")
    )


class TestGenerated:
    """Tables with `key: generated`."""

    def test_two_rows_of_one_number_are_two_rows_everywhere(self, make_hosts: MakeHosts) -> None:
        """Hazard 7: two hosts mint 506 for two events; each host ends with both, each once."""
        a, b, c = make_hosts("a", "b", "c", ddl=LOGS, tables=LOGS_KEY)
        a.write("INSERT INTO logs VALUES (506, 'x', 'from a')")
        b.write("INSERT INTO logs VALUES (506, 'y', 'from b')")
        settle(a, b, c)
        expected = [("x", "from a"), ("y", "from b")]
        assert logs(a) == logs(b) == logs(c) == expected
        assert a.rows("SELECT device FROM logs WHERE id = 506") == [("x",)]
        assert b.rows("SELECT device FROM logs WHERE id = 506") == [("y",)]

    def test_a_row_changed_or_deleted_elsewhere_is_the_same_row(
        self, make_hosts: MakeHosts
    ) -> None:
        """Whatever number it has there."""
        a, b = make_hosts("a", "b", ddl=LOGS, tables=LOGS_KEY)
        b.write("INSERT INTO logs (device) VALUES ('other')")
        a.write("INSERT INTO logs (device) VALUES ('kept'), ('gone')")
        settle(a, b)
        b.write("UPDATE logs SET message = 'seen' WHERE device = 'kept'")
        b.write("DELETE FROM logs WHERE device = 'gone'")
        settle(a, b)
        assert logs(a) == logs(b) == [("kept", "seen"), ("other", None)]

    @pytest.mark.parametrize("ddl", [LOGS, PLAIN_LOGS], ids=["autoincrement", "reused numbers"])
    def test_a_number_given_again_names_another_row(self, make_hosts: MakeHosts, ddl: str) -> None:
        """Deleted and minted again before the fold and after it."""
        a, b = make_hosts("a", "b", ddl=ddl, tables=LOGS_KEY)
        a.write("INSERT INTO logs VALUES (7, 'first', NULL)")
        pull(b, a)
        a.write("DELETE FROM logs")
        a.write("INSERT INTO logs VALUES (7, 'second', NULL)")
        a.write("DELETE FROM logs")
        a.write("INSERT INTO logs VALUES (7, 'third', NULL)")
        a.write("UPDATE logs SET message = 'm'")
        pull(b, a)
        assert logs(b) == logs(a) == [("third", "m")]
        a.write("DELETE FROM logs")
        a.replica.fold()
        a.write("INSERT INTO logs VALUES (7, 'fourth', NULL)")
        settle(a, b)
        assert logs(b) == logs(a) == [("fourth", None)]

    def test_a_number_freed_by_a_peers_delete_is_a_new_row(self, make_hosts: MakeHosts) -> None:
        """Without AUTOINCREMENT SQLite gives the number of a row that a merge took away again."""
        a, b = make_hosts("a", "b", ddl=PLAIN_LOGS, tables=LOGS_KEY)
        a.write("INSERT INTO logs (device) VALUES ('old')")
        settle(a, b)
        b.write("DELETE FROM logs")
        settle(a, b)
        a.write("INSERT INTO logs (device) VALUES ('new')")
        assert a.rows("SELECT id FROM logs") == [(1,)]
        settle(a, b)
        assert logs(a) == logs(b) == [("new", None)]

    def test_replace_by_number_overwrites_the_row(self, make_hosts: MakeHosts) -> None:
        """INSERT OR REPLACE fires no delete trigger; the old row must not live on elsewhere."""
        a, b = make_hosts("a", "b", ddl=LOGS, tables=LOGS_KEY)
        a.write("INSERT INTO logs VALUES (1, 'one', 'm')")
        pull(b, a)
        a.write("INSERT OR REPLACE INTO logs VALUES (1, 'two', NULL)")
        pull(b, a)
        assert logs(b) == logs(a) == [("two", None)]

    def test_a_renumbered_row_is_one_row(self, make_hosts: MakeHosts) -> None:
        """It is a death and a birth, as any change of what tells rows apart."""
        a, b = make_hosts("a", "b", ddl=LOGS, tables=LOGS_KEY)
        a.write("INSERT INTO logs VALUES (1, 'one', 'm')")
        pull(b, a)
        a.write("UPDATE logs SET id = 1001")
        pull(b, a)
        assert logs(b) == logs(a) == [("one", "m")]

    def test_rows_that_two_copies_had_in_common_stay_single(self, tmp_path: Path) -> None:
        """The vendor copies his database to the next host and enrols both."""
        original = tmp_path / "original.db"
        hosts = []
        maker = Host(tmp_path, "original", ddl=LOGS, tables=LOGS_KEY, enrolled=False)
        maker.write("INSERT INTO logs (device, message) VALUES ('x', '1'), ('x', '1')")
        maker.close()
        for node in "ab":
            shutil.copy(original, tmp_path / f"{node}.db")
            host = Host(tmp_path, node, ddl="", tables=LOGS_KEY, enrolled=False)
            host.write("INSERT INTO logs (device) VALUES (?)", f"only {node}")
            host.enrol()
            hosts.append(host)
        settle(*hosts)
        expected = [("only a", None), ("only b", None), ("x", "1"), ("x", "1")]
        assert [logs(host) for host in hosts] == [expected, expected]
        for host in hosts:
            host.close()

    @pytest.mark.parametrize("meets", ["the original", "a third host"])
    def test_rows_that_a_copy_has_from_before_the_fold_stay_single(
        self, tmp_path: Path, meets: str
    ) -> None:
        """They wait in both journals; what each file writes under the next seqs is its own."""
        a, c = (Host(tmp_path, node, ddl=LOGS, tables=LOGS_KEY) for node in "ac")
        a.write("INSERT INTO logs (device) VALUES ('folded')")
        settle(a, c)
        a.write("INSERT INTO logs (device) VALUES ('both'), ('gone')")
        a.write("DELETE FROM logs WHERE device = 'gone'")
        a.write("INSERT INTO logs (device) VALUES ('again')")
        with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as copy:
            a.writer.backup(copy)
        b = Host(tmp_path, "b", ddl="", tables=LOGS_KEY, enrolled=False)
        for host in (a, b):
            host.write("INSERT INTO logs (device) VALUES (?)", f"only {host.node}")
            host.write("UPDATE logs SET message = ? WHERE device = 'both'", host.node)
        if meets == "the original":
            settle(b, a)
        settle(c, a)
        settle(c, b)
        settle(a, b, c)
        written = logs(c)
        assert [device for device, _ in written] == sorted(
            ["folded", "both", "again", "only a", "only b"]
        )
        assert logs(a) == logs(b) == written
        for host in (a, b, c):
            host.close()

    def test_rows_of_a_log_wait_for_the_device_they_refer_to(self, make_hosts: MakeHosts) -> None:
        """A row that is held keeps no number: the application may give it to another row."""
        ddl = """
            CREATE TABLE devices (device_id TEXT PRIMARY KEY);
            CREATE TABLE logs (id INTEGER PRIMARY KEY, device REFERENCES devices, message)
        """
        tables: dict[str, Key] = {"devices": None, "logs": "generated"}
        a, b, c = make_hosts("a", "b", "c", ddl=ddl, tables=tables)
        a.write("INSERT INTO devices VALUES ('d')")
        settle(a, b, c)
        a.write("INSERT INTO logs (device, message) VALUES ('d', 'from a')")
        b.write("DELETE FROM devices")
        settle(a, b)
        assert logs(a) == logs(b) == []
        assert a.held() == b.held() == 1
        for host in (a, b):
            host.write("INSERT INTO logs (message) VALUES (?)", f"later {host.node}")
        c.write("INSERT INTO logs (device, message) VALUES ('d', 'from c')")
        c.write("INSERT INTO devices VALUES ('e')")
        settle(a, b, c)
        free = [(None, "later a"), (None, "later b")]
        assert logs(a) == logs(b) == logs(c) == free
        b.write("INSERT INTO devices VALUES ('d')")
        settle(a, b, c)
        expected = [("d", "from a"), ("d", "from c"), *free]
        assert logs(a) == logs(b) == logs(c) == expected

    def test_a_row_that_steps_aside_keeps_its_number_from_a_new_one(
        self, make_hosts: MakeHosts
    ) -> None:
        """One frame changes a row's reference and brings another row: neither overwrites."""
        ddl = """
            CREATE TABLE owners (name TEXT PRIMARY KEY);
            CREATE TABLE events (
                id INTEGER PRIMARY KEY, what, owner TEXT REFERENCES owners (name)
            );
        """
        tables: dict[str, Key] = {"owners": None, "events": "generated"}
        a, b, d, *others = make_hosts("a", "b", "d", "c", "e", ddl=ddl, tables=tables)
        d.write("INSERT INTO owners VALUES ('bob')")
        d.write("INSERT INTO events (what, owner) VALUES ('boot', 'bob')")
        pull(a, d)
        pull(b, a)
        # From several hosts, so that some of their rows sort before the other's, and some behind.
        for other in others:
            other.write("INSERT INTO events (what) VALUES (?)", f"login on {other.node}")
            pull(a, other)
        a.write("UPDATE events SET owner = NULL WHERE what = 'boot'")
        pull(b, a)
        seen = sorted(b.rows("SELECT what FROM events"))
        assert seen == [("boot",), ("login on c",), ("login on e",)]

    @settings(max_examples=30, derandomize=True, database=None, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["insert", "replace", "update", "delete", "pull", "fold"]),
                st.integers(0, 2),
                st.integers(1, 4),
            ),
            max_size=25,
        )
    )
    def test_hosts_agree_whatever_they_do_to_numbers(
        self, operations: list[tuple[str, int, int]]
    ) -> None:
        """Every row inserted anywhere is on all hosts or deleted, and none is there twice."""
        with scratch() as folder:
            clock = Clock()
            hosts = [
                Host(Path(folder), node, ddl=PLAIN_LOGS, tables=LOGS_KEY, clock=clock)
                for node in "abc"
            ]
            expected: dict[str, set[str]] = {}
            for step, (kind, number, row) in enumerate(operations):
                host = hosts[number]
                if kind == "pull":
                    pull(host, hosts[(number + 1) % 3])
                elif kind == "fold":
                    host.replica.fold()
                elif kind == "insert":
                    host.write("INSERT INTO logs (device) VALUES (?)", f"{step}")
                    expected[f"{step}"] = set()
                elif kind == "replace":
                    host.write("INSERT OR REPLACE INTO logs VALUES (?, ?, NULL)", row, f"{step}")
                    expected[f"{step}"] = set()
                elif kind == "update":
                    host.write("UPDATE logs SET message = ? WHERE id = ?", f"{step}", row)
                else:
                    host.write("DELETE FROM logs WHERE id = ?", row)
            settle(*hosts)
            assert logs(hosts[0]) == logs(hosts[1]) == logs(hosts[2])
            devices = [device for device, _ in logs(hosts[0])]
            assert len(devices) == len(set(devices))
            assert set(devices) <= expected.keys()
            if not {"delete", "replace"} & {kind for kind, _, _ in operations}:
                assert set(devices) == expected.keys()
            for host in hosts:
                host.close()


class TestReferences:
    """Foreign keys to surrogate ids."""

    def test_a_child_left_behind_does_not_get_the_parent_that_takes_the_number(
        self, make_hosts: MakeHosts
    ) -> None:
        """Ana is gone and Bob has come in one pull; SQLite would give him the number she had."""
        ddl = FAMILY.replace("boss INTEGER REFERENCES owners (id)", "boss")
        a, b = make_hosts("a", "b", ddl=ddl, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana')")
        settle(a, b)
        b.write("INSERT INTO cars VALUES ('x', (SELECT id FROM owners WHERE name = 'ana'), 'red')")
        a.write("DELETE FROM owners WHERE name = 'ana'")
        a.write("INSERT INTO owners (name) VALUES ('bob')")
        settle(a, b)
        assert cars(a) == cars(b) == []
        a.write("INSERT INTO owners (name) VALUES ('ana')")
        settle(a, b)
        assert cars(a) == cars(b) == [("x", "ana")]

    def test_a_reference_by_number_means_the_same_parent_everywhere(
        self, make_hosts: MakeHosts
    ) -> None:
        """Hazard 7 through a foreign key: number 1 is another owner on each host."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        b.write("INSERT INTO owners (name) VALUES ('bert')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        b.write("INSERT INTO cars (plate, owner) VALUES ('B', 1)")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna"), ("B", "bert")]
        b.write("UPDATE cars SET owner = (SELECT id FROM owners WHERE name = 'anna')")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna"), ("B", "anna")]
        a.write("UPDATE cars SET owner = NULL WHERE plate = 'B'")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna"), ("B", None)]

    def test_children_follow_a_parent_to_another_key(self, make_hosts: MakeHosts) -> None:
        """For the writer the number is the same, so the children are his; so they are elsewhere."""
        a, b, c = make_hosts("a", "b", "c", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana'), ('bob')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1), ('B', 1), ('C', 2)")
        settle(a, b, c)
        c.clock.ms += 5_000
        c.write(
            "UPDATE cars SET owner = (SELECT id FROM owners WHERE name = 'bob') WHERE plate = 'B'"
        )
        a.write("UPDATE owners SET name = 'anna' WHERE name = 'ana'")
        settle(a, b, c)
        assert cars(a) == cars(b) == cars(c) == [("A", "anna"), ("B", "bob"), ("C", "bob")]
        assert comparison.findings(a.replica) == []

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT OR REPLACE INTO owners (name, boss) VALUES ('ana', NULL)",
            "UPDATE owners SET id = 77 WHERE name = 'ana'",
        ],
    )
    def test_children_follow_a_parent_to_another_number(
        self, make_hosts: MakeHosts, sql: str
    ) -> None:
        """Foreign keys are not enforced, so SQLite leaves them behind."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana'), ('bob')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1), ('B', 2)")
        settle(a, b)
        b.write("UPDATE cars SET owner = 1 WHERE plate = 'B'")
        a.write(sql)
        assert a.rows("PRAGMA foreign_key_check")
        settle(a, b)
        for host in (a, b):
            assert cars(host) == [("A", "ana"), ("B", "ana")]
            assert host.rows("PRAGMA foreign_key_check") == []

    @pytest.mark.parametrize(
        ("statements", "of_b"),
        [
            (["INSERT OR REPLACE INTO owners (id, name) VALUES (2, 'bobby')"], "bobby"),
            (
                ["DELETE FROM owners WHERE id = 2", "INSERT INTO owners VALUES (2, 'carl', 0)"],
                "carl",
            ),
            (
                [
                    "UPDATE owners SET id = -1 WHERE id = 1",
                    "UPDATE owners SET id = 1 WHERE id = 2",
                    "UPDATE owners SET id = 2 WHERE id = -1",
                ],
                "ana",
            ),
            (["INSERT OR REPLACE INTO owners (id, name) VALUES (2, 'ana')"], "ana"),
            (
                [
                    "UPDATE owners SET name = 'carl' WHERE id = 2",
                    "INSERT INTO owners (name) VALUES ('bob')",
                ],
                "carl",
            ),
        ],
    )
    @pytest.mark.parametrize("entries_at_once", [1, 2, 100])
    def test_children_belong_to_who_takes_the_number(
        self,
        make_hosts: MakeHosts,
        monkeypatch: pytest.MonkeyPatch,
        statements: list[str],
        of_b: str,
        entries_at_once: int,
    ) -> None:
        """As they do for the writer, without foreign keys being enforced, wherever the journal is
        cut; a host that hears of them for the first time is told the same as one that had them."""
        ddl = FAMILY.replace("boss INTEGER REFERENCES owners (id)", "boss")
        a, b, c = make_hosts("a", "b", "c", ddl=ddl, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana'), ('bob')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('B', 2)")
        settle(a, b)
        a.writer.execute("BEGIN")
        for statement in statements:
            a.write(statement)
        a.writer.execute("COMMIT")
        assert cars(a) == [("B", of_b)]
        fold = changelog.fold
        monkeypatch.setattr(
            changelog, "fold", lambda c, **options: fold(c, entries_at_once, **options)
        )
        settle(a, b, c)
        assert cars(a) == cars(b) == cars(c) == [("B", of_b)]
        assert comparison.findings(a.replica) == []

    @pytest.mark.parametrize(
        "demand", ["UNIQUE", "UNIQUE ON CONFLICT REPLACE", "CHECK (owner < 3 OR plate = 'new')"]
    )
    def test_children_that_cannot_follow_to_a_number_are_held(
        self, make_hosts: MakeHosts, demand: str
    ) -> None:
        """The newer child has the number by then, or the table refuses it; the fold goes on."""
        ddl = FAMILY.replace("owner INTEGER", f"owner INTEGER {demand}")
        a, b = make_hosts("a", "b", ddl=ddl, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana'), ('bob')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1), ('old', 2)")
        settle(a, b)
        a.clock.ms += 10
        a.write("REPLACE INTO owners (name) VALUES ('bob')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('new', 3)")
        a.replica.fold()
        assert cars(a) == [("A", "ana"), ("new", "bob")]
        assert a.held() == 1
        if demand.startswith("UNIQUE"):
            settle(a, b)
            assert cars(a) == cars(b)

    def test_children_come_back_once_they_can_follow(self, make_hosts: MakeHosts) -> None:
        """And theirs with them, which were left without a parent in the meantime."""
        ddl = FAMILY.replace("owner INTEGER", "owner INTEGER CHECK (owner < 9)") + (
            "; CREATE TABLE keys (number TEXT PRIMARY KEY, plate TEXT REFERENCES cars (plate))"
        )
        (a,) = make_hosts("a", ddl=ddl, tables={**FAMILY_KEYS, "keys": None})
        a.write("INSERT INTO owners (name) VALUES ('ana')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        a.write("INSERT INTO keys VALUES ('k', 'A')")
        a.replica.fold()
        for number, shown in ((99, []), (5, [("A", "ana")])):
            a.write("UPDATE owners SET id = ?", number)
            a.replica.fold()
            assert cars(a) == shown
            assert len(a.rows("SELECT * FROM keys")) == len(shown)
            assert a.rows("PRAGMA foreign_key_check") == []

    def test_tables_of_children_can_be_rebuilt_and_dropped(self, make_hosts: MakeHosts) -> None:
        """As if nothing were enrolled: no trigger of another table names them."""
        (a,) = make_hosts("a", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana')")
        a.write("INSERT INTO cars VALUES ('A', 1, 'red')")
        a.writer.executescript(
            """
            BEGIN;
            CREATE TABLE cars_new
                (plate TEXT PRIMARY KEY, owner INTEGER REFERENCES owners (id), colour, year);
            INSERT INTO cars_new SELECT *, NULL FROM cars;
            DROP TABLE cars;
            ALTER TABLE cars_new RENAME TO cars;
            COMMIT;
            """
        )
        a.enrol()
        assert cars(a) == [("A", "ana")]
        a.writer.execute("DROP TABLE cars")
        a.write("UPDATE owners SET name = 'anna'")
        a.replica.fold()
        assert a.rows("SELECT name FROM owners") == [("anna",)]

    @pytest.mark.parametrize("demand", ["", "NOT NULL"])
    def test_a_child_may_be_written_before_its_parent(
        self, make_hosts: MakeHosts, demand: str
    ) -> None:
        """As an import does, table by table, where foreign keys are not enforced."""
        ddl = FAMILY.replace("owner INTEGER", f"owner INTEGER {demand}")
        a, b = make_hosts("a", "b", ddl=ddl, tables=FAMILY_KEYS)
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 7)")
        settle(a, b)
        assert a.rows("SELECT owner FROM cars") == [(7,)]
        assert b.rows("SELECT owner FROM cars") == ([] if demand else [(None,)])
        a.write("INSERT INTO owners (id, name) VALUES (7, 'ana')")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "ana")]
        assert a.rows("SELECT owner FROM cars") == [(7,)]

    def test_a_child_waits_for_its_parent_and_finds_it(self, make_hosts: MakeHosts) -> None:
        """Its section comes first, in a frame of its own."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        b.write("INSERT INTO owners (name) VALUES ('bert')")
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        a.write("UPDATE owners SET name = name")
        pull(b, a, frame_entries=1)
        assert cars(b) == [("A", "anna")]

    def test_an_orphan_remembers_whose_child_it_was(self, make_hosts: MakeHosts) -> None:
        """The parent goes on one host, without foreign keys being enforced, and comes back."""
        a, b, c = make_hosts("a", "b", "c", ddl=FAMILY, tables=FAMILY_KEYS)
        c.write("INSERT INTO owners (name) VALUES ('carl')")
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        pull(b, a)
        a.write("DELETE FROM owners")
        settle(a, b)
        assert cars(a) == cars(b) == []
        assert a.held() == b.held() == 1
        pull(c, a)
        assert c.held() == 1
        b.write("INSERT INTO owners (id, name) VALUES (77, 'anna')")
        settle(a, b, c)
        assert cars(a) == cars(b) == cars(c) == [("A", "anna")]
        assert b.rows("SELECT owner FROM cars") == [(77,)]

    def test_a_parent_taken_away_by_a_merge_is_not_forgotten(self, make_hosts: MakeHosts) -> None:
        """A car is given to an owner whom another host deletes at the same time."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        settle(a, b)
        b.write("DELETE FROM owners")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        settle(a, b)
        assert cars(a) == cars(b) == []
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna")]

    def test_trees_and_circles_in_one_table_show_everywhere(self, make_hosts: MakeHosts) -> None:
        """A boss of himself, two who are each other's, and a chain, under other numbers."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        b.write("INSERT INTO owners (name) VALUES ('somebody')")
        a.write(
            "INSERT INTO owners VALUES (1, 'self', 1), (2, 'x', 3), (3, 'y', 2), (4, 'z', 3),"
            " (5, 'leaf', 4)"
        )
        settle(a, b)
        expected = [("leaf", "z"), ("self", "self"), ("x", "y"), ("y", "x"), ("z", "y")]
        assert [row for row in bosses(b) if row[1]] == expected
        assert bosses(a) == bosses(b)

    def test_a_parent_that_changes_its_number_stays_the_parent(self, make_hosts: MakeHosts) -> None:
        """ON UPDATE CASCADE or by hand: the number is this host's own affair."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        settle(a, b)
        a.writer.execute("BEGIN")
        a.write("UPDATE owners SET id = 9")
        a.write("UPDATE cars SET owner = 9")
        a.writer.execute("COMMIT")
        a.write("UPDATE cars SET colour = 'red'")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna")]
        a.write("INSERT INTO cars (plate, owner) VALUES ('B', 9)")
        settle(a, b)
        assert cars(b) == [("A", "anna"), ("B", "anna")]

    def test_rows_already_there_travel_with_their_parents(self, make_hosts: MakeHosts) -> None:
        """Both tables are enrolled with rows in them."""
        (a,) = make_hosts("a", ddl=FAMILY, tables=FAMILY_KEYS, enrolled=False)
        a.write("INSERT INTO owners (id, name) VALUES (5, 'anna')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 5)")
        a.enrol()
        (b,) = make_hosts("b", ddl=FAMILY, tables=FAMILY_KEYS)
        pull(b, a)
        assert cars(b) == [("A", "anna")]

    def test_a_reference_added_by_a_migration_travels_as_the_key(
        self, make_hosts: MakeHosts
    ) -> None:
        """The parent was enrolled long before anything referred to it."""
        ddl = "CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"owners": ["name"]})
        b.write("INSERT INTO owners (name) VALUES ('bert')")
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        settle(a, b)
        for host in (a, b):
            host.write(
                "CREATE TABLE cars (plate TEXT PRIMARY KEY, owner INTEGER REFERENCES owners (id))"
            )
            host.enrol(FAMILY_KEYS)
        a.write("INSERT INTO cars SELECT 'A', id FROM owners WHERE name = 'anna'")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna")]

    def test_a_lost_reference_is_logged_and_restored_as_the_key(
        self, make_hosts: MakeHosts
    ) -> None:
        """The conflict log of another host would make nothing of a number."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        b.write("INSERT INTO owners (name) VALUES ('bert')")
        settle(a, b)
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        a.write("INSERT INTO cars (plate) VALUES ('A')")
        settle(a, b)
        b.write("UPDATE cars SET owner = (SELECT id FROM owners WHERE name = 'bert')")
        a.clock.ms += 1_000
        a.write("UPDATE cars SET owner = (SELECT id FROM owners WHERE name = 'anna')")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna")]
        assert a.conflicts() == [("cars", "owner", "bert", "anna")]
        a.replica.restore(a.replica.conflicts()[0].id)
        assert cars(a) == [("A", "bert")]

    @pytest.mark.parametrize("is_taken", [True, False])
    def test_a_reference_to_a_parent_that_is_gone_is_not_restored_as_nothing(
        self, make_hosts: MakeHosts, is_taken: bool
    ) -> None:
        """Anna lost, and her number is Zoe's by now, or nobody's."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('anna'), ('bert')")
        a.write("INSERT INTO cars (plate) VALUES ('A')")
        settle(a, b)
        a.write("UPDATE cars SET owner = 1")
        b.clock.ms += 1_000
        b.write("UPDATE cars SET owner = 2")
        settle(a, b)
        a.write("DELETE FROM owners WHERE id = 1")
        if is_taken:
            a.write("INSERT INTO owners (id, name) VALUES (1, 'zoe')")
        a.replica.fold()
        with pytest.raises(NotRestorable, match="owners has no row 'anna' here any more"):
            a.replica.restore(a.replica.conflicts()[0].id)
        assert cars(a) == [("A", "bert")]

    def test_a_reference_is_restored_whatever_the_number_is_called(
        self, make_hosts: MakeHosts
    ) -> None:
        """And refused where the parent's table cannot be asked."""
        ddl = """
            CREATE TABLE owners ("order" INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
            CREATE TABLE cars (plate TEXT PRIMARY KEY, owner REFERENCES owners ("order"));
        """
        a, b = make_hosts("a", "b", ddl=ddl, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana'), ('bob')")
        a.write("INSERT INTO cars (plate) VALUES ('A')")
        settle(a, b)
        a.write("UPDATE cars SET owner = 1")
        b.clock.ms += 1_000
        b.write("UPDATE cars SET owner = 2")
        settle(a, b)
        (lost,) = a.replica.conflicts()
        a.write("ALTER TABLE owners RENAME TO away")
        with pytest.raises(NotRestorable, match="has no row 'ana' here any more"):
            a.replica.restore(lost.id)
        a.write("ALTER TABLE away RENAME TO owners")
        a.replica.restore(lost.id)
        assert a.rows("SELECT owner FROM cars") == [(1,)]

    def test_rows_of_a_local_table_get_no_other_parent(self, make_hosts: MakeHosts) -> None:
        """A table that stays on its host refers to devices; one has gone, another comes."""
        ddl = """
            CREATE TABLE devices (id INTEGER PRIMARY KEY, device_id TEXT NOT NULL UNIQUE);
            CREATE TABLE sessions (token, device INTEGER REFERENCES devices (id) ON DELETE CASCADE);
        """
        a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": ["device_id"]})
        a.write("INSERT INTO devices (device_id) VALUES ('x')")
        settle(a, b)
        b.write("INSERT INTO sessions VALUES ('secret of x', 1)")
        a.write("DELETE FROM devices")
        settle(a, b)
        a.write("INSERT INTO devices (device_id) VALUES ('y')")
        settle(a, b)
        assert b.rows("SELECT device_id FROM devices") == [("y",)]
        assert b.rows("SELECT token FROM sessions JOIN devices ON id = device") == []

    def test_a_reference_to_a_reference_means_the_same_parent_everywhere(
        self, make_hosts: MakeHosts
    ) -> None:
        """Alone, together with a column that is none, and made of a column that is one."""
        ddl = f"""{FAMILY};
            CREATE TABLE places (place TEXT PRIMARY KEY, site TEXT NOT NULL,
                owner INTEGER NOT NULL UNIQUE REFERENCES owners (id), UNIQUE (site, owner));
            CREATE TABLE visits (visit TEXT PRIMARY KEY, owner REFERENCES places (owner),
                site, host INTEGER, guest INTEGER REFERENCES owners (id),
                again AS (guest) REFERENCES owners (id),
                FOREIGN KEY (site, host) REFERENCES places (site, owner))"""
        tables: dict[str, Key] = {**FAMILY_KEYS, "places": None, "visits": None}
        a, b = make_hosts("a", "b", ddl=ddl, tables=tables)
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        b.write("INSERT INTO owners (name) VALUES ('bert')")
        settle(a, b)
        a.write("INSERT INTO places SELECT name, 'x', id FROM owners")
        a.write("INSERT INTO visits SELECT 'v', id, 'x', id, id FROM owners WHERE name = 'anna'")
        settle(a, b)
        for host in (a, b):
            for column in ("owner", "host", "again"):
                of = f"SELECT o.name FROM visits AS v JOIN owners AS o ON o.id = v.{column}"
                assert host.rows(of) == [("anna",)]
            assert host.rows("PRAGMA foreign_key_check") == []
        b.write("UPDATE visits SET owner = (SELECT id FROM owners WHERE name = 'bert')")
        settle(a, b)
        of = "SELECT o.name FROM visits AS v JOIN owners AS o ON o.id = v.owner"
        assert a.rows(of) == b.rows(of) == [("bert",)]

    def test_half_a_reference_to_a_row_that_is_gone_is_held_everywhere(
        self, make_hosts: MakeHosts
    ) -> None:
        """To SQLite it refers to nothing, as its other half is NULL; but it travels as a row."""
        ddl = f"""{FAMILY};
            CREATE TABLE places (place TEXT PRIMARY KEY, site TEXT NOT NULL,
                owner INTEGER NOT NULL REFERENCES owners (id), UNIQUE (site, owner));
            CREATE TABLE visits (visit TEXT PRIMARY KEY, site, host INTEGER,
                FOREIGN KEY (site, host) REFERENCES places (site, owner))"""
        tables: dict[str, Key] = {**FAMILY_KEYS, "places": None, "visits": None}
        a, b, c = make_hosts("a", "b", "c", ddl=ddl, tables=tables)
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        pull(b, a)
        a.write("DELETE FROM owners")
        a.write("INSERT INTO visits VALUES ('v', NULL, 1)")
        settle(a, b, c)
        for host in (a, b, c):
            assert host.rows("SELECT * FROM visits") == []
            assert [one.reason for one in host.replica.held()] == ["parent"]
        c.write("INSERT INTO owners (id, name) VALUES (7, 'anna')")
        settle(a, b, c)
        of = "SELECT o.name FROM visits AS v JOIN owners AS o ON o.id = v.host"
        assert a.rows(of) == b.rows(of) == c.rows(of) == [("anna",)]

    def test_a_number_that_came_to_refer_is_warned_of(self, make_hosts: MakeHosts) -> None:
        """Such a table is refused at first; one that was enrolled before keeps no host down."""
        ddl = f"{FAMILY}; CREATE TABLE badges (id INTEGER PRIMARY KEY, badge TEXT NOT NULL UNIQUE)"
        tables: dict[str, Key] = {**FAMILY_KEYS, "badges": ["badge"]}
        (a,) = make_hosts("a", ddl=ddl, tables=tables)
        a.writer.executescript(
            """
            CREATE TABLE badges_new
                (id INTEGER PRIMARY KEY REFERENCES owners (id), badge TEXT NOT NULL UNIQUE);
            DROP TABLE badges;
            ALTER TABLE badges_new RENAME TO badges;
            """
        )
        (warning,) = (warning for one in a.enrol() for warning in one.warnings)
        assert warning.startswith("(id) refers to owners")

    def test_a_number_that_refers_can_be_the_key(self, make_hosts: MakeHosts) -> None:
        """It refers to what is the same on every host, and so is the same itself."""
        ddl = """
            CREATE TABLE codes (code INTEGER PRIMARY KEY);
            CREATE TABLE texts
                (code INTEGER PRIMARY KEY REFERENCES codes (code), t TEXT NOT NULL UNIQUE)
        """
        tables: dict[str, Key] = {"codes": ["code"], "texts": ["t"]}
        (a,) = make_hosts("a", ddl=ddl, tables=tables, enrolled=False)
        with pytest.raises(SchemaError, match=r"with key: \[code\]"):
            a.enrol()
        a.enrol({**tables, "texts": ["code"]})

    @pytest.mark.parametrize("demand", ["", "NOT NULL"])
    def test_a_parent_enrolled_after_its_children_is_refused(
        self, make_hosts: MakeHosts, demand: str
    ) -> None:
        """What was synced are bare numbers; left out and taken in again they travel as keys. What
        cannot be left out can be renamed."""
        ddl = FAMILY.replace("owner INTEGER", f"owner INTEGER {demand}")
        a, b = make_hosts("a", "b", ddl=ddl, tables={"cars": None})
        a.write("INSERT INTO owners (name) VALUES ('anna')")
        b.write("INSERT INTO owners (name) VALUES ('bert'), ('anna')")
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 1)")
        with pytest.raises(SchemaError, match=r"cars: \(owner\) was synced as a bare number"):
            a.enrol(FAMILY_KEYS)
        for host in (a, b):
            if demand:
                host.writer.execute("ALTER TABLE cars RENAME COLUMN owner TO owned_by")
                host.enrol({"cars": None})
                host.writer.execute("ALTER TABLE cars RENAME COLUMN owned_by TO owner")
            else:
                host.enrol({"cars": {"columns": {"exclude": ["owner"]}}})
        for host in (a, b):
            assert [one.warnings for one in host.enrol(FAMILY_KEYS)] == [(), ()]
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "anna")]

    def test_a_file_with_a_bare_reference_is_warned_of_and_goes_on(
        self, make_hosts: MakeHosts
    ) -> None:
        """Both tables were enrolled before the reference was."""
        ddl = FAMILY.replace("owner INTEGER REFERENCES owners (id) ON DELETE SET NULL", "owner")
        (a,) = make_hosts("a", ddl=ddl, tables=FAMILY_KEYS)
        a.writer.executescript(
            """
            CREATE TABLE cars_new
                (plate TEXT PRIMARY KEY, owner INTEGER REFERENCES owners (id), colour);
            DROP TABLE cars;
            ALTER TABLE cars_new RENAME TO cars;
            """
        )
        (warning,) = (warning for one in a.enrol() for warning in one.warnings)
        assert warning.startswith("(owner) was synced as a bare number of owners")

    def test_parents_of_rows_that_were_there_may_come_later(self, make_hosts: MakeHosts) -> None:
        """As of rows that are written."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS, enrolled=False)
        a.write("INSERT INTO cars (plate, owner) VALUES ('A', 7)")
        a.enrol()
        b.enrol()
        settle(a, b)
        a.write("INSERT INTO owners (id, name) VALUES (7, 'ana')")
        settle(a, b)
        assert cars(a) == cars(b) == [("A", "ana")]

    def test_a_column_of_numbers_needs_their_table(self, make_hosts: MakeHosts) -> None:
        """Without it nobody could say what they mean; left out, they stay as they are."""
        a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_KEYS)
        a.write("INSERT INTO owners (name) VALUES ('ana')")
        a.write("INSERT INTO cars VALUES ('A', 1, 'red')")
        settle(a, b)
        a.write("DROP TABLE owners")
        a.write("UPDATE cars SET colour = 'green'")
        with pytest.raises(SchemaError, match=r"cars: \(owner\) refers to table owners, .* not"):
            a.enrol({"cars": None})
        a.writer.executescript("""
            CREATE TABLE kept (plate TEXT PRIMARY KEY, owner INTEGER, colour);
            INSERT INTO kept SELECT * FROM cars;
            DROP TABLE cars;
            ALTER TABLE kept RENAME TO cars;
        """)
        with pytest.raises(SchemaError, match=r"cars: \(owner\) has numbers of owners, .* gone"):
            a.enrol({"cars": None})
        a.enrol({"cars": {"columns": {"exclude": ["owner"]}}})
        a.write("UPDATE cars SET colour = 'blue'")
        settle(a, b)
        assert a.rows("SELECT * FROM cars") == [("A", 1, "blue")]
        assert b.rows("SELECT * FROM cars") == [("A", 1, "blue")]
        assert cars(b) == [("A", "ana")]

    def test_a_file_that_lost_a_parent_before_is_refused(self, make_hosts: MakeHosts) -> None:
        """An earlier version let it go, and its children's numbers mean nothing to anybody."""
        ddl = FAMILY.replace("owner INTEGER REFERENCES owners (id) ON DELETE SET NULL", "owner")
        (a,) = make_hosts("a", ddl=FAMILY, tables=FAMILY_KEYS)
        a.writer.executescript(f"""
            DROP TABLE owners; DROP TABLE cars; {ddl};
            DROP TABLE owners; DROP TABLE syncd_numbers_owners;
            DELETE FROM syncd_table WHERE name = 'owners';
        """)
        with pytest.raises(SchemaError, match=r"cars: \(owner\) has numbers of owners, .* gone"):
            a.enrol({"cars": None})
        a.enrol({"cars": {"columns": {"exclude": ["owner"]}}})
        assert a.rows("SELECT parent FROM syncd_column WHERE name = 'owner'") == [(None,)]


SITES = """
    CREATE TABLE sites (
        id INTEGER PRIMARY KEY, account TEXT NOT NULL, number NOT NULL, town,
        UNIQUE (account, number)
    );
    CREATE TABLE posts (
        id INTEGER PRIMARY KEY, said TEXT, reply_to INTEGER REFERENCES posts (id),
        site INTEGER REFERENCES sites (id)
    );
    CREATE TABLE votes (
        voter TEXT PRIMARY KEY, post INTEGER REFERENCES posts (id) ON DELETE CASCADE, worth INTEGER
    );
"""
SITES_KEYS: dict[str, Key] = {
    "sites": ["account", "number"],
    "posts": "generated",
    "votes": None,
}


def posts(host: Host) -> list[Any]:
    """Return what was said, in reply to what, and of which site."""
    return sorted(
        host.rows(
            "SELECT p.said, r.said, s.account, s.number FROM posts AS p"
            " LEFT JOIN posts AS r ON r.id = p.reply_to LEFT JOIN sites AS s ON s.id = p.site"
        ),
        key=str,
    )


def votes(host: Host) -> list[Any]:
    """Return who votes for what was said."""
    return sorted(
        host.rows("SELECT v.voter, p.said FROM votes AS v LEFT JOIN posts AS p ON p.id = v.post")
    )


class TestKeysOfSeveralParts:
    """Foreign keys to the numbers of rows whose sync key is no single value."""

    @pytest.fixture
    def hosts(self, make_hosts: MakeHosts) -> tuple[Host, Host]:
        """Return two hosts on which every number but the first ones means another row."""
        a, b = make_hosts("a", "b", ddl=SITES, tables=SITES_KEYS)
        a.write("INSERT INTO sites VALUES (7, 'ana''s', 1, 'x'), (8, 'ana''s', '1', 'y')")
        a.write("INSERT INTO sites VALUES (11, ?1 || 'a', 0, 'x'), (12, ?1 || 'b', 0, 'y')", "\0")
        b.write("INSERT INTO sites VALUES (8, 'bert', x'00', 'z')")
        a.write("INSERT INTO posts VALUES (1, 'hello', NULL, 7), (2, 'well', 1, 8)")
        b.write("INSERT INTO posts VALUES (1, 'oh', 1, 8), (2, 'no', NULL, NULL)")
        a.write("INSERT INTO votes VALUES ('u', 1, 1), ('v', 2, 1)")
        b.write("INSERT INTO votes VALUES ('w', 1, 1)")
        settle(a, b)
        return a, b

    def test_numbers_mean_the_same_rows_everywhere(self, hosts: tuple[Host, Host]) -> None:
        """Text and numbers that look alike are two keys, and so is what differs behind a NUL."""
        for host in hosts:
            assert posts(host) == [
                ("hello", None, "ana's", 1),
                ("no", None, None, None),
                ("oh", "oh", "bert", b"\0"),
                ("well", "hello", "ana's", "1"),
            ]
            assert votes(host) == [("u", "hello"), ("v", "well"), ("w", "oh")]
            assert host.rows("PRAGMA foreign_key_check") == []
        hosts[0].write("UPDATE posts SET site = 12 WHERE said = 'well'")
        settle(*hosts)
        assert ("well", "hello", "\0b", 0) in posts(hosts[1])
        assert comparison.findings(hosts[0].replica) == []

    def test_references_change_hands(self, hosts: tuple[Host, Host]) -> None:
        """Also to a row that was born elsewhere, and to none."""
        a, b = hosts
        b.write("UPDATE votes SET post = (SELECT id FROM posts WHERE said = 'well')")
        b.write("UPDATE posts SET site = (SELECT id FROM sites WHERE number = '1')")
        settle(a, b)
        assert votes(a) == votes(b) == [("u", "well"), ("v", "well"), ("w", "well")]
        assert posts(a) == posts(b)
        assert {row[2:] for row in posts(a)} == {("ana's", "1")}
        a.write("UPDATE posts SET site = NULL, reply_to = NULL")
        settle(a, b)
        assert posts(b) == [(said, None, None, None) for said in ("hello", "no", "oh", "well")]

    def test_children_wait_for_parents_that_were_deleted_meanwhile(
        self, hosts: tuple[Host, Host]
    ) -> None:
        """The host that deletes does not know of the vote, nor of the reply."""
        a, b = hosts
        b.write("INSERT INTO votes SELECT 'x', id, 1 FROM posts WHERE said = 'well'")
        b.write("INSERT INTO posts (said, reply_to) SELECT 'so', id FROM posts WHERE said = 'well'")
        a.write("DELETE FROM votes WHERE voter = 'v'")
        a.write("DELETE FROM posts WHERE said = 'well'")
        settle(a, b)
        for host in hosts:
            assert [said for said, *_ in posts(host)] == ["hello", "no", "oh"]
            assert votes(host) == [("u", "hello"), ("w", "oh")]
            assert host.rows("PRAGMA foreign_key_check") == []
            assert host.held() == 2

    @pytest.mark.parametrize("by_one", [False, True])
    def test_a_number_given_again_is_another_parents(
        self, hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, by_one: bool
    ) -> None:
        """What is left behind without foreign keys being enforced is the new row's, as SQLite sees
        it, wherever the journal is cut."""
        if by_one:
            fold = changelog.fold
            monkeypatch.setattr(changelog, "fold", lambda c, **options: fold(c, 1, **options))
        a, b = hosts
        a.write("INSERT INTO votes SELECT 'x', max(id), 1 FROM posts")
        settle(a, b)
        ((voter, number, said),) = a.rows(
            "SELECT voter, id, said FROM votes JOIN posts ON id = post WHERE voter = 'x'"
        )
        a.write("DELETE FROM posts WHERE id = ?", number)
        a.write("INSERT INTO posts (said) VALUES ('new')")
        assert (voter, "new") in votes(a)
        settle(a, b)
        assert votes(a) == votes(b)
        assert (voter, "new") in votes(b)
        assert said not in [row[0] for row in posts(b)]
        assert comparison.findings(a.replica) == []

    def test_a_row_left_behind_is_nobody_elses(self, hosts: tuple[Host, Host]) -> None:
        """It remembers whose it was, although nothing is enforced and no number is given again."""
        a, b = hosts
        a.write("DELETE FROM posts WHERE said = 'hello'")
        a.replica.fold()
        b.write("INSERT INTO posts (said) VALUES ('fresh')")
        settle(a, b)
        assert posts(a) == posts(b)
        assert [said for said, *_ in posts(a)] == ["fresh", "no", "oh"]
        assert votes(a) == votes(b) == [("w", "oh")]
        assert a.held() == b.held() == 3
        assert comparison.findings(a.replica) == []

    def test_children_follow_a_parent_to_another_number(self, hosts: tuple[Host, Host]) -> None:
        """REPLACE gives the site a number of its own choice."""
        a, b = hosts
        a.write("REPLACE INTO sites (account, number, town) VALUES ('ana''s', 1, 'far')")
        settle(a, b)
        assert posts(a) == posts(b)
        assert ("hello", None, "ana's", 1) in posts(b)
        assert comparison.findings(a.replica) == []

    def test_a_lost_reference_is_restored(self, hosts: tuple[Host, Host]) -> None:
        """The log says whose it was, as literals."""
        a, b = hosts
        a.write("UPDATE posts SET site = 7 WHERE said = 'no'")
        b.clock.ms += 1_000
        b.write("UPDATE posts SET site = 8 WHERE said = 'no'")
        settle(a, b)
        assert ("no", None, "bert", b"\0") in posts(a)
        (lost,) = a.replica.conflicts()
        assert lost.lost_value == "'ana''s', 1"
        a.replica.restore(lost.id)
        assert ("no", None, "ana's", 1) in posts(a)

    def test_the_order_and_the_form_of_a_key_are_each_hosts_own(self, tmp_path: Path) -> None:
        """One names (account, number), the other (number, account); 1 and 1.0 are one row."""
        a = Host(tmp_path, "a", ddl=SITES, tables=SITES_KEYS)
        b = Host(
            tmp_path,
            "b",
            ddl=f"PRAGMA encoding = 'UTF-16'; {SITES}",
            tables={**SITES_KEYS, "sites": ["number", "account"]},
        )
        a.write("INSERT INTO sites VALUES (1, 'x', 'y', 0), (2, 'y', 'x', 0), (3, ?, 1, 0)", "\0q")
        b.write("INSERT INTO sites VALUES (9, ?, 1.0, 0)", "\0q")
        settle(a, b)
        a.write("INSERT INTO posts (said, site) VALUES ('1', 1), ('2', 2), ('3', 3)")
        settle(a, b)
        assert [row[2:] for row in posts(b)] == [("x", "y"), ("y", "x"), ("\0q", 1)]
        assert b.held() == 0
        assert comparison.findings(a.replica) == []

    def test_numbers_that_nothing_speaks_of_are_forgotten(self, hosts: tuple[Host, Host]) -> None:
        """Not before the deletion is, nor while a child is left that says whose it was."""
        a, b = hosts
        a.write("DELETE FROM votes WHERE voter = 'v'")
        a.write("DELETE FROM posts WHERE said IN ('hello', 'well')")
        settle(a, b)
        kept = []
        for days in (0, 100, 100):
            for host in hosts:
                host.clock.ms += days * DAY_MS
            settle(a, b)
            for host in hosts:
                host.replica.compact()
                kept.append(host.rows("SELECT count(*) FROM syncd_numbers_posts WHERE gone"))
            if days:
                a.write("INSERT INTO votes (voter) VALUES ('u')")
                a.write("DELETE FROM votes WHERE voter = 'u'")
        assert kept[:2] == [[(2,)], [(2,)]]
        assert kept[2:4] == [[(1,)], [(1,)]]
        assert kept[4:] == [[(0,)], [(0,)]]

    def test_no_number_is_forgotten_while_a_table_cannot_be_asked(
        self, hosts: tuple[Host, Host]
    ) -> None:
        """A child that waits may say whose it was, and its table is renamed away for now."""
        a, b = hosts
        a.write("DELETE FROM posts WHERE said = 'well'")
        settle(a, b)
        for host in hosts:
            host.clock.ms += 100 * DAY_MS
        settle(a, b)
        a.write("ALTER TABLE votes RENAME TO away")
        assert a.replica.compact().deaths
        a.write("ALTER TABLE away RENAME TO votes")
        assert a.rows("SELECT count(*) FROM syncd_numbers_posts WHERE gone") == [(1,)]
