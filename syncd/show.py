"""Showing: bringing the user's table in line with the changelog.

A row that shows stands in the user's table; the values of one that does not (it is dead, or lacks a
value that its table demands) wait in the shadow, never in both. Rows are written by UPSERT on the
sync key, never with REPLACE, so local columns keep their values and no other row is displaced. What
shows is decided per table once all its sections are resolved, because a row's birth and its values
may be changes of different hosts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from syncd import bundle
from syncd.database import Connection, quoted
from syncd.schema import ALIVE_BIT, DEAD_BIT, Column, Table


@contextlib.contextmanager
def showing(connection: Connection, table: Table, updated: Collection[str]) -> Iterator[Showing]:
    """Take in a table's sections one by one, and show what can show at the end.

    updated: columns of which changes to rows born elsewhere are to come.
    """
    connection.run(
        f"CREATE TEMP TABLE syncd_waiting ({table.key_ddl()},"
        f" PRIMARY KEY ({', '.join(table.key_cells)})) WITHOUT ROWID"
    )
    one = Showing(connection, table, updated)
    yield one
    one.reveal()
    connection.run("DROP TABLE temp.syncd_waiting")


class Showing:
    """One table while sections are merged into it."""

    def __init__(self, connection: Connection, table: Table, updated: Collection[str]) -> None:
        self._connection = connection
        self._table = table
        self._updated = updated
        self._required = {
            name
            for (name,) in connection.rows(
                'SELECT name FROM pragma_table_info(?) WHERE "notnull" AND dflt_value IS NULL',
                (table.name,),
            )
        }

    def take_staged(self, columns: list[Column], existence: int, contested: int) -> None:
        """Apply what the staged entries of one section won; their values are those of columns."""
        if existence == bundle.DEAD:
            if contested:
                self._bury()
        elif existence == bundle.ALIVE and self._is_complete(columns):
            self._insert_new(columns)
            if contested:
                self._update(columns)
                self._hide(columns, "s.met")
        else:
            self._update(columns)
            self._hide(columns, "true")

    def reveal(self) -> None:
        """Show the rows that are born and have every value their table demands."""
        table = self._table
        if not self._connection.value("SELECT EXISTS (SELECT 1 FROM temp.syncd_waiting)"):
            return
        values = {
            column.name: f"CASE WHEN owned & {column.bit} THEN h.{column.cell}"
            f" ELSE {column.preset} END"
            for column in table.columns
        }
        names = [*_key_names(table), *(quoted(name) for name in values)]
        demands = [f"{values[name]} IS NOT NULL" for name in values if name in self._required]
        self._connection.run(
            f"INSERT INTO {table.sql} ({', '.join(names)})"
            f" SELECT {', '.join([table.cells('h'), *values.values()])}"
            f" FROM (SELECT w.*, {owned(table, 'w')} AS owned FROM temp.syncd_waiting AS w) AS w"
            f" CROSS JOIN {table.shadow} AS h ON {table.on('h', 'w')}"
            f" WHERE {' AND '.join([f'owned & {ALIVE_BIT}', *demands])}"
            f" ON CONFLICT ({', '.join(_key_names(table))}) DO NOTHING"
        )
        cells = ", ".join(table.key_cells)
        self._connection.run(
            f"DELETE FROM {table.shadow} WHERE ({cells}) IN (SELECT {cells}"
            f" FROM temp.syncd_waiting AS w CROSS JOIN {table.sql} AS t"
            f" ON {table.on_user('t', 'w')})"
        )

    def _is_complete(self, columns: list[Column]) -> bool:
        """Say whether rows born with these columns need nothing that may come behind them."""
        missing = {c.name for c in self._table.columns} - {c.name for c in columns}
        return missing.isdisjoint(self._updated) and missing.isdisjoint(self._required)

    def _insert_new(self, columns: list[Column]) -> None:
        """Insert rows that no entry was known of."""
        table = self._table
        names = [*_key_names(table), *(quoted(column.name) for column in columns)]
        cells = [*table.key_cells, *(column.cell for column in columns)]
        sets = ", ".join(f"{quoted(c.name)} = excluded.{quoted(c.name)}" for c in columns)
        # If the row stands there after all, someone wrote it uncaptured; the merged change has a
        # stamp and that row has none.
        self._connection.run(
            f"INSERT INTO {table.sql} ({', '.join(names)})"
            f" SELECT {', '.join(cells)} FROM temp.syncd_staged WHERE NOT met AND mask <> 0"
            f" ORDER BY {', '.join(table.key_cells)}"
            f" ON CONFLICT ({', '.join(_key_names(table))})"
            f" DO {'UPDATE SET ' + sets if sets else 'NOTHING'}"
        )

    def _update(self, columns: list[Column]) -> None:
        """Write the registers won in rows that show."""
        if not columns:
            return
        table = self._table
        sets = ", ".join(
            f"{quoted(c.name)} ="
            f" CASE WHEN s.mask & {c.bit} THEN s.{c.cell} ELSE t.{quoted(c.name)} END"
            for c in columns
        )
        self._connection.run(
            f"UPDATE {table.sql} AS t SET {sets} FROM temp.syncd_staged AS s"
            f" WHERE {table.on_user('t', 's')} AND s.met AND s.mask & {_mask(columns)}"
        )

    def _hide(self, columns: list[Column], condition: str) -> None:
        """Keep the registers won in rows that do not show, to be looked at by `reveal`."""
        table = self._table
        cells = ", ".join(table.key_cells)
        hidden = (
            f"s.mask <> 0 AND {condition} AND NOT EXISTS"
            f" (SELECT 1 FROM {table.sql} AS t WHERE {table.on_user('t', 's')})"
        )
        for target in (table.shadow, "temp.syncd_waiting"):
            self._connection.run(
                f"INSERT OR IGNORE INTO {target} ({cells})"
                f" SELECT {cells} FROM temp.syncd_staged AS s WHERE {hidden}"
            )
        if columns:
            sets = ", ".join(
                f"{c.cell} = CASE WHEN s.mask & {c.bit} THEN s.{c.cell} ELSE h.{c.cell} END"
                for c in columns
            )
            self._connection.run(
                f"UPDATE {table.shadow} AS h SET {sets} FROM temp.syncd_staged AS s"
                f" WHERE {table.on('h', 's')} AND {hidden}"
            )

    def _bury(self) -> None:
        """Take away rows that died, keeping what was written to them after their death."""
        table = self._table
        cells = ", ".join(table.key_cells)
        dead = (
            f"SELECT {cells} FROM temp.syncd_staged AS s WHERE mask & {DEAD_BIT} AND met"
            f" AND NOT {owned(table, 's')} & {ALIVE_BIT}"
        )
        if table.columns:
            own = ", ".join(column.cell for column in table.columns)
            values = ", ".join(f"t.{quoted(column.name)}" for column in table.columns)
            self._connection.run(
                f"INSERT INTO {table.shadow} ({cells}, {own})"
                f" SELECT {table.user_key('t')}, {values}"
                f" FROM ({dead}) AS s CROSS JOIN {table.sql} AS t ON {table.on_user('t', 's')}"
                f" WHERE {owned(table, 's')} & {table.columns_mask}"
            )
        key = ", ".join(_key_names(table))
        self._connection.run(f"DELETE FROM {table.sql} WHERE ({key}) IN ({dead})")
        self._connection.run(
            f"DELETE FROM {table.shadow} AS h WHERE ({cells}) IN ({dead})"
            f" AND NOT {owned(table, 'h')} & {table.columns_mask}"
        )
        self._reset()

    def _reset(self) -> None:
        """Return columns to their default where a death took their value but a later birth stands.

        It can only happen to a column that the host of that birth did not know.
        """
        table = self._table
        for column in table.columns:
            self._connection.run(
                f"UPDATE {table.sql} AS t SET {quoted(column.name)} = {column.preset}"
                f" FROM temp.syncd_staged AS s WHERE {table.on_user('t', 's')}"
                f" AND s.mask & {DEAD_BIT} AND NOT {owned(table, 's')} & {column.bit}"
            )


def owned(table: Table, alias: str) -> str:
    """Return the SQL of the mask of registers that a row's entries own."""
    return (
        f"(SELECT coalesce(sum(o.mask), 0) FROM {table.changes} AS o WHERE {table.on('o', alias)})"
    )


def _mask(columns: Sequence[Column]) -> int:
    return sum(column.bit for column in columns)


def _key_names(table: Table) -> list[str]:
    return [quoted(column.name) for column in table.key]
