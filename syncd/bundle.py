"""Bundles: changes as bytes, the same for HTTP and for files.

A bundle is a magic number and a sequence of records: one header, frames, one end. A frame holds
whole changes, columns stored as columns, as zstd-compressed MessagePack of bounded size. Decoding
is typed: whatever the bytes are, the outcome is a valid value or a `BundleError`, in memory bounded
by `FRAME_BYTES_MAX`. The format is described for other implementations in docs/protocol.md.

This module knows nothing of databases or keys; who signed a bundle is the caller's business.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec
import zstandard

from syncd.errors import BundleError, BundleTooLarge, BundleTruncated
from syncd.vector import ORIGIN_BYTES, Vector

FORMAT = 1
_MAGIC_BEFORE_FORMAT = b"syncd\x1a"
MAGIC = _MAGIC_BEFORE_FORMAT + bytes([FORMAT]) + b"\n"

FRAME_BYTES_TARGET = 4 * 1024 * 1024
"""Raw size a sender aims for. Only a single row larger than this makes a larger frame."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""Raw size above which a frame is neither sent nor read."""
RECORD_BYTES_MAX = FRAME_BYTES_MAX + 64 * 1024
"""Size of one record on the wire, compressed."""
_HEADER_BYTES_MAX = 1024 * 1024
OBJECTS_MAX = 8 * 1024 * 1024
"""MessagePack objects above which a message is not decoded. One byte can be an object that takes 70
bytes of memory; the whole rows of an honest frame come to some 4 million at the most."""

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


class _Stamps(msgspec.Struct, frozen=True):
    """A section as far as `outline` reads it."""

    table: str
    origins: list[int]
    seqs: list[Int64]


class _Outline(msgspec.Struct, frozen=True):
    """A frame as far as `outline` reads it."""

    origins: list[Origin]
    nodes: list[str]
    sections: list[_Stamps]
    after: Seq
    position: Seq
    claim: Seqs | None
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class Outline:
    """What a frame is without its changes.

    bare: the frame, without sections. reach: who has merged that lacks none of its changes, and
    nothing that it claims or says is forgotten. changes: how many of each table it has.
    """

    bare: Frame
    reach: Vector
    changes: dict[str, int]


class End(msgspec.Struct, frozen=True):
    """The last record; without it the bundle is cut off."""

    frames: int


_RECORD = struct.Struct(">cI")
_HEADER, _FRAME, _END = b"H", b"F", b"E"
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


def write(stream: BinaryIO, header: Header, frames: Iterable[Frame]) -> int:
    """Write a whole bundle; return the number of bytes."""
    size = stream.write(MAGIC) + _write_record(stream, _HEADER, _encode(header))
    sizes = [_write_record(stream, _FRAME, compress(frame)) for frame in frames]
    return size + sum(sizes) + _write_record(stream, _END, _encode(End(len(sizes))))


def compress(frame: Frame) -> bytes:
    """Encode a frame; a raw size over the bound is a `BundleTooLarge`."""
    try:
        raw = _encode(_with_stamps(frame, _differences))
    except UnicodeEncodeError as error:
        raise BundleError(f"text that is not Unicode reached the encoder: {error}") from error
    if len(raw) > FRAME_BYTES_MAX:
        tables = ", ".join(sorted({section.table for section in frame.sections}))
        raise BundleTooLarge(
            f"a change of {len(raw)} bytes in {tables} is over the bound of {FRAME_BYTES_MAX}",
            hint="Keep files of that size outside the database, or exclude the table.",
        )
    return zstandard.ZstdCompressor(level=1).compress(raw)


def decompress(packed: bytes) -> Frame:
    """Decode a frame and check that its parts fit together."""
    frame = _with_stamps(decode(_unpack(packed), Frame), _sums)
    _check(frame)
    return frame


def outline(packed: bytes) -> Outline:
    """Decode what a frame is without its changes, passing over their values."""
    found = decode(_unpack(packed), _Outline)
    bare = Frame(
        found.origins,
        found.nodes,
        [],
        found.after,
        found.position,
        found.claim,
        found.snapshot,
    )
    _check(bare)
    reach = Vector(found.claim).join(found.snapshot.horizon if found.snapshot else {})
    changes: dict[str, int] = {}
    for section in found.sections:
        last: dict[int, int] = {}
        for number, seq in zip(section.origins, _sums(section.seqs), strict=False):
            if seq > last.get(number, 0):
                last[number] = seq
        if not last.keys() <= set(range(len(found.origins))):
            raise BundleError(f"table {section.table!r}: an origin that the frame does not name")
        reach = reach.join({found.origins[number]: seq for number, seq in last.items()})
        changes[section.table] = changes.get(section.table, 0) + len(section.origins)
    return Outline(bare, reach, changes)


def _with_stamps(frame: Frame, change: Callable[[Sequence[int]], list[int]]) -> Frame:
    sections = [
        msgspec.structs.replace(section, seqs=change(section.seqs), hlcs=change(section.hlcs))
        for section in frame.sections
    ]
    return msgspec.structs.replace(frame, sections=sections)


def _differences(values: Sequence[int]) -> list[int]:
    """Return each value's difference from its predecessor, the first from zero."""
    return list(map(operator.sub, values, itertools.chain((0,), values)))


def _sums(differences: Sequence[int]) -> list[int]:
    """Invert `_differences`."""
    return list(itertools.accumulate(differences))


def _unpack(packed: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(packed)
        # A frame that does not name its size is refused: it could be of any.
        if size < 0:
            raise BundleError("a frame does not name its size")
        if size > FRAME_BYTES_MAX:
            raise BundleTooLarge(f"a frame unpacks to {size} bytes, the bound is {FRAME_BYTES_MAX}")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise BundleError(f"a frame cannot be unpacked: {error}") from error


def decode(raw: bytes, kind: type[T]) -> T:
    """Decode MessagePack into a type of this module, or raise `BundleError`."""
    _refuse_swarm(raw)
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(f"malformed: {error}") from error


def encode(value: Any) -> bytes:
    """Encode a value of this module, or a small message, as MessagePack."""
    return _encode(value)


class Reader:
    """Reads a bundle from a stream, one frame at a time.

    The header is read at once; iterating yields frames and ends only where the bundle really does.
    bytes_read: how much of the stream has been taken.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes_read = 0
        _check_magic(self._take(len(MAGIC)))
        kind, payload = self._record(_HEADER_BYTES_MAX)
        if kind != _HEADER:
            raise BundleError("the bundle does not start with a header")
        self.header = decode(payload, Header)

    def __iter__(self) -> Iterator[Frame]:
        return map(decompress, self.packed_frames())

    def packed_frames(self) -> Iterator[bytes]:
        """Yield the frames as they stand in the stream, not unpacked."""
        for count in itertools.count():
            kind, payload = self._record(RECORD_BYTES_MAX)
            if kind == _END:
                if decode(payload, End).frames != count:
                    raise BundleError("the bundle's end does not count its frames right")
                return
            if kind != _FRAME:
                raise BundleError("a record of unknown kind")
            yield payload

    def _record(self, bytes_max: int) -> tuple[bytes, bytes]:
        kind, size = _RECORD.unpack(self._take(_RECORD.size))
        if size > bytes_max:
            raise BundleTooLarge(f"a record of {size} bytes, the bound is {bytes_max}")
        return kind, self._take(size)

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise BundleTruncated()
        self.bytes_read += size
        return data


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


def _write_record(stream: BinaryIO, kind: bytes, payload: bytes) -> int:
    return stream.write(_RECORD.pack(kind, len(payload))) + stream.write(payload)


def _check_magic(magic: bytes) -> None:
    if magic == MAGIC:
        return
    before, found = magic[: len(_MAGIC_BEFORE_FORMAT)], magic[len(_MAGIC_BEFORE_FORMAT)]
    if before == _MAGIC_BEFORE_FORMAT and found != FORMAT:
        raise BundleError(
            f"this bundle has format {found}, this version reads {FORMAT}",
            hint="Run the version of syncd that wrote it, or a newer one.",
        )
    raise BundleError("this is not a syncd bundle")


_PREFIX_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Of MessagePack's kinds that name their length (bin, ext, str): how many bytes name it."""
_REST_BYTES = bytes(
    {
        **{0xA0 + size: size for size in range(32)},
        **{0xC7: 1, 0xC8: 1, 0xC9: 1, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8},
        **{0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17},
        **{0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4},
    }.get(kind, 0)
    for kind in range(256)
)
"""What else stands behind the first byte of an object, its elements not counted."""


def _refuse_swarm(raw: bytes) -> None:
    """Count objects by their heads, where there are bytes enough for too many."""
    position, end, objects = 0, len(raw), 0
    while position < end and end - position + objects > OBJECTS_MAX:
        kind = raw[position]
        position += 1
        if kind in _PREFIX_BYTES:
            prefix = raw[position : position + _PREFIX_BYTES[kind]]
            position += len(prefix) + int.from_bytes(prefix)
        position += _REST_BYTES[kind]
        objects += 1
        if objects > OBJECTS_MAX:
            raise BundleTooLarge(f"more than {OBJECTS_MAX} values in one message")


def _check(frame: Frame) -> None:
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
