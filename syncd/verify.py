"""Verification: whether two hosts that have merged the same changes show the same rows.

It begins with a round both ways, so that nothing is under way, and then asks both hosts the same
questions (`comparison`): the digest of each table, of ever smaller buckets where they differ, at
last the rows of a few. If one host merges something meanwhile, it begins again; where the vectors
never meet it says so rather than naming rows that are only under way. A repair lets both hosts'
changes of the rows that differ meet once more, so that the greater stamps win, and writes what then
stands here anew where even that says nothing: the host on which it is run is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from syncd import bundle, comparison, exchange
from syncd.columnar import column_of
from syncd.config import Peer
from syncd.digest import CELL_BYTES, PLACE_BYTES, ROW_BYTES
from syncd.errors import PeerMisbehaved, SyncError
from syncd.literals import RawText, literal_of
from syncd.peer import PeerClient
from syncd.replica import Replica
from syncd.vector import Vector
from syncd.wire import Buckets, BucketsAnswer, CompareRequest, RowsRequest

ATTEMPTS = 3
"""How often it begins again where something is merged meanwhile."""
BUCKET_ROWS = 64
"""Up to how many rows of a bucket are listed: their digests are then as short as those of 256
smaller buckets."""
LISTED_ROWS = 5_000
PREFIXES = 4_096
"""How many rows, and how many digests, one answer is to have at most."""
ROWS_AT_ONCE = 1_000

EQUAL, DIFFERENT, NOT_IN_STEP, FAILED = "equal", "different", "not in step", "failed"
ONLY_HERE, ONLY_THERE, VALUES = "only here", "only there", "values differ"


@dataclass(frozen=True)
class Difference:
    """A row that two hosts do not show alike. key: SQL literals; values: the same as values.

    columns: those that differ, if the row stands on both.
    """

    table: str
    key: str
    state: str
    columns: tuple[str, ...]
    values: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """How a comparison with a peer ended.

    state: `EQUAL`; `DIFFERENT`; `NOT_IN_STEP`, if they differ and one had merged what the other
    had not, so that it may be under way; `FAILED`. rows: how many this host shows in the tables
    compared. skipped: tables that the peer does not have under the same key.
    """

    peer: str
    state: str
    rows: int = 0
    differences: tuple[Difference, ...] = ()
    skipped: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None


def verify(replica: Replica, peer: Peer, *, repair: bool = False) -> Verdict:
    """Compare with a peer; with repair, mend what differs and compare again."""
    # A round both ways, whether or not it is usual with this peer.
    client = exchange.client_of(replica, peer.model_copy(update={"push": True}))
    try:
        verdict = _verdict(replica, client)
        if repair and verdict.state == DIFFERENT:
            _repair(replica, client, verdict.differences)
            verdict = _verdict(replica, client)
        return verdict
    except SyncError as error:
        return Verdict(peer.name, FAILED, error=str(error), hint=error.hint)
    finally:
        client.close()


def _verdict(replica: Replica, client: PeerClient) -> Verdict:
    for _ in range(ATTEMPTS):
        outcome = exchange.run_round(replica, client)
        if not outcome.ok:
            return Verdict(client.peer.name, FAILED, error=outcome.error, hint=outcome.hint)
        comparing = _Comparing(replica, client)
        try:
            comparing.run()
        except _UnderWay:
            continue
        return Verdict(
            client.peer.name,
            DIFFERENT if comparing.differences else EQUAL,
            comparing.rows,
            tuple(comparing.differences),
            tuple(comparing.skipped),
        )
    return Verdict(client.peer.name, NOT_IN_STEP)


def _repair(replica: Replica, client: PeerClient, differences: Sequence[Difference]) -> None:
    for name, of_table in itertools.groupby(differences, lambda one: one.table):
        for some in _batches(list(of_table), ROWS_AT_ONCE):
            keys = [column_of(column) for column in zip(*(d.values for d in some), strict=True)]
            key = next(q.key for q in comparison.questions(replica) if q.table == name)
            _, frame = client.rows(RowsRequest(replica.config.node, name, key, keys))
            comparison.adopt(replica, frame)
            written = [one.columns if one.state == VALUES else None for one in some]
            comparison.rewrite(replica, name, keys, written)


class _UnderWay(Exception):
    """The two answers are not of the same changes, so what differs may be under way."""


class _Comparing:
    """One comparison."""

    def __init__(self, replica: Replica, client: PeerClient) -> None:
        self._replica = replica
        self._client = client
        self._in_step = False
        self.rows = 0
        self.differences: list[Difference] = []
        self.skipped: list[str] = []

    def run(self) -> None:
        """Find the rows that differ; raise `_UnderWay` if that cannot be said for now."""
        asked = comparison.questions(self._replica)
        pairs = self._ask(asked)
        known = [
            msgspec.structs.replace(question, columns=there.columns)
            for question, (_, there) in zip(asked, pairs, strict=True)
            if there.columns is not None
        ]
        if known != asked:
            names = {question.table for question in known}
            self.skipped = [q.table for q in asked if q.table not in names]
            pairs = self._ask(known)
        for question, (here, there) in zip(known, pairs, strict=True):
            self.rows += here.rows
            if here.digests != there.digests:
                self._require_step()
                self.differences += self._descend(question, max(here.rows, there.rows))

    def _descend(self, whole: Buckets, rows: int) -> Iterator[Difference]:
        """Find a table's rows that differ, through ever smaller buckets."""
        prefixes, size = [b""], float(rows)
        while size > BUCKET_ROWS and len(prefixes[0]) < PLACE_BYTES:
            smaller = [prefix + bytes([n]) for prefix in prefixes for n in range(256)]
            prefixes = [
                p for some in _batches(smaller, PREFIXES) for p in self._differing(whole, some)
            ]
            size /= 256
            if len(prefixes) > len(smaller) / 2:
                break  # Smaller buckets would all differ as well.
        for some in _batches(prefixes, max(1, int(LISTED_ROWS / max(size, 1)))):
            yield from self._listed(whole, some)

    def _differing(self, whole: Buckets, prefixes: list[bytes]) -> list[bytes]:
        ((here, there),) = self._ask([msgspec.structs.replace(whole, prefixes=prefixes)])
        self._require_step()
        places = range(0, len(here.digests), ROW_BYTES)
        return [
            prefix
            for prefix, n in zip(prefixes, places, strict=True)
            if here.digests[n : n + ROW_BYTES] != there.digests[n : n + ROW_BYTES]
        ]

    def _listed(self, whole: Buckets, prefixes: list[bytes]) -> Iterator[Difference]:
        question = msgspec.structs.replace(whole, prefixes=prefixes, listed=True)
        ((here, there),) = self._ask([question])
        self._require_step()
        mine, theirs = _by_key(here), _by_key(there)
        for values in {**mine, **theirs}:
            a, b = mine.get(values), theirs.get(values)
            if a == b:
                continue
            key = ", ".join(map(literal_of, values))
            state = ONLY_THERE if a is None else ONLY_HERE if b is None else VALUES
            columns = _columns(whole, a, b) if a is not None and b is not None else ()
            yield Difference(whole.table, key, state, columns, values)

    def _require_step(self) -> None:
        if not self._in_step:
            raise _UnderWay

    def _ask(self, asked: list[Buckets]) -> list[tuple[BucketsAnswer, BucketsAnswer]]:
        """Ask both hosts, and note whether they have merged the same."""
        here = comparison.answer(self._replica, asked)
        there = self._client.compare(CompareRequest(self._replica.config.node, asked))
        self._in_step = Vector(here.vector) == Vector(there.vector)
        if len(there.answers) != len(asked) or not all(map(_fits, asked, there.answers)):
            raise PeerMisbehaved(f"{self._client.peer.name} answers another question")
        return list(zip(here.answers, there.answers, strict=True))


def _fits(asked: Buckets, answer: BucketsAnswer) -> bool:
    """Say whether an answer has the form that its question asks for."""
    if answer.columns is None:
        return not asked.listed
    if not asked.listed:
        return len(answer.digests) == ROW_BYTES * len(asked.prefixes)
    size = CELL_BYTES * len(answer.columns)
    return (
        answer.columns == asked.columns
        and bundle.are_keys(asked.key, answer.keys, len(answer.cells))
        and all(len(cells) == size for cells in answer.cells)
    )


def _by_key(answer: BucketsAnswer) -> dict[tuple[Any, ...], bytes]:
    columns = [_unpacked(column) for column in answer.keys]
    return dict(zip(zip(*columns, strict=True), answer.cells, strict=True))


def _unpacked(column: bundle.Column) -> list[Any]:
    raw = set(column.raw_text)
    return [RawText(v) if row in raw else v for row, v in enumerate(column.values)]


def _columns(whole: Buckets, a: bytes, b: bytes) -> tuple[str, ...]:
    return tuple(
        name
        for n, name in enumerate(whole.columns)
        if a[n * CELL_BYTES : (n + 1) * CELL_BYTES] != b[n * CELL_BYTES : (n + 1) * CELL_BYTES]
    )


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
