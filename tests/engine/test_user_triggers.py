"""What a merge sets off of the user's own triggers: as if the rows had been written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.hosts import Host, pull, settle
from syncd import show

NOTED = """
    CREATE TABLE noted (what TEXT);
    CREATE TRIGGER came AFTER INSERT ON {table} BEGIN
        INSERT INTO noted VALUES ('+' || NEW.k);
    END;
    CREATE TRIGGER changed AFTER UPDATE ON {table} BEGIN
        INSERT INTO noted VALUES ('=' || NEW.k);
    END;
    CREATE TRIGGER went AFTER DELETE ON {table} BEGIN
        INSERT INTO noted VALUES ('-' || OLD.k);
    END;
"""
"""Triggers that write down what happens to a table, by key, in a table that is not synced."""


def hosts(folder: Path, ddl: str, *tables: str) -> tuple[Host, Host]:
    """Return two hosts, the second with a clock a little ahead."""
    a, b = (Host(folder, node, ddl=ddl, tables=dict.fromkeys(tables)) for node in "ab")
    b.clock.ms += 10
    return a, b


def noted(host: Host) -> list[str]:
    """Return what has been written down, and forget it."""
    found = sorted(what for (what,) in host.rows("SELECT what FROM noted"))
    host.write("DELETE FROM noted")
    return found


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR ABORT", "INSERT OR ROLLBACK"])
def test_what_a_triggers_own_table_refuses_is_left_out(tmp_path: Path, verb: str) -> None:
    """A deletion is noted here already, as often as it likes; the rest of the trigger is done."""
    ddl = f"""
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE noted (what TEXT);
        CREATE TABLE once (k TEXT UNIQUE, is_late CHECK (is_late IN (0, 1)));
        CREATE TRIGGER went AFTER DELETE ON t BEGIN
            {verb} INTO once VALUES (OLD.k, 0);
            UPDATE once SET is_late = OLD.v WHERE k = OLD.k;
            INSERT INTO noted VALUES ('-' || OLD.k);
        END;
    """
    a, b = hosts(tmp_path, ddl, "t")
    b.write("INSERT INTO once VALUES ('x', 0)")
    a.write("INSERT INTO t VALUES ('x', 1), ('y', 2), ('z', 1)")
    pull(b, a)
    a.writer.execute("DROP TRIGGER went")
    a.write("DELETE FROM t")
    a.write("INSERT INTO t VALUES ('w', 0)")
    pull(b, a)
    assert b.rows("SELECT k FROM t") == [("w",)]
    assert b.rows("SELECT * FROM once ORDER BY k") == [("x", 1), ("y", 0), ("z", 1)]
    assert noted(b) == ["-x", "-y", "-z"]
    assert verb in b.rows("SELECT sql FROM sqlite_schema WHERE name = 'went'")[0][0]


def test_a_row_that_is_refused_leaves_the_triggers_of_others_as_they_are(tmp_path: Path) -> None:
    """A CHECK refuses one of many rows; what the triggers REPLACE for the others is replaced."""
    ddl = """
        CREATE TABLE parents (p TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v, w, p REFERENCES parents (p),
            CHECK (v + w < 10));
        CREATE TABLE last (one INTEGER PRIMARY KEY, k);
        CREATE TRIGGER came AFTER INSERT ON t BEGIN
            INSERT OR REPLACE INTO last VALUES (1, NEW.k);
        END;
    """
    a, b = hosts(tmp_path, ddl, "parents", "t")
    a.write("INSERT INTO t VALUES ('x', 1, 1, NULL)")
    settle(a, b)
    a.write("UPDATE t SET v = 8")
    b.write("UPDATE t SET w = 8")
    settle(a, b)
    assert b.rows("SELECT k FROM t") == []
    a.write("INSERT INTO t VALUES ('y', 1, 1, NULL)")
    pull(b, a)
    assert b.rows("SELECT k FROM t") == [("y",)]
    assert b.rows("SELECT k FROM last") == [("y",)]


def test_a_row_in_conflict_takes_no_other_out_of_the_table(tmp_path: Path) -> None:
    """Of a hundred updates one wants a value that another row has: the others are updates."""
    ddl = f"""
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v UNIQUE, w);
        {NOTED.format(table="t")}
    """
    a, b = hosts(tmp_path, ddl, "t")
    for number in range(100):
        a.write("INSERT INTO t VALUES (?, ?, 0)", f"{number:02}", number)
    settle(a, b)
    b.clock.ms = a.clock.ms + 1_000
    b.write("UPDATE t SET v = 'wanted' WHERE k = '07'")
    a.write("UPDATE t SET v = -v, w = 1 WHERE k BETWEEN '20' AND '80'")
    a.write("UPDATE t SET v = 'wanted', w = 1 WHERE k = '50'")
    noted(b)
    pull(b, a)
    assert noted(b) == sorted(["-50", *(f"={n}" for n in range(20, 81) if n != 50)])
    assert b.rows("SELECT k FROM t WHERE v = 'wanted'") == [("07",)]


def test_many_rows_in_conflict_find_their_places(tmp_path: Path) -> None:
    """Each of many rows wants the value that the next one gives up."""
    ddl = f"""
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v INTEGER UNIQUE);
        {NOTED.format(table="t")}
    """
    a, b = hosts(tmp_path, ddl, "t")
    count = 3 * show.REFUSED_MAX
    for number in range(count):
        a.write("INSERT INTO t VALUES (?, ?)", f"{number:03}", number)
    pull(b, a)
    noted(b)
    for number in reversed(range(count)):
        a.write("UPDATE t SET v = v + 1 WHERE v = ?", number)
    pull(b, a)
    query = "SELECT k, v FROM t ORDER BY k"
    assert b.rows(query) == a.rows(query)
    seen = noted(b)
    left = {what[1:] for what in seen if what[0] == "-"}
    assert {what[1:] for what in seen if what[0] == "+"} == left
    assert {what[1:] for what in seen if what[0] == "="} == {k for k, _ in a.rows(query)} - left


def test_a_row_that_gets_another_parent_stays_in_the_table(tmp_path: Path) -> None:
    """An update of a reference is an update, if the parent is there."""
    ddl = f"""
        CREATE TABLE parents (p TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES parents (p), v);
        {NOTED.format(table="t")}
    """
    a, b = hosts(tmp_path, ddl, "parents", "t")
    a.write("INSERT INTO parents VALUES ('one'), ('two')")
    a.write("INSERT INTO t VALUES ('x', 'one', 0), ('y', 'one', 0), ('z', 'one', 0)")
    settle(a, b)
    assert noted(b) == ["+x", "+y", "+z"]
    a.write("UPDATE t SET p = 'two' WHERE k = 'x'")
    a.write("UPDATE t SET p = NULL WHERE k = 'y'")
    pull(b, a)
    assert noted(b) == ["=x", "=y"]
    assert b.rows("SELECT k, p FROM t ORDER BY k") == [("x", "two"), ("y", None), ("z", "one")]
    b.write("DELETE FROM parents WHERE p = 'two'")
    b.write("DELETE FROM t WHERE k = 'x'")
    a.write("UPDATE t SET p = 'two' WHERE k = 'z'")
    pull(b, a)
    assert b.rows("SELECT k FROM t") == [("y",)]
    settle(a, b)
    assert a.rows("SELECT k FROM t") == [("y",)]


def test_a_row_that_gets_another_parent_by_number_stays_in_the_table(tmp_path: Path) -> None:
    """So it is where the parent is known by a number of this host's own."""
    ddl = f"""
        CREATE TABLE parents (id INTEGER PRIMARY KEY, p TEXT NOT NULL UNIQUE);
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, parent REFERENCES parents (id));
        {NOTED.format(table="t")}
    """
    a, b = (Host(tmp_path, node, ddl=ddl, tables={"parents": ["p"], "t": None}) for node in "ab")
    b.write("INSERT INTO parents VALUES (1, 'mine')")
    a.write("INSERT INTO parents VALUES (1, 'one'), (2, 'two')")
    a.write("INSERT INTO t VALUES ('x', 1)")
    settle(a, b)
    noted(b)
    a.write("UPDATE t SET parent = 2")
    pull(b, a)
    assert noted(b) == ["=x"]
    shown = "SELECT t.k, p.p FROM t JOIN parents AS p ON p.id = t.parent"
    assert b.rows(shown) == [("x", "two")]
    a.write("INSERT INTO parents VALUES (9, 'three')")
    a.write("UPDATE t SET parent = 9")
    pull(b, a)
    assert b.rows(shown) == [("x", "three")]
