"""A host whose whole folder was restored in place hears of it from its peers, over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.config import Peer
from wire.sites import Site, served

LOST, NEW = {"lost-1", "lost-2"}, {f"new-{n}" for n in range(5)}


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """Two hosts, each with a folder of its own."""
    made = []
    for node in ("a", "b"):
        (tmp_path / node).mkdir()
        made.append(Site(tmp_path / node, node))
    yield made[0], made[1]
    for site in made:
        site.close()


def rounds(asking: Site, serving: Site, *, push: bool) -> None:
    """Run rounds of one host with the other, until both must have everything."""
    with served(serving.app) as server:
        for _ in range(3):
            asking.round(Peer(name="there", url=server.url, push=push))


@pytest.mark.parametrize("push", [False, True], ids=["by pulls", "by pushes"])
def test_a_restored_folder_that_grew_past_what_it_lost_skips_nothing(
    sites: tuple[Site, Site], push: bool
) -> None:
    """Hazard 1, where no seq and no token tells: a peer says what it was told, and that does."""
    restored, other = sites
    folder = restored.database.parent

    def exchange() -> None:
        if push:
            rounds(restored, other, push=True)
        else:
            rounds(other, restored, push=False)

    restored.add("early")
    exchange()
    restored.close()
    backup = {file: file.read_bytes() for file in folder.iterdir()}
    for name in sorted(LOST):
        restored.add(name)
    exchange()
    before = restored.replica.origin()
    restored.close()
    for file in folder.iterdir():
        file.write_bytes(backup.get(file, b""))
    for name in sorted(NEW):
        restored.add(name)
    exchange()

    assert restored.replica.origin() != before
    assert set(other.notes()) == {"early"} | LOST | NEW
    rounds(restored, other, push=False)
    assert restored.notes() == other.notes()
