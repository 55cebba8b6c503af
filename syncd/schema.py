"""Syncd's own tables, and which of the user's it knows.

Everything syncd keeps stands in the same file as the data, in tables named `syncd_*`, so that one
transaction covers both. Those that come once for each enrolled table are what `table` says. Entries
of a changelog are numbered by *position*, in the order in which this replica folded or merged them.
"""

from __future__ import annotations

import json

from syncd.database import Connection
from syncd.errors import DatabaseError, NotEnrolled, SchemaChanged
from syncd.literals import quoted
from syncd.table import COLUMNS_MAX, Column, KeyColumn, Parent, Table, numbers_of

FORMAT = 6

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
    rowids = {name: rowid for _, name, _, rowid in enrolled}
    columns: dict[int, list[Column]] = {}
    referred: set[str] = set()
    for table_id, number, name, affinity, preset, parent in connection.rows(
        "SELECT table_id, number, name, affinity, preset, parent FROM syncd_column"
        " ORDER BY table_id, number"
    ):
        refers = (
            Parent(parent, keys.get(parent, 1), rowids.get(parent)) if parent is not None else None
        )
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
