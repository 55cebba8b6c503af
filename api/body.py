"""The JSON object that a dashboard's request brings.

Owns its reading: bounded in size, always an object, every field a text. What is malformed ends in
a 400 here, so that no view meets a number, a list or half a character where it expects a name.
"""

from __future__ import annotations

import re
from typing import Any

from flask import abort, request

BYTES_MAX = 64 * 1024

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Body:
    """Give access to the text fields of a JSON object."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    @classmethod
    def of_request(cls) -> Body:
        """Read the current request; a body that is no JSON object has no fields."""
        request.max_content_length = BYTES_MAX
        fields = request.get_json(silent=True)
        return cls(fields if isinstance(fields, dict) else {})

    def exact(self, name: str) -> str:
        """Return a field as it is, "" where it is absent or null; answers 400 to other types."""
        value = self._fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or _HALF_CHARACTER.search(value):
            abort(400, f"{name}: texto inválido.")
        return value

    def text(self, name: str) -> str:
        """Return a field without the spaces around it."""
        return self.exact(name).strip()
