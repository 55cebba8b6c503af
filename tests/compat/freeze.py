"""Freezes what this version writes: `python -m tests.compat.freeze`.

It makes tests/compat/database-N-bundle-M, N and M being the formats: a database in which every kind
of bookkeeping has something in it, a signed bundle with every kind of value, their configuration
and schema, and expected.json, which says what is in them. Every later version must read it. Freeze
whenever a format gets a new number, in the same commit; folders that are there stay as they are for
good, and the script refuses to write into one.

Clocks, origins and tokens are given, so it makes the same each time.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

if __name__ == "__main__":
    # The tests' packages are imported as pytest does it: from the folder `tests`.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.hosts import DAY_MS, Clock, Host, Key, pull, scratch, settle

import syncd
from syncd import bundlefile, codec, schema
from syncd.inspection import json_value, summary
from syncd.literals import RawText
from syncd.replica import Replica
from syncd.signing import keyring_of
from syncd.vector import Vector

DATABASE, BUNDLE, CONFIG, SCHEMA, LATER, EXPECTED = (
    *("replica.db", "changes.bundle", "config.yaml", "schema.sql", "later.sql", "expected.json"),
)
SMALL_PAGES = "PRAGMA page_size = 512;"
DDL = """\
CREATE TABLE owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    label TEXT UNIQUE
);
CREATE TABLE licence (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    serial TEXT NOT NULL UNIQUE,
    owner INTEGER REFERENCES owner(id),
    size INTEGER CHECK (size < 100),
    cache TEXT
);
CREATE TABLE seat (host TEXT, number INTEGER, value, text TEXT, PRIMARY KEY (host, number));
CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL);
CREATE TABLE place (
    id INTEGER PRIMARY KEY, town TEXT NOT NULL, number INTEGER NOT NULL, UNIQUE (town, number)
);
CREATE TABLE remark (
    name TEXT PRIMARY KEY, line INTEGER REFERENCES log(id), place INTEGER REFERENCES place(id)
);
"""
CATCHING_UP = """\
ALTER TABLE owner ADD COLUMN colour;
CREATE TABLE tag (name TEXT PRIMARY KEY, value);
"""
TABLES: dict[str, Key] = {
    "owner": ["name"],
    "licence": {"key": ["serial"], "columns": {"exclude": ["cache"]}},
    "seat": None,
    "log": "generated",
    "place": ["town", "number"],
    "remark": None,
}
TRAVELS = (
    "SELECT name, label FROM owner ORDER BY 1",
    "SELECT l.serial, o.name, l.size FROM licence l LEFT JOIN owner o ON o.id = l.owner ORDER BY 1",
    "SELECT host, number, value, text FROM seat ORDER BY 1, 2",
    "SELECT line FROM log ORDER BY 1",
    "SELECT r.name, l.line, p.town, p.number FROM remark r LEFT JOIN log l ON l.id = r.line"
    " LEFT JOIN place p ON p.id = r.place ORDER BY 1",
)
STAYS = (
    "SELECT id, name FROM owner ORDER BY 1",
    "SELECT id, serial, cache FROM licence ORDER BY 1",
    "SELECT id, line FROM log ORDER BY 1",
)
COMES_LATER = (
    "SELECT name, value FROM tag ORDER BY 1",
    "SELECT name, colour FROM owner WHERE colour IS NOT NULL ORDER BY 1",
)
VALUES = (
    *(2**53 + 1, -(2**63), 2**63 - 1, float("inf"), float("-inf"), 0.1, 5e-324, 1.0),
    *(None, "", "\u00e9\U0001f511", "a\0b", b"", b"\xff\x00", b"text"),
)
RAW = "CAST(X'ff80' AS TEXT)"
FORKED = bytes(range(16))
FAR_AHEAD_MS = 4_102_444_800_000
"""The year 2100: what waits for it waits whenever the tests run."""


def main() -> None:
    """Freeze the present formats."""
    folder = folder_of_this_version()
    freeze(folder)
    print(folder)


def folder_of_this_version() -> Path:
    """Return the folder of the formats that this version writes."""
    return Path(__file__).with_name(f"database-{schema.FORMAT}-bundle-{codec.FORMAT}")


def freeze(folder: Path) -> None:
    """Write a set of files into a folder, which must not be there yet."""
    folder.mkdir()
    (folder / SCHEMA).write_text(DDL)
    (folder / LATER).write_text(CATCHING_UP)
    (folder / CONFIG).write_text(yaml.safe_dump(_config()))
    dice = random.Random(1)
    with (
        scratch() as name,
        mock.patch.object(secrets, "token_bytes", dice.randbytes),
        contextlib.ExitStack() as hosts,
    ):
        a, b, c = (
            Host(Path(name), node, ddl=SMALL_PAGES + DDL, tables=TABLES, clock=Clock())
            for node in "abc"
        )
        for host in (a, b, c):
            hosts.callback(host.close)
        _live(a, b, c)
        header, frames = a.replica.frames_since(Vector())
        keyring = keyring_of(a.replica.config, a.clock)
        bundlefile.write(folder / BUNDLE, keyring, header, frames)
        with bundlefile.opened(folder / BUNDLE, keyring) as reader:
            in_bundle = {"summary": summary(reader), "rows": rows(a.path, TRAVELS)}
        _write_unfolded(a)
        (folder / DATABASE).write_bytes(a.content())
        expected = {
            "bundle": in_bundle,
            "travels": rows(a.path, TRAVELS),
            "stays": rows(a.path, STAYS),
            "later": rows(c.path, COMES_LATER),
        }
        with contextlib.closing(_as_configured(a, folder)) as replica:
            expected["facts"] = facts(replica)
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")


def thaw(frozen: Path, folder: Path) -> Replica:
    """Copy frozen files into a folder; return the database there."""
    shutil.copytree(frozen, folder)
    return syncd.Replica(syncd.load_config(folder / CONFIG, {}))


def rows(database: Path, queries: Iterable[str]) -> dict[str, list[list[Any]]]:
    """Return the rows of queries, as JSON can carry them."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.text_factory = _text_or_raw
        return {
            sql: [
                [json_value(value, isinstance(value, RawText)) for value in row]
                for row in connection.execute(sql)
            ]
            for sql in queries
        }


def _text_or_raw(data: bytes) -> str | RawText:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return RawText(data)


def facts(replica: Replica) -> dict[str, Any]:
    """Return what a replica remembers beside its rows, as JSON can carry it, and change nothing."""
    status = replica.status()
    found = {
        "origin": status.origin,
        "journal": status.journal,
        "held": status.held,
        "conflicts": status.conflicts,
        "forgotten_ms": status.forgotten_ms,
        "vector": {origin.hex(): seq for origin, seq in sorted(status.vector.items())},
        "peers": [
            [p.name, p.node, p.success_ms, p.offset_ms, p.error_code, p.error_ms, p.behind]
            for p in status.peers
        ],
        "forks": {origin.hex(): seq for origin, seq in replica.forks().items()},
        "contacts": sorted(
            [one.name, one.origin, one.heard_ms] for one in replica.peers.contacts()
        ),
        "waiting": waiting(replica),
        "lost": sorted(
            [c.table, c.key, c.column, json_value(c.lost_value), c.lost_node, c.won_node]
            for c in replica.conflicts()
        ),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def waiting(replica: Replica) -> list[list[str]]:
    """Return what is held, for what reason."""
    held = ((one, one.column if one.id is not None else "") for one in replica.held())
    return sorted([one.table, one.key, column, one.reason] for one, column in held)


def _config() -> dict[str, Any]:
    return {
        "node": "a",
        "database": DATABASE,
        "tables": {
            name: key if isinstance(key, dict) else {"key": key} for name, key in TABLES.items()
        },
        "sync": {"keys": [{"id": "k1", "secret": "x" * 40}]},
        "peers": [{"name": peer, "url": f"https://{peer}.invalid"} for peer in ("b", "c")],
    }


def _as_configured(host: Host, folder: Path) -> Replica:
    config = syncd.load_config(folder / CONFIG, {})
    return Replica(config.model_copy(update={"database": host.path}), wall_ms=host.clock)


def _live(a: Host, b: Host, c: Host) -> None:
    """Let hosts live through all that leaves a trace on the first of them."""
    a.replica.guard.learn({FORKED: 7})
    _write_rows(a, b)
    settle(a, b)
    _forget(a, b)
    _disagree(a, b)
    settle(a, b)
    _withdraw(a, b)
    _be_ahead(c)
    ((header, _), *_) = pull(a, c)
    a.replica.peers.record_success("b", pull(a, b)[-1][0], attempt_ms=a.clock(), offset_ms=-12)
    a.replica.peers.record_success("c", header, attempt_ms=a.clock(), offset_ms=34)
    a.clock.ms += 1_000
    a.replica.peers.record_failure(
        "c", attempt_ms=a.clock(), error="no answer", code="peer_unreachable"
    )
    pull(b, a)


def _write_rows(a: Host, b: Host) -> None:
    a.write(
        "INSERT INTO owner (name, label) VALUES"
        " ('stays', 's'), ('leaves', 'l'), ('was', 'w'), ('goes', 'g')"
    )
    a.write(
        "INSERT INTO licence (serial, owner, size, cache) SELECT 'L1', id, 1, 'local' FROM owner"
        " WHERE name = 'stays'"
    )
    b.write("INSERT INTO owner (name) VALUES ('of b')")
    for host in (a, b):
        for number, value in enumerate(VALUES):
            host.write("INSERT INTO seat VALUES (?1, ?2, ?3, ?3)", host.node, number, value)
        host.write(f"INSERT INTO seat VALUES (?, 99, {RAW}, {RAW})", host.node)
        host.write("INSERT INTO log (line) VALUES (?), ('dies')", f"of {host.node}")
        host.write("INSERT INTO log (line) VALUES (?)", f"remarked on by {host.node}")
        host.write("INSERT INTO place (town, number) VALUES (?, 1)", f"{host.node}'s town")
        host.write("INSERT INTO remark VALUES (?, 3, 1)", f"by {host.node}")


def _forget(a: Host, b: Host) -> None:
    """Leave a horizon, behind which nothing is remembered."""
    a.write("DELETE FROM owner WHERE name = 'was'")
    settle(a, b)
    for host in (a, b):
        host.clock.ms += 100 * DAY_MS
    assert a.replica.compact().deaths


def _disagree(a: Host, b: Host) -> None:
    """Leave losers of every kind, deaths, and values of their own births."""
    for host in (a, b):
        host.write("UPDATE licence SET size = ? WHERE serial = 'L1'", ord(host.node) % 50)
        host.write("INSERT INTO owner (name, label) VALUES (?, 'twice')", f"label {host.node}")
        host.write("DELETE FROM log WHERE line = 'dies'")
        host.write("UPDATE seat SET text = 'new' WHERE host = ? AND number < 3", host.node)
        host.write("DELETE FROM seat WHERE host = ? AND number = 4", host.node)
    a.write("DELETE FROM owner WHERE name = 'leaves'")
    b.write(
        "INSERT INTO licence (serial, owner) SELECT 'waits', id FROM owner WHERE name = 'leaves'"
    )
    a.write("UPDATE remark SET line = NULL, place = 2 WHERE name = 'by b'")
    b.write("UPDATE remark SET line = 1, place = 1 WHERE name = 'by b'")
    a.write("DELETE FROM log WHERE line = 'of b'")
    b.write("INSERT INTO remark (name, line) SELECT 'waits', id FROM log WHERE line = 'of b'")
    b.write("DELETE FROM seat WHERE host = 'a' AND number = 5")
    a.write("UPDATE seat SET text = 'too late' WHERE host = 'a' AND number = 5")


def _withdraw(a: Host, b: Host) -> None:
    """Leave a withdrawal: the clock of b was a day ahead, and what it wrote is written anew."""
    b.clock.ms += DAY_MS
    b.write("UPDATE owner SET label = 'tomorrow' WHERE name = 'of b'")
    b.replica.fold()
    b.clock.ms -= DAY_MS
    pull(a, b)
    assert b.replica.repair_clock()


def _be_ahead(c: Host) -> None:
    """Leave what waits for a table, for a column and for its time."""
    c.writer.executescript(CATCHING_UP)
    c.enrol({**TABLES, "tag": None})
    for number, value in enumerate(VALUES):
        c.write("INSERT INTO tag VALUES (?, ?)", f"tag {number}", value)
    c.write(f"INSERT INTO tag VALUES ('raw', {RAW})")
    c.write("INSERT INTO tag VALUES ('dies', 1)")
    c.write("DELETE FROM tag WHERE name = 'dies'")
    c.write("INSERT INTO owner (name, colour) VALUES ('painted', 'red')")
    c.replica.fold()
    c.clock.ms = FAR_AHEAD_MS
    c.write("INSERT INTO owner (name) VALUES ('of the future')")


def _write_unfolded(a: Host) -> None:
    """Leave a journal: births, an update, a death, and a row that REPLACE displaces."""
    a.write("INSERT INTO seat VALUES ('new', 1, 'a', 'b')")
    a.write("INSERT INTO log (line) VALUES ('not folded')")
    a.write("INSERT INTO remark SELECT 'not folded', max(id), 1 FROM log")
    a.write("UPDATE licence SET size = 7, cache = 'mine' WHERE serial = 'L1'")
    a.write("DELETE FROM seat WHERE host = 'b' AND number = 0")
    a.write("INSERT OR REPLACE INTO owner (name, label) VALUES ('displaces', 'g')")


if __name__ == "__main__":
    main()
