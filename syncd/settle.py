"""Settling: which of the rows that could show do.

A row shows if it is alive, whole, and no constraint of its table holds it back; the others are held
in the shadow and looked at again whenever something changes. It is decided from what has been
merged and nothing else: of rows that want one UNIQUE value the one with the greatest stamp shows,
where a row's stamp is the newest among its birth and the columns that must be unique; a child shows
while its parent does; a row that its table's CHECKs or NOT NULLs refuse does not show. A row that
leaves the user's table takes its rowid along and gets it back if it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from syncd import held, numbers
from syncd.clock import ms_of_hlc
from syncd.database import Connection, quoted
from syncd.held import Held
from syncd.introspection import Constraints, ForeignKey, Unique, constraints
from syncd.schema import ALIVE_BIT, DEAD_BIT, Table

_NEW = "e.position > (SELECT settled FROM syncd_replica)"


def settle(connection: Connection, tables: dict[str, Table]) -> None:
    """Show what can show and hide what cannot, wherever entries have come since the last time.

    The journal must be folded, and capture suspended in the tables that `affected` returns.
    """
    demands = {name: _constraints(connection, table) for name, table in tables.items()}
    fewer: set[str] = set()
    for name in _parents_first({t.name: demands[t.name] for t in affected(connection, tables)}):
        settler = _Settler(connection, tables[name], demands[name])
        parents = {reference.parent for reference in demands[name].foreign_keys}
        if settler.has_lost(_referred_to(demands, name)):
            fewer.add(name)
        # Where parents have gone every child may be an orphan, else only those newly written.
        orphans = settler.hide_orphans(among_all=bool(fewer & parents))
        shown = settler.show()
        if orphans or shown:
            fewer.add(name)
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
    cells = [*table.key_cells, "alive", *(column.cell for column in table.columns)]
    values = [*table.user_key("t"), str(int(alive))]
    values += [column.travelling("t") for column in table.columns]
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


def _parents_first(demands: dict[str, Constraints]) -> Iterable[str]:
    """Order tables so that parents come before children, as far as they form no circle."""
    ordered: list[str] = []
    while len(ordered) < len(demands):
        left = [name for name in demands if name not in ordered]
        ready = [
            name
            for name in left
            if not {r.parent for r in demands[name].foreign_keys} & (set(left) - {name})
        ]
        ordered += ready or left[:1]
    return ordered


class _Settler:
    """Settles one table."""

    def __init__(self, connection: Connection, table: Table, demands: Constraints) -> None:
        self._connection = connection
        self._table = table
        self._demands = demands
        self._cells = ", ".join(table.key_cells)

    def has_lost(self, referred_to: set[str]) -> bool:
        """Say whether new entries may have taken away what children refer to."""
        bits = DEAD_BIT | sum(c.bit for c in self._table.columns if c.name in referred_to)
        return bool(
            self._connection.value(
                f"SELECT EXISTS (SELECT 1 FROM {self._table.changes} AS e WHERE {_NEW}"
                f" AND e.mask & {bits})"
            )
        )

    def hide_orphans(self, *, among_all: bool) -> int:
        """Hide the rows whose parent does not show; return how many.

        among_all: not only among the rows with new entries.
        """
        table = self._table
        keys = _named_key(table, "c")
        hidden = 0
        for reference in self._demands.foreign_keys:
            rows = f"{table.sql} AS c"
            if not among_all:
                written = f"SELECT DISTINCT {self._cells} FROM {table.changes} AS e WHERE {_NEW}"
                rows = f"({written}) AS w CROSS JOIN {rows} ON {table.on_user('c', 'w')}"
            has_parent = _has_parent(reference, "c", quoted(reference.parent))
            # In a table that refers to itself, each one hidden may leave others behind.
            while count := hide(
                self._connection, table, f"SELECT {keys} FROM {rows} WHERE NOT {has_parent}"
            ):
                hidden += count
                rows = f"{table.sql} AS c"
        return hidden

    def show(self) -> int:
        """Show what can show, displacing what is older; return how many rows have come or gone."""
        changed = 0
        connection = self._connection
        if not hidden(connection, self._table):
            return 0
        connection.run(f"CREATE TEMP TABLE syncd_unfit ({self._cells})")
        while count := self._show_once():
            changed += count
        connection.run("DROP TABLE temp.syncd_unfit")
        return changed

    def _show_once(self) -> int:
        """Show the rows that nothing newer stands in the way of; return how many have moved."""
        connection, table = self._connection, self._table
        if table.numbered:
            numbers.allot(
                connection, table, f"SELECT * FROM {table.shadow} AS h WHERE {self._is_waiting()}"
            )
        connection.run(f"CREATE TEMP TABLE syncd_candidate AS {self._candidates()}")
        self._drop_unsupported()
        moved = 0
        if self._drop_losers():
            moved = hide(connection, table, f"SELECT DISTINCT {self._cells} FROM temp.syncd_rival")
            moved += self._insert()
        if table.is_generated:
            # No number may be kept for a row that does not show after all.
            numbers.forget(connection, table, f"SELECT {self._cells} FROM {table.shadow}")
        connection.run("DROP TABLE temp.syncd_rival")
        connection.run("DROP TABLE temp.syncd_candidate")
        return moved

    def _candidates(self) -> str:
        """Return the query of hidden rows that are alive and whole, under the user's names."""
        table = self._table
        values = {
            column.name: f"CASE WHEN owned & {column.bit} THEN {column.local(f'h.{column.cell}')}"
            f" ELSE {column.preset} END"
            for column in table.columns
        }
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
        unfit = f"SELECT 1 FROM temp.syncd_unfit AS u WHERE {self._table.on('u', 'h')}"
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

    def _drop_unsupported(self) -> None:
        """Drop candidates without a parent, neither showing nor about to."""
        while True:
            dropped = 0
            for reference in self._demands.foreign_keys:
                has_parent = _has_parent(reference, "c", quoted(reference.parent))
                if reference.parent == self._table.name:
                    among = _has_parent(reference, "c", "temp.syncd_candidate")
                    has_parent = f"({has_parent} OR {among})"
                dropped += self._connection.run(
                    f"DELETE FROM temp.syncd_candidate AS c WHERE NOT {has_parent}"
                )
            if not dropped:
                return

    def _drop_losers(self) -> int:
        """Drop candidates that something newer stands in the way of; return how many are left.

        Afterwards `temp.syncd_rival` has the keys of showing rows that those left displace.
        """
        connection = self._connection
        pairs = [self._rivals(unique) for unique in self._demands.uniques]
        connection.run(f"CREATE TEMP TABLE syncd_rival (id, syncd_stamp, {self._cells})")
        if pairs:
            connection.run(f"INSERT INTO temp.syncd_rival {' UNION '.join(pairs)}")
        connection.run(
            "DELETE FROM temp.syncd_candidate AS c WHERE EXISTS (SELECT 1 FROM temp.syncd_rival"
            " AS r WHERE r.id = c.syncd_id AND r.syncd_stamp > c.syncd_stamp)"
        )
        # Only now: a candidate that cannot show itself keeps no other from showing.
        for unique in self._demands.uniques:
            self._drop_second(unique)
        connection.run(
            "DELETE FROM temp.syncd_rival"
            " WHERE id NOT IN (SELECT syncd_id FROM temp.syncd_candidate)"
        )
        left: int = connection.value("SELECT count(*) FROM temp.syncd_candidate")
        return left

    def _rivals(self, unique: Unique) -> str:
        """Return the query of showing rows that hold a value a candidate wants."""
        table = self._table
        showing = (
            f"SELECT {_named_key(table, 't')}, {_terms(unique)}"
            f" FROM {table.sql} AS t{_where(unique)}"
        )
        wanting = (
            f"SELECT syncd_id AS id, {_terms(unique)} FROM temp.syncd_candidate{_where(unique)}"
        )
        return (
            f"SELECT w.id, {self._stamp('v')} AS syncd_stamp, {table.cells('v')}"
            f" FROM ({wanting}) AS w CROSS JOIN ({showing}) AS v ON {_same(unique, 'v', 'w')}"
        )

    def _drop_second(self, unique: Unique) -> None:
        """Of candidates that want one value, keep the newest for this turn."""
        wanting = (
            f"SELECT syncd_id AS id, syncd_stamp, {_terms(unique)}"
            f" FROM temp.syncd_candidate{_where(unique)}"
        )
        compared = ", ".join(
            f"u{n} COLLATE {quoted(term.collation)}" for n, term in enumerate(unique.terms)
        )
        filled = " AND ".join(f"u{n} IS NOT NULL" for n in range(len(unique.terms)))
        self._connection.run(
            "DELETE FROM temp.syncd_candidate WHERE syncd_id IN (SELECT id FROM (SELECT id,"
            f" row_number() OVER (PARTITION BY {compared} ORDER BY syncd_stamp DESC) AS n"
            f" FROM ({wanting}) WHERE {filled}) WHERE n > 1)"
        )

    def _insert(self) -> int:
        """Move the candidates that are left into the user's table; return how many were decided."""
        connection, table = self._connection, self._table
        names = [*table.identity, *(quoted(column.name) for column in table.columns)]
        values = list(names)
        if table.rowid is not None and not table.is_generated:
            own = quoted(table.rowid)
            names.append(own)
            # Meanwhile the number may have been given to another row.
            values.append(
                f"CASE WHEN EXISTS (SELECT 1 FROM {table.sql} AS t WHERE t.{own} = syncd_row)"
                " THEN NULL ELSE syncd_row END"
            )
        rest = (
            f"INTO {table.sql} ({', '.join(names)}) SELECT {', '.join(values)}"
            " FROM temp.syncd_candidate"
        )
        if not connection.attempt(
            lambda: connection.run(f"INSERT {self._demands.strictly} {rest}")
        ):
            # A CHECK refuses some of them, then; leave those where they are.
            connection.run(f"INSERT OR IGNORE {rest}")
        same = " AND ".join(f"t.{name} = c.{name}" for name in table.identity)
        keys = ", ".join(f"c.syncd_{cell}" for cell in table.key_cells)
        taken = connection.run(
            f"DELETE FROM {table.shadow} WHERE ({self._cells}) IN (SELECT {keys}"
            f" FROM temp.syncd_candidate AS c CROSS JOIN {table.sql} AS t"
            f" ON {same})"
        )
        refused = connection.run(
            f"INSERT INTO temp.syncd_unfit SELECT {keys}"
            " FROM temp.syncd_candidate AS c"
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
