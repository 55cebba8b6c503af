"""The state of a replica at one moment, read without changing it."""

from __future__ import annotations

from dataclasses import dataclass

from syncd import capture, changelog, compaction, forks, held, peers, restamp, schema, shadow
from syncd.clock import hlc_of_ms, ms_of_hlc
from syncd.config import Config
from syncd.database import Connection
from syncd.forks import Fork
from syncd.held import Ahead
from syncd.peers import PeerState
from syncd.vector import Vector


@dataclass(frozen=True)
class Status:
    """A replica at one moment. tables: rows that show, by table. journal: writes not yet folded.

    adrift: tables that were migrated without `syncd init` since, with the columns that are gone;
    nothing is sent until it is run, and what comes for those with such columns is held.
    clock_ahead_ms: how far this replica's last stamp is ahead of its host's clock. ahead: hosts of
    which changes are held because they come from the future.
    renewed_ms and renewed_why: when and why this file last had to take a new origin. forks: origins
    under which two files have written. forgotten_ms: the time of the newest deletion that is
    forgotten here.
    """

    node: str
    origin: str
    tables: dict[str, int]
    adrift: dict[str, tuple[str, ...]]
    journal: int
    clock_ahead_ms: int
    ahead: tuple[Ahead, ...]
    held: int
    conflicts: int
    vector: Vector
    renewed_ms: int | None
    renewed_why: str | None
    forks: tuple[Fork, ...]
    forgotten_ms: int | None
    peers: tuple[PeerState, ...]


def read(connection: Connection, config: Config, now_ms: int) -> Status:
    """Return the state of the replica that a connection reads."""
    mine = changelog.vector(connection)
    forgotten = compaction.horizon(connection)
    tables = schema.load_tables(connection).values()
    hidden = sum(shadow.hidden(connection, table) for table in tables)
    hlc_max = hlc_of_ms(now_ms + config.sync.max_clock_drift)
    return Status(
        node=config.node,
        origin=changelog.origin(connection).hex(),
        tables={
            table.name: connection.value(f"SELECT count(*) FROM {table.sql}") for table in tables
        },
        adrift=dict.fromkeys(capture.unwatched(connection), ()) | schema.adrift(connection),
        journal=changelog.unfolded(connection),
        clock_ahead_ms=max(0, ms_of_hlc(restamp.clock(connection)) - now_ms),
        ahead=tuple(held.ahead(connection, now_ms, hlc_max)),
        held=connection.value("SELECT count(*) FROM syncd_held") + hidden,
        conflicts=connection.value("SELECT count(*) FROM syncd_conflict"),
        vector=mine,
        renewed_ms=connection.value("SELECT renewed_ms FROM syncd_replica"),
        renewed_why=connection.value("SELECT renewed_why FROM syncd_replica"),
        forks=tuple(forks.listed(connection)),
        forgotten_ms=ms_of_hlc(forgotten.hlc) if forgotten.seqs else None,
        peers=tuple(
            peers.state(connection, mine, forgotten.seqs, peer.name) for peer in config.peers
        ),
    )
