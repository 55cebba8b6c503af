"""A file that cannot be used is one clear error with a hint, and nothing is lost by it."""

from __future__ import annotations

import os
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
