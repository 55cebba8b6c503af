"""The three editions of the client, driven alike: settings in, outcome and log files out.

Owns the drivers. Each check is one start of the program: AutoHotkey runs as a process of its own,
the Python client as a new object on the same files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from clients.signer import Vendor
from clients.wine import Wine, windows_path
from licence_client import Client, RootKey, Settings

DEVICE = "0123456789abcdef0123456789abcdef"
API_KEY = "key-of-the-clients"
SHARED_SECRET = "secret-of-the-clients"
HERE = Path(__file__).parent
TIMEOUT_S = 20
"""Generous: a server that is down refuses at once, and only a hanging one is waited for."""


@dataclass(frozen=True)
class Setup:
    """What a client is told. folder: for its state and its logs; vendor: whose root it pins.

    busy_ms: how long a Windows PC is busy after a question, before it waits for the answer.
    """

    folder: Path
    servers: Sequence[str] = ()
    vendor: Vendor | None = None
    device_id: str = DEVICE
    timeout_s: int = TIMEOUT_S
    busy_ms: int = 0
    pinned: tuple[str, str] | None = None

    @property
    def root(self) -> tuple[str, str]:
        """Return x and y of the pinned key, empty without one."""
        if self.pinned:
            return self.pinned
        return (self.vendor.root.jwk["x"], self.vendor.root.jwk["y"]) if self.vendor else ("", "")


@dataclass(frozen=True)
class Outcome:
    """What a client decided."""

    allow: bool
    status: str
    message: str
    features: tuple[str, ...]


class Edition(Protocol):
    """One implementation."""

    @property
    def state_file(self) -> str:
        """Return the name of the file in which it remembers."""

    def check(self, setup: Setup, clock_shift_s: int) -> Outcome:
        """Start the client once, on a PC whose clock is off by so much."""


class PythonEdition:
    """clients/python."""

    state_file = "state.json"

    def check(self, setup: Setup, clock_shift_s: int) -> Outcome:
        settings = Settings(
            servers=setup.servers,
            api_key=API_KEY,
            shared_secret=SHARED_SECRET,
            device_id=setup.device_id,
            version="1.0.0",
            state_file=setup.folder / self.state_file,
            root=RootKey(*setup.root) if any(setup.root) else None,
            timeout_s=setup.timeout_s,
            log_folder=setup.folder,
        )
        verdict = Client(settings, now=lambda: time.time() + clock_shift_s).check()
        return Outcome(verdict.allow, verdict.status, verdict.message, verdict.features)


@dataclass(frozen=True)
class AutoHotkeyEdition:
    """clients/ahk, one of its files, run by the real AutoHotkey."""

    wine: Wine
    version: str
    state_file: str = "state.txt"

    def check(self, setup: Setup, clock_shift_s: int) -> Outcome:
        lines = [
            *(f"server={server}" for server in setup.servers),
            f"key={API_KEY}",
            f"secret={SHARED_SECRET}",
            f"x={setup.root[0]}",
            f"y={setup.root[1]}",
            f"device={setup.device_id}",
            f"timeout={setup.timeout_s}",
            f"busy={setup.busy_ms}",
            f"state={windows_path(setup.folder)}\\{self.state_file}",
        ]
        (setup.folder / "setup.txt").write_text("\n".join(lines), encoding="utf-8")
        script = HERE / f"drive_{self.version}.ahk"
        printed = self.wine.run(self.version, script, setup.folder, clock_shift_s)
        # An uncaught error and #Warn print; a sound program does not.
        assert not printed.strip(), printed
        allow, status, message, *features = (
            (setup.folder / "outcome.txt").read_text(encoding="utf-8-sig").splitlines()
        )
        return Outcome(allow == "1", status, message, tuple(features))


@dataclass
class Installed:
    """A client installed on a PC: its settings and its files."""

    edition: Edition
    setup: Setup

    def check(self, clock_shift_s: int = 0) -> Outcome:
        """Start it once."""
        return self.edition.check(self.setup, clock_shift_s)

    def configure(self, *servers: str, vendor: Vendor | None, **others: Any) -> Installed:
        """Set its servers, whose root key it pins, and other settings; return it."""
        self.setup = replace(self.setup, servers=servers, vendor=vendor, **others)
        return self

    def log(self, name: str) -> list[list[str]]:
        """Return a log file's lines, each as its parts."""
        file = self.setup.folder / f"license_{name}.txt"
        if not file.exists():
            return []
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        return [line.split(" | ") for line in lines]

    @property
    def used(self) -> list[list[str]]:
        return self.log("server_used")

    @property
    def failover(self) -> list[list[str]]:
        return self.log("server_failover")

    @property
    def offline(self) -> list[list[str]]:
        return self.log("offline_success")

    @property
    def state_file(self) -> Path:
        return self.setup.folder / self.edition.state_file
