"""What gunicorn serves in these tests: the blueprint in a bare Flask app, as strangers mount it."""

from __future__ import annotations

import flask

import syncd


def create_app() -> flask.Flask:
    """Return the application of the host that $SYNCD_CONFIG describes."""
    replica = syncd.Replica(syncd.load_config())
    replica.enrol()
    app = flask.Flask(__name__)
    app.register_blueprint(syncd.blueprint(replica))
    return app
