"""Who may call: the account behind a request, and the limit on trying.

Owns the answers 401, 403 and 429. A view begins by asking here, so that none decides about rights
by itself; what an account may do to a device is decided in `api.admin`, beside the device.
"""

from __future__ import annotations

import math
from datetime import timedelta

from flask import abort, request
from werkzeug.exceptions import TooManyRequests

from api.addresses import network
from api.auth import Account
from api.host import Host
from api.throttle import Limit, TooManyError

# A stranger must neither guess a password nor, by guessing, keep its owner out: what one address
# tries against one name is counted by itself, and what it tries against all names together.
LOGINS_OF_A_NAME = Limit(10, timedelta(minutes=15))
LOGINS_OF_AN_ADDRESS = Limit(50, timedelta(minutes=15))

NOT_ALLOWED = "Acesso negado."


def signed_in(here: Host) -> Account:
    """Return the account behind the request's bearer token; answers 401 without one."""
    account = here.sessions.account(bearer_token())
    if account is None:
        abort(401, "Unauthorized")
    return account


def administrator(here: Host) -> Account:
    """Return the administrator behind the request's bearer token; answers 401 or 403."""
    account = signed_in(here)
    if not account.is_admin:
        abort(403, NOT_ALLOWED)
    return account


def bearer_token() -> str:
    """Return the request's bearer token, "" without one."""
    bearer = request.authorization
    return (bearer.token or "") if bearer and bearer.type == "bearer" else ""


def attempt(here: Host, **limits: tuple[str, Limit]) -> list[int]:
    """Count a try against each of some limits; answers 429 where one is used up.

    limits: by what is tried, whose tries are counted and how many are free. Returns what
    `Throttle.forgive` takes.
    """
    counted = {f"{kind}:{whose}": limit for kind, (whose, limit) in limits.items()}
    try:
        return here.throttle.attempt(counted)
    except TooManyError as error:
        minutes = math.ceil(error.wait.total_seconds() / 60)
        raise TooManyRequests(
            f"Muitas tentativas. Tente novamente em {minutes} min.",
            retry_after=math.ceil(error.wait.total_seconds()),
        ) from None


def attempt_login(here: Host, username: str) -> list[int]:
    """Count a try at an account's password; answers 429 where there were too many."""
    return attempt(
        here,
        login=(f"{caller()} {username}", LOGINS_OF_A_NAME),
        logins=(caller(), LOGINS_OF_AN_ADDRESS),
    )


def caller() -> str:
    """Return the network that the request came from."""
    return network(request.remote_addr or "")
