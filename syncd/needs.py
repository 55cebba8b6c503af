"""Needs: what rows rest on and whom they lose to, across tables that refer to each other.

Read as a graph, of the rows that want a UNIQUE value which another wants as well and of all they
rest on, for `knots` to decide about those of which nothing else can.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from syncd.candidates import Candidates
from syncd.database import Connection
from syncd.knots import Graph


def untie(connection: Connection, members: Sequence[Candidates]) -> list[str]:
    """Bar the rows that lose in a knot; return the tables where one of them has shown.

    members: the tables of a circle. Their candidates have all parents, among what shows or each
    other.
    """
    cells = [f"k{i}" for i in range(max(len(member.table.key) for member in members))]
    row = ["member", *cells]
    connection.run(f"CREATE TEMP TABLE syncd_contested ({', '.join(row)}, stamp, value, rule)")
    for number, member in enumerate(members):
        for rule, unique in enumerate(member.demands.uniques):
            connection.run(
                f"INSERT INTO temp.syncd_contested"
                f" (member, {', '.join(member.table.key_cells)}, stamp, value, rule)"
                f" SELECT {number}, *, {rule} FROM ({member.contested(unique)})"
            )
    hidden: list[str] = []
    if connection.value("SELECT EXISTS (SELECT 1 FROM temp.syncd_contested)"):
        for member in members:
            member.index_keys()
        with connection.temporary("syncd_rest", _rests(members, row)):
            # Nearly always what rows rest on is not contested itself.
            if connection.value(
                "SELECT EXISTS (SELECT 1 FROM temp.syncd_rest AS r JOIN temp.syncd_contested AS c"
                f" ON {_same(row, 'c', 'r.')} WHERE r.reference IS NOT NULL)"
            ):
                hidden = _bar_losers(connection, members, row)
    connection.run("DROP TABLE temp.syncd_contested")
    return hidden


def _rests(members: Sequence[Candidates], row: Sequence[str]) -> str:
    """Return the query of which row rests on which, up from the contested ones.

    row: what tells rows apart: the number of their member, and their key. `by_...` says the same of
    the row that rests on it, by a reference of that number. Contested ones stand there without it
    as well.
    """
    by = [f"by_{part}" for part in row]
    nobody = ", ".join(["NULL"] * (len(row) + 1))
    resting = ", ".join(f"u.{part}" for part in row)

    def padded(key: Sequence[str]) -> str:
        return ", ".join([*key, *["NULL"] * (len(row) - 1 - len(key))])

    arms = [f"SELECT {nobody}, {', '.join(row)} FROM temp.syncd_contested"]
    arms += [
        f"SELECT {resting}, {n}, {above}, {padded(key)} FROM syncd_rests AS u"
        f" CROSS JOIN {children} ON {is_it} CROSS JOIN {parents} ON {reference.refers('c', 'p')}"
        f" WHERE u.member = {number}"
        for number, member in enumerate(members)
        for n, reference in enumerate(member.demands.foreign_keys)
        for above, parent in enumerate(members)
        if parent.name == reference.parent
        for children, is_it, _ in member.standing("c", "u")
        for parents, _, key in parent.standing("p", "u")
    ]
    return (
        f"WITH RECURSIVE syncd_rests({', '.join([*by, 'reference', *row])})"
        f" AS ({' UNION '.join(arms)}) SELECT * FROM syncd_rests"
    )


def _bar_losers(
    connection: Connection, members: Sequence[Candidates], row: Sequence[str]
) -> list[str]:
    own = ", ".join(f"r.{part}" for part in row)
    newest_first = (
        f"SELECT {own}, row_number() OVER (ORDER BY max(c.stamp) DESC) AS id"
        f" FROM temp.syncd_rest AS r LEFT JOIN temp.syncd_contested AS c ON {_same(row, 'c', 'r.')}"
        f" GROUP BY {own}"
    )
    with connection.temporary("syncd_row", newest_first):
        connection.run(f"CREATE INDEX temp.syncd_row_key ON syncd_row ({', '.join(row)})")
        graph = _graph(connection, row)
        if not (among := graph.knotted()):
            return []
        refused = {
            id_
            for n, member in enumerate(members)
            for id_ in member.refused(_rows(member, n, among))
        }
        fit = graph.among(among - refused)
        lost = fit.losers()
        beaten = fit.beaten(lost)
        hidden: list[str] = []
        for n, member in enumerate(members):
            member.note_beaten(_rows(member, n, beaten))
            if member.bar(_rows(member, n, lost | refused)):
                hidden.append(member.name)
        return hidden


def _rows(member: Candidates, number: int, ids: Collection[int]) -> str:
    """Return the query of a member's rows of the graph: their keys and their numbers there."""
    cells = ", ".join(member.table.key_cells)
    listed = ", ".join(map(str, ids))
    return f"SELECT {cells}, id FROM temp.syncd_row WHERE member = {number} AND id IN ({listed})"


def _graph(connection: Connection, row: Sequence[str]) -> Graph:
    rests: dict[int, dict[int, list[int]]] = {
        id_: {} for (id_,) in connection.rows("SELECT id FROM temp.syncd_row")
    }
    for resting, reference, parent in connection.rows(
        "SELECT c.id, r.reference, p.id FROM temp.syncd_rest AS r"
        f" CROSS JOIN temp.syncd_row AS c ON {_same(row, 'c', 'r.by_')}"
        f" CROSS JOIN temp.syncd_row AS p ON {_same(row, 'p', 'r.')}"
        " WHERE r.reference IS NOT NULL"
    ):
        rests[resting].setdefault(reference, []).append(parent)
    rivals: dict[tuple[int, ...], list[int]] = {}
    for id_, *value in connection.rows(
        "SELECT r.id, c.member, c.rule, c.value FROM temp.syncd_contested AS c"
        f" CROSS JOIN temp.syncd_row AS r ON {_same(row, 'r', 'c.')}"
    ):
        rivals.setdefault(tuple(value), []).append(id_)
    return Graph({id_: [*some.values()] for id_, some in rests.items()}, rivals.values())


def _same(row: Sequence[str], alias: str, prefix: str) -> str:
    """Join a table with what has the same columns under names that begin with a prefix."""
    return " AND ".join(f"{alias}.{part} IS {prefix}{part}" for part in row)
