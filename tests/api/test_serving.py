"""A host as it is really started: gunicorn, threads, sockets, and the customer's own command."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from licence_site import DEVICE, SECRETS, MakeSite, Rows, WriteConfig, sign
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from api.clock import utc_now

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 24

pytestmark = pytest.mark.processes


@dataclass
class Served(Rows):
    """Ask a host over its socket."""

    url: str
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            # A host that is still starting refuses connections: only that is tried again.
            session.mount("http://", HTTPAdapter(max_retries=Retry(connect=8, backoff_factor=0.1)))
            return session.get(self.url + path, timeout=20).content

    def verify(self) -> bytes:
        ts = f"{utc_now():%Y%m%d%H%M%S}"
        query = f"id={DEVICE}&version=1.0.0&ts={ts}&sig={sign(DEVICE, '1.0.0', ts)}"
        return self.get(f"/verify?{query}&api_key={SECRETS['api_key']}")


@pytest.fixture
def served(write_config: WriteConfig) -> Iterator[Served]:
    """Serve a talkative host as production does: one worker, several threads."""
    config = write_config({"flask_env": "development"}, node="there")
    log = config.with_name("log")
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as stderr:
        gunicorn = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "api.app:create_app()"),
                *("--workers", "1", "--threads", "8", "--graceful-timeout", "2"),
                *("--bind", f"fd://{listening.fileno()}", "--no-control-socket"),
            ],
            cwd=ROOT,
            env=os.environ | {"SYNCD_CONFIG": str(config)},
            pass_fds=[listening.fileno()],
            stderr=stderr,
        )
        try:
            host, port = listening.getsockname()
            yield Served(config, f"http://{host}:{port}", gunicorn)
        finally:
            gunicorn.terminate()
            gunicorn.wait(timeout=10)


def test_a_served_host_answers_many_clients_at_once(served: Served) -> None:
    """Over a real socket every client is allowed, and a host that stops has logged all of it."""
    assert served.get("/health") == b'{"status":"ok"}\n'
    served.add_device(license_type="vitalicia")
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda _: served.verify(), range(CLIENTS)))
    assert all(b'"allow":true' in answer for answer in answers)
    served.process.terminate()
    served.process.wait(timeout=10)
    assert len(served.sql("SELECT * FROM access_logs")) == CLIENTS


def test_a_talkative_hosts_log_tells_no_secret(served: Served) -> None:
    """What a host in development writes says why it denied, and neither key nor signature."""
    assert b'"allow":false' in served.verify()
    log = served.config.with_name("log").read_text(encoding="utf-8")
    assert "DEBUG api.verify: denied: ID não registrado." in log
    assert not any(secret in log for secret in ("TESTKEY", "TESTSECRET", "session-key-1", "sig="))


def test_a_sync_on_demand_brings_what_a_peer_has(served: Served, make_site: MakeSite) -> None:
    """An administrator's round fetches a device, and with it the right to deny another."""
    served.get("/health")
    served.add_device()
    here = make_site(peer=served.url)
    here.add_admin("chefe")
    response = here.dashboard("chefe").post("/admin/sync")
    (item,) = response.get_json()["items"]
    assert (response.status_code, item["peer"], item["ok"]) == (200, "there", True)
    assert len(here.sql("SELECT * FROM devices")) == 1
    assert here.verify().get_json()["allow"] is True
    assert here.verify("b" * 32).get_json()["msg"] == "ID não registrado."


def test_the_customers_command_starts_a_whole_host(write_config: WriteConfig) -> None:
    """`cd api && python app.py` serves until it is told to stop, and then ends well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = write_config()
    with subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT / "api",
        env=os.environ | {"SYNCD_CONFIG": str(config), "PORT": str(port)},
    ) as host:
        try:
            served = Served(config, f"http://127.0.0.1:{port}", host)
            assert served.get("/health") == b'{"status":"ok"}\n'
        finally:
            host.send_signal(signal.SIGTERM)
        assert host.wait(timeout=20) == 0


def test_the_script_does_what_syncd_up_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script becomes `syncd up`, in the repository's root."""
    calls: list[tuple[list[str], Path]] = []

    def become(_: str, arguments: list[str]) -> None:
        calls.append((arguments[1:], Path.cwd()))
        raise SystemExit

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.chdir(ROOT / "api")
    with pytest.raises(SystemExit):
        runpy.run_path("app.py", run_name="__main__")
    assert calls == [(["-m", "syncd", "up"], ROOT)]
