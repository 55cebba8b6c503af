"""The guard of a replica's origin: it acts on what `identity` doubts and on what peers tell.

Nothing is folded, sent or merged before it has looked. A file that cannot be the one that wrote
under its origin takes a new one, with what it has not sent; what a host tells of forks is followed
before any of its changes is. Each in transactions of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from syncd import changelog, forks, merge, rebirth, schema
from syncd.bundle import Header, Mark
from syncd.clock import WallClock
from syncd.database import Database
from syncd.identity import Identity
from syncd.vector import Vector


class Guard:
    """Keeps two files from writing under one origin."""

    def __init__(self, database: Database, identity: Identity, wall_ms: WallClock) -> None:
        self._database = database
        self._identity = identity
        self._wall_ms = wall_ms

    def check(self, claimed: Vector | None = None, told: Sequence[Mark] = ()) -> bool:
        """Take a new origin if this file cannot be the one that wrote under its present one.

        claimed: what a peer says it has. told: what it says that this replica has said. Returns
        whether it had to.
        """
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            seen = (claimed or Vector())[changelog.origin(connection)]
            if self._identity.doubt(connection, seen, told) is None:
                return False
        with self._database.write() as connection:
            seen = (claimed or Vector())[changelog.origin(connection)]
            reason = self._identity.doubt(connection, seen, told)
            if reason is None:
                return False
            former = changelog.origin(connection)
            ordinal = connection.value("SELECT origin FROM syncd_replica")
            sent = self._identity.sent(connection, seen, told)
            self._identity.renew(connection, reason, self._wall_ms())
            if sent is not None:
                rebirth.take_along(connection, ordinal, sent.shared)
            if sent is not None and sent.shared < sent.seq:
                # Hosts that were told this history skip the other, and the other way round.
                forks.learn(connection, {former: sent.shared})
            forks.hold_back(connection)
            merge.take_whole_journal(connection, self._wall_ms(), minted_under=former)
        self.begin()
        return True

    def begin(self) -> None:
        """Let the sidecar follow a new origin that the database has committed."""
        with self._database.write() as connection:
            self._identity.begin(connection, self._wall_ms())

    def learn(self, told: Mapping[bytes, int], about_us: Sequence[Mark] = ()) -> None:
        """Follow what a host knows of forks; if that is news, the vector goes back.

        about_us: what it has heard that this replica has said. It tells better where histories
        parted than a fork does, which may be that of two others.
        """
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            if not forks.are_news(connection, told):
                return
        if about_us:
            self.check(told=about_us)
        with self._database.write() as connection:
            forks.learn(connection, told)

    def meet(self, header: Header) -> None:
        """Follow what a sender knows of forks and marks, before any of what it has is merged."""
        self.learn(header.forks)
        marks = {origin: list(told) for origin, told in header.marks.items()}
        if header.mark is not None:
            marks.setdefault(header.origin, []).append(header.mark)
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            about_us = marks.pop(changelog.origin(connection), [])
        self.check(Vector(header.vector), about_us)
        self._identity.marks.hear_rumours(marks)

    def note_sending(self, seq: int, position: int) -> Mark | None:
        """Remember what is about to be said of this replica; return its mark.

        None if another process has taken a new origin meanwhile.
        """
        marks = self._identity.marks
        mark = None if self._identity.must_note(seq, position) else marks.last(seq)
        if mark is None:
            # What a peer has seen of us must not be undone by a power loss: the numbers would be
            # given out again.
            with self._database.write(durable=True) as connection:
                self._identity.note_sending(connection, seq, position, self._wall_ms())
            self._identity.settle()
            mark = marks.last(seq)
        return mark
