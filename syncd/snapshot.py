"""Snapshots: everything a host has, for one that lacks what the other has forgotten.

A snapshot is the same frames that a new host is sent, each marked with what its sender is complete
for and has forgotten. The receiver merges them as any others and remembers which changes came. With
the last frame, all that the sender's vector covers and that did not come has been deleted
meanwhile, and goes; what the vector does not cover stays and is passed on. A snapshot that does not
end deletes nothing. It goes on after an interruption, unless its sender has forgotten more
meanwhile that this host lacks: then rows that came may be gone again, and it begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from syncd import bundle, capture, changelog, compaction, conflicts, forks, packing, settle, shadow
from syncd.bundle import Frame, Progress, Section, Snapshot
from syncd.conflicts import ForgottenDeaths
from syncd.database import Connection
from syncd.literals import literal
from syncd.schema import load_tables
from syncd.table import ALIVE_BIT, Table
from syncd.vector import Vector

log = logging.getLogger(__name__)

SLICE_ROWS = 10_000
"""Entries looked at for one temporary table."""


def answer(
    connection: Connection, since: Vector, after: int, progress: Progress | None
) -> tuple[Vector, int, Snapshot | None]:
    """Return from where to serve a host: since, after and, if that is a snapshot, which.

    since, after: what the host has merged. progress: how far it has read a snapshot of this
    replica.
    """
    forgotten = compaction.horizon(connection)
    if since.covers(forgotten.seqs):
        return since, after, None
    goes_on = progress is not None and since.join(progress.horizon).covers(forgotten.seqs)
    tables = {
        table.name: [column.name for column in table.columns]
        for table in load_tables(connection).values()
    }
    part = Snapshot(tables, dict(forgotten.seqs), forgotten.hlc)
    return Vector(), progress.position if progress and goes_on else 0, part


def progress(connection: Connection, sender: bytes) -> Progress | None:
    """Return how far a sender's snapshot has been read, if one has begun."""
    found = connection.row(
        "SELECT s.horizon, s.position FROM syncd_snapshot AS s"
        " JOIN syncd_origin AS o ON o.ordinal = s.sender WHERE o.id = ?",
        (sender,),
    )
    return Progress(packing.decode(found[0], bundle.Seqs), found[1]) if found else None


def is_needed(mine: Vector, frame: Frame) -> bool:
    """Say whether a frame's sender has forgotten what this host, which has `mine`, lacks."""
    return frame.snapshot is not None and not mine.covers(frame.snapshot.horizon)


def continues(connection: Connection, mine: Vector, sender: bytes, frame: Frame) -> bool:
    """Say whether a frame of a needed snapshot begins it, or goes on where it has been read to."""
    if frame.after == 0:
        return True
    read = progress(connection, sender)
    assert frame.snapshot is not None
    return (
        read is not None
        and frame.after <= read.position
        # Neither older than the beginning nor from after the sender has forgotten more.
        and Vector(frame.snapshot.horizon).covers(read.horizon)
        and mine.join(read.horizon).covers(frame.snapshot.horizon)
    )


def note(connection: Connection, sender: int, frame: Frame, sections: Sequence[Section]) -> None:
    """Remember what a frame of a needed snapshot holds; its sections' origins are ordinals."""
    assert frame.snapshot is not None
    if frame.after == 0:
        drop(connection, sender)
        is_new = not changelog.vector(connection)
        log.log(
            logging.INFO if is_new else logging.WARNING,
            "%s has forgotten deletions that this host lacks: taking a snapshot of it",
            _node(connection, sender),
        )
    connection.run(
        "INSERT INTO syncd_snapshot VALUES (?, ?, ?) ON CONFLICT (sender) DO UPDATE"
        " SET position = max(position, excluded.position)",
        (sender, frame.position, packing.encode(frame.snapshot.horizon)),
    )
    for section in sections:
        connection.many(
            f"INSERT OR IGNORE INTO syncd_came VALUES ({sender}, ?, ?)",
            zip(section.origins, section.seqs, strict=True),
        )


def drop(connection: Connection, sender: int) -> None:
    """Forget how far a sender's snapshot has been read."""
    if connection.run("DELETE FROM syncd_snapshot WHERE sender = ?", (sender,)):
        connection.run("DELETE FROM syncd_came WHERE sender = ?", (sender,))


def finish(connection: Connection, sender: int, frame: Frame, *, now_ms: int) -> int:
    """Take away what a snapshot that has ended did not have; return how many rows it hid.

    The journal must be folded and the frame merged, its claim not yet.
    """
    assert frame.snapshot is not None
    assert frame.claim is not None
    part = frame.snapshot
    tables = load_tables(connection)
    claim = changelog.by_ordinal(connection, forks.shared(connection, Vector(frame.claim)))
    covered = changelog.up_to("e.origin", claim)
    gone = (
        f"e.seq <= {covered} AND NOT EXISTS (SELECT 1 FROM syncd_came AS c"
        f" WHERE c.sender = {sender} AND c.origin = e.origin AND c.seq = e.seq)"
    )
    complete = [tables[name] for name in part.tables if name in tables]
    deaths = ForgottenDeaths(sender, part.hlc, now_ms)
    rows = 0
    with capture.suspended(connection, settle.affected(connection, tables, tables)):
        for table in complete:
            rows += _take_away(connection, table, f"{gone} AND {_told_of(table, part)}", deaths)
        names = ", ".join(literal(name) for name in part.tables)
        connection.run(f"DELETE FROM syncd_held AS e WHERE e.tbl IN ({names}) AND {gone}")
        for table in tables.values():
            compaction.lift(connection, table, f"e.seq > {covered}", part.hlc)
        compaction.lift_held(connection, f"e.seq > {covered}", part.hlc)
        lost = [table.name for table in complete]
        settle.settle(connection, tables, lost, suspend=lambda: None, now_ms=now_ms)
    compaction.adopt(connection, Vector(part.horizon), part.hlc)
    drop(connection, sender)
    log.info(
        "the snapshot of %s is complete: %d rows were deleted meanwhile",
        _node(connection, sender),
        rows,
    )
    return rows


def _node(connection: Connection, ordinal: int) -> str:
    node: str = connection.value("SELECT node FROM syncd_origin WHERE ordinal = ?", (ordinal,))
    return node


def _told_of(table: Table, part: Snapshot) -> str:
    """Return the condition that the sender would have sent entry `e`, if it had it.

    It does not send what was written to columns that it has dropped.
    """
    unknown = sum(
        column.bit for column in table.columns if column.name not in part.tables[table.name]
    )
    return f"(e.mask & {ALIVE_BIT} OR NOT e.mask & {unknown})"


def _take_away(connection: Connection, table: Table, gone: str, deaths: ForgottenDeaths) -> int:
    """Take a table's entries away, with what they show; return how many rows were hidden for good.

    gone: a condition on the entry `e`. Rows that live on without them are put together again when
    it is settled what shows.
    """
    rows = after = 0
    while upto := _next_slice(connection, table, after):
        rows += _take_slice(
            connection, table, gone, f"e.position > {after} AND e.position <= {upto}", deaths
        )
        after = upto
    return rows


def _next_slice(connection: Connection, table: Table, after: int) -> int | None:
    upto: int | None = connection.value(
        "SELECT max(position) FROM (SELECT position FROM"
        f" {table.changes} WHERE position > ? ORDER BY position LIMIT {SLICE_ROWS})",
        (after,),
    )
    return upto


def _take_slice(
    connection: Connection, table: Table, gone: str, between: str, deaths: ForgottenDeaths
) -> int:
    cells = ", ".join(table.key_cells)
    with connection.temporary(
        "syncd_gone",
        f"SELECT {cells}, position, e.mask & {ALIVE_BIT} AS alive FROM {table.changes} AS e"
        f" WHERE {between} AND {gone}",
    ) as count:
        if not count:
            return 0
        keys = f"SELECT {cells} FROM temp.syncd_gone"
        shadow.hide(connection, table, f"SELECT DISTINCT {cells} FROM temp.syncd_gone")
        connection.run(
            f"DELETE FROM {table.changes} WHERE ({cells}, position) IN"
            f" (SELECT {cells}, position FROM temp.syncd_gone)"
        )
        connection.run(
            f"UPDATE {table.shadow} SET alive = 0 WHERE ({cells}) IN ({keys} WHERE alive)"
        )
        connection.run(
            f"DELETE FROM {table.shadow} AS h WHERE alive = 0 AND ({cells}) IN ({keys})"
            f" AND NOT {shadow.owned(table, 'h')} & {table.columns_mask}"
        )
        left = f"({table.cells('e')}) IN ({keys} WHERE alive) AND NOT ({gone})"
        if conflicts.log_left(connection, table, left, deaths):
            conflicts.keep_rows(connection, table, table.changes, left)
        rows: int = connection.value("SELECT coalesce(sum(alive), 0) FROM temp.syncd_gone")
        return rows
