"""Branches: what hangs on rows in their own table, for which it has no other parent.

A tree that loses its root goes as a whole. To take it away level by level would take as many turns
as it is deep, and each of them looks at all rows; one recursive query follows the references.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from syncd.demands import ForeignKey
from syncd.literals import quoted
from syncd.table import Table


def own(table: Table, references: Sequence[ForeignKey]) -> list[ForeignKey]:
    """Return the references to one row of the same table, by its key or its number.

    Of two rows that have another UNIQUE value in turn, either may be the parent.
    """
    one = ({column.name for column in table.key}, {table.rowid})
    return [
        reference
        for reference in references
        if reference.parent == table.name and set(reference.parent_columns) in one
    ]


def query(
    lost: str,
    among: str,
    identity: Sequence[str],
    references: Sequence[ForeignKey],
    goes: Callable[[ForeignKey], str],
) -> str:
    """Return the query of rows and of all that hangs on them, under the names i0, i1, ...

    lost: a query of the identities of the first. among: the table of the rows. identity: what tells
    them apart there. references: those of `own`. goes: the condition that row `c` goes with the
    parent that a reference says.
    """
    names = [f"i{n}" for n in range(len(identity))]
    is_it = " AND ".join(f"p.{part} = b.{i}" for part, i in zip(identity, names, strict=True))
    parts = ", ".join(f"c.{part}" for part in identity)
    referring = [quoted(column) for reference in references for column in reference.columns]
    # A table of its own gets an index for this query; of a table WITHOUT ROWID none is made.
    children = f"(SELECT {', '.join(dict.fromkeys([*identity, *referring]))} FROM {among} LIMIT -1)"
    below = "".join(
        f" UNION SELECT {parts} FROM syncd_branches AS b CROSS JOIN {among} AS p ON {is_it}"
        f" CROSS JOIN {children} AS c ON {_hangs(reference)} WHERE {goes(reference)}"
        for reference in references
    )
    return (
        f"WITH RECURSIVE syncd_branches({', '.join(names)}) AS ({lost}{below})"
        " SELECT * FROM syncd_branches"
    )


def _hangs(reference: ForeignKey) -> str:
    """Return the condition that row `c` refers to row `p`.

    Without the parent's affinity, for which an index of the child's columns would be no use. What
    tells parents apart compares as bytes, whatever the child's collation.
    """
    pairs = zip(reference.columns, reference.parent_columns, strict=True)
    return " AND ".join(
        f"c.{quoted(child)} = +p.{quoted(parent)} COLLATE BINARY" for child, parent in pairs
    )
