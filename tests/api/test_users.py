"""Accounts as their owners and administrators handle them, and what ends a session or a guess."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from licence_site import DEVICE, PASSWORD, Dashboard, Mailbox, MakeSite, Site
from werkzeug.test import TestResponse

NEW = "outra-senha"


@pytest.fixture
def chief(site: Site) -> Dashboard:
    """Log an administrator in."""
    site.add_admin("chefe")
    return site.dashboard("chefe")


@pytest.fixture
def maria(site: Site) -> Dashboard:
    """Log a user in."""
    site.add_user("maria")
    return site.dashboard("maria")


@pytest.mark.parametrize("table", ["admin_users", "users"])
def test_a_password_is_changed_by_who_knows_it(site: Site, table: str) -> None:
    """The old password opens nothing any more, and the duty to change it is done."""
    site.add_admin("pessoa") if table == "admin_users" else site.add_user("pessoa")
    response = _change(site.dashboard("pessoa"), PASSWORD)
    assert (response.status_code, response.get_json()) == (200, {"ok": True})
    assert site.login("pessoa").status_code == 401
    assert site.login("pessoa", NEW).get_json()["must_change_password"] is False


@pytest.mark.parametrize(
    ("old", "new"), [("errada", NEW), (PASSWORD, "curta"), ("", NEW), (PASSWORD, "")]
)
def test_a_password_is_not_changed_otherwise(
    site: Site, chief: Dashboard, old: str, new: str
) -> None:
    """A wrong or missing old password, and a new one that is too short, change nothing."""
    assert _change(chief, old, new).status_code == 400
    assert site.login("chefe").status_code == 200


def test_a_new_password_ends_the_other_sessions(site: Site, chief: Dashboard) -> None:
    """Whoever had got in is out; the session that changed the password goes on."""
    other = site.dashboard("chefe")
    _change(chief, PASSWORD)
    assert chief.call("GET", "/admin/users").status_code == 200
    assert other.call("GET", "/admin/users").status_code == 401
    assert (
        Dashboard(site, site.login("chefe", NEW).get_json()["token"])
        .call("GET", "/admin/users")
        .status_code
        == 200
    )


def test_a_logout_ends_one_session(site: Site, chief: Dashboard) -> None:
    """The token that logged out is worth nothing, another session of the account is not touched."""
    other = site.dashboard("chefe")
    assert chief.post("/admin/logout").get_json() == {"ok": True}
    assert chief.call("GET", "/admin/users").status_code == 401
    assert other.call("GET", "/admin/users").status_code == 200


def test_sessions_and_their_end_count_on_every_host(make_site: MakeSite, site: Site) -> None:
    """A session opened here opens the peer; ended there, it is ended here after a round."""
    there = make_site(node="there")
    site.add_admin("chefe")
    sessions = [site.dashboard("chefe") for _ in range(3)]
    _sync(site, there)
    abroad = [Dashboard(there, session.token) for session in sessions]
    assert [one.call("GET", "/admin/users").status_code for one in abroad] == [200, 200, 200]
    abroad[0].post("/admin/logout")
    _sync(there, site)
    assert [one.call("GET", "/admin/users").status_code for one in sessions] == [401, 200, 200]
    _change(abroad[1], PASSWORD)
    _sync(there, site)
    assert [one.call("GET", "/admin/users").status_code for one in sessions] == [401, 200, 401]


def test_an_administrator_creates_accounts(site: Site, chief: Dashboard) -> None:
    """A created account logs in with its password and role, and the history tells."""
    response = chief.post(
        "/admin/users/create",
        username="maria",
        password=NEW,
        email="maria@example.com",
        role="user",
    )
    assert response.status_code == 201
    row = site.row("SELECT id, email FROM users")
    assert row["email"] == "maria@example.com"
    assert response.get_json() == {
        "ok": True,
        "user_id": row["id"],
        "username": "maria",
        "role": "user",
    }
    assert site.login("maria", NEW).get_json()["role"] == "user"
    line = site.row("SELECT action, details, admin, host FROM license_history")
    assert line == {
        "action": "user.create",
        "details": "maria (user)",
        "admin": "chefe",
        "host": "here",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"username": ""},
        {"password": ""},
        {"password": "curta"},
        {"role": "root"},
        {"email": "nobody"},
        {"email": "a@b.example, c@d.example"},
        {"username": "chefe"},
    ],
)
def test_a_malformed_account_is_refused(
    site: Site, chief: Dashboard, change: dict[str, str]
) -> None:
    """Neither half an account nor one under an administrator's name is made."""
    body = {"username": "maria", "password": NEW, "email": "", "role": "user"} | change
    assert chief.post("/admin/users/create", **body).status_code == 400
    assert site.sql("SELECT * FROM users") == []


def test_a_name_is_given_once(site: Site, chief: Dashboard) -> None:
    """A second account of a name does not replace the first."""
    site.add_user("maria")
    response = chief.post("/admin/users/create", username="maria", password=NEW)
    assert (response.status_code, response.get_json()) == (400, {"error": "Usuário já existe."})
    assert site.login("maria").status_code == 200


def test_accounts_are_listed_without_their_passwords(chief: Dashboard, site: Site) -> None:
    """The list has what the dashboard shows, and no hash."""
    site.add_user("maria")
    (item,) = chief.call("GET", "/admin/users").get_json()["items"]
    assert item.keys() == {"id", "username", "email", "role", "created_at"}


def test_a_user_has_a_free_device_for_life(site: Site, maria: Dashboard) -> None:
    """A user's own device is a lifetime one under its name, whatever the request says."""
    response = maria.post(
        "/user/devices/create",
        device_id=DEVICE,
        owner_name="Loja",
        license_type="mensal",
        created_by="chefe",
    )
    assert response.status_code == 201
    assert response.get_json()["device_id"] == DEVICE
    device = site.row("SELECT * FROM devices")
    assert device == device | {
        "license_type": "vitalicia",
        "end_date": None,
        "created_by": "maria",
        "owner_name": "Loja",
        "status": "active",
    }


def test_a_user_does_not_take_over_a_device(site: Site, maria: Dashboard) -> None:
    """A device that is there already stays whose it is."""
    site.add_device(created_by="chefe", status="blocked")
    response = maria.post("/user/devices/create", device_id=DEVICE)
    assert (response.status_code, response.get_json()) == (
        400,
        {"error": "Device ID já registrado."},
    )
    assert site.row("SELECT created_by, status FROM devices") == {
        "created_by": "chefe",
        "status": "blocked",
    }


def test_a_profile_is_read_and_its_address_changed(site: Site, maria: Dashboard) -> None:
    """A user changes the address, and nothing else of the account."""
    answer = maria.call("PUT", "/user/profile", email="m@example.com", role="admin", username="x")
    assert (answer.status_code, answer.get_json()["ok"]) == (200, True)
    profile = maria.call("GET", "/user/profile").get_json()
    assert profile == profile | {"username": "maria", "email": "m@example.com", "role": "user"}
    assert profile.keys() == {"id", "username", "email", "role", "created_at"}
    assert maria.call("PUT", "/user/profile", email="nobody").status_code == 400
    assert site.row("SELECT action, admin FROM license_history") == {
        "action": "user.email",
        "admin": "maria",
    }


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_administrator_of_its_own_table_has_no_profile(chief: Dashboard, method: str) -> None:
    """Profiles are those of the table of users."""
    assert chief.call(method, "/user/profile", email="c@example.com").status_code == 404


def test_guessing_is_stopped_for_who_guesses(site: Site) -> None:
    """After ten wrong passwords even the right one waits, and the answer says how long."""
    site.add_admin("chefe")
    for _ in range(10):
        assert site.login("chefe", "errada").status_code == 401
    response = site.login("chefe")
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) == 15 * 60
    assert response.get_json() == {"error": "Muitas tentativas. Tente novamente em 15 min."}
    elsewhere = site.app.test_client().post(
        "/admin/login",
        json={"username": "chefe", "password": PASSWORD},
        environ_overrides={"REMOTE_ADDR": "203.0.113.9"},
    )
    assert elsewhere.status_code == 200
    site.clock.now += timedelta(minutes=15)
    assert site.login("chefe").status_code == 200


def test_right_passwords_are_not_counted(site: Site) -> None:
    """Whoever logs in often is no guesser."""
    site.add_admin("chefe")
    assert {site.login("chefe").status_code for _ in range(12)} == {200}


def test_guessing_across_names_is_stopped_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty wrong logins of one address are enough, whatever the names."""
    monkeypatch.setattr("api.passwords.matches", lambda *_: False)
    answers = [site.login(f"nome{n}").status_code for n in range(51)]
    assert answers == [401] * 50 + [429]


@pytest.fixture
def mailing(make_site: MakeSite, mailbox: Mailbox) -> Site:
    """Make a host that can send mail, with one user."""
    site = make_site(mailbox.settings | {"reset_url": "https://panel.example.com/reset"})
    site.add_user("maria")
    site.sql("UPDATE users SET email = 'Maria@example.com'")
    return site


def _forget(site: Site, address: str = "maria@example.com") -> tuple[int, dict[str, object]]:
    response = site.app.test_client().post("/auth/forgot-password", json={"email": address})
    site.host.mailer.drain()
    body: dict[str, object] = response.get_json()
    return response.status_code, body


def _token(mailbox: Mailbox) -> str:
    found = re.search(r"https://panel\.example\.com/reset\?\S+", mailbox.messages[-1].get_content())
    assert found
    (token,) = parse_qs(urlsplit(found[0]).query)["token"]
    return token


def test_a_forgotten_password_is_replaced_by_mail(mailing: Site, mailbox: Mailbox) -> None:
    """The mailed token is good for an hour, opens the account once, and ends its sessions."""
    session = mailing.dashboard("maria")
    status, _ = _forget(mailing)
    assert (status, mailbox.messages[0]["To"]) == (200, "maria@example.com")
    token = _token(mailbox)
    mailing.clock.now += timedelta(minutes=10)
    assert mailing.get("/auth/reset-password", query_string={"token": token}).get_json() == {
        "ok": True,
        "expires_at": "2026-01-10T16:00:00+00:00",
        "remaining_seconds": 50 * 60,
    }
    assert _reset(mailing, token, "curta") == 400
    assert _reset(mailing, token) == 200
    assert mailing.login("maria", NEW).status_code == 200
    assert session.call("GET", "/user/profile").status_code == 401
    assert _reset(mailing, token, "terceira-senha") == 400


def test_a_token_ends_after_an_hour(mailing: Site, mailbox: Mailbox) -> None:
    """One second past the hour it resets nothing."""
    _forget(mailing)
    mailing.clock.now += timedelta(hours=1, seconds=1)
    assert _reset(mailing, _token(mailbox)) == 400
    assert mailing.get("/auth/reset-password?token=x").status_code == 400


def test_a_session_is_no_reset_token(mailing: Site) -> None:
    """What one purpose signed is worth nothing for another."""
    assert _reset(mailing, mailing.dashboard("maria").token) == 400


def test_unknown_addresses_get_the_same_answer(mailing: Site, mailbox: Mailbox) -> None:
    """Nobody learns whose address is registered."""
    assert _forget(mailing, "nobody@example.com") == _forget(mailing)
    assert len(mailbox.messages) == 1


def test_an_address_is_not_flooded(mailing: Site, mailbox: Mailbox) -> None:
    """Three mails an hour are sent to an address, whoever asks for them."""
    assert [_forget(mailing)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert len(mailbox.messages) == 3


def test_without_mail_a_reset_is_unavailable(site: Site) -> None:
    """A host that cannot send says so."""
    status, body = _forget(site)
    assert (status, list(body)) == (503, ["error"])
    assert _forget(site, "")[0] == 400


def test_a_server_that_refuses_is_tried_again(
    mailing: Site, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be sent is logged without its token, and the answer does not tell."""
    mailbox.is_closed = True
    assert _forget(mailing)[0] == 200
    _until(lambda: "Redefinição de senha" in caplog.text)
    assert "token=" not in caplog.text


def _until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for what happens behind the answer."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _change(dashboard: Dashboard, old: str, new: str = NEW) -> TestResponse:
    return dashboard.post("/admin/change-password", old_password=old, new_password=new)


def _reset(site: Site, token: str, new: str = NEW) -> int:
    body = {"token": token, "new_password": new}
    return site.app.test_client().post("/auth/reset-password", json=body).status_code


def _sync(source: Site, target: Site) -> None:
    header, frames = source.host.replica.frames_since(target.host.replica.vector())
    for frame in frames:
        target.host.replica.merge(header, frame)
