"""The client's end of the wire: one peer, over HTTP.

The only user of requests. Redirects are never followed (a proxy may turn a POST into a GET), an
answer counts only if it is signed for its request, and nothing is read without a bound. A peer that
refuses connections is down; one whose host answers that it is starting, or that lets us wait, is
asleep and is given time.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import requests
import tenacity
import urllib3
from requests.structures import CaseInsensitiveDict

from syncd import codec, packing, wire
from syncd.bundle import Frame, Header
from syncd.config import Peer
from syncd.errors import (
    BundleError,
    BundleGap,
    PeerAsleep,
    PeerError,
    PeerLacks,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    SignatureError,
)
from syncd.signing import Keyring

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
NUDGE_WITHIN_S = 2
UNREACHABLE_TRIES = 3
TRANSFER_WITHIN_S = 300
"""How long the bytes of one answer may take, after the peer has begun to answer."""
CLOCKS_DIFFER_S = 60
"""From which difference on a refusal mentions the clocks."""
_WAKING = frozenset({429, 502, 503, 504})
_READ_BYTES = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What a peer answered. signed_s: when, by its clock, in seconds since 1970."""

    content: bytes
    signed_s: int


class PeerClient:
    """Talks to one peer. Not to be shared between threads.

    wake_within_s: how long a sleeping peer may take. transfer_within_s: how long the bytes of an
    answer may. sleep: how to wait between tries.
    """

    def __init__(
        self,
        peer: Peer,
        keyring: Keyring,
        *,
        wake_within_s: float,
        transfer_within_s: float = TRANSFER_WITHIN_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.peer = peer
        self._keyring = keyring
        self._wake_within_s = wake_within_s
        self._transfer_within_s = transfer_within_s
        self._sleep = sleep
        self._session = requests.Session()
        # What requests would send besides costs an idle round a tenth of its bytes.
        self._session.headers = CaseInsensitiveDict({"User-Agent": "syncd"})

    def pull(self, request: wire.PullRequest) -> tuple[Header, Frame] | Answer:
        """Ask for the next frame of what this host lacks; a brief answer comes as it is."""
        answer = self._call(wire.PULL, packing.encode(request))
        if request.brief and not answer.content:
            return answer
        return self._frame(answer.content)

    def rows(self, request: wire.RowsRequest) -> tuple[Header, Frame]:
        """Ask for all changes of some rows."""
        return self._frame(self._call(wire.ROWS, packing.encode(request)).content)

    def compare(self, request: wire.CompareRequest) -> wire.CompareAnswer:
        """Ask what tables show."""
        return self._decoded(wire.COMPARE, packing.encode(request), wire.CompareAnswer)

    def push(self, header: Header, frame: Frame) -> wire.PushAnswer:
        """Give the peer a frame; when this returns it is durable there."""
        stream = io.BytesIO()
        codec.write(stream, header, [frame])
        return self._decoded(wire.PUSH, stream.getvalue(), wire.PushAnswer)

    def nudge(self, nudge: wire.Nudge) -> None:
        """Tell the peer that there is news here; try once, and not for long."""
        self._post(wire.NUDGE, packing.encode(nudge), NUDGE_WITHIN_S)

    def status(self, request: wire.StatusRequest) -> wire.StatusAnswer:
        """Ask how far the peer is."""
        return self._decoded(wire.STATUS, packing.encode(request), wire.StatusAnswer)

    def close(self) -> None:
        """Close kept connections."""
        self._session.close()

    def _frame(self, body: bytes) -> tuple[Header, Frame]:
        try:
            reader = codec.Reader(io.BytesIO(body))
            frames = list(reader)
        except BundleError as error:
            raise PeerMisbehaved(f"{self.peer.name} sent no bundle: {error}") from error
        if len(frames) != 1:
            raise PeerMisbehaved(f"{self.peer.name} sent {len(frames)} frames instead of one")
        return reader.header, frames[0]

    def _decoded(self, path: str, body: bytes, kind: type[T]) -> T:
        answer = self._call(path, body)
        try:
            return packing.decode(answer.content, kind)
        except BundleError as error:
            raise PeerMisbehaved(f"{self.peer.name} answered {path} with: {error}") from error

    def _call(self, path: str, body: bytes) -> Answer:
        """POST until there is an answer, as long as waiting may help."""
        tries = _Tries(time.monotonic() + self._wake_within_s)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PeerUnreachable),
            stop=tries.are_over,
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2),
            sleep=self._sleep,
            before_sleep=self._log_retry,
            reraise=True,
        )
        return retrying(lambda: self._post(path, body, tries.seconds_left()))

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.info("%s: %s; trying again", self.peer.name, error)

    def _post(self, path: str, body: bytes, patience_s: float) -> Answer:
        deadline = time.monotonic() + patience_s + self._transfer_within_s
        try:
            with self._session.post(
                self.peer.url + path,
                data=body,
                headers={"Content-Type": wire.MEDIA_TYPE, "Accept-Encoding": "identity"},
                auth=self._sign,
                timeout=(min(CONNECT_TIMEOUT_S, patience_s), patience_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = self._read(response, deadline)
                return self._checked(response, content)
        except requests.Timeout as error:
            raise PeerAsleep(f"{self.peer.name} did not answer in time") from error
        except urllib3.exceptions.DecodeError as error:
            raise PeerMisbehaved(
                f"{self.peer.name} sent an answer that is broken: {error}"
            ) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise PeerAsleep(f"{self.peer.name} stopped in mid-answer") from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            raise PeerUnreachable(f"{self.peer.name} cannot be reached: {_cause(error)}") from error
        except requests.RequestException as error:
            raise PeerMisbehaved(f"{self.peer.name}: {error}") from error

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        assert isinstance(request.body, bytes)
        self._keyring.sign_request(request, request.body)
        return request

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        parts, size = [], 0
        # Read as it comes: waiting for a full buffer would leave no moment to look at the clock.
        while part := response.raw.read1(_READ_BYTES, decode_content=True):
            size += len(part)
            if time.monotonic() > deadline:
                raise PeerMisbehaved(f"{self.peer.name} answers too slowly to be waited for")
            if size > wire.BODY_BYTES_MAX:
                raise PeerMisbehaved(f"{self.peer.name} sent more than {wire.BODY_BYTES_MAX} bytes")
            parts.append(part)
        return b"".join(parts)

    def _checked(self, response: requests.Response, content: bytes) -> Answer:
        status = response.status_code
        if 300 <= status < 400:
            raise PeerMisbehaved(
                f"{self.peer.name} redirects to {response.headers.get('Location')}",
                hint="Write the address it redirects to as the peer's url.",
            )
        if status == 401:
            clocks = _clocks(response.headers.get("Date"), self._keyring.now_s())
            raise PeerRefused(f"{self.peer.name} refused the request{clocks}")
        try:
            signed_s = self._keyring.verify_response(response, content)
        except SignatureError as error:
            raise self._unsigned(status, error) from error
        if status == 200:
            return Answer(content, signed_s)
        raise self._refusal(content)

    def _unsigned(self, status: int, error: SignatureError) -> PeerError:
        # Not from a syncd, then, but from the host in front of it.
        if status in _WAKING:
            return PeerAsleep(f"{self.peer.name} is not up: its host answers {status}")
        if status == 413:
            return PeerRefused(f"{self.peer.name}: the host refuses a body of that size (413)")
        return PeerMisbehaved(
            f"{self.peer.name} answers {status} without a signature that holds: {error}",
            hint="Is the url that of an API with syncd mounted, and are the keys the same?",
        )

    def _refusal(self, content: bytes) -> PeerError:
        try:
            answer = packing.decode(content, wire.ErrorAnswer)
        except BundleError as error:
            return PeerMisbehaved(f"{self.peer.name} sent an unreadable refusal: {error}")
        kind = PeerLacks if answer.code == BundleGap.code else PeerRefused
        return kind(f"{self.peer.name} could not: {answer.message} ({answer.code})")


class _Tries:
    """When to give up: a peer that refuses, after a few tries in a row; a sleeping one, in time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._refused = 0

    def are_over(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, PeerAsleep):
            self._refused = 0
            return time.monotonic() >= self._deadline
        self._refused += 1
        return self._refused >= UNREACHABLE_TRIES

    def seconds_left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())


def _clocks(date: str | None, now_s: float) -> str:
    """Say how far two clocks differ, by an answer's Date; it is not signed, so no more than a hint.

    Where the network took its time the Date is a little old, so small differences are not told.
    """
    try:
        ahead_s = parsedate_to_datetime(date or "").timestamp() - now_s
    except ValueError:
        return ""
    if abs(ahead_s) < CLOCKS_DIFFER_S:
        return ""
    where = "ahead of" if ahead_s > 0 else "behind"
    return f"; its clock seems to be {abs(ahead_s):.0f} s {where} ours"


def _cause(error: BaseException) -> str:
    """Return the innermost reason, which is the one that says something."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or str(error)
