"""The merge: taking a frame of a peer's changes into this replica, in one transaction.

What a table shows afterwards is a function of the set of changes merged, whatever their order: each
register keeps the write with the greatest stamp (`changelog.resolved`), a row shows while its birth
is newer than its death (`show`). All of it is set-based SQL; per section Python makes one
`executemany`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import msgspec

from syncd import (
    bundle,
    capture,
    changelog,
    compaction,
    conflicts,
    forks,
    held,
    peers,
    settle,
    snapshot,
    staging,
    withdrawal,
)
from syncd.bundle import Frame, Header, Section
from syncd.clock import hlc_of_ms
from syncd.conflicts import ForgottenDeaths
from syncd.database import Connection
from syncd.errors import SchemaError
from syncd.schema import load_tables
from syncd.shadow import Hiding, hidden
from syncd.show import Showing
from syncd.staging import Staged
from syncd.table import DEAD_BIT, Table
from syncd.vector import Vector


@dataclass(frozen=True)
class Counts:
    """What became of the changes of a bundle.

    applied: changes that now own a register. overwritten: changes that lost a register to those.
    older: changes that own none, here already or beaten by a newer write. conflicting: values that
    lost to a write that did not know of them, or to another row. held: registers that cannot show
    yet, and rows that have come to be held back. tables: the same for each table.
    """

    applied: int = 0
    overwritten: int = 0
    older: int = 0
    conflicting: int = 0
    held: int = 0
    tables: Mapping[str, Counts] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        tables = {
            name: self.tables.get(name, Counts()) + other.tables.get(name, Counts())
            for name in {**self.tables, **other.tables}
        }
        return Counts(
            self.applied + other.applied,
            self.overwritten + other.overwritten,
            self.older + other.older,
            self.conflicting + other.conflicting,
            self.held + other.held,
            tables,
        )

    def numbers(self) -> dict[str, int]:
        """Return the counts by name, without those of the tables."""
        values = asdict(self)
        del values["tables"]
        return values

    def of(self, table: str) -> Counts:
        """Return these counts as those of one table."""
        return replace(self, tables={table: self})


def stage(connection: Connection, frame: Frame) -> Staged:
    """Stage what a frame seems to have of news, for which no lock is needed."""
    staging.clear(connection)
    staged = Staged()
    known = dict(connection.rows("SELECT id, ordinal FROM syncd_origin"))
    if not known.keys() >= set(frame.origins):
        return staged
    staged.ordinals = [known[origin] for origin in frame.origins]
    staged.sections = _by_ordinals(frame, staged.ordinals)
    tables = load_tables(connection)
    merged = changelog.by_ordinal(connection, _merged(connection))
    for section in staged.sections:
        if section.table in tables and not _is_known(section, merged):
            staged.add(connection, tables[section.table], section)
    return staged


def merge_frame(
    connection: Connection,
    header: Header,
    frame: Frame,
    staged: Staged,
    *,
    now_ms: int,
    drift_ms: int,
) -> Counts:
    """Merge a frame and, if it carries one, its claim. The journal must be folded.

    staged: what `stage` has done already. now_ms: this host's wall clock. drift_ms: how far ahead
    of it a stamp may be.
    """
    sender = _ordinal(connection, header.origin, header.node)
    ordinals = _ordinals(connection, frame)
    sections = staged.sections if staged.ordinals == ordinals else _by_ordinals(frame, ordinals)
    if withdrawal.learn(connection, header.withdrawn, now_ms=now_ms):
        settle_now(connection, now_ms)
    is_snapshot = snapshot.is_needed(changelog.vector(connection), frame)
    kept = withdrawal.without(connection, sections)
    counts = Counts()
    for section, rest in zip(sections, kept, strict=True):
        counts += Counts(older=len(section) - len(rest)).of(section.table)
    counts += merge_sections(
        connection,
        kept,
        header,
        staged,
        now_ms=now_ms,
        drift_ms=drift_ms,
    )
    connection.run(
        "INSERT INTO syncd_cursor VALUES (?, ?, ?) ON CONFLICT (sender) DO UPDATE SET"
        " position = max(position, excluded.position), complete = CASE"
        " WHEN excluded.position > position THEN excluded.complete"
        " WHEN excluded.position = position THEN complete OR excluded.complete"
        " ELSE complete END",
        (sender, frame.position, frame.claim is not None),
    )
    peers.hear(connection, header.origin, header.node, Vector(header.vector), now_ms)
    if is_snapshot:
        snapshot.note(connection, sender, frame, sections)
    else:
        snapshot.drop(connection, sender)
    # Before a snapshot ends: what is due and loses is logged, what is gone with the end is not.
    counts += release(connection, now_ms=now_ms, drift_ms=drift_ms)
    if frame.claim is not None:
        if is_snapshot:
            counts += Counts(applied=snapshot.finish(connection, sender, frame, now_ms=now_ms))
        _claim(connection, Vector(frame.claim))
    return counts


def merge_rows(connection: Connection, frame: Frame, *, now_ms: int, drift_ms: int) -> Counts:
    """Merge all changes of some rows, whether or not the vector covers them already.

    The journal must be folded.
    """
    sections = _by_ordinals(frame, _ordinals(connection, frame))
    sections = withdrawal.without(connection, sections)
    return merge_sections(connection, sections, None, now_ms=now_ms, drift_ms=drift_ms)


def merge_sections(
    connection: Connection,
    sections: Sequence[Section],
    header: Header | None,
    staged: Staged | None = None,
    *,
    now_ms: int,
    drift_ms: int,
) -> Counts:
    """Merge sections whose origins are ordinals.

    header: None for changes that were held, or are sent again. The vector covers them already, and
    nothing says any more what their writers knew; so all that they displace counts as unknown to
    them. So it is with what the sender holds for its stamp: it knows that and has not merged it.
    """
    if not sections:
        return Counts()
    tables = load_tables(connection)
    merged = Vector() if header is None else _merged(connection)
    known = Vector() if header is None else Vector(header.vector)
    counts = Counts()
    by_table = _by_table(sections)
    before = held.last_position(connection)
    affected = settle.affected(connection, tables, by_table)
    hiding = {table.name: Hiding(connection, table) for table in affected}
    with capture.suspending(connection, affected) as suspend:
        scope = _Scope(
            connection,
            merged=changelog.by_ordinal(connection, merged),
            known_to_sender=changelog.by_ordinal(connection, known),
            staged=staged or Staged(),
            hlc_max=hlc_of_ms(now_ms + drift_ms),
            now_ms=now_ms,
            suspend=suspend,
        )
        for name, of_table in by_table.items():
            counts += scope.merge(tables.get(name), of_table).of(name)
        # Since a change was held, what would have taken it may have been forgotten.
        merged_into = [tables[name] for name in by_table if name in tables]
        counts += _meet_forgotten(connection, merged_into, before, known, now_ms)
        displaced = settle.settle(connection, tables, suspend=suspend, now_ms=now_ms)
    changelog.advance_clock(connection, scope.hlc_seen)
    for name, rows in hiding.items():
        counts += Counts(held=rows.count(), conflicting=displaced.get(name, 0)).of(name)
    return counts


def _meet_forgotten(
    connection: Connection,
    tables: Sequence[Table],
    before: int,
    known_to_sender: Vector,
    now_ms: int,
) -> Counts:
    """Lift what was merged above a position and is older than something forgotten.

    What of it hangs on no birth was lost to a death that is forgotten. A sender that covers what
    was forgotten has nothing that it would have taken, except a birth that leaves columns to older
    writes, which may be forgotten here and not there.
    """
    forgotten = compaction.horizon(connection)
    if not forgotten.seqs:
        return Counts()
    new = f"e.position > {before}"
    if known_to_sender.covers(forgotten.seqs):
        for table in tables:
            where = f"{new} AND {compaction.lacks_columns(table)}"
            compaction.lift(connection, table, where, forgotten.hlc)
        return Counts()
    by = connection.value("SELECT origin FROM syncd_replica")
    deaths = ForgottenDeaths(by, forgotten.hlc, now_ms)
    counts = Counts()
    for table in tables:
        buried = f"{new} AND {compaction.is_buried(table)}"
        lost = conflicts.log_left(connection, table, buried, deaths)
        counts += Counts(conflicting=lost).of(table.name)
        compaction.lift(connection, table, new, forgotten.hlc)
    compaction.lift_held(connection, new, forgotten.hlc)
    return counts


def release(connection: Connection, *, now_ms: int, drift_ms: int) -> Counts:
    """Merge held changes that can show by now. The journal must be folded."""
    tables, hlc_max = load_tables(connection), hlc_of_ms(now_ms + drift_ms)
    due = held.due(connection, tables, hlc_max)
    held.renew_reasons(connection, tables, hlc_max)
    return merge_sections(connection, due, None, now_ms=now_ms, drift_ms=drift_ms)


def take_journal(connection: Connection, now_ms: int, *, minted_under: bytes | None = None) -> int:
    """Fold the oldest part of the journal; return how many entries remain.

    Once none does, rows that were held back may show, because what stood in their way is gone.
    minted_under: see `changelog.fold`.
    """
    log_hidden = functools.partial(conflicts.log_hidden, now_ms=now_ms)
    remaining = changelog.fold(connection, log_hidden=log_hidden, minted_under=minted_under)
    if not remaining:
        settle_now(connection, now_ms)
    return remaining


def take_whole_journal(
    connection: Connection, now_ms: int, *, minted_under: bytes | None = None
) -> None:
    """Fold the journal to its end; arguments as of `take_journal`."""
    while changelog.unfolded(connection):
        take_journal(connection, now_ms, minted_under=minted_under)


def settle_now(connection: Connection, now_ms: int) -> None:
    """Decide what shows of the rows that have new entries. The journal must be folded."""
    _settle(connection, load_tables(connection), [], now_ms)


def settle_anew(connection: Connection, now_ms: int) -> None:
    """Decide what shows wherever rows are held back.

    For a migration may have taken away what they break. The journal must be folded.
    """
    tables = load_tables(connection)
    if waiting := [name for name, table in tables.items() if hidden(connection, table)]:
        _settle(connection, tables, waiting, now_ms)


def _settle(
    connection: Connection, tables: dict[str, Table], lost: Sequence[str], now_ms: int
) -> None:
    affected = settle.affected(connection, tables, lost)
    with capture.suspending(connection, affected) as suspend:
        settle.settle(connection, tables, lost, suspend=suspend, now_ms=now_ms)


def _merged(connection: Connection) -> Vector:
    """Return what has been merged of all histories that there are."""
    return forks.shared(connection, changelog.vector(connection))


def _ordinals(connection: Connection, frame: Frame) -> list[int]:
    """Return this replica's ordinals for a frame's origins."""
    return [
        _ordinal(connection, origin, node)
        for origin, node in zip(frame.origins, frame.nodes, strict=True)
    ]


def _by_ordinals(frame: Frame, ordinals: Sequence[int]) -> list[Section]:
    """Return a frame's sections with ordinals for their origins."""
    return [
        msgspec.structs.replace(section, origins=[ordinals[number] for number in section.origins])
        for section in frame.sections
    ]


def _by_table(sections: Sequence[Section]) -> dict[str, list[Section]]:
    tables: dict[str, list[Section]] = {}
    for section in sections:
        tables.setdefault(section.table, []).append(section)
    return tables


def _ordinal(connection: Connection, origin: bytes, node: str) -> int:
    connection.run(
        "INSERT INTO syncd_origin (id, node) VALUES (?, ?) ON CONFLICT (id)"
        " DO UPDATE SET node = excluded.node WHERE node <> excluded.node"
        " AND ordinal <> (SELECT origin FROM syncd_replica)",
        (origin, node),
    )
    ordinal: int = connection.value("SELECT ordinal FROM syncd_origin WHERE id = ?", (origin,))
    return ordinal


def _claim(connection: Connection, claim: Vector) -> None:
    """Record that everything below a vector is merged."""
    for origin in claim:
        _ordinal_known(connection, origin)
    connection.many(
        "UPDATE syncd_origin SET seq = ?1 WHERE ordinal = ?2 AND seq < ?1"
        " AND ordinal <> (SELECT origin FROM syncd_replica)",
        [(seq, ordinal) for ordinal, seq in changelog.by_ordinal(connection, claim).items()],
    )
    forks.hold_back(connection)


def _ordinal_known(connection: Connection, origin: bytes) -> None:
    # An origin all of whose changes were superseded is only ever heard of in a claim.
    connection.run("INSERT OR IGNORE INTO syncd_origin (id, node) VALUES (?, '')", (origin,))


class _Scope:
    """What all sections of one merge share. Vectors are by ordinal.

    suspend: called before a table may be written, to have capture suspended.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        merged: dict[int, int],
        known_to_sender: dict[int, int],
        staged: Staged,
        hlc_max: int,
        now_ms: int,
        suspend: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._merged = merged
        self._known_to_sender = known_to_sender
        self._staged = staged
        self._hlc_max = hlc_max
        self._now_ms = now_ms
        self._suspend = suspend
        self.hlc_seen = 0

    def merge(self, table: Table | None, sections: list[Section]) -> Counts:
        """Merge the sections of one table, and hold what of them cannot show."""
        news = [section for section in sections if not _is_known(section, self._merged)]
        counts = Counts(older=sum(map(len, sections)) - sum(map(len, news)))
        if table is None:
            for section in news:
                counts += self._hold(section, held.UNKNOWN_TABLE)
            return counts
        mergeable = []
        for section in news:
            ordered = _in_key_order(table, section)
            present, future = _split_future(ordered, self._hlc_max)
            known, unknown = _split_columns(present, {column.name for column in table.columns})
            counts += self._hold(future, held.FUTURE) + self._hold(unknown, held.UNKNOWN_COLUMN)
            if len(known) and (known.columns or known.existence != bundle.NO_EXISTENCE):
                mergeable.append(known)
        updated = {
            name
            for section in mergeable
            if section.existence == bundle.NO_EXISTENCE
            for name in section.columns
        }
        showing = Showing(self._connection, table, updated)
        # Whether a value is lost to a death depends on what is born.
        for section in sorted(mergeable, key=lambda section: _ORDER[section.existence]):
            counts += self._merge_into(table, section, showing)
        return counts

    def _hold(self, section: Section | None, reason: str) -> Counts:
        if section is None:
            return Counts()
        return Counts(held=held.hold(self._connection, section, reason))

    def _merge_into(self, table: Table, section: Section, showing: Showing) -> Counts:
        columns = staging.columns_of(table, section)
        known = {} if section.ahead else self._known_to_sender
        newest = max(section.hlcs)
        self.hlc_seen = max(self.hlc_seen, newest)
        connection = self._connection
        with staging.changes(connection, table, section, self._staged):
            if self._merged:
                connection.run(
                    "DELETE FROM temp.syncd_staged"
                    f" WHERE seq <= {changelog.up_to('origin', self._merged)}"
                )
            with changelog.resolved(connection, table) as contested:
                logged = overwritten = 0
                if contested:
                    overwritten = connection.value(
                        "SELECT count(*) FROM temp.syncd_contest WHERE NOT stands"
                        f" AND (mask & staged_mask OR staged_mask & {DEAD_BIT})"
                    )
                    logged = conflicts.log(
                        connection,
                        table,
                        columns,
                        known=changelog.up_to("x.origin", known),
                        now_ms=self._now_ms,
                    )
                applied = connection.value("SELECT count(*) FROM temp.syncd_staged WHERE mask <> 0")
                if applied or contested:
                    self._suspend()
                    showing.take_staged(columns, section.existence, contested)
        return Counts(applied, overwritten, len(section) - applied, logged)


_ORDER = {bundle.ALIVE: 0, bundle.DEAD: 1, bundle.NO_EXISTENCE: 2}


def _is_known(section: Section, merged: Mapping[int, int]) -> bool:
    if not len(section):
        return True
    least = min(merged.get(origin, 0) for origin in set(section.origins))
    return max(section.seqs) <= least


def _in_key_order(table: Table, section: Section) -> Section:
    """Return a section with its key's columns in this host's order, or raise `SchemaError`."""
    mine = [column.name for column in table.key]
    if section.key == mine:
        return section
    if sorted(section.key) != sorted(mine):
        raise SchemaError(
            [
                f"tables.{table.name}.key: a peer identifies its rows by"
                f" ({', '.join(section.key)}), this host by ({', '.join(mine)})"
            ]
        )
    keys = [section.keys[section.key.index(name)] for name in mine]
    return msgspec.structs.replace(section, key=mine, keys=keys)


def _split_future(section: Section, hlc_max: int) -> tuple[Section, Section | None]:
    hlcs = section.hlcs
    if not hlcs or max(hlcs) <= hlc_max:
        return section, None
    ahead = [hlc > hlc_max for hlc in hlcs]
    return bundle.select(section, [not a for a in ahead]), bundle.select(section, ahead)


def _split_columns(section: Section, known: set[str]) -> tuple[Section, Section | None]:
    if known.issuperset(section.columns):
        return section, None
    pairs = list(zip(section.columns, section.values, strict=True))

    def keep(wanted: bool, existence: int) -> Section:
        kept = [(name, column) for name, column in pairs if (name in known) is wanted]
        return msgspec.structs.replace(
            section,
            existence=existence,
            columns=[name for name, _ in kept],
            values=[column for _, column in kept],
        )

    return keep(True, section.existence), keep(False, bundle.NO_EXISTENCE)
