"""Hosts that answer /verify as a test tells them to, on real sockets.

Owns the sockets only. Every question is kept, so that a test can say who was asked, and what.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from clients.signer import Signer

Query = dict[str, str]
HANG_S = 20
"""A bound on how long a hanging answer hangs; the test's end ends it earlier."""


@dataclass(frozen=True)
class Answer:
    """What to send back. drip: one byte at a time; hang: nothing at all."""

    body: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    drip: bool = False
    hang: bool = False

    @classmethod
    def json(cls, status: int = 200, **fields: Any) -> Answer:
        return cls(json.dumps(fields), status)


Script = Callable[[Query], Answer]


class ScriptedHost:
    """Answers every question by a script, which may be changed; `stop` takes it down."""

    def __init__(self, script: Script | Answer) -> None:
        self.script = script
        self.asked: list[Query] = []
        self.api_keys: list[str] = []
        self._ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Close the socket, and end whatever hangs."""
        self._ending.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
                host.asked.append(query)
                host.api_keys.append(self.headers.get("X-API-Key", ""))
                script = host.script
                with contextlib.suppress(OSError):
                    host._send(self, script if isinstance(script, Answer) else script(query))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.hang:
            self._ending.wait(HANG_S)
            return
        body = answer.body.encode()
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if "Content-Type" not in answer.headers:
            handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if not answer.drip:
            handler.wfile.write(body)
            return
        for byte in body:
            handler.wfile.write(bytes([byte]))
            if self._ending.wait(0.1):
                return


def signed(
    signer: Signer, *, allow: bool = True, msg: str = "", revoked: str = "", **claims: Any
) -> Script:
    """Return the script of a host that signs what it says; claims override those of its token."""

    def script(query: Query) -> Answer:
        said = signer.claims(query["id"], query["nonce"], time.time(), allow=allow, **claims)
        return signed_answer(signer.token(said), allow=allow, msg=msg, revoked=revoked)

    return script


def signed_answer(
    token: str, *, allow: bool = True, msg: str = "", revoked: str = "", status: int = 200
) -> Answer:
    """Return an answer with a token in it."""
    fields = {"offline_revoked": revoked} if revoked else {}
    return Answer.json(
        status,
        allow=allow,
        msg=msg or ("Licença ativa." if allow else "Licença bloqueada."),
        config={"features": ["core"], "interval": 30, "license_expires_at": None, "message": ""},
        offline_token=token,
        **fields,
    )
