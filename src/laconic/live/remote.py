"""A viewer's connection to a program that another Laconic runs: `laconic live --connect`."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from typing import Any

from laconic.analysis.live import LiveModel
from laconic.errors import LaconicError
from laconic.live.address import connect
from laconic.live.hub import FEED

#: Seconds in which the first line must arrive.
_PATIENCE = 10.0


class Remote:
    """A connection that reads a program's messages, and writes nothing.

    `command` is the program's command line. Raises LaconicError if no program listens at `address`,
    or it uses another version of the messages.
    """

    def __init__(self, address: str) -> None:
        connection = connect(address)
        connection.settimeout(_PATIENCE)
        self._file = connection.makefile("rb")
        head = self._head(address)
        if head.get("feed") != FEED:
            raise LaconicError(
                f"--connect {address!r} is another version of Laconic, {head.get('laconic', '?')}; "
                "use the same on both sides"
            )
        self.command = [str(word) for word in head.get("command", [])]
        connection.settimeout(None)
        self._messages: deque[bytes] = deque()
        self._connection = connection
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _head(self, address: str) -> dict[str, Any]:
        try:
            line = self._file.readline(1 << 20)
            head = json.loads(line)
            if isinstance(head, dict):
                return head
        except TimeoutError:
            line = b"?"
        except (OSError, ValueError):
            pass
        if not line:
            raise LaconicError(
                f"--connect {address!r} gives no answer, because its program belongs to another "
                "user, or has just ended; connect as the user who runs it"
            )
        raise LaconicError(
            f"--connect {address!r} is not a program under Laconic; name the address that  "
            "laconic live --listen  prints"
        )

    def _read(self) -> None:
        try:
            for line in self._file:
                self._messages.append(line)
        except OSError:
            pass

    def alive(self) -> bool:
        """False once no more messages will arrive."""
        return self._reader.is_alive()

    def drain(self, model: LiveModel) -> None:
        """Pass all messages that have arrived to the model. O(their size)."""
        alive = self.alive()
        while self._messages:
            model.take(json.loads(self._messages.popleft()))
        if not alive and model.status is None:
            model.status = 1
            model.failure = (
                "the connection has ended, and the program may go on; connect again to see"
            )

    def close(self) -> None:
        """End the connection, and nothing else."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
