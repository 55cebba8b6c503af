"""What a host does from time to time beside answering.

Owns when a job is due. Several workers may serve one database: a job is claimed there before it
runs, so that one of them runs it. A job that fails is logged and runs again at its next time. What
the jobs do is the business of their modules.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from api.clock import Clock
from api.store import Store

LOOK_EVERY_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Name something to do, and how often."""

    name: str
    every: timedelta
    run: Callable[[], object]


class Jobs:
    """Run jobs when they are due."""

    def __init__(self, store: Store, clock: Clock, jobs: Sequence[Job]) -> None:
        self._store = store
        self._clock = clock
        self._jobs = jobs

    def start(self) -> None:
        """Look for due jobs in the background, as long as the process lives."""
        threading.Thread(target=self._look, name="jobs", daemon=True).start()

    def run_due(self) -> None:
        """Run what is due now."""
        for job in self._jobs:
            if self._claim(job):
                try:
                    job.run()
                except Exception:
                    log.exception("job %s failed", job.name)

    def _look(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_EVERY_S):
            try:
                self.run_due()
            except Exception:
                log.exception("jobs cannot be claimed")

    def _claim(self, job: Job) -> bool:
        now_s = self._clock().timestamp()
        due_s = now_s - job.every.total_seconds()
        with self._store.writing() as connection:
            claimed = connection.execute(
                """
                INSERT INTO job_runs (name, ran_s) VALUES (?1, ?2)
                ON CONFLICT (name) DO UPDATE SET ran_s = excluded.ran_s
                 WHERE ran_s <= ?3 OR ran_s > ?2
                """,
                (job.name, now_s, due_s),
            )
        return claimed.rowcount == 1
