"""Restoration: writing back what lost, as new writes of this host.

A value goes back to its row, as one more write to it. If a death took that row away here, the row
comes back first, as it was then: under its sync key, and in the local number that it had if nobody
else has that. A row that is displaced is written anew instead, which makes it the newer one. The
triggers capture what is written to the user's table, as anybody's writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from syncd import changelog, conflicts, numbers, restamp
from syncd.clock import hlc_of_ms
from syncd.conflicts import Conflict
from syncd.database import Connection
from syncd.errors import NotRestorable
from syncd.held import DISPLACED
from syncd.introspection import constraints
from syncd.literals import quoted
from syncd.schema import load_tables
from syncd.table import Column, Table


def restore(connection: Connection, id_: int, *, now_ms: int) -> Conflict:
    """Write what lost back, as a new write of this host; raise `NotRestorable` if it cannot be.

    A row that is displaced is written anew, and shows in place of the other once it is settled. The
    journal must be folded.
    """
    found = [one for one in conflicts.listed(connection, None, 0) if one.id == id_]
    if not found:
        raise NotRestorable(f"there is no conflict {id_}", hint="`syncd conflicts` lists them.")
    (lost,) = found
    table = load_tables(connection).get(lost.table)
    if table is None:
        raise NotRestorable(f"{lost.table} is not there any more")
    if lost.reason == DISPLACED:
        _write_anew(connection, table, lost, now_ms)
    else:
        _write_back(connection, table, lost)
    return lost


def require_shown(connection: Connection, lost: Conflict) -> None:
    """Raise `NotRestorable` unless the row shows, now that it is settled which rows do."""
    if not _is_shown(connection, load_tables(connection)[lost.table], lost):
        raise NotRestorable(
            f"the row ({lost.key}) of {lost.table} could not show if it were written anew",
            hint="It rests on a row that has a value of it, or its parent does not show, or a CHECK"
            " or a trigger refuses it.",
        )


def _write_anew(connection: Connection, table: Table, lost: Conflict, now_ms: int) -> None:
    if lost.ended_ms is not None:
        raise NotRestorable(f"the row ({lost.key}) of {lost.table} is not displaced any more")
    changelog.advance_clock(connection, hlc_of_ms(now_ms))
    restamp.entries(connection, table, f"({table.cells('e')}) IN (VALUES ({lost.key}))")


def _write_back(connection: Connection, table: Table, lost: Conflict) -> None:
    if lost.column not in {column.name for column in table.columns}:
        raise NotRestorable(f"{lost.table}.{lost.column} is not there any more")
    if not _is_shown(connection, table, lost):
        _bring_back(connection, table, lost)
    (column,) = (column for column in table.columns if column.name == lost.column)
    lost_value = f"(SELECT lost_value FROM syncd_conflict WHERE id = {lost.id})"
    _require_parent(connection, column, lost_value)
    value, here = column.local(lost_value), quoted(lost.column)
    is_it = table.among(_key(table, lost))
    is_another = f"({here} IS NOT {value} OR typeof({here}) <> typeof({value}))"
    row = f"{table.sql} WHERE {is_it} AND {is_another}"
    if not connection.value(f"SELECT EXISTS (SELECT 1 FROM {row})"):
        return
    update = f"UPDATE {_strictly(connection, table)} {table.sql} SET {here} = {value} WHERE {is_it}"
    if not _wrote_one(connection, update):
        raise NotRestorable(
            f"{lost.table}.{lost.column} of the row ({lost.key}) cannot be {lost.lost_value!r} now",
            hint="Another row has that value, or a CHECK or a trigger of the table refuses it.",
        )


def _bring_back(connection: Connection, table: Table, lost: Conflict) -> None:
    """Insert the row that a death took away with a value."""
    row = _taken_away(connection, table, lost)
    columns = [one for one in (*table.columns, *table.excluded) if one.name in row]
    key = _key(table, lost)
    names = [*table.identity, *(quoted(column.name) for column in columns)]
    values = [*table.identity_of("s"), *(column.local(row[column.name]) for column in columns)]
    number = None
    if table.numbered:
        numbers.allot(connection, table, f"SELECT *, NULL AS row FROM ({key})")
        is_it = f"({table.cells('n')}) IN ({key})"
        number = connection.value(f"SELECT n.row FROM {table.numbers} AS n WHERE {is_it}")
    if table.numbered and not table.is_generated:
        names.append(quoted(str(table.rowid)))
        values.append(str(number))
    for column in columns:
        is_own = column.parent is not None and column.parent.name == table.name
        _require_parent(connection, column, row[column.name], to_come=number if is_own else None)
    insert = (
        f"INSERT {_strictly(connection, table)} INTO {table.sql} ({', '.join(names)})"
        f" SELECT {', '.join(values)} FROM ({key}) AS s"
    )
    if not _wrote_one(connection, insert):
        raise NotRestorable(
            f"the row ({lost.key}) of {lost.table} cannot be inserted again",
            hint="Another row has a value of it, or a constraint or a trigger of the table refuses"
            " it.",
        )


def _strictly(connection: Connection, table: Table) -> str:
    return constraints(connection, table).strictly


def _wrote_one(connection: Connection, sql: str) -> bool:
    """Run a statement; say whether a row was written, which a trigger may keep it from."""
    written: list[int] = []
    return connection.attempt(lambda: written.append(connection.run(sql))) and written == [1]


def _taken_away(connection: Connection, table: Table, lost: Conflict) -> Mapping[str, str]:
    """Return the row that a death took away here: SQL literals by column."""
    problem = f"{lost.table} does not show the row ({lost.key})"
    is_held = (
        f"SELECT EXISTS (SELECT 1 FROM {table.shadow} AS h"
        f" WHERE h.alive = 1 AND ({table.cells('h')}) IN ({_key(table, lost)}))"
    )
    if connection.value(is_held):
        raise NotRestorable(problem, hint="It is held: `syncd held` says why.")
    # A value that came when the row was gone already lost to the same death.
    row = connection.value(
        "SELECT o.lost_row FROM syncd_conflict AS c JOIN syncd_conflict AS o"
        " ON (o.tbl, o.key, o.won_hlc, o.won_origin) = (c.tbl, c.key, c.won_hlc, c.won_origin)"
        " WHERE c.id = ? AND c.won_dead AND o.lost_row IS NOT NULL",
        (lost.id,),
    )
    if row is None:
        hint = "It was deleted. A host that showed it then has it in its conflict log"
        if not table.is_generated:  # there it would be another row
            hint += "; or insert it again, then restore the value"
        raise NotRestorable(problem, hint=f"{hint}.")
    found: Mapping[str, str] = json.loads(row)
    return found


def _require_parent(
    connection: Connection, column: Column, value: str, *, to_come: int | None = None
) -> None:
    """Raise `NotRestorable` if a value refers to a row by number that is not there.

    value: SQL. to_come: the number of a row that is about to be there.
    """
    if column.parent is None or connection.value(f"SELECT {value} IS NULL"):
        return
    parent = load_tables(connection).get(column.parent.name)
    if parent is None or not connection.value(
        f"SELECT {column.local(value)} IN (SELECT {quoted(str(parent.rowid))} FROM {parent.sql}"
        " UNION ALL SELECT ?)",
        (to_come,),
    ):
        ((name,),) = connection.user_rows(f"SELECT {value}")
        raise NotRestorable(
            f"{column.parent.name} has no row {name!r} here any more",
            hint="It was deleted; insert it again, then restore the value.",
        )


def _is_shown(connection: Connection, table: Table, lost: Conflict) -> bool:
    is_it = table.among(_key(table, lost))
    return bool(connection.value(f"SELECT EXISTS (SELECT 1 FROM {table.sql} WHERE {is_it})"))


def _key(table: Table, lost: Conflict) -> str:
    """Return the query of the sync key of the row that has lost."""
    names = ", ".join(f"column{i + 1} AS {cell}" for i, cell in enumerate(table.key_cells))
    # It was written as literals.
    return f"SELECT {names} FROM (VALUES ({lost.key}))"
