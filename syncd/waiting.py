"""Waiting: which rows are alive and do not show, and what stands in their way.

Nothing is decided here: `settle` has decided, and this says why. A row that is displaced has lost a
value that must be unique to another, so the conflict log has it, from when it is displaced until it
shows, dies or is displaced by another.
"""

from __future__ import annotations

from syncd import conflicts
from syncd.candidates import Candidates
from syncd.clock import ms_of_hlc
from syncd.database import Connection
from syncd.held import CONSTRAINT, DISPLACED, PARENT, Held
from syncd.introspection import constraints
from syncd.schema import ALIVE_BIT, Table
from syncd.shadow import hidden


def rows(connection: Connection, table: Table) -> list[Held]:
    """Return the rows of a table that are alive and that a constraint keeps from showing.

    One that has lost several values is returned once for each.
    """
    if not hidden(connection, table):
        return []
    orphans = _orphans(connection, table)
    lost: dict[str, list[Held]] = {}
    for one in conflicts.displaced(connection, table.name):
        lost.setdefault(one.key, []).append(
            Held(
                None,
                one.table,
                one.key,
                one.column,
                DISPLACED,
                one.lost_node,
                one.lost_ms,
                one.lost_value,
                one.won_key,
                one.won_value,
                one.won_node,
                one.won_ms,
            )
        )
    found: list[Held] = []
    for key, node, hlc in connection.rows(_births(table)):
        reason = PARENT if key in orphans else CONSTRAINT
        found += lost.get(key) or [Held(None, table.name, key, "", reason, node, ms_of_hlc(hlc))]
    return found


def log_displaced(connection: Connection, candidates: Candidates, *, now_ms: int) -> int:
    """Bring the conflict log in line with which rows of a table are displaced now.

    candidates: those of the table, after the last round of showing. Returns how many are displaced
    that were not, or that are by another row now.
    """
    table = candidates.table
    is_any_open = connection.value(
        "SELECT EXISTS (SELECT 1 FROM syncd_conflict WHERE tbl = ? AND ended_ms IS NULL)",
        (table.name,),
    )
    if not is_any_open and not (candidates.demands.uniques and candidates.is_any_hidden()):
        return 0
    with (
        candidates.gathered(),
        connection.temporary("syncd_displaced", candidates.displacements()),
    ):
        named = {"table": table.name, "reason": DISPLACED, "now": now_ms}
        connection.run(
            "UPDATE syncd_conflict SET ended_ms = :now WHERE tbl = :table AND ended_ms IS NULL"
            " AND (lost_origin, lost_seq, lost_hlc, col, won_key) NOT IN"
            " (SELECT lost_origin, lost_seq, lost_hlc, col, won_key FROM temp.syncd_displaced)",
            named,
        )
        # It may have been written again.
        connection.run(
            """
            UPDATE syncd_conflict AS c SET lost_value = d.lost_value, won_value = d.won_value,
                won_hlc = d.won_hlc, won_origin = d.won_origin
            FROM temp.syncd_displaced AS d WHERE c.tbl = :table AND c.ended_ms IS NULL
                AND (c.lost_origin, c.lost_seq, c.lost_hlc, c.col, c.won_key)
                = (d.lost_origin, d.lost_seq, d.lost_hlc, d.col, d.won_key)
            """,
            named,
        )
        return connection.run(
            """
            INSERT INTO syncd_conflict (at_ms, reason, tbl, key, col, lost_value, lost_hlc,
                lost_origin, lost_seq, won_key, won_value, won_hlc, won_origin, won_dead)
            SELECT :now, :reason, :table, key, col, lost_value, lost_hlc, lost_origin, lost_seq,
                won_key, won_value, won_hlc, won_origin, 0
            FROM temp.syncd_displaced WHERE true
            ON CONFLICT (lost_origin, lost_seq, lost_hlc, tbl, col, reason) DO UPDATE
                SET at_ms = :now, ended_ms = NULL,
                won_key = excluded.won_key, won_value = excluded.won_value,
                won_hlc = excluded.won_hlc, won_origin = excluded.won_origin
            WHERE ended_ms IS NOT NULL
            """,
            named,
        )


def _orphans(connection: Connection, table: Table) -> set[str]:
    demands = constraints(connection, table.name, [column.name for column in table.key])
    candidates = Candidates(connection, table, demands, [table])
    with candidates.gathered():
        return {*candidates.unsupported()}


def _births(table: Table) -> str:
    key = table.literals("h.")
    return (
        f"SELECT {key}, o.node, e.hlc FROM {table.shadow} AS h"
        f" JOIN {table.changes} AS e ON {table.on('e', 'h')} AND e.mask & {ALIVE_BIT}"
        " JOIN syncd_origin AS o ON o.ordinal = e.origin WHERE h.alive = 1 ORDER BY 1"
    )
