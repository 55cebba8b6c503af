"""What the clients believe: signatures, denials, revocation, and the token they saved."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from clients.conftest import StartHost
from clients.editions import DEVICE, Installed, PythonEdition
from clients.scripted_host import Answer, Query, Script, signed, signed_answer
from clients.signer import Key, Signer, Vendor, b64, part

DAY_S = 86_400
DENIED = Answer.json(403, allow=False, msg="ID não registrado.")
ALLOWED = Answer.json(allow=True, msg="Licença ativa.")
OTHER_NONCE = "another-question-asked-before"


class TestDenials:
    """With a pinned key only a signed denial is one."""

    def test_signed_denial_is_final(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """No other server is asked, and the saved token is worth nothing from then on."""
        first = start_host(signed(vendor.host("a")))
        second = start_host(signed(vendor.host("b")))
        client.configure(first.url, second.url, vendor=vendor).check()
        first.script = signed(vendor.host("a"), allow=False, status="blocked")
        outcome = client.check()
        assert (outcome.allow, outcome.status) == (False, "denied")
        assert outcome.message == "Licença bloqueada."
        assert not second.asked
        first.stop()
        second.stop()
        assert client.check().status == "unavailable"
        assert client.failover[-1][2] == "a última resposta assinada foi negativa"

    def test_stale_denial_does_not_lock_out(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A denial that nobody signed, or that answered another question, means next."""
        old = vendor.host("b")
        replayed = old.token(old.claims(DEVICE, OTHER_NONCE, time.time() - 60, allow=False))
        hosts = [
            start_host(DENIED),
            start_host(signed_answer(replayed, allow=False, status=403)),
            start_host(signed(vendor.host("c"))),
        ]
        client.configure(*(host.url for host in hosts), vendor=vendor)
        assert client.check().status == "online"
        assert [line[2] for line in client.failover] == [
            "negação sem assinatura (ID não registrado.)",
            "token de outra pergunta",
        ]

    def test_unsigned_yes_does_not_count_either(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """Or a stranger, or a host whose key was revoked, would only have to leave it out."""
        stranger = start_host(ALLOWED)
        host = start_host(signed(vendor.host("b"), allow=False))
        assert client.configure(stranger.url, vendor=vendor).check().status == "unavailable"
        client.configure(stranger.url, host.url, vendor=vendor)
        assert client.check().status == "denied"

    def test_saved_token_outweighs_hosts_that_cannot_sign(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A paying customer goes on while the vendor's hosts have lost their keys."""
        host = start_host(signed(vendor.host("a")))
        client.configure(host.url, vendor=vendor).check()
        host.script = DENIED
        assert client.check().status == "offline"

    def test_unsigned_denial_by_all_is_told_as_one(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """Without a saved token the user reads what the servers said, if they agree."""
        wrong = "API key inválida."
        deny = Answer.json(403, allow=False, msg=wrong)
        hosts = [start_host(deny), start_host(Answer(status=503)), start_host(deny)]
        client.configure(*(host.url for host in hosts), vendor=vendor)
        outcome = client.check()
        assert (outcome.allow, outcome.status, outcome.message) == (False, "denied", wrong)
        hosts[2].script = ALLOWED
        assert client.check().status == "unavailable"


Forgery = Callable[[Vendor, Signer, Query], str]


def _claims(signer: Signer, query: Query, **changed: object) -> dict[str, object]:
    return signer.claims(query["id"], query["nonce"], time.time()) | changed


def _other_payload(_: Vendor, signer: Signer, query: Query) -> str:
    header, _payload, signature = signer.token(_claims(signer, query)).split(".")
    return f"{header}.{part(_claims(signer, query, features=['tudo']))}.{signature}"


def _no_signature(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query)).rpartition(".")[0] + "."


def _zeros(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query)).rpartition(".")[0] + "." + b64(bytes(64))


def _der(_: Vendor, signer: Signer, query: Query) -> str:
    text = signer.token(_claims(signer, query)).rpartition(".")[0]
    return f"{text}.{b64(signer.key.der(text))}"


def _no_algorithm(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query), alg="none")


def _secret_algorithm(_: Vendor, signer: Signer, query: Query) -> str:
    header = {"alg": "HS256", "typ": "JWT", "kid": signer.key.kid, "cert": signer.certificate}
    text = f"{part(header)}.{part(_claims(signer, query))}"
    public = signer.key.jwk["x"].encode()
    return f"{text}.{b64(hmac.new(public, text.encode(), hashlib.sha256).digest())}"


def _own_root(_: Vendor, signer: Signer, query: Query) -> str:
    certificate = Vendor().certificate(signer.key, signer.name)
    return signer.token(_claims(signer, query), cert=certificate)


def _no_certificate(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.key.sign({"typ": "JWT"}, _claims(signer, query))


def _signed_by_the_root(vendor: Vendor, signer: Signer, query: Query) -> str:
    header = {"typ": "JWT", "cert": signer.certificate, "kid": signer.key.kid}
    return vendor.root.sign(header, _claims(signer, query))


def _other_key(_: Vendor, signer: Signer, query: Query) -> str:
    return Signer(signer.name, Key(signer.key.kid), signer.certificate).token(
        _claims(signer, query)
    )


def _other_kid(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query), kid="another")


def _other_host(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query, iss="another"))


def _certificate_of_another_type(vendor: Vendor, signer: Signer, query: Query) -> str:
    certificate = vendor.certificate(signer.key, signer.name, typ="JWT")
    return signer.token(_claims(signer, query), cert=certificate)


def _token_of_another_type(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query), typ="host-key")


def _other_device(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query, sub=DEVICE.upper()))


def _other_question(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query, nonce=OTHER_NONCE))


def _contradiction(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query, allow=False))


def _no_issue_time(_: Vendor, signer: Signer, query: Query) -> str:
    return signer.token(_claims(signer, query, iat=None))


def _rubbish(_: Vendor, __: Signer, ___: Query) -> str:
    return "rubbish"


FORGERIES: dict[Forgery, str] = {
    _other_payload: "assinatura inválida",
    _no_signature: "assinatura inválida",
    _zeros: "assinatura inválida",
    _der: "assinatura inválida",
    _no_algorithm: "token de outro tipo",
    _secret_algorithm: "token de outro tipo",
    _own_root: "assinatura inválida",
    _no_certificate: "token ilegível",
    _signed_by_the_root: "assinatura inválida",
    _other_key: "assinatura inválida",
    _other_kid: "a chave do token não é a do certificado",
    _other_host: "o servidor do token não é o do certificado",
    _certificate_of_another_type: "token de outro tipo",
    _token_of_another_type: "token de outro tipo",
    _other_device: "token de outra máquina",
    _other_question: "token de outra pergunta",
    _contradiction: "resposta e token se contradizem",
    _no_issue_time: "token sem iat",
    _rubbish: "token ilegível",
}


def test_forged_tokens_are_no_answers(
    client: Installed, vendor: Vendor, start_host: StartHost
) -> None:
    """Each kind of forgery is recognised, and nothing of it is kept."""

    def script(forge: Forgery, signer: Signer) -> Script:
        return lambda query: signed_answer(forge(vendor, signer, query))

    hosts = [start_host(script(forge, vendor.host("a"))) for forge in FORGERIES]
    client.configure(*(host.url for host in hosts), vendor=vendor)
    assert client.check().status == "unavailable"
    reasons = [line[2] for line in client.failover]
    assert reasons == [*FORGERIES.values(), "nenhum token salvo"]


class TestRevocation:
    """A stolen host's key is worth nothing once a client has heard of it."""

    def test_revoked_key_counts_neither_online_nor_offline(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """The list comes with any answer, is kept, and is never replaced by an older one."""
        stolen, sound = vendor.host("stolen"), vendor.host("sound")
        newer = vendor.revoked(stolen.key.kid, issued=2_000)
        older = vendor.revoked(issued=1_000)
        first = start_host(signed(stolen))
        second = start_host(signed_answer("rubbish", revoked=newer))
        client.configure(first.url, vendor=vendor).check()
        first.script = Answer(status=503)
        client.configure(second.url, first.url, vendor=vendor)
        assert client.check().status == "unavailable"
        assert client.failover[-1][2] == "a chave do servidor foi revogada"
        first.script = signed(stolen, revoked=older)
        third = start_host(signed(sound))
        client.configure(first.url, third.url, vendor=vendor)
        assert client.check().status == "online"
        assert client.failover[-1][2] == "a chave do servidor foi revogada"

    def test_only_the_root_revokes(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A list by anybody else is no list."""
        host = vendor.host("a")
        forged = host.key.sign({"typ": "revoked-keys"}, {"iat": 9_000, "kids": [host.key.kid]})
        mistyped = vendor.root.sign({"typ": "JWT"}, {"iat": 9_000, "kids": [host.key.kid]})
        for lie in (forged, mistyped):
            server = start_host(signed(host, revoked=lie))
            assert client.configure(server.url, vendor=vendor).check().status == "online"


class TestOffline:
    """The saved token, when no server decides."""

    @pytest.fixture
    def cut_off(self, client: Installed, vendor: Vendor, start_host: StartHost) -> Installed:
        """Return a client that was online a moment ago and reaches no server now."""
        host = start_host(signed(vendor.host("a")))
        assert client.configure(host.url, vendor=vendor).check().status == "online"
        host.stop()
        return client

    def test_saved_token_serves_when_all_are_down(self, cut_off: Installed) -> None:
        """The guide's third test."""
        outcome = cut_off.check()
        assert (outcome.allow, outcome.status) == (True, "offline")
        assert outcome.features == ("core", "relatórios")
        ((_, what, issued, until, why),) = cut_off.offline
        assert what == "modo offline ativado"
        assert issued.startswith(f"token emitido em {datetime.now(UTC):%Y-%m-%d}")
        assert until.startswith(f"vale até {datetime.now(UTC) + timedelta(days=7):%Y-%m-%d}")
        assert why.startswith("servidor 1: sem conexão")

    def test_first_start_needs_a_server(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """Without a token there is nothing to go by, and that is no denial."""
        host = start_host(Answer(status=503))
        outcome = client.configure(host.url, vendor=vendor).check()
        assert (outcome.allow, outcome.status) == (False, "unavailable")
        assert outcome.message.startswith("Não foi possível verificar a licença")
        assert client.offline == []

    def test_tampered_token_is_refused(self, cut_off: Installed) -> None:
        """Whoever edits the file loses the offline mode."""
        text = cut_off.state_file.read_text(encoding="utf-8")
        start = text.index(".", text.index("eyJ")) + 20
        flipped = "A" if text[start] != "A" else "B"
        cut_off.state_file.write_text(text[:start] + flipped + text[start + 1 :], encoding="utf-8")
        assert cut_off.check().status == "unavailable"
        assert cut_off.failover[-1][1:] == ["modo offline recusado", "assinatura inválida"]

    def test_token_of_another_pc_is_refused(self, cut_off: Installed) -> None:
        """A copied state file opens nothing."""
        cut_off.configure(*cut_off.setup.servers, vendor=cut_off.setup.vendor, device_id="f" * 32)
        assert cut_off.check().status == "unavailable"
        assert cut_off.failover[-1][2] == "token de outra máquina"

    def test_another_pinned_key_refuses_the_token(self, cut_off: Installed) -> None:
        """The token is the word of this vendor's hosts only."""
        cut_off.configure(*cut_off.setup.servers, vendor=Vendor())
        assert cut_off.check().status == "unavailable"
        assert cut_off.failover[-1][2] == "assinatura inválida"

    @pytest.mark.usefixtures("turns_clocks")
    def test_grace_ends(self, cut_off: Installed) -> None:
        """Seven days after the last answer, and not one more."""
        assert cut_off.check(7 * DAY_S - 60).status == "offline"
        assert cut_off.check(7 * DAY_S + 60).status == "unavailable"
        assert cut_off.failover[-1][2].startswith("o prazo acabou em ")

    @pytest.mark.usefixtures("turns_clocks")
    def test_licence_ends_offline_too(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """The last day counts whole; the day after does not."""
        end = datetime.now(UTC) + timedelta(days=2)
        host = start_host(signed(vendor.host("a"), license_expires_at=f"{end:%Y-%m-%d}"))
        client.configure(host.url, vendor=vendor).check()
        host.stop()
        midnight = datetime(end.year, end.month, end.day, tzinfo=UTC) + timedelta(days=1)
        left_s = int((midnight - datetime.now(UTC)).total_seconds())
        assert client.check(left_s - 60).status == "offline"
        assert client.check(left_s + 60).status == "unavailable"

    @pytest.mark.usefixtures("turns_clocks")
    def test_turned_back_clock_is_refused(self, cut_off: Installed) -> None:
        """Neither before the token nor before any moment the client has seen since."""
        back = "o relógio do computador foi atrasado"
        assert cut_off.check(-DAY_S).status == "unavailable"
        assert cut_off.failover[-1][2] == back
        assert cut_off.check(3 * DAY_S).status == "offline"
        assert cut_off.check(2 * DAY_S).status == "unavailable"
        assert cut_off.failover[-1][2] == back
        assert cut_off.check(3 * DAY_S + 60).status == "offline"

    @pytest.mark.usefixtures("turns_clocks")
    def test_clock_that_was_always_wrong_does_no_harm(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """Many PCs run hours behind; time is counted by the signing host's clock."""
        host = start_host(signed(vendor.host("a")))
        client.configure(host.url, vendor=vendor)
        assert client.check(-3 * 3600).status == "online"
        host.stop()
        assert client.check(-3 * 3600 + 60).status == "offline"
        assert client.check(-3 * 3600 + 7 * DAY_S + 60).status == "unavailable"

    @pytest.mark.usefixtures("turns_clocks")
    def test_signed_answer_ends_a_clock_s_quarrel(
        self, client: Installed, vendor: Vendor, start_host: StartHost
    ) -> None:
        """A clock that once ran ahead locks nobody out for ever."""
        host = start_host(signed(vendor.host("a")))
        client.configure(host.url, vendor=vendor).check()
        host.script = Answer(status=503)
        assert client.check(5 * DAY_S).status == "offline"
        assert client.check().status == "unavailable"
        host.script = signed(vendor.host("a"))
        assert client.check().status == "online"
        host.script = Answer(status=503)
        assert client.check().status == "offline"


@pytest.mark.parametrize("coordinate", ["", "AAAA", "!" * 43], ids=["missing", "short", "signs"])
def test_broken_root_key_is_a_mistake_and_no_licence(
    client: Installed, vendor: Vendor, coordinate: str
) -> None:
    """A half or broken key in the configuration is told at once, not taken for none."""
    client.configure("http://127.0.0.1:1", vendor=None, pinned=(vendor.root.jwk["x"], coordinate))
    expected = ValueError if isinstance(client.edition, PythonEdition) else AssertionError
    with pytest.raises(expected, match="P-256"):
        client.check()
