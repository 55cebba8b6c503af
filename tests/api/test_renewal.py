"""Renewing a licence, from the dashboard and on a host: what it adds, and what it leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from licence_site import DEVICE, Dashboard, Site

from api.__main__ import main

RENEW = f"/admin/devices/{DEVICE}/renew"


@pytest.fixture
def chief(site: Site) -> Dashboard:
    """Log an administrator in."""
    site.add_admin("chefe")
    return site.dashboard("chefe")


def _command(site: Site, *options: str) -> Result:
    return CliRunner().invoke(main, ["renew", "--config", str(site.config), *options])


def _licence(site: Site) -> dict[str, Any]:
    return site.row("SELECT license_type, status, start_date, end_date FROM devices")


def test_a_renewal_keeps_the_days_that_are_paid_for(site: Site, chief: Dashboard) -> None:
    """The new period follows the running one, and the history says who gave it, where."""
    site.add_device()
    answer = chief.post(RENEW)
    assert (answer.status_code, answer.get_json()) == (
        200,
        {
            "success": True,
            "device_id": DEVICE,
            "license_type": "anual",
            "end_date": "2028-01-10",
        },
    )
    assert _licence(site) == {
        "license_type": "anual",
        "status": "active",
        "start_date": "2027-01-10",
        "end_date": "2028-01-10",
    }
    assert site.row("SELECT action, details, admin, host, device_id FROM license_history") == {
        "action": "renew",
        "details": "anual 2027-01-10 -> anual 2028-01-10",
        "admin": "chefe",
        "host": "here",
        "device_id": DEVICE,
    }


@pytest.mark.parametrize("end", ["2025-06-30", "30/06/2025", "unreadable"])
def test_a_renewal_of_a_past_licence_counts_from_today(
    site: Site, chief: Dashboard, end: str
) -> None:
    """Days without a licence are not charged; a date that cannot be read is replaced."""
    site.add_device(start_date="2024-06-30", end_date=end)
    assert chief.post(RENEW).get_json()["end_date"] == "2027-01-10"
    assert site.verify().get_json()["allow"] is True


def test_a_renewal_may_change_the_type(site: Site, chief: Dashboard) -> None:
    """A licence that never ends loses its end date, and one that ends again gets one."""
    site.add_device()
    assert chief.post(RENEW, license_type="vitalicia").get_json()["end_date"] is None
    assert chief.post(RENEW, license_type="mensal").get_json()["end_date"] == "2026-02-10"


def test_a_renewal_lifts_no_block(site: Site, chief: Dashboard) -> None:
    """A blocked device has its new period, and is still denied."""
    site.add_device(status="blocked")
    assert chief.post(RENEW).status_code == 200
    assert site.verify().get_json()["msg"] == "Licença bloqueada."
    assert len(site.sql("SELECT * FROM blocks")) == 1


@pytest.mark.parametrize(
    ("held", "body", "status"),
    [
        ("vitalicia", {}, 400),
        ("do-vendedor", {}, 400),
        ("anual", {"license_type": "eterna"}, 400),
        (None, {}, 404),
    ],
)
def test_what_cannot_be_renewed_is_refused(
    site: Site, chief: Dashboard, held: str | None, body: dict[str, str], status: int
) -> None:
    """A licence for life, a type without a period, an unknown type, an unknown device."""
    if held:
        site.add_device(license_type=held, end_date=None)
    before = site.sql("SELECT * FROM devices")
    answer = chief.post(RENEW, **body)
    assert (answer.status_code, answer.get_json().keys()) == (status, {"error"})
    assert site.sql("SELECT * FROM devices") == before
    assert site.sql("SELECT * FROM license_history") == []


def test_a_host_renews_by_command(site: Site) -> None:
    """The command does the same, and signs as a command."""
    site.add_device()
    done = _command(site, DEVICE, "--type", "trimestral", "--json")
    assert json.loads(done.output) == {
        "device_id": DEVICE,
        "license_type": "trimestral",
        "end_date": "2027-04-10",
    }
    (line,) = site.sql("SELECT action, admin FROM license_history")
    assert line["action"] == "renew"
    assert line["admin"].endswith("(command)")


def test_the_command_refuses_in_one_line(site: Site) -> None:
    """Neither an unknown device nor a licence for life ends in a traceback."""
    site.add_device(license_type="vitalicia", end_date=None)
    for device, words in (("x" * 32, "there is no device"), (DEVICE, "has no period")):
        refused = _command(site, device)
        assert refused.exit_code == 1
        assert refused.output.startswith("Error: ")
        assert words in refused.output
