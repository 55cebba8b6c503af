"""`syncd up`: the API and the daemon as one unit, in one container.

On many hosts two processes of one Procfile do not share a disk, so they are started from one. The
API is the reason to be up: if it ends, so does everything, non-zero. A daemon that ends is started
again, later each time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import http.client
import importlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from syncd.config import Config, Serve
from syncd.database import Database, is_there
from syncd.errors import AddressRefused, DatabaseError

log = logging.getLogger(__name__)

ADDRESS_FREE_WITHIN_S = 5
API_READY_WITHIN_S = 60
STOP_WITHIN_S = 20
BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 60.0
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where to ask one that listens on all addresses."""


def up(config: Config, config_file: Path, stopping: threading.Event) -> int:
    """Run API and daemon until `stopping` is set; return the exit code.

    The API is up before the daemon starts, so that an application that creates its tables at start
    has done so. Raises `AddressRefused`.
    """
    listening = listen(config.serve, stopping)
    if listening is None:
        return 0
    with listening:
        api = _start_api(config, config_file, listening)
    daemon = _Daemon(config_file)
    try:
        if not _wait_until_answering(config, api, stopping):
            return 0 if stopping.is_set() else 1
        log.info("%s: http://%s", config.node, config.serve.address)
        while not stopping.wait(_POLL_S):
            if api.poll() is not None:
                log.error("the API ended with %d", api.returncode)
                return 1
            daemon.keep_running()
        return 0
    finally:
        _stop([api, *daemon.processes()])
        _kill_left(api)


def application_problems(
    app: str, section: Mapping[str, Any], environ: Mapping[str, str], config: Config | None
) -> Sequence[str]:
    """Ask an application what is wrong with its part of the configuration.

    It may answer by a function `settings_problems(section, environ, config)` in a module `settings`
    beside the module that `app` names; config is the rest, None where that is wrong itself. The
    application itself is not imported here.
    """
    ask = _found_beside(app, "settings", "settings_problems")
    problems: Sequence[str] = ask(section, environ, config) if ask is not None else []
    return problems


def require_database(path: Path) -> None:
    """Raise DatabaseError where a file is no database or cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{path}: its folder cannot be made: {error.strerror}"
        raise DatabaseError(problem, hint="Correct `database` (DB_PATH).") from error
    if is_there(path):
        with contextlib.closing(Database(path)) as database, database.read() as connection:
            connection.value("SELECT count(*) FROM sqlite_schema")


def prepare_database(config: Config) -> None:
    """Let an application bring an existing file's tables up to date, before they are enrolled.

    It may do so by a function `prepare_database(path, tables)` in a module `schema` beside the
    module that `serve.app` names; `tables` are the names of those that are configured.
    """
    prepare = _found_beside(config.serve.app, "schema", "prepare_database")
    if prepare is not None and is_there(config.database):
        prepare(config.database, tuple(config.tables))


def _found_beside(app: str, module: str, function: str) -> Callable[..., Any] | None:
    package = app.partition(":")[0].rpartition(".")[0]
    if not package:
        return None
    sys.path.insert(0, str(Path.cwd()))  # as gunicorn does
    try:
        found = importlib.import_module(f"{package}.{module}")
    except ModuleNotFoundError:
        return None
    finally:
        sys.path.pop(0)
    answer: Callable[..., Any] | None = getattr(found, function, None)
    return answer


def listen(serve: Serve, stopping: threading.Event) -> socket.socket | None:
    """Take the address that the application is to be served at; None if it is to stop.

    It is taken before anything starts and handed on, so that nobody but the application can answer
    there. A host that ended a moment ago may still have it. Raises `AddressRefused`.
    """
    deadline = time.monotonic() + ADDRESS_FREE_WITHIN_S
    while not stopping.is_set():
        try:
            return _listening(serve.host, serve.port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                problem = f"cannot listen on {serve.address}: {error.strerror}"
                raise AddressRefused(problem) from error
        stopping.wait(_POLL_S)
    return None


def _listening(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # As every server does: connections that have ended do not keep the next one waiting.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(socket.SOMAXCONN)
    except BaseException:
        listening.close()
        raise
    return listening


def _start_api(
    config: Config, config_file: Path, listening: socket.socket
) -> subprocess.Popen[bytes]:
    return _start(
        api_command(config, f"fd://{listening.fileno()}"),
        env={**os.environ, "SYNCD_CONFIG": str(config_file)},
        pass_fds=[listening.fileno()],
    )


def api_command(config: Config, bind: str) -> list[str]:
    """Return the command that serves the application: one worker with threads.

    bind: the address, or the socket that listens on it, as gunicorn names it.
    """
    serve = config.serve
    return [
        *(sys.executable, "-m", "gunicorn", serve.app),
        *("--bind", bind),
        *("--workers", "1", "--worker-class", "gthread", "--threads", str(serve.threads)),
        *("--graceful-timeout", str(STOP_WITHIN_S // 2), "--log-level", "warning"),
        *("--no-control-socket",),
    ]


class _Daemon:
    """The daemon's process, started again with back-off."""

    def __init__(self, config_file: Path) -> None:
        self._command = [sys.executable, "-m", "syncd", "--config", str(config_file), "run"]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next_start = 0.0
        self._backoff_s = BACKOFF_FIRST_S

    def keep_running(self) -> None:
        """Start the daemon if it is not running and its pause is over."""
        if self._process is not None and self._process.poll() is not None:
            self._pause(self._process.returncode)
        if self._process is None and time.monotonic() >= self._next_start:
            self._started = time.monotonic()
            self._process = _start(self._command)

    def processes(self) -> list[subprocess.Popen[bytes]]:
        return [self._process] if self._process is not None else []

    def _pause(self, code: int) -> None:
        if time.monotonic() - self._started > BACKOFF_MAX_S:
            self._backoff_s = BACKOFF_FIRST_S
        log.error("the daemon ended with %d; next start in %.0f s", code, self._backoff_s)
        self._next_start = time.monotonic() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
        self._process = None


def _start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own; on Linux it is told to end when we die.

    If we are killed, we stop nothing, and what runs on holds the address and the database against
    the next start. The system tells it when the thread ends that started it, so that must be the
    main one (man 2 prctl, PR_SET_PDEATHSIG).
    """
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def end_with_us() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before it could ask to be told
            os._exit(1)

    before = end_with_us if sys.platform == "linux" else None
    return subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=before,  # noqa: PLW1509  (there is no other thread here)
        **options,
    )


def _wait_until_answering(
    config: Config, api: subprocess.Popen[bytes], stopping: threading.Event
) -> bool:
    deadline = time.monotonic() + API_READY_WITHIN_S
    host = _LOOPBACK.get(config.serve.host, config.serve.host)

    def is_worth_waiting() -> bool:
        return not stopping.is_set() and api.poll() is None and time.monotonic() < deadline

    while is_worth_waiting():
        if _answers(host, config.serve.port, is_worth_waiting):
            return True
        stopping.wait(_POLL_S)
    if api.poll() is not None:
        log.error("the API ended with %d before it answered", api.returncode)
    elif not stopping.is_set():
        log.error("the API did not answer within %d s", API_READY_WITHIN_S)
    return False


def _kill_left(api: subprocess.Popen[bytes]) -> None:
    # A worker whose master was killed would hold the port against the next start.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(api.pid, signal.SIGKILL)


def _answers(host: str, port: int, is_worth_waiting: Callable[[], bool]) -> bool:
    # The server listens before it has loaded the application; only an answer says that it has.
    connection = http.client.HTTPConnection(host, port, timeout=API_READY_WITHIN_S)
    try:
        connection.request("HEAD", "/")
        while not select.select([connection.sock], [], [], _POLL_S)[0]:
            if not is_worth_waiting():
                return False
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask all to end, together; kill what has not ended by the deadline."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not end in time and is killed", process.pid)
            process.kill()
            process.wait()
