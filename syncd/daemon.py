"""The daemon: a round with every peer on a schedule, beside the API.

One job a peer, so that a slow peer delays nobody; a job never overlaps itself. One daemon serves a
database file, held by a lock that the system drops when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from syncd import exchange
from syncd.errors import DaemonRunning, SyncError
from syncd.peer import PeerClient
from syncd.replica import Replica

log = logging.getLogger(__name__)

STOP_WITHIN_S = 10
"""How long a stopping daemon waits for frames that are being merged."""


def run(replica: Replica, stopping: threading.Event) -> None:
    """Enrol, then sync on schedule until `stopping` is set.

    Raises `DaemonRunning` if another daemon has the database, `SchemaError` if it cannot be
    enrolled.
    """
    with _lock(replica.config.database, replica.config.node):
        for enrolled in replica.enrol():
            if enrolled.state != "unchanged":
                log.info("table %s: %s", enrolled.table, enrolled.state)
        scheduler = _schedule(replica, stopping)
        scheduler.start()
        log.info(
            "%s: syncing %s with %d peers",
            replica.config.node,
            replica.config.database,
            len(replica.config.peers),
        )
        stopping.wait()
        log.info("stopping")
        _finish(scheduler)


def _schedule(replica: Replica, stopping: threading.Event) -> BackgroundScheduler:
    peers = replica.config.peers
    interval_s = replica.config.sync.interval / 1000
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(len(peers) + 1)},
        job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        timezone="UTC",
    )
    # Peers fold what they are about to pull; a host that nobody pulls from must not let it pile up.
    jobs: list[Callable[[], None]] = [functools.partial(_tend, replica)]
    for peer in peers:
        client = exchange.client_of(replica, peer, sleep=functools.partial(_sleep, stopping))
        jobs.append(functools.partial(_round, replica, client, stopping))
    for job in jobs:
        scheduler.add_job(
            job,
            trigger="interval",
            seconds=interval_s,
            jitter=interval_s / 10,
            next_run_time=datetime.now(UTC),
        )
    return scheduler


def _round(replica: Replica, client: PeerClient, stopping: threading.Event) -> None:
    try:
        exchange.run_round(replica, client, stopping.is_set)
    except exchange.Stopped:
        log.info("round with %s: stopped between two frames", client.peer.name)
    except SyncError as error:
        # The round could not even be recorded; the next one may.
        log.error("round with %s: %s", client.peer.name, error)


def _tend(replica: Replica) -> None:
    try:
        replica.fold()
        replica.release()
    except SyncError as error:
        log.error("fold: %s", error)


def _sleep(stopping: threading.Event, seconds: float) -> None:
    if stopping.wait(seconds):
        raise exchange.Stopped


def _finish(scheduler: BackgroundScheduler) -> None:
    """Let running frames end, but not for longer than `STOP_WITHIN_S`."""
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
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise DaemonRunning(
                f"{database} is already served by {file.read().strip() or 'another daemon'}"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} ({node})\n")
        file.flush()
        yield
