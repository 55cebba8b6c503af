"""Images: tables that the user's own triggers keep, each like a synced one, on its host alone.

A merge sets these triggers off as a writer does, so an image shows at any time what its table does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

_PREFIX = "image_"


def make(writer: sqlite3.Connection, tables: Iterable[str]) -> None:
    """Make an image of each table, and the triggers that keep it."""
    for table in tables:
        writer.executescript(_ddl(table, _columns(writer, table)))


def renew(writer: sqlite3.Connection) -> None:
    """Take all images anew: no trigger tells of a row that a writer's own REPLACE displaces."""
    for table, columns in _images(writer).items():
        writer.execute(f"DELETE FROM {_PREFIX}{table}")
        writer.execute(f"INSERT INTO {_PREFIX}{table} SELECT {', '.join(columns)} FROM {table}")


def astray(writer: sqlite3.Connection) -> dict[str, tuple[list[str], list[str]]]:
    """Return what tables show that their images do not, and the other way round."""
    found = {}
    for table, columns in _images(writer).items():
        listed = " || ', ' || ".join(f"quote({column})" for column in columns)
        mine, its = (
            sorted(row for (row,) in writer.execute(f"SELECT {listed} FROM {name}"))
            for name in (table, _PREFIX + table)
        )
        if mine != its:
            found[table] = ([r for r in mine if r not in its], [r for r in its if r not in mine])
    return found


def _images(writer: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the tables that have images, with the columns that these have."""
    sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ? ORDER BY name"
    names = [name for (name,) in writer.execute(sql, (f"{_PREFIX}*",)).fetchall()]
    return {name.removeprefix(_PREFIX): _columns(writer, name) for name in names}


def _columns(writer: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in writer.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _ddl(table: str, columns: list[str]) -> str:
    image = _PREFIX + table
    new = ", ".join(f"NEW.{column}" for column in columns)
    same = " AND ".join(f"{column} IS OLD.{column}" for column in columns)
    came, went = f"INSERT INTO {image} VALUES ({new});", f"DELETE FROM {image} WHERE {same};"
    return f"""
        CREATE TABLE {image} ({", ".join(columns)});
        CREATE TRIGGER {image}_came AFTER INSERT ON {table} BEGIN {came} END;
        CREATE TRIGGER {image}_changed AFTER UPDATE ON {table} BEGIN {went} {came} END;
        CREATE TRIGGER {image}_went AFTER DELETE ON {table} BEGIN {went} END;
    """
