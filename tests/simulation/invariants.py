"""What must hold in a simulation, at every step and at rest.

At every step of a host: no page of its file is wrong (`integrity`), what its own triggers keep is
right (`images`), no constraint is broken (`constraints`), it shows what the model makes of the
changes that it must have (`shown`), columns that stay on it have what its own writers wrote
(`local`), and the conflict log has the rows that are displaced as such (`displaced`).

At rest: all hosts show the same (`converged`), remember exactly the changes that own a register,
deaths included (`remembered`), hold back exactly the rows that may not show (`held`), have equal
vectors and nothing more to tell (`vectors`, `news`), and await the end of no pull (`ended`). At
rest and past the retention no value was lost in silence (`conflicts`). Past the retention: deaths
are forgotten, and nothing else (`forgotten`). Elsewhere: no bundle tells of a change that was never
made (`invented`), no write is older than what its host had merged (`clock`), no round fails without
a reason (`round`), a comparison finds what differs and nothing else (`verdict`), and a repair
leaves no difference (`repair`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine import model
from engine.hosts import changes_in
from engine.model import ALIVE, DEAD, Change
from engine.simulation import cell_of, displaced_in

from simulation import images, shapes
from simulation.ledger import Ledger, Loss
from simulation.machine import Machine
from syncd import peers, verify
from syncd.vector import Vector
from syncd.verify import Verdict


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


def hold(condition: bool, invariant: str, detail: object) -> None:
    """Raise `Violation` unless a condition holds."""
    if not condition:
        raise Violation(invariant, str(detail))


def check(machine: Machine) -> None:
    """Check one host after a step."""
    hold(machine.rows("PRAGMA integrity_check") == [("ok",)], "integrity", machine.node)
    astray = images.astray(machine.writer)
    hold(not astray, "images", f"{machine.node}: {astray}")
    if machine.unfolded():
        return  # what a write makes room for shows once the write is folded
    broken = machine.rows("PRAGMA foreign_key_check")
    hold(not broken, "constraints", f"{machine.node}: {broken}")
    settled = machine.knowledge.settled()
    _compare("shown", machine, settled.shown)
    local = machine.local()
    strays = machine.knowledge.strays(local)
    hold(not strays, "local", f"{machine.node} has {strays}")
    machine.knowledge.note_local(local)
    logged = displaced_in(machine.replica, machine.writer)
    hold(
        settled.displaced <= logged <= settled.beaten,
        "displaced",
        f"{machine.node} logs {logged}, displaced {settled.displaced} of {settled.beaten}",
    )


def check_at_rest(
    machines: Sequence[Machine], roads: Sequence[tuple[int, int]], old: int = 0
) -> None:
    """Check that all hosts agree, and that nothing is missing.

    old: the reading below which they may have forgotten what the retention lets them forget.
    """
    everything: set[Change] = set().union(*(m.knowledge.merged for m in machines))
    for machine in machines:
        _check_agreement(machine, everything, old)
    vectors = {machine.replica.vector() for machine in machines}
    hold(len(vectors) == 1, "vectors", vectors)
    for receiver, sender in roads:
        one, other = machines[receiver].replica, machines[sender].replica
        _, frame = other.changes_since(one.vector(), one.peers.cursor(other.origin()))
        hold(not frame.sections, "news", f"h{sender} has more to tell h{receiver}")
        with one.snapshot() as connection:
            unfinished = peers.unfinished(connection)
        hold(machines[sender].node not in unfinished, "ended", f"h{receiver} awaits {unfinished}")


def check_losses(
    machines: Sequence[Machine], gone: set[Change], ledger: Ledger, losses: Collection[Loss]
) -> None:
    """Check that no value was lost in silence.

    gone: what hosts had merged that have lost their files or are away. losses: all that was ever
    logged, by those as well.
    """
    everything: set[Change] = set().union(*(m.knowledge.merged for m in machines))
    vector = machines[0].replica.vector()
    beaten = {
        change
        for change in gone - everything
        if change.stamp.seq <= vector[change.stamp.origin]
        and all(machine.knowledge.counts(change) for machine in machines)
    }
    silent = ledger.unlogged(everything, beaten, losses)
    hold(not silent, "conflicts", f"lost in silence: {silent}")


def check_verdict(verdict: Verdict, here: Machine, there: Machine) -> None:
    """Check that a comparison found exactly the rows that two hosts do not show alike."""
    expected = set()
    version = min(here.knowledge.version, there.knowledge.version)
    mine, theirs = here.shown(), there.shown()
    for name, shape in shapes.of_version(here.tables, version).items():
        for key in mine[name].keys() | theirs[name].keys():
            a, b = mine[name].get(key), theirs[name].get(key)
            state = verify.VALUES if a and b else verify.ONLY_HERE if a else verify.ONLY_THERE
            # A host of the later version shows columns behind those that both have.
            pairs = zip(shape.columns_of(version), a or (), b or (), strict=False)
            differing = frozenset(column for column, x, y in pairs if x != y)
            if differing or state != verify.VALUES:
                expected.add((name, key, state, differing))
    found = {
        (one.table, tuple(map(cell_of, one.values)), one.state, frozenset(one.columns))
        for one in verdict.differences
    }
    hold(found == expected, "verdict", f"{verdict} is not {expected}")


def check_aged(
    machines: Sequence[Machine], everything: set[Change], lacked: Collection[Change] = ()
) -> None:
    """Check that hosts agree which have forgotten all that the retention lets them forget.

    lacked: what somebody lacks that they still count on.
    """
    for machine in machines:
        _check_what_shows(machine, everything)
        survivors = model.surviving(everything)
        vector = machine.replica.vector()
        remembered = _remembered(machine)
        needed = _living(survivors) | {change for change in survivors if change in lacked}
        # Of a former self that nobody has heard out nobody knows what all have.
        needed |= {
            change
            for change in survivors | {one for one in remembered if one.value == DEAD}
            if change.stamp.seq > vector[change.stamp.origin]
        }
        hold(
            remembered == needed,
            "forgotten",
            f"{machine.node} lacks {needed - remembered}, has also {remembered - needed}",
        )


def _check_what_shows(machine: Machine, everything: set[Change]) -> None:
    tables, version = machine.tables, machine.knowledge.version
    modelled = shapes.settled(tables, version, everything).shown
    _compare("converged", machine, modelled)
    alive = shapes.alive(tables, version, everything)
    hidden = sum(len(alive[name]) - len(rows) for name, rows in modelled.items())
    held = machine.replica.status().held
    hold(held == hidden, "held", f"{machine.node} holds {held}, not {hidden}")


def _check_agreement(machine: Machine, everything: set[Change], old: int) -> None:
    _check_what_shows(machine, everything)
    remembered = _remembered(machine)
    survivors = model.surviving(everything)
    needed = _living(survivors) | {change for change in survivors if change.stamp.hlc >= old}
    lacking = needed - remembered
    # A host may have a death of its own that is older than one that the others have forgotten.
    more = {c for c in remembered - survivors if c.value != DEAD or c.stamp.hlc >= old}
    hold(
        not lacking and not more,
        "remembered",
        f"{machine.node} lacks {lacking}, has also {more}",
    )


def _living(survivors: set[Change]) -> set[Change]:
    """Return the changes that hang on a birth."""
    born = {(c.table, c.key) for c in survivors if c.value == ALIVE}
    return {c for c in survivors if c.value != DEAD and (c.table, c.key) in born}


def _remembered(machine: Machine) -> set[Change]:
    _, frames = machine.replica.frames_since(Vector())
    return set().union(*map(changes_in, frames))


def _compare(invariant: str, machine: Machine, modelled: model.Tables) -> None:
    shown = machine.shown()
    for name, rows in modelled.items():
        hold(
            shown[name] == rows,
            invariant,
            f"{machine.node} shows {name} as {shown[name]}, the model says {rows}",
        )
