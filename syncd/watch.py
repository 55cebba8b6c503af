"""Watching: noticing what any process commits, and telling those who wait for it.

`PRAGMA data_version` says cheaply whether another connection has committed anything, so the
database is asked many times a second without being read. News of this host goes to its peers as a
nudge, or is pushed to one that runs no daemon; a nudge that came in brings the next round with its
sender forward. Whoever cannot be reached is left to the rounds on schedule, which go on as ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping

from syncd import wire
from syncd.errors import DatabaseBusy, SyncError
from syncd.nudges import Nudges
from syncd.peer import PeerClient
from syncd.replica import Replica
from syncd.troubles import Troubles
from syncd.vector import Vector

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.02
NUDGE_EVERY_S = 0.05
"""The shortest pause between two nudges to one peer: a storm of writes is one nudge."""


class Watch:
    """Looks at the database and its sidecar. wake: by peer, what brings its next round forward."""

    def __init__(
        self,
        replica: Replica,
        wake: Mapping[str, Callable[[], None]],
        nudgers: Mapping[str, Nudger],
        troubles: Troubles,
    ) -> None:
        self._replica = replica
        self._wake = wake
        self._nudgers = nudgers
        self._troubles = troubles
        self._nudges = Nudges(replica.config.database)
        self._nudged = self._committed = -1
        self._news = (-1, -1)

    def run(self, stopping: threading.Event) -> None:
        """Look until `stopping` is set."""
        while not stopping.wait(LOOK_EVERY_S):
            try:
                self._look()
                self._troubles.is_over("watch")
            except SyncError as error:
                self._troubles.has("watch", error)
                stopping.wait(1)

    def _look(self) -> None:
        if self._nudged != (nudged := self._nudges.version()):
            self._nudged = nudged
            self._follow_nudges()
        if self._committed != (committed := self._replica.version()):
            self._committed = committed
            if self._news != (news := self._replica.news()):
                self._news = news
                self._spread()

    def _follow_nudges(self) -> None:
        for origin in self._nudges.take():
            for name, wake in self._wake.items():
                if self._replica.peers.origin(name) == origin:
                    wake()

    def _spread(self) -> None:
        for peer in self._replica.config.peers:
            if peer.push:
                self._wake[peer.name]()
            else:
                self._nudgers[peer.name].wanted.set()


class Nudger:
    """Tells one peer that there is news, unless it has it or has been told of it already."""

    def __init__(self, replica: Replica, client: PeerClient) -> None:
        self.wanted = threading.Event()
        self._replica = replica
        self._client = client
        self._nudged: Vector | None = None

    def run(self, stopping: threading.Event) -> None:
        """Nudge whenever `wanted` is set, until `stopping` is."""
        while not stopping.is_set():
            if not self.wanted.wait(1):
                continue
            self.wanted.clear()
            # One that cannot be reached is left to the rounds for a while.
            interval_s = self._replica.config.sync.interval / 1000
            stopping.wait(NUDGE_EVERY_S if self._nudge() else interval_s)

    def _nudge(self) -> bool:
        name = self._client.peer.name
        try:
            # What is pulled now would else be folded by the process that answers clients.
            with contextlib.suppress(DatabaseBusy):
                self._replica.fold()
            claim = self._replica.claim()
            if claim == self._nudged or self._replica.peers.told(name).covers(claim):
                return True
            self._client.nudge(
                wire.Nudge(self._replica.config.node, self._replica.origin(), dict(claim))
            )
            self._nudged = claim
        except SyncError as error:
            log.debug("nudge to %s: %s", name, error)
            return False
        return True
