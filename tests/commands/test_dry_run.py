"""A dry run says what would happen, and nothing happens."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from commands.cli_host import CliHost, refused
from syncd.identity import sidecar_of

TWO_TABLES = {"note": {"key": ["name"]}, "place": {}}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliHost, CliHost]:
    """Two hosts that have met, and have both written since. What a wrote is newer."""
    a, b = (CliHost(tmp_path / node, node=node, tree={"tables": TWO_TABLES}) for node in ("a", "b"))
    for host in (a, b):
        host.sql("CREATE TABLE place (site TEXT PRIMARY KEY, size INTEGER CHECK (size > 0))")
        host.ready()
    a.add("x", 1)
    a.add("gone", 1)
    take(b, a, "first")
    a.sql("INSERT INTO place VALUES ('here', 1)")
    b.sql("UPDATE note SET body = 2")
    time.sleep(0.02)  # two programs may be quicker than a millisecond
    a.sql("UPDATE note SET body = 3 WHERE name = 'x'")
    a.sql("DELETE FROM note WHERE name = 'gone'")
    a.sql("ALTER TABLE note ADD COLUMN colour")
    assert a.run("init").exit_code == 0
    a.sql("INSERT INTO note (name, colour) VALUES ('y', 'red')")
    return a, b


def take(receiver: CliHost, sender: CliHost, name: str) -> None:
    """Carry everything over in a file."""
    bundle = sender.folder / name
    assert sender.run("export", bundle).exit_code == 0
    assert receiver.run("import", bundle).exit_code == 0


def files(host: CliHost) -> dict[str, list[str]]:
    """Return what is in the host's database and in its sidecar.

    Not their bytes: SQLite copies its log back whenever the last connection of a process closes.
    """
    found = {}
    for file in (host.database, sidecar_of(host.database)):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            found[file.name] = list(connection.iterdump())
    return found


EXPECTED = {
    "note": {"applied": 3, "overwritten": 3, "older": 0, "conflicting": 2, "held": 1},
    "place": {"applied": 1, "overwritten": 0, "older": 0, "conflicting": 0, "held": 0},
}


def test_a_dry_import_says_what_the_import_then_does(pair: tuple[CliHost, CliHost]) -> None:
    """By table: what would be applied, overwritten, ignored, conflicting, held; not a byte is
    written, and the real import then counts the same."""
    a, b = pair
    bundle = a.folder / "news"
    assert a.run("export", bundle).exit_code == 0
    before, notes = files(b), b.notes()
    told = b.json("import", bundle, "--dry-run")
    assert files(b) == before
    assert b.notes() == notes
    assert told["dry_run"] is True
    assert {name: {**counts, "older": 0} for name, counts in told["tables"].items()} == EXPECTED
    text = b.run("import", bundle, "--dry-run").stdout
    assert "nothing is written" in text
    assert "ignored as older" in text
    done = b.json("import", bundle)
    assert {**done, "dry_run": True} == told
    assert b.notes() == {"x": 3, "y": None}
    again = b.json("import", bundle, "--dry-run")
    assert (again["applied"], again["overwritten"], again["held"]) == (0, 0, 0)


def test_a_dry_import_foresees_what_constraints_hold_back(tmp_path: Path) -> None:
    """A row that is displaced, one that displaces, and one that a CHECK of this host refuses."""
    a, b = (CliHost(tmp_path / node, node=node, tree={"tables": {"place": {}}}) for node in "ab")
    b.sql("CREATE TABLE place (site TEXT PRIMARY KEY, spot UNIQUE, size INTEGER CHECK (size > 0))")
    a.sql("CREATE TABLE place (site TEXT PRIMARY KEY, spot UNIQUE, size INTEGER)")
    for host in (a, b):
        assert host.run("init").exit_code == 0
    a.sql("INSERT INTO place VALUES ('beaten', 'x', 1)")
    time.sleep(0.02)
    b.sql("INSERT INTO place VALUES ('newer', 'x', 1), ('older', 'y', 1)")
    time.sleep(0.02)
    a.sql("INSERT INTO place VALUES ('winner', 'y', 1), ('small', 'z', 0), ('fine', 'w', 1)")
    bundle = a.folder / "news"
    assert a.run("export", bundle).exit_code == 0
    before = files(b)
    told = b.json("import", bundle, "--dry-run")
    assert files(b) == before
    assert told["tables"]["place"] == {
        **{"applied": 4, "overwritten": 0, "older": 0},
        **{"conflicting": 2, "held": 3},
    }
    assert {**b.json("import", bundle), "dry_run": True} == told
    assert b.sql("SELECT site FROM place ORDER BY 1") == [("fine",), ("newer",), ("winner",)]
    assert {one["key"] for one in b.json("held")} == {"'beaten'", "'older'", "'small'"}


def test_a_dry_import_refuses_what_the_import_refuses(pair: tuple[CliHost, CliHost]) -> None:
    """A bundle that continues from changes which are not here."""
    a, b = pair
    assert a.run("export", a.folder / "base").exit_code == 0
    a.add("z", 1)
    later = a.folder / "later"
    assert a.run("export", "--since", a.folder / "base", later).exit_code == 0
    before = files(b)
    result = b.run("import", later, "--dry-run")
    refused(result, "continues from changes that are not here")
    assert files(b) == before


def test_a_dry_round_writes_and_sends_nothing(pair: tuple[CliHost, CliHost]) -> None:
    """The peer is asked for what it has, and given nothing, though it is one to push to."""
    a, b = pair
    b.add("mine", 1)
    with a.serving() as server:
        b.write_config(peers=[{"name": "a", "url": server.url, "push": True}])
        before, theirs = files(b), a.notes()
        (told,) = b.json("sync", "--dry-run")
        assert files(b) == before
        assert a.notes() == theirs
        assert server.count("/sync/v1/push") == 0
        assert told["tables"] == EXPECTED
        assert told["sent"] == 1
        text = b.run("sync", "--dry-run").stdout
        assert "place" in text
        (done,) = b.json("sync")
    counted = ("applied", "overwritten", "older", "conflicting", "held", "sent", "tables")
    assert {name: done[name] for name in counted} == {name: told[name] for name in counted}
    assert b.notes() == a.notes() == {"x": 3, "y": None, "mine": 1}


def test_a_dry_run_keeps_no_writer_waiting(pair: tuple[CliHost, CliHost]) -> None:
    """A program that has the write lock is not disturbed, and does not disturb."""
    a, b = pair
    bundle = a.folder / "news"
    assert a.run("export", bundle).exit_code == 0
    with b.writing():
        told = b.json("import", bundle, "--dry-run")
    assert told["tables"]["place"] == EXPECTED["place"]


def test_a_dry_round_of_a_renamed_host_leaves_its_identity_alone(
    pair: tuple[CliHost, CliHost],
) -> None:
    """The new origin that the name calls for is taken by the copy and not by the host."""
    a, b = pair
    with a.serving() as peer:
        b.write_config(peers=[{"name": "a", "url": peer.url}], node="renamed")
        before = b.dump()
        assert b.process("sync", "--dry-run").returncode == 0
        assert b.dump() == before
