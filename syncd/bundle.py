"""What a bundle says: who speaks, what it has, and changes in frames.

A frame holds whole changes, columns as columns. How they are bytes is the business of `codec`, who
signed them that of the caller. This module knows nothing of databases.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

from syncd.errors import BundleError
from syncd.vector import ORIGIN_BYTES

NO_EXISTENCE, ALIVE, DEAD = 0, 1, 2

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Origin = Annotated[bytes, msgspec.Meta(min_length=ORIGIN_BYTES, max_length=ORIGIN_BYTES)]
Value = int | float | str | bytes | None
Seqs = dict[Origin, Seq]
# They are kept and passed on: whoever has a key must not make what others send grow without end.
Readings = Annotated[list[Int64], msgspec.Meta(max_length=64)]


class Withdrawal(msgspec.Struct, frozen=True):
    """Changes of an origin that count no more, because they were written anew.

    They are those with a seq from first to last and a clock reading greater than above.
    """

    origin: Origin
    first: Seq
    last: Seq
    above: Int64


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a host once said of itself: its own seq, and what its clock read then.

    Two histories of one origin have the same seqs, but not the same marks. earlier: the readings of
    some that were said before it, the newest first.
    """

    seq: Seq
    hlc: Int64
    earlier: Readings = []


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who speaks, what it has, and from where the bundle continues.

    vector: what the sender has merged. since: what the receiver must have for the claim to hold.
    withdrawn: the withdrawals that the sender knows of. hlc: with the sender's own seq, its mark; 0
    where nothing is to be remembered of it. earlier: as in that mark. forks: the origins that have
    two histories, each with the last seq that these share. marks: what other origins are known to
    have said of themselves.
    """

    origin: Origin
    node: str
    created_ms: Int64
    vector: Seqs
    since: Seqs
    withdrawn: list[Withdrawal] = []
    hlc: Int64 = 0
    earlier: Readings = []
    forks: Seqs = {}
    marks: dict[Origin, list[Mark]] = {}

    def saying(self, mark: Mark | None) -> Header:
        """Return the same with what the sender says of itself."""
        if mark is None:
            return self
        return msgspec.structs.replace(self, hlc=mark.hlc, earlier=mark.earlier)

    @property
    def mark(self) -> Mark | None:
        """What the sender says of itself, to be told it again."""
        if not self.hlc:
            return None
        return Mark(self.vector.get(self.origin, 0), self.hlc, self.earlier)


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """The values of one column, in row order.

    raw_text: positions of values that are SQLite TEXT but not UTF-8, carried as their bytes.
    """

    values: list[Any]
    raw_text: list[int] = []


class Section(msgspec.Struct, frozen=True, omit_defaults=True):
    """Changes of one table that write the same registers; no key occurs twice.

    existence: NO_EXISTENCE, ALIVE or DEAD. keys and values: one Column per name in `key` and
    `columns`. origins: positions in the frame's `origins`. seqs and hlcs: in a packed frame, each
    is the difference from the one before. ahead: whether the sender holds them for their stamps.
    """

    table: str
    key: list[str]
    columns: list[str]
    existence: Annotated[int, msgspec.Meta(ge=NO_EXISTENCE, le=DEAD)]
    origins: list[int]
    seqs: list[Int64]
    hlcs: list[Int64]
    keys: list[Column]
    values: list[Column]
    ahead: bool = False

    def __len__(self) -> int:
        return len(self.origins)


class Snapshot(msgspec.Struct, frozen=True):
    """Marks a frame as a part of everything its sender has, because deaths it forgot may be missed.

    tables: those it is complete for, each with its columns. horizon: per origin the highest seq
    that the sender has forgotten. hlc: the greatest reading among what it has forgotten.
    """

    tables: dict[str, list[str]]
    horizon: Seqs
    hlc: Int64


class Progress(msgspec.Struct, frozen=True):
    """How far a snapshot has been read. horizon: the sender's when it began."""

    horizon: Seqs
    position: Seq


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """A merge's unit: what is applied in one transaction.

    origins and nodes: the incarnations that occur and their hosts' names. after and position: from
    where to where in the sender's changelog this frame reaches. claim: what the receiver has merged
    once this frame is in; None until the sender has nothing more. snapshot: set in every frame of
    one.
    """

    origins: list[Origin]
    nodes: list[str]
    sections: list[Section]
    after: Seq
    position: Seq
    claim: Seqs | None
    snapshot: Snapshot | None = None


def select(section: Section, wanted: Sequence[bool]) -> Section:
    """Return the rows of a section that are wanted."""

    def some(values: Iterable[Any]) -> list[Any]:
        return list(itertools.compress(values, wanted))

    def column(packed: Column) -> Column:
        raw = set(packed.raw_text)
        marks = some(row in raw for row in range(len(wanted)))
        return Column(some(packed.values), [row for row, mark in enumerate(marks) if mark])

    return msgspec.structs.replace(
        section,
        origins=some(section.origins),
        seqs=some(section.seqs),
        hlcs=some(section.hlcs),
        keys=[column(packed) for packed in section.keys],
        values=[column(packed) for packed in section.values],
    )


def are_keys(names: Sequence[str], columns: Sequence[Column], rows: int) -> bool:
    """Say whether columns can be the sync keys of so many rows."""
    try:
        for column in columns:
            _check_values(column, "keys")
    except BundleError:
        return False
    return (
        len(columns) == len(names) > 0
        and all(len(column.values) == rows and None not in column.values for column in columns)
        and all(
            0 <= row < rows and isinstance(c.values[row], bytes)
            for c in columns
            for row in c.raw_text
        )
    )


def check(frame: Frame) -> None:
    """Raise `BundleError` if the parts of a frame do not fit together."""
    if len(frame.origins) != len(frame.nodes):
        raise BundleError("a frame's origins and nodes differ in number")
    for section in frame.sections:
        _check_section(section, len(frame.origins))


def _check_section(section: Section, origins: int) -> None:
    where = f"table {section.table!r}"
    names = [*section.key, *section.columns]
    if not section.key or len(set(names)) != len(names):
        raise BundleError(f"{where}: no key, or a column named twice")
    if section.existence == DEAD and section.columns:
        raise BundleError(f"{where}: a death carries columns")
    if section.existence == NO_EXISTENCE and not section.columns:
        raise BundleError(f"{where}: changes that write nothing")
    if len(section.keys) != len(section.key) or len(section.values) != len(section.columns):
        raise BundleError(f"{where}: columns and names differ in number")
    if any(None in column.values for column in section.keys):
        raise BundleError(f"{where}: a key with NULL")
    columns = [*section.keys, *section.values]
    lists: list[Sequence[object]] = [section.seqs, section.hlcs, *(c.values for c in columns)]
    if any(len(rows) != len(section) for rows in lists):
        raise BundleError(f"{where}: columns of different length")
    if section.origins and not 0 <= min(section.origins) <= max(section.origins) < origins:
        raise BundleError(f"{where}: an origin that the frame does not name")
    if any(
        c.raw_text and not 0 <= min(c.raw_text) <= max(c.raw_text) < len(section) for c in columns
    ):
        raise BundleError(f"{where}: a raw text position outside the rows")
    if any(not isinstance(c.values[row], bytes) for c in columns for row in c.raw_text):
        raise BundleError(f"{where}: raw text that is not bytes")
    for column in columns:
        _check_values(column, where)
    _check_stamps(section, where)


def _check_values(column: Column, where: str) -> None:
    # msgspec has no type for a union of str and bytes, so the five kinds are checked here.
    kinds = set(map(type, column.values))
    if not kinds <= {int, float, str, bytes, type(None)}:
        raise BundleError(f"{where}: a value of a kind that SQLite does not have")
    if int in kinds and max(value for value in column.values if type(value) is int) >= 2**63:
        raise BundleError(f"{where}: an integer of more than 64 bits")


def _check_stamps(section: Section, where: str) -> None:
    if section.seqs and (min(section.seqs) < 1 or max(section.seqs) > 2**53):
        raise BundleError(f"{where}: a seq out of range")
    if section.hlcs and (min(section.hlcs) < 0 or max(section.hlcs) >= 2**63):
        raise BundleError(f"{where}: a clock reading out of range")
