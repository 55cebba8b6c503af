"""Settling: which of the rows that could show do.

A row shows if it is alive, whole, and no constraint of its table holds it back; the others are held
in the shadow and looked at again whenever something changes. It is decided from what has been
merged and nothing else: of rows that want one UNIQUE value the one with the greatest stamp shows,
where a row's stamp is the newest among its birth and the columns that must be unique; a child shows
while its parent does; a row that its table's CHECKs or NOT NULLs refuse does not show. A row that
leaves the user's table takes its rowid along and gets it back if it returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from graphlib import TopologicalSorter

from syncd import needs, waiting
from syncd.candidates import Candidates
from syncd.changelog import NEW
from syncd.database import Connection
from syncd.demands import Constraints
from syncd.introspection import constraints
from syncd.table import Table


def settle(
    connection: Connection,
    tables: dict[str, Table],
    lost: Collection[str] = (),
    *,
    suspend: Callable[[], object],
    now_ms: int,
) -> dict[str, int]:
    """Show what can show and hide what cannot, wherever entries have come since the last time.

    Returns how many values of each table have been displaced by that.

    The journal must be folded. lost: tables whose rows may have gone without an entry that says so.
    suspend: called before a row may come or go, to have capture suspended in the tables that
    `affected` returns. now_ms: this host's wall clock.
    """
    demands = {name: constraints(connection, table) for name, table in tables.items()}
    changed = affected(connection, tables, lost)
    fewer: set[str] = set()
    circles: list[_Circle] = []
    for names in _parents_first({table.name: demands[table.name] for table in changed}):
        together = [tables[name] for name in names]
        circle = _Circle(
            connection,
            [
                Candidates(connection, table, demands[table.name], together, suspend)
                for table in together
            ],
        )
        circles.append(circle)
        for member in circle.members:
            if member.name in lost or member.has_lost(_referred_to(demands, member.name)):
                fewer.add(member.name)
        if circle.is_closed:
            circle.add_set_aside(fewer)
        circle.hide_orphans(fewer)
        circle.show(fewer)
        circle.add_set_aside(fewer)
    displaced = {
        member.name: waiting.log_displaced(connection, member, now_ms=now_ms)
        for circle in circles
        for member in circle.members
    }
    connection.run("UPDATE syncd_replica SET settled = position WHERE settled < position")
    return displaced


def affected(
    connection: Connection, tables: dict[str, Table], touched: Collection[str] = ()
) -> list[Table]:
    """Return the tables that settling may write, if those touched are written before.

    They are the ones with new entries, their children, and the children's children.
    """
    found = {*touched, *_unsettled(connection, tables)} & tables.keys()
    parents = {
        name: {reference.parent for reference in constraints(connection, table).foreign_keys}
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
        if connection.value(f"SELECT EXISTS (SELECT 1 FROM {table.changes} AS e WHERE {NEW})")
    ]


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

    def __init__(self, connection: Connection, members: Sequence[Candidates]) -> None:
        self._connection = connection
        self.members = members
        self.is_closed = any(a.name in b.parents for a in members for b in members)

    def add_set_aside(self, fewer: set[str]) -> None:
        """Add the tables that have lost a row because what came to it could not be written."""
        fewer.update(member.name for member in self.members if member.has_set_aside())

    def hide_orphans(self, fewer: set[str]) -> None:
        """Hide rows whose parent does not show; `fewer` are tables whose rows may have gone."""
        again = True
        while again:
            again = False
            for member in self.members:
                # Where parents have gone every child may be an orphan, else only the newly written.
                if member.hide_orphans(among_all=bool(fewer & member.parents)):
                    fewer.add(member.name)
                    # In a circle, each row hidden may leave others behind.
                    again = self.is_closed

    def show(self, fewer: set[str]) -> None:
        """Show what can show, displacing what is older."""
        if not any(member.is_any_hidden() for member in self.members):
            return
        for member in self.members:
            member.begin()
        for turn in itertools.count():
            self._gather()
            # All rows that may be knotted show, or are candidates, from the first turn on.
            is_first = turn == 0 and self.is_closed
            moved = needs.untie(self._connection, self.members) if is_first else []
            moved += self._show_newest()
            fewer.update(moved)
            if not moved:
                break
            if self.is_closed:
                self.hide_orphans({*moved})
        for member in self.members:
            member.end()

    def _gather(self) -> None:
        """Gather the rows that have their parents, where these show or are gathered too."""
        for member in self.members:
            member.number()
        for member in self.members:
            member.gather()
        for member in self.members:
            member.index_parents()
        self._drop_unsupported()

    def _show_newest(self) -> list[str]:
        """Show what nothing newer stands in the way of; return the tables where rows moved."""
        for member in self.members:
            member.drop_beaten()
        self._drop_left_behind()
        # Only now: a candidate that cannot show itself keeps no other from showing.
        for member in self.members:
            member.drop_outranked()
        self._drop_left_behind()
        return [member.name for member in self.members if member.show()]

    def _drop_left_behind(self) -> None:
        """Drop the candidates whose parents were candidates too and are none any more."""
        if self.is_closed:
            self._drop_unsupported()

    def _drop_unsupported(self) -> None:
        while sum([member.drop_unsupported() for member in self.members]) and self.is_closed:
            pass
