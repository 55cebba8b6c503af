"""Decides whether this program may run: servers in turn, then what the last one signed.

With a pinned root key only what a certified host signed counts, be it yes or no; an answer that is
not signed, by a host that has lost its key or by a stranger, is no answer. Without a root key the
first answer is final, and there is no offline mode.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import requests

from licence_client.logs import FAILOVER, OFFLINE, USED, Logs
from licence_client.state import State, load, save
from licence_client.tokens import BadTokenError, Revocations, RootKey, Token, open_token

REMEMBER_S = 3600
"""How long a backup that answered is asked first."""
CLOCK_SLACK_S = 300
"""Clocks are corrected by a little all the time; further back is turned back."""
ANSWER_BYTES_MAX = 262_144
SERVER_ERRORS = 500
UNAVAILABLE = (
    "Não foi possível verificar a licença: nenhum servidor pôde decidir. "
    "Verifique a conexão com a internet e tente de novo."
)


@dataclass(frozen=True)
class Settings:
    """Hold what a vendor sets. servers: base URLs by priority; timeout_s: for each of them."""

    servers: Sequence[str]
    api_key: str = field(repr=False)
    shared_secret: str = field(repr=False)
    device_id: str
    version: str
    state_file: Path
    root: RootKey | None = None
    timeout_s: float = 10
    log_folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))


@dataclass(frozen=True)
class Verdict:
    """Hold the outcome. config: the answer's own, empty when offline."""

    allow: bool
    status: Literal["online", "offline", "denied", "unavailable"]
    message: str
    features: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


class NoAnswerError(Exception):
    """Why a server's answer does not count."""


@dataclass
class Heard:
    """Hold what was heard from servers that did not decide."""

    answers: int = 0
    denials: int = 0
    message: str = ""
    reasons: list[str] = field(default_factory=list)

    def note(self, allow: bool, message: str) -> None:
        """Note an answer that is not signed, or not well."""
        self.answers += 1
        self.denials += not allow
        self.message = message


class Client:
    """Check a licence; `now` tells the seconds since 1970 and is given in tests."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._logs = Logs(settings.log_folder)

    def check(self) -> Verdict:
        """Ask the servers in turn, else the saved token; raises nothing for what they answer."""
        state = load(self._settings.state_file)
        heard = Heard()
        verdict = self._ask_servers(state, heard) or self._go_offline(state, heard)
        if not save(self._settings.state_file, state):
            self._log(FAILOVER, f"estado não gravado em {self._settings.state_file}")
        return verdict

    def _ask_servers(self, state: State, heard: Heard) -> Verdict | None:
        nonce = secrets.token_urlsafe(24)
        query = self._query(nonce)
        order = self._order(state)
        for position, number in enumerate(order):
            try:
                answer = self._ask(self._settings.servers[number], query)
                verdict = self._believe(answer, nonce, state, heard)
            except (NoAnswerError, BadTokenError) as error:
                later = order[position + 1 :]
                coming = self._name(later[0]) if later else "modo offline"
                heard.reasons.append(f"servidor {number + 1}: {error}")
                self._log(FAILOVER, self._name(number), str(error), f"próximo: {coming}")
                continue
            self._remember(state, number)
            outcome = "permitido" if verdict.allow else "negado"
            why = _why_this_server(position, number)
            self._log(USED, self._name(number), outcome, verdict.message, why)
            return verdict
        return None

    def _query(self, nonce: str) -> dict[str, str]:
        own = self._settings
        local = datetime.fromtimestamp(self._now())  # the protocol wants local time
        ts = f"{local:%Y%m%d%H%M%S}"
        signed = "|".join((own.device_id, own.version, ts, own.shared_secret))
        return {
            "id": own.device_id,
            "version": own.version,
            "ts": ts,
            "sig": hashlib.sha256(signed.encode()).hexdigest(),
            "nonce": nonce,
            "hostname": platform.node(),
            "username": _username(),
            "osbuild": platform.version(),
        }

    def _ask(self, server: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        """Return a server's answer; raise NoAnswerError where it gives none."""
        try:
            status, body = self._fetch(server, query)
        except requests.Timeout:
            raise NoAnswerError(f"sem resposta em {self._settings.timeout_s:g} s") from None
        except (requests.RequestException, OSError) as error:
            raise NoAnswerError(f"sem conexão ({type(error).__name__})") from None
        if status >= SERVER_ERRORS:
            raise NoAnswerError(f"erro HTTP {status}")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("allow"), bool):
            raise NoAnswerError(f"a resposta não é da API de licenças (HTTP {status})")
        return answer

    def _fetch(self, server: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        # The library's timeout bounds each step; a server that drips has to be stopped by us.
        deadline = time.monotonic() + self._settings.timeout_s
        with requests.get(
            f"{server}/verify",
            params=query,
            headers={"X-API-Key": self._settings.api_key},
            timeout=self._settings.timeout_s,
            stream=True,
        ) as response:
            body = b""
            while chunk := response.raw.read1(65_536, decode_content=True):
                body += chunk
                if time.monotonic() > deadline:
                    raise requests.Timeout
                if len(body) > ANSWER_BYTES_MAX:
                    break
            return response.status_code, body

    def _believe(
        self, answer: Mapping[str, Any], nonce: str, state: State, heard: Heard
    ) -> Verdict:
        """Return an answer's verdict; raise NoAnswerError or BadTokenError if it has none."""
        allow: bool = answer["allow"]
        message = str(answer.get("msg", ""))
        config = answer.get("config")
        config = config if isinstance(config, dict) else {}
        status: Literal["online", "denied"] = "online" if allow else "denied"
        if self._settings.root is None:
            features = config.get("features")
            listed = tuple(map(str, features)) if isinstance(features, list) else ()
            return Verdict(allow, status, message, listed, config)
        heard.note(allow, message)
        token = self._signed(answer, nonce, state, self._settings.root)
        # From here on this PC's clock is read as the signing host's, however wrong it is set.
        state.clock_offset = token.issued - int(self._now())
        state.newest_seen = token.issued
        state.token = answer["offline_token"]
        return Verdict(allow, status, message, token.features, config)

    def _signed(self, answer: Mapping[str, Any], nonce: str, state: State, root: RootKey) -> Token:
        revoked = _newer(state, str(answer.get("offline_revoked", "")), root)
        text = answer.get("offline_token")
        if not isinstance(text, str) or not text:
            said = "permissão" if answer["allow"] else "negação"
            raise NoAnswerError(f"{said} sem assinatura ({answer.get('msg', '')})")
        token = open_token(text, root, self._settings.device_id, revoked.kids)
        if token.nonce != nonce:
            raise BadTokenError("token de outra pergunta")
        if token.allow != answer["allow"]:
            raise BadTokenError("resposta e token se contradizem")
        return token

    def _go_offline(self, state: State, heard: Heard) -> Verdict:
        """No server decided: the saved token does, or nobody."""
        if self._settings.root is None:
            return Verdict(False, "unavailable", UNAVAILABLE)
        try:
            token = self._saved(state, self._settings.root)
        except BadTokenError as error:
            self._log(FAILOVER, "modo offline recusado", str(error))
        else:
            issued, last = _moment(token.issued), _moment(token.last_moment)
            dates = (f"token emitido em {issued}", f"vale até {last}")
            self._log(OFFLINE, "modo offline ativado", *dates, "; ".join(heard.reasons))
            return Verdict(True, "offline", "Licença ativa (modo offline).", token.features)
        if heard.answers and heard.denials == heard.answers:
            return Verdict(False, "denied", heard.message)
        return Verdict(False, "unavailable", UNAVAILABLE)

    def _saved(self, state: State, root: RootKey) -> Token:
        """Return the saved token if it allows this device now; raise BadTokenError if not."""
        if not state.token:
            raise BadTokenError("nenhum token salvo")
        now = int(self._now()) + state.clock_offset
        newest = state.newest_seen
        state.newest_seen = max(now, newest)
        revoked = Revocations.of(state.revoked, root)
        token = open_token(state.token, root, self._settings.device_id, revoked.kids)
        if not token.allow:
            raise BadTokenError("a última resposta assinada foi negativa")
        if now + CLOCK_SLACK_S < max(newest, token.issued):
            raise BadTokenError("o relógio do computador foi atrasado")
        if now > token.last_moment:
            raise BadTokenError(f"o prazo acabou em {_moment(token.last_moment)}")
        return token

    def _order(self, state: State) -> list[int]:
        """By priority; a backup that answered lately goes first.

        So not every start waits for a server that is down.
        """
        servers = self._settings.servers
        order = list(range(len(servers)))
        if state.server in servers and 0 <= self._now() - state.server_since < REMEMBER_S:
            remembered = servers.index(state.server)
            order.remove(remembered)
            order.insert(0, remembered)
        return order

    def _remember(self, state: State, number: int) -> None:
        """The time is that of the failover, so that the first server gets its turn again."""
        server = self._settings.servers[number]
        if number == 0:
            state.server = ""
        elif state.server != server or self._now() - state.server_since >= REMEMBER_S:
            state.server, state.server_since = server, int(self._now())

    def _name(self, number: int) -> str:
        return f"servidor {number + 1} ({self._settings.servers[number]})"

    def _log(self, name: str, *parts: str) -> None:
        self._logs.write(name, self._now(), *parts)


def _newer(state: State, offered: str, root: RootKey) -> Revocations:
    """Keep the newer of two lists of revoked keys, and return it."""
    known, found = Revocations.of(state.revoked, root), Revocations.of(offered, root)
    if found.issued <= known.issued:
        return known
    state.revoked = offered
    return found


def _why_this_server(position: int, number: int) -> str:
    if position:
        return "os anteriores falharam"
    return "foi o último que respondeu" if number else "é o principal"


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _username() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
