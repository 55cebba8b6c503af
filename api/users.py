"""The endpoints of accounts: the own one, and for administrators those of others.

Owns what an account's name, password, address and role may be. Creating accounts is for
administrators; everybody may change the own password and address, and nobody the own role.
"""

from __future__ import annotations

import re

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from api import accounts, auth, devices
from api.access import administrator, attempt_login, bearer_token, signed_in
from api.admin import NO_DEVICE_ID
from api.body import Body
from api.host import host
from api.licences import LIFETIME

NO_SUCH_USER = "Usuário não encontrado."
_EMAIL = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+\.[^@\s,;<>\".]+")

blueprint = Blueprint("users", __name__)


@blueprint.post("/admin/change-password")
def change_password() -> ResponseReturnValue:
    """Replace the own password; the account's other sessions end."""
    here, body = host(), Body.of_request()
    account = signed_in(here)
    old, new = body.exact("old_password"), body.exact("new_password")
    if not old or not new:
        abort(400, "Senha atual e nova senha são obrigatórias.")
    counted = attempt_login(here, account.username)
    if not auth.knows_password(account, old):
        abort(400, "Senha atual incorreta.")
    here.throttle.forgive(counted)
    check_password(new)
    kept = here.sessions.read(bearer_token())
    if not accounts.set_password(here.store, here.act(account.username), account, new, kept):
        abort(404, NO_SUCH_USER)
    return {"ok": True}


@blueprint.post("/admin/logout")
def logout() -> ResponseReturnValue:
    """End the session whose token the request carries, on every host."""
    here = host()
    signed_in(here)
    session = here.sessions.read(bearer_token())
    if session:
        here.sessions.end(session)
    return {"ok": True}


@blueprint.get("/admin/users")
def list_users() -> ResponseReturnValue:
    """List the accounts of users."""
    here = host()
    administrator(here)
    return {"items": accounts.listing(here.store)}


@blueprint.post("/admin/users/create")
def create_user() -> ResponseReturnValue:
    """Create an account."""
    here = host()
    account = administrator(here)
    body = Body.of_request()
    username, password = body.text("username"), body.exact("password")
    email, role = body.text("email"), body.text("role") or "user"
    if not username or not password:
        abort(400, "Usuário e senha são obrigatórios.")
    if role not in accounts.ROLES:
        abort(400, "Papel inválido.")
    check_password(password)
    check_email(email)
    user_id = accounts.create_user(
        here.store,
        here.act(account.username),
        username=username,
        password=password,
        email=email,
        role=role,
    )
    if user_id is None:
        abort(400, "Usuário já existe.")
    return {"ok": True, "user_id": user_id, "username": username, "role": role}, 201


@blueprint.post("/user/devices/create")
def create_device() -> ResponseReturnValue:
    """Register a device of one's own, free and for life."""
    here = host()
    account = signed_in(here)
    body = Body.of_request()
    device_id = body.text("device_id") or abort(400, NO_DEVICE_ID)
    named = {name: value for name in devices.DESCRIBING if (value := body.text(name))}
    named |= {"license_type": LIFETIME, "created_by": account.username}
    with devices.ordering(here.store, here.act(account.username)) as order:
        if order.find(device_id):
            abort(400, "Device ID já registrado.")
        order.register(device_id, named)
    return {"success": True, "device_id": device_id, "license_type": LIFETIME}, 201


@blueprint.get("/user/profile")
def read_profile() -> ResponseReturnValue:
    """Show the own account."""
    here = host()
    return accounts.profile(here.store, signed_in(here)) or abort(404, NO_SUCH_USER)


@blueprint.put("/user/profile")
def write_profile() -> ResponseReturnValue:
    """Change the own address."""
    here = host()
    account = signed_in(here)
    email = Body.of_request().text("email")
    if not email:
        abort(400, "Email é obrigatório.")
    check_email(email)
    is_user = account.table == "users"
    if not is_user or not accounts.set_email(
        here.store, here.act(account.username), account, email
    ):
        abort(404, NO_SUCH_USER)
    return {"ok": True, "message": "Perfil atualizado."}


def check_password(password: str) -> None:
    """Answer 400 to a password that is too short."""
    if len(password) < accounts.PASSWORD_LENGTH_MIN:
        abort(400, f"A senha deve ter pelo menos {accounts.PASSWORD_LENGTH_MIN} caracteres.")


def check_email(email: str) -> None:
    """Answer 400 to what is no address; none at all is fine."""
    if email and not _EMAIL.fullmatch(email):
        abort(400, "Email inválido.")
