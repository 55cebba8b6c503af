"""The future: bringing changes with a stamp that is too far ahead to the present.

They are merged under the stamps they have, which says who wins, then written anew under stamps of
now, and the originals are withdrawn (`withdrawal`). `release` does this on a host whose clock is
right with changes that it holds; `repair` on a host whose own clock ran ahead, with everything from
the future that it has, after which its clock goes on from the present.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from syncd import changelog, held, merge, peers, restamp, withdrawal
from syncd.bundle import Withdrawal
from syncd.clock import COUNTER_BITS, hlc_of_ms
from syncd.database import Connection
from syncd.errors import NotReleasable, NotRepairable
from syncd.schema import load_tables, remembered

_MS_MAX = (1 << (63 - COUNTER_BITS)) - 1


def release(connection: Connection, chosen: Sequence[Withdrawal], *, now_ms: int) -> int:
    """Merge held changes now; return how many. The journal must be folded."""
    changelog.advance_clock(connection, hlc_of_ms(now_ms))
    return _bring(connection, chosen, now_ms=now_ms, after_hlc=restamp.clock(connection))


def repair(connection: Connection, *, now_ms: int, drift_ms: int) -> int:
    """Bring this replica's clock, and all that it has from the future, to the present.

    Returns how many changes were written anew. The journal must be folded. The new stamps are
    greater than any that is not from the future: this host has said that it has changes which lost
    to the old stamps, and they must not win over the new ones where they are still known. The same
    goes for what an unfinished pull has not brought yet: raises `NotRepairable`.
    """
    limit = hlc_of_ms(now_ms + drift_ms)
    if restamp.clock(connection) <= limit:
        return 0
    if unfinished := peers.unfinished(connection):
        raise NotRepairable(
            f"not all has come yet of {', '.join(unfinished)};"
            " what is missing may be from the future, too",
            hint="Run: syncd sync. If no more will come of that host: syncd peers forget NAME",
        )
    mine = changelog.vector(connection)
    chosen = [Withdrawal(origin, 1, seq, limit) for origin, seq in mine.items()]
    return _bring(connection, chosen, now_ms=now_ms, after_hlc=limit)


def of_ids(connection: Connection, ids: Sequence[int], hlc_max: int) -> list[Withdrawal]:
    """Return the changes that `held.listed` gives these ids; raise `NotReleasable`.

    What is held of the same row and older is among them: left in the future it would win.
    """
    return [one for id_ in ids for one in _of_id(connection, id_, hlc_max)]


def of_host(connection: Connection, host: str | None, hlc_max: int) -> list[Withdrawal]:
    """Return the held changes from the future of a host, by its node's or peer's name, or of all.

    Of a pull that is not finished only what a vector covers is among them: the rest of it is not
    here yet and would be withdrawn unseen.
    """
    return [
        Withdrawal(origin, 1, seq, hlc_max)
        for origin, seq in connection.rows(
            "SELECT o.id, o.seq FROM syncd_origin AS o WHERE o.ordinal IN"
            " (SELECT origin FROM syncd_held WHERE hlc > :limit) AND (:host IS NULL"
            " OR o.node = :host OR o.ordinal = (SELECT origin FROM syncd_peer WHERE name = :host))",
            {"limit": hlc_max, "host": host},
        )
    ]


def _of_id(connection: Connection, id_: int, hlc_max: int) -> list[Withdrawal]:
    # As text, because SQLite refuses a number beyond 64 bits and compares a text that is one.
    found = connection.row("SELECT hlc, key_names FROM syncd_held WHERE position = ?", (str(id_),))
    if found is None:
        raise NotReleasable(f"there is no held change {id_}", hint="`syncd held` lists them.")
    hlc, key_names = found
    if hlc <= hlc_max:
        raise NotReleasable(
            f"held change {id_} is not from the future: it waits for its table or column",
            hint="Migrate this host and run: syncd init",
        )
    same_row = " AND ".join(f"h.k{n} = c.k{n}" for n in range(len(json.loads(key_names))))
    older = connection.rows(
        "SELECT DISTINCT o.id, h.seq FROM syncd_held AS c JOIN syncd_held AS h"
        f" ON h.tbl = c.tbl AND h.key_names = c.key_names AND {same_row}"
        " AND h.hlc > ? AND h.hlc <= c.hlc"
        " JOIN syncd_origin AS o ON o.ordinal = h.origin WHERE c.position = ?",
        (hlc_max, id_),
    )
    return [Withdrawal(origin, seq, seq, hlc_max) for origin, seq in older]


def _bring(
    connection: Connection, chosen: Sequence[Withdrawal], *, now_ms: int, after_hlc: int
) -> int:
    withdrawal.add(connection, chosen)
    among = withdrawal.WITHDRAWN
    sections = held.due(connection, load_tables(connection), hlc_of_ms(_MS_MAX), among)
    merge.merge_sections(connection, sections, None, now_ms=now_ms, drift_ms=_MS_MAX - now_ms)
    restamp.set_clock(connection, max(after_hlc, _newest_left(connection)))
    count = withdrawal.rewrite(connection) + restamp.held(connection, among)
    merge.settle_now(connection, now_ms)
    return count


def _newest_left(connection: Connection) -> int:
    """Return the greatest reading among entries that stay as they are."""
    parts = [
        f"SELECT max(e.hlc) AS hlc FROM {table.changes} AS e WHERE NOT {withdrawal.WITHDRAWN}"
        for table in remembered(connection).values()
    ]
    return connection.value(f"SELECT max(hlc) FROM ({' UNION ALL '.join(parts)})") or 0
