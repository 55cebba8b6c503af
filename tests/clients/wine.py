"""The real AutoHotkey, v1.1 and v2, under Wine.

Owns where the executables and the Wine prefix come from: PyPI's ahk-binary (GPL, so it is fetched
and unpacked at set-up and never vendored) and Debian's wine64. A prepared prefix is kept in the
cache and lent to each test session as links and copies, because making one takes 15 seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

AHK_BINARY = "ahk-binary==2025.1.0"
EXECUTABLES = {"v1.1": "AutoHotkey.exe", "v2": "AutoHotkeyV2.exe"}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "syncd-tests"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
RUN_WITHIN_S = 60
_WINE_FOLDER = "/usr/lib/wine"  # Debian's wine64 puts no `wine` on the path


def program(name: str) -> str | None:
    """Return where one of Wine's programs is."""
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], _WINE_FOLDER]))


@dataclass(frozen=True)
class Wine:
    """A prefix in which AutoHotkey runs without a display."""

    prefix: Path
    executables: Path

    def run(self, edition: str, script: Path, folder: Path, clock_shift_s: int = 0) -> str:
        """Run a script with a folder as its argument, until its exit; return what it printed.

        The PC's clock is shifted by that many seconds.
        """
        executable = str(self.executables / EXECUTABLES[edition])
        shifted = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{clock_shift_s:+d}s"}
        output = folder / "output.txt"
        done, printed = 1, ""
        for _ in range(2):
            done = _wine(
                self.prefix,
                *(executable, "/ErrorStdOut", str(script), windows_path(folder)),
                output=output,
                env=shifted if clock_shift_s else {},
            )
            printed = output.read_text(encoding="utf-8", errors="replace")
            # The drivers end with 0 or 9, AutoHotkey itself with 2, and both say why. A silent 1 is
            # Wine's, which now and then does not start a program; and now and then one of its own
            # threads faults as a program ends that has left a request.
            is_wines = (
                not printed if done == 1 else printed.startswith("wine: Unhandled page fault")
            )
            if not is_wines:
                break
        assert done == 0, f"exit code {done}\n{printed}"
        return printed


def windows_path(path: Path) -> str:
    """Return a path as programs in Wine see it."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


@contextmanager
def running() -> Iterator[Wine]:
    """Hold Wine for a session; skip where it is not installed."""
    if program("wine64") is None or program("wineserver") is None:
        pytest.skip("Wine is not installed: apt-get install wine64 libgnutls30")
    template, executables = _prepared_prefix(), _executables()
    folder = Path(tempfile.mkdtemp(prefix="syncd-wine-"))
    prefix = folder / "prefix"
    try:
        _lend(template, prefix)
        yield Wine(prefix, executables)
    finally:
        _end(prefix)
        shutil.rmtree(folder, ignore_errors=True)


def _executables() -> Path:
    folder = CACHE / AHK_BINARY.replace("==", "-")
    if not folder.exists():
        with _new_folder(folder) as new:
            _download(new)
    return folder


def _download(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels]
        subprocess.run([*pip, AHK_BINARY], check=True, timeout=300)
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if Path(name).name in EXECUTABLES.values():
                    (folder / Path(name).name).write_bytes(archive.read(name))


def _prepared_prefix() -> Path:
    """Return a prefix whose graphics driver is none, so that no display is needed."""
    version = subprocess.run(
        [str(program("wine64")), "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    template = CACHE / f"prefix-{version.replace(' ', '-')}"
    if not template.exists():
        with _new_folder(template) as new:
            driver = ["reg", "add", r"HKCU\Software\Wine\Drivers", "/v", "Graphics", "/d", "null"]
            assert _wine(new, *driver, "/f", output=new / "made.txt") == 0
            _end(new)  # only now does the registry stand in its files
    return template


def _lend(template: Path, prefix: Path) -> None:
    """Copy what a session may change, and link what it does not: 700 MB of Windows' files."""
    prefix.mkdir()
    for entry in template.iterdir():
        if entry.is_file():
            shutil.copy2(entry, prefix)
    shutil.copytree(template / "dosdevices", prefix / "dosdevices", symlinks=True)
    drive = prefix / "drive_c"
    drive.mkdir()
    shutil.copytree(template / "drive_c" / "users", drive / "users", symlinks=True)
    for entry in (template / "drive_c").iterdir():
        if entry.name != "users":
            (drive / entry.name).symlink_to(entry)


@contextmanager
def _new_folder(final: Path) -> Iterator[Path]:
    """Hold a folder that gets its name when it is whole, whoever else makes the same."""
    final.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=final.name, dir=final.parent))
    try:
        yield new
        if not final.exists():
            new.rename(final)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _wine(prefix: Path, *command: str, output: Path, env: Mapping[str, str] | None = None) -> int:
    environment = {**_environment(prefix), **(env or {})}
    # Into a file, because a pipe would stay open as long as Wine's server does.
    with output.open("wb") as sink:
        return subprocess.run(
            [str(program("wine64")), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            timeout=RUN_WITHIN_S,
            check=False,
        ).returncode


def _environment(prefix: Path) -> dict[str, str]:
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    kept = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    return {
        **kept,
        "WINEPREFIX": str(prefix),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
    }


def _end(prefix: Path) -> None:
    """End this prefix's server, and with it whatever runs in the prefix."""
    subprocess.run(
        [str(program("wineserver")), "-k"],
        env=_environment(prefix),
        check=False,
        timeout=RUN_WITHIN_S,
    )
    subprocess.run(
        [str(program("wineserver")), "-w"],
        env=_environment(prefix),
        check=False,
        timeout=RUN_WITHIN_S,
    )
