"""What is wrong with a host's configuration is said at once, the engine's part and the API's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import syncd
from api import jose
from api.app import create_app

ROOT = Path(__file__).resolve().parents[2]
TOO_LONG = "x" * 256
MISSING = ("SYNC_KEYS", "API_KEY", "SHARED_SECRET", "SESSION_KEYS")


def test_up_names_every_mistake_at_once(tmp_path: Path) -> None:
    """A host started without any secret is told of all four, with exit code 2 and nothing made."""
    database = tmp_path / "protecao.db"
    unset = {name: value for name, value in os.environ.items() if name not in MISSING}
    done = subprocess.run(
        [sys.executable, "-m", "syncd", "up"],
        cwd=ROOT,
        env=unset | {"DB_PATH": str(database)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("4 mistakes:")
    assert all(f"({name})" in done.stderr for name in MISSING)
    assert not database.exists()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Name all that a host needs, with nothing wrong in it."""
    return {
        **{name: value for name, value in os.environ.items() if name not in MISSING},
        "NODE_NAME": "host-a",
        "DB_PATH": str(tmp_path / "protecao.db"),
        "SYNC_KEYS": "k1:" + "0123456789abcdef" * 2,
        "API_KEY": "an-api-key-of-the-clients-" + "k" * 32,
        "SHARED_SECRET": "known-to-everybody-who-has-a-client",
        "SESSION_KEYS": "a-key-for-sessions-of-the-dashboard",
    }


@pytest.mark.parametrize("shipped", ["API_KEY", "SHARED_SECRET"])
def test_up_refuses_a_sync_key_that_clients_carry(
    environment: dict[str, str], shipped: str
) -> None:
    """One line says what to do, before anything is started."""
    environment["SYNC_KEYS"] = f"k1:{environment[shipped]}"
    assert _refusal(environment) == (
        "error: sync.keys (SYNC_KEYS): one is compiled into your clients. `syncd keygen` makes one"
    )


def test_up_refuses_the_offline_key_of_another_host(environment: dict[str, str]) -> None:
    """Two hosts' files are easily mixed up: the line names both, and the way out."""
    root, key = jose.generate(), jose.generate()
    certificate = jose.certify(root, key, "host-b", 0)
    environment["OFFLINE_ROOT"] = json.dumps(jose.public_jwk(root))
    environment["OFFLINE_KEY"] = json.dumps(jose.private_jwk(key) | {"cert": certificate})
    assert _refusal(environment) == (
        "error: api.offline_key (OFFLINE_KEY): made for host-b, and this host is host-a. "
        "`python -m api keys make host-a` makes this host's"
    )


@pytest.mark.parametrize(
    ("database", "problem"),
    [
        ("text.db", "file is not a database"),
        ("folder", "unable to open database file"),
        ("text.db/protecao.db", "its folder cannot be made"),
        (TOO_LONG, "File name too long"),
    ],
)
def test_up_refuses_what_cannot_be_its_database(
    environment: dict[str, str], tmp_path: Path, database: str, problem: str
) -> None:
    """A DB_PATH on something else is two lines, the problem and the hint, not a traceback."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("some other file of the host's, long enough" * 20)
    environment["DB_PATH"] = str(tmp_path / database)
    said, hint = _said(environment, exit_code=1).splitlines()
    assert said.startswith(f"error: {tmp_path / database}: {problem}")
    assert hint.startswith("hint: ")


def _refusal(environment: dict[str, str]) -> str:
    """Start a host whose configuration is wrong; return all that it says."""
    said = _said(environment, exit_code=2)
    assert not Path(environment["DB_PATH"]).exists()
    return said


def _said(environment: dict[str, str], exit_code: int) -> str:
    """Start a host that must not start, and return all that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "syncd", "up"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (exit_code, "")
    return done.stderr.strip()


def test_a_secret_of_the_clients_is_no_sync_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SHARED_SECRET ships inside every client, so hosts must not trust who knows it."""
    public = "known-to-everybody-who-has-a-client"
    environment = {
        "SYNC_KEYS": f"k1:{public}",
        "SHARED_SECRET": public,
        "API_KEY": "an-api-key",
        "SESSION_KEYS": "a-key-for-sessions-of-the-dashboard",
        "DB_PATH": str(tmp_path / "protecao.db"),
        "SYNCD_CONFIG": str(ROOT / "config.yaml"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(syncd.ConfigError, match="compiled into your clients"):
        create_app()
