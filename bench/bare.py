"""A Flask application of one bare route: what the server itself costs."""

from __future__ import annotations

from flask import Flask
from flask.typing import ResponseReturnValue

app = Flask(__name__, static_folder=None)


@app.get("/bare")
def bare() -> ResponseReturnValue:
    """Answer."""
    return {"status": "ok"}
