"""The shadow: rows that do not show, and how one gets there.

`syncd_shadow_T` holds the values of registers that are merged but whose row does not show: it is
dead, not yet born, or, with `alive` set, held back by a constraint. A row stands in the user's
table or here, never in both. One that leaves the user's table takes its rowid along.
"""

from __future__ import annotations

from collections.abc import Callable

from syncd import numbers, usertriggers
from syncd.database import Connection
from syncd.literals import quoted
from syncd.table import Table


def hidden(connection: Connection, table: Table) -> int:
    """Count the rows that are alive and do not show."""
    count: int = connection.value(f"SELECT count(*) FROM {table.shadow} WHERE alive = 1")
    return count


class Hiding:
    """Tells how many rows that are alive have come to be hidden since it was made."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._hidden = f"SELECT {', '.join(table.key_cells)} FROM {table.shadow} WHERE alive = 1"
        # Nearly always there are none, and nothing has to be remembered.
        self._before = f"syncd_hidden_{table.id}" if hidden(connection, table) else None
        if self._before:
            connection.run(f"CREATE TEMP TABLE {self._before} AS {self._hidden}")

    def count(self) -> int:
        """Return how many, once."""
        if self._before is None:
            return hidden(self._connection, self._table)
        count: int = self._connection.value(
            f"SELECT count(*) FROM ({self._hidden} EXCEPT SELECT * FROM temp.{self._before})"
        )
        self._connection.run(f"DROP TABLE temp.{self._before}")
        return count


def owned(table: Table, alias: str) -> str:
    """Return the SQL of the mask of registers that a row's entries own."""
    return (
        f"(SELECT coalesce(sum(o.mask), 0) FROM {table.changes} AS o WHERE {table.on('o', alias)})"
    )


def hide(
    connection: Connection,
    table: Table,
    keys: str,
    *,
    alive: bool = True,
    before: Callable[[], object] = lambda: None,
) -> int:
    """Move rows from the user's table to the shadow; return how many.

    A row that came past the triggers while one of its key is here stays where it is, for `audit` to
    find. keys: a query of their keys, under the names of the key cells. alive: whether they may
    return. before: called if there are any, before they move.
    """
    columns = (*table.columns, *table.excluded)
    cells = [*table.key_cells, "alive", *(column.cell for column in columns)]
    values = [*table.user_key("t"), str(int(alive))]
    values += [column.travelling("t") for column in columns]
    if table.rowid is not None:
        cells.append("row")
        values.append(f"t.{quoted(table.rowid)}")
    not_there = f"NOT EXISTS (SELECT 1 FROM {table.shadow} AS h WHERE {table.on('h', 's')})"
    hiding = "SELECT * FROM temp.syncd_hiding"
    wanted = f"SELECT * FROM ({keys}) AS s WHERE {not_there}"
    with connection.temporary("syncd_hiding", wanted) as last:
        if not last:
            return 0
        before()
        connection.run(
            f"INSERT INTO {table.shadow} ({', '.join(cells)}) SELECT {', '.join(values)}"
            f" FROM temp.syncd_hiding AS s CROSS JOIN {table.sql} AS t ON {table.on_user('t', 's')}"
        )
        count = 0

        def take(first: int, last: int) -> None:
            nonlocal count
            keys = f"{hiding} WHERE rowid BETWEEN {first} AND {last}"
            count += connection.run(f"DELETE FROM {table.sql} WHERE {table.among(keys)}")

        if failing := connection.refused(take, last):
            with usertriggers.silenced(connection, table):
                for some in failing:
                    take(*some)
        if table.is_generated:
            # The number is free now, and may be given to a row that has nothing to do with this
            # one.
            numbers.free(connection, table, hiding)
        return count
