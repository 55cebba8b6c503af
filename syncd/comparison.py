"""Comparing a replica with another: what one host answers, and what it does about differences.

Answers are read in one snapshot together with the vector, so that whoever asks can tell whether two
answers are of the same changes. What is mended here becomes a write of this host, and travels as
any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncd import audit, changelog, digest, extraction, merge, schema
from syncd.audit import Finding
from syncd.bundle import Column, Frame, Header, are_keys
from syncd.errors import BundleError, SchemaError
from syncd.replica import Replica
from syncd.vector import Vector
from syncd.wire import Buckets, CompareAnswer, RowsRequest


def questions(replica: Replica) -> list[Buckets]:
    """Return the question about each enrolled table as a whole."""
    with replica.snapshot() as connection:
        return [
            Buckets(
                table.name,
                [column.name for column in table.key],
                [column.name for column in table.columns],
                [b""],
            )
            for table in schema.load_tables(connection).values()
        ]


def answer(replica: Replica, asked: Sequence[Buckets]) -> CompareAnswer:
    """Answer questions about what a replica shows."""
    with replica.snapshot() as connection:
        tables = schema.load_tables(connection)
        return CompareAnswer(
            replica.config.node,
            dict(changelog.vector(connection)),
            [digest.answer(connection, tables, one) for one in asked],
        )


def rows(replica: Replica, asked: RowsRequest) -> tuple[Header, Frame]:
    """Return all changes of some rows; raise `SchemaError` for a table that is not here."""
    if not are_keys(asked.key, asked.keys, len(asked.keys[0].values) if asked.keys else 0):
        raise BundleError("keys that do not fit together")
    with replica.snapshot() as connection:
        table = schema.load_tables(connection).get(asked.table)
        if table is None or [column.name for column in table.key] != asked.key:
            raise SchemaError([f"tables.{asked.table}: is not enrolled here under that key"])
        frame = extraction.frame_of_rows(connection, table, asked.keys)
        return replica.header(connection, Vector()), frame


def adopt(replica: Replica, frame: Frame) -> None:
    """Merge all changes of some rows that another host has, whatever has been merged before."""
    with replica.writing() as connection:
        merge.merge_rows(
            connection,
            frame,
            now_ms=replica.wall_ms(),
            drift_ms=replica.config.sync.max_clock_drift,
        )


def rewrite(
    replica: Replica, table: str, keys: Sequence[Column], written: Sequence[Sequence[str] | None]
) -> None:
    """Write rows anew as they stand here; see `audit.rewrite`."""
    with replica.writing() as connection:
        enrolled = schema.load_tables(connection)[table]
        audit.rewrite(connection, enrolled, keys, written, now_ms=replica.wall_ms())
    replica.fold()


def findings(replica: Replica) -> list[Finding]:
    """Return the places where this replica's tables and what is known of them differ.

    Of a file that is damaged nothing else can be said.
    """
    if damage := _damage(replica):
        return damage
    with replica.snapshot() as connection:
        return audit.findings(connection)


def mend(replica: Replica, found: Sequence[Finding]) -> None:
    """Mend what `findings` has found: indexes, and if the file is sound then, what was missed."""
    if any(one.problem == audit.DAMAGE for one in found):
        replica.reindex()
        if _damage(replica):
            return
    with replica.writing() as connection:
        audit.mend(connection, now_ms=replica.wall_ms())
    replica.fold()


def _damage(replica: Replica) -> list[Finding]:
    with replica.as_it_is() as connection:
        return audit.damage(connection)
