"""How fresh this host's data is, and asking for fresher.

Owns the rule behind every "no" that newer data could overturn: it takes a round with a peer that
ended less than `fresh_for` ago, or one that ends now. What decides, the time of the last good
round, stands in the database, where all workers and the daemon see and write it. Requests share one
round, a round that found nobody is not repeated at once, and only so many requests wait for one, so
a flood of questions about unknown devices costs little.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import syncd


class Freshness:
    """Watch over one host's data. waiting_max: how many requests may wait at a time."""

    def __init__(
        self, replica: syncd.Replica, *, lasts: timedelta, wait: timedelta, waiting_max: int
    ) -> None:
        self._replica = replica
        self._lasts_ms = lasts.total_seconds() * 1000
        self._wait_s = wait.total_seconds()
        self._seats = threading.BoundedSemaphore(waiting_max)
        self._lock = threading.Lock()
        self._round: _Round | None = None
        self._not_before_s = 0.0

    def ensure(self) -> bool:
        """Say whether the data is fresh, after asking the peers if it is not.

        What was read before may be older: read again. A host without peers is sure of itself.
        """
        return self.is_fresh() or self._ask()

    def is_fresh(self) -> bool:
        """Say whether a round with some peer has ended well a short while ago."""
        if not self._replica.config.peers:
            return True
        in_step_ms = self._replica.peers.in_step_ms()
        # A clock that was turned back says nothing about age.
        return (
            in_step_ms is not None and 0 <= self._replica.wall_ms() - in_step_ms <= self._lasts_ms
        )

    def _ask(self) -> bool:
        if not self._seats.acquire(blocking=False):
            return False
        try:
            asked, is_mine = self._joined()
            if asked is None:
                return False
            if is_mine:
                self._run(asked)
            return asked.ended.wait(self._wait_s) and asked.is_good
        finally:
            self._seats.release()

    def _joined(self) -> tuple[_Round | None, bool]:
        """Return the round to wait for, and whether it is this thread that has to run it."""
        with self._lock:
            if self._round is not None:
                return self._round, False
            if time.monotonic() < self._not_before_s:
                return None, False
            self._round = _Round()
            return self._round, True

    def _run(self, asked: _Round) -> None:
        try:
            asked.is_good = syncd.catch_up(self._replica, self._wait_s)
        finally:
            with self._lock:
                self._round = None
                # Peers that were not there are not there a moment later.
                self._not_before_s = time.monotonic() + (0 if asked.is_good else self._wait_s)
            asked.ended.set()


class _Round:
    """A round that several requests wait for."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.is_good = False
