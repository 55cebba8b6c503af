"""MessagePack in both directions; what is decoded is typed, and bounded in memory."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from syncd.errors import BundleError, BundleTooLarge

OBJECTS_MAX = 8 * 1024 * 1024
"""MessagePack objects above which a message is not decoded. One byte can be an object that takes 70
bytes of memory; the whole rows of an honest frame come to some 4 million at the most."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


def decode(raw: bytes, kind: type[T]) -> T:
    """Decode MessagePack into a type that msgspec knows, or raise `BundleError`."""
    _refuse_swarm(raw)
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(f"malformed: {error}") from error


def encode(value: Any) -> bytes:
    """Encode a struct, or what stands in one, as MessagePack."""
    return _encode(value)


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
