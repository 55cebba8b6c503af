"""`syncd export`, `import` and `inspect`: changes on a USB stick, whole, signed, and only once.

A file that is not exactly what an exporter wrote is refused with one clear error, and not one of
its changes is merged.
"""

from __future__ import annotations

import base64
import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.cli_host import OTHER_KEYS, CliHost, refused
from syncd import codec

ROWS_OF_TWO_FRAMES = 12_000

_sharing = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def a(tmp_path: Path) -> CliHost:
    host = CliHost(tmp_path / "a", node="a").ready()
    host.add("x", 1)
    host.add("y", 2)
    return host


@pytest.fixture
def b(tmp_path: Path) -> CliHost:
    return CliHost(tmp_path / "b", node="b").ready()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    """A folder that stands for the USB stick."""
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


@pytest.fixture
def file(a: CliHost, stick: Path) -> Path:
    """Everything host a has, exported."""
    path = stick / "all.syncd"
    assert a.run("export", path).exit_code == 0
    return path


def test_an_export_brings_everything(a: CliHost, b: CliHost, stick: Path) -> None:
    """All rows, updates and deletions of one host show on the other."""
    a.sql("UPDATE note SET body = 'new' WHERE name = 'x'")
    a.sql("DELETE FROM note WHERE name = 'y'")
    a.add("z")
    path = stick / "all.syncd"
    exported = a.json("export", path)
    assert exported == {"file": str(path), "changes": 4, "bytes": path.stat().st_size}
    imported = b.json("import", path)
    assert imported["file"] == str(path)
    assert (imported["conflicting"], imported["held"]) == (0, 0)
    assert b.notes() == a.notes() == {"x": "new", "z": None}


def test_an_import_again_does_nothing(b: CliHost, file: Path) -> None:
    """The same file any number of times."""
    assert b.json("import", file)["applied"] == 2
    before = b.dump()
    again = b.json("import", file)
    assert {key: again[key] for key in ("applied", "older", "conflicting", "held")} == {
        "applied": 0,
        "older": 2,
        "conflicting": 0,
        "held": 0,
    }
    assert b.dump() == before


def test_an_import_comes_home_without_effect(a: CliHost, file: Path) -> None:
    """A host that gets its own file back has all of it already."""
    before = a.notes()
    assert a.json("import", file)["applied"] == 0
    assert a.notes() == before


def test_importing_files_in_any_order_comes_to_the_same(
    a: CliHost, b: CliHost, tmp_path: Path, stick: Path
) -> None:
    """Two hosts' files, in either order, show the same on two further hosts."""
    b.add("x", "from b")
    b.add("w", 3)
    files = [stick / "a.syncd", stick / "b.syncd"]
    for host, path in zip((a, b), files, strict=True):
        assert host.run("export", path).exit_code == 0
    c, d = (CliHost(tmp_path / node, node=node).ready() for node in ("c", "d"))
    for host, order in ((c, files), (d, files[::-1])):
        for path in order:
            assert host.run("import", path).exit_code == 0
    assert c.notes() == d.notes()
    assert c.notes()["x"] == "from b"


def test_a_text_export_and_import_say_what_they_did(a: CliHost, b: CliHost, stick: Path) -> None:
    """One line each, on standard output."""
    path = stick / "all.syncd"
    exported = a.run("export", path)
    assert exported.stdout == f"{path}: 2 changes, {path.stat().st_size} bytes\n"
    imported = b.run("import", path)
    assert (
        imported.stdout == "2 applied, 0 overwritten, 0 ignored as older, 0 conflicting, 0 held\n"
    )


def test_an_export_since_a_file_brings_what_is_new(
    a: CliHost, b: CliHost, stick: Path, file: Path
) -> None:
    """A second stick carries only what the first one's receiver lacks."""
    assert b.run("import", file).exit_code == 0
    a.add("z", 3)
    path = stick / "more.syncd"
    assert a.json("export", path, "--since", file)["changes"] == 1
    assert b.json("import", path)["applied"] == 1
    assert b.notes() == a.notes()


def test_an_export_since_the_receivers_own_file_brings_what_it_lacks(
    a: CliHost, b: CliHost, stick: Path
) -> None:
    """A file of the receiver says what it has, whoever's changes those are."""
    b.add("w", 4)
    theirs = stick / "theirs.syncd"
    assert b.run("export", theirs).exit_code == 0
    assert a.run("import", theirs).exit_code == 0
    path = stick / "lacking.syncd"
    assert a.json("export", path, "--since", theirs)["changes"] == 2
    assert b.json("import", path)["applied"] == 2
    assert b.notes() == a.notes()


def test_a_gap_is_refused_with_a_hint(a: CliHost, b: CliHost, stick: Path, file: Path) -> None:
    """A file that continues from changes that are not here merges nothing and says which."""
    a.add("z", 3)
    path = stick / "more.syncd"
    assert a.run("export", path, "--since", file).exit_code == 0
    before = b.dump()
    refused(
        b.run("import", path),
        "the bundle of a",
        "from 1 to 2",
        "hint: Export everything (without --since)",
    )
    assert b.dump() == before
    assert b.run("import", file).exit_code == 0
    assert b.json("import", path)["applied"] == 1
    assert b.notes() == a.notes()


def test_an_export_for_a_peer_never_heard_of_brings_everything(a: CliHost, stick: Path) -> None:
    """Nothing is known of what it has, so all is sent."""
    a.write_config(peers=[{"name": "b", "url": "http://127.0.0.1:1"}])
    assert a.json("export", stick / "b.syncd", "--since-peer", "b")["changes"] == 2


def test_an_export_for_a_peer_brings_what_it_lacked_when_last_heard_of(
    a: CliHost, b: CliHost, stick: Path
) -> None:
    """What the peer said in its last round is left out."""
    b.add("w", 4)
    with b.serving() as server:
        a.write_config(peers=[{"name": "b", "url": server.url, "push": True}])
        assert a.run("sync").exit_code == 0
        assert a.run("sync").exit_code == 0
    a.add("z", 3)
    path = stick / "b.syncd"
    assert a.json("export", path, "--since-peer", "b")["changes"] == 1
    assert b.json("import", path)["applied"] == 1
    assert b.notes() == a.notes()


def test_an_export_for_a_host_known_by_files_brings_what_it_lacks(
    a: CliHost, b: CliHost, stick: Path, file: Path
) -> None:
    """Without a network nobody is a peer, and each has heard of the other all the same."""
    assert b.run("import", file).exit_code == 0
    assert b.run("export", stick / "back.syncd").exit_code == 0
    assert a.run("import", stick / "back.syncd").exit_code == 0
    a.add("z", 3)
    assert [one["name"] for one in a.json("peers")] == ["b"]
    path = stick / "b.syncd"
    assert a.json("export", path, "--since-peer", "b")["changes"] == 1
    assert b.json("import", path)["applied"] == 1
    assert b.notes() == a.notes()


def test_an_export_for_a_host_that_was_restored_goes_by_its_last_identity(
    a: CliHost, b: CliHost, stick: Path, file: Path
) -> None:
    """What it had before it was made anew, it may lack now."""
    assert b.run("import", file).exit_code == 0
    anew = CliHost(b.folder.parent / "anew", node="b").ready()
    for number, host in enumerate((b, anew)):
        assert host.run("export", stick / f"{number}.syncd").exit_code == 0
        assert a.run("import", stick / f"{number}.syncd").exit_code == 0
    path = stick / "b.syncd"
    assert a.json("export", path, "--since-peer", "b")["changes"] == 2
    assert anew.json("import", path)["applied"] == 2


def test_an_export_for_an_unknown_peer_is_refused(a: CliHost, b: CliHost, stick: Path) -> None:
    """A mistyped name writes no file, and the names that are known are listed."""
    a.write_config(peers=[{"name": "c", "url": "http://127.0.0.1:1"}])
    assert b.run("export", stick / "back.syncd").exit_code == 0
    assert a.run("import", stick / "back.syncd").exit_code == 0
    path = stick / "z.syncd"
    refused(a.run("export", path, "--since-peer", "z"), "there is no peer 'z'; known: b, c")
    assert not path.exists()


def test_both_since_options_exclude_each_other(a: CliHost, stick: Path, file: Path) -> None:
    """Only one of them can say what the receiver has."""
    result = a.run("export", stick / "z.syncd", "--since", file, "--since-peer", "b")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_an_export_never_overwrites(a: CliHost, file: Path) -> None:
    """A file that is there stays as it is, whatever it is."""
    before = file.read_bytes()
    a.add("z", 3)
    refused(a.run("export", file), f"{file} exists already", "hint: Choose another name")
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_export_takes_over_what_a_cut_off_one_left(a: CliHost, stick: Path) -> None:
    """The rest of an export that died is nobody's; nothing of it gets into the new file."""
    (stick / "all.syncd.part").write_bytes(b"half" * 100_000)
    assert a.run("export", stick / "all.syncd").exit_code == 0
    assert a.run("inspect", stick / "all.syncd").exit_code == 0
    assert [path.name for path in stick.iterdir()] == ["all.syncd"]


def test_two_exports_never_write_one_file(a: CliHost, stick: Path) -> None:
    """While one is at work, another of the same name is refused and leaves it alone."""
    part = stick / "all.syncd.part"
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half")
        other.flush()
        refused(a.run("export", stick / "all.syncd"), "another export is writing", "hint: Wait")
        assert part.read_bytes() == b"half"
    assert [path.name for path in stick.iterdir()] == ["all.syncd.part"]


def test_an_export_under_a_name_that_cannot_be_is_one_error(a: CliHost, stick: Path) -> None:
    """What cannot even be looked for cannot be written."""
    refused(a.run("export", stick / ("x" * 256)), "cannot be written: File name too long")


def test_an_export_into_a_folder_that_is_not_there_is_one_error(a: CliHost, stick: Path) -> None:
    """The message names the file and the system's reason."""
    refused(a.run("export", stick / "no" / "all.syncd"), "cannot be written: No such file")


def test_an_export_that_runs_out_of_room_leaves_no_file(a: CliHost, stick: Path) -> None:
    """A full stick is one error; neither half a file nor its rest stays behind."""
    a.sql("INSERT INTO note (name, body) VALUES ('large', randomblob(2000000))")
    assert a.run("export", stick / "first.syncd").exit_code == 0
    path = stick / "second.syncd"
    done = a.process("export", path, file_bytes_max=1_000_000)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path} cannot be written: ")
    assert "Traceback" not in done.stderr
    assert [found.name for found in stick.iterdir()] == ["first.syncd"]


@pytest.mark.parametrize("way_out", ["shorten", "leave out"])
def test_a_value_over_the_bound_is_refused_with_what_helps(
    way_out: str, a: CliHost, b: CliHost, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing behind it is exported, until the value is shortened or its column is left out."""
    monkeypatch.setattr(codec, "FRAME_BYTES_MAX", 100_000)
    a.add("large", "x" * 100_000)
    path = stick / "a.syncd"
    refused(a.run("export", path), "Shorten the value", "columns: {exclude: [...]}")
    if way_out == "shorten":
        a.sql("UPDATE note SET body = 'short' WHERE name = 'large'")
    else:
        for host in (a, b):
            host.write_config(tables={"note": {"key": ["name"], "columns": {"exclude": ["body"]}}})
            assert host.run("init").exit_code == 0
    assert a.run("export", path).exit_code == 0
    assert b.run("import", path).exit_code == 0
    assert b.notes()["large"] == ("short" if way_out == "shorten" else None)


def test_an_export_of_many_rows_is_whole(a: CliHost, b: CliHost, stick: Path) -> None:
    """More than one frame goes into one file, and all of them come out."""
    a.add_many(ROWS_OF_TWO_FRAMES)
    path = stick / "all.syncd"
    assert a.json("export", path)["changes"] == ROWS_OF_TWO_FRAMES + 2
    assert a.json("inspect", path)["frames"] == 2
    assert b.json("import", path)["applied"] == ROWS_OF_TWO_FRAMES + 2
    assert b.notes() == a.notes()


def foreign_file(path: Path, tmp_path: Path) -> None:
    """Write what a host of another vendor exports."""
    other = CliHost(tmp_path / "other", node="other", tree={"sync": {"keys": OTHER_KEYS}}).ready()
    other.add("x", "evil")
    assert other.run("export", path).exit_code == 0


def unsigned(path: Path) -> None:
    """Take the signature off a file."""
    path.write_bytes(path.read_bytes()[: end_of_bundle(path)])


def end_of_bundle(path: Path) -> int:
    """Return where the bundle ends and its signature begins."""
    with path.open("rb") as stream:
        reader = codec.Reader(stream)
        for _ in reader.packed_frames():
            pass
        return stream.tell()


@pytest.mark.parametrize("command", ["import", "inspect"])
@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "ends too early"),
        (b"syncd", "ends too early"),
        (b"SQLite format 3\0" + bytes(4080), "not a syncd bundle"),
        (bytes(100_000), "not a syncd bundle"),
        (b"PK\3\4" * 100, "not a syncd bundle"),
    ],
    ids=["empty", "a few bytes", "a database", "zeros", "an archive"],
)
def test_a_file_that_is_no_bundle_is_one_clear_error(
    content: bytes, fragment: str, command: str, b: CliHost, stick: Path
) -> None:
    """The message names the file and what is wrong with it."""
    path = stick / "x.syncd"
    path.write_bytes(content)
    before = b.dump()
    refused(b.run(command, path), str(path), fragment)
    assert b.dump() == before


@pytest.mark.parametrize("command", ["import", "inspect"])
def test_a_file_that_is_not_there_is_one_clear_error(command: str, b: CliHost, stick: Path) -> None:
    """A missing file and a folder are told apart by the system's reason."""
    refused(b.run(command, stick / "none.syncd"), "cannot be read: No such file")
    refused(b.run(command, stick), "cannot be read: Is a directory")


@pytest.mark.parametrize("options", [(), ("--unsigned",)], ids=["signed", "unsigned"])
@_sharing
@given(cut=st.integers(0, 10**6))
def test_a_truncated_file_is_refused_wherever_it_was_cut(
    options: tuple[str, ...], cut: int, b: CliHost, file: Path
) -> None:
    """A copy that ended early merges nothing, whichever byte it ended at."""
    whole = file.read_bytes()
    bound = end_of_bundle(file) if options else len(whole)
    path = file.with_name("cut.syncd")
    path.write_bytes(whole[: cut % bound])
    before = b.dump()
    refused(b.run("import", path, *options), str(path))
    assert b.dump() == before


@_sharing
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_tampered_file_is_refused_wherever_it_was_changed(
    at: int, bit: int, b: CliHost, file: Path
) -> None:
    """One bit anywhere in the bundle, and not one change of it is merged."""
    spoiled = bytearray(file.read_bytes())
    spoiled[at % end_of_bundle(file)] ^= 1 << bit
    path = file.with_name("tampered.syncd")
    path.write_bytes(spoiled)
    before = b.dump()
    refused(b.run("import", path), str(path))
    assert b.dump() == before


def test_a_file_with_something_behind_it_is_refused(b: CliHost, file: Path) -> None:
    """Bytes that nothing covers do not ride along."""
    before = b.dump()
    for extra in (b"x", bytes(10_000), file.read_bytes()):
        path = file.with_name(f"longer{len(extra)}.syncd")
        path.write_bytes(file.read_bytes() + extra)
        refused(b.run("import", path), str(path))
    assert b.dump() == before


def test_a_change_is_found_before_the_first_frame_is_merged(
    a: CliHost, b: CliHost, stick: Path
) -> None:
    """In a file of several frames a fault in the last one keeps the first one out as well."""
    a.add_many(ROWS_OF_TWO_FRAMES)
    path = stick / "all.syncd"
    assert a.run("export", path).exit_code == 0
    spoiled = bytearray(path.read_bytes())
    spoiled[end_of_bundle(path) - 100] ^= 1
    path.write_bytes(spoiled)
    before = b.dump()
    refused(b.run("import", path), "changed after it was signed")
    assert b.dump() == before


def test_an_unsigned_file_is_checked_before_the_first_frame_is_merged(
    a: CliHost, b: CliHost, stick: Path
) -> None:
    """--unsigned waives the signature, not the promise that a bad file merges nothing."""
    a.add_many(ROWS_OF_TWO_FRAMES)
    path = stick / "all.syncd"
    assert a.run("export", path).exit_code == 0
    spoiled = bytearray(path.read_bytes())
    spoiled[end_of_bundle(path) - 100] ^= 1
    path.write_bytes(spoiled)
    before = b.dump()
    refused(b.run("import", path, "--unsigned"), str(path))
    assert b.dump() == before


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 0, 1)], ids=["last", "first", "one twice"])
def test_a_bundle_with_other_frames_than_it_counts_is_refused(
    kept: tuple[int, ...], a: CliHost, b: CliHost, stick: Path
) -> None:
    """Frames cannot be left out or repeated even where no signature is asked for."""
    a.add_many(ROWS_OF_TWO_FRAMES)
    path = stick / "all.syncd"
    assert a.run("export", path).exit_code == 0
    with path.open("rb") as stream:
        frames = list(codec.Reader(stream).packed_frames())
    records = [b"F" + len(frame).to_bytes(4, "big") + frame for frame in frames]
    whole = path.read_bytes()
    assert len(records) == 2
    assert b"".join(records) in whole
    path.write_bytes(whole.replace(b"".join(records), b"".join(records[n] for n in kept)))
    before = b.dump()
    refused(b.run("import", path, "--unsigned"), "does not count its frames right")
    assert b.dump() == before


def test_a_file_of_another_vendor_is_refused(b: CliHost, stick: Path, tmp_path: Path) -> None:
    """A signature that holds under somebody else's key is worth nothing here."""
    path = stick / "foreign.syncd"
    foreign_file(path, tmp_path)
    before = b.dump()
    refused(b.run("import", path), str(path))
    refused(b.run("inspect", path), str(path))
    assert b.dump() == before


def test_an_unsigned_file_is_refused_with_a_hint(b: CliHost, file: Path) -> None:
    """The way to take it all the same is named."""
    unsigned(file)
    before = b.dump()
    refused(b.run("import", file), "not signed", "hint: ", "--unsigned")
    assert b.dump() == before


def test_unsigned_takes_what_is_not_signed_or_not_by_us(
    b: CliHost, file: Path, stick: Path, tmp_path: Path
) -> None:
    """Said explicitly, a file is taken whoever made it."""
    unsigned(file)
    assert b.json("import", file, "--unsigned")["applied"] == 2
    foreign = stick / "foreign.syncd"
    foreign_file(foreign, tmp_path)
    assert b.run("import", foreign, "--unsigned").exit_code == 0
    assert b.notes() == {"x": "evil", "y": 2}


def test_a_file_signed_with_a_retired_key_is_taken_while_that_is_listed(
    b: CliHost, file: Path
) -> None:
    """Keys rotate under sticks too: every listed key counts, a removed one does not."""
    old, new = b.tree["sync"]["keys"][0], {"id": "k2", "secret": "n" * 40}
    b.write_config(sync={"keys": [new]})
    refused(b.run("import", file), str(file))
    b.write_config(sync={"keys": [new, old]})
    assert b.json("import", file)["applied"] == 2


def test_an_import_before_init_changes_nothing(tmp_path: Path, file: Path) -> None:
    """A file without syncd's tables is refused with the command to run."""
    host = CliHost(tmp_path / "new", node="new")
    host.make_table()
    before = host.dump()
    refused(host.run("import", file), "hint: Run: syncd init")
    assert host.dump() == before


def test_inspect_says_what_a_bundle_holds(a: CliHost, file: Path) -> None:
    """Who made it, what it needs and brings, and how many changes of each kind."""
    found = a.json("inspect", file)
    origin = a.json("status")["origin"]
    assert (found["node"], found["origin"], found["frames"]) == ("a", origin, 1)
    assert found["complete"] is True
    assert found["needs"] == {}
    assert found["brings"] == {f"a {origin[:8]}": 2}
    assert found["tables"] == {"note": {"update": 0, "insert": 2, "delete": 0}}
    text = a.run("inspect", file).stdout
    assert "bundle of a" in text
    assert "needs  nothing" in text
    assert "note" in text


def test_inspect_of_a_continued_bundle_says_what_it_needs(
    a: CliHost, stick: Path, file: Path
) -> None:
    """Updates and deletions are counted apart; the base is named by host."""
    a.sql("UPDATE note SET body = 9 WHERE name = 'x'")
    a.sql("DELETE FROM note WHERE name = 'y'")
    path = stick / "more.syncd"
    assert a.run("export", path, "--since", file).exit_code == 0
    found = a.json("inspect", path)
    name = f"a {found['origin'][:8]}"
    assert (found["needs"], found["brings"]) == ({name: 2}, {name: 4})
    assert found["tables"] == {"note": {"update": 1, "insert": 0, "delete": 1}}


def test_inspect_of_an_empty_hosts_bundle_says_that_it_is_complete(b: CliHost, stick: Path) -> None:
    """Nothing is all that the host has; nothing more follows."""
    path = stick / "empty.syncd"
    assert b.run("export", path).exit_code == 0
    found = b.json("inspect", path)
    assert (found["complete"], found["brings"], found["tables"]) == (True, {}, {})
    assert "more to follow" not in b.run("inspect", path).stdout


def test_inspect_rows_prints_every_change_as_json(a: CliHost, stick: Path) -> None:
    """A line per change, in which every value of SQLite has a form."""
    values: dict[str, Any] = {
        "integer": (2**63 - 1, 2**63 - 1),
        "real": (1.5, 1.5),
        "infinite": (float("inf"), {"real": "inf"}),
        "text": ("olá\n", "olá\n"),
        "blob": (b"\0\xff", {"blob": base64.b64encode(b"\0\xff").decode()}),
        "null": (None, None),
    }
    for name, (value, _) in values.items():
        a.add(name, value)
    a.sql("INSERT INTO note (name, body) VALUES ('raw', CAST(x'ff41' AS TEXT))")
    a.sql("DELETE FROM note WHERE name = 'y'")
    path = stick / "all.syncd"
    assert a.run("export", path).exit_code == 0
    result = a.run("inspect", path, "--rows")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    shown = {line["key"]["name"]: line for line in lines}
    for name, (_, expected) in values.items():
        assert shown[name]["values"] == {"body": expected}
        assert shown[name]["change"] == "insert"
    assert shown["raw"]["values"] == {"body": {"text": base64.b64encode(b"\xffA").decode()}}
    assert (shown["y"]["change"], shown["y"]["values"]) == ("delete", {})
    assert {line["node"] for line in lines} == {"a"}
    assert {line["table"] for line in lines} == {"note"}
    assert sorted(line["seq"] for line in lines) == sorted({line["seq"] for line in lines})


def test_inspect_needs_no_database(file: Path, tmp_path: Path) -> None:
    """A bundle can be looked into on a machine that has only the key, or nothing at all."""
    host = CliHost(tmp_path / "desk", node="desk")
    assert host.json("inspect", file)["node"] == "a"
    assert host.json("inspect", file, "--unsigned")["node"] == "a"
    assert sorted(path.name for path in host.folder.iterdir()) == ["config.yaml"]


def test_inspect_unsigned_needs_no_configuration(file: Path, tmp_path: Path) -> None:
    """`--unsigned` needs no keys, so it needs no configuration either."""
    host = CliHost(tmp_path / "desk", node="desk")
    host.config.unlink()
    assert host.json("inspect", file, "--unsigned")["node"] == "a"
