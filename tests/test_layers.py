"""The direction of dependencies, and the one door of each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _documented_order() -> tuple[str, ...]:
    """Return the modules as docs/architecture.md lists them: what stands first imports nothing."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.partition("```modules\n")[2].partition("```")[0]
    lines = [line.partition("   ")[0] for line in block.splitlines()]
    return tuple(name for line in lines for name in line.split())


ORDER = _documented_order()
DOORS = {
    "sqlite3": {"syncd/database.py"},
    "requests": {"syncd/peer.py"},
    "tenacity": {"syncd/database.py", "syncd/peer.py"},
    "apscheduler": {"syncd/daemon.py"},
    "flask": {"syncd/endpoint.py"},
    "werkzeug": {"syncd/endpoint.py"},
    "http_message_signatures": {"syncd/signing.py"},
    "zstandard": {"syncd/codec.py"},
    "yaml": {"syncd/config.py"},
    "pydantic": {"syncd/config.py"},
    "click": {"syncd/cli.py"},
}
PURE = ORDER[: ORDER.index("database")]


def imports(file: Path) -> set[str]:
    """Return the dotted names a module imports, `from x import y` as x.y."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def of_syncd(file: Path) -> set[str]:
    """Return the modules of syncd that a file imports."""
    names = (name.split(".") for name in imports(file))
    return {parts[1] for parts in names if parts[0] == "syncd" and len(parts) > 1}


def test_every_module_has_its_place() -> None:
    """The order names every module, and none that is not there."""
    present = {file.stem for file in (ROOT / "syncd").glob("*.py")} - {"__init__", "__main__"}
    assert present == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_what_stands_before_it(module: str) -> None:
    """Dependencies point one way."""
    allowed = set(ORDER[: ORDER.index(module)])
    assert of_syncd(ROOT / "syncd" / f"{module}.py") <= allowed


@pytest.mark.parametrize("library", DOORS)
def test_a_dependency_has_one_door(library: str) -> None:
    """Each foreign library is used where it is documented, nearly always behind one module."""
    users = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "syncd").glob("*.py")
        if any(name.split(".")[0] == library for name in imports(file))
    }
    assert users == DOORS[library]


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_io(module: str) -> None:
    """No sockets, processes or threads where values are only computed."""
    forbidden = {"socket", "subprocess", "threading", "http", "urllib"}
    assert {name.split(".")[0] for name in imports(ROOT / "syncd" / f"{module}.py")}.isdisjoint(
        forbidden
    )


def test_the_api_knows_syncd_by_its_public_names() -> None:
    """The licence API could be anybody's."""
    for file in (ROOT / "api").glob("*.py"):
        assert not {name for name in imports(file) if name.startswith("syncd.")}, file
