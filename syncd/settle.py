"""Settling: which of the rows that could show do.

A row shows if it is alive, whole, and no constraint of its table holds it back; the others are held
in the shadow and looked at again whenever something changes. It is decided from what has been
merged and nothing else: of rows that want one UNIQUE value the one with the greatest stamp shows,
where a row's stamp is the newest among its birth and the columns that must be unique; a child shows
while its parent does; a row that its table's CHECKs or NOT NULLs refuse does not show. A row that
leaves the user's table takes its rowid along and gets it back if it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from graphlib import TopologicalSorter

from syncd import held, numbers
from syncd.clock import ms_of_hlc
from syncd.database import Connection, quoted
from syncd.held import Held
from syncd.introspection import Constraints, ForeignKey, Unique, constraints
from syncd.schema import ALIVE_BIT, DEAD_BIT, Table

_NEW = "e.position > (SELECT settled FROM syncd_replica)"


def settle(connection: Connection, tables: dict[str, Table], lost: Collection[str] = ()) -> None:
    """Show what can show and hide what cannot, wherever entries have come since the last time.

    The journal must be folded, and capture suspended in the tables that `affected` returns. lost:
    tables whose rows may have gone without an entry that says so.
    """
    demands = {name: _constraints(connection, table) for name, table in tables.items()}
    changed = affected(connection, tables, lost)
    fewer: set[str] = set()
    for names in _parents_first({table.name: demands[table.name] for table in changed}):
        together = [tables[name] for name in names]
        circle = _Circle(
            [_Settler(connection, table, demands[table.name], together) for table in together]
        )
        for settler in circle.settlers:
            if settler.name in lost or settler.has_lost(_referred_to(demands, settler.name)):
                fewer.add(settler.name)
        if circle.is_closed:
            circle.add_set_aside(fewer)
        circle.hide_orphans(fewer)
        circle.show(fewer)
        circle.add_set_aside(fewer)
    connection.run("UPDATE syncd_replica SET settled = position WHERE settled < position")


def affected(
    connection: Connection, tables: dict[str, Table], touched: Collection[str] = ()
) -> list[Table]:
    """Return the tables that settling may write, if those touched are written before.

    They are the ones with new entries, their children, and the children's children.
    """
    found = {*touched, *_unsettled(connection, tables)} & tables.keys()
    parents = {
        name: {reference.parent for reference in _constraints(connection, table).foreign_keys}
        for name, table in tables.items()
    }
    while more := {name for name, above in parents.items() if above & found} - found:
        found |= more
    return [table for name, table in tables.items() if name in found]


def _referred_to(demands: dict[str, Constraints], parent: str) -> set[str]:
    """Return the columns of a table that foreign keys refer to."""
    return {
        column
        for constraint in demands.values()
        for reference in constraint.foreign_keys
        if reference.parent == parent
        for column in reference.parent_columns
    }


def _unsettled(connection: Connection, tables: dict[str, Table]) -> list[str]:
    return [
        name
        for name, table in tables.items()
        if connection.value(f"SELECT EXISTS (SELECT 1 FROM {table.changes} AS e WHERE {_NEW})")
    ]


def hidden(connection: Connection, table: Table) -> int:
    """Count the rows that are alive and do not show."""
    count: int = connection.value(f"SELECT count(*) FROM {table.shadow} WHERE alive = 1")
    return count


def waiting(connection: Connection, table: Table) -> list[Held]:
    """Return the rows that are alive and that a constraint keeps from showing."""
    key = " || ', ' || ".join(f"quote(h.{cell})" for cell in table.key_cells)
    birth = (
        f"SELECT e.{{}} FROM {table.changes} AS e WHERE {table.on('e', 'h')}"
        f" AND e.mask & {ALIVE_BIT}"
    )
    return [
        Held(None, table.name, key, "", held.CONSTRAINT, node, ms_of_hlc(hlc))
        for key, node, hlc in connection.rows(
            f"SELECT {key}, (SELECT node FROM syncd_origin WHERE ordinal ="
            f" ({birth.format('origin')})), ({birth.format('hlc')})"
            f" FROM {table.shadow} AS h WHERE alive = 1"
        )
    ]


def owned(table: Table, alias: str) -> str:
    """Return the SQL of the mask of registers that a row's entries own."""
    return (
        f"(SELECT coalesce(sum(o.mask), 0) FROM {table.changes} AS o WHERE {table.on('o', alias)})"
    )


def hide(connection: Connection, table: Table, keys: str, *, alive: bool = True) -> int:
    """Move rows from the user's table to the shadow; return how many.

    keys: a query of their keys, under the names of the key cells. alive: whether they may return.
    """
    columns = (*table.columns, *table.excluded)
    cells = [*table.key_cells, "alive", *(column.cell for column in columns)]
    values = [*table.user_key("t"), str(int(alive))]
    values += [column.travelling("t") for column in columns]
    if table.rowid is not None:
        cells.append("row")
        values.append(f"t.{quoted(table.rowid)}")
    connection.run(f"CREATE TEMP TABLE syncd_hiding AS {keys}")
    connection.run(
        f"INSERT INTO {table.shadow} ({', '.join(cells)}) SELECT {', '.join(values)}"
        f" FROM temp.syncd_hiding AS s CROSS JOIN {table.sql} AS t ON {table.on_user('t', 's')}"
    )
    count = connection.run(
        f"DELETE FROM {table.sql} WHERE {table.among('SELECT * FROM temp.syncd_hiding')}"
    )
    if table.is_generated:
        # The number is free now, and may be given to a row that has nothing to do with this one.
        numbers.forget(connection, table, "SELECT * FROM temp.syncd_hiding")
    connection.run("DROP TABLE temp.syncd_hiding")
    return count


def _constraints(connection: Connection, table: Table) -> Constraints:
    return constraints(connection, table.name, [column.name for column in table.key])


def _parents_first(demands: dict[str, Constraints]) -> Iterator[tuple[str, ...]]:
    """Yield tables, parents before children; those that refer to each other in a circle at once."""
    parents = {
        name: {r.parent for r in constraint.foreign_keys} & demands.keys()
        for name, constraint in demands.items()
    }
    above = {name: _closure(name, parents) for name in demands}
    circle = {
        name: tuple(n for n in demands if n == name or (n in above[name] and name in above[n]))
        for name in demands
    }
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for name, names in circle.items():
        graph.setdefault(names, set()).update(circle[p] for p in parents[name] if p not in names)
    yield from TopologicalSorter(graph).static_order()


def _closure(name: str, parents: dict[str, set[str]]) -> set[str]:
    """Return all that a table refers to, directly or through others."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        found |= (more := set().union(*(parents[one] for one in waiting)) - found)
        waiting = more
    return found


class _Circle:
    """Tables that refer to each other in a circle, or a single one, which may refer to itself."""

    def __init__(self, settlers: Sequence[_Settler]) -> None:
        self.settlers = settlers
        self.is_closed = any(a.name in b.parents for a in settlers for b in settlers)

    def add_set_aside(self, fewer: set[str]) -> None:
        """Add the tables that have lost a row because what came to it could not be written."""
        fewer.update(settler.name for settler in self.settlers if settler.has_set_aside())

    def hide_orphans(self, fewer: set[str]) -> None:
        """Hide rows whose parent does not show; `fewer` are tables whose rows may have gone."""
        again = True
        while again:
            again = False
            for settler in self.settlers:
                # Where parents have gone every child may be an orphan, else only the newly written.
                if settler.hide_orphans(among_all=bool(fewer & settler.parents)):
                    fewer.add(settler.name)
                    # In a circle, each row hidden may leave others behind.
                    again = self.is_closed

    def show(self, fewer: set[str]) -> None:
        """Show what can show, displacing what is older."""
        if not any(settler.is_any_hidden() for settler in self.settlers):
            return
        for settler in self.settlers:
            settler.begin()
        while True:
            barred = self._gather()
            moved = [settler.name for settler in self.settlers if settler.show()]
            if moved and self.is_closed:
                self._hide_left_behind({*moved})
            fewer.update(moved)
            if not moved and not barred:
                break
        for settler in self.settlers:
            settler.end()

    def _gather(self) -> int:
        """Gather the rows that nothing newer stands in the way of; return how many are barred.

        In a circle candidates may support each other. One whose support has lost is barred until
        something moves: what it has beaten itself may show in its place.
        """
        for settler in self.settlers:
            settler.number()
        for settler in self.settlers:
            settler.gather()
        self._drop_unsupported()
        for settler in self.settlers:
            settler.drop_losers()
        return self._drop_unsupported(bar=True) if self.is_closed else 0

    def _drop_unsupported(self, *, bar: bool = False) -> int:
        dropped = 0
        while count := sum([settler.drop_unsupported(bar=bar) for settler in self.settlers]):
            dropped += count
            if not self.is_closed:
                break
        return dropped

    def _hide_left_behind(self, moved: set[str]) -> None:
        for settler in self.settlers:
            settler.lift_bars()
            settler.forget_displaced()
        self.hide_orphans(moved)
        for settler in self.settlers:
            settler.give_up_orphans()


class _Settler:
    """Settles one table."""

    def __init__(
        self, connection: Connection, table: Table, demands: Constraints, circle: Sequence[Table]
    ) -> None:
        self.name = table.name
        self.parents = {reference.parent for reference in demands.foreign_keys}
        self._connection = connection
        self._table = table
        self._demands = demands
        self._cells = ", ".join(table.key_cells)
        self._candidates_of = {other.name: f"syncd_candidate_{other.id}" for other in circle}
        self._candidate = self._candidates_of[table.name]
        self._rival = f"syncd_rival_{table.id}"
        self._unfit = f"syncd_unfit_{table.id}"
        self._shown = f"syncd_shown_{table.id}"

    def has_lost(self, referred_to: set[str]) -> bool:
        """Say whether new entries may have taken away what children refer to."""
        bits = DEAD_BIT | sum(c.bit for c in self._table.columns if c.name in referred_to)
        return bool(
            self._connection.value(
                f"SELECT EXISTS (SELECT 1 FROM {self._table.changes} AS e WHERE {_NEW}"
                f" AND e.mask & {bits})"
            )
        )

    def has_set_aside(self) -> bool:
        """Say whether a row with new entries waits in the shadow."""
        table = self._table
        return bool(
            self._connection.value(
                f"SELECT EXISTS (SELECT 1 FROM {table.changes} AS e CROSS JOIN {table.shadow} AS h"
                f" ON {table.on('h', 'e')} WHERE {_NEW} AND h.alive = 1)"
            )
        )

    def hide_orphans(self, *, among_all: bool) -> int:
        """Hide the rows whose parent does not show; return how many.

        among_all: not only among the rows with new entries.
        """
        table = self._table
        keys = _named_key(table, "c")
        rows = f"{table.sql} AS c"
        if not among_all:
            written = f"SELECT DISTINCT {self._cells} FROM {table.changes} AS e WHERE {_NEW}"
            rows = f"({written}) AS w CROSS JOIN {rows} ON {table.on_user('c', 'w')}"
        return sum(
            hide(
                self._connection,
                table,
                f"SELECT {keys} FROM {rows}"
                f" WHERE NOT {_has_parent(reference, 'c', quoted(reference.parent))}",
            )
            for reference in self._demands.foreign_keys
        )

    def is_any_hidden(self) -> bool:
        """Say whether any row that is alive does not show."""
        return bool(hidden(self._connection, self._table))

    def begin(self) -> None:
        """Prepare for rounds of showing.

        Rows of `unfit` show in none of them any more, those with `until_moved` not before something
        has moved. `shown` are those that have.
        """
        self._connection.run(f"CREATE TEMP TABLE {self._unfit} ({self._cells}, until_moved)")
        self._connection.run(f"CREATE TEMP TABLE {self._shown} ({self._cells}, has_displaced)")

    def end(self) -> None:
        """Clear what `begin` has prepared."""
        self._connection.run(f"DROP TABLE temp.{self._unfit}")
        self._connection.run(f"DROP TABLE temp.{self._shown}")

    def number(self) -> None:
        """Give each row that waits a number, if others may refer to it by that."""
        table = self._table
        if table.numbered:
            waiting = f"SELECT * FROM {table.shadow} AS h WHERE {self._is_waiting()}"
            numbers.allot(self._connection, table, waiting)

    def gather(self) -> None:
        """Gather the candidates: hidden rows that are alive and whole."""
        self._connection.run(f"CREATE TEMP TABLE {self._candidate} AS {self._candidates()}")

    def show(self) -> int:
        """Show the candidates that are left; return how many rows have come or gone."""
        connection, table = self._connection, self._table
        moved = 0
        if connection.value(f"SELECT EXISTS (SELECT 1 FROM temp.{self._candidate})"):
            # A row keeps others from showing only if it shows itself.
            left = f"SELECT syncd_id FROM temp.{self._candidate}"
            moved = hide(
                connection,
                table,
                f"SELECT DISTINCT {self._cells} FROM temp.{self._rival} WHERE id IN ({left})",
            )
            moved += self._insert()
        if table.is_generated:
            # No number may be kept for a row that does not show after all.
            numbers.forget(connection, table, f"SELECT {self._cells} FROM {table.shadow}")
        connection.run(f"DROP TABLE temp.{self._rival}")
        connection.run(f"DROP TABLE temp.{self._candidate}")
        return moved

    def lift_bars(self) -> None:
        """Give barred rows another turn."""
        self._connection.run(f"DELETE FROM temp.{self._unfit} WHERE until_moved")

    def forget_displaced(self) -> None:
        """Leave among the rows that have shown those that still do."""
        self._connection.run(
            f"DELETE FROM temp.{self._shown} WHERE ({self._cells}) IN"
            f" (SELECT {self._cells} FROM {self._table.shadow})"
        )

    def give_up_orphans(self) -> None:
        """Try no row again that displaced another and lost its own support by that."""
        self._connection.run(
            f"INSERT INTO temp.{self._unfit} SELECT {self._cells}, 0 FROM temp.{self._shown}"
            f" WHERE has_displaced"
            f" AND ({self._cells}) IN (SELECT {self._cells} FROM {self._table.shadow})"
        )

    def _candidates(self) -> str:
        """Return the query of hidden rows that are alive and whole, under the user's names."""
        table = self._table
        values = {
            column.name: f"CASE WHEN owned & {column.bit} THEN {column.local(f'h.{column.cell}')}"
            f" ELSE {column.preset} END"
            for column in table.columns
        }
        values |= {column.name: f"h.{column.cell}" for column in table.excluded}
        whole = [f"{v} IS NOT NULL" for name, v in values.items() if name in self._demands.required]
        # A row number that is not known yet is that of a parent that does not show.
        whole += [
            f"(h.{column.cell} IS NULL OR {column.local(f'h.{column.cell}')} IS NOT NULL)"
            for column in table.columns
            if column.parent is not None
        ]
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
        """Return the condition that row `h` of the shadow is alive and no CHECK refused it."""
        unfit = f"SELECT 1 FROM temp.{self._unfit} AS u WHERE {self._table.on('u', 'h')}"
        return f"h.alive = 1 AND NOT EXISTS ({unfit})"

    def _stamp(self, alias: str) -> str:
        """Return the SQL of a row's stamp, as text that sorts like it."""
        table = self._table
        unique = set().union(*(u.columns or () for u in self._demands.uniques))
        if any(u.columns is None for u in self._demands.uniques):
            unique = {column.name for column in table.columns}
        claims = ALIVE_BIT | sum(c.bit for c in table.columns if c.name in unique)
        return (
            "(SELECT max(printf('%016x', e.hlc) || hex(i.id) || printf('%016x', e.seq))"
            f" FROM {table.changes} AS e JOIN syncd_origin AS i ON i.ordinal = e.origin"
            f" WHERE {table.on('e', alias)} AND e.mask & {claims})"
        )

    def drop_unsupported(self, *, bar: bool) -> int:
        """Drop candidates without a parent, neither showing nor about to; return how many."""
        dropped = 0
        for reference in self._demands.foreign_keys:
            has_parent = _has_parent(reference, "c", quoted(reference.parent))
            if reference.parent in self._candidates_of:
                candidates = f"temp.{self._candidates_of[reference.parent]}"
                among = _has_parent(reference, "c", candidates)
                has_parent = f"({has_parent} OR {among})"
            left_out = f"FROM temp.{self._candidate} AS c WHERE NOT {has_parent}"
            if bar:
                keys = ", ".join(f"c.syncd_{cell}" for cell in self._table.key_cells)
                self._connection.run(f"INSERT INTO temp.{self._unfit} SELECT {keys}, 1 {left_out}")
            dropped += self._connection.run(f"DELETE {left_out}")
        return dropped

    def drop_losers(self) -> None:
        """Drop candidates that something newer stands in the way of.

        Afterwards `rival` has the keys of showing rows that candidates displace.
        """
        connection = self._connection
        pairs = [self._rivals(unique) for unique in self._demands.uniques]
        connection.run(f"CREATE TEMP TABLE {self._rival} (id, syncd_stamp, {self._cells})")
        if pairs:
            connection.run(f"INSERT INTO temp.{self._rival} {' UNION '.join(pairs)}")
        connection.run(
            f"DELETE FROM temp.{self._candidate} AS c WHERE EXISTS (SELECT 1 FROM"
            f" temp.{self._rival} AS r WHERE r.id = c.syncd_id AND r.syncd_stamp > c.syncd_stamp)"
        )
        # Only now: a candidate that cannot show itself keeps no other from showing.
        for unique in self._demands.uniques:
            self._drop_second(unique)

    def _rivals(self, unique: Unique) -> str:
        """Return the query of showing rows that hold a value a candidate wants."""
        table = self._table
        showing = (
            f"SELECT {_named_key(table, 't')}, {_terms(unique)}"
            f" FROM {table.sql} AS t{_where(unique)}"
        )
        wanting = (
            f"SELECT syncd_id AS id, {_terms(unique)} FROM temp.{self._candidate}{_where(unique)}"
        )
        return (
            f"SELECT w.id, {self._stamp('v')} AS syncd_stamp, {table.cells('v')}"
            f" FROM ({wanting}) AS w CROSS JOIN ({showing}) AS v ON {_same(unique, 'v', 'w')}"
        )

    def _drop_second(self, unique: Unique) -> None:
        """Of candidates that want one value, keep the newest for this turn."""
        wanting = (
            f"SELECT syncd_id AS id, syncd_stamp, {_terms(unique)}"
            f" FROM temp.{self._candidate}{_where(unique)}"
        )
        compared = ", ".join(
            f"u{n} COLLATE {quoted(term.collation)}" for n, term in enumerate(unique.terms)
        )
        filled = " AND ".join(f"u{n} IS NOT NULL" for n in range(len(unique.terms)))
        self._connection.run(
            f"DELETE FROM temp.{self._candidate} WHERE syncd_id IN (SELECT id FROM (SELECT id,"
            f" row_number() OVER (PARTITION BY {compared} ORDER BY syncd_stamp DESC) AS n"
            f" FROM ({wanting}) WHERE {filled}) WHERE n > 1)"
        )

    def _insert(self) -> int:
        """Move the candidates that are left into the user's table; return how many were decided."""
        connection, table = self._connection, self._table
        columns = (*table.columns, *table.excluded)
        names = [*table.identity, *(quoted(column.name) for column in columns)]
        rows = f"temp.{self._candidate}"
        if table.rowid is not None and not table.is_generated:
            own = quoted(table.rowid)
            names.append(own)
            # Meanwhile the number may have been given to another row, or two may want it back.
            free = (
                f"CASE WHEN EXISTS (SELECT 1 FROM {table.sql} AS t WHERE t.{own} = syncd_row)"
                " OR row_number() OVER (PARTITION BY syncd_row) > 1 THEN NULL ELSE syncd_row END"
            )
            others = ", ".join(name for name in names if name != own)
            # New numbers come last, or SQLite might choose one that is wanted back.
            rows = f"(SELECT {others}, {free} AS {own} FROM {rows}) ORDER BY {own} IS NULL"
        rest = f"INTO {table.sql} ({', '.join(names)}) SELECT {', '.join(names)} FROM {rows}"
        if not connection.attempt(
            lambda: connection.run(f"INSERT {self._demands.strictly} {rest}")
        ):
            # A CHECK refuses some of them, then; leave those where they are.
            connection.run(f"INSERT OR IGNORE {rest}")
        same = " AND ".join(f"t.{name} = c.{name}" for name in table.identity)
        keys = ", ".join(f"c.syncd_{cell}" for cell in table.key_cells)
        showing = f"FROM temp.{self._candidate} AS c CROSS JOIN {table.sql} AS t ON {same}"
        connection.run(
            f"INSERT INTO temp.{self._shown}"
            f" SELECT {keys}, c.syncd_id IN (SELECT id FROM temp.{self._rival}) {showing}"
        )
        taken = connection.run(
            f"DELETE FROM {table.shadow} WHERE ({self._cells}) IN (SELECT {keys} {showing})"
        )
        refused = connection.run(
            f"INSERT INTO temp.{self._unfit} SELECT {keys}, 0"
            f" FROM temp.{self._candidate} AS c"
            f" WHERE NOT EXISTS (SELECT 1 FROM {table.sql} AS t WHERE {same})"
        )
        return taken + refused


def _has_parent(reference: ForeignKey, child: str, parent: str) -> str:
    """Return the condition that a row refers to nothing or to a row of `parent`."""
    nothing = [f"{child}.{quoted(column)} IS NULL" for column in reference.columns]
    same = " AND ".join(
        f"p.{quoted(to)} = {child}.{quoted(column)}"
        for column, to in zip(reference.columns, reference.parent_columns, strict=True)
    )
    found = f"EXISTS (SELECT 1 FROM {parent} AS p WHERE {same})"
    return f"({' OR '.join([*nothing, found])})"


def _named_key(table: Table, alias: str) -> str:
    """List the sync key of a row of the user's table under the names of the key cells."""
    pairs = zip(table.user_key(alias), table.key_cells, strict=True)
    return ", ".join(f"{value} AS {cell}" for value, cell in pairs)


def _terms(unique: Unique) -> str:
    return ", ".join(f"{term.sql} AS u{n}" for n, term in enumerate(unique.terms))


def _where(unique: Unique) -> str:
    return f" WHERE {unique.predicate}" if unique.predicate is not None else ""


def _same(unique: Unique, left: str, right: str) -> str:
    return " AND ".join(
        f"{left}.u{n} = {right}.u{n} COLLATE {quoted(term.collation)}"
        for n, term in enumerate(unique.terms)
    )
