"""Digests of what tables show, so that two hosts can find where they differ in little traffic.

A row's *place* is a digest of its sync key, and a *bucket* the rows whose places start alike; the
bucket of no bytes is the whole table. A bucket's digest is the sum of its rows' digests, so the
order in which rows are read does not matter. Only what travels is digested: the sync key and the
synced columns, as `extraction` reads them. Nothing is written, and nothing is remembered: every
question reads the table once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from syncd.columnar import column_of
from syncd.database import Connection
from syncd.literals import RawText
from syncd.table import Column, Table
from syncd.wire import Buckets, BucketsAnswer

PLACE_BYTES, ROW_BYTES, CELL_BYTES = 8, 16, 8
_RAW_TEXT = 1


def _plain(value: object) -> msgspec.msgpack.Ext:
    assert isinstance(value, RawText)
    return msgspec.msgpack.Ext(_RAW_TEXT, bytes(value))


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def answer(connection: Connection, tables: dict[str, Table], asked: Buckets) -> BucketsAnswer:
    """Answer a question about a table's buckets. The journal must be folded."""
    table = tables.get(asked.table)
    if table is None or [column.name for column in table.key] != asked.key:
        return BucketsAnswer(None)
    columns = [c for name in asked.columns for c in table.columns if c.name == name]
    names = [column.name for column in columns]
    if asked.listed:
        return _listed(connection, table, columns, names, asked)
    keys, depth = len(table.key), len(asked.prefixes[0]) if asked.prefixes else 0
    sums = dict.fromkeys(asked.prefixes, 0)
    count = 0
    for row in _rows(connection, table, columns):
        count += 1
        place = _place(row[:keys])[:depth] if depth else b""
        if place in sums:
            sums[place] += int.from_bytes(_digest(row, ROW_BYTES), "big")
    digests = [(sums[p] % (1 << 8 * ROW_BYTES)).to_bytes(ROW_BYTES, "big") for p in asked.prefixes]
    return BucketsAnswer(names, count, b"".join(digests))


def _listed(
    connection: Connection, table: Table, columns: list[Column], names: list[str], asked: Buckets
) -> BucketsAnswer:
    keys, depth = len(table.key), len(asked.prefixes[0]) if asked.prefixes else 0
    prefixes = set(asked.prefixes)
    found = []
    count = 0
    for row in _rows(connection, table, columns):
        count += 1
        if _place(row[:keys])[:depth] in prefixes:
            found.append(row)
    return BucketsAnswer(
        names,
        count,
        keys=[column_of([row[n] for row in found]) for n in range(keys)],
        cells=[b"".join(_digest(value, CELL_BYTES) for value in row[keys:]) for row in found],
    )


def _rows(connection: Connection, table: Table, columns: list[Column]) -> Iterator[tuple[Any, ...]]:
    """Yield key and columns of every row that shows and has a key."""
    keys = [f"{sql} AS k{n}" for n, sql in enumerate(table.user_key("t"))]
    values = [f"{column.travelling('t')} AS c{n}" for n, column in enumerate(columns)]
    filled = " AND ".join(f"{cell} IS NOT NULL" for cell in table.key_cells)
    return connection.user_stream(
        f"SELECT * FROM (SELECT {', '.join([*keys, *values])} FROM {table.sql} AS t) WHERE {filled}"
    )


def _place(key: tuple[Any, ...]) -> bytes:
    return _digest(key, PLACE_BYTES)


def _digest(value: object, size: int) -> bytes:
    return hashlib.blake2b(_encode(value), digest_size=size).digest()
