"""A host as its operator has it: a folder with config.yaml and a database, and the command line.

Commands run in this process through click, or as processes of their own where that matters. The
environment is the test's: nothing that configures syncd leaks in from outside.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flask
import yaml
from click.testing import CliRunner, Result
from wire.sites import Served, served

import syncd
from syncd.cli import cli

SECRET = "0123456789abcdef" * 2
KEYS = [{"id": "k1", "secret": SECRET}]
OTHER_KEYS = [{"id": "k1", "secret": "fedcba9876543210" * 2}]
DDL = "CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, body)"
TIMEOUT_S = 60

_CONFIGURING = (
    *("SYNC_", "SYNCD_", "SERVE_", "NODE_NAME", "DB_PATH", "PORT"),
    *("API_KEY", "SHARED_SECRET", "SESSION_KEYS", "REQUIRE_", "FLASK_", "LICENSE_SERVERS"),
)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without whatever would configure a host."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_CONFIGURING)}
    return {**kept, **(extra or {})}


@dataclass
class CliHost:
    """One host. env: the variables its commands run with."""

    folder: Path
    node: str = "a"
    env: dict[str, str] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.tree = {
            "node": self.node,
            "database": "notes.db",
            "tables": {"note": {"key": ["name"]}},
            "sync": {"keys": KEYS},
            **self.tree,
        }
        self.write_config()

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def database(self) -> Path:
        return self.folder / "notes.db"

    def write_config(self, **changes: Any) -> None:
        """Change top-level keys of the configuration, and write it."""
        self.tree.update(changes)
        self.config.write_text(yaml.safe_dump(self.tree), encoding="utf-8")

    def make_table(self) -> None:
        self.sql(DDL)

    def ready(self) -> CliHost:
        """Create the table and enrol it."""
        self.make_table()
        assert self.run("init").exit_code == 0
        return self

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement as any other program would."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock, as a program in the middle of a transaction does."""
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            yield
            writer.execute("ROLLBACK")

    def add(self, name: str, body: object = None) -> None:
        self.sql("INSERT INTO note (name, body) VALUES (?, ?)", name, body)

    def add_many(self, rows: int) -> None:
        """Write so many rows in one transaction."""
        self.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO note (name, body) SELECT 'row ' || i, i FROM n",
            rows,
        )

    def notes(self) -> dict[str, Any]:
        """Return what the table shows, without the local id."""
        return dict(self.sql("SELECT name, body FROM note"))

    def dump(self) -> list[str]:
        """Return every table of the file as SQL."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return list(connection.iterdump())

    def run(self, *args: str | Path) -> Result:
        """Run a command in this process."""
        environment: dict[str, str | None] = dict.fromkeys(
            name for name in os.environ if name.startswith(_CONFIGURING)
        )
        return CliRunner(env={**environment, **self.env}).invoke(
            cli, ["--config", str(self.config), *map(str, args)]
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[Served]:
        """Serve the host to its peers, on a port that the system gives."""
        replica = syncd.Replica(syncd.load_config(self.config, self.env))
        app = flask.Flask(self.node)
        app.register_blueprint(syncd.blueprint(replica))
        with served(app) as server:
            yield server

    def json(self, *args: str | Path) -> Any:
        """Run a command with --json, which must succeed; return what it printed."""
        result = self.run(*args, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def process(
        self, *args: str | Path, file_bytes_max: int = resource.RLIM_INFINITY
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a process; file_bytes_max: how large a file it may write."""
        limits = (file_bytes_max, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        return subprocess.run(
            [sys.executable, "-m", "syncd", "--config", str(self.config), *map(str, args)],
            env=clean_environment(self.env),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits),
        )


def refused(result: Result, *fragments: str, errors: int = 1) -> None:
    """Check that a command ended with 2, on standard error only, and said what is wrong."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == errors, result.stderr
    for fragment in fragments:
        assert fragment in result.stderr
    assert "Traceback" not in result.stderr
