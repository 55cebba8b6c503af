"""GET /verify: may this device run today?

Owns the checks in their order, the answer's form, and the trace that an answered question leaves.
An answer with `"allow":false` is final to a client, it asks no other server: so whatever is denied
on account of the data is denied only by a replica that is certain of its data. Otherwise the host
says 503 and the client goes on to the next one.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask import Blueprint, Request, request
from flask.typing import ResponseReturnValue

from api.clock import column_text
from api.host import Host, host
from api.licences import Licence, Verdict
from api.settings import Settings
from api.store import Store
from api.tokens import license_token, request_signature

# `ts` is the PC's local time: anything that some civil time zone reads now (UTC-12 to UTC+14).
BEHIND_HOURS_MAX = 12
AHEAD_HOURS_MAX = 14

TELEMETRY = ("hostname", "username", "osbuild", "ram_total", "ram_free", "cpu_load", "client_time")

log = logging.getLogger(__name__)
blueprint = Blueprint("verify", __name__)


@blueprint.get("/verify")
def verify() -> ResponseReturnValue:
    """Answer a client, in the form that deployed clients parse."""
    here = host()
    now = here.clock()
    question = Question.of_request(request)
    check_request(question, here.settings, now)
    # Before the data is read: a first round that ends in between must not vouch for the rows that
    # were read without it.
    certain = here.replica.certain()
    licence = registered(here.store, question.device_id, certain)
    verdict = licence.verdict(now.date())
    if not verdict.allow and not certain:
        raise UnsureError
    leave_trace(here.store, question, verdict, now)
    return answer(here, licence, verdict, now)


@dataclass(frozen=True)
class Question:
    """Hold what a client asks, decoded and trimmed."""

    device_id: str
    version: str
    ts: str
    sig: str
    api_keys: tuple[str, str]
    telemetry: Mapping[str, str]
    ip: str
    user_agent: str | None

    @classmethod
    def of_request(cls, asked: Request) -> Question:
        """Read the query and the headers of a request; what is absent is empty."""
        query = asked.args
        return cls(
            device_id=query.get("id", "").strip(),
            version=query.get("version", "").strip(),
            ts=query.get("ts", "").strip(),
            sig=query.get("sig", "").strip(),
            api_keys=(query.get("api_key", "").strip(), asked.headers.get("X-API-Key", "")),
            telemetry={name: query[name] for name in TELEMETRY if name in query},
            ip=asked.remote_addr or "",
            user_agent=asked.headers.get("User-Agent"),
        )


class DeniedError(Exception):
    """A final no, with its HTTP status and the client's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class UnsureError(Exception):
    """A no that this host cannot vouch for, since it may be behind its peers."""


@blueprint.errorhandler(DeniedError)
def denied(error: DeniedError) -> ResponseReturnValue:
    """Deny for good."""
    log.debug("denied: %s", error.message)
    return {"allow": False, "msg": error.message}, error.status


@blueprint.errorhandler(UnsureError)
def unsure(_: UnsureError) -> ResponseReturnValue:
    """Send the client to the next server."""
    log.debug("not certain yet, no answer")
    return {"error": "This host is still catching up with its peers."}, 503


def check_request(question: Question, settings: Settings, now: datetime) -> None:
    """Raise DeniedError for the first thing that is wrong with the request itself."""
    if not question.device_id or not question.version:
        raise DeniedError(400, "Parâmetros ausentes.")
    if settings.require_api_key and not _has_key(question, settings.api_key or ""):
        raise DeniedError(403, "API key inválida.")
    _check_time(question.ts, now)
    if settings.require_signature and not question.sig:
        raise DeniedError(403, "Assinatura ausente.")
    if question.sig and not _is_signed(question, settings.shared_secret):
        raise DeniedError(403, "Assinatura inválida.")


def registered(store: Store, device_id: str, certain: bool) -> Licence:
    """Return the licence of a device; raise DeniedError, or UnsureError, if it has none."""
    row = store.row("SELECT * FROM devices WHERE device_id = ?", device_id)
    if row is None:
        raise DeniedError(403, "ID não registrado.") if certain else UnsureError
    if store.row("SELECT 1 FROM blocked_devices WHERE device_id = ?", device_id):
        raise DeniedError(403, "Este dispositivo está bloqueado.") if certain else UnsureError
    return Licence.of_row(dict(row))


def leave_trace(store: Store, question: Question, verdict: Verdict, now: datetime) -> None:
    """Note when and from where the device asked, and what it was told."""
    seen_at = column_text(now)
    hostname = question.telemetry.get("hostname")
    with store.writing() as connection:
        connection.execute(
            """
            UPDATE devices
               SET last_seen_at = ?, last_seen_ip = ?, last_version = ?,
                   last_hostname = coalesce(?, last_hostname)
             WHERE device_id = ?
            """,
            (seen_at, question.ip, question.version, hostname, question.device_id),
        )
        connection.execute(
            """
            INSERT INTO access_logs (device_id, ip, user_agent, hostname, client_version,
                                     telemetry_json, allowed, message, created_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                question.device_id,
                question.ip,
                question.user_agent,
                hostname,
                question.version,
                json.dumps(question.telemetry, sort_keys=True),
                verdict.allow,
                verdict.message,
                seen_at,
            ),
        )


def answer(here: Host, licence: Licence, verdict: Verdict, now: datetime) -> dict[str, object]:
    """Return the body of an answer; fields may be added to it, none may change."""
    config: dict[str, object] = {
        "features": licence.features,
        "interval": licence.interval,
        "license_expires_at": licence.expires.isoformat() if licence.expires else None,
        "message": "",
    }
    if licence.update:
        config["update"] = licence.update
    return {
        "allow": verdict.allow,
        "config": config,
        "license_token": license_token(licence, now, here.settings.shared_secret),
        "msg": verdict.message,
    }


def _has_key(question: Question, api_key: str) -> bool:
    return any(_equal(offered, api_key) for offered in question.api_keys)


def _check_time(ts: str, now: datetime) -> None:
    ahead = _moment(ts) - now
    hours_max = BEHIND_HOURS_MAX if ahead < timedelta(0) else AHEAD_HOURS_MAX
    if abs(ahead) > timedelta(hours=hours_max):
        minutes = int(abs(ahead).total_seconds()) // 60
        raise DeniedError(
            400,
            f"Relógio desincronizado. Diferença: {minutes // 60}h {minutes % 60}min "
            f"(máximo permitido: {hours_max}h). Sincronize o relógio do sistema.",
        )


def _moment(ts: str) -> datetime:
    # strptime alone would also take fewer digits, and digits of other scripts.
    if re.fullmatch("[0-9]{14}", ts):
        try:
            return datetime.strptime(ts, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            pass
    raise DeniedError(400, f"Timestamp inválido: {ts}")


def _is_signed(question: Question, shared_secret: str) -> bool:
    expected = request_signature(question.device_id, question.version, question.ts, shared_secret)
    return _equal(question.sig, expected)


def _equal(offered: str, expected: str) -> bool:
    return hmac.compare_digest(offered.encode(), expected.encode())
