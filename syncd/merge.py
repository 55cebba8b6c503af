"""The merge: taking a frame of a peer's changes into this replica, in one transaction.

What a table shows afterwards is a function of the set of changes merged, whatever their order: each
register keeps the write with the greatest stamp (`changelog.resolved`), a row shows while its birth
is newer than its death, and values of rows that do not show wait in the shadow. Rows are written by
UPSERT on the sync key, never with REPLACE, so local columns keep their values and no other row is
displaced. All of it is set-based SQL; per section Python makes one `executemany`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from syncd import bundle, capture, changelog, conflicts, held
from syncd.bundle import Frame, Header, Section
from syncd.clock import hlc_of_ms
from syncd.database import Connection, quoted
from syncd.errors import BundleError, SchemaError
from syncd.schema import ALIVE_BIT, DEAD_BIT, Column, Table, load_tables
from syncd.vector import Vector


@dataclass(frozen=True)
class Counts:
    """What became of the changes of a bundle.

    applied: changes that now own a register. older: changes that own none, here already or beaten
    by a newer write. conflicting: values that lost to a write that did not know of them. held:
    registers that cannot show yet.
    """

    applied: int = 0
    older: int = 0
    conflicting: int = 0
    held: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.applied + other.applied,
            self.older + other.older,
            self.conflicting + other.conflicting,
            self.held + other.held,
        )


def merge_frame(
    connection: Connection, header: Header, frame: Frame, *, now_ms: int, drift_ms: int
) -> Counts:
    """Merge a frame and, if it carries one, its claim. The journal must be folded.

    now_ms: this host's wall clock. drift_ms: how far ahead of it a stamp may be.
    """
    sender = _ordinal(connection, header.origin, header.node)
    ordinals = [
        _ordinal(connection, origin, node)
        for origin, node in zip(frame.origins, frame.nodes, strict=True)
    ]
    sections = [
        msgspec.structs.replace(section, origins=[ordinals[number] for number in section.origins])
        for section in frame.sections
    ]
    counts = merge_sections(
        connection, sections, Vector(header.vector), now_ms=now_ms, drift_ms=drift_ms
    )
    connection.run(
        "INSERT INTO syncd_cursor VALUES (?, ?) ON CONFLICT (sender)"
        " DO UPDATE SET position = max(position, excluded.position)",
        (sender, frame.position),
    )
    if frame.claim is not None:
        _claim(connection, sender, Vector(frame.claim))
    return counts


def merge_sections(
    connection: Connection,
    sections: Sequence[Section],
    known_to_sender: Vector,
    *,
    now_ms: int,
    drift_ms: int,
) -> Counts:
    """Merge sections whose origins are ordinals."""
    tables = load_tables(connection)
    scope = _Scope(
        connection,
        merged=_by_ordinal(connection, changelog.vector(connection)),
        known_to_sender=_by_ordinal(connection, known_to_sender),
        hlc_max=hlc_of_ms(now_ms + drift_ms),
        now_ms=now_ms,
    )
    counts = Counts()
    touched = [tables[name] for name in {s.table for s in sections} & tables.keys()]
    with capture.suspended(connection, touched):
        for section in sections:
            counts += scope.merge(tables.get(section.table), section)
    changelog.advance_clock(connection, scope.hlc_seen)
    return counts


def _ordinal(connection: Connection, origin: bytes, node: str) -> int:
    connection.run(
        "INSERT INTO syncd_origin (id, node) VALUES (?, ?) ON CONFLICT (id)"
        " DO UPDATE SET node = excluded.node WHERE node <> excluded.node"
        " AND ordinal <> (SELECT origin FROM syncd_replica)",
        (origin, node),
    )
    ordinal: int = connection.value("SELECT ordinal FROM syncd_origin WHERE id = ?", (origin,))
    return ordinal


def _by_ordinal(connection: Connection, vector: Vector) -> dict[int, int]:
    return {
        ordinal: vector[origin]
        for ordinal, origin in connection.rows("SELECT ordinal, id FROM syncd_origin")
        if origin in vector
    }


def _claim(connection: Connection, sender: int, claim: Vector) -> None:
    """Record that everything below a vector is merged, and that the sender has it."""
    for origin in claim:
        _ordinal_known(connection, origin)
    told = [(sender, ordinal, seq) for ordinal, seq in _by_ordinal(connection, claim).items()]
    connection.many(
        "INSERT INTO syncd_told VALUES (?, ?, ?) ON CONFLICT (sender, origin)"
        " DO UPDATE SET seq = excluded.seq WHERE seq <> excluded.seq",
        told,
    )
    connection.many(
        "UPDATE syncd_origin SET seq = ?1 WHERE ordinal = ?2 AND seq < ?1"
        " AND ordinal <> (SELECT origin FROM syncd_replica)",
        [(seq, ordinal) for _, ordinal, seq in told],
    )


def _ordinal_known(connection: Connection, origin: bytes) -> None:
    # An origin all of whose changes were superseded is only ever heard of in a claim.
    connection.run("INSERT OR IGNORE INTO syncd_origin (id, node) VALUES (?, '')", (origin,))


class _Scope:
    """What all sections of one merge share. Vectors are by ordinal."""

    def __init__(
        self,
        connection: Connection,
        *,
        merged: dict[int, int],
        known_to_sender: dict[int, int],
        hlc_max: int,
        now_ms: int,
    ) -> None:
        self._connection = connection
        self._merged = merged
        self._known_to_sender = known_to_sender
        self._hlc_max = hlc_max
        self._now_ms = now_ms
        self.hlc_seen = 0

    def merge(self, table: Table | None, section: Section) -> Counts:
        """Merge one section, or hold what of it cannot show."""
        if not len(section) or self._is_known(section):
            return Counts(older=len(section))
        if table is None:
            return Counts(held=held.hold(self._connection, section, held.UNKNOWN_TABLE))
        if section.key != [column.name for column in table.key]:
            raise SchemaError(
                [
                    f"tables.{table.name}.key: a peer identifies its rows by"
                    f" ({', '.join(section.key)}), this host by"
                    f" ({', '.join(column.name for column in table.key)})"
                ]
            )
        section, future = _split_future(section, self._hlc_max)
        section, unknown = _split_columns(section, {column.name for column in table.columns})
        counts = Counts()
        for part, reason in ((future, held.FUTURE), (unknown, held.UNKNOWN_COLUMN)):
            if part is not None:
                counts += Counts(held=held.hold(self._connection, part, reason))
        if section.columns or section.existence != bundle.NO_EXISTENCE:
            counts += self._merge_into(table, section)
        return counts

    def _is_known(self, section: Section) -> bool:
        least = min(self._merged.get(origin, 0) for origin in set(section.origins))
        return max(bundle.undeltas(section.seqs)) <= least

    def _merge_into(self, table: Table, section: Section) -> Counts:
        if not len(section):
            return Counts()
        columns = [c for name in section.columns for c in table.columns if c.name == name]
        self.hlc_seen = max(self.hlc_seen, *bundle.undeltas(section.hlcs))
        connection = self._connection
        with changelog.staging(connection, table, columns):
            _stage(connection, table, columns, section)
            connection.run(
                f"DELETE FROM temp.syncd_staged WHERE seq <= {_cases('origin', self._merged)}"
            )
            _refuse_repeats(connection, table)
            with changelog.resolved(connection, table) as contested:
                logged = 0
                if contested:
                    logged = conflicts.log(
                        connection,
                        table,
                        columns,
                        known=_cases("x.origin", self._known_to_sender),
                        now_ms=self._now_ms,
                    )
                _show(connection, table, columns, section.existence, contested)
                applied = connection.value("SELECT count(*) FROM temp.syncd_staged WHERE mask <> 0")
        return Counts(applied=applied, older=len(section) - applied, conflicting=logged)


def _cases(column: str, by_ordinal: dict[int, int]) -> str:
    cases = " ".join(f"WHEN {ordinal} THEN {seq}" for ordinal, seq in by_ordinal.items())
    return f"CASE {column} {cases} ELSE 0 END" if cases else "0"


def _split_future(section: Section, hlc_max: int) -> tuple[Section, Section | None]:
    hlcs = bundle.undeltas(section.hlcs)
    if not hlcs or max(hlcs) <= hlc_max:
        return section, None
    ahead = [hlc > hlc_max for hlc in hlcs]
    return bundle.select(section, [not a for a in ahead]), bundle.select(section, ahead)


def _split_columns(section: Section, known: set[str]) -> tuple[Section, Section | None]:
    if known.issuperset(section.columns):
        return section, None
    pairs = list(zip(section.columns, section.values, strict=True))

    def keep(wanted: bool, existence: int) -> Section:
        kept = [(name, column) for name, column in pairs if (name in known) is wanted]
        return msgspec.structs.replace(
            section,
            existence=existence,
            columns=[name for name, _ in kept],
            values=[column for _, column in kept],
        )

    return keep(True, section.existence), keep(False, bundle.NO_EXISTENCE)


def _stage(connection: Connection, table: Table, columns: list[Column], section: Section) -> None:
    existence = {bundle.NO_EXISTENCE: 0, bundle.ALIVE: ALIVE_BIT, bundle.DEAD: DEAD_BIT}
    mask = existence[section.existence] | sum(column.bit for column in columns)
    cells = [*table.key_cells, "origin", "seq", "hlc", *(column.cell for column in columns)]
    connection.many(
        f"INSERT INTO temp.syncd_staged ({', '.join(cells)}, mask)"
        f" VALUES ({', '.join('?' * len(cells))}, {mask})",
        zip(
            *(column.values for column in section.keys),
            section.origins,
            bundle.undeltas(section.seqs),
            bundle.undeltas(section.hlcs),
            *(column.values for column in section.values),
            strict=True,
        ),
    )
    packed = itertools.chain(
        zip(table.key_cells, section.keys, strict=True),
        zip((column.cell for column in columns), section.values, strict=True),
    )
    for cell, column in packed:
        connection.many(
            f"UPDATE temp.syncd_staged SET {cell} = CAST({cell} AS TEXT) WHERE id = ?",
            [(row + 1,) for row in column.raw_text],
        )


def _refuse_repeats(connection: Connection, table: Table) -> None:
    # Two keys that differ on the wire may still be one here, after the column's affinity.
    cells = ", ".join(table.key_cells)
    if connection.value(
        f"SELECT 1 FROM temp.syncd_staged GROUP BY {cells} HAVING count(*) > 1 LIMIT 1"
    ):
        raise BundleError(f"table {table.name!r}: one row occurs twice among changes of one kind")


def _show(
    connection: Connection, table: Table, columns: list[Column], existence: int, contested: int
) -> None:
    """Bring the user's table in line with the entries that were just resolved."""
    if existence == bundle.DEAD:
        if contested:
            _bury(connection, table)
        return
    if existence == bundle.ALIVE:
        _insert_new(connection, table, columns)
    if contested or existence == bundle.NO_EXISTENCE:
        _update(connection, table, columns)
        if existence == bundle.ALIVE:
            _reveal(connection, table, columns)
        _hide(connection, table, columns)


def _insert_new(connection: Connection, table: Table, columns: list[Column]) -> None:
    """Insert rows that no entry was known of."""
    names = [*_key_names(table), *(quoted(column.name) for column in columns)]
    cells = [*table.key_cells, *(column.cell for column in columns)]
    sets = ", ".join(f"{quoted(c.name)} = excluded.{quoted(c.name)}" for c in columns)
    # If the row stands there after all, someone wrote it uncaptured; the merged change has a stamp
    # and that row has none.
    connection.run(
        f"INSERT INTO {table.sql} ({', '.join(names)})"
        f" SELECT {', '.join(cells)} FROM temp.syncd_staged WHERE NOT met AND mask <> 0"
        f" ORDER BY {', '.join(table.key_cells)}"
        f" ON CONFLICT ({', '.join(_key_names(table))})"
        f" DO {'UPDATE SET ' + sets if sets else 'NOTHING'}"
    )


def _update(connection: Connection, table: Table, columns: list[Column]) -> None:
    """Write the registers won in rows that show."""
    if not columns:
        return
    sets = ", ".join(
        f"{quoted(c.name)} = CASE WHEN s.mask & {c.bit} THEN s.{c.cell} ELSE t.{quoted(c.name)} END"
        for c in columns
    )
    connection.run(
        f"UPDATE {table.sql} AS t SET {sets} FROM temp.syncd_staged AS s"
        f" WHERE {table.on_user('t', 's')} AND s.met AND s.mask & {_mask(columns)}"
    )


def _reveal(connection: Connection, table: Table, columns: list[Column]) -> None:
    """Insert rows that are born again, with the newer values that came while they were dead."""
    staged = {column.number for column in columns}
    names = [*_key_names(table), *(quoted(column.name) for column in table.columns)]
    values = [
        *(f"s.{cell}" for cell in table.key_cells),
        *(
            "CASE"
            + (f" WHEN s.mask & {c.bit} THEN s.{c.cell}" if c.number in staged else "")
            + f" WHEN {_owned(table, 's')} & {c.bit} THEN h.{c.cell} ELSE {c.preset} END"
            for c in table.columns
        ),
    ]
    cells = ", ".join(table.key_cells)
    revealed = f"met AND mask & {ALIVE_BIT}"
    connection.run(
        f"INSERT INTO {table.sql} ({', '.join(names)}) SELECT {', '.join(values)}"
        f" FROM temp.syncd_staged AS s LEFT JOIN {table.shadow} AS h ON {table.on('h', 's')}"
        f" WHERE {revealed} ON CONFLICT ({', '.join(_key_names(table))}) DO NOTHING"
    )
    connection.run(
        f"DELETE FROM {table.shadow} WHERE ({cells}) IN"
        f" (SELECT {cells} FROM temp.syncd_staged WHERE {revealed})"
    )


def _hide(connection: Connection, table: Table, columns: list[Column]) -> None:
    """Keep the registers won in rows that do not show."""
    if not columns:
        return
    cells = ", ".join(table.key_cells)
    hidden = (
        f"s.mask & {_mask(columns)} AND NOT EXISTS"
        f" (SELECT 1 FROM {table.sql} AS t WHERE {table.on_user('t', 's')})"
    )
    connection.run(
        f"INSERT OR IGNORE INTO {table.shadow} ({cells})"
        f" SELECT {cells} FROM temp.syncd_staged AS s WHERE {hidden}"
    )
    sets = ", ".join(
        f"{c.cell} = CASE WHEN s.mask & {c.bit} THEN s.{c.cell} ELSE h.{c.cell} END"
        for c in columns
    )
    connection.run(
        f"UPDATE {table.shadow} AS h SET {sets} FROM temp.syncd_staged AS s"
        f" WHERE {table.on('h', 's')} AND {hidden}"
    )


def _bury(connection: Connection, table: Table) -> None:
    """Take away rows that died, keeping what was written to them after their death."""
    cells = ", ".join(table.key_cells)
    dead = (
        f"SELECT {cells} FROM temp.syncd_staged AS s WHERE mask & {DEAD_BIT} AND met"
        f" AND NOT {_owned(table, 's')} & {ALIVE_BIT}"
    )
    key = ", ".join(_key_names(table))
    if table.columns:
        own = ", ".join(column.cell for column in table.columns)
        values = ", ".join(f"t.{quoted(column.name)}" for column in table.columns)
        connection.run(
            f"INSERT INTO {table.shadow} ({cells}, {own})"
            f" SELECT {table.user_key('t')}, {values}"
            f" FROM ({dead}) AS s CROSS JOIN {table.sql} AS t ON {table.on_user('t', 's')}"
            f" WHERE {_owned(table, 's')} & {table.columns_mask}"
        )
    connection.run(f"DELETE FROM {table.sql} WHERE ({key}) IN ({dead})")
    connection.run(
        f"DELETE FROM {table.shadow} AS h WHERE ({cells}) IN ({dead})"
        f" AND NOT {_owned(table, 'h')} & {table.columns_mask}"
    )
    _reset(connection, table)


def _reset(connection: Connection, table: Table) -> None:
    """Return columns to their default where a death took their value but a later birth stands.

    It can only happen to a column that the host of that birth did not know.
    """
    for column in table.columns:
        connection.run(
            f"UPDATE {table.sql} AS t SET {quoted(column.name)} = {column.preset}"
            f" FROM temp.syncd_staged AS s WHERE {table.on_user('t', 's')}"
            f" AND s.mask & {DEAD_BIT} AND NOT {_owned(table, 's')} & {column.bit}"
        )


def _owned(table: Table, alias: str) -> str:
    """Return the mask of registers that a row's entries own."""
    return (
        f"(SELECT coalesce(sum(o.mask), 0) FROM {table.changes} AS o WHERE {table.on('o', alias)})"
    )


def _mask(columns: Sequence[Column]) -> int:
    return sum(column.bit for column in columns)


def _key_names(table: Table) -> list[str]:
    return [quoted(column.name) for column in table.key]
