"""A merge breaks no constraint of the user's tables; what cannot show is kept and passed on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, Key, changes_in, pull, settle
from syncd.clock import ms_of_hlc
from syncd.vector import Vector

ACCOUNTS = """
    CREATE TABLE accounts (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        email TEXT COLLATE NOCASE UNIQUE, phone TEXT UNIQUE
    )
"""
ACCOUNTS_KEY: dict[str, Key] = {"accounts": ["name"]}
TREE = """
    CREATE TABLE parents (name TEXT PRIMARY KEY);
    CREATE TABLE children (
        name TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES parents ON DELETE CASCADE
    );
    CREATE TABLE toys (
        name TEXT PRIMARY KEY, child TEXT REFERENCES children ON DELETE CASCADE
    )
"""
TREE_TABLES: dict[str, Key] = {"toys": None, "children": None, "parents": None}


def account(host: Host, name: str, email: str | None, phone: str | None = None) -> None:
    """Insert an account."""
    host.write("INSERT INTO accounts (name, email, phone) VALUES (?, ?, ?)", name, email, phone)


def accounts(host: Host) -> dict[str, Any]:
    """Return e-mail address and telephone number by account."""
    return {
        name: (email, phone) for name, email, phone in host.rows("SELECT * FROM accounts_by_name")
    }


@pytest.fixture
def make_account_hosts(make_hosts: MakeHosts) -> MakeHosts:
    """Make hosts with accounts, each a second ahead of the one before."""

    def make(*nodes: str, **options: Any) -> list[Host]:
        hosts = make_hosts(
            *nodes,
            ddl=f"{ACCOUNTS}; CREATE VIEW accounts_by_name AS SELECT name, email, phone"
            " FROM accounts",
            tables=ACCOUNTS_KEY,
            **options,
        )
        for number, host in enumerate(hosts):
            host.clock.ms += 1_000 * number
        return hosts

    return make


class TestUnique:
    """The greater stamp wins a UNIQUE value; the other row is held, not lost."""

    def test_the_newer_claim_to_a_value_shows_everywhere(
        self, make_account_hosts: MakeHosts
    ) -> None:
        """Two hosts give one address to two accounts."""
        a, b, c = make_account_hosts("a", "b", "c")
        account(a, "older", "x@y")
        account(b, "newer", "X@Y")
        settle(a, b, c)
        for host in (a, b, c):
            assert accounts(host) == {"newer": ("X@Y", None)}
            assert host.held() == 1

    @pytest.mark.parametrize("first", ["ANN", "ann"])
    def test_an_index_that_calls_two_keys_equal_lets_the_newer_row_show(
        self, make_hosts: MakeHosts, first: str
    ) -> None:
        """For the UPSERT it must not pass for the key's own, or one row would be the other's."""
        a, b = make_hosts(
            "a",
            "b",
            ddl="CREATE TABLE t (name TEXT PRIMARY KEY NOT NULL, note);"
            "CREATE UNIQUE INDEX in_any_case ON t (name COLLATE NOCASE)",
            tables={"t": None},
        )
        b.clock.ms += 1_000
        a.write("INSERT INTO t VALUES ('ann', 'older')")
        b.write("INSERT INTO t VALUES ('ANN', 'newer')")
        receiver, sender = (a, b) if first == "ann" else (b, a)
        pull(receiver, sender)
        settle(a, b)
        assert a.rows("SELECT * FROM t") == b.rows("SELECT * FROM t") == [("ANN", "newer")]
        b.write("DELETE FROM t")
        settle(a, b)
        assert a.rows("SELECT * FROM t") == b.rows("SELECT * FROM t") == [("ann", "older")]

    def test_a_claim_is_as_new_as_the_value_not_as_the_row(
        self, make_account_hosts: MakeHosts
    ) -> None:
        """An old account that takes an address now beats a newer account that had it before."""
        a, b, c = make_account_hosts("a", "b", "c")
        account(a, "old row", None)
        account(b, "new row", "x")
        a.clock.ms += 5_000
        a.write("UPDATE accounts SET email = 'x' WHERE name = 'old row'")
        b.clock.ms += 9_000
        b.write("UPDATE accounts SET email = email WHERE name = 'new row'")
        settle(a, b, c)
        for host in (a, b, c):
            assert accounts(host) == {"old row": ("x", None)}

    def test_a_held_row_is_passed_on(self, make_account_hosts: MakeHosts) -> None:
        """C hears of both only from A, who shows one of them."""
        a, b, c = make_account_hosts("a", "b", "c")
        account(a, "older", "x")
        account(b, "newer", "x")
        pull(a, b)
        pull(c, a)
        keys = {change.key for change in changes_in(c.replica.changes_since(Vector())[1])}
        assert len(keys) == 2

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM accounts WHERE name = 'newer'",
            "UPDATE accounts SET email = NULL WHERE name = 'newer'",
            "UPDATE accounts SET email = 'z' WHERE name = 'newer'",
        ],
    )
    def test_a_held_row_shows_once_the_value_is_free(
        self, make_account_hosts: MakeHosts, sql: str
    ) -> None:
        """And with the local id that it had."""
        a, b, c = make_account_hosts("a", "b", "c")
        a.write("INSERT INTO accounts (id, name, email) VALUES (77, 'older', 'x')")
        account(b, "newer", "x")
        settle(a, b, c)
        assert accounts(a).keys() == {"newer"}
        b.write(sql)
        settle(a, b, c)
        assert accounts(a) == accounts(b) == accounts(c)
        assert accounts(a)["older"] == ("x", None)
        assert a.rows("SELECT id FROM accounts WHERE name = 'older'") == [(77,)]
        assert [host.held() for host in (a, b, c)] == [0, 0, 0]

    def test_a_held_row_shows_once_it_asks_for_something_else(
        self, make_account_hosts: MakeHosts
    ) -> None:
        """Its own host gives it another address, before it hears that it lost this one."""
        a, b = make_account_hosts("a", "b")
        account(a, "older", "x")
        account(b, "newer", "x")
        pull(b, a)
        a.clock.ms += 5_000
        a.write("UPDATE accounts SET email = 'z', phone = '1' WHERE name = 'older'")
        settle(a, b)
        assert accounts(a) == accounts(b) == {"older": ("z", "1"), "newer": ("x", None)}

    @pytest.mark.parametrize("order", list(itertools.permutations("abc")))
    def test_a_row_shows_if_only_a_held_row_stands_against_it(
        self, make_account_hosts: MakeHosts, order: tuple[str, ...]
    ) -> None:
        """C beats B over the telephone, so B is in nobody's way, in whatever order they come."""
        hosts = {host.node: host for host in make_account_hosts("a", "b", "c", "d")}
        account(hosts["a"], "old", "x", None)
        account(hosts["b"], "mid", "x", "1")
        account(hosts["c"], "new", None, "1")
        for node in order:
            pull(hosts["d"], hosts[node])
        assert accounts(hosts["d"]) == {"old": ("x", None), "new": (None, "1")}

    def test_values_may_change_places(self, make_account_hosts: MakeHosts) -> None:
        """A swap passes through states that no merge could write row by row."""
        a, b = make_account_hosts("a", "b")
        account(a, "one", "x")
        account(a, "two", "y")
        account(a, "three", "z")
        settle(a, b)
        for email, name in ((None, "one"), ("x", "two"), ("y", "three"), ("z", "one")):
            a.write("UPDATE accounts SET email = ? WHERE name = ?", email, name)
        settle(a, b)
        assert accounts(b) == accounts(a)
        assert {name: email for name, (email, _) in accounts(b).items()} == {
            "one": "z",
            "two": "x",
            "three": "y",
        }

    def test_a_held_row_does_not_block_the_others(self, make_account_hosts: MakeHosts) -> None:
        """Everything else in the same frame shows."""
        a, b = make_account_hosts("a", "b")
        for number in range(20):
            account(a, f"{number}", f"{number}")
        account(b, "newer", "7")
        pull(b, a, frame_entries=3)
        assert accounts(b).keys() == {"newer", *map(str, range(20))} - {"7"}

    def test_a_new_row_of_this_host_beats_an_older_held_one(
        self, make_account_hosts: MakeHosts
    ) -> None:
        """The value is free here and now, so the user may take it."""
        a, b = make_account_hosts("a", "b")
        account(a, "older", "x")
        account(b, "newer", "x")
        settle(a, b)
        a.clock.ms += 5_000
        a.writer.execute("BEGIN")
        a.write("DELETE FROM accounts WHERE name = 'newer'")
        account(a, "newest", "x")
        a.writer.execute("COMMIT")
        settle(a, b)
        assert accounts(a) == accounts(b) == {"newest": ("x", None)}
        a.write("DELETE FROM accounts WHERE name = 'newest'")
        settle(a, b)
        assert accounts(a) == accounts(b) == {"older": ("x", None)}


class TestForeignKeys:
    """A child shows while its parent does."""

    def test_a_child_added_while_its_parent_was_deleted_is_held(
        self, make_hosts: MakeHosts
    ) -> None:
        """A deletes the parent; B, not knowing, gives it a child with a toy."""
        a, b = make_hosts("a", "b", ddl=TREE, tables=TREE_TABLES)
        a.write("INSERT INTO parents VALUES ('p')")
        settle(a, b)
        a.write("DELETE FROM parents")
        b.write("INSERT INTO children VALUES ('c', 'p')")
        b.write("INSERT INTO toys VALUES ('t', 'c')")
        settle(a, b)
        for host in (a, b):
            assert [host.rows(f"SELECT * FROM {table}") for table in TREE_TABLES] == [[], [], []]
            assert host.held() == 2
        a.write("INSERT INTO parents VALUES ('p')")
        settle(a, b)
        for host in (a, b):
            assert host.rows("SELECT * FROM toys") == [("t", "c")]
            assert host.rows("PRAGMA foreign_key_check") == []
            assert host.held() == 0

    @pytest.mark.parametrize(
        ("kind", "parents"), [("TEXT", ("1", "01")), ("", (1, "1"))], ids=["text", "no affinity"]
    )
    def test_a_child_refers_to_what_its_parents_column_says_is_equal(
        self, make_hosts: MakeHosts, kind: str, parents: tuple[object, object]
    ) -> None:
        """To nothing else that would be equal by the child's own affinity."""
        ddl = f"""
            CREATE TABLE parents (name TEXT PRIMARY KEY, code {kind} UNIQUE);
            CREATE TABLE children
                (name TEXT PRIMARY KEY, parent INTEGER REFERENCES parents (code));
        """
        a, b = make_hosts("a", "b", ddl=ddl, tables={"parents": None, "children": None})
        for name, code in zip("pq", parents, strict=True):
            a.write("INSERT INTO parents VALUES (?, ?)", name, code)
        settle(a, b)
        a.write("INSERT INTO children VALUES ('x', 1)")
        b.write("DELETE FROM parents WHERE name = 'p'")
        settle(a, b)
        for host in (a, b):
            assert host.rows("PRAGMA foreign_key_check") == []
            assert [one.key for one in host.replica.held()] == ["'x'"]
        b.write("INSERT INTO parents VALUES ('p', ?)", parents[0])
        settle(a, b)
        assert a.rows("SELECT * FROM children") == b.rows("SELECT * FROM children") == [("x", 1)]

    @pytest.mark.parametrize("frame_entries", [None, 1])
    def test_children_may_arrive_before_their_parents(
        self, make_hosts: MakeHosts, frame_entries: int | None
    ) -> None:
        """They are no orphans then, only early."""
        a, b = make_hosts("a", "b", ddl=TREE, tables=TREE_TABLES)
        a.write("INSERT INTO toys VALUES ('t', 'c')")
        a.write("INSERT INTO children VALUES ('c', 'p')")
        a.write("INSERT INTO parents VALUES ('p')")
        while pull(b, a, frame_entries=frame_entries, frames_max=1)[-1][1].claim is None:
            assert b.rows("PRAGMA foreign_key_check") == []
        assert b.rows("SELECT * FROM toys") == [("t", "c")]

    def test_a_whole_branch_is_held_while_its_root_is_missing(self, make_hosts: MakeHosts) -> None:
        """Not only the row next to the gap."""
        ddl = "CREATE TABLE tree (name TEXT PRIMARY KEY, above TEXT REFERENCES tree)"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"tree": None})
        names = ["leaf", "twig", "branch", "trunk", "root"]
        a.writer.executemany("INSERT INTO tree VALUES (?, ?)", itertools.pairwise(names))
        settle(a, b)
        for host in (a, b):
            assert host.rows("SELECT * FROM tree") == []
            assert host.held() == 4
        a.write("INSERT INTO tree VALUES ('root', NULL)")
        settle(a, b)
        for host in (a, b):
            assert len(host.rows("SELECT * FROM tree")) == 5
        b.write("DELETE FROM tree WHERE name = 'trunk'")
        settle(a, b)
        for host in (a, b):
            assert host.rows("SELECT name FROM tree") == [("root",)]

    def test_rows_may_refer_to_each_other(self, make_hosts: MakeHosts) -> None:
        """A tree within one table, and even a circle."""
        ddl = "CREATE TABLE tree (name TEXT PRIMARY KEY, above TEXT REFERENCES tree)"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"tree": None})
        a.write("INSERT INTO tree VALUES ('leaf', 'twig'), ('twig', 'root'), ('root', NULL)")
        settle(a, b)
        assert sorted(b.rows("SELECT * FROM tree")) == sorted(a.rows("SELECT * FROM tree"))
        a.write("UPDATE tree SET above = 'leaf' WHERE name = 'root'")
        settle(a, b)
        assert len(b.rows("SELECT * FROM tree")) == 3
        assert sorted(b.rows("SELECT * FROM tree")) == sorted(a.rows("SELECT * FROM tree"))

    def test_an_orphan_of_an_unenforcing_writer_is_the_same_everywhere(
        self, make_hosts: MakeHosts
    ) -> None:
        """SQLite checks foreign keys only for those who ask; others write children of nobody."""
        a, b = make_hosts("a", "b", ddl=TREE, tables=TREE_TABLES, enrolled=False)
        a.write("INSERT INTO toys VALUES ('early', 'nobody')")
        for host in (a, b):
            host.enrol()
        a.write("INSERT INTO toys VALUES ('late', 'nobody')")
        settle(a, b)
        assert a.rows("SELECT * FROM toys") == b.rows("SELECT * FROM toys")


class TestChecks:
    """What one table refuses, another may show."""

    def test_two_writes_that_break_a_check_together_are_held(self, make_hosts: MakeHosts) -> None:
        """A raises the minimum, B lowers the maximum; each was fine alone."""
        ddl = "CREATE TABLE ranges (name TEXT PRIMARY KEY, low, high, CHECK (low <= high))"
        a, b = make_hosts("a", "b", ddl=ddl, tables={"ranges": None})
        a.write("INSERT INTO ranges VALUES ('r', 1, 9), ('s', 1, 9)")
        settle(a, b)
        a.write("UPDATE ranges SET low = 8 WHERE name = 'r'")
        b.write("UPDATE ranges SET high = 2")
        settle(a, b)
        for host in (a, b):
            assert host.rows("SELECT * FROM ranges") == [("s", 1, 2)]
            assert host.held() == 1
        a.clock.ms += 5_000
        a.write("INSERT OR REPLACE INTO ranges VALUES ('r', 3, 4)")
        settle(a, b)
        assert sorted(b.rows("SELECT * FROM ranges")) == [("r", 3, 4), ("s", 1, 2)]

    @pytest.mark.parametrize(
        "demand", ["CHECK (more > 0)", "NOT NULL CHECK (typeof(more) <> 'real')"]
    )
    def test_what_only_this_host_refuses_is_held_here_and_passed_on(
        self, make_hosts: MakeHosts, demand: str
    ) -> None:
        """B's table is stricter; C, behind B, gets everything."""
        loose = "CREATE TABLE t (k TEXT PRIMARY KEY, more)"
        a, c = make_hosts("a", "c", ddl=loose, tables={"t": None})
        (b,) = make_hosts("b", ddl=loose.replace("more", f"more {demand}"), tables={"t": None})
        bad = -1 if "> 0" in demand else None
        a.write("INSERT INTO t VALUES ('bad', ?), ('good', 1), ('turns bad', 2)", bad)
        pull(b, a)
        a.write("UPDATE t SET more = ? WHERE k = 'turns bad'", bad)
        pull(b, a)
        pull(c, b)
        assert b.rows("SELECT * FROM t") == [("good", 1)]
        assert sorted(c.rows("SELECT * FROM t")) == sorted(a.rows("SELECT * FROM t"))
        a.write("UPDATE t SET more = 3")
        pull(b, a)
        assert {k for k, _ in b.rows("SELECT * FROM t")} == {"bad", "good", "turns bad"}


def test_what_is_held_back_names_what_stands_in_its_way(make_hosts: MakeHosts) -> None:
    """A displaced row comes with the row that shows, whose it is and when that was decided."""
    ddl = (
        "CREATE TABLE owners (name TEXT NOT NULL PRIMARY KEY, mail TEXT UNIQUE);"
        "CREATE TABLE pets (name TEXT NOT NULL PRIMARY KEY, owner TEXT REFERENCES owners (name))"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"owners": None, "pets": None})
    a.write("INSERT INTO owners VALUES ('ana', 'x')")
    a.write("INSERT INTO pets VALUES ('rex', 'ana')")
    b.write("INSERT INTO owners VALUES ('bob', 'y')")
    b.write("UPDATE owners SET mail = 'x'")
    (moved,) = (
        change
        for change in changes_in(b.replica.changes_since(Vector())[1])
        if change.register == "mail"
    )
    pull(a, b)
    pull(b, a)

    for host in (a, b):
        found = {one.key: one for one in host.replica.held()}
        assert {key: one.reason for key, one in found.items()} == {
            "'ana'": "displaced",
            "'rex'": "parent",
        }
        displaced, orphan = found["'ana'"], found["'rex'"]
        assert (displaced.node, displaced.winner_key, displaced.winner_node) == ("a", "'bob'", "b")
        assert displaced.winner_time_ms == ms_of_hlc(moved.stamp.hlc)
        assert orphan.winner_key is None
    b.write("DELETE FROM owners WHERE name = 'bob'")
    pull(a, b)
    assert a.replica.held() == []
