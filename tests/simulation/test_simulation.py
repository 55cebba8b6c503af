"""Simulated hosts keep every invariant, and the simulator finds what it is there to find."""

from __future__ import annotations

import functools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulation import bugs, command, run
from simulation.bugs import Bug
from simulation.plan import of_seed
from simulation.run import Outcome
from simulation.steps import Existing, Step

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (*range(15, 45), 7200020, 8500009, 8500251, 10002280)
"""As few as together go everywhere and find every mistake."""


@functools.cache
def played(seed: int) -> Outcome:
    """Run a seed, once."""
    return run.play(of_seed(seed))


@pytest.fixture(autouse=True)
def _logs_come_back() -> Iterator[None]:
    """The command silences all logs of its process, which here is that of other tests too."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_invariant_holds_at_every_step(seed: int) -> None:
    """A failure prints the command that shrinks it: python -m tests.simulation --seed N."""
    failure = played(seed).failure
    assert failure is None, f"python -m tests.simulation --seed {seed}: {failure}"


def test_the_seeds_together_go_everywhere() -> None:
    """Every kind of step is taken, every kind of death is died, and every fault is met."""
    story = "\n".join(line for seed in SEEDS for line in played(seed).story)
    for kind in Step.__args__:
        assert kind is Existing or re.search(rf"^{kind.__name__}\(", story, re.M), kind
    for outcome in (
        *("done", "ok", "died", "gone", "bundle_gap", "bundle_truncated"),
        *("peer_unreachable", "peer_misbehaved"),
    ):
        assert f" -> {outcome}\n" in story


@pytest.mark.parametrize("seed", [7, 8])
def test_a_seed_is_one_run(seed: int) -> None:
    """Also in another process, where Python orders its sets differently."""
    script = (
        "import logging; logging.disable(); from simulation import plan, run;"
        f"print(run.play(plan.of_seed({seed})).trace)"
    )
    again = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONHASHSEED": "1234"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == played(seed).trace == run.play(of_seed(seed)).trace


def test_two_seeds_are_two_runs() -> None:
    """The trace is of what happened, or comparing it would prove nothing."""
    assert len({played(seed).trace for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("bug", bugs.ALL, ids=lambda bug: bug.__name__)
def test_a_bug_put_in_on_purpose_is_found(bug: Bug) -> None:
    """By seeds that pass without it."""
    with bug():
        found = next((seed for seed in SEEDS if run.play(of_seed(seed)).failure), None)
    assert found is not None
    assert played(found).failure is None


def test_a_failing_seed_is_shrunk_to_steps_that_can_be_run_again() -> None:
    """What is printed is a command, and it fails in the same way as the whole plan."""
    seed = 7
    with bugs.claim_beyond_a_cut_frame():
        told = CliRunner().invoke(command.main, ["--seed", str(seed)])
        assert told.exit_code == 1
        again = re.search(r"python -m tests\.simulation (--seed \d+ --steps [\d,-]+)$", told.output)
        assert again is not None
        retold = CliRunner().invoke(command.main, again[1].split())
        whole = run.play(of_seed(seed)).failure
    assert whole is not None
    assert f"seed {seed} fails: {whole.kind}\n" in retold.output
    assert len(re.findall(r"^ +\d+ \w+\(", retold.output, re.M)) < len(of_seed(seed).steps) / 3
    well = CliRunner().invoke(command.main, again[1].split())
    assert well.exit_code == 0
    assert "all is well" in well.output


def test_a_campaign_counts_and_names_what_failed() -> None:
    """Each kind of failure is shown once, with the seeds that have it."""
    with bugs.capture_what_is_merged():
        told = CliRunner().invoke(command.main, ["--seeds", "2", "--jobs", "1"])
    assert told.exit_code == 1
    assert re.search(r"^invented: 2 seeds: 0 1$", told.output, re.M)
    assert told.output.count("again: python -m tests.simulation --seed 0 --steps ") == 1
    assert re.search(r"^2 seeds in \d+ s, 2 failed$", told.output, re.M)
