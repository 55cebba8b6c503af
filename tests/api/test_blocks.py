"""Blocked means blocked: hosts that write at the same time, and whoever writes past the API."""

from __future__ import annotations

import pytest
from licence_site import DEVICE, MakeSite, Site


@pytest.fixture
def pair(make_site: MakeSite) -> tuple[Site, Site]:
    """Make two hosts that both have one active device, and an administrator each."""
    here, there = make_site(node="here"), make_site(node="there")
    here.add_device()
    here.add_admin("chefe")
    _meet(here, there)
    return here, there


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE devices SET last_seen_at = '2026-01-10 16:00:00'",
        "UPDATE devices SET status = 'active', end_date = '2030-01-01'",
        "UPDATE devices SET status = 'pending'; UPDATE devices SET status = 'active'",
        "INSERT OR REPLACE INTO devices (device_id, license_type, status, start_date)"
        f" VALUES ('{DEVICE}', 'anual', 'active', '2026-01-10')",
    ],
)
def test_a_block_outlives_what_another_host_writes_without_knowing(
    pair: tuple[Site, Site], write: str
) -> None:
    """A heartbeat, a renewal and a re-created row that are newer than the block do not lift it."""
    here, there = pair
    here.dashboard("chefe").post(f"/admin/devices/{DEVICE}/deactivate", action="block")
    for statement in write.split("; "):
        there.sql(statement)
    _meet(here, there)
    for host in pair:
        assert host.verify().get_json()["msg"] == "Licença bloqueada."
        (item,) = host.dashboard("chefe").call("GET", "/admin/devices").get_json()["items"]
        assert item["status"] == "blocked"


def test_an_administrator_lifts_a_block_on_any_host(pair: tuple[Site, Site]) -> None:
    """Even where the status had been overwritten, activating on the other host lifts the block."""
    here, there = pair
    here.sql("UPDATE devices SET status = 'blocked'")
    there.sql("UPDATE devices SET status = 'pending'")
    there.sql("UPDATE devices SET status = 'active'")
    _meet(here, there)
    response = there.dashboard("chefe").post(f"/admin/devices/{DEVICE}/deactivate")
    assert response.get_json()["status"] == "active"
    _meet(here, there)
    assert [host.verify().get_json()["allow"] for host in pair] == [True, True]


def test_a_block_written_past_the_api_is_one(site: Site) -> None:
    """A status written by any program blocks, and written over by who saw it, lifts."""
    site.add_device(status="blocked")
    site.add_device("other" * 4)
    site.sql("UPDATE devices SET status = 'blocked'")
    assert len(site.sql("SELECT * FROM blocks")) == 2
    site.sql("UPDATE devices SET status = 'active'")
    assert site.sql("SELECT * FROM blocks") == []
    assert site.verify().get_json()["allow"] is True


def test_a_user_cannot_lift_a_block(site: Site) -> None:
    """Who created a device may block it; only an administrator activates it."""
    site.add_user("maria")
    site.add_device(created_by="maria")
    maria = site.dashboard("maria")
    assert maria.post(f"/admin/devices/{DEVICE}/deactivate").get_json()["status"] == "blocked"
    for action in ("toggle", "activate"):
        response = maria.post(f"/admin/devices/{DEVICE}/deactivate", action=action)
        assert response.status_code == 403
    assert site.verify().get_json()["allow"] is False


def test_a_block_outlives_its_device(site: Site) -> None:
    """A user who deletes a blocked device and creates it again has a blocked device."""
    site.add_user("maria")
    site.add_device(created_by="maria", status="blocked")
    maria = site.dashboard("maria")
    assert maria.call("DELETE", f"/admin/devices/{DEVICE}/delete").status_code == 200
    assert maria.post("/user/devices/create", device_id=DEVICE).status_code == 201
    assert site.verify().get_json()["msg"] == "Licença bloqueada."


def _meet(one: Site, other: Site) -> None:
    """Bring two hosts in step."""
    for source, target in ((one, other), (other, one)):
        header, frames = source.host.replica.frames_since(target.host.replica.vector())
        for frame in frames:
            target.host.replica.merge(header, frame)
