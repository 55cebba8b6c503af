"""The vectors of the clients' protocol, to the byte."""

from __future__ import annotations

import pytest
from dateutil.parser import isoparse
from licence_site import DEVICE, Site

from api.licences import end_date

VECTOR_1 = (
    "/verify?id=0123456789abcdef0123456789abcdef&version=1.0.0&ts=20260110120000"
    "&sig=d9b924df0c1d776332fcaa50d69a1c8e8e271b785a31945d0925ccb5c7b0c7b0"
    "&api_key=TESTKEY&hostname=PC-LOJA&username=Maria%20Silva"
)
BODY_1 = (
    rb'{"allow":true,"config":{"features":["core"],"interval":60,"license_expires_at":'
    rb'"2027-01-10","message":""},"license_token":{"payload":{"device_id":'
    rb'"0123456789abcdef0123456789abcdef","expires_at":"2027-01-10","features":["core"],'
    rb'"issued_at":"2026-01-10T15:00:00+00:00","license_type":"anual","status":"active"},'
    rb'"payload_raw":"{\"device_id\":\"0123456789abcdef0123456789abcdef\",\"expires_at\":'
    rb"\"2027-01-10\",\"features\":[\"core\"],\"issued_at\":\"2026-01-10T15:00:00+00:00\","
    rb'\"license_type\":\"anual\",\"status\":\"active\"}","signature":'
    rb'"e77abe00360510cdb38d18415a37a4a0a083235909ba5e77f5349344a17a09ad"},'
    rb'"msg":"Licen\u00e7a ativa."}' + b"\n"
)


def test_vector_1_is_answered_to_the_byte(site: Site) -> None:
    """A yearly licence is allowed, in exactly the bytes that deployed clients know."""
    site.add_device(custom_interval=60)
    response = site.get(VECTOR_1)
    assert response.data == BODY_1
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"


def test_vector_2_takes_the_api_key_from_the_header(site: Site) -> None:
    """The header X-API-Key is as good as the parameter."""
    site.add_device()
    response = site.get(
        f"/verify?id={DEVICE}&version=1.0.0&ts=20260110150000"
        "&sig=309b838e96800b65620e8bbf8fca395ccf7a595faedca1d3d674bbe604700c1f",
        headers={"X-API-Key": "TESTKEY"},
    )
    assert (response.status_code, response.get_json()["allow"]) == (200, True)


def test_vector_3_denies_an_unknown_device(site: Site) -> None:
    """A certain host denies a device that nobody registered."""
    response = site.get(
        f"/verify?id={'b' * 32}&version=1.0.0&ts=20260110120000&api_key=TESTKEY"
        "&sig=558fdbf4c6c04f3c8995a87ff577982fe6d9d5da8cd1c06799a7d4cf4c1f99e7"
    )
    assert response.status_code == 403
    assert response.data == rb'{"allow":false,"msg":"ID n\u00e3o registrado."}' + b"\n"


@pytest.mark.parametrize(
    ("old", "new", "msg"),
    [
        (
            "d9b924df0c1d776332fcaa50d69a1c8e8e271b785a31945d0925ccb5c7b0c7b0",
            "D9B924DF0C1D776332FCAA50D69A1C8E8E271B785A31945D0925CCB5C7B0C7B0",
            rb"Assinatura inv\u00e1lida.",
        ),
        ("TESTKEY", "WRONG", rb"API key inv\u00e1lida."),
    ],
)
def test_vector_4_refuses_an_upper_case_signature_and_a_wrong_key(
    site: Site, old: str, new: str, msg: bytes
) -> None:
    """The signature is compared as text, and the API key must match."""
    site.add_device()
    response = site.get(VECTOR_1.replace(old, new))
    assert response.status_code == 403
    assert response.data == b'{"allow":false,"msg":"' + msg + b'"}\n'


@pytest.mark.parametrize("account", ["admin_users", "users"])
def test_vector_5_imported_passwords_log_in(site: Site, account: str) -> None:
    """Both tables' imported hashes accept the password that they were made from."""
    site.add_admin("pessoa") if account == "admin_users" else site.add_user("pessoa")
    assert site.login("pessoa").status_code == 200
    assert site.login("pessoa", "Teste#124").status_code == 401


@pytest.mark.parametrize(
    ("license_type", "start", "end"),
    [("mensal", "2026-01-31", "2026-02-28"), ("anual", "2024-02-29", "2025-02-28")],
)
def test_vector_6_clamps_the_end_to_the_month(license_type: str, start: str, end: str) -> None:
    """A licence that would end on a day that does not exist ends on the month's last."""
    assert end_date(license_type, isoparse(start).date()) == isoparse(end).date()
