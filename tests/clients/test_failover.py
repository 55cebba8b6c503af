"""Which server is asked, what counts as an answer, and what the log files say of it."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

import pytest

from clients.conftest import StartHost
from clients.editions import API_KEY, DEVICE, SHARED_SECRET, Installed
from clients.scripted_host import Answer, signed
from clients.signer import Vendor

HOUR_S = 3600
NOBODY = "http://127.0.0.1:1"
ALLOWED: dict[str, Any] = {"allow": True, "msg": "Licença ativa.", "config": {"features": ["core"]}}
DENIED: dict[str, Any] = {"allow": False, "msg": "Licença bloqueada."}


class TestOrder:
    """By priority, and a backup that answered lately first."""

    def test_first_server_up_is_the_only_one_asked(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """The guide's first test."""
        first = start_host(signed(vendor.host("a")))
        second = start_host(signed(vendor.host("b")))
        outcome = client.configure(first.url, second.url, vendor=vendor).check()
        assert (outcome.allow, outcome.status) == (True, "online")
        assert outcome.features == ("core", "relatórios")
        assert not second.asked
        ((_, server, *_),) = client.used
        assert server == f"servidor 1 ({first.url})"
        assert (client.failover, client.offline) == ([], [])

    def test_answer_that_is_there_before_the_wait_is_seen(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A busy PC may come to wait late, and took the server for one that hangs."""
        host = start_host(signed(vendor.host("a")))
        busy = client.configure(host.url, vendor=vendor, busy_ms=500)
        assert busy.check().status == "online"
        assert client.failover == []

    def test_backup_answers_when_the_first_is_down(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """The guide's second test."""
        second = start_host(signed(vendor.host("b")))
        assert client.configure(NOBODY, second.url, vendor=vendor).check().status == "online"
        ((time, server, reason, coming),) = client.failover
        assert abs((datetime.now() - datetime.fromisoformat(time)).total_seconds()) < 60
        assert server == f"servidor 1 ({NOBODY})"
        assert reason.startswith("sem conexão (")
        assert coming == f"próximo: servidor 2 ({second.url})"
        assert [line[1:3] for line in client.used] == [[f"servidor 2 ({second.url})", "permitido"]]

    @pytest.mark.usefixtures("turns_clocks")
    def test_backup_that_answered_goes_first_for_an_hour(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """Not every start waits for a dead server, and the first gets its turn again."""
        first = start_host(Answer(status=503))
        second = start_host(signed(vendor.host("b")))
        client.configure(first.url, second.url, vendor=vendor)
        client.check()
        client.check()
        assert (len(first.asked), len(second.asked)) == (1, 2)
        client.check(clock_shift_s=HOUR_S + 60)
        assert (len(first.asked), len(second.asked)) == (2, 3)

    def test_first_server_that_is_back_is_preferred_to_nothing(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A backup that was remembered and is down costs one failover, no more."""
        first = start_host(Answer(status=503))
        second = start_host(signed(vendor.host("b")))
        client.configure(first.url, second.url, vendor=vendor)
        client.check()
        first.script = signed(vendor.host("a"))
        second.stop()
        assert client.check().status == "online"
        assert client.used[-1][1] == f"servidor 1 ({first.url})"


class TestQuestion:
    """What the client sends."""

    def test_question_is_signed_and_fresh(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """The signature is that of the protocol over the decoded values; each nonce is new."""
        device = "máquina & nº 0001 100%+"
        host = start_host(signed(vendor.host("a")))
        client.configure(host.url, vendor=vendor, device_id=device)
        assert client.check().allow
        assert client.check().allow
        for query in host.asked:
            signed_text = f"{device}|1.0.0|{query['ts']}|{SHARED_SECRET}"
            assert query["id"] == device
            assert query["sig"] == hashlib.sha256(signed_text.encode()).hexdigest()
            assert re.fullmatch("[A-Za-z0-9_-]{16,64}", query["nonce"])
        assert len({query["nonce"] for query in host.asked}) == 2
        assert set(host.api_keys) == {API_KEY}

    def test_no_secret_is_written(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """Neither logs nor state hold a key, a secret or a signature, though a server says one."""
        gossip = start_host(Answer.json(503, error=SHARED_SECRET))
        down = start_host(Answer(f"<html>{API_KEY}</html>"))
        host = start_host(signed(vendor.host("a")))
        client.configure(gossip.url, down.url, NOBODY, host.url, vendor=vendor).check()
        host.stop()
        client.check()
        written = "".join(
            file.read_text(encoding="utf-8-sig")
            for file in [client.state_file, *client.setup.folder.glob("license_*.txt")]
        )
        assert client.offline
        for secret in (API_KEY, SHARED_SECRET, host.asked[0]["sig"]):
            assert secret not in written


class TestWhatIsNoAnswer:
    """A server that does not answer the question is passed over, whatever it says instead."""

    def test_anything_but_an_answer_means_next(
        self, client: Installed, start_host: StartHost
    ) -> None:
        """A host that is down in any way never decides, not even without a pinned key."""
        answers = [
            Answer('<!DOCTYPE html><html>Cloudflare {"allow":false}</html>'),
            Answer(json.dumps(DENIED), status=500),
            Answer(json.dumps(DENIED), status=503),
            Answer.json(503, error="sem certeza"),
            Answer.json(429, error="devagar"),
            Answer(""),
            Answer("{}"),
            Answer("null"),
            Answer("[" * 5000),
            Answer(json.dumps(DENIED)[:-1]),
            Answer(json.dumps(DENIED) + "}"),
            Answer.json(allow="false"),
            Answer.json(allow=0),
            Answer.json(said=DENIED),
            Answer.json(msg='"allow":false'),
            Answer('{"allow":False}'),
            Answer('{"allow":false,"x":' + "9" * 300_000 + "}"),
            Answer("ERROR: allow", status=404),
            Answer(status=302, headers={"Location": NOBODY}),
        ]
        hosts = [start_host(answer) for answer in answers]
        good = start_host(Answer.json(**ALLOWED))
        client.configure(*(host.url for host in hosts), good.url, vendor=None)
        outcome = client.check()
        assert (outcome.allow, outcome.message) == (True, "Licença ativa.")
        assert [len(host.asked) for host in hosts] == [1] * len(hosts)
        reasons = [line[2] for line in client.failover]
        assert len(reasons) == len(hosts)
        assert reasons[1:4] == ["erro HTTP 500", "erro HTTP 503", "erro HTTP 503"]
        assert reasons[0] == "a resposta não é da API de licenças (HTTP 200)"

    def test_server_that_hangs_or_drips_is_left_in_time(
        self, client: Installed, start_host: StartHost
    ) -> None:
        """The whole exchange is bounded, not only its steps."""
        hanging = start_host(Answer(hang=True))
        dripping = start_host(Answer(json.dumps(ALLOWED), drip=True))
        good = start_host(Answer.json(**ALLOWED))
        # The good one more than once: on a busy machine it may take its second too.
        servers = (hanging.url, dripping.url, good.url, good.url, good.url)
        assert client.configure(*servers, vendor=None, timeout_s=1).check().allow
        # On a busy machine the dripping one may time out in a step before it does as a whole.
        assert client.failover[0][2] == "sem resposta em 1 s"
        assert client.failover[1][2].startswith(("sem resposta em 1 s", "sem conexão ("))

    def test_message_arrives_as_the_server_wrote_it(
        self, client: Installed, start_host: StartHost
    ) -> None:
        """Escapes of JSON are undone; a line of a log stays a line."""
        text = 'Licença "ativa" \\ 😀\tpara | sempre'
        host = start_host(Answer.json(allow=True, msg=text + "\n"))
        assert client.configure(host.url, vendor=None).check().message.strip() == text
        assert [line[3].strip() for line in client.used] == [re.sub(r"[\t|]", " ", text)]


class TestWithoutAPinnedKey:
    """The rule of the deployed clients, for a vendor who has not made keys."""

    def test_first_denial_is_final(self, client: Installed, start_host: StartHost) -> None:
        """No other server is asked."""
        first, second = start_host(Answer.json(**DENIED)), start_host(Answer.json(**ALLOWED))
        outcome = client.configure(first.url, second.url, vendor=None).check()
        assert (outcome.allow, outcome.status) == (False, "denied")
        assert outcome.message == "Licença bloqueada."
        assert not second.asked
        assert [line[2] for line in client.used] == ["negado"]

    def test_there_is_no_offline_mode(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A token that cannot be checked is not kept."""
        host = start_host(signed(vendor.host("a")))
        assert client.configure(host.url, vendor=None).check().allow
        host.stop()
        outcome = client.check()
        assert (outcome.allow, outcome.status) == (False, "unavailable")
        assert client.offline == []


def test_logs_are_bounded(client: Installed, start_host: StartHost) -> None:
    """A file that has grown too large starts anew."""
    file = client.setup.folder / "license_server_used.txt"
    file.write_text("x" * 300_000 + "\n", encoding="utf-8")
    host = start_host(Answer.json(**ALLOWED))
    client.configure(host.url, vendor=None).check()
    assert len(client.used) == 1
    assert DEVICE not in file.read_text(encoding="utf-8-sig")


def test_broken_memory_is_an_empty_one(
    client: Installed, vendor: Vendor, start_host: StartHost
) -> None:
    """Whatever stands in the state file, the client works and writes it anew."""
    client.state_file.write_bytes(b'\xff{"token": 5, token=\nnewest_seen=zz\n' + b"=" * 5000)
    host = start_host(signed(vendor.host("a")))
    assert client.configure(host.url, vendor=vendor).check().allow
    host.stop()
    assert client.check().status == "offline"
