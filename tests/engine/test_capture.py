"""Changes are captured whoever writes, and nothing is captured that did not happen."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, Key, ask, changes_in, pull, settle
from engine.model import ALIVE, DEAD, EXISTENCE
from syncd.vector import Vector

FAMILY = """
    CREATE TABLE parents (name TEXT PRIMARY KEY, note);
    CREATE TABLE children (
        name TEXT PRIMARY KEY,
        parent TEXT REFERENCES parents (name) ON DELETE CASCADE ON UPDATE CASCADE,
        other TEXT REFERENCES parents (name) ON DELETE SET NULL
    );
"""
FAMILY_TABLES: dict[str, Key] = {"parents": None, "children": None}


def assert_silent(receiver: Host, sender: Host) -> None:
    """Nothing is told that the receiver does not have."""
    _, frame = ask(receiver, sender)
    assert frame.sections == []


def run_shell(host: Host, statements: Iterable[str]) -> None:
    """Run statements in SQLite's own shell."""
    shell = shutil.which("sqlite3")
    if shell is None:
        pytest.skip("the sqlite3 shell is not installed")
    script = ";\n".join(statements) + ";"
    subprocess.run([shell, "-bail", host.path], input=script, text=True, check=True)


def test_writes_of_the_sqlite3_shell_are_captured(make_hosts: MakeHosts) -> None:
    """A program that has never heard of syncd writes, under the machine's real clock."""
    a, b = make_hosts("a", "b")
    b.clock.ms = 10**13
    run_shell(
        a,
        [
            "INSERT INTO devices (device_id, note) VALUES ('d', x'00ff'), ('e', 1e999), ('f', 3)",
            "UPDATE devices SET status = 'blocked' WHERE device_id = 'd'",
            "UPDATE devices SET device_id = 'g' WHERE device_id = 'e'",
            "DELETE FROM devices WHERE device_id = 'f'",
            "REPLACE INTO devices (id, device_id) VALUES (1, 'h')",
        ],
    )
    pull(b, a)
    assert b.devices() == a.devices() == {"g": ("new", float("inf")), "h": ("new", None)}


def test_a_cascade_is_captured(make_hosts: MakeHosts) -> None:
    """SQLite deletes, renames and empties children for a parent; so must every host."""
    a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_TABLES)
    a.writer.execute("PRAGMA foreign_keys = ON")
    a.write("INSERT INTO parents VALUES ('p', 1), ('q', 2), ('r', 3)")
    a.write("INSERT INTO children VALUES ('c', 'p', 'q'), ('d', 'q', 'p'), ('e', 'r', NULL)")
    settle(a, b)
    a.write("DELETE FROM parents WHERE name = 'p'")
    a.write("UPDATE parents SET name = 's' WHERE name = 'r'")
    settle(a, b)
    for table in FAMILY_TABLES:
        rows = a.rows(f"SELECT * FROM {table} ORDER BY 1")
        assert b.rows(f"SELECT * FROM {table} ORDER BY 1") == rows
    assert b.rows("SELECT * FROM children ORDER BY 1") == [("d", "q", None), ("e", "s", None)]


def test_a_row_that_a_cascade_replaces_dies_and_is_born_again(make_hosts: MakeHosts) -> None:
    """The children of a displaced parent go; those of the row that gets its key take their keys."""
    ddl = """
        CREATE TABLE teams (team TEXT PRIMARY KEY);
        CREATE TABLE members (
            team TEXT REFERENCES teams (team) ON DELETE CASCADE ON UPDATE CASCADE,
            name TEXT, note, PRIMARY KEY (team, name)
        ) WITHOUT ROWID;
    """
    a, b = make_hosts("a", "b", ddl=ddl, tables={"teams": None, "members": None})
    a.writer.execute("PRAGMA foreign_keys = ON")
    a.write("INSERT INTO teams VALUES ('t'), ('u')")
    a.write("INSERT INTO members VALUES ('t', 'ann', 1), ('t', 'bob', 2), ('u', 'ann', 3)")
    settle(a, b)
    a.write("UPDATE OR REPLACE teams SET team = 't' WHERE team = 'u'")
    (frame,) = (frame for _, frame in pull(b, a))
    told = sorted((c for c in changes_in(frame) if c.table == "members"), key=lambda c: c.stamp)
    ann = [c.value for c in told if c.key == (("text", b"t"), ("text", b"ann"))]
    assert [value for value in ann if value in (ALIVE, DEAD)] == [DEAD, ALIVE]
    settle(a, b)
    assert b.rows("SELECT * FROM members") == a.rows("SELECT * FROM members") == [("t", "ann", 3)]
    assert b.rows("SELECT * FROM teams") == [("t",)]


def test_a_merge_does_not_cascade_by_itself(make_hosts: MakeHosts) -> None:
    """Children die where their writer killed them, not once more at each host that merges."""
    a, b = make_hosts("a", "b", ddl=FAMILY, tables=FAMILY_TABLES)
    a.writer.execute("PRAGMA foreign_keys = ON")
    a.write("INSERT INTO parents VALUES ('p', 1)")
    a.write("INSERT INTO children VALUES ('c', 'p', NULL)")
    settle(a, b)
    a.write("DELETE FROM parents")
    settle(a, b)
    assert b.rows("SELECT * FROM children") == []
    assert b.replica.vector()[b.identity] == 0


@pytest.mark.parametrize("sql", ["DELETE FROM devices", "DELETE FROM devices WHERE id > 0"])
def test_a_bulk_delete_is_captured(make_hosts: MakeHosts, sql: str) -> None:
    """Without a WHERE, SQLite likes to empty a table without looking at its rows."""
    a, b = make_hosts("a", "b")
    a.write(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)"
        " INSERT INTO devices (device_id) SELECT 'device ' || i FROM n"
    )
    settle(a, b)
    assert len(b.devices()) == 300
    a.write(sql)
    settle(a, b)
    assert b.devices() == {}


def test_what_is_rolled_back_was_never_written(make_hosts: MakeHosts) -> None:
    """Neither a transaction nor a savepoint that is undone leaves a change."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id) VALUES ('d')")
    settle(a, b)
    a.writer.execute("BEGIN")
    a.write("UPDATE devices SET note = 'undone'")
    a.write("DELETE FROM devices")
    a.writer.execute("ROLLBACK")
    assert_silent(b, a)
    a.writer.execute("BEGIN")
    a.write("INSERT INTO devices (device_id) VALUES ('e')")
    a.writer.execute("SAVEPOINT undone")
    a.write("INSERT INTO devices (device_id) VALUES ('f')")
    a.write("UPDATE devices SET note = 'undone'")
    a.writer.execute("ROLLBACK TO undone")
    a.write("UPDATE devices SET note = 'done' WHERE device_id = 'e'")
    a.writer.execute("COMMIT")
    told = {bytes(c.key[0][1] or b"") for c in changes_in(ask(b, a)[1]) if c.key[0][0] == "text"}
    assert told == {b"e"}
    settle(a, b)
    assert b.devices() == a.devices() == {"d": ("new", None), "e": ("new", "done")}


def test_a_statement_that_fails_halfway_leaves_no_change(make_hosts: MakeHosts) -> None:
    """The third row breaks a constraint and takes the first two with it; OR FAIL keeps them."""
    a, b = make_hosts("a", "b")
    rows = "INTO devices (device_id, status) VALUES ('d', ''), ('e', ''), ('f', NULL)"
    for verb, left in (("INSERT", set()), ("INSERT OR FAIL", {"d", "e"})):
        with pytest.raises(Exception, match="NOT NULL"):
            a.write(f"{verb} {rows}")
        settle(a, b)
        assert a.devices().keys() == b.devices().keys() == left


def test_moving_a_row_to_another_rowid_is_local(make_hosts: MakeHosts) -> None:
    """The surrogate id is nobody else's business, whether under its name or as rowid."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id) VALUES ('d'), ('e')")
    settle(a, b)
    a.write("UPDATE devices SET rowid = 77 WHERE device_id = 'd'")
    a.write("UPDATE devices SET id = 78 WHERE device_id = 'e'")
    assert_silent(b, a)
    a.write("UPDATE devices SET id = 79, note = 1 WHERE device_id = 'e'")
    settle(a, b)
    assert a.devices() == b.devices()
    assert a.rows("SELECT id FROM devices ORDER BY 1") == [(77,), (79,)]
    assert b.rows("SELECT id FROM devices ORDER BY 1") == [(1,), (2,)]


def test_a_merge_leaves_local_ids_alone(make_hosts: MakeHosts) -> None:
    """Hazard 7: two hosts mint one number for two devices; each keeps its own, and both devices."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (id, device_id) VALUES (506, 'from a')")
    b.write("INSERT INTO devices (id, device_id) VALUES (506, 'from b')")
    settle(a, b)
    a.write("UPDATE devices SET status = 'seen'")
    settle(a, b)
    for host in (a, b):
        assert host.devices() == {"from a": ("seen", None), "from b": ("seen", None)}
        assert (506, f"from {host.node}") in host.rows("SELECT id, device_id FROM devices")


@pytest.mark.parametrize("declared", ["TEXT COLLATE NOCASE", "TEXT COLLATE RTRIM"])
def test_a_change_that_a_collation_does_not_see_is_captured(
    make_hosts: MakeHosts, declared: str
) -> None:
    """'Ann' and 'ANN ' may be equal to the column; they are not the same value."""
    ddl = f"CREATE TABLE people (name TEXT PRIMARY KEY, alias {declared})"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"people": None})
    a.write("INSERT INTO people VALUES ('p', 'ann')")
    for alias in ("ANN", "Ann", "Ann ", "ann"):
        a.write("UPDATE people SET alias = ?", alias)
        settle(a, b)
        assert b.rows("SELECT alias FROM people") == [(alias,)]


def test_rows_with_null_in_their_key_stay_local(make_hosts: MakeHosts) -> None:
    """NULL is equal to nothing, so it identifies nothing; a key that is filled later is a birth."""
    ddl = "CREATE TABLE places (site TEXT, number INTEGER, note, PRIMARY KEY (site, number))"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"places": None})
    a.write("INSERT INTO places VALUES (NULL, 1, 'one'), ('x', NULL, 'two'), ('x', 1, 'three')")
    a.write("INSERT INTO places VALUES (NULL, 1, 'one again')")
    a.write("UPDATE places SET note = note || '!'")
    settle(a, b)
    assert b.rows("SELECT * FROM places") == [("x", 1, "three!")]
    a.write("UPDATE places SET number = 2 WHERE number IS NULL")
    a.write("UPDATE places SET site = NULL WHERE number = 1 AND site = 'x'")
    settle(a, b)
    assert b.rows("SELECT * FROM places") == [("x", 2, "two!")]
    a.write("DELETE FROM places WHERE site IS NULL")
    assert_silent(b, a)


def test_a_write_that_changes_nothing_says_nothing(make_hosts: MakeHosts) -> None:
    """An update to the same values is no change."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id, note) VALUES ('d', 1)")
    settle(a, b)
    a.write("UPDATE devices SET note = 1, status = 'new', device_id = 'd'")
    a.write("DELETE FROM devices WHERE device_id = 'nobody'")
    assert_silent(b, a)


def test_an_update_writes_only_the_columns_that_changed(make_hosts: MakeHosts) -> None:
    """An ORM that writes whole rows back must not overwrite what others wrote meanwhile."""
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id, status, note) VALUES ('d', 'new', 1)")
    settle(a, b)
    b.clock.ms += 10
    a.write("UPDATE devices SET status = 'blocked'")
    b.write("UPDATE devices SET device_id = device_id, status = 'new', note = 2")
    settle(a, b)
    assert a.devices() == b.devices() == {"d": ("blocked", 2)}


def test_generated_columns_are_computed_not_sent(make_hosts: MakeHosts) -> None:
    """A merge could not write them; each host computes its own."""
    ddl = "CREATE TABLE sums (k TEXT PRIMARY KEY, x, twice AS (x * 2), thrice AS (x * 3) STORED)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"sums": None})
    a.write("INSERT INTO sums (k, x) VALUES ('k', 1)")
    settle(a, b)
    a.write("UPDATE sums SET x = 5")
    settle(a, b)
    assert b.rows("SELECT * FROM sums") == [("k", 5, 10, 15)]
    registers = {c.register for c in changes_in(b.replica.changes_since(Vector())[1])}
    assert registers == {EXISTENCE, "x"}


def test_stamps_of_one_host_only_grow(make_hosts: MakeHosts) -> None:
    """Within a millisecond, after a clock was set back, after merging from one that is ahead."""
    a, b = make_hosts("a", "b")
    names = [f"{n}" for n in range(9)]
    b.clock.ms += 30_000
    b.write("INSERT INTO devices (device_id) VALUES ('from b')")
    for number, name in enumerate(names):
        if number == 3:
            a.clock.ms -= 1_000
        if number == 6:
            pull(a, b)
        a.writer.execute("INSERT INTO devices (device_id) VALUES (?)", (name,))
    births = [
        change
        for change in changes_in(a.replica.changes_since(Vector())[1])
        if change.value == ALIVE
    ]
    births.sort(key=lambda change: change.stamp)
    expected = [*names[:6], "from b", *names[6:]]
    assert [change.key[0][1] for change in births] == [name.encode() for name in expected]


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ('my "odd" table', "select", "from"),
        ("tab'le", 'a"b', "c d"),
        ("übersicht", "schlüssel", "größe"),
        ("_", "k0", "c0"),
        ("t.x", "rowid", "oid"),
        ("OLD", "NEW", "EXISTS"),
        ("seq", "hlc", "mask"),
        ("staged", "origin", "position"),
        ("t", "n", "t"),
        ("s", "position", "n"),
        ("e", "e", "s"),
    ],
)
def test_any_name_may_be_a_name(make_hosts: MakeHosts, table: str, key: str, value: str) -> None:
    """Quotes, keywords, and names that are also names of ours."""

    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    t, k, v = map(quoted, (table, key, value))
    ddl = f"CREATE TABLE {t} ({k} TEXT PRIMARY KEY NOT NULL, {v} UNIQUE) WITHOUT ROWID"
    a, b = make_hosts("a", "b", ddl=ddl, tables={table: None}, enrolled=False)
    a.write(f"INSERT INTO {t} VALUES ('x', 1), ('y', 2)")
    for host in (a, b):
        host.enrol()
    a.write(f"INSERT INTO {t} VALUES ('z', 3)")
    settle(a, b)
    a.write(f"UPDATE {t} SET {v} = 4 WHERE {k} = 'x'")
    a.write(f"UPDATE {t} SET {k} = 'w' WHERE {k} = 'y'")
    a.write(f"UPDATE OR REPLACE {t} SET {v} = 4 WHERE {k} = 'z'")
    settle(a, b)
    rows = [("w", 2), ("z", 4)]
    assert a.rows(f"SELECT * FROM {t}") == b.rows(f"SELECT * FROM {t}") == rows


@pytest.mark.parametrize(
    "unique",
    [
        "UNIQUE (u, t)",
        "UNIQUE (u, k)); CREATE UNIQUE INDEX made ON q (u, t + 1",
        "UNIQUE (u, k)); CREATE UNIQUE INDEX some ON q (u + 0) WHERE (t > 0",
    ],
)
def test_what_replace_displaces_by_a_default_has_died(make_hosts: MakeHosts, unique: str) -> None:
    """In a NOT NULL column it writes the DEFAULT in place of NULL, and takes rows that have it."""
    ddl = f"CREATE TABLE q (k TEXT PRIMARY KEY NOT NULL, u, t NOT NULL DEFAULT 1, {unique})"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"q": None})
    a.write("INSERT INTO q VALUES ('a', 5, 1), ('b', 6, 1)")
    settle(a, b)
    a.write("INSERT OR REPLACE INTO q VALUES ('c', 5, NULL)")
    a.write("UPDATE OR REPLACE q SET u = 5, t = NULL WHERE k = 'b'")
    settle(a, b)
    a.write("UPDATE q SET u = 9")
    settle(a, b)
    assert a.rows("SELECT * FROM q") == b.rows("SELECT * FROM q") == [("b", 9, 1)]


@pytest.mark.parametrize(
    ("made", "index"),
    [("g INTEGER AS (u)", "g"), ("g INT AS (u)", "g, (k IS NULL)")],
)
def test_what_replace_displaces_by_a_generated_value_has_died(
    make_hosts: MakeHosts, made: str, index: str
) -> None:
    """Its values compare as it is declared itself: here '1' and '01' are one number."""
    ddl = (
        f"CREATE TABLE q (k TEXT PRIMARY KEY, u TEXT, {made}); CREATE UNIQUE INDEX i ON q ({index})"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"q": None})
    a.write("INSERT INTO q (k, u) VALUES ('a', '1')")
    settle(a, b)
    a.write("INSERT OR REPLACE INTO q (k, u) VALUES ('b', '01')")
    settle(a, b)
    a.write("UPDATE q SET u = '2'")
    settle(a, b)
    assert a.rows("SELECT k FROM q") == b.rows("SELECT k FROM q") == [("b",)]


@pytest.mark.parametrize("suffix", ["position", "replace", "changes", "insert", "shadow"])
def test_two_tables_may_have_similar_names(make_hosts: MakeHosts, suffix: str) -> None:
    """`devices` and `devices_position` are two tables; neither is taken for the other."""
    similar = f"devices_{suffix}"
    ddl = (
        "CREATE TABLE devices (device_id TEXT PRIMARY KEY, status, note UNIQUE);"
        f"CREATE TABLE {similar} (device_id TEXT PRIMARY KEY, note UNIQUE)"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"devices": None, similar: None})
    a.write("INSERT INTO devices VALUES ('d', 1, 2)")
    a.write(f"INSERT INTO {similar} VALUES ('e', 3)")
    settle(a, b)
    assert b.rows("SELECT * FROM devices") == [("d", 1, 2)]
    assert b.rows(f"SELECT * FROM {similar}") == [("e", 3)]
