"""What one host is made of, for the endpoints to reach.

Owns nothing but the bundle: the settings, the store, the replica and the clock of one application.
They are made once, in `api.app`, and are never replaced. Views ask `host()`; everything below the
views is handed the parts it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

import syncd
from api.auth import Sessions
from api.clock import Clock
from api.offline import OfflineTokens
from api.settings import Settings
from api.store import Store

EXTENSION = "licence-api"


@dataclass(frozen=True)
class Host:
    """Hold the parts of one host's API."""

    settings: Settings
    store: Store
    replica: syncd.Replica
    sessions: Sessions
    offline: OfflineTokens
    clock: Clock


def host() -> Host:
    """Return the host that answers the current request."""
    here: Host = current_app.extensions[EXTENSION]
    return here
