"""The settings: what is right, what is reported, and what is never shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest
from licence_site import SECRETS, MakeSite

import syncd
from api.settings import load_settings


def _problems(section: Mapping[str, object], environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(syncd.ConfigError) as caught:
        load_settings(section, environ or {})
    return list(caught.value.problems)


def test_no_secret_has_a_default() -> None:
    """An empty configuration is told, all at once, of every secret it needs and where it goes."""
    key, secret, sessions = _problems({})
    assert key.startswith("api.api_key (API_KEY): missing. It is the API key compiled into")
    assert secret == (
        "api.shared_secret (SHARED_SECRET): missing. It is the secret compiled into your clients"
    )
    assert sessions.startswith("api.session_keys (SESSION_KEYS): missing. ")
    assert "`syncd keygen` makes one" in sessions


def test_every_mistake_is_reported_at_once() -> None:
    """A wrong value, an unknown name and a missing secret come in one error."""
    problems = _problems(
        {"api_key": "k", "shared_secret": 7, "session_keys": [], "smtp": True},
        {"FLASK_ENV": "debug", "REQUIRE_SIGNATURE": "perhaps", "CORS_ORIGINS": "*"},
    )
    assert sorted(problem.split(":")[0] for problem in problems) == [
        "api.cors_origins (CORS_ORIGINS)",
        "api.flask_env (FLASK_ENV)",
        "api.require_signature (REQUIRE_SIGNATURE)",
        "api.session_keys (SESSION_KEYS)",
        "api.shared_secret (SHARED_SECRET)",
        "api.smtp",
    ]


def test_the_environment_beats_the_file() -> None:
    """A variable replaces the file's value, without the spaces around it; an empty one is none."""
    settings = load_settings(
        SECRETS | {"license_servers": ["https://file.example.com"]},
        {
            "SHARED_SECRET": " from-environment\n",
            "API_KEY": "",
            "REQUIRE_API_KEY": "false",
            "SESSION_KEYS": "new, old",
            "LICENSE_SERVERS": "https://a.example.com/, https://b.example.com/api",
            "CORS_ORIGINS": "https://panel.example.com/,http://localhost:3000",
        },
    )
    assert settings.shared_secret == "from-environment"
    assert settings.api_key == "TESTKEY"
    assert settings.require_api_key is False
    assert settings.session_keys == ("new", "old")
    assert settings.license_servers == ("https://a.example.com", "https://b.example.com/api")
    assert settings.cors_origins == ("https://panel.example.com", "http://localhost:3000")


def test_the_defaults_are_the_careful_ones() -> None:
    """Key and signature are required, and the host is in production."""
    settings = load_settings(SECRETS, {})
    assert settings.require_api_key
    assert settings.require_signature
    assert settings.flask_env == "production"
    assert not settings.smtp_enabled
    assert settings.license_servers == settings.cors_origins == ()


def test_an_api_key_is_needed_only_where_it_is_required() -> None:
    """A host that asks for no API key needs none."""
    section = {name: value for name, value in SECRETS.items() if name != "api_key"}
    assert load_settings(section | {"require_api_key": False}, {}).api_key is None


@pytest.mark.parametrize("shipped", ["shared_secret", "api_key"])
def test_a_session_key_that_clients_carry_is_refused(shipped: str) -> None:
    """What ships in a client must not open the dashboard, not even as an old key."""
    (problem,) = _problems(SECRETS | {"session_keys": ["good", str(SECRETS[shipped])]})
    assert f"one is equal to api.{shipped}" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("license_servers", "api.example.com"),
        ("license_servers", "https://"),
        ("cors_origins", "https://panel.example.com/admin"),
        ("cors_origins", "https://*.example.com"),
    ],
)
def test_addresses_must_be_whole(name: str, value: str) -> None:
    """A server needs its scheme, and an origin is exact, without path or wildcard."""
    (problem,) = _problems(SECRETS | {name: value})
    assert problem.startswith(f"api.{name} ({name.upper()}): not a")


@pytest.mark.parametrize("text", ["36501d", "9999999999999d", "9" * 400 + "s"])
def test_a_duration_has_a_bound(text: str) -> None:
    """What is so long ago that there is no date for it would end the request that asks."""
    assert load_settings(SECRETS, {"FRESH_FOR": "36500d"}).fresh_for.days == 36_500
    (problem,) = _problems(SECRETS, {"FRESH_FOR": text})
    assert problem.startswith("api.fresh_for (FRESH_FOR): a duration may be 36500d at most")


def test_no_secret_is_shown(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a repr, nor a problem, nor a talkative log tells a secret, a password or a token."""
    caplog.set_level(logging.DEBUG)
    site = make_site({"flask_env": "development"})
    site.add_admin("chefe")
    token = site.login("chefe").get_json()["token"]
    site.login("chefe", "segredo-errado")
    site.verify("b" * 32)
    site.sql("DROP TABLE devices")
    assert site.verify().status_code == 500
    shown = [
        caplog.text,
        repr(site.host.settings),
        *_problems(SECRETS | {"session_keys": ["TESTSECRET"], "api_key": ["TESTKEY"]}),
    ]
    for secret in ("TESTKEY", "TESTSECRET", "session-key-1", "segredo-errado", "Teste#123", token):
        assert not any(secret in text for text in shown)
    assert "denied" in caplog.text


def test_development_is_only_more_talkative(make_site: MakeSite) -> None:
    """FLASK_ENV changes the log's level and nothing else: there is no debug mode."""
    assert make_site({"flask_env": "development"}).app.debug is False
    assert logging.getLogger("api").level == logging.DEBUG
    make_site()
    assert logging.getLogger("api").level == logging.INFO
