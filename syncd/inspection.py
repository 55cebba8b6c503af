"""What a bundle holds, for people and for scripts.

Reads bundles only; no database is needed. Values that JSON cannot carry are objects with one member
that names their kind: {"blob": base64}, {"text": base64} for text that is not UTF-8, {"real":
"inf"}.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from syncd import bundle
from syncd.bundle import Column, Frame, Section
from syncd.clock import ms_of_hlc
from syncd.codec import Reader
from syncd.vector import Vector

KIND = {bundle.NO_EXISTENCE: "update", bundle.ALIVE: "insert", bundle.DEAD: "delete"}


def claim(reader: Reader) -> Vector:
    """Return what the holder of a bundle has, once it is merged."""
    found = Vector()
    for frame in reader:
        if frame.claim is not None:
            found = Vector(frame.claim)
    return found


def summary(reader: Reader) -> dict[str, Any]:
    """Count a bundle's changes per table and kind, and name its vectors by host."""
    changes: dict[str, Counter[str]] = {}
    nodes = {reader.header.origin: reader.header.node}
    frames, reached, is_complete = 0, Vector(), False
    for frame in reader:
        frames += 1
        nodes.update(zip(frame.origins, frame.nodes, strict=True))
        # Of a replica without a change the claim is empty, and a claim all the same.
        reached, is_complete = Vector(frame.claim or {}), frame.claim is not None
        for section in frame.sections:
            kinds = changes.setdefault(section.table, Counter())
            kinds[KIND[section.existence]] += len(section)
    header = reader.header
    return {
        "node": header.node,
        "origin": header.origin.hex(),
        "created_ms": header.created_ms,
        "frames": frames,
        "complete": is_complete,
        "needs": _named(Vector(header.since), nodes),
        "brings": _named(reached, nodes),
        "tables": {
            table: {kind: kinds[kind] for kind in KIND.values()}
            for table, kinds in sorted(changes.items())
        },
    }


def lines(reader: Reader) -> Iterator[dict[str, Any]]:
    """Yield every change of a bundle."""
    for frame in reader:
        for section in frame.sections:
            yield from _section_lines(frame, section)


def _section_lines(frame: Frame, section: Section) -> Iterator[dict[str, Any]]:
    seqs, hlcs = section.seqs, section.hlcs
    keys = [_json_values(column) for column in section.keys]
    values = [_json_values(column) for column in section.values]
    for row, number in enumerate(section.origins):
        yield {
            "table": section.table,
            "change": KIND[section.existence],
            "key": {name: column[row] for name, column in zip(section.key, keys, strict=True)},
            "values": {
                name: column[row] for name, column in zip(section.columns, values, strict=True)
            },
            "node": frame.nodes[number],
            "origin": frame.origins[number].hex(),
            "seq": seqs[row],
            "time_ms": ms_of_hlc(hlcs[row]),
        }


def _json_values(column: Column) -> list[Any]:
    raw = set(column.raw_text)
    return [json_value(value, row in raw) for row, value in enumerate(column.values)]


def json_value(value: bundle.Value, is_text: bool = False) -> Any:
    """Return a value as JSON can carry it. is_text: bytes that are TEXT."""
    if isinstance(value, bytes):
        return {"text" if is_text else "blob": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"real": str(value)}
    return value


def _named(vector: Vector, nodes: dict[bytes, str]) -> dict[str, int]:
    return {
        f"{nodes.get(origin) or 'unknown'} {origin.hex()[:8]}": seq
        for origin, seq in sorted(vector.items())
    }
