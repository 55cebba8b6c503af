"""The endpoints that the vendor's dashboard calls.

Owns who may do what: administrators everything, other accounts only what touches devices that they
created. Every view but the login begins by asking for the account behind the bearer token; errors
are `{"error": text}`, raised as HTTP exceptions. What a change means is not decided here.
"""

from __future__ import annotations

import dataclasses
import logging

import msgspec
from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

import syncd
from api import auth, clones, devices, licences
from api.access import NOT_ALLOWED, administrator, attempt_login, signed_in
from api.body import Body
from api.host import host

NO_SUCH_DEVICE = "Dispositivo não encontrado."
BAD_LICENSE_TYPE = "Tipo de licença inválido."
NOT_RENEWABLE = "Esta licença não tem prazo a renovar."
NO_DEVICE_ID = "Device ID é obrigatório."

log = logging.getLogger(__name__)
blueprint = Blueprint("admin", __name__, url_prefix="/admin")


@blueprint.post("/login")
def login() -> ResponseReturnValue:
    """Exchange a name and its password for a session token."""
    here, body = host(), Body.of_request()
    username, password = body.text("username"), body.exact("password")
    if not username or not password:
        abort(400, "Credenciais obrigatórias.")
    counted = attempt_login(here, username)
    account = auth.log_in(here.store, username, password)
    if account is None:
        log.warning("login refused to %s", request.remote_addr)
        abort(401, "Usuário ou senha inválidos.")
    here.throttle.forgive(counted)
    return {
        "token": here.sessions.issue(account),
        "must_change_password": account.must_change_password,
        "role": account.role,
    }


@blueprint.get("/devices")
def list_devices() -> ResponseReturnValue:
    """List the devices that the account may see."""
    here = host()
    account = signed_in(here)
    return {
        "items": devices.listing(here.store, None if account.is_admin else account.username),
    }


@blueprint.post("/devices/create")
def create_device() -> ResponseReturnValue:
    """Register a device; for a known one, change what the request names and nothing else."""
    here = host()
    account = administrator(here)
    body = Body.of_request()
    device_id = _device_id(body)
    named = {name: value for name in devices.NAMEABLE if (value := body.text(name))}
    if named.get("license_type", devices.LICENSE_TYPE_DEFAULT) not in licences.TYPES:
        abort(400, BAD_LICENSE_TYPE)
    with devices.ordering(here.store, here.act(account.username)) as order:
        license_type = order.register(device_id, named)
    return {"success": True, "device_id": device_id, "license_type": license_type}, 201


@blueprint.post("/devices/update-created-by")
def update_created_by() -> ResponseReturnValue:
    """Hand a device over to another account."""
    here = host()
    account = administrator(here)
    body = Body.of_request()
    device_id, created_by = _device_id(body), body.text("created_by")
    if not created_by:
        abort(400, "created_by é obrigatório.")
    with devices.ordering(here.store, here.act(account.username)) as order:
        touchable(order, account, device_id)
        order.set(device_id, "created_by", created_by)
    return {"success": True, "device_id": device_id, "created_by": created_by}


@blueprint.post("/devices/<path:device_id>/deactivate")
def deactivate_device(device_id: str) -> ResponseReturnValue:
    """Block a device, make it active, or toggle between the two; users can only block."""
    here = host()
    account = signed_in(here)
    action = Body.of_request().text("action") or "toggle"
    with devices.ordering(here.store, here.act(account.username)) as order:
        device = touchable(order, account, device_id)
        status = _next_status(action, device["status"])
        if status != "blocked" and not account.is_admin:
            abort(403, NOT_ALLOWED)
        order.set_status(device_id, status)
    return {"success": True, "device_id": device_id, "status": status}


@blueprint.post("/devices/<path:device_id>/renew")
def renew_device(device_id: str) -> ResponseReturnValue:
    """Give a licence another period, by request of another type; lifts no block."""
    here = host()
    account = administrator(here)
    license_type = Body.of_request().text("license_type") or None
    if license_type and license_type not in licences.TYPES:
        abort(400, BAD_LICENSE_TYPE)
    with devices.ordering(here.store, here.act(account.username)) as order:
        device = touchable(order, account, device_id)
        try:
            renewal = order.renew(device, license_type)
        except devices.NotRenewableError:
            abort(400, NOT_RENEWABLE)
    return {"success": True, "device_id": device_id, **dataclasses.asdict(renewal)}


@blueprint.delete("/devices/<path:device_id>/delete")
def delete_device(device_id: str) -> ResponseReturnValue:
    """Remove a device for good."""
    here = host()
    account = signed_in(here)
    with devices.ordering(here.store, here.act(account.username)) as order:
        touchable(order, account, device_id)
        order.delete(device_id)
    return {"success": True, "device_id": device_id, "message": "Dispositivo excluído."}


@blueprint.get("/clones")
def list_clones() -> ResponseReturnValue:
    """List the devices that seem to be in use in two places."""
    here = host()
    administrator(here)
    return {"items": clones.open_flags(here.store)}


@blueprint.post("/clones/<path:device_id>/review")
def review_clone(device_id: str) -> ResponseReturnValue:
    """Take a device off that list, until there is new evidence."""
    here = host()
    account = administrator(here)
    if not clones.review(here.store, here.act(account.username), device_id):
        abort(404, NO_SUCH_DEVICE)
    return {"success": True, "device_id": device_id}


@blueprint.post("/sync")
def sync() -> ResponseReturnValue:
    """Run a round with every peer now: 200 if all went well, 502 if any did not."""
    here = host()
    administrator(here)
    outcomes = syncd.sync_now(here.replica)
    status = 200 if all(outcome.ok for outcome in outcomes) else 502
    return {"items": [msgspec.to_builtins(outcome) for outcome in outcomes]}, status


def touchable(order: devices.Order, account: auth.Account, device_id: str) -> devices.Device:
    """Return a device that the account may change; answers 404 or 403."""
    device = order.find(device_id)
    if device is None:
        abort(404, NO_SUCH_DEVICE)
    if not account.is_admin and device["created_by"] != account.username:
        abort(403, NOT_ALLOWED)
    return device


def _device_id(body: Body) -> str:
    return body.text("device_id") or abort(400, NO_DEVICE_ID)


def _next_status(action: str, status: object) -> str:
    toggled = "active" if status == "blocked" else "blocked"
    statuses = {"block": "blocked", "activate": "active", "toggle": toggled}
    return statuses.get(action) or abort(400, "Ação inválida.")
