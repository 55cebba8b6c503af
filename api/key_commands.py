"""`python -m api keys`: the keys behind offline tokens.

Owns both ends. `root`, `make`, `rotate` and `revoke` run where the root's private key is, at the
vendor's, and need neither configuration nor database. `list` and `publish` run on a host and only
see public material. A private key goes into a file that its owner alone may read, and is never
printed; no command replaces a file but `rotate` and `revoke`, which say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

import syncd
from api import jose
from api.clock import utc_now
from api.commands import act, as_json, config_option, opened_host, show

_KID = re.compile("[A-Za-z0-9_-]{43}")

root_option = click.option(
    "--root",
    "root_file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The root's private key.",
)


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke the keys that sign offline tokens.

    Once: `keys root` at the vendor's; its public key goes into the clients and, as OFFLINE_ROOT, to
    every host. For each host: `keys make`; the file's content is that host's OFFLINE_KEY.
    """


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@as_json
def root(file: Path, as_json: bool) -> None:
    """Make the root key into FILE and print its public part.

    FILE stays with you, off the hosts; keep a copy. Without it no key can be made or revoked.
    """
    key = jose.generate()
    _write_new(file, json.dumps(jose.private_jwk(key)))
    public = json.dumps(jose.public_jwk(key), separators=(",", ":"))
    result = {"file": str(file), "kid": jose.kid_of(key), "public": jose.public_jwk(key)}
    show(result, f"{file}: root key {result['kid']}\nOFFLINE_ROOT={public}", as_json)


@keys.command()
@click.argument("host")
@root_option
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Where to."
)
@as_json
def make(host: str, root_file: Path, out: Path, as_json: bool) -> None:
    """Make and certify a key for HOST, the host's `node`."""
    try:
        syncd.valid_name(host)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    made = _make(host, _read_root(root_file))
    _write_new(out, _content(made))
    result = {"file": str(out), "kid": made.kid, "host": host}
    text = f"{out}: key {made.kid} of {host}\nIts content is OFFLINE_KEY on {host}."
    show(result, text, as_json)


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@root_option
@as_json
def rotate(file: Path, root_file: Path, as_json: bool) -> None:
    """Replace the key in FILE by a new one for the same host.

    What the old key signed stays good until its grace is over, unless the key is revoked.
    """
    signing = _read_root(root_file)
    try:
        old = jose.read_host_key(_read(file), signing)
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from error
    made = _make(old.host, signing)
    _replace(file, _content(made))
    result = {"file": str(file), "kid": made.kid, "host": made.host, "former": old.kid}
    text = (
        f"{file}: key {made.kid} of {made.host}, instead of {old.kid}\n"
        f"Give its content to {made.host} as OFFLINE_KEY and start it again."
    )
    show(result, text, as_json)


# An id is base64url, so one in 64 begins with a dash.
@keys.command(context_settings={"ignore_unknown_options": True})
@click.argument("kids", metavar="KID...", nargs=-1, required=True)
@root_option
@click.option(
    "--list",
    "list_file",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The list of revoked keys; it is replaced by one that has KID too.",
)
@as_json
def revoke(kids: Sequence[str], root_file: Path, list_file: Path, as_json: bool) -> None:
    """Put keys on the signed list of revoked ones.

    Then hand the list to any host: `keys publish FILE` there, or POST /admin/keys.
    """
    for kid in kids:
        if not _KID.fullmatch(kid):
            raise click.ClickException(f"{kid}: not a key's id; `keys list` on a host shows them")
    signing = _read_root(root_file)
    before = _revoked_before(list_file, signing)
    claims = {
        "iat": max(_now_s(), before["iat"] + 1),
        "kids": [*before["kids"], *(kid for kid in kids if kid not in before["kids"])],
    }
    text = jose.sign(claims, jose.REVOCATIONS, signing, jose.kid_of(signing))
    _replace(list_file, text)
    show({"file": str(list_file), **claims}, f"{list_file}: {len(claims['kids'])} keys", as_json)


@keys.command("list")
@config_option
@as_json
def list_(config_path: Path | None, as_json: bool) -> None:
    """List the hosts' keys that the root certified."""
    trust = opened_host(config_path).offline.trust()
    rows = [
        {
            "host": one.host,
            "kid": one.kid,
            "made": datetime.fromtimestamp(one.issued_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "state": "revoked" if one.kid in trust.revoked else "valid",
        }
        for one in trust.certificates
    ]
    show(rows, tabulate(rows, headers="keys") or "no keys: python -m api keys make", as_json)


@keys.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@config_option
@as_json
def publish(files: Sequence[Path], config_path: Path | None, as_json: bool) -> None:
    """Hand lists of revoked keys, or certificates, to all hosts."""
    here = opened_host(config_path)
    who = act(here.replica)
    rows = []
    for file in files:
        try:
            rows.append({"file": str(file), "kind": here.offline.publish(_read(file), who)})
        except jose.BadSignedTextError as error:
            raise click.ClickException(f"{file}: {error}") from error
    show(rows, tabulate(rows, headers="keys"), as_json)


def _make(host: str, root: jose.Key) -> jose.HostKey:
    key = jose.generate()
    return jose.HostKey(key, jose.certify(root, key, host, _now_s()), host)


def _content(made: jose.HostKey) -> str:
    fields = {**jose.private_jwk(made.key), "kid": made.kid, "cert": made.certificate}
    return json.dumps(fields, separators=(",", ":"))


def _now_s() -> int:
    return int(utc_now().timestamp())


def _revoked_before(file: Path, root: jose.Key) -> dict[str, Any]:
    if not file.exists():
        return {"iat": 0, "kids": []}
    try:
        return jose.verify(_read(file).strip(), jose.REVOCATIONS, root)
    except jose.BadSignedTextError as error:
        raise click.ClickException(f"{file}: {error}") from error


def _read_root(file: Path) -> jose.Key:
    try:
        key = jose.read_key(_read(file))
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from error
    if "cert" in json.loads(_read(file)):
        raise click.ClickException(f"{file}: this is a host's key; the root's is needed")
    if not key.is_private:
        raise click.ClickException(f"{file}: this is the public part; the private one is needed")
    return key


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: cannot be read: {error}") from error


def _write_new(file: Path, text: str) -> None:
    try:
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}; nothing was written") from error


def _replace(file: Path, text: str) -> None:
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    _write_new(fresh, text)
    fresh.replace(file)
