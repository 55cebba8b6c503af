"""What the user's tables look like, as SQLite itself tells.

Reads a table's definition through pragmas and decides what its sync key and synced columns are, or
says why it cannot be enrolled. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncd.database import Connection, quoted
from syncd.schema import COLUMNS_MAX, KeyColumn


@dataclass(frozen=True)
class Unique:
    """A set of columns that SQLite keeps unique, each with its collation.

    partial: only among the rows that a WHERE selects.
    """

    columns: tuple[tuple[str, str], ...]
    partial: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The columns' names."""
        return frozenset(name for name, _ in self.columns)

    def identifies(self, key: Sequence[str]) -> bool:
        """Say whether it makes exactly these columns a key that is the same on every host."""
        exact = all(collation == "BINARY" for _, collation in self.columns)
        return exact and not self.partial and self.names == frozenset(key)


@dataclass(frozen=True)
class Definition:
    """A table of the user's as it stands.

    columns: the synced ones outside the key: name, affinity, DEFAULT's SQL. uniques: what else must
    be unique beside the sync key, the rowid alias included.
    """

    name: str
    key: tuple[KeyColumn, ...]
    columns: tuple[tuple[str, str, str], ...]
    uniques: tuple[Unique, ...]


@dataclass(frozen=True)
class _Info:
    name: str
    type: str
    not_null: bool
    preset: str
    pk: int
    generated: bool
    affinity: str

    @property
    def bare_integer(self) -> bool:
        return self.type.upper() == "INTEGER"


def define(connection: Connection, name: str, key: Sequence[str] | None) -> Definition | list[str]:
    """Return a table's definition, or what is wrong with it.

    key: the columns the user named, None for the declared PRIMARY KEY.
    """
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
    chosen, problems = _choose_key(connection, name, infos, key)
    if problems:
        return [f"{where}{problem}" for problem in problems]
    rowid_alias = _rowid_alias(infos)
    columns = tuple(
        (info.name, info.affinity, info.preset)
        for info in infos
        if info.name not in chosen and not info.generated and info.name != rowid_alias
    )
    if len(columns) > COLUMNS_MAX:
        return [f"{where}: {len(columns)} columns; at most {COLUMNS_MAX} can be synced"]
    by_name = {info.name: info for info in infos}
    return Definition(
        name,
        tuple(KeyColumn(column, by_name[column].affinity) for column in chosen),
        columns,
        tuple(u for u in _uniques(connection, name, infos) if not u.identifies(chosen)),
    )


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
    return [
        _Info(
            name=column,
            type=declared,
            not_null=bool(not_null),
            preset=preset or "NULL",
            pk=pk,
            generated=hidden in (2, 3),
            affinity="BLOB" if strict and declared.upper() == "ANY" else affinity_of(declared),
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
    uniques = [u for u in _uniques(connection, name, infos) if u.names == frozenset(chosen)]
    if not any(unique.identifies(chosen) for unique in uniques):
        if any(not unique.partial for unique in uniques):
            return (), [".key: only columns of BINARY collation can tell rows apart on every host"]
        listed = ", ".join(chosen)
        return (), [
            f".key: no UNIQUE constraint or index covers exactly ({listed}) in every row;"
            f" try: CREATE UNIQUE INDEX {name}_key ON {name} ({listed})"
        ]
    if _declared_collations(connection, name, chosen) != {"BINARY"}:
        return (), [".key: only columns of BINARY collation can tell rows apart on every host"]
    return chosen, []


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
            " key: [columns], or give the table a PRIMARY KEY that no two hosts mint alike"
            " (a UUID in a TEXT column)"
        ]
    return tuple(info.name for info in declared), []


def _rowid_alias(infos: list[_Info]) -> str | None:
    declared = [info for info in infos if info.pk]
    if len(declared) == 1 and declared[0].bare_integer:
        return declared[0].name
    return None


def _uniques(connection: Connection, name: str, infos: list[_Info]) -> list[Unique]:
    found = []
    alias = _rowid_alias(infos)
    if alias is not None:
        found.append(Unique(((alias, "BINARY"),)))
    for index, partial in connection.rows(
        'SELECT name, partial FROM pragma_index_list(?) WHERE "unique"', (name,)
    ):
        columns = connection.rows(
            "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (index,)
        )
        # A column without a name is an expression: nothing to compare a key or a new row with.
        if all(column is not None for column, _ in columns):
            found.append(Unique(tuple(columns), bool(partial)))
    return found
