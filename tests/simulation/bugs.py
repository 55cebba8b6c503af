"""Bugs put into the engine on purpose: a simulator that does not find them proves nothing.

Each is a mistake that could be made here, or that another system of this kind has made. A bug is a
function that patches the engine for as long as what it returns is open; its docstring says what it
breaks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import msgspec

from syncd import (
    candidates,
    capture,
    changelog,
    compaction,
    conflicts,
    extraction,
    forks,
    held,
    merge,
    missed,
    schema,
    show,
    snapshot,
    times,
    usertriggers,
)
from syncd.bundle import Frame, Header
from syncd.clock import hlc_of_ms
from syncd.database import Connection
from syncd.identity import Identity
from syncd.literals import quoted
from syncd.marks import Marks
from syncd.table import ALIVE_BIT, DEAD_BIT, Table

Bug = Callable[[], AbstractContextManager[Any]]


@contextlib.contextmanager
def skip_a_fold() -> Iterator[None]:
    """Every fifth time a table is folded, its entries of the journal are not looked at."""
    fold_table, count = changelog._fold_table, 0

    def skipping(connection: Connection, *args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count % 5:
            fold_table(connection, *args, **options)

    with mock.patch.object(changelog, "_fold_table", skipping):
        yield


@contextlib.contextmanager
def drop_a_tombstone() -> Iterator[None]:
    """A death is forgotten once its row is born again."""
    merge_frame = merge.merge_frame

    def forgetting(connection: Connection, *args: Any, **options: Any) -> merge.Counts:
        counts = merge_frame(connection, *args, **options)
        for table in schema.load_tables(connection).values():
            connection.run(
                f"DELETE FROM {table.changes} AS d WHERE d.mask & {DEAD_BIT} AND EXISTS"
                f" (SELECT 1 FROM {table.changes} AS e WHERE {table.on('e', 'd')}"
                f" AND e.mask & {ALIVE_BIT})"
            )
        return counts

    with mock.patch.object(merge, "merge_frame", forgetting):
        yield


def compare_with_greater_or_equal() -> AbstractContextManager[Any]:
    """Of two writes with equal readings each host keeps the one it has."""
    return mock.patch.object(changelog, "STANDS", "e.hlc >= s.hlc")


@contextlib.contextmanager
def claim_beyond_a_cut_frame() -> Iterator[None]:
    """A frame that ends early claims all that its sender has."""
    frame_after = extraction.frame_after

    def claiming(connection: Connection, *args: Any, **options: Any) -> Frame:
        frame = frame_after(connection, *args, **options)
        return msgspec.structs.replace(frame, claim=dict(changelog.vector(connection)))

    with mock.patch.object(extraction, "frame_after", claiming):
        yield


def keep_the_identity_after_a_restore() -> AbstractContextManager[Any]:
    """A restored or copied file goes on under the origin that it came with."""
    return mock.patch.object(Identity, "doubt", return_value=None)


def capture_what_is_merged() -> AbstractContextManager[Any]:
    """The triggers see the merge's own writes, and give them stamps of this host."""
    return mock.patch.object(capture, "suspended", return_value=contextlib.nullcontext())


def leave_the_clock_behind() -> AbstractContextManager[Any]:
    """A merge does not move the clock, so a later write may get a smaller stamp."""
    return mock.patch.object(changelog, "advance_clock", return_value=None)


def lose_in_silence() -> AbstractContextManager[Any]:
    """The conflict log stays empty."""
    return mock.patch.object(conflicts, "log", return_value=0)


def lose_what_is_hidden() -> AbstractContextManager[Any]:
    """What a birth overwrites of a row that does not show is not logged."""
    return mock.patch.object(conflicts, "log_hidden", return_value=None)


def leave_orphans() -> AbstractContextManager[Any]:
    """A child goes on showing when its parent does not any more."""
    return mock.patch.object(candidates.Candidates, "hide_orphans", return_value=0)


def forget_what_is_held() -> AbstractContextManager[Any]:
    """A change that cannot show yet is not kept."""
    return mock.patch.object(held, "hold", return_value=0)


@contextlib.contextmanager
def acknowledge_before_it_is_durable() -> Iterator[None]:
    """Cursor and claim are committed before the rows that they stand for."""
    merge_frame, merge_sections = merge.merge_frame, merge.merge_sections

    def hasty(
        connection: Connection, header: Header, frame: Frame, *staged: Any, **options: Any
    ) -> merge.Counts:
        late: list[Callable[[], merge.Counts]] = []

        def postponed(
            c: Connection, sections: Any, _: Any, *staged: Any, **others: Any
        ) -> merge.Counts:
            # None: as if they had been held, for the vector covers them by then.
            late.append(lambda: merge_sections(c, sections, None, *staged, **others))
            return merge.Counts()

        with mock.patch.object(merge, "merge_sections", postponed):
            merge_frame(connection, header, frame, *staged, **options)
        connection.run("COMMIT")
        connection.run("BEGIN IMMEDIATE")
        counts = merge.Counts()
        for work in late:
            counts += work()
        return counts

    with mock.patch.object(merge, "merge_frame", hasty):
        yield


def catch_up_without_deleting() -> AbstractContextManager[Any]:
    """A host that was away for longer than the retention keeps what was deleted meanwhile."""
    return mock.patch.object(snapshot, "_take_away", return_value=0)


def forget_births_too() -> AbstractContextManager[Any]:
    """Past the retention everything that all peers have is forgotten."""
    return mock.patch.object(compaction, "_needless", lambda _, old: old)


@contextlib.contextmanager
def swallow_equal_values() -> Iterator[None]:
    """A change that repeats the value that shows is taken for known, stamp and all."""
    pairs = changelog.resolved

    @contextlib.contextmanager
    def swallowing(connection: Connection, table: Table) -> Iterator[int]:
        staged = {
            name
            for (name,) in connection.rows("SELECT name FROM pragma_table_info('syncd_staged')")
        }
        columns = [column for column in table.columns if column.cell in staged]
        if columns:
            same = " AND ".join(f't."{column.name}" IS s.{column.cell}' for column in columns)
            connection.run(
                "DELETE FROM temp.syncd_staged AS s WHERE EXISTS (SELECT 1 FROM"
                f" {table.sql} AS t WHERE {table.on_user('t', 's')} AND {same})"
            )
        with pairs(connection, table) as contested:
            yield contested

    with mock.patch.object(changelog, "resolved", swallowing):
        yield


@contextlib.contextmanager
def write_over_local_columns() -> Iterator[None]:
    """A merge puts defaults into the columns of a row that are its host's own."""
    take_staged = show.Showing.take_staged

    def taking(self: show.Showing, *args: Any) -> None:
        take_staged(self, *args)
        table = self._table
        cells = ", ".join(table.key_cells)
        for column in table.excluded:
            self._connection.run(
                f"UPDATE {table.sql} SET {quoted(column.name)} = {column.preset}"
                f" WHERE {table.among(f'SELECT {cells} FROM temp.syncd_staged')}"
            )

    with mock.patch.object(show.Showing, "take_staged", taking):
        yield


def disbelieve_what_rows_say() -> AbstractContextManager[Any]:
    """Rows that were there before get the lowest stamp, whenever they say they were written."""
    return mock.patch.object(times, "reading", return_value="0")


@contextlib.contextmanager
def forget_what_a_peer_lacks() -> Iterator[None]:
    """Deaths are forgotten for their age alone, though a peer that asks has not had them."""

    def old(_: Connection, now_ms: int, retention_ms: int) -> str:
        return f"e.hlc < {hlc_of_ms(max(now_ms - retention_ms, 0))}"

    with mock.patch.object(compaction, "_old", old):
        yield


@contextlib.contextmanager
def mend_only_births() -> Iterator[None]:
    """Of what was written past the triggers nobody looks for the rows that are gone."""
    deaths = missed.deaths

    def none(table: Table, wanted: str) -> str:
        return f"{deaths(table, wanted)} AND false"

    with mock.patch.object(missed, "deaths", none):
        yield


@contextlib.contextmanager
def lose_what_came_after_a_death() -> Iterator[None]:
    """Only what is older than the death of its row counts as lost to it."""
    log = conflicts.log

    def logging(connection: Connection, *args: Any, **options: Any) -> int:
        count = log(connection, *args, **options)
        return count - connection.run(
            "DELETE FROM syncd_conflict WHERE won_dead AND lost_hlc > won_hlc"
        )

    with mock.patch.object(conflicts, "log", logging):
        yield


def lose_what_a_snapshot_buries() -> AbstractContextManager[Any]:
    """Who was away does not log what it wrote to rows that were deleted meanwhile."""
    return mock.patch.object(conflicts, "log_left")


def bury_in_silence() -> AbstractContextManager[Any]:
    """What arrives for a row whose death is forgotten is not logged."""
    return mock.patch.object(compaction, "is_buried", return_value="false")


def take_another_index_for_the_key() -> AbstractContextManager[Any]:
    """An UPSERT takes an index in which two keys are equal for the key's own."""
    key_alone = property(lambda table: ", ".join(table.identity))
    return mock.patch.object(Table, "conflict_target", key_alone)


@contextlib.contextmanager
def name_a_copys_rows_anew() -> Iterator[None]:
    """A copy names the rows that wait in its journal as if it had written them itself."""
    fold = changelog.fold

    def folding(connection: Connection, *args: Any, **options: Any) -> int:
        return fold(connection, *args, **{**options, "minted_under": None})

    with mock.patch.object(changelog, "fold", folding):
        yield


def silence_the_users_triggers() -> AbstractContextManager[Any]:
    """A merge sets off no trigger but its own."""
    return mock.patch.object(usertriggers, "_rest", return_value=None)


def count_beyond_a_fork() -> AbstractContextManager[Any]:
    """Of an origin with two histories, hosts believe to have both by having one."""
    return mock.patch.object(forks, "hold_back", return_value=None)


def believe_every_mark() -> AbstractContextManager[Any]:
    """A host that was set back with its sidecar takes what its former self has said for its own."""
    return mock.patch.object(Marks, "has_said", return_value=True)


ALL: tuple[Bug, ...] = (
    skip_a_fold,
    drop_a_tombstone,
    compare_with_greater_or_equal,
    claim_beyond_a_cut_frame,
    keep_the_identity_after_a_restore,
    capture_what_is_merged,
    leave_the_clock_behind,
    lose_in_silence,
    lose_what_is_hidden,
    leave_orphans,
    forget_what_is_held,
    acknowledge_before_it_is_durable,
    catch_up_without_deleting,
    forget_births_too,
    swallow_equal_values,
    write_over_local_columns,
    disbelieve_what_rows_say,
    forget_what_a_peer_lacks,
    mend_only_births,
    lose_what_came_after_a_death,
    lose_what_a_snapshot_buries,
    bury_in_silence,
    take_another_index_for_the_key,
    name_a_copys_rows_anew,
    silence_the_users_triggers,
    count_beyond_a_fork,
    believe_every_mark,
)
