"""What this host remembers of its peers: who they were, how rounds went, what they said they have.

One row of `syncd_peer` is one configured peer by name; `syncd_told` is the vector each sender last
named. Times are in milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncd.bundle import Header
from syncd.database import Connection
from syncd.vector import Vector


@dataclass(frozen=True)
class PeerState:
    """What this host remembers of a peer; times in milliseconds since 1970.

    behind: changes the peer said it has and we lack. offset_ms: how far its clock is ahead of ours.
    """

    name: str
    node: str | None
    attempt_ms: int | None
    success_ms: int | None
    error: str | None
    error_code: str | None
    error_ms: int | None
    offset_ms: int | None
    behind: int


def origin(connection: Connection, peer: str) -> bytes | None:
    """Return the identity a peer last had."""
    found: bytes | None = connection.value(
        "SELECT o.id FROM syncd_peer AS p JOIN syncd_origin AS o ON o.ordinal = p.origin"
        " WHERE p.name = ?",
        (peer,),
    )
    return found


def nodes(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return what peers call themselves."""
    marks = ", ".join("?" * len(names))
    return {
        node
        for (node,) in connection.rows(
            "SELECT o.node FROM syncd_peer AS p JOIN syncd_origin AS o ON o.ordinal = p.origin"
            f" WHERE p.name IN ({marks})",
            names,
        )
    }


def recognise(connection: Connection, peer: str, identity: bytes) -> None:
    """Remember a peer's identity."""
    connection.run(
        "INSERT INTO syncd_peer (name, origin) SELECT ?, ordinal FROM syncd_origin WHERE id = ?"
        " ON CONFLICT (name) DO UPDATE SET origin = excluded.origin",
        (peer, identity),
    )


def told(connection: Connection, sender: bytes | None) -> Vector:
    """Return what a sender last said it has."""
    return Vector(
        dict(
            connection.rows(
                "SELECT o.id, t.seq FROM syncd_origin AS s"
                " JOIN syncd_told AS t ON t.sender = s.ordinal"
                " JOIN syncd_origin AS o ON o.ordinal = t.origin WHERE s.id = ?",
                (sender,),
            )
        )
    )


def any_success(connection: Connection, names: Sequence[str]) -> bool:
    """Say whether some peer has ever brought us everything it had, in a round or by a push."""
    marks = ", ".join("?" * len(names))
    return bool(
        connection.value(
            f"SELECT EXISTS (SELECT 1 FROM syncd_peer WHERE name IN ({marks})"
            " AND success_ms IS NOT NULL) OR EXISTS (SELECT 1 FROM syncd_cursor WHERE complete)",
            names,
        )
    )


def record_success(
    connection: Connection,
    peer: str,
    header: Header,
    *,
    attempt_ms: int,
    success_ms: int,
    offset_ms: int,
) -> None:
    """Remember a round that brought everything the peer had. offset_ms: its clock less ours."""
    # A peer without a change of its own has not been heard of by any.
    connection.run(
        "INSERT OR IGNORE INTO syncd_origin (id, node) VALUES (?, ?)", (header.origin, header.node)
    )
    connection.run(
        "INSERT INTO syncd_peer (name, origin, attempt_ms, success_ms, offset_ms)"
        " SELECT ?, ordinal, ?, ?, ? FROM syncd_origin WHERE id = ?"
        " ON CONFLICT (name) DO UPDATE SET origin = excluded.origin,"
        " attempt_ms = excluded.attempt_ms, success_ms = excluded.success_ms,"
        " offset_ms = excluded.offset_ms, error = NULL, error_code = NULL",
        (peer, attempt_ms, success_ms, offset_ms, header.origin),
    )


def record_failure(
    connection: Connection, peer: str, *, attempt_ms: int, error: str, code: str, error_ms: int
) -> bool:
    """Remember a round that failed; say whether the one before did not, or for another reason."""
    before = connection.value("SELECT error_code FROM syncd_peer WHERE name = ?", (peer,))
    connection.run(
        "INSERT INTO syncd_peer (name, attempt_ms, error, error_code, error_ms)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " attempt_ms = excluded.attempt_ms, error = excluded.error,"
        " error_code = excluded.error_code, error_ms = excluded.error_ms",
        (peer, attempt_ms, error, code, error_ms),
    )
    return bool(before != code)


def state(connection: Connection, mine: Vector, name: str) -> PeerState:
    """Return what is remembered of a peer. mine: what this replica has merged."""
    found = connection.row(
        "SELECT o.id, o.node, p.attempt_ms, p.success_ms, p.error, p.error_code, p.error_ms,"
        " p.offset_ms"
        " FROM syncd_peer AS p LEFT JOIN syncd_origin AS o ON o.ordinal = p.origin"
        " WHERE p.name = ?",
        (name,),
    )
    identity, node, attempt_ms, success_ms, error, error_code, error_ms, offset_ms = (
        found or (None,) * 8
    )
    return PeerState(
        name=name,
        node=node,
        attempt_ms=attempt_ms,
        success_ms=success_ms,
        error=error,
        error_code=error_code,
        error_ms=error_ms,
        offset_ms=offset_ms,
        behind=mine.behind(told(connection, identity)),
    )
