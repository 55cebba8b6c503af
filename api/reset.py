"""A forgotten password: the mail, and the token in it.

Owns the endpoints under /auth/. The token is signed, so every host takes it, and names the password
that it replaces, so it works once. Neither an answer nor its delay tells whether an address belongs
to anybody. Only users have an address; administrators use `python -m api create-admin --reset`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue
from itsdangerous import BadData

from api import accounts, auth
from api.access import attempt, caller
from api.body import Body
from api.host import Host, host
from api.sessions import serializer
from api.throttle import Limit
from api.users import check_email, check_password

LASTS = timedelta(hours=1)
REQUESTS_OF_AN_ADDRESS = Limit(10, timedelta(hours=1))
MAILS_TO_AN_ADDRESS = Limit(3, timedelta(hours=1))
BAD_TOKEN = "Token inválido ou expirado."  # noqa: S105  (a message)
SENT = "Se o email estiver cadastrado, você receberá as instruções."

blueprint = Blueprint("reset", __name__, url_prefix="/auth")


@blueprint.post("/forgot-password")
def forgot_password() -> ResponseReturnValue:
    """Mail a token to the users who have an address; the answer is the same if there are none."""
    here = host()
    email = Body.of_request().text("email")
    if not email:
        abort(400, "Email é obrigatório.")
    check_email(email)
    if not here.mailer.is_enabled:
        abort(503, "O envio de email não está configurado.")
    attempt(
        here,
        resets=(caller(), REQUESTS_OF_AN_ADDRESS),
        reset=(email.lower(), MAILS_TO_AN_ADDRESS),
    )
    for username in accounts.by_email(here.store, email):
        account = auth.find(here.store, "users", username)
        if account:
            here.mailer.send_later(email, "Redefinição de senha", _letter(here, account))
    return {"ok": True, "message": SENT}


@blueprint.get("/reset-password")
def check_token() -> ResponseReturnValue:
    """Tell how long a token is still good."""
    here = host()
    claim = _claim(here, request.args.get("token", ""))
    remaining = claim.expires - here.clock()
    return {
        "ok": True,
        "expires_at": claim.expires.isoformat(),
        "remaining_seconds": int(remaining.total_seconds()),
    }


@blueprint.post("/reset-password")
def reset_password() -> ResponseReturnValue:
    """Replace the password that a token names; all sessions of the account end."""
    here, body = host(), Body.of_request()
    claim = _claim(here, body.text("token"))
    new = body.exact("new_password")
    check_password(new)
    act = here.act(f"{claim.account.username} (mail)")
    if not accounts.set_password(here.store, act, claim.account, new):
        abort(400, BAD_TOKEN)
    return {"ok": True, "message": "Senha redefinida."}


@dataclass(frozen=True)
class _Claim:
    account: auth.Account
    expires: datetime


def _letter(here: Host, account: auth.Account) -> str:
    signer = serializer(here.settings.session_keys, "reset", here.clock)
    token = str(signer.dumps([account.username, _fingerprint(account)]))
    page = here.settings.reset_url
    link = f"{page}?{urlencode({'token': token})}" if page else f"Código: {token}"
    return (
        f"Olá, {account.username}.\n\n"
        "Para definir uma nova senha, use dentro de uma hora:\n\n"
        f"{link}\n\n"
        "Se você não pediu isto, ignore esta mensagem: sua senha continua a mesma.\n"
    )


def _claim(here: Host, token: str) -> _Claim:
    signer = serializer(here.settings.session_keys, "reset", here.clock)
    try:
        content, issued = signer.loads(
            token, max_age=int(LASTS.total_seconds()), return_timestamp=True
        )
    except BadData:
        abort(400, BAD_TOKEN)
    username, fingerprint = content
    account = auth.find(here.store, "users", username)
    if account is None or _fingerprint(account) != fingerprint:
        abort(400, BAD_TOKEN)
    return _Claim(account, issued + LASTS)


def _fingerprint(account: auth.Account) -> str:
    return hashlib.sha256(account.password_hash.encode()).hexdigest()[:16]
