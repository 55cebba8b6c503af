"""What a client remembers from one start to the next.

Owns one small JSON file, written as a whole: a crash leaves the old one. A file that is missing or
damaged is an empty memory, never an error. It holds no secret.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class State:
    """Hold the memory. Times are seconds since 1970.

    clock_offset: what to add to this PC's clock to read the signing host's. newest_seen: the latest
    moment this client has known, by that host's clock. server: a backup that answered, since when.
    """

    token: str = ""
    revoked: str = ""
    clock_offset: int = 0
    newest_seen: int = 0
    server: str = ""
    server_since: int = 0


def load(file: Path) -> State:
    """Return what was saved, as far as it can be read."""
    with contextlib.suppress(OSError, ValueError):
        saved = json.loads(file.read_text(encoding="utf-8"))
        blank = asdict(State())
        if isinstance(saved, dict):
            return State(**{n: saved[n] for n in blank if type(saved.get(n)) is type(blank[n])})
    return State()


def save(file: Path, state: State) -> bool:
    """Write the memory; return whether that was possible."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(asdict(state)), encoding="utf-8")
        new.replace(file)
    except OSError:
        return False
    return True
