"""Marks: what hosts have said of themselves, to be told it again.

A mark is a seq of an origin's own and what its clock read when it was about to send something: a
change of its own, or a part of its changelog that it had not sent before. Two histories of one
origin may send the same seqs and positions, but not at the same reading, which is a little ahead by
chance: a host that is told a mark which it has not said was set back, and its sidecar with it. With
a mark go some that were said before it. The last of them that both histories have said is from
before they parted, whatever their clocks read. A host remembers its own marks, the last one of
every sender to which it has told what it knew, and rumours: marks that came in any other way, and
that their origin has not been told yet.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence

from syncd import packing
from syncd.bundle import Mark
from syncd.clock import hlc_of_ms
from syncd.database import Connection, Database

MARKS_MAX = 300_000
"""How many of its own marks a host remembers, the newest: 6 MB, or three days of one a second."""
RUMOURS_MAX = 20
"""How many rumours of one origin a host remembers: half of them the oldest, half the newest."""
PASSED_ON_MAX = 3
"""How many marks of one origin go out with a bundle."""
CHANCE_BYTES = 2
"""How many bytes of chance a reading is ahead by, for two histories whose clocks read the same."""
EARLIER_STEP = 4
"""How many times further back than the last each of the marks may be that go with another one."""


def prepare(sidecar: Connection) -> None:
    """Make the tables, where there are none yet."""
    sidecar.run(
        "CREATE TABLE IF NOT EXISTS said (hlc INTEGER, seq INTEGER, PRIMARY KEY (hlc, seq))"
        " WITHOUT ROWID"
    )
    if sidecar.value("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'mark')"):
        # Of a version that knew no more than one for a seq.
        sidecar.run("INSERT OR IGNORE INTO said (hlc, seq) SELECT hlc, seq FROM mark")
        sidecar.run("DROP TABLE mark")
    sidecar.run(
        "CREATE TABLE IF NOT EXISTS heard"
        " (origin BLOB PRIMARY KEY, seq INTEGER, hlc INTEGER) WITHOUT ROWID"
    )
    sidecar.run(
        "CREATE TABLE IF NOT EXISTS rumour"
        " (origin BLOB, hlc INTEGER, seq INTEGER, told INTEGER DEFAULT 0,"
        " PRIMARY KEY (origin, hlc)) WITHOUT ROWID"
    )
    for table in ("heard", "rumour"):
        has_earlier = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name = 'earlier')"
        if not sidecar.value(has_earlier, (table,)):
            sidecar.run(f"ALTER TABLE {table} ADD COLUMN earlier BLOB NOT NULL DEFAULT {_NONE}")
    _forget_old(sidecar)


def note(sidecar: Connection, seq: int, hlc: int) -> None:
    """Remember what this host is about to say of itself. hlc: what its clock reads at least."""
    sidecar.run(
        "INSERT INTO said (seq, hlc) SELECT ?, max(?, coalesce(max(hlc) + 1, 0)) + ? FROM said",
        (seq, hlc, int.from_bytes(secrets.token_bytes(CHANCE_BYTES))),
    )


def forget(sidecar: Connection) -> None:
    """Forget what this host has said under an origin that it has no more."""
    sidecar.run("DELETE FROM said")


class Marks:
    """The marks in a sidecar that is prepared."""

    def __init__(self, sidecar: Database) -> None:
        self._sidecar = sidecar

    def last(self, seq: int) -> Mark | None:
        """Return the last mark by which this host has said that it is at a seq, if it has."""
        with self._sidecar.read() as sidecar:
            hlc = sidecar.value("SELECT max(hlc) FROM said WHERE seq = ?", (seq,))
            if hlc is None:
                return None
            return Mark(seq, hlc, [one for (one,) in sidecar.rows(_EARLIER, {"hlc": hlc})])

    def has_said(self, mark: Mark) -> bool:
        """Say whether this host may have said a mark."""
        with self._sidecar.read() as sidecar:
            # The first is as old as the origin, unless so much was said since that it is forgotten.
            return bool(
                sidecar.value(
                    "SELECT EXISTS (SELECT 1 FROM said WHERE hlc = ? AND seq = ?)"
                    " OR (SELECT min(hlc) > ? FROM said)",
                    (mark.hlc, mark.seq, mark.hlc),
                )
            )

    def shared_with(self, mark: Mark) -> int:
        """Return a seq up to which this history is that of another one's mark, too."""
        said = "SELECT max(seq) FROM said WHERE hlc IN (SELECT value FROM json_each(?))"
        with self._sidecar.read() as sidecar:
            return sidecar.value(said, (json.dumps(mark.earlier),)) or 0

    def hear(self, sender: bytes, mark: Mark | None, told: Sequence[Mark] | None = None) -> None:
        """Remember what a sender says of itself once it was told what was known.

        told: the rumours that it was told; those that it has had by `tell`, if None.
        """
        if mark is None:
            return
        before = self.last_of(sender)
        if before is not None and _tells(before, mark) and not self.rumours_of(sender):
            return
        with self._sidecar.write() as sidecar:
            sidecar.run(
                "INSERT INTO heard (origin, seq, hlc, earlier) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (origin) DO UPDATE SET seq = excluded.seq, hlc = excluded.hlc,"
                " earlier = excluded.earlier WHERE excluded.hlc > hlc"
                f" OR (excluded.hlc = hlc AND earlier = {_NONE})",
                _row(sender, mark),
            )
            # An answer that comes late may be from before the sender was set back: its mark stays.
            sidecar.run("DELETE FROM rumour WHERE (origin, hlc) IN (SELECT origin, hlc FROM heard)")
            sidecar.many(
                "DELETE FROM rumour WHERE origin = ? AND hlc = ?",
                [(sender, one.hlc) for one in told or []],
            )
            if told is None:
                sidecar.run("DELETE FROM rumour WHERE origin = ? AND told", (sender,))

    def forget_old(self) -> None:
        """Forget what was said so long ago that it counts as said without being remembered."""
        with self._sidecar.write() as sidecar:
            _forget_old(sidecar)

    def rumours_of(self, origin: bytes) -> list[Mark]:
        """Return the rumours of an origin, the oldest first."""
        return self._rumours().get(origin, [])

    def tell(self, origin: bytes) -> list[Mark]:
        """Return the rumours of an origin, which is about to have them; what it says next tells."""
        with self._sidecar.read() as sidecar:
            untold = "SELECT EXISTS (SELECT 1 FROM rumour WHERE origin = ? AND NOT told)"
            is_untold = sidecar.value(untold, (origin,))
        found = self.rumours_of(origin)
        if is_untold:
            with self._sidecar.write() as sidecar:
                sidecar.run("UPDATE rumour SET told = 1 WHERE origin = ?", (origin,))
        return found

    def hear_rumours(self, told: Mapping[bytes, Sequence[Mark]]) -> None:
        """Remember marks of which their origins may not know."""
        known = self.known(told)
        news = [
            _row(origin, mark)
            for origin, marks in told.items()
            for mark in marks
            if not any(_tells(one, mark) for one in known.get(origin, []))
        ]
        if news:
            with self._sidecar.write() as sidecar:
                sidecar.many(
                    "INSERT INTO rumour (origin, seq, hlc, earlier) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (origin, hlc) DO UPDATE SET earlier = excluded.earlier",
                    news,
                )
                sidecar.run(
                    "DELETE FROM rumour WHERE (origin, hlc) IN (SELECT origin, hlc FROM (SELECT"
                    " origin, hlc, row_number() OVER (PARTITION BY origin ORDER BY hlc) AS n,"
                    " row_number() OVER (PARTITION BY origin ORDER BY hlc DESC) AS m FROM rumour)"
                    " WHERE min(n, m) > ?)",
                    (RUMOURS_MAX // 2,),
                )

    def heard(self) -> dict[bytes, Mark]:
        """Return the last that each sender has said of itself."""
        with self._sidecar.read() as sidecar:
            found = sidecar.rows("SELECT origin, seq, hlc, earlier FROM heard")
        return {origin: _mark(*parts) for origin, *parts in found}

    def last_of(self, sender: bytes) -> Mark | None:
        """Return the last that a sender has said of itself, to tell it so."""
        return self.heard().get(sender)

    def known(self, origins: Collection[bytes]) -> dict[bytes, list[Mark]]:
        """Return all that origins have said, or may have."""
        heard, rumours = self.heard(), self._rumours()
        found = {
            origin: [*rumours.get(origin, []), *([heard[origin]] if origin in heard else [])]
            for origin in origins
        }
        return {origin: marks for origin, marks in found.items() if marks}

    def to_pass_on(self, origins: Collection[bytes]) -> dict[bytes, list[Mark]]:
        """Return of what origins have said, or may have, what others are to be told.

        Of the rumours that is the oldest and the newest: they go with everything that is sent.
        """
        return {
            origin: marks if len(marks) <= PASSED_ON_MAX else [marks[0], *marks[-2:]]
            for origin, marks in self.known(origins).items()
        }

    def _rumours(self) -> dict[bytes, list[Mark]]:
        """Return the rumours of each origin, the oldest first."""
        found: dict[bytes, list[Mark]] = {}
        with self._sidecar.read() as sidecar:
            for origin, *parts in sidecar.rows(
                "SELECT origin, seq, hlc, earlier FROM rumour ORDER BY hlc"
            ):
                found.setdefault(origin, []).append(_mark(*parts))
        return found


def _forget_old(sidecar: Connection) -> None:
    newest = "SELECT hlc FROM said ORDER BY hlc DESC LIMIT 1 OFFSET ?"
    sidecar.run(f"DELETE FROM said WHERE hlc <= ({newest})", (MARKS_MAX,))


def _tells(known: Mark, mark: Mark) -> bool:
    """Say whether a known mark tells all that another does."""
    return known.hlc == mark.hlc and (bool(known.earlier) or not mark.earlier)


def _row(origin: bytes, mark: Mark) -> tuple[bytes, int, int, bytes]:
    return origin, mark.seq, mark.hlc, packing.encode(mark.earlier)


def _mark(seq: int, hlc: int, earlier: bytes) -> Mark:
    return Mark(seq, hlc, packing.decode(earlier, list[int]))


_EARLIER = f"""
    WITH RECURSIVE syncd_back(reach) AS (
        VALUES ({hlc_of_ms(1)})
        UNION ALL SELECT reach * {EARLIER_STEP} FROM syncd_back WHERE reach < {1 << 56}
    ), syncd_earlier(hlc) AS (
        SELECT max(hlc) FROM said WHERE hlc < :hlc
        UNION
        SELECT (SELECT min(hlc) FROM said WHERE hlc >= :hlc - reach AND hlc < :hlc) FROM syncd_back
    )
    SELECT hlc FROM syncd_earlier WHERE hlc IS NOT NULL ORDER BY hlc DESC
"""
"""The last mark before a reading, and the oldest in a millisecond before it, in 4, and so on.

So one of them is no more than so many times as old as the last that two histories share."""
_NONE = "x'90'"
"""No earlier marks, as `bundle.encode` has it."""
