"""Constraints hold on every host after every merge, and no row is lost or in another's way."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import pytest

from engine.hosts import Clock, Host

UNIQUE = (
    "CREATE TABLE people (name TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE, phone TEXT UNIQUE)"
)
FAMILY = """
    CREATE TABLE parents (name TEXT PRIMARY KEY NOT NULL);
    CREATE TABLE children (
        name TEXT PRIMARY KEY NOT NULL,
        parent TEXT REFERENCES parents(name) ON DELETE CASCADE
    );
"""


def host(folder: Path, node: str, ddl: str, *tables: str) -> Host:
    """Make a host whose tables are keyed by their primary keys."""
    return Host(folder, node, ddl=ddl, tables=dict.fromkeys(tables))


def pull(receiver: Host, sender: Host) -> None:
    """Pull everything, and check that the receiver's file is sound."""
    while True:
        after = receiver.replica.peers.cursor(sender.replica.origin())
        header, frame = sender.replica.changes_since(receiver.replica.vector(), after)
        receiver.replica.merge(header, frame)
        if frame.claim is not None:
            break
    assert receiver.rows("PRAGMA foreign_key_check") == []
    assert receiver.rows("PRAGMA integrity_check") == [("ok",)]


def exchange(*hosts: Host) -> None:
    """Let everybody pull from everybody until nothing is new."""
    for _ in range(2):
        for receiver, sender in itertools.permutations(hosts, 2):
            pull(receiver, sender)


def test_the_newer_of_two_rows_shows_and_the_other_returns_when_it_goes(tmp_path: Path) -> None:
    """Two hosts give one e-mail address to two people; the loser is held and comes back."""
    a, b = (host(tmp_path, node, UNIQUE, "people") for node in "ab")
    b.clock.ms += 10
    a.write("INSERT INTO people VALUES ('old', 'x', NULL)")
    b.write("INSERT INTO people VALUES ('new', 'x', NULL)")
    exchange(a, b)
    for one in (a, b):
        assert one.rows("SELECT name FROM people") == [("new",)]
        assert one.replica.status().held == 1
    b.write("UPDATE people SET email = 'y' WHERE name = 'new'")
    exchange(a, b)
    for one in (a, b):
        assert one.rows("SELECT name, email FROM people ORDER BY 1") == [("new", "y"), ("old", "x")]
        assert one.replica.status().held == 0


def test_a_held_row_is_changed_deleted_and_passed_on_like_any_other(tmp_path: Path) -> None:
    """A third host hears of a displaced row from one where it does not show."""
    a, b, c = (host(tmp_path, node, UNIQUE, "people") for node in "abc")
    b.clock.ms += 10
    a.write("INSERT INTO people VALUES ('old', 'x', '1')")
    b.write("INSERT INTO people VALUES ('new', 'x', '2')")
    pull(b, a)
    pull(c, b)
    a.write("UPDATE people SET phone = '3' WHERE name = 'old'")
    pull(b, a)
    pull(c, b)
    assert c.rows("SELECT name FROM people") == [("new",)]
    b.write("DELETE FROM people WHERE name = 'new'")
    pull(c, b)
    assert c.rows("SELECT * FROM people") == [("old", "x", "3")]
    assert b.rows("SELECT * FROM people") == [("old", "x", "3")]


def test_a_swap_of_unique_values_arrives(tmp_path: Path) -> None:
    """Nobody competes, only the order in which rows are written would be in the way."""
    a, b = (host(tmp_path, node, UNIQUE, "people") for node in "ab")
    a.write("INSERT INTO people VALUES ('p', 'x', NULL), ('q', 'y', NULL)")
    exchange(a, b)
    a.write("UPDATE people SET email = NULL WHERE name = 'p'")
    a.write("UPDATE people SET email = 'x' WHERE name = 'q'")
    a.write("UPDATE people SET email = 'y' WHERE name = 'p'")
    exchange(a, b)
    assert b.rows("SELECT name, email FROM people ORDER BY 1") == [("p", "y"), ("q", "x")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_who_shows_does_not_depend_on_the_order_of_merges(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Of a chain of three rivals the first and the last show, whichever is merged when."""
    writers = [host(tmp_path, f"w{n}", UNIQUE, "people") for n in range(3)]
    rows = [("old", "e", None), ("mid", "e", "p"), ("new", None, "p")]
    for n, (writer, row) in enumerate(zip(writers, rows, strict=True)):
        writer.clock.ms += 10 * n
        writer.write("INSERT INTO people VALUES (?, ?, ?)", *row)
    reader = host(tmp_path, "reader", UNIQUE, "people")
    for n in order:
        pull(reader, writers[n])
    assert reader.rows("SELECT name FROM people ORDER BY 1") == [("new",), ("old",)]


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX one ON people (lower(email))",
        "CREATE UNIQUE INDEX one ON people (email COLLATE NOCASE)",
        "CREATE UNIQUE INDEX one ON people (email COLLATE NOCASE DESC) WHERE phone IS NULL",
    ],
)
def test_unusual_unique_indexes_are_kept(tmp_path: Path, index: str) -> None:
    """An index on an expression, in another collation or on a part of the rows counts as well."""
    ddl = f"CREATE TABLE people (name TEXT PRIMARY KEY NOT NULL, email TEXT, phone TEXT); {index};"
    a, b = (host(tmp_path, node, ddl, "people") for node in "ab")
    b.clock.ms += 10
    a.write("INSERT INTO people VALUES ('old', 'X', NULL)")
    b.write("INSERT INTO people VALUES ('new', 'x', NULL)")
    exchange(a, b)
    assert a.rows("SELECT name FROM people") == b.rows("SELECT name FROM people") == [("new",)]


def test_a_child_shows_while_its_parent_does(tmp_path: Path) -> None:
    """A deletes the parent while B adds a child: held, until somebody adds the parent again."""
    a, b = (host(tmp_path, node, FAMILY, "parents", "children") for node in "ab")
    a.write("INSERT INTO parents VALUES ('p')")
    exchange(a, b)
    a.write("DELETE FROM parents")
    b.write("INSERT INTO children VALUES ('c', 'p')")
    exchange(a, b)
    for one in (a, b):
        assert one.rows("SELECT * FROM children") == []
        assert one.replica.status().held == 1
    b.clock.ms = a.clock.ms = max(a.clock.ms, b.clock.ms)
    a.write("INSERT INTO parents VALUES ('p')")
    exchange(a, b)
    assert a.rows("SELECT * FROM children") == b.rows("SELECT * FROM children") == [("c", "p")]


def test_a_row_that_refers_to_its_own_table_shows_with_its_chain(tmp_path: Path) -> None:
    """Bosses may arrive after those who report to them, and a boss's end hides the whole chain."""
    ddl = "CREATE TABLE staff (name TEXT PRIMARY KEY NOT NULL, boss TEXT REFERENCES staff(name))"
    a, b = (host(tmp_path, node, ddl, "staff") for node in "ab")
    a.write("INSERT INTO staff VALUES ('top', NULL), ('mid', 'top'), ('low', 'mid')")
    exchange(a, b)
    assert len(b.rows("SELECT * FROM staff")) == 3
    b.write("INSERT INTO staff VALUES ('new', 'low')")
    a.write("DELETE FROM staff WHERE name = 'top'")
    exchange(a, b)
    assert a.rows("SELECT * FROM staff") == b.rows("SELECT * FROM staff") == []


def test_a_check_that_only_one_host_has_holds_the_row_there_alone(tmp_path: Path) -> None:
    """The refused row stands in nobody's way and travels on."""
    plain = "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, n INTEGER)"
    a = host(tmp_path, "a", plain, "t")
    b = host(tmp_path, "b", plain.replace("n INTEGER", "n INTEGER CHECK (n > 0)"), "t")
    c = host(tmp_path, "c", plain, "t")
    a.write("INSERT INTO t VALUES ('bad', -1), ('good', 1)")
    pull(b, a)
    pull(c, b)
    assert b.rows("SELECT k FROM t") == [("good",)]
    assert c.rows("SELECT k FROM t ORDER BY 1") == [("bad",), ("good",)]
    a.write("UPDATE t SET n = 5 WHERE k = 'bad'")
    pull(b, a)
    assert b.rows("SELECT k, n FROM t ORDER BY 1") == [("bad", 5), ("good", 1)]


def test_a_displaced_row_gets_its_local_id_back(tmp_path: Path) -> None:
    """The surrogate id is this host's own, and whoever noted it down finds the row again."""
    ddl = """CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE, email TEXT UNIQUE)"""
    a, b = (Host(tmp_path, node, ddl=ddl, tables={"people": ["name"]}) for node in "ab")
    a.write("INSERT INTO people (name) VALUES ('first')")
    b.clock.ms += 10
    a.write("INSERT INTO people (name, email) VALUES ('old', 'x')")
    b.write("INSERT INTO people (name, email) VALUES ('new', 'x')")
    pull(a, b)
    assert a.rows("SELECT name FROM people ORDER BY 1") == [("first",), ("new",)]
    b.write("DELETE FROM people")
    pull(a, b)
    assert a.rows("SELECT id, name FROM people ORDER BY 1") == [(1, "first"), (2, "old")]


@pytest.mark.parametrize("policy", ["REPLACE", "IGNORE"])
def test_a_constraint_with_a_policy_of_its_own_loses_nothing(tmp_path: Path, policy: str) -> None:
    """UNIQUE ON CONFLICT REPLACE is the writer's convenience; a merge holds the row instead."""
    ddl = f"""CREATE TABLE people (name TEXT PRIMARY KEY NOT NULL,
        email TEXT UNIQUE ON CONFLICT {policy}, phone TEXT)"""
    a, b = (host(tmp_path, node, ddl, "people") for node in "ab")
    b.clock.ms += 10
    a.write("INSERT INTO people VALUES ('old', 'x', NULL)")
    b.write("INSERT INTO people VALUES ('new', 'x', NULL)")
    exchange(a, b)
    b.write("DELETE FROM people WHERE name = 'new'")
    exchange(a, b)
    assert a.rows("SELECT name FROM people") == b.rows("SELECT name FROM people") == [("old",)]


def test_triggers_of_the_user_fire_where_they_belong(tmp_path: Path) -> None:
    """An index of the user's own is right everywhere, a log that is synced gets each line once."""
    ddl = """
        CREATE TABLE notes (name TEXT PRIMARY KEY NOT NULL, text TEXT, touched INTEGER);
        CREATE TABLE log (id TEXT PRIMARY KEY NOT NULL, what TEXT);
        CREATE VIRTUAL TABLE found USING fts5(name, text);
        CREATE TRIGGER index_insert AFTER INSERT ON notes BEGIN
            INSERT INTO found (name, text) VALUES (NEW.name, NEW.text);
        END;
        CREATE TRIGGER index_update AFTER UPDATE OF text ON notes BEGIN
            UPDATE found SET text = NEW.text WHERE name = NEW.name;
        END;
        CREATE TRIGGER index_delete AFTER DELETE ON notes BEGIN
            DELETE FROM found WHERE name = OLD.name;
        END;
        CREATE TRIGGER audit AFTER UPDATE OF text ON notes BEGIN
            INSERT INTO log VALUES (hex(randomblob(8)), NEW.name || ': ' || NEW.text);
            UPDATE notes SET touched = abs(random()) WHERE name = NEW.name;
        END;
        CREATE TRIGGER refuse BEFORE INSERT ON notes WHEN NEW.text = 'bad' BEGIN
            SELECT RAISE(ABORT, 'no');
        END;
    """
    a, b = (host(tmp_path, node, ddl, "notes", "log") for node in "ab")
    a.write("INSERT INTO notes VALUES ('n', 'one', 0), ('gone', 'x', 0)")
    exchange(a, b)
    b.write("UPDATE notes SET text = 'two' WHERE name = 'n'")
    b.write("DELETE FROM notes WHERE name = 'gone'")
    exchange(a, b)
    for query in (
        "SELECT * FROM notes ORDER BY name",
        "SELECT * FROM log ORDER BY id",
        "SELECT name, text FROM found ORDER BY name",
    ):
        assert a.rows(query) == b.rows(query)
    assert a.rows("SELECT what FROM log") == [("n: two",)]
    assert a.rows("SELECT name, text FROM found") == [("n", "two")]


def test_a_trigger_that_does_both_does_what_is_this_hosts_own(tmp_path: Path) -> None:
    """One statement feeds an index, which a merge must do, too; others write what is synced."""
    ddl = """
        CREATE TABLE notes (name TEXT PRIMARY KEY NOT NULL, text TEXT, "begin" INTEGER);
        CREATE TABLE log (id TEXT PRIMARY KEY NOT NULL, what TEXT);
        CREATE VIRTUAL TABLE found USING fts5(text, content='notes');
        CREATE TRIGGER inserted AFTER INSERT ON notes BEGIN
            INSERT INTO found (rowid, text) VALUES (NEW.rowid, NEW.text); -- fed; as ever
            INSERT OR IGNORE INTO "Log" VALUES (hex(randomblob(8)), 'new; ' || NEW.name);
        END;
        CREATE TRIGGER updated AFTER UPDATE OF text, begin ON notes
        WHEN CASE WHEN OLD.begin THEN 1 ELSE NEW.text IS NOT OLD.text END BEGIN
            SELECT RAISE(ABORT, 'no') WHERE NEW.text = 'bad';
            UPDATE 'notes' SET "begin" = abs(random()) WHERE name = NEW.name;
            INSERT INTO found (found, rowid, text) VALUES ('delete', OLD.rowid, OLD.text);
            REPLACE INTO [found] (rowid, text) VALUES (NEW.rowid, NEW.text);
        END;
        CREATE TRIGGER deleted AFTER DELETE ON notes -- BEGIN
        BEGIN
            INSERT INTO found (found, rowid, text) VALUES ('delete', OLD.rowid, OLD.text) -- ; out
            ; /* and; */ DELETE FROM log WHERE what = 'new; ' || OLD.name;
        END;
    """
    a, b = (host(tmp_path, node, ddl, "notes", "log") for node in "ab")
    a.write("INSERT INTO notes VALUES ('n', 'one', 0), ('gone', 'two', 0)")
    exchange(a, b)
    b.write("UPDATE notes SET text = 'three' WHERE name = 'n'")
    b.write("DELETE FROM notes WHERE name = 'gone'")
    exchange(a, b)
    for query in ("SELECT * FROM notes", "SELECT * FROM log"):
        assert a.rows(query) == b.rows(query)
    assert a.rows("SELECT what FROM log") == [("new; n",)]
    for one in (a, b):
        one.write("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
        assert one.rows("SELECT text FROM found('three')") == [("three",)]
        triggers = one.rows("SELECT sql FROM sqlite_schema WHERE name = 'updated'")
        assert "UPDATE 'notes'" in triggers[0][0]


def test_a_trigger_that_only_refuses_is_not_asked_again(tmp_path: Path) -> None:
    """What one host has accepted cannot stop another's sync."""
    plain = "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL)"
    refusing = plain + "; CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'x'); END"
    a, b = host(tmp_path, "a", plain, "t"), host(tmp_path, "b", refusing, "t")
    a.write("INSERT INTO t VALUES ('k')")
    pull(b, a)
    assert b.rows("SELECT * FROM t") == [("k",)]


def test_a_trigger_that_notes_and_refuses_notes_in_a_merge(tmp_path: Path) -> None:
    """What one host has accepted is not refused by another, and its own table has the line."""
    plain = "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL); CREATE TABLE seen (k)"
    refusing = f"""{plain}; CREATE TRIGGER note AFTER INSERT ON t BEGIN
        INSERT INTO seen VALUES (NEW.k);
        SELECT RAISE(ABORT, 'x') WHERE NEW.k = 'bad';
    END"""
    a, b = host(tmp_path, "a", plain, "t"), host(tmp_path, "b", refusing, "t")
    a.write("INSERT INTO t VALUES ('bad'), ('good')")
    pull(b, a)
    assert b.rows("SELECT * FROM t") == b.rows("SELECT * FROM seen") == [("bad",), ("good",)]
    b.write("DELETE FROM t")
    with pytest.raises(sqlite3.IntegrityError, match="x"):
        b.write("INSERT INTO t VALUES ('bad')")


def test_changes_of_a_dropped_table_are_held_until_it_is_back(tmp_path: Path) -> None:
    """A host without the table syncs the others, and shows what it missed after enrolling again."""
    ddl = (
        "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL); CREATE TABLE u (k TEXT PRIMARY KEY NOT NULL)"
    )
    a, b = (host(tmp_path, node, ddl, "t", "u") for node in "ab")
    b.write("DROP TABLE t")
    a.write("INSERT INTO t VALUES ('x')")
    a.write("INSERT INTO u VALUES ('y')")
    pull(b, a)
    assert b.rows("SELECT * FROM u") == [("y",)]
    assert b.replica.status().held == 1
    b.write("CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL)")
    b.enrol()
    assert b.rows("SELECT * FROM t") == [("x",)]


def test_the_order_of_a_keys_columns_is_each_hosts_own(tmp_path: Path) -> None:
    """Two hosts may list the same columns in another order."""
    ddl = "CREATE TABLE t (x TEXT NOT NULL, y TEXT NOT NULL, v, UNIQUE (x, y))"
    a = Host(tmp_path, "a", ddl=ddl, tables={"t": ["x", "y"]})
    b = Host(tmp_path, "b", ddl=ddl, tables={"t": ["y", "x"]})
    a.write("INSERT INTO t VALUES ('1', '2', 'v')")
    pull(b, a)
    assert b.rows("SELECT * FROM t") == [("1", "2", "v")]


def test_an_orphan_is_held_where_it_was_written_too(tmp_path: Path) -> None:
    """SQLite lets a writer break a foreign key by default; all hosts show the same all the same."""
    a, b = (host(tmp_path, node, FAMILY, "parents", "children") for node in "ab")
    a.write("INSERT INTO children VALUES ('c', 'p')")
    exchange(a, b)
    assert a.rows("SELECT * FROM children") == b.rows("SELECT * FROM children") == []
    b.write("INSERT INTO parents VALUES ('p')")
    exchange(a, b)
    assert a.rows("SELECT * FROM children") == b.rows("SELECT * FROM children") == [("c", "p")]


def test_a_child_goes_with_a_parent_that_an_update_takes_away(tmp_path: Path) -> None:
    """The parent takes a value that another row holds by a newer right; it leaves, it does not die.

    No entry says that it is gone, and no other row has displaced it.
    """
    ddl = """
        CREATE TABLE parents (name TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE);
        CREATE TABLE children (name TEXT PRIMARY KEY NOT NULL, parent REFERENCES parents(name));
    """
    a, b = (host(tmp_path, node, ddl, "parents", "children") for node in "ab")
    a.write("INSERT INTO parents VALUES ('p', 'old')")
    a.write("INSERT INTO children VALUES ('c', 'p')")
    pull(b, a)
    a.write("UPDATE parents SET email = 'wanted'")
    b.clock.ms = a.clock.ms + 10
    b.write("INSERT INTO parents VALUES ('q', 'wanted')")
    pull(b, a)
    pull(a, b)
    for one in (a, b):
        assert one.rows("SELECT name FROM parents") == [("q",)]
        assert one.rows("SELECT name FROM children") == []
        one.close()


def test_a_row_gets_its_old_number_back_before_others_get_new_ones(tmp_path: Path) -> None:
    """Two rows are set aside and show again together; one had number 1, the other has none yet."""
    ddl = (
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, phone TEXT UNIQUE)"
    )
    a, b = (
        Host(tmp_path, node, ddl=ddl, tables={"people": ["name"]}, clock=Clock()) for node in "ab"
    )
    b.write("INSERT INTO people (name, phone) VALUES ('bob', '1')")
    a.write("INSERT INTO people (name, phone) VALUES ('ann', '1')")
    a.clock.ms += 10
    a.write("INSERT INTO people (name) VALUES ('bob')")
    pull(b, a)
    pull(a, b)
    shown = sorted(a.rows("SELECT name, phone FROM people"))
    assert (
        sorted(b.rows("SELECT name, phone FROM people")) == shown == [("ann", "1"), ("bob", None)]
    )
    for one in (a, b):
        one.close()


def test_a_fold_changes_no_schema_where_nothing_comes_or_goes(tmp_path: Path) -> None:
    """Every connection would read it anew, those of the app as well. Rows refer to others here."""
    ddl = (
        "CREATE TABLE people (name TEXT NOT NULL PRIMARY KEY, phone TEXT UNIQUE,"
        " mother REFERENCES people (name))"
    )
    a, b = (Host(tmp_path, node, ddl=ddl, tables={"people": None}, clock=Clock()) for node in "ab")
    before = a.rows("PRAGMA schema_version")
    for change in (
        "INSERT INTO people VALUES ('ann', '1', NULL), ('bob', '2', 'ann'), ('cid', '3', 'bob')",
        "UPDATE people SET phone = '4' WHERE name = 'ann'",
        "UPDATE people SET mother = NULL WHERE name = 'bob'",
        "DELETE FROM people WHERE name = 'ann'",
    ):
        a.write(change)
        a.replica.fold()
        assert a.rows("PRAGMA schema_version") == before
    pull(b, a)
    pull(a, b)
    assert a.rows("PRAGMA schema_version") == before
    assert b.rows("SELECT name FROM people ORDER BY 1") == [("bob",), ("cid",)]
    a.write("PRAGMA foreign_keys = OFF")
    a.write("DELETE FROM people WHERE name = 'bob'")
    a.replica.fold()
    assert a.rows("SELECT name FROM people") == []
    for one in (a, b):
        one.close()
