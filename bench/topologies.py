"""`python -m bench.topologies`: how news spreads through 50 hosts, in rounds and in bytes.

The hosts are replicas of the real engine, in one process, without a network: a round is one pull of
every host from each of its neighbours, in random order, and bytes are those of the bundles that
would go over the wire. Every host writes some rows first; it is counted how long it takes until all
have everything, and how often a change travels. It has to travel once for every host but the one
that wrote it; whatever is above that is flooding.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import random
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from syncd import Config, Replica, codec

HOSTS = 50
ROWS_A_HOST = 20
NEIGHBOURS = 4
"""In the random graph, on average."""

Links = set[tuple[int, int]]


def ring(hosts: int, _: random.Random) -> Links:
    """Every host knows the one before and the one behind it."""
    return {(i, (i + 1) % hosts) for i in range(hosts)}


def star(hosts: int, _: random.Random) -> Links:
    """Every host knows the first one."""
    return {(0, i) for i in range(1, hosts)}


def graph(hosts: int, chance: random.Random) -> Links:
    """Hosts know each other at random, and there is a way from each to each."""
    tree = {(chance.randrange(i), i) for i in range(1, hosts)}
    pairs = [pair for pair in itertools.combinations(range(hosts), 2) if pair not in tree]
    return tree | set(chance.sample(pairs, hosts * NEIGHBOURS // 2 - len(tree)))


TOPOLOGIES: dict[str, Callable[[int, random.Random], Links]] = {
    "ring": ring,
    "star": star,
    "random graph": graph,
}


@dataclass(frozen=True)
class Result:
    """How news spread. known: after each round, the part of what all hosts together shall know."""

    topology: str
    links: int
    rounds: int
    bytes_a_host: float
    times_travelled: float
    known: tuple[float, ...]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.topologies", description=__doc__)
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw the spreading of news into this file")
    options = parser.parse_args()
    results = []
    for name, links_of in TOPOLOGIES.items():
        chance = random.Random(options.seed)
        with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder:
            links = links_of(options.hosts, chance)
            results.append(_spread(name, Path(folder), options.hosts, links, chance))
    if options.plot:
        _plot(results, options.plot)
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
        return
    print(f"{options.hosts} hosts, {ROWS_A_HOST} rows written on each before the first round\n")
    rows = [
        {
            "topology": result.topology,
            "links": result.links,
            "rounds": result.rounds,
            "bytes a host": round(result.bytes_a_host),
            "times a change travelled": f"{result.times_travelled:.2f}",
            "times at least": options.hosts - 1,
        }
        for result in results
    ]
    print(tabulate(rows, headers="keys", disable_numparse=True))


def _spread(name: str, folder: Path, hosts: int, links: Links, chance: random.Random) -> Result:
    replicas = [_replica(folder / f"{number}.db", number) for number in range(hosts)]
    changes = hosts * ROWS_A_HOST
    travelled = sent_bytes = rounds = 0
    known = [1 / hosts]
    pairs = [pair for link in links for pair in (link, link[::-1])]
    while known[-1] < 1:
        chance.shuffle(pairs)
        for receiver, sender in pairs:
            rows, size = _pull(replicas[receiver], replicas[sender])
            travelled += rows
            sent_bytes += size
        rounds += 1
        known.append(sum(sum(r.vector().values()) for r in replicas) / (changes * hosts))
    for replica in replicas:
        replica.close()
    return Result(name, len(links), rounds, sent_bytes / hosts, travelled / changes, tuple(known))


def _replica(path: Path, number: int) -> Replica:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE notes (name TEXT PRIMARY KEY, body TEXT)")
    replica = Replica(
        Config.model_validate(
            {
                "node": f"host-{number}",
                "database": path,
                "tables": {"notes": {}},
                "sync": {"keys": [{"id": "k1", "secret": "0" * 40}]},
            }
        )
    )
    replica.enrol()
    rows = [(f"{number}-{row}", "something to say") for row in range(ROWS_A_HOST)]
    connection.executemany("INSERT INTO notes VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    return replica


def _pull(receiver: Replica, sender: Replica) -> tuple[int, int]:
    """Have one round; return how many changes came, in how many bytes."""
    rows = size = 0
    while True:
        after = receiver.peers.cursor(sender.origin())
        header, frame = sender.changes_since(receiver.vector(), after)
        stream = io.BytesIO()
        codec.write(stream, header, [frame])
        size += len(stream.getvalue())
        rows += sum(len(section) for section in frame.sections)
        receiver.merge(header, frame)
        if frame.claim is not None:
            return rows, size


def _plot(results: Sequence[Result], file: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415  (only drawing needs it)

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for result in results:
        axes.plot(result.known, label=result.topology, marker=".")
    axes.set(xlabel="rounds", ylabel="known, of all changes on all hosts", ylim=(0, 1.05))
    axes.legend()
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
