"""A copied or restored file takes a new origin, and nothing is lost or skipped by it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from engine.hosts import Host
from engine.hosts import pull as pull_from
from syncd import marks
from syncd.config import Config
from syncd.errors import BundleGap, DatabaseError
from syncd.identity import sidecar_of
from syncd.replica import Replica
from syncd.vector import Vector

LOST = {"lost-1", "lost-2"}
DDL = "CREATE TABLE licences (device_id TEXT PRIMARY KEY NOT NULL, status TEXT)"


def open_replica(path: Path, node: str) -> Replica:
    """Open a file as a replica, as a process that starts does."""
    config = Config.model_validate(
        {
            "node": node,
            "database": path,
            "tables": {"licences": {}},
            "sync": {"keys": [{"id": "k1", "secret": "x" * 40}]},
        }
    )
    return Replica(config)


def create(path: Path, node: str) -> Replica:
    """Make a new host's file."""
    write(path, DDL)
    replica = open_replica(path, node)
    replica.enrol()
    return replica


def write(path: Path, *statements: str) -> None:
    """Write as any program would."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def add(path: Path, *names: str) -> None:
    """Insert licences."""
    write(path, *(f"INSERT INTO licences VALUES ('{name}', 'active')" for name in names))


def names(path: Path) -> set[str]:
    """Return the licences that show."""
    connection = sqlite3.connect(path)
    found = {name for (name,) in connection.execute("SELECT device_id FROM licences")}
    connection.close()
    return found


def pull(receiver: Replica, sender: Replica) -> None:
    """Pull everything the sender has; ask anew once if the first answer tells of a fork."""
    forks = receiver.forks()
    try:
        pull_on(receiver, sender)
    except BundleGap:
        if receiver.forks() == forks:
            raise
        pull_on(receiver, sender)


def pull_on(receiver: Replica, sender: Replica) -> None:
    """Pull everything the sender has, as far as the receiver knows what it has itself."""
    while True:
        server = sender.origin()
        rumours = receiver.marks.rumours_of(server)
        told = [mark for mark in (receiver.marks.last_of(server), *rumours) if mark]
        sender.guard.learn(receiver.forks())
        header, frame = sender.changes_since(
            receiver.vector(), receiver.peers.cursor(server), told=told
        )
        receiver.merge(header, frame)
        receiver.marks.hear(header.origin, header.mark, rumours)
        if frame.claim is not None:
            return


def copy(source: Path, target: Path) -> None:
    """Copy a database file as `sqlite3 .backup` would."""
    connection = sqlite3.connect(source)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copyfile(source, target)


def restore(backup: Path, path: Path) -> None:
    """Put a backup in place of a database file, its write-ahead log being of no use any more."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(backup, path)


def put_back(backup: Path, folder: Path) -> None:
    """Restore a whole folder in place, sidecar and all: the inodes stay."""
    for file in folder.iterdir():
        of_then = backup / file.name
        file.write_bytes(of_then.read_bytes() if of_then.exists() else b"")


def test_a_restored_backup_skips_no_change(tmp_path: Path) -> None:
    """Hazard 1: A is restored and gives seqs out again; B, which has the old ones, skips none."""
    path, backup = tmp_path / "a.db", tmp_path / "backup.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    add(path, "one")
    pull(b, a)
    copy(path, backup)
    add(path, "lost-1", "lost-2")
    pull(b, a)
    before = a.origin()
    a.close()
    restore(backup, path)

    a = open_replica(path, "a")
    add(path, "new-1", "new-2", "new-3")
    pull(b, a)
    pull(a, b)

    assert a.origin() != before
    assert "restored" in str(a.status().renewed_why)
    everything = {"one", "lost-1", "lost-2", "new-1", "new-2", "new-3"}
    assert names(path) == names(tmp_path / "b.db") == everything


def test_a_restore_that_grew_past_its_former_self_is_noticed(tmp_path: Path) -> None:
    """More writes than were lost do not hide a restore: the token tells, not the count."""
    path, backup = tmp_path / "a.db", tmp_path / "backup.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    copy(path, backup)
    add(path, "lost")
    pull(b, a)
    a.close()
    restore(backup, path)
    add(path, *(f"new-{n}" for n in range(10)))

    a = open_replica(path, "a")
    pull(b, a)
    pull(a, b)

    assert names(path) == names(tmp_path / "b.db") == {"lost", *(f"new-{n}" for n in range(10))}


def test_a_restore_with_its_sidecar_is_noticed_by_what_peers_have(tmp_path: Path) -> None:
    """A whole folder restored in place agrees with itself; a peer that has more gives it away."""
    folder, backup = tmp_path / "data", tmp_path / "backup"
    folder.mkdir()
    path = folder / "a.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    pull(b, a)
    a.close()
    shutil.copytree(folder, backup)
    add(path, "lost-1", "lost-2")
    a = open_replica(path, "a")
    pull(b, a)
    a.close()
    put_back(backup, folder)

    a = open_replica(path, "a")
    add(path, "new")
    pull(b, a)
    pull(a, b)

    assert names(path) == names(tmp_path / "b.db") == {"lost-1", "lost-2", "new"}


def test_what_a_restored_folder_folded_before_it_met_a_peer_is_not_lost(
    tmp_path: Path,
) -> None:
    """Its seqs are those of lost changes; they reach the peer all the same, and those come back."""
    folder, backup = tmp_path / "data", tmp_path / "backup"
    folder.mkdir()
    path = folder / "a.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    add(path, "sent")
    pull(b, a)
    a.close()
    shutil.copytree(folder, backup)
    add(path, "lost-1", "lost-2")
    a = open_replica(path, "a")
    pull(b, a)
    a.close()
    put_back(backup, folder)

    a = open_replica(path, "a")
    add(path, "new")
    a.fold()
    with pytest.raises(BundleGap):
        pull(a, b)
    pull(a, b)
    pull(b, a)

    assert names(path) == names(tmp_path / "b.db") == {"sent", "lost-1", "lost-2", "new"}
    assert a.vector() == b.vector()


@pytest.mark.parametrize("sent_before", [0, 2])
@pytest.mark.parametrize("meets_another_first", [False, True])
def test_a_restored_folder_that_grew_past_its_former_self_is_noticed(
    tmp_path: Path, sent_before: int, meets_another_first: bool
) -> None:
    """Hazard 1: it has as many changes as its peer knows, and others; what it was told tells."""
    folder, backup = tmp_path / "data", tmp_path / "backup"
    folder.mkdir()
    path = folder / "a.db"
    a, b, c = create(path, "a"), create(tmp_path / "b.db", "b"), create(tmp_path / "c.db", "c")
    if sent_before:
        add(path, *(f"sent-{n}" for n in range(sent_before)))
        pull(b, a)
    a.close()
    shutil.copytree(folder, backup)
    add(path, *sorted(LOST))
    a = open_replica(path, "a")
    before = a.origin()
    pull(b, a)
    a.close()
    put_back(backup, folder)

    a = open_replica(path, "a")
    add(path, "new-0", "new-1")
    if meets_another_first:
        pull(c, a)  # as many as were lost
    add(path, *(f"new-{n}" for n in range(2, 5)))
    if meets_another_first:
        pull(c, a)
    for receiver, sender in ((b, a), (a, b), (c, b), (c, a), (a, c), (b, c)):
        pull(receiver, sender)
    pull(c, b)

    assert a.origin() != before
    assert "another history" in str(a.status().renewed_why)
    everything = LOST | {f"new-{n}" for n in range(5)}
    everything |= {f"sent-{n}" for n in range(sent_before)}
    assert names(path) == names(tmp_path / "b.db") == names(tmp_path / "c.db") == everything
    assert a.vector() == b.vector() == c.vector()
    assert (
        a.forks()
        == b.forks()
        == c.forks()
        == ({before: sent_before} if meets_another_first else {})
    )


@pytest.mark.parametrize("news", [1, 2])
def test_a_fork_is_told_of_by_hosts_between(tmp_path: Path, news: int) -> None:
    """The restored host never meets the one that has what it lost, only one that both know."""
    folder, backup = tmp_path / "data", tmp_path / "backup"
    folder.mkdir()
    path = folder / "a.db"
    a, b, c = create(path, "a"), create(tmp_path / "b.db", "b"), create(tmp_path / "c.db", "c")
    pull(b, a)
    a.close()
    shutil.copytree(folder, backup)
    add(path, *sorted(LOST))
    a = open_replica(path, "a")
    pull(c, a)
    a.close()
    put_back(backup, folder)

    a = open_replica(path, "a")
    added = {f"new-{n}" for n in range(news)}
    for name in sorted(added):
        add(path, name)
    pull(b, a)
    add(tmp_path / "c.db", "other")
    for _ in range(3):
        for receiver, sender in ((b, c), (b, a), (a, b), (c, b)):
            pull(receiver, sender)

    everything = LOST | added | {"other"}
    assert names(path) == names(tmp_path / "b.db") == names(tmp_path / "c.db") == everything
    assert a.vector() == b.vector() == c.vector()


def test_both_halves_of_a_fork_take_a_new_origin(tmp_path: Path) -> None:
    """Two machines run one image: the first to be told renews, and the other hears of it."""
    folder, first, second = tmp_path / "data", tmp_path / "first", tmp_path / "second"
    folder.mkdir()
    path = folder / "a.db"
    a, b, c = create(path, "a"), create(tmp_path / "b.db", "b"), create(tmp_path / "c.db", "c")
    add(path, "early")
    pull(b, a)
    before = a.origin()
    a.close()
    shutil.copytree(folder, first)
    add(path, "one")
    a = open_replica(path, "a")
    pull(b, a)
    a.close()
    shutil.copytree(folder, second)
    put_back(first, folder)
    add(path, "two", "three")
    a = open_replica(path, "a")
    pull(c, a)
    pull(b, a)
    renewed = a.origin()
    a.close()
    assert renewed != before
    shutil.rmtree(first)
    shutil.copytree(folder, first)
    put_back(second, folder)

    a = open_replica(path, "a")
    assert a.origin() == before
    add(path, "four")
    for receiver, sender in ((a, b), (a, b), (b, a), (c, b), (b, c), (a, b)):
        pull(receiver, sender)

    assert a.origin() not in (before, renewed)
    assert "another file" in str(a.status().renewed_why)
    assert a.vector() == b.vector() == c.vector()
    everything = {"early", "one", "two", "three", "four"}
    assert names(path) == names(tmp_path / "b.db") == names(tmp_path / "c.db") == everything


def test_a_forked_origin_counts_no_further(tmp_path: Path) -> None:
    """Neither for the host whose own it was."""
    path = tmp_path / "a.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    add(path, "one", "two", "three")
    pull(b, a)
    before = a.origin()
    a.guard.learn({before: 1})
    assert a.origin() != before
    assert a.vector()[before] == 1
    pull(b, a)
    assert (a.vector(), a.forks()) == (b.vector(), b.forks())
    assert names(tmp_path / "b.db") == {"one", "two", "three"}


def test_a_file_from_before_a_fork_can_be_read(tmp_path: Path) -> None:
    """What only it has is merged; what it claims counts no further than the fork."""
    folder, backup = tmp_path / "data", tmp_path / "backup"
    folder.mkdir()
    path = folder / "a.db"
    a, b, c = create(path, "a"), create(tmp_path / "b.db", "b"), create(tmp_path / "c.db", "c")
    a.close()
    shutil.copytree(folder, backup)
    add(path, *sorted(LOST))
    a = open_replica(path, "a")
    before = a.origin()
    header, frames = a.frames_since(Vector())
    of_then = list(frames)
    a.close()
    put_back(backup, folder)
    a = open_replica(path, "a")
    add(path, "new-1", "new-2", "new-3")
    pull(c, a)
    c.guard.learn({before: 0})
    pull(b, c)

    for frame in of_then:
        b.merge(header, frame)
    pull(c, b)

    everything = LOST | {"new-1", "new-2", "new-3"}
    assert names(tmp_path / "b.db") == names(tmp_path / "c.db") == everything
    assert before not in b.vector()


def test_marks_are_forgotten_without_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that was away for longer than marks are remembered proves nothing."""
    monkeypatch.setattr(marks, "MARKS_MAX", 3)
    path = tmp_path / "a.db"
    a, b, c = create(path, "a"), create(tmp_path / "b.db", "b"), create(tmp_path / "c.db", "c")
    add(path, "early")
    pull(c, a)
    for n in range(5):
        add(path, f"n{n}")
        pull(b, a)
    a.compact()
    sidecar = sqlite3.connect(sidecar_of(path))
    assert sidecar.execute("SELECT count(*) FROM said").fetchone() == (3,)
    sidecar.close()
    pull(c, a)
    assert a.status().renewed_why is None
    assert names(tmp_path / "c.db") == names(path)


def test_a_restored_folder_and_its_former_self_fuse_no_generated_rows(tmp_path: Path) -> None:
    """Two events that were born under one seq, before and after the restore, stay two."""
    folder, backup = tmp_path / "data", tmp_path / "backup"
    folder.mkdir()
    ddl = "CREATE TABLE events (id INTEGER PRIMARY KEY, what TEXT)"
    a = Host(folder, "a", ddl=ddl, tables={"events": "generated"})
    b = Host(tmp_path, "b", ddl=ddl, tables={"events": "generated"})
    pull_from(b, a)
    a.close()
    shutil.copytree(folder, backup)
    a.writer = a.connect()
    a.write("INSERT INTO events (what) VALUES ('lost-1')")
    a.write("INSERT INTO events (what) VALUES ('lost-2')")
    pull_from(b, a)
    a.close()
    put_back(backup, folder)
    a.writer = a.connect()
    a.write("INSERT INTO events (what) VALUES ('new')")
    a.replica.fold()
    with pytest.raises(BundleGap):
        pull_from(a, b)
    pull_from(a, b)
    pull_from(b, a)

    for host in (a, b):
        events = {what for (what,) in host.rows("SELECT what FROM events")}
        assert events == {"lost-1", "lost-2", "new"}
        host.close()


@pytest.mark.parametrize("with_sidecar", [False, True])
def test_a_copied_file_becomes_a_replica_of_its_own(tmp_path: Path, with_sidecar: bool) -> None:
    """Copying the file to start the next host makes two origins of one, with or without sidecar."""
    path, copied = tmp_path / "a.db", tmp_path / "b.db"
    a = create(path, "a")
    add(path, "shared")
    a.fold()
    copy(path, copied)
    if with_sidecar:
        copy(sidecar_of(path), sidecar_of(copied))
    b = open_replica(copied, "b")
    add(path, "of-a")
    add(copied, "of-b")
    pull(a, b)
    pull(b, a)

    assert a.origin() != b.origin()
    assert a.status().renewed_why is None
    assert b.status().renewed_why is not None
    assert names(path) == names(copied) == {"shared", "of-a", "of-b"}


def test_a_copy_under_the_same_name_is_told_apart_by_its_file(tmp_path: Path) -> None:
    """Two machines that run copies of one folder under one host name do not share an origin."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    a = create(first / "a.db", "a")
    add(first / "a.db", "shared")
    a.fold()
    a.close()
    shutil.copytree(first, second)
    a, twin = open_replica(first / "a.db", "a"), open_replica(second / "a.db", "a")
    add(first / "a.db", "of-first")
    add(second / "a.db", "of-second")
    pull(a, twin)
    pull(twin, a)

    assert a.origin() != twin.origin()
    assert names(first / "a.db") == names(second / "a.db") == {"shared", "of-first", "of-second"}


@pytest.mark.parametrize("is_there", [True, False], ids=["replaced", "removed"])
def test_nothing_is_done_in_a_file_that_has_no_name_any_more(
    tmp_path: Path, is_there: bool
) -> None:
    """A daemon that runs on has the former file open, and its sidecar tells of the new one."""
    path, other = tmp_path / "a.db", tmp_path / "other.db"
    running = create(path, "a")
    add(path, "one")
    origin = running.origin()
    copy(path, other)
    path.unlink()
    if is_there:
        other.rename(path)
    for work in (running.version, running.status, running.fold, running.origin):
        with pytest.raises(DatabaseError, match="replaced or removed while it was open"):
            work()
    running.close()
    if is_there:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        assert open_replica(path, "a").origin() != origin
        assert names(path) == {"one"}


def test_a_renamed_host_loses_nothing(tmp_path: Path) -> None:
    """Another name is another origin; what was written before and after arrives all the same."""
    path = tmp_path / "a.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    add(path, "before")
    pull(b, a)
    add(path, "unsent")
    a.close()
    renamed = open_replica(path, "anew")
    add(path, "after")
    pull(b, renamed)

    assert names(tmp_path / "b.db") == {"before", "unsent", "after"}
    assert "called" in str(renamed.status().renewed_why)


def test_an_emptied_disk_starts_over_and_gets_everything_back(tmp_path: Path) -> None:
    """A free host whose disk is wiped is a new replica, filled by its peers, its own writes too."""
    path = tmp_path / "a.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    add(path, "mine")
    pull(b, a)
    a.close()
    for file in tmp_path.glob("a.db*"):
        file.unlink()
    a = create(path, "a")
    pull(a, b)
    assert names(path) == {"mine"}


def test_a_restart_is_no_reason_for_a_new_origin(tmp_path: Path) -> None:
    """Identity survives restarts, vacuum and a crash between any two steps of remembering."""
    path = tmp_path / "a.db"
    a, b = create(path, "a"), create(tmp_path / "b.db", "b")
    for n in range(3):
        add(path, f"n{n}")
        pull(b, a)
        write(path, "VACUUM")
        a.close()
        a = open_replica(path, "a")
    assert a.status().renewed_why is None
    assert names(tmp_path / "b.db") == {"n0", "n1", "n2"}
