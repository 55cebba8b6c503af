"""A frame's sections wait in temporary tables, most of them since before the write lock."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from engine.conftest import MakeHosts
from engine.hosts import DEVICES_KEY, Host, ask, pull
from engine.test_plans import traced
from engine.test_values import VALUES, mark
from syncd import database, merge
from syncd.bundle import Column
from syncd.database import Connection
from syncd.errors import BundleError, DatabaseBusy

BARE = "CREATE TABLE bare (k TEXT PRIMARY KEY, v)"


def before_the_lock(host: Host, act: Callable[[], object]) -> Any:
    """Have something happen after a frame has been staged and before the lock."""
    writing = host.replica.writing

    def delayed() -> AbstractContextManager[Connection]:
        act()
        return writing()

    return mock.patch.object(host.replica, "writing", delayed)


def brings(statements: list[str]) -> bool:
    """Say whether statements bring a section's values from Python."""
    return any(re.match(r"INSERT INTO temp\.syncd_staged.* VALUES", sql) for sql in statements)


def leftovers(host: Host) -> list[tuple[Any, ...]]:
    """Return the temporary tables of a host's engine."""
    raw = host.replica._database._connection()
    found: list[tuple[Any, ...]] = raw.execute("SELECT name FROM temp.sqlite_schema").fetchall()
    return found


def test_what_was_staged_ahead_is_not_brought_again_under_the_lock(make_hosts: MakeHosts) -> None:
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id, note) VALUES ('x', 1)")
    pull(b, a)
    a.write("INSERT INTO devices (device_id, note) VALUES ('y', 2)")
    a.write("UPDATE devices SET note = 3 WHERE device_id = 'x'")
    statements: list[str] = []
    with traced(b, statements):
        pull(b, a)
    lock = statements.index("BEGIN IMMEDIATE")
    assert brings(statements[:lock])
    assert not brings(statements[lock:])
    assert b.devices() == {"x": ("new", 3), "y": ("new", 2)}
    assert leftovers(b) == []


def test_a_table_that_changes_after_staging_is_staged_again(make_hosts: MakeHosts) -> None:
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id, status, note) VALUES ('x', 'sold', 1)")
    pull(b, a)

    def upgrade() -> None:
        other = b.replica_of(DEVICES_KEY)
        b.write("ALTER TABLE devices ADD COLUMN extra DEFAULT 'none'")
        other.enrol()
        other.close()

    a.write("UPDATE devices SET note = 2, status = 'late'")
    statements: list[str] = []
    with before_the_lock(b, upgrade), traced(b, statements):
        pull(b, a)
    assert b.rows("SELECT status, note, extra FROM devices") == [("late", 2, "none")]
    under_lock = statements[statements.index("BEGIN IMMEDIATE") :]
    assert brings(under_lock)


def test_an_origin_first_heard_of_meanwhile_keeps_its_number(make_hosts: MakeHosts) -> None:
    a, b, c = make_hosts("a", "b", "c")
    for host in (a, c):
        host.write("INSERT INTO devices (device_id) VALUES (?)", host.node)
    pull(a, c)

    def hear_c() -> None:
        other = b.replica_of(DEVICES_KEY)
        other.merge(*ask(b, c))
        other.close()

    with before_the_lock(b, hear_c):
        pull(b, a)
    assert b.devices().keys() == {"a", "c"}
    assert b.replica.vector() == a.replica.vector()


def test_what_a_failed_merge_leaves_is_cleared(make_hosts: MakeHosts) -> None:
    a, b = make_hosts("a", "b")
    a.write("INSERT INTO devices (device_id) VALUES ('w')")
    pull(b, a)
    a.write("INSERT INTO devices (device_id) VALUES ('x')")
    with (
        mock.patch.object(merge, "merge_frame", side_effect=DatabaseBusy("busy")),
        pytest.raises(DatabaseBusy),
    ):
        pull(b, a)
    assert leftovers(b)
    a.write("INSERT INTO devices (device_id, note) VALUES ('y', 2)")
    pull(b, a)
    assert b.devices().keys() == {"w", "x", "y"}
    assert leftovers(b) == []


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_that_a_column_has_throughout_arrives(make_hosts: MakeHosts, value: Any) -> None:
    a, b = make_hosts("a", "b", ddl=BARE, tables={"bare": None})
    for key in "xyz":
        a.write(f"INSERT INTO bare VALUES (?, {mark(value)})", key, value)
    pull(b, a)
    expected = a.table("bare", ["k"], ["v"])
    assert len(expected) == 3
    assert b.table("bare", ["k"], ["v"]) == expected


@pytest.mark.parametrize("values", [(1, 1.0), (1.0, 1), (0.0, -0.0), (None, 0), ("1", 1)])
def test_values_that_are_only_equal_stay_what_they_are(
    make_hosts: MakeHosts, values: tuple[Any, Any]
) -> None:
    a, b = make_hosts("a", "b", ddl=BARE, tables={"bare": None})
    for key, value in zip("xy", values, strict=True):
        a.write("INSERT INTO bare VALUES (?, ?)", key, value)
    pull(b, a)
    assert b.table("bare", ["k"], ["v"]) == a.table("bare", ["k"], ["v"])


@pytest.mark.parametrize(
    ("affinity", "keys", "raw_text"),
    [
        ("TEXT", ["x", "x"], []),
        ("TEXT", [1, "1"], []),
        ("TEXT", ["x", b"x"], [1]),
        ("INTEGER", [1, 1], []),
        ("INTEGER", ["1", "1.0"], []),
        ("REAL", [1, 1.0], []),
        ("BLOB", [1, 1.0], []),
        ("BLOB", [b"x", b"x"], []),
    ],
)
def test_keys_that_are_one_row_here_are_refused(
    make_hosts: MakeHosts, affinity: str, keys: list[Any], raw_text: list[int]
) -> None:
    ddl = f"CREATE TABLE bare (k {affinity} PRIMARY KEY NOT NULL, v) WITHOUT ROWID"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"bare": ["k"]})
    a.write("INSERT INTO bare VALUES (2, 'two'), (3, 'three')")
    header, frame = ask(b, a)
    (section,) = frame.sections
    doubled = replace(section, keys=[Column(keys, raw_text)])
    with pytest.raises(BundleError, match="one row occurs twice"):
        b.replica.merge(header, replace(frame, sections=[doubled]))
    assert b.rows("SELECT * FROM bare") == []
    pull(b, a)
    assert len(b.rows("SELECT * FROM bare")) == 2


JSONB = [b"\x00", b"\x01", b"\x131", b"\x17a", b"\x0b", b"\x0c"]
"""null, true, 1, "a", [] and {} (sqlite.org/jsonb.html)."""


@pytest.mark.parametrize("value", JSONB)
def test_a_blob_that_reads_as_json_arrives(make_hosts: MakeHosts, value: bytes) -> None:
    """SQLite takes it for JSON from 3.45 on; what is done about that does not harm before."""
    ddl = "CREATE TABLE bare (k BLOB PRIMARY KEY, v)"
    a, b = make_hosts("a", "b", ddl=ddl, tables={"bare": None})
    a.write("INSERT INTO bare VALUES (?1, ?1), ('k', 'v')", value)
    with mock.patch.object(database, "_takes_jsonb", return_value=True):
        pull(b, a)
    assert b.rows("SELECT * FROM bare ORDER BY k DESC") == [(value, value), ("k", "v")]
