"""From a seed to a plan: hosts, roads, clocks, and the steps that they take.

A plan is a function of its seed and of nothing else. Each draws how likely every kind of step is,
so that some plans are all crashes, some all clocks, and some leave a kind out altogether ("Swarm
testing", Groce et al., 2012); where everything happens in everything, little happens twice.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.simulation import Statement

from simulation import shapes
from simulation.shapes import APART, KEYS, REFERRED, REQUIRED, VALUES, Shapes
from simulation.steps import (
    Absence,
    Backup,
    Carry,
    Compact,
    Crash,
    Damage,
    Deliver,
    Existing,
    Fault,
    Fold,
    Forget,
    Look,
    Partition,
    Pass,
    Rehearse,
    Release,
    ReleaseHeld,
    Rename,
    RepairClock,
    Restore,
    Revive,
    Round,
    SetClock,
    Step,
    Upgrade,
    Verify,
    Wipe,
    Write,
)
from syncd.config import Sync

STEPS_MAX = 60
HOUR_MS = 3_600_000
RETENTION_MS = Sync.model_fields["retention"].default
# Within the drift, and far outside it: a day and a year ahead, an hour back, 1970.
SMALL_SKEWS_MS = (0, 0, 0, 1, -1, 1_000, -60_000, 100_000)
GREAT_SKEWS_MS = (24 * HOUR_MS, 365 * 24 * HOUR_MS, -HOUR_MS, -1_700_000_000_000, 301_000)

Roads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """A run of a world. roads: pairs (receiver, sender).

    versions: of each host's schema at the start. enforced: whether writers have SQLite enforce
    foreign keys, which it does not by itself.
    """

    seed: int
    world: str
    roads: Roads
    skews_ms: tuple[int, ...]
    versions: tuple[int, ...]
    enforced: bool
    steps: tuple[Step, ...]

    @property
    def tables(self) -> Shapes:
        """The tables of its hosts."""
        return shapes.WORLDS[self.world]

    @property
    def imaged(self) -> bool:
        """Whether its hosts keep images of their tables by triggers."""
        return self.seed % 3 == 0

    @property
    def volumes(self) -> bool:
        """Whether its hosts stand on volumes: a copy is put back with its sidecar, in place.

        Only where all hosts meet and keep what they were told, nothing is from the future and the
        retention does not pass: beyond that there are known limits.
        """
        hosts = len(self.versions)
        set_to = [step.skew_ms for step in self.steps if isinstance(step, SetClock)]
        return (
            self.seed % 2 == 0
            and len(self.roads) == hosts * (hosts - 1)
            and {*self.skews_ms, *set_to} <= set(SMALL_SKEWS_MS)
            and not any(isinstance(step, Absence | Compact) for step in self.steps)
        )

    def only(self, kept: Sequence[int]) -> Plan:
        """Return the plan with some of its steps."""
        return dataclasses.replace(self, steps=tuple(self.steps[n] for n in kept))


def of_seed(seed: int) -> Plan:
    """Return the plan of a seed."""
    return _Drawing(random.Random(seed)).plan(seed)


class _Drawing:
    """Draws the parts of one plan."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def plan(self, seed: int) -> Plan:
        dice = self.dice
        hosts = dice.choice([2, 3, 3, 4, 5])
        world = dice.choice(list(shapes.WORLDS))
        tables = list(shapes.WORLDS[world])
        # Where all happens in few tables, their rows meet more often.
        self.tables = tables[: dice.choice([len(tables), len(tables), 3, 1])]
        self.wild = dice.random() < 0.3
        self.skews = SMALL_SKEWS_MS + (GREAT_SKEWS_MS if self.wild else ())
        # Where all clocks stand still together, readings are equal.
        self.still = not self.wild and dice.random() < 0.25
        if self.still:
            self.skews = (0,)
        aging = dice.random() < 0.5
        kinds = self._kinds(aging)
        existing = [self._existing() for _ in range(dice.choice([0, 0, 1, 2]))]
        count = dice.randint(10, STEPS_MAX)
        chosen = dice.choices(list(kinds), list(kinds.values()), k=count)
        plan = Plan(
            seed,
            world,
            dice.choice(_nets(hosts)),
            tuple(dice.choice(self.skews) for _ in range(hosts)),
            tuple(dice.choice([1, 2]) if aging else 2 for _ in range(hosts)),
            # A number that refers to nothing would mean another row as soon as it is given again.
            world in ("numbered", "kindred") or dice.random() < 0.7,
            (*existing, *(draw() for draw in chosen)),
        )
        if dice.random() < 0.3:
            return dataclasses.replace(plan, steps=(*plan.steps, self._absence()))
        # Clocks that are off by more than the retention, for as long as that, and rows born on
        # hosts that lack a column, once their former deaths are forgotten, are known limits.
        set_to = [step.skew_ms for step in plan.steps if isinstance(step, SetClock)]
        most_ms = max(map(abs, (*plan.skews_ms, *set_to)))
        if most_ms < RETENTION_MS and set(plan.versions) == {2} and dice.random() < 0.5:
            return dataclasses.replace(plan, steps=tuple(self._aging(plan.steps)))
        if plan.volumes:
            return dataclasses.replace(plan, steps=tuple(self._set_back(plan.steps)))
        return plan

    def _aging(self, drawn: Sequence[Step]) -> Iterator[Step]:
        """Let the retention pass, and hosts forget, in the midst of all else."""
        for step in drawn:
            if self.dice.random() < 0.15:
                for table in self.tables:
                    yield Write(self._host(), (self._insert("INSERT", table),))
                    yield Write(self._host(), (self._delete(table),))
                yield Pass(RETENTION_MS + HOUR_MS)
                for _ in range(self.dice.randint(1, 4)):
                    yield Compact(self._host())
            yield step

    def _set_back(self, drawn: Sequence[Step]) -> Iterator[Step]:
        """Set volumes back, and have hosts write before and after, in the midst of all else."""
        for step in drawn:
            if self.dice.random() < 0.05:
                host = self._host()
                yield Backup(host)
                for kind in (Restore(host, -1, "volume"), None):
                    for _ in range(self.dice.randint(1, 3)):
                        yield Write(host, (self._insert("INSERT OR REPLACE"),))
                        yield self._round()
                    if kind:
                        yield kind
            yield step

    def _kinds(self, aging: bool) -> dict[Callable[[], Step], float]:
        """Return how likely each kind of step is in this plan."""
        kinds: dict[Callable[[], Step], float] = {self._write: 12, self._round: 8}
        rare: dict[Callable[[], Step], float] = {
            self._faulty_round: 4,
            self._deliver: 3,
            self._carry: 2,
            self._partition: 1,
            self._set_clock: 1,
            self._pass: 1.5,
            self._fold: 1.5,
            self._release: 1,
            self._revive: 1,
            self._look: 0.5,
            self._rehearse: 0.5,
            self._crash: 3,
            self._rename: 0.3,
            self._wipe: 0.3,
            self._forget: 0.5,
            self._damage: 1,
            self._verify: 0.7,
        }
        chosen = {kind: weight for kind, weight in rare.items() if self.dice.random() < 0.6}
        if self.dice.random() < 0.4:
            chosen |= {self._backup: 1.5, self._restore: 1.5}
        if self.wild:
            chosen |= {self._release_held: 1, self._repair_clock: 1, self._set_clock: 2}
        if aging:
            chosen[self._upgrade] = 1
        for kind, weight in chosen.items():
            kinds[kind] = weight * self.dice.choice([1, 1, 3])
        return kinds

    def _host(self) -> int:
        return self.dice.randrange(5)

    def _road(self) -> int:
        return self.dice.randrange(20)

    def _existing(self) -> Existing:
        statements = tuple(self._insert("INSERT") for _ in range(self.dice.randint(1, 3)))
        return Existing(self._host(), statements)

    def _write(self) -> Write:
        statements = tuple(self._statement() for _ in range(self.dice.choice([1, 1, 1, 2, 3])))
        return Write(
            self._host(),
            statements,
            self.dice.random() < 0.9,
            0 if self.still else self.dice.choice([0, 0, 1, 7]),
        )

    def _round(self) -> Round:
        busy = self.dice.random() < 0.3
        return Round(
            self._road(),
            self.dice.random() < 0.2,
            self.dice.choice([None, 1, 2, 3]),
            None,
            self.dice.randint(1, 3) if busy else 0,
            self.dice.randrange(4),
        )

    def _faulty_round(self) -> Round:
        kind = self.dice.choice(["request", "answer", "cut"])
        fault = Fault(kind, self.dice.choice([0, 0, 1, 1, 2]), self.dice.randrange(1000))
        return dataclasses.replace(self._round(), fault=fault)

    def _deliver(self) -> Deliver:
        share = self.dice.choice([1000, 1000, 1000, self.dice.randrange(1000)])
        return Deliver(self.dice.randrange(100), self._host(), share)

    def _carry(self) -> Carry:
        return Carry(
            self._road(),
            self.dice.random() < 0.3,
            self.dice.choice([None, 1, 2, 3]),
            self.dice.choice([1000, self.dice.randrange(1000)]),
        )

    def _partition(self) -> Partition:
        return Partition(self.dice.choice([0, self.dice.randrange(32)]))

    def _set_clock(self) -> SetClock:
        return SetClock(self._host(), self.dice.choice(self.skews))

    def _pass(self) -> Pass:
        return Pass(self.dice.choice([1, 2, 1_000, 200_000, HOUR_MS]))

    def _fold(self) -> Fold:
        return Fold(self._host(), self.dice.randint(1, 3))

    def _release(self) -> Release:
        return Release(self._host())

    def _release_held(self) -> ReleaseHeld:
        return ReleaseHeld(self._host(), self.dice.choice([None, self.dice.randrange(20)]))

    def _repair_clock(self) -> RepairClock:
        return RepairClock(self._host())

    def _rehearse(self) -> Rehearse:
        return Rehearse(self._host(), self.dice.randrange(100))

    def _revive(self) -> Revive:
        return Revive(self._host(), self.dice.randrange(20))

    def _look(self) -> Look:
        return Look(self._host())

    def _verify(self) -> Verify:
        table = self.dice.choice(self.tables)
        unseen = self._update(table, APART[table]) if table in APART else None
        return Verify(self._road(), self.dice.random() < 0.5, unseen)

    def _damage(self) -> Damage:
        alone = [table for table in self.tables if table not in REFERRED]
        table = self.dice.choice(alone or self.tables)
        is_birth = self.dice.random() < 0.5 or not alone
        return Damage(
            self._host(), self._insert("INSERT", table) if is_birth else self._delete(table)
        )

    def _upgrade(self) -> Upgrade:
        return Upgrade(self._host())

    def _backup(self) -> Backup:
        return Backup(self._host())

    def _restore(self) -> Restore:
        how = self.dice.choice(["content", "file", "bare"])
        return Restore(self._host(), self.dice.randrange(5), how)

    def _wipe(self) -> Wipe:
        return Wipe(self._host())

    def _rename(self) -> Rename:
        return Rename(self._host())

    def _forget(self) -> Forget:
        return Forget(self._host(), self._host())

    def _crash(self) -> Crash:
        if self.dice.random() < 0.5:
            return Crash(self._host(), "statement", int(self.dice.triangular(0, 200, 0)))
        unit = self.dice.choice(["commit", "committed"])
        return Crash(self._host(), unit, self.dice.randint(1, 5))

    def _absence(self) -> Absence:
        writes = tuple(self._write() for _ in range(self.dice.randint(3, 8)))
        away, is_heard = self._host(), self.dice.random() < 0.5
        # It writes to what the others delete meanwhile.
        table = self.dice.choice(self.tables)
        crossing = Write(away, (self._update(table),)), Write(away + 1, (self._delete(table),))
        return Absence(away, (*writes, *crossing), is_heard)

    def _statement(self) -> Statement:
        table = self.dice.choice(self.tables)
        kinds: list[Callable[[], Statement]] = [
            lambda: self._insert("INSERT", table),
            lambda: self._insert("INSERT", table),
            lambda: self._update(table),
            lambda: self._update(table),
            lambda: self._delete(table),
        ]
        if not shapes.ALL[table].generated:
            kinds += [
                lambda: self._insert("INSERT OR REPLACE", table),
                lambda: self._insert("INSERT OR IGNORE", table),
                lambda: self._upsert(table),
            ]
        if not shapes.ALL[table].generated:
            kinds.append(lambda: self._rekey(table))
        if table == "devices":
            kinds.append(self._through_the_id)
        drawn = self.dice.choice(kinds)()
        return dataclasses.replace(drawn, undone=self.dice.random() < 0.05)

    def _row(self, table: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Draw a row to insert: its key, and values for every column that has no default."""
        values = {
            name: self.dice.choice(choices)
            for name, choices in VALUES[table].items()
            if name in REQUIRED or self.dice.random() < 0.5
        }
        return self.dice.choice(KEYS[table]), values

    def _insert(self, verb: str, table: str | None = None) -> Statement:
        table = table or self.dice.choice(self.tables)
        key, values = self._row(table)
        if shapes.ALL[table].generated:
            values = values or {"what": key[0]}
            key = ()
        names = [*(self._key(table) if key else ()), *values]
        marks = ", ".join(shapes.REFERENCES.get(name, "?") for name in names)
        sql = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({marks})"
        born = None if verb == "INSERT OR IGNORE" or not key else key
        return Statement(table, sql, (*key, *values.values()), born)

    def _upsert(self, table: str) -> Statement:
        insert = self._insert("INSERT", table)
        name = self.dice.choice(list(VALUES[table]))
        conflict = f" ON CONFLICT ({', '.join(self._key(table))})"
        sql = f"{insert.sql}{conflict} DO UPDATE SET {name} = excluded.{name}"
        return Statement(table, sql, insert.values)

    def _update(self, table: str, among: Sequence[str] = ()) -> Statement:
        choices = {n: values for n, values in VALUES[table].items() if not among or n in among}
        names = self.dice.sample(list(choices), self.dice.randint(1, len(choices)))
        values = [self.dice.choice(choices[name]) for name in names]
        marks = [f"{name} = {shapes.REFERENCES.get(name, '?')}" for name in names]
        sql = f"UPDATE {table} SET {', '.join(marks)}"
        if self.dice.random() < 0.2:
            return Statement(table, sql, tuple(values))
        key = self.dice.choice(KEYS[table])
        return Statement(table, f"{sql} WHERE {self._key_is(table)}", (*values, *key))

    def _delete(self, table: str) -> Statement:
        if self.dice.random() < 0.15:
            return Statement(table, f"DELETE FROM {table}")
        key = self.dice.choice(KEYS[table])
        return Statement(table, f"DELETE FROM {table} WHERE {self._key_is(table)}", key)

    def _rekey(self, table: str) -> Statement:
        old, new = self.dice.sample(KEYS[table], 2)
        verb = self.dice.choice(["UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"])
        sets = ", ".join(f"{name} = ?" for name in self._key(table))
        sql = f"{verb} {table} SET {sets} WHERE {self._key_is(table)}"
        # Where it replaces another row, that one's key dies and is born again.
        return Statement(table, sql, (*new, *old), new)

    def _through_the_id(self) -> Statement:
        """Draw a write through the local id, which itself is nobody else's business."""
        victim, key = self.dice.choice(KEYS["devices"]), self.dice.choice(KEYS["devices"])
        id_of = "(SELECT id FROM devices WHERE device_id = ?)"
        kind = self.dice.choice(["local", "REPLACE", "IGNORE", "move", "move OR REPLACE"])
        if kind == "local":
            return Statement("devices", "UPDATE devices SET id = id + 1000")
        if kind.startswith("move"):
            verb = "UPDATE" + kind.removeprefix("move")
            sql = f"{verb} devices SET id = {id_of}, note = id WHERE device_id = ?"
            return Statement("devices", sql, (*victim, *key))
        sql = (
            f"INSERT OR {kind} INTO devices (id, device_id, status)"
            f" VALUES ({id_of}, ?, 'through the id')"
        )
        return Statement("devices", sql, (*victim, *key), key if kind == "REPLACE" else None)

    def _key(self, table: str) -> tuple[str, ...]:
        return shapes.ALL[table].key

    def _key_is(self, table: str) -> str:
        if shapes.ALL[table].generated:
            return f"id = (SELECT max(id) FROM {table} WHERE what = ?)"
        return " AND ".join(f"{name} = ?" for name in self._key(table))


def _nets(hosts: int) -> list[Roads]:
    """Return the roads (receiver, sender) of nets in which everybody hears of everybody."""
    line = [(n, n + 1) for n in range(hosts - 1)]
    star = [(0, n) for n in range(1, hosts)]
    return [
        _both_ways(line),
        _both_ways(star),
        tuple((n, (n + 1) % hosts) for n in range(hosts)),
        tuple((a, b) for a in range(hosts) for b in range(hosts) if a != b),
    ]


def _both_ways(roads: Sequence[tuple[int, int]]) -> Roads:
    return tuple(road for a, b in roads for road in ((a, b), (b, a)))
