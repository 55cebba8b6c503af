"""Bundle files: the bytes that travel over HTTP, with a signature behind them.

A file appears under its name only when it is whole and on disk, and it never replaces another. It
is checked as a whole, signature included, before a single frame of it is handed out.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from syncd import codec, packing
from syncd.bundle import Frame, Header
from syncd.codec import Reader
from syncd.errors import BundleError, SignatureError
from syncd.signing import FileSignature, Keyring

_TRAILER_BYTES_MAX = 4096


class _Hashing:
    """A stream that hashes what passes through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        return data

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._stream.write(data)


def write(path: Path, keyring: Keyring, header: Header, frames: Iterable[Frame]) -> int:
    """Write and sign a bundle file; return its size in bytes. Raises `BundleError` if it exists."""
    try:
        if path.exists():
            hint = "Choose another name, or delete it first."
            raise BundleError(f"{path} exists already", hint=hint)
        part = path.with_name(path.name + ".part")
        with part.open("ab") as stream:
            _claim(stream, part)
            try:
                size = _write_signed(stream, keyring, header, frames)
                part.rename(path)
            except BaseException:
                part.unlink()
                raise
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {error.strerror}") from error
    return size


def _claim(stream: IO[bytes], part: Path) -> None:
    """Take an unfinished file for this export alone, also one that a dead process left behind."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat())
    except BlockingIOError:
        is_ours = False
    if not is_ours:
        raise BundleError(f"another export is writing {part}", hint="Wait for it to end.")
    stream.truncate(0)


def _write_signed(
    stream: IO[bytes], keyring: Keyring, header: Header, frames: Iterable[Frame]
) -> int:
    hashing = _Hashing(stream)
    size = codec.write(cast(BinaryIO, hashing), header, frames)
    size += stream.write(packing.encode(keyring.sign_file(hashing.sha256.digest())))
    stream.flush()
    os.fsync(stream.fileno())
    return size


@contextlib.contextmanager
def opened(path: Path, keyring: Keyring | None) -> Iterator[Reader]:
    """Open a bundle file after checking all of it; without a keyring the signature is not checked.

    Raises `BundleError` or `SignatureError`.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    with stream:
        try:
            _check(stream, keyring)
            stream.seek(0)
            yield Reader(stream)
        except (BundleError, SignatureError) as error:
            error.args = (f"{path}: {error}",)
            raise


def _check(stream: IO[bytes], keyring: Keyring | None) -> None:
    hashing = _Hashing(stream)
    for packed in Reader(cast(BinaryIO, hashing)).packed_frames():
        if keyring is None:
            # Nothing else would find a broken frame before the ones in front of it are merged.
            codec.decompress(packed)
    sha256 = hashing.sha256.digest()
    trailer = stream.read(_TRAILER_BYTES_MAX)
    if keyring is None:
        return
    if not trailer:
        raise SignatureError("the file is not signed", hint="To take it all the same: --unsigned")
    keyring.verify_file(sha256, packing.decode(trailer, FileSignature))
