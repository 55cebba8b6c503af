"""A simulated world: takes the steps of a plan, and checks what must hold after each of them.

The world owns all time. It lets writers write, rounds pass and hosts die as the plan says, then
heals everything and lets the hosts come to rest.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from engine.hosts import START_MS, changes_in, small_frames
from engine.model import Change, Tables, surviving

from simulation import images, invariants, shapes, steps
from simulation.invariants import hold
from simulation.ledger import Ledger, Loss
from simulation.machine import Copy, Killed, Machine
from simulation.network import Client, Gone, Network
from simulation.observer import Observer
from simulation.plan import HOUR_MS, RETENTION_MS, Plan
from simulation.steps import Step
from simulation.writing import attempt, written
from syncd import audit, changelog, codec, endpoint, exchange, verify
from syncd.clock import hlc_of_ms, ms_of_hlc
from syncd.codec import Reader
from syncd.conflicts import Conflict
from syncd.errors import (
    BundleError,
    BundleGap,
    ConstraintError,
    NotReleasable,
    NotRepairable,
    NotRestorable,
)
from syncd.held import DISPLACED
from syncd.vector import Vector


class World:
    """Machines, the network between them, and what each must have by now."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self.network = Network()
        self._ledger = Ledger()
        self.story: list[str] = []
        self._now_ms = START_MS
        self._came = 0
        self._skews_ms = list(plan.skews_ms)
        self._ahead_ms = 0
        self._losses: set[Loss] = set()
        self._gone: set[Change] = set()
        self._copies: list[Copy] = []
        self._to_come: Iterator[Step] = iter(())
        hosts = range(len(plan.versions))
        self.machines = [
            Machine(
                folder,
                n,
                [other for other in hosts if other != n],
                plan.tables,
                plan.versions[n],
                enforced=plan.enforced,
                imaged=plan.imaged,
            )
            for n in hosts
        ]
        self._observer = Observer(self.machines, self._ledger)
        self._set_clocks()

    def __enter__(self) -> World:
        self._observer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.__exit__()
        for machine in self.machines:
            machine.stop()

    def run(self) -> None:
        """Take all steps, let the hosts come to rest, and look at what they have."""
        existing = [step for step in self.plan.steps if isinstance(step, steps.Existing)]
        for found in existing:
            for statement in found.statements:
                attempt(self._machine(found.host).writer, statement)
        for machine in self.machines:
            images.renew(machine.writer)
            self._enrol(machine)
        besides = (steps.Existing, steps.Absence)
        self._to_come = (step for step in self.plan.steps if not isinstance(step, besides))
        for step in self._to_come:
            self._take(step)
        self._come_to_rest()
        self._note_losses()
        for machine in self.machines:
            self.story.append(f"{machine.replica.vector()} {sorted(machine.losses())}")
        young_ms = RETENTION_MS - self._ahead_ms
        old = hlc_of_ms(self._now_ms - young_ms) if self._has(steps.Compact) else 0
        invariants.check_at_rest(self.machines, self.plan.roads, old)
        self._check_losses(self.machines)
        for absence in self.plan.steps:
            if isinstance(absence, steps.Absence):
                self._absence(absence)
        if self._has(steps.Compact):
            self._grow_old(self.machines)
            self._forget_all(self.machines)

    # Steps

    def _take(self, step: Step) -> None:
        taken = getattr(self, f"_{type(step).__name__.lower()}")
        outcome = "died"
        try:
            outcome = taken(step) or "done"
        except Killed as killed:
            self._restart(killed)
        except Gone:
            outcome = "gone"
        self.story.append(f"{step} -> {outcome}")

    def _take_next(self, count: int) -> None:
        for _, step in zip(range(count), self._to_come, strict=False):
            self._take(step)

    def _write(self, step: steps.Write) -> None:
        self._now_ms += step.ms
        self._set_clocks()
        machine = self._machine(step.host)
        machine.writer.execute("BEGIN IMMEDIATE")
        changes: set[Change] = set()
        seen = machine.shown()
        for statement in step.statements:
            act = functools.partial(attempt, machine.writer, statement)
            changes |= written(machine, act, statement)
        images.renew(machine.writer)
        machine.writer.execute("COMMIT" if step.commit else "ROLLBACK")
        if step.commit:
            self._remember(machine, changes, seen)
            machine.knowledge.note_local(machine.local())
        self._check(machine)

    def _round(self, step: steps.Round) -> str:
        return self._exchange(*self._road(step.road), step)

    def _exchange(self, receiver: Machine, sender: Machine, step: steps.Round) -> str:
        client = self._client(receiver, sender, step)
        with small_frames(step.frame_entries):
            outcome = exchange.run_round(receiver.replica, client)
        hold(outcome.ok or client.is_excused, "round", outcome)
        self._came += outcome.applied + outcome.older + outcome.held
        self._check(receiver)
        self._check(sender)
        return outcome.code or "ok"

    def _client(self, receiver: Machine, sender: Machine, step: steps.Round) -> Client:
        return Client(
            self.network,
            receiver,
            sender,
            step,
            meanwhile=self._take_next,
            on_death=self._restart,
        )

    def _deliver(self, step: steps.Deliver) -> str | None:
        if not self.network.mail:
            return None
        machine = self._machine(step.host)
        message = self.network.mail[step.message % len(self.network.mail)]
        try:
            _read(machine, message[: len(message) * step.share // 1000])
        except BundleError as error:
            self._check(machine)
            return error.code
        self._check(machine)
        return None

    def _carry(self, step: steps.Carry) -> None:
        receiver, sender = self._road(step.road)
        since = Vector() if step.everything else receiver.replica.vector()
        file = io.BytesIO()
        with small_frames(step.frame_entries):
            codec.write(file, *sender.replica.frames_since(since))
        content = file.getvalue()
        self.network.mail.append(content)
        self._check(sender)
        with contextlib.suppress(BundleError):
            _read(receiver, content[: len(content) * step.share // 1000])
        self._check(receiver)

    def _partition(self, step: steps.Partition) -> None:
        self.network.sides = step.sides

    def _setclock(self, step: steps.SetClock) -> None:
        self._skews_ms[step.host % len(self.machines)] = step.skew_ms
        self._set_clocks()

    def _pass(self, step: steps.Pass) -> None:
        self._now_ms += step.ms
        self._set_clocks()

    def _fold(self, step: steps.Fold) -> None:
        machine = self._machine(step.host)
        fold = changelog.fold
        with mock.patch.object(
            changelog, "fold", lambda c, **options: fold(c, step.entries, **options)
        ):
            machine.replica.fold()
        self._check(machine)

    def _release(self, step: steps.Release) -> None:
        machine = self._machine(step.host)
        machine.replica.release()
        self._check(machine)

    def _revive(self, step: steps.Revive) -> str | None:
        machine = self._machine(step.host)
        machine.replica.fold()
        self._check(machine)
        listed = machine.replica.conflicts()
        if not listed:
            return None
        lost = listed[step.conflict % len(listed)]
        if lost.reason == DISPLACED:
            return self._showdisplaced(machine, lost)
        error: NotRestorable | ConstraintError | Killed | None = None

        def revive() -> None:
            nonlocal error
            try:
                machine.replica.restore(lost.id)
            except (NotRestorable, ConstraintError, Killed) as refused:
                error = refused

        self._remember(machine, written(machine, revive))
        if isinstance(error, Killed):
            raise error
        self._check(machine)
        return None if error is None else error.code

    def _showdisplaced(self, machine: Machine, lost: Conflict) -> str | None:
        """Write a row anew; the observer follows what becomes of it."""
        try:
            machine.replica.restore(lost.id)
        except NotRestorable as refused:
            return refused.code
        self._check(machine)
        return None

    def _look(self, step: steps.Look) -> str:
        machine = self._machine(step.host)
        status = machine.replica.status()
        shown = {name: len(rows) for name, rows in machine.shown().items()}
        hold(status.tables == shown, "status", f"{status.tables} is not {shown}")
        machine.replica.conflicts()
        machine.replica.held()
        return str(status.vector)

    def _releaseheld(self, step: steps.ReleaseHeld) -> str:
        machine = self._machine(step.host)
        ids = [one.id for one in machine.replica.held() if one.id is not None]
        if step.change is None or not ids:
            count = machine.replica.release_host(None)
        else:
            try:
                count = machine.replica.release_held([ids[step.change % len(ids)]])
            except NotReleasable as error:
                return error.code
        self._check(machine)
        return str(count)

    def _repairclock(self, step: steps.RepairClock) -> str:
        machine = self._machine(step.host)
        try:
            count = machine.replica.repair_clock()
        except NotRepairable as error:
            return error.code
        self._check(machine)
        return str(count)

    def _rehearse(self, step: steps.Rehearse) -> str | None:
        if not self.network.mail:
            return None
        machine = self._machine(step.host)
        before = machine.contents()
        outcome = None
        with machine.replica.rehearsal() as twin:
            try:
                endpoint._Server(twin).push(
                    self.network.mail[step.message % len(self.network.mail)]
                )
            except BundleGap as error:
                outcome = error.code
        hold(before == machine.contents(), "rehearsal", f"{machine.node} is not what it was")
        return outcome

    def _verify(self, step: steps.Verify) -> str:
        here, there = self._road(step.road)
        state = self._compare(here, there, repair=step.repair)
        if state != verify.EQUAL or step.unseen is None or not there.has(step.unseen.table):
            return state
        with here.process.spared(), there.process.spared():
            with here.without_triggers():
                attempt(here.writer, step.unseen)
            state = self._compare(here, there, repair=True)
        is_held = bool(here.knowledge.waiting or there.knowledge.waiting)
        hold(state == verify.EQUAL or is_held, "repair", state)
        return f"mended, {state}"

    def _compare(self, here: Machine, there: Machine, *, repair: bool) -> str:
        client = self._client(here, there, steps.Round(0, push=True))
        with mock.patch.object(exchange, "client_of", return_value=client):
            verdict = verify.verify(here.replica, client.peer, repair=repair)
        if verdict.state == verify.FAILED:
            hold(client.is_excused, "round", verdict)
        elif verdict.state != verify.NOT_IN_STEP:
            invariants.check_verdict(verdict, here, there)
        self._check(here)
        self._check(there)
        return verdict.state

    def _damage(self, step: steps.Damage) -> None:
        machine = self._machine(step.host)
        machine.replica.fold()
        self._check(machine)

        def damage_and_mend() -> None:
            with machine.without_triggers():
                attempt(machine.writer, step.statement)
            with machine.replica.writing() as connection:
                audit.mend(connection, now_ms=machine.replica.wall_ms())

        # What was missed must be mended before anything else is looked at.
        with machine.process.spared():
            self._remember(machine, written(machine, damage_and_mend))
        machine.knowledge.note_local(machine.local())
        self._check(machine)

    def _upgrade(self, step: steps.Upgrade) -> None:
        machine = self._machine(step.host)
        if machine.knowledge.version == shapes.VERSIONS[-1]:
            return
        machine.writer.executescript(shapes.migration(machine.tables))
        machine.knowledge.version = shapes.VERSIONS[-1]
        machine.restart()
        try:
            machine.replica.enrol()
        except Killed as killed:
            self._restart(killed)
            machine.replica.enrol()
        self._check(machine)

    def _backup(self, step: steps.Backup) -> None:
        self._copies.append(self._machine(step.host).copy())

    def _restore(self, step: steps.Restore) -> None:
        machine = self._machine(step.host)
        copies, how = self._copies, step.how
        if self.plan.volumes:
            copies, how = [copy for copy in copies if copy.host == machine.number], "volume"
            self._now_ms += 1  # what is written next has another reading than what is lost
        if not copies or machine.is_set_back:
            return  # a third history is a known limit
        machine.is_set_back = self.plan.volumes
        self._note_end_of(machine)
        machine.put_back(copies[step.backup % len(copies)], how)
        self._check(machine)

    def _wipe(self, step: steps.Wipe) -> None:
        machine = self._machine(step.host)
        if machine.is_set_back:
            return  # nobody hears of its fork any more: a known limit
        self._note_end_of(machine)
        machine.lose_disk()
        machine.begin_empty()
        self._enrol(machine)

    def _rename(self, step: steps.Rename) -> None:
        machine = self._machine(step.host)
        if not machine.is_set_back:  # as above
            machine.rename()

    def _forget(self, step: steps.Forget) -> None:
        machine, other = self._machine(step.host), self._machine(step.other)
        if machine is not other:
            machine.replica.peers.forget(other.node)
        self._check(machine)

    def _compact(self, step: steps.Compact) -> str:
        machine = self._machine(step.host)
        self._losses |= machine.losses()
        forgotten = machine.replica.compact()
        self._check(machine)
        return str(forgotten.deaths)

    def _crash(self, step: steps.Crash) -> None:
        self._machine(step.host).process.condemn(step)

    # At rest

    def _come_to_rest(self) -> None:
        """Heal everything, and let rounds pass until nothing comes any more."""
        self.network.sides = 0
        for machine in self.machines:
            machine.process.doom = None
            machine.replica.fold()
            self._upgrade(steps.Upgrade(machine.number))
        stamps = [c.stamp.hlc for m in self.machines for c in m.knowledge.waiting]
        clocks = [hlc for m in self.machines for (hlc,) in m.rows("SELECT hlc FROM syncd_replica")]
        self._now_ms = max(self._now_ms, ms_of_hlc(max(stamps + clocks))) + 1
        self._skews_ms = [0 for _ in self.machines]
        self._set_clocks()
        self._meet(
            [
                (self.machines[receiver], self.machines[sender])
                for receiver, sender in self.plan.roads
            ]
        )
        for machine in self.machines:
            self._release(steps.Release(machine.number))

    def _absence(self, step: steps.Absence) -> None:
        """Keep a host away while all write and the others grow old, then let it come back."""
        away = self._machine(step.host)
        others = [machine for machine in self.machines if machine is not away]
        for write in step.writes:
            self._write(write)
        self._grow_old(others)
        if step.is_heard:
            self._ask_in_vain(away, others)
            self._forget_all(others, away)
            for machine in others:
                self._forget(steps.Forget(machine.number, away.number))
        self._forget_all(others)
        self._meet(list(itertools.permutations([*others, away], 2)))
        # What nobody could say that all have is younger now.
        self._forget_all(self.machines)
        self.story.append(f"{step} -> done")

    def _grow_old(self, machines: Sequence[Machine]) -> None:
        """Let the retention pass, before and after which hosts hear all of each other."""
        self._meet(list(itertools.permutations(machines, 2)))
        self._now_ms += RETENTION_MS + HOUR_MS
        self._set_clocks()
        self._meet(list(itertools.permutations(machines, 2)))

    def _forget_all(self, machines: Sequence[Machine], absent: Machine | None = None) -> None:
        """Let hosts forget all that they may. absent: one that they still count on."""
        for machine in machines:
            machine.replica.fold()  # it logs what an insert overwrites of a hidden row
        self._note_losses()
        for machine in machines:
            machine.replica.compact()
        everything: set[Change] = set().union(*(m.knowledge.merged for m in machines))
        lacked = everything - absent.knowledge.merged if absent else set()
        invariants.check_aged(machines, everything, lacked)
        self._check_losses(machines)

    def _check_losses(self, machines: Sequence[Machine]) -> None:
        absent = [machine for machine in self.machines if machine not in machines]
        gone = self._gone.union(*(machine.knowledge.merged for machine in absent))
        invariants.check_losses(machines, gone, self._ledger, self._losses)

    def _ask_in_vain(self, away: Machine, others: Sequence[Machine]) -> None:
        """Let a host say what it has, and hear nothing."""
        for machine in others:
            lost = steps.Round(0, fault=steps.Fault("answer", 0))
            self._exchange(away, machine, lost)

    def _meet(self, roads: Sequence[tuple[Machine, Machine]]) -> None:
        """Let rounds pass until nothing comes any more."""
        machines = {machine.number: machine for road in roads for machine in road}.values()
        for _ in range(len(machines) + 2):
            self._came = 0
            for receiver, sender in roads:
                self._exchange(receiver, sender, steps.Round(0))
            if not self._came and len({machine.replica.vector() for machine in machines}) == 1:
                break

    # Parts

    def _note_end_of(self, machine: Machine) -> None:
        """Remember what a host has before it loses its files.

        What it holds may have lost already, which it logs when it knows the column.
        """
        self._losses |= machine.losses() | machine.held()
        self._gone |= machine.knowledge.merged

    def _note_losses(self) -> None:
        """Remember what the conflict logs have, before they forget it."""
        for machine in self.machines:
            self._losses |= machine.losses()

    def _remember(self, machine: Machine, changes: set[Change], seen: Tables | None = None) -> None:
        before = max((c.stamp.hlc for c in surviving(machine.knowledge.merged)), default=-1)
        hold(all(change.stamp.hlc > before for change in changes), "clock", changes)
        self._observer.remember(machine, changes, seen)

    def _check(self, machine: Machine) -> None:
        self.story.append(repr((machine.number, sorted(machine.shown().items(), key=str))))
        invariants.check(machine)

    def _has(self, kind: type[Step]) -> bool:
        return any(isinstance(step, kind) for step in self.plan.steps)

    def _machine(self, number: int) -> Machine:
        return self.machines[number % len(self.machines)]

    def _road(self, number: int) -> tuple[Machine, Machine]:
        receiver, sender = self.plan.roads[number % len(self.plan.roads)]
        return self.machines[receiver], self.machines[sender]

    def _set_clocks(self) -> None:
        self._ahead_ms = max(self._ahead_ms, *self._skews_ms)
        for machine, skew_ms in zip(self.machines, self._skews_ms, strict=True):
            machine.clock.ms = max(0, self._now_ms + skew_ms)

    def _enrol(self, machine: Machine) -> None:
        """Enrol an empty or a filled file; rows that it has are as old as they say."""
        version = machine.knowledge.version
        tables = shapes.of_version(machine.tables, version)
        rows = {name: machine.rows(f"SELECT count(*) FROM {name}") for name in tables}
        local = machine.local()
        machine.replica.enrol()
        _, frames = machine.replica.frames_since(Vector())
        enrolled = set().union(*map(changes_in, frames))
        alive = shapes.alive(machine.tables, version, enrolled)
        for change in enrolled:
            row = alive[change.table][change.key]
            ms = shapes.stamped(machine.tables[change.table], row, machine.clock.ms)
            hold(change.stamp.hlc == hlc_of_ms(ms), "enrolled", f"{machine.node} {change}")
        hold({n: [(len(found),)] for n, found in alive.items()} == rows, "enrolled", machine.node)
        self._observer.remember(machine, enrolled)
        machine.knowledge.note_local(local)
        self._check(machine)

    def _restart(self, killed: Killed) -> None:
        machine = killed.process.machine
        machine.reboot()
        self.story.append(f"{machine.number} died")
        self._check(machine)


def _read(machine: Machine, content: bytes) -> None:
    """Merge a bundle that its sender does not hear of, as a file."""
    reader = Reader(io.BytesIO(content))
    for packed in reader.packed_frames():
        machine.replica.merge_packed(reader.header, packed)
