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


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[MakeHosts]:
    """Make hosts whose clocks start at the same moment."""
    made: list[Host] = []

    def make(*nodes: str, **options: Any) -> list[Host]:
        hosts = [Host(tmp_path, node, **options) for node in nodes]
        made.extend(hosts)
        return hosts

    yield make
    for host in made:
        host.close()
