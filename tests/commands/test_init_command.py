"""`syncd init`: enrols what is configured, again and again, or refuses and changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands.cli_host import CliHost, refused


@pytest.fixture
def host(tmp_path: Path) -> CliHost:
    host = CliHost(tmp_path / "a")
    host.make_table()
    return host


def enrolled(host: CliHost) -> dict[str, dict[str, Any]]:
    return {row["table"]: row for row in host.json("init")}


def test_init_enrols_and_counts_the_rows_that_are_there(host: CliHost) -> None:
    """The first run makes the table new to syncd, rows included."""
    host.add("x", 1)
    host.add("y", 2)
    assert enrolled(host) == {
        "note": {
            "table": "note",
            "state": "new",
            "rows": 2,
            "deleted": 0,
            "added": [],
            "dropped": [],
            "excluded": [],
            "warnings": [],
        }
    }
    assert host.json("status")["tables"] == {"note": 2}


def test_init_again_changes_nothing(host: CliHost) -> None:
    """Run at every start of every process, it must not touch a file that is up to date."""
    host.add("x", 1)
    assert host.run("init").exit_code == 0
    before = host.dump()
    assert enrolled(host)["note"]["state"] == "unchanged"
    assert host.dump() == before


def test_init_after_a_migration_takes_the_new_column_in(host: CliHost) -> None:
    """A column added and one dropped are named, and rows keep their values."""
    assert host.run("init").exit_code == 0
    host.add("x", 1)
    host.sql("ALTER TABLE note ADD COLUMN colour TEXT DEFAULT 'red'")
    first = enrolled(host)["note"]
    assert (first["state"], first["added"]) == ("changed", ["colour"])
    assert enrolled(host)["note"]["state"] == "unchanged"
    assert host.sql("SELECT name, body, colour FROM note") == [("x", 1, "red")]


def test_init_takes_a_further_table_in(host: CliHost) -> None:
    """A table listed later is enrolled beside the others."""
    assert host.run("init").exit_code == 0
    host.sql("CREATE TABLE more (code TEXT PRIMARY KEY NOT NULL, n INTEGER)")
    host.write_config(tables={"note": {"key": ["name"]}, "more": {}})
    found = enrolled(host)
    assert {name: row["state"] for name, row in found.items()} == {
        "note": "unchanged",
        "more": "new",
    }


def test_a_table_no_longer_listed_is_told(host: CliHost) -> None:
    """It stays enrolled, and the operator is told so."""
    host.sql("CREATE TABLE more (code TEXT PRIMARY KEY NOT NULL)")
    host.write_config(tables={"note": {"key": ["name"]}, "more": {}})
    assert host.run("init").exit_code == 0
    host.write_config(tables={"note": {"key": ["name"]}})
    assert enrolled(host)["more"]["state"] == "unlisted"


def test_init_as_text_is_a_table(host: CliHost) -> None:
    """Without --json one line per table, with what happened to it."""
    result = host.run("init")
    assert result.exit_code == 0
    assert "note" in result.stdout
    assert "new" in result.stdout
    assert result.stderr == ""


def test_init_warns_of_a_trigger_that_writes_another_table(host: CliHost) -> None:
    """In the text and in JSON; nothing is wrong, so the exit code says so."""
    host.sql("CREATE TABLE more (code TEXT PRIMARY KEY NOT NULL)")
    host.sql(
        "CREATE TRIGGER audit AFTER INSERT ON note"
        " BEGIN INSERT INTO more VALUES (hex(randomblob(8))); END"
    )
    host.write_config(tables={"note": {"key": ["name"]}, "more": {}})
    result = host.run("init")
    assert (result.exit_code, result.stderr) == (0, "")
    (warning,) = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: note: trigger audit writes more")
    found = enrolled(host)
    assert [f"warning: note: {text}" for text in found["note"]["warnings"]] == [warning]
    assert found["more"]["warnings"] == []


def test_init_says_what_a_migration_did(host: CliHost) -> None:
    """Columns that came, went and stay local, and rows that nobody saw come and go."""
    host.sql("ALTER TABLE note ADD COLUMN mood")
    assert host.run("init").exit_code == 0
    for name in ("x", "y", "z"):
        host.add(name)
    assert host.json("status")["adrift"] == {}
    host.sql("ALTER TABLE note RENAME TO old")
    host.make_table()
    host.sql("ALTER TABLE note ADD COLUMN colour")
    host.sql("INSERT INTO note (name) SELECT name FROM old WHERE name <> 'x' UNION SELECT 'new'")
    host.sql("DROP TABLE old")
    assert host.json("status")["adrift"] == {"note": ["mood"]}
    assert "note: migrated; run syncd init" in host.run("status").stdout
    export = host.run("export", host.folder / "x.syncd")
    assert export.exit_code == 1
    assert "error: table note has no column mood any more\nhint: " in export.stderr
    host.write_config(tables={"note": {"key": ["name"], "columns": {"exclude": ["body"]}}})
    text = host.run("init").stdout
    assert text.splitlines()[0].split() == [
        *("table", "state", "rows", "deleted", "added", "dropped", "excluded")
    ]
    assert text.splitlines()[2].split() == ["note", "changed", "1", "1", "colour", "mood", "body"]
    assert enrolled(host)["note"]["state"] == "unchanged"


UNFIT: dict[str, tuple[Callable[[CliHost], None], tuple[str, ...], int]] = {
    "a table that is not there": (
        lambda host: host.write_config(tables={"note": {"key": ["name"]}, "ghost": {}}),
        ("ghost",),
        1,
    ),
    "a bare integer primary key": (
        lambda host: host.write_config(tables={"note": {}}),
        ("tables.note", "id", "key: [", "key: generated"),
        1,
    ),
    "a key column that is not there": (
        lambda host: host.write_config(tables={"note": {"key": ["nome"]}}),
        ("note", "nome"),
        1,
    ),
    "a key that is not unique": (
        lambda host: host.write_config(tables={"note": {"key": ["body"]}}),
        ("note", "body"),
        1,
    ),
    "two mistakes": (
        lambda host: host.write_config(tables={"ghost": {}, "note": {}, "phantom": {}}),
        ("ghost", "note", "phantom", "3 mistakes:"),
        3,
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_enrolled_is_refused_and_nothing_changes(name: str, host: CliHost) -> None:
    """Every problem on a line, exit code 2, and the user's file is the same, byte for byte."""
    spoil, fragments, errors = UNFIT[name]
    host.add("x", 1)
    spoil(host)
    before = digest(host.database), host.dump()
    refused(host.run("init"), *fragments, errors=errors)
    assert (digest(host.database), host.dump()) == before


def test_a_changed_key_is_refused_after_enrolment(host: CliHost) -> None:
    """Which columns identify a row cannot change under the changes that are merged."""
    host.sql("CREATE UNIQUE INDEX note_body ON note (body)")
    assert host.run("init").exit_code == 0
    before = host.dump()
    host.write_config(tables={"note": {"key": ["name", "body"]}})
    result = host.run("init")
    assert result.exit_code == 2
    assert "tables.note" in result.stderr
    assert host.dump() == before


def test_a_command_before_init_says_so(host: CliHost) -> None:
    """Whoever forgets `init` is told to run it, and the file is left alone."""
    before = digest(host.database)
    for command in (("status",), ("sync",), ("export", "x.syncd")):
        if command == ("sync",):
            host.write_config(peers=[{"name": "b", "url": "http://127.0.0.1:1"}])
        refused(host.run(*command), "hint: Run: syncd init")
    assert digest(host.database) == before
    assert not (host.folder / "x.syncd").exists()


def test_a_command_on_a_missing_file_does_not_make_one(tmp_path: Path) -> None:
    """A mistyped path is not answered by an empty database under that name."""
    host = CliHost(tmp_path / "a")
    for command in (("status",), ("export", "x.syncd"), ("init",)):
        assert host.run(*command).exit_code == 2
    assert sorted(path.name for path in host.folder.iterdir()) == ["config.yaml"]


def test_a_file_that_is_no_database_is_one_error(tmp_path: Path) -> None:
    """The message names the file; its bytes stay."""
    host = CliHost(tmp_path / "a")
    host.database.write_text("this is a letter, and a long one, not a database " * 20)
    before = digest(host.database)
    result = host.run("init")
    assert result.exit_code in (1, 2)
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert str(host.database) in result.stderr
    assert digest(host.database) == before


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
