"""Closes the connections of what a test has made, and of its threads.

A `Database` and a `Store` hand each thread a connection of its own, and close the caller's. That is
enough for a host, whose threads live as long as its process. A test's threads are a server's, one
for each request, or workers that end before the test: each closes its own as it ends. What anybody
else has opened, a plain connection above all, is left alone.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.store import Store
from syncd.database import Database


@pytest.fixture(autouse=True)
def _connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[Database | Store] = []

    def close() -> None:
        for each in tuple(made):
            each.close()

    def noted(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def wrapper(self: Any, *args: Any, **options: Any) -> None:
            init(self, *args, **options)
            made.append(self)

        return wrapper

    def closing(run: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(run)
        def wrapper(self: Any) -> None:
            try:
                run(self)
            finally:
                close()

        return wrapper

    for kind in (Database, Store):
        monkeypatch.setattr(kind, "__init__", noted(kind.__init__))
    monkeypatch.setattr(threading.Thread, "run", closing(threading.Thread.run))
    yield
    close()
