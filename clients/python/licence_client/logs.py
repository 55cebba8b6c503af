"""The three files in the temporary folder that tell a vendor what the client did.

Owns their names and the form of a line: local time, then parts between bars. A line never holds a
secret: it gets base addresses, the servers' messages and the client's own reasons. A log that
cannot be written stops nobody.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

USED = "license_server_used.txt"
FAILOVER = "license_server_failover.txt"
OFFLINE = "license_offline_success.txt"

LOG_BYTES_MAX = 262_144
_PART_CHARS_MAX = 400


@dataclass(frozen=True)
class Logs:
    """Write into one folder."""

    folder: Path

    def write(self, name: str, now: float, *parts: str) -> None:
        """Append a line; a file that has grown too large starts anew."""
        clean = (re.sub(r"[\x00-\x1f|]+", " ", part)[:_PART_CHARS_MAX] for part in parts)
        moment = f"{datetime.fromtimestamp(now):%Y-%m-%d %H:%M:%S}"
        file = self.folder / name
        with contextlib.suppress(OSError):
            if file.exists() and file.stat().st_size > LOG_BYTES_MAX:
                file.unlink()
            with file.open("a", encoding="utf-8") as log:
                log.write(" | ".join((moment, *clean)) + "\n")
