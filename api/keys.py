"""The endpoints of the keys that sign offline tokens.

Owns GET /.well-known/jwks.json, which anyone may ask, and POST /admin/keys, by which a vendor hands
in what the root key signed on a host that has no shell. Both carry public material only.
"""

from __future__ import annotations

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from api import jose
from api.access import administrator
from api.body import Body
from api.host import host

blueprint = Blueprint("keys", __name__)


@blueprint.get("/.well-known/jwks.json")
def public_keys() -> ResponseReturnValue:
    """List the public keys of all hosts that are not revoked, each with the root's certificate."""
    return {
        "keys": [
            {**one.jwk, "kid": one.kid, "alg": jose.ALGORITHM, "use": "sig", "cert": one.text}
            for one in host().offline.trust().valid
        ]
    }


@blueprint.post("/admin/keys")
def publish() -> ResponseReturnValue:
    """Take in a certificate or a list of revoked keys, signed by the root."""
    here = host()
    act = here.act(administrator(here).username)
    try:
        kind = here.offline.publish(Body.of_request().text("signed"), act)
    except jose.BadSignedTextError as error:
        abort(400, f"signed: {error}")
    return {"ok": True, "kind": kind}, 201
