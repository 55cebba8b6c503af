"""The fuzz targets: each takes any bytes and fails only by an error that is not a `SyncError`.

A target that gets past the checks also asserts what they are for: a message that was believed has
the parts that must be signed, a merge leaves a file that SQLite finds in order. To get there at
all, frames are fuzzed before they are packed, and signatures a second time with every HMAC taken as
right: as from a peer gone mad, who has the key.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard
from engine.hosts import Host, scratch
from http_message_signatures.algorithms import HMAC_SHA256

from syncd import bundle, bundlefile, codec, merge, packing, signing, wire
from syncd.config import Key
from syncd.database import Connection, Database
from syncd.errors import SyncError

NOW_S = 1_767_225_600
KEY = {"id": "k1", "secret": "0123456789abcdef" * 2}
REQUEST_SIGNATURE = "syncd=:c2lnbmF0dXJlIG9mIHRoZSByZXF1ZXN0IHRoYXQgd2FzIHNlbnQ=:"
SENDER = bundle.Header(
    origin=b"\xa0" * 16, node="sender", created_ms=NOW_S * 1000, vector={}, since={}
)
DDL = """
    CREATE TABLE parent (name TEXT PRIMARY KEY, label TEXT UNIQUE, anything);
    CREATE TABLE child (
        a TEXT NOT NULL,
        b INTEGER NOT NULL,
        up TEXT REFERENCES parent(name),
        real REAL CHECK (real <> 13),
        twin NUMERIC,
        UNIQUE (up, twin),
        PRIMARY KEY (a, b)
    )
"""
MESSAGES = (
    bundle.Header,
    codec.End,
    signing.FileSignature,
    wire.PullRequest,
    wire.PushAnswer,
    wire.StatusRequest,
    wire.StatusAnswer,
    wire.ErrorAnswer,
)

Target = Callable[[bytes], None]


def keyring() -> signing.Keyring:
    """Return the keyring that signs the seeds and checks what comes in."""
    return signing.Keyring([Key.model_validate(KEY)], skew_s=300, now_s=lambda: NOW_S)


def read_bundle(data: bytes) -> None:
    """Read a bundle to its end."""
    list(codec.Reader(io.BytesIO(data)))


def read_message(data: bytes) -> None:
    """Decode any other message; the first byte says which."""
    if data:
        packing.decode(data[1:], MESSAGES[data[0] % len(MESSAGES)])


def merge_frame(data: bytes) -> None:
    """Decode and merge a frame, look at the file, and undo it; the data is not packed."""
    frame = codec.decompress(zstandard.ZstdCompressor(level=1).compress(data))
    with _undone(_receiver()) as connection:
        staged = merge.stage(connection, frame)
        merge.merge_frame(connection, SENDER, frame, staged, now_ms=NOW_S * 1000, drift_ms=300_000)
        assert connection.rows("PRAGMA integrity_check") == [("ok",)]
        assert connection.rows("PRAGMA foreign_key_check") == []
        assert _triggers(connection) == _triggers_at_first()


def verify_request(data: bytes) -> None:
    """Verify a request: a line of method and URL, header lines, an empty line, the body."""
    first, headers, body = _message(data)
    method, _, url = first.partition(" ")
    credentials = keyring().verify_request(signing.Request(method, url, headers), body)
    _assert_believable(headers, body)
    assert credentials.key_id == KEY["id"]
    assert credentials.nonce
    assert credentials.expires_s >= NOW_S - 300


def verify_response(data: bytes) -> None:
    """Verify a response: a line with its status, header lines, an empty line, the body."""
    first, headers, body = _message(data)
    status = int(first) if first.isascii() and first.isdecimal() and len(first) < 5 else 200
    sent = signing.Request("POST", "http://host/", {"Signature": REQUEST_SIGNATURE})
    keyring().verify_response(signing.Response(status, headers, sent), body)
    _assert_believable(headers, body)


def verify_file(data: bytes) -> None:
    """Verify a file's trailer; the file itself is empty."""
    trailer = packing.decode(data[: bundlefile._TRAILER_BYTES_MAX], signing.FileSignature)
    keyring().verify_file(hashlib.sha256(b"").digest(), trailer)
    assert trailer.content_digest == _digest(b"")


def believed(target: Target) -> Target:
    """Return a target that runs as it is, and once more with every HMAC taken as right."""

    @functools.wraps(target)
    def run(data: bytes) -> None:
        with contextlib.suppress(SyncError):
            target(data)
        with _every_hmac_right():
            target(data)

    return run


TARGETS: dict[str, Target] = {
    "bundle": read_bundle,
    "frame": merge_frame,
    "message": read_message,
    "request": believed(verify_request),
    "response": believed(verify_response),
    "file": believed(verify_file),
}


def run(target: Target, data: bytes) -> None:
    """Run a target; let nothing but errors of ours pass."""
    with contextlib.suppress(SyncError):
        target(data)


def _message(data: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    pairs = (line.partition(": ") for line in lines)
    return first, {name: value for name, _, value in pairs}, body


def _digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def _assert_believable(headers: dict[str, str], body: bytes) -> None:
    fields = {name.lower(): value for name, value in headers.items()}
    digests = {hashlib.sha256(body).digest(), hashlib.sha512(body).digest()}
    # The last bits of a base64 text may say anything, so the bytes are compared.
    said = re.findall(r":([A-Za-z0-9+/]*=*):", fields["content-digest"])
    assert any(base64.b64decode(text + "==") in digests for text in said)
    assert '"content-digest"' in fields["signature-input"]


@contextlib.contextmanager
def _every_hmac_right() -> Iterator[None]:
    real = HMAC_SHA256.verify
    setattr(HMAC_SHA256, "verify", lambda *_args, **_named: None)  # noqa: B010
    try:
        yield
    finally:
        setattr(HMAC_SHA256, "verify", real)  # noqa: B010


class _Undo(Exception):
    """Ends a transaction that shall leave nothing behind."""


@contextlib.contextmanager
def _undone(database: Database) -> Iterator[Connection]:
    with contextlib.suppress(_Undo), database.write() as connection:
        yield connection
        raise _Undo


@functools.cache
def _receiver() -> Database:
    """Return an enrolled file with rows of its own in it."""
    folder = scratch()
    atexit.register(folder.cleanup)
    host = Host(Path(folder.name), "receiver", ddl=DDL, tables={"parent": None, "child": None})
    host.write("INSERT INTO parent VALUES ('a', 'one', 1), ('b', 'two', x'00ff'), ('c', NULL, '')")
    host.write("INSERT INTO child VALUES ('a', 1, 'a', 0.5, 1), ('a', 2, 'b', NULL, 2)")
    host.replica.fold()
    host.close()
    return Database(host.path)


@functools.cache
def _triggers_at_first() -> list[tuple[object, ...]]:
    with Database(_receiver().path).read() as connection:
        return _triggers(connection)


def _triggers(connection: Connection) -> list[tuple[object, ...]]:
    return connection.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY 1")
