"""Identity: a copied or restored file must not become two replicas under one origin.

A sidecar file beside the database (`<database>-syncd`) remembers which file it belongs to: the
host's name, the file's inode, and a token that the database holds too and that changes whenever
something is about to be sent for the first time. A copy has no sidecar or another inode; a restored
backup has an older token. Where the sidecar was restored along with it, peers prove it: one knows a
higher seq of our origin than we do, or was told a mark (`marks`) that the sidecar does not know. In
all cases the replica takes a new origin before anything more is sent under the old one, keeps its
data, and pulls back what its former self had sent.
"""

from __future__ import annotations

import copy
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from syncd import marks
from syncd.bundle import Mark
from syncd.clock import hlc_of_ms
from syncd.database import Connection, Database
from syncd.marks import Marks

log = logging.getLogger(__name__)

TOKEN_BYTES = 16


def sidecar_of(database: Path) -> Path:
    """Return the path of a database's sidecar file."""
    return database.with_name(database.name + "-syncd")


@dataclass(frozen=True)
class _Memory:
    """What the sidecar remembers. former: the token before, until the change is certain.

    sent: the highest own seq, position: the highest position of the changelog that went out.
    """

    node: str
    inode: int
    token: bytes
    former: bytes | None
    sent: int
    position: int


@dataclass(frozen=True)
class Sent:
    """How far a file has sent changes of its own. shared: how far it did before it was set back."""

    seq: int
    shared: int


class Identity:
    """Watches over the origin of one database."""

    def __init__(self, database: Path, node: str, new_origin: Callable[[], bytes]) -> None:
        self._path = database
        self._node = node
        self._new_origin = new_origin
        self._sidecar = Database(sidecar_of(database), create=True)
        self._ready = False

    def rehearsal(self) -> Identity:
        """Return the same with a private copy of the sidecar, which vanishes when it is closed."""
        twin = copy.copy(self)
        twin._sidecar = self._sidecar.copy()
        return twin

    def close(self) -> None:
        """Close this thread's connection."""
        self._sidecar.close()

    @property
    def marks(self) -> Marks:
        """What this host, and those it knows, have said of themselves."""
        self._prepare()
        return Marks(self._sidecar)

    def doubt(
        self, connection: Connection, seen_seq: int = 0, told: Sequence[Mark] = ()
    ) -> str | None:
        """Return why the file may not go on under its origin, or None.

        seen_seq: the highest seq of this origin that a peer claims to have. told: marks that a peer
        has heard of this origin.
        """
        reason = self._doubt(connection, seen_seq)
        if reason is not None:
            return reason
        for mark in told:
            if not self.marks.has_said(mark):
                return f"a peer was told of change {mark.seq} by another history of this origin"
        if connection.value(_IS_FORKED):
            return "another file has written under its origin"
        return None

    def _doubt(self, connection: Connection, seen_seq: int = 0) -> str | None:
        own = connection.value("SELECT max(seq) FROM syncd_journal")
        if seen_seq > own:
            return f"a peer has change {seen_seq} of this origin, this file ends at {own}"
        memory = self._memory()
        if memory is None:
            return "the file came without its sidecar, as a copy does"
        if memory.node != self._node:
            return f"the host was called {memory.node} and is called {self._node} now"
        if memory.inode != self._inode():
            return "it is another file than the one its sidecar was made for"
        token, position = connection.row("SELECT token, position FROM syncd_replica") or ()
        is_older = own < memory.sent or position < memory.position
        if is_older or token not in (memory.token, memory.former):
            return "it is older than what its sidecar remembers, as a restored backup is"
        return None

    def sent(
        self, connection: Connection, seen_seq: int = 0, told: Sequence[Mark] = ()
    ) -> Sent | None:
        """Return how far this file has sent its own changes; None if its sidecar cannot tell.

        seen_seq, told: as in `doubt`.
        """
        memory = self._memory()
        if memory is None or self._doubt(connection) is not None:
            return None
        others = [mark for mark in told if not self.marks.has_said(mark)]
        shared = [self.marks.shared_with(mark) for mark in others]
        if self._doubt(connection, seen_seq) is not None and not others:
            shared = [0]  # there is another history, and nobody knows from where on
        return Sent(memory.sent, min([memory.sent, *shared]))

    def renew(self, connection: Connection, reason: str, now_ms: int) -> None:
        """Take a new origin, under which to `begin` once the transaction has committed.

        It must be a write, and nothing folded in it yet. The sidecar stays as it is until then: if
        this process dies, what it knows of the former origin is needed again.
        """
        origin = self._new_origin()
        connection.run(
            "INSERT INTO syncd_origin (id, node, seq)"
            " SELECT ?, ?, seq FROM syncd_origin"
            " WHERE ordinal = (SELECT origin FROM syncd_replica)",
            (origin, self._node),
        )
        connection.run(
            "UPDATE syncd_replica SET renewed_ms = ?, renewed_why = ?,"
            " origin = (SELECT ordinal FROM syncd_origin WHERE id = ?)",
            (now_ms, reason, origin),
        )
        self.mint(connection)
        log.warning("%s: new origin %s: %s", self._path, origin.hex(), reason)

    def begin(self, connection: Connection, now_ms: int) -> None:
        """Let the sidecar be that of a new origin, once the database has committed it.

        The transaction must be a write: of several processes that see the doubt one begins.
        """
        token, memory = connection.value("SELECT token FROM syncd_replica"), self._memory()
        if memory is not None and memory.token == token:
            return
        with self._sidecar.write() as sidecar:
            marks.forget(sidecar)
        memory = _Memory(self._node, self._inode(), token, None, sent=0, position=0)
        self._remember(connection, memory, 0, now_ms)

    def mint(self, connection: Connection) -> bytes:
        """Give the database another token."""
        token = secrets.token_bytes(TOKEN_BYTES)
        connection.run("UPDATE syncd_replica SET token = ?", (token,))
        return token

    def note_sending(self, connection: Connection, seq: int, position: int, now_ms: int) -> None:
        """Remember how far this replica's own changes, and its changelog, are about to be sent.

        Peers keep both: a seq in their vectors, a position as their cursor. A position counts
        merged changes as well, so it has to be remembered where no change of our own goes out.
        """
        former = connection.value("SELECT token FROM syncd_replica")
        token, memory = self.mint(connection), self._memory()
        # Another process may have sent more before the lock was had.
        sent = max(seq, memory.sent if memory else 0)
        position = max(position, memory.position if memory else 0)
        memory = _Memory(self._node, self._inode(), token, former, sent, position)
        self._remember(connection, memory, seq, now_ms)

    def must_note(self, seq: int, position: int) -> bool:
        """Say whether sending up to a seq and a position has to be remembered first."""
        memory = self._memory()
        return (
            memory is None
            or memory.former is not None
            or seq > memory.sent
            or position > memory.position
        )

    def settle(self) -> None:
        """Forget the former token, once the database has committed the new one."""
        with self._sidecar.write() as sidecar:
            sidecar.run("UPDATE memory SET former = NULL")

    def _remember(self, connection: Connection, memory: _Memory, seq: int, now_ms: int) -> None:
        """Remember it, and that this replica is about to say that it is at a seq."""
        clock = max(connection.value("SELECT hlc FROM syncd_replica"), hlc_of_ms(now_ms))
        self._prepare()
        with self._sidecar.write(durable=True) as sidecar:
            sidecar.run("DELETE FROM memory")
            sidecar.run("INSERT INTO memory VALUES (?, ?, ?, ?, ?, ?)", astuple(memory))
            marks.note(sidecar, seq, clock)
            if seq < memory.sent:
                # Another process was quicker: what is said last is what was sent.
                marks.note(sidecar, memory.sent, clock)

    def _inode(self) -> int:
        return self._path.stat().st_ino

    def _memory(self) -> _Memory | None:
        self._prepare()
        with self._sidecar.read() as sidecar:
            found = sidecar.row("SELECT node, inode, token, former, sent, position FROM memory")
        return _Memory(*found) if found else None

    def _prepare(self) -> None:
        if self._ready:
            return
        self._sidecar.make_wal()
        with self._sidecar.write() as sidecar:
            sidecar.run(
                "CREATE TABLE IF NOT EXISTS memory"
                " (node TEXT, inode INTEGER, token BLOB, former BLOB, sent INTEGER,"
                " position INTEGER)"
            )
            marks.prepare(sidecar)
        self._ready = True


_IS_FORKED = (
    "SELECT forked IS NOT NULL FROM syncd_origin WHERE ordinal = (SELECT origin FROM syncd_replica)"
)
