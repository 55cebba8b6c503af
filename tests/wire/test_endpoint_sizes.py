"""Bounds before and after decompression: a large body or a bomb costs little, changes nothing."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from werkzeug.test import TestResponse

from syncd import codec, packing, wire
from syncd.vector import Vector
from wire.sites import Site, packed, push_body, signed_headers

MIB = 1024 * 1024
BOMB_BYTES = 512 * MIB


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "b")
    site.add("mine", 1)
    site.replica.fold()
    yield site
    site.close()


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Site]:
    sender = Site(tmp_path, "a")
    sender.add("theirs", 2)
    yield sender
    sender.close()


def push(site: Site, body: bytes) -> TestResponse:
    return site.call(wire.PUSH, body, signed_headers(site.keyring, wire.PUSH, body))


def bundle_around(sender: Site, packed_frame: bytes) -> bytes:
    """Return a sender's own bundle with another frame's bytes in it."""
    header, frames = sender.replica.frames_since(Vector())
    (good,) = map(codec.compress, frames)
    whole = packed(header, codec.decompress(good))
    assert good in whole
    return whole.replace(
        len(good).to_bytes(4, "big") + good, len(packed_frame).to_bytes(4, "big") + packed_frame
    )


def bomb(named_size: int | None) -> bytes:
    """Return a zstd frame of many zeros that says it unpacks to `named_size`."""
    made = BytesIO()
    part = b"\0" * MIB
    parameters = zstandard.ZstdCompressionParameters(
        compression_level=1, write_content_size=named_size is not None
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
        *(() if named_size is None else (BOMB_BYTES,))
    )
    for _ in range(BOMB_BYTES // MIB):
        made.write(compressor.compress(part))
    made.write(compressor.flush())
    packed_frame = made.getvalue()
    if named_size is None or named_size == BOMB_BYTES:
        return packed_frame
    true, lie = (size.to_bytes(4, "little") for size in (BOMB_BYTES, named_size))
    assert packed_frame.count(true, 0, 16) == 1
    return packed_frame.replace(true, lie, 1)


def test_a_body_announced_as_too_large_is_refused_unread(site: Site) -> None:
    """Content-Length alone decides; not one byte of the body is waited for."""
    before = site.dump()
    answer = site.app.test_client().post(
        wire.PUSH,
        input_stream=_Untouchable(),
        environ_overrides={"CONTENT_LENGTH": str(wire.BODY_BYTES_MAX + 1)},
    )
    assert (answer.status_code, answer.data) == (413, b"")
    assert site.dump() == before


@pytest.mark.parametrize("path", [wire.PULL, wire.PUSH, wire.STATUS])
def test_a_body_without_a_length_is_refused_at_the_bound(
    path: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """An endless chunked body is read up to the bound and no further, and the log says so."""
    before = site.dump()
    stream = _Endless()
    answer = site.app.test_client().post(
        path,
        input_stream=stream,
        environ_overrides={"wsgi.input_terminated": True},
        headers={"Transfer-Encoding": "chunked"},
    )
    assert (answer.status_code, answer.data) == (413, b"")
    assert f"{wire.BODY_BYTES_MAX} bytes" in caplog.text
    assert wire.BODY_BYTES_MAX <= stream.taken <= wire.BODY_BYTES_MAX + MIB
    assert site.dump() == before


def test_the_largest_frame_fits_into_a_body() -> None:
    """Whatever `compress` lets out, the endpoint lets in."""
    worst = zstandard.ZstdCompressor(level=3).compress(_noise(codec.FRAME_BYTES_MAX))
    assert len(worst) <= codec.RECORD_BYTES_MAX < wire.BODY_BYTES_MAX


@pytest.mark.parametrize(
    ("named_size", "status", "reason"),
    [
        pytest.param(BOMB_BYTES, 413, f"unpacks to {BOMB_BYTES} bytes", id="it names its size"),
        pytest.param(1000, 400, "cannot be unpacked", id="it names a smaller size"),
        pytest.param(None, 400, "does not name its size", id="it names none"),
    ],
)
def test_a_bomb_is_not_unpacked(
    named_size: int | None, status: int, reason: str, site: Site, sender: Site
) -> None:
    """A small frame that unpacks to far more than the bound is refused, in little memory."""
    body = bundle_around(sender, bomb(named_size))
    assert len(body) < MIB
    before, peak_kib = site.dump(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = push(site, body)
    assert answer.status_code == status
    assert reason in packing.decode(answer.data, wire.ErrorAnswer).message
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib
    assert grown_kib < 128 * 1024
    assert site.dump() == before


def test_the_frame_around_the_bomb_is_well_made(site: Site, sender: Site) -> None:
    """With its own frame in place of the bomb, the same bundle is merged."""
    _, frames = sender.replica.frames_since(Vector())
    (frame,) = frames
    assert push(site, bundle_around(sender, codec.compress(frame))).status_code == 200
    assert site.notes() == {"mine": 1, "theirs": 2}


@pytest.mark.parametrize(
    "claimed", [wire.BODY_BYTES_MAX, 2**32 - 1], ids=["over the bound", "as much as it can say"]
)
def test_a_record_that_claims_too_much_is_refused(claimed: int, site: Site, sender: Site) -> None:
    """A record's length is believed only up to the bound."""
    body = push_body(sender)
    at = body.index(b"F\0\0")
    body = body[: at + 1] + claimed.to_bytes(4, "big") + body[at + 5 :]
    before = site.dump()
    answer = push(site, body)
    assert answer.status_code == 413
    assert packing.decode(answer.data, wire.ErrorAnswer).code == "bundle_too_large"
    assert site.dump() == before


def test_a_second_frame_that_is_broken_does_not_undo_the_first(site: Site, sender: Site) -> None:
    """A frame is the unit: what was merged before a broken one stays, and can be sent again."""
    header, frames = sender.replica.frames_since(Vector())
    (frame,) = frames
    whole = packed(header, frame, frame)
    good = codec.compress(frame)
    at = whole.rindex(good)
    broken = whole[:at] + bytes(len(good)) + whole[at + len(good) :]
    assert push(site, broken).status_code == 400
    assert site.notes() == {"mine": 1, "theirs": 2}
    assert push(site, whole).status_code == 200
    assert site.notes() == {"mine": 1, "theirs": 2}


class _Untouchable(BytesIO):
    def read(self, _: int | None = -1, /) -> bytes:
        raise AssertionError("the body was read")

    def readinto(self, _: object, /) -> int:
        raise AssertionError("the body was read")


class _Endless(BytesIO):
    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = b"\0" * min(MIB, MIB if size is None or size < 0 else size)
        self.taken += len(data)
        return data

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def _noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)
