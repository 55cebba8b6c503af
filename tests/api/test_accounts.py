"""Logging in: what opens an account, what it costs, and how long a session lasts."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from itsdangerous import URLSafeTimedSerializer
from licence_site import ADMIN_LEGACY_HASH, PASSWORD, SHARED_SECRET, MakeSite, Site

from api import passwords
from api.clock import utc_now

SESSION = ["admin_users", "chefe", "one", ""]


def test_a_login_tells_role_and_duty_to_change_the_password(site: Site) -> None:
    """An administrator's role comes from the table, a user's from the column."""
    site.add_admin("chefe")
    site.add_user("maria")
    site.add_user("gerente", role="admin")
    answers = {name: site.login(name).get_json() for name in ("chefe", "maria", "gerente")}
    assert {name: body["role"] for name, body in answers.items()} == {
        "chefe": "admin",
        "maria": "user",
        "gerente": "admin",
    }
    assert answers["chefe"]["must_change_password"] is True
    assert answers["maria"]["must_change_password"] is False
    assert answers["maria"].keys() == {"token", "must_change_password", "role"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"username": "chefe"},
        {"username": "chefe", "password": ""},
        {"username": " ", "password": PASSWORD},
        ["chefe", PASSWORD],
    ],
)
def test_a_login_needs_both_credentials(site: Site, body: object) -> None:
    """A login without a name or a password is malformed."""
    response = site.app.test_client().post("/admin/login", json=body)
    assert response.status_code == 400
    assert response.get_json() == {"error": "Credenciais obrigatórias."}


@pytest.mark.parametrize(("username", "password"), [("chefe", "errada"), ("ninguém", PASSWORD)])
def test_a_wrong_name_and_a_wrong_password_look_the_same(
    site: Site, username: str, password: str
) -> None:
    """The answer does not tell which accounts exist."""
    site.add_admin("chefe")
    response = site.login(username, password)
    assert response.status_code == 401
    assert response.get_json() == {"error": "Usuário ou senha inválidos."}


@pytest.mark.parametrize("username", ["chefe", "maria", "ninguém"])
def test_every_login_costs_one_argon2_check(
    site: Site, monkeypatch: pytest.MonkeyPatch, username: str
) -> None:
    """Neither an unknown name nor an imported hash answers sooner than an Argon2 account."""
    site.sql(
        "INSERT INTO admin_users (username, password_hash) VALUES ('chefe', ?)",
        passwords.hashed(PASSWORD),
    )
    site.add_user("maria")
    checks: list[str] = []
    real = passwords._argon2_matches

    def counting(password: str, stored: str) -> bool:
        checks.append(stored)
        return real(password, stored)

    monkeypatch.setattr(passwords, "_argon2_matches", counting)
    assert site.login(username, "errada").status_code == 401
    assert len(checks) == 1


@pytest.mark.parametrize("table", ["admin_users", "users"])
def test_an_imported_hash_is_replaced_at_its_first_login(site: Site, table: str) -> None:
    """After one login only Argon2 is stored, and the same password still opens the account."""
    site.add_admin("pessoa") if table == "admin_users" else site.add_user("pessoa")
    assert site.login("pessoa").status_code == 200
    stored = site.row(f"SELECT password_hash FROM {table}")["password_hash"]
    assert stored.startswith("$argon2id$")
    assert site.login("pessoa").status_code == 200
    assert site.row(f"SELECT password_hash FROM {table}")["password_hash"] == stored


def test_a_wrong_password_does_not_replace_an_imported_hash(site: Site) -> None:
    """Only whoever knows the password turns its hash into Argon2."""
    site.add_admin("chefe")
    site.login("chefe", "errada")
    assert site.row("SELECT password_hash FROM admin_users")["password_hash"] == ADMIN_LEGACY_HASH


def test_a_login_does_not_undo_a_password_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password changed on a peer while a login re-hashes the old one is kept."""
    site.add_admin("chefe")

    def change_arrives(_: str) -> str:
        site.sql("UPDATE admin_users SET password_hash = 'from a peer'")
        return "of the old password"

    monkeypatch.setattr(passwords, "hashed", change_arrives)
    assert site.login("chefe").status_code == 200
    assert site.row("SELECT password_hash FROM admin_users") == {"password_hash": "from a peer"}


def test_an_imported_hash_is_no_password(site: Site) -> None:
    """Whoever read an old export cannot log in with what it holds."""
    site.add_admin("chefe")
    assert site.login("chefe", ADMIN_LEGACY_HASH).status_code == 401


def test_where_both_tables_hold_a_name_the_administrator_is_meant(site: Site) -> None:
    """One name logs in as one account, always the same."""
    site.add_user("chefe")
    site.add_admin("chefe")
    assert site.login("chefe").get_json()["role"] == "admin"


def test_a_session_lasts_twelve_hours(site: Site) -> None:
    """One second past its end a token is worth nothing."""
    site.add_admin("chefe")
    dashboard = site.dashboard("chefe")
    site.clock.now += timedelta(hours=12)
    assert dashboard.call("GET", "/admin/devices").status_code == 200
    site.clock.now += timedelta(seconds=1)
    response = dashboard.call("GET", "/admin/devices")
    assert (response.status_code, response.get_json()) == (401, {"error": "Unauthorized"})


def test_a_session_ends_with_its_account(site: Site) -> None:
    """A removed account's token opens nothing any more."""
    site.add_user("maria")
    dashboard = site.dashboard("maria")
    site.sql("DELETE FROM users")
    assert dashboard.call("GET", "/admin/devices").status_code == 401


def test_a_session_follows_the_accounts_role(site: Site) -> None:
    """A demoted administrator is refused at the next request, not after twelve hours."""
    site.add_user("gerente", role="admin")
    dashboard = site.dashboard("gerente")
    assert dashboard.post("/admin/sync").status_code == 200
    site.sql("UPDATE users SET role = 'user'")
    assert dashboard.post("/admin/sync").status_code == 403


def test_session_keys_rotate(make_site: MakeSite) -> None:
    """The first key signs and all are accepted, so sessions outlive a rotation."""
    before = make_site({"session_keys": ["old"]})
    before.add_admin("chefe")
    token = before.dashboard("chefe").token
    during = make_site({"session_keys": ["new", "old"]})
    assert _opens(during, token)
    after = make_site({"session_keys": ["new"]})
    assert not _opens(after, token)
    assert _opens(after, during.dashboard("chefe").token)


def test_a_session_cannot_be_signed_with_what_clients_carry(site: Site) -> None:
    """A token forged with SHARED_SECRET, in whatever digest, is refused."""
    site.add_admin("chefe")
    forged = URLSafeTimedSerializer(SHARED_SECRET, salt="dashboard-session").dumps(SESSION)
    assert not _opens(site, str(forged))


def test_a_session_is_signed_with_sha_256(site: Site) -> None:
    """Even with the right key, the library's default digest is refused."""
    site.add_admin("chefe")
    weak, right = (
        URLSafeTimedSerializer(
            "session-key-1", salt="dashboard-session", signer_kwargs={"digest_method": digest}
        )
        for digest in (hashlib.sha1, hashlib.sha256)
    )
    site.clock.now = utc_now() + timedelta(minutes=1)
    assert _opens(site, str(right.dumps(SESSION)))
    assert not _opens(site, str(weak.dumps(SESSION)))


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer x.y.z", "Basic Y2hlZmU6eA=="])
def test_anything_but_a_token_is_unauthorized(site: Site, header: str) -> None:
    """Malformed authorization ends in the same 401 as none at all."""
    response = site.get("/admin/devices", headers={"Authorization": header})
    assert (response.status_code, response.get_json()) == (401, {"error": "Unauthorized"})


def test_a_token_opens_only_as_a_bearers(site: Site) -> None:
    """A good token under another scheme is not taken."""
    site.add_admin("chefe")
    token = site.dashboard("chefe").token
    response = site.get("/admin/devices", headers={"Authorization": f"Token {token}"})
    assert response.status_code == 401
    assert _opens(site, token)


def _opens(site: Site, token: str) -> bool:
    response = site.get("/admin/devices", headers={"Authorization": f"Bearer {token}"})
    return response.status_code == 200
