"""The user's own triggers: what of them a merge sets off, and which `syncd init` warns of.

What a trigger wrote to an enrolled table where a change was born travels as changes of its own, and
would be there twice if the merge set it off as well. What it writes to other tables, such as a
full-text index, is this host's and nobody sends it. A trigger may do both, so a merge takes it
statement by statement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

from syncd import ddl
from syncd.database import Connection
from syncd.literals import quoted
from syncd.table import Table


@contextlib.contextmanager
def restrained(connection: Connection, tables: Collection[Table]) -> Iterator[None]:
    """Let writes to tables set off no statement that writes an enrolled one, in this transaction.

    Of a trigger's statements those are left that write other tables. One that writes nothing could
    only refuse what another host has accepted already, and so could one that fails.
    """
    theirs = _set_off(connection, tables)
    enrolled = {name.casefold() for name in _enrolled(connection)}
    rests = {name: rest for name, sql in theirs.items() if (rest := _rest(sql, enrolled))}
    if rests == theirs:
        yield
        return
    # All of them, so that they are set off in their own order ever after.
    _replace(connection, theirs, rests)
    yield
    _replace(connection, rests, theirs)


@contextlib.contextmanager
def silenced(connection: Connection, table: Table) -> Iterator[None]:
    """Let writes to a table set off none of the user's triggers on it, in this transaction."""
    name = table.name.casefold()
    theirs = {one: sql for one, (on, sql) in _all(connection).items() if on.casefold() == name}
    _replace(connection, theirs, {})
    yield
    _replace(connection, {}, theirs)


def _replace(connection: Connection, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    for name in old:
        connection.run(f"DROP TRIGGER {quoted(name)}")
    for sql in new.values():
        connection.run(sql)


def crossing(connection: Connection, table: Table) -> list[tuple[str, str]]:
    """Return the triggers that a table's writes set off and that write another enrolled one.

    Each comes with the table it writes. One on a table that is not enrolled may be among them, but
    none on another enrolled table: that one has them itself.
    """
    others = _enrolled(connection) - {table.name}
    on = {name: table for name, (table, _) in _all(connection).items()}
    return sorted(
        (trigger, written)
        for written, trigger in connection.writes_of(_writes_to(table))
        if trigger is not None and written in others and on.get(trigger, written) not in others
    )


def _all(connection: Connection) -> dict[str, tuple[str, str]]:
    """Return the user's triggers in the order of their making, each with its table and its SQL."""
    return {
        name: (table, sql)
        for name, table, sql in connection.rows(
            "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger'"
            " AND name NOT GLOB 'syncd_*' ORDER BY rowid"
        )
    }


def _set_off(connection: Connection, tables: Collection[Table]) -> dict[str, str]:
    """Return the triggers that a merge into tables may set off, with their SQL.

    SQLite itself says which write something, when it compiles a statement that sets them off.
    """
    triggers = _all(connection)
    if not triggers:
        return {}
    names = {table.name.casefold() for table in tables}
    writes = connection.writes_of([sql for table in tables for sql in _writes_to(table)])
    writing = {trigger for _, trigger in writes}
    return {
        name: sql
        for name, (on, sql) in triggers.items()
        if on.casefold() in names or name in writing
    }


def _rest(sql: str, enrolled: Collection[str]) -> str | None:
    """Return what is left of a trigger: itself, less of it, or None.

    What is left are the statements that write something, and nothing enrolled; a row that their
    table refuses they leave out. A view takes nothing without its trigger, so there that stays, and
    does nothing.
    """
    head, statements = ddl.trigger(sql)
    kept = [
        ddl.ignoring(statement)
        for statement in statements
        if (written := ddl.written_by(statement)) and written.casefold() not in enrolled
    ]
    if kept == statements:
        return sql
    if not kept and ddl.is_instead(head):
        kept = ["SELECT 1"]
    # On lines of their own: before each may stand a comment that ends with its line.
    body = "".join(f"{statement}\n;\n" for statement in kept)
    return f"{head}\nBEGIN\n{body}END" if kept else None


def _enrolled(connection: Connection) -> set[str]:
    return {name for (name,) in connection.rows("SELECT name FROM syncd_table")}


def _writes_to(table: Table) -> list[str]:
    """Return statements that set off every trigger on what a merge writes of a table."""
    key = table.identity[0]
    names = [*(quoted(c.name) for c in table.columns), *table.identity]
    sets = ", ".join(f"{name} = {name}" for name in names)
    return [
        f"INSERT INTO {table.sql} ({key}) VALUES (NULL)",
        f"UPDATE {table.sql} SET {sets}",
        f"DELETE FROM {table.sql}",
    ]
