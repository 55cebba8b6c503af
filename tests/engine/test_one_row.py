"""No row blocks another: neither a round nor a fold fails for what one row's values are."""

from __future__ import annotations

import pytest

from engine.conftest import MakeHosts
from engine.hosts import pull, settle
from syncd import comparison
from syncd.errors import DatabaseError

DOCS = "CREATE TABLE docs (k TEXT PRIMARY KEY, kind TEXT, body TEXT{more})"
OF_JSON = "json_extract(body, '$.v')"


@pytest.mark.parametrize(
    ("more", "index"),
    [
        (f", CHECK (kind <> 'json' OR {OF_JSON} > 0)", None),
        ("", f"CREATE INDEX found ON docs ({OF_JSON}) WHERE kind = 'json'"),
        ("", f"CREATE UNIQUE INDEX found ON docs ({OF_JSON}) WHERE kind = 'json'"),
        (f", v AS (CASE kind WHEN 'json' THEN {OF_JSON} END) STORED", None),
        (f", v AS (CASE kind WHEN 'json' THEN {OF_JSON} END) UNIQUE", None),
    ],
)
def test_a_row_of_which_an_expression_cannot_be_made_is_held(
    make_hosts: MakeHosts, more: str, index: str | None
) -> None:
    """A makes it JSON while B writes what is none. It shows again once that is put right."""
    ddl = DOCS.format(more=more) + (f"; {index}" if index else "")
    a, b = make_hosts("a", "b", ddl=ddl, tables={"docs": None})
    a.write("""INSERT INTO docs (k, kind, body) VALUES ('d', 'text', '{"v": 1}')""")
    settle(a, b)
    a.write("UPDATE docs SET kind = 'json'")
    b.write("UPDATE docs SET body = 'no json'")
    a.write("INSERT INTO docs (k, kind, body) VALUES ('other', 'text', 'x')")
    settle(a, b)
    for host in (a, b):
        assert host.rows("SELECT k, kind, body FROM docs") == [("other", "text", "x")]
        (held,) = host.replica.held()
        assert (held.key, held.reason) == ("'d'", "constraint")
    a.write("""INSERT INTO docs (k, kind, body) VALUES ('d', 'json', '{"v": 2}')""")
    settle(a, b)
    for host in (a, b):
        assert host.rows("SELECT body FROM docs WHERE k = 'd'") == [('{"v": 2}',)]
        assert host.held() == 0


@pytest.mark.parametrize("word", ["no such", "ambiguous", "syntax error", "murky"])
def test_a_row_is_held_whatever_its_constraint_says(make_hosts: MakeHosts, word: str) -> None:
    """SQLite quotes it, so the text of an error tells nothing."""
    check = f"CHECK (kind IN ('clear', '{word}') OR n < 9)"
    ddl = f"CREATE TABLE t (k TEXT PRIMARY KEY, kind, n, {check})"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"t": None})
    a.write("INSERT INTO t VALUES ('x', 'clear', 1)")
    settle(a, b)
    a.write("UPDATE t SET n = 10")
    b.write("UPDATE t SET kind = 'else'")
    b.write("INSERT INTO t VALUES ('y', 'clear', 1)")
    settle(a, b)
    for host in (a, b):
        assert host.rows("SELECT k FROM t") == [("y",)]
        assert host.held() == 1


def test_no_row_is_blamed_for_what_a_merge_cannot_compute(make_hosts: MakeHosts) -> None:
    """A CHECK calls a function that only the app has: that is an error, and nothing is held."""
    a, b = make_hosts("a", "b", ddl="CREATE TABLE t (k TEXT PRIMARY KEY, v)", tables={"t": None})
    b.writer.create_function("good", 1, lambda _: True, deterministic=True)
    b.writer.executescript("DROP TABLE t; CREATE TABLE t (k TEXT PRIMARY KEY, v CHECK (good(v)))")
    a.write("INSERT INTO t VALUES ('x', 1)")
    with pytest.raises(DatabaseError, match="function: good"):
        pull(b, a)
    assert b.held() == 0


def test_a_row_that_a_strict_table_refuses_is_held(make_hosts: MakeHosts) -> None:
    """A's table has been migrated to take text, B's has not."""
    ddl = "CREATE TABLE t (k TEXT PRIMARY KEY, n {}) STRICT"
    (a,) = make_hosts("a", ddl=ddl.format("TEXT"), tables={"t": None})
    (b,) = make_hosts("b", ddl=ddl.format("INTEGER"), tables={"t": None})
    a.write("INSERT INTO t VALUES ('one', '1'), ('two', 'two'), ('three', '3')")
    pull(b, a)
    assert b.rows("SELECT * FROM t ORDER BY n") == [("one", 1), ("three", 3)]
    assert [one.key for one in b.replica.held()] == ["'two'"]


GREAT = [2**62 - 2, 2**62 - 1, 2**62, 2**63 - 1]


@pytest.mark.parametrize("number", GREAT)
def test_a_row_with_a_great_number_leaves_others_theirs(make_hosts: MakeHosts, number: int) -> None:
    """Behind it there may be none, and each row that arrives needs one of its own."""
    ddl = (
        "CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
        "CREATE TABLE cars (plate TEXT PRIMARY KEY, owner INTEGER REFERENCES owners (id))"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"owners": ["name"], "cars": None})
    b.write("INSERT INTO owners VALUES (?, 'great')", number)
    b.write("INSERT INTO cars VALUES ('great', ?)", number)
    for name in ("one", "two", "three"):
        a.write("INSERT INTO owners (name) VALUES (?)", name)
        a.write("INSERT INTO cars SELECT name, id FROM owners WHERE name = ?", name)
        settle(a, b)
    cars = "SELECT plate, name FROM cars LEFT JOIN owners ON id = owner ORDER BY plate"
    assert a.rows(cars) == b.rows(cars)
    assert [plate for plate, owner in b.rows(cars) if plate == owner] == [
        *("great", "one", "three", "two")
    ]


@pytest.mark.parametrize("number", GREAT)
def test_a_log_with_a_great_number_takes_all_lines(make_hosts: MakeHosts, number: int) -> None:
    """Their numbers are all that tells them apart."""
    ddl = "CREATE TABLE logs (id INTEGER PRIMARY KEY, line TEXT)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"logs": "generated"})
    b.write("INSERT INTO logs VALUES (?, 'great')", number)
    for line in ("one", "two", "three"):
        a.write("INSERT INTO logs (line) VALUES (?)", line)
        settle(a, b)
    for host in (a, b):
        lines = host.rows("SELECT line FROM logs ORDER BY line")
        assert lines == [("great",), ("one",), ("three",), ("two",)]


def test_a_row_written_past_the_triggers_ends_no_round(make_hosts: MakeHosts) -> None:
    """One of its key is displaced and held; it stays, what needs its value waits, and is mended."""
    ddl = "CREATE TABLE u (k TEXT PRIMARY KEY, mail TEXT UNIQUE)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"u": None})
    a.write("INSERT INTO u VALUES ('1', 'm')")
    b.clock.ms += 10
    b.write("INSERT INTO u VALUES ('2', 'm')")
    settle(a, b)
    triggers = a.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    for name, _ in triggers:
        a.writer.execute(f"DROP TRIGGER {name}")
    a.write("INSERT INTO u VALUES ('1', 'other')")
    for _, sql in triggers:
        a.writer.execute(sql)
    b.write("INSERT INTO u VALUES ('3', 'other'), ('4', 'free')")
    settle(a, b)
    assert a.rows("SELECT k FROM u ORDER BY k") == [("1",), ("2",), ("4",)]
    comparison.mend(a.replica, comparison.findings(a.replica))
    settle(a, b)
    assert a.rows("SELECT * FROM u ORDER BY k") == b.rows("SELECT * FROM u ORDER BY k")


@pytest.mark.parametrize("predicate", ["json_valid(body)", "kind = 'json'"])
def test_a_writer_is_not_refused_what_the_table_takes(
    make_hosts: MakeHosts, predicate: str
) -> None:
    """The triggers look for nothing that the index leaves out."""
    ddl = f"{DOCS.format(more='')}; CREATE UNIQUE INDEX i ON docs ({OF_JSON}) WHERE {predicate}"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"docs": None})
    a.write("INSERT INTO docs VALUES ('a', 'text', 'no json')")
    a.write("""INSERT INTO docs VALUES ('b', 'json', '{"v": 1}')""")
    a.write("UPDATE docs SET body = 'none', kind = 'text'")
    a.write("""INSERT OR REPLACE INTO docs VALUES ('c', 'json', '{"v": 1}')""")
    a.write("""INSERT OR REPLACE INTO docs VALUES ('d', 'json', '{"v": 1}')""")
    settle(a, b)
    docs = "SELECT k, kind FROM docs ORDER BY k"
    assert a.rows(docs) == b.rows(docs) == [("a", "text"), ("b", "text"), ("d", "json")]


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX i ON u (mail) WHERE(active = 1)",
        'CREATE UNIQUE INDEX i ON u (mail) WHERE"active"=1',
        "CREATE UNIQUE INDEX i ON u (mail) -- while active\n WHERE active = 1 -- only then",
        "CREATE UNIQUE INDEX i ON u (lower(mail) -- any case\n) /* while */ WHERE u.active = 1",
        "CREATE UNIQUE INDEX i ON u (mail /* any */ COLLATE NOCASE /* case */ DESC) WHERE active",
        "CREATE UNIQUE INDEX i ON u (CASE/**/WHEN active THEN lower(mail)/**/END/**/DESC)",
    ],
)
def test_a_partial_index_holds_nothing_back_outside_itself(
    make_hosts: MakeHosts, index: str
) -> None:
    """However it is written; the rows have a parent, so it is settled which of them show."""
    ddl = (
        "CREATE TABLE p (k TEXT PRIMARY KEY);"
        f"CREATE TABLE u (k TEXT PRIMARY KEY, mail, active, p REFERENCES p (k)); {index}"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"p": None, "u": None})
    a.write("INSERT INTO p VALUES ('p')")
    settle(a, b)
    a.write("INSERT INTO u VALUES ('1', 'm', 0, 'p'), ('2', 'n', 1, 'p')")
    b.clock.ms += 10
    b.write("INSERT INTO u VALUES ('3', 'm', 0, 'p'), ('4', 'n', 1, 'p')")
    settle(a, b)
    for host in (a, b):
        assert host.rows("SELECT k FROM u ORDER BY k") == [("1",), ("3",), ("4",)]
        assert host.held() == 1


@pytest.mark.parametrize("refers", ["owners (ID)", "Owners (id)", "OWNERS"])
def test_a_reference_may_be_written_in_another_case(make_hosts: MakeHosts, refers: str) -> None:
    """It means what it means to SQLite: number 1 is another owner on each host."""
    ddl = (
        "CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
        f"CREATE TABLE cars (plate TEXT PRIMARY KEY, owner INTEGER REFERENCES {refers})"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"owners": ["name"], "cars": None})
    a.write("INSERT INTO owners (name) VALUES ('anna')")
    b.write("INSERT INTO owners (name) VALUES ('bert')")
    a.write("INSERT INTO cars VALUES ('A', 1)")
    settle(a, b)
    cars = "SELECT plate, name FROM cars JOIN owners ON id = owner"
    assert a.rows(cars) == b.rows(cars) == [("A", "anna")]
    b.write("DELETE FROM owners WHERE name = 'anna'")
    settle(a, b)
    for host in (a, b):
        assert host.rows("PRAGMA foreign_key_check") == []
        assert host.held() == 1


def test_a_trigger_may_name_its_table_in_another_case(make_hosts: MakeHosts) -> None:
    """It only refuses, and is not asked about what another host has taken."""
    a, b = make_hosts("a", "b")
    for host in (a, b):
        host.writer.execute(
            "CREATE TRIGGER one BEFORE INSERT ON Devices WHEN EXISTS (SELECT 1 FROM devices)"
            " BEGIN SELECT RAISE(ABORT, 'only one'); END"
        )
    a.write("INSERT INTO devices (device_id) VALUES ('a')")
    b.write("INSERT INTO devices (device_id) VALUES ('b')")
    settle(a, b)
    assert a.devices().keys() == b.devices().keys() == {"a", "b"}


def test_a_trigger_may_write_to_a_view(make_hosts: MakeHosts) -> None:
    """What stands behind the view is enrolled, so what was written to it travels by itself."""
    a, b = make_hosts("a", "b")
    for host in (a, b):
        host.writer.executescript(
            """
            CREATE VIEW shown AS SELECT device_id FROM devices;
            CREATE TRIGGER through INSTEAD OF INSERT ON shown BEGIN
                UPDATE devices SET status = 'touched' WHERE device_id = NEW.device_id; END;
            CREATE TRIGGER touch AFTER UPDATE OF note ON devices BEGIN
                INSERT INTO shown VALUES (NEW.device_id); END;
            """
        )
    a.write("INSERT INTO devices (device_id) VALUES ('a')")
    settle(a, b)
    a.write("UPDATE devices SET note = 'n'")
    triggers = b.rows("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")
    settle(a, b)
    assert a.devices() == b.devices() == {"a": ("touched", "n")}
    assert b.rows("SELECT sql FROM sqlite_schema WHERE type = 'trigger'") == triggers
