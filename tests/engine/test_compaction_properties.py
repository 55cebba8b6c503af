"""Whoever forgets what, whenever, and however long hosts are silent: all end with equal tables."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.hosts import DAY_MS, Clock, Host, pull, scratch, settle, small_frames
from engine.test_properties import thorough
from syncd import codec
from syncd.codec import Reader
from syncd.vector import Vector

HOSTS = 3
RETENTION_DAYS = 90


@dataclass(frozen=True)
class Insert:
    """A host inserts a device."""

    host: int
    device: int


@dataclass(frozen=True)
class Update:
    """A host writes one column of a device."""

    host: int
    device: int
    column: str


@dataclass(frozen=True)
class Delete:
    """A host deletes a device."""

    host: int
    device: int


@dataclass(frozen=True)
class Exchange:
    """A host pulls from another, in frames of some size, perhaps cut off after some."""

    receiver: int
    sender: int
    frame_entries: int | None
    frames_max: int | None


@dataclass(frozen=True)
class Carry:
    """A file with everything goes from one host to another, perhaps cut off after some frames."""

    receiver: int
    sender: int
    frame_entries: int | None
    frames_max: int | None


@dataclass(frozen=True)
class Compact:
    """A host forgets what it may."""

    host: int


@dataclass(frozen=True)
class Days:
    """Time passes for everybody."""

    days: int


@dataclass(frozen=True)
class Meet:
    """Two hosts tell each other everything."""

    one: int
    other: int


Step = Meet | Insert | Update | Delete | Exchange | Carry | Compact | Days


class Fleet:
    """Hosts under one clock. once: a device is inserted once and never again, on whatever host."""

    def __init__(self, folder: Path, *, once: bool = False) -> None:
        self.once = once
        self.clock = Clock()
        self.hosts = [Host(folder, f"h{n}", clock=self.clock) for n in range(HOSTS)]
        self.inserted: dict[str, None] = {}
        self.deleted: set[str] = set()
        self.writes = 0

    def close(self) -> None:
        """Close every host's connections."""
        for host in self.hosts:
            host.close()

    def run(self, steps: Iterable[Step]) -> None:
        """Take the steps."""
        for step in steps:
            match step:
                case Insert(host, number):
                    device = f"d{number}"
                    known = self.inserted if self.once else self.hosts[host].devices()
                    if device not in known:
                        self.hosts[host].write(
                            "INSERT INTO devices (device_id, status) VALUES (?, ?)",
                            device,
                            self._value(),
                        )
                        self.inserted[device] = None
                case Update(host, number, column):
                    sql = f"UPDATE devices SET {column} = ? WHERE device_id = ?"
                    self.hosts[host].write(sql, self._value(), f"d{number}")
                case Delete(host, number):
                    if self.hosts[host].write(
                        "DELETE FROM devices WHERE device_id = ?", f"d{number}"
                    ):
                        self.deleted.add(f"d{number}")
                case Exchange(receiver, sender, frame_entries, frames_max):
                    if receiver != sender:
                        pull(
                            self.hosts[receiver],
                            self.hosts[sender],
                            frame_entries=frame_entries,
                            frames_max=frames_max,
                        )
                case Meet(one, other):
                    if one != other:
                        settle(self.hosts[one], self.hosts[other])
                case Carry():
                    self._carry(step)
                case Compact(host):
                    self.hosts[host].replica.compact()
                case Days(days):
                    self.clock.ms += days * DAY_MS

    def check_converged(self) -> None:
        """All hosts show the same, and what was never deleted."""
        settle(*self.hosts)
        shown = [host.devices() for host in self.hosts]
        assert shown[1:] == shown[:-1]
        assert len({host.replica.vector() for host in self.hosts}) == 1
        assert shown[0].keys() >= self.inserted.keys() - self.deleted
        for receiver in self.hosts:
            assert receiver.rows("PRAGMA integrity_check") == [("ok",)]
            for sender in self.hosts:
                if receiver is not sender:
                    assert [frame.sections for _, frame in pull(receiver, sender)] == [[]]

    def _value(self) -> str:
        self.writes += 1
        return f"v{self.writes}"

    def _carry(self, step: Carry) -> None:
        receiver, sender = self.hosts[step.receiver], self.hosts[step.sender]
        file = io.BytesIO()
        with small_frames(step.frame_entries):
            codec.write(file, *sender.replica.frames_since(Vector()))
        file.seek(0)
        reader = Reader(file)
        for count, frame in enumerate(reader):
            if count == step.frames_max:
                break
            receiver.replica.merge(reader.header, frame)


HOST, DEVICE = st.integers(0, HOSTS - 1), st.integers(0, 2)
ENTRIES, CUT = st.sampled_from([None, None, 1, 2]), st.sampled_from([None, None, None, 1, 2])
LONG_DAYS = RETENTION_DAYS + 10


def _writes(host: st.SearchStrategy[int], device: st.SearchStrategy[int]) -> list[Any]:
    return [
        st.builds(Insert, host, device),
        st.builds(Update, host, device, st.sampled_from(["status", "note"])),
        st.builds(Delete, host, device),
    ]


STEPS = st.one_of(
    *_writes(HOST, DEVICE),
    st.builds(Exchange, HOST, HOST, ENTRIES, CUT),
    st.builds(Meet, HOST, HOST),
    st.builds(Carry, HOST, HOST, ENTRIES, CUT),
    st.builds(Compact, HOST),
    st.builds(Days, st.sampled_from([1, 40, LONG_DAYS])),
)


@thorough
@given(st.lists(STEPS, min_size=5, max_size=40))
def test_hosts_agree_whatever_they_have_forgotten(steps: list[Step]) -> None:
    """Also where each has forgotten what the other lacks; what nobody deleted is never lost."""
    with scratch() as folder:
        fleet = Fleet(Path(folder))
        try:
            fleet.run(Insert(number % HOSTS, number) for number in range(2))
            settle(*fleet.hosts)
            fleet.run(steps)
            fleet.check_converged()
        finally:
            fleet.close()


AWAY = HOSTS - 1
MANY = st.integers(0, 9)


@thorough
@given(
    st.lists(
        st.one_of(
            *_writes(HOST, MANY),
            st.sampled_from([Meet(0, 1), Days(40), Days(LONG_DAYS), Compact(0), Compact(1)]),
        ),
        min_size=4,
        max_size=20,
    ),
    st.lists(
        st.one_of(st.builds(Exchange, HOST, HOST, ENTRIES, CUT), st.builds(Compact, HOST)),
        max_size=8,
    ),
)
def test_a_host_that_returns_brings_back_nothing_and_loses_nothing(
    apart: list[Step], again: list[Step]
) -> None:
    """One host is silent for as long as it likes while the others forget. Every device is inserted
    once: in the end those show that nobody deleted, and no other."""
    with scratch() as folder:
        fleet = Fleet(Path(folder), once=True)
        try:
            fleet.run(Insert(number % HOSTS, number) for number in range(6))
            settle(*fleet.hosts)
            for step in apart:
                fleet.run([step])
                if isinstance(step, Days):
                    settle(*fleet.hosts[:AWAY])
            fleet.run([Days(LONG_DAYS), Meet(0, 1), Compact(0), *again])
            fleet.check_converged()
            shown = fleet.hosts[0].devices().keys()
            assert shown == fleet.inserted.keys() - fleet.deleted
        finally:
            fleet.close()
