"""One licence host under test: a real application on a real file, its clock in the test's hands.

Owns the known secrets, the known rows and the signing that a client does. It signs by the rule of
the protocol, not with the API's own code, so that both cannot be wrong alike.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from api.host import EXTENSION, Host

API_KEY = "TESTKEY"
SHARED_SECRET = "TESTSECRET"
SECRETS = {"api_key": API_KEY, "shared_secret": SHARED_SECRET, "session_keys": ["session-key-1"]}
DATABASE = "data/licences.db"
NOW = datetime(2026, 1, 10, 15, 0, 0, tzinfo=UTC)
DEVICE = "0123456789abcdef0123456789abcdef"
PASSWORD = "Teste#123"
ADMIN_LEGACY_HASH = "163261df19c8509fbffdd170b0b0c331cf007ba06d2b5067c373d222856680b2"
USER_LEGACY_HASH = "242003f819c002728c776f6d5d9e41d9564efdbad326e7880a84d297d53b9f29"


@dataclass
class StillClock:
    """Tell the same moment until a test sets another."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Rows:
    """Look into the database that a config names, as any other writer of the file would."""

    config: Path

    @property
    def database(self) -> Path:
        return self.config.parent / DATABASE

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Run one statement over a connection of its own."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, values)]

    def row(self, statement: str, *values: object) -> dict[str, Any]:
        (row,) = self.sql(statement, *values)
        return row

    def add_device(self, device_id: str = DEVICE, **columns: object) -> None:
        """Insert an active yearly device that ends on 2027-01-10, with the columns overriding."""
        row = {
            "device_id": device_id,
            "license_type": "anual",
            "status": "active",
            "start_date": "2026-01-10",
            "end_date": "2027-01-10",
            "features": "core",
        } | columns
        marks = ", ".join("?" * len(row))
        self.sql(f"INSERT INTO devices ({', '.join(row)}) VALUES ({marks})", *row.values())

    def add_admin(self, username: str = "chefe") -> None:
        self.sql(
            "INSERT INTO admin_users (username, password_hash) VALUES (?, ?)",
            username,
            ADMIN_LEGACY_HASH,
        )

    def add_user(self, username: str = "maria", role: str = "user") -> None:
        self.sql(
            "INSERT INTO users (username, password_hash, role) VALUES (?, ?, ?)",
            username,
            USER_LEGACY_HASH,
            role,
        )


class Mailbox:
    """Take mail as a server's handler, and keep it; refuse it while `is_closed`."""

    def __init__(self) -> None:
        self.port = 0
        self.messages: list[EmailMessage] = []
        self.is_closed = False

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
        if self.is_closed:
            return "451 not now"
        if any(address.startswith("refused") for address in envelope.rcpt_tos):
            return "550 no such mailbox"
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 OK"

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a host is told to send by this server."""
        return {
            "smtp_enabled": True,
            "smtp_host": "127.0.0.1",
            "smtp_port": self.port,
            "smtp_security": "none",
            "smtp_from": "Licenças <licencas@example.com>",
        }


@dataclass
class Site(Rows):
    """Ask one host as clients and dashboards do, within this process."""

    app: Flask
    clock: StillClock

    @property
    def host(self) -> Host:
        host: Host = self.app.extensions[EXTENSION]
        return host

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Run one statement, after what waits for the access log is written."""
        self.host.access_log.flush()
        return super().sql(statement, *values)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.app.test_client().get(path, **options)

    def verify(self, device_id: str = DEVICE, **query: str) -> TestResponse:
        """Ask as a client of version 1.0.0 in UTC does, with the query overriding."""
        return self.get("/verify", query_string=self.question(device_id, **query))

    def question(self, device_id: str = DEVICE, **query: str) -> dict[str, str]:
        """Return the query of such a client."""
        asked = {"id": device_id, "version": "1.0.0", "ts": f"{self.clock.now:%Y%m%d%H%M%S}"}
        asked |= {"api_key": API_KEY} | query
        asked.setdefault("sig", sign(asked["id"], asked["version"], asked["ts"]))
        return asked

    def login(self, username: str, password: str = PASSWORD) -> TestResponse:
        credentials = {"username": username, "password": password}
        return self.app.test_client().post("/admin/login", json=credentials)

    def dashboard(self, username: str) -> Dashboard:
        """Log in, and return what the account can call."""
        return Dashboard(self, self.login(username).get_json()["token"])


@dataclass
class Dashboard:
    """Call the admin endpoints with one account's token."""

    site: Site
    token: str

    def call(self, method: str, path: str, **body: object) -> TestResponse:
        return self.site.app.test_client().open(
            path,
            method=method,
            json=body if method in ("POST", "PUT") else None,
            headers={"Authorization": f"Bearer {self.token}"},
        )

    def post(self, path: str, **body: object) -> TestResponse:
        return self.call("POST", path, **body)


Serve = Callable[["Site"], str]
MakeSite = Callable[..., Site]
WriteConfig = Callable[..., Path]


def sign(device_id: str, version: str, ts: str) -> str:
    """Sign as the deployed clients do."""
    return hashlib.sha256(f"{device_id}|{version}|{ts}|{SHARED_SECRET}".encode()).hexdigest()
