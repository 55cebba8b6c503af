"""Loads what all tests share; it is not kept here, since mypy takes one module of this name."""

pytest_plugins = ["tests.connections"]
