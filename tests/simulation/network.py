"""The simulated network: the real client's messages, given to the real server's end as bytes.

What stands between `PeerClient` and the endpoint's handlers (signatures, sockets, waiting) has
tests of its own and is left out; everything else of a round is the engine's. Every bundle that was
under way once is kept, so that it can arrive again, late or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.machine import Killed, Machine
from simulation.steps import Fault, Round
from syncd import packing, wire
from syncd.config import Peer
from syncd.errors import PeerUnreachable, SyncError
from syncd.peer import Answer, PeerClient


class Gone(BaseException):
    """The process that was in this round is not there any more."""


class Network:
    """Who can reach whom, and what was ever under way. sides: see `steps.Partition`."""

    def __init__(self) -> None:
        self.sides = 0
        self.mail: list[bytes] = []

    def is_open(self, one: Machine, other: Machine) -> bool:
        """Say whether two machines can reach each other."""
        return (self.sides >> one.number & 1) == (self.sides >> other.number & 1)


class Client(PeerClient):
    """The client of one round, over the simulated network.

    meanwhile: runs some of the plan's next steps. on_death: restarts the server's machine.
    is_excused: whether something has happened for which this round may fail.
    """

    def __init__(
        self,
        network: Network,
        receiver: Machine,
        sender: Machine,
        step: Round,
        *,
        meanwhile: Callable[[int], None],
        on_death: Callable[[Killed], None],
    ) -> None:
        self.peer = Peer(name=sender.node, url=f"http://{sender.node}", push=step.push)
        self.is_excused = not network.is_open(receiver, sender)
        self._network = network
        self._receiver = receiver
        self._process = receiver.process
        self._sender = sender
        self._step = step
        self._meanwhile = meanwhile
        self._on_death = on_death
        self._calls = 0

    def close(self) -> None:
        """Close nothing: no connection is kept."""

    def _call(self, path: str, body: bytes) -> Answer:
        call, self._calls = self._calls, self._calls + 1
        self._travel(2 * call, "request")
        if path == wire.PUSH:
            self._network.mail.append(body)
        answer = self._answer(path, body)
        if path == wire.PULL and answer:
            self._network.mail.append(answer)
        fault = self._travel(2 * call + 1, "answer")
        if fault is not None:
            # What is cut to nothing has no signature that holds, and is no brief answer.
            answer = answer[: max(1, len(answer) * fault.share // 1000)]
        return Answer(answer, self._sender.replica.wall_ms() // 1000)

    def _travel(self, moment: int, message: str) -> Fault | None:
        """Let a message be under way; return the fault if it is to be cut."""
        if moment == self._step.moment and self._step.meanwhile:
            self.is_excused = True
            self._meanwhile(self._step.meanwhile)
            if self._receiver.process is not self._process:
                raise Gone
        fault = self._step.fault
        struck = fault is not None and fault.call == moment // 2
        if not self._network.is_open(self._receiver, self._sender) or (
            fault is not None and struck and fault.kind == message
        ):
            self.is_excused = True
            raise PeerUnreachable(f"{self.peer.name} cannot be reached")
        if fault is not None and struck and fault.kind == "cut" and message == "answer":
            self.is_excused = True
            return fault
        return None

    def _answer(self, path: str, body: bytes) -> bytes:
        server = self._sender.server
        handlers = {
            wire.PULL: server.pull,
            wire.PUSH: server.push,
            wire.STATUS: server.status,
            wire.COMPARE: server.compare,
            wire.ROWS: server.rows,
        }
        try:
            return handlers[path](body)
        except Killed as killed:
            self.is_excused = True
            self._on_death(killed)
            raise PeerUnreachable(f"{self.peer.name} cannot be reached") from None
        except SyncError as error:
            raise self._refusal(packing.encode(wire.ErrorAnswer(error.code, str(error)))) from error
