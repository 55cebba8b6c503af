"""What a wrong clock has done is listed, released and repaired by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.cli_host import CliHost, refused
from syncd import clock

DAY_MS = 86_400_000


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliHost, CliHost]:
    """Two hosts. The stamps of a are a day ahead of its clock, as after the clock was set right."""
    a = CliHost(tmp_path / "a").ready()
    b = CliHost(tmp_path / "b", node="b").ready()
    a.sql("UPDATE syncd_replica SET hlc = ?", clock.hlc_of_ms(clock.system_wall_ms() + DAY_MS))
    a.add("x", 1)
    a.add("y", 2)
    return a, b


def take(receiver: CliHost, sender: CliHost, name: str) -> None:
    """Carry everything over in a file."""
    bundle = sender.folder / name
    assert sender.run("export", bundle).exit_code == 0
    assert receiver.run("import", bundle).exit_code == 0


def test_what_is_held_is_released_by_id_by_host_or_all(pair: tuple[CliHost, CliHost]) -> None:
    """The list gives the ids; a released change shows at once."""
    a, b = pair
    take(b, a, "first")
    assert b.notes() == {}
    ids = {one["key"]: one["id"] for one in b.json("held")}
    assert b.json("held", "release", str(ids["'x'"])) == {"released": 1}
    assert b.notes() == {"x": 1}
    refused(b.run("held", "release", "--peer", "nobody"), "there is no peer 'nobody'")
    assert "never" not in b.run("held").stdout
    assert b.run("held", "release", "--peer", "a").stdout == "1 released\n"
    assert b.notes() == {"x": 1, "y": 2}
    assert b.json("held") == []
    assert b.json("held", "release", "--all") == {"released": 0}


def test_release_asks_what_to_release(pair: tuple[CliHost, CliHost]) -> None:
    """Nothing, or two things at once, is a wrong usage; so is an id that is not in the list."""
    _, b = pair
    for arguments in ((), ("--all", "--peer", "a"), ("1", "--all")):
        result = b.run("held", "release", *arguments)
        assert result.exit_code == 2
        assert "either IDs, or --peer NAME, or --all" in result.stderr
    for unknown in ("7", str(1 << 63), str(10**20)):
        result = b.run("held", "release", unknown)
        refused(result, f"there is no held change {unknown}", "syncd held")


def test_status_names_the_host_that_is_ahead_and_a_repair_ends_it(
    pair: tuple[CliHost, CliHost],
) -> None:
    """On b, that a is ahead; on a, that its own stamps are, and the command that helps."""
    a, b = pair
    take(b, a, "first")
    (ahead,) = b.json("status")["ahead"]
    assert (ahead["node"], ahead["changes"]) == ("a", 2)
    assert abs(ahead["ahead_ms"] - DAY_MS) < 600_000
    assert "from the future" in b.run("status").stdout
    assert a.json("status")["clock_ahead_ms"] > DAY_MS - 600_000
    assert "syncd clock repair" in a.run("status").stdout
    assert a.run("clock", "repair").stdout == "2 changes brought to the present\n"
    assert a.json("status")["clock_ahead_ms"] < 400_000
    assert "if the clock is, set it first" in a.run("clock", "repair").stdout
    take(b, a, "second")
    assert b.notes() == {"x": 1, "y": 2}
    assert b.json("status")["ahead"] == []
