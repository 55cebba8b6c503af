"""Capture: the triggers that append every write to the journal, whoever writes.

They are plain SQL, so that any program with any SQLite library is captured, and they do no more
than append one row: seq, wall clock, table, key and a mask of the registers written. They read
nothing. Everything else is the fold's work (`changelog`), clock readings included. A merge takes
the triggers away and puts them back inside its own transaction (`suspended`): no other writer can
ever see them missing, and a crash undoes it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator

from syncd import usertriggers
from syncd.database import Connection
from syncd.demands import Term, Unique
from syncd.errors import SchemaChanged
from syncd.introspection import Definition
from syncd.literals import literal, quoted
from syncd.schema import readable
from syncd.table import ALIVE_BIT, DEAD_BIT, SALT_BITS, Table

SUSPECT = 0
"""The mask of a journal entry that only says: this row may have been displaced by a REPLACE."""

_EVENTS = (
    "insert",
    "delete",
    "rekey",
    "update",
    "renumber",
    "displace_insert",
    "displace_update",
)
# The one wall clock with milliseconds that every SQLite since 3.0 has.
_WALL = "julianday()"


def triggers(table: Table, definition: Definition) -> dict[str, str]:
    """Return the triggers of a table: name to SQL.

    None names another table of the user's, or SQLite would refuse to rebuild or to drop that one.
    """
    uniques, rowid = definition.uniques, definition.rowid
    insert_mask = ALIVE_BIT | table.columns_mask
    same_key = " AND ".join(f"OLD.{name} IS NEW.{name}" for name in table.identity)
    bodies = {
        "insert": ("AFTER INSERT", None, _append(table, "NEW", insert_mask)),
        "delete": ("AFTER DELETE", None, _append(table, "OLD", DEAD_BIT)),
        # Changing a key is a death and a birth.
        "rekey": (
            "AFTER UPDATE",
            f"NOT ({same_key})",
            f"{_append(table, 'OLD', DEAD_BIT)} {_append(table, 'NEW', insert_mask)}",
        ),
    }
    if table.columns:
        changed = " OR ".join(_differs(c.name, c.affinity) for c in table.columns)
        mask = " | ".join(
            f"CASE WHEN {_differs(c.name, c.affinity)} THEN {c.bit} ELSE 0 END"
            for c in table.columns
        )
        bodies["update"] = (
            "AFTER UPDATE",
            f"{same_key} AND ({changed})",
            _append(table, "NEW", mask),
        )
    if table.numbered and not table.is_generated:
        assert rowid is not None
        # The fold looks at such a row, and so learns its new number.
        bodies["renumber"] = (
            "AFTER UPDATE",
            f"{same_key} AND {_old(rowid)} IS NOT {_new(rowid)}",
            _append(table, "NEW", SUSPECT),
        )
    if uniques:
        displaced = " ".join(_suspects(table, definition, unique) for unique in uniques)
        bodies["displace_insert"] = ("BEFORE INSERT", None, displaced)
        moved = " OR ".join(_moves(table, definition, unique) for unique in uniques)
        bodies["displace_update"] = ("BEFORE UPDATE", moved, displaced)
    assert bodies.keys() <= set(_EVENTS), "a trigger that would not be found again"
    return {
        _name(event, table): (
            f"CREATE TRIGGER {quoted(_name(event, table))} {when} ON {table.sql}"
            + (f" WHEN {condition}" if condition else "")
            + f" BEGIN {body} END"
        )
        for event, (when, condition, body) in bodies.items()
    }


def faulty(connection: Connection, table: Table, definition: Definition) -> list[str]:
    """Return the names of triggers that are missing, differ, or should not be there any more."""
    wanted = triggers(table, definition)
    present = _present(connection, table)
    return sorted(name for name in {**wanted, **present} if wanted.get(name) != present.get(name))


def install(connection: Connection, table: Table, definition: Definition) -> bool:
    """Bring a table's triggers up to date; say whether anything had to change."""
    wanted = triggers(table, definition)
    present = _present(connection, table)
    if present == wanted:
        return False
    for name in present:
        connection.run(f"DROP TRIGGER {quoted(name)}")
    for sql in wanted.values():
        connection.run(sql)
    return True


def unwatched(connection: Connection) -> list[str]:
    """Return the enrolled tables that have no trigger of ours, as after a rebuild."""
    return [
        name
        for (name,) in connection.rows(
            "SELECT t.name FROM syncd_table AS t JOIN sqlite_schema AS s"
            " ON s.name = t.name AND s.type = 'table' WHERE NOT EXISTS"
            " (SELECT 1 FROM sqlite_schema AS o WHERE o.type = 'trigger' AND o.tbl_name = t.name"
            " AND o.name GLOB 'syncd_*') ORDER BY t.id"
        )
    ]


def sendable(connection: Connection) -> dict[str, Table]:
    """Return all enrolled tables; raise `SchemaChanged` if one may not be what its entries say."""
    tables = readable(connection)
    for name in unwatched(connection):
        raise SchemaChanged(f"table {name} was made anew, and what is written to it goes unseen")
    return tables


def journal(connection: Connection, table: Table, mask: int, rows: str, now_ms: int) -> int:
    """Append an entry for each row of a query, as a trigger would; return how many.

    rows: a query of what tells the table's rows apart on this host.
    """
    return connection.run(
        f"INSERT INTO syncd_journal (wall, tbl, mask, {_cells(table)})"
        f" SELECT 2440587.5 + (? + 0.5) / 86400000, {table.id}, {mask}, x.* FROM ({rows}) AS x",
        (now_ms,),
    )


@contextlib.contextmanager
def suspended(connection: Connection, tables: Collection[Table]) -> Iterator[None]:
    """Write inside the current transaction without being captured, nor captured a second time.

    The user's own triggers do what `usertriggers.restrained` leaves of them.
    """
    ours = {name: sql for table in tables for name, sql in _present(connection, table).items()}
    for name in ours:
        connection.run(f"DROP TRIGGER {quoted(name)}")
    with usertriggers.restrained(connection, tables):
        yield
    for sql in ours.values():
        connection.run(sql)


@contextlib.contextmanager
def suspending(connection: Connection, tables: Collection[Table]) -> Iterator[Callable[[], object]]:
    """Yield what suspends capture from its first call on to the end of the `with`.

    Who writes only sometimes should not always change the schema: every connection would have to
    read it anew. It must not be called in a savepoint that is undone.
    """
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(suspended(connection, tables)))


def _present(connection: Connection, table: Table) -> dict[str, str]:
    """Return a table's triggers, also where they went with a table that was renamed out of its way.

    What such a table is written would be taken for writes to this one.
    """
    names = ", ".join(literal(_name(event, table)) for event in _EVENTS)
    return dict(
        connection.rows(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND (name IN"
            f" ({names}) OR (tbl_name = ? AND name GLOB 'syncd_*')) ORDER BY rowid",
            (table.name,),
        )
    )


def _name(event: str, table: Table) -> str:
    return f"syncd_{event}_{table.name}"


def _append(table: Table, row: str, mask: int | str) -> str:
    cells, values = _cells(table), ", ".join(f"{row}.{name}" for name in table.identity)
    if table.is_generated:
        # For the name of the row, if this is its birth.
        cells, values = f"{cells}, k1", f"{values}, random() & {(1 << SALT_BITS) - 1}"
    return (
        f"INSERT INTO syncd_journal (wall, tbl, mask, {cells})"
        f" VALUES ({_WALL}, {table.id}, {mask}, {values});"
    )


def _cells(table: Table) -> str:
    """List the journal's cells for what tells rows apart on this host."""
    return ", ".join(f"k{i}" for i in range(len(table.identity)))


def _suspects(table: Table, definition: Definition, unique: Unique) -> str:
    """Journal the rows that hold a value the new row wants.

    An INSERT OR REPLACE that displaces them fires no delete trigger unless recursive_triggers is on
    (sqlite.org/lang_conflict.html). Whether they are really gone is the fold's to find out.
    """
    wanted = unique.without(definition.made_of)
    same = " AND ".join(
        f"{held.sql} = {_of_row('NEW', table, definition, term, wanted.predicate)}"
        f" COLLATE {quoted(term.collation)}"
        for held, term in zip(unique.terms, wanted.terms, strict=True)
    )
    if unique.predicate is not None:
        same += f" AND ({unique.predicate})"
    own = " AND ".join(f"{name} IS NEW.{name}" for name in table.identity)
    keys = ", ".join(table.identity)
    return (
        f"INSERT INTO syncd_journal (wall, tbl, mask, {_cells(table)})"
        f" SELECT {_WALL}, {table.id}, {SUSPECT}, {keys}"
        f" FROM {table.sql} WHERE {same} AND NOT ({own});"
    )


def _moves(table: Table, definition: Definition, unique: Unique) -> str:
    """Return the condition that an update changes what must be unique."""
    wanted = unique.without(definition.made_of)
    old, new = (
        [_of_row(row, table, definition, term, wanted.predicate) for term in wanted.terms]
        for row in ("OLD", "NEW")
    )
    return " OR ".join(f"{a} IS NOT {b}" for a, b in zip(old, new, strict=True))


def _of_row(
    row: str, table: Table, definition: Definition, term: Term, predicate: str | None
) -> str:
    """Return a term's value for the trigger's OLD or NEW row; it may be NULL outside the predicate.

    Where the index leaves a row out, SQLite never evaluates its expressions, which may fail.
    """
    filled = {quoted(name): preset for name, preset in definition.filled.items()}

    def value_of(name: str) -> str:
        # The row is not written yet: where it has NULL, REPLACE may write the DEFAULT.
        return f"coalesce({row}.{name}, {filled[name]})" if name in filled else f"{row}.{name}"

    if term.column is not None:
        return value_of(quoted(term.column))
    names = {*table.identity, *(quoted(c.name) for c in (*table.columns, *table.excluded))}
    if definition.rowid is not None:
        names.add(quoted(definition.rowid))
    value = term.sql if predicate is None else f"CASE WHEN {predicate} THEN {term.sql} END"
    values = ", ".join(f"{value_of(name)} AS {name}" for name in sorted(names))
    return f"(SELECT {value} FROM (SELECT {values}) AS {table.sql})"


def _differs(name: str, affinity: str) -> str:
    # A column's own collation may call two values equal that are not.
    changed = f"{_old(name)} IS NOT {_new(name)} COLLATE BINARY"
    if affinity == "BLOB":
        # 1 and 1.0 compare equal, but a column without affinity keeps them apart.
        changed += f" OR typeof({_old(name)}) <> typeof({_new(name)})"
    return changed


def _old(name: str) -> str:
    return f"OLD.{quoted(name)}"


def _new(name: str) -> str:
    return f"NEW.{quoted(name)}"
