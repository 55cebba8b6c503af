"""The admin endpoints: who may do what, and what a change leaves as it was."""

from __future__ import annotations

from typing import Any

import pytest
from licence_site import DEVICE, Dashboard, Site


@pytest.fixture
def chief(site: Site) -> Dashboard:
    """Log an administrator in."""
    site.add_admin("chefe")
    return site.dashboard("chefe")


@pytest.fixture
def reseller(site: Site) -> Dashboard:
    """Log a user in, who created one device and not the other."""
    site.add_user("maria")
    site.add_device("m" * 32, created_by="maria")
    site.add_device("c" * 32, created_by="chefe")
    return site.dashboard("maria")


def test_every_admin_endpoint_but_the_login_needs_a_token(site: Site) -> None:
    """None is forgotten: the application's own list of routes is what is asked."""
    asked = 0
    for rule in site.app.url_map.iter_rules():
        if rule.rule.startswith(("/admin/", "/user/")) and rule.rule != "/admin/login":
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                path = rule.rule.replace("<path:device_id>", DEVICE)
                response = site.app.test_client().open(path, method=method)
                assert (response.status_code, response.get_json()) == (
                    401,
                    {"error": "Unauthorized"},
                )
                asked += 1
    assert asked == 17


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/users/create", {"username": "x", "password": "x" * 8, "role": "admin"}),
        ("/admin/devices/create", {"device_id": "n" * 32}),
        ("/admin/devices/create", {"device_id": "m" * 32, "owner_name": "Outra"}),
        ("/admin/devices/update-created-by", {"device_id": "c" * 32, "created_by": "maria"}),
        ("/admin/devices/" + "m" * 32 + "/renew", {}),
        ("/admin/sync", {}),
    ],
)
def test_administrators_only(
    site: Site, reseller: Dashboard, path: str, body: dict[str, str]
) -> None:
    """A user neither creates accounts or devices, nor hands them over, nor syncs."""
    before = site.sql("SELECT * FROM devices")
    response = reseller.post(path, **body)
    assert response.status_code == 403
    assert response.get_json().keys() == {"error"}
    assert site.sql("SELECT * FROM devices") == before
    assert len(site.sql("SELECT * FROM users")) == 1


def test_a_user_sees_only_its_own_devices(site: Site, reseller: Dashboard) -> None:
    """The list of a user holds the devices that it created; an administrator's holds all."""
    site.add_device("n" * 32)
    assert _listed(reseller) == ["m" * 32]
    site.add_admin("chefe")
    assert _listed(site.dashboard("chefe")) == ["m" * 32, "c" * 32, "n" * 32]


def test_a_user_touches_only_its_own_devices(site: Site, reseller: Dashboard) -> None:
    """Another's device can be neither blocked nor deleted."""
    foreign, own = "c" * 32, "m" * 32
    assert reseller.post(f"/admin/devices/{foreign}/deactivate").status_code == 403
    assert reseller.call("DELETE", f"/admin/devices/{foreign}/delete").status_code == 403
    assert site.row("SELECT status FROM devices WHERE device_id = ?", foreign) == {
        "status": "active"
    }
    assert reseller.post(f"/admin/devices/{own}/deactivate").status_code == 200
    assert reseller.call("DELETE", f"/admin/devices/{own}/delete").status_code == 200
    assert [row["device_id"] for row in site.sql("SELECT device_id FROM devices")] == [foreign]


def test_the_list_holds_the_dashboards_columns(site: Site, chief: Dashboard) -> None:
    """Each item has the columns that the dashboard shows, and no other."""
    site.add_device(notes="private", cpf="123", owner_name="Loja")
    (item,) = chief.call("GET", "/admin/devices").get_json()["items"]
    assert item == {
        "id": 1,
        "device_id": DEVICE,
        "owner_name": "Loja",
        "cpf": "123",
        "email": None,
        "address": None,
        "license_type": "anual",
        "status": "active",
        "start_date": "2026-01-10",
        "end_date": "2027-01-10",
        "custom_interval": None,
        "features": "core",
        "last_seen_at": None,
        "last_seen_ip": None,
        "last_hostname": None,
        "last_version": None,
        "created_by": None,
    }


def test_a_new_device_is_active_from_today_for_its_period(site: Site, chief: Dashboard) -> None:
    """A created device can be used at once."""
    response = chief.post(
        "/admin/devices/create",
        device_id=f" {DEVICE} ",
        license_type="mensal",
        owner_name="Loja",
        cpf="123",
        email="loja@example.com",
        address="Rua A, 1",
        created_by="maria",
    )
    assert response.status_code == 201
    assert response.get_json() == {"success": True, "device_id": DEVICE, "license_type": "mensal"}
    device = site.row("SELECT * FROM devices")
    assert device == device | {
        "device_id": DEVICE,
        "license_type": "mensal",
        "status": "active",
        "start_date": "2026-01-10",
        "end_date": "2026-02-10",
        "owner_name": "Loja",
        "cpf": "123",
        "email": "loja@example.com",
        "address": "Rua A, 1",
        "created_by": "maria",
        "created_at": "2026-01-10 15:00:00",
    }
    assert site.verify().get_json()["allow"] is True


def test_a_new_device_is_yearly_and_its_creators_unless_said_otherwise(
    site: Site, chief: Dashboard
) -> None:
    """The defaults hold for a device that is new."""
    body = chief.post("/admin/devices/create", device_id=DEVICE).get_json()
    assert body["license_type"] == "anual"
    device = site.row("SELECT end_date, created_by FROM devices")
    assert device == {"end_date": "2027-01-10", "created_by": "chefe"}


def test_a_lifetime_is_created_without_an_end(site: Site, chief: Dashboard) -> None:
    """A lifetime licence has no last day."""
    chief.post("/admin/devices/create", device_id=DEVICE, license_type="vitalicia")
    assert site.row("SELECT end_date FROM devices")["end_date"] is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "Device ID é obrigatório."),
        ({"device_id": "  "}, "Device ID é obrigatório."),
        ({"device_id": DEVICE, "license_type": "eterna"}, "Tipo de licença inválido."),
        ({"device_id": DEVICE, "cpf": 12345678900}, "cpf: texto inválido."),
        ({"device_id": "\ud800" * 16}, "device_id: texto inválido."),
    ],
)
def test_a_malformed_device_is_refused(
    site: Site, chief: Dashboard, body: dict[str, Any], error: str
) -> None:
    """Nothing is written of a request that cannot be read."""
    response = chief.post("/admin/devices/create", **body)
    assert (response.status_code, response.get_json()) == (400, {"error": error})
    assert site.sql("SELECT * FROM devices") == []


OLD = {
    "status": "blocked",
    "license_type": "mensal",
    "start_date": "2025-01-31",
    "end_date": "2025-02-28",
    "owner_name": "Loja",
    "cpf": "123",
    "created_by": "maria",
    "updated_at": "2025-02-01 00:00:00",
}


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"owner_name": "Loja", "license_type": "mensal"},
        {"owner_name": "", "license_type": "", "cpf": None, "status": "active"},
        {"end_date": "2030-01-01", "start_date": "2026-01-10"},
    ],
)
def test_creating_a_device_again_changes_nothing_by_itself(
    site: Site, chief: Dashboard, named: dict[str, Any]
) -> None:
    """Replaying an export renews no licence and revives no blocked one."""
    site.add_device(**OLD)
    before = site.row("SELECT * FROM devices")
    response = chief.post("/admin/devices/create", device_id=DEVICE, **named)
    assert (response.status_code, response.get_json()["license_type"]) == (201, "mensal")
    assert site.row("SELECT * FROM devices") == before
    assert site.sql("SELECT * FROM license_history") == []


def test_creating_a_device_again_changes_what_it_names(site: Site, chief: Dashboard) -> None:
    """The named field changes, everything else stays."""
    site.add_device(**OLD)
    before = site.row("SELECT * FROM devices")
    chief.post("/admin/devices/create", device_id=DEVICE, owner_name="Loja Nova")
    changed = {"owner_name": "Loja Nova", "updated_at": "2026-01-10 15:00:00"}
    assert site.row("SELECT * FROM devices") == before | changed


@pytest.mark.parametrize(("named", "end"), [("anual", "2026-01-31"), ("vitalicia", None)])
def test_another_type_counts_from_the_first_day(
    site: Site, chief: Dashboard, named: str, end: str | None
) -> None:
    """A named change of type moves the end as if the type had always been so, and only the end."""
    site.add_device(**OLD)
    before = site.row("SELECT * FROM devices")
    response = chief.post("/admin/devices/create", device_id=DEVICE, license_type=named)
    assert response.get_json()["license_type"] == named
    changed = {"license_type": named, "end_date": end, "updated_at": "2026-01-10 15:00:00"}
    assert site.row("SELECT * FROM devices") == before | changed


@pytest.mark.parametrize(
    ("status", "action", "after"),
    [
        ("active", {}, "blocked"),
        ("blocked", {}, "active"),
        ("pending", {"action": "toggle"}, "blocked"),
        ("active", {"action": "block"}, "blocked"),
        ("blocked", {"action": "block"}, "blocked"),
        ("pending", {"action": "activate"}, "active"),
    ],
)
def test_a_device_is_blocked_activated_or_toggled(
    site: Site, chief: Dashboard, status: str, action: dict[str, str], after: str
) -> None:
    """Each action leads to its status, and the answer tells it."""
    site.add_device(status=status)
    response = chief.post(f"/admin/devices/{DEVICE}/deactivate", **action)
    assert response.get_json() == {"success": True, "device_id": DEVICE, "status": after}
    assert site.row("SELECT status FROM devices")["status"] == after


def test_an_unknown_action_changes_nothing(site: Site, chief: Dashboard) -> None:
    """A misspelt action is not taken for the default."""
    site.add_device()
    response = chief.post(f"/admin/devices/{DEVICE}/deactivate", action="blok")
    assert (response.status_code, response.get_json()) == (400, {"error": "Ação inválida."})
    assert site.row("SELECT status FROM devices")["status"] == "active"


def test_a_deleted_device_is_gone(site: Site, chief: Dashboard) -> None:
    """A deleted device is unknown to its client too."""
    site.add_device("loja/caixa 1 ção")
    response = chief.call("DELETE", "/admin/devices/loja%2Fcaixa%201%20%C3%A7%C3%A3o/delete")
    assert response.get_json() == {
        "success": True,
        "device_id": "loja/caixa 1 ção",
        "message": "Dispositivo excluído.",
    }
    assert site.verify("loja/caixa 1 ção").get_json()["msg"] == "ID não registrado."


def test_a_device_is_handed_over(site: Site, chief: Dashboard) -> None:
    """The new owner sees it, and the answer names both."""
    site.add_device(created_by="chefe")
    site.add_user("maria")
    response = chief.post("/admin/devices/update-created-by", device_id=DEVICE, created_by="maria")
    assert response.get_json() == {"success": True, "device_id": DEVICE, "created_by": "maria"}
    assert _listed(site.dashboard("maria")) == [DEVICE]


@pytest.mark.parametrize("body", [{"device_id": DEVICE}, {"created_by": "maria"}])
def test_handing_over_needs_both_names(chief: Dashboard, body: dict[str, str]) -> None:
    """Neither the device nor the new owner is guessed."""
    assert chief.post("/admin/devices/update-created-by", **body).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/devices/update-created-by", {"device_id": DEVICE, "created_by": "x"}),
        ("POST", f"/admin/devices/{DEVICE}/deactivate", {}),
        ("DELETE", f"/admin/devices/{DEVICE}/delete", {}),
    ],
)
def test_an_unknown_device_is_not_found(
    site: Site, chief: Dashboard, method: str, path: str, body: dict[str, str]
) -> None:
    """No endpoint but create makes a device, or a line of history, of one that is not there."""
    response = chief.call(method, path, **body)
    assert response.status_code == 404
    assert response.get_json() == {"error": "Dispositivo não encontrado."}
    assert site.sql("SELECT * FROM license_history") == []


def test_the_history_tells_who_did_what(site: Site, chief: Dashboard) -> None:
    """Every order that changed something leaves its line."""
    chief.post("/admin/devices/create", device_id=DEVICE)
    chief.post("/admin/devices/create", device_id=DEVICE, cpf="123", license_type="mensal")
    chief.post(f"/admin/devices/{DEVICE}/deactivate")
    chief.post("/admin/devices/update-created-by", device_id=DEVICE, created_by="maria")
    chief.call("DELETE", f"/admin/devices/{DEVICE}/delete")
    lines = site.sql("SELECT * FROM license_history")
    told = ("device_id", "admin", "created_at", "host")
    assert {tuple(line[name] for name in told) for line in lines} == {
        (DEVICE, "chefe", "2026-01-10 15:00:00", "here")
    }
    assert [(line["action"], line["details"]) for line in lines] == [
        ("create", "anual"),
        ("update", "license_type, cpf, end_date"),
        ("status", "blocked"),
        ("created_by", "maria"),
        ("delete", None),
    ]


def test_a_failed_order_leaves_nothing(site: Site, chief: Dashboard) -> None:
    """A device and its history are written together or not at all."""
    site.sql("DROP TABLE license_history")
    response = chief.post("/admin/devices/create", device_id=DEVICE)
    assert (response.status_code, response.get_json()) == (500, {"error": "Internal error"})
    assert site.sql("SELECT * FROM devices") == []


def test_syncing_without_peers_has_nothing_to_tell(chief: Dashboard) -> None:
    """No peer failed where there is none."""
    response = chief.post("/admin/sync")
    assert (response.status_code, response.get_json()) == (200, {"items": []})


def test_syncing_with_a_dead_peer_names_it(unsure_site: Site) -> None:
    """One failed peer makes the whole a bad gateway, and the items say which."""
    unsure_site.add_admin("chefe")
    response = unsure_site.dashboard("chefe").post("/admin/sync")
    assert response.status_code == 502
    (item,) = response.get_json()["items"]
    assert (item["peer"], item["ok"]) == ("there", False)
    assert item["error"]


def _listed(dashboard: Dashboard) -> list[str]:
    items = dashboard.call("GET", "/admin/devices").get_json()["items"]
    return [item["device_id"] for item in items]
