"""What was written by whom and what each write knew of: the memory that no fault reaches.

The ledger answers two questions that no replica can be trusted with: was a change that a bundle
tells of ever made, and was a value that lost known to the write that it lost to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from engine.model import ALIVE, DEAD, EXISTENCE, Cell, Change, Key, Stamp

Loss = tuple[int, bytes, int, str, str]
"""A loser's reading, origin and seq, its table and column."""


class Ledger:
    """All committed writes of a simulation."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Key, str, Stamp], set[Cell]] = {}
        self._known: dict[Change, frozenset[Change]] = {}
        self._lifted: dict[Stamp, Stamp] = {}
        self._readings: dict[tuple[bytes, int], set[int]] = {}

    def enter(self, written: Iterable[Change], known: frozenset[Change]) -> None:
        """Remember writes that were committed. known: what their host had merged."""
        for change in written:
            # A copy that has not noticed yet that it is one may give a stamp out twice.
            self._values.setdefault(_write(change), set()).add(change.value)
            self._known[change] = known
            self._readings.setdefault((change.stamp.origin, change.stamp.seq), set()).add(
                change.stamp.hlc
            )

    def rename(self, change: Change, renamed: Change, *, is_told: bool = True) -> None:
        """Remember a write under the stamp that its host gives it after a renewal.

        is_told: whether anybody may have heard of it under the former one.
        """
        self.enter([renamed], self._known[change])
        if renamed.stamp != change.stamp:
            self._lifted[renamed.stamp] = change.stamp
        if not is_told:
            self._readings[change.stamp.origin, change.stamp.seq].discard(change.stamp.hlc)

    def lift(self, before: Stamp, lifted: Iterable[Change], known: frozenset[Change]) -> None:
        """Remember a change by the newer stamp that a host gives it. known: what it had merged.

        Where the change was lost before, its host knew of that, and need not say it again.
        """
        for change in lifted:
            self.enter([change], known)
            self._lifted[change.stamp] = before

    def is_one(self, change: Change) -> bool:
        """Say whether nobody has written another change under the same seq of the same origin."""
        return len(self._readings[change.stamp.origin, change.stamp.seq]) <= 1

    def has(self, change: Change) -> bool:
        """Say whether a change was ever written."""
        return change.value in self._values.get(_write(change), ())

    def unlogged(
        self, changes: Collection[Change], beaten: Collection[Change], losses: Collection[Loss]
    ) -> list[Change]:
        """Return the values that were lost in silence.

        A value is accounted for if it stands in a row that lives, if a greater write of its
        register or a death of its row knew of it, if the conflict log has it, or if a greater write
        of an equal value is accounted for. Of two changes under one seq nothing is asked: until a
        host knows of the fork, who was told of one counts as knowing the other.

        beaten: writes that nobody here has, because what has beaten them came in their place; a
        loss of theirs is not looked for. losses: what stood in any conflict log.
        """
        rows: dict[tuple[str, Key], tuple[list[Change], list[Change]]] = {}
        for there, some in enumerate((changes, beaten)):
            for change in some:
                rows.setdefault((change.table, change.key), ([], []))[there].append(change)
        return [one for here, gone in rows.values() for one in self._silent(here, gone, losses)]

    def _silent(
        self, writes: list[Change], beaten: list[Change], losses: Collection[Loss]
    ) -> list[Change]:
        accounted: set[Change] = set()
        silent: list[Change] = []
        existence = [write for write in writes if write.register == EXISTENCE]
        lives = not existence or max(existence, key=lambda c: c.stamp).value == ALIVE
        candidates = set(writes)
        for lost in sorted((*writes, *beaten), key=lambda c: c.stamp, reverse=True):
            if lost.register == EXISTENCE:
                continue
            beyond = _beyond(lost, writes)
            greater = (*beyond, *_beyond(lost, beaten))
            if (
                (lives and not beyond and lost in candidates)
                or self._is_logged(lost, losses)
                or not self.is_one(lost)
                or any(self._knew(won, lost) for won in greater)
                or any(won in accounted and won.value == lost.value for won in greater)
            ):
                accounted.add(lost)
            elif lost in candidates:
                silent.append(lost)
        return [lost for lost in silent if not self._lost_to_equal(lost, writes, accounted)]

    def _lost_to_equal(
        self, lost: Change, writes: Iterable[Change], accounted: Iterable[Change]
    ) -> bool:
        """Say whether a value lost to an equal one that has been written anew under a lesser stamp.

        Whoever repairs a clock does so, and what came of it is accounted for. It must have been the
        next to write there.
        """
        others = [won.stamp for won in _beyond(lost, writes) if won.value != lost.value]
        return any(
            (won.register, won.value) == (lost.register, lost.value)
            and any(
                former.stamp > lost.stamp and all(former.stamp < other for other in others)
                for former in self._formerly(won)
            )
            for won in accounted
        )

    def _is_logged(self, lost: Change, losses: Collection[Loss]) -> bool:
        return any(
            (*_parts(one.stamp), one.table, one.register) in losses for one in self._formerly(lost)
        )

    def _knew(self, won: Change, lost: Change) -> bool:
        """Say whether a write knew of another, under the stamps they have now or had before."""
        if won.stamp.origin == lost.stamp.origin:
            return True
        formerly = list(self._formerly(lost))
        return any(
            one in self._known.get(writing, ())
            for writing in self._formerly(won)
            for one in formerly
        )

    def _formerly(self, change: Change) -> Iterator[Change]:
        """Yield a change under the stamp that it has and those that it had before."""
        stamp: Stamp | None = change.stamp
        while stamp:
            yield dataclasses.replace(change, stamp=stamp)
            stamp = self._lifted.get(stamp)


def _beyond(lost: Change, writes: Iterable[Change]) -> list[Change]:
    """Return the greater writes of a register, and the deaths of its row."""
    return [
        won
        for won in writes
        if won.stamp > lost.stamp and (won.register == lost.register or won.value == DEAD)
    ]


def _parts(stamp: Stamp) -> tuple[int, bytes, int]:
    return stamp.hlc, stamp.origin, stamp.seq


def _write(change: Change) -> tuple[str, Key, str, Stamp]:
    return change.table, change.key, change.register, change.stamp
