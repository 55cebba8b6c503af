"""The access log of all hosts: written in groups, kept for a time, read for clones."""

from __future__ import annotations

import sqlite3
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from licence_site import DEVICE, MakeSite, Rows, Site

from api import clones
from api.app import jobs_of
from api.clones import Sighting, two_places


def test_an_answer_does_not_wait_for_the_log(site: Site) -> None:
    """While another program holds the write lock, clients are answered all the same."""
    site.add_device()
    with sqlite3.connect(site.database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        answers = [site.verify().get_json()["allow"] for _ in range(5)]
        took_s = time.monotonic() - started
        other.execute("ROLLBACK")
    other.close()
    assert answers == [True] * 5
    assert took_s < 5
    assert len(site.sql("SELECT * FROM access_logs")) == 5


def test_answers_share_a_transaction(site: Site) -> None:
    """Ten answers are one commit, and the device shows the last of them."""
    site.add_device()
    commits: list[str] = []
    site.host.store.connection.set_trace_callback(
        lambda statement: commits.append(statement) if statement == "COMMIT" else None
    )
    for n in range(10):
        site.verify(hostname=f"PC-{n}")
    site.host.access_log.flush()
    assert commits.count("COMMIT") <= 1
    assert len(site.sql("SELECT * FROM access_logs")) == 10
    assert site.row("SELECT last_hostname FROM devices")["last_hostname"] == "PC-9"


def test_the_log_is_written_without_being_asked(site: Site) -> None:
    """The last group of a quiet host is on disk after a moment."""
    site.add_device()
    site.verify()
    past_the_api = Rows(site.config)
    deadline = time.monotonic() + 10
    while not past_the_api.sql("SELECT * FROM access_logs") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(past_the_api.sql("SELECT * FROM access_logs")) == 1


def test_what_cannot_be_written_is_written_later(site: Site) -> None:
    """A group that the database refused is not lost."""
    site.add_device()
    site.host.access_log.close()
    site.verify()
    past_the_api = Rows(site.config)
    past_the_api.sql("ALTER TABLE access_logs RENAME TO away")
    with pytest.raises(sqlite3.OperationalError):
        site.host.access_log.flush()
    past_the_api.sql("ALTER TABLE away RENAME TO access_logs")
    assert len(site.sql("SELECT * FROM access_logs")) == 1


def test_a_host_that_ends_writes_what_it_has(site: Site) -> None:
    """Closing writes the last group."""
    site.add_device()
    site.verify()
    site.host.access_log.close()
    assert len(Rows(site.config).sql("SELECT * FROM access_logs")) == 1


def test_the_log_is_kept_for_a_time(make_site: MakeSite) -> None:
    """Older entries are deleted by the hour, younger ones stay."""
    site = make_site({"access_log_kept": "2d"})
    site.add_device()
    site.verify()
    jobs = jobs_of(site.host)
    site.clock.now += timedelta(days=2)
    jobs.run_due()
    assert len(site.sql("SELECT * FROM access_logs")) == 1
    site.clock.now += timedelta(hours=1)
    jobs.run_due()
    assert site.sql("SELECT * FROM access_logs") == []


def test_a_job_runs_in_one_worker(site: Site) -> None:
    """Workers that share a database share its jobs."""
    workers = [jobs_of(site.host) for _ in range(4)]
    ran = []
    for worker in workers:
        ran.append(sum(worker._claim(job) for job in worker._jobs))
    assert ran == [len(workers[0]._jobs), 0, 0, 0]


def test_a_job_that_fails_does_not_stop_the_others(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged, and what comes after it runs."""
    site.sql("DROP TABLE clone_flags")
    site.sql("DELETE FROM job_runs")
    jobs_of(site.host).run_due()
    assert "job clones failed" in caplog.text
    assert site.row("SELECT count(*) AS n FROM job_runs")["n"] == len(jobs_of(site.host)._jobs)


HOME, AWAY, PHONE = "203.0.113.1", "198.51.100.1", "2001:db8:1::/64"


def _seen(places: str, **known: tuple[str | None, str | None]) -> list[Sighting]:
    """Read sightings from letters; each letter's network, with its hostname and the host asked."""
    networks = {"x": HOME, "y": AWAY, "v": PHONE}
    return [Sighting(networks[place], *known.get(place, (None, "host-a"))) for place in places]


@pytest.mark.parametrize(
    ("places", "known"),
    [
        ("xyxyx", {}),
        ("xxyyxyyyx", {}),
        ("xyxyx", {"x": ("PC-1", "host-a"), "y": ("PC-2", "host-b")}),
        ("xyxyxyxyx", {"x": ("PC-1", "host-a"), "y": ("PC-1", "host-b")}),
    ],
)
def test_two_places_that_alternate_are_a_clone(
    places: str, known: dict[str, tuple[str | None, str | None]]
) -> None:
    """One machine does not go to and fro like that, whichever hosts it asked."""
    assert two_places(_seen(places, **known)) == (HOME, AWAY)


@pytest.mark.parametrize(
    ("places", "known"),
    [
        ("xxxx", {}),
        ("xxxyyy", {}),
        ("xxyyxx", {}),
        ("xvxvxvxvxvxv", {}),
        ("xyxyx", {"x": ("PC-1", "host-a"), "y": ("PC-1", "host-b")}),
        ("xyxyx", {"x": (None, "host-a"), "y": (None, "host-b")}),
    ],
)
def test_a_move_a_second_family_and_a_failover_are_none(
    places: str, known: dict[str, tuple[str | None, str | None]]
) -> None:
    """A laptop moves, a PC has IPv4 and IPv6, and each host may see a client under its own."""
    assert two_places(_seen(places, **known)) is None


@given(st.lists(st.sampled_from("xy"), max_size=12))
def test_the_order_of_time_decides(places: list[str]) -> None:
    """Whether two places are a clone does not depend on which is called first."""
    swapped = ["y" if place == "x" else "x" for place in places]
    assert (two_places(_seen("".join(places))) is None) == (
        two_places(_seen("".join(swapped))) is None
    )


def _log(site: Site, ip: str, minutes: int, host: str = "there") -> None:
    at = f"{site.clock.now + timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S}"
    site.sql(
        "INSERT INTO access_logs (device_id, ip, allowed, created_at, host) VALUES (?, ?, 1, ?, ?)",
        DEVICE,
        ip,
        at,
        host,
    )


def test_a_clone_is_flagged_and_not_blocked(site: Site) -> None:
    """From the logs of another host comes a flag for the administrator, and nothing else."""
    site.add_device()
    site.add_admin("chefe")
    for n, ip in enumerate((HOME, AWAY, HOME, AWAY, HOME)):
        _log(site, ip, n - 60)
    jobs_of(site.host).run_due()
    chief = site.dashboard("chefe")
    assert chief.call("GET", "/admin/clones").get_json()["items"] == [
        {
            "device_id": DEVICE,
            "addresses": f"{HOME}, {AWAY}",
            "flagged_at": "2026-01-10 15:00:00",
            "host": "here",
        }
    ]
    assert site.verify().get_json()["allow"] is True
    line = site.row("SELECT action, admin FROM license_history")
    assert line == {"action": "clone.flag", "admin": "clone detection"}


def test_a_reviewed_flag_needs_new_evidence(site: Site) -> None:
    """What an administrator has looked at does not come back by itself."""
    site.add_device()
    site.add_admin("chefe")
    chief = site.dashboard("chefe")
    for n, ip in enumerate((HOME, AWAY, HOME, AWAY, HOME)):
        _log(site, ip, n - 60)
    assert clones.detect(site.host.store, site.host.act("d")) == [DEVICE]
    assert clones.detect(site.host.store, site.host.act("d")) == []
    assert chief.post(f"/admin/clones/{DEVICE}/review").status_code == 200
    assert chief.post(f"/admin/clones/{DEVICE}/review").status_code == 404
    assert clones.detect(site.host.store, site.host.act("d")) == []
    for n, ip in enumerate((HOME, AWAY, HOME, AWAY, HOME)):
        _log(site, ip, n + 1)
    assert clones.detect(site.host.store, site.host.act("d")) == [DEVICE]


def test_a_stranger_cannot_raise_a_flag(site: Site) -> None:
    """Neither a forged header nor an unsigned question makes a second address."""
    site.add_device()
    for n in range(12):
        forged = {"X-Forwarded-For": HOME if n % 2 else AWAY}
        site.verify(sig="0" * 64)
        site.app.test_client().get("/verify", query_string=site.question(), headers=forged)
    assert len(site.sql("SELECT * FROM access_logs")) == 12
    assert clones.detect(site.host.store, site.host.act("d")) == []
