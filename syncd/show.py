"""Showing: bringing the user's table in line with the changelog, as far as nothing is in the way.

A row that shows stands in the user's table; the values of one that does not wait in the shadow,
never in both. What the staged entries of a section won is written straight to where it belongs.
Rows that the table refuses, or that depend on others, are set aside in the shadow, and `settle`
decides about them once all sections are in. Rows are written by UPSERT on the sync key, never with
REPLACE, so local columns keep their values and no other row is displaced.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from syncd import bundle, numbers
from syncd.database import Connection
from syncd.introspection import constraints
from syncd.literals import quoted
from syncd.shadow import hide, owned
from syncd.table import ALIVE_BIT, DEAD_BIT, Column, Table

REFUSED_MAX = 100
"""How many rows of a section are looked for one by one, where its table refuses some."""


class Showing:
    """One table while sections are merged into it.

    updated: columns of which changes to rows born elsewhere are to come.
    """

    def __init__(self, connection: Connection, table: Table, updated: Collection[str]) -> None:
        self._connection = connection
        self._table = table
        self._updated = updated
        demands = constraints(connection, table)
        self._required = demands.required
        self._strictly = demands.strictly
        self._refers = bool(demands.foreign_keys)

    def take_staged(self, columns: list[Column], existence: int, contested: int) -> None:
        """Apply what the staged entries of one section won; their values are those of columns."""
        if existence == bundle.DEAD:
            if contested:
                self._bury()
            return
        if existence == bundle.ALIVE and self._refers:
            self._set_aside(columns, "true")
            return
        connection = self._connection
        set_aside = self._await_parents(columns)
        refused = connection.refused(
            lambda first, last: self._write(
                columns, existence, contested, f"NOT s.aside AND s.id BETWEEN {first} AND {last}"
            ),
            connection.value("SELECT coalesce(max(id), 0) FROM temp.syncd_staged"),
            REFUSED_MAX,
        )
        for ids in refused:
            set_aside += connection.run(
                "UPDATE temp.syncd_staged SET aside = 1 WHERE id BETWEEN ? AND ?", ids
            )
        if set_aside:
            self._set_aside(columns, "s.aside")

    def _await_parents(self, columns: list[Column]) -> int:
        """Mark the rows that refer to a parent whose number is not known yet; return how many."""
        unknown = [
            f"(s.{c.cell} IS NOT NULL AND {c.local(f's.{c.cell}')} IS NULL)"
            for c in columns
            if c.parent is not None
        ]
        if not unknown:
            return 0
        return self._connection.run(
            f"UPDATE temp.syncd_staged AS s SET aside = 1 WHERE {' OR '.join(unknown)}"
        )

    def _write(self, columns: list[Column], existence: int, contested: int, among: str) -> None:
        if existence == bundle.ALIVE and self._is_complete(columns):
            self._insert_new(columns, among)
            if not contested:
                return
            among += " AND s.met"
        won = self._connection.value(
            f"SELECT count(*) FROM temp.syncd_staged AS s WHERE s.mask <> 0 AND {among}"
        )
        # Nearly always they all show; to look for each of them again would cost as much.
        if self._update(columns, among) < won:
            self._hide_won(columns, among)

    def _set_aside(self, columns: list[Column], among: str) -> None:
        cells = ", ".join(self._table.key_cells)
        hide(
            self._connection,
            self._table,
            f"SELECT {cells} FROM temp.syncd_staged AS s WHERE met AND mask <> 0 AND {among}",
        )
        self._hide_won(columns, among)

    def _is_complete(self, columns: list[Column]) -> bool:
        """Say whether rows born with these columns need nothing that may come behind them."""
        missing = {c.name for c in self._table.columns} - {c.name for c in columns}
        return missing.isdisjoint(self._updated) and missing.isdisjoint(self._required)

    def _insert_new(self, columns: list[Column], among: str) -> None:
        """Insert rows that no entry was known of."""
        table = self._table
        names = [*table.identity, *(quoted(column.name) for column in columns)]
        new = f"NOT s.met AND s.mask <> 0 AND {among}"
        if table.numbered:
            # In a number that is free again, children that a lost parent has left behind, and that
            # are not looked at yet, would find another one.
            numbers.allot(
                self._connection,
                table,
                f"SELECT {table.cells('s')}, NULL AS row FROM temp.syncd_staged AS s WHERE {new}",
            )
        cells = [*table.identity_of("s"), *(f"s.{column.cell}" for column in columns)]
        if table.numbered and not table.is_generated:
            names.append(quoted(str(table.rowid)))
            cells.append(f"(SELECT n.row FROM {table.numbers} AS n WHERE {table.on('n', 's')})")
        sets = ", ".join(f"{quoted(c.name)} = excluded.{quoted(c.name)}" for c in columns)
        # If the row stands there after all, someone wrote it uncaptured; the merged change has a
        # stamp and that row has none.
        self._connection.run(
            f"INSERT {self._strictly} INTO {table.sql} ({', '.join(names)})"
            f" SELECT {', '.join(cells)} FROM temp.syncd_staged AS s WHERE {new}"
            f" ON CONFLICT ({table.conflict_target})"
            f" DO {'UPDATE SET ' + sets if sets else 'NOTHING'}"
        )
        if table.numbered and not table.is_generated:
            keys = f"SELECT {table.cells('s')} FROM temp.syncd_staged AS s WHERE {new}"
            numbers.note(self._connection, table, keys)

    def _update(self, columns: list[Column], among: str) -> int:
        """Write the registers won in rows that show; return how many rows that is."""
        if not columns:
            return 0
        table = self._table
        sets = ", ".join(
            f"{quoted(c.name)} = CASE WHEN s.mask & {c.bit} THEN {c.local(f's.{c.cell}')}"
            f" ELSE t.{quoted(c.name)} END"
            for c in columns
        )
        return self._connection.run(
            f"UPDATE {self._strictly} {table.sql} AS t SET {sets} FROM temp.syncd_staged AS s"
            f" WHERE {table.on_user('t', 's')} AND s.met AND s.mask & {_mask(columns)}"
            f" AND {among}"
        )

    def _hide_won(self, columns: list[Column], condition: str) -> None:
        """Keep the registers won in rows that do not show."""
        table = self._table
        cells = ", ".join(table.key_cells)
        hidden = (
            f"s.mask <> 0 AND {condition} AND NOT EXISTS"
            f" (SELECT 1 FROM {table.sql} AS t WHERE {table.on_user('t', 's')})"
        )
        kept = "".join(f", {column.cell}" for column in table.excluded)
        presets = "".join(f", {column.preset}" for column in table.excluded)
        self._connection.run(
            f"INSERT OR IGNORE INTO {table.shadow} ({cells}{kept})"
            f" SELECT {cells}{presets} FROM temp.syncd_staged AS s WHERE {hidden}"
        )
        sets = [f"alive = h.alive OR s.mask & {ALIVE_BIT}"]
        sets += [
            f"{c.cell} = CASE WHEN s.mask & {c.bit} THEN s.{c.cell} ELSE h.{c.cell} END"
            for c in columns
        ]
        self._connection.run(
            f"UPDATE {table.shadow} AS h SET {', '.join(sets)} FROM temp.syncd_staged AS s"
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
        hide(self._connection, table, dead, alive=False)
        self._connection.run(f"UPDATE {table.shadow} SET alive = 0 WHERE ({cells}) IN ({dead})")
        self._connection.run(
            f"DELETE FROM {table.shadow} AS h WHERE ({cells}) IN ({dead})"
            f" AND NOT {owned(table, 'h')} & {table.columns_mask}"
        )
        # A column that the host of a later birth did not know may lose its value to the death; the
        # row is put together again once all sections are in.
        hide(
            self._connection,
            table,
            f"SELECT DISTINCT {table.cells('c')} FROM temp.syncd_contest AS c WHERE NOT c.stands"
            f" AND c.staged_mask & {DEAD_BIT} AND c.mask & {table.columns_mask}"
            f" AND {owned(table, 'c')} & {ALIVE_BIT}",
        )


def _mask(columns: Sequence[Column]) -> int:
    return sum(column.bit for column in columns)
