"""Makes the seeds of the corpus: `PYTHONPATH=tests python -m fuzz.seeds`.

Valid bundles with every kind of value (integers beyond 2^53, infinities, BLOBs in TEXT columns,
text that is not UTF-8 or has NULs), the same cut, with bits flipped, packed as bombs, nested and
with huge lengths; signed requests, responses and files, and their fields said otherwise.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zstandard
from engine.hosts import Host, scratch

from fuzz.targets import (
    DDL,
    KEY,
    MESSAGES,
    NOW_S,
    REQUEST_SIGNATURE,
    SENDER,
    TARGETS,
    keyring,
)
from syncd import bundle, codec, packing, signing, wire
from syncd.vector import Vector

CORPUS = Path(__file__).with_name("corpus")
ORIGIN = b"\xa0" * 16

Seeds = Iterator[tuple[str, bytes]]


def main() -> None:
    """Write every seed under its name."""
    for target in TARGETS:
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in SEEDS[target]():
            (folder / f"seed-{name}").write_bytes(data)


def frames() -> Iterator[tuple[str, bundle.Frame]]:
    """Yield frames as a host makes them."""
    with scratch() as folder:
        host = Host(Path(folder), "sender", ddl=DDL, tables={"parent": None, "child": None})
        for name, value in (
            *(("int", 2**53 + 1), ("min", -(2**63)), ("max", 2**63 - 1), ("inf", float("inf"))),
            *(("-inf", float("-inf")), ("blob", b"\xff\x00"), ("null", None), ("nul", "a\0b")),
        ):
            host.write("INSERT INTO parent VALUES (?, ?, ?)", name, value, value)
        host.write("INSERT INTO parent VALUES ('raw', CAST(x'ff80' AS TEXT), CAST(x'80' AS TEXT))")
        host.write("INSERT INTO child VALUES ('a', 1, 'int', 1.5, 3), ('b', 2, NULL, NULL, 'x')")
        yield "births", host.replica.changes_since(Vector())[1]
        host.write("UPDATE child SET real = 12, twin = NULL, up = 'raw' WHERE a = 'a'")
        host.write("UPDATE parent SET anything = name")
        host.write("DELETE FROM parent WHERE name = 'inf'")
        host.write("INSERT INTO parent VALUES ('inf', 'again', 0)")
        host.write("DELETE FROM child WHERE a = 'b'")
        yield "updates", host.replica.changes_since(Vector())[1]
        host.close()


def raw_frames() -> Seeds:
    """Yield frames as MessagePack."""
    for name, frame in frames():
        yield name, _raw(frame)
    yield "empty", _raw(bundle.Frame([], [], [], 0, 0, {}))
    yield from strange_frames()


def strange_frames() -> Seeds:
    """Yield MessagePack that is well formed and no honest frame."""
    yield "unknown", _raw(_frame(table="unknown", columns=["x"], values=[1]))
    yield "future", _raw(_frame(hlc=2**63 - 1))
    yield "far", _raw(_frame(seq=2**53))
    yield "death", _raw(_frame(existence=bundle.DEAD, columns=[], values=[]))
    yield "twice", _raw(_frame(rows=2))
    yield "nested", _raw(_frame(values=[[[{"a": [b""]}]]]))
    yield "deep", b"\x91" * 5_000
    yield "lengths", b"\x86\xa8sections\xdd\xff\xff\xff\xff\x89\xa4keys\xdf\xff\xff\xff\xff"
    yield "integer", _raw(_frame(values=[2**64 - 1]))
    yield (
        "refused",
        _raw(
            _frame("child", key=["a", "b"], keys=["z", 1], columns=["up", "real"], values=["?", 13])
        ),
    )


def _raw(frame: bundle.Frame) -> bytes:
    return zstandard.ZstdDecompressor().decompress(codec.compress(frame))


def _frame(
    table: str = "parent",
    *,
    key: list[str] | None = None,
    keys: list[object] | None = None,
    columns: list[str] | None = None,
    values: list[object] | None = None,
    existence: int = bundle.ALIVE,
    rows: int = 1,
    seq: int = 1,
    hlc: int = NOW_S * 1000 << 16,
) -> bundle.Frame:
    section = bundle.Section(
        table=table,
        key=["name"] if key is None else key,
        columns=["label"] if columns is None else columns,
        existence=existence,
        origins=[0] * rows,
        seqs=[seq + row for row in range(rows)],
        hlcs=[hlc] * rows,
        keys=[bundle.Column([value] * rows) for value in keys or ["z"]],
        values=[bundle.Column([value] * rows) for value in (["v"] if values is None else values)],
    )
    return bundle.Frame([ORIGIN], ["sender"], [section], 0, seq, {ORIGIN: seq})


def bundles() -> Seeds:
    """Yield bundles, whole and damaged."""
    stream = io.BytesIO()
    codec.write(stream, SENDER, [frame for _, frame in frames()])
    whole = stream.getvalue()
    yield "whole", whole
    for part in (1, 2, 3):
        yield f"cut-{part}", whole[: len(whole) * part // 4]
    dice = random.Random(1)
    for number in range(4):
        flipped = bytearray(whole)
        flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        yield f"flipped-{number}", bytes(flipped)
    size = codec.FRAME_BYTES_MAX
    for name, bomb in (
        ("bomb", b"\xc6" + (size - 5).to_bytes(4) + bytes(size - 5)),
        ("bomb-over", bytes(size + 1)),
        ("swarm", b"\xdd" + (size - 5).to_bytes(4) + b"\x80" * (size - 5)),
    ):
        yield name, _of_packed(zstandard.ZstdCompressor(level=19).compress(bomb))
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    yield "unsized", _of_packed(unsized.compress(_raw(_frame())))
    yield "lying", _of_packed(b"\x28\xb5\x2f\xfd\xe0" + (2**63).to_bytes(8, "little") + b"\x01\0\0")
    yield "long-record", codec.MAGIC + b"H\xff\xff\xff\xff"
    yield "format-2", b"syncd\x1a\x02\n" + whole[8:]


def _of_packed(frame: bytes) -> bytes:
    records = (
        (b"H", packing.encode(SENDER)),
        (b"F", frame),
        (b"E", packing.encode(codec.End(1))),
    )
    return codec.MAGIC + b"".join(
        kind + len(payload).to_bytes(4) + payload for kind, payload in records
    )


def messages() -> Seeds:
    """Yield one message of each kind."""
    values = (
        SENDER,
        codec.End(3),
        keyring().sign_file(hashlib.sha256(b"").digest()),
        wire.PullRequest("a", {ORIGIN: 7}, ORIGIN, 3),
        wire.PushAnswer(1, 2, 3, 4),
        wire.StatusRequest("a", ORIGIN),
        wire.StatusAnswer("a", ORIGIN, {ORIGIN: 2**53}, 1, NOW_S * 1000),
        wire.ErrorAnswer("bundle", "malformed"),
    )
    for number, (kind, value) in enumerate(zip(MESSAGES, values, strict=True)):
        yield kind.__name__, bytes([number]) + msgspec.msgpack.encode(value)


def requests() -> Seeds:
    """Yield signed requests."""
    body = packing.encode(wire.PullRequest("a", {}, b"", 0))
    for name, url in (("plain", "http://h/sync/v1/pull"), ("query", "http://h/x/%20y?a=1&b=%ff")):
        request = signing.Request("POST", url, {})
        keyring().sign_request(request, body)
        request.headers["Signature-Input"] = _fixed_nonce(request.headers["Signature-Input"])
        yield name, _text(f"POST {url}", dict(request.headers), body)
        for variant, fields in _variants(dict(request.headers)):
            yield f"{name}-{variant}", _text(f"POST {url}", fields, body)


def responses() -> Seeds:
    """Yield signed responses."""
    body = b"the answer"
    headers: dict[str, str] = {}
    sent = signing.Request("POST", "http://host/", {"Signature": REQUEST_SIGNATURE})
    keyring().sign_response(signing.Response(200, headers, sent), body)
    yield "plain", _text("200", headers, body)
    for variant, fields in _variants(headers):
        yield variant, _text("200", fields, body)


def files() -> Seeds:
    """Yield trailers of files."""
    signed = keyring().sign_file(hashlib.sha256(b"").digest())
    yield "plain", packing.encode(signed)
    headers = {"Signature-Input": signed.signature_input, "Signature": signed.signature}
    for variant, fields in _variants(headers):
        said, signature = fields["Signature-Input"], fields["Signature"]
        yield (
            variant,
            packing.encode(signing.FileSignature(signed.content_digest, said, signature)),
        )


def _variants(headers: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Say the signature's fields otherwise."""
    said, signature = headers["Signature-Input"], headers["Signature"]
    inputs = {
        "no-nonce": said.replace(";nonce=", ";other="),
        "number": said.replace(f'keyid="{KEY["id"]}"', "keyid=1"),
        "date": said.replace(f"created={NOW_S}", f"created=@{NOW_S}"),
        "decimal": said.replace(f"created={NOW_S}", f"created={NOW_S}.5"),
        "huge": said.replace(f"created={NOW_S}", "created=999999999999999"),
        "display": said.replace('tag="syncd"', 'tag=%"s%c3%bc"'),
        "parameters": said.replace('"content-digest"', '"content-digest";bs;sf;key="sha-256";tr'),
        "query-param": said.replace('"content-digest"', '"content-digest" "@query-param";name="a"'),
        "target": said.replace('"content-digest"', '"@target-uri" "@authority" "content-digest"'),
        "twice": f"{said}, {said.replace('syncd=', 'other=', 1)}",
        "flat": 'syncd="content-digest"',
    }
    for name, text in inputs.items():
        both = f"{signature}, {signature.replace('syncd=', 'other=', 1)}"
        yield (
            name,
            {
                **headers,
                "Signature-Input": text,
                "Signature": both if name == "twice" else signature,
            },
        )


def _fixed_nonce(said: str) -> str:
    before, _, after = said.partition(';nonce="')
    return f'{before};nonce="AAECAwQFBgcICQoLDA0ODw"{after.partition(chr(34))[2]}'


def _text(first: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    return "\n".join(lines).encode("latin-1") + b"\n\n" + body


SEEDS = {
    "bundle": bundles,
    "frame": raw_frames,
    "message": messages,
    "request": requests,
    "response": responses,
    "file": files,
}

if __name__ == "__main__":
    main()
