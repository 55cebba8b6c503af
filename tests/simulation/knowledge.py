"""What a host must have by now: the changes it merged, those it holds, those it was told to forget.

The world brings this up to date from what was written and from the frames whose transactions have
committed; no replica is asked. From it alone the model says what a host must show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine import model
from engine.model import EXISTENCE, Change, Key

from simulation import shapes
from simulation.shapes import Shapes
from syncd.bundle import Withdrawal
from syncd.clock import hlc_of_ms
from syncd.vector import Vector


@dataclass(frozen=True)
class Local:
    """What a row has in the columns that stay on its host. died: its last death by then."""

    values: model.Row
    died: model.Stamp | None


@dataclass
class Knowledge:
    """What one host must have.

    version: of its schema. merged: changes that count for what it shows. waiting: those that it
    holds, for their stamp or for a table or column that it does not know. withdrawn: what it has
    been told to forget. local: what rows have in the columns that stay on this host.
    """

    tables: Shapes
    version: int
    merged: set[Change] = field(default_factory=set)
    waiting: set[Change] = field(default_factory=set)
    withdrawn: set[Withdrawal] = field(default_factory=set)
    local: dict[tuple[str, Key], Local] = field(default_factory=dict)

    def copy(self) -> Knowledge:
        """Return the same at this moment."""
        return Knowledge(
            self.tables,
            self.version,
            set(self.merged),
            set(self.waiting),
            set(self.withdrawn),
            dict(self.local),
        )

    def take_in(self, changes: Iterable[Change], until_ms: int, had: Vector) -> None:
        """Merge changes that arrive, or hold those that cannot show yet.

        had: what the host said that it has merged. By that it turns down what a change that it
        holds has superseded elsewhere: a known limit (docs/architecture.md).
        """
        for change in filter(self.counts, changes):
            is_known = change.stamp.seq <= had[change.stamp.origin]
            if is_known and _is_superseded(change, self.waiting):
                continue
            if self._is_due(change, until_ms):
                self.merged.add(change)
            elif change not in self.merged:
                self.waiting.add(change)

    def catch_up(self, told: Iterable[Change], claim: Vector, until_ms: int) -> None:
        """Take over what a snapshot's sender had merged, also of what it had forgotten.

        claim: what it claims to be complete for. Deaths count that a held birth has superseded,
        because what they took did not come.
        """
        claimed = {c for c in told if c.stamp.seq <= claim[c.stamp.origin]}
        deaths = {change for change in claimed if change.value == model.DEAD}
        self.take_in(deaths, until_ms, Vector())
        self.take_in(claimed - deaths, until_ms, claim)
        # What its sender had superseded by a change that is held here has not come, and goes; but a
        # change of which another register has come stays as it is.
        ahead = self.waiting & claimed
        came = {change.stamp for change in model.surviving(told)}
        gone = {
            change
            for change in self.merged - deaths
            if change.stamp.seq <= claim[change.stamp.origin]
            and change.stamp not in came
            and _is_superseded(change, ahead)
        }
        # What it had superseded itself does not come back.
        last = {(c.table, c.key, c.register): c.stamp for c in gone & model.surviving(self.merged)}
        self.merged -= gone | {
            change
            for change in self.merged - deaths
            if (stamp := last.get((change.table, change.key, change.register)))
            and change.stamp < stamp
        }

    def release(self, until_ms: int) -> None:
        """Merge what was held and can show by now."""
        self._move({change for change in self.waiting if self._is_due(change, until_ms)})

    def bring_withdrawn(self) -> None:
        """Merge what was held and is withdrawn, so that it can be written anew."""
        self._move({c for c in self.waiting if not self.counts(c) and self.knows(c)})

    def write_anew(self, anew: dict[model.Stamp, model.Stamp], *, is_held: bool) -> set[Change]:
        """Give what owns a register, or what waits, another stamp; return what became of it.

        The original stays until it is forgotten. What is held of a change is a change of its own.
        """
        kept = self.waiting if is_held else self.merged
        again = {
            Change(anew[c.stamp], c.table, c.key, c.register, c.value)
            for c in (kept if is_held else model.surviving(kept))
            if c.stamp in anew
        }
        kept |= again
        return again

    def lift(
        self,
        before: model.Stamp,
        after: model.Stamp,
        owned: Iterable[str],
        unwritten: Iterable[str],
    ) -> set[Change]:
        """Give a change another stamp; return what became of it.

        owned: the registers that it still has. unwritten: those that it gives their DEFAULT.
        """
        change = {one.register: one for one in self.merged if one.stamp == before}
        table, key = next((one.table, one.key) for one in change.values())
        presets = self.tables[table].presets
        values = {name: change[name].value for name in owned}
        values |= {name: presets.get(name, model.NULL) for name in unwritten}
        lifted = {Change(after, table, key, name, value) for name, value in values.items()}
        self.merged |= lifted
        return lifted

    def lift_waiting(self, before: model.Stamp, after: model.Stamp) -> set[Change]:
        """Give a change that waits another stamp; return what became of it."""
        lifted = {change for change in self.waiting if change.stamp == before}
        again = {dataclasses.replace(change, stamp=after) for change in lifted}
        self.waiting = self.waiting - lifted | again
        return again

    def forget_withdrawn(self) -> None:
        """Take out what does not count any more."""
        if self.withdrawn:
            self.merged = set(filter(self.counts, self.merged))
            self.waiting = set(filter(self.counts, self.waiting))

    def knows(self, change: Change) -> bool:
        """Say whether a host has the table and the column of a change."""
        shape = shapes.of_version(self.tables, self.version).get(change.table)
        known = (EXISTENCE, *shape.columns_of(self.version)) if shape else ()
        return change.register in known

    def settled(self) -> model.Settled:
        """Return what the model makes of what is merged."""
        return shapes.settled(self.tables, self.version, self.merged)

    def note_local(self, shown: model.Tables) -> None:
        """Remember what rows have in the columns that stay here, as their host has written it."""
        died = self._deaths()
        for table, rows in shown.items():
            for key, values in rows.items():
                self.local[table, key] = Local(values, died.get((table, key)))

    def strays(self, shown: model.Tables) -> list[tuple[str, Key, model.Row]]:
        """Return the rows that have lost what their host wrote in columns that stay on it.

        A row that has come from elsewhere has their DEFAULTs; one that has died and lives again may
        have them, too.
        """
        died = self._deaths()
        found = []
        for table, rows in shown.items():
            presets = tuple(self.tables[table].local.values())
            for key, values in rows.items():
                known = self.local.get((table, key))
                allowed = {known.values} if known else {presets}
                if known and died.get((table, key)) != known.died:
                    allowed.add(presets)
                if values not in allowed:
                    found.append((table, key, values))
        return found

    def _deaths(self) -> dict[tuple[str, Key], model.Stamp]:
        """Return the last death of every row."""
        last: dict[tuple[str, Key], model.Stamp] = {}
        for change in self.merged:
            if change.value == model.DEAD:
                row = change.table, change.key
                last[row] = max(last.get(row, change.stamp), change.stamp)
        return last

    def _move(self, due: set[Change]) -> None:
        self.waiting -= due
        self.merged |= due

    def _is_due(self, change: Change, until_ms: int) -> bool:
        return change.stamp.hlc <= hlc_of_ms(until_ms) and self.knows(change)

    def counts(self, change: Change) -> bool:
        """Say whether a change has not been withdrawn, as far as this host has been told."""
        return not any(
            one.origin == change.stamp.origin
            and one.first <= change.stamp.seq <= one.last
            and change.stamp.hlc > one.above
            for one in self.withdrawn
        )


def _is_superseded(change: Change, held: Iterable[Change]) -> bool:
    """Say whether a change that is held writes over another."""
    return any(
        (one.table, one.key) == (change.table, change.key)
        and (one.register == change.register or one.value == model.DEAD)
        and one.stamp > change.stamp
        for one in held
    )
