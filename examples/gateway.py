"""The farm from a program that has pyzmq and no Furlong: python gateway.py ipc:///.../gateway.sock.

Any language with a ZeroMQ library does the same: one JSON text there, one back.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import zmq


class Farm:
    """A connection to a gateway."""

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        """Connect; ``token`` is for gateways on TCP."""
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 120_000)
        self._socket.connect(endpoint)
        self._token = {} if token is None else {"token": token}

    def ask(self, what: str, **fields: Any) -> Any:
        """Ask for one thing, and return the answer."""
        self._socket.send_json({"v": 1, what: fields, **self._token})
        answer = self._socket.recv_json()
        assert isinstance(answer, dict)
        if "error" in answer:
            raise RuntimeError(f"{answer['error']['type']}: {answer['error']['message']}")
        return answer["ok"]

    def result(self, submitted: dict[str, Any]) -> Any:
        """Wait for what was submitted."""
        return self.ask("result", task=submitted["task"], wait_ms=60_000)


def main(endpoint: str, token: str | None = None) -> None:
    """Use the farm in each way."""
    farm = Farm(endpoint, token)
    print("engines", farm.ask("engines")["engines"])

    root = farm.result(farm.ask("submit", function="math:sqrt", args=[2]))
    print("sqrt", root["value"])

    source = "def area(width, height=1):\n    return width * height\n"
    area = farm.ask("submit", function="area", source=source, args=[6], kwargs={"height": 7})
    print("area", farm.result(area)["value"])

    squares = farm.result(farm.ask("map", function="math:factorial", items=[1, 2, 3, 25]))
    print("map", json.dumps([each["value"] for each in squares["results"]]))

    words = farm.ask("submit", command=["wc", "-w"], stdin="one two three")
    print("command", farm.result(words)["stdout"].strip())

    code = farm.result(farm.ask("execute", code="import os; os.getpid() > 0"))
    print("execute", [each["repr"] for each in code["results"]])

    failed = farm.result(farm.ask("submit", function="math:sqrt", args=[-1]))
    print("failure", failed["failure"]["type"])


if __name__ == "__main__":
    main(*sys.argv[1:])
