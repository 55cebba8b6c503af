"""A file that cannot be used is one clear error with a hint, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from commands.cli_host import CliHost, clean_environment

PAGE = 4096
TIMEOUT_S = 60


def _no_sqlite(content: bytes) -> bytes:
    return b"a letter, and no database" * (len(content) // 25)


def _sick_pages(content: bytes) -> bytes:
    return content[: 2 * PAGE] + b"\xff" * (len(content) - 3 * PAGE) + content[-PAGE:]


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [_no_sqlite, _sick_pages, _half])
def test_a_damaged_file_is_one_error(tmp_path: Path, damage: object) -> None:
    """Neither init nor export goes on, and once the file is back all is as before."""
    assert callable(damage)
    host = CliHost(tmp_path / "a").ready()
    host.add_many(2_000)
    whole = host.database.read_bytes()
    host.database.write_bytes(damage(whole))
    for command in (("init",), ("export", tmp_path / "file.bundle")):
        done = host.process(*command)
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("error: ") == 1
        assert "hint: Stop app and daemon" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "file.bundle").exists()
    host.database.write_bytes(whole)
    assert host.process("export", tmp_path / "file.bundle").returncode == 0


def test_an_index_that_lacks_rows_is_found_and_made_anew(tmp_path: Path) -> None:
    """Its table has every row."""
    host = CliHost(tmp_path / "a")
    host.sql("CREATE TABLE note (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, body)")
    host.sql("CREATE INDEX bodies ON note (body)")
    assert host.run("init").exit_code == 0
    host.add_many(10)
    # Who writes while the index is said to have no rows leaves it behind.
    declare(host, "CREATE INDEX bodies ON note (body) WHERE name IS NULL")
    host.add("eleven", 11)
    declare(host, "CREATE INDEX bodies ON note (body)")
    done = host.process("verify", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["found"]
    assert {(one["table"], one["problem"]) for one in found} == {("note", "file damaged")}
    assert "bodies" in found[0]["name"]
    done = host.process("verify", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the file is sound" in done.stdout
    assert host.sql("PRAGMA integrity_check") == [("ok",)]
    assert host.notes()["eleven"] == 11


@pytest.mark.parametrize(
    "name", ["note", "sqlite_autoindex_note_1", "syncd_conflict", "syncd_changes_note"]
)
def test_a_damaged_page_is_named_by_its_table(tmp_path: Path, name: str) -> None:
    """One of syncd's own as well; no other page gives back what it had."""
    host = CliHost(tmp_path / "a").ready()
    host.add_many(2_000)
    assert host.process("verify").returncode == 0
    overwrite_root(host, name)
    table = "note" if "autoindex" in name else name
    for command in (("verify", "--json"), ("verify", "--json", "--repair")):
        done = host.process(*command)
        assert done.returncode == 1, done.stderr
        left = json.loads(done.stdout)["left"]
        assert {(one["table"], one["problem"]) for one in left} == {(table, "file damaged")}
    assert "restore a backup" in host.process("verify").stdout


def declare(host: CliHost, index: str) -> None:
    """Change what the schema says of the index `bodies`, and nothing else."""
    with contextlib.closing(sqlite3.connect(host.database)) as writer, writer:
        writer.execute("PRAGMA writable_schema = ON")
        writer.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'bodies'", (index,))


def overwrite_root(host: CliHost, name: str) -> None:
    """Overwrite the first page of a table or an index, as a disk may that forgets."""
    host.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ((root,),) = host.sql("SELECT rootpage FROM sqlite_schema WHERE name = ?", name)
    with host.database.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(b"\xff" * PAGE)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_must_not_be_written_is_one_error(tmp_path: Path, place: str) -> None:
    """A read-only file or folder can still be looked at; once it may be written, all is well."""
    host = CliHost(tmp_path / "a").ready()
    host.add_many(10)
    target = host.database if place == "file" else host.folder
    mode = target.stat().st_mode
    target.chmod(0o444 if place == "file" else 0o555)
    done = _without_privileges(host, "export", tmp_path / "file.bundle")
    target.chmod(mode)
    assert done.returncode == 1, done.stderr
    assert "readonly" in done.stderr
    assert "hint: Check owner, permissions" in done.stderr
    assert host.process("export", tmp_path / "file.bundle").returncode == 0


def _without_privileges(host: CliHost, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to which permissions apply, also if root runs the tests."""
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
    return subprocess.run(
        [
            *(drop if os.getuid() == 0 else []),
            sys.executable,
            "-m",
            "syncd",
            "--config",
            str(host.config),
            *map(str, args),
        ],
        env=clean_environment(),
        cwd=host.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
