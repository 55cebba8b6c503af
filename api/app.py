"""The application: one host's licence API, and the endpoint that its peers call.

Owns the putting together: config, settings, tables, replica, blueprints. gunicorn serves it as
`api.app:create_app()`, one worker with threads. Run as a script it starts a whole host, exactly as
`syncd up` does; it must never start Flask's development server or its debugger. Whatever goes wrong
is answered as JSON, since a client takes HTML for a broken server.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # `cd api && python app.py`: Python has put api/ itself on the path, where this package's
    # modules would be found under the wrong names, so the command starts over from the root.
    os.chdir(Path(__file__).resolve().parent.parent)
    os.execv(sys.executable, [sys.executable, "-m", "syncd", "up"])

from flask import Flask, jsonify
from flask.json.provider import DefaultJSONProvider
from flask.typing import ResponseReturnValue
from flask_cors import CORS
from werkzeug.exceptions import HTTPException

import syncd
from api import admin, clones, keys, notices, public, reset, users, verify
from api.access_log import AccessLog
from api.addresses import TrustedProxies
from api.clock import Clock, utc_now
from api.freshness import Freshness
from api.host import EXTENSION, Host
from api.jobs import Job, Jobs
from api.mail import Mailer
from api.offline import OfflineTokens
from api.schema import migrate
from api.sessions import Sessions
from api.settings import Settings, contradictions, load_settings, settings_problems
from api.store import Store
from api.throttle import Throttle


def create_app(
    config: syncd.Config | None = None, *, clock: Clock | None = None, with_jobs: bool = True
) -> Flask:
    """Return the application of the host that a config describes, by default $SYNCD_CONFIG.

    with_jobs: whether it does from time to time what a host must do, or only answers. Raises
    syncd.ConfigError with every mistake in the settings.
    """
    config = config or syncd.load_config(check=_problems)
    settings = load_settings(config.api, os.environ)
    if problems := contradictions(settings, config):
        raise syncd.ConfigError(problems)
    _set_up_log(settings)
    app = LicenceApi(__name__, static_folder=None)
    app.debug = False  # whatever FLASK_DEBUG says
    here = app.extensions[EXTENSION] = _host(config, settings, clock or utc_now)
    app.register_error_handler(HTTPException, _as_json)
    for module in (public, verify, keys, admin, users, reset):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(syncd.blueprint(here.replica))
    _allow_origins(app, settings)
    app.wsgi_app = TrustedProxies(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    if with_jobs:
        jobs_of(here).start()
    return app


def _host(config: syncd.Config, settings: Settings, clock: Clock) -> Host:
    store, replica = open_database(config)
    return Host(
        settings=settings,
        store=store,
        replica=replica,
        sessions=Sessions(settings.session_keys, store, clock),
        throttle=Throttle(store, clock),
        offline=offline_tokens(config, settings, store, clock),
        mailer=Mailer(settings, clock),
        freshness=Freshness(
            replica,
            lasts=settings.fresh_for,
            wait=settings.fresh_wait,
            # The others go on answering those who need no round.
            waiting_max=max(1, config.serve.threads // 2),
        ),
        access_log=AccessLog(store),
        clock=clock,
    )


def jobs_of(here: Host) -> Jobs:
    """Return what a host does from time to time."""
    store, clock = here.store, here.clock
    return Jobs(
        store,
        clock,
        [
            Job("sessions", timedelta(hours=1), here.sessions.forget_expired),
            Job(
                "access_log",
                timedelta(hours=1),
                lambda: here.access_log.forget(clock() - here.settings.access_log_kept),
            ),
            Job(
                "clones",
                timedelta(minutes=1),
                lambda: clones.detect(store, here.act(clones.DETECTOR)),
            ),
            Job("notices", timedelta(minutes=10), lambda: notices.send_due(here)),
        ],
    )


def _problems(
    _: str, section: Mapping[str, Any], environ: Mapping[str, str], config: syncd.Config | None
) -> Sequence[str]:
    return settings_problems(section, environ, config)


def open_database(config: syncd.Config) -> tuple[Store, syncd.Replica]:
    """Return the config's database, its tables up to date and every later write captured."""
    # A free host's disk may begin empty, folders included.
    config.database.parent.mkdir(parents=True, exist_ok=True)
    store = Store(config.database)
    migrate(store)
    replica = syncd.Replica(config)
    replica.enrol()
    return store, replica


def offline_tokens(
    config: syncd.Config, settings: Settings, store: Store, clock: Clock
) -> OfflineTokens:
    """Return what signs a host's offline tokens."""
    return OfflineTokens(
        store,
        clock,
        node=config.node,
        root=settings.offline_root,
        own=settings.offline_key,
        grace=settings.offline_grace,
    )


class WireJson(DefaultJSONProvider):
    """Write JSON as deployed clients read it, by substring tests: the form is part of the API."""

    ensure_ascii = True
    sort_keys = True
    compact = True


class LicenceApi(Flask):
    """Answer in the JSON that deployed clients read."""

    json_provider_class = WireJson


def _set_up_log(settings: Settings) -> None:
    """Log to standard error, since gunicorn sets up no log but its own."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("api").setLevel("DEBUG" if settings.flask_env == "development" else "INFO")


def _allow_origins(app: Flask, settings: Settings) -> None:
    if not settings.cors_origins:
        return  # nobody is allowed without
    CORS(
        app,
        origins=list(settings.cors_origins),
        methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=["Content-Type", "Authorization"],
        always_send=False,
    )


def _as_json(error: HTTPException) -> ResponseReturnValue:
    """Keep an error's status and headers, such as Allow, and put JSON in place of its page."""
    response = error.get_response()
    text = "Internal error" if error.code == 500 else error.description
    response.set_data(jsonify(error=text).data)
    response.mimetype = "application/json"
    return response
