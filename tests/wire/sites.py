"""Hosts of the sync protocol: a database file, its replica, and the blueprint in a bare Flask app.

Owns the test schema, the known keys and a clock in the test's hands. Everything is real: the file,
the replica, the application and, where `served` is used, the socket.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flask
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.test import TestResponse

import syncd
from syncd import bundle, codec, packing, signing, wire
from syncd.config import Config, Key, Peer
from syncd.exchange import Outcome, client_of, run_round
from syncd.vector import Vector

OLD, NEW, FOREIGN = (
    {"id": "k1", "secret": "old-" * 10},
    {"id": "k2", "secret": "new-" * 10},
    {"id": "k1", "secret": "foreign-" * 5},
)
DDL = "CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, body)"

WsgiApp = Callable[..., Any]


class Clock:
    """A wall clock that stands still until a test moves it.

    It starts now, at a whole second: the triggers stamp by SQLite's own clock, which is not ours.
    """

    def __init__(self) -> None:
        self.ms = int(time.time()) * 1000

    def __call__(self) -> int:
        return self.ms

    def move_s(self, seconds: float) -> None:
        """Move the clock, backwards if negative."""
        self.ms += round(seconds * 1000)


class Site:
    """One host. keys: the first signs, all are accepted."""

    def __init__(
        self,
        folder: Path,
        node: str,
        *,
        keys: Sequence[Mapping[str, str]] = (OLD,),
        peers: Sequence[Mapping[str, Any]] = (),
        clock: Callable[[], int] | None = None,
        **sync: str,
    ) -> None:
        self.clock = clock or Clock()
        self.database = folder / f"{node}.db"
        self.config = Config.model_validate(
            {
                "node": node,
                "database": self.database,
                "tables": {"note": {"key": ["name"]}},
                "sync": {"keys": list(keys), **sync},
                "peers": list(peers),
            }
        )
        self.sql(DDL.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        self.replica = syncd.Replica(self.config, wall_ms=self.clock)
        self.replica.enrol()
        self.app = self.new_app()

    def new_app(self) -> flask.Flask:
        """Mount the blueprint anew on the same file, as another worker or a restart does."""
        app = flask.Flask(self.config.node)
        app.register_blueprint(syncd.blueprint(self.replica))
        return app

    @property
    def keyring(self) -> signing.Keyring:
        return signing.keyring_of(self.config, self.clock)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement as any other program would, over a connection of its own."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def add(self, name: str, body: object = None) -> None:
        """Write one row."""
        self.sql("INSERT INTO note (name, body) VALUES (?, ?)", name, body)

    def add_many(self, rows: int, prefix: str = "") -> None:
        """Write so many rows in one transaction."""
        self.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO note (name, body) SELECT ? || i, i FROM n",
            rows,
            prefix,
        )

    def notes(self) -> dict[str, Any]:
        """Return what the table shows, without the local id."""
        return dict(self.sql("SELECT name, body FROM note"))

    def dump(self) -> list[str]:
        """Return every table of the file, ours and the user's, as SQL."""
        return dump(self.database)

    def call(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        app: flask.Flask | None = None,
        query: str = "",
    ) -> TestResponse:
        """Send a request into the application."""
        return (
            (app or self.app)
            .test_client()
            .post(path, data=body, headers=dict(headers), query_string=query)
        )

    def round(self, peer: Peer) -> Outcome:
        """Run one round with a peer, without waiting between tries."""
        client = client_of(self.replica, peer, sleep=lambda _: None)
        try:
            return run_round(self.replica, client)
        finally:
            client.close()

    def close(self) -> None:
        """Close this thread's connection."""
        self.replica.close()


def dump(database: Path) -> list[str]:
    """Return every table of a database file as SQL."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def signed_headers(
    keyring: signing.Keyring, path: str, body: bytes, *, method: str = "POST", query: str = ""
) -> dict[str, str]:
    """Sign a request as a peer does; return its headers."""
    url = f"http://peer{path}" + (f"?{query}" if query else "")
    request = signing.Request(method, url, {})
    keyring.sign_request(request, body)
    return dict(request.headers)


def signed_answer(
    keyring: signing.Keyring, asked: Mapping[str, str], path: str, status: int, body: bytes
) -> dict[str, str]:
    """Sign an answer to a request with the given headers; return its headers."""
    request = signing.Request("POST", f"http://peer{path}", dict(asked))
    headers: dict[str, str] = {}
    keyring.sign_response(signing.Response(status, headers, request), body)
    return headers


def keyring(*keys: Mapping[str, str], clock: Callable[[], int]) -> signing.Keyring:
    """Return a keyring of known keys with the default drift."""
    return signing.Keyring(
        [Key.model_validate(key) for key in keys], skew_s=300, now_s=lambda: clock() / 1000
    )


def pull_body(node: str = "asker") -> bytes:
    """Ask for everything."""
    return packing.encode(wire.PullRequest(node, {}, b"", 0))


def push_body(sender: Site) -> bytes:
    """Return a bundle of one frame with all that a site has."""
    header, frames = sender.replica.frames_since(Vector())
    (frame,) = frames
    return packed(header, frame)


def packed(header: bundle.Header, *frames: bundle.Frame) -> bytes:
    """Return a bundle's bytes."""
    stream = io.BytesIO()
    codec.write(stream, header, frames)
    return stream.getvalue()


class Served:
    """An application on a socket.

    requests: the paths that were asked, in order. fail_after: how many of them are answered; later
    ones get a server error.
    """

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self.requests: list[str] = []
        self.fail_after: int | None = None
        self._server = _Server("127.0.0.1", 0, self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def count(self, path: str) -> int:
        """Count the requests to a path so far."""
        return self.requests.count(path)

    def stop(self) -> None:
        """Close the socket, and wait for those who answer to close their connections."""
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _answer(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Any:
        if self.fail_after is not None and len(self.requests) >= self.fail_after:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        self.requests.append(environ["PATH_INFO"])
        return self._app(environ, start_response)


class _Server(ThreadedWSGIServer):
    daemon_threads = False  # so that closing it waits for its threads


@contextlib.contextmanager
def served(app: WsgiApp) -> Iterator[Served]:
    """Serve an application on a port that the system gives."""
    server = Served(app)
    try:
        yield server
    finally:
        server.stop()
