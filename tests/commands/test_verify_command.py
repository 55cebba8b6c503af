"""`syncd verify` says where rows differ, and mends it if it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.cli_host import CliHost, refused


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[CliHost, CliHost]]:
    """Two hosts with the same rows; a has b for a peer."""
    a = CliHost(tmp_path / "a").ready()
    b = CliHost(tmp_path / "b", node="b").ready()
    a.add_many(3)
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url}])
        assert a.run("verify").exit_code == 0
        yield a, b


def damage(host: CliHost, statement: str) -> None:
    """Write with the update trigger gone, and put that back."""
    ((sql,),) = host.sql("SELECT sql FROM sqlite_schema WHERE name = 'syncd_update_note'")
    host.sql("DROP TRIGGER syncd_update_note")
    host.sql(statement)
    host.sql(sql)


def test_hosts_in_step_verify_with_exit_code_0(pair: tuple[CliHost, CliHost]) -> None:
    """Text and JSON say how much was compared."""
    a, _ = pair
    data = a.json("verify")
    assert (data["ok"], data["found"]) == (True, [])
    assert [(one["peer"], one["state"], one["rows"]) for one in data["peers"]] == [
        ("b", "equal", 3)
    ]
    text = a.run("verify").stdout
    assert "no write to this host's tables was missed" in text
    assert "equal" in text


def test_a_row_that_differs_is_named_and_mended(pair: tuple[CliHost, CliHost]) -> None:
    """Exit code 1 and the row; --repair makes the peer's that of this host."""
    a, b = pair
    damage(b, "UPDATE note SET body = 'damage' WHERE name = 'row 2'")
    result = a.run("verify", "--json")
    assert result.exit_code == 1
    (peer,) = json.loads(result.stdout)["peers"]
    assert peer["differences"] == [
        {"table": "note", "key": "'row 2'", "state": "values differ", "columns": ["body"]}
    ]
    text = a.run("verify").stdout
    assert "'row 2'" in text
    assert "values differ" in text
    assert b.notes()["row 2"] == "damage"
    assert a.run("verify", "--repair", "--peer", "b").exit_code == 0
    assert a.notes() == b.notes()
    assert b.notes()["row 2"] == 2


def test_missed_writes_are_named_and_mended(pair: tuple[CliHost, CliHost]) -> None:
    """A dropped trigger and what was written since."""
    a, b = pair
    a.sql("DROP TRIGGER syncd_insert_note")
    a.add("missed", 1)
    a.add("missed\ntoo", 1)
    result = a.run("verify", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["found"]
    assert {(one["problem"], one["name"]) for one in found} == {
        ("trigger missing or changed", "syncd_insert_note"),
        ("row without a birth", "'missed'"),
        ("row without a birth", "'missed\ntoo'"),
    }
    text = a.run("verify").stdout
    assert "written past the triggers" in text
    assert text.count(r"'missed\ntoo'") == 2  # and once as a row that the peer lacks
    mended = a.run("verify", "--repair")
    assert mended.exit_code == 0, mended.stdout
    assert "mended:" in mended.stdout
    assert b.notes()["missed"] == 1
    assert a.json("verify")["found"] == []


def test_a_peer_that_cannot_be_compared_is_exit_code_1(pair: tuple[CliHost, CliHost]) -> None:
    """The reason stands beside it; an unknown name is a wrong usage."""
    a, _ = pair
    a.write_config(peers=[{"name": "b", "url": "http://127.0.0.1:1"}])
    result = a.run("verify")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stdout
    refused(a.run("verify", "--peer", "nobody"), "there is no peer 'nobody'")


def test_a_host_alone_is_audited(tmp_path: Path) -> None:
    """Without peers there is still something to look at."""
    a = CliHost(tmp_path / "a").ready()
    for name in ("x", "y", "z"):
        a.add(name, 1)
    assert a.run("verify").stdout.endswith("no peers are configured\n")
    a.sql("DROP TRIGGER syncd_delete_note")
    a.sql("DELETE FROM note WHERE name = 'x'")
    assert a.run("verify").exit_code == 1
    assert a.run("verify", "--repair").exit_code == 0
