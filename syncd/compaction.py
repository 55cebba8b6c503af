"""Compaction: forgetting deaths that nobody needs to be told of any more.

A death goes once it is older than the retention and every live peer has it, and so does a column
write that hangs on no birth; a peer that has been silent for longer pins nothing. What is gone is
remembered as the *horizon*: per origin the highest seq, and the greatest reading of all. A host
whose vector does not cover the horizon is served a `snapshot` instead of the changes it lacks.

The invariant that keeps hosts equal although they forget at different times: a host whose vector
covers a death has no change of that row that the death would have taken, not even among those that
are held. Where a change may break it, `lift` gives the change a stamp just above all that was
forgotten. Nothing here writes a user's table, and what goes is decided in the transaction in which
it goes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from syncd import bundle, changelog, children, conflicts, held, numbers
from syncd.clock import hlc_of_ms
from syncd.database import Connection
from syncd.literals import literal
from syncd.schema import adrift, load_tables
from syncd.table import ALIVE_BIT, DEAD_BIT, Table
from syncd.vector import Vector

SLICE_ROWS = 1_000
"""Entries forgotten in one transaction."""


@dataclass(frozen=True)
class Horizon:
    """What a replica has forgotten: per origin the highest seq; hlc: the greatest reading."""

    seqs: Vector
    hlc: int


@dataclass(frozen=True)
class Slice:
    """A range of positions in a table's changelog that has entries to forget."""

    table: str
    after: int
    upto: int


def horizon(connection: Connection) -> Horizon:
    """Return what this replica has forgotten."""
    found = connection.rows(
        "SELECT o.id, h.seq, h.hlc FROM syncd_horizon AS h"
        " JOIN syncd_origin AS o ON o.ordinal = h.origin"
    )
    return Horizon(
        Vector({origin: seq for origin, seq, _ in found}),
        max((hlc for *_, hlc in found), default=0),
    )


def adopt(connection: Connection, seqs: Vector, hlc: int) -> None:
    """Take over what another host has forgotten. The journal must be folded."""
    connection.many(
        "INSERT INTO syncd_horizon SELECT ordinal, ?, ? FROM syncd_origin WHERE id = ?"
        f" ON CONFLICT (origin) DO UPDATE SET {_RAISED}",
        [(seq, hlc, origin) for origin, seq in seqs.items()],
    )
    # What is written here from now on must be newer than what was forgotten.
    changelog.advance_clock(connection, hlc)


_RAISED = "seq = max(seq, excluded.seq), hlc = max(hlc, excluded.hlc)"


def slices(connection: Connection, now_ms: int, retention_ms: int) -> list[Slice]:
    """Return where there is something to forget, `SLICE_ROWS` entries at a time."""
    old = _old(connection, now_ms, retention_ms)
    found = []
    for table in load_tables(connection).values():
        after = 0
        for (upto,) in connection.rows(
            "SELECT position FROM (SELECT position, row_number() OVER (ORDER BY position) AS n,"
            f" count(*) OVER () AS total FROM {table.changes} AS e WHERE {_needless(table, old)})"
            f" WHERE n % {SLICE_ROWS} = 0 OR n = total ORDER BY position"
        ):
            found.append(Slice(table.name, after, upto))
            after = upto
    return found


def forget(connection: Connection, part: Slice, now_ms: int, retention_ms: int) -> int:
    """Forget what is to be forgotten in a slice by now; return how many entries."""
    table = load_tables(connection).get(part.table)
    if table is None:
        return 0
    cells = ", ".join(table.key_cells)
    needless = _needless(table, _old(connection, now_ms, retention_ms))
    query = (
        f"SELECT {cells}, position, origin, seq, hlc, mask FROM {table.changes} AS e"
        f" WHERE {needless} AND e.position > {part.after} AND e.position <= {part.upto}"
    )
    with connection.temporary("syncd_forgotten", query) as count:
        connection.run(
            f"DELETE FROM {table.changes} WHERE ({cells}, position) IN"
            f" (SELECT {cells}, position FROM temp.syncd_forgotten)"
        )
        _take_held(connection, table, now_ms)
        # The values that hung on no birth. What a constraint holds back is alive.
        connection.run(
            f"DELETE FROM {table.shadow} AS h WHERE alive = 0 AND ({cells}) IN"
            f" (SELECT {cells} FROM temp.syncd_forgotten) AND NOT EXISTS"
            f" (SELECT 1 FROM {table.changes} AS e WHERE {table.on('e', 'h')}"
            f" AND e.mask & ~{DEAD_BIT})"
        )
        connection.run(
            "INSERT INTO syncd_horizon SELECT origin, max(seq), max(hlc) FROM temp.syncd_forgotten"
            f" WHERE true GROUP BY origin ON CONFLICT (origin) DO UPDATE SET {_RAISED}"
        )
    return count


def has_gone(connection: Connection) -> bool:
    """Say whether rows with minted keys are gone of which somebody may have spoken."""
    return bool(_with_gone(connection))


def forget_gone(connection: Connection) -> None:
    """Forget the numbers of such rows, once nothing speaks of them."""
    for table in _with_gone(connection):
        numbers.prune(connection, table, children.referring(connection, table))


def _with_gone(connection: Connection) -> list[Table]:
    """Return the tables with such rows; none if one is adrift, as it cannot be asked."""
    if adrift(connection):
        return []
    return [
        table
        for table in load_tables(connection).values()
        if table.is_generated
        and connection.value(f"SELECT EXISTS (SELECT 1 FROM {table.numbers} WHERE gone)")
    ]


def has_conflicts(connection: Connection, now_ms: int, retention_ms: int) -> bool:
    """Say whether a conflict ended longer ago than the retention."""
    return bool(
        connection.value(
            "SELECT EXISTS (SELECT 1 FROM syncd_conflict WHERE ended_ms < ?)",
            (now_ms - retention_ms,),
        )
    )


def forget_conflicts(connection: Connection, now_ms: int, retention_ms: int) -> int:
    """Forget some of the conflicts that ended before the retention; return how many."""
    return connection.run(
        "DELETE FROM syncd_conflict WHERE id IN (SELECT id FROM syncd_conflict"
        f" WHERE ended_ms < ? ORDER BY id LIMIT {SLICE_ROWS})",
        (now_ms - retention_ms,),
    )


def lift(connection: Connection, table: Table, where: str, hlc: int) -> int:
    """Give entries of a table a new stamp, just above a reading; return how many.

    They become changes of this host, so that every host is told of them, and a birth among them
    then writes every column of its row that nothing else writes: that is what hosts are to agree
    on that may have forgotten different things of the row. where: a condition on the entry `e`.
    The journal must be folded.
    """
    cells = ", ".join(table.key_cells)
    with connection.temporary(
        "syncd_lifted",
        f"SELECT {cells}, position, mask, {_unwritten(table)} AS unwritten,"
        " row_number() OVER (ORDER BY position) AS n"
        f" FROM {table.changes} AS e WHERE e.hlc <= {hlc} AND NOT e.mask & {DEAD_BIT}"
        f" AND ({where})",
    ) as count:
        if not count:
            return 0
        _write_defaults(connection, table)
        connection.run(
            f"DELETE FROM {table.changes} WHERE ({cells}, position) IN"
            f" (SELECT {cells}, position FROM temp.syncd_lifted)"
        )
        positions = held.take_positions(connection, count)
        seqs = changelog.take_seqs(connection, count)
        connection.run(
            f"INSERT INTO {table.changes} ({cells}, position, origin, seq, hlc, mask)"
            f" SELECT {cells}, ? + n, (SELECT origin FROM syncd_replica), ? + n, ?,"
            " mask | unwritten FROM temp.syncd_lifted",
            (positions, seqs, hlc + 1),
        )
        changelog.advance_clock(connection, hlc + 1)
    return count


def lacks_columns(table: Table) -> str:
    """Return the SQL condition that entry `e` is the birth of a row with columns nobody wrote."""
    return f"e.mask & {ALIVE_BIT} AND {_unwritten(table)} <> 0"


def is_buried(table: Table) -> str:
    """Return the SQL condition that entry `e` is of a row without birth or death."""
    own = f"SELECT 1 FROM {table.changes} AS o WHERE {table.on('o', 'e')}"
    return f"NOT EXISTS ({own} AND o.mask & {ALIVE_BIT | DEAD_BIT})"


def lift_held(connection: Connection, where: str, hlc: int) -> None:
    """Give held changes a new stamp, as `lift` does. where: a condition on the held entry `e`."""
    with connection.temporary(
        "syncd_lifted",
        "SELECT rowid AS id, dense_rank() OVER (ORDER BY origin, seq, hlc) AS change,"
        " row_number() OVER (ORDER BY position) AS n"
        f" FROM syncd_held AS e WHERE e.hlc <= {hlc} AND e.existence <> {bundle.DEAD}"
        f" AND ({where})",
    ) as count:
        if not count:
            return
        positions = held.take_positions(connection, count)
        changes = connection.value("SELECT max(change) FROM temp.syncd_lifted")
        seqs = changelog.take_seqs(connection, changes)
        connection.run(
            "UPDATE syncd_held AS h SET position = ? + l.n, seq = ? + l.change, hlc = ?,"
            " origin = (SELECT origin FROM syncd_replica)"
            " FROM temp.syncd_lifted AS l WHERE h.rowid = l.id",
            (positions, seqs, hlc + 1),
        )
        changelog.advance_clock(connection, hlc + 1)


def _take_held(connection: Connection, table: Table, now_ms: int) -> None:
    """Take what is held and older than a death of its row that is being forgotten."""
    names = literal(json.dumps([column.name for column in table.key]))
    of_table = f"s.tbl = {literal(table.name)} AND s.key_names = {names}"
    # Its table has cells for as many columns as a key has had of which something was held.
    if connection.value(f"SELECT EXISTS (SELECT 1 FROM syncd_held AS s WHERE {of_table})"):
        lost = (
            f"FROM syncd_held AS s JOIN temp.syncd_forgotten AS e ON {table.on('e', 's')}"
            f" AND {of_table} WHERE e.mask & {DEAD_BIT} AND ({changelog.STANDS})"
        )
        conflicts.log_held(connection, table, lost, now_ms=now_ms)
        connection.run(f"DELETE FROM syncd_held WHERE rowid IN (SELECT s.rowid {lost})")


def _unwritten(table: Table) -> str:
    """Return the SQL of the column registers of a birth's row that no entry owns."""
    return (
        f"CASE WHEN e.mask & {ALIVE_BIT} THEN {table.columns_mask} & ~(SELECT sum(o.mask)"
        f" FROM {table.changes} AS o WHERE {table.on('o', 'e')}) ELSE 0 END"
    )


def _write_defaults(connection: Connection, table: Table) -> None:
    """Give rows that are held back the values that showing rows have where nobody wrote any."""
    if not table.columns:
        return
    sets = ", ".join(
        f"{c.cell} = CASE WHEN l.unwritten & {c.bit} THEN {c.preset} ELSE h.{c.cell} END"
        for c in table.columns
    )
    connection.run(
        f"UPDATE {table.shadow} AS h SET {sets} FROM temp.syncd_lifted AS l"
        f" WHERE {table.on('h', 'l')} AND l.unwritten"
    )


def _needless(table: Table, old: str) -> str:
    """Return the condition that entry `e` is a death or hangs on no birth, and may be forgotten."""
    born = f"SELECT 1 FROM {table.changes} AS b WHERE {table.on('b', 'e')} AND b.mask & {ALIVE_BIT}"
    return f"NOT e.mask & {ALIVE_BIT} AND {old} AND (e.mask & {DEAD_BIT} OR NOT EXISTS ({born}))"


def _old(connection: Connection, now_ms: int, retention_ms: int) -> str:
    """Return the condition that entry `e` is past its retention and no live peer lacks it."""
    since_ms = now_ms - retention_ms
    everywhere = connection.rows(
        "SELECT o.ordinal, min(o.seq, coalesce((SELECT min(coalesce(t.seq, 0))"
        " FROM syncd_heard AS p LEFT JOIN syncd_told AS t"
        " ON t.sender = p.sender AND t.origin = o.ordinal"
        " WHERE p.at_ms >= ? AND p.sender <> (SELECT origin FROM syncd_replica)), o.seq))"
        " FROM syncd_origin AS o",
        (since_ms,),
    )
    had = " ".join(f"WHEN {ordinal} THEN {seq}" for ordinal, seq in everywhere)
    return f"e.hlc < {hlc_of_ms(max(since_ms, 0))} AND e.seq <= CASE e.origin {had} ELSE 0 END"
