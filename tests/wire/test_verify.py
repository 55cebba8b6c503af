"""Two hosts that have merged the same are compared in little traffic, and mended."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd import comparison, wire
from syncd import verify as verification
from syncd.config import Peer
from syncd.verify import DIFFERENT, EQUAL, FAILED, NOT_IN_STEP, ONLY_HERE, ONLY_THERE, VALUES
from wire.scripted import says, scripted
from wire.sites import Served, Site, served

Pair = tuple[Site, Site, Served]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two hosts, the second of them served."""
    here, there = Site(tmp_path, "a"), Site(tmp_path, "b")
    with contextlib.closing(here), contextlib.closing(there), served(there.app) as server:
        yield here, there, server


def verify(pair: Pair, *, repair: bool = False) -> verification.Verdict:
    """Compare the first host with the second."""
    here, _, server = pair
    return verification.verify(here.replica, Peer(name="b", url=server.url), repair=repair)


def past_the_triggers(site: Site, *statements: str) -> None:
    """Write as if there were no triggers."""
    triggers = site.sql("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    for name, _ in triggers:
        site.sql(f'DROP TRIGGER "{name}"')
    for statement in statements:
        site.sql(statement)
    for _, sql in triggers:
        site.sql(sql)


def found(verdict: verification.Verdict) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return state and columns by key."""
    return {one.key: (one.state, one.columns) for one in verdict.differences}


class TestComparing:
    """What is found, and at what cost."""

    def test_hosts_that_show_the_same_are_equal(self, pair: Pair) -> None:
        """Whatever the values are, and whichever host wrote them; local ids do not count."""
        here, there, _ = pair
        for site, values in ((here, (1, 1.0, None, "é", b"\xff")), (there, (2**63 - 1, -0.5, ""))):
            for n, value in enumerate(values):
                site.add(f"{site.config.node} {n}", value)
        here.sql("INSERT INTO note (name, body) VALUES ('raw', CAST(X'ff00' AS TEXT))")
        here.sql("INSERT INTO note (name) VALUES (CAST(X'fe' AS TEXT))")
        verdict = verify(pair)
        assert (verdict.state, verdict.rows, verdict.differences) == (EQUAL, 10, ())

    def test_what_is_only_under_way_is_no_difference(self, pair: Pair) -> None:
        """A verification begins with a round, both ways, though the peer usually pulls."""
        here, there, server = pair
        here.add("mine", 1)
        there.add("theirs", 2)
        assert verify(pair).state == EQUAL
        assert here.notes() == there.notes() == {"mine": 1, "theirs": 2}
        assert server.count(wire.PUSH) == 1

    def test_rows_that_differ_are_named_with_their_columns(self, pair: Pair) -> None:
        """A value, a row that is only here, one that is only there, keys of any kind."""
        here, there, _ = pair
        here.add_many(200, "row ")
        here.sql("INSERT INTO note (name, body) VALUES (CAST(X'fe' AS TEXT), 1), ('it''s', 1)")
        assert verify(pair).state == EQUAL
        past_the_triggers(
            there,
            "UPDATE note SET body = 1.0 WHERE name = 'row 1'",
            "UPDATE note SET body = 2 WHERE name = CAST(X'fe' AS TEXT)",
            "DELETE FROM note WHERE name = 'it''s'",
            "INSERT INTO note (name) VALUES ('new')",
        )
        verdict = verify(pair)
        assert verdict.state == DIFFERENT
        assert found(verdict) == {
            "'row 1'": (VALUES, ("body",)),
            "CAST(X'FE' AS TEXT)": (VALUES, ("body",)),
            "'it''s'": (ONLY_HERE, ()),
            "'new'": (ONLY_THERE, ()),
        }

    def test_large_tables_cost_little_traffic(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """100,000 equal rows: one request of some hundred bytes. One row that differs: four."""
        here = Site(tmp_path, "a")
        here.add_many(100_000)
        here.replica.fold()
        here.replica.close()
        here.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(here.database, tmp_path / "b.db")
        there = Site(tmp_path, "b")
        with contextlib.closing(here), contextlib.closing(there), served(there.app) as server:
            pair = here, there, server
            traffic = measured(monkeypatch)
            verdict = verify(pair)
            assert (verdict.state, verdict.rows) == (EQUAL, 100_000)
            assert server.count(wire.COMPARE) == 1
            assert traffic[wire.COMPARE] < 1_000
            assert sum(traffic.values()) < 4_000
            past_the_triggers(there, "UPDATE note SET body = 'other' WHERE name = '77777'")
            traffic.clear()
            verdict = verify(pair)
            assert found(verdict) == {"'77777'": (VALUES, ("body",))}
            assert server.count(wire.COMPARE) == 1 + 4
            assert traffic[wire.COMPARE] < 16_000

    def test_a_table_that_differs_in_every_row_is_listed_in_whole(self, pair: Pair) -> None:
        """In bounded answers, and not bucket by bucket."""
        here, there, server = pair
        here.add_many(6_000)
        assert verify(pair).state == EQUAL
        asked = server.count(wire.COMPARE)
        past_the_triggers(there, "UPDATE note SET body = -1")
        verdict = verify(pair)
        assert len(verdict.differences) == 6_000
        assert server.count(wire.COMPARE) <= asked + 5

    def test_a_peer_with_other_columns_is_compared_by_those_it_has(self, pair: Pair) -> None:
        """A host that is migrated already, and one that is not."""
        here, there, _ = pair
        here.add("x", 1)
        here.sql("ALTER TABLE note ADD COLUMN colour")
        here.replica.enrol()
        here.sql("UPDATE note SET colour = 'red'")
        assert verify(pair).state == EQUAL
        past_the_triggers(there, "UPDATE note SET body = 2")
        assert found(verify(pair)) == {"'x'": (VALUES, ("body",))}

    def test_a_table_that_the_peer_does_not_have_is_skipped(self, pair: Pair) -> None:
        """It is named, and is no difference."""
        here, _, _ = pair
        here.sql("CREATE TABLE more (name TEXT PRIMARY KEY)")
        tables = {**here.config.tables, "more": {}}
        config = type(here.config).model_validate(
            {
                **here.config.model_dump(exclude={"tables", "sync"}),
                "tables": tables,
                "sync": here.config.sync,
            }
        )
        here.replica.close()
        here.replica = type(here.replica)(config, wall_ms=here.clock)
        here.replica.enrol()
        here.sql("INSERT INTO more VALUES ('x')")
        verdict = verify(pair)
        assert (verdict.state, verdict.skipped) == (EQUAL, ("more",))

    @pytest.mark.parametrize(("times", "state"), [(1, EQUAL), (99, NOT_IN_STEP)])
    def test_a_write_meanwhile_is_waited_for_and_not_called_a_difference(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch, times: int, state: str
    ) -> None:
        """A peer that is written between round and question; if that does not end, it says so."""
        here, there, _ = pair
        here.add("x", 1)
        left = times
        answer = comparison.answer

        def write_first(replica: Any, asked: Any) -> wire.CompareAnswer:
            nonlocal left
            if replica is there.replica and left:
                left -= 1
                there.add(f"new {left}")
            return answer(replica, asked)

        monkeypatch.setattr(comparison, "answer", write_first)
        verdict = verify(pair)
        assert (verdict.state, verdict.differences) == (state, ())

    def test_what_changes_while_rows_are_sought_is_not_named(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A peer writes after the first question has shown a difference."""
        here, there, _ = pair
        here.add_many(100)
        verify(pair)
        past_the_triggers(there, "UPDATE note SET body = 'damage' WHERE name = '7'")
        asked = 0
        answer = comparison.answer

        def write_later(replica: Any, questions: Any) -> wire.CompareAnswer:
            nonlocal asked
            if replica is there.replica:
                asked += 1
                if asked in (2, 5):
                    there.sql("UPDATE note SET body = body || 'new' WHERE name <> '7'")
            return answer(replica, questions)

        monkeypatch.setattr(comparison, "answer", write_later)
        assert found(verify(pair)).keys() == {"'7'"}
        assert asked == 2 + 3 + 3

    def test_a_peer_that_is_down_is_a_failure(self, pair: Pair) -> None:
        """With the reason."""
        here, _, _ = pair
        with scripted(says(401)) as peer:
            verdict = verification.verify(here.replica, Peer(name="b", url=peer.url))
        assert verdict.state == FAILED
        assert "b refused" in str(verdict.error)


class TestRepair:
    """Rows that differ are exchanged; where stamps say nothing, this host is right."""

    def test_values_changed_past_the_triggers_are_those_of_this_host_again(
        self, pair: Pair
    ) -> None:
        """Written by whichever host; the columns that do not differ keep their stamps."""
        here, there, _ = pair
        here.add_many(20, "row ")
        verify(pair)
        past_the_triggers(there, "UPDATE note SET body = 'damage' WHERE name = 'row 1'")
        past_the_triggers(here, "UPDATE note SET body = 'meant' WHERE name = 'row 2'")
        seq = here.replica.vector()[here.replica.origin()]
        assert verify(pair, repair=True).state == EQUAL
        assert here.replica.vector()[here.replica.origin()] == seq + 2
        assert here.notes() == there.notes()
        assert here.notes()["row 1"] == 1
        assert here.notes()["row 2"] == "meant"

    def test_a_row_that_the_peer_lost_comes_back(self, pair: Pair) -> None:
        """And one that came back there from the dead dies again."""
        here, there, _ = pair
        for name in ("lost", "dead"):
            here.add(name, 1)
        verify(pair)
        here.sql("DELETE FROM note WHERE name = 'dead'")
        verify(pair)
        past_the_triggers(
            there, "DELETE FROM note", "INSERT INTO note (name, body) VALUES ('dead', 1)"
        )
        assert verify(pair, repair=True).state == EQUAL
        assert here.notes() == there.notes() == {"lost": 1}

    def test_a_newer_write_that_this_host_has_forgotten_wins(self, pair: Pair) -> None:
        """Both have merged it, by their vectors; its entry here is gone, and its value with it."""
        here, there, _ = pair
        here.add("x", "old")
        verify(pair)
        there.sql("UPDATE note SET body = 'new'")
        verify(pair)
        assert here.notes() == {"x": "new"}
        here.sql(
            "DELETE FROM syncd_changes_note WHERE origin <> (SELECT origin FROM syncd_replica)"
        )
        past_the_triggers(here, "UPDATE note SET body = 'old'")
        assert verify(pair, repair=True).state == EQUAL
        assert here.notes() == there.notes() == {"x": "new"}

    def test_a_third_host_hears_of_the_repair(self, pair: Pair, tmp_path: Path) -> None:
        """What was mended is a write, and travels as one."""
        here, there, _ = pair
        here.add("x", 1)
        with contextlib.closing(Site(tmp_path, "c")) as third, served(here.app) as server:
            peer = Peer(name="a", url=server.url)
            assert verify(pair).state == EQUAL
            third.round(peer)
            past_the_triggers(third, "UPDATE note SET body = 'damage'")
            past_the_triggers(there, "UPDATE note SET body = 'damage'")
            verify(pair, repair=True)
            third.round(peer)
            assert third.notes() == here.notes() == {"x": 1}

    def test_without_repair_nothing_is_written_anew(self, pair: Pair) -> None:
        """A verification of hosts in step leaves both files as they are."""
        here, there, _ = pair
        here.add("x", 1)
        verify(pair)
        past_the_triggers(there, "UPDATE note SET body = 'damage'")
        tables = ("note", "syncd_changes_note", "syncd_origin", "syncd_journal")
        before = [site.sql(f"SELECT * FROM {name}") for site in (here, there) for name in tables]
        assert verify(pair).state == DIFFERENT
        assert [
            site.sql(f"SELECT * FROM {name}") for site in (here, there) for name in tables
        ] == before


def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return a count of the bytes of bodies, sent and received, by path; it goes on counting."""
    from syncd.peer import Answer, PeerClient

    traffic: dict[str, int] = {}
    call: Callable[..., Answer] = PeerClient._call

    def counted(client: PeerClient, path: str, body: bytes) -> Answer:
        answer = call(client, path, body)
        traffic[path] = traffic.get(path, 0) + len(body) + len(answer.content)
        return answer

    monkeypatch.setattr(PeerClient, "_call", counted)
    return traffic
