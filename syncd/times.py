"""Times as users' columns hold them, read as clock readings, in SQL.

Understood are TEXT as SQLite writes it (`YYYY-MM-DD HH:MM:SS`, UTC), ISO 8601 with T, fractions, Z
or an offset, and numbers: unix seconds or milliseconds, told apart by their size. Everything else,
NULL included, is the lowest reading. A time to come is read as now, so that no row that was there
before the sync outlives the writes that follow.
"""

from __future__ import annotations

from syncd.clock import COUNTER_BITS

SECONDS_END, MILLISECONDS_END = "1e11", "1e14"
"""Below the one a number is seconds (until the year 5138), below the other milliseconds."""


def reading(value: str, now_ms: int) -> str:
    """Return the SQL of the lowest reading of the time that an SQL value holds."""
    # Only what begins with a date: 'now' is a time to julianday() as well.
    is_date = f"{value} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'"
    # SQLite does not know offsets without a colon.
    dated = (
        f"CASE WHEN {value} GLOB '*[0-9][+-][0-9][0-9][0-9][0-9]'"
        f" THEN substr({value}, 1, length({value}) - 2) || ':' || substr({value}, -2)"
        f" ELSE {value} END"
    )
    milliseconds = (
        f"CASE WHEN typeof({value}) = 'text' AND {is_date}"
        f" THEN round((julianday({dated}) - 2440587.5) * 86400000)"
        f" WHEN typeof({value}) NOT IN ('integer', 'real') THEN 0"
        f" WHEN {value} < {SECONDS_END} THEN {value} * 1000"
        f" WHEN {value} < {MILLISECONDS_END} THEN {value} END"
    )
    return f"max(0, min({now_ms}, CAST(coalesce({milliseconds}, 0) AS INTEGER))) << {COUNTER_BITS}"
