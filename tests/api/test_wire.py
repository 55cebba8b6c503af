"""What everyone may ask, and the form of whatever goes wrong."""

from __future__ import annotations

import json

import pytest
from licence_site import MakeSite, Site

PANEL = "https://panel.example.com"


def test_health_and_ping_tell_that_the_host_lives(site: Site) -> None:
    """Both answer in the form that deployed clients know."""
    assert site.get("/health").data == b'{"status":"ok"}\n'
    assert site.get("/ping").data == (
        b'{"message":"Server is alive","server":"license-api","status":"ok",'
        b'"timestamp":"2026-01-10T15:00:00+00:00"}\n'
    )


def test_servers_lists_the_configured_hosts(make_site: MakeSite) -> None:
    """The list is the configured one, in its order, at the time that the host's clock tells."""
    site = make_site({"license_servers": ["https://b.example.com", "https://a.example.com/"]})
    assert site.get("/servers").data == (
        b'{"servers":["https://b.example.com","https://a.example.com"],'
        b'"timestamp":20260110150000,"version":1}\n'
    )


def test_keys_are_sorted(site: Site) -> None:
    """The order of keys on the wire is the alphabet's, whatever the code's."""
    site.add_admin("chefe")
    assert list(json.loads(site.login("chefe").data)) == ["must_change_password", "role", "token"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/static/x.js", 404), ("POST", "/verify", 405)],
)
def test_errors_are_json(site: Site, method: str, path: str, status: int) -> None:
    """A client takes HTML for a broken server, so not even an unknown path answers with it."""
    response = site.app.test_client().open(path, method=method)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    assert response.get_json().keys() == {"error"}


def test_a_refused_method_still_names_the_right_ones(site: Site) -> None:
    """An error keeps the headers that belong to it."""
    response = site.app.test_client().post("/verify")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_an_oversized_body_is_refused(site: Site) -> None:
    """A body beyond what any dashboard sends is not read."""
    body = b'{"username":"' + b"x" * 70_000 + b'"}'
    response = site.app.test_client().post(
        "/admin/login", data=body, content_type="application/json"
    )
    assert response.status_code == 413
    assert response.get_json().keys() == {"error"}


def test_an_unexpected_fault_tells_nothing(make_site: MakeSite) -> None:
    """A fault answers as JSON, without its details and without a word that denies."""
    site = make_site()
    site.add_device(features=b"no text")
    response = site.verify()
    assert response.status_code == 500
    assert response.data == b'{"error":"Internal error"}\n'


def test_debug_mode_cannot_be_switched_on(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask's own variable would show every visitor the source."""
    monkeypatch.setenv("FLASK_DEBUG", "1")
    site = make_site()
    assert site.app.debug is False
    site.sql("DROP TABLE devices")
    assert site.verify().data == b'{"error":"Internal error"}\n'


def test_a_configured_origin_may_call(make_site: MakeSite) -> None:
    """A dashboard's preflight is told the methods and the headers it may use, without a token."""
    site = make_site({"cors_origins": [PANEL]})
    response = site.app.test_client().options(
        "/admin/devices",
        headers={
            "Origin": PANEL,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "Authorization, Content-Type, X-Other",
        },
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == PANEL
    assert response.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
    allowed = set(response.headers["Access-Control-Allow-Methods"].split(", "))
    assert allowed == {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def test_errors_reach_a_configured_origin_too(make_site: MakeSite) -> None:
    """A dashboard can read why it was refused."""
    site = make_site({"cors_origins": [PANEL]})
    response = site.get("/admin/devices", headers={"Origin": PANEL})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == PANEL


@pytest.mark.parametrize("configured", [[], [PANEL]])
@pytest.mark.parametrize("origin", ["https://evil.example.com", "https://panelXexample.com", None])
def test_no_other_origin_may_call(
    make_site: MakeSite, configured: list[str], origin: str | None
) -> None:
    """A stranger's page gets no permission, and neither does a host without configured origins."""
    site = make_site({"cors_origins": configured})
    response = site.get("/health", headers={"Origin": origin} if origin else {})
    assert "Access-Control-Allow-Origin" not in response.headers
