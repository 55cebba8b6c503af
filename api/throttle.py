"""Limits on trying: logins and password resets.

Owns the count of recent tries, in a table of this host's own database that all its workers share
and that does not travel. A try is counted before its outcome is known, so that many at once are
no way around the limit, and is taken back when it turns out to be rightful.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from api.clock import Clock
from api.store import Store


@dataclass(frozen=True)
class Limit:
    """Allow a number of tries within a time."""

    tries: int
    within: timedelta


class TooManyError(Exception):
    """A limit is used up. wait: until when, from now."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(str(wait))
        self.wait = wait


class Throttle:
    """Count tries under names."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def attempt(self, limits: Mapping[str, Limit]) -> list[int]:
        """Count a try under each name; raises TooManyError, counting none, if one is used up."""
        now_s = self._clock().timestamp()
        with self._store.writing() as connection:
            connection.execute("DELETE FROM attempts WHERE forget_s <= ?", (now_s,))
            counted: list[int] = []
            for name, limit in limits.items():
                used, oldest_s = connection.execute(
                    "SELECT count(*), min(forget_s) FROM attempts WHERE name = ?", (name,)
                ).fetchone()
                if used >= limit.tries:
                    raise TooManyError(timedelta(seconds=oldest_s - now_s))
                added = connection.execute(
                    "INSERT INTO attempts (name, forget_s) VALUES (?, ?)",
                    (name, now_s + limit.within.total_seconds()),
                )
                counted.append(added.lastrowid or 0)
        return counted

    def forgive(self, counted: Sequence[int]) -> None:
        """Take tries back."""
        with self._store.writing() as connection:
            connection.executemany("DELETE FROM attempts WHERE id = ?", [(one,) for one in counted])
