"""Forks: origins under which two files have written different changes.

A file that is set back together with its sidecar writes under seqs that it had given before. If it
sends such changes before a peer tells it, hosts that believe one history skip the other. So the
seqs of that origin count up to the last that both histories have, and not beyond: what hosts have
above it is exchanged by its stamps, and nobody claims it. Forks only ever add up; every bundle and
every pull names all that its sender knows of.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from syncd import disclaim
from syncd.database import Connection
from syncd.vector import Vector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fork:
    """An origin with two histories. node: its host's. seq: the last that both surely share."""

    node: str
    origin: str
    seq: int


def listed(connection: Connection) -> list[Fork]:
    """Return the forks that are known, for people."""
    return [
        Fork(node, origin.hex(), seq)
        for node, origin, seq in connection.rows(
            "SELECT node, id, forked FROM syncd_origin WHERE forked IS NOT NULL ORDER BY node, id"
        )
    ]


def known(connection: Connection) -> dict[bytes, int]:
    """Return the origins that have forked, each with the last seq that its histories share."""
    return dict(
        connection.rows("SELECT id, forked FROM syncd_origin WHERE forked IS NOT NULL ORDER BY id")
    )


def are_news(connection: Connection, told: Mapping[bytes, int]) -> bool:
    """Say whether a host would learn something by what it is told."""
    mine = known(connection)
    return any(origin not in mine or seq < mine[origin] for origin, seq in told.items())


def learn(connection: Connection, told: Mapping[bytes, int]) -> None:
    """Count the seqs of forked origins no further than their histories are one.

    What lies beyond may have been passed over for the other history, so all senders are read anew.
    """
    if not are_news(connection, told):
        return
    for origin, seq in told.items():
        connection.run(
            "INSERT INTO syncd_origin (id, node, forked) VALUES (?, '', ?) ON CONFLICT (id)"
            " DO UPDATE SET forked = min(coalesce(forked, excluded.forked), excluded.forked)",
            (origin, seq),
        )
    hold_back(connection)
    disclaim.read_again(connection)
    log.warning("two files have written under one origin: reading all peers anew")


def shared(connection: Connection, claim: Vector) -> Vector:
    """Return what a claim says of changes of which there is one history only."""
    forked = known(connection)
    return Vector({origin: min(seq, forked.get(origin, seq)) for origin, seq in claim.items()})


def hold_back(connection: Connection) -> None:
    """Take claims back that go beyond a fork.

    Not below the horizon: whoever lacks that gets everything from us, and claims no less. The
    present origin is the business of its renewal.
    """
    connection.run(
        "UPDATE syncd_origin SET seq = min(seq, max(forked, coalesce("
        "(SELECT h.seq FROM syncd_horizon AS h WHERE h.origin = ordinal), 0)))"
        " WHERE forked IS NOT NULL AND ordinal <> (SELECT origin FROM syncd_replica)"
    )
