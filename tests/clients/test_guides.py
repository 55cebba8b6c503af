"""The vendor's guides against the clients: what a log may say is explained, what they show runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORTUGUESE = (ROOT / "docs/pt-BR/migracao.md").read_text(encoding="utf-8")
ENGLISH = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
AHK = [
    (ROOT / "clients/ahk" / name).read_text(encoding="utf-8-sig")
    for name in ("SOLUCAO_COM_REDUNDANCIA.ahk", "SOLUCAO_COM_REDUNDANCIA_v2.ahk")
]
RAISES = {"NoAnswerError", "BadTokenError"}


def reasons() -> Iterator[str]:
    """Yield every reason that the Python client gives, up to its first variable part."""
    for file in (ROOT / "clients/python/licence_client").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISES and node.args:
                text = ast.unparse(node.args[0]).strip("f'\"")
                yield text.partition("{")[0].strip(" (")


def test_every_reason_is_explained_and_is_that_of_the_other_editions() -> None:
    """A vendor who finds a line in a log finds it in the guide."""
    found = sorted(filter(None, reasons()))
    assert len(found) > 10
    assert [reason for reason in found if f"`{reason}" not in PORTUGUESE] == []
    for source in AHK:
        assert [reason for reason in found if reason not in source] == []


@pytest.mark.parametrize("guide", [PORTUGUESE, ENGLISH], ids=["pt-BR", "en"])
def test_names_of_the_configuration_exist(guide: str) -> None:
    """The guides name the client's variables and files as they are."""
    for name in set(re.findall(r"g_LicenseAPI_\w+", guide)):
        assert all(re.search(rf"\b{name} :=", source) for source in AHK), name
    for name in ("server_used", "server_failover", "offline_success"):
        assert f"license_{name}.txt" in guide
        assert all(f"license_{name}.txt" in source for source in AHK)
    for path in re.findall(r"`(clients/\S+)`", guide):
        assert (ROOT / path).exists(), path


def test_both_editions_for_autohotkey_have_a_byte_order_mark() -> None:
    """Without it AutoHotkey v1.1 reads the texts in the PC's code page."""
    for file in (ROOT / "clients/ahk").glob("*.ahk"):
        assert file.read_bytes().startswith(b"\xef\xbb\xbf"), file
