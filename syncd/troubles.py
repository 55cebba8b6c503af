"""Troubles: what the jobs of a daemon cannot do for now, said once.

A full disk or a held lock fails every job over and over, and each goes on by itself once the cause
is gone. So an error is logged with its hint when the first job has it, and once more when the last
job is over it. Nothing is decided here, and nothing is kept beyond the process.
"""

from __future__ import annotations

import logging
import threading

from syncd.errors import SyncError

log = logging.getLogger(__name__)


class Troubles:
    """The troubles of a daemon, by job; shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, str] = {}

    def has(self, job: str, error: SyncError) -> None:
        """Note that a job has failed, and say so if no job has failed like that before."""
        with self._lock:
            is_news = str(error) not in self._now.values()
            self._now[job] = str(error)
        log.log(logging.ERROR if is_news else logging.DEBUG, "%s: %s", job, error.explained())

    def is_over(self, job: str) -> None:
        """Note that a job works, and say so if it was the last to have its trouble."""
        with self._lock:
            trouble = self._now.pop(job, None)
            is_news = trouble is not None and trouble not in self._now.values()
        if is_news:
            log.info("%s: works again, after: %s", job, trouble)
