"""Candidates: the rows of one table that could show, and what stands in their way.

A candidate is alive, whole, and in the shadow. It needs its parents, showing or candidates too, and
of rows that want one UNIQUE value the one with the greatest stamp wins, where a row's stamp is the
newest among its birth and the columns that must be unique. `settle` decides how tables that refer
to each other take turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from syncd import branches, numbers, orphans, usertriggers
from syncd.changelog import NEW
from syncd.database import Connection
from syncd.demands import Constraints, Unique
from syncd.literals import literal, quoted
from syncd.shadow import hidden, hide, owned
from syncd.table import ALIVE_BIT, DEAD_BIT, Column, Table

_SIDE = ("value", "hlc", "origin", "seq")


class Candidates:
    """Those of one table.

    circle: it and the tables that refer to each other with it. suspend: called before a row may
    come or go, to have capture suspended. beaten: the keys, as SQL literals, of rows that have lost
    a value in a knot, which may be to older ones as well.
    """

    def __init__(
        self,
        connection: Connection,
        table: Table,
        demands: Constraints,
        circle: Sequence[Table],
        suspend: Callable[[], object],
    ) -> None:
        self.name = table.name
        self.parents = {reference.parent for reference in demands.foreign_keys}
        self.table = table
        self.demands = demands
        self._connection = connection
        self._suspend = suspend
        self._own = branches.own(table, demands.foreign_keys)
        self._cells = ", ".join(table.key_cells)
        self._candidates_of = {other.name: f"syncd_candidate_{other.id}" for other in circle}
        self._candidate = self._candidates_of[table.name]
        self._rival = f"syncd_rival_{table.id}"
        # An index may name its own table.
        self._named_like_table = f"temp.{self._candidate} AS {table.sql}"
        self._whole = f"syncd_whole_{table.id}"
        self._barred = f"syncd_barred_{table.id}"
        # Columns that have come since it was enrolled may be part of what it demands already.
        self._since = {
            name: preset for name, preset in demands.presets.items() if name not in table.names
        }
        self.beaten: list[str] = []

    def has_lost(self, referred_to: set[str]) -> bool:
        """Say whether new entries may have taken away what children refer to."""
        bits = DEAD_BIT | sum(c.bit for c in self.table.columns if c.name in referred_to)
        if not referred_to.isdisjoint(self.demands.made_of):
            bits |= self.table.columns_mask
        return bool(
            self._connection.value(
                f"SELECT EXISTS (SELECT 1 FROM {self.table.changes} AS e WHERE {NEW}"
                f" AND e.mask & {bits})"
            )
        )

    def has_set_aside(self) -> bool:
        """Say whether a row with new entries waits in the shadow."""
        table = self.table
        return bool(
            self._connection.value(
                f"SELECT EXISTS (SELECT 1 FROM {table.changes} AS e CROSS JOIN {table.shadow} AS h"
                f" ON {table.on('h', 'e')} WHERE {NEW} AND h.alive = 1)"
            )
        )

    def hide_orphans(self, *, among_all: bool) -> int:
        """Hide the rows whose parent does not show; return how many.

        among_all: not only among the rows with new entries.
        """
        references = self.demands.foreign_keys
        return sum(self._hide(keys) for keys in orphans.queries(self.table, references, among_all))

    def _hide(self, keys: str) -> int:
        return hide(self._connection, self.table, keys, before=self._suspend)

    def is_any_hidden(self) -> bool:
        """Say whether any row that is alive does not show."""
        return bool(hidden(self._connection, self.table))

    def begin(self) -> None:
        """Prepare for rounds of showing. Rows that are barred show in none of them any more."""
        self._connection.run(f"CREATE TEMP TABLE {self._barred} ({self._cells})")

    def end(self) -> None:
        """Clear what `begin` has prepared."""
        self._connection.run(f"DROP TABLE temp.{self._barred}")

    def number(self) -> None:
        """Give each row that waits a number, if others may refer to it by that."""
        table = self.table
        if table.numbered:
            waiting = f"SELECT * FROM {table.shadow} AS h WHERE {self._is_waiting()}"
            numbers.allot(self._connection, table, waiting)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather the candidates as before the first round of showing."""
        self.begin()
        self.gather()
        yield
        self._drop()
        self.end()

    def gather(self) -> None:
        """Gather the candidates: hidden rows that are alive and whole.

        Of each all expressions can be made that its table is declared with.
        """
        connection = self._connection
        expressions = [*map(quoted, self.demands.made_of), *self._indexed_expressions()]
        tried = ", ".join(f"max(({one}) IS NULL)" for one in expressions)

        def take(ids: str) -> None:
            rows = f"SELECT * FROM temp.{self._whole} WHERE {ids}"
            connection.run(f"INSERT INTO temp.{self._candidate} {rows}")
            if expressions:
                connection.rows(f"SELECT {tried} FROM {self._named_like_table} WHERE {ids}")

        self._create()
        with connection.temporary(self._whole, self._candidates()):
            self._give_up(self._whole, _list(self._failing(self._whole, take)))

    def _create(self) -> None:
        """Make a temporary table for candidates, whose columns compare like those of their table.

        Or else an index's predicate would choose other rows there. They stand in the order of
        `_candidates`, behind generated ones.
        """
        table = self.table
        users = [*table.identity]
        if table.rowid is not None and not table.is_generated:
            users.append(quoted(table.rowid))
        users += [quoted(column.name) for column in (*table.columns, *table.excluded)]
        users += map(quoted, self._since)
        declared = self.demands.declared
        keys = ", ".join(
            f"syncd_{cell} {column.affinity}"
            for cell, column in zip(table.key_cells, table.key, strict=True)
        )
        listed = [
            *(
                f"{quoted(name)} {declared[quoted(name)]} AS ({sql})"
                for name, sql in self.demands.made_of.items()
            ),
            *(f"{column} {declared[column]}" for column in users),
            f"{keys}, syncd_id INTEGER, syncd_row INTEGER, syncd_stamp TEXT",
        ]
        self._connection.run(f"CREATE TEMP TABLE {self._candidate} ({', '.join(listed)})")

    def _indexed_expressions(self) -> list[str]:
        """Return what must be unique and takes more than a column to say."""
        return [
            term.sql if one.predicate is None else f"CASE WHEN {one.predicate} THEN {term.sql} END"
            for one in self.demands.uniques
            if one.columns is None
            for term in one.terms
        ]

    def _failing(self, table: str, work: Callable[[str], object]) -> list[int]:
        """Do some work for rows of a temporary table; return the `syncd_id` of those it fails for.

        work: does it for the rows of which a condition is true.
        """
        connection = self._connection
        if connection.attempt(lambda: work("true")):
            return []
        connection.run(f"CREATE INDEX temp.{table}_id ON {table} (syncd_id)")
        ranges = connection.refused(
            lambda first, last: work(f"syncd_id BETWEEN {first} AND {last}"),
            connection.value(f"SELECT max(syncd_id) FROM temp.{table}"),
        )
        return [first for first, _ in ranges]

    def _give_up(self, table: str, ids: str) -> int:
        """Take rows out of a temporary table and try them no more; return how many.

        ids: their `syncd_id`, as a list or a query.
        """
        keys = ", ".join(f"syncd_{cell}" for cell in self.table.key_cells)
        taken = f"FROM temp.{table} WHERE syncd_id IN ({ids})"
        self._connection.run(f"INSERT INTO temp.{self._barred} SELECT {keys} {taken}")
        return self._connection.run(f"DELETE {taken}")

    def unsupported(self) -> list[str]:
        """Return the keys of hidden rows whose parent does not show, as SQL literals."""
        candidates = [
            f"SELECT {self.table.literals('c.syncd_')} FROM temp.{self._candidate} AS c"
            f" WHERE NOT {reference.is_met('c')}"
            for reference in self.demands.foreign_keys
        ]
        numberless = [
            f"SELECT {self.table.literals('h.')} FROM {self.table.shadow} AS h"
            f" WHERE h.alive = 1 AND NOT {_is_numbered(column)}"
            for column in self.table.columns
            if column.parent is not None
        ]
        queries = [*candidates, *numberless]
        return [key for query in queries for (key,) in self._connection.rows(query)]

    def displacements(self, beaten: str) -> str:
        """Return the query of candidates and of the rows that they have lost UNIQUE values to.

        Those are newer, unless a knot was decided for them. Keys are SQL literals, and so are
        values of several columns. Stamps are those that decide it, with the origin's ordinal.
        beaten: which rows have lost in a knot, as a list or a query of what `self.beaten` has.
        """

        def rivals(unique: Unique) -> str:
            return self._rivals(
                unique, f", {unique.value('w')} AS wanted, {unique.value('v')} AS had"
            )

        pairs = [
            f"SELECT {self.table.literals('c.syncd_')} AS key, {literal(unique.name)} AS col,"
            f" r.wanted AS lost_value, {_unpacked('c', 'lost')},"
            f" {self.table.literals('r.')} AS won_key, r.had AS won_value, {_unpacked('r', 'won')},"
            " r.syncd_stamp > c.syncd_stamp AS is_newer"
            f" FROM ({rivals(unique)}) AS r"
            f" JOIN temp.{self._candidate} AS c ON c.syncd_id = r.id"
            " WHERE r.syncd_stamp IS NOT NULL"
            for unique in self.demands.uniques
        ]
        sides = ([f"{side}_{part}" for part in _SIDE] for side in ("lost", "won"))
        names = ["key", "col", *next(sides), "won_key", *next(sides)]
        nothing = f"SELECT {', '.join(f'NULL AS {name}' for name in [*names, 'is_newer'])}"
        return (
            f"SELECT {', '.join(names)} FROM"
            " (SELECT *, max(is_newer) OVER (PARTITION BY key) AS is_any_newer"
            f" FROM ({' UNION ALL '.join([f'{nothing} WHERE false', *pairs])}))"
            " WHERE is_newer"
            f" OR NOT is_any_newer AND key IN ({beaten})"
        )

    def _drop(self) -> None:
        self._connection.run(f"DROP TABLE temp.{self._candidate}")

    def show(self) -> int:
        """Show the candidates that are left; return how many rows have come or gone."""
        connection, table = self._connection, self.table
        moved = 0
        if connection.value(f"SELECT EXISTS (SELECT 1 FROM temp.{self._candidate})"):
            self._suspend()
            # A row keeps others from showing only if it shows itself.
            left = f"SELECT syncd_id FROM temp.{self._candidate}"
            moved = self._hide(
                f"SELECT DISTINCT {self._cells} FROM temp.{self._rival} WHERE id IN ({left})"
            )
            moved += self._insert()
        if table.is_generated:
            # No number may be kept for a row that does not show after all.
            numbers.free(connection, table, f"SELECT {self._cells} FROM {table.shadow}")
        connection.run(f"DROP TABLE temp.{self._rival}")
        self._drop()
        return moved

    def _candidates(self) -> str:
        """Return the query of hidden rows that are alive and whole, under the user's names."""
        table = self.table
        values = {
            column.name: f"CASE WHEN owned & {column.bit} THEN {column.local(f'h.{column.cell}')}"
            f" ELSE {column.preset} END"
            for column in table.columns
        }
        values |= {column.name: f"h.{column.cell}" for column in table.excluded}
        values |= self._since
        whole = [f"{v} IS NOT NULL" for name, v in values.items() if name in self.demands.required]
        whole += [_is_numbered(column) for column in table.columns if column.parent is not None]
        row = "h.row"
        own = list(zip(table.identity, table.identity_of("h"), strict=True))
        if table.numbered:
            row = f"(SELECT n.row FROM {table.numbers} AS n WHERE {table.on('n', 'h')})"
        if table.rowid is not None and not table.is_generated:
            own.append((quoted(table.rowid), row))
        listed = [
            *(f"{value} AS {name}" for name, value in own),
            *(f"{value} AS {quoted(name)}" for name, value in values.items()),
            *(f"h.{cell} AS syncd_{cell}" for cell in table.key_cells),
            "row_number() OVER () AS syncd_id",
            f"{row} AS syncd_row",
            f"{self._stamp('h')} AS syncd_stamp",
        ]
        return (
            f"SELECT {', '.join(listed)}"
            f" FROM (SELECT *, {owned(table, 'g')} AS owned FROM {table.shadow} AS g"
            f" WHERE g.alive = 1) AS h WHERE {' AND '.join([self._is_waiting(), *whole])}"
        )

    def _is_waiting(self) -> str:
        """Return the condition that row `h` of the shadow is alive and not barred."""
        barred = f"SELECT 1 FROM temp.{self._barred} AS b WHERE {self.table.on('b', 'h')}"
        return f"h.alive = 1 AND NOT EXISTS ({barred})"

    def _stamp(self, alias: str) -> str:
        """Return the SQL of a row's stamp, as text that sorts like it."""
        table = self.table
        unique = set().union(*(u.columns or () for u in self.demands.uniques))
        if any(u.columns is None for u in self.demands.uniques):
            unique = {column.name for column in table.columns}
        claims = ALIVE_BIT | sum(c.bit for c in table.columns if c.name in unique)
        return (
            "(SELECT max(printf('%019d', e.hlc) || hex(i.id) || printf('%019d', e.seq))"
            f" FROM {table.changes} AS e JOIN syncd_origin AS i ON i.ordinal = e.origin"
            f" WHERE {table.on('e', alias)} AND e.mask & {claims})"
        )

    def index_parents(self) -> None:
        """Let what candidates refer to be found quickly. All of the circle are there."""
        for n, reference in enumerate(self.demands.foreign_keys):
            if reference.parent in self._candidates_of:
                columns = ", ".join(map(quoted, reference.parent_columns))
                self._connection.run(
                    f"CREATE INDEX temp.syncd_parent_{n}_{self.table.id}"
                    f" ON {self._candidates_of[reference.parent]} ({columns})"
                )

    def index_keys(self) -> None:
        """Let candidates be found by their keys."""
        keys = ", ".join(f"syncd_{cell}" for cell in self.table.key_cells)
        self._connection.run(
            f"CREATE INDEX temp.syncd_key_{self.table.id} ON {self._candidate} ({keys})"
        )

    def standing(self, alias: str, ours: str) -> list[tuple[str, str, list[str]]]:
        """Return where rows are that show, or that are candidates.

        Each is a table under the alias, the condition that a row has the key of a row `ours`, and
        what its key is made of there.
        """
        table = self.table
        keys = [f"{alias}.syncd_{cell}" for cell in table.key_cells]
        same = [f"{key} = {ours}.{cell}" for key, cell in zip(keys, table.key_cells, strict=True)]
        return [
            (f"temp.{self._candidate} AS {alias}", " AND ".join(same), keys),
            (f"{table.sql} AS {alias}", table.on_user(alias, ours), [*table.user_key(alias)]),
        ]

    def contested(self, unique: Unique) -> str:
        """Return the query of rows that want a value which a candidate wants as well.

        Each is its key, its stamp, and a number that those have in common who want the same.
        """
        columns = ", ".join([*self.table.key_cells, "syncd_stamp"])
        keys = ", ".join(f"syncd_{cell} AS {cell}" for cell in self.table.key_cells)
        held = "".join(f", v.u{n}" for n in range(len(unique.terms)))
        wanting = (
            f"SELECT {keys}, syncd_stamp, {unique.listed}"
            f" FROM {self._named_like_table}{unique.where}"
        )
        holding = f"SELECT {columns}{held} FROM ({self._rivals(unique, held)}) AS v"
        return (
            f"SELECT {columns}, value FROM (SELECT *,"
            f" dense_rank() OVER (ORDER BY {unique.compared}) AS value,"
            f" count(*) OVER (PARTITION BY {unique.compared}) AS wanted_by"
            f" FROM ({wanting} UNION {holding})"
            f" WHERE {unique.is_filled} AND syncd_stamp IS NOT NULL) WHERE wanted_by > 1"
        )

    def refused(self, rows: str) -> list[int]:
        """Return the numbers of candidates that their table refuses, whoever else shows.

        rows: a query of the keys of some that are candidates or show, each with its number `id`.
        """
        connection, table, insert = self._connection, self.table, self._inserting()
        same = " AND ".join(f"c.syncd_{cell} = s.{cell}" for cell in table.key_cells)
        candidates = connection.rows(
            f"SELECT s.id, c.syncd_id FROM ({rows}) AS s"
            f" CROSS JOIN temp.{self._candidate} AS c ON {same}"
        )
        if not candidates:
            return []
        self._suspend()

        def is_refused(id_: int) -> bool:
            alone = f"syncd_id = {id_}"
            with connection.undone():
                return not connection.attempt(lambda: insert(self.demands.strictly, alone))

        with connection.undone(), usertriggers.silenced(connection, table):
            for unique in self.demands.uniques:
                holders = f"SELECT {self._cells} FROM ({self._rivals(unique)})"
                connection.run(f"DELETE FROM {table.sql} WHERE {table.among(holders)}")
            return [number for number, id_ in candidates if is_refused(id_)]

    def note_beaten(self, rows: str) -> None:
        """Remember that some rows have lost a value in a knot. rows: a query as of `refused`."""
        keys = f"SELECT {self.table.literals('s.')} FROM ({rows}) AS s"
        self.beaten += [key for (key,) in self._connection.rows(keys)]

    def bar(self, rows: str) -> int:
        """Let some rows show no more, whether they do or are candidates; return how many did.

        rows: a query as of `refused`.
        """
        keys = f"SELECT {self._cells} FROM ({rows})"
        own = ", ".join(f"syncd_{cell}" for cell in self.table.key_cells)
        self._connection.run(f"INSERT INTO temp.{self._barred} {keys}")
        self._connection.run(f"DELETE FROM temp.{self._candidate} WHERE ({own}) IN ({keys})")
        return self._hide(keys)

    def drop_unsupported(self) -> int:
        """Drop candidates without a parent, neither showing nor about to; return how many."""
        dropped = 0
        for reference in self.demands.foreign_keys:
            has_parent = reference.is_met("c")
            if reference.parent in self._candidates_of:
                candidates = f"temp.{self._candidates_of[reference.parent]}"
                among = reference.is_met("c", candidates)
                has_parent = f"({has_parent} OR {among})"
            orphans = f"SELECT c.syncd_id FROM temp.{self._candidate} AS c WHERE NOT {has_parent}"
            lost = branches.query(
                orphans,
                f"temp.{self._candidate}",
                ["syncd_id"],
                self._own,
                lambda own: f"NOT {own.is_met('c')}",
            )
            dropped += self._connection.run(
                f"DELETE FROM temp.{self._candidate} WHERE syncd_id IN ({lost})"
            )
        return dropped

    def drop_beaten(self) -> None:
        """Drop candidates that want what a newer row has that shows.

        Afterwards `rival` has the keys of showing rows that candidates displace.
        """
        connection = self._connection
        pairs = [self._rivals(unique) for unique in self.demands.uniques]
        connection.run(f"CREATE TEMP TABLE {self._rival} (id, syncd_stamp, {self._cells})")
        if pairs:
            connection.run(f"INSERT INTO temp.{self._rival} {' UNION '.join(pairs)}")
        connection.run(
            f"DELETE FROM temp.{self._candidate} WHERE syncd_id IN"
            f" (SELECT c.syncd_id FROM temp.{self._candidate} AS c JOIN temp.{self._rival} AS r"
            " ON r.id = c.syncd_id WHERE r.syncd_stamp > c.syncd_stamp)"
        )

    def drop_outranked(self) -> None:
        """Drop candidates that want what a newer candidate wants."""
        for unique in self.demands.uniques:
            self._connection.run(
                f"DELETE FROM temp.{self._candidate} WHERE syncd_id IN"
                f" (SELECT id FROM ({self._ranked(unique)}) WHERE n > 1)"
            )

    def _rivals(self, unique: Unique, also: str = "") -> str:
        """Return the query of showing rows `v` that hold a value a candidate `w` wants."""
        table = self.table
        showing = (
            f"SELECT {table.named_key(table.sql)}, {unique.listed} FROM {table.sql}{unique.where}"
        )
        wanting = (
            f"SELECT syncd_id AS id, {unique.listed} FROM {self._named_like_table}{unique.where}"
        )
        return (
            f"SELECT w.id, {self._stamp('v')} AS syncd_stamp, {table.cells('v')}{also}"
            f" FROM ({wanting}) AS w CROSS JOIN ({showing}) AS v ON {unique.same('v', 'w')}"
        )

    def _ranked(self, unique: Unique) -> str:
        """Return the query of candidates that want a value, each with its rank, newest first."""
        wanting = (
            f"SELECT syncd_id AS id, syncd_stamp, {unique.listed}"
            f" FROM {self._named_like_table}{unique.where}"
        )
        return (
            "SELECT id,"
            f" row_number() OVER (PARTITION BY {unique.compared} ORDER BY syncd_stamp DESC) AS n"
            f" FROM ({wanting}) WHERE {unique.is_filled}"
        )

    def _insert(self) -> int:
        """Move the candidates that are left into the user's table; return how many were decided."""
        connection, table, insert = self._connection, self.table, self._inserting()
        same = " AND ".join(f"t.{name} = c.{name}" for name in table.identity)
        showing = f"FROM temp.{self._candidate} AS c CROSS JOIN {table.sql} AS t ON {same}"
        keys = ", ".join(f"c.syncd_{cell}" for cell in table.key_cells)
        taken_in = f"DELETE FROM {table.shadow} WHERE ({self._cells}) IN (SELECT {keys} {showing})"
        moved = 0
        if not connection.attempt(lambda: insert(self.demands.strictly, "true")):
            # One that came past the triggers stands in place of the hidden row of its key.
            moved += connection.run(taken_in)
            self._give_up(self._candidate, f"SELECT c.syncd_id {showing}")
            # A CHECK refuses some of them, then, or an expression cannot be made. Which they are is
            # seen without effect: what they are left out by would govern the triggers as well.
            candidates = f"SELECT syncd_id FROM temp.{self._candidate}"
            with connection.undone(), usertriggers.silenced(connection, table):
                self._failing(self._candidate, lambda ids: insert("OR IGNORE", ids))
                refused = connection.rows(f"{candidates} EXCEPT SELECT c.syncd_id {showing}")
            moved += self._give_up(self._candidate, _list(id_ for (id_,) in refused))
            # What fails now does so in a trigger; such rows do without.
            if failing := self._failing(self._candidate, lambda ids: insert("", ids)):
                with usertriggers.silenced(connection, table):
                    insert("", f"syncd_id IN ({_list(failing)})")
        return moved + connection.run(taken_in)

    def _inserting(self) -> Callable[[str, str], object]:
        """Return what inserts candidates, given the clause behind INSERT and which they are."""
        connection, table = self._connection, self.table
        columns = (*table.columns, *table.excluded)
        names = [*table.identity, *(quoted(column.name) for column in columns)]
        order = ""
        listed = ", ".join(names)
        if table.rowid is not None and not table.is_generated:
            own = quoted(table.rowid)
            # Meanwhile the number may have been given to another row, or two may want it back.
            free = (
                f"CASE WHEN EXISTS (SELECT 1 FROM {table.sql} AS t WHERE t.{own} = syncd_row)"
                " OR row_number() OVER (PARTITION BY syncd_row) > 1 THEN NULL ELSE syncd_row END"
            )
            names.append(own)
            listed += f", {free} AS {own}"
            # New numbers come last, or SQLite might choose one that is wanted back.
            order = f" ORDER BY {own} IS NULL"
        into = f"INTO {table.sql} ({', '.join(names)})"
        rows = f"SELECT {listed} FROM temp.{self._candidate}"
        return lambda or_what, ids: connection.run(
            f"INSERT {or_what} {into} SELECT * FROM ({rows} WHERE {ids}){order}"
        )


def _list(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids))


def _is_numbered(column: Column) -> str:
    """Return the condition that hidden row `h` has no parent, or one with a number.

    A parent whose number is not known yet does not show.
    """
    return f"(h.{column.cell} IS NULL OR {column.local(f'h.{column.cell}')} IS NOT NULL)"


def _unpacked(row: str, side: str) -> str:
    """Return, as columns of a query, the parts of a row's stamp."""
    stamp = f"{row}.syncd_stamp"
    return (
        f"CAST(substr({stamp}, 1, 19) AS INTEGER) AS {side}_hlc,"
        f" (SELECT ordinal FROM syncd_origin WHERE hex(id) = substr({stamp}, 20, 32))"
        f" AS {side}_origin, CAST(substr({stamp}, 52) AS INTEGER) AS {side}_seq"
    )
