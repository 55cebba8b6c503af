"""Files of a format that is not this version's are refused with a way out, and left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands.cli_host import CliHost, refused

from syncd import codec, schema


def test_a_bundle_of_a_newer_format_is_refused_as_such(tmp_path: Path) -> None:
    """It says which format it has and what to do; not that it is no bundle."""
    host = CliHost(tmp_path / "a").ready()
    file = tmp_path / "newer.bundle"
    assert host.run("export", file).exit_code == 0
    newer = bytearray(file.read_bytes())
    newer[codec.MAGIC.index(bytes([codec.FORMAT]))] += 1
    file.write_bytes(newer)
    for command in ("import", "inspect"):
        refused(host.run(command, file), "format 2", "reads 1", "hint: Run the version of syncd")


def test_other_bytes_are_no_bundle(tmp_path: Path) -> None:
    """Whatever starts otherwise is not taken for a bundle of another format."""
    host = CliHost(tmp_path / "a").ready()
    file = tmp_path / "note.txt"
    file.write_text("a letter, not a bundle")
    refused(host.run("import", file), "this is not a syncd bundle")


@pytest.mark.parametrize("command", ["init", "status", "sync", "export", "held", "conflicts"])
def test_a_database_of_a_newer_format_is_refused(tmp_path: Path, command: str) -> None:
    """No command touches bookkeeping that it does not understand."""
    host = CliHost(tmp_path / "a").ready()
    host.sql("UPDATE syncd_replica SET format = format + 1")
    before = host.dump()
    arguments = [tmp_path / "out.bundle"] if command == "export" else []
    done = host.run(command, *arguments)
    assert done.exit_code == 1, done.output
    assert f"format {schema.FORMAT + 1}, this version reads {schema.FORMAT}" in done.stderr
    assert "hint: Run the version of syncd" in done.stderr
    assert host.dump() == before
