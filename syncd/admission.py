"""Admission: what is to be made of a frame before any of it is merged. Nothing here writes."""

from __future__ import annotations

from syncd import changelog, peers, snapshot, withdrawal
from syncd.bundle import Frame, Header
from syncd.database import Connection
from syncd.errors import BundleGap


def refuse_gap(connection: Connection, header: Header, frame: Frame) -> None:
    """Raise `BundleGap` if a frame goes on from changes that this replica does not have."""
    mine = changelog.vector(connection)
    if snapshot.is_needed(mine, frame):
        if not snapshot.continues(connection, mine, header.origin, frame):
            raise BundleGap(f"the snapshot of {header.node} continues from what is not here")
        return
    position, _ = peers.cursor(connection, header.origin)
    if mine.covers(header.since) and frame.after <= position:
        return
    missing = ", ".join(
        f"{_named(connection, origin)} from {mine[origin] + 1} to {seq}"
        for origin, seq in header.since.items()
        if mine[origin] < seq
    )
    raise BundleGap(
        f"the bundle of {header.node} continues from changes that are not here"
        + (f": {missing}" if missing else "")
    )


def says_nothing_new(connection: Connection, header: Header, frame: Frame) -> bool:
    """Recognise the answer of a peer that has no news, to leave the file alone."""
    position, is_end = peers.cursor(connection, header.origin)
    if frame.sections or position < frame.position or not is_end:
        return False
    claim = frame.claim or {}
    told = peers.told(connection, header.origin)
    if not set(header.withdrawn) <= set(withdrawal.known(connection)):
        return False
    return changelog.vector(connection).covers(claim) and told.covers(header.vector)


def _named(connection: Connection, origin: bytes) -> str:
    return peers.node_of(connection, origin) or f"unknown host {origin.hex()[:8]}"
