"""Orphans: rows that show while their parent does not, with what hangs on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncd import branches
from syncd.changelog import NEW
from syncd.demands import ForeignKey
from syncd.table import Table


def queries(table: Table, references: Sequence[ForeignKey], among_all: bool) -> Iterator[str]:
    """Yield, for each foreign key of a table, the query of the keys of its orphans.

    among_all: not only among the rows with new entries.
    """
    rows = f"{table.sql} AS c"
    if not among_all:
        cells = ", ".join(table.key_cells)
        written = f"SELECT DISTINCT {cells} FROM {table.changes} AS e WHERE {NEW}"
        rows = f"({written}) AS w CROSS JOIN {rows} ON {table.on_user('c', 'w')}"

    def can_tell(reference: ForeignKey) -> str:
        return _can_tell_parent(table, reference)

    own = branches.own(table, references)
    for reference in references:
        orphans = (
            f"SELECT {', '.join(f'c.{part}' for part in table.identity)} FROM {rows}"
            f" WHERE NOT {reference.is_met('c')} AND {can_tell(reference)}"
        )
        lost = branches.query(orphans, table.sql, table.identity, own, can_tell)
        yield (
            f"SELECT {table.named_key('c')} FROM {table.sql} AS c"
            f" WHERE ({', '.join(table.identity)}) IN ({lost})"
        )


def _can_tell_parent(table: Table, reference: ForeignKey) -> str:
    """Return the condition that it can be remembered which parent row `c` of the user's has.

    A number that no row has had yet says nothing, and would be lost.
    """
    numbered = [
        f"{column.travelling('c')} IS NOT NULL"
        for column in table.columns
        if column.parent is not None and column.name in reference.columns
    ]
    return " AND ".join(numbered) or "true"
