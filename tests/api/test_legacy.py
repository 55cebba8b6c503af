"""A vendor's own databases: the first adopted as it is, the second merged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from licence_site import ADMIN_LEGACY_HASH, USER_LEGACY_HASH, MakeSite, Rows, Site, WriteConfig

from api.__main__ import main
from api.schema import TABLES

ROOT = Path(__file__).resolve().parents[2]
LATE = ("cpf", "address", "email", "created_by")
ROWS = f"""
    INSERT INTO devices (id, device_id, owner_name, license_type, status, start_date, end_date)
    VALUES (506, 'sold-there', 'Loja', 'anual', 'active', '2025-06-01', '2026-06-01'),
           (507, 'blocked-there', '', 'anual', 'blocked', '2025-06-01', '2026-06-01'),
           (508, 'expired', 'Bar', 'mensal', 'active', '2024-01-31', NULL);
    INSERT INTO blocked_devices (id, device_id, reason) VALUES (9, 'barred', 'fraude');
    INSERT INTO admin_users (id, username, password_hash, must_change_password)
    VALUES (3, 'chefe', '{ADMIN_LEGACY_HASH}', 0);
    INSERT INTO users (id, username, password_hash, email)
    VALUES (4, 'maria', '{USER_LEGACY_HASH}', 'maria@example.com');
    INSERT INTO access_logs (id, device_id, ip, allowed, message, created_at)
    VALUES (70, 'sold-there', '203.0.113.1', 1, 'Licença ativa.', '2026-01-01 10:00:00'),
           (71, 'sold-there', '203.0.113.1', 1, 'Licença ativa.', '2026-01-01 10:30:00');
    INSERT INTO license_history (id, device_id, action, admin, created_at)
    VALUES (80, 'sold-there', 'create', 'chefe', '2025-06-01 09:00:00');
"""


def _make(path: Path, rows: str = ROWS) -> Path:
    """Make a file as the vendor's server leaves it: six tables, late columns, no WAL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in TABLES:
            connection.execute(statement)
        for column in LATE:
            connection.execute(f"ALTER TABLE devices ADD COLUMN {column} TEXT")
        connection.executescript(rows)
    return path


def _rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the vendor's own columns of the vendor's own tables."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = ["devices", "blocked_devices", "access_logs", "license_history", "users"]
        return {
            name: [
                {key: row[key] for key in row.keys() if key != "host"}  # noqa: SIM118
                for row in connection.execute(f"SELECT * FROM {name} ORDER BY id")
            ]
            for name in names
        }


def _import(site: Rows, file: Path, *options: str) -> Any:
    arguments = ["import-legacy", str(file), "--config", str(site.config), "--json", *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_vendors_file_is_adopted_by_init_alone(write_config: WriteConfig, tmp_path: Path) -> None:
    """DB_PATH on the file and `syncd init`: every row stays as it was, ids, dates and hashes."""
    vendors = _make(tmp_path / "vendor.db")
    config = write_config()
    database = tmp_path / "here" / "data" / "licences.db"
    database.parent.mkdir(parents=True)
    shutil.copy(vendors, database)
    done = subprocess.run(
        [sys.executable, "-m", "syncd", "--config", str(config), "init", "--json"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    enrolled = {row["table"]: row for row in json.loads(done.stdout)}
    assert (enrolled["devices"]["state"], enrolled["devices"]["rows"]) == ("new", 3)
    assert enrolled["access_logs"]["rows"] == 2
    assert _rows(database) == _rows(vendors)


def test_an_adopted_file_answers_as_before(make_site: MakeSite, tmp_path: Path) -> None:
    """Licences are neither renewed nor revived, and passwords open once and become Argon2."""
    _make(tmp_path / "here" / "data" / "licences.db")
    site = make_site()
    assert site.verify("sold-there").get_json()["msg"] == "Licença ativa."
    assert site.verify("blocked-there").get_json()["msg"] == "Licença bloqueada."
    assert site.verify("expired").get_json()["msg"] == "Licença expirada em 29/02/2024"
    assert site.login("chefe").get_json()["role"] == "admin"
    assert site.login("maria").status_code == 200
    for table in ("admin_users", "users"):
        assert site.row(f"SELECT password_hash FROM {table}")["password_hash"].startswith("$argon2")
    assert site.row("SELECT device_id FROM blocks") == {"device_id": "blocked-there"}


def test_a_second_file_brings_what_is_not_here(site: Site, tmp_path: Path) -> None:
    """Rows that are not here come with all they had, under ids of this host."""
    site.add_device("mine" * 4)
    report = _import(site, _make(tmp_path / "second.db"))
    assert report["new"] == {
        "devices": 3,
        "blocked_devices": 1,
        "admin_users": 1,
        "users": 1,
        "access_logs": 2,
        "license_history": 1,
    }
    device = site.row("SELECT * FROM devices WHERE device_id = 'sold-there'")
    assert (device["id"], device["end_date"]) == (2, "2026-06-01")
    assert site.verify("blocked-there").get_json()["msg"] == "Licença bloqueada."
    assert site.login("maria").status_code == 200
    assert site.sql("SELECT admin, details FROM license_history WHERE action = 'import'")


def test_a_licence_that_is_here_is_neither_renewed_nor_revived(site: Site, tmp_path: Path) -> None:
    """Dates and status stay; what is empty is filled in, and the differences are told."""
    site.add_device("sold-there", status="blocked", end_date="2025-12-31")
    site.add_device("blocked-there", owner_name="Meu nome")
    before = site.row("SELECT * FROM devices WHERE device_id = 'sold-there'")
    report = _import(site, _make(tmp_path / "second.db"))
    after = site.row("SELECT * FROM devices WHERE device_id = 'sold-there'")
    assert after == before | {"owner_name": "Loja"}
    assert report["filled"] == 1
    assert report["blocked"] == ["blocked-there"]
    assert site.verify("blocked-there").get_json()["allow"] is False
    owner = site.row("SELECT owner_name FROM devices WHERE device_id = 'blocked-there'")
    assert owner == {"owner_name": "Meu nome"}
    told = {(one["device_id"], one["column"]): one["file"] for one in report["differences"]}
    assert told[("sold-there", "end_date")] == "2026-06-01"
    assert told[("sold-there", "status")] == "active"


def test_importing_again_changes_nothing(site: Site, tmp_path: Path) -> None:
    """A second run, also of logs without a key, finds all of it here."""
    file = _make(tmp_path / "second.db")
    _import(site, file)
    before = _rows(site.database)
    report = _import(site, file)
    assert set(report["new"].values()) == {0}
    after = _rows(site.database)
    imports = [line for line in after["license_history"] if line["action"] == "import"]
    assert len(imports) == 2
    after["license_history"].remove(imports[1])
    assert after == before


def test_a_device_that_was_deleted_here_stays_deleted(site: Site, tmp_path: Path) -> None:
    """An old copy does not bring back what an administrator removed."""
    site.add_admin("gerente")
    site.add_device("sold-there")
    site.dashboard("gerente").call("DELETE", "/admin/devices/sold-there/delete")
    report = _import(site, _make(tmp_path / "second.db"))
    assert report["skipped"] == ["sold-there"]
    assert site.verify("sold-there").status_code == 403


def test_an_account_that_is_here_keeps_its_password(site: Site, tmp_path: Path) -> None:
    """The file's password of a known name is not taken."""
    site.sql("INSERT INTO users (username, password_hash) VALUES ('maria', 'mine')")
    assert _import(site, _make(tmp_path / "second.db"))["new"]["users"] == 0
    assert site.row("SELECT password_hash FROM users") == {"password_hash": "mine"}


def test_a_dry_run_changes_nothing(site: Site, tmp_path: Path) -> None:
    """It reports what would be taken, and leaves file and database as they are."""
    file = _make(tmp_path / "second.db")
    content, before = file.read_bytes(), _rows(site.database)
    assert _import(site, file, "--dry-run")["new"]["devices"] == 3
    assert _rows(site.database) == before
    assert file.read_bytes() == content


def test_an_early_file_without_late_columns_is_merged(site: Site, tmp_path: Path) -> None:
    """A table or a column that the file does not have is none that is missed."""
    file = tmp_path / "early.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(TABLES[0] + ";" + ROWS.split(";", maxsplit=1)[0])
    assert _import(site, file)["new"] == {"devices": 3}


@pytest.mark.parametrize(
    ("content", "told"), [(b"no database at all, but long enough", "not a"), (b"", "no table")]
)
def test_what_is_no_licence_database_is_refused(
    site: Site, tmp_path: Path, content: bytes, told: str
) -> None:
    """A file that cannot be merged is named, and nothing changes."""
    file = tmp_path / "other.db"
    file.write_bytes(content)
    result = CliRunner().invoke(main, ["import-legacy", str(file), "--config", str(site.config)])
    assert result.exit_code == 1
    assert str(file) in result.output
    assert told in result.output
    assert "nothing was changed" in result.output


def test_the_text_form_tells_the_same(site: Site, tmp_path: Path) -> None:
    """Without --json there is a table, and the differences below it."""
    site.add_device("sold-there", end_date="2025-12-31")
    file = _make(tmp_path / "second.db")
    arguments = ["import-legacy", str(file), "--config", str(site.config), "--dry-run"]
    output = CliRunner().invoke(main, arguments).output
    assert "devices" in output
    assert "2025-12-31" in output
    assert "nothing was changed" in output


def test_imported_rows_travel(make_site: MakeSite, tmp_path: Path) -> None:
    """What was merged into one host shows on the other, logs included."""
    here, there = make_site(node="here"), make_site(node="there")
    _import(here, _make(tmp_path / "second.db"))
    header, frames = here.host.replica.frames_since(there.host.replica.vector())
    for frame in frames:
        there.host.replica.merge(header, frame)
    assert there.verify("sold-there").get_json()["allow"] is True
    assert len(there.sql("SELECT * FROM access_logs WHERE created_at < '2026-01-02'")) == 2


def test_a_well_known_password_opens_nothing(site: Site) -> None:
    """The vendor's default administrator, imported, is no way in."""
    known = hashlib.sha256(b"admin-salt::admin123").hexdigest()
    site.sql("INSERT INTO admin_users (username, password_hash) VALUES ('admin', ?)", known)
    assert site.login("admin", "admin123").status_code == 401
