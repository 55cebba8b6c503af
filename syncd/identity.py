"""Identity: a copied or restored file must not become two replicas under one origin.

A sidecar file beside the database (`<database>-syncd`) remembers which file it belongs to: the
host's name, the file's inode, and a token that the database holds too and that changes whenever
changes of this origin are about to be sent. A copy has no sidecar or another inode; a restored
backup has an older token. Where the sidecar was restored along with it, peers prove it: one knows a
higher seq of our origin than we do, or was told a mark (a seq of ours and what our clock read then)
that the sidecar does not know. In all cases the replica takes a new origin before anything more is
sent under the old one, keeps its data, and pulls back what its former self had sent.
"""

from __future__ import annotations

import copy
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from syncd.bundle import Mark
from syncd.database import Connection, Database

log = logging.getLogger(__name__)

TOKEN_BYTES = 16
MARKS_MAX = 1_000
"""How many of its own marks a sidecar remembers, the newest."""


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

    def doubt(
        self, connection: Connection, seen_seq: int = 0, mark: Mark | None = None
    ) -> str | None:
        """Return why the file may not go on under its origin, or None.

        seen_seq: the highest seq of this origin that a peer claims to have. mark: the last that it
        heard of this origin.
        """
        reason = self._doubt(connection, seen_seq)
        if reason is None and mark is not None and not self._has_said(mark):
            return f"a peer was told of change {mark.seq} by another history of this origin"
        return reason

    def _doubt(self, connection: Connection, seen_seq: int = 0) -> str | None:
        own = connection.value("SELECT max(seq) FROM syncd_journal")
        if seen_seq > own:
            return f"a peer has change {seen_seq} of this origin, this file ends at {own}"
        memory = self._memory()
        if memory is None:
            return "the file came without its sidecar, as a copy does"
        if memory.node != self._node:
            return f"the host was called {memory.node} and is called {self._node} now"
        if memory.inode != self._path.stat().st_ino:
            return "it is another file than the one its sidecar was made for"
        token, position = connection.row("SELECT token, position FROM syncd_replica") or ()
        is_older = own < memory.sent or position < memory.position
        if is_older or token not in (memory.token, memory.former):
            return "it is older than what its sidecar remembers, as a restored backup is"
        return None

    def sent(self, connection: Connection, mark: Mark | None = None) -> int | None:
        """Return the highest own seq that this file has sent; None if its sidecar cannot tell.

        mark: if it is not of this history, only what was sent before the histories parted counts.
        """
        memory = self._memory()
        if memory is None or self._doubt(connection) is not None:
            return None
        if mark is None or self._has_said(mark):
            return memory.sent
        with self._sidecar.read() as sidecar:
            common: int | None = sidecar.value(
                "SELECT max(seq) FROM mark WHERE seq <= ? AND hlc <= ?", (mark.seq, mark.hlc)
            )
        return min(memory.sent, mark.seq) if common is None else common

    def renew(self, connection: Connection, reason: str, now_ms: int) -> None:
        """Take a new origin. The transaction must be a write, and nothing folded in it yet."""
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
        log.warning("%s: new origin %s: %s", self._path, origin.hex(), reason)
        # No former token: a crash before the database commits must leave the doubt in place.
        self._remember(connection, 0, 0, former=None)
        with self._sidecar.write() as sidecar:
            sidecar.run("DELETE FROM mark")

    def note_sending(self, connection: Connection, seq: int, position: int) -> None:
        """Remember how far this replica's own changes, and its changelog, are about to be sent.

        Peers keep both: a seq in their vectors, a position as their cursor. A position counts
        merged changes as well, so it has to be remembered where no change of our own goes out.
        """
        former = connection.value("SELECT token FROM syncd_replica")
        self._remember(connection, seq, position, former)

    def reading(self, seq: int) -> int:
        """Return what the clock read when it was first said that this replica is at a seq, or 0."""
        with self._sidecar.read() as sidecar:
            return sidecar.value("SELECT hlc FROM mark WHERE seq = ?", (seq,)) or 0

    def hear(self, sender: bytes, mark: Mark | None) -> None:
        """Remember what a sender said of itself."""
        if mark is None or self.heard(sender) == mark:
            return
        with self._sidecar.write() as sidecar:
            sidecar.run(
                "INSERT INTO heard VALUES (?, ?, ?) ON CONFLICT (origin) DO UPDATE SET"
                " seq = excluded.seq, hlc = excluded.hlc WHERE excluded.seq > seq",
                (sender, mark.seq, mark.hlc),
            )

    def heard(self, sender: bytes) -> Mark | None:
        """Return the last that a sender was heard to say of itself."""
        self._prepare()
        with self._sidecar.read() as sidecar:
            found = sidecar.row("SELECT seq, hlc FROM heard WHERE origin = ?", (sender,))
        return Mark(*found) if found else None

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

    def _has_said(self, mark: Mark) -> bool:
        with self._sidecar.read() as sidecar:
            hlc = sidecar.value("SELECT hlc FROM mark WHERE seq = ?", (mark.seq,))
            count, oldest = sidecar.row("SELECT count(*), min(seq) FROM mark") or (0, None)
        if hlc is not None:
            return bool(hlc == mark.hlc)
        # It may have been said so long ago that it is not remembered any more.
        return bool(count >= MARKS_MAX and mark.seq < oldest)

    def _remember(
        self, connection: Connection, sent: int, position: int, former: bytes | None
    ) -> None:
        token = secrets.token_bytes(TOKEN_BYTES)
        connection.run("UPDATE syncd_replica SET token = ?", (token,))
        self._prepare()
        with self._sidecar.write(durable=True) as sidecar:
            sidecar.run("DELETE FROM memory")
            sidecar.run(
                "INSERT INTO memory VALUES (?, ?, ?, ?, ?, ?)",
                (self._node, self._path.stat().st_ino, token, former, sent, position),
            )
            sidecar.run(
                "INSERT OR IGNORE INTO mark VALUES (?, ?)",
                (sent, connection.value("SELECT hlc FROM syncd_replica")),
            )
            sidecar.run(
                "DELETE FROM mark WHERE seq <="
                " (SELECT seq FROM mark ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                (MARKS_MAX,),
            )

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
            sidecar.run("CREATE TABLE IF NOT EXISTS mark (seq INTEGER PRIMARY KEY, hlc INTEGER)")
            sidecar.run(
                "CREATE TABLE IF NOT EXISTS heard"
                " (origin BLOB PRIMARY KEY, seq INTEGER, hlc INTEGER) WITHOUT ROWID"
            )
        self._ready = True
