"""The endpoints that anyone may ask: is the host up, and which hosts are there.

Owns GET /health, /ping and /servers, in the form that deployed clients parse, and the description
of the whole API. They touch no
database, so that a host whose file is busy still tells that it lives.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint
from flask.typing import ResponseReturnValue

from api.host import host

blueprint = Blueprint("public", __name__)


@blueprint.get("/health")
def health() -> ResponseReturnValue:
    """Tell a hosting platform that the process serves."""
    return {"status": "ok"}


@blueprint.get("/ping")
def ping() -> ResponseReturnValue:
    """Tell a client that the server is alive, and its time."""
    return {
        "message": "Server is alive",
        "server": "license-api",
        "status": "ok",
        "timestamp": host().clock().isoformat(),
    }


@blueprint.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """Describe this API, as OpenAPI 3.1."""
    return _description()


@blueprint.get("/servers")
def servers() -> ResponseReturnValue:
    """List the base URLs of all hosts; the timestamp is a number, YYYYMMDDhhmmss in UTC."""
    here = host()
    return {
        "servers": here.settings.license_servers,
        "timestamp": int(here.clock().strftime("%Y%m%d%H%M%S")),
        "version": 1,
    }


@functools.cache
def _description() -> dict[str, Any]:
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    described: dict[str, Any] = yaml.safe_load(text)
    return described
