"""The API's own commands: `python -m api`.

Owns what an operator does at the host itself: accounts, renewals, and a vendor's second database. A
password is generated here, printed once and stored only as a hash; there is no default
administrator and no way to choose a password.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
from pathlib import Path

import click
from tabulate import tabulate

from api import accounts, auth, devices, legacy, licences, passwords
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
    username = username.strip()  # as a login does
    if not username:
        raise click.ClickException("--username is empty")
    store, replica = opened_database(config_path)
    is_there = auth.find(store, "admin_users", username)
    if not is_there and auth.find(store, "users", username):
        raise click.ClickException(f"{username} is a user already; choose another name.")
    if not reset and is_there:
        raise click.ClickException(f"{username} exists already. --reset gives a new password.")
    password = passwords.generate()
    accounts.put_administrator(store, act(replica), username, password)
    made = {"username": username, "password": password}
    show(made, f"username: {username}\npassword: {password}", as_json)


@main.command()
@click.argument("device_id", metavar="DEVICE")
@click.option(
    "--type",
    "license_type",
    type=click.Choice(sorted(licences.TYPES)),
    help="The licence's new type, by default the one that it has.",
)
@config_option
@as_json
def renew(
    device_id: str, license_type: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Give the licence of DEVICE another period.

    It is counted from the licence's last day, or from today where that is past. A blocked device
    stays blocked.
    """
    store, replica = opened_database(config_path)
    with devices.ordering(store, act(replica)) as order:
        device = order.find(device_id)
        if device is None:
            raise click.ClickException(f"there is no device {device_id}")
        try:
            renewal = order.renew(device, license_type)
        except devices.NotRenewableError:
            kind = str(device["license_type"])
            raise click.ClickException(f"{kind} has no period; --type names another") from None
    result = {"device_id": device_id, **dataclasses.asdict(renewal)}
    text = f"{device_id}: {renewal.license_type}, last day {renewal.end_date or 'none'}"
    show(result, text, as_json)


@main.command("import-legacy")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Say what would be taken, and change nothing.")
@config_option
@as_json
def import_legacy(file: Path, dry_run: bool, config_path: Path | None, as_json: bool) -> None:
    """Merge FILE, another database of the vendor's, into this host's.

    Devices, accounts, block list and logs that are not here are taken over as they are. A licence
    that is here is neither renewed nor revived; where the file says otherwise, the difference is
    listed. A block in the file blocks. Merging a file again changes nothing.
    """
    store, replica = opened_database(config_path)
    try:
        report = legacy.merge_file(store, act(replica), file, dry_run=dry_run, progress=_progress)
    except (legacy.NotLegacyError, sqlite3.Error) as error:
        raise click.ClickException(f"{file}: {error}; nothing was changed") from error
    data = {"file": str(file), "dry_run": dry_run, **dataclasses.asdict(report)}
    show(data, _report_text(report, dry_run), as_json)


def _progress(table: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"merging {table} ...", err=True)


def _report_text(report: legacy.Report, dry_run: bool) -> str:
    rows = [
        {"table": table, "new": new, "here already": report.there[table]}
        for table, new in report.new.items()
    ]
    parts = [
        tabulate(rows, headers="keys"),
        f"{report.filled} empty fields filled in, {len(report.blocked)} devices blocked,"
        f" {len(report.skipped)} left out because they were deleted here",
    ]
    if report.differences:
        table = tabulate([dataclasses.asdict(one) for one in report.differences], headers="keys")
        parts.append(f"Kept as they are here:\n{table}")
    if dry_run:
        parts.append("A dry run: nothing was changed.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main(prog_name="python -m api")
