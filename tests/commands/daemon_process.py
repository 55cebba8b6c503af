"""`syncd run` as a process of its own, under a test."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from commands.cli_host import CliHost, clean_environment
from syncd.daemon import STOP_WITHIN_S
from syncd.database import BUSY_TIMEOUT_MS

WITHIN_S = 30


class Daemon:
    """A `syncd run` under test, its log in a file.

    stop_within_s: its bound on a round that does not stop, busy_timeout_ms: how long it waits for
    another writer, in place of the usual ones.
    """

    def __init__(
        self,
        host: CliHost,
        stop_within_s: int = STOP_WITHIN_S,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    ) -> None:
        self.log = host.folder / "daemon.log"
        program = (
            "import sys, syncd.cli, syncd.daemon, syncd.database;"
            f"syncd.daemon.STOP_WITHIN_S = {stop_within_s};"
            f"syncd.database.BUSY_TIMEOUT_MS = {busy_timeout_ms};"
            "syncd.cli.main(sys.argv[1:])"
        )
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "--config", str(host.config), "run"],
                env=clean_environment(host.env),
                cwd=host.folder,
                stdout=stream,
                stderr=stream,
            )

    def says(self, text: str, times: int = 1) -> bool:
        return self.log.read_text().count(text) >= times

    def stop(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait(WITHIN_S)


def eventually(condition: Callable[[], bool], running: Daemon) -> None:
    """Wait until a condition holds; fail with the daemon's log if it does not in time."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(running.log.read_text())


@contextlib.contextmanager
def running(host: CliHost, **options: int) -> Iterator[Daemon]:
    """Run a daemon; the options are those of `Daemon`."""
    made = Daemon(host, **options)
    try:
        eventually(lambda: made.says("syncing") or made.process.poll() is not None, made)
        yield made
    finally:
        made.stop()
