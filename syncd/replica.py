"""One database as a replica: the engine's operations, each in transactions of its own.

This is what endpoints, rounds and commands call. It owns when to fold and what a transaction
covers; how is the business of `changelog` and `merge`. Wall clock and identities are injected. A
`Replica` may be shared between threads.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from syncd import (
    admission,
    changelog,
    codec,
    compaction,
    conflicts,
    enrolment,
    extraction,
    forks,
    future,
    held,
    merge,
    restoration,
    schema,
    snapshot,
    status,
    upgrade,
    waiting,
    withdrawal,
)
from syncd.bundle import Frame, Header, Mark, Progress
from syncd.clock import WallClock, hlc_of_ms, system_wall_ms
from syncd.config import Config
from syncd.conflicts import Conflict
from syncd.database import Connection, Database
from syncd.enrolment import Enrolled
from syncd.errors import BundleError, DatabaseError
from syncd.guard import Guard
from syncd.held import Held
from syncd.identity import Identity
from syncd.marks import Marks
from syncd.merge import Counts
from syncd.peerbook import PeerBook
from syncd.status import Status
from syncd.vector import ORIGIN_BYTES, Vector

log = logging.getLogger(__name__)

_LOST_VALUES = "values that it vouched for went with a column or a table"


@dataclass(frozen=True)
class Forgotten:
    """What a compaction forgot: entries of deleted rows, and lines of the conflict log."""

    deaths: int
    conflicts: int


class Replica:
    """The database that a configuration names, as a replica."""

    def __init__(
        self,
        config: Config,
        *,
        wall_ms: WallClock = system_wall_ms,
        new_origin: Callable[[], bytes] = lambda: secrets.token_bytes(ORIGIN_BYTES),
    ) -> None:
        self.config = config
        self.wall_ms = wall_ms
        self._new_origin = new_origin
        self._database = Database(config.database, prepare=upgrade.to_present)
        self._identity = Identity(config.database, config.node, new_origin)

    @property
    def peers(self) -> PeerBook:
        """What this replica remembers of other hosts."""
        return PeerBook(self._database, self.config, self.wall_ms)

    @property
    def guard(self) -> Guard:
        """What keeps two files from writing under this replica's origin."""
        return Guard(self._database, self._identity, self.wall_ms)

    @property
    def marks(self) -> Marks:
        """What this host, and those it knows, have said of themselves."""
        return self._identity.marks

    def enrol(self) -> list[Enrolled]:
        """Bring the configured tables under syncd; raise `SchemaError` and change nothing else."""
        with self._database.read() as connection:
            known = schema.is_enrolled(connection)
            enrolment.require_parents(connection, self.config.tables)
        if known:
            self.fold()
        with self._database.write() as connection:
            before = changelog.origin(connection) if known else None
            if known:
                merge.take_whole_journal(connection, self.wall_ms())
            enrolled = enrolment.enrol(
                connection,
                self.config.tables,
                origin=self._new_origin(),
                node=self.config.node,
                now_ms=self.wall_ms(),
                renew=functools.cache(
                    lambda: self._identity.renew(connection, _LOST_VALUES, self.wall_ms())
                ),
            )
            merge.take_whole_journal(connection, self.wall_ms())
            self._release(connection)
            # Rows that were there already may break what their tables demand.
            merge.take_journal(connection, self.wall_ms())
            merge.settle_anew(connection, self.wall_ms())
            is_another = known and changelog.origin(connection) != before
            if not known:
                self._identity.mint(connection)
                # Before anybody else can see the file, and take it for a copy.
                self._identity.begin(connection, self.wall_ms())
        if is_another:
            self.guard.begin()
        self._database.make_wal()
        return enrolled

    def fold(self) -> None:
        """Take what was written into the changelog, in short slices of the write lock."""
        self.guard.check()
        while True:
            with self._database.read() as connection:
                if not changelog.unfolded(connection):
                    return
            with self._database.write() as connection:
                merge.take_journal(connection, self.wall_ms())

    def release(self) -> None:
        """Look again at changes that were held because their stamp was in the future."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            if not held.is_future_due(connection, self._hlc_max()):
                return
        with self.writing() as connection:
            self._release(connection)

    def release_held(self, ids: Sequence[int]) -> int:
        """Merge held changes from the future now; return how many.

        ids: those of `held`; `NotReleasable` if one has none, or waits for something else.
        """
        with self.writing() as connection:
            chosen = future.of_ids(connection, ids, self._hlc_max())
            return future.release(connection, chosen, now_ms=self.wall_ms())

    def release_host(self, host: str | None) -> int:
        """Merge what is held from the future of one host, or of all, now; return how much.

        host: its node's name, or the name it has as a peer.
        """
        with self.writing() as connection:
            chosen = future.of_host(connection, host, self._hlc_max())
            return future.release(connection, chosen, now_ms=self.wall_ms())

    def repair_clock(self) -> int:
        """Bring what was stamped while this host's clock ran ahead to the present.

        Returns how many changes were written anew; none if the clock was right, or still is not.
        Raises `NotRepairable` while a pull is not finished.
        """
        with self.writing() as connection:
            return future.repair(
                connection, now_ms=self.wall_ms(), drift_ms=self.config.sync.max_clock_drift
            )

    def vector(self) -> Vector:
        """Return what this replica has merged, its own writes included."""
        with self.snapshot() as connection:
            return changelog.vector(connection)

    def origin(self) -> bytes:
        """Return the identity under which this replica's changes are born."""
        self.guard.check()
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return changelog.origin(connection)

    def version(self) -> int:
        """Return a number that changes when any process has committed, cheaply."""
        return self._database.version()

    def news(self) -> tuple[int, int]:
        """Return how far the journal and the changelog go; either grows with what peers lack."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            journal, position = connection.row(
                "SELECT (SELECT max(seq) FROM syncd_journal), position FROM syncd_replica"
            ) or (0, 0)
            return journal, position

    def claim(self) -> Vector:
        """Return what this replica has merged, writes that wait for the fold included."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            own = connection.value("SELECT max(seq) FROM syncd_journal")
            return Vector({**changelog.vector(connection), changelog.origin(connection): own})

    def await_news(self, since: tuple[int, int], within_ms: int, every_ms: int = 20) -> bool:
        """Wait until `news` is not `since` any more; say whether it is in time."""
        deadline = time.monotonic() + within_ms / 1000
        seen = None
        while time.monotonic() < deadline:
            if seen != (version := self.version()) and self.news() != since:
                return True
            seen = version
            time.sleep(every_ms / 1000)
        return False

    def compact(self) -> Forgotten:
        """Forget deaths and conflicts past the retention, in short slices of the write lock."""
        retention_ms = self.config.sync.retention
        deaths = conflicts = 0
        self.fold()
        self.marks.forget_old()
        with self._database.read() as connection:
            slices = compaction.slices(connection, self.wall_ms(), retention_ms)
        for part in slices:
            with self._database.write() as connection:
                deaths += compaction.forget(connection, part, self.wall_ms(), retention_ms)
        with self._database.read() as connection:
            has_gone = compaction.has_gone(connection)
        if has_gone:
            with self._database.write() as connection:
                compaction.forget_gone(connection)
        while True:
            with self._database.read() as connection:
                if not compaction.has_conflicts(connection, self.wall_ms(), retention_ms):
                    return Forgotten(deaths, conflicts)
            with self._database.write() as connection:
                conflicts += compaction.forget_conflicts(connection, self.wall_ms(), retention_ms)

    def changes_since(
        self,
        since: Vector,
        after: int = 0,
        progress: Progress | None = None,
        told: Sequence[Mark] | None = (),
    ) -> tuple[Header, Frame]:
        """Return the first frame of what a host lacks, or of a snapshot if that cannot be told.

        since: what that host has merged. after: the position up to which it has merged this
        replica's changelog. progress: how far it has read a snapshot of it. told: what it heard
        that this replica has said of itself; None if it does not know yet whom it asks, and will
        ask again.
        """
        if self.guard.check(None if told is None else since, told or ()):
            # They counted in the changelog of the origin that is no more.
            after, progress = 0, None
        with self.snapshot() as connection:
            mine = changelog.vector(connection)
            since, after, part = snapshot.answer(connection, since, after, progress)
            header = self.header(connection, since)
            # Of a fork's other history it may have nothing, whatever it has forgotten.
            has = forks.shared(connection, since)
            frame = extraction.frame_after(connection, after, has, snapshot=part)
            top = held.last_position(connection)
        # What comes behind this frame is of the same moment: one note for all of a pull.
        mark = self.guard.note_sending(mine[header.origin], top)
        says_nothing = not frame.sections and since.covers(frame.claim or {})
        others = mine.keys() - {header.origin}
        marks = {} if says_nothing else self.marks.to_pass_on(others)
        header = msgspec.structs.replace(header, marks=marks)
        return header.saying(mark), frame

    def header(self, connection: Connection, since: Vector) -> Header:
        """Return the header of a bundle that is read from a connection of this replica's."""
        return Header(
            origin=changelog.origin(connection),
            node=self.config.node,
            created_ms=self.wall_ms(),
            vector=dict(changelog.vector(connection)),
            since=dict(since),
            withdrawn=withdrawal.known(connection),
            forks=forks.known(connection),
        )

    def frames_since(self, since: Vector) -> tuple[Header, Iterator[Frame]]:
        """Return all frames of what the holder of a vector lacks, each read as it is asked for."""
        header, first = self.changes_since(since)

        def frames() -> Iterator[Frame]:
            frame = first
            yield frame
            horizon = first.snapshot.horizon if first.snapshot else {}
            while frame.claim is None:
                progress, before = Progress(horizon, frame.position), frame
                _, frame = self.changes_since(since, frame.position, progress)
                if frame.after != before.position:
                    raise BundleError(
                        "deletions were forgotten while the bundle was made", hint="Make it again."
                    )
                yield frame

        return header, frames()

    def merge(self, header: Header, frame: Frame) -> Counts:
        """Merge one frame, rows and vector in one transaction; raise `BundleGap` if it cannot be.

        Acknowledged means durable: when this returns, it is committed.
        """
        self.guard.learn(header.forks)
        with self._database.read() as connection:
            is_idle = admission.says_nothing_new(connection, header, frame)
        if is_idle:
            self.peers.hear(header.origin, header.node, Vector(header.vector))
            self.release()
            return Counts()
        self.guard.meet(header)
        # Before the lock is had another frame may come: what is found here is found out again.
        with self._database.scratch() as connection:
            admission.refuse_gap(connection, header, frame)
            staged = merge.stage(connection, frame)
        with self.writing() as connection:
            admission.refuse_gap(connection, header, frame)
            counts = merge.merge_frame(
                connection,
                header,
                frame,
                staged,
                now_ms=self.wall_ms(),
                drift_ms=self.config.sync.max_clock_drift,
            )
            ahead = held.ahead(connection, self.wall_ms(), self._hlc_max()) if counts.held else []
        for host in ahead:
            log.warning(
                "%s: its clock is or was up to %.0f s ahead of ours; %d of its changes are held",
                host.node,
                host.ahead_ms / 1000,
                host.changes,
            )
        return counts

    def merge_packed(self, header: Header, packed: bytes) -> Counts:
        """Merge one frame as it stands in a bundle; changes none of which is news are counted."""
        self.guard.meet(header)
        with self._database.read() as connection:
            mine = forks.shared(connection, changelog.vector(connection))
        # A bundle may have more than its header says, if it was made while its sender went on.
        if mine.covers(header.vector):
            outline = codec.outline(packed)
            if mine.covers(outline.reach):
                older = [Counts(older=n).of(table) for table, n in outline.changes.items()]
                return sum(older, self.merge(header, outline.bare))
        return self.merge(header, codec.decompress(packed))

    def conflicts(self, table: str | None = None, since_ms: int = 0) -> list[Conflict]:
        """Return the values that lost here, the newest first."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return conflicts.listed(connection, table, since_ms)

    def restore(self, conflict: int) -> Conflict:
        """Write what lost back, as a new write; raise `NotRestorable` if it cannot be."""
        with self.writing() as connection:
            lost = restoration.restore(connection, conflict, now_ms=self.wall_ms())
            if lost.reason == held.DISPLACED:
                merge.settle_now(connection, self.wall_ms())
            # What was written waits for the fold as anybody's writes do; here it is only tried out.
            with connection.undone():
                merge.take_whole_journal(connection, self.wall_ms())
                restoration.require_shown(connection, lost)
            return lost

    def held(self) -> list[Held]:
        """Return the changes and rows that are merged and do not show."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            tables = schema.load_tables(connection)
            rows = [one for table in tables.values() for one in waiting.rows(connection, table)]
            return [*held.listed(connection, tables), *rows]

    def status(self) -> Status:
        """Return the replica's state without changing it."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return status.read(connection, self.config, self.wall_ms())

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[Replica]:
        """Yield a private copy of this replica, for this thread, on which nothing is for real.

        It is a copy of the files, so that what it does is what would be done; it vanishes
        afterwards. Programs that write meanwhile are not kept waiting.
        """
        twin = copy.copy(self)
        twin._identity = self._identity.rehearsal()
        twin._database = self._database.copy()
        try:
            yield twin
        finally:
            twin.close()

    def close(self) -> None:
        """Close this thread's connections."""
        self._database.close()
        self._identity.close()

    def reindex(self) -> None:
        """Make all indexes anew from their tables, unless their pages cannot be read."""
        with contextlib.suppress(DatabaseError), self._database.write() as connection:
            connection.run("REINDEX")

    def has_heard_of(self, origin: bytes) -> bool:
        """Say whether there is anything that an origin can be told of itself."""
        with self._database.read() as connection:
            has_changes = origin in changelog.vector(connection)
        return has_changes or bool(self.marks.known({origin}))

    def forks(self) -> dict[bytes, int]:
        """Return the origins that have two histories, each with the last seq that these share."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            return forks.known(connection)

    def _release(self, connection: Connection) -> None:
        merge.release(connection, now_ms=self.wall_ms(), drift_ms=self.config.sync.max_clock_drift)

    def _hlc_max(self) -> int:
        """Return the reading above which a change is held."""
        return hlc_of_ms(self.wall_ms() + self.config.sync.max_clock_drift)

    @contextlib.contextmanager
    def as_it_is(self) -> Iterator[Connection]:
        """Open a snapshot in which writes may still wait for the fold."""
        with self._database.read() as connection:
            schema.require_enrolled(connection)
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a write transaction in which nothing waits for the fold."""
        self.fold()
        with self._database.write() as connection:
            merge.take_whole_journal(connection, self.wall_ms())
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a snapshot in which nothing waits for the fold.

        A value may only be sent under the stamp of the write that made it, so the changelog and the
        tables must be of one moment. If writers are too quick for that, the lock is taken.
        """
        self.fold()
        with self._database.read() as connection:
            if not changelog.unfolded(connection):
                yield connection
                return
        with self._database.write() as connection:
            merge.take_whole_journal(connection, self.wall_ms())
            yield connection
