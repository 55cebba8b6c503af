"""The offline token, checked as a client does: by hand, with the root's public key alone."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from licence_site import DEVICE, NOW, MakeSite, Site

import syncd
from api import jose
from api.__main__ import main

NONCE = "0123456789abcdef-_XY"
ISSUED_S = int(NOW.timestamp())
DAY_S = 86_400


@dataclass
class Vendor:
    """Hold the root's files, as the vendor does off the hosts."""

    folder: Path

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["keys", *arguments])

    def do(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return its JSON."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    @property
    def root(self) -> str:
        return str(self.folder / "root")

    @property
    def revoked(self) -> str:
        return str(self.folder / "revoked")

    def make(self, host: str) -> Path:
        """Make a host's key and return its file."""
        file = self.folder / f"{host}.key"
        self.do("make", host, "--root", self.root, "--out", str(file))
        return file

    def settings(self, host: str = "here") -> dict[str, Any]:
        """Return what a host is told of the keys."""
        return {"offline_root": self.public, "offline_key": self.make(host).read_text()}

    @property
    def public(self) -> dict[str, str]:
        whole = json.loads(Path(self.root).read_text())
        return {name: whole[name] for name in ("kty", "crv", "x", "y")}


@pytest.fixture
def vendor(tmp_path: Path) -> Vendor:
    """Make a root key."""
    made = Vendor(tmp_path)
    made.do("root", made.root)
    return made


@pytest.fixture
def site(make_site: MakeSite, vendor: Vendor) -> Site:
    """Make a host that has an offline key."""
    return make_site(vendor.settings())


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _checked(text: str, jwk: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims of a compact JWS, once its signature holds (RFC 7515, 7518)."""
    header, claims, signature = text.split(".")
    x, y = (int.from_bytes(_bytes(jwk[name]), "big") for name in ("x", "y"))
    raw = _bytes(signature)
    assert len(raw) == 64
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
    ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().verify(
        encode_dss_signature(r, s), f"{header}.{claims}".encode(), ec.ECDSA(SHA256())
    )
    return json.loads(_bytes(header)), json.loads(_bytes(claims))


def _thumbprint(jwk: dict[str, str]) -> str:
    """Return a key's id by RFC 7638, section 3."""
    members = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}).replace(" ", "")
    digest = hashlib.sha256(members.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _claims(body: dict[str, Any], root: dict[str, str]) -> dict[str, Any]:
    """Return a token's claims, checked from the pinned root down."""
    header = json.loads(_bytes(body["offline_token"].split(".")[0]))
    of_certificate, certified = _checked(header["cert"], root)
    assert of_certificate == {"alg": "ES256", "typ": "host-key", "kid": _thumbprint(root)}
    assert header.keys() == {"alg", "typ", "kid", "cert"}
    assert (header["alg"], header["typ"]) == ("ES256", "JWT")
    assert header["kid"] == certified["kid"] == _thumbprint(certified["jwk"])
    assert certified.keys() == {"kid", "iss", "jwk", "iat"}
    _, claims = _checked(body["offline_token"], certified["jwk"])
    assert claims["iss"] == certified["iss"]
    return claims


def test_a_token_says_what_the_answer_says(site: Site, vendor: Vendor) -> None:
    """From the pinned root to the claims, everything holds and nothing is missing."""
    site.add_device(features="core,pix")
    body = site.verify(nonce=NONCE).get_json()
    assert _claims(body, vendor.public) == {
        "iss": "here",
        "sub": DEVICE,
        "allow": True,
        "status": "active",
        "features": ["core", "pix"],
        "license_type": "anual",
        "license_expires_at": "2027-01-10",
        "iat": ISSUED_S,
        "grace": 7 * DAY_S,
        "exp": ISSUED_S + 7 * DAY_S,
        "nonce": NONCE,
    }


@pytest.mark.parametrize(
    ("columns", "status", "ends"),
    [
        ({"status": "blocked"}, "blocked", "2027-01-10"),
        ({"status": "pending"}, "pending", "2027-01-10"),
        ({"end_date": "2026-01-09"}, "expired", "2026-01-09"),
        ({"license_type": "vitalicia"}, "active", None),
    ],
)
def test_every_verdict_has_its_status(
    site: Site, vendor: Vendor, columns: dict[str, Any], status: str, ends: str | None
) -> None:
    """A denial is signed as an approval is, and a licence without an end has none."""
    site.add_device(**columns)
    body = site.verify().get_json()
    claims = _claims(body, vendor.public)
    assert (claims["allow"], claims["status"]) == (body["allow"], status)
    assert claims["license_expires_at"] == ends
    assert "nonce" not in claims


def test_a_refusal_is_signed_for_who_sent_a_nonce(site: Site, vendor: Vendor) -> None:
    """An unknown device, and one on the block list, get a signed no that names their question."""
    unknown = site.verify("b" * 32, nonce=NONCE)
    assert unknown.status_code == 403
    claims = _claims(unknown.get_json(), vendor.public)
    assert (claims["sub"], claims["allow"], claims["status"]) == ("b" * 32, False, "unknown")
    assert (claims["features"], claims["license_type"], claims["nonce"]) == ([], None, NONCE)
    site.add_device()
    site.sql("INSERT INTO blocked_devices (device_id) VALUES (?)", DEVICE)
    barred = _claims(site.verify(nonce=NONCE).get_json(), vendor.public)
    assert (barred["allow"], barred["status"]) == (False, "blocked")


@pytest.mark.parametrize("nonce", ["", "x" * 15, "x" * 65, "x" * 15 + "!", "é" * 16])
def test_a_refusal_without_a_nonce_is_as_ever(site: Site, nonce: str) -> None:
    """Deployed clients get the bytes that they know, whatever the host's keys."""
    response = site.verify("b" * 32, nonce=nonce)
    assert response.data == rb'{"allow":false,"msg":"ID n\u00e3o registrado."}' + b"\n"


def test_a_request_that_is_wrong_in_itself_is_not_signed(site: Site) -> None:
    """What any host would refuse says nothing of a device."""
    body = site.verify(api_key="WRONG", nonce=NONCE).get_json()
    assert body == {"allow": False, "msg": "API key inválida."}


def test_a_host_without_a_key_gives_no_token(make_site: MakeSite) -> None:
    """Without an offline key the answer has no field more than ever."""
    site = make_site()
    site.add_device()
    assert not [name for name in site.verify(nonce=NONCE).get_json() if "offline" in name]
    assert site.get("/.well-known/jwks.json").get_json() == {"keys": []}


def test_a_tampered_token_is_found_out(site: Site, vendor: Vendor) -> None:
    """The check that these tests make is one: another claim breaks the signature."""
    site.add_device(status="blocked")
    header, claims, signature = site.verify().get_json()["offline_token"].split(".")
    forged = _bytes(claims).replace(b'"allow":false', b'"allow":true')
    text = ".".join((header, base64.urlsafe_b64encode(forged).rstrip(b"=").decode(), signature))
    with pytest.raises(InvalidSignature):
        _claims({"offline_token": text}, vendor.public)


def test_the_grace_is_the_operators(make_site: MakeSite, vendor: Vendor) -> None:
    """Grace and expiry follow the setting."""
    site = make_site(vendor.settings() | {"offline_grace": "12h"})
    site.add_device()
    claims = _claims(site.verify().get_json(), vendor.public)
    assert (claims["grace"], claims["exp"]) == (DAY_S // 2, ISSUED_S + DAY_S // 2)


def test_all_hosts_keys_are_public(site: Site, vendor: Vendor) -> None:
    """The key set lists a peer's key beside the own one, each with the root's certificate."""
    other = json.loads(vendor.make("there").read_text())
    _take_in(site, other["cert"])
    keys = site.get("/.well-known/jwks.json").get_json()["keys"]
    assert [_checked(key["cert"], vendor.public)[1]["iss"] for key in keys] == ["here", "there"]
    assert keys[1] == {
        **{name: other[name] for name in ("kty", "crv", "x", "y", "kid", "cert")},
        "alg": "ES256",
        "use": "sig",
    }
    assert "d" not in keys[0]


def test_no_private_key_is_in_the_database(site: Site, vendor: Vendor) -> None:
    """Neither the host's nor the root's."""
    written = (
        site.database.read_bytes()
        + site.database.with_name(site.database.name + "-wal").read_bytes()
    )
    for file in (vendor.root, vendor.folder / "here.key"):
        assert json.loads(Path(file).read_text())["d"].encode() not in written
    assert json.loads((vendor.folder / "here.key").read_text())["cert"].encode() in written


def test_a_revoked_host_signs_nothing_and_is_not_listed(site: Site, vendor: Vendor) -> None:
    """Once its key is on the list, a host gives no token, and other hosts pass the list on."""
    site.add_device()
    kid = json.loads((vendor.folder / "here.key").read_text())["kid"]
    vendor.do("revoke", kid, "--root", vendor.root, "--list", vendor.revoked)
    _publish(site, Path(vendor.revoked).read_text())
    assert "offline_token" not in site.verify().get_json()
    assert site.get("/.well-known/jwks.json").get_json() == {"keys": []}


def test_a_list_of_revoked_keys_travels_with_the_token(site: Site, vendor: Vendor) -> None:
    """A client hears of the newest list, signed by the root, with every token."""
    site.add_device()
    kids = ["first".ljust(43, "_"), "second".ljust(43, "_")]
    for kid in kids:
        vendor.do("revoke", kid, "--root", vendor.root, "--list", vendor.revoked)
        _publish(site, Path(vendor.revoked).read_text())
    body = site.verify().get_json()
    header, claims = _checked(body["offline_revoked"], vendor.public)
    assert header["typ"] == "revoked-keys"
    assert claims["kids"] == kids
    assert _claims(body, vendor.public)["allow"] is True


def test_an_older_list_takes_no_revocation_back(site: Site, vendor: Vendor) -> None:
    """Two lists of two machines count both, whichever came last."""
    kid = json.loads((vendor.folder / "here.key").read_text())["kid"]
    vendor.do("revoke", kid, "--root", vendor.root, "--list", vendor.revoked)
    vendor.do("revoke", "o" * 43, "--root", vendor.root, "--list", vendor.revoked + "2")
    _publish(site, Path(vendor.revoked).read_text())
    _publish(site, Path(vendor.revoked + "2").read_text())
    assert site.get("/.well-known/jwks.json").get_json() == {"keys": []}


def test_what_arrives_by_sync_counts_within_ten_seconds(site: Site, vendor: Vendor) -> None:
    """The table is read again, so that a revocation on a peer reaches this host's answers."""
    site.add_device()
    assert "offline_token" in site.verify().get_json()
    kid = json.loads((vendor.folder / "here.key").read_text())["kid"]
    vendor.do("revoke", kid, "--root", vendor.root, "--list", vendor.revoked)
    _take_in(site, Path(vendor.revoked).read_text().strip())
    site.clock.now += timedelta(seconds=10)
    assert "offline_token" not in site.verify().get_json()


def test_no_key_is_named_like_an_option() -> None:
    """Its id is what commands are given."""
    assert not any(jose.kid_of(jose.generate()).startswith("-") for _ in range(500))


def test_what_the_root_did_not_sign_is_not_believed(
    site: Site, vendor: Vendor, tmp_path: Path
) -> None:
    """Another root's certificate and list count for nothing, even inside the table."""
    (tmp_path / "stranger").mkdir()
    stranger = Vendor(tmp_path / "stranger")
    stranger.do("root", stranger.root)
    certificate = json.loads(stranger.make("evil").read_text())["cert"]
    kid = json.loads((vendor.folder / "here.key").read_text())["kid"]
    stranger.do("revoke", kid, "--root", stranger.root, "--list", stranger.revoked)
    revoked = Path(stranger.revoked).read_text().strip()
    site.add_admin()
    for text in (certificate, revoked, "not even signed"):
        _take_in(site, text)
        response = site.dashboard("chefe").post("/admin/keys", signed=text)
        assert response.status_code == 400
    assert len(site.get("/.well-known/jwks.json").get_json()["keys"]) == 1


def test_a_list_can_be_handed_in_without_a_shell(site: Site, vendor: Vendor) -> None:
    """An administrator posts what the root signed; a user cannot."""
    vendor.do("revoke", "x" * 43, "--root", vendor.root, "--list", vendor.revoked)
    text = Path(vendor.revoked).read_text()
    site.add_user("maria")
    assert site.dashboard("maria").post("/admin/keys", signed=text).status_code == 403
    site.add_admin("chefe")
    response = site.dashboard("chefe").post("/admin/keys", signed=text)
    assert (response.status_code, response.get_json()) == (
        201,
        {"ok": True, "kind": "revoked-keys"},
    )
    line = site.row("SELECT admin, host, details FROM license_history WHERE action='keys.publish'")
    assert (line["admin"], line["host"]) == ("chefe", "here")
    assert line["details"].startswith("revoked-keys ")


def test_a_mistyped_key_id_is_not_put_on_the_list(vendor: Vendor) -> None:
    """A revocation that revokes nothing would look done."""
    result = vendor.run("revoke", "x" * 42, "--root", vendor.root, "--list", vendor.revoked)
    assert result.exit_code == 1
    assert "not a key's id" in result.output
    assert not Path(vendor.revoked).exists()


@pytest.mark.parametrize("name", ["ho st", "", "-a", "hôst"])
def test_a_key_is_made_only_for_what_can_be_a_host(name: str, vendor: Vendor) -> None:
    """No host has such a `node`, so none could start with the key."""
    made = vendor.folder / "made.key"
    result = vendor.run("make", "--root", vendor.root, "--out", str(made), "--", name)
    assert result.exit_code == 1
    assert "write letters, digits, dots and dashes, such as host-a" in result.output
    assert not made.exists()


def test_a_hosts_key_is_not_taken_for_the_root(vendor: Vendor) -> None:
    """What a host's key certified no client would believe."""
    file = vendor.make("here2")
    made = vendor.folder / "made.key"
    result = vendor.run("make", "there", "--root", str(file), "--out", str(made))
    assert result.exit_code == 1
    assert "this is a host's key" in result.output
    assert not made.exists()


@pytest.mark.usefixtures("site")
def test_keys_rotate(make_site: MakeSite, vendor: Vendor) -> None:
    """A rotated key signs from the next start on, and the old one stays listed."""
    file = vendor.folder / "here.key"
    old = json.loads(file.read_text())["kid"]
    done = vendor.do("rotate", str(file), "--root", vendor.root)
    assert (done["former"], done["host"]) == (old, "here")
    after = make_site({"offline_root": vendor.public, "offline_key": str(file)})
    after.add_device()
    header = json.loads(_bytes(after.verify().get_json()["offline_token"].split(".")[0]))
    assert header["kid"] == done["kid"] != old
    listed = {key["kid"] for key in after.get("/.well-known/jwks.json").get_json()["keys"]}
    assert listed == {done["kid"], old}


def test_the_commands_list_and_publish(site: Site, vendor: Vendor) -> None:
    """On a host the operator sees whose keys there are, and hands in a list."""
    environment = ["--config", str(site.config)]
    (row,) = vendor.do("list", *environment)
    assert (row["host"], row["state"]) == ("here", "valid")
    vendor.do("revoke", row["kid"], "--root", vendor.root, "--list", vendor.revoked)
    assert vendor.do("publish", vendor.revoked, *environment)[0]["kind"] == "revoked-keys"
    (row,) = vendor.do("list", *environment)
    assert row["state"] == "revoked"


def test_private_files_are_their_owners_and_never_replaced(vendor: Vendor) -> None:
    """A key file is readable by its owner alone, and a second `root` does not take its place."""
    before = Path(vendor.root).read_text()
    assert Path(vendor.root).stat().st_mode & 0o777 == 0o600
    result = vendor.run("root", vendor.root)
    assert result.exit_code == 1
    assert "File exists" in result.output
    assert Path(vendor.root).read_text() == before
    assert json.loads(before)["d"] not in vendor.run("root", vendor.root + "2").output


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"offline_root": None}, "offline_root (OFFLINE_ROOT) is needed"),
        ({"offline_key": "/nowhere/host.key"}, "No such file"),
        ({"offline_key": "{}"}, "not a P-256 key"),
        ({"offline_root": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}}, "not a P-256 key"),
    ],
)
def test_a_key_that_cannot_sign_is_reported(
    make_site: MakeSite, vendor: Vendor, change: dict[str, Any], problem: str
) -> None:
    """A missing root, a missing file and a broken key end the start with their reason."""
    with pytest.raises(syncd.ConfigError) as caught:
        make_site(vendor.settings() | change)
    assert problem in str(caught.value)


def test_another_hosts_key_is_refused(make_site: MakeSite, vendor: Vendor) -> None:
    """A key certified for one host does not sign on another."""
    with pytest.raises(syncd.ConfigError, match="made for there, and this host is here"):
        make_site(vendor.settings("there"))


def test_the_private_root_is_refused(make_site: MakeSite, vendor: Vendor) -> None:
    """The root's private part pasted into a host's settings is an error, not a convenience."""
    whole = json.loads(Path(vendor.root).read_text())
    with pytest.raises(syncd.ConfigError, match="private part") as caught:
        make_site(vendor.settings() | {"offline_root": whole})
    assert whole["d"] not in str(caught.value)


def _publish(site: Site, text: str) -> None:
    site.host.offline.publish(text)


def _take_in(site: Site, text: str) -> None:
    """Write a row as a sync does, whatever it holds."""
    site.sql(
        "INSERT INTO root_signed VALUES (?, ?)", hashlib.sha256(text.encode()).hexdigest(), text
    )
