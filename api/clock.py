"""The time, as a value that is handed in.

Owns how this API reads the clock and how a moment is written in the database. Every moment is an
aware datetime in UTC; a test hands in a clock of its own. No other module may read the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


def column_text(moment: datetime) -> str:
    """Return the moment as the database writes it: `YYYY-MM-DD HH:MM:SS`, UTC."""
    return moment.replace(tzinfo=None).isoformat(" ", "seconds")
