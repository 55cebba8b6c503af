"""The commands.

Each command opens the replica, calls one thing and prints what came of it, as text or with --json
as JSON. Exit codes: 0 done; 1 done but not all well; 2 wrong usage, configuration or input.
Messages and progress go to standard error, results to standard output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from syncd import (
    bundlefile,
    codec,
    comparison,
    daemon,
    exchange,
    inspection,
    report,
    signing,
    supervisor,
)
from syncd import verify as verification
from syncd.config import Config, duration_ms, load_config
from syncd.errors import ConfigError, SchemaError, SyncError
from syncd.held import DISPLACED
from syncd.merge import Counts
from syncd.replica import Replica
from syncd.vector import Vector

SECRET_BYTES = 32


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    cli.main(args=None if args is None else list(args), prog_name="syncd")
    raise AssertionError("click exits by itself")


class _Commands(click.Group):
    """Turns our errors into a message, a hint and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (ConfigError, SchemaError) as error:
            problems = error.problems
            if len(problems) > 1:
                click.echo(f"{len(problems)} mistakes:", err=True)
            for problem in problems:
                click.echo(f"error: {problem}", err=True)
            sys.exit(error.exit_code)
        except SyncError as error:
            click.echo(f"error: {error}", err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)
            sys.exit(error.exit_code)


class _Session:
    """What the options before the command say."""

    def __init__(self, config_file: str) -> None:
        self.config_file = config_file

    @functools.cached_property
    def config(self) -> Config:
        return load_config(self.config_file)

    @functools.cached_property
    def replica(self) -> Replica:
        replica = contextlib.closing(Replica(self.config))
        return click.get_current_context().find_root().with_resource(replica)

    @property
    def keyring(self) -> signing.Keyring:
        return signing.keyring_of(self.config, self.replica.wall_ms)


session = click.make_pass_decorator(_Session)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar="SYNCD_CONFIG",
    default="config.yaml",
    show_default=True,
    help="The configuration; every key of it can be overridden by the environment.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log what is going on.")
@click.version_option(package_name="syncd")
@click.pass_context
def cli(context: click.Context, config_file: str, verbose: bool) -> None:
    """Keep the SQLite files of several hosts the same.

    Start with `syncd keygen`, write the key into every host's configuration, then `syncd init` and
    `syncd up` (or `syncd run`, if something else serves the API). `syncd status` says how it goes.
    """
    running = context.invoked_subcommand in ("run", "up")
    logging.basicConfig(
        level=logging.INFO if running or verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    context.obj = _Session(config_file)


@cli.command()
@as_json
def keygen(as_json: bool) -> None:
    """Make a key for sync.keys (SYNC_KEYS).

    Give every host the same. To rotate: put the new key behind the old one everywhere, then in
    front of it everywhere, then remove the old one.
    """
    key = {"id": f"k{secrets.token_hex(3)}", "secret": secrets.token_urlsafe(SECRET_BYTES)}
    _print(key, f"{key['id']}:{key['secret']}", as_json)


@cli.command()
@as_json
@session
def init(this: _Session, as_json: bool) -> None:
    """Enrol the configured tables.

    Creates syncd's own tables and the capture triggers in the database, and gives rows that are
    already there a stamp. Run it again after every migration; it changes only what has to change,
    and says what that was. A warning names what works in another way than it may seem.
    """
    supervisor.prepare_database(this.config)
    enrolled = this.replica.enrol()
    rows = [dataclasses.asdict(table) for table in enrolled]
    _print(rows, report.enrolled_text(rows), as_json)


@cli.command()
@as_json
@session
def status(this: _Session, as_json: bool) -> None:
    """Show the replica, its tables and its peers."""
    found = this.replica.status()
    data = report.status_data(found, this.replica.wall_ms())
    _print(data, report.status_text(data), as_json)


@cli.command()
@click.option("--peer", metavar="NAME", help="Only with this peer.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, by table; write nothing.")
@as_json
@session
def sync(this: _Session, peer: str | None, dry_run: bool, as_json: bool) -> None:
    """Run one round now, with every peer.

    Exit code 1 if a round failed. A dry run merges into a private copy of the database; with
    several peers, each as if it were the only one.
    """
    outcomes = exchange.sync_now(this.replica, peer, dry=dry_run)
    data = [msgspec.to_builtins(outcome) for outcome in outcomes]
    _print(data, report.outcomes_text(data, by_table=dry_run), as_json)
    if not all(outcome.ok for outcome in outcomes):
        sys.exit(1)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--since-peer", metavar="NAME", help="Only what this host lacked when last heard of.")
@click.option(
    "--since",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Only what the holder of an earlier bundle lacks.",
)
@as_json
@session
def export(
    this: _Session, file: Path, since_peer: str | None, since: Path | None, as_json: bool
) -> None:
    """Write a signed bundle of changes to FILE.

    Everything, unless --since-peer or --since says what its receiver already has. Any host takes it
    in with `syncd import`, any number of times and in any order.
    """
    if since_peer and since:
        raise click.UsageError("--since-peer and --since exclude each other")
    base = _known_to_receiver(this, since_peer, since)
    header, frames = this.replica.frames_since(base)
    changes = 0

    def counted() -> Iterator[Any]:
        nonlocal changes
        for frame in frames:
            changes += sum(len(section) for section in frame.sections)
            _progress(f"{changes} changes")
            yield frame

    size = bundlefile.write(file, this.keyring, header, counted())
    _progress("\n")
    result = {"file": str(file), "changes": changes, "bytes": size}
    _print(result, f"{file}: {changes} changes, {size} bytes", as_json)


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what it would do, by table; write nothing.")
@click.option("--unsigned", is_flag=True, help="Take the file whoever made it.")
@as_json
@session
def import_(this: _Session, file: Path, dry_run: bool, unsigned: bool, as_json: bool) -> None:
    """Merge a bundle FILE.

    The whole file is checked first; if anything is wrong with it, nothing is merged. Importing it
    again does nothing. A dry run merges into a private copy of the database.
    """
    with bundlefile.opened(file, None if unsigned else this.keyring) as reader:
        if dry_run:
            with this.replica.rehearsal() as copy:
                counts = _merge(copy, reader, file)
        else:
            counts = _merge(this.replica, reader, file)
    tables = {name: of_table.numbers() for name, of_table in counts.tables.items()}
    data = {"file": str(file), "dry_run": dry_run, **counts.numbers(), "tables": tables}
    _print(data, report.counts_text(data), as_json)


def _merge(replica: Replica, reader: codec.Reader, file: Path) -> Counts:
    counts = Counts()
    with click.progressbar(
        length=file.stat().st_size,
        label="importing",
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    ) as bar:
        for packed in reader.packed_frames():
            counts += replica.merge_packed(reader.header, packed)
            bar.update(reader.bytes_read - bar.pos)
        bar.update(file.stat().st_size - bar.pos)  # the signature is behind the last frame
    return counts


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rows", is_flag=True, help="Print every change as a line of JSON.")
@click.option("--unsigned", is_flag=True, help="Do not check the signature; needs no keys.")
@as_json
@session
def inspect(this: _Session, file: Path, rows: bool, unsigned: bool, as_json: bool) -> None:
    """Show what a bundle FILE holds."""
    with bundlefile.opened(file, None if unsigned else this.keyring) as reader:
        if rows:
            for line in inspection.lines(reader):
                click.echo(json.dumps(line, ensure_ascii=False))
            return
        summary = inspection.summary(reader)
    _print(summary, report.summary_text(summary), as_json)


@cli.group(invoke_without_command=True)
@click.option("--table", metavar="T", help="Only of this table.")
@click.option(
    "--since", metavar="DURATION", help="Of the log, only what lost within this time, such as 1d."
)
@as_json
@click.pass_context
def conflicts(context: click.Context, table: str | None, since: str | None, as_json: bool) -> None:
    """List the values that lost to a write that did not know, and what is held.

    Each host lists what lost on it. A row that is displaced has lost a value that must be unique to
    another row; it is listed with that row, and when it was. `syncd conflicts restore ID` writes
    back what lost. Changes that wait are listed behind, for as long as they do; in the JSON of the
    log they are the entries without a lost_value.
    """
    if context.invoked_subcommand is not None:
        return
    this: _Session = context.obj
    since_ms = this.replica.wall_ms() - _duration(since) if since else 0
    found = [report.conflict_data(one) for one in this.replica.conflicts(table, since_ms)]
    waiting = [
        report.held_data(one)
        for one in this.replica.held()
        if one.reason != DISPLACED and table in (None, one.table)
    ]
    if table is not None and not (found or waiting or table in this.config.tables):
        names = ", ".join(this.config.tables)
        raise ConfigError([f"there is no table {table!r}; configured: {names}"])
    _print([*found, *waiting], report.conflicts_text(found, waiting), as_json)


@conflicts.command()
@click.argument("id_", metavar="ID", type=int)
@as_json
@session
def restore(this: _Session, id_: int, as_json: bool) -> None:
    """Write what lost in conflict ID back, as a new write of this host.

    A row that is displaced takes the place of the row that displaces it, unless it rests on that. A
    row that a deletion took away here comes back as it was then.
    """
    data = report.conflict_data(this.replica.restore(id_))
    _print(data, report.restored_text(data), as_json)


@cli.group(invoke_without_command=True)
@as_json
@click.pass_context
def held(context: click.Context, as_json: bool) -> None:
    """List the changes that are merged and do not show, and why.

    They are passed on to peers all the same, and show once what they wait for is there. What waits
    for its time, because another host's clock is or was ahead, can be merged now with `syncd held
    release`.
    """
    if context.invoked_subcommand is not None:
        return
    this: _Session = context.obj
    found = [report.held_data(one) for one in this.replica.held()]
    _print(found, report.held_text(found), as_json)


@held.command()
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@click.option("--peer", metavar="NAME", help="All that the host of this name wrote.")
@click.option("--all", "everything", is_flag=True, help="All that is held for its stamp.")
@as_json
@session
def release(
    this: _Session, ids: tuple[int, ...], peer: str | None, everything: bool, as_json: bool
) -> None:
    """Merge changes from the future now, as writes of this host.

    ID is a change's in the list. The originals are withdrawn: no host shows them when their time
    comes.
    """
    if [bool(ids), peer is not None, everything].count(True) != 1:
        raise click.UsageError("name what to release: either IDs, or --peer NAME, or --all")
    count = this.replica.release_held(ids) if ids else this.replica.release_host(peer)
    if peer is not None and not count:
        _require_known(this, peer)
    _print({"released": count}, f"{count} released", as_json)


@cli.group()
def clock() -> None:
    """Mend what a wrong clock has done."""


@clock.command()
@as_json
@session
def repair(this: _Session, as_json: bool) -> None:
    """Bring this host's changes from the future to the present.

    For a host whose clock ran ahead and is right again. Until then its stamps are still ahead, so
    that its peers hold what it writes. Everything from the future that it has is written anew under
    stamps of now, and the originals are withdrawn. A pull that broke off must be finished
    before: run `syncd sync`.
    """
    count = this.replica.repair_clock()
    text = (
        f"{count} changes brought to the present"
        if count
        else "no stamp of this host is ahead of its clock; if the clock is, set it first"
    )
    _print({"restamped": count}, text, as_json)


@cli.group("peers", invoke_without_command=True)
@as_json
@click.pass_context
def peers_(context: click.Context, as_json: bool) -> None:
    """List the hosts that have said what they have, configured or not.

    A deletion is remembered until `sync.retention` has passed and every live peer has it. A peer
    that has been silent for longer is not live; `syncd peers forget NAME` does not wait for that.
    """
    if context.invoked_subcommand is not None:
        return
    this: _Session = context.obj
    found = [report.contact_data(one) for one in this.replica.peers.contacts()]
    _print(found, report.contacts_text(found), as_json)


@peers_.command()
@click.argument("name", metavar="NAME")
@as_json
@session
def forget(this: _Session, name: str, as_json: bool) -> None:
    """Forget what peer NAME has said, so that no deletion is kept for it.

    It may come back: if it lacks deletions that are forgotten by then, it is sent a snapshot.
    """
    if not this.replica.peers.forget(name):
        known = ", ".join(sorted({one.name for one in this.replica.peers.contacts()})) or "none"
        raise ConfigError([f"no host {name!r} has said what it has; those that have: {known}"])
    _print({"name": name}, f"{name} is forgotten until it asks again", as_json)


@cli.command()
@click.option("--peer", metavar="NAME", help="Only with this peer.")
@click.option("--repair", is_flag=True, help="Mend what is found; this host is right.")
@as_json
@session
def verify(this: _Session, peer: str | None, repair: bool, as_json: bool) -> None:
    """Check this host's file and tables, and compare them with those of every peer.

    Names the tables of which pages are damaged, the rows of which a write was missed, because
    someone wrote past the triggers, and those that a peer shows otherwise although both have merged
    the same. Exit code 1 if there are any.

    With --repair the rows that stand here are taken for right: damaged indexes are made anew, what
    was missed becomes a write of now, and where a peer differs the newer write wins, or else what
    stands here.
    """
    peers = exchange.configured(this.config, peer)
    _progress("checking")
    found = comparison.findings(this.replica)
    if repair and found:
        comparison.mend(this.replica, found)
    left = comparison.findings(this.replica) if repair and found else found
    verdicts = []
    for one in peers:
        _progress(f"comparing with {one.name}")
        verdicts.append(verification.verify(this.replica, one, repair=repair))
    _progress("\n")
    data = report.verify_data(found, left, verdicts)
    _print(data, report.verify_text(data), as_json)
    if not data["ok"]:
        sys.exit(1)


@cli.command()
@session
def run(this: _Session) -> None:
    """Run the daemon, beside an API that something else serves.

    Ends by SIGTERM or Ctrl-C, after the frame that is being merged.
    """
    daemon.run(this.replica, _stopping())


@cli.command()
@session
def up(this: _Session) -> None:
    """Run the API and the daemon together.

    For hosts where two processes do not share a disk. If the API ends, so does this, with exit code
    1; a daemon that ends is started again.
    """
    config = load_config(this.config_file, check=supervisor.application_problems)
    supervisor.require_database(config.database)
    sys.exit(supervisor.up(config, Path(this.config_file), _stopping()))


def _known_to_receiver(this: _Session, peer: str | None, since: Path | None) -> Vector:
    if peer is not None:
        _require_known(this, peer)
        return this.replica.peers.told(peer)
    if since is not None:
        with bundlefile.opened(since, this.keyring) as reader:
            return inspection.claim(reader)
    return Vector()


def _require_known(this: _Session, peer: str) -> None:
    """Raise `ConfigError` unless a peer is configured, or has said what it has."""
    contacts = this.replica.peers.contacts()
    known = {*(one.name for one in this.config.peers), *(one.name for one in contacts)}
    if peer not in known:
        names = ", ".join(sorted(known)) or "none"
        raise ConfigError([f"there is no peer {peer!r}; known: {names}"])


def _duration(text: str) -> int:
    try:
        return duration_ms(text)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from error


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{text}", nl=False, err=True)


def _stopping() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: event.set())
    return event


def _print(data: Any, text: str, as_json: bool) -> None:
    click.echo(json.dumps(data, ensure_ascii=False, indent=2) if as_json else text)
