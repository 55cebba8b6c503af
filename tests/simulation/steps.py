"""What can happen in a simulation: a plan is a list of these, each whole in itself.

A step names hosts, roads, messages and backups by number; a world takes each number modulo what it
has. So every part of a plan is a plan too, which is what shrinking rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.simulation import Statement


@dataclass(frozen=True)
class Existing:
    """Rows that a host's file has before it is enrolled."""

    host: int
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Write:
    """A writer's transaction. It takes some milliseconds of everybody's time."""

    host: int
    statements: tuple[Statement, ...]
    commit: bool = True
    ms: int = 0


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one message of a round.

    kind: "request" or "answer" for the one that is lost, "cut" for an answer that ends early.
    call: which request of the round. share: how much of the answer comes, in thousandths.
    """

    kind: str
    call: int
    share: int = 500


@dataclass(frozen=True)
class Round:
    """A round of the real exchange, over a road (receiver, sender).

    frame_entries: how many entries end a frame. meanwhile: how many of the plan's next steps happen
    while a message is under way, and which message that is (requests are even, answers odd).
    """

    road: int
    push: bool = False
    frame_entries: int | None = None
    fault: Fault | None = None
    meanwhile: int = 0
    moment: int = 0


@dataclass(frozen=True)
class Deliver:
    """A bundle that was under way before arrives late, again, out of order, or elsewhere.

    share: how much of it comes, in thousandths.
    """

    message: int
    host: int
    share: int = 1000


@dataclass(frozen=True)
class Carry:
    """A file with what the receiver lacks, or with everything, read to its end or to a point."""

    road: int
    everything: bool = False
    frame_entries: int | None = None
    share: int = 1000


@dataclass(frozen=True)
class Partition:
    """The network falls apart: hosts whose bits differ cannot reach each other. 0 heals it."""

    sides: int


@dataclass(frozen=True)
class SetClock:
    """A host's wall clock is set, forwards or back."""

    host: int
    skew_ms: int


@dataclass(frozen=True)
class Pass:
    """Time passes for everybody."""

    ms: int


@dataclass(frozen=True)
class Fold:
    """The daemon folds, in slices of few entries."""

    host: int
    entries: int


@dataclass(frozen=True)
class Release:
    """The daemon looks again at what was held for its stamp."""

    host: int


@dataclass(frozen=True)
class ReleaseHeld:
    """An operator lets changes from the future count now. change: one of them, None for all."""

    host: int
    change: int | None


@dataclass(frozen=True)
class RepairClock:
    """An operator brings what a host stamped while its clock ran ahead to the present."""

    host: int


@dataclass(frozen=True)
class Rehearse:
    """An operator asks what a bundle that was under way before would do."""

    host: int
    message: int


@dataclass(frozen=True)
class Revive:
    """An operator writes a value from the conflict log back."""

    host: int
    conflict: int


@dataclass(frozen=True)
class Look:
    """An operator asks for status, conflicts and held changes."""

    host: int


@dataclass(frozen=True)
class Verify:
    """An operator compares a host with another over a road, and may let it be repaired.

    unseen: what somebody writes past the triggers once they have been found equal, and only a peer
    can tell.
    """

    road: int
    repair: bool
    unseen: Statement | None = None


@dataclass(frozen=True)
class Damage:
    """Somebody writes while a host's triggers are away, and an operator lets it be mended."""

    host: int
    statement: Statement


@dataclass(frozen=True)
class Upgrade:
    """The app migrates its database to version 2 and enrols anew."""

    host: int


@dataclass(frozen=True)
class Backup:
    """Somebody copies a host's file, and its sidecar, and puts the copies aside."""

    host: int


@dataclass(frozen=True)
class Restore:
    """A copy that was put aside takes the place of a host's file, its own or another's.

    how: "content" writes it into the file that is there; "file" puts a new file in its place, and
    its sidecar too; "bare" puts a new file there, without a sidecar; "volume" writes both into the
    files that are there.
    """

    host: int
    backup: int
    how: str


@dataclass(frozen=True)
class Wipe:
    """A host loses its disk and starts empty."""

    host: int


@dataclass(frozen=True)
class Rename:
    """A host is given another name."""

    host: int


@dataclass(frozen=True)
class Forget:
    """An operator lets a host forget what another has said."""

    host: int
    other: int


@dataclass(frozen=True)
class Compact:
    """The daemon forgets what the retention lets it forget."""

    host: int


@dataclass(frozen=True)
class Crash:
    """A host's syncd dies, as by kill -9, in something it does from now on.

    countdown: how many statements, or commits, it still gets. unit: "statement" dies before the
    next one, "commit" before it commits, "committed" right after.
    """

    host: int
    unit: str
    countdown: int


@dataclass(frozen=True)
class Absence:
    """After all else a host is away for longer than the retention, and the others write and forget.

    It comes back to peers that cannot name the deaths any more that it lacks. is_heard: it asks all
    the while, though no answer reaches it, until an operator lets the others forget it.
    """

    host: int
    writes: tuple[Write, ...]
    is_heard: bool = False


Step = (
    Existing
    | Write
    | Round
    | Deliver
    | Carry
    | Partition
    | SetClock
    | Pass
    | Fold
    | Release
    | ReleaseHeld
    | RepairClock
    | Rehearse
    | Revive
    | Look
    | Verify
    | Damage
    | Upgrade
    | Backup
    | Restore
    | Wipe
    | Rename
    | Forget
    | Compact
    | Crash
    | Absence
)
