"""Waiting: which rows are alive and do not show, and what stands in their way.

Nothing is decided here: `settle` has decided, and this says why. A row that is displaced has lost a
value that must be unique to another, so the conflict log has it, from when it is displaced until it
shows, dies or is displaced by another.
"""

from __future__ import annotations

from syncd.candidates import Candidates
from syncd.clock import ms_of_hlc
from syncd.database import Connection
from syncd.held import CONSTRAINT, DISPLACED, PARENT, Held
from syncd.introspection import constraints
from syncd.literals import literal
from syncd.shadow import hidden
from syncd.table import ALIVE_BIT, Table


def rows(connection: Connection, table: Table) -> list[Held]:
    """Return the rows of a table that are alive and that a constraint keeps from showing.

    One that has lost several values is returned once for each.
    """
    if not hidden(connection, table):
        return []
    demands = constraints(connection, table)
    candidates = Candidates(connection, table, demands, [table], suspend=lambda: None)
    nodes = dict(connection.rows("SELECT ordinal, node FROM syncd_origin"))
    lost: dict[str, list[Held]] = {}
    with candidates.gathered():
        orphans = {*candidates.unsupported()}
        # Only when it was settled was it known who loses in a knot.
        beaten = (
            f"SELECT key FROM syncd_conflict WHERE ended_ms IS NULL AND tbl = {literal(table.name)}"
        )
        for (
            key,
            col,
            value,
            hlc,
            origin,
            _,
            won_key,
            won_value,
            won_hlc,
            won_origin,
            _,
        ) in connection.user_rows(candidates.displacements(beaten)):
            lost.setdefault(key, []).append(
                Held(
                    *(None, table.name, key, col, DISPLACED, nodes[origin], ms_of_hlc(hlc), value),
                    *(won_key, won_value, nodes[won_origin], ms_of_hlc(won_hlc)),
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
    beaten = ", ".join(map(literal, candidates.beaten))
    with (
        candidates.gathered(),
        connection.temporary("syncd_displaced", candidates.displacements(beaten)),
    ):
        named = {"table": table.name, "reason": DISPLACED, "now": now_ms}
        for sql in (_END, _TELL_WINNERS_AS_THEY_ARE):
            connection.run(sql, named)
        return connection.run(_BEGIN, named)


_END = """
    UPDATE syncd_conflict SET ended_ms = :now WHERE tbl = :table AND ended_ms IS NULL
        AND (lost_origin, lost_seq, lost_hlc, col, won_key) NOT IN
        (SELECT lost_origin, lost_seq, lost_hlc, col, won_key FROM temp.syncd_displaced)
"""
# The plus keeps SQLite from going through all that is open once for each that is displaced.
_TELL_WINNERS_AS_THEY_ARE = """
    UPDATE syncd_conflict AS c SET lost_value = d.lost_value, won_value = d.won_value,
        won_hlc = d.won_hlc, won_origin = d.won_origin
    FROM temp.syncd_displaced AS d
    WHERE c.lost_origin = d.lost_origin AND c.lost_seq = d.lost_seq
        AND c.lost_hlc = d.lost_hlc AND c.tbl = :table AND c.col = d.col
        AND c.reason = :reason AND c.won_key = d.won_key AND +c.ended_ms IS NULL
        AND (c.lost_value, c.won_value, c.won_hlc, c.won_origin)
        IS NOT (d.lost_value, d.won_value, d.won_hlc, d.won_origin)
"""
_BEGIN = """
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
"""


def _births(table: Table) -> str:
    key = table.literals("h.")
    return (
        f"SELECT {key}, o.node, e.hlc FROM {table.shadow} AS h"
        f" JOIN {table.changes} AS e ON {table.on('e', 'h')} AND e.mask & {ALIVE_BIT}"
        " JOIN syncd_origin AS o ON o.ordinal = e.origin WHERE h.alive = 1 ORDER BY 1"
    )
