"""The audit: whether a table is what its changelog says, and bringing the two together again.

They part if someone writes past the triggers: drops one, restores a single table, writes with an
old copy of the schema (`missed`). The table is right: mending takes it for written as it stands, as
if the triggers saw it now. Which values were changed past the triggers only another host can tell
(`verify`); `rewrite` takes what stands here for written now. Both only append to the journal, as
the triggers would have; the fold does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncd import capture, changelog, missed
from syncd.bundle import Column
from syncd.database import Connection
from syncd.introspection import Definition, redefine
from syncd.literals import literal_of
from syncd.schema import adrift, load_tables
from syncd.table import ALIVE_BIT, DEAD_BIT, Table

DAMAGE, TRIGGER, COLUMNS, BIRTH, DEATH = (
    "file damaged",
    "trigger missing or changed",
    "columns changed",
    "row without a birth",
    "birth without a row",
)


@dataclass(frozen=True)
class Finding:
    """A place where a table and what is known of it differ.

    problem: `DAMAGE`, `TRIGGER`, `COLUMNS` (the table was changed, and `syncd init` has not been
    run since), `BIRTH` or `DEATH`, which was missed. table: "" for damage that is no table's. name:
    the trigger's, the columns', the row's key as SQL literals, or SQLite's words for the damage.
    """

    table: str
    problem: str
    name: str


def damage(connection: Connection) -> list[Finding]:
    """Return what SQLite finds wrong with the file, syncd's own tables included."""
    return [Finding(table, DAMAGE, how) for table, how in connection.damage()]


def findings(connection: Connection) -> list[Finding]:
    """Return all places where tables and changelogs differ. The journal must be folded."""
    gone = [
        Finding(name, COLUMNS, ", ".join(columns) or "the table is gone")
        for name, columns in adrift(connection).items()
    ]
    tables = load_tables(connection).values()
    return [*gone, *(one for table in tables for one in _of_table(connection, table))]


def mend(connection: Connection, *, now_ms: int) -> None:
    """Put triggers back, and write into the journal what they missed. It must be folded before.

    A table that has lost most of its rows is left to `syncd init`, which gets them back.
    """
    for table in load_tables(connection).values():
        definition = redefine(connection, table)
        is_known = not _new_columns(table, definition)
        if is_known and missed.most(connection, table, definition) is None:
            capture.install(connection, table, definition)
            missed.record(connection, table, now_ms)


def rewrite(
    connection: Connection,
    table: Table,
    keys: Sequence[Column],
    written: Sequence[Sequence[str] | None],
    *,
    now_ms: int,
) -> None:
    """Write into the journal that rows are as they stand here. It must be folded before.

    keys: one column for each of the sync key's. written: for each row the columns concerned, or
    None if it is the row as such. A row that does not stand here is dead, unless a constraint holds
    it back or nothing is known of it; one without an identity but its number stays as it is.
    """
    bits = {column.name: column.bit for column in table.columns}
    whole = ALIVE_BIT | table.columns_mask
    masks = [whole if names is None else sum(bits[name] for name in names) for names in written]
    identity = ", ".join(f"t.{name}" for name in table.identity)
    with changelog.named(connection, table, keys):
        connection.run("ALTER TABLE temp.syncd_named ADD COLUMN mask INTEGER")
        connection.many(
            "UPDATE temp.syncd_named SET mask = ? WHERE id = ?",
            [(mask, number) for number, mask in enumerate(masks, 1)],
        )
        for mask in sorted(set(masks)):
            shown = (
                f"SELECT {identity} FROM temp.syncd_named AS n"
                f" CROSS JOIN {table.sql} AS t ON {table.on_user('t', 'n')} WHERE n.mask = {mask}"
            )
            capture.journal(connection, table, mask, shown, now_ms)
        if not table.is_generated:
            capture.journal(connection, table, DEAD_BIT, _gone(table), now_ms)


def _of_table(connection: Connection, table: Table) -> list[Finding]:
    definition = redefine(connection, table)
    new = _new_columns(table, definition)
    if new:
        # What its triggers should be, only `syncd init` can say.
        return [Finding(table.name, COLUMNS, ", ".join(sorted(new)))]
    faulty = capture.faulty(connection, table, definition)
    # What has no key yet is named by its number.
    births = missed.births(table, ", ".join(f"t.{name}" for name in table.identity))
    deaths = missed.deaths(table, table.cells("e"))
    return [
        *(Finding(table.name, TRIGGER, name) for name in faulty),
        *(Finding(table.name, BIRTH, key) for key in _keys(connection, births)),
        *(Finding(table.name, DEATH, key) for key in _keys(connection, deaths)),
    ]


def _new_columns(table: Table, definition: Definition) -> set[str]:
    """Return the columns that have come since a table was enrolled."""
    present = {name for name, _, _ in (*definition.columns, *definition.excluded)}
    return present - {column.name for column in (*table.columns, *table.excluded)}


def _gone(table: Table) -> str:
    """Return the query of named rows that are known and do not stand here."""
    return (
        f"SELECT {table.cells('n')} FROM temp.syncd_named AS n"
        f" WHERE NOT EXISTS (SELECT 1 FROM {table.sql} AS t WHERE {table.on_user('t', 'n')})"
        f" AND EXISTS (SELECT 1 FROM {table.changes} AS e WHERE {table.on('e', 'n')})"
        f" AND NOT EXISTS (SELECT 1 FROM {table.shadow} AS h WHERE {table.on('h', 'n')}"
        " AND h.alive)"
    )


def _keys(connection: Connection, query: str) -> list[str]:
    return [", ".join(map(literal_of, row)) for row in connection.user_rows(query)]
