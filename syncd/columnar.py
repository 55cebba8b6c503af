"""Columnar reading: a query's result as columns, which is how bundles carry it.

SQLite packs each column as one JSON array, so that no row ever becomes an object of Python's. What
JSON cannot hold exactly (a REAL, a BLOB, TEXT that is not UTF-8) is read row by row instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from syncd.bundle import Column
from syncd.database import Connection, NotPackable, Room
from syncd.literals import RawText

_decode = msgspec.json.Decoder().decode


def columns_of(
    connection: Connection,
    expressions: Sequence[str],
    source: str,
    values: Sequence[Any],
    room: Room,
) -> list[Column]:
    """Return what each expression is in each row of a query.

    source: the query from its FROM on; what order its rows come in is not said, but it is the same
    in all columns. Raises `NoRoom` if they are more than there is room for.
    """
    try:
        return _unpacked(connection, expressions, source, values, room)
    except NotPackable:
        query = f"SELECT {', '.join(expressions)} {source}"
        rows = connection.user_rows(query, values, room)
        return list(map(column_of, zip(*rows, strict=True))) or [Column([]) for _ in expressions]


def column_of(values: Sequence[Any]) -> Column:
    """Pack values as a bundle's column."""
    if RawText not in set(map(type, values)):
        return Column(list(values))
    raw = [row for row, value in enumerate(values) if isinstance(value, RawText)]
    return Column([bytes(v) if isinstance(v, RawText) else v for v in values], raw)


def _unpacked(
    connection: Connection,
    expressions: Sequence[str],
    source: str,
    values: Sequence[Any],
    room: Room,
) -> list[Column]:
    arrays = connection.packed(expressions, source, values, room)
    if (size := sum(map(len, arrays))) > room.bytes_left:
        raise NotPackable  # row by row, it can be told how many there is room for
    try:
        columns = list(map(_decode, arrays))
    except msgspec.DecodeError as error:
        raise NotPackable from error  # an infinity
    # SQLite writes a REAL with a point and 15 digits, and some need 17. In a UTF-16 file it puts
    # U+FFFD where text is broken.
    if any(
        "\ufffd" in array or ("." in array and float in set(map(type, column)))
        for array, column in zip(arrays, columns, strict=True)
    ):
        raise NotPackable
    room.take(len(columns[0]), size)
    return list(map(Column, columns))
