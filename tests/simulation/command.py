"""`python -m tests.simulation`: run seeds, shrink what fails, and print how to run it again.

With one seed it tells the story of that run; with a range it is a campaign over all cores, with its
progress, and a summary of what failed by kind. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence

import click

from simulation import run
from simulation.plan import Plan, of_seed
from simulation.run import Failure

PROGRESS_S = 10
_CHUNK = 8
_LAST, _LINE = 8, 500


@click.command()
@click.option("--seed", type=int, help="Run this seed and tell what happened.")
@click.option("--steps", help="Of the seed's plan, run these steps only, such as 0,3,7-9.")
@click.option("--seeds", default=100, show_default=True, help="Run this many seeds.")
@click.option("--start", default=0, show_default=True, help="The first of them.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes to use.")
def main(seed: int | None, steps: str | None, seeds: int, start: int, jobs: int) -> None:
    """Simulate hosts that write, exchange, crash and are restored, and check what must hold.

    A seed decides everything that happens, so it can be run again. A failing seed is shrunk to the
    few steps that matter.
    """
    logging.disable(logging.CRITICAL)
    if seed is None:
        sys.exit(_campaign(range(start, start + seeds), jobs))
    plan = of_seed(seed)
    kept = _numbers(steps) if steps is not None else None
    sys.exit(_tell(plan, kept))


def _tell(plan: Plan, kept: list[int] | None) -> int:
    """Run one plan, print its steps, and shrink it if it fails."""
    outcome = run.play(plan if kept is None else plan.only(kept))
    if outcome.failure is None:
        click.echo(describe(plan, list(range(len(plan.steps))) if kept is None else kept))
        click.echo(f"all is well; trace {outcome.trace}")
        return 0
    report(plan, outcome.failure, run.shrink(plan, outcome.failure) if kept is None else kept)
    return 1


def report(plan: Plan, failure: Failure, kept: list[int]) -> None:
    """Print what failed, the steps that lead there, and the command that runs them again."""
    outcome = run.play(plan.only(kept))
    failure = outcome.failure or failure
    click.echo(describe(plan, kept))
    click.echo("what happened last:")
    click.echo("\n".join(f"    {line[:_LINE]}" for line in outcome.story[-_LAST:]))
    click.echo(f"seed {plan.seed} fails: {failure.kind}\n{failure.message}")
    click.echo(
        f"again: python -m tests.simulation --seed {plan.seed} --steps {_ranges(kept) or 'none'}"
    )


def describe(plan: Plan, kept: Sequence[int]) -> str:
    """Return a plan in words, with the numbers of its steps."""
    head = (
        f"seed {plan.seed}: {len(plan.versions)} hosts with schema versions {plan.versions},"
        f" tables {plan.world}, roads {plan.roads}, clocks off by {plan.skews_ms} ms,"
        f" foreign keys {'enforced' if plan.enforced else 'not enforced'}"
    )
    return "\n".join([head, *(f"{number:4} {plan.steps[number]}" for number in kept)])


def _campaign(seeds: range, jobs: int) -> int:
    """Run many seeds; return the exit code."""
    failed: dict[int, Failure] = {}
    started = last = time.monotonic()
    with multiprocessing.Pool(jobs) as pool:
        for count, (seed, failure) in enumerate(pool.imap_unordered(_one, seeds, _CHUNK), 1):
            if failure is not None:
                failed[seed] = failure
                click.echo(f"seed {seed} fails: {failure.kind}: {failure.message[:200]}")
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                rate = count / (last - started)
                click.echo(
                    f"{count} of {len(seeds)} seeds, {len(failed)} failed, {rate:.1f} a second,"
                    f" {(len(seeds) - count) / rate:.0f} s to go",
                    err=True,
                )
    for seed, failure in _first_of_each_kind(failed):
        click.echo()
        plan = of_seed(seed)
        report(plan, failure, run.shrink(plan, failure))
    kinds = sorted({failure.kind for failure in failed.values()})
    for kind in kinds:
        which = sorted(seed for seed, failure in failed.items() if failure.kind == kind)
        click.echo(f"{kind}: {len(which)} seeds: {' '.join(map(str, which[:20]))}")
    seconds = time.monotonic() - started
    click.echo(f"{len(seeds)} seeds in {seconds:.0f} s, {len(failed)} failed")
    return 1 if failed else 0


def _one(seed: int) -> tuple[int, Failure | None]:
    logging.disable(logging.CRITICAL)
    return seed, run.play(of_seed(seed)).failure


def _first_of_each_kind(failed: dict[int, Failure]) -> Iterator[tuple[int, Failure]]:
    told = set()
    for seed, failure in sorted(failed.items()):
        if failure.kind not in told:
            told.add(failure.kind)
            yield seed, failure


def _numbers(text: str) -> list[int]:
    """Read numbers and ranges, such as 0,3,7-9."""
    numbers: list[int] = []
    for part in text.split(",") if text != "none" else []:
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as `_numbers` reads them."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)
