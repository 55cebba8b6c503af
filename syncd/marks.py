"""Marks: what hosts have said of themselves, to be told it again.

A mark is a seq of an origin's own and what its clock read when it first said that it is there. Two
histories of one origin have the same seqs, but did not reach them at the same reading: a host that
is told a mark which it has not said was set back, and its sidecar with it. A host remembers its own
marks, the last one of every sender, and the last that a third host has told of another.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncd.bundle import Mark
from syncd.database import Connection, Database

MARKS_MAX = 1_000
"""How many of its own marks a host remembers, the newest."""


def prepare(sidecar: Connection) -> None:
    """Make the tables, where there are none yet."""
    sidecar.run("CREATE TABLE IF NOT EXISTS mark (seq INTEGER PRIMARY KEY, hlc INTEGER)")
    for table in ("heard", "rumour"):
        sidecar.run(
            f"CREATE TABLE IF NOT EXISTS {table}"
            " (origin BLOB PRIMARY KEY, seq INTEGER, hlc INTEGER) WITHOUT ROWID"
        )


def note(sidecar: Connection, mark: Mark) -> None:
    """Remember what this host is about to say of itself, unless it has said it before."""
    sidecar.run("INSERT OR IGNORE INTO mark VALUES (?, ?)", (mark.seq, mark.hlc))
    sidecar.run(
        "DELETE FROM mark WHERE seq <= (SELECT seq FROM mark ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (MARKS_MAX,),
    )


def forget(sidecar: Connection) -> None:
    """Forget what this host has said under an origin that it has no more."""
    sidecar.run("DELETE FROM mark")


class Marks:
    """The marks in a sidecar that is prepared."""

    def __init__(self, sidecar: Database) -> None:
        self._sidecar = sidecar

    def reading(self, seq: int) -> int:
        """Return what the clock read when it was first said that this host is at a seq, or 0."""
        with self._sidecar.read() as sidecar:
            return sidecar.value("SELECT hlc FROM mark WHERE seq = ?", (seq,)) or 0

    def has_said(self, mark: Mark) -> bool:
        """Say whether this host may have said a mark."""
        with self._sidecar.read() as sidecar:
            hlc = sidecar.value("SELECT hlc FROM mark WHERE seq = ?", (mark.seq,))
            count, oldest = sidecar.row("SELECT count(*), min(seq) FROM mark") or (0, None)
        if hlc is not None:
            return bool(hlc == mark.hlc)
        # It may have been said so long ago that it is not remembered any more.
        return bool(count >= MARKS_MAX and mark.seq < oldest)

    def shared_with(self, mark: Mark) -> int:
        """Return the last seq that was said before another history of the origin said a mark."""
        with self._sidecar.read() as sidecar:
            query = "SELECT max(seq) FROM mark WHERE seq <= ? AND hlc <= ?"
            return sidecar.value(query, (mark.seq, mark.hlc)) or 0

    def hear(self, sender: bytes, mark: Mark | None) -> None:
        """Remember what a sender said of itself."""
        if mark is None or self.heard().get(sender) == mark:
            return
        with self._sidecar.write() as sidecar:
            sidecar.run(
                "INSERT INTO heard VALUES (?, ?, ?) ON CONFLICT (origin) DO UPDATE SET"
                " seq = excluded.seq, hlc = excluded.hlc WHERE excluded.seq > seq",
                (sender, mark.seq, mark.hlc),
            )

    def hear_rumours(self, told: Mapping[bytes, Mark]) -> None:
        """Remember what a host says that others have said, where that is not what was heard."""
        heard, rumours = self.heard(), self.rumours()
        news = [
            (origin, mark.seq, mark.hlc)
            for origin, mark in told.items()
            if mark not in (heard.get(origin), rumours.get(origin))
        ]
        if news:
            with self._sidecar.write() as sidecar:
                sidecar.many("INSERT OR REPLACE INTO rumour VALUES (?, ?, ?)", news)

    def heard(self) -> dict[bytes, Mark]:
        """Return the last that each sender was heard to say of itself."""
        return self._all("heard")

    def rumours(self) -> dict[bytes, Mark]:
        """Return the last that a third host has told of what each origin said."""
        return self._all("rumour")

    def _all(self, table: str) -> dict[bytes, Mark]:
        with self._sidecar.read() as sidecar:
            found = sidecar.rows(f"SELECT origin, seq, hlc FROM {table}")
        return {origin: Mark(seq, hlc) for origin, seq, hlc in found}
