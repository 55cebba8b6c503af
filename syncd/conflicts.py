"""The conflict log: values that lost to a write that did not know of them, or to another row.

A write that knew the value it replaced is no conflict. Whether it knew is read from the vectors: a
change that a merged vector covers had been seen. While a pull is unfinished they say too little, so
that a loss may be logged that was known; none is left out. Each host logs what lost on it; equal
values are no loss. A value loses to the death of its row, be it older than the death or, while no
newer birth makes the row live again, written after it. A row that is displaced has lost a value
that must be unique (`waiting`); that stays open for as long as it is. Nothing here decides who
wins.

A host that takes a row away for a death keeps it whole with what was lost, since a single value
could not be written back to a row that is gone (`restoration`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from syncd.clock import ms_of_hlc
from syncd.database import Connection
from syncd.literals import literal, literals_of
from syncd.shadow import hidden, owned
from syncd.table import ALIVE_BIT, DEAD_BIT, Column, Table

OVERWRITTEN = "overwritten"


@dataclass(frozen=True)
class Conflict:
    """A value that lost. key: SQL literals. at_ms: when it lost here; ended_ms: until when the row
    was displaced by that, or None if it still is; the other times are the writes'.

    reason: `OVERWRITTEN`, or `held.DISPLACED`. column: of a row that is displaced, all columns that
    must be unique together; of several, the values are SQL literals. won_key: of the row that has
    the value. won_value: what it lost to, or None with won_by_death, if the row was deleted.
    """

    id: int
    at_ms: int
    ended_ms: int | None
    reason: str
    table: str
    key: str
    column: str
    lost_value: Any
    lost_node: str
    lost_ms: int
    won_key: str
    won_value: Any
    won_node: str
    won_ms: int
    won_by_death: bool


def listed(connection: Connection, table: str | None, since_ms: int) -> list[Conflict]:
    """Return the losses since a moment, and those that are open, of one table or of all.

    The newest come first.
    """
    rows = connection.user_rows(
        "SELECT c.id, c.at_ms, c.ended_ms, c.reason, c.tbl, c.key, c.col,"
        " c.lost_value, l.node, c.lost_hlc, c.won_key, c.won_value, w.node, c.won_hlc, c.won_dead"
        " FROM syncd_conflict AS c"
        " JOIN syncd_origin AS l ON l.ordinal = c.lost_origin"
        " JOIN syncd_origin AS w ON w.ordinal = c.won_origin"
        " WHERE (c.at_ms >= ? OR c.ended_ms IS NULL) AND c.tbl = coalesce(?, c.tbl)"
        " ORDER BY c.at_ms DESC, c.id DESC",
        (since_ms, table),
    )
    return [
        Conflict(*[*loss, ms_of_hlc(lost_hlc), *winner, ms_of_hlc(won_hlc), bool(won_dead)])
        for *values, won_hlc, won_dead in rows
        for loss, lost_hlc, winner in [(values[:9], values[9], values[10:])]
    ]


def log(
    connection: Connection, table: Table, columns: list[Column], *, known: str, now_ms: int
) -> int:
    """Log what the staged entries of `temp.syncd_contest` displace or lose to; return how many.

    To be called after `changelog.resolved` and before the user's table is touched, for births
    before the writes that may depend on them. known: the SQL of the seq up to which the sender knew
    the origin of contest row `x`.
    """
    # What a standing entry takes is not sent by who has seen it. From a death it takes nothing.
    concurrent = (
        "x.origin <> x.staged_origin"
        f" AND (x.seq > {known} OR (x.stands AND NOT x.staged_mask & {DEAD_BIT}))"
    )
    if not connection.value(
        f"SELECT EXISTS (SELECT 1 FROM temp.syncd_contest AS x WHERE {concurrent})"
    ):
        return 0
    count = 0
    staged = {column.number for column in columns}
    for column in table.columns:
        arriving = f"s.{column.cell}" if column.number in staged else "NULL"
        count += _log_column(
            connection, table, column, arriving=arriving, concurrent=concurrent, now_ms=now_ms
        )
    if count:
        keep_rows(
            connection,
            table,
            "temp.syncd_contest",
            f"e.staged_mask & {DEAD_BIT}",
            is_whole=f"{_shown(table)} OR h.alive",
        )
    return count


def log_hidden(connection: Connection, table: Table, *, now_ms: int) -> None:
    """Log what births of this host overwrite of rows that are alive and do not show.

    To be called after `changelog.resolved` and before the shadow is touched. This host has merged
    those rows, and whoever writes here could not see them. One that has died here was born before.
    """
    if not hidden(connection, table):
        return
    key = table.literals("x.")
    for column in table.columns:
        here, hidden_value = column.travelling("t"), f"h.{column.cell}"
        connection.run(
            f"""
            INSERT OR IGNORE INTO syncd_conflict (at_ms, ended_ms, reason, tbl, key, won_key, col,
                lost_value, lost_hlc, lost_origin, lost_seq, won_value, won_hlc, won_origin,
                won_dead)
            SELECT :now, :now, :reason, :table, {key}, {key}, :column,
                {hidden_value}, x.hlc, x.origin, x.seq, {here}, x.staged_hlc, x.staged_origin,
                x.staged_mask & {DEAD_BIT} <> 0
            FROM temp.syncd_contest AS x
            JOIN {table.shadow} AS h ON {table.on("h", "x")} AND h.alive = 1
            LEFT JOIN {table.sql} AS t ON {table.on_user("t", "x")}
            WHERE NOT x.stands AND x.staged_mask & {ALIVE_BIT | DEAD_BIT} AND x.mask & {column.bit}
                AND (x.staged_mask & {DEAD_BIT} OR {_differs(column).format(hidden_value, here)})
            """,
            {"now": now_ms, "reason": OVERWRITTEN, "table": table.name, "column": column.name},
        )


@dataclass(frozen=True)
class ForgottenDeaths:
    """Deaths that nobody remembers any more.

    by, hlc: the ordinal of the host that has said so, and the newest reading that one of them may
    have had. now_ms: this host's wall clock.
    """

    by: int
    hlc: int
    now_ms: int


def log_left(connection: Connection, table: Table, where: str, deaths: ForgottenDeaths) -> int:
    """Log what was written to hidden rows by who did not know of their deaths; return how much.

    where: a condition on the entry `e` that wrote it.
    """
    key = table.literals("e.")
    count = 0
    for column in table.columns:
        count += connection.run(
            f"""
            INSERT OR IGNORE INTO syncd_conflict (at_ms, ended_ms, reason, tbl, key, won_key, col,
                lost_value, lost_hlc, lost_origin, lost_seq, won_hlc, won_origin, won_dead)
            SELECT :now, :now, :reason, :table, {key}, {key}, :column,
                h.{column.cell}, e.hlc, e.origin, e.seq, :hlc, :by, 1
            FROM {table.changes} AS e JOIN {table.shadow} AS h ON {table.on("h", "e")}
            WHERE e.mask & {column.bit} AND {where}
            """,
            {
                "now": deaths.now_ms,
                "reason": OVERWRITTEN,
                "table": table.name,
                "column": column.name,
                "hlc": deaths.hlc,
                "by": deaths.by,
            },
        )
    return count


def keep_rows(
    connection: Connection, table: Table, entries: str, where: str, *, is_whole: str = "true"
) -> None:
    """Keep the rows that deaths take away, each with one of the lines that it has in the log.

    entries: those `e` that have lost. where: a condition on them. is_whole: one on their row `t` of
    the user's table, or `h` of the shadow.
    """
    values = [
        f"{literal(json.dumps(column.name) + ': ')}"
        f" || json_quote({literals_of([f'({_present(table, column)})'])})"
        for column in (*table.columns, *table.excluded)
    ]
    connection.run(
        f"""
        UPDATE syncd_conflict AS c SET lost_row = '{{' || {_listed(values)} || '}}'
        FROM (
            SELECT min(c.id) AS id, {table.cells("e")} FROM {entries} AS e JOIN syncd_conflict AS c
                ON (c.lost_origin, c.lost_seq, c.lost_hlc) = (e.origin, e.seq, e.hlc)
            WHERE c.tbl = ? AND c.won_dead AND {where}
            GROUP BY {table.cells("e")}, c.won_hlc, c.won_origin
        ) AS e
        LEFT JOIN {table.sql} AS t ON {table.on_user("t", "e")}
        LEFT JOIN {table.shadow} AS h ON {table.on("h", "e")}
        WHERE c.id = e.id AND c.lost_row IS NULL AND ({is_whole})
        """,
        (table.name,),
    )


def _listed(values: list[str]) -> str:
    """Return the SQL of texts behind each other, halved again and again.

    SQLite bounds the depth of an expression, and a table may have any number of columns.
    """
    if len(values) == 1:
        return values[0]
    middle = len(values) // 2
    return f"({_listed(values[:middle])} || ', ' || {_listed(values[middle:])})"


def log_held(connection: Connection, table: Table, lost: str, *, now_ms: int) -> None:
    """Log held values that are lost to deaths.

    lost: a query of the held changes `s`, with the deaths `e`, from its FROM on.
    """
    key = table.literals("e.")
    connection.run(
        f"""
        INSERT OR IGNORE INTO syncd_conflict (at_ms, ended_ms, reason, tbl, key, won_key, col,
            lost_value, lost_hlc, lost_origin, lost_seq, won_hlc, won_origin, won_dead)
        SELECT :now, :now, :reason, s.tbl, {key}, {key}, s.col,
            s.value, s.hlc, s.origin, s.seq, e.hlc, e.origin, 1
        {lost} AND s.col <> '' AND s.origin <> e.origin
        """,
        {"now": now_ms, "reason": OVERWRITTEN},
    )


def _log_column(
    connection: Connection,
    table: Table,
    column: Column,
    *,
    arriving: str,
    concurrent: str,
    now_ms: int,
) -> int:
    bit = column.bit
    key = table.literals("x.")
    differs = _differs(column)
    present = _present(table, column)
    is_met_by_death = f"x.mask & {DEAD_BIT} AND x.staged_mask & {bit}"
    meets_death = f"x.staged_mask & {DEAD_BIT} AND x.mask & {bit}"
    arriving_lost = (
        f"CASE WHEN {is_met_by_death} THEN 1 WHEN {meets_death} THEN 0 ELSE x.stands END"
    )
    return connection.run(
        f"""
        INSERT OR IGNORE INTO syncd_conflict (at_ms, ended_ms, reason, tbl, key, won_key, col,
            lost_value, lost_hlc, lost_origin, lost_seq, won_value, won_hlc, won_origin, won_dead)
        SELECT :now, :now, :reason, :table, {key}, {key}, :column,
            CASE WHEN arriving_lost THEN {arriving} ELSE {present} END,
            CASE WHEN arriving_lost THEN x.staged_hlc ELSE x.hlc END,
            CASE WHEN arriving_lost THEN x.staged_origin ELSE x.origin END,
            CASE WHEN arriving_lost THEN x.staged_seq ELSE x.seq END,
            CASE WHEN arriving_lost THEN {present} ELSE {arriving} END,
            CASE WHEN arriving_lost THEN x.hlc ELSE x.staged_hlc END,
            CASE WHEN arriving_lost THEN x.origin ELSE x.staged_origin END,
            CASE WHEN arriving_lost THEN x.mask ELSE x.staged_mask END & {DEAD_BIT} <> 0
        FROM (SELECT *, {arriving_lost} AS arriving_lost FROM temp.syncd_contest AS x) AS x
        JOIN temp.syncd_staged AS s ON s.id = x.id
        LEFT JOIN {table.sql} AS t ON {table.on_user("t", "x")}
        LEFT JOIN {table.shadow} AS h ON {table.on("h", "x")}
        WHERE {concurrent} AND (
            (x.mask & {bit} AND x.staged_mask & {bit} AND ({differs.format(arriving, present)}))
            OR ({is_met_by_death} AND (x.stands OR NOT {owned(table, "x")} & {ALIVE_BIT}))
            OR ({meets_death} AND (NOT x.stands OR NOT {owned(table, "x")} & {ALIVE_BIT}))
        )
        """,
        {"now": now_ms, "reason": OVERWRITTEN, "table": table.name, "column": column.name},
    )


def _differs(column: Column) -> str:
    # Without affinity 1 and 1.0 compare equal and are not.
    return "{0} IS NOT {1}" + (" OR typeof({0}) <> typeof({1})" * (column.affinity == "BLOB"))


def _present(table: Table, column: Column) -> str:
    return f"CASE WHEN {_shown(table)} THEN {column.travelling('t')} ELSE h.{column.cell} END"


def _shown(table: Table) -> str:
    return f"t.{table.identity[0]} IS NOT NULL"
