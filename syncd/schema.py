"""Syncd's own tables, and what it knows of the user's.

Everything syncd keeps stands in the same file as the data, in tables named `syncd_*`, so that one
transaction covers both. Per enrolled table there are two: `syncd_changes_T`, the changelog, where
an entry says which registers of a row a change still owns (a bit mask), and `syncd_shadow_T`, the
values of registers that are merged but whose row does not show. Entries are numbered by *position*,
in the order in which this replica folded or merged them. Key columns are k0, k1, ... and value
columns c0, c1, ... there, so that no name of the user's can collide with ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from syncd.database import Connection, literals_of, quoted
from syncd.errors import DatabaseError, NotEnrolled, SchemaChanged

FORMAT = 6

GENERATED = "generated"
"""What `key` says for a table whose identities syncd mints."""

ALIVE_BIT, DEAD_BIT = 1, 2
FIRST_COLUMN_BIT = 2
COLUMNS_MAX = 60
"""A mask is one signed 64-bit integer: two bits for existence, the rest for columns. Columns that
stay on this host have no bit and are numbered from here on."""

_BOOKKEEPING = """
CREATE TABLE syncd_origin (            -- every incarnation ever heard of; `seq` is our vector
    ordinal INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    node TEXT NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    forked INTEGER                     -- the last seq that its histories share, see `forks`
);
CREATE TABLE syncd_replica (           -- one row: this file as a replica
    format INTEGER NOT NULL,
    origin INTEGER NOT NULL REFERENCES syncd_origin(ordinal),
    hlc INTEGER NOT NULL,              -- the clock: the last reading given or merged
    position INTEGER NOT NULL,         -- the highest position given to an entry
    settled INTEGER NOT NULL,          -- the position up to which it is decided what shows
    token BLOB,                        -- shared with the sidecar file, see `identity`
    renewed_ms INTEGER,                -- when and why this file last took a new origin
    renewed_why TEXT
);
CREATE TABLE syncd_table (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,                 -- JSON: [[name, affinity], ...]
    rowid TEXT                         -- the column that stands for the rowid, if it is not the key
);
CREATE TABLE syncd_column (
    table_id INTEGER NOT NULL REFERENCES syncd_table(id),
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    affinity TEXT NOT NULL,
    preset TEXT NOT NULL,              -- the SQL of its DEFAULT
    parent TEXT,                       -- the enrolled table whose row numbers it holds
    PRIMARY KEY (table_id, number)
);
-- The last row is never deleted: it is the counter that the next change continues. wall: a Julian
-- day. No constraint here: each one would make SQLite open a statement journal for the writer.
CREATE TABLE syncd_journal (seq INTEGER PRIMARY KEY, wall REAL, tbl INTEGER, mask INTEGER, k0);
INSERT INTO syncd_journal VALUES (0, 0, 0, 0, NULL);
CREATE TABLE syncd_held (              -- registers merged that cannot show yet, one a row
    tbl TEXT NOT NULL,
    col TEXT NOT NULL,                 -- '' is the row's existence
    position INTEGER NOT NULL,
    key_names TEXT NOT NULL,           -- JSON
    existence INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hlc INTEGER NOT NULL,
    value,
    reason TEXT NOT NULL,
    k0
);
CREATE UNIQUE INDEX syncd_held_change ON syncd_held (tbl, col, origin, seq, hlc);
CREATE INDEX syncd_held_position ON syncd_held (position);
CREATE TABLE syncd_withdrawn (         -- changes that count no more: written anew, see `withdrawal`
    origin INTEGER NOT NULL,
    first INTEGER NOT NULL,            -- seqs
    last INTEGER NOT NULL,
    above INTEGER NOT NULL             -- a clock reading
);
CREATE TABLE syncd_conflict (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    ended_ms INTEGER,                  -- NULL while a row is displaced
    reason TEXT NOT NULL,
    tbl TEXT NOT NULL,
    key TEXT NOT NULL,                 -- SQL literals of the key's values, for reading
    col TEXT NOT NULL,
    lost_value,
    lost_hlc INTEGER NOT NULL,
    lost_origin INTEGER NOT NULL,
    lost_seq INTEGER NOT NULL,
    won_key TEXT NOT NULL,
    won_value,
    won_hlc INTEGER NOT NULL,
    won_origin INTEGER NOT NULL,
    won_dead INTEGER NOT NULL,
    lost_row TEXT                      -- JSON of SQL literals, see `conflicts.keep_rows`
);
CREATE UNIQUE INDEX syncd_conflict_lost
    ON syncd_conflict (lost_origin, lost_seq, lost_hlc, tbl, col, reason);
CREATE INDEX syncd_conflict_open ON syncd_conflict (tbl) WHERE ended_ms IS NULL;
CREATE TABLE syncd_peer (
    name TEXT PRIMARY KEY,
    origin INTEGER REFERENCES syncd_origin(ordinal),
    attempt_ms INTEGER,
    success_ms INTEGER,
    error TEXT,
    error_code TEXT,
    error_ms INTEGER,
    offset_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE syncd_cursor (            -- the position up to which a sender's entries are merged
    sender INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    complete INTEGER NOT NULL          -- whether that was the end
);
CREATE TABLE syncd_told (              -- the vector a host last said it has
    sender INTEGER NOT NULL, origin INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (sender, origin)
) WITHOUT ROWID;
CREATE TABLE syncd_heard (             -- when it said so
    sender INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL
);
CREATE TABLE syncd_horizon (           -- per origin: the highest seq and reading forgotten
    origin INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    hlc INTEGER NOT NULL
);
CREATE TABLE syncd_snapshot (          -- how far a sender's snapshot has been read
    sender INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    horizon BLOB NOT NULL              -- the sender's when the snapshot began, MessagePack
);
CREATE TABLE syncd_came (              -- the changes that have come with it
    sender INTEGER NOT NULL, origin INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (sender, origin, seq)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class KeyColumn:
    """A column of the sync key. affinity: TEXT, NUMERIC, INTEGER, REAL or BLOB."""

    name: str
    affinity: str


GENERATED_KEY = (KeyColumn("syncd_origin", "BLOB"), KeyColumn("syncd_number", "INTEGER"))
"""A minted identity: the origin under which a row was written, and a number made of the seq of its
birth there and some random bits; see `numbers.identified`."""
SALT_BITS = 24
"""How many random bits a birth of such a row is journalled with."""


@dataclass(frozen=True)
class Parent:
    """An enrolled table that a column refers to by row number, which is each host's own.

    Such a value travels, and stands in the shadow, as the name of its row (see `names`). keys: how
    many columns the table's key has.
    """

    name: str
    keys: int

    @property
    def numbers(self) -> str:
        """The table of its row numbers, quoted."""
        return quoted(numbers_of(self.name))

    def travelling(self, here: str) -> str:
        """Return the SQL of a row number as every host understands it."""
        return f"(SELECT n.{_name_cell(self.keys)} FROM {self.numbers} AS n WHERE n.row = {here})"

    def local(self, travelling: str) -> str:
        """Return the SQL of the number that a name has on this host; NULL for an unknown one."""
        is_it = f"n.{_name_cell(self.keys)} = {travelling}"
        return f"(SELECT n.row FROM {self.numbers} AS n WHERE {is_it})"


def _name_cell(keys: int) -> str:
    return "k0" if keys == 1 else "name"


@dataclass(frozen=True)
class Column:
    """A column outside the key. number: its position in masks; preset: its DEFAULT's SQL.

    parent: whose row numbers it holds, if it refers to a table by them.
    """

    number: int
    name: str
    affinity: str
    preset: str
    parent: Parent | None = None

    @property
    def bit(self) -> int:
        """The register's bit in a mask."""
        return 1 << (FIRST_COLUMN_BIT + self.number)

    @property
    def cell(self) -> str:
        """The column's name in syncd's own tables."""
        return f"c{self.number}"

    def travelling(self, alias: str) -> str:
        """Return the SQL of its value in the user's table as every host understands it."""
        here = f"{alias}.{quoted(self.name)}"
        return here if self.parent is None else self.parent.travelling(here)

    def local(self, travelling: str) -> str:
        """Return the SQL of a value as this host's table holds it; NULL for an unknown parent."""
        return travelling if self.parent is None else self.parent.local(travelling)


def numbers_of(table: str) -> str:
    """Return the name of the table that knows a table's row numbers."""
    return f"syncd_numbers_{table}"


@dataclass(frozen=True)
class Table:
    """An enrolled table.

    columns: the synced ones outside the key. excluded: those that stay on this host, of which the
    shadow keeps the values all the same. rowid: the column that stands for the rowid and stays on
    this host. numbered: whether it is known which of its row numbers stands for which sync key.
    is_parent: whether an enrolled table refers to its rows by number.
    """

    id: int
    name: str
    key: tuple[KeyColumn, ...]
    columns: tuple[Column, ...]
    excluded: tuple[Column, ...] = ()
    rowid: str | None = None
    numbered: bool = False
    is_parent: bool = False

    @property
    def is_generated(self) -> bool:
        """Say whether its identities are minted, and stand in no column of the user's."""
        return self.key == GENERATED_KEY

    @property
    def numbers(self) -> str:
        """The table of its row numbers, quoted."""
        return quoted(numbers_of(self.name))

    @property
    def name_cell(self) -> str:
        """The column of the table of its row numbers that has a row's name."""
        return _name_cell(len(self.key))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the user's table that syncd reads or writes."""
        key = () if self.is_generated else tuple(column.name for column in self.key)
        others = tuple(column.name for column in (*self.columns, *self.excluded))
        return (*key, *others, *((self.rowid,) if self.rowid is not None else ()))

    @property
    def sql(self) -> str:
        """The user's table, quoted."""
        return quoted(self.name)

    @property
    def changes(self) -> str:
        """Its changelog, quoted."""
        return quoted(f"syncd_changes_{self.name}")

    @property
    def shadow(self) -> str:
        """Its hidden values, quoted."""
        return quoted(f"syncd_shadow_{self.name}")

    @property
    def key_cells(self) -> tuple[str, ...]:
        """The key's column names in syncd's own tables."""
        return tuple(f"k{i}" for i in range(len(self.key)))

    @property
    def columns_mask(self) -> int:
        """The mask of all column registers."""
        return sum(column.bit for column in self.columns)

    def cells(self, alias: str) -> str:
        """List the key columns of one of syncd's tables."""
        return ", ".join(f"{alias}.{cell}" for cell in self.key_cells)

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns of the user's table, quoted, that tell its rows apart on this host."""
        if self.is_generated:
            assert self.rowid is not None
            return (quoted(self.rowid),)
        return tuple(quoted(column.name) for column in self.key)

    @property
    def conflict_target(self) -> str:
        """What ON CONFLICT names, so that it is the sync key and nothing else.

        A UNIQUE index of another collation would do for SQLite as well, and a row of another key
        would be updated. A number that is the rowid must not have a collation, and needs none.
        """
        affinities = [""] if self.is_generated else [column.affinity for column in self.key]
        return ", ".join(
            name if affinity in ("", "INTEGER") else f"{name} COLLATE BINARY"
            for name, affinity in zip(self.identity, affinities, strict=True)
        )

    def identity_of(self, ours: str) -> tuple[str, ...]:
        """Return the SQL of what `identity` holds for the key in a row of one of our tables."""
        if self.is_generated:
            named = f"{self.on('n', ours)} AND NOT n.gone"
            return (f"(SELECT n.row FROM {self.numbers} AS n WHERE {named})",)
        return tuple(f"{ours}.{cell}" for cell in self.key_cells)

    def user_key(self, alias: str) -> tuple[str, ...]:
        """Return the SQL of each part of a row's sync key, read from the user's table."""
        if self.is_generated:
            having = f"n.row = {alias}.{self.identity[0]} AND NOT n.gone"
            numbered = f"FROM {self.numbers} AS n WHERE {having}"
            return tuple(f"(SELECT n.{cell} {numbered})" for cell in self.key_cells)
        return tuple(f"{alias}.{name}" for name in self.identity)

    def named_key(self, alias: str) -> str:
        """List a row's sync key, read from the user's table, under the names of the key cells."""
        pairs = zip(self.user_key(alias), self.key_cells, strict=True)
        return ", ".join(f"{value} AS {cell}" for value, cell in pairs)

    def literals(self, prefix: str) -> str:
        """Return the SQL of a key as a list of literals. prefix: what stands before its cells."""
        return literals_of([f"{prefix}{cell}" for cell in self.key_cells])

    def on(self, left: str, right: str) -> str:
        """Join two of syncd's tables by key."""
        return " AND ".join(f"{left}.{cell} = {right}.{cell}" for cell in self.key_cells)

    def on_user(self, user: str, ours: str) -> str:
        """Join the user's table with one of syncd's by key."""
        pairs = zip(self.identity, self.identity_of(ours), strict=True)
        return " AND ".join(f"{user}.{name} = {value}" for name, value in pairs)

    def among(self, keys: str) -> str:
        """Return the condition that a row of the user's table is one of a query's keys.

        keys: a query of sync keys, under the names of the key cells.
        """
        found = f"SELECT {', '.join(self.identity_of('among'))} FROM ({keys}) AS among"
        return f"({', '.join(self.identity)}) IN ({found})"

    def key_ddl(self) -> str:
        """Declare the key columns, with the affinity that keeps joins on an index."""
        pairs = zip(self.key, self.key_cells, strict=True)
        return ", ".join(f"{cell} {column.affinity}" for column, cell in pairs)


def is_enrolled(connection: Connection) -> bool:
    """Say whether the file has syncd's tables."""
    sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'syncd_replica'"
    return connection.value(sql) is not None


def require_enrolled(connection: Connection) -> None:
    """Raise `NotEnrolled`, or `DatabaseError` for a format of another version."""
    if not is_enrolled(connection):
        raise NotEnrolled()
    found = connection.value("SELECT format FROM syncd_replica")
    if found != FORMAT:
        raise DatabaseError(
            f"the database has bookkeeping of format {found}, this version reads {FORMAT}",
            hint="Run the version of syncd that wrote it, or a newer one.",
        )


def create_bookkeeping(connection: Connection, origin: bytes, node: str) -> None:
    """Make this file a replica of the given origin."""
    for statement in _BOOKKEEPING.split(";\n"):
        if statement.strip():
            connection.run(statement)
    connection.run("INSERT INTO syncd_origin (ordinal, id, node) VALUES (1, ?, ?)", (origin, node))
    connection.run(
        "INSERT INTO syncd_replica (format, origin, hlc, position, settled) VALUES (?, 1, 0, 0, 0)",
        (FORMAT,),
    )


def create_table(connection: Connection, table: Table) -> None:
    """Create the changelog and the shadow of a table, and remember it."""
    key = json.dumps([[column.name, column.affinity] for column in table.key])
    connection.run(
        "INSERT INTO syncd_table VALUES (?, ?, ?, ?)", (table.id, table.name, key, table.rowid)
    )
    cells = ", ".join(table.key_cells)
    # In the order of positions, which is that of writing and of reading; an entry is looked for by
    # its row's key in the index, and changed in place.
    connection.run(
        f"CREATE TABLE {table.changes} ({table.key_ddl()}, position INTEGER PRIMARY KEY,"
        " origin INTEGER, seq INTEGER, hlc INTEGER, mask INTEGER)"
    )
    index = quoted(f"syncd_row_{table.name}")
    connection.run(f"CREATE INDEX {index} ON {table.changes} ({cells})")
    connection.run(
        f"CREATE TABLE {table.shadow} ({table.key_ddl()}, alive INTEGER NOT NULL DEFAULT 0,"
        f" row INTEGER, PRIMARY KEY ({cells})) WITHOUT ROWID"
    )
    waiting = quoted(f"syncd_waiting_{table.name}")
    connection.run(f"CREATE INDEX {waiting} ON {table.shadow} (alive) WHERE alive = 1")
    widen(connection, "syncd_journal", len(table.key))
    for column in (*table.columns, *table.excluded):
        create_column(connection, table, column)


def drop_table(connection: Connection, table: Table) -> None:
    """Forget a table, its changelog and its shadow."""
    connection.run(f"DROP TABLE {table.changes}")
    connection.run(f"DROP TABLE {table.shadow}")
    connection.run(f"DROP TABLE IF EXISTS {table.numbers}")
    connection.run("DELETE FROM syncd_column WHERE table_id = ?", (table.id,))
    connection.run("DELETE FROM syncd_table WHERE id = ?", (table.id,))


def create_numbers(connection: Connection, table: Table) -> None:
    """Make room for knowing which row number of a table stands for which sync key."""
    more = ", name TEXT" if len(table.key) > 1 else ""
    if table.is_generated:
        more += ", gone INTEGER NOT NULL DEFAULT 0"
    connection.run(
        f"CREATE TABLE {table.numbers} (row INTEGER PRIMARY KEY, {table.key_ddl()}{more},"
        f" UNIQUE ({', '.join(table.key_cells)}))"
    )


def create_column(connection: Connection, table: Table, column: Column) -> None:
    """Give a column its register, or its place in the shadow alone if it is excluded."""
    connection.run(
        "INSERT INTO syncd_column VALUES (?, ?, ?, ?, ?, ?)",
        (
            table.id,
            column.number,
            column.name,
            column.affinity,
            column.preset,
            column.parent.name if column.parent is not None else None,
        ),
    )
    connection.run(f"ALTER TABLE {table.shadow} ADD COLUMN {column.cell}")
    if column.number >= COLUMNS_MAX:
        connection.run(f"UPDATE {table.shadow} SET {column.cell} = {column.preset}")


def drop_column(connection: Connection, table: Table, column: Column) -> None:
    """Take a column's register and its place in the shadow away."""
    connection.run(
        "DELETE FROM syncd_column WHERE table_id = ? AND number = ?", (table.id, column.number)
    )
    connection.run(f"ALTER TABLE {table.shadow} DROP COLUMN {column.cell}")


def widen(connection: Connection, name: str, keys: int) -> None:
    """Give one of syncd's tables enough key cells."""
    cells = connection.value(
        "SELECT count(*) FROM pragma_table_info(?) WHERE name GLOB 'k[0-9]*'", (name,)
    )
    for i in range(cells, keys):
        connection.run(f"ALTER TABLE {name} ADD COLUMN k{i}")


def set_rowid(connection: Connection, table: Table) -> None:
    """Remember which column stands for a table's rowid now."""
    connection.run("UPDATE syncd_table SET rowid = ? WHERE id = ?", (table.rowid, table.id))


def load_tables(connection: Connection) -> dict[str, Table]:
    """Return the enrolled tables by name, in the order they were enrolled.

    One that is `adrift` is not among them: its changes are those of an unknown table.
    """
    tables = remembered(connection)
    missing = _missing(connection, tables)
    return {name: table for name, table in tables.items() if name not in missing}


def adrift(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Return the enrolled tables whose definition changed so that they cannot be read as before.

    To each belong the columns that are gone; none, if the table itself is.
    """
    return _missing(connection, remembered(connection))


def _missing(connection: Connection, tables: dict[str, Table]) -> dict[str, tuple[str, ...]]:
    present: dict[str, set[str]] = {}
    for name, column in connection.rows(
        "SELECT t.name, x.name FROM syncd_table AS t"
        " JOIN sqlite_schema AS s ON s.name = t.name AND s.type = 'table'"
        " JOIN pragma_table_xinfo(t.name) AS x WHERE x.hidden = 0"
    ):
        present.setdefault(name, set()).add(column)
    found = {
        table.name: tuple(name for name in table.names if name not in present.get(table.name, ()))
        for table in tables.values()
    }
    return {name: gone if name in present else () for name, gone in found.items() if gone}


def readable(connection: Connection) -> dict[str, Table]:
    """Return all enrolled tables; raise `SchemaChanged` if one cannot be read as before."""
    tables = remembered(connection)
    for name, gone in _missing(connection, tables).items():
        raise SchemaChanged(
            f"table {name} has no column {', '.join(gone)} any more"
            if gone
            else f"table {name} is gone"
        )
    return tables


def remembered(connection: Connection) -> dict[str, Table]:
    """Return all tables that were enrolled, as they were then."""
    enrolled = [
        (id_, name, tuple(KeyColumn(*column) for column in json.loads(key)), rowid)
        for id_, name, key, rowid in connection.rows(
            "SELECT id, name, key, rowid FROM syncd_table ORDER BY id"
        )
    ]
    keys = {name: len(key) for _, name, key, _ in enrolled}
    columns: dict[int, list[Column]] = {}
    referred: set[str] = set()
    for table_id, number, name, affinity, preset, parent in connection.rows(
        "SELECT table_id, number, name, affinity, preset, parent FROM syncd_column"
        " ORDER BY table_id, number"
    ):
        refers = Parent(parent, keys.get(parent, 1)) if parent is not None else None
        column = Column(number, name, affinity, preset, refers)
        columns.setdefault(table_id, []).append(column)
        referred.add(parent)
    present = {
        name for (name,) in connection.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }
    return {
        name: Table(
            id_,
            name,
            key,
            tuple(c for c in columns.get(id_, ()) if c.number < COLUMNS_MAX),
            tuple(c for c in columns.get(id_, ()) if c.number >= COLUMNS_MAX),
            rowid,
            rowid is not None and numbers_of(name) in present,
            name in referred,
        )
        for id_, name, key, rowid in enrolled
    }
