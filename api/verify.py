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
from datetime import UTC, date, datetime, timedelta

from flask import Blueprint, Request, request
from flask.typing import ResponseReturnValue

from api.access_log import Entry
from api.clock import column_text
from api.devices import JUDGED
from api.host import Host, host
from api.licences import BARRED, UNKNOWN, Licence, Verdict
from api.offline import NONCE
from api.settings import Settings
from api.store import Store
from api.tokens import license_token, request_signature

# `ts` is the PC's local time: anything that some civil time zone reads now (UTC-12 to UTC+14).
BEHIND_HOURS_MAX = 12
AHEAD_HOURS_MAX = 14
# `ts` is read once for all servers, each of which may take 30 s to fail, and no clock is exact.
CLOCK_SLACK = timedelta(minutes=5)

_DIGITS = re.compile("([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})")

TELEMETRY = ("hostname", "username", "osbuild", "ram_total", "ram_free", "cpu_load", "client_time")

log = logging.getLogger(__name__)
blueprint = Blueprint("verify", __name__)


@blueprint.get("/verify")
def verify() -> ResponseReturnValue:
    """Answer a client, in the form that deployed clients parse."""
    here = host()
    now = here.clock()
    # The request itself: its stand-in would be looked up anew for every field.
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    question = Question.of_request(asked)
    check_request(question, here.settings, now)
    ruling = sure_ruling(here, question.device_id, now.date())
    if ruling.is_final:
        return refusal(here, question, ruling), 403
    here.access_log.add(trace(here, question, ruling.verdict, now))
    return answer(here, question, ruling, now)


@dataclass(frozen=True)
class Question:
    """Hold what a client asks, decoded and trimmed. nonce: "" where there is none to echo."""

    device_id: str
    version: str
    ts: str
    sig: str
    api_keys: tuple[str, str]
    telemetry: Mapping[str, str]
    ip: str
    user_agent: str | None
    nonce: str = ""

    @classmethod
    def of_request(cls, asked: Request) -> Question:
        """Read the query and the headers of a request; what is absent is empty."""
        query = asked.args
        nonce = query.get("nonce", "")
        return cls(
            device_id=query.get("id", "").strip(),
            version=query.get("version", "").strip(),
            ts=query.get("ts", "").strip(),
            sig=query.get("sig", "").strip(),
            api_keys=(query.get("api_key", "").strip(), asked.headers.get("X-API-Key", "")),
            telemetry={name: query[name] for name in TELEMETRY if name in query},
            ip=asked.remote_addr or "",
            user_agent=asked.headers.get("User-Agent"),
            nonce=nonce if NONCE.fullmatch(nonce) else "",
        )


@dataclass(frozen=True)
class Ruling:
    """Hold what the data says. licence: None if the device is not registered."""

    verdict: Verdict
    licence: Licence | None

    @property
    def is_final(self) -> bool:
        """Tell whether the device is refused as such (403), whatever its licence says."""
        return self.verdict in (UNKNOWN, BARRED)


class DeniedError(Exception):
    """A request that is wrong in itself, with its HTTP status and the client's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class UnsureError(Exception):
    """A no that this host cannot vouch for, since it may be behind its peers."""


class UnreadableError(Exception):
    """A licence whose dates nobody can read; neither a yes nor a no."""


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


@blueprint.errorhandler(UnreadableError)
def unreadable(error: UnreadableError) -> ResponseReturnValue:
    """Send the client on rather than lock a customer out by a typing mistake."""
    log.error("%s", error)
    return {"error": "This licence cannot be read; see the log."}, 503


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


def rule(store: Store, device_id: str, today: date) -> Ruling:
    """Judge a device by what this host's data says."""
    row = store.row(JUDGED, device_id)
    if row is None:
        return Ruling(UNKNOWN, None)
    try:
        licence = Licence.of_row(dict(row))
    except ValueError as error:
        raise UnreadableError(f"device {device_id}: {error}") from error
    return Ruling(BARRED if row["is_barred"] else licence.verdict(today), licence)


def sure_ruling(here: Host, device_id: str, today: date) -> Ruling:
    """Judge a device; raise UnsureError rather than deny on data that may be out of date."""
    ruling = rule(here.store, device_id, today)
    if ruling.verdict.allow:
        return ruling
    if not here.freshness.ensure():
        raise UnsureError
    # What was read before may be older than what has just been found fresh.
    return rule(here.store, device_id, today)


def trace(here: Host, question: Question, verdict: Verdict, now: datetime) -> Entry:
    """Return what the log keeps of an answer: when and from where it was asked, and what it was."""
    return Entry(
        device_id=question.device_id,
        ip=question.ip,
        user_agent=question.user_agent,
        hostname=question.telemetry.get("hostname"),
        client_version=question.version,
        telemetry_json=json.dumps(question.telemetry, sort_keys=True),
        allowed=verdict.allow,
        message=verdict.message,
        created_at=column_text(now),
        host=here.node,
    )


def refusal(here: Host, question: Question, ruling: Ruling) -> dict[str, object]:
    """Return the body of a 403; it is signed for those who sent a nonce, and else as ever."""
    log.debug("denied: %s", ruling.verdict.message)
    body: dict[str, object] = {"allow": False, "msg": ruling.verdict.message}
    return body | (_offline_fields(here, question, ruling) if question.nonce else {})


def answer(here: Host, question: Question, ruling: Ruling, now: datetime) -> dict[str, object]:
    """Return the body of an answer; fields may be added to it, none may change."""
    licence, verdict = ruling.licence, ruling.verdict
    assert licence is not None
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
        **_offline_fields(here, question, ruling),
    }


def _offline_fields(here: Host, question: Question, ruling: Ruling) -> dict[str, str]:
    return here.offline.fields(question.device_id, ruling.licence, ruling.verdict, question.nonce)


def _has_key(question: Question, api_key: str) -> bool:
    return any(_equal(offered, api_key) for offered in question.api_keys)


def _check_time(ts: str, now: datetime) -> None:
    ahead = _moment(ts) - now
    hours_max = BEHIND_HOURS_MAX if ahead < timedelta(0) else AHEAD_HOURS_MAX
    if abs(ahead) > timedelta(hours=hours_max) + CLOCK_SLACK:
        minutes = int(abs(ahead).total_seconds()) // 60
        raise DeniedError(
            400,
            f"Relógio desincronizado. Diferença: {minutes // 60}h {minutes % 60}min "
            f"(máximo permitido: {hours_max}h). Sincronize o relógio do sistema.",
        )


def _moment(ts: str) -> datetime:
    if found := _DIGITS.fullmatch(ts):
        year, month, day, hour, minute, second = map(int, found.groups())
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            pass
    raise DeniedError(400, f"Timestamp inválido: {ts}")


def _is_signed(question: Question, shared_secret: str) -> bool:
    expected = request_signature(question.device_id, question.version, question.ts, shared_secret)
    return _equal(question.sig, expected)


def _equal(offered: str, expected: str) -> bool:
    return hmac.compare_digest(offered.encode(), expected.encode())
