"""Row numbers: which of a table's local integers stands for which sync key.

Integers that hosts mint for themselves never travel. Two kinds of table need to know them all the
same: one with `key: generated`, whose rows have no other identity in the user's table, and one that
others refer to by number. `syncd_numbers_T` maps a row number to the key of the row that has it,
or last had it: a child that was left behind by its parent still says whose child it was. Of a
generated table it says which rows are gone from it, because a number that is free may be given to a
new row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from syncd import names
from syncd.database import Connection
from syncd.introspection import Definition, is_referred_to_by_number
from syncd.literals import literal_of, quoted
from syncd.schema import create_numbers
from syncd.table import ALIVE_BIT, DEAD_BIT, SALT_BITS, Column, Table

DIGEST_BYTES = 16
_PLENTY = 1 << 62
"""A number behind which more are free than a file can have rows."""
_ROOM = 1 << 32
"""As many as one merge may need."""


def start(connection: Connection, table: Table) -> None:
    """Number the rows that are there; mint identities for them where a table's are generated.

    Such an identity is a digest of the row, its number included: two copies of one file, enrolled
    on two hosts, agree about the rows they had in common. Later ones are named after their birth.
    """
    create_numbers(connection, table)
    cells = ", ".join(table.key_cells)
    if not table.is_generated:
        key = ", ".join(table.user_key("t"))
        connection.run(
            f"INSERT INTO {table.numbers} (row, {cells})"
            f" SELECT t.{_number(table)}, {key} FROM {table.sql} AS t"
        )
        return
    connection.define("syncd_digest", _digest)
    values = [table.identity[0], *(quoted(column.name) for column in table.columns)]
    digest = ", ".join(f"CAST(quote({value}) AS BLOB)" for value in values)
    connection.run(
        f"INSERT INTO {table.numbers} (row, {cells})"
        f" SELECT {table.identity[0]}, syncd_digest({digest}), {table.identity[0]}"
        f" FROM {table.sql}"
    )


def _digest(*values: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for value in values:
        digest.update(len(value).to_bytes(8) + value)
    return digest.digest()


def is_needed(connection: Connection, definition: Definition) -> bool:
    """Say whether a table's numbers must be known.

    A table that is not enrolled may refer to them as well: a number that is given to another row
    would give it what was the first one's.
    """
    return definition.is_generated or is_referred_to_by_number(connection, definition)


def identified(table: Table, entries: str, minted_under: bytes | None) -> str:
    """Return the query of journal entries with sync keys in place of row numbers.

    entries: a query of seq, hlc, mask, k0, the row's number, and k1, a random number. A row that is
    not known is named by the first birth of that number since its last death; one without a birth
    gets no name. minted_under: the origin that names have, this replica's if None.

    A name is made of what stands in the journal: a copy of the file gives a row that was written
    before the copy was made the same name. The random number tells it from what the original wrote
    under the same seq afterwards. It is negative, so that it is none of those that were given when
    the seq alone made it.
    """
    lives = (
        f"SELECT *, count(*) FILTER (WHERE mask & {DEAD_BIT}) OVER (PARTITION BY k0 ORDER BY seq"
        f" ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS life FROM ({entries})"
    )
    name = f"-1 - ((seq << {SALT_BITS}) | coalesce(k1, 0))"
    births = (
        f"SELECT *, max(CASE WHEN mask & {ALIVE_BIT} THEN {name} END)"
        f" OVER (PARTITION BY k0, life) AS birth FROM ({lives})"
    )
    known = "j.life = 0 AND n.k0 IS NOT NULL AND NOT n.gone"
    own = "SELECT o.id FROM syncd_replica AS r JOIN syncd_origin AS o ON o.ordinal = r.origin"
    origin = f"({own})" if minted_under is None else literal_of(minted_under)
    return (
        "SELECT j.seq, j.hlc, j.mask, j.k0 AS row,"
        f" CASE WHEN {known} THEN n.k0 WHEN j.birth IS NOT NULL THEN {origin} END AS k0,"
        f" CASE WHEN {known} THEN n.k1 ELSE j.birth END AS k1"
        f" FROM ({births}) AS j LEFT JOIN {table.numbers} AS n ON n.row = j.k0"
    )


def take_births(connection: Connection, table: Table, entries: str) -> None:
    """Remember the numbers of rows born in a query of `identified`."""
    connection.run(
        f"INSERT OR REPLACE INTO {table.numbers} (row, k0, k1)"
        f" SELECT row, k0, k1 FROM ({entries}) WHERE mask & {ALIVE_BIT} ORDER BY seq"
    )
    names.give(connection, table)


def given(table: Table, entries: str) -> str:
    """Return the query of numbers, `row`, that are another row's by a birth than they were.

    entries: a query of `identified`. To be asked before `take_births`.
    """
    return (
        f"SELECT DISTINCT j.row FROM ({entries}) AS j JOIN {table.numbers} AS n ON n.row = j.row"
        f" WHERE j.mask & {ALIVE_BIT} AND ({table.on('n', 'j')}) IS NOT true"
    )


def note(connection: Connection, table: Table, keys: str) -> None:
    """Remember the numbers that rows have in the user's table. keys: a query of sync keys.

    Where another row has the number that one of them had, it may be written only behind these: its
    key is then still to come.
    """
    own, cells = _number(table), ", ".join(table.key_cells)
    having = f"FROM ({keys}) AS k CROSS JOIN {table.sql} AS t ON {table.on_user('t', 'k')}"
    is_had = f"EXISTS (SELECT 1 FROM {table.sql} AS o WHERE o.{own} = n.row)"
    connection.run(
        f"UPDATE {table.numbers} SET {', '.join(f'{cell} = NULL' for cell in _key(table))}"
        f" WHERE row IN (SELECT n.row {having} JOIN {table.numbers} AS n ON {table.on('n', 'k')}"
        f" WHERE n.row <> t.{own} AND {is_had})"
    )
    connection.run(
        f"INSERT OR REPLACE INTO {table.numbers} (row, {cells})"
        f" SELECT t.{own}, {table.cells('k')} {having}"
    )
    names.give(connection, table)


def taken(table: Table, keys: str) -> str:
    """Return the query of numbers, `row`, that have come to mean another row than they did.

    keys: a query of sync keys. To be asked before `note`.
    """
    own = _number(table)
    return (
        f"SELECT t.{own} AS row FROM ({keys}) AS k JOIN {table.sql} AS t"
        f" ON {table.on_user('t', 'k')} JOIN {table.numbers} AS n ON n.row = t.{own}"
        f" WHERE ({table.on('n', 'k')}) IS NOT true"
    )


def expect(connection: Connection, table: Table, numbers: str) -> None:
    """Remember numbers that are referred to and that no row has had yet; their key is NULL.

    numbers: a query of them, `row`.
    """
    connection.run(
        f"INSERT OR IGNORE INTO {table.numbers} (row)"
        f" SELECT row FROM ({numbers}) WHERE typeof(row) = 'integer'"
    )


def changed(table: Table, keys: str) -> str:
    """Return the query of rows that have another number than they had, where nobody else has that.

    It has their key as it travels, `key`, the number `former`, and `row` now. keys: a query of sync
    keys. To be asked before `note`.
    """
    own = _number(table)
    return (
        f"SELECT n.{table.name_cell} AS key, n.row AS former, t.{own} AS row"
        f" FROM ({keys}) AS k"
        f" JOIN {table.numbers} AS n ON {table.on('n', 'k')}"
        f" JOIN {table.sql} AS t ON {table.on_user('t', 'k')} WHERE t.{own} <> n.row"
        f" AND NOT EXISTS (SELECT 1 FROM {table.sql} AS o WHERE o.{own} = n.row)"
    )


def allot(connection: Connection, table: Table, rows: str) -> None:
    """Choose the numbers of rows that are about to show.

    rows: a query of sync keys and `row`, the number that each had before, or NULL. A row gets that
    one again if it is still free, else one that no row has had.
    """
    cells = table.cells("w")
    # Minted keys fall with time: in this order, new numbers rise with it.
    order = f"{cells} DESC" if table.is_generated else cells
    own = _number(table)
    former = f"(SELECT n.row FROM {table.numbers} AS n WHERE {table.on('n', 'g')})"
    wanted = f"SELECT {table.cells('g')}, coalesce(g.row, {former}) AS row FROM ({rows}) AS g"
    taken = (
        f"EXISTS (SELECT 1 FROM {table.sql} AS t WHERE t.{own} = w.row) OR EXISTS"
        f" (SELECT 1 FROM {table.numbers} AS n WHERE n.row = w.row AND ({table.on('n', 'w')})"
        " IS NOT true)"
    )
    connection.run(
        f"INSERT OR REPLACE INTO {table.numbers} (row, {', '.join(table.key_cells)})"
        f" SELECT CASE WHEN w.row IS NULL OR w.twin > 1 OR {taken}"
        f" THEN ? + row_number() OVER (ORDER BY {order}) ELSE w.row END, {cells}"
        " FROM (SELECT *, row_number() OVER (PARTITION BY row) AS twin"
        f" FROM ({wanted})) AS w",
        (_free_behind(connection, table),),
    )
    names.give(connection, table)


def free(connection: Connection, table: Table, keys: str) -> None:
    """Free the numbers of generated rows that do not show any more. keys: a query of sync keys."""
    among = f"({', '.join(table.key_cells)}) IN ({keys})"
    if table.is_parent:
        connection.run(f"UPDATE {table.numbers} SET gone = 1 WHERE {among} AND NOT gone")
    else:
        connection.run(f"DELETE FROM {table.numbers} WHERE {among}")


def prune(connection: Connection, table: Table, referring: Sequence[tuple[Table, Column]]) -> None:
    """Forget rows of a generated table that are gone, and of which nothing speaks any more.

    referring: the columns that refer to it.
    """
    unsaid = [
        f"NOT EXISTS (SELECT 1 FROM {one} AS o WHERE {table.on('o', 'n')})"
        for one in (table.changes, table.shadow)
    ]
    with connection.temporary(
        "syncd_pruned",
        f"SELECT n.row, n.name FROM {table.numbers} AS n WHERE n.gone AND {' AND '.join(unsaid)}",
    ) as found:
        for child, column in referring if found else ():
            for said in (
                f"row IN (SELECT {quoted(column.name)} FROM {child.sql})",
                f"name IN (SELECT {column.cell} FROM {child.shadow})",
            ):
                connection.run(f"DELETE FROM temp.syncd_pruned WHERE {said}")
        connection.run(
            f"DELETE FROM {table.numbers} WHERE row IN (SELECT row FROM temp.syncd_pruned)"
        )


def _key(table: Table) -> tuple[str, ...]:
    """Return the columns of the map that say whose a number is."""
    return (*table.key_cells, "name") if len(table.key) > 1 else table.key_cells


def _number(table: Table) -> str:
    assert table.rowid is not None
    return quoted(table.rowid)


def _free_behind(connection: Connection, table: Table) -> int:
    """Return a number behind which no row is known to have had one, far enough for any merge."""
    had = [
        f"SELECT {_number(table)} AS row FROM {table.sql}",
        f"SELECT row FROM {table.numbers}",
        f"SELECT row FROM {table.shadow}",
    ]
    highest: int = connection.value(
        f"SELECT max(0, {', '.join(f'coalesce((SELECT max(row) FROM ({one})), 0)' for one in had)})"
    )
    # AUTOINCREMENT promises never to give a number twice (sqlite.org/autoinc.html).
    if connection.value("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'"):
        given = connection.value("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,))
        highest = max(highest, given or 0)
    if highest < _PLENTY:
        return highest
    # Somebody has written a number near the greatest there is.
    behind: int = connection.value(
        "SELECT max(row) FROM (SELECT row, lead(row) OVER (ORDER BY row) - row AS room FROM"
        f" (SELECT 0 AS row UNION {' UNION '.join(had)} UNION SELECT {(1 << 63) - 1})"
        f" WHERE row >= 0) WHERE room > {_ROOM}"
    )
    return behind
