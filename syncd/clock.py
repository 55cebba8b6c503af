"""The hybrid logical clock, as numbers.

A reading (`hlc`) is one signed 64-bit integer: the wall clock in milliseconds shifted left by 16
bits, and a counter below it, so that comparing integers compares readings. The triggers advance the
clock in SQL (`capture`); this module is the same arithmetic for Python, and the one place where
wall time enters. Nothing here reads or writes a database.

Source: Kulkarni et al., "Logical Physical Clocks", 2014; the packing is ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable

COUNTER_BITS = 16

WallClock = Callable[[], int]
"""Milliseconds since 1970, UTC."""


def system_wall_ms() -> int:
    """Read the system's wall clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def hlc_of_ms(wall_ms: int) -> int:
    """Return the lowest reading of a millisecond."""
    return wall_ms << COUNTER_BITS


def ms_of_hlc(hlc: int) -> int:
    """Return the millisecond a reading belongs to."""
    return hlc >> COUNTER_BITS
