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


def in_conflict(folder: Path, count: int) -> tuple[Host, Host, list[str]]:
    """Let B have newer owners of values that some of A's updates want; return their keys.

    All updates of A are one statement, and come as one section.
    """
    ddl = f"""
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v UNIQUE, w);
        {NOTED.format(table="t")}
    """
    a, b = hosts(folder, ddl, "t")
    for number in range(300):
        a.write("INSERT INTO t VALUES (?, ?, 0)", f"{number:03}", number)
    settle(a, b)
    losers = [f"{20 + 7 * n:03}" for n in range(count)]
    b.clock.ms = a.clock.ms + 1_000
    for n in range(count):
        b.write("UPDATE t SET v = ? WHERE k = ?", f"wanted {n}", f"{n:03}")
    wanted = " ".join(f"WHEN '{key}' THEN 'wanted {n}'" for n, key in enumerate(losers))
    a.write(f"UPDATE t SET v = CASE k {wanted} ELSE -v END, w = 1 WHERE k >= '020'")
    noted(b)
    return a, b, losers


def test_rows_in_conflict_take_no_other_out_of_the_table(tmp_path: Path) -> None:
    """Of many updates some want a value that another row has: the others are updates."""
    a, b, losers = in_conflict(tmp_path, 10)
    pull(b, a)
    others = {f"{n:03}" for n in range(20, 300)} - {*losers}
    assert noted(b) == sorted([*(f"-{k}" for k in losers), *(f"={k}" for k in others)])
    assert b.rows("SELECT k FROM t WHERE v = 'wanted 7'") == [("007",)]
    assert b.rows("SELECT count(*) FROM t") == [(290,)]


def test_beyond_a_number_of_conflicts_others_leave_and_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows is the same; triggers see some more rows go and come."""
    monkeypatch.setattr(show, "REFUSED_MAX", 3)
    a, b, losers = in_conflict(tmp_path, 10)
    pull(b, a)
    seen = noted(b)
    came, went, changed = ({what[1:] for what in seen if what[0] == sign} for sign in "+-=")
    assert went == came | {*losers}
    assert came
    assert came | changed == {f"{n:03}" for n in range(20, 300)} - {*losers}
    assert b.rows("SELECT count(*) FROM t") == [(290,)]


FAILING = {
    "a CHECK": ("kept (k, v CHECK (v < 2))", "REPLACE INTO kept VALUES ('x', 7)"),
    "NOT NULL": (
        "kept (k PRIMARY KEY, v NOT NULL)",
        "INSERT OR REPLACE INTO kept VALUES (1, NULL)",
    ),
    "an upsert": (
        "kept (k PRIMARY KEY, v CHECK (v < 2))",
        "INSERT INTO kept VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET v = 2",
    ),
    "STRICT": ("kept (v INTEGER) STRICT", "INSERT INTO kept VALUES ('x')"),
    "no JSON": ("kept (v)", "INSERT INTO kept VALUES (json_extract('bad', '$.x'))"),
    "RAISE": ("kept (v)", "INSERT INTO kept SELECT CASE WHEN 1 THEN RAISE(ABORT, 'no)') END"),
    "RAISE in turn": (
        "kept (v); CREATE TRIGGER no BEFORE INSERT ON kept BEGIN SELECT RAISE(ABORT, 'no'); END",
        "INSERT INTO kept VALUES (1)",
    ),
    "RAISE(IGNORE)": ("kept (v)", "INSERT INTO kept SELECT coalesce(NULL, raise ( Ignore))"),
}
"""What a trigger's own table is, and its statement, which fails sooner or later."""


@pytest.mark.parametrize("event", ["BEFORE INSERT", "AFTER INSERT", "AFTER UPDATE", "AFTER DELETE"])
@pytest.mark.parametrize("name", FAILING)
def test_a_trigger_that_fails_stops_no_row(tmp_path: Path, name: str, event: str) -> None:
    """What another host has accepted is merged; the trigger stands as it did."""
    kept, statement = FAILING[name]
    plain = "CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v)"
    a, b = hosts(tmp_path, plain, "t")
    a.write("INSERT INTO t VALUES ('x', 1), ('y', 1)")
    settle(a, b)
    trigger = f"CREATE TRIGGER failing {event} ON t BEGIN {statement}; END"
    b.writer.executescript(f"CREATE TABLE {kept}; {trigger};")
    a.write("UPDATE t SET v = 2 WHERE k = 'x'")
    a.write("INSERT INTO t VALUES ('z', 1)")
    a.write("DELETE FROM t WHERE k = 'y'")
    for _ in range(2):
        pull(b, a)
        assert b.rows("SELECT * FROM t ORDER BY k") == a.rows("SELECT * FROM t ORDER BY k")
        assert b.held() == 0
        a.write("UPDATE t SET v = v + 1")
    assert b.rows("SELECT sql FROM sqlite_schema WHERE name = 'failing'") == [(trigger,)]


def test_triggers_keep_the_order_in_which_they_are_set_off(tmp_path: Path) -> None:
    """SQLite promises none, and still has one that nobody wants to see change."""
    ddl = """
        CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE seen (what);
        CREATE TRIGGER one AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO seen VALUES (1); END;
        CREATE TRIGGER two AFTER INSERT ON t BEGIN INSERT INTO seen VALUES (2); END;
        CREATE TRIGGER three AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO seen VALUES (3); END;
    """
    a, b = hosts(tmp_path, ddl, "t")
    a.write("INSERT INTO t VALUES ('x')")
    pull(b, a)
    b.write("INSERT INTO t VALUES ('y')")
    assert b.rows("SELECT what FROM seen") == 2 * a.rows("SELECT what FROM seen")


@pytest.mark.parametrize("policy", ["", "ON CONFLICT REPLACE", "ON CONFLICT IGNORE"])
def test_a_row_past_the_triggers_stands_for_its_hidden_twin(tmp_path: Path, policy: str) -> None:
    """A dump brings a displaced row back beside its winner; rounds go on, and that row stays."""
    ddl = f"CREATE TABLE t (k TEXT PRIMARY KEY {policy} NOT NULL, v UNIQUE, w)"
    a, b = hosts(tmp_path, ddl, "t")
    a.write("INSERT INTO t VALUES ('x', 1, 'a')")
    b.clock.ms = a.clock.ms + 1_000
    b.write("INSERT INTO t VALUES ('y', 1, 'b')")
    settle(a, b)
    triggers = b.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    for name, _ in triggers:
        b.writer.execute(f"DROP TRIGGER {name}")
    b.writer.execute("INSERT INTO t VALUES ('x', 2, 'past')")
    for _, sql in triggers:
        b.writer.execute(sql)
    a.clock.ms = b.clock.ms + 1_000
    a.write("UPDATE t SET v = 5 WHERE k = 'y'")
    pull(b, a)
    assert b.rows("SELECT * FROM t ORDER BY k") == [("x", 2, "past"), ("y", 5, "b")]
    b.write("UPDATE t SET w = 'mine' WHERE k = 'x'")
    settle(a, b)
    assert a.rows("SELECT k, w FROM t ORDER BY k") == [("x", "mine"), ("y", "b")]


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
