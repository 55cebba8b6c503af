"""GET /verify beyond the vectors: the checks' order, the verdicts, the trace, and ignorance."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from licence_site import DEVICE, NOW, SECRETS, SHARED_SECRET, MakeSite, Site, sign

from api.settings import load_settings
from api.verify import DeniedError, Question, check_request

OPEN = load_settings(SECRETS | {"require_api_key": False, "require_signature": False}, {})


def _answer(site: Site, **query: str) -> tuple[int, str]:
    response = site.verify(**query)
    body = response.get_json()
    assert body["allow"] is False
    return response.status_code, body["msg"]


def test_checks_come_in_their_order(site: Site) -> None:
    """Each request is refused for the first thing wrong with it, though more is wrong."""
    wrong = {"device_id": "x" * 32, "version": " ", "api_key": "", "ts": "never", "sig": ""}
    expected = [
        ("version", "1.0.0", 400, "Parâmetros ausentes."),
        ("api_key", "TESTKEY", 403, "API key inválida."),
        ("ts", "20260112150000", 400, "Timestamp inválido: never"),
        (
            "ts",
            "20260110150000",
            400,
            "Relógio desincronizado. Diferença: 48h 0min (máximo permitido: 14h). "
            "Sincronize o relógio do sistema.",
        ),
        ("sig", "0" * 64, 403, "Assinatura ausente."),
        ("sig", sign("x" * 32, "1.0.0", "20260110150000"), 403, "Assinatura inválida."),
        ("device_id", DEVICE, 403, "ID não registrado."),
    ]
    for field, right, status, msg in expected:
        assert _answer(site, **wrong) == (status, msg)
        wrong[field] = right


def test_a_refused_request_leaves_no_trace(site: Site) -> None:
    """Only answered questions are logged, so that strangers cannot fill the database."""
    site.add_device()
    site.verify(sig="0" * 64)
    site.verify("b" * 32)
    assert site.sql("SELECT * FROM access_logs") == []
    assert site.row("SELECT last_seen_at FROM devices")["last_seen_at"] is None


def test_no_answer_comes_from_a_file_that_has_lost_its_name(site: Site) -> None:
    """What is written to the new one would not count, so the client goes to the next host."""
    site.add_device()
    assert site.verify().status_code == 200
    site.host.access_log.flush()
    away = site.database.with_name("away")
    site.database.rename(away)
    away.with_name("copy").write_bytes(away.read_bytes())
    away.with_name("copy").rename(site.database)
    site.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert site.verify().status_code == 500
    away.rename(site.database)
    assert site.verify().status_code == 200


@pytest.mark.parametrize("missing", ["id", "version"])
def test_id_and_version_are_needed(site: Site, missing: str) -> None:
    """A question without an id or a version is malformed."""
    assert _answer(site, **{missing: "  "}) == (400, "Parâmetros ausentes.")


def test_the_five_parameters_are_trimmed(site: Site) -> None:
    """Spaces around them do not count, and are not signed."""
    site.add_device()
    ts = "20260110150000"
    response = site.verify(
        id=f" {DEVICE} ",
        version=" 1.0.0 ",
        ts=f" {ts} ",
        sig=f" {sign(DEVICE, '1.0.0', ts)} ",
        api_key=" TESTKEY ",
    )
    assert response.get_json()["allow"] is True


@pytest.mark.parametrize("device_id", ["ABCDEF-ghij-0001-XYZ", "não é hexadecimal, mas é um id"])
def test_an_id_is_any_string_in_its_own_case(site: Site, device_id: str) -> None:
    """Hyphens, letters and accents are part of ids, and so is their case."""
    site.add_device(device_id)
    assert site.verify(device_id).get_json()["allow"] is True
    assert site.verify(device_id.upper() + "x").status_code == 403
    assert site.verify(device_id.swapcase()).status_code == 403


@pytest.mark.parametrize(
    "ts",
    ["", "2026011015000", "202601101500001", "20261310150000", "00000110150000", "2026011015000٣"],
)
def test_a_malformed_time_is_named(site: Site, ts: str) -> None:
    """A time that is not fourteen digits of a real moment is repeated to the client."""
    assert _answer(site, ts=ts) == (400, f"Timestamp inválido: {ts}")


@given(st.integers(-12 * 60, 14 * 60), st.integers(-300, 300))
def test_every_civil_time_zone_is_accepted(offset_min: int, late_s: int) -> None:
    """The local time of a PC from UTC-12 to UTC+14 counts, also if it asks minutes later."""
    check_request(_question(NOW + timedelta(minutes=offset_min, seconds=late_s)), OPEN, NOW)


@given(st.integers(1, 400_000))
def test_no_other_time_is_accepted(further_s: int) -> None:
    """Five minutes beyond the civil offsets a clock is wrong, in either direction."""
    for edge, further in ((-12, -300 - further_s), (14, 300 + further_s)):
        with pytest.raises(DeniedError, match=rf"máximo permitido: {abs(edge)}h"):
            check_request(_question(NOW + timedelta(hours=edge, seconds=further)), OPEN, NOW)


def _question(local: datetime) -> Question:
    ts = f"{local:%Y%m%d%H%M%S}"
    return Question(DEVICE, "1.0.0", ts, "", ("", ""), {}, "127.0.0.1", None)


@pytest.mark.parametrize(
    ("columns", "msg"),
    [
        ({"status": "blocked"}, "Licença bloqueada."),
        ({"status": "blocked", "end_date": "2020-01-01"}, "Licença bloqueada."),
        ({"end_date": "2026-01-09"}, "Licença expirada em 09/01/2026"),
        ({"end_date": "2026-01-09 23:59:59"}, "Licença expirada em 09/01/2026"),
        ({"end_date": "2026-01-09T23:59:59"}, "Licença expirada em 09/01/2026"),
        ({"end_date": None, "start_date": "2025-01-09"}, "Licença expirada em 09/01/2026"),
        ({"end_date": "", "start_date": "2025-01-09"}, "Licença expirada em 09/01/2026"),
        ({"end_date": "2026-01-09", "status": "pending"}, "Licença expirada em 09/01/2026"),
        ({"status": "pending"}, "Licença aguardando aprovação."),
    ],
)
def test_a_known_licence_is_denied_with_its_reason(
    site: Site, columns: dict[str, Any], msg: str
) -> None:
    """A denial of a known device is an answer like any other, with status 200 and a whole body."""
    site.add_device(**columns)
    response = site.verify()
    body = response.get_json()
    assert (response.status_code, body["allow"], body["msg"]) == (200, False, msg)
    assert body.keys() == {"allow", "config", "license_token", "msg"}


@pytest.mark.parametrize(
    "columns",
    [
        {"end_date": "2026-01-10"},
        {"end_date": "2026-01-10 00:00:00"},
        {"end_date": None, "start_date": "2025-01-10"},
        {"license_type": "vitalicia", "end_date": None},
        {"license_type": "vitalicia", "end_date": "2020-01-01"},
        {"license_type": "cortesia", "end_date": None},
    ],
)
def test_a_licence_that_has_not_ended_is_allowed(site: Site, columns: dict[str, Any]) -> None:
    """The last day counts, a lifetime has none, and neither has a type without a known period."""
    site.add_device(**columns)
    response = site.verify()
    assert response.get_json()["msg"] == "Licença ativa."
    assert b'"allow":true' in response.data


def test_a_licence_ends_at_midnight_after_its_last_day(site: Site) -> None:
    """One second decides: the last day's last second is allowed, the next is not."""
    site.add_device(end_date="2026-01-10")
    site.clock.now = datetime(2026, 1, 10, 23, 59, 59, tzinfo=UTC)
    assert site.verify().get_json()["allow"] is True
    site.clock.now += timedelta(seconds=1)
    assert site.verify().get_json()["allow"] is False


def test_a_lifetime_has_no_end_in_the_answer(site: Site) -> None:
    """Neither the config nor the token of a lifetime licence names an end."""
    site.add_device(license_type="vitalicia", end_date="2020-01-01")
    body = site.verify().get_json()
    assert body["config"]["license_expires_at"] is None
    assert body["license_token"]["payload"]["expires_at"] is None


def test_a_device_on_the_block_list_is_refused(site: Site) -> None:
    """The list of blocked devices goes before the licence's own status."""
    site.add_device(status="blocked")
    site.sql("INSERT INTO blocked_devices (device_id) VALUES (?)", DEVICE)
    assert _answer(site) == (403, "Este dispositivo está bloqueado.")


@pytest.mark.parametrize(
    ("custom", "interval"), [(None, 30), (0, 30), (-5, 30), ("", 30), (1, 15), (15, 15), (90, 90)]
)
def test_the_interval_is_thirty_or_custom_but_never_below_fifteen(
    site: Site, custom: object, interval: int
) -> None:
    """A custom interval counts where it is a positive number."""
    site.add_device(custom_interval=custom)
    assert site.verify().get_json()["config"]["interval"] == interval


@pytest.mark.parametrize(
    ("csv", "features"),
    [
        (None, ["core"]),
        ("", ["core"]),
        (" , ", ["core"]),
        ("core, pix ,nfe", ["core", "pix", "nfe"]),
    ],
)
def test_features_are_the_split_list_or_core(site: Site, csv: object, features: list[str]) -> None:
    """Features come from the column's commas; without any there is the core."""
    site.add_device(features=csv)
    body = site.verify().get_json()
    assert body["config"]["features"] == features
    assert body["license_token"]["payload"]["features"] == features


def test_a_date_of_an_older_file_is_read(site: Site) -> None:
    """The vendor's server wrote dates in two forms, and compared them as text."""
    site.add_device(end_date="10/01/2027")
    assert site.verify().get_json()["config"]["license_expires_at"] == "2027-01-10"


def test_a_date_that_cannot_be_read_is_no_denial(site: Site) -> None:
    """The client goes on to the next server, or to its saved token."""
    site.add_device(end_date="10 de janeiro")
    answer = site.verify()
    assert answer.status_code == 503
    assert b'"allow":' not in answer.data


def test_the_token_signs_its_raw_payload(site: Site) -> None:
    """The signature covers the UTF-8 bytes of the raw text, and the raw text is the payload."""
    site.add_device("caixa-de-são-joão", features="emissão")
    token = site.verify("caixa-de-são-joão").get_json()["license_token"]
    raw = token["payload_raw"]
    assert "são-joão" in raw
    assert raw == json.dumps(
        token["payload"], ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    expected = hmac.new(SHARED_SECRET.encode(), raw.encode(), hashlib.sha256).hexdigest()
    assert token["signature"] == expected


def test_an_update_is_offered_only_with_its_address(site: Site) -> None:
    """The client hears of an update where there is somewhere to fetch it."""
    site.add_device(update_version="2.0.0", update_hash="ab12")
    assert "update" not in site.verify().get_json()["config"]
    site.sql("UPDATE devices SET update_url = 'https://example.com/2.exe'")
    assert site.verify().get_json()["config"]["update"] == {
        "sha256": "ab12",
        "url": "https://example.com/2.exe",
        "version": "2.0.0",
    }


def test_an_answer_is_traced_on_the_device_and_in_the_log(site: Site) -> None:
    """When, from where and with what a device asked is kept, and what it was told."""
    site.add_device(status="pending")
    site.verify(hostname="PC-LOJA", username="Maria Silva", cpu_load="7", secret="no")
    device = site.row("SELECT * FROM devices")
    assert device["last_seen_at"] == "2026-01-10 15:00:00"
    assert device["last_seen_ip"] == "127.0.0.1"
    assert (device["last_version"], device["last_hostname"]) == ("1.0.0", "PC-LOJA")
    entry = site.row("SELECT * FROM access_logs")
    assert json.loads(entry.pop("telemetry_json")) == {
        "hostname": "PC-LOJA",
        "username": "Maria Silva",
        "cpu_load": "7",
    }
    assert entry.pop("user_agent").startswith("Werkzeug/")
    assert entry == {
        "id": 1,
        "device_id": DEVICE,
        "ip": "127.0.0.1",
        "hostname": "PC-LOJA",
        "client_version": "1.0.0",
        "allowed": 0,
        "message": "Licença aguardando aprovação.",
        "created_at": "2026-01-10 15:00:00",
        "host": "here",
    }


def test_a_question_without_a_hostname_keeps_the_last_one(site: Site) -> None:
    """Saying nothing is not saying that the name is empty."""
    site.add_device(last_hostname="PC-LOJA")
    site.verify()
    assert site.row("SELECT last_hostname FROM devices")["last_hostname"] == "PC-LOJA"


def test_key_and_signature_can_be_waived_but_a_false_signature_cannot(make_site: MakeSite) -> None:
    """Where nothing is required nothing needs to come; what comes must be right."""
    site = make_site({"require_api_key": False, "require_signature": False, "api_key": None})
    site.add_device()
    assert site.verify(api_key="", sig="").get_json()["allow"] is True
    assert _answer(site, api_key="", sig="0" * 64) == (403, "Assinatura inválida.")


def test_x_forwarded_for_is_not_believed(site: Site) -> None:
    """The address of a client is the connection's, whatever a header says."""
    site.add_device()
    site.app.test_client().get(
        "/verify",
        query_string={
            "id": DEVICE,
            "version": "1",
            "ts": "20260110150000",
            "sig": sign(DEVICE, "1", "20260110150000"),
            "api_key": "TESTKEY",
        },
        headers={"X-Forwarded-For": "203.0.113.9"},
    )
    assert site.row("SELECT ip FROM access_logs")["ip"] == "127.0.0.1"


def test_a_name_in_another_encoding_does_not_lock_its_owner_out(site: Site) -> None:
    """Imported text that is not UTF-8 hurts neither the client nor the dashboard's list."""
    site.add_device()
    site.sql("UPDATE devices SET owner_name = CAST(X'4A6FE36F' AS TEXT)")
    assert site.verify().get_json()["allow"] is True
    site.add_admin()
    listed = site.dashboard("chefe").call("GET", "/admin/devices").get_json()["items"]
    assert listed[0]["owner_name"] == "Jo\N{REPLACEMENT CHARACTER}o"


@pytest.mark.parametrize(
    "columns",
    [None, {"status": "blocked"}, {"status": "pending"}, {"end_date": "2026-01-09"}],
)
def test_a_host_that_may_be_behind_does_not_deny(
    unsure_site: Site, columns: dict[str, Any] | None
) -> None:
    """What the data denies is left to a host that is certain of it: the client goes on."""
    if columns is not None:
        unsure_site.add_device(**columns)
    _assert_no_answer(unsure_site)


def test_a_host_that_may_be_behind_does_not_bar_a_device(unsure_site: Site) -> None:
    """A device may have left the block list on another host."""
    unsure_site.add_device()
    unsure_site.sql("INSERT INTO blocked_devices (device_id) VALUES (?)", DEVICE)
    _assert_no_answer(unsure_site)


def _assert_no_answer(site: Site) -> None:
    response = site.verify()
    assert response.status_code == 503
    assert b'"error":' in response.data
    assert b'"allow":' not in response.data
    assert b"cloudflare" not in response.data.lower()
    assert site.sql("SELECT * FROM access_logs") == []


def test_a_host_that_may_be_behind_allows(unsure_site: Site) -> None:
    """A licence that is good here may be used: allowing is never wrong for long."""
    unsure_site.add_device()
    assert unsure_site.verify().get_json()["allow"] is True


def test_a_host_that_may_be_behind_still_refuses_strangers(unsure_site: Site) -> None:
    """A wrong key or signature is wrong on every host."""
    assert _answer(unsure_site, api_key="WRONG") == (403, "API key inválida.")
    assert _answer(unsure_site, sig="0" * 64) == (403, "Assinatura inválida.")


def test_what_a_round_brings_is_read_before_a_denial(
    unsure_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that ends while a question is open brings the device, and it is found.

    Had only the device that was looked up first counted, a round that vouches for the data would
    have denied it for good.
    """

    def round_ends(*_: object) -> bool:
        unsure_site.add_device()
        return True

    monkeypatch.setattr("syncd.catch_up", round_ends)
    assert unsure_site.verify().get_json()["allow"] is True
