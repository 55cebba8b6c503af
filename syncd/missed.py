"""What capture missed: births and deaths of rows while a table's triggers were away.

A migration that rebuilds a table drops its triggers, an old copy of the schema lacks them, anyone
may drop them. What was born or died meanwhile shows by comparing the table with its changelog; a
changed value does not. The comparisons are queries, so that they can be counted, listed or
recorded. The journal must be folded, or what waits in it looks missed as well.
"""

from __future__ import annotations

from syncd import capture
from syncd.database import Connection
from syncd.introspection import Definition
from syncd.table import ALIVE_BIT, DEAD_BIT, Table


def births(table: Table, wanted: str) -> str:
    """Return the query of rows `t` of the user's table of which the changelog does not say so.

    wanted: what to select of each. A row that waits in the shadow cannot show as well, so one that
    does was born anew. Rows with NULL in their key are none of ours.
    """
    key = list(zip(table.user_key("t"), table.key_cells, strict=True))
    is_alive = (
        f"SELECT 1 FROM {table.changes} AS e WHERE {_same(key, 'e')} AND e.mask & {ALIVE_BIT}"
    )
    is_hidden = f"SELECT 1 FROM {table.shadow} AS h WHERE {_same(key, 'h')}"
    filled = [f"t.{name} IS NOT NULL" for name in table.identity]
    return (
        f"SELECT {wanted} FROM {table.sql} AS t WHERE {' AND '.join(filled)}"
        f" AND (NOT EXISTS ({is_alive}) OR EXISTS ({is_hidden}))"
    )


def deaths(table: Table, wanted: str) -> str:
    """Return the query of births `e` in the changelog whose rows stand nowhere.

    wanted: what to select of each.
    """
    return (
        f"SELECT {wanted} FROM {table.changes} AS e WHERE e.mask & {ALIVE_BIT}"
        f" AND NOT EXISTS (SELECT 1 FROM {table.sql} AS t WHERE {table.on_user('t', 'e')})"
        f" AND NOT EXISTS (SELECT 1 FROM {table.shadow} AS h WHERE {table.on('h', 'e')})"
    )


def most(connection: Connection, table: Table, definition: Definition) -> tuple[int, int] | None:
    """Return how many rows went and how many there were, if triggers are away and most rows too.

    Such a table was dropped and made anew, or emptied by mistake: its deaths are nobody's wish.
    """
    if not capture.faulty(connection, table, definition):
        return None
    gone = connection.value(f"SELECT count(*) FROM ({deaths(table, '1')})")
    shown = connection.value(
        f"SELECT count(*) FROM {table.changes} AS e WHERE e.mask & {ALIVE_BIT} AND NOT EXISTS"
        f" (SELECT 1 FROM {table.shadow} AS h WHERE {table.on('h', 'e')})"
    )
    return (gone, shown) if gone * 2 > shown else None


def record(connection: Connection, table: Table, now_ms: int) -> tuple[int, int]:
    """Journal what was missed as writes of now; return how many births and deaths that were."""
    died = deaths(table, ", ".join(table.identity_of("e")))
    born = births(table, ", ".join(f"t.{name}" for name in table.identity))
    # The deaths first: a number whose row died may have been given to one that was born.
    deaths_count = capture.journal(connection, table, DEAD_BIT, died, now_ms)
    mask = ALIVE_BIT | table.columns_mask
    return capture.journal(connection, table, mask, born, now_ms), deaths_count


def _same(key: list[tuple[str, str]], ours: str) -> str:
    return " AND ".join(f"{ours}.{cell} = {value}" for value, cell in key)
