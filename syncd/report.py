"""Results as text, for a person at a terminal. Decides nothing and computes next to nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tabulate import tabulate

from syncd.audit import BIRTH, DAMAGE, DEATH, Finding
from syncd.conflicts import Conflict
from syncd.held import DISPLACED, Held
from syncd.inspection import json_value
from syncd.literals import RawText
from syncd.peers import Contact, PeerState
from syncd.status import Status
from syncd.verify import EQUAL, Verdict

_COUNTS = {
    "applied": "applied",
    "overwritten": "overwritten",
    "older": "ignored as older",
    "conflicting": "conflicting",
    "held": "held",
}


_SHOWN_MAX = 60
"""How many characters of a value stand in a table; with --json all of it does."""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out rows of equal keys, leaving out columns in which nothing stands."""
    used = [key for key in (rows[0] if rows else {}) if any(_stands(row[key]) for row in rows)]
    return tabulate(
        [[_cell(row[key]) for key in used] for row in rows], headers=used, disable_numparse=True
    )


def status_data(status: Status, now_ms: int) -> dict[str, Any]:
    """Return a status as JSON-able data, with each peer's lag."""
    data = dataclasses.asdict(status)
    data["vector"] = {origin.hex(): seq for origin, seq in status.vector.items()}
    for peer, found in zip(data["peers"], status.peers, strict=True):
        success = peer["success_ms"]
        peer["state"] = (
            "failing" if peer["error"] else _catching_up(found) or ("ok" if success else "new")
        )
        peer["lag_changes"] = peer.pop("behind")
        peer["lag_seconds"] = None if success is None else max(0, now_ms - success) // 1000
    return data


def status_text(data: dict[str, Any]) -> str:
    """Lay out what `status_data` returned."""
    tables = [{"table": name, "rows": rows} for name, rows in data["tables"].items()]
    peers = [
        {
            "peer": peer["name"],
            "state": peer["state"],
            "last success": _time(peer["success_ms"]),
            "lag changes": peer["lag_changes"],
            "lag s": peer["lag_seconds"],
            "clock offset ms": peer["offset_ms"],
            "last error": peer["error"],
        }
        for peer in data["peers"]
    ]
    ahead = [
        {
            "from the future": host["node"],
            "changes held": host["changes"],
            "ahead s": host["ahead_ms"] // 1000,
        }
        for host in data["ahead"]
    ]
    return "\n\n".join(
        part
        for part in (
            f"node {data['node']}, origin {data['origin']}\n"
            f"journal {data['journal']}, held {data['held']}, conflicts {data['conflicts']}"
            + _forgotten(data["forgotten_ms"]),
            _renewal(data["renewed_ms"], data["renewed_why"]),
            *(
                f"{fork['node'] or 'a host'}: two files have written under origin {fork['origin']},"
                f" beyond change {fork['seq']}"
                for fork in data["forks"]
            ),
            _own_clock(data["clock_ahead_ms"]),
            table(tables),
            *(f"{name}: migrated; run syncd init" for name in data["adrift"]),
            table(ahead),
            table(peers) or "no peers are configured",
        )
        if part
    )


def enrolled_text(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out what enrolling did, the warnings below the table."""
    warnings = [f"warning: {row['table']}: {text}" for row in rows for text in row["warnings"]]
    listed = [{k: v for k, v in row.items() if k != "warnings"} for row in rows]
    return "\n\n".join([table(listed), *warnings])


def summary_text(data: dict[str, Any]) -> str:
    """Lay out the summary of a bundle."""
    tables = [{"table": name, **kinds} for name, kinds in data["tables"].items()]
    return "\n\n".join(
        [
            f"bundle of {data['node']}, made {_time(data['created_ms'])},"
            f" {data['frames']} frames{'' if data['complete'] else ', more to follow'}\n"
            f"needs  {_vector(data['needs']) or 'nothing'}\n"
            f"brings {_vector(data['brings']) or 'nothing'}",
            table(tables) or "no changes",
        ]
    )


def counts_text(data: dict[str, Any]) -> str:
    """Lay out what became, or in a dry run would become, of a bundle's changes."""
    total = ", ".join(f"{data[name]} {text}" for name, text in _COUNTS.items())
    if not data["dry_run"]:
        return total
    tables = [_table_row(name, counts) for name, counts in data["tables"].items()]
    return "\n\n".join(part for part in (f"nothing is written; {total}", table(tables)) if part)


def outcomes_text(data: Sequence[dict[str, Any]], *, by_table: bool) -> str:
    """Lay out how rounds went. by_table: with the counts of each table."""
    rounds = [{k: v for k, v in one.items() if k != "tables"} for one in data]
    tables = [
        {"peer": one["peer"], **_table_row(name, counts)}
        for one in data
        for name, counts in one["tables"].items()
    ]
    parts = [table(rounds) or "no peers are configured", table(tables) if by_table else ""]
    return "\n\n".join(part for part in parts if part)


def _table_row(name: str, counts: dict[str, Any]) -> dict[str, Any]:
    return {"table": name, **{text: counts[key] for key, text in _COUNTS.items()}}


def verify_data(
    found: Sequence[Finding], left: Sequence[Finding], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Return what a verification found as JSON-able data. left: what a repair has not mended."""
    peers = []
    for verdict in verdicts:
        data = dataclasses.asdict(verdict)
        for difference in data["differences"]:
            del difference["values"]
        peers.append(data)
    return {
        "ok": not left and all(verdict.state == EQUAL for verdict in verdicts),
        "found": [dataclasses.asdict(one) for one in found],
        "left": [dataclasses.asdict(one) for one in left],
        "peers": peers,
    }


def verify_text(data: dict[str, Any]) -> str:
    """Lay out what `verify_data` returned."""
    mended = [one for one in data["found"] if one not in data["left"]]
    peers = [
        {
            "peer": peer["peer"],
            "state": peer["state"],
            "rows": peer["rows"],
            "rows that differ": len(peer["differences"]),
            "tables not there": peer["skipped"],
            "error": peer["error"],
            "hint": peer["hint"],
        }
        for peer in data["peers"]
    ]
    differences = [
        {"peer": peer["peer"], **difference, "key": _line(difference["key"])}
        for peer in data["peers"]
        for difference in peer["differences"]
    ]
    parts = [
        f"mended:\n{_findings(mended)}" if mended else "",
        _left(data["left"]),
        table(peers) or "no peers are configured",
        table(differences),
    ]
    return "\n\n".join(part for part in parts if part)


def _left(found: Sequence[dict[str, Any]]) -> str:
    """Lay out what is wrong with this host's file, or else with its tables."""
    if not found:
        return "the file is sound, and no write to this host's tables was missed"
    if any(one["problem"] == DAMAGE for one in found):
        return (
            f"the file is damaged:\n{_findings(found)}\n"
            "`syncd verify --repair` makes an index anew that can be read. Otherwise stop app and"
            " daemon, restore a backup or move the file away; what peers have comes back from them."
        )
    return f"written past the triggers:\n{_findings(found)}"


def _findings(found: Sequence[dict[str, Any]]) -> str:
    return table(
        [
            {**one, "name": _line(one["name"])} if one["problem"] in (BIRTH, DEATH) else one
            for one in found
        ]
    )


def contact_data(contact: Contact) -> dict[str, Any]:
    """Return a contact as JSON-able data, with its state in a word."""
    state = _catching_up(contact) or ("live" if contact.live else "silent")
    return {**dataclasses.asdict(contact), "state": state}


def contacts_text(found: Sequence[dict[str, Any]]) -> str:
    """Lay out contacts."""
    rows = [
        {
            "peer": one["name"],
            "origin": one["origin"][:8],
            "state": one["state"],
            "last heard": _time(one["heard_ms"]),
            "lacks changes": one["lacks"],
        }
        for one in found
    ]
    return table(rows) or "no peer has been heard of"


def _catching_up(peer: Contact | PeerState) -> str | None:
    """Say which way a snapshot goes or has to go, if one must."""
    if peer.in_snapshot:
        return "snapshot"
    return "behind" if peer.needs_snapshot else None


def conflict_data(conflict: Conflict) -> dict[str, Any]:
    """Return a conflict as JSON-able data."""
    return _with_values(conflict, "lost_value", "won_value")


def held_data(held: Held) -> dict[str, Any]:
    """Return what is held as JSON-able data."""
    return _with_values(held, "value", "winner_value")


def _with_values(one: Conflict | Held, *names: str) -> dict[str, Any]:
    data = dataclasses.asdict(one)
    for name in names:
        data[name] = json_value(data[name], isinstance(data[name], RawText))
    return data


def conflicts_text(found: Sequence[dict[str, Any]], waiting: Sequence[dict[str, Any]]) -> str:
    """Lay out conflicts, and what is held."""
    rows = [
        {
            "id": one["id"],
            "lost": _time(one["at_ms"]),
            "table": one["table"],
            "key": _line(one["key"]),
            "column": one["column"],
            "value that lost": _value(one["lost_value"]),
            "of": one["lost_node"],
            "to": "a deletion" if one["won_by_death"] else _value(one["won_value"]),
            "by": one["won_node"],
            "in row": _line(one["won_key"]) if one["reason"] == DISPLACED else None,
            "until": _end(one) if one["reason"] == DISPLACED else None,
        }
        for one in found
    ]
    held = f"held now, see `syncd held`:\n\n{_held_table(waiting)}" if waiting else ""
    return "\n\n".join(filter(None, [table(rows) or "no conflicts", held]))


def restored_text(data: dict[str, Any]) -> str:
    """Say what a restoration wrote back."""
    key, value = _line(data["key"]), _value(data["lost_value"])
    return f"{data['table']} ({key}): {data['column']} is {value} again"


def held_text(found: Sequence[dict[str, Any]]) -> str:
    """Lay out what is held."""
    return _held_table(found) or "nothing is held"


def _held_table(found: Sequence[dict[str, Any]]) -> str:
    return table(
        [
            {
                "id": one["id"],
                "table": one["table"],
                "key": _line(one["key"]),
                "column": one["column"],
                "reason": one["reason"],
                "node": one["node"],
                "time": _time(one["time_ms"]),
                "value": _held_value(one, one["value"]),
                "winner key": one["winner_key"] and _line(one["winner_key"]),
                "winner value": one["winner_key"] and _held_value(one, one["winner_value"]),
                "winner node": one["winner_node"],
                "winner time": one["winner_time_ms"] and _time(one["winner_time_ms"]),
            }
            for one in found
        ]
    )


def _held_value(one: dict[str, Any], value: Any) -> str | None:
    """Say a column's value as such; a row's birth or death is told in a word, or not at all."""
    return _value(value) if one["column"] else value


def _value(value: Any) -> str:
    return _line(repr(value))


def _line(text: str) -> str:
    """Return a text in one short line that tells a terminal nothing."""
    if len(text) > _SHOWN_MAX:
        text = text[: _SHOWN_MAX - 3] + "..."
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _end(conflict: dict[str, Any]) -> str:
    return "now" if conflict["ended_ms"] is None else _time(conflict["ended_ms"])


def _renewal(at_ms: int | None, why: str | None) -> str:
    return "" if at_ms is None else f"new origin since {_time(at_ms)}: {why}"


def _own_clock(ahead_ms: int) -> str:
    # Within a second it is no more than the counter, or a peer whose clock is a little ahead.
    if ahead_ms < 1000:
        return ""
    return (
        f"the stamps of this host are {ahead_ms // 1000} s ahead of its clock;"
        " if that stays, run: syncd clock repair"
    )


def _forgotten(at_ms: int | None) -> str:
    return "" if at_ms is None else f"\ndeletions forgotten up to {_time(at_ms)}"


def _vector(named: dict[str, int]) -> str:
    return ", ".join(f"{name}: {seq}" for name, seq in named.items())


def _stands(value: Any) -> bool:
    return value not in (None, (), [])


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else value


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return "never"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
