"""Enrolment: bringing the user's tables under syncd, once and again after every migration.

All tables are checked before anything is written, and everything is written in one transaction.
Rows that are there already get changes with the stamp that a column of theirs says, or with the
lowest, so that any real write beats them; so do the values of a column that was added since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from syncd import (
    backfill,
    capture,
    children,
    disclaim,
    migration,
    missed,
    names,
    numbers,
    references,
    usertriggers,
)
from syncd.config import TableConfig
from syncd.database import Connection
from syncd.disclaim import Renew
from syncd.errors import SchemaError
from syncd.introspection import Definition, define, foreign_keys
from syncd.references import Bare
from syncd.schema import (
    adrift,
    create_bookkeeping,
    create_table,
    is_enrolled,
    load_tables,
    remembered,
    require_enrolled,
)
from syncd.table import COLUMNS_MAX, GENERATED, Column, Table


@dataclass(frozen=True)
class Enrolled:
    """What enrolling did with one table.

    state: "new", "changed", "unchanged", "unlisted" for a table that is no longer configured (it
    stays enrolled), or "gone" for one that is not there either (it does not). rows: how many rows
    that were there already got a stamp. deleted: how many that were not there any more were
    recorded as deleted. added: columns synced from now on; excluded: columns that stay on this host
    from now on; dropped: columns that are gone. warnings: what the operator should know.
    """

    table: str
    state: str
    rows: int = 0
    deleted: int = 0
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def enrol(
    connection: Connection,
    configs: Mapping[str, TableConfig],
    *,
    origin: bytes,
    node: str,
    now_ms: int,
    renew: Renew,
) -> list[Enrolled]:
    """Enrol tables as they are configured; `origin` is used if the file is new to syncd.

    now_ms: this host's wall clock. Nothing of the journal may be unfolded; afterwards there may be
    writes in it that had been missed. Raises `SchemaError` with every problem found.
    """
    known = remembered(connection) if is_enrolled(connection) else {}
    missing = adrift(connection) if known else {}
    gone = [name for name, columns in missing.items() if not columns and name not in configs]
    unlisted = {
        name: _as_known(table, missing.get(name, ()))
        for name, table in known.items()
        if name not in configs and name not in gone
    }
    definitions, problems = _definitions(connection, {**configs, **unlisted})
    problems += _with_another_key(known, definitions)
    bare = references.that_cannot_travel(known, definitions)
    problems += [
        f"tables.{name}: {one.why}" for name, found in bare.items() for one in found if one.is_news
    ]
    problems += references.without_parent(known, definitions, gone)
    if problems:
        raise SchemaError(problems)
    if is_enrolled(connection):
        require_enrolled(connection)
        connection.run(
            "UPDATE syncd_origin SET node = ? WHERE ordinal = (SELECT origin FROM syncd_replica)"
            " AND node <> ?",
            (node, node),
        )
    else:
        create_bookkeeping(connection, origin, node)
    enrolling = _Enrolling(connection, definitions, now_ms, renew)
    results = [enrolling.one(one, known.get(one.name)) for one in definitions]
    for name in gone:
        disclaim.all_of(connection, known[name], renew)
    # Only now, because backfilling wants a journal in which nothing waits.
    results = [_with_missed(connection, result, now_ms) for result in results]
    _expect_parents(connection, results)
    beside = _beside(connection)
    results = [
        _with_warnings(connection, one, configs.get(one.table), bare[one.table], beside[one.table])
        for one in results
    ]
    return [
        *(dataclasses.replace(r, state="unlisted") if r.table in unlisted else r for r in results),
        *(Enrolled(name, "gone") for name in gone),
    ]


def require_parents(connection: Connection, names: Iterable[str]) -> None:
    """Raise `SchemaError` if a table refers to one that is not there: nothing could be merged.

    names: tables that are to be enrolled; those that are enrolled are looked at as well.
    """
    known = remembered(connection) if is_enrolled(connection) else {}
    concerned = {*names, *known}
    present = {
        name for (name,) in connection.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }
    problems = [
        f"tables.{name}: ({', '.join(reference.columns)}) refers to table {reference.parent}, which"
        f" is not there; make it, or rebuild {name} without that reference"
        for name, reference in foreign_keys(connection)
        if name in concerned and reference.parent not in present
    ]
    if problems:
        raise SchemaError(problems)


def _with_missed(connection: Connection, result: Enrolled, now_ms: int) -> Enrolled:
    """Record what was born and died while a table that has changed was not watched."""
    if result.state != "changed":
        return result
    table = load_tables(connection)[result.table]
    born, died = missed.record(connection, table, now_ms)
    if table.numbered and not table.is_generated:
        numbers.note(connection, table, f"SELECT {table.cells('e')} FROM {table.changes} AS e")
    return dataclasses.replace(result, rows=result.rows + born, deleted=died)


def _with_warnings(
    connection: Connection,
    result: Enrolled,
    config: TableConfig | None,
    bare: Sequence[Bare],
    beside: Sequence[str],
) -> Enrolled:
    """Warn of what does not come to every host that has the change.

    config: the table's, which names triggers that are expected; None if it is not listed any more.
    bare: its references that say another row elsewhere. beside: what is to be said of tables that
    stay here.
    """
    warnings = [*result.warnings, *(one.why for one in bare)]
    if config is not None:
        warnings += beside
        warnings += [
            f"trigger {trigger} writes {written}, which is synced as well: what it wrote travels"
            " as changes of its own, so it does not fire when a change from another host is merged"
            for trigger, written in usertriggers.crossing(
                connection, load_tables(connection)[result.table]
            )
            if trigger not in config.triggers
        ]
    return dataclasses.replace(result, warnings=tuple(warnings))


def _beside(connection: Connection) -> dict[str, list[str]]:
    """Say of each enrolled table what it refers to, or is referred to by, that stays here."""
    enrolled = load_tables(connection)
    said: dict[str, list[str]] = {name: [] for name in enrolled}
    for name, reference in foreign_keys(connection):
        if name in enrolled and reference.parent not in enrolled:
            said[name].append(
                f"({', '.join(reference.columns)}) refers to {reference.parent}, which is not"
                " synced: a row does not show on a host that lacks its parent"
            )
        if reference.parent in enrolled and name not in enrolled:
            said[reference.parent].append(
                f"{name} refers to it and is not synced: its rows stay when a merge takes their"
                " parent away"
            )
    return {name: list(dict.fromkeys(texts)) for name, texts in said.items()}


def _definitions(
    connection: Connection, configs: Mapping[str, TableConfig]
) -> tuple[list[Definition], list[str]]:
    definitions, problems = [], []
    for name, config in configs.items():
        found = define(connection, name, config)
        if isinstance(found, Definition):
            definitions.append(found)
        else:
            problems.extend(found)
    return definitions, [*problems, *references.in_keys(definitions)]


def _with_another_key(known: Mapping[str, Table], definitions: Sequence[Definition]) -> list[str]:
    """Say which tables were enrolled with another key than they are to have."""
    return [
        f"tables.{definition.name}.key: enrolled with key"
        f" ({', '.join(c.name for c in known[definition.name].key)}), which cannot change"
        for definition in definitions
        if definition.name in known and known[definition.name].key != definition.key
    ]


def _expect_parents(connection: Connection, results: Sequence[Enrolled]) -> None:
    """Look through children for parents that are not here yet, unless the fold has seen to it."""
    seen = {result.table for result in results if result.state == "unchanged"}
    tables = load_tables(connection)
    for table in tables.values():
        if table.is_parent and table.numbered:
            names.begin(connection, table)
    for table in tables.values():
        if not {table.name, *(c.parent.name for c in table.columns if c.parent)} <= seen:
            children.expect_parents(connection, table)


class _Enrolling:
    """Enrols one table after the other, in one transaction."""

    def __init__(
        self, connection: Connection, definitions: Sequence[Definition], now_ms: int, renew: Renew
    ) -> None:
        self._connection = connection
        self._now_ms = now_ms
        self._renew = renew
        self._parents = references.parents(definitions)

    def one(self, definition: Definition, known: Table | None) -> Enrolled:
        """Enrol a table, for the first time or again."""
        if known is None:
            return self._new(definition)
        lost = missed.most(self._connection, known, definition)
        if lost is not None:
            gone, present = lost
            disclaim.all_of(self._connection, known, self._renew)
            warning = (
                f"{gone} of its {present} rows went unseen, as if the table had been made anew; it"
                " was enrolled like a new one, and what peers have of it comes back. To delete rows"
                " on every host, DELETE them now"
            )
            return dataclasses.replace(self._new(definition), warnings=(warning,))
        return self._again(definition, known)

    def _again(self, definition: Definition, known: Table) -> Enrolled:
        table, rows, changed = migration.follow(
            self._connection,
            known,
            definition,
            self._parents[known.name],
            numbered=numbers.is_needed(self._connection, definition),
            renew=self._renew,
        )
        before = _names(known.columns) | _names(known.excluded)
        return Enrolled(
            known.name,
            "changed" if changed else "unchanged",
            rows,
            added=_sorted(_names(table.columns) - _names(known.columns)),
            dropped=_sorted(before - _names(table.columns) - _names(table.excluded)),
            excluded=_sorted(_names(table.excluded) - _names(known.excluded)),
        )

    def _new(self, definition: Definition) -> Enrolled:
        connection = self._connection
        table = Table(
            id=connection.value("SELECT coalesce(max(id), 0) + 1 FROM syncd_table"),
            name=definition.name,
            key=definition.key,
            columns=migration.placed(definition.columns, (), 0, self._parents[definition.name]),
            excluded=migration.placed(definition.excluded, (), COLUMNS_MAX),
            rowid=definition.rowid,
            numbered=numbers.is_needed(connection, definition),
        )
        create_table(connection, table)
        capture.install(connection, table, definition)
        if table.numbered:
            numbers.start(connection, table)
        rows = backfill.rows(connection, table, definition.stamp_from, self._now_ms)
        return Enrolled(table.name, "new", rows, excluded=_sorted(_names(table.excluded)))


def _names(columns: Iterable[Column]) -> set[str]:
    return {column.name for column in columns}


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _as_known(table: Table, gone: Sequence[str]) -> TableConfig:
    """Return the configuration of a table that is enrolled and not configured any more."""
    key = GENERATED if table.is_generated else [column.name for column in table.key]
    excluded = sorted(_names(table.excluded) - set(gone))
    return TableConfig.model_validate({"key": key, "columns": {"exclude": excluded}})
