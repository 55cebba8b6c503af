"""The daemon: a round with every peer on a schedule, and at once when there is news.

One job a peer, so that a slow peer delays nobody, one that folds and one that compacts; a job never
overlaps itself. One daemon serves a
database file, held by a lock that the system drops when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import random
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from syncd import exchange, wire
from syncd.config import Peer
from syncd.errors import DaemonRunning, DatabaseError, DatabaseMissing, SyncError
from syncd.replica import Replica
from syncd.troubles import Troubles
from syncd.watch import Nudger, Watch

log = logging.getLogger(__name__)

COMPACT_EVERY_S = 3600
STOP_WITHIN_S = 10
"""How long a stopping daemon waits for frames that are being merged."""


def run(replica: Replica, stopping: threading.Event) -> None:
    """Enrol, then sync on schedule until `stopping` is set.

    Raises `DaemonRunning` if another daemon has the database, `DatabaseError` if none can have it,
    `SchemaError` if it cannot be enrolled.
    """
    with _lock(replica.config.database, replica.config.node):
        for enrolled in replica.enrol():
            if enrolled.state != "unchanged":
                log.info("table %s: %s", enrolled.table, enrolled.state)
            for warning in enrolled.warnings:
                log.warning("table %s: %s", enrolled.table, warning)
        troubles = Troubles()
        scheduler = _scheduler(replica, troubles)
        rounds = [
            _Rounds(replica, peer, scheduler, troubles, stopping) for peer in replica.config.peers
        ]
        for of_peer in rounds:
            of_peer.plan()
        scheduler.start()
        _start_watching(replica, rounds, troubles, stopping)
        log.info(
            "%s: syncing %s with %d peers",
            replica.config.node,
            replica.config.database,
            len(replica.config.peers),
        )
        stopping.wait()
        log.info("stopping")
        _finish(scheduler)


class _Rounds:
    """The rounds with one peer, never two at once: each plans the next."""

    def __init__(
        self,
        replica: Replica,
        peer: Peer,
        scheduler: BackgroundScheduler,
        troubles: Troubles,
        stopping: threading.Event,
    ) -> None:
        self.peer = peer
        self._replica = replica
        self._client = exchange.client_of(replica, peer, sleep=functools.partial(_sleep, stopping))
        self._scheduler = scheduler
        self._troubles = troubles
        self._stopping = stopping
        self._lock = threading.Lock()
        self._is_running = self._is_wanted = False
        self._job: Job | None = None

    def plan(self, after_s: float = 0.0) -> None:
        """Have the next round after a pause."""
        at = datetime.now(UTC) + timedelta(seconds=after_s)
        self._job = self._scheduler.add_job(self._run, trigger="date", run_date=at)

    def wake(self) -> None:
        """Have a round now, or once more if one is running."""
        with self._lock:
            self._is_wanted = True
            if self._job is not None and not self._is_running:
                # It may be about to start, which is as good.
                with contextlib.suppress(JobLookupError):
                    self._job.modify(next_run_time=datetime.now(UTC))

    def _run(self) -> None:
        with self._lock:
            self._is_running, self._is_wanted = True, False
        is_next_due = False
        try:
            is_next_due = self._one_round()
        finally:
            with self._lock:
                self._is_running = False
                if not self._stopping.is_set():
                    self.plan(0.0 if is_next_due or self._is_wanted else self._pause_s())

    def _pause_s(self) -> float:
        # Hosts that started together shall not always ask together.
        jitter = random.uniform(0.9, 1.1)  # noqa: S311
        return self._replica.config.sync.interval / 1000 * jitter

    def _one_round(self) -> bool:
        """Run a round; say whether the peer lets us wait for news, so that the next is due."""
        sync = self._replica.config.sync
        # One that cannot run a daemon may have a single thread, which clients need. And whoever
        # waits too long takes a peer for asleep.
        patience_ms = min(sync.interval, sync.wake_within // 2, wire.WAIT_MS_MAX)
        wait_ms = 0 if self.peer.push else patience_ms
        try:
            outcome = exchange.run_round(
                self._replica, self._client, self._stopping.is_set, wait_ms=wait_ms
            )
        except exchange.Stopped:
            log.info("round with %s: stopped between two frames", self.peer.name)
            return False
        except SyncError as error:
            # The round could not even be recorded; the next one may.
            self._troubles.has(f"round with {self.peer.name}", error)
            return False
        if outcome.ok:
            self._troubles.is_over(f"round with {self.peer.name}")
        waited = wait_ms > 0 and outcome.seconds * 1000 >= wait_ms / 2
        has_news = wait_ms > 0 and outcome.applied > 0
        return outcome.ok and (waited or has_news)


def _scheduler(replica: Replica, troubles: Troubles) -> BackgroundScheduler:
    interval_s = replica.config.sync.interval / 1000
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(len(replica.config.peers) + 2)},
        job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        timezone="UTC",
    )
    # Peers fold what they are about to pull; a host that nobody pulls from must not let it pile up.
    # As often as it is long, a retention that is shorter than the usual pause.
    compaction_s = max(min(COMPACT_EVERY_S, replica.config.sync.retention / 1000), interval_s)
    for job, seconds in ((_tend, interval_s), (_compact, compaction_s)):
        scheduler.add_job(
            functools.partial(job, replica, troubles),
            trigger="interval",
            seconds=seconds,
            jitter=seconds / 10,
            next_run_time=datetime.now(UTC),
        )
    return scheduler


def _start_watching(
    replica: Replica, rounds: Sequence[_Rounds], troubles: Troubles, stopping: threading.Event
) -> None:
    nudgers = {
        of_peer.peer.name: Nudger(replica, exchange.client_of(replica, of_peer.peer))
        for of_peer in rounds
        if not of_peer.peer.push
    }
    watch = Watch(
        replica, {of_peer.peer.name: of_peer.wake for of_peer in rounds}, nudgers, troubles
    )
    for run in (watch.run, *(nudger.run for nudger in nudgers.values())):
        threading.Thread(target=run, args=(stopping,), daemon=True).start()


def _tend(replica: Replica, troubles: Troubles) -> None:
    try:
        replica.fold()
        replica.release()
    except SyncError as error:
        troubles.has("fold", error)
    else:
        troubles.is_over("fold")


def _compact(replica: Replica, troubles: Troubles) -> None:
    try:
        forgotten = replica.compact()
    except SyncError as error:
        troubles.has("compaction", error)
        return
    troubles.is_over("compaction")
    if forgotten.deaths or forgotten.conflicts:
        log.info(
            "forgot %d deletions and %d conflicts that are past sync.retention",
            forgotten.deaths,
            forgotten.conflicts,
        )


def _sleep(stopping: threading.Event, seconds: float) -> None:
    if stopping.wait(seconds):
        raise exchange.Stopped


def _finish(scheduler: BackgroundScheduler) -> None:
    """Let running frames end, but not for longer than `STOP_WITHIN_S`."""
    # A job that is due at this moment would find its executor closed, and say so with a traceback.
    scheduler.remove_all_jobs()
    finisher = threading.Thread(target=scheduler.shutdown, daemon=True)
    finisher.start()
    finisher.join(STOP_WITHIN_S)
    if finisher.is_alive():
        log.warning("a round did not stop within %d s; it resumes at the next start", STOP_WITHIN_S)
        # Its threads would keep the interpreter waiting for a peer that may never answer. What is
        # committed is committed, what is not is undone.
        logging.shutdown()
        os._exit(0)


@contextlib.contextmanager
def _lock(database: Path, node: str) -> Iterator[None]:
    path = database.with_name(database.name + "-syncd.lock")
    with contextlib.ExitStack() as stack:
        try:
            # Nothing is buffered: what cannot be written would be tried once more on closing.
            file = stack.enter_context(path.open("ab+", buffering=0))
            _take(file, database, node)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DatabaseMissing(f"there is no database {database}") from error
        except OSError as error:
            raise DatabaseError(
                f"{path}: {error.strerror}",
                hint="The daemon must be able to write this file, its lock, beside the database.",
            ) from error
        yield


def _take(file: FileIO, database: Path, node: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().decode().strip() or "another daemon"
        raise DaemonRunning(f"{database} is already served by {holder}") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} ({node})\n".encode())
