"""Values and names as SQL writes them, so that each comes back as what it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

IS_UTF8 = "syncd_is_utf8"
"""The name under which our connections have `is_utf8`."""


class RawText(bytes):
    """TEXT that is not UTF-8, which Python cannot hold as str, as its bytes."""


def text_of(data: bytes, encoding: str = "utf-8") -> str | RawText:
    """Return the TEXT that some bytes are. encoding: the database's."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return RawText(data)


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string."""
    return "'" + text.replace("'", "''") + "'"


def literals_of(values: Sequence[str]) -> str:
    """Return the SQL that writes values, given as SQL, as a list of literals, on our connections.

    quote() alone ends a text at its first NUL, copies what is not UTF-8, and gives infinity a name.
    """
    return " || ', ' || ".join(
        f"CASE WHEN typeof({value}) = 'text' AND (instr({value}, char(0))"
        f" OR {value} GLOB '*[^ -~]*' AND NOT {IS_UTF8}(CAST({value} AS BLOB)))"
        f" THEN 'CAST(X''' || hex({value}) || ''' AS TEXT)'"
        f" WHEN typeof({value}) = 'real' AND abs({value}) = 9e999"
        f" THEN iif({value} > 0, '9e999', '-9e999') ELSE quote({value}) END"
        for value in values
    )


def is_utf8(data: bytes) -> bool:
    """Say whether bytes are text of Python's."""
    return isinstance(text_of(data), str)


def literal_of(value: object) -> str:
    """Write a value as SQL does."""
    match value:
        case RawText():
            return f"CAST(X'{value.hex().upper()}' AS TEXT)"
        case bytes():
            return f"X'{value.hex().upper()}'"
        case str():
            return literal(value)
        case float() if math.isinf(value):
            return "9e999" if value > 0 else "-9e999"
        case _:
            return "NULL" if value is None else repr(value)
