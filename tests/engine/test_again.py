"""Merging again what is here: it is counted, and nothing that is news is taken for it."""

from __future__ import annotations

import pytest

from engine.conftest import MakeHosts
from engine.hosts import Host, changes_in, pull, settle, small_frames
from syncd import codec
from syncd.errors import BundleError
from syncd.merge import Counts
from syncd.vector import Vector


def written(*hosts: Host) -> None:
    """Let each host insert two devices of its own."""
    for host in hosts:
        for n in range(2):
            host.write("INSERT INTO devices (device_id) VALUES (?)", f"{host.node}{n}")


def test_what_is_here_is_counted_by_table(
    make_hosts: MakeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value of it is decoded."""
    a, b = make_hosts("a", "b")
    written(a, b)
    settle(a, b)
    header, frames = a.replica.frames_since(Vector())
    packed = [codec.compress(frame) for frame in frames]
    monkeypatch.setattr(codec, "decompress", None)
    counts = sum((b.replica.merge_packed(header, one) for one in packed), Counts())
    assert (counts.older, counts.tables["devices"].older) == (4, 4)
    assert counts.applied == counts.held == 0


def test_a_bundle_that_grew_while_it_was_made_is_read_to_its_end(make_hosts: MakeHosts) -> None:
    """B has all that the header tells of, and the last frame has more."""
    a, b = make_hosts("a", "b")
    written(a)
    settle(a, b)
    with small_frames(1):
        header, frames = a.replica.frames_since(Vector())
        packed = [codec.compress(next(frames))]
        a.write("UPDATE devices SET note = 'new'")
        packed += [codec.compress(frame) for frame in frames]
    assert b.replica.vector().covers(header.vector)
    for one in packed:
        b.replica.merge_packed(header, one)
    assert a.devices() == b.devices()
    assert b.devices()["a0"] == ("new", "new")


def test_what_is_known_by_another_road_is_no_gap(make_hosts: MakeHosts) -> None:
    """B has from C what the first frames tell, and has read nothing of A's changelog before."""
    a, b, c = make_hosts("a", "b", "c")
    written(a)
    pull(c, a)
    pull(b, c)
    with small_frames(1):
        header, frames = a.replica.frames_since(Vector())
        packed = [codec.compress(next(frames))]
        a.write("INSERT INTO devices (device_id) VALUES ('more'), ('and more')")
        packed += [codec.compress(frame) for frame in frames]
    counts = [b.replica.merge_packed(header, one) for one in packed]
    assert [(one.older, one.applied) for one in counts] == [(1, 0), (1, 0), (0, 1), (0, 1)]
    assert a.devices() == b.devices()
    assert b.replica.peers.cursor(a.identity) == codec.decompress(packed[-1]).position


def test_a_claim_that_is_news_is_taken_over(make_hosts: MakeHosts) -> None:
    """All that B lacks was superseded by what B has from C."""
    a, b, c = make_hosts("a", "b", "c")
    written(a)
    pull(c, a)
    c.clock.ms += 10
    c.write("UPDATE devices SET note = 'c', status = 'c'")
    c.write("DELETE FROM devices")
    pull(b, c)
    pull(a, c)
    header, frames = a.replica.frames_since(b.replica.vector())
    for frame in frames:
        assert not changes_in(frame)
        b.replica.merge_packed(header, codec.compress(frame))
    assert b.replica.vector() == a.replica.vector()


def test_garbage_is_an_error_also_where_nothing_can_be_news(make_hosts: MakeHosts) -> None:
    """It does not pass for a frame of known changes."""
    a, b = make_hosts("a", "b")
    written(a)
    settle(a, b)
    header, frames = a.replica.frames_since(Vector())
    packed = codec.compress(next(frames))
    with pytest.raises(BundleError):
        b.replica.merge_packed(header, packed[:-1])
