"""The API's own commands: `python -m api create-admin`.

Owns what an operator does to accounts at the host itself. A password is generated here, printed
once and stored only as a hash; there is no default administrator and no way to choose a password.
"""

from __future__ import annotations

from pathlib import Path

import click

import syncd
from api import auth, passwords
from api.app import open_database
from api.clock import utc_now


@click.group()
def main() -> None:
    """Manage the licence API of this host."""


@main.command("create-admin")
@click.option("--username", default="admin", show_default=True)
@click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--reset", is_flag=True, help="Give an administrator who exists a new password.")
def create_admin(username: str, config_path: Path | None, reset: bool) -> None:
    """Make an administrator, and print the generated password once."""
    try:
        store, _ = open_database(syncd.load_config(config_path))
    except syncd.SyncError as error:
        raise click.ClickException(str(error)) from error
    if not reset and auth.find(store, "admin_users", username):
        raise click.ClickException(f"{username} exists already. --reset gives a new password.")
    password = passwords.generate()
    auth.put_administrator(store, username, passwords.hashed(password), utc_now())
    click.echo(f"username: {username}\npassword: {password}")


if __name__ == "__main__":
    main(prog_name="python -m api")
