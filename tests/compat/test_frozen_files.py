"""Files that earlier versions wrote are read: what is in them shows, and hosts go on from there."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from commands.cli_host import CliHost

from compat import freeze
from compat.freeze import BUNDLE, CONFIG, EXPECTED, LATER, SCHEMA
from syncd import bundlefile, comparison, exchange
from syncd.config import Config, TableConfig
from syncd.database import Database
from syncd.errors import DatabaseBusy, NotRestorable
from syncd.replica import Replica
from syncd.signing import keyring_of

FROZEN = sorted(file.parent for file in Path(__file__).parent.glob(f"*/{EXPECTED}"))
FRAMES_MAX = 100


@pytest.fixture(params=[*FROZEN, None], ids=lambda path: path.name if path else "of this version")
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Every set of frozen files, and one that is made now, so that the script stays right."""
    if request.param is None:
        freeze.freeze(tmp_path / "frozen")
        return tmp_path / "frozen"
    frozen: Path = request.param
    return frozen


@pytest.fixture
def expected(files: Path) -> dict[str, Any]:
    """What is in them."""
    found: dict[str, Any] = json.loads((files / EXPECTED).read_text())
    return found


@pytest.fixture
def old(files: Path, tmp_path: Path) -> Iterator[Replica]:
    """The database, which came without its sidecar."""
    with contextlib.closing(freeze.thaw(files, tmp_path / "old")) as replica:
        yield replica


@pytest.fixture
def new(files: Path, tmp_path: Path) -> Iterator[Replica]:
    """An empty database of the same schema, enrolled by this version."""
    with contextlib.closing(empty(files, tmp_path / "new.db")) as replica:
        yield replica


def empty(files: Path, database: Path) -> Replica:
    """Make an empty database of the frozen schema."""
    run_script(database, files / SCHEMA)
    tree = yaml.safe_load((files / CONFIG).read_text())
    config = Config.model_validate({**tree, "node": "new", "database": database, "peers": []})
    replica = Replica(config)
    replica.enrol()
    return replica


def run_script(database: Path, script: Path) -> None:
    """Run SQL as the application's migration does."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript(script.read_text())


def content(database: Path) -> list[str]:
    """Return all that is in a database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.text_factory = bytes
        return [
            repr(row)
            for (table,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table'"
            )
            for row in connection.execute(f'SELECT * FROM "{table.decode()}"')
        ]


def pull(receiver: Replica, sender: Replica) -> None:
    """Bring a receiver everything a sender has."""
    server = sender.origin()
    for _ in range(FRAMES_MAX):
        since, after = receiver.vector(), receiver.peers.cursor(server)
        header, frame = sender.changes_since(since, after, receiver.peers.progress(server))
        receiver.merge(header, frame)
        if frame.claim is not None:
            return
    raise AssertionError("a pull that does not end")


def same(one: Replica, other: Replica) -> bool:
    """Say whether two replicas show the same, as `syncd verify` does."""
    asked = comparison.questions(one)
    return comparison.answer(one, asked) == msgspec.structs.replace(
        comparison.answer(other, asked), node=one.config.node
    )


def test_a_set_is_frozen_for_the_present_formats() -> None:
    """A format that gets a new number gets a new folder."""
    assert freeze.folder_of_this_version() in FROZEN


def test_an_upgrade_that_failed_is_tried_again(tmp_path: Path) -> None:
    """Another program held the lock; the same process does it once it can, and not again."""
    tried: list[int] = []

    def upgrade(_: Database) -> None:
        tried.append(len(tried))
        if tried == [0]:
            raise DatabaseBusy

    with contextlib.closing(Database(tmp_path / "old.db", create=True, prepare=upgrade)) as old:
        with pytest.raises(DatabaseBusy), old.read():
            pass
        for _ in range(2):
            with old.read():
                pass
    assert tried == [0, 1]


class TestDatabase:
    """A database that an earlier version wrote, under this version."""

    def test_it_says_what_it_remembers(self, old: Replica, expected: dict[str, Any]) -> None:
        """Vector, peers, held changes, lost values, forks and what waits for the fold."""
        assert freeze.facts(old) == {"forks": {}, **expected["facts"]}

    def test_a_row_that_a_death_took_away_comes_back(self, files: Path, old: Replica) -> None:
        """Formats 4 and 5 kept the value alone, and sets before have no such row."""
        found = [one for one in old.conflicts() if one.lost_value == "too late"]
        if files.name.startswith(("database-2", "database-3")):
            assert found == []
            return
        (lost,) = found
        if files.name.startswith(("database-4", "database-5")):
            with pytest.raises(NotRestorable, match="does not show the row"):
                old.restore(lost.id)
            return
        old.restore(lost.id)
        query = "SELECT value, text FROM seat WHERE host = 'a' AND number = 5"
        assert freeze.rows(old.config.database, [query]) == {query: [[0.1, "too late"]]}

    def test_a_dry_run_leaves_the_file_as_it_was(self, old: Replica) -> None:
        """A former version can still read it."""
        before = content(old.config.database)
        with contextlib.closing(Replica(old.config.model_copy(update={"peers": ()}))) as alone:
            assert exchange.sync_now(alone, dry=True) == []
        with old.rehearsal() as twin:
            assert twin.status().journal
        assert content(old.config.database) == before

    def test_its_rows_stay(self, old: Replica, expected: dict[str, Any]) -> None:
        """Local ids and excluded columns too, once the journal is folded."""
        old.fold()
        assert old.status().journal == 0
        database = old.config.database
        assert freeze.rows(database, expected["travels"]) == expected["travels"]
        assert freeze.rows(database, expected["stays"]) == expected["stays"]
        old.enrol()  # as a daemon does when it starts: its triggers are of the former version
        assert comparison.findings(old) == []

    def test_it_takes_a_new_origin(self, old: Replica, expected: dict[str, Any]) -> None:
        """It is a copy; what it had is in its vector, what waited is of its new origin."""
        origin = old.origin()
        assert origin.hex() != expected["facts"]["origin"]
        assert "without its sidecar" in str(old.status().renewed_why)
        vector = old.vector()
        for known, seq in expected["facts"]["vector"].items():
            assert vector[bytes.fromhex(known)] == seq
        assert vector[origin] > 0

    def test_enrolling_it_anew_changes_nothing(self, old: Replica) -> None:
        """An update of syncd runs `syncd init`, or the daemon does. Triggers may be made anew."""
        before = freeze.waiting(old)
        for one in old.enrol():
            assert (one.rows, one.deleted, one.added, one.dropped) == (0, 0, (), ())
        assert {one.state for one in old.enrol()} == {"unchanged"}
        assert comparison.findings(old) == []
        assert freeze.waiting(old) == before

    def test_a_new_host_pulls_all_of_it(
        self, old: Replica, new: Replica, expected: dict[str, Any]
    ) -> None:
        """Rows and what is held; and back what the new host writes."""
        pull(new, old)
        database = new.config.database
        assert freeze.rows(database, expected["travels"]) == expected["travels"]
        assert freeze.waiting(new) == freeze.waiting(old)
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE licence SET size = 8 WHERE serial = 'L1'")
            connection.execute("DELETE FROM seat WHERE number = 99")
        pull(old, new)
        assert same(old, new)
        old.enrol()
        assert comparison.findings(old) == comparison.findings(new) == []

    def test_what_is_held_shows_once_the_schema_catches_up(
        self, old: Replica, files: Path, expected: dict[str, Any]
    ) -> None:
        """Every kind of value was kept, in tables and columns that were unknown."""
        run_script(old.config.database, files / LATER)
        tables = {**old.config.tables, "tag": TableConfig()}
        later = Replica(old.config.model_copy(update={"tables": tables}))
        with contextlib.closing(later):
            later.enrol()
            assert freeze.rows(old.config.database, expected["later"]) == expected["later"]
            assert {reason for *_, reason in freeze.waiting(later)} == {
                "future",
                "displaced",
                "parent",
            }


class TestBundle:
    """A file that an earlier version exported, under this version."""

    def test_an_empty_host_takes_it_in(
        self, files: Path, new: Replica, expected: dict[str, Any]
    ) -> None:
        """Its signature holds, and every kind of value arrives as it was."""
        keyring = keyring_of(new.config, new.wall_ms)
        with bundlefile.opened(files / BUNDLE, keyring) as reader:
            for frame in reader:
                new.merge(reader.header, frame)
        found = freeze.rows(new.config.database, expected["bundle"]["rows"])
        assert found == expected["bundle"]["rows"]
        assert comparison.findings(new) == []

    def test_the_host_that_made_it_finds_nothing_new(self, files: Path, old: Replica) -> None:
        """What its database has is what it sent."""
        keyring = keyring_of(old.config, old.wall_ms)
        with bundlefile.opened(files / BUNDLE, keyring) as reader:
            counts = [old.merge(reader.header, frame) for frame in reader]
        assert sum(count.applied for count in counts) == 0


class TestCommands:
    """An operator who updates syncd, and looks."""

    @pytest.fixture
    def host(self, files: Path, tmp_path: Path) -> CliHost:
        freeze.thaw(files, tmp_path / "host").close()
        tree = yaml.safe_load((files / CONFIG).read_text())
        return CliHost(tmp_path / "host", tree["node"], tree=tree)

    def test_status_names_what_is_there(self, host: CliHost, expected: dict[str, Any]) -> None:
        """It looks only: no new origin yet."""
        data = host.json("status")
        for name in ("origin", "held", "conflicts", "journal", "vector"):
            assert data[name] == expected["facts"][name]

    def test_what_it_exports_is_all(
        self, host: CliHost, new: Replica, expected: dict[str, Any]
    ) -> None:
        """A file of the old database, made by this version, fills an empty host."""
        file = host.folder / "all.bundle"
        assert host.run("export", file).exit_code == 0
        keyring = keyring_of(new.config, new.wall_ms)
        with bundlefile.opened(file, keyring) as reader:
            for frame in reader:
                new.merge(reader.header, frame)
        assert freeze.rows(new.config.database, expected["travels"]) == expected["travels"]

    def test_inspect_counts_the_changes_of_the_bundle(
        self, host: CliHost, expected: dict[str, Any]
    ) -> None:
        """By table and kind, with what it needs and brings."""
        assert host.json("inspect", host.folder / BUNDLE) == expected["bundle"]["summary"]
