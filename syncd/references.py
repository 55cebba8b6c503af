"""References by row number: which columns hold one, and which of those say another row elsewhere.

Every host mints such numbers for itself. A synced column that refers to one travels as the key of
the row that has it, also where it refers to a column that refers to it in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from syncd import ddl
from syncd.introspection import Definition
from syncd.table import Parent, Table


@dataclass(frozen=True)
class Bare:
    """A reference whose number travels as it is, or not at all, and why that is wrong.

    is_news: its table or its parent is enrolled for the first time. One that is not is no news, and
    keeps no host from starting.
    """

    why: str
    is_news: bool


def parents(definitions: Sequence[Definition]) -> dict[str, dict[str, Parent]]:
    """Return the parents that columns of each table refer to by row number, by column."""
    by_name = {definition.name: definition for definition in definitions}
    return {definition.name: _parents(definition, by_name) for definition in definitions}


def _parents(definition: Definition, by_name: Mapping[str, Definition]) -> dict[str, Parent]:
    excluded = {name for name, _, _ in definition.excluded}
    return {
        column: Parent(parent, len(by_name[parent].key), by_name[parent].rowid)
        for column, parent in _referring(definition, by_name)
        if column not in excluded
    }


def _referring(
    definition: Definition, by_name: Mapping[str, Definition]
) -> Iterator[tuple[str, str]]:
    """Yield the columns of a table that refer to a row number, each with the table it is of."""
    for reference in definition.foreign_keys:
        for column, to in zip(reference.columns, reference.parent_columns, strict=True):
            if (parent := _numbered(reference.parent, to, by_name, ())) is not None:
                yield column, parent


def _numbered(
    table: str,
    column: str,
    by_name: Mapping[str, Definition],
    seen: tuple[tuple[str, str], ...],
) -> str | None:
    """Return the table whose row numbers a column holds; None if it holds no such.

    seen: the columns by which it was come to.
    """
    definition = by_name.get(table)
    if definition is None or (table, column) in seen:
        return None
    if column == definition.rowid:
        return table
    found = (
        _numbered(reference.parent, to, by_name, (*seen, (table, column)))
        for reference in definition.foreign_keys
        for own, to in zip(reference.columns, reference.parent_columns, strict=True)
        if own == column
    )
    return next((parent for parent in found if parent is not None), None)


def in_keys(definitions: Sequence[Definition]) -> list[str]:
    """Say which references by row number cannot travel as the parent's sync key."""
    return [
        f"tables.{definition.name}: ({column}) refers to the row number of {parent.name}, so it is"
        " another one on every host and cannot be a key"
        for definition, found in zip(definitions, parents(definitions).values(), strict=True)
        for column, parent in found.items()
        if column in {part.name for part in definition.key}
    ]


def that_cannot_travel(
    known: Mapping[str, Table], definitions: Sequence[Definition]
) -> dict[str, list[Bare]]:
    """Return the references of each table that say another row on other hosts.

    known: the tables that are enrolled already.
    """
    by_name = {definition.name: definition for definition in definitions}
    return {
        definition.name: [
            *_synced_as_they_were(known, definition, found),
            *_own_numbers(known, definition, by_name),
            *_generated(known, definition, by_name),
        ]
        for definition, found in zip(definitions, parents(definitions).values(), strict=True)
    }


def _synced_as_they_were(
    known: Mapping[str, Table], definition: Definition, parents: Mapping[str, Parent]
) -> Iterator[Bare]:
    """Yield columns that refer to a parent by number and have been synced as such."""
    table = known.get(definition.name)
    for column in table.columns if table is not None else ():
        parent = parents.get(column.name)
        if parent is not None and column.parent is None:
            yield Bare(
                f"({column.name}) was synced as a bare number of {parent.name}, which means another"
                " row on each host; to let it travel as the key, first"
                f" {_left_out(column.name)}, then syncd init, then back",
                is_news=parent.name not in known,
            )


def _own_numbers(
    known: Mapping[str, Table], definition: Definition, by_name: Mapping[str, Definition]
) -> Iterator[Bare]:
    """Yield references of the number that stays on each host, and so says what it says there."""
    for reference in definition.foreign_keys:
        if definition.rowid not in reference.columns:
            continue
        to = reference.parent_columns[reference.columns.index(definition.rowid)]
        parent = reference.parent
        is_minted = _numbered(parent, to, by_name, ()) is not None
        yield Bare(
            f"({definition.rowid}) refers to {parent}, and is a number that every host mints for"
            " itself, so a row would belong to another elsewhere; "
            + (
                "give the table a number of its own, and the reference a column beside it"
                if is_minted or parent not in by_name
                else f"identify its rows by it, with key: [{definition.rowid}]"
            ),
            is_news=definition.name not in known or (parent in by_name and parent not in known),
        )


def _generated(
    known: Mapping[str, Table], definition: Definition, by_name: Mapping[str, Definition]
) -> Iterator[Bare]:
    """Yield references of generated columns that are not made of a reference to the same parent."""
    referring = dict(_referring(definition, by_name))
    made_of = {
        name: {word.casefold() for word in ddl.words(ddl.expanded(sql, definition.made_of))}
        for name, sql in definition.made_of.items()
    }
    for column, parent in referring.items():
        if column not in made_of:
            continue
        translated = {
            name.casefold()
            for name, to in referring.items()
            if to == parent and name not in made_of
        }
        if not translated & made_of[column]:
            yield Bare(
                f"({column}) is generated and refers to the row number of {parent}, so what it is"
                " made of means another row on each host; declare that with a reference of its own",
                is_news=definition.name not in known or parent not in known,
            )


def without_parent(
    known: Mapping[str, Table], definitions: Sequence[Definition], gone: Sequence[str]
) -> list[str]:
    """Say which columns have numbers of a table that is not known any more, or is gone."""
    return [
        f"tables.{definition.name}: ({column.name}) has numbers of {column.parent.name}, which"
        f" travel as its keys, and that table is gone; keep it, or {_left_out(column.name)}"
        for definition in definitions
        if definition.name in known
        for column in known[definition.name].columns
        if column.parent is not None
        and (column.parent.name in gone or column.parent.name not in known)
        and column.name in {name for name, _, _ in definition.columns}
    ]


def _left_out(column: str) -> str:
    return (
        f"let every host leave it out (columns: {{exclude: [{column}]}}) or rename it"
        " (ALTER TABLE ... RENAME COLUMN)"
    )
