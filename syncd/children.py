"""Children: rows that refer to another by its local number, and what becomes of them as it changes.

For whoever writes without foreign keys being enforced, a number in a child's column means whatever
row has it. On other hosts the child is that of a key. So the fold looks where a number has come to
mean another row, or a row has another number, and lets all hosts agree. No trigger does it: one
that names the child would make SQLite refuse to rebuild or to drop that table.
"""

from __future__ import annotations

from syncd import capture, numbers
from syncd.database import Connection
from syncd.introspection import constraints
from syncd.literals import quoted
from syncd.schema import load_tables
from syncd.shadow import hide
from syncd.table import Column, Table


def referring(connection: Connection, table: Table) -> list[tuple[Table, Column]]:
    """Return the columns that refer to a table by row number, each with the table it is of."""
    return [
        (child, column)
        for child in load_tables(connection).values()
        for column in child.columns
        if column.parent is not None and column.parent.name == table.name
    ]


def follow(
    connection: Connection, table: Table, taken: str, changed: str | None, now_ms: int
) -> None:
    """Follow what was written to a table in its children.

    taken: a query of the numbers that have come to mean another row. changed: one of the rows that
    have another number, as of `numbers.changed`; None if there can be none. Both are asked before
    `numbers` is told. now_ms: what the wall clock read when it was written.
    """
    children = referring(connection, table)
    with connection.temporary("syncd_taken", taken) as count:
        for child, column in children if count else ():
            _write_anew(connection, child, column, now_ms)
    if changed is None:
        return
    with connection.temporary("syncd_renumbered", changed) as count:
        for child, column in children if count else ():
            _take_along(connection, child, column)
            _look_again(connection, child, column)


def expect_parents(connection: Connection, child: Table, among: str = "true") -> None:
    """Remember which numbers a table's rows refer to that mean no row yet.

    Whoever comes to have one is their parent from then on. among: a condition on the rows.
    """
    tables = load_tables(connection)
    for column in child.columns:
        if column.parent is not None and column.parent.name in tables:
            numbers.expect(
                connection,
                tables[column.parent.name],
                f"SELECT {quoted(column.name)} AS row FROM {child.sql} WHERE {among}",
            )


def _write_anew(connection: Connection, child: Table, column: Column, now_ms: int) -> None:
    """Journal those whose number means another row by now, and so another key to other hosts."""
    rows = (
        f"SELECT {', '.join(child.identity)} FROM {child.sql}"
        f" WHERE {quoted(column.name)} IN (SELECT row FROM temp.syncd_taken)"
    )
    capture.journal(connection, child, column.bit, rows, now_ms)


def _take_along(connection: Connection, child: Table, column: Column) -> None:
    """Let children refer to the number that their parent has now, if nobody has the former one.

    A REPLACE or a new number leaves them behind; elsewhere they are its children as before. Those
    of a table that refuses it are set aside until it is settled who shows.
    """
    name = quoted(column.name)
    demands = constraints(connection, child)
    with capture.suspended(connection, [child]):
        if not connection.attempt(
            lambda: connection.run(
                f"UPDATE {demands.strictly} {child.sql} AS c SET {name} = r.row"
                f" FROM temp.syncd_renumbered AS r WHERE c.{name} = r.former"
            )
        ):
            hide(
                connection,
                child,
                f"SELECT {child.named_key('c')} FROM {child.sql} AS c"
                f" WHERE c.{name} IN (SELECT former FROM temp.syncd_renumbered)",
            )


def _look_again(connection: Connection, child: Table, column: Column) -> None:
    """Let it be settled once more which of a row's children show, now that its number is another.

    Nothing is written of those that wait in the shadow, so what is known of them is unsettled.
    """
    connection.run(
        "UPDATE syncd_replica SET settled = min(settled, coalesce((SELECT min(e.position) - 1"
        f" FROM {child.shadow} AS h JOIN {child.changes} AS e ON {child.on('e', 'h')}"
        f" WHERE h.alive = 1 AND h.{column.cell} IN (SELECT key FROM temp.syncd_renumbered)),"
        " settled))"
    )
