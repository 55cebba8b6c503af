"""A host whose whole folder was restored in place hears of it from its peers, over the wire."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.hosts import copy_image, small_frames

from syncd.config import Peer
from syncd.errors import PeerMisbehaved
from wire.sites import Clock, Site, served

LOST, NEW = {"lost-1", "lost-2"}, {f"new-{n}" for n in range(5)}


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site, Site]]:
    """Three hosts, each with a folder of its own."""
    made = []
    for node in ("a", "b", "c"):
        (tmp_path / node).mkdir()
        made.append(Site(tmp_path / node, node))
    yield made[0], made[1], made[2]
    for site in made:
        site.close()


def rounds(asking: Site, serving: Site, *, push: bool) -> None:
    """Run rounds of one host with the other, until both must have everything."""
    with served(serving.app) as server:
        for _ in range(3):
            outcome = asking.round(Peer(name="there", url=server.url, push=push))
            assert outcome.ok, outcome


@contextlib.contextmanager
def put_back(site: Site) -> Iterator[None]:
    """Let a host write what is LOST, which it may tell, then be put back in place and write NEW."""
    folder = site.database.parent
    site.close()
    backup = {file: file.read_bytes() for file in folder.iterdir()}
    for name in sorted(LOST):
        site.add(name)
    yield
    site.close()
    for file in folder.iterdir():
        file.write_bytes(backup.get(file, b""))
    for name in sorted(NEW):
        site.add(name)


@pytest.mark.parametrize("push", [False, True], ids=["by pulls", "by pushes"])
def test_a_restored_folder_that_grew_past_what_it_lost_skips_nothing(
    sites: tuple[Site, Site, Site], push: bool
) -> None:
    """Hazard 1, where no seq and no token tells: a peer says what it was told, and that does."""
    restored, other, _ = sites

    def exchange() -> None:
        if push:
            rounds(restored, other, push=True)
        else:
            rounds(other, restored, push=False)

    restored.add("early")
    exchange()
    before = restored.replica.origin()
    with put_back(restored):
        exchange()
    exchange()

    assert restored.replica.origin() != before
    assert set(other.notes()) == {"early"} | LOST | NEW
    rounds(restored, other, push=False)
    assert restored.notes() == other.notes()


@pytest.mark.parametrize("frame_entries", [None, 2])
@pytest.mark.parametrize("push", [False, True], ids=["by pulls", "by pushes"])
def test_who_was_told_the_second_history_gets_the_first_as_well(
    sites: tuple[Site, Site, Site], push: bool, frame_entries: int | None
) -> None:
    """Hazard 1 at third hand: that host had counted other changes under the seqs of those lost."""
    restored, told_first, told_second = sites
    restored.add("early")
    for other in (told_first, told_second):
        rounds(other, restored, push=False)
    with put_back(restored):
        rounds(told_first, restored, push=False)
    rounds(told_second, restored, push=False)
    told_first.add("of another")
    rounds(told_second, told_first, push=False)
    assert set(told_second.notes()) == {"early", "of another"} | NEW
    with small_frames(frame_entries):
        for _ in range(2):
            if push:
                rounds(restored, told_first, push=True)
                rounds(told_first, told_second, push=True)
            else:
                rounds(told_first, restored, push=False)
                rounds(restored, told_first, push=False)
                rounds(told_second, told_first, push=False)
                rounds(told_first, told_second, push=False)

    assert set(restored.notes()) == {"early"} | LOST | NEW | {"of another"}
    assert restored.notes() == told_first.notes() == told_second.notes()
    assert restored.replica.vector() == told_second.replica.vector()
    assert len(told_second.replica.forks()) == 1


@pytest.mark.parametrize("push", [False, True], ids=["by pulls", "by pushes"])
def test_what_was_said_before_tells_where_histories_parted(
    sites: tuple[Site, Site, Site], push: bool
) -> None:
    """An idle pull has the last mark alone. Who has not said it asks back; what is shared stays."""
    restored, other, third = sites
    asking, serving = (restored, other) if push else (other, restored)
    restored.add("early")
    rounds(asking, serving, push=push)
    before = restored.replica.origin()
    with put_back(restored):
        rounds(asking, serving, push=push)
    rounds(third, restored, push=False)
    rounds(asking, serving, push=push)

    assert restored.replica.forks() == other.replica.forks() == {before: 1}
    assert set(other.notes()) == {"early"} | LOST | NEW


@pytest.mark.parametrize("who", ["pulls from", "is pulled by"])
def test_a_fork_that_is_of_two_others_is_not_taken_for_ones_own(tmp_path: Path, who: str) -> None:
    """Hazard 1 on three machines: an image of an image, and the later fork is heard of first."""
    clock = Clock()

    def machine(place: str, node: str, image_of: Site | None = None) -> Site:
        if image_of is None:
            (tmp_path / place).mkdir()
        else:
            image_of.close()
            copy_image(image_of.database, tmp_path / place)
        return Site(tmp_path / place, node, clock=clock)

    def write(site: Site, heard_by: Site, count: int = 4) -> None:
        for number in range(count):
            clock.move_s(60)
            site.add(f"{site.database.parent.name}-{len(site.notes())}-{number}")
            rounds(heard_by, site, push=False)

    first, b, c, d = (machine(place, place) for place in "abcd")
    for one in (b, c, d):
        write(first, heard_by=one)
    second = machine("second", "a", image_of=first)
    write(second, heard_by=c)
    write(first, heard_by=b, count=12)
    third = machine("third", "a", image_of=first)
    write(third, heard_by=d, count=6)
    write(first, heard_by=b)
    for asking, serving in ((b, d), (b, first), (d, third)):
        rounds(asking, serving, push=False)
    (known,) = b.replica.forks().values()
    assert known > 12, "the second machine has parted before"
    rounds(*((second, b) if who == "pulls from" else (b, second)), push=False)
    everyone = (first, second, third, b, c, d)
    for _ in range(2):
        for asking in everyone:
            for serving in everyone:
                if asking is not serving:
                    rounds(asking, serving, push=False)
    for site in everyone:
        site.close()
        assert len(site.notes()) == 12 + 4 + 12 + 6 + 4
        assert site.replica.forks() == first.replica.forks()


def test_a_pull_ends_where_two_hosts_answer_in_turn(sites: tuple[Site, Site, Site]) -> None:
    """Each of them is known, and has to be told first; a balancer before both never lets it be."""
    asking, *both = sites
    for site in both:
        site.add(site.replica.config.node)
        rounds(asking, site, push=False)
    turns = itertools.cycle(site.app for site in both)

    def balanced(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return next(turns)(environ, start_response)

    with served(balanced) as server:
        outcome = asking.round(Peer(name="balanced", url=server.url))
    assert outcome.code == PeerMisbehaved.code
    assert len(server.requests) < 10
