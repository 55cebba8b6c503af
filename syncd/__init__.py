"""syncd keeps the SQLite files of several hosts the same.

The public names: what an application needs to be replicated. Everything else may change.
"""

from syncd.config import Config, load_config, valid_name
from syncd.endpoint import blueprint
from syncd.errors import ConfigError, SyncError
from syncd.exchange import Outcome, catch_up, sync_now
from syncd.replica import Replica

__all__ = [
    "Config",
    "ConfigError",
    "Outcome",
    "Replica",
    "SyncError",
    "blueprint",
    "catch_up",
    "load_config",
    "sync_now",
    "valid_name",
]
