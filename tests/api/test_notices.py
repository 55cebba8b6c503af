"""Notices that a licence ends, through a real mail server, from a cluster of hosts."""

from __future__ import annotations

from datetime import timedelta

import pytest
from licence_site import DEVICE, Mailbox, MakeSite, Serve, Site

from api import notices

ENDS = "2026-01-13"


@pytest.fixture
def site(make_site: MakeSite, mailbox: Mailbox) -> Site:
    """Make a host alone that sends mail."""
    return make_site(mailbox.settings)


@pytest.fixture
def cluster(make_site: MakeSite, mailbox: Mailbox) -> list[Site]:
    """Make three hosts that send mail by one server; they meet when a test says so."""
    return [make_site(mailbox.settings, node=node) for node in ("host-a", "host-b", "host-c")]


def _run(site: Site) -> int:
    return notices.send_due(site.host)


def _at(site: Site, days: int, hour: int = 12, minute: int = 0) -> None:
    """Set a host's clock to a number of days before the end."""
    site.clock.now = site.clock.now.replace(day=13 - days, hour=hour, minute=minute)


def _meet(sites: list[Site]) -> None:
    for source in sites * 2:
        for target in sites:
            if source is not target:
                header, frames = source.host.replica.frames_since(target.host.replica.vector())
                for frame in frames:
                    target.host.replica.merge(header, frame)


def test_a_notice_comes_three_two_and_one_days_before(site: Site, mailbox: Mailbox) -> None:
    """One on each of these days, however often the job runs, and none before or after."""
    site.add_device(end_date=ENDS, email="loja@example.com", owner_name="Loja São João")
    for days in (5, 4, 3, 2, 1, 0, -1):
        for hour in (11, 12, 13, 20):
            _at(site, days, hour)
            _run(site)
    subjects = [message["Subject"] for message in mailbox.messages]
    assert subjects == [
        "Sua licença expira em 3 dias",
        "Sua licença expira em 2 dias",
        "Sua licença expira em 1 dia",
    ]
    first = mailbox.messages[0]
    assert first["To"] == "loja@example.com"
    assert "Loja São João" in first.get_content()
    assert "13/01/2026" in first.get_content()


@pytest.mark.parametrize(
    "columns",
    [
        {"email": None},
        {"email": "", "status": "active"},
        {"status": "blocked"},
        {"status": "pending"},
        {"license_type": "vitalicia"},
        {"end_date": "2026-01-20"},
    ],
)
def test_who_gets_no_notice(site: Site, mailbox: Mailbox, columns: dict[str, object]) -> None:
    """Neither who has no address nor a licence that does not end now, or is not in use."""
    site.add_device(DEVICE, **{"end_date": ENDS, "email": "loja@example.com", **columns})
    _at(site, 3)
    assert _run(site) == 0
    assert mailbox.messages == []


def test_a_missing_end_counts_as_computed(site: Site, mailbox: Mailbox) -> None:
    """A licence whose end is computed from its start is told as well."""
    site.add_device(
        end_date=None, license_type="mensal", start_date="2025-12-13", email="loja@example.com"
    )
    _at(site, 3)
    assert _run(site) == 1
    assert "13/01/2026" in mailbox.messages[0].get_content()


def test_a_date_that_cannot_be_read_costs_only_its_own_notice(site: Site, mailbox: Mailbox) -> None:
    """One imported row with a wrong date does not keep the other customers from being told."""
    site.add_device("a-wrong-date", start_date="janeiro", end_date=None, email="a@example.com")
    site.add_device("b-good-date", end_date=ENDS, email="b@example.com")
    _at(site, 3)
    assert _run(site) == 1
    assert mailbox.messages[0]["To"] == "b@example.com"


def test_the_cluster_sends_a_notice_once(cluster: list[Site], mailbox: Mailbox) -> None:
    """Three hosts in step send one, whoever looks first, and share the work."""
    for n in range(12):
        cluster[0].add_device(f"{n:032}", end_date=ENDS, email=f"loja{n}@example.com")
    for site in cluster:
        _at(site, 3, 11, 50)
        _run(site)
    _meet(cluster)
    for site in cluster:
        _at(site, 3)
        _run(site)  # at the same moment: nothing of what the others do is known yet
    assert sorted(message["To"] for message in mailbox.messages) == sorted(
        f"loja{n}@example.com" for n in range(12)
    )
    senders = {row["claimed_by"] for site in cluster for row in site.sql("SELECT * FROM notices")}
    assert len(senders) > 1
    _meet(cluster)
    for hour in (13, 14, 20):
        for site in cluster:
            _at(site, 3, hour)
            _run(site)
    assert len(mailbox.messages) == 12


def test_a_host_that_is_down_costs_an_hour_and_no_notice(
    cluster: list[Site], mailbox: Mailbox
) -> None:
    """What would have been the dead host's is sent by the next in line."""
    for n in range(12):
        cluster[0].add_device(f"{n:032}", end_date=ENDS, email=f"loja{n}@example.com")
    for site in cluster:
        _at(site, 3, 11)
        _run(site)
    _meet(cluster)
    alive = cluster[:2]
    for site in alive:
        _at(site, 3)
        _run(site)
    _meet(alive)
    at_noon = len(mailbox.messages)
    assert at_noon < 12
    for site in alive:
        _at(site, 3, 13)
        _run(site)
        _meet(alive)
    for site in alive:
        _at(site, 3, 14)
        _run(site)
        _meet(alive)
    assert len(mailbox.messages) == 12


def test_a_host_that_is_cut_off_waits_and_then_sends(make_site: MakeSite, mailbox: Mailbox) -> None:
    """Without a peer that answers it sends nothing until the evening, and then rather than none."""
    site = make_site(mailbox.settings | {"fresh_wait": "100ms"}, peer="http://127.0.0.1:1")
    site.add_device(end_date=ENDS, email="loja@example.com")
    _at(site, 3, 17, 59)
    assert _run(site) == 0
    _at(site, 3, 18)
    assert _run(site) == 1


def test_what_a_peer_has_sent_is_asked_for_first(
    make_site: MakeSite, mailbox: Mailbox, serve: Serve
) -> None:
    """A host that has been away learns of the notice from its peer before it sends."""
    there = make_site(mailbox.settings, node="there")
    there.add_device(end_date=ENDS, email="loja@example.com")
    _at(there, 3)
    assert _run(there) == 1
    here = make_site(mailbox.settings, peer=serve(there))
    _at(here, 3, 16)
    assert _run(here) == 0
    assert len(mailbox.messages) == 1


def test_a_server_that_is_down_is_tried_again(site: Site, mailbox: Mailbox) -> None:
    """A refusal for now ends with the claim, and the notice goes out later that day."""
    site.add_device(end_date=ENDS, email="loja@example.com")
    mailbox.is_closed = True
    _at(site, 3)
    assert _run(site) == 0
    mailbox.is_closed = False
    site.clock.now += timedelta(minutes=10)
    assert _run(site) == 0
    site.clock.now += timedelta(minutes=30)
    assert _run(site) == 1


@pytest.mark.parametrize("address", ["refused@example.com", "no address"])
def test_an_address_that_is_refused_for_good_is_not_tried_again(
    site: Site, mailbox: Mailbox, address: str
) -> None:
    """One customer's broken address costs one try and holds up no other."""
    site.add_device("a" * 32, end_date=ENDS, email=address)
    site.add_device("b" * 32, end_date=ENDS, email="loja@example.com")
    _at(site, 3)
    assert _run(site) == 1
    _at(site, 3, 20)
    assert _run(site) == 0
    assert [message["To"] for message in mailbox.messages] == ["loja@example.com"]
    assert site.row("SELECT outcome FROM notices WHERE device_id = ?", "a" * 32) == {
        "outcome": "refused"
    }


def test_copies_of_a_notice_have_one_message_id(cluster: list[Site], mailbox: Mailbox) -> None:
    """Hosts that never met send the same notice under the same id, for mailboxes to see."""
    for site in cluster[:2]:
        site.add_device(end_date=ENDS, email="loja@example.com")
        _at(site, 3)
        assert _run(site) == 1
    assert len({message["Message-ID"] for message in mailbox.messages}) == 1


def test_without_mail_nothing_is_sent(make_site: MakeSite) -> None:
    """A host that cannot send does not take a place in the order."""
    site = make_site()
    site.add_device(end_date=ENDS, email="loja@example.com")
    _at(site, 3)
    assert _run(site) == 0
    assert site.sql("SELECT * FROM mail_hosts") == []
