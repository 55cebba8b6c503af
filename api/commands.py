"""What the API's commands share: the config option, the host behind it, text or JSON.

Owns no command. A host opened here is the one that the config names, its tables up to date, with
nothing running beside it; whatever is wrong with it ends the command in one message.
"""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import click

import syncd
from api.app import create_app, open_database
from api.clock import utc_now
from api.history import Act
from api.host import EXTENSION, Host
from api.store import Store

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration, by default $SYNCD_CONFIG or config.yaml.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def opened_database(config_path: Path | None) -> tuple[Store, syncd.Replica]:
    """Return the database of a config; ends the command where the config is wrong."""
    try:
        return open_database(syncd.load_config(config_path))
    except syncd.SyncError as error:
        raise click.ClickException(str(error)) from error


def act(replica: syncd.Replica) -> Act:
    """Return what signs a line of history for whoever runs a command on this host."""
    return Act(f"{getpass.getuser()} (command)", replica.config.node, utc_now())


def opened_host(config_path: Path | None) -> Host:
    """Return the host of a config; ends the command where the config is wrong."""
    try:
        app = create_app(syncd.load_config(config_path), with_jobs=False)
    except syncd.SyncError as error:
        raise click.ClickException(str(error)) from error
    here: Host = app.extensions[EXTENSION]
    return here


def show(data: Any, text: str, as_json: bool) -> None:
    """Print a result, as text or as JSON."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2) if as_json else text)
