"""What is wrong with a host's configuration is said at once, the engine's part and the API's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import syncd
from api.app import create_app

ROOT = Path(__file__).resolve().parents[2]
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
