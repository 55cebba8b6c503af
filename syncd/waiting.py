"""Waiting: which rows are alive and do not show, and what stands in their way.

Nothing is decided here and nothing written: `settle` has decided, and this says why, by the same
candidates.
"""

from __future__ import annotations

from syncd.candidates import Candidates
from syncd.clock import ms_of_hlc
from syncd.database import Connection
from syncd.held import CONSTRAINT, DISPLACED, PARENT, Held
from syncd.introspection import constraints
from syncd.schema import ALIVE_BIT, Table
from syncd.shadow import hidden


def rows(connection: Connection, table: Table) -> list[Held]:
    """Return the rows of a table that are alive and that a constraint keeps from showing."""
    if not hidden(connection, table):
        return []
    demands = constraints(connection, table.name, [column.name for column in table.key])
    candidates = Candidates(connection, table, demands, [table])
    candidates.begin()
    candidates.gather()
    orphans = set(candidates.unsupported())
    names = dict(connection.rows("SELECT hex(id), node FROM syncd_origin"))
    winners = {
        key: (winner, names[stamp[16:-16]], ms_of_hlc(int(stamp[:16], 16)))
        for key, winner, stamp in candidates.displaced()
    }
    candidates.drop()
    candidates.end()
    return [
        Held(
            *(None, table.name, key, ""),
            DISPLACED if key in winners else PARENT if key in orphans else CONSTRAINT,
            *(node, ms_of_hlc(hlc)),
            *winners.get(key, ()),
        )
        for key, node, hlc in connection.rows(_births(table))
    ]


def _births(table: Table) -> str:
    key = " || ', ' || ".join(f"quote(h.{cell})" for cell in table.key_cells)
    return (
        f"SELECT {key}, o.node, e.hlc FROM {table.shadow} AS h"
        f" JOIN {table.changes} AS e ON {table.on('e', 'h')} AND e.mask & {ALIVE_BIT}"
        " JOIN syncd_origin AS o ON o.ordinal = e.origin WHERE h.alive = 1 ORDER BY 1"
    )
