"""Extraction: reading from the changelog what a peer lacks, frame by frame.

A frame reaches from one position of the changelog to another and leaves out what the peer's vector
covers. Only the frame that reaches the end carries a claim; see `frame_after`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from syncd import bundle, capture, changelog, codec, held
from syncd.bundle import Frame, Section, Snapshot
from syncd.columnar import columns_of
from syncd.database import Connection, NoRoom, Room
from syncd.table import ALIVE_BIT, DEAD_BIT, Column, Table
from syncd.vector import Vector

FRAME_ENTRIES = 8_000
"""Entries in a frame: what a receiver merges in one transaction."""


def frame_after(
    connection: Connection,
    position: int,
    since: Vector,
    entries_max: int = FRAME_ENTRIES,
    *,
    snapshot: Snapshot | None = None,
) -> Frame:
    """Return the changes above a position that `since` does not cover, or the first part of them.

    The journal must be folded. The frame ends at a whole change and near `FRAME_BYTES_TARGET`, and
    it carries the claim only if it reaches the end of the changelog: a page that ends earlier lacks
    the successors of changes it leaves out, so nothing may be concluded from it yet. snapshot: the
    one it is part of. Raises `SchemaChanged` while a table cannot be read: its values would be
    missing behind the claim.
    """
    news = _News(connection, capture.sendable(connection), position, since)
    cut, sections = news.first(entries_max)
    return _frame(
        connection,
        sections,
        after=position,
        position=cut,
        claim=dict(changelog.vector(connection)) if cut == news.top else None,
        snapshot=snapshot,
    )


def frame_of_rows(connection: Connection, table: Table, keys: Sequence[bundle.Column]) -> Frame:
    """Return all changes of some rows, in a frame that leads nowhere. The journal must be folded.

    keys: one column for each of the sync key's.
    """
    news = _News(connection, {table.name: table}, 0, Vector())
    with changelog.named(connection, table, keys):
        entries = (
            f"SELECT e.* FROM temp.syncd_named AS n CROSS JOIN {table.changes} AS e"
            f" ON {table.on('e', 'n')}"
        )
        sections = list(news.chosen(table, entries, Room()))
    return _frame(connection, sections, after=0, position=0, claim=None)


def _frame(connection: Connection, sections: list[Section], **place: Any) -> Frame:
    """Put sections, their origins being ordinals, into a frame."""
    ordinals = sorted({origin for section in sections for origin in section.origins})
    names = dict(_origin_names(connection))
    numbers = {ordinal: number for number, ordinal in enumerate(ordinals)}
    return Frame(
        origins=[names[ordinal][0] for ordinal in ordinals],
        nodes=[names[ordinal][1] for ordinal in ordinals],
        sections=[_renumbered(section, numbers) for section in sections],
        **place,
    )


def _origin_names(connection: Connection) -> Iterator[tuple[int, tuple[bytes, str]]]:
    for ordinal, origin, node in connection.rows("SELECT ordinal, id, node FROM syncd_origin"):
        yield ordinal, (origin, node)


def _renumbered(section: Section, numbers: dict[int, int]) -> Section:
    return msgspec.structs.replace(section, origins=list(map(numbers.__getitem__, section.origins)))


class _News:
    """The entries above a position that a vector does not cover. top: the last position."""

    def __init__(
        self, connection: Connection, tables: dict[str, Table], position: int, since: Vector
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._position = position
        self.top = held.last_position(connection)
        known = {
            ordinal: since[origin]
            for ordinal, origin in connection.rows("SELECT ordinal, id FROM syncd_origin")
            if origin in since
        }
        self._covered = " ".join(f"WHEN {ordinal} THEN {seq}" for ordinal, seq in known.items())

    def first(self, entries_max: int) -> tuple[int, list[Section]]:
        """Return the position that a frame of bounded entries and bytes reaches, and its sections.

        It is made in the hope that its entries are small, and made anew of fewer if they are not.
        """
        if self._position >= self.top:
            return self.top, []  # as nearly always; no table has to be asked
        while True:
            room = Room(codec.FRAME_BYTES_TARGET if entries_max > 1 else math.inf)
            cut = self._nth(entries_max)
            try:
                return cut, list(self._sections(cut, room))
            except NoRoom:
                self._connection.run("DROP TABLE IF EXISTS temp.syncd_frame")
                entries_max = max(1, min(entries_max, room.rows) * 7 // 8)

    def _sections(self, cut: int, room: Room) -> Iterator[Section]:
        for table in self._tables.values():
            yield from self._of_table(table, cut, room)
        yield from held.sections(self._connection, self._where(cut), room)

    def _of_table(self, table: Table, cut: int, room: Room) -> Iterator[Section]:
        """Yield a table's changes up to a position.

        A birth that does not own every column comes with all that its row owns, even where that
        stands above the cut: no host may show a row that has its columns' defaults in place of
        values still under way.
        """
        whole = ALIVE_BIT | table.columns_mask
        entries = f"SELECT e.* FROM {table.changes} AS e WHERE {self._where(cut)}"
        masks = self._masks(entries)
        if cut < self.top and any(mask & ALIVE_BIT and mask & whole != whole for mask in masks):
            entries += (
                f" UNION ALL SELECT e.* FROM {table.changes} AS b"
                f" CROSS JOIN {table.changes} AS e ON {table.on('e', 'b')}"
                f" WHERE {self._where(cut, 'b')} AND b.mask & {ALIVE_BIT}"
                f" AND b.mask & {whole} <> {whole}"
                f" AND {self._where(self.top)} AND e.position > {cut}"
            )
            masks = self._masks(entries)
        if len(masks) == 1:  # as in most of what a new host asks for
            yield from self._of_mask(table, masks[0], f"({entries})", room)
        else:
            yield from self.chosen(table, entries, room)

    def chosen(self, table: Table, entries: str, room: Room) -> Iterator[Section]:
        """Yield a table's changes among the entries of a query, one section per mask and place."""
        with self._connection.temporary("syncd_frame", entries):
            for mask in self._masks("SELECT mask FROM temp.syncd_frame"):
                yield from self._of_mask(table, mask, "temp.syncd_frame", room)

    def _masks(self, entries: str) -> list[int]:
        found = self._connection.rows(f"SELECT DISTINCT mask FROM ({entries})")
        return sorted(mask for (mask,) in found)

    def _of_mask(self, table: Table, mask: int, entries: str, room: Room) -> Iterator[Section]:
        columns = [column for column in table.columns if column.bit & mask]
        if not columns and not mask & (ALIVE_BIT | DEAD_BIT):
            return
        stamp_and_key = ["e.origin", "e.seq", "e.hlc", *(f"e.{cell}" for cell in table.key_cells)]
        for place, values in self._places(table, columns):
            found = columns_of(
                self._connection,
                [*stamp_and_key, *values],
                f"FROM {entries} AS e {place} WHERE e.mask = ?",
                (mask,),
                room,
            )
            if found[0].values:
                yield _section(table, mask, columns, found)

    def _places(self, table: Table, columns: list[Column]) -> Iterator[tuple[str, list[str]]]:
        """Yield where values stand: in the user's table, or in the shadow while a row is hidden."""
        if not columns:
            yield "", []
            return
        shown = [column.travelling("t") for column in columns]
        yield f"CROSS JOIN {table.sql} AS t ON {table.on_user('t', 'e')}", shown
        if self._connection.value(f"SELECT EXISTS (SELECT 1 FROM {table.shadow})"):
            hidden = [f"h.{column.cell}" for column in columns]
            yield f"CROSS JOIN {table.shadow} AS h ON {table.on('h', 'e')}", hidden

    def _where(self, cut: int, alias: str = "e") -> str:
        """Return the condition that an entry is news and not above a position."""
        return f"{self._news(alias)} AND {alias}.position <= {cut}"

    def _news(self, alias: str) -> str:
        covered = f"CASE {alias}.origin {self._covered} ELSE 0 END" if self._covered else "0"
        return f"{alias}.position > {self._position} AND {alias}.seq > {covered}"

    def _nth(self, n: int) -> int:
        """Return the position of the n-th entry, or the last position if there are fewer."""
        logs = [*(table.changes for table in self._tables.values()), "syncd_held"]
        parts = " UNION ALL ".join(
            f"SELECT e.position FROM {log} AS e WHERE {self._news('e')}" for log in logs
        )
        found: int | None = self._connection.value(
            f"SELECT position FROM ({parts}) ORDER BY position LIMIT 1 OFFSET ?", (n - 1,)
        )
        return self.top if found is None else found


def _section(table: Table, mask: int, columns: list[Column], found: list[bundle.Column]) -> Section:
    origins, seqs, hlcs = (column.values for column in found[:3])
    packed = found[3:]
    existence = bundle.ALIVE if mask & ALIVE_BIT else bundle.NO_EXISTENCE
    return Section(
        table=table.name,
        key=[column.name for column in table.key],
        columns=[column.name for column in columns],
        existence=bundle.DEAD if mask & DEAD_BIT else existence,
        origins=origins,
        seqs=seqs,
        hlcs=hlcs,
        keys=packed[: len(table.key)],
        values=packed[len(table.key) :],
    )
