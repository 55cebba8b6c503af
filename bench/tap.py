"""A tap on the wire: forwards the connections of one port to another and counts their bytes.

What it counts is what HTTP costs, headers included; it stands between two hosts of this machine.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_BYTES = 1 << 16


class Tap:
    """Counts bytes both ways. port: where it listens. asked: requests, by their first line."""

    def __init__(self, to_port: int) -> None:
        self.count = self.asked = 0
        self._to_port = to_port
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[Tap]:
        """Forward for as long as the `with` takes."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return  # it is closed
            far = socket.create_connection(("127.0.0.1", self._to_port))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BYTES):
                with self._lock:
                    self.count += len(data)
                    self.asked += data.startswith(b"POST ")
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
