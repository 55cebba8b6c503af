"""Hazard 14: every value that SQLite can store arrives byte for byte, by every road."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.conftest import MakeHosts
from engine.hosts import Clock, Host, Key, changes_in, pull, scratch, settle
from engine.model import Rows
from syncd import codec
from syncd.codec import Reader
from syncd.vector import Vector


class Raw(bytes):
    """TEXT that need not be UTF-8, as its bytes."""


VALUES: list[Any] = [
    *(None, 0, 1, -1, 1.0, 0.0, -0.0, 0.1, 1e300, 5e-324, float("inf"), float("-inf")),
    *(2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), float(2**63), -(2**31) - 1),
    *("", "a", "A", "a ", "a\0b", "\0", "\N{GRINNING FACE}"),
    *("e\u0301", "\u00e9", "\ufeff", "\uffff"),
    *("1", "1.0", "0x10", " 1", "1e3", "inf", "NaN", "NULL", "x" * 70_000),
    *(b"", b"\0", b"a", b"1", b"\xff\x80", bytes(range(256)), b"\0" * 70_000),
    *(Raw(b"\xff\x80"), Raw(b"a\0\xff"), Raw(b"\xed\xa0\x80"), Raw(b"\xc0\x80"), Raw(b"ok"), Raw()),
]
AFFINITIES = {
    "text": "TEXT",
    "int": "INT",
    "real": "REAL",
    "num": "NUMERIC",
    "blob": "BLOB",
    "bare": "",
}
COLUMNS = [f"c_{name}" for name in AFFINITIES]
WIDE = "CREATE TABLE wide (k INT PRIMARY KEY, " + (
    ", ".join(f"c_{name} {declared}" for name, declared in AFFINITIES.items()) + ")"
)
KEYED = [
    f"CREATE TABLE keyed_{name} (k {declared} NOT NULL PRIMARY KEY, v)"
    for name, declared in AFFINITIES.items()
]
DDL = ";".join([WIDE, *KEYED])
TABLES: dict[str, Key] = {
    "wide": None,
    **{f"keyed_{name}": None for name in AFFINITIES},
}


def mark(value: Any) -> str:
    """Return the SQL that binds a value."""
    return "CAST(? AS TEXT)" if isinstance(value, Raw) else "?"


def fill(host: Host, values: list[Any]) -> None:
    """Write every value into a column and a key of every affinity."""
    host.writer.execute("BEGIN IMMEDIATE")
    for number, value in enumerate(values):
        marks = ", ".join([mark(value)] * len(AFFINITIES))
        host.write(f"INSERT INTO wide VALUES (?, {marks})", number, *[value] * len(AFFINITIES))
        for name in AFFINITIES:
            host.write(
                f"INSERT OR IGNORE INTO keyed_{name} VALUES ({mark(value)}, ?)", value, number
            )
    host.writer.execute("COMMIT")


def everything(host: Host) -> dict[str, Rows]:
    """Return all tables, byte for byte."""
    tables = {f"keyed_{name}": host.table(f"keyed_{name}", ["k"], ["v"]) for name in AFFINITIES}
    return tables | {"wide": host.table("wide", ["k"], COLUMNS)}


def by_pull(make_hosts: MakeHosts, a: Host) -> Host:
    """Pull directly."""
    (b,) = make_hosts("b", ddl=DDL, tables=TABLES)
    pull(b, a)
    return b


def by_file(make_hosts: MakeHosts, a: Host) -> Host:
    """Carry a bundle file."""
    (b,) = make_hosts("b", ddl=DDL, tables=TABLES)
    file = io.BytesIO()
    codec.write(file, *a.replica.frames_since(Vector()))
    file.seek(0)
    reader = Reader(file)
    for frame in reader:
        b.replica.merge(reader.header, frame)
    return b


def by_held(make_hosts: MakeHosts, a: Host) -> Host:
    """Pull while the tables are not known yet, and create them afterwards."""
    (b,) = make_hosts("b")
    pull(b, a)
    assert b.held() > 0
    b.writer.executescript(DDL)
    b.enrol(TABLES | {"devices": ["device_id"]})
    return b


def by_stranger(make_hosts: MakeHosts, a: Host) -> Host:
    """Pull through a host that does not know the tables."""
    (stranger,) = make_hosts("stranger")
    (b,) = make_hosts("b", ddl=DDL, tables=TABLES)
    pull(stranger, a)
    pull(b, stranger)
    return b


ROADS: dict[str, Callable[[MakeHosts, Host], Host]] = {
    "pull": by_pull,
    "file": by_file,
    "held": by_held,
    "stranger": by_stranger,
}


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS.keys())
def test_values_arrive_byte_for_byte(
    make_hosts: MakeHosts, road: Callable[[MakeHosts, Host], Host]
) -> None:
    """Integers of 64 bits, infinities, BLOBs in TEXT columns, broken UTF-8, NULs: all the same."""
    (a,) = make_hosts("a", ddl=DDL, tables=TABLES)
    fill(a, VALUES)
    b = road(make_hosts, a)
    assert everything(b) == everything(a)
    assert b.held() == 0


def test_values_wait_in_dead_rows_byte_for_byte(make_hosts: MakeHosts) -> None:
    """A's values reach the grave while its rows are dead, and from there B, where they live."""
    a, b, c, grave = make_hosts("a", "b", "c", "grave", ddl=DDL, tables=TABLES)
    for number in range(len(VALUES)):
        a.write("INSERT INTO wide (k) VALUES (?)", number)
    settle(a, b, c, grave)
    grave.write("DELETE FROM wide")
    c.clock.ms += 10_000
    c.writer.execute("INSERT OR REPLACE INTO wide (k) SELECT k FROM wide")
    a.clock.ms += 20_000
    for number, value in enumerate(VALUES):
        sets = ", ".join(f"{column} = {mark(value)}" for column in COLUMNS)
        a.write(f"UPDATE wide SET {sets} WHERE k = {number}", *[value] * len(COLUMNS))
    pull(grave, a)
    pull(b, grave)
    assert b.rows("SELECT * FROM wide") == []
    pull(b, c)
    assert everything(b) == everything(a)


def test_each_change_of_a_value_arrives(make_hosts: MakeHosts) -> None:
    """From any value to the next, even where SQLite's = calls the two the same."""
    a, b = make_hosts("a", "b", ddl=DDL, tables=TABLES)
    a.write("INSERT INTO wide (k) VALUES (0)")
    equal_to_sqlite = [1, 1.0, "1", b"1", Raw(b"1"), 2**53, float(2**53), "a", "A", 0, None]
    for value in equal_to_sqlite:
        sets = ", ".join(f"{column} = {mark(value)}" for column in COLUMNS)
        a.write(f"UPDATE wide SET {sets}", *[value] * len(COLUMNS))
        pull(b, a)
        assert everything(b) == everything(a)


def test_strict_tables_keep_their_types(make_hosts: MakeHosts) -> None:
    """ANY in a STRICT table converts nothing, elsewhere it means NUMERIC."""
    ddl = (
        "CREATE TABLE strict (k ANY NOT NULL PRIMARY KEY, v ANY, i INT, t TEXT) STRICT;"
        "CREATE TABLE loose (k ANY NOT NULL PRIMARY KEY, v ANY)"
    )
    a, b = make_hosts("a", "b", ddl=ddl, tables={"strict": None, "loose": None})
    for table in ("strict", "loose"):
        a.write(f"INSERT INTO {table} (k, v) VALUES ('1', '1'), (x'31', 1.0), (2, 1)")
        pull(b, a)
        a.write(f"UPDATE {table} SET v = 1.0 WHERE k = 2")
        pull(b, a)
        assert b.table(table, ["k"], ["v"]) == a.table(table, ["k"], ["v"])


def test_a_file_in_utf16_exchanges_text_with_one_in_utf8(make_hosts: MakeHosts) -> None:
    """How a file encodes its text is its own business.

    But UTF-16 in SQLite has neither broken text nor U+FFFF.
    """
    (a,) = make_hosts("a", ddl=DDL, tables=TABLES)
    (b,) = make_hosts("b", ddl=f"PRAGMA encoding = 'UTF-16'; {DDL}", tables=TABLES)
    fill(a, [value for value in VALUES if not isinstance(value, Raw) and value != "\uffff"])
    pull(b, a)
    assert everything(b) == everything(a)
    b.write("UPDATE wide SET c_text = c_text || 'more \N{GRINNING FACE}'")
    pull(a, b)
    assert everything(b) == everything(a)


values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.binary().map(Raw),
)


@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(values, min_size=1, max_size=20))
def test_any_value_arrives_byte_for_byte(some: list[Any]) -> None:
    """Also those that nobody thought of, and first read by whoever looks into the bundle."""
    with scratch() as folder:
        clock = Clock()
        a, b = (Host(Path(folder), n, ddl=DDL, tables=TABLES, clock=clock) for n in "ab")
        fill(a, some)
        ((_, frame),) = pull(b, a)
        assert everything(b) == everything(a)
        shown = everything(a)["wide"]
        carried = {
            (change.key, change.register): change.value
            for change in changes_in(frame)
            if change.table == "wide" and change.register
        }
        assert carried == {
            (key, column): value
            for key, row in shown.items()
            for column, value in zip(COLUMNS, row, strict=True)
        }
        a.close()
        b.close()
