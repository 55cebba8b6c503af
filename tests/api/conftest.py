"""What the licence API's tests share: a config file, and a host made from it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from licence_site import DATABASE, SECRETS, Mailbox, MakeSite, Serve, Site, StillClock, WriteConfig
from werkzeug.serving import make_server

import syncd
from api.app import create_app
from api.settings import Settings

NAMES_OF_SYNCD = {"SYNCD_CONFIG", "NODE_NAME", "DB_PATH", "PORT"}
KEYS = {
    "devices": ["device_id"],
    "blocked_devices": ["device_id"],
    "admin_users": ["username"],
    "users": ["username"],
    "root_signed": ["digest"],
    "ended_sessions": ["session"],
    "session_epochs": ["account"],
    "blocks": ["device_id"],
    "clone_flags": ["device_id"],
    "notices": ["device_id", "end_date", "days"],
    "mail_hosts": ["host"],
    "access_logs": "generated",
    "license_history": "generated",
}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {name.upper() for name in Settings.model_fields}
    for name in list(os.environ):
        if name in settings | NAMES_OF_SYNCD or name.startswith(("SYNC_", "SERVE_", "FLASK_")):
            monkeypatch.delenv(name)


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Write the config of a host in a folder of its own, with or without a peer."""

    def write(
        api: dict[str, Any] | None = None, *, node: str = "here", peer: str | None = None
    ) -> Path:
        path = tmp_path / node / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        content = {
            "node": node,
            "database": DATABASE,
            "tables": {table: {"key": key} for table, key in KEYS.items()},
            "sync": {"keys": [{"id": "k1", "secret": "0123456789abcdef" * 2}]},
            "peers": [{"name": "there", "url": peer}] if peer else [],
            "api": SECRETS | (api or {}),
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_site(write_config: WriteConfig) -> Iterator[MakeSite]:
    """Make a host; the options are those of `write_config`."""
    made: list[Site] = []

    def make(
        api: dict[str, Any] | None = None, *, node: str = "here", peer: str | None = None
    ) -> Site:
        path = write_config(api, node=node, peer=peer)
        clock = StillClock()
        app = create_app(syncd.load_config(path), clock=clock, with_jobs=False)
        made.append(Site(path, app, clock))
        return made[-1]

    yield make
    for site in made:
        site.host.access_log.close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """Make a host without peers, which is certain of its data."""
    return make_site()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a site over a real socket, and return its address."""
    servers = []

    def start(site: Site) -> str:
        server = make_server("127.0.0.1", 0, site.app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """Run a real mail server on a port of its own, and keep what it takes."""
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        box.port = free.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=box.port)
    server.start()
    try:
        yield box
    finally:
        server.stop()


@pytest.fixture
def unsure_site(make_site: MakeSite) -> Site:
    """Make a host that has a peer and cannot reach it."""
    return make_site(peer="http://127.0.0.1:1")
