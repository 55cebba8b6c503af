"""What every answered question leaves: the device's last sign of life, and a row of the log.

Owns the writing of both, in groups and off the request's path, and the log's retention. An answer
never waits for it and never depends on it: a process that crashes loses the last group's telemetry,
no decision. What cannot be written is kept up to a bound and tried again.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from api.clock import column_text
from api.store import Store

GROUP_EVERY_S = 1.0
GROUP_MAX = 1_000
WAITING_MAX = 10_000
DELETED_AT_ONCE = 1_000

log = logging.getLogger(__name__)

# Of the lines just written each device's last; the other columns are then of that same line
# (sqlite.org/lang_select.html#bareagg).
_SEEN = """
    UPDATE devices
       SET last_seen_at = line.created_at, last_seen_ip = line.ip,
           last_version = line.client_version,
           last_hostname = coalesce(line.hostname, last_hostname)
      FROM (SELECT *, max(id) FROM access_logs WHERE id > ? GROUP BY device_id) AS line
     WHERE devices.device_id = line.device_id
       AND coalesce(devices.last_seen_at, '') <= line.created_at
"""


class Entry(NamedTuple):
    """Hold one row of the log. host: the host that answered."""

    device_id: str
    ip: str
    user_agent: str | None
    hostname: str | None
    client_version: str
    telemetry_json: str
    allowed: bool
    message: str
    created_at: str
    host: str


_LOGGED = f"INSERT INTO access_logs ({', '.join(Entry._fields)}) VALUES "
_LINE = f"({', '.join('?' * len(Entry._fields))})"


class AccessLog:
    """Write entries in groups, by a thread that starts with the first entry."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Entry] = []
        self._news = threading.Condition()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def add(self, entry: Entry) -> None:
        """Take an entry; it is written within moments."""
        with self._news:
            if len(self._waiting) >= WAITING_MAX:
                log.warning("the access log is behind; an entry is dropped")
                return
            self._waiting.append(entry)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._write_groups, daemon=True)
                self._thread.start()
                atexit.register(self.close)
            # The writer sleeps through what comes between the first of a group and its last.
            if len(self._waiting) in (1, GROUP_MAX):
                self._news.notify()

    def flush(self) -> None:
        """Write what waits, now."""
        # One at a time, so that whoever flushes finds written what another thread had taken.
        with self._writing:
            with self._news:
                group, self._waiting = self._waiting, []
            try:
                self._write(group)
            except sqlite3.Error:
                with self._news:
                    self._waiting[:0] = group
                raise

    def close(self) -> None:
        """Write what waits and end the thread."""
        atexit.unregister(self.close)
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()

    def forget(self, before: datetime) -> int:
        """Delete entries made before a moment, a few at a time; return how many."""
        deleted = 0
        while True:
            with self._store.writing() as connection:
                count = connection.execute(
                    """
                    DELETE FROM access_logs WHERE id IN
                        (SELECT id FROM access_logs WHERE created_at < ? LIMIT ?)
                    """,
                    (column_text(before), DELETED_AT_ONCE),
                ).rowcount
            deleted += count
            if count < DELETED_AT_ONCE:
                return deleted

    def _write_groups(self) -> None:
        while not self._is_closed:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._is_closed)
                # Others are about to come: they share the transaction.
                self._news.wait_for(
                    lambda: len(self._waiting) >= GROUP_MAX or self._is_closed, GROUP_EVERY_S
                )
            try:
                self.flush()
            except sqlite3.Error as error:
                log.error("the access log cannot be written yet: %s", error)
        self._store.close()  # this thread's connection

    def _write(self, group: Sequence[Entry]) -> None:
        if not group:
            return
        with self._store.writing() as connection:
            (before,) = connection.execute(
                "SELECT coalesce(max(id), 0) FROM access_logs"
            ).fetchone()
            for start in range(0, len(group), GROUP_MAX):
                # One statement for many: a thread that runs one after the other would take turns
                # with those that answer at each of them.
                lines = group[start : start + GROUP_MAX]
                connection.execute(
                    _LOGGED + ", ".join([_LINE] * len(lines)), [*itertools.chain(*lines)]
                )
            connection.execute(_SEEN, (before,))
