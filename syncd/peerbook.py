"""What a replica remembers of other hosts, each question in a transaction of its own.

This is what rounds, endpoints and commands ask; how it is stored is the business of `peers` and
`snapshot`.
"""

from __future__ import annotations

import contextlib

from syncd import changelog, compaction, peers, schema, snapshot
from syncd.bundle import Header, Progress
from syncd.clock import WallClock
from syncd.config import Config
from syncd.database import Database
from syncd.errors import DatabaseBusy
from syncd.peers import Contact
from syncd.vector import Vector


class PeerBook:
    """A replica's memory of other hosts."""

    def __init__(self, database: Database, config: Config, wall_ms: WallClock) -> None:
        self._database = database
        self._config = config
        self._wall_ms = wall_ms

    def nodes(self) -> set[str]:
        """Return the names by which configured peers call themselves."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return peers.nodes(connection, [peer.name for peer in self._config.peers])

    def told(self, name: str) -> Vector:
        """Return what a peer, or a host by its node's name, last said it has."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return peers.told(connection, peers.known_as(connection, name))

    def hear(self, sender: bytes, node: str, vector: Vector) -> None:
        """Remember what a host says it has; nothing it lacks is forgotten while it lives."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            if sender == changelog.origin(connection) or not peers.is_news(
                connection, sender, vector, self._wall_ms()
            ):
                return
        # It will say so again; nobody is kept waiting for another writer.
        with (
            contextlib.suppress(DatabaseBusy),
            self._database.write(patient=False) as connection,
        ):
            peers.hear(connection, sender, node, vector, self._wall_ms())

    def contacts(self) -> list[Contact]:
        """Return every host that has said what it has."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return peers.contacts(
                connection,
                changelog.vector(connection),
                compaction.horizon(connection).seqs,
                live_since_ms=self._wall_ms() - self._config.sync.retention,
            )

    def forget(self, name: str) -> int:
        """Forget all that a host has said; return how many incarnations of it.

        name: its node's name, or the name it has as a peer.
        """
        with self._database.write() as connection:
            schema.require_enrolled(connection)
            return peers.forget(connection, name)

    def progress(self, sender: bytes) -> Progress | None:
        """Return how far a snapshot of a sender has been read, if one has begun."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return snapshot.progress(connection, sender)

    def cursor(self, sender: bytes) -> int:
        """Return the position up to which a sender's changelog has been merged here."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            position, _ = peers.cursor(connection, sender)
            return position

    def node_of(self, origin: bytes) -> str:
        """Return the name of the host that an origin is of, as far as it was told."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return peers.node_of(connection, origin)

    def origin(self, peer: str) -> bytes | None:
        """Return the identity a peer last had."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return peers.origin(connection, peer)

    def recognise(self, peer: str, origin: bytes) -> None:
        """Remember a peer's identity, so that an unfinished pull can go on from its cursor."""
        with self._database.write() as connection:
            peers.recognise(connection, peer, origin)

    def in_step_ms(self) -> int | None:
        """Return when this host last had all that some peer had, None if never."""
        with self._database.read() as connection:
            if not schema.is_enrolled(connection):
                return None
            return peers.last_success_ms(connection, [peer.name for peer in self._config.peers])

    def record_success(self, peer: str, header: Header, *, attempt_ms: int, offset_ms: int) -> None:
        """Remember a round that brought everything the peer had."""
        with self._database.write() as connection:
            peers.record_success(
                connection,
                peer,
                header,
                attempt_ms=attempt_ms,
                success_ms=self._wall_ms(),
                offset_ms=offset_ms,
            )

    def record_failure(self, peer: str, *, attempt_ms: int, error: str, code: str) -> bool:
        """Remember a round that failed; say whether that is news."""
        with self._database.write() as connection:
            return peers.record_failure(
                connection,
                peer,
                attempt_ms=attempt_ms,
                error=error,
                code=code,
                error_ms=self._wall_ms(),
            )
