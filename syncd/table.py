"""What an enrolled table is: its key, its registers, and the SQL by which its rows are found.

Per table there are two of syncd's own: the changelog, where an entry says which registers of a row
a change still owns (a bit mask), and the shadow, the values of registers that are merged but whose
row does not show. Key columns are k0, k1, ... and value columns c0, c1, ... there, so that no name
of the user's can collide with ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from syncd.literals import literals_of, quoted

GENERATED = "generated"
"""What `key` says for a table whose identities syncd mints."""

ALIVE_BIT, DEAD_BIT = 1, 2
FIRST_COLUMN_BIT = 2
COLUMNS_MAX = 60
"""A mask is one signed 64-bit integer: two bits for existence, the rest for columns. Columns that
stay on this host have no bit and are numbered from here on."""


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
_NUMBERED = "syncd_numbered"
"""An alias within expressions that no query around them has."""


@dataclass(frozen=True)
class Parent:
    """An enrolled table that a column refers to by row number, which is each host's own.

    Such a value travels, and stands in the shadow, as the name of its row (see `names`). keys: how
    many columns the table's key has. rowid: its column of row numbers; None if it is not known any
    more.
    """

    name: str
    keys: int
    rowid: str | None

    @property
    def numbers(self) -> str:
        """The table of its row numbers, quoted."""
        return quoted(numbers_of(self.name))

    def travelling(self, here: str) -> str:
        """Return the SQL of a row number as every host understands it."""
        name = _name_cell(self.keys)
        return f"(SELECT {_NUMBERED}.{name} {self._numbered} WHERE {_NUMBERED}.row = {here})"

    def local(self, travelling: str) -> str:
        """Return the SQL of the number that a name has on this host; NULL for an unknown one."""
        is_it = f"{_NUMBERED}.{_name_cell(self.keys)} = {travelling}"
        return f"(SELECT {_NUMBERED}.row {self._numbered} WHERE {is_it})"

    @property
    def _numbered(self) -> str:
        return f"FROM {self.numbers} AS {_NUMBERED}"


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
            named = f"{self.on(_NUMBERED, ours)} AND NOT {_NUMBERED}.gone"
            return (f"(SELECT {_NUMBERED}.row FROM {self.numbers} AS {_NUMBERED} WHERE {named})",)
        return tuple(f"{ours}.{cell}" for cell in self.key_cells)

    def user_key(self, alias: str) -> tuple[str, ...]:
        """Return the SQL of each part of a row's sync key, read from the user's table."""
        if self.is_generated:
            having = f"{_NUMBERED}.row = {alias}.{self.identity[0]} AND NOT {_NUMBERED}.gone"
            numbered = f"FROM {self.numbers} AS {_NUMBERED} WHERE {having}"
            return tuple(f"(SELECT {_NUMBERED}.{cell} {numbered})" for cell in self.key_cells)
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
