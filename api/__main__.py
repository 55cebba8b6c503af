"""The API's own commands: `python -m api`.

Owns what an operator does to accounts at the host itself. A password is generated here, printed
once and stored only as a hash; there is no default administrator and no way to choose a password.
"""

from __future__ import annotations

from pathlib import Path

import click

from api import accounts, auth, passwords
from api.commands import act, as_json, config_option, opened_database, show
from api.key_commands import keys


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Manage the licence API of this host."""


main.add_command(keys)


@main.command("create-admin")
@click.option("--username", default="admin", show_default=True)
@config_option
@click.option("--reset", is_flag=True, help="Give an administrator who exists a new password.")
@as_json
def create_admin(username: str, config_path: Path | None, reset: bool, as_json: bool) -> None:
    """Make an administrator, and print the generated password once."""
    store, replica = opened_database(config_path)
    if not reset and auth.find(store, "admin_users", username):
        raise click.ClickException(f"{username} exists already. --reset gives a new password.")
    password = passwords.generate()
    accounts.put_administrator(store, act(replica), username, password)
    made = {"username": username, "password": password}
    show(made, f"username: {username}\npassword: {password}", as_json)


if __name__ == "__main__":
    main(prog_name="python -m api")
