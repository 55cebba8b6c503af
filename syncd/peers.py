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

HEARD_EVERY_MS = 60_000
"""How often it is written down that a peer lives, if it says nothing new."""


@dataclass(frozen=True)
class PeerState:
    """What this host remembers of a peer; times in milliseconds since 1970.

    behind: changes the peer said it has and we lack. offset_ms: how far its clock is ahead of ours.
    in_snapshot: a snapshot of it is being read. needs_snapshot: it lacks what is forgotten here.
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
    in_snapshot: bool
    needs_snapshot: bool


@dataclass(frozen=True)
class Contact:
    """A host that has said what it has. lacks: how many changes of ours it said it lacks.

    heard_ms: when it last said so. live: it counts when it is decided what may be forgotten.
    in_snapshot and needs_snapshot: as in `PeerState`.
    """

    name: str
    origin: str
    heard_ms: int
    live: bool
    lacks: int
    in_snapshot: bool
    needs_snapshot: bool


def origin(connection: Connection, peer: str) -> bytes | None:
    """Return the identity a peer last had."""
    found: bytes | None = connection.value(
        "SELECT o.id FROM syncd_peer AS p JOIN syncd_origin AS o ON o.ordinal = p.origin"
        " WHERE p.name = ?",
        (peer,),
    )
    return found


def known_as(connection: Connection, name: str) -> bytes | None:
    """Return the identity of a peer or, where none is called so, of the host that calls itself so.

    Of several that do, as of a host before and after a restore, the one that was heard last.
    """
    heard: bytes | None = connection.value(
        "SELECT o.id FROM syncd_heard AS h JOIN syncd_origin AS o ON o.ordinal = h.sender"
        " WHERE o.node = ? ORDER BY h.at_ms DESC, o.ordinal DESC",
        (name,),
    )
    return origin(connection, name) or heard


def node_of(connection: Connection, identity: bytes) -> str:
    """Return the name of the host that an identity is of; empty if it was never told."""
    return connection.value("SELECT node FROM syncd_origin WHERE id = ?", (identity,)) or ""


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


def hear(connection: Connection, sender: bytes, node: str, vector: Vector, now_ms: int) -> None:
    """Remember what a host says it has, and that it has said something."""
    if not is_news(connection, sender, vector, now_ms):
        return
    connection.run(
        "INSERT INTO syncd_origin (id, node) VALUES (?, ?) ON CONFLICT (id)"
        " DO UPDATE SET node = excluded.node WHERE node <> excluded.node"
        " AND ordinal <> (SELECT origin FROM syncd_replica)",
        (sender, node),
    )
    ordinal = connection.value("SELECT ordinal FROM syncd_origin WHERE id = ?", (sender,))
    connection.run(
        "INSERT INTO syncd_heard VALUES (?, ?) ON CONFLICT (sender)"
        " DO UPDATE SET at_ms = excluded.at_ms",
        (ordinal, now_ms),
    )
    # Heard while this clock ran ahead, a silent peer would pin deaths for that much longer.
    connection.run("UPDATE syncd_heard SET at_ms = ?1 WHERE at_ms > ?1", (now_ms,))
    connection.run("DELETE FROM syncd_told WHERE sender = ?", (ordinal,))
    connection.many(
        "INSERT OR IGNORE INTO syncd_origin (id, node) VALUES (?, '')", [(id_,) for id_ in vector]
    )
    connection.many(
        "INSERT INTO syncd_told SELECT ?, ordinal, ? FROM syncd_origin WHERE id = ?",
        [(ordinal, seq, id_) for id_, seq in vector.items()],
    )


def is_news(connection: Connection, sender: bytes, vector: Vector, now_ms: int) -> bool:
    """Say whether what a host says it has is worth a write: not if it said so a moment ago."""
    at_ms = connection.value(
        "SELECT h.at_ms FROM syncd_heard AS h JOIN syncd_origin AS o ON o.ordinal = h.sender"
        " WHERE o.id = ?",
        (sender,),
    )
    is_recent = at_ms is not None and 0 <= now_ms - at_ms < HEARD_EVERY_MS
    return not is_recent or told(connection, sender) != vector


def cursor(connection: Connection, sender: bytes) -> tuple[int, bool]:
    """Return up to which position a sender's changelog is merged, and whether that was the end."""
    found = connection.row(
        "SELECT c.position, c.complete FROM syncd_cursor AS c"
        " JOIN syncd_origin AS o ON o.ordinal = c.sender WHERE o.id = ?",
        (sender,),
    )
    position, complete = found or (0, 1)
    return position, bool(complete)


def unfinished(connection: Connection) -> list[str]:
    """Return the names of hosts of which a pull or a snapshot has begun and not come to its end.

    What has been forgotten, and what was under way from a host that has another origin by now, will
    not come to an end any more.
    """
    return [
        node
        for (node,) in connection.rows(
            # Of a host that is no peer the last origin that was heard of is the present one.
            """
            WITH peer(ordinal, node) AS
                (SELECT o.ordinal, o.node FROM syncd_peer AS p
                 JOIN syncd_origin AS o ON o.ordinal = p.origin),
            present(ordinal) AS
                (SELECT ordinal FROM peer UNION
                 SELECT max(o.ordinal) FROM syncd_heard AS h
                 JOIN syncd_origin AS o ON o.ordinal = h.sender
                 WHERE o.node NOT IN (SELECT node FROM peer) GROUP BY o.node)
            SELECT DISTINCT o.node FROM present AS n JOIN syncd_origin AS o USING (ordinal)
            WHERE o.ordinal IN (SELECT sender FROM syncd_cursor WHERE NOT complete UNION
                                SELECT sender FROM syncd_snapshot)
                AND o.node <> (SELECT i.node FROM syncd_replica AS r
                               JOIN syncd_origin AS i ON i.ordinal = r.origin)
            ORDER BY o.node
            """
        )
    ]


def last_success_ms(connection: Connection, names: Sequence[str]) -> int | None:
    """Return when a round with one of the peers last ended well, None if never."""
    marks = ", ".join("?" * len(names))
    found: int | None = connection.value(
        f"SELECT max(success_ms) FROM syncd_peer WHERE name IN ({marks})", names
    )
    return found


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


def contacts(
    connection: Connection, mine: Vector, forgotten: Vector, *, live_since_ms: int
) -> list[Contact]:
    """Return every host that has said what it has, the one heard last first."""
    found = []
    for name, identity, at_ms in connection.rows(
        "SELECT o.node, o.id, h.at_ms FROM syncd_heard AS h"
        " JOIN syncd_origin AS o ON o.ordinal = h.sender"
        " WHERE h.sender <> (SELECT origin FROM syncd_replica) ORDER BY h.at_ms DESC, o.node"
    ):
        has = told(connection, identity)
        found.append(
            Contact(
                name=name,
                origin=identity.hex(),
                heard_ms=at_ms,
                live=at_ms >= live_since_ms,
                lacks=has.behind(mine),
                in_snapshot=_in_snapshot(connection, identity),
                needs_snapshot=not has.covers(forgotten),
            )
        )
    return found


def forget(connection: Connection, name: str) -> int:
    """Forget all that hosts of a name have said; return how many incarnations that were.

    name: what they call themselves or, where none does, what a configured peer is called here.
    """
    is_node = connection.value("SELECT EXISTS (SELECT 1 FROM syncd_origin WHERE node = ?)", (name,))
    node = name if is_node else node_of(connection, origin(connection, name) or b"")
    if not node:
        return 0
    identities = "SELECT ordinal FROM syncd_origin WHERE node = ?"
    for table in ("syncd_told", "syncd_snapshot", "syncd_came"):
        connection.run(f"DELETE FROM {table} WHERE sender IN ({identities})", (node,))
    connection.run(f"DELETE FROM syncd_peer WHERE origin IN ({identities})", (node,))
    return connection.run(f"DELETE FROM syncd_heard WHERE sender IN ({identities})", (node,))


def state(connection: Connection, mine: Vector, forgotten: Vector, name: str) -> PeerState:
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
        in_snapshot=_in_snapshot(connection, identity),
        needs_snapshot=identity is not None and not told(connection, identity).covers(forgotten),
    )


def _in_snapshot(connection: Connection, identity: bytes | None) -> bool:
    return bool(
        connection.value(
            "SELECT EXISTS (SELECT 1 FROM syncd_snapshot AS s JOIN syncd_origin AS o"
            " ON o.ordinal = s.sender WHERE o.id = ?)",
            (identity,),
        )
    )
