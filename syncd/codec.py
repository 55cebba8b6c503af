"""Bundles as bytes, the same for HTTP and for files.

One is a magic number and a sequence of records: one header, frames, one end. A frame holds
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
from typing import BinaryIO

import msgspec
import zstandard

from syncd.bundle import Frame, Header, Int64, Origin, Seq, Seqs, Snapshot, check
from syncd.errors import BundleError, BundleTooLarge, BundleTruncated
from syncd.packing import decode, encode
from syncd.vector import Vector

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


def write(stream: BinaryIO, header: Header, frames: Iterable[Frame]) -> int:
    """Write a whole bundle; return the number of bytes."""
    size = stream.write(MAGIC) + _write_record(stream, _HEADER, encode(header))
    sizes = [_write_record(stream, _FRAME, compress(frame)) for frame in frames]
    return size + sum(sizes) + _write_record(stream, _END, encode(End(len(sizes))))


def compress(frame: Frame) -> bytes:
    """Encode a frame; a raw size over the bound is a `BundleTooLarge`."""
    try:
        raw = encode(_with_stamps(frame, _differences))
    except UnicodeEncodeError as error:
        raise BundleError(f"text that is not Unicode reached the encoder: {error}") from error
    if len(raw) > FRAME_BYTES_MAX:
        tables = ", ".join(sorted({section.table for section in frame.sections}))
        raise BundleTooLarge(
            f"a change of {len(raw)} bytes in {tables} is over the bound of {FRAME_BYTES_MAX}",
            hint="Shorten the value, keep such values outside the database, or leave the column"
            " out on every host with columns: {exclude: [...]}.",
        )
    return zstandard.ZstdCompressor(level=1).compress(raw)


def decompress(packed: bytes) -> Frame:
    """Decode a frame and check that its parts fit together."""
    frame = _with_stamps(decode(_unpack(packed), Frame), _sums)
    check(frame)
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
    check(bare)
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
