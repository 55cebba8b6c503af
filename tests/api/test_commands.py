"""The command that makes an administrator."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from licence_site import DATABASE, Site, WriteConfig

from api.__main__ import main


def _create_admin(config: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["create-admin", "--config", str(config), *options])


def _password(result: Result) -> str:
    assert result.exit_code == 0, result.output
    found = re.search("^password: (.+)$", result.output, re.MULTILINE)
    assert found
    return found[1]


def test_a_made_administrator_can_log_in_and_must_change_the_password(
    site: Site,
) -> None:
    """The printed password opens the account, and only its hash is stored."""
    password = _password(_create_admin(site.config))
    body = site.login("admin", password).get_json()
    assert (body["role"], body["must_change_password"]) == ("admin", True)
    assert password not in site.row("SELECT password_hash FROM admin_users")["password_hash"]


def test_an_existing_administrator_is_left_alone(site: Site) -> None:
    """Without --reset the command refuses, and the old password stays."""
    site.add_admin("chefe")
    result = _create_admin(site.config, "--username", "chefe")
    assert result.exit_code == 1
    assert "chefe exists already" in result.output
    assert site.login("chefe").status_code == 200


def test_a_reset_replaces_the_password(site: Site) -> None:
    """With --reset the old password is worth nothing, and the new one must be changed."""
    config = site.config
    first = _password(_create_admin(config))
    site.sql("UPDATE admin_users SET must_change_password = 0")
    second = _password(_create_admin(config, "--reset"))
    assert site.login("admin", first).status_code == 401
    assert site.login("admin", second).get_json()["must_change_password"] is True
    assert len(site.sql("SELECT * FROM admin_users")) == 1


@pytest.mark.parametrize("username", ["", " ", "maria"])
def test_a_name_that_cannot_log_in_or_is_taken_is_refused(site: Site, username: str) -> None:
    """Nobody logs in without a name, and an administrator would shut the user of its name out."""
    site.add_user("maria")
    result = _create_admin(site.config, "--username", username)
    assert result.exit_code == 1
    assert site.sql("SELECT * FROM admin_users") == []
    assert site.login("maria").status_code == 200


def test_there_is_no_default_administrator(site: Site) -> None:
    """A new host has no account, so the guessable one opens nothing."""
    assert site.sql("SELECT * FROM admin_users") == []
    assert site.login("admin", "admin123").status_code == 401


def test_a_new_administrator_is_captured(write_config: WriteConfig) -> None:
    """The command may be the first to open a file, and enrols its tables before it writes."""
    config = write_config()
    _password(_create_admin(config))
    with contextlib.closing(sqlite3.connect(config.parent / DATABASE)) as connection:
        triggers = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'admin_users'"
        )
        assert triggers.fetchall()


def test_a_broken_config_is_explained(tmp_path: Path) -> None:
    """A config that cannot be used ends in its problems, not in a traceback."""
    config = tmp_path / "config.yaml"
    config.write_text("node: 7", encoding="utf-8")
    result = _create_admin(config)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert isinstance(result.exception, SystemExit)
