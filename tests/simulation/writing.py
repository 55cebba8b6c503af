"""What a writer's statement wrote: from the tables before and after it, and stamps of the journal.

The engine's own account of a write, the mask in its journal, is not believed: a value that is not
captured would be missing here too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from engine.model import ALIVE, DEAD, Change, Key
from engine.simulation import Statement, cell_of, replaced_by_cascade, stamps_of, writes_between

from simulation import shapes
from simulation.machine import Machine


def attempt(connection: sqlite3.Connection, statement: Statement) -> int:
    """Run a statement; return how many rows it wrote.

    SQLite may refuse it, and an old schema may not have its column.
    """
    changed = 0
    connection.execute("SAVEPOINT statement")
    try:
        changed = connection.execute(statement.sql, statement.values).rowcount
    except sqlite3.IntegrityError:
        pass
    except sqlite3.OperationalError as error:
        if "no such" not in str(error) and "has no column" not in str(error):
            raise
    if statement.undone:
        connection.execute("ROLLBACK TO statement")
    connection.execute("RELEASE statement")
    return changed


def written(
    machine: Machine, act: Callable[[], object], statement: Statement | None = None
) -> set[Change]:
    """Do something to a host's tables; return what that wrote."""
    ((last,),) = machine.rows("SELECT max(seq) FROM syncd_journal")
    before, names = machine.shown(), _names(machine)
    has_changed = act()
    after = machine.shown()
    names |= _names(machine)
    origin, _ = machine.identity()
    born = None
    if statement and statement.born and has_changed and not statement.undone:
        born = tuple(map(cell_of, statement.born))
    displaced = None
    if statement and born and born in before[statement.table]:
        ((enforced,),) = machine.rows("PRAGMA foreign_keys")
        displaced = (statement.table, born) if enforced else None
    found = set()
    version = machine.knowledge.version
    for name, shape in shapes.of_version(machine.tables, version).items():
        cells = 1 if shape.generated else len(shape.key)
        wrote, ended = (
            {
                names.get((name, row), row): stamp
                for row, stamp in stamps_of(
                    machine.writer, name, cells, last, origin, suspects=suspects
                ).items()
            }
            for suspects in (False, True)
        )
        reborn = born if statement and statement.table == name else None
        replaced = replaced_by_cascade(
            shape.key, shape.parents, displaced, before[name], after[name]
        )
        if replaced:
            # REPLACE deletes before its statement writes.
            died = stamps_of(machine.writer, name, cells, last, origin, first=True)
            ended |= {key: died[key] for key in replaced}
        columns = shape.columns_of(version)
        writes = writes_between(columns, before[name], after[name], reborn, replaced)
        found |= {
            Change((ended if value == DEAD else wrote)[key], name, key, column, value)
            for key, column, value in writes
            # A number that means another row has been written by nobody: that is the fold's to say.
            if key in wrote or column not in shapes.REFERENCES
        }
    return found


def returned(machine: Machine) -> set[Change]:
    """Return deaths that are none: REPLACE displaced the row, and it is back before the fold.

    No trigger tells of such a row, so the fold looks whether it is gone.
    """
    origin, folded = machine.identity()
    found = machine.rows("SELECT seq FROM syncd_journal WHERE mask = 0 AND seq > ?", folded)
    suspected = {seq for (seq,) in found}
    merged = machine.knowledge.merged if suspected else ()
    return {
        died
        for died in merged
        if died.value == DEAD and died.stamp.origin == origin and died.stamp.seq in suspected
        for born in merged
        if born.value == ALIVE
        and (born.table, born.key) == (died.table, died.key)
        and born.stamp.origin == origin
        and born.stamp.seq > died.stamp.seq
    }


def _names(machine: Machine) -> dict[tuple[str, Key], Key]:
    """Return the identities of all rows with generated keys, by table and number."""
    return {
        (name, number): identity
        for name, shape in machine.tables.items()
        if shape.generated
        for number, identity in machine.identities(name).items()
    }
