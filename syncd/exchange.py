"""A round: one exchange with one peer, until nothing is left to exchange.

A round pulls, and pushes too if the peer cannot pull for itself. It moves in frames, each durable
before the next is asked for, so a round that dies half-way goes on where it was. Its outcome is
remembered in the database.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from syncd import signing, wire
from syncd.bundle import Frame, Header, Progress, Snapshot
from syncd.config import Config, Peer
from syncd.errors import BundleGap, ConfigError, PeerLacks, PeerMisbehaved, SyncError
from syncd.merge import Counts
from syncd.peer import TRANSFER_WITHIN_S, Answer, PeerClient
from syncd.replica import Replica
from syncd.vector import Vector

log = logging.getLogger(__name__)


STARTS_MAX = 4
"""How often a pull or a push begins, if its sender or its receiver turns out to be another."""


class Outcome(msgspec.Struct, frozen=True):
    """How a round went. The counts are those of what was pulled; sent counts changes pushed.

    tables: the counts of what was pulled, by table.
    """

    peer: str
    ok: bool
    seconds: float
    applied: int = 0
    overwritten: int = 0
    older: int = 0
    conflicting: int = 0
    held: int = 0
    sent: int = 0
    tables: dict[str, dict[str, int]] = {}
    error: str | None = None
    code: str | None = None
    hint: str | None = None


class Stopped(Exception):
    """The round was asked to stop, and has, between two frames."""


def client_of(
    replica: Replica,
    peer: Peer,
    sleep: Callable[[float], None] = time.sleep,
    within_s: float | None = None,
) -> PeerClient:
    """Return the client for a configured peer.

    sleep: how it waits for a peer to wake up. within_s: how long it may take to answer, and its
    answer to arrive; as configured, if None.
    """
    config = replica.config
    return PeerClient(
        peer,
        signing.keyring_of(config, replica.wall_ms),
        wake_within_s=config.sync.wake_within / 1000 if within_s is None else within_s,
        transfer_within_s=TRANSFER_WITHIN_S if within_s is None else within_s,
        sleep=sleep,
    )


def configured(config: Config, peer: str | None = None) -> list[Peer]:
    """Return the configured peers, or the one named; raise `ConfigError` for another name."""
    peers = [one for one in config.peers if peer in (None, one.name)]
    if peer is not None and not peers:
        names = ", ".join(one.name for one in config.peers) or "none"
        raise ConfigError([f"there is no peer {peer!r}; configured: {names}"])
    return peers


def sync_now(replica: Replica, peer: str | None = None, *, dry: bool = False) -> list[Outcome]:
    """Run a round with every configured peer, or with the one named, and return the outcomes.

    dry: only find out what each would bring, on a copy, and send nothing.
    Raises `ConfigError` for a name that is not configured; a round's own failure is an outcome.
    """
    with _at_work(replica, dry=dry) as this:
        this.news()  # raises if there is nothing to sync yet
    outcomes = []
    for one in configured(replica.config, peer):
        client = client_of(replica, one)
        with contextlib.closing(client), _at_work(replica, dry=dry) as this:
            outcomes.append(run_round(this, client, dry=dry))
    return outcomes


def _at_work(replica: Replica, *, dry: bool) -> AbstractContextManager[Replica]:
    return replica.rehearsal() if dry else contextlib.nullcontext(replica)


def catch_up(replica: Replica, within_s: float) -> bool:
    """Ask all peers for news at once; say whether one has given all that it had, in time.

    Rounds that take longer go on in the background and end at their next frame.
    """
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    deadline = time.monotonic() + within_s
    for peer in replica.config.peers:
        threading.Thread(
            target=lambda peer=peer: answers.put(_hurried_round(replica, peer, deadline)),
            daemon=True,
        ).start()
    for _ in replica.config.peers:
        try:
            if answers.get(timeout=max(0, deadline - time.monotonic())):
                return True
        except queue.Empty:
            break
    return False


def _hurried_round(replica: Replica, peer: Peer, deadline: float) -> bool:
    def is_over() -> bool:
        return time.monotonic() >= deadline

    def sleep(seconds: float) -> None:
        if time.monotonic() + seconds >= deadline:
            raise Stopped
        time.sleep(seconds)

    client = client_of(replica, peer, sleep, within_s=max(0.1, deadline - time.monotonic()))
    try:
        return run_round(replica, client, is_over).ok
    except (Stopped, SyncError) as error:
        log.debug("hurried round with %s: %s", peer.name, error)
        return False
    finally:
        client.close()
        replica.close()  # this thread's connection


def run_round(
    replica: Replica,
    client: PeerClient,
    is_stopping: Callable[[], bool] = lambda: False,
    *,
    wait_ms: int = 0,
    dry: bool = False,
) -> Outcome:
    """Exchange everything with a peer and remember how it went.

    is_stopping: asked between frames; once it says True the round ends with `Stopped`. wait_ms: how
    long the peer may let us wait for news. dry: count
    what would be pushed, and push nothing.
    """
    name = client.peer.name
    attempt_ms, started = replica.wall_ms(), time.monotonic()
    try:
        header, offset_ms, counts = _pull(replica, client, is_stopping, wait_ms)
        sent = _push(replica, client, is_stopping, dry=dry) if client.peer.push else 0
        replica.peers.record_success(name, header, attempt_ms=attempt_ms, offset_ms=offset_ms)
    except SyncError as error:
        is_news = replica.peers.record_failure(
            name, attempt_ms=attempt_ms, error=str(error), code=error.code
        )
        # A peer that stays down is one line in the log, not one a round.
        log.log(
            logging.WARNING if is_news else logging.DEBUG,
            "round with %s failed: %s",
            *(name, error.explained()),
        )
        return Outcome(
            peer=name,
            ok=False,
            seconds=time.monotonic() - started,
            error=str(error),
            code=error.code,
            hint=error.hint,
        )
    if counts != Counts() or sent:
        log.info(
            "round with %s: %d applied, %d older, %d conflicting, %d held, %d sent",
            *(name, counts.applied, counts.older, counts.conflicting, counts.held, sent),
        )
    return Outcome(
        peer=name,
        ok=True,
        seconds=time.monotonic() - started,
        applied=counts.applied,
        overwritten=counts.overwritten,
        older=counts.older,
        conflicting=counts.conflicting,
        held=counts.held,
        sent=sent,
        tables={name: of_table.numbers() for name, of_table in counts.tables.items()},
    )


def _pull(
    replica: Replica, client: PeerClient, is_stopping: Callable[[], bool], wait_ms: int
) -> tuple[Header, int, Counts]:
    counts = Counts()
    server = replica.peers.origin(client.peer.name)
    reached, starts = _start(replica, server), 1
    is_brief = server is not None
    while True:
        asking = replica.origin(), replica.forks()
        request = _request(replica, server, wait_ms, brief=is_brief)
        header, frame, offset_ms = _ask(replica, client, request)
        if is_brief and wire.asks_back(frame):
            is_brief = False
            continue
        # An origin has to be told what was heard of it before what it says is believed.
        is_believed = server == header.origin or not replica.has_heard_of(header.origin)
        more = _merged(replica, header, frame, asking) if is_believed else None
        if more is None:
            if starts == STARTS_MAX:
                raise PeerMisbehaved(
                    f"{client.peer.name} is another host with every answer",
                    hint="Is there one host behind the url, and no more?",
                )
            server = server if is_believed else header.origin
            reached, starts = _start(replica, server), starts + 1
            _check_stop(is_stopping)
            continue
        counts += more
        replica.marks.hear(header.origin, header.mark, request.rumours)
        if frame.claim is not None:
            if header.origin == replica.origin():
                # Nobody else has said anything: it must not count as having been in step.
                raise PeerMisbehaved(
                    f"{client.peer.name} is this host itself, or another that runs a copy of it",
                    hint="Give every host its own list of peers, without its own url.",
                )
            return header, offset_ms, counts
        before, reached = reached, (header.origin, frame.snapshot, frame.position)
        is_same_road = reached[:2] == before[:2]
        if frame.position <= frame.after or (is_same_road and reached[2] <= before[2]):
            raise PeerMisbehaved(f"{client.peer.name} sends frames that lead nowhere")
        if server != header.origin:
            server = header.origin
            replica.peers.recognise(client.peer.name, server)
        _check_stop(is_stopping)


def _merged(
    replica: Replica, header: Header, frame: Frame, asking: tuple[bytes, dict[bytes, int]]
) -> Counts | None:
    """Merge a frame; None if it shows that a file was set back, and there is less than was said.

    asking: the origin that has asked, and the forks that it knew of.
    """
    try:
        return replica.merge(header, frame)
    except BundleGap:
        if (replica.origin(), replica.forks()) == asking:
            raise
        return None


def _start(replica: Replica, server: bytes | None) -> tuple[bytes | None, Snapshot | None, int]:
    """Return where a pull goes on: whose changelog, which snapshot of it, and its position."""
    return server, None, replica.peers.cursor(server) if server else 0


def _request(
    replica: Replica, server: bytes | None, wait_ms: int, *, brief: bool
) -> wire.PullRequest:
    """Return what is to be asked of a peer. server: its origin, as far as it is known."""
    mark = replica.marks.last_of(server) if server else None
    rumours = replica.marks.rumours_of(server) if server else []
    return wire.PullRequest(
        replica.config.node,
        dict(replica.vector()),
        server or b"",
        replica.peers.cursor(server) if server else 0,
        replica.origin(),
        replica.peers.progress(server) if server else None,
        wait_ms,
        wire.briefly(mark) if mark and brief else mark,
        brief=brief,
        rumours=[wire.briefly(rumour) for rumour in rumours] if brief else rumours,
        forks=replica.forks(),
    )


def _ask(
    replica: Replica, client: PeerClient, request: wire.PullRequest
) -> tuple[Header, Frame, int]:
    """Pull one frame; return it, and the least by which the peer's clock must be ahead of ours."""
    asked_ms = replica.wall_ms()
    answer, unsure_ms = client.pull(request), 0
    if isinstance(answer, Answer):
        unsure_ms = 999  # it tells whole seconds
        answer = wire.repeated(
            request, replica.peers.node_of(request.server), answer.signed_s * 1000
        )
    header, frame = answer
    # It was made at some time since we asked, maybe after a wait.
    least_ms = header.created_ms - replica.wall_ms()
    most_ms = header.created_ms + unsure_ms - asked_ms
    return header, frame, min(max(0, least_ms), most_ms)


def _push(
    replica: Replica,
    client: PeerClient,
    is_stopping: Callable[[], bool],
    *,
    dry: bool,
    starts: int = 1,
) -> int:
    name = client.peer.name
    asking = replica.origin(), replica.forks()
    there = client.status(wire.StatusRequest(replica.config.node, *asking))
    since, after, progress = Vector(there.vector), there.cursor, there.snapshot
    replica.peers.hear(there.origin, there.node, since)
    sent = 0
    while True:
        header, frame = replica.changes_since(since, after, progress, wire.told(there))
        if (replica.origin(), replica.forks()) != asking:
            # What the peer has told shows that this file was set back: it was of another origin.
            return sent + _push(replica, client, is_stopping, dry=dry, starts=starts)
        if frame.snapshot is not None and frame.after == 0:
            log.warning("%s lacks deletions that are forgotten here: it is sent a snapshot", name)
        if frame.sections or not since.covers(frame.claim or {}):
            try:
                if not dry:
                    client.push(header, frame)
            except PeerLacks:
                # It has learned of a fork since it said what it has.
                if starts == STARTS_MAX:
                    raise
                return sent + _push(replica, client, is_stopping, dry=dry, starts=starts + 1)
            sent += sum(len(section) for section in frame.sections)
        if frame.claim is not None:
            return sent
        after = frame.position
        if frame.snapshot is not None:
            progress = Progress(frame.snapshot.horizon, after)
        _check_stop(is_stopping)


def _check_stop(is_stopping: Callable[[], bool]) -> None:
    if is_stopping():
        raise Stopped
