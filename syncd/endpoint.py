"""The server's end of the wire: a Flask blueprint with pull, push, status and nudge.

Every request is checked before its body means anything: size, signature, nonce. Whatever fails
there gets the same 401 (or 413 for size) and the exact reason goes to the log only. Everything
after that is answered signed, errors included, so that a peer can believe it.
"""

from __future__ import annotations

import functools
import io
import logging
import threading
from collections.abc import Callable
from urllib.parse import quote

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from syncd import codec, comparison, packing, signing, wire
from syncd.bundle import Frame, Header
from syncd.errors import (
    BundleError,
    BundleGap,
    BundleTooLarge,
    DatabaseBusy,
    SchemaError,
    SignatureError,
    SyncError,
)
from syncd.nonces import Nonces
from syncd.nudges import Nudges
from syncd.replica import Replica
from syncd.vector import ORIGIN_BYTES, Vector

log = logging.getLogger(__name__)

_PATH_SAFE = "/!$&'()*+,;=:@~"
"""What stands in a path as it is (RFC 3986, section 3.3), so that we sign what the client
signed."""

_STATUS_OF: tuple[tuple[type[SyncError], int], ...] = (
    (BundleTooLarge, 413),
    (BundleGap, 409),
    (BundleError, 400),
    (SchemaError, 409),
    (DatabaseBusy, 503),
)


def blueprint(replica: Replica) -> flask.Blueprint:
    """Return the blueprint that serves a replica to its peers, under /sync/v1/."""
    server = _Server(replica)
    routes = flask.Blueprint("syncd", __name__)
    for path, answer in (
        (wire.PULL, server.pull),
        (wire.PUSH, server.push),
        (wire.STATUS, server.status),
        (wire.NUDGE, server.nudge),
        (wire.COMPARE, server.compare),
        (wire.ROWS, server.rows),
    ):
        view = functools.partial(server.answer, answer)
        routes.add_url_rule(path, path.rpartition("/")[2], view, methods=["POST"])
    return routes


class _Server:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._keyring = signing.keyring_of(replica.config, replica.wall_ms)
        self._nonces = Nonces(replica.config.database)
        self._nudges = Nudges(replica.config.database)
        # A request that waits keeps a thread from clients.
        self._waiting = threading.BoundedSemaphore(max(1, replica.config.serve.threads // 4))

    def answer(self, respond: Callable[[bytes], bytes]) -> flask.Response:
        """Check the current request, let `respond` turn its body into an answer, and sign that."""
        request = flask.request
        # What follows a `#` belongs to the query here, not to a fragment that nobody signs.
        query = request.query_string.decode("latin-1").replace("#", "%23")
        signed = signing.Request(
            request.method,
            f"http://host{quote(request.root_path + request.path, safe=_PATH_SAFE)}"
            + (f"?{query}" if query else ""),
            dict(request.headers.items()),
        )
        try:
            body = self._body()
            self._authenticate(signed, body)
        except (SignatureError, BundleTooLarge) as error:
            log.warning("refused %s from %s: %s", request.path, request.remote_addr, error)
            if isinstance(error, BundleTooLarge):
                return flask.Response(status=413)
            return flask.Response(status=401)
        status, content = self._respond(respond, body)
        response = flask.Response(content, status, mimetype=wire.MEDIA_TYPE)
        if not content:
            del response.headers["Content-Type"]
        headers: dict[str, str] = {}
        self._keyring.sign_response(signing.Response(status, headers, signed), content)
        response.headers.extend(headers)
        return response

    def pull(self, body: bytes) -> bytes:
        """Answer with a bundle of one frame, or briefly that there is nothing to say."""
        asked = packing.decode(body, wire.PullRequest)
        vector = Vector(asked.vector)
        if len(asked.origin) == ORIGIN_BYTES:
            self._replica.peers.hear(asked.origin, asked.node, vector)
        if asked.server == self._replica.origin():
            told = wire.told(asked)
            if asked.brief and not all(map(self._replica.marks.has_said, told)):
                now_ms = self._replica.wall_ms()
                return _bundled(*wire.asked_back(asked, self._replica.config.node, now_ms))
            # Who does not know whom it asks has not told what it has heard of this host.
            self._replica.guard.learn(asked.forks, told)
        news = self._replica.news()
        header, frame = self._answer_of(asked)
        is_empty = not frame.sections and frame.claim is not None and frame.snapshot is None
        if is_empty and self._wait(asked, news):
            header, frame = self._answer_of(asked)
        if asked.brief and wire.only_repeats(asked, header, frame):
            return b""
        if frame.snapshot is not None and frame.after == 0:
            log.log(
                logging.WARNING if vector else logging.INFO,
                "%s lacks deletions that are forgotten here: it is sent a snapshot",
                asked.node,
            )
        return _bundled(header, frame)

    def _answer_of(self, asked: wire.PullRequest) -> tuple[Header, Frame]:
        is_ours = asked.server == self._replica.origin()
        return self._replica.changes_since(
            Vector(asked.vector),
            asked.after if is_ours else 0,
            asked.snapshot if is_ours else None,
            wire.told(asked) if is_ours else None,
        )

    def push(self, body: bytes) -> bytes:
        """Merge a bundle; the answer says that it is durable."""
        reader = codec.Reader(io.BytesIO(body))
        applied = older = conflicting = held = 0
        for packed in reader.packed_frames():
            counts = self._replica.merge_packed(reader.header, packed)
            applied += counts.applied
            older += counts.older
            conflicting += counts.conflicting
            held += counts.held
        self._replica.marks.hear(reader.header.origin, reader.header.mark)
        return packing.encode(wire.PushAnswer(applied, older, conflicting, held))

    def nudge(self, body: bytes) -> bytes:
        """Tell the daemon that a peer has news, if it is news here."""
        nudge = packing.decode(body, wire.Nudge)
        if not self._replica.claim().covers(nudge.vector):
            self._nudges.leave(nudge.origin)
        return b""

    def _wait(self, asked: wire.PullRequest, news: tuple[int, int]) -> bool:
        """Keep a host that nobody here nudges waiting for news; say whether there is some."""
        patience_ms = min(asked.wait_ms, wire.WAIT_MS_MAX)
        if patience_ms <= 0 or not flask.request.environ.get("wsgi.multithread"):
            return False
        if asked.node in self._replica.peers.nodes() or not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._replica.await_news(news, patience_ms)
        finally:
            self._waiting.release()

    def status(self, body: bytes) -> bytes:
        """Answer how far this replica is."""
        asked = packing.decode(body, wire.StatusRequest)
        self._replica.guard.learn(asked.forks)
        return packing.encode(
            wire.StatusAnswer(
                node=self._replica.config.node,
                origin=self._replica.origin(),
                vector=dict(self._replica.vector()),
                cursor=self._replica.peers.cursor(asked.origin),
                now_ms=self._replica.wall_ms(),
                snapshot=self._replica.peers.progress(asked.origin),
                mark=self._replica.marks.last_of(asked.origin),
                rumours=self._replica.marks.tell(asked.origin),
            )
        )

    def compare(self, body: bytes) -> bytes:
        """Answer what tables show."""
        asked = packing.decode(body, wire.CompareRequest)
        return packing.encode(comparison.answer(self._replica, asked.questions))

    def rows(self, body: bytes) -> bytes:
        """Answer with a bundle of all changes of some rows."""
        return _bundled(*comparison.rows(self._replica, packing.decode(body, wire.RowsRequest)))

    def _body(self) -> bytes:
        request = flask.request
        request.max_content_length = wire.BODY_BYTES_MAX
        try:
            body = request.get_data(cache=False)
        except RequestEntityTooLarge as error:
            raise BundleTooLarge(f"a body over {wire.BODY_BYTES_MAX} bytes") from error
        # A body without a length is cut at the bound rather than refused.
        if len(body) >= wire.BODY_BYTES_MAX:
            raise BundleTooLarge(f"a body of at least {wire.BODY_BYTES_MAX} bytes")
        return body

    def _authenticate(self, signed: signing.Request, body: bytes) -> None:
        credentials = self._keyring.verify_request(signed, body)
        fresh = self._nonces.use(
            credentials.key_id,
            credentials.nonce,
            now_s=self._replica.wall_ms() // 1000,
            expires_s=credentials.expires_s + round(self._keyring.skew_s),
        )
        if not fresh:
            raise SignatureError(f"replayed: its nonce {credentials.nonce} was used before")

    def _respond(self, respond: Callable[[bytes], bytes], body: bytes) -> tuple[int, bytes]:
        try:
            return 200, respond(body)
        except SyncError as error:
            status = next((s for kind, s in _STATUS_OF if isinstance(error, kind)), 500)
            log.warning("answered %s with %d: %s", flask.request.path, status, error)
            return status, packing.encode(wire.ErrorAnswer(error.code, str(error)))


def _bundled(header: Header, frame: Frame) -> bytes:
    stream = io.BytesIO()
    codec.write(stream, header, [frame])
    return stream.getvalue()
