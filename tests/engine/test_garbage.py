"""Bytes that are no bundle are refused with an error of ours, and change nothing."""

from __future__ import annotations

import copy
import io
import os
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.hosts import DEVICES, Host, Key, scratch
from syncd import bundle, codec, packing
from syncd.codec import Reader
from syncd.errors import BundleError, BundleTooLarge, SyncError
from syncd.vector import Vector

EXAMPLES = int(os.environ.get("SYNCD_HYPOTHESIS_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=max(EXAMPLES, 150),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@cache
def valid_bundle() -> bytes:
    """Return a bundle with births, a death, updates and every kind of value."""
    with scratch() as folder:
        host = Host(Path(folder), "sender")
        for device, note in (("a", 1), ("b", 1.5), ("c", "text"), ("d", b"bytes"), ("e", None)):
            host.write("INSERT INTO devices (device_id, note) VALUES (?, ?)", device, note)
        host.write("INSERT INTO devices (device_id, note) VALUES ('f', CAST(x'ff80' AS TEXT))")
        host.write("UPDATE devices SET status = 'blocked' WHERE device_id IN ('a', 'f')")
        host.write("DELETE FROM devices WHERE device_id = 'b'")
        file = io.BytesIO()
        codec.write(file, *host.replica.frames_since(Vector()))
        host.close()
        return file.getvalue()


def valid_frame() -> Any:
    """Return the frame of that bundle as plain lists and mappings."""
    (packed,) = Reader(io.BytesIO(valid_bundle())).packed_frames()
    return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed))


def read(data: bytes) -> list[bundle.Frame]:
    """Read a bundle; only errors of ours may come out."""
    try:
        return list(Reader(io.BytesIO(data)))
    except SyncError:
        return []


@st.composite
def mutations(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw what a line or a disk might make of some bytes."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 9, 10**6])))
        data[start:end] = draw(st.binary(max_size=8))
    return bytes(data)


@fuzzed
@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Bytes of no meaning, with and without the beginning of a bundle."""
    read(data)
    read(codec.MAGIC + data)


@fuzzed
@given(st.data())
def test_a_damaged_bundle_is_read_or_refused(data: st.DataObject) -> None:
    """Bytes are changed, lost and added anywhere in a file."""
    read(data.draw(mutations(valid_bundle())))


@fuzzed
@given(st.data())
def test_a_frame_that_says_something_else_is_read_or_refused(data: st.DataObject) -> None:
    """The frame unpacks, but the MessagePack in it is damaged."""
    raw = msgspec.msgpack.encode(valid_frame())
    packed = zstandard.ZstdCompressor().compress(data.draw(mutations(raw)))
    with _only_ours():
        codec.decompress(packed)


NUMBERS = [0, 1, 2, 3, 7, -1, 2**53, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1]
NAMES = ["devices", "device_id", "status", "note", "id", "", "a\0b", 'quo"te', "k0", "other"]
alike: dict[type, st.SearchStrategy[Any]] = {
    int: st.sampled_from(NUMBERS),
    str: st.sampled_from(NAMES) | st.text(max_size=4),
    bytes: st.sampled_from([b"\0" * 16, b"\xff" * 16]) | st.binary(max_size=4),
    float: st.floats(),
}
anything = st.one_of(
    *alike.values(),
    st.none(),
    st.booleans(),
    st.lists(st.sampled_from(NUMBERS), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a tree of lists and mappings: a container and where in it."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node))
    for where, child in items:
        yield node, where
        if isinstance(child, (dict, list)):
            yield from _places(child)


@st.composite
def other_frames(draw: st.DrawFn) -> bytes:
    """Draw a frame in which some parts were replaced, left out or doubled."""
    frame = copy.deepcopy(valid_frame())
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(frame))
        action = draw(st.sampled_from(["alike"] * 9 + ["replace", "remove", "double"]))
        if action == "alike":
            places = [(node, where) for node, where in places if type(node[where]) in alike]
        node, where = places[draw(st.integers(0, len(places) - 1))]
        if action == "alike":
            node[where] = draw(alike[type(node[where])])
        elif action == "replace":
            node[where] = draw(anything)
        elif action == "remove":
            del node[where]
        elif isinstance(node, list):
            node.insert(where, copy.deepcopy(node[where]))
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(frame))


@fuzzed
@given(other_frames())
def test_a_frame_of_other_parts_is_merged_or_refused_as_a_whole(packed: bytes) -> None:
    """Well-formed nonsense, signed by a peer gone mad: merged or refused, never half."""
    with _only_ours():
        frame = codec.decompress(packed)
        header = Reader(io.BytesIO(valid_bundle())).header
        with scratch() as folder:
            host = Host(Path(folder), "receiver")
            host.write("INSERT INTO devices (device_id, status) VALUES ('a', 'mine'), ('z', '')")
            host.replica.fold()
            before = _content(host)
            try:
                host.replica.merge(header, frame)
            except SyncError:
                assert _content(host) == before
                raise
            finally:
                host.close()


def _content(host: Host) -> list[Any]:
    tables = ("devices", "syncd_changes_devices", "syncd_shadow_devices", "syncd_origin")
    return [host.rows(f"SELECT * FROM {table}") for table in (*tables, "syncd_held")]


class _only_ours:  # noqa: N801
    """Let errors of ours pass as the answer they are; any other fails the test."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, SyncError)


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_bundle_that_ends_early_is_refused(length: int) -> None:
    """A file cut anywhere is an error, not a shorter bundle."""
    whole = valid_bundle()
    assert len(read(whole)) == 1
    if length < len(whole):
        with pytest.raises(BundleError):
            list(Reader(io.BytesIO(whole[:length])))


def test_a_frame_that_unpacks_to_more_than_the_bound_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bomb is refused by the size it names, before it is unpacked."""
    monkeypatch.setattr(codec, "FRAME_BYTES_MAX", 1_000)
    bomb = zstandard.ZstdCompressor().compress(b"\0" * 10_000)
    with pytest.raises(BundleError):
        codec.decompress(bomb)


def test_a_frame_that_does_not_name_its_size_is_refused() -> None:
    """Zstandard allows it; then nobody could know what it unpacks to."""
    raw = msgspec.msgpack.encode(valid_frame())
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    with pytest.raises(BundleError):
        codec.decompress(packed)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=40) | st.binary(min_size=250, max_size=300),
    st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=40)),
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
)


def _objects(tree: Any) -> int:
    if isinstance(tree, list):
        return 1 + sum(map(_objects, tree))
    if isinstance(tree, dict):
        return 1 + len(tree) + sum(map(_objects, tree.values()))
    return 1


@fuzzed
@given(trees)
def test_values_are_counted_before_they_are_made(tree: Any) -> None:
    """A message of exactly the bound is decoded, one of one value more is refused."""
    raw, objects = msgspec.msgpack.encode(tree), _objects(tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "OBJECTS_MAX", objects)
        packing.decode(raw, object)
        patch.setattr(packing, "OBJECTS_MAX", objects - 1)
        with pytest.raises(BundleTooLarge):
            packing.decode(raw, object)


def test_a_swarm_of_empty_values_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kilobytes that unpack to millions of empty maps are refused before one is made."""
    monkeypatch.setattr(packing, "OBJECTS_MAX", 100_000)
    size = 4_000_000
    packed = zstandard.ZstdCompressor().compress(b"\xdd" + size.to_bytes(4) + b"\x80" * size)
    tracemalloc.start()
    try:
        with pytest.raises(BundleTooLarge):
            codec.decompress(packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * size


def test_frames_stay_within_the_bound_wherever_values_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Values of rows that show, of dead rows, of unknown tables, and long keys all count.

    A frame over the bound could never be sent, and the hosts would part for good.
    """
    monkeypatch.setattr(codec, "FRAME_BYTES_TARGET", 64 * 1024)
    monkeypatch.setattr(codec, "FRAME_BYTES_MAX", 256 * 1024)
    logs = "CREATE TABLE logs (line TEXT PRIMARY KEY, more)"
    tables: dict[str, Key] = {"devices": ["device_id"], "logs": None}
    a, b = (Host(tmp_path, n, ddl=f"{DEVICES};{logs}", tables=tables) for n in "ab")
    middle, last = (Host(tmp_path, n) for n in ("middle", "last"))
    big = "x" * 10_000
    for number in range(50):
        b.write("INSERT INTO devices (device_id) VALUES (?)", f"{number}")
    _pull_within_bound(a, b)
    a.write("DELETE FROM devices")
    for number in range(50):
        b.clock.ms = a.clock.ms + 1
        b.write("UPDATE devices SET note = ? WHERE device_id = ?", big, f"{number}")
        b.write("INSERT INTO logs VALUES (?, ?)", f"{number} {big}", big)
    _pull_within_bound(a, b)
    _pull_within_bound(middle, a)
    _pull_within_bound(last, middle)
    assert last.held() == middle.held() > 0
    assert last.replica.vector() == a.replica.vector()
    for host in (a, b, middle, last):
        host.close()


def _pull_within_bound(receiver: Host, sender: Host) -> None:
    after = -1
    while True:
        header, frame = sender.replica.changes_since(
            receiver.replica.vector(), receiver.replica.peers.cursor(sender.replica.origin())
        )
        assert frame.position > after
        after = frame.position
        receiver.replica.merge(header, codec.decompress(codec.compress(frame)))
        if frame.claim is not None:
            return
