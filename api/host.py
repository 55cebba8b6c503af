"""What one host is made of, for the endpoints to reach.

Owns nothing but the bundle: the settings, the store, the replica and the clock of one application.
They are made once, in `api.app`, and are never replaced. Views ask `host()`; everything below the
views is handed the parts it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

import syncd
from api.access_log import AccessLog
from api.clock import Clock
from api.freshness import Freshness
from api.history import Act
from api.mail import Mailer
from api.offline import OfflineTokens
from api.sessions import Sessions
from api.settings import Settings
from api.store import Store
from api.throttle import Throttle

EXTENSION = "licence-api"


@dataclass(frozen=True)
class Host:
    """Hold the parts of one host's API."""

    settings: Settings
    store: Store
    replica: syncd.Replica
    sessions: Sessions
    throttle: Throttle
    offline: OfflineTokens
    mailer: Mailer
    freshness: Freshness
    access_log: AccessLog
    clock: Clock

    @property
    def node(self) -> str:
        """Return the host's name."""
        return self.replica.config.node

    def act(self, who: str) -> Act:
        """Return what signs a line of history, now and here."""
        return Act(who, self.node, self.clock())


def host() -> Host:
    """Return the host that answers the current request."""
    here: Host = current_app.extensions[EXTENSION]
    return here
