"""What lost or waits is listed, and can be had back."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from commands.cli_host import CliHost, refused


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliHost, CliHost]:
    """Two hosts that wrote the same note without knowing of each other; b is the later."""
    a = CliHost(tmp_path / "a").ready()
    b = CliHost(tmp_path / "b", node="b").ready()
    a.add("it's", "of a")
    time.sleep(0.02)  # two programs may be quicker than a millisecond
    b.add("it's", "of b")
    return a, b


def take(receiver: CliHost, sender: CliHost, name: str) -> None:
    """Carry everything over in a file."""
    bundle = sender.folder / name
    assert sender.run("export", bundle).exit_code == 0
    assert receiver.run("import", bundle).exit_code == 0


def test_a_lost_value_is_listed_and_written_back(pair: tuple[CliHost, CliHost]) -> None:
    """The loser is named with both sides; restored, it wins everywhere as a new write."""
    a, b = pair
    take(a, b, "first")
    (conflict,) = a.json("conflicts")
    assert (conflict["table"], conflict["key"], conflict["column"]) == ("note", "'it''s'", "body")
    assert (conflict["lost_value"], conflict["lost_node"]) == ("of a", "a")
    assert (conflict["won_value"], conflict["won_node"]) == ("of b", "b")
    assert a.notes() == {"it's": "of b"}
    restored = a.json("conflicts", "restore", str(conflict["id"]))
    assert restored["lost_value"] == "of a"
    take(b, a, "second")
    assert a.notes() == b.notes() == {"it's": "of a"}
    assert "of a" in a.run("conflicts").stdout


def test_a_row_that_another_host_deleted_comes_back(pair: tuple[CliHost, CliHost]) -> None:
    """With the value that was written to it meanwhile, and everywhere."""
    a, b = pair
    take(a, b, "first")
    a.sql("UPDATE note SET body = 'kept'")
    time.sleep(0.02)
    b.sql("DELETE FROM note")
    take(a, b, "second")
    assert a.notes() == {}
    lost = a.json("conflicts")[0]
    assert (lost["lost_value"], lost["won_by_death"]) == ("kept", True)
    assert "a deletion" in a.run("conflicts").stdout
    restored = a.run("conflicts", "restore", str(lost["id"]))
    assert "note ('it''s'): body is 'kept' again" in restored.stdout
    take(b, a, "third")
    assert a.notes() == b.notes() == {"it's": "kept"}


def test_conflicts_are_chosen_by_table_and_time(pair: tuple[CliHost, CliHost]) -> None:
    """A table that there is none of is a mistake, and so is a time that is none."""
    a, b = pair
    take(a, b, "first")
    assert len(a.json("conflicts", "--table", "note", "--since", "1d")) == 1
    refused(a.run("conflicts", "--table", "other"), "there is no table 'other'", "note")
    refused_since = a.run("conflicts", "--since", "yesterday")
    assert refused_since.exit_code == 2
    assert "5s, 10m or 90d" in refused_since.stderr
    refused_since = a.run("conflicts", "--since", "999999999999d")
    assert refused_since.exit_code == 2
    assert "36500d at most" in refused_since.stderr
    assert len(a.json("conflicts", "--since", "36500d")) == 1


def test_what_cannot_be_restored_says_why(pair: tuple[CliHost, CliHost]) -> None:
    """An unknown conflict, and one whose row is gone."""
    a, b = pair
    take(a, b, "first")
    for unknown in ("99", str(10**20)):
        refused(a.run("conflicts", "restore", unknown), f"there is no conflict {unknown}")
    (conflict,) = a.json("conflicts")
    a.sql("DELETE FROM note")
    assert a.run("export", a.folder / "folded").exit_code == 0
    before = a.dump()
    refused(a.run("conflicts", "restore", str(conflict["id"])), "does not show the row")
    assert a.dump() == before


def test_what_waits_is_listed_with_its_reason(tmp_path: Path) -> None:
    """A column this host lacks, and a row that lost a UNIQUE value."""
    a = CliHost(tmp_path / "a").ready()
    b = CliHost(tmp_path / "b", node="b").ready()
    for host in (a, b):
        host.sql("CREATE UNIQUE INDEX one ON note (body)")
    b.sql("ALTER TABLE note ADD COLUMN colour")
    for host in (a, b):
        assert host.run("init").exit_code == 0
    a.add("old", "same")
    time.sleep(0.01)  # in one millisecond the origins, which are random, would decide
    b.sql("INSERT INTO note (name, body, colour) VALUES ('new', 'same', 'red')")
    take(a, b, "first")
    waiting = {(one["key"], one["column"], one["reason"], one["node"]) for one in a.json("held")}
    assert waiting == {
        ("'new'", "colour", "unknown column", "b"),
        ("'old'", "body", "displaced", "a"),
    }
    change, row = a.json("held")
    assert (change["value"], change["winner_key"]) == ("red", None)
    assert (row["value"], row["winner_value"]) == ("same", "same")
    assert (row["winner_key"], row["winner_node"]) == ("'new'", "b")
    assert "unknown column" in a.run("held").stdout
    assert a.json("status")["held"] == 2

    lost, waiting = a.json("conflicts")
    assert waiting == change
    assert (lost["reason"], lost["key"], lost["column"]) == ("displaced", "'old'", "body")
    assert (lost["lost_value"], lost["lost_node"]) == ("same", "a")
    assert (lost["won_key"], lost["won_value"], lost["won_node"]) == ("'new'", "same", "b")
    assert lost["ended_ms"] is None
    assert re.search(r"'old' .* 'new' +now", a.run("conflicts").stdout)
    refused(a.run("conflicts", "--table", "other"), "there is no table 'other'", "note")
    time.sleep(1.1)
    assert a.json("conflicts", "--since", "1s") == [lost, change]  # it is so now, however old

    restored = a.run("conflicts", "restore", str(lost["id"]))
    assert "note ('old'): body is 'same' again" in restored.stdout
    assert a.sql("SELECT name FROM note") == [("old",)]
    was, now, _ = sorted(a.json("conflicts"), key=lambda one: one.get("id", 99))
    assert was["ended_ms"] is not None
    assert (now["key"], now["won_key"], now["ended_ms"]) == ("'new'", "'old'", None)
    refused(a.run("conflicts", "restore", str(was["id"])), "is not displaced any more")


def test_values_and_keys_are_one_short_line_each(tmp_path: Path) -> None:
    """A value of many lines, with commands to the terminal, or of any size leaves a table a table.

    `syncd held` and `syncd conflicts` say it alike, and with --json it is whole.
    """
    a = CliHost(tmp_path / "a").ready()
    b = CliHost(tmp_path / "b", node="b").ready()
    key, value = "k\nx\x1b[31m" + "y" * 100, "v\r\nw\x1b[2J" + "z" * 100_000
    a.add(key, "of a")
    b.sql("ALTER TABLE note ADD COLUMN extra")
    assert b.run("init").exit_code == 0
    time.sleep(0.02)
    b.sql("INSERT INTO note (name, body, extra) VALUES (?, ?, ?)", key, value, value)
    take(a, b, "first")

    waiting, conflicts = a.run("held").stdout, a.run("conflicts").stdout
    shown_key = r"'k\nx\x1b[31m" + "y" * 48 + "..."
    shown_value = r"'v\r\nw\x1b[2J" + "z" * 43 + "..."
    for text in (waiting, conflicts):
        assert shown_key in text
        assert shown_value in text
        assert all(line.isprintable() for line in text.splitlines())
        assert max(map(len, text.splitlines())) < 400
    (held,) = a.json("held")
    assert (held["key"], held["value"]) == (f"'{key}'", value)

    lost = a.json("conflicts")[0]
    restored = a.run("conflicts", "restore", str(lost["id"])).stdout
    assert restored == f"note ({shown_key}): body is 'of a' again\n"
