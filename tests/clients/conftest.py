"""What the tests of the clients share: each edition installed on a PC, and hosts to ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients import wine
from clients.editions import AutoHotkeyEdition, Edition, Installed, PythonEdition, Setup
from clients.scripted_host import Answer, Script, ScriptedHost
from clients.signer import Vendor

EDITIONS = ("python", "v1.1", "v2")
StartHost = Callable[[Script | Answer], ScriptedHost]


@pytest.fixture(scope="session")
def running_wine() -> Iterator[wine.Wine]:
    """Hold Wine, or skip."""
    with wine.running() as found:
        yield found


@pytest.fixture(params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> Edition:
    """Run the test with each edition."""
    if request.param == "python":
        return PythonEdition()
    return AutoHotkeyEdition(request.getfixturevalue("running_wine"), request.param)


@pytest.fixture
def client(edition: Edition, tmp_path: Path) -> Installed:
    """Install an edition on a PC that has never run it."""
    return Installed(edition, Setup(tmp_path))


@pytest.fixture
def turns_clocks(edition: Edition) -> None:
    """Skip where the clock of a Windows program cannot be shifted."""
    if isinstance(edition, AutoHotkeyEdition) and not wine.FAKETIME.exists():
        pytest.skip("libfaketime is not installed: apt-get install libfaketime")


@pytest.fixture
def start_host() -> Iterator[StartHost]:
    """Start hosts that answer by a script; all end with the test."""
    started: list[ScriptedHost] = []

    def start(script: Script | Answer) -> ScriptedHost:
        started.append(ScriptedHost(script))
        return started[-1]

    yield start
    for host in started:
        host.stop()


@pytest.fixture(scope="session")
def vendor() -> Vendor:
    """Make a vendor's root key."""
    return Vendor()
