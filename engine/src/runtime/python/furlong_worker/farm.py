"""Requests of a running task to its engine: a way into its own farm, and that its slot be lent while it waits.

`asks.rs` is the other side, and describes the packets. They go over a socket of their own, so that any thread of a
task can ask, and an interrupt finds nothing half done.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import Callable, Sequence

import furlong_worker

HEAD = struct.Struct("<cQ")
ANSWER_BYTES_MAX = 1 << 16
KEY_BYTES = 32


class Refused(RuntimeError):
    """The task gets no way into its farm; the text says why."""


class Farm:
    """The task's side of the socket.

    `attempt_here` tells which attempt the calling thread belongs to, if that runs, and else raises.
    """

    def __init__(self, asks: socket.socket, attempt_here: Callable[[], int]) -> None:
        self._asks = asks
        self._attempt_here = attempt_here
        self._lock = threading.Lock()

    def open_door(self, key: bytes, timeout: float) -> str:
        """Have a key let in as a client of the task's owner, while the task runs. Give the door that it opens.

        Raises
        ------
        Refused
            If the broker does not let it in, or the calling thread belongs to no running task.
        TimeoutError
            If nobody answers in time.
        """
        attempt = self._attempt_here()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._asks.send(HEAD.pack(b"P", attempt) + key)
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._asks], [], [], left)[0]:
                    raise TimeoutError(
                        f"the broker has not let this task's client in within {timeout} s"
                    )
                answer = self._asks.recv(ANSWER_BYTES_MAX)
                # Another one is for somebody who was interrupted.
                if answer[:KEY_BYTES] == key:
                    break
        text = answer[KEY_BYTES + 1 :].decode("utf-8", "replace")
        if answer[KEY_BYTES]:
            raise Refused(text)
        return text

    def wait_for(self, attempt: int, sessions: Sequence[bytes]) -> None:
        """Have the slot lent: the attempt waits for tasks of these sessions."""
        self._asks.send(HEAD.pack(b"W", attempt) + b"".join(sessions))

    def go_on(self, attempt: int) -> None:
        """Report that the attempt no longer waits."""
        self._asks.send(HEAD.pack(b"B", attempt))

    def leave(self) -> None:
        """Close the socket of a process that was forked."""
        self._asks.close()


def bind(farm: Farm) -> Farm:
    """Let the package find it."""
    furlong_worker.farm_of_task = farm  # type: ignore[attr-defined]
    return farm
