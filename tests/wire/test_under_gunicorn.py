"""The endpoint as it is really served: two worker processes of gunicorn on one database file."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from syncd import wire
from syncd.config import Peer
from wire.sites import OLD, Site, dump, keyring, pull_body, push_body, signed_headers

WORKERS = 2
READY_WITHIN_S = 30
TESTS = Path(__file__).resolve().parent.parent


@dataclass
class Running:
    """A gunicorn with its address and the log it writes."""

    process: subprocess.Popen[bytes]
    port: int
    site: Site
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> requests.Response:
        return requests.post(self.url + path, data=body, headers=headers, timeout=30)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serve host b; the tests share it and leave it answering."""
    folder = tmp_path_factory.mktemp("gunicorn")
    site = Site(folder, "b", clock=lambda: time.time_ns() // 1_000_000)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "node": "b",
                "database": "b.db",
                "tables": {"note": {"key": ["name"]}},
                "sync": {"keys": [OLD]},
            }
        )
    )
    log = folder / "gunicorn.log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "wire.served_app:create_app()"),
                *("--bind", f"fd://{listening.fileno()}", "--workers", str(WORKERS)),
                *("--worker-class", "gthread", "--threads", "4", "--no-control-socket"),
            ],
            cwd=TESTS,
            env={**os.environ, "SYNCD_CONFIG": str(folder / "config.yaml")},
            pass_fds=[listening.fileno()],
            stdout=stream,
            stderr=stream,
        )
        made = Running(process, listening.getsockname()[1], site, log)
    try:
        _wait_until_answering(made)
        yield made
    finally:
        process.terminate()
        process.wait(30)
        site.close()


def _wait_until_answering(running: Running) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and running.process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.post(running.url + wire.STATUS, timeout=READY_WITHIN_S).status_code == 401:
                return
        time.sleep(0.05)
    pytest.fail(running.log.read_text())


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "a", clock=lambda: time.time_ns() // 1_000_000)
    yield site
    site.close()


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: b", *lines, "", ""]).encode()


def status_of(connection: socket.socket) -> int:
    """Read a response's status, 0 for a connection that was closed without one."""
    with contextlib.suppress(ConnectionError):
        line = connection.recv(4096).partition(b"\r\n")[0]
        return int(line.split()[1]) if line else 0
    return 0


def test_a_round_goes_both_ways(running: Running, sender: Site) -> None:
    """A whole round with pull and push through a real server."""
    sender.add("round", 1)
    assert sender.round(Peer(name="b", url=running.url, push=True)).error is None
    assert running.site.notes()["round"] == 1


def test_of_many_equal_requests_at_once_one_is_answered(running: Running) -> None:
    """Two workers that get the same signed request at the same moment cannot both take it."""
    ring, body = running.site.keyring, pull_body()
    for _ in range(5):
        headers = signed_headers(ring, wire.PULL, body)
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda _: running.post(wire.PULL, body, headers), range(8))  # noqa: B023
            found = Counter(answer.status_code for answer in answers)
        assert found == {200: 1, 401: 7}


def test_all_refusals_are_alike_on_the_wire(running: Running) -> None:
    """Behind a real server too, nothing but the date differs between two refusals."""
    ring, body = running.site.keyring, pull_body()
    used = signed_headers(ring, wire.PULL, body)
    assert running.post(wire.PULL, body, used).status_code == 200
    foreign = signed_headers(
        keyring({**OLD, "secret": "other-" * 8}, clock=running.site.clock), wire.PULL, body
    )
    seen = set()
    for headers in ({}, used, foreign, signed_headers(ring, wire.PULL, b"other")):
        answer = running.post(wire.PULL, body, headers)
        fields = {name: value for name, value in answer.headers.items() if name != "Date"}
        seen.add((answer.status_code, answer.content, str(sorted(fields.items()))))
    assert len(seen) == 1
    assert {status for status, _, _ in seen} == {401}


def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(running: Running) -> None:
    """The answer comes although not one byte of the body does."""
    before = dump(running.site.database)
    with running.connect() as connection:
        connection.sendall(head(wire.PUSH, f"Content-Length: {wire.BODY_BYTES_MAX + 1}"))
        assert status_of(connection) == 413
    assert dump(running.site.database) == before


def test_an_endless_chunked_body_is_cut_at_the_bound(running: Running) -> None:
    """A sender without an end is stopped near the bound, and the next one is answered."""
    before, sent = dump(running.site.database), 0
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    with running.connect() as connection:
        connection.sendall(head(wire.PUSH, "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            while sent < 3 * wire.BODY_BYTES_MAX:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 2 * wire.BODY_BYTES_MAX
        assert status_of(connection) in (0, 413)
    assert dump(running.site.database) == before
    assert running.post(wire.PULL, b"", {}).status_code == 401


def test_a_chunked_body_that_is_signed_is_taken(running: Running, sender: Site) -> None:
    """A peer, or a proxy on the way, may send a body in chunks."""
    sender.add("chunked", 1)
    body = push_body(sender)
    headers = signed_headers(sender.keyring, wire.PUSH, body)
    parts = (body[at : at + 100] for at in range(0, len(body), 100))
    answer = requests.post(running.url + wire.PUSH, data=parts, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert running.site.notes()["chunked"] == 1


def test_a_sender_that_goes_away_in_mid_body_changes_nothing(
    running: Running, sender: Site
) -> None:
    """Half a push is no push, and the server lives on."""
    sender.add("half", 1)
    body = push_body(sender)
    headers = signed_headers(sender.keyring, wire.PUSH, body)
    before = dump(running.site.database)
    with running.connect() as connection:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall(head(wire.PUSH, *lines, f"Content-Length: {len(body)}"))
        connection.sendall(body[: len(body) // 2])
    assert running.post(wire.PULL, b"", {}).status_code == 401
    assert dump(running.site.database) == before
    assert running.post(wire.PUSH, body, headers).status_code == 200


def test_pushes_at_once_from_many_peers_are_all_taken(running: Running, tmp_path: Path) -> None:
    """Workers that merge at the same time wait for one another and lose nothing."""
    clock = running.site.clock
    senders = [Site(tmp_path, f"s{number}", clock=clock) for number in range(4)]
    for number, site in enumerate(senders):
        site.add_many(500, f"s{number}-")
    bodies = [push_body(site) for site in senders]
    ring = running.site.keyring

    def push(body: bytes) -> int:
        return running.post(wire.PUSH, body, signed_headers(ring, wire.PUSH, body)).status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(push, bodies)) == [200] * 4
    shown = running.site.notes()
    assert sum(name.startswith("s") for name in shown) == 4 * 500
    for site in senders:
        site.close()
