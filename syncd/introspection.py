"""What the user's tables look like, as SQLite itself tells.

Reads a table's definition through pragmas and decides what its sync key and synced columns are, or
says why it cannot be enrolled. Nothing is written here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncd import ddl
from syncd.config import TableConfig
from syncd.database import Connection
from syncd.demands import Constraints, ForeignKey, Term, Unique
from syncd.literals import quoted
from syncd.table import COLUMNS_MAX, GENERATED, GENERATED_KEY, KeyColumn, Table

_NO_NUMBER = (
    ".key: generated: syncd keeps track of such rows by their number, so the table needs an INTEGER"
    " PRIMARY KEY; or name the columns that identify a row with key: [columns]"
)

_COLLATIONS = {"BINARY", "NOCASE", "RTRIM"}
"""Those that every SQLite has (sqlite.org/datatype3.html, section 7)."""


@dataclass(frozen=True)
class Definition:
    """A table of the user's as it stands.

    columns: the synced ones outside the key: name, affinity, DEFAULT's SQL. excluded: likewise, of
    those that the user keeps on this host. rowid: the column that stands for the rowid and stays on
    this host. uniques: what must be unique beside what tells its rows apart, the rowid included.
    made_of: its generated columns, each with the SQL of what it is made of. stamp_from: the column
    that says when a row was last written. filled: what REPLACE puts in place of NULL, by column
    (sqlite.org/lang_conflict.html).
    """

    name: str
    key: tuple[KeyColumn, ...]
    columns: tuple[tuple[str, str, str], ...]
    excluded: tuple[tuple[str, str, str], ...]
    rowid: str | None
    uniques: tuple[Unique, ...]
    made_of: Mapping[str, str]
    foreign_keys: tuple[ForeignKey, ...]
    stamp_from: str | None
    filled: Mapping[str, str]

    @property
    def is_generated(self) -> bool:
        """Say whether syncd mints the identities of its rows."""
        return self.key == GENERATED_KEY


@dataclass(frozen=True)
class _Info:
    name: str
    type: str
    not_null: bool
    preset: str
    pk: int
    generated: bool
    affinity: str
    rowid: bool

    @property
    def bare_integer(self) -> bool:
        return self.type.upper() == "INTEGER"

    @property
    def register(self) -> tuple[str, str, str]:
        return self.name, self.affinity, self.preset


def define(connection: Connection, name: str, config: TableConfig) -> Definition | list[str]:
    """Return a table's definition, or what is wrong with it."""
    kind = connection.value(
        "SELECT CASE WHEN sql LIKE 'CREATE VIRTUAL%' THEN 'virtual table' ELSE type END"
        " FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ?",
        (name,),
    )
    where = f"tables.{name}"
    if kind is None:
        return [f"{where}: there is no such table in the database"]
    if kind != "table":
        return [f"{where}: is a {kind}; only ordinary tables can be enrolled"]
    if name.lower().startswith(("syncd_", "sqlite_")):
        return [f"{where}: the prefix is reserved"]
    infos = _infos(connection, name)
    rowid = _rowid_alias(infos)
    key = config.key
    if key == GENERATED:
        chosen: tuple[str, ...] = ()
        problems = [] if rowid is not None else [_NO_NUMBER]
    else:
        chosen, problems = _choose_key(connection, name, infos, key)
    problems += _cannot_exclude(config.columns.exclude, infos, chosen)
    reserved = [info.name for info in infos if info.name.lower().startswith("syncd_")]
    problems += [f": column {one!r}: the prefix is reserved" for one in reserved]
    if config.stamp_from not in (None, *(info.name for info in infos)):
        problems.append(f".stamp_from: there is no column {config.stamp_from!r}")
    if problems:
        return [f"{where}{problem}" for problem in problems]
    definition = _definition(
        connection,
        name,
        infos,
        chosen,
        excluded=config.columns.exclude,
        stamp_from=config.stamp_from,
    )
    if len(definition.columns) > COLUMNS_MAX:
        return [
            f"{where}: {len(definition.columns)} columns; at most {COLUMNS_MAX} can be synced; keep"
            " others on this host with columns: {exclude: [...]}"
        ]
    return definition


def foreign_keys(connection: Connection) -> list[tuple[str, ForeignKey]]:
    """Return the foreign keys of all tables of the file, each with the name of its table."""
    names = connection.rows(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name"
    )
    return [(name, one) for (name,) in names for one in _foreign_keys(connection, name)]


def is_referred_to_by_number(connection: Connection, definition: Definition) -> bool:
    """Say whether any table of the file refers to a table's rows by their local numbers."""
    return definition.rowid is not None and any(
        reference.parent == definition.name and definition.rowid in reference.parent_columns
        for _, reference in foreign_keys(connection)
    )


def redefine(connection: Connection, table: Table) -> Definition:
    """Return the definition of an enrolled table, which has its key's columns, as it stands."""
    infos = _infos(connection, table.name)
    chosen = () if table.is_generated else tuple(column.name for column in table.key)
    excluded = [column.name for column in table.excluded]
    return _definition(connection, table.name, infos, chosen, excluded=excluded, stamp_from=None)


def _definition(
    connection: Connection,
    name: str,
    infos: list[_Info],
    chosen: tuple[str, ...],
    *,
    excluded: Sequence[str],
    stamp_from: str | None,
) -> Definition:
    """Define a table by its key's columns; there are none where identities are generated."""
    rowid = _rowid_alias(infos)
    others = [i for i in infos if i.name not in chosen and not i.generated and i.name != rowid]
    synced = [info for info in others if info.name not in excluded]
    by_name = {info.name: info for info in infos}
    identity = [rowid] if not chosen and rowid is not None else chosen
    return Definition(
        name=name,
        key=tuple(KeyColumn(column, by_name[column].affinity) for column in chosen)
        or GENERATED_KEY,
        columns=tuple(info.register for info in synced),
        excluded=tuple(info.register for info in others if info not in synced),
        rowid=None if rowid in chosen else rowid,
        uniques=tuple(
            unique
            for unique in _uniques(connection, name, infos)
            if not unique.identifies(identity)
        ),
        made_of=_made_of(connection, name, infos),
        foreign_keys=_foreign_keys(connection, name),
        stamp_from=stamp_from,
        filled={i.name: i.preset for i in infos if i.not_null and i.preset != "NULL"},
    )


def constraints(connection: Connection, table: Table) -> Constraints:
    """Return what a table demands beside its key; uniqueness of the rowid is not among it.

    It is looked up once in a transaction.
    """
    return connection.once((constraints, table), lambda: _constraints(connection, table))


def _constraints(connection: Connection, table: Table) -> Constraints:
    name, key = table.name, [column.name for column in table.key]
    infos = _infos(connection, name)
    alias = _rowid_alias(infos)
    references = _foreign_keys(connection, name)
    return Constraints(
        frozenset(i.name for i in infos if i.not_null and i.preset == "NULL"),
        tuple(
            unique
            for unique in _uniques(connection, name, infos)
            if not unique.identifies(key) and unique.columns != frozenset([alias])
        ),
        (*references, *_of_numbers(table, references)),
        bool(
            connection.value(
                "SELECT sql LIKE '%on%conflict%' FROM sqlite_schema WHERE type = 'table'"
                " AND name = ?",
                (name,),
            )
        ),
        _made_of(connection, name, infos),
        _declared(connection, name, infos),
        {info.name: info.preset for info in infos if not info.generated},
    )


def _of_numbers(table: Table, references: Sequence[ForeignKey]) -> list[ForeignKey]:
    """Return the references that row numbers are by themselves.

    As a part of a reference of several columns, one says nothing to SQLite where another part is
    NULL. But it travels as a row, which another host may not have.
    """
    alone = {reference.columns for reference in references}
    parts = {column for reference in references for column in reference.columns}
    return [
        ForeignKey((column.name,), column.parent.name, (column.parent.rowid,))
        for column in table.columns
        if column.parent is not None
        and column.parent.rowid is not None
        and column.name in parts
        and (column.name,) not in alone
    ]


def affinity_of(declared: str) -> str:
    """Return the affinity of a declared type (sqlite.org/datatype3.html, section 3.1)."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _infos(connection: Connection, name: str) -> list[_Info]:
    strict = connection.value("SELECT strict FROM pragma_table_list(?)", (name,))
    has_index = connection.value(
        "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk')", (name,)
    )
    return [
        _Info(
            name=column,
            type=declared,
            not_null=bool(not_null),
            preset=preset or "NULL",
            pk=pk,
            generated=hidden in (2, 3),
            affinity="BLOB" if strict and declared.upper() == "ANY" else affinity_of(declared),
            # An INTEGER PRIMARY KEY with an index of its own (WITHOUT ROWID, or DESC) is no rowid.
            rowid=bool(pk) and declared.upper() == "INTEGER" and not has_index,
        )
        for column, declared, not_null, preset, pk, hidden in connection.rows(
            'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)',
            (name,),
        )
    ]


def _choose_key(
    connection: Connection, name: str, infos: list[_Info], key: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str]]:
    if key is None:
        chosen, problems = _declared_key(infos)
    else:
        chosen, problems = tuple(key), _named_key(infos, key)
    if problems:
        return (), problems
    uniques = [u for u in _uniques(connection, name, infos) if u.columns == frozenset(chosen)]
    if not any(unique.identifies(chosen) for unique in uniques):
        if uniques:
            return (), [".key: only columns of BINARY collation can tell rows apart on every host"]
        listed = ", ".join(chosen)
        return (), [
            f".key: no UNIQUE constraint or index covers exactly ({listed}) in every row;"
            f" try: CREATE UNIQUE INDEX {name}_key ON {name} ({listed})"
        ]
    if _declared_collations(connection, name, chosen) != {"BINARY"}:
        return (), [".key: only columns of BINARY collation can tell rows apart on every host"]
    return chosen, []


def _cannot_exclude(excluded: Sequence[str], infos: list[_Info], key: Sequence[str]) -> list[str]:
    known = {info.name: info for info in infos}
    where = ".columns.exclude:"
    problems = []
    for name in excluded:
        info = known.get(name)
        if info is None:
            problems.append(f"{where} there is no column {name!r}")
        elif name in key:
            problems.append(f"{where} column {name!r} is part of the key, which must travel")
        elif info.not_null and info.preset == "NULL" and not info.rowid and not info.generated:
            problems.append(
                f"{where} column {name!r} is NOT NULL without a DEFAULT, so rows from other hosts"
                " could not stand here"
            )
    return problems


def _named_key(infos: list[_Info], key: Sequence[str]) -> list[str]:
    known = {info.name: info for info in infos}
    problems = [f".key: there is no column {column!r}" for column in key if column not in known]
    for column in key:
        info = known.get(column)
        if info and info.generated:
            problems.append(f".key: column {column!r} is generated; name the columns it is made of")
        elif info and not info.not_null and not info.pk:
            problems.append(
                f".key: column {column!r} may be NULL; a key's columns must be declared NOT NULL"
            )
    return problems


def _declared_collations(connection: Connection, name: str, columns: Sequence[str]) -> set[str]:
    # No pragma tells a column's collation, but an index without one of its own takes it over.
    listed = ", ".join(map(quoted, columns))
    connection.run(f"CREATE INDEX syncd_probe ON {quoted(name)} ({listed}) WHERE 0")
    found = connection.rows("SELECT coll FROM pragma_index_xinfo('syncd_probe') WHERE key")
    connection.run("DROP INDEX syncd_probe")
    return {collation for (collation,) in found}


def _declared_key(infos: list[_Info]) -> tuple[tuple[str, ...], list[str]]:
    declared = sorted((info for info in infos if info.pk), key=lambda info: info.pk)
    if not declared:
        return (), [": no PRIMARY KEY; name the columns that identify a row with key: [columns]"]
    if len(declared) == 1 and declared[0].bare_integer:
        return (), [
            f": its PRIMARY KEY {declared[0].name!r} is an integer that every host mints for"
            " itself, so one number means different rows; name unique NOT NULL columns with"
            " key: [columns], or write key: generated for a log without such columns"
        ]
    return tuple(info.name for info in declared), []


def _rowid_alias(infos: list[_Info]) -> str | None:
    return next((info.name for info in infos if info.rowid), None)


def _uniques(connection: Connection, name: str, infos: list[_Info]) -> list[Unique]:
    found = []
    alias = _rowid_alias(infos)
    if alias is not None:
        found.append(Unique((Term(quoted(alias), "BINARY", alias),)))
    generated = {info.name for info in infos if info.generated}
    indexes = connection.rows(
        "SELECT l.name, s.sql FROM pragma_index_list(?) AS l"
        ' LEFT JOIN sqlite_schema AS s ON s.name = l.name WHERE l."unique"',
        (name,),
    )
    for index, sql in indexes:
        expressions, predicate = ddl.index(sql) if sql else ([], None)
        columns = connection.rows(
            "SELECT seqno, name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (index,)
        )
        terms = []
        for number, column, collation in columns:
            term = f"({expressions[number]})" if column is None else quoted(column)
            terms.append(Term(term, collation, None if column in generated else column))
        found.append(Unique(tuple(terms), predicate))
    return found


def _declared(connection: Connection, name: str, infos: list[_Info]) -> dict[str, str]:
    # Of the app's own collations none is here; no index, CHECK or trigger of the table needs one.
    declared = ddl.collations(_create_table(connection, name))
    collations = {column: one for column, one in declared.items() if one.upper() in _COLLATIONS}
    return {
        quoted(info.name): f"{info.affinity} COLLATE {quoted(collations.get(info.name, 'BINARY'))}"
        for info in infos
    }


def _made_of(connection: Connection, name: str, infos: list[_Info]) -> dict[str, str]:
    """Return what a table's generated columns are made of: name to SQL."""
    names = [info.name for info in infos if info.generated]
    if not names:
        return {}
    return ddl.generated(_create_table(connection, name), names)


def _create_table(connection: Connection, name: str) -> str:
    sql: str = connection.value(
        "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)
    )
    return sql


def _foreign_keys(connection: Connection, name: str) -> tuple[ForeignKey, ...]:
    rows = connection.rows(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (name,)
    )
    found = []
    for _, group in itertools.groupby(rows, key=lambda row: row[0]):
        parts = list(group)
        # A reference may be declared in another case than what it refers to.
        parent = connection.value(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE",
            (parts[0][1],),
        )
        infos = connection.rows("SELECT name, pk FROM pragma_table_info(?) ORDER BY pk", (parent,))
        by_name = {column.casefold(): column for column, _ in infos}
        named = [by_name.get(to.casefold(), to) for _, _, _, to in parts if to is not None]
        found.append(
            ForeignKey(
                tuple(column for _, _, column, _ in parts),
                parent or parts[0][1],
                tuple(named or [column for column, pk in infos if pk]),
            )
        )
    return tuple(found)
