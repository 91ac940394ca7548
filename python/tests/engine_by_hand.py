"""An engine that answers what a test says, made of the peer in `tests/interop`, which shares no code with Furlong."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
from pathlib import Path
from typing import Any

import msgpack

_PEER = Path(__file__).parents[2] / "tests" / "interop" / "peer.py"
_spec = importlib.util.spec_from_file_location("furlong_test_peer", _PEER)
assert _spec is not None and _spec.loader is not None
peer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(peer)

ASSIGN, REGISTER, FINISHED, PUBLISHED = 50, 64, 66, 68
SUCCEEDED = [1, None]
#: Codecs, as headers of results.
JSON, PICKLE, MSGPACK, RAW = 1, 2, 3, 4


class EngineByHand:
    """A process with one engine, which has all runtimes.

    Parameters
    ----------
    capability
        The file of an engine.
    """

    def __init__(self, capability: Path) -> None:
        self._socket = peer.connect(json.loads(capability.read_text()))
        self._records = peer.shake_hands(self._socket, json.loads(capability.read_text()), "engine")
        self._start = peer.greeting(self._records)["start"]
        slot = [os.urandom(16), None]
        about = ["by hand", os.getpid(), "/", [slot], [1, 2, 3], None, [], []]
        self._records.send((REGISTER, [os.urandom(16), *about, [], None, None, None, None]))
        self._messages = self._records.messages()

    def take(self) -> list[int]:
        """Wait for a task, and give its attempt."""
        for tag, body in self._messages:
            if tag == ASSIGN:
                [[_slot, _n, count]] = body[0]
                return [self._start, count]
        raise AssertionError("messages() does not end")

    def publish(self, attempt: list[int], header: Any, *data: bytes) -> None:
        """Send intermediate data."""
        self._records.send((PUBLISHED, [attempt, _inline(header, data)]))

    def finish(self, attempt: list[int], header: Any, *data: bytes) -> None:
        """Report that a task has succeeded, with this."""
        self._records.send((FINISHED, [attempt, SUCCEEDED, [0, 0, 5, 0], _inline(header, data)]))

    def close(self) -> None:
        """Leave without a word."""
        self._socket.close(linger=0)
        peer.zmq.Context.instance().term()


def _inline(header: Any, data: tuple[bytes, ...]) -> bytes:
    buffers = [msgpack.packb(header), *data]
    sizes = b"".join(struct.pack("<H", len(buffer)) for buffer in buffers)
    return bytes([len(buffers)]) + sizes + b"".join(buffers)
