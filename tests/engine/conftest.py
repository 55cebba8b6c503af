"""What the engine's tests share: hosts that are closed when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from engine.hosts import Host


class MakeHosts(Protocol):
    """Makes one host per name; the options are those of `Host`."""

    def __call__(self, *nodes: str, **options: Any) -> list[Host]: ...


@pytest.fixture(autouse=True)
def _hosts_are_closed() -> Iterator[None]:
    yield
    while Host.made:
        Host.made.pop().close()


@pytest.fixture
def make_hosts(tmp_path: Path) -> MakeHosts:
    """Make hosts whose clocks start at the same moment."""
    return lambda *nodes, **options: [Host(tmp_path, node, **options) for node in nodes]
