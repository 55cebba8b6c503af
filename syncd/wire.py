"""The messages of the sync protocol that are not bundles, and where they go.

Both ends of the wire agree here, and nowhere else. All messages are MessagePack; see
docs/protocol.md.
"""

from __future__ import annotations

import msgspec

from syncd.bundle import RECORD_BYTES_MAX, Int64, Origin, Seq, Seqs

PREFIX = "/sync/v1"
PULL, PUSH, STATUS = f"{PREFIX}/pull", f"{PREFIX}/push", f"{PREFIX}/status"
NUDGE = f"{PREFIX}/nudge"
WAIT_MS_MAX = 5_000
"""How long a pull may be kept waiting for news. Proxies cut a silent connection before long."""
BODY_BYTES_MAX = RECORD_BYTES_MAX + 1024 * 1024
"""A bundle of one frame of the largest size, and its header."""
MEDIA_TYPE = "application/vnd.syncd"


class PullRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Asks for what the sender lacks.

    vector: what it has merged. server and after: whose changelog it has merged up to which
    position; a server of another origin starts from zero. wait_ms: how long the answer may wait
    for news if there is none.
    """

    node: str
    vector: Seqs
    server: bytes
    after: Seq
    wait_ms: Int64 = 0


class Nudge(msgspec.Struct, frozen=True):
    """Says that there is news. vector: what the sender has, its writes not yet folded included."""

    node: str
    origin: Origin
    vector: Seqs


class StatusRequest(msgspec.Struct, frozen=True):
    """Asks how far a replica is. origin: the sender's, to learn how far it is merged there."""

    node: str
    origin: Origin


class StatusAnswer(msgspec.Struct, frozen=True):
    """How far a replica is. cursor: the position up to which it has merged the asker's
    changelog."""

    node: str
    origin: Origin
    vector: Seqs
    cursor: Seq
    now_ms: Int64


class PushAnswer(msgspec.Struct, frozen=True):
    """What became of a pushed frame; it is durable when this is sent."""

    applied: int
    older: int
    conflicting: int
    held: int


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Why a request that was signed well could not be met."""

    code: str
    message: str
