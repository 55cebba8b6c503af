"""Keys rotate without a round lost: the first key signs, all are accepted, a removed one is not."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from syncd import wire
from syncd.config import Peer
from wire.sites import NEW, OLD, Clock, Site, keyring, pull_body, served, signed_headers

Keys = Sequence[dict[str, str]]


def ask(site: Site, keys: Keys) -> int:
    """Send a pull signed with the first of some keys; return the status."""
    body = pull_body()
    headers = signed_headers(keyring(*keys, clock=site.clock), wire.PULL, body)
    return site.call(wire.PULL, body, headers).status_code


@pytest.mark.parametrize("first", [(OLD, NEW), (NEW, OLD)], ids=["old first", "new first"])
@pytest.mark.parametrize("asker", [(OLD,), (NEW,)], ids=["asked with old", "asked with new"])
def test_every_listed_key_is_accepted(first: Keys, asker: Keys, tmp_path: Path) -> None:
    """While two keys are listed, in whichever order, either one opens the door."""
    site = Site(tmp_path, "b", keys=first)
    assert ask(site, asker) == 200
    site.close()


@pytest.mark.parametrize("keys", [(OLD, NEW), (NEW, OLD)], ids=["old first", "new first"])
def test_the_first_key_signs(keys: Keys, tmp_path: Path) -> None:
    """Requests and answers carry the id of the first key only."""
    site = Site(tmp_path, "b", keys=keys)
    body = pull_body()
    headers = signed_headers(site.keyring, wire.PULL, body)
    answer = site.call(wire.PULL, body, headers)
    marker = f'keyid="{keys[0]["id"]}"'
    assert marker in headers["Signature-Input"]
    assert marker in answer.headers["Signature-Input"]
    site.close()


def test_a_removed_key_is_refused(tmp_path: Path) -> None:
    """Once the old key is taken off the list, nothing signed with it is accepted."""
    site = Site(tmp_path, "b", keys=(NEW,))
    assert ask(site, (NEW,)) == 200
    assert ask(site, (OLD,)) == 401
    site.close()


def test_a_rotation_as_keygen_describes_it_loses_no_round(tmp_path: Path) -> None:
    """New key behind the old one everywhere, then in front, then alone: every mix works."""
    steps: list[Keys] = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    clock = Clock()
    for before, after in itertools.pairwise(steps):
        for a_keys, b_keys in ((after, before), (before, after), (after, after)):
            with _pair(tmp_path, clock, a_keys, b_keys) as (a, b):
                a.add(f"{len(a.notes())}")
                assert _round(a, b).error is None
                assert _round(b, a).error is None
                assert a.notes() == b.notes()


@contextlib.contextmanager
def _pair(folder: Path, clock: Clock, a_keys: Keys, b_keys: Keys) -> Iterator[tuple[Site, Site]]:
    a, b = (
        Site(folder, node, keys=keys, clock=clock) for node, keys in (("a", a_keys), ("b", b_keys))
    )
    yield a, b
    a.close()
    b.close()


def _round(asker: Site, asked: Site) -> Any:
    with served(asked.app) as server:
        return asker.round(Peer(name=asked.config.node, url=server.url))
