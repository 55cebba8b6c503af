"""A peer that answers as a test tells it to, on a real socket.

Owns the server only; what an answer means is the test's business. Every request is kept, so that a
test can say how often, and how differently, it was asked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import flask

from wire.sites import signed_answer

HANG_S = 12
"""A bound on how long a hanging answer hangs; a test ends it earlier."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to send back.

    length: what Content-Length says, -1 for the truth, None for no such header. With anything but
    the truth the body is sent again and again, after a pause each time, or an empty one is waited
    for.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = -1
    pause_s: float = 0


Script = Callable[[Asked, "ScriptedPeer"], Answer | None]
"""Turns a request into an answer, or writes nothing and returns None for a connection cut off."""


class ScriptedPeer:
    """Answers the first request by the first step of a script, and so on, the last for ever."""

    def __init__(self, *steps: Script) -> None:
        self.asked: list[Asked] = []
        self.ending = threading.Event()
        self._steps = steps
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def step(self, asked: Asked) -> Answer | None:
        """Note a request and return what the script says to it."""
        self.asked.append(asked)
        return self._steps[min(len(self.asked), len(self._steps)) - 1](asked, self)

    def stop(self) -> None:
        """Close the socket, and end whatever hangs."""
        self.ending.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = peer.step(Asked(self.path, dict(self.headers.items()), body))
                # The client may have gone; that is what some tests are about.
                with contextlib.suppress(OSError):
                    self._send(answer)

            def _send(self, answer: Answer | None) -> None:
                self.close_connection = True
                if answer is None:
                    return
                self.send_response_only(answer.status)
                self.send_header("Connection", "close")
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = len(answer.body) if answer.length == -1 else answer.length
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(answer.body)
                self.wfile.flush()
                if answer.length != -1:
                    self._go_on(answer)

            def _go_on(self, answer: Answer) -> None:
                """Send the body again and again, or keep quiet if it has none."""
                if not answer.body:
                    peer.ending.wait(HANG_S)
                until = time.monotonic() + HANG_S
                while answer.body and not peer.ending.wait(answer.pause_s):
                    if time.monotonic() > until:
                        return
                    self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                """Keep quiet."""

        return Handler


@contextlib.contextmanager
def scripted(*steps: Script) -> Iterator[ScriptedPeer]:
    """Run a scripted peer on a port that the system gives."""
    peer = ScriptedPeer(*steps)
    try:
        yield peer
    finally:
        peer.stop()


def says(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, **options: Any
) -> Script:
    """Answer without a signature."""
    return lambda _, __: Answer(status, headers or {}, body, **options)


def hangs(_: Asked, peer: ScriptedPeer) -> None:
    """Take the request and say nothing."""
    peer.ending.wait(HANG_S)


def cuts(_: Asked, __: ScriptedPeer) -> None:
    """Take the request and close the connection."""


def asks(app: flask.Flask) -> Script:
    """Answer with what a real application says."""

    def answer(asked: Asked, _: ScriptedPeer) -> Answer:
        found = app.test_client().post(asked.path, data=asked.body, headers=asked.headers)
        headers = {
            k: v for k, v in found.headers.items() if k not in ("Content-Length", "Connection")
        }
        return Answer(found.status_code, headers, found.data)

    return answer


def loses(script: Script) -> Script:
    """Let another script answer, and close the connection instead of sending that."""

    def answer(asked: Asked, peer: ScriptedPeer) -> None:
        script(asked, peer)

    return answer


def spoils(script: Script, spoil: Callable[[Answer], Answer]) -> Script:
    """Change another script's answer on its way."""

    def answer(asked: Asked, peer: ScriptedPeer) -> Answer | None:
        good = script(asked, peer)
        assert good is not None
        return spoil(good)

    return answer


def signs(keyring: Any, status: int, body: bytes) -> Script:
    """Answer with a signature that is bound to the request."""
    return lambda asked, _: Answer(
        status, signed_answer(keyring, asked.headers, asked.path, status, body), body
    )


def paths(asked: Sequence[Asked]) -> list[str]:
    """Return the paths that were asked, in order."""
    return [request.path for request in asked]
