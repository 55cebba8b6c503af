"""Volumes that are set back with the sidecar on them, and hosts that hear of it by odd roads."""

from __future__ import annotations

import functools
import io
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.hosts import DAY_MS, copy_image, small_frames
from engine.test_identity import LOST, add, create, names, open_replica, pull, put_back, write
from syncd import bundle, codec
from syncd.clock import hlc_of_ms
from syncd.identity import Identity, sidecar_of
from syncd.replica import Replica
from syncd.vector import Vector

NEW = {f"new-{n}" for n in range(5)}


class Host:
    """A host in a folder of its own."""

    def __init__(self, folder: Path, node: str) -> None:
        self.folder, self.node = folder / node, node
        self.path = self.folder / "site.db"
        self._backup = folder / f"backup of {node}"
        if self.folder.exists():
            self.replica: Replica = open_replica(self.path, node)
        else:
            self.folder.mkdir()
            self.replica = create(self.path, node)

    @property
    def names(self) -> set[str]:
        """The licences that show."""
        return names(self.path)

    def add(self, *new: str) -> None:
        """Insert licences."""
        add(self.path, *new)

    def back_up(self) -> None:
        """Copy the volume."""
        self.replica.close()
        shutil.copytree(self.folder, self._backup)
        self.replica = open_replica(self.path, self.node)

    def set_back(self) -> None:
        """Put the copy in place of the volume."""
        self.replica.close()
        put_back(self._backup, self.folder)
        self.replica = open_replica(self.path, self.node)

    def with_its_image(self, folder: Path) -> Host:
        """Start another machine from an image of the disk, on which files keep their inodes."""
        self.replica.close()
        copy_image(self.path, folder / self.node)
        self.replica = open_replica(self.path, self.node)
        return Host(folder, self.node)

    def lose_sidecar(self) -> None:
        """Delete what stands beside the database."""
        self.replica.close()
        for file in self.folder.glob(f"{sidecar_of(self.path).name}*"):
            file.unlink()
        self.replica = open_replica(self.path, self.node)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, Host]]:
    """Three hosts; the first is the one that is set back."""
    made = Host(tmp_path, "a"), Host(tmp_path, "b"), Host(tmp_path, "c")
    yield made
    for host in made:
        host.replica.close()


def marks_of(host: Host) -> int:
    """Return how often a host has noted what it was about to say."""
    connection = sqlite3.connect(sidecar_of(host.path))
    ((count,),) = connection.execute("SELECT count(*) FROM said")
    connection.close()
    assert isinstance(count, int)
    return count


def exported(host: Host) -> bytes:
    """Return a file of all that a host has."""
    header, frames = host.replica.frames_since(Vector())
    stream = io.BytesIO()
    codec.write(stream, header, frames)
    return stream.getvalue()


def take_in(host: Host, file: bytes) -> None:
    """Import a file."""
    reader = codec.Reader(io.BytesIO(file))
    for packed in reader.packed_frames():
        host.replica.merge_packed(reader.header, packed)


def _days_from_now(days: int) -> int:
    return int(time.time() * 1000) + days * DAY_MS


def meet(*hosts: Host) -> None:
    """Let all pull from all, until they must have everything."""
    for _ in range(3):
        for receiver in hosts:
            for sender in hosts:
                if receiver is not sender:
                    pull(receiver.replica, sender.replica)


def test_a_file_tells_of_it(hosts: tuple[Host, Host, Host]) -> None:
    """Nothing but files goes to and fro, and the one that tells has the lost changes, too."""
    a, b, _ = hosts
    a.add("early")
    take_in(b, exported(a))
    a.back_up()
    a.add(*sorted(LOST))
    take_in(b, exported(a))
    a.set_back()
    a.add(*sorted(NEW))
    a.replica.fold()
    for _ in range(2):
        take_in(a, exported(b))
        take_in(b, exported(a))
    assert a.names == b.names == {"early"} | LOST | NEW


def test_its_own_file_tells_of_it(hosts: tuple[Host, Host, Host]) -> None:
    """It is of the other history, of which nobody else has heard."""
    a, *_ = hosts
    a.add("early")
    exported(a)
    a.back_up()
    a.add(*sorted(LOST))
    file, before = exported(a), a.replica.origin()
    a.set_back()
    a.add(*sorted(NEW))
    take_in(a, file)
    take_in(a, file)
    assert a.replica.origin() != before
    assert a.names == {"early"} | LOST | NEW


def test_many_files_before_leave_room_for_the_one_that_tells(
    hosts: tuple[Host, Host, Host],
) -> None:
    """What came by files is never told to its origin and adds up; the newest are kept as well."""
    a, b, _ = hosts
    early = {f"early-{n}" for n in range(25)}
    for name in sorted(early):
        a.add(name)
        take_in(b, exported(a))
    a.back_up()
    a.add(*sorted(LOST))
    take_in(b, exported(a))
    b.add("of b")
    a.set_back()
    a.add(*sorted(NEW))
    for _ in range(2):
        take_in(a, exported(b))
        take_in(b, exported(a))
    assert a.names == b.names == early | LOST | NEW | {"of b"}


def test_a_file_that_tells_of_a_fork_is_read_for_what_it_has(
    hosts: tuple[Host, Host, Host],
) -> None:
    """Its reader has passed over what it has, by seqs that do not count any more."""
    a, b, c = hosts
    a.back_up()
    a.add(*sorted(LOST))
    pull(c.replica, a.replica)
    forked = a.replica.origin()
    a.set_back()
    a.add(*sorted(NEW))
    pull(b.replica, a.replica)
    c.replica.guard.learn({forked: 0})
    take_in(b, exported(c))
    assert b.names == LOST | NEW


def test_deletions_that_are_forgotten_hide_no_other_history(
    hosts: tuple[Host, Host, Host],
) -> None:
    """A host that claims no less than it has forgotten has nothing of the changes beside that."""
    a, b, c = hosts
    a.add("early")
    meet(a, b, c)
    forked, shared = a.replica.origin(), a.replica.vector()[a.replica.origin()]
    a.back_up()
    a.add(*sorted(LOST))
    write(a.path, "DELETE FROM licences WHERE device_id <> 'early'")
    pull(c.replica, a.replica)
    c.replica.wall_ms = lambda: int(time.time() * 1000) + 400 * DAY_MS
    assert c.replica.compact().deaths == len(LOST)
    c.replica.wall_ms = lambda: int(time.time() * 1000)
    a.set_back()
    a.add("new-1", "new-2")
    pull(b.replica, a.replica)
    for host in (b, c):
        host.replica.guard.learn({forked: shared})
    meet(b, c)
    assert b.names == c.names == {"early", "new-1", "new-2"}
    assert b.replica.vector() == c.replica.vector()


def test_a_clock_that_was_ahead_hides_nothing(hosts: tuple[Host, Host, Host]) -> None:
    """The second history says what it does at readings that the first one had reached before."""
    a, b, c = hosts
    a.add("early")
    meet(a, b, c)
    a.back_up()
    a.add(*sorted(LOST))
    a.replica.wall_ms = lambda: int(time.time() * 1000) + 120_000
    pull(b.replica, a.replica)
    a.set_back()
    for name in sorted(NEW):
        a.add(name)
        pull(c.replica, a.replica)
    meet(a, b, c)
    assert a.names == b.names == c.names == {"early"} | LOST | NEW


def test_a_pull_is_noted_once_and_a_copy_amid_it_shares_it(
    hosts: tuple[Host, Host, Host],
) -> None:
    """All of it was there when its first frame was noted. What comes later is noted again."""
    a, b, c = hosts
    a.add("early", *sorted(LOST))
    noted = []
    with small_frames(1):
        for frames in range(3):
            _, frame = a.replica.changes_since(b.replica.vector(), frames)
            assert (frame.claim is None) == (frames < 2)
            noted.append(marks_of(a))
            if frames == 0:
                a.back_up()
    assert len(set(noted)) == 1
    pull(b.replica, a.replica)
    a.set_back()
    pull(b.replica, a.replica)
    assert a.replica.forks() == {}
    a.add(*sorted(NEW))
    meet(a, b, c)
    assert marks_of(a) > noted[0]
    assert a.replica.forks() == {}
    assert a.names == b.names == c.names == {"early"} | LOST | NEW


def test_a_seq_alone_tells_of_it(hosts: tuple[Host, Host, Host]) -> None:
    """Who was told has lost its sidecar; that there is another history is certain all the same."""
    a, b, c = hosts
    a.add("early")
    meet(a, b, c)
    a.back_up()
    a.add(*sorted(LOST))
    pull(b.replica, a.replica)
    a.set_back()
    a.add("new")
    pull(c.replica, a.replica)
    b.lose_sidecar()
    meet(b, a, c)
    assert a.names == b.names == c.names == {"early", "new"} | LOST


def test_of_two_processes_that_see_it_one_begins_anew(hosts: tuple[Host, Host, Host]) -> None:
    """The slower one must not take away what was said in between."""
    a, b, _ = hosts
    a.add("early")
    pull(b.replica, a.replica)
    identity = Identity(a.path, "a", lambda: b"o" * 16)
    mark = b.replica.marks.last_of(a.replica.origin())
    assert mark is not None
    with a.replica.writing() as connection:
        identity.begin(connection, 0)
    assert identity.marks.has_said(mark)
    identity.close()


def test_of_two_processes_that_send_the_slower_takes_nothing_back(
    hosts: tuple[Host, Host, Host],
) -> None:
    """What was sent stays sent, and the last mark is that of all of it; each has one of its own."""
    a, *_ = hosts
    a.add("one", "two", "three")
    a.replica.fold()
    identity = Identity(a.path, "a", lambda: b"o" * 16)
    with a.replica.writing() as connection:
        for seq in (3, 2):
            identity.note_sending(connection, seq, seq, 0)
        sent = identity.sent(connection)
    assert sent is not None
    assert sent.seq == 3
    two, three = (identity.marks.last(seq) for seq in (2, 3))
    assert two is not None
    assert three is not None
    assert 0 < two.hlc < three.hlc
    identity.close()


@pytest.mark.parametrize("days", [0, 3])
@pytest.mark.parametrize("met_before", [False, True], ids=["strangers", "acquainted"])
def test_one_image_on_two_machines_loses_nothing(
    hosts: tuple[Host, Host, Host], days: int, met_before: bool
) -> None:
    """Hazard 1: both go on under one origin for days, and nobody whom they meet knows the other."""
    a, b, c = hosts
    a.add("early")
    if met_before:
        meet(a, b, c)
    twin = a.with_its_image(a.folder.parent / "elsewhere")
    for day in range(days + 1):
        for host in (a, twin, b, c):
            host.replica.wall_ms = functools.partial(_days_from_now, day)
        for number in range(2):
            a.add(f"of a on day {day}, {number}")
            pull(b.replica, a.replica)
        for number in range(3):
            twin.add(f"of its twin on day {day}, {number}")
            pull(c.replica, twin.replica)
    meet(b, c)
    meet(a, b)
    meet(twin, c)
    meet(a, twin, b, c)
    twin.replica.close()
    assert len(a.names) == 1 + 5 * (days + 1)
    assert a.names == twin.names == b.names == c.names
    assert a.replica.vector() == twin.replica.vector() == b.replica.vector() == c.replica.vector()


def test_two_histories_whose_clocks_read_the_same_say_different_things(
    hosts: tuple[Host, Host, Host],
) -> None:
    """So does a clock that stands behind what was merged; the seqs are the same as well."""
    a, *_ = hosts
    a.add("early")
    a.replica.fold()
    twin = a.with_its_image(a.folder.parent / "elsewhere")
    said = []
    for host in (a, twin):
        identity = Identity(host.path, "a", lambda: b"o" * 16)
        with host.replica.writing() as connection:
            for seq in (2, 3):
                identity.note_sending(connection, seq, seq, 0)
        said.append([identity.marks.last(seq) for seq in (2, 3)])
        identity.close()
    twin.replica.close()
    assert said[0] != said[1]


def test_a_fork_is_followed_as_far_as_the_mark_that_comes_with_it_says(
    hosts: tuple[Host, Host, Host],
) -> None:
    """What a host is told of a fork may be that of two others, which have parted later."""
    a, b, c = hosts
    a.add("early")
    pull(b.replica, a.replica)
    forked = a.replica.origin()
    twin = a.with_its_image(a.folder.parent / "elsewhere")
    for host, other in ((a, b), (twin, c)):
        host.add("new-1", "new-2", "new-3")
        pull(other.replica, host.replica)
    twin.replica.close()
    mark = c.replica.marks.last_of(forked)
    assert mark is not None
    a.replica.guard.learn({forked: 3}, [mark])
    assert a.replica.forks() == {forked: 1}


def test_with_a_mark_go_earlier_ones_from_ever_further_back(
    hosts: tuple[Host, Host, Host],
) -> None:
    """However old the last is that two histories share, one is at most four times as old."""
    a, *_ = hosts
    a.replica.fold()
    identity = Identity(a.path, "a", lambda: b"o" * 16)
    ages_s = [2**n for n in range(20, -1, -1)]
    with a.replica.writing() as connection:
        for seq, age_s in enumerate(ages_s):
            identity.note_sending(connection, seq, seq, _days_from_now(300) - age_s * 1000)
    last = identity.marks.last(len(ages_s) - 1)
    identity.close()
    assert last is not None
    said_s = [round((last.hlc - one) / hlc_of_ms(1000)) for one in last.earlier]
    assert said_s == [1, *(2**n - 1 for n in range(2, 21, 2)), 300 * 86_400 - 1]


def test_of_many_rumours_the_oldest_and_the_newest_go_along(
    hosts: tuple[Host, Host, Host],
) -> None:
    """They stand in every bundle that says anything."""
    a, *_ = hosts
    identity = Identity(a.path, "a", lambda: b"o" * 16)
    told = [bundle.Mark(n, n) for n in range(1, 50)]
    for mark in told:
        identity.marks.hear_rumours({b"x" * 16: [mark]})
    (passed_on,) = identity.marks.to_pass_on([b"x" * 16]).values()
    assert passed_on[0] == told[0]
    assert passed_on[-1] == told[-1]
    assert len(passed_on) == 3
    identity.close()
