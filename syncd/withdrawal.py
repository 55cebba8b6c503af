"""Withdrawals: changes that count no more, because a host has written them anew.

A change from the future may be brought to the present (`future`): the host that does it writes the
same values anew and withdraws the originals, or they would win when their time comes. Withdrawals
only ever add up, and every bundle names all its sender knows of. Whoever learns of one forgets what
it holds of those changes and takes them in no more. What it had merged of them has already beaten
changes that will not come again, so those rows it writes anew itself, under stamps of its own: on
no host does a register fall back to a value that others do not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncd import bundle, changelog, restamp
from syncd.bundle import Section, Withdrawal
from syncd.clock import hlc_of_ms
from syncd.database import Connection
from syncd.schema import remembered
from syncd.table import Table

WITHDRAWN = (
    "EXISTS (SELECT 1 FROM syncd_withdrawn AS w WHERE w.origin = e.origin"
    " AND e.seq BETWEEN w.first AND w.last AND e.hlc > w.above)"
)
"""The condition that an entry or held change `e` is withdrawn."""


def known(connection: Connection) -> list[Withdrawal]:
    """Return all withdrawals that this replica knows of."""
    return [
        Withdrawal(*row)
        for row in connection.rows(
            "SELECT o.id, w.first, w.last, w.above FROM syncd_withdrawn AS w"
            " JOIN syncd_origin AS o ON o.ordinal = w.origin"
        )
    ]


def add(connection: Connection, withdrawals: Sequence[Withdrawal]) -> bool:
    """Remember withdrawals; say whether one of them was news."""
    news = [one for one in withdrawals if not _says(connection, one)]
    for one in news:
        connection.run(
            "INSERT OR IGNORE INTO syncd_origin (id, node) VALUES (?, '')", (one.origin,)
        )
        connection.run(
            "INSERT INTO syncd_withdrawn SELECT ordinal, ?, ?, ? FROM syncd_origin WHERE id = ?",
            (one.first, one.last, one.above, one.origin),
        )
    return bool(news)


def learn(connection: Connection, told: Sequence[Withdrawal], *, now_ms: int) -> int:
    """Follow another host's withdrawals; return how many merged changes were written anew.

    The journal must be folded.
    """
    if not add(connection, told):
        return 0
    connection.run(f"DELETE FROM syncd_held AS e WHERE {WITHDRAWN}")
    changelog.advance_clock(connection, hlc_of_ms(now_ms))
    return rewrite(connection)


def rewrite(connection: Connection) -> int:
    """Write anew what is merged of withdrawn changes; return how many entries that were."""
    # Also of a table that cannot be read for now: no value is needed.
    tables = remembered(connection).values()
    return sum(restamp.entries(connection, table, _not_before(table)) for table in tables)


def without(connection: Connection, sections: Sequence[Section]) -> list[Section]:
    """Return sections, their origins being ordinals, without the changes that are withdrawn."""
    rows = connection.rows("SELECT origin, first, last, above FROM syncd_withdrawn")
    return [_kept(section, rows) for section in sections] if rows else list(sections)


def _says(connection: Connection, one: Withdrawal) -> bool:
    return bool(
        connection.value(
            "SELECT EXISTS (SELECT 1 FROM syncd_withdrawn AS w"
            " JOIN syncd_origin AS o ON o.ordinal = w.origin"
            " WHERE o.id = ? AND w.first <= ? AND w.last >= ? AND w.above <= ?)",
            (one.origin, one.first, one.last, one.above),
        )
    )


def _not_before(table: Table) -> str:
    """Return the condition that an entry is withdrawn or newer than one of its row that is.

    The newer ones are written anew as well, so that the order within the row stays.
    """
    oldest = (
        f"SELECT {table.cells('e')}, min(e.hlc) AS hlc FROM {table.changes} AS e"
        f" WHERE {WITHDRAWN} GROUP BY {table.cells('e')}"
    )
    return f"EXISTS (SELECT 1 FROM ({oldest}) AS x WHERE {table.on('x', 'e')} AND e.hlc >= x.hlc)"


def _kept(section: Section, rows: Sequence[tuple[int, int, int, int]]) -> Section:
    changes = zip(section.origins, section.seqs, section.hlcs, strict=True)
    wanted = [
        not any(
            origin == of and first <= seq <= last and hlc > above for of, first, last, above in rows
        )
        for origin, seq, hlc in changes
    ]
    return section if all(wanted) else bundle.select(section, wanted)
