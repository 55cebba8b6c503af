"""Watches what the engine does to its replicas, and follows it in what each host must know.

What a transaction changes counts once it has committed, and not before: a process that dies in it
has done nothing. The watching replaces functions of the engine by ones that call them; values come
from frames and from the world's own memory, never from what the engine has stored. Randomness and
connections are given out here too, so that a run is the same every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from engine.hosts import changes_in
from engine.model import ALIVE, DEAD, EXISTENCE, Change, Key, Stamp, Tables, surviving
from engine.simulation import stamps_of

from simulation import shapes
from simulation.invariants import hold
from simulation.ledger import Ledger
from simulation.machine import Machine, Watched, open_watched
from simulation.writing import returned
from syncd import (
    audit,
    bundle,
    changelog,
    children,
    compaction,
    future,
    merge,
    rebirth,
    restamp,
    snapshot,
    withdrawal,
)
from syncd.bundle import Frame, Header, Withdrawal
from syncd.config import Sync
from syncd.database import Connection, Database
from syncd.identity import Identity, sidecar_of
from syncd.replica import Replica
from syncd.table import ALIVE_BIT, DEAD_BIT, Table
from syncd.vector import Vector

DRIFT_MS = Sync.model_fields["max_clock_drift"].default
_IDENTITY = (
    "SELECT o.id, o.seq FROM syncd_replica AS r JOIN syncd_origin AS o ON o.ordinal = r.origin"
)


class Observer:
    """Watches machines for as long as it is open."""

    def __init__(self, machines: Sequence[Machine], ledger: Ledger) -> None:
        self._ledger = ledger
        self._patches = contextlib.ExitStack()
        self._by_path: dict[Path, Machine] = {machine.path: machine for machine in machines}
        self._by_path |= {sidecar_of(machine.path): machine for machine in machines}
        self._tokens = 0
        self._arriving: Frame | None = None
        self._is_bringing = False
        self._is_adopting = False
        self._told: dict[tuple[bytes, Vector], frozenset[Change]] = {}

    def __enter__(self) -> Observer:
        for place, name, watched in (
            (Database, "_open", open_watched(self._by_path)),
            (secrets, "token_bytes", self._token),
            (merge, "merge_frame", self._merge_frame(merge.merge_frame)),
            (merge, "merge_sections", self._merge_sections(merge.merge_sections)),
            (future, "_bring", self._bring(future._bring)),
            (withdrawal, "add", self._withdraw(withdrawal.add)),
            (restamp, "_restamp", self._restamp(restamp._restamp)),
            (compaction, "lift", self._lift(compaction.lift)),
            (compaction, "lift_held", self._lift_held(compaction.lift_held)),
            (merge, "merge_rows", self._merge_rows(merge.merge_rows)),
            (audit, "rewrite", self._rewrite(audit.rewrite)),
            (children, "_write_anew", self._rewrite(children._write_anew)),
            (changelog, "fold", self._fold(changelog.fold)),
            (Identity, "renew", self._renew(Identity.renew)),
            (rebirth, "take_along", self._take_along(rebirth.take_along)),
            (Replica, "changes_since", self._changes_since(Replica.changes_since)),
            (snapshot, "finish", self._finish(snapshot.finish)),
        ):
            self._patches.enter_context(mock.patch.object(place, name, watched))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def remember(self, machine: Machine, written: set[Change], seen: Tables | None = None) -> None:
        """Remember what was written on a host, and what its writer could know of.

        seen: what the tables showed before, if that is all that the writer could know.
        """
        knowledge = machine.knowledge
        # Who deletes a row means all of it, columns that its host does not know yet included.
        unseen = {change for change in knowledge.waiting if not knowledge.knows(change)}
        known = knowledge.merged | unseen
        if seen is not None:
            born = {
                (c.table, c.key) for c in written if (c.register, c.value) == (EXISTENCE, ALIVE)
            }
            blind = {one for one in born & _alive(known) if one[1] not in seen[one[0]]}
            known = {change for change in known if (change.table, change.key) not in blind}
        self._ledger.enter(written, frozenset(known))
        knowledge.merged |= written
        knowledge.merged -= returned(machine)

    def _merge_frame(self, merge_frame: Callable[..., Any]) -> Callable[..., Any]:
        def watched(
            connection: Connection, header: Header, frame: Frame, *staged: Any, **options: Any
        ) -> Any:
            self._arriving = frame
            counts = merge_frame(connection, header, frame, *staged, **options)
            _later(connection, lambda machine: machine.knowledge.forget_withdrawn())
            return counts

        return watched

    def _merge_rows(self, merge_rows: Callable[..., Any]) -> Callable[..., Any]:
        def watched(connection: Connection, frame: Frame, **options: Any) -> Any:
            self._arriving, self._is_adopting = frame, True
            try:
                return merge_rows(connection, frame, **options)
            finally:
                self._is_adopting = False

        return watched

    def _merge_sections(self, merge_sections: Callable[..., Any]) -> Callable[..., Any]:
        def watched(
            connection: Connection,
            sections: Any,
            header: Header | None,
            *staged: Any,
            now_ms: int,
            drift_ms: int,
        ) -> Any:
            frame, until_ms = self._arriving, now_ms + drift_ms
            if header is not None or self._is_adopting:
                had = Vector() if self._is_adopting else changelog.vector(connection)
                _later(connection, lambda machine: self._arrive(machine, frame, until_ms, had))
            elif self._is_bringing:
                _later(connection, lambda machine: machine.knowledge.bring_withdrawn())
            else:
                _later(connection, lambda machine: machine.knowledge.release(until_ms))
            return merge_sections(
                connection, sections, header, *staged, now_ms=now_ms, drift_ms=drift_ms
            )

        return watched

    def _bring(self, bring: Callable[..., Any]) -> Callable[..., Any]:
        def watched(connection: Connection, *args: Any, **options: Any) -> Any:
            self._is_bringing = True
            try:
                count = bring(connection, *args, **options)
            finally:
                self._is_bringing = False
            _later(connection, lambda machine: machine.knowledge.forget_withdrawn())
            return count

        return watched

    def _withdraw(self, add: Callable[..., Any]) -> Callable[..., Any]:
        def watched(connection: Connection, withdrawals: Sequence[Withdrawal]) -> Any:
            _later(connection, lambda machine: machine.knowledge.withdrawn.update(withdrawals))
            return add(connection, withdrawals)

        return watched

    def _restamp(self, rewrite: Callable[..., Any]) -> Callable[..., Any]:
        def watched(connection: Connection, target: str, chosen: str) -> Any:
            before = connection.rows(
                f"SELECT DISTINCT e.hlc, i.id, e.seq FROM {target} AS e JOIN syncd_origin AS i"
                f" ON i.ordinal = e.origin WHERE {chosen} ORDER BY 1, 2, 3"
            )
            ((origin, _),) = connection.rows(_IDENTITY)
            seq = connection.value("SELECT max(seq) FROM syncd_journal")
            hlc = restamp.clock(connection)
            anew = {
                Stamp(*stamp): Stamp(hlc + n, origin, seq + n) for n, stamp in enumerate(before, 1)
            }
            is_held = target == "syncd_held"
            _later(connection, lambda machine: self._write_anew(machine, anew, is_held=is_held))
            return rewrite(connection, target, chosen)

        return watched

    def _lift(self, lift: Callable[..., int]) -> Callable[..., int]:
        def watched(connection: Connection, table: Table, where: str, hlc: int) -> int:
            ((origin, _),) = connection.rows(_IDENTITY)
            last = connection.value("SELECT max(seq) FROM syncd_journal")
            chosen = connection.rows(
                f"SELECT e.hlc, i.id, e.seq, e.mask FROM {table.changes} AS e"
                " JOIN syncd_origin AS i ON i.ordinal = e.origin"
                f" WHERE e.hlc <= {hlc} AND NOT e.mask & {DEAD_BIT}"
                f" AND ({where}) ORDER BY e.position"
            )
            count = lift(connection, table, where, hlc)
            masks = dict(
                connection.rows(
                    f"SELECT seq, mask FROM {table.changes} WHERE seq > ?"
                    " AND origin = (SELECT origin FROM syncd_replica)",
                    (last,),
                )
            )
            for seq, (*before, mask) in enumerate(chosen, last + 1):
                stamps = Stamp(*before), Stamp(hlc + 1, origin, seq)
                owned, unwritten = (_registers(table, m) for m in (mask, masks[seq] & ~mask))
                _later(connection, functools.partial(self._lifted, *stamps, owned, unwritten))
            return count

        return watched

    def _lift_held(self, lift_held: Callable[..., None]) -> Callable[..., None]:
        def watched(connection: Connection, where: str, hlc: int) -> None:
            ((origin, _),) = connection.rows(_IDENTITY)
            last = connection.value("SELECT max(seq) FROM syncd_journal")
            chosen = connection.rows(
                "SELECT DISTINCT e.hlc, i.id, e.seq FROM syncd_held AS e JOIN syncd_origin AS i"
                f" ON i.ordinal = e.origin WHERE e.hlc <= {hlc} AND e.existence <> {bundle.DEAD}"
                f" AND ({where}) ORDER BY e.origin, e.seq"
            )
            lift_held(connection, where, hlc)
            for seq, before in enumerate(chosen, last + 1):
                stamps = Stamp(*before), Stamp(hlc + 1, origin, seq)
                _later(connection, functools.partial(self._lifted_waiting, *stamps))

        return watched

    def _rewrite(self, rewrite: Callable[..., None]) -> Callable[..., None]:
        def watched(connection: Connection, table: Table, *args: Any, **options: Any) -> None:
            ((origin, _),) = connection.rows(_IDENTITY)
            last = connection.value("SELECT max(seq) FROM syncd_journal")
            rewrite(connection, table, *args, **options)
            masks = dict(
                connection.rows("SELECT seq, mask FROM syncd_journal WHERE seq > ?", (last,))
            )
            cells = 1 if table.is_generated else len(table.key)
            stamps = stamps_of(connection.raw, table.name, cells, last, origin)
            for row, stamp in stamps.items():
                mask = masks[stamp.seq]
                registers = [column.name for column in table.columns if column.bit & mask]
                registers += [EXISTENCE] if mask & ~table.columns_mask else []
                wrote = functools.partial(self._rewritten, table.name, row, stamp, registers)
                _later(connection, wrote)

        return watched

    def _fold(self, fold: Callable[..., int]) -> Callable[..., int]:
        def watched(connection: Connection, *args: Any, **options: Any) -> int:
            ((origin, before),) = connection.rows(_IDENTITY)
            remaining = fold(connection, *args, **options)
            ((_, after),) = connection.rows(_IDENTITY)
            _later(connection, lambda m: self._translate(m, origin, range(before + 1, after + 1)))
            return remaining

        return watched

    def _renew(self, renew: Callable[..., Any]) -> Callable[..., Any]:
        def watched(one: Identity, connection: Connection, reason: str, now_ms: int) -> None:
            ((old, folded),) = connection.rows(_IDENTITY)
            renew(one, connection, reason, now_ms)
            ((new, _),) = connection.rows(_IDENTITY)
            rename = functools.partial(self._rename, old=old, folded=folded, new=new)
            _later(connection, functools.partial(rename, is_told=False))

        return watched

    def _take_along(self, take_along: Callable[..., None]) -> Callable[..., None]:
        def watched(connection: Connection, former: int, sent: int) -> None:
            old = connection.value("SELECT id FROM syncd_origin WHERE ordinal = ?", (former,))
            ((new, _),) = connection.rows(_IDENTITY)
            take_along(connection, former, sent)
            rename = functools.partial(self._rename, old=old, folded=sent, new=new)
            _later(connection, functools.partial(rename, is_told=True))

        return watched

    def _changes_since(self, changes_since: Callable[..., Any]) -> Callable[..., Any]:
        def watched(replica: Replica, *args: Any, **options: Any) -> tuple[Header, Frame]:
            header, frame = changes_since(replica, *args, **options)
            if frame.snapshot is not None and frame.claim is not None:
                machine = self._by_path[replica.config.database]
                self._told[header.origin, Vector(frame.claim)] = frozenset(machine.knowledge.merged)
            return header, frame

        return watched

    def _finish(self, finish: Callable[..., int]) -> Callable[..., int]:
        def watched(connection: Connection, sender: int, frame: Frame, *, now_ms: int) -> int:
            origin = connection.value("SELECT id FROM syncd_origin WHERE ordinal = ?", (sender,))
            claim = Vector(frame.claim or {})
            told, until_ms = self._told[origin, claim], now_ms + DRIFT_MS
            _later(connection, lambda machine: machine.knowledge.catch_up(told, claim, until_ms))
            return finish(connection, sender, frame, now_ms=now_ms)

        return watched

    def _token(self, size: int) -> bytes:
        self._tokens += 1
        return hashlib.sha256(b"token %d" % self._tokens).digest()[:size]

    def _arrive(self, machine: Machine, frame: Frame | None, until_ms: int, had: Vector) -> None:
        """Take over what a frame brought to a host."""
        assert frame is not None
        changes = changes_in(frame)
        for change in changes:
            hold(self._ledger.has(change), "invented", f"{change} was never written")
        # Of two histories of an origin a host passes over the one that it does not know of.
        news = [
            change
            for change in changes
            if change.stamp.seq > had[change.stamp.origin] or self._ledger.is_one(change)
        ]
        machine.knowledge.take_in(news, until_ms, had)

    def _write_anew(self, machine: Machine, anew: dict[Stamp, Stamp], *, is_held: bool) -> None:
        known = frozenset(machine.knowledge.merged)
        before = {after: stamp for stamp, after in anew.items()}
        for change in machine.knowledge.write_anew(anew, is_held=is_held):
            self._ledger.lift(before[change.stamp], [change], known)

    def _lifted(
        self,
        before: Stamp,
        after: Stamp,
        owned: Sequence[str],
        unwritten: Sequence[str],
        machine: Machine,
    ) -> None:
        known = frozenset(machine.knowledge.merged)
        lifted = machine.knowledge.lift(before, after, owned, unwritten)
        self._ledger.lift(before, lifted, known)

    def _translate(self, machine: Machine, origin: bytes, seqs: range) -> None:
        """Follow what the numbers that were written mean, which is told by when they are folded."""
        shown, merged = machine.shown(), machine.knowledge.merged
        written = [
            change
            for change in merged
            if change.register in shapes.REFERENCES
            and change.stamp.origin == origin
            and change.stamp.seq in seqs
        ]
        owning = surviving(merged) if written else set()
        for change in written:
            row = shown[change.table].get(change.key)
            if row is None or change not in owning:
                continue
            columns = machine.tables[change.table].columns_of(machine.knowledge.version)
            meant = dataclasses.replace(change, value=row[columns.index(change.register)])
            if meant != change:
                self._ledger.rename(change, meant)
                merged.remove(change)
                merged.add(meant)

    def _lifted_waiting(self, before: Stamp, after: Stamp, machine: Machine) -> None:
        known = frozenset(machine.knowledge.merged)
        self._ledger.lift(before, machine.knowledge.lift_waiting(before, after), known)

    def _rewritten(
        self, table: str, row: Key, stamp: Stamp, registers: Sequence[str], machine: Machine
    ) -> None:
        """Follow what was written anew as it stands here, or as not standing here."""
        shape = machine.tables[table]
        key = machine.identities(table)[row] if shape.generated else row
        stands = machine.shown()[table].get(key)
        values = {EXISTENCE: DEAD if stands is None else ALIVE}
        if stands is not None:
            columns = shape.columns_of(machine.knowledge.version)
            values |= dict(zip(columns, stands, strict=True))
        written = {Change(stamp, table, key, name, values[name]) for name in registers}
        self.remember(machine, written)

    def _rename(
        self, machine: Machine, *, old: bytes, folded: int, new: bytes, is_told: bool
    ) -> None:
        """Follow a renewal: writes that were not folded yet are born under the new origin."""
        for changes in (machine.knowledge.merged, machine.knowledge.waiting):
            for change in list(changes):
                if change.stamp.origin == old and change.stamp.seq > folded:
                    stamp = dataclasses.replace(change.stamp, origin=new)
                    renamed = dataclasses.replace(change, stamp=stamp)
                    self._ledger.rename(change, renamed, is_told=is_told)
                    changes.remove(change)
                    changes.add(renamed)


def _registers(table: Table, mask: int) -> list[str]:
    """Return the registers of a mask without deaths."""
    columns = [column.name for column in table.columns if column.bit & mask]
    return columns + [EXISTENCE] * bool(mask & ALIVE_BIT)


def _later(connection: Connection, remember: Callable[[Machine], object]) -> None:
    """Do something about a connection's machine once its transaction has committed."""
    if isinstance(connection.raw, Watched):  # anything else is a copy for a dry run
        process = connection.raw.process
        assert process is not None
        process.pending.append(lambda: remember(process.machine))


def _alive(changes: Iterable[Change]) -> set[tuple[str, Key]]:
    """Return the rows, by table and key, whose newest birth or death is a birth."""
    newest: dict[tuple[str, Key], Change] = {}
    for change in changes:
        row = change.table, change.key
        if change.register == EXISTENCE and (row not in newest or newest[row].stamp < change.stamp):
            newest[row] = change
    return {row for row, change in newest.items() if change.value == ALIVE}
