"""The command line itself: helps, keys, ways to start it, and what goes to which stream."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from commands.cli_host import SECRET, TIMEOUT_S, CliHost, clean_environment
from syncd.cli import cli
from syncd.config import SECRET_LENGTH_MIN, load_config

COMMANDS = ("init", "run", "up", "sync", "status", "export", "import", "inspect", "keygen")
TERMINAL_S = 30


@pytest.fixture
def host(tmp_path: Path) -> CliHost:
    return CliHost(tmp_path / "a").ready()


def on_terminal(host: CliHost, *args: str | Path) -> tuple[int, str]:
    """Run a command with standard error on a terminal; return its exit code and what it saw."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "syncd", "--config", str(host.config), *map(str, args)],
        env=clean_environment({"TERM": "xterm"}),
        cwd=host.folder,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + TERMINAL_S
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # Linux says EIO once the last user of the terminal has gone
                    break
        code = process.wait(TERMINAL_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, seen.decode()


def test_these_are_all_the_commands() -> None:
    """A new command needs its tests here."""
    assert isinstance(cli, click.Group)
    assert {name for name in cli.commands if name in COMMANDS} == set(COMMANDS)


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_explains_itself(command: str, option: str, tmp_path: Path) -> None:
    """Help needs no configuration, ends with 0 and says what each option is for."""
    host = CliHost(tmp_path / "a")
    host.config.unlink()
    result = host.run(command, option)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ")
    group = click.Context(cli)
    found = cli.get_command(group, command)
    assert found is not None
    assert found.help is not None
    assert found.help.splitlines()[0] in result.stdout
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in result.stdout
            assert parameter.help


def test_the_help_lists_every_command(tmp_path: Path) -> None:
    """`syncd --help` names them all, and where to start."""
    text = CliHost(tmp_path / "a").run("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.MULTILINE), command
    assert "syncd keygen" in text


@pytest.mark.parametrize(
    "start",
    [(sys.executable, "-m", "syncd"), (str(Path(sys.executable).with_name("syncd")),)],
    ids=["python -m syncd", "syncd"],
)
def test_both_ways_to_start_it_are_the_same(start: tuple[str, ...], host: CliHost) -> None:
    """The module and the installed script run the same commands under the same name."""
    done = subprocess.run(
        [*start, "--config", str(host.config), "status", "--json"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert json.loads(done.stdout)["node"] == "a"
    assert done.stderr == ""
    helped = subprocess.run(
        [*start, "--help"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert helped.stdout.startswith("Usage: syncd ")


def test_the_configuration_is_found_in_the_working_directory(host: CliHost) -> None:
    """Without --config it is ./config.yaml."""
    done = subprocess.run(
        [sys.executable, "-m", "syncd", "status", "--json"],
        env=clean_environment(),
        cwd=host.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert json.loads(done.stdout)["node"] == "a"


def test_errors_of_a_process_go_to_standard_error(host: CliHost) -> None:
    """A script that reads standard output never takes a message for a result."""
    host.write_config(node="host a")
    done = host.process("status", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: node (NODE_NAME): ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("init",), ("status",), ("sync", "--dry-run")])
def test_a_database_that_cannot_be_looked_for_is_one_error(
    command: tuple[str, ...], host: CliHost
) -> None:
    """As in a folder that may not be entered: two lines, the problem and the hint."""
    host.write_config(database="x" * 256)
    done = host.process(*command)
    assert (done.returncode, done.stdout) == (1, "")
    problem, hint = done.stderr.splitlines()
    assert problem.startswith("error: ")
    assert problem.endswith(": File name too long")
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("args", [("nonsense",), ("status", "--nonsense"), ("export",), ()])
def test_a_wrong_usage_ends_with_2(args: tuple[str, ...], host: CliHost) -> None:
    """Unknown commands and options, and missing arguments."""
    result = host.run(*args)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_keygen_makes_a_key_that_the_configuration_takes(tmp_path: Path) -> None:
    """What it prints can be put into SYNC_KEYS as it is; no configuration is needed to make it."""
    host = CliHost(tmp_path / "a")
    made = host.run("keygen").stdout.strip()
    config = load_config(host.config, {"SYNC_KEYS": made})
    (key,) = config.sync.keys
    assert f"{key.id}:{key.secret.get_secret_value()}" == made
    assert len(key.secret.get_secret_value()) > SECRET_LENGTH_MIN
    host.config.unlink()
    assert host.run("keygen").exit_code == 0


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    """Each run makes another id and another secret, in either form."""
    host = CliHost(tmp_path / "a")
    made = [host.json("keygen") for _ in range(10)]
    assert len({key["id"] for key in made}) == len({key["secret"] for key in made}) == 10
    assert {frozenset(key) for key in made} == {frozenset({"id", "secret"})}


def test_progress_is_shown_on_a_terminal_only(host: CliHost, tmp_path: Path) -> None:
    """A person sees how far an import is; a log or a pipe gets no bar and no control character."""
    host.add_many(12_000)
    other = CliHost(tmp_path / "b", node="b").ready()
    code, seen = on_terminal(host, "export", tmp_path / "one.syncd")
    assert code == 0
    assert "12000 changes" in seen
    code, seen = on_terminal(other, "import", tmp_path / "one.syncd")
    assert code == 0
    assert "importing" in seen
    assert "100%" in seen
    assert other.notes() == host.notes()
    exported = host.run("export", tmp_path / "two.syncd")
    imported = other.run("import", tmp_path / "two.syncd")
    assert (exported.exit_code, imported.exit_code) == (0, 0)
    assert exported.stderr == imported.stderr == ""


def test_an_import_as_json_prints_json_only(host: CliHost, tmp_path: Path) -> None:
    """Whatever else is told goes to standard error."""
    host.add("x")
    assert host.run("export", tmp_path / "x.syncd").exit_code == 0
    done = host.run("import", tmp_path / "x.syncd", "--json")
    assert json.loads(done.stdout)["applied"] == 0


def test_verbose_logs_to_standard_error(host: CliHost) -> None:
    """-v tells what is going on, beside the result, and never a secret."""
    host.write_config(peers=[{"name": "b", "url": "http://127.0.0.1:1"}])
    quiet = host.process("sync")
    assert quiet.stderr == ""
    done = host.process("-v", "sync", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["code"] == "peer_unreachable"
    assert "trying again" in done.stderr
    assert SECRET not in done.stdout + done.stderr
