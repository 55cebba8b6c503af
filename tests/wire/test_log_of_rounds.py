"""What the log says of rounds that fail."""

from __future__ import annotations

import logging
import socket
import sqlite3
from pathlib import Path

import pytest

from syncd.config import Config
from syncd.exchange import sync_now
from syncd.replica import Replica


def test_a_peer_that_stays_down_is_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rounds go on failing every few seconds; the log says so once, status every time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = Config.model_validate(
        {
            "node": "a",
            "database": tmp_path / "a.db",
            "tables": {"t": {}},
            "sync": {"keys": [{"id": "k1", "secret": "x" * 40}]},
            "peers": [{"name": "b", "url": f"http://127.0.0.1:{port}"}],
        }
    )

    connection = sqlite3.connect(config.database)
    connection.execute("CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL)")
    connection.close()
    replica = Replica(config)
    replica.enrol()
    with caplog.at_level(logging.INFO, logger="syncd.exchange"):
        outcomes = [sync_now(replica)[0] for _ in range(3)]
    assert [outcome.code for outcome in outcomes] == ["peer_unreachable"] * 3
    assert [
        record.getMessage()[:19] for record in caplog.records if "failed" in record.message
    ] == ["round with b failed"]
