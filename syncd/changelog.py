"""The changelog: which change owns each register of each row.

An entry of `syncd_changes_T` is one change and the mask of registers it still owns; the entries of
a row have disjoint masks, and an entry that owns nothing any more is deleted. Two things write it:
the fold, which takes the journal in, and the merge, which takes bundles in. Both stage their
entries in a temporary table and let `resolved` decide, by stamp alone, who owns what.

A dead entry owns every register of its row that is older than itself. All of it is set-based SQL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from syncd import bundle, children, held, numbers, staging
from syncd.clock import COUNTER_BITS
from syncd.database import Connection
from syncd.schema import adrift, load_tables, remembered
from syncd.table import ALIVE_BIT, DEAD_BIT, Table
from syncd.vector import Vector

FOLD_ENTRIES = 50_000
"""Journal entries folded in one transaction: some 240 ms of the write lock."""

NEW = "e.position > (SELECT settled FROM syncd_replica)"
"""The condition that entry `e` has come since it was last decided what shows."""


def vector(connection: Connection) -> Vector:
    """Return what this replica has merged; its own seqs as far as they are folded."""
    return Vector(dict(connection.rows("SELECT id, seq FROM syncd_origin")))


def origin(connection: Connection) -> bytes:
    """Return the origin under which this replica's changes are born."""
    present: bytes = connection.value(
        "SELECT o.id FROM syncd_replica AS r JOIN syncd_origin AS o ON o.ordinal = r.origin"
    )
    return present


def by_ordinal(connection: Connection, seqs: Vector) -> dict[int, int]:
    """Return a vector by this replica's ordinals; origins never heard of are left out."""
    return {
        ordinal: seqs[origin]
        for ordinal, origin in connection.rows("SELECT ordinal, id FROM syncd_origin")
        if origin in seqs
    }


def up_to(origin: str, seqs: dict[int, int]) -> str:
    """Return the SQL of the seq that a vector by ordinal has for an origin, a column's name."""
    cases = " ".join(f"WHEN {ordinal} THEN {seq}" for ordinal, seq in seqs.items())
    return f"CASE {origin} {cases} ELSE 0 END" if cases else "0"


def unfolded(connection: Connection) -> int:
    """Count the journal entries that wait for the fold."""
    count: int = connection.value(
        "SELECT (SELECT max(seq) FROM syncd_journal) - o.seq"
        " FROM syncd_replica AS r JOIN syncd_origin AS o ON o.ordinal = r.origin"
    )
    return count


READINGS = f"""
    SELECT j.*, j.seq - o.seq + max(r.hlc, max(
        (CAST((j.wall - 2440587.5) * 86400000 AS INTEGER) << {COUNTER_BITS}) - (j.seq - o.seq)
    ) OVER (ORDER BY j.seq)) AS hlc
    FROM syncd_replica AS r JOIN syncd_origin AS o ON o.ordinal = r.origin
    CROSS JOIN syncd_journal AS j ON j.seq > o.seq
"""
"""The query of the entries that wait for the fold, with their clock readings.

Each reading is `max(the one before + 1, the wall clock)`. Unrolled: an entry's place in the queue,
on top of the greatest of where the clock stood and of each wall clock so far less its own place.
"""


Log = Callable[[Connection, Table], object]
"""Logs what the births in `temp.syncd_contest` overwrite of rows that are hidden."""


def fold(
    connection: Connection,
    entries_max: int = FOLD_ENTRIES,
    *,
    log_hidden: Log,
    minted_under: bytes | None = None,
) -> int:
    """Take the oldest journal entries into the changelog; return how many remain.

    minted_under: the origin under which they were written, if that is not the present one.
    """
    remaining = unfolded(connection)
    if not remaining:
        return 0
    last = connection.value("SELECT max(seq) FROM syncd_journal")
    folded = last - remaining
    upto = min(last, folded + entries_max)
    with connection.temporary("syncd_slice", f"{READINGS} AND j.seq <= {upto}"):
        unreadable = adrift(connection)
        written = {id_ for (id_,) in connection.rows("SELECT DISTINCT tbl FROM temp.syncd_slice")}
        for name, table in remembered(connection).items():
            if table.id in written:
                is_readable = name not in unreadable
                _fold_table(connection, table, log_hidden, minted_under, is_readable=is_readable)
        for table in load_tables(connection).values():
            if table.id in written:
                children.expect_parents(connection, table, _written_rows(table))
        advance_clock(connection, connection.value("SELECT max(hlc) FROM temp.syncd_slice"))
    connection.run(
        "UPDATE syncd_origin SET seq = ? WHERE ordinal = (SELECT origin FROM syncd_replica)",
        (upto,),
    )
    connection.run("DELETE FROM syncd_journal WHERE seq <= ? AND seq < ?", (upto, last))
    return unfolded(connection)


def advance_clock(connection: Connection, hlc: int) -> None:
    """Move the clock past a reading. Nothing may wait for the fold that is not folded with it."""
    connection.run("UPDATE syncd_replica SET hlc = ?1 WHERE hlc < ?1", (hlc,))


def take_seqs(connection: Connection, count: int) -> int:
    """Reserve seqs for changes of this host; return the one below the first.

    The journal must be folded.
    """
    base: int = connection.value("SELECT max(seq) FROM syncd_journal")
    connection.run("UPDATE syncd_journal SET seq = seq + ? WHERE seq = ?", (count, base))
    connection.run(
        "UPDATE syncd_origin SET seq = seq + ? WHERE ordinal = (SELECT origin FROM syncd_replica)",
        (count,),
    )
    return base


def _fold_table(
    connection: Connection,
    table: Table,
    log_hidden: Log,
    minted_under: bytes | None,
    *,
    is_readable: bool,
) -> None:
    """Take a table's entries in. What cannot be looked up now is for `syncd init` to find."""
    cells = ", ".join(table.key_cells)
    # Rows with NULL in their key have no identity and stay local.
    filled = " AND ".join(f"{cell} IS NOT NULL" for cell in table.key_cells)
    entries = f"SELECT seq, hlc, mask, {cells} FROM temp.syncd_slice WHERE tbl = {table.id}"
    if table.is_generated:
        entries = numbers.identified(table, entries, minted_under)
    with staging.entries(connection, table):
        # Here, and on every host that they come to, rows are looked for by their keys: in the keys'
        # order the pages that this needs are at hand. Minted ones fall with time, and what is older
        # may be referred to.
        order = "k0, k1 DESC" if table.is_generated else cells
        connection.run(
            f"INSERT INTO temp.syncd_staged ({cells}, origin, seq, hlc, mask)"
            f" SELECT {cells}, (SELECT origin FROM syncd_replica), seq, hlc, mask"
            f" FROM ({entries}) WHERE {filled} ORDER BY {order}, seq"
        )
        if table.is_generated:
            if table.is_parent:
                taken = numbers.given(table, entries)
                children.follow(connection, table, taken, None, _slice_ms(connection))
            numbers.take_births(connection, table, entries)
        elif table.numbered and is_readable:
            written = f"SELECT {cells} FROM temp.syncd_staged"
            if table.is_parent:
                taken, changed = numbers.taken(table, written), numbers.changed(table, written)
                children.follow(connection, table, taken, changed, _slice_ms(connection))
            numbers.note(connection, table, written)
        if is_readable:
            _settle_suspects(connection, table)
        if table.is_generated:
            died = f"SELECT {cells} FROM temp.syncd_staged WHERE mask & {DEAD_BIT}"
            numbers.free(connection, table, died)
        connection.run("DELETE FROM temp.syncd_staged WHERE mask = 0")
        _keep_last_writes(connection, table)
        with resolved(connection, table) as contested:
            # Whatever was hidden is older than this host's own birth or death of the row. Who gave
            # birth to it here could not see what had been merged.
            if contested and is_readable:
                log_hidden(connection, table)
            connection.run(
                f"DELETE FROM {table.shadow} WHERE ({cells}) IN (SELECT {cells}"
                f" FROM temp.syncd_staged WHERE mask & {ALIVE_BIT | DEAD_BIT})"
            )


def _written_rows(table: Table) -> str:
    """Return the condition that a row of the user's table was written in this slice."""
    cells = ", ".join(f"k{i}" for i in range(len(table.identity)))
    written = f"SELECT {cells} FROM temp.syncd_slice WHERE tbl = {table.id}"
    return f"({', '.join(table.identity)}) IN ({written})"


def _slice_ms(connection: Connection) -> int:
    """Return what the wall clock read when the last of this slice was written."""
    ms: int = connection.value(
        "SELECT CAST((max(wall) - 2440587.5) * 86400000 AS INTEGER) FROM temp.syncd_slice"
    )
    return ms


def _settle_suspects(connection: Connection, table: Table) -> None:
    """Turn suspects into deaths where the row is really gone."""
    connection.run(
        f"UPDATE temp.syncd_staged AS s SET mask = {DEAD_BIT} WHERE s.mask = 0 AND NOT EXISTS"
        f" (SELECT 1 FROM {table.sql} AS t WHERE {table.on_user('t', 's')})"
    )


def _keep_last_writes(connection: Connection, table: Table) -> None:
    """Leave each register of a repeatedly written row with its last write only."""
    cells = ", ".join(table.key_cells)
    with connection.temporary(
        "syncd_repeated",
        f"SELECT {cells}, max(CASE WHEN mask & {DEAD_BIT} THEN seq ELSE 0 END) AS died"
        f" FROM temp.syncd_staged GROUP BY {cells} HAVING count(*) > 1",
    ) as repeated:
        if not repeated:
            return
        top = max(DEAD_BIT, *(column.bit for column in table.columns), 0)
        with connection.temporary(
            "syncd_last",
            f"""
            WITH RECURSIVE bits(bit) AS
                (SELECT 1 UNION ALL SELECT bit * 2 FROM bits WHERE bit < {top}),
            last(id, bit) AS
                (SELECT max(s.id), b.bit
                 FROM temp.syncd_repeated AS r JOIN temp.syncd_staged AS s ON {table.on("s", "r")}
                 JOIN bits AS b ON s.mask & b.bit
                 WHERE s.seq >= r.died
                 GROUP BY {table.cells("s")}, b.bit)
            SELECT id, sum(bit) AS mask FROM last GROUP BY id
            """,
        ):
            connection.run(
                "UPDATE temp.syncd_staged SET mask = 0 WHERE"
                f" ({cells}) IN (SELECT {cells} FROM temp.syncd_repeated)"
            )
            connection.run(
                "UPDATE temp.syncd_staged AS s SET mask = l.mask FROM temp.syncd_last AS l"
                " WHERE s.id = l.id"
            )
            connection.run("DELETE FROM temp.syncd_staged WHERE mask = 0")


@contextlib.contextmanager
def named(connection: Connection, table: Table, keys: Sequence[bundle.Column]) -> Iterator[None]:
    """Hold sync keys, packed as in a bundle, in the temporary table `syncd_named`."""
    connection.run(f"CREATE TEMP TABLE syncd_named (id INTEGER PRIMARY KEY, {table.key_ddl()})")
    connection.many(
        f"INSERT INTO temp.syncd_named ({', '.join(table.key_cells)})"
        f" VALUES ({', '.join('?' * len(keys))})",
        zip(*(column.values for column in keys), strict=True),
    )
    for cell, column in zip(table.key_cells, keys, strict=True):
        connection.many(
            f"UPDATE temp.syncd_named SET {cell} = CAST({cell} AS TEXT) WHERE id = ?",
            [(row + 1,) for row in column.raw_text],
        )
    yield
    connection.run("DROP TABLE temp.syncd_named")


STANDS = """
    e.hlc > s.hlc OR (e.hlc = s.hlc AND CASE WHEN e.origin = s.origin THEN e.seq >= s.seq ELSE
        (SELECT id FROM syncd_origin WHERE ordinal = e.origin) >
        (SELECT id FROM syncd_origin WHERE ordinal = s.origin) END)
"""
"""The condition that entry `e`, which is there, stands against `s`, because its stamp is greater.

Within one origin seq decides, as enrolled rows share one reading; so a change stands against its
own duplicate too.
"""


@contextlib.contextmanager
def resolved(connection: Connection, table: Table) -> Iterator[int]:
    """Decide who owns each register, and write the staged entries that own any.

    Staged entries of one row must have disjoint masks. Afterwards a staged entry's mask holds what
    it won. Inside the `with`, `temp.syncd_contest` pairs staged entries with the entries their rows
    had before; its number of rows is yielded.
    """
    query = f"""
        SELECT s.id, s.mask AS staged_mask, s.origin AS staged_origin, s.seq AS staged_seq,
            s.hlc AS staged_hlc, {table.cells("e")}, e.position, e.origin, e.seq, e.hlc, e.mask,
            {STANDS} AS stands
        FROM temp.syncd_staged AS s CROSS JOIN {table.changes} AS e ON {table.on("e", "s")}
    """
    with connection.temporary("syncd_contest", query) as contested:
        if contested:
            _take_from_staged(connection)
            _take_from_entries(connection, table)
        _append(connection, table)
        yield contested


def _take_from_staged(connection: Connection) -> None:
    """Leave each staged entry the registers that no standing entry owns."""
    connection.run(
        "UPDATE temp.syncd_staged SET met = 1 WHERE id IN (SELECT id FROM temp.syncd_contest)"
    )
    # The masks of a row's entries are disjoint, so their sum is their union.
    connection.run(
        f"""
        UPDATE temp.syncd_staged AS s SET mask = s.mask & ~lost
        FROM (
            SELECT id, CASE WHEN max(mask & {DEAD_BIT}) THEN -1 ELSE sum(mask) END AS lost
            FROM temp.syncd_contest WHERE stands GROUP BY id
        ) AS c
        WHERE s.id = c.id
        """
    )


def _take_from_entries(connection: Connection, table: Table) -> None:
    """Leave each older entry the registers that no staged entry takes."""
    connection.run(
        f"""
        UPDATE {table.changes} AS e SET mask = kept FROM (
            SELECT position AS at,
                CASE WHEN max(staged_mask & {DEAD_BIT}) THEN 0 ELSE mask & ~sum(staged_mask) END
                AS kept
            FROM temp.syncd_contest WHERE NOT stands GROUP BY position
        ) WHERE e.position = at
        """
    )
    connection.run(
        f"DELETE FROM {table.changes} WHERE mask = 0 AND position IN"
        " (SELECT position FROM temp.syncd_contest WHERE NOT stands)"
    )


def _append(connection: Connection, table: Table) -> None:
    cells = ", ".join(table.key_cells)
    base = held.take_positions(
        connection, connection.value("SELECT coalesce(max(id), 0) FROM temp.syncd_staged")
    )
    connection.run(
        f"INSERT INTO {table.changes} ({cells}, position, origin, seq, hlc, mask)"
        f" SELECT {cells}, ? + id, origin, seq, hlc, mask"
        " FROM temp.syncd_staged WHERE mask <> 0 ORDER BY id",
        (base,),
    )
