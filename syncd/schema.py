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

from syncd.database import Connection, quoted
from syncd.errors import DatabaseError, NotEnrolled

FORMAT = 1

ALIVE_BIT, DEAD_BIT = 1, 2
FIRST_COLUMN_BIT = 2
COLUMNS_MAX = 60
"""A mask is one signed 64-bit integer: two bits for existence, the rest for columns."""

_BOOKKEEPING = """
CREATE TABLE syncd_origin (            -- every incarnation ever heard of; `seq` is our vector
    ordinal INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    node TEXT NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE syncd_replica (           -- one row: this file as a replica
    format INTEGER NOT NULL,
    origin INTEGER NOT NULL REFERENCES syncd_origin(ordinal),
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
    dropped INTEGER NOT NULL,          -- its number is never given again: masks still carry it
    PRIMARY KEY (table_id, number)
);
-- The last row is never deleted: it is the clock and the counter that the next change continues.
-- No constraint here: each one would make SQLite open a statement journal for the writer.
CREATE TABLE syncd_journal (seq INTEGER PRIMARY KEY, hlc INTEGER, tbl INTEGER, mask INTEGER, k0);
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
CREATE UNIQUE INDEX syncd_held_change ON syncd_held (tbl, col, origin, seq);
CREATE INDEX syncd_held_position ON syncd_held (position);
CREATE TABLE syncd_conflict (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    tbl TEXT NOT NULL,
    key TEXT NOT NULL,                 -- SQL literals of the key's values, for reading
    col TEXT NOT NULL,
    lost_value,
    lost_hlc INTEGER NOT NULL,
    lost_origin INTEGER NOT NULL,
    lost_seq INTEGER NOT NULL,
    won_value,
    won_hlc INTEGER NOT NULL,
    won_origin INTEGER NOT NULL,
    won_dead INTEGER NOT NULL
);
CREATE UNIQUE INDEX syncd_conflict_lost ON syncd_conflict (lost_origin, lost_seq, tbl, col);
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
    complete INTEGER NOT NULL          -- whether it was ever merged up to its end
);
CREATE TABLE syncd_told (              -- the vector a sender last said it has
    sender INTEGER NOT NULL, origin INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (sender, origin)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class KeyColumn:
    """A column of the sync key. affinity: TEXT, NUMERIC, INTEGER, REAL or BLOB."""

    name: str
    affinity: str


@dataclass(frozen=True)
class Column:
    """A synced column outside the key. number: its position in masks; preset: its DEFAULT's SQL."""

    number: int
    name: str
    affinity: str
    preset: str

    @property
    def bit(self) -> int:
        """The register's bit in a mask."""
        return 1 << (FIRST_COLUMN_BIT + self.number)

    @property
    def cell(self) -> str:
        """The column's name in syncd's own tables."""
        return f"c{self.number}"


@dataclass(frozen=True)
class Table:
    """An enrolled table."""

    id: int
    name: str
    key: tuple[KeyColumn, ...]
    columns: tuple[Column, ...]
    rowid: str | None = None

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

    def user_key(self, alias: str) -> str:
        """List the key columns of the user's table."""
        return ", ".join(f"{alias}.{quoted(column.name)}" for column in self.key)

    def on(self, left: str, right: str) -> str:
        """Join two of syncd's tables by key."""
        return " AND ".join(f"{left}.{cell} = {right}.{cell}" for cell in self.key_cells)

    def on_user(self, user: str, ours: str) -> str:
        """Join the user's table with one of syncd's by key."""
        pairs = zip(self.key, self.key_cells, strict=True)
        return " AND ".join(
            f"{user}.{quoted(column.name)} = {ours}.{cell}" for column, cell in pairs
        )

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
            f"the database has bookkeeping of format {found}, this version reads {FORMAT}"
        )


def create_bookkeeping(connection: Connection, origin: bytes, node: str) -> None:
    """Make this file a replica of the given origin."""
    for statement in _BOOKKEEPING.split(";\n"):
        if statement.strip():
            connection.run(statement)
    connection.run("INSERT INTO syncd_origin (ordinal, id, node) VALUES (1, ?, ?)", (origin, node))
    connection.run(
        "INSERT INTO syncd_replica (format, origin, position, settled) VALUES (?, 1, 0, 0)",
        (FORMAT,),
    )


def create_table(connection: Connection, table: Table) -> None:
    """Create the changelog and the shadow of a table, and remember it."""
    key = json.dumps([[column.name, column.affinity] for column in table.key])
    connection.run(
        "INSERT INTO syncd_table VALUES (?, ?, ?, ?)", (table.id, table.name, key, table.rowid)
    )
    cells = ", ".join(table.key_cells)
    # The key is stored here and in the index, and nowhere else: it is the larger part of an entry.
    connection.run(
        f"CREATE TABLE {table.changes} ({table.key_ddl()}, position INTEGER, origin INTEGER,"
        f" seq INTEGER, hlc INTEGER, mask INTEGER, PRIMARY KEY ({cells}, position)) WITHOUT ROWID"
    )
    index = quoted(f"syncd_position_{table.name}")
    connection.run(f"CREATE UNIQUE INDEX {index} ON {table.changes} (position)")
    connection.run(
        f"CREATE TABLE {table.shadow} ({table.key_ddl()}, alive INTEGER NOT NULL DEFAULT 0,"
        f" row INTEGER, PRIMARY KEY ({cells})) WITHOUT ROWID"
    )
    waiting = quoted(f"syncd_waiting_{table.name}")
    connection.run(f"CREATE INDEX {waiting} ON {table.shadow} (alive) WHERE alive = 1")
    widen(connection, "syncd_journal", len(table.key))
    for column in table.columns:
        create_column(connection, table, column)


def create_column(connection: Connection, table: Table, column: Column) -> None:
    """Give a column its register."""
    connection.run(
        "INSERT INTO syncd_column VALUES (?, ?, ?, ?, ?, 0)",
        (table.id, column.number, column.name, column.affinity, column.preset),
    )
    connection.run(f"ALTER TABLE {table.shadow} ADD COLUMN {column.cell}")


def widen(connection: Connection, name: str, keys: int) -> None:
    """Give one of syncd's tables enough key cells."""
    cells = connection.value(
        "SELECT count(*) FROM pragma_table_info(?) WHERE name GLOB 'k[0-9]*'", (name,)
    )
    for i in range(cells, keys):
        connection.run(f"ALTER TABLE {name} ADD COLUMN k{i}")


def load_tables(connection: Connection) -> dict[str, Table]:
    """Return the enrolled tables by name, in the order they were enrolled.

    One that the user has dropped is not among them: its changes are those of an unknown table.
    """
    columns: dict[int, list[Column]] = {}
    for table_id, *column in connection.rows(
        "SELECT table_id, number, name, affinity, preset FROM syncd_column WHERE NOT dropped"
        " ORDER BY table_id, number"
    ):
        columns.setdefault(table_id, []).append(Column(*column))
    return {
        name: Table(
            table_id,
            name,
            tuple(KeyColumn(*column) for column in json.loads(key)),
            tuple(columns.get(table_id, ())),
            rowid,
        )
        for table_id, name, key, rowid in connection.rows(
            "SELECT id, name, key, rowid FROM syncd_table WHERE name IN"
            " (SELECT name FROM sqlite_schema WHERE type = 'table') ORDER BY id"
        )
    }
