"""The messages of the sync protocol that are not bundles, and where they go.

Both ends of the wire agree here, and nowhere else. All messages are MessagePack; see
docs/protocol.md.
"""

from __future__ import annotations

import msgspec

from syncd.bundle import Column, Frame, Header, Int64, Mark, Origin, Progress, Seq, Seqs
from syncd.codec import RECORD_BYTES_MAX

PREFIX = "/sync/v1"
PULL, PUSH, STATUS = f"{PREFIX}/pull", f"{PREFIX}/push", f"{PREFIX}/status"
COMPARE, ROWS = f"{PREFIX}/compare", f"{PREFIX}/rows"
NUDGE = f"{PREFIX}/nudge"
WAIT_MS_MAX = 5_000
"""How long a pull may be kept waiting for news. Proxies cut a silent connection before long."""
BODY_BYTES_MAX = RECORD_BYTES_MAX + 1024 * 1024
"""A bundle of one frame of the largest size, and its header."""
MEDIA_TYPE = "application/vnd.syncd"


class PullRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Asks for what the sender lacks.

    vector: what it has merged. server and after: whose changelog it has merged up to which
    position; a server of another origin starts from zero. origin: the sender's, so that what it has
    is remembered. snapshot: how far it has read a snapshot of that changelog. wait_ms: how long the
    answer may wait for news if there is none. mark: the last that the server has said of itself.
    brief: whether an answer that would only repeat all this may be empty; see `repeated`. Such a
    request leaves out what was said before the marks. rumours: what else the server may have said,
    by a bundle that came in another way or as others say. forks: as in a bundle's header.
    """

    node: str
    vector: Seqs
    server: bytes
    after: Seq
    origin: bytes = b""
    snapshot: Progress | None = None
    wait_ms: Int64 = 0
    mark: Mark | None = None
    brief: bool = False
    rumours: list[Mark] = []
    forks: Seqs = {}


def briefly(mark: Mark) -> Mark:
    """Return a mark without what was said before it."""
    return Mark(mark.seq, mark.hlc)


def repeated(asked: PullRequest, node: str, now_ms: int) -> tuple[Header, Frame]:
    """Return the answer that an empty one stands for: the server has what the asker has, no more.

    node: the server's. now_ms: its wall clock.
    """
    header = Header(
        origin=asked.server,
        node=node,
        created_ms=now_ms,
        vector=asked.vector,
        since=asked.vector,
        hlc=asked.mark.hlc if asked.mark else 0,
        forks=asked.forks,
    )
    frame = Frame(
        origins=[],
        nodes=[],
        sections=[],
        after=asked.after,
        position=asked.after,
        claim=asked.vector,
    )
    return header, frame


def only_repeats(asked: PullRequest, header: Header, frame: Frame) -> bool:
    """Say whether all that an answer says stands in the request."""
    # What was said before a mark is left out of a brief request, and known to who knows the mark.
    said = msgspec.structs.replace(header, earlier=[]), frame
    return said == repeated(asked, header.node, header.created_ms)


def asked_back(asked: PullRequest, node: str, now_ms: int) -> tuple[Header, Frame]:
    """Return the answer that wants the same asked again, and not briefly.

    node, now_ms: as in `repeated`. No mark is in it, so that what the asker tells stays the same.
    """
    header, frame = repeated(asked, node, now_ms)
    return msgspec.structs.replace(header, hlc=0), msgspec.structs.replace(frame, claim=None)


def asks_back(frame: Frame) -> bool:
    """Say whether a frame is of such an answer."""
    return not frame.sections and frame.claim is None and frame.position == frame.after


class Nudge(msgspec.Struct, frozen=True):
    """Says that there is news. vector: what the sender has, its writes not yet folded included."""

    node: str
    origin: Origin
    vector: Seqs


class StatusRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Asks how far a replica is. origin: the sender's, to learn how far it is merged there.

    forks: as in a bundle's header.
    """

    node: str
    origin: Origin
    forks: Seqs = {}


class StatusAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a replica is.

    cursor: the position up to which it has merged the asker's changelog. snapshot: how far it has
    read a snapshot of it. mark: the last that the asker has said of itself. rumours: what else it
    may have said.
    """

    node: str
    origin: Origin
    vector: Seqs
    cursor: Seq
    now_ms: Int64
    snapshot: Progress | None = None
    mark: Mark | None = None
    rumours: list[Mark] = []


def told(message: PullRequest | StatusAnswer) -> list[Mark]:
    """Return all that a message says its receiver has said of itself."""
    return [*([message.mark] if message.mark else []), *message.rumours]


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


class Buckets(msgspec.Struct, frozen=True):
    """Asks about the rows that a table shows, by buckets.

    key and columns: what to compare. A row belongs to the buckets whose prefix its place starts
    with; prefixes: those asked about, all of one length. listed: whether to list their rows.
    """

    table: str
    key: list[str]
    columns: list[str]
    prefixes: list[bytes]
    listed: bool = False


class BucketsAnswer(msgspec.Struct, frozen=True):
    """What stands in buckets.

    columns: those of the columns asked about that the answering host has, and answers for; None if
    it does not have the table under that key. rows: how many the table shows. digests: one for each
    prefix, one behind the other. keys: the rows listed, one Column for each name in the key. cells:
    for each of these rows the digests of its columns, one behind the other.
    """

    columns: list[str] | None
    rows: int = 0
    digests: bytes = b""
    keys: list[Column] = []
    cells: list[bytes] = []


class CompareRequest(msgspec.Struct, frozen=True):
    """Asks what tables show, to compare."""

    node: str
    questions: list[Buckets]


class CompareAnswer(msgspec.Struct, frozen=True):
    """What tables show, in the order of the questions, and what has been merged by then."""

    node: str
    vector: Seqs
    answers: list[BucketsAnswer]


class RowsRequest(msgspec.Struct, frozen=True):
    """Asks for all changes of some rows. keys: one Column for each name in the key."""

    node: str
    table: str
    key: list[str]
    keys: list[Column]
