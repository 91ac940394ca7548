"""The time for which a machine stood still by itself: no program on it is to blame for that.

    python benches/standstill.py SECONDS

A virtual machine gets its processors from a host, which may take all of them away for tens of milliseconds. A
real-time process on each processor asks to be woken every millisecond; nothing of ours can be in its way, so what it
comes too late is the machine's doing. That needs the right to real-time priority (root, or CAP_SYS_NICE).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from types import TracebackType

PERIOD_S = 0.001
PRIORITY = 50


class Standstill:
    """Watches the machine in a ``with`` block; then `longest_ms` is known, or None without the right to watch."""

    def __init__(self) -> None:
        self.longest_ms: float | None = None
        self._watches: list[tuple[multiprocessing.Process, Connection]] = []

    def __enter__(self) -> Standstill:
        """Begin to watch."""
        for processor in os.sched_getaffinity(0):
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.Process(target=_watch, args=(processor, theirs), daemon=True)
            process.start()
            theirs.close()
            self._watches.append((process, ours))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop, and take what was seen."""
        seen = []
        for process, pipe in self._watches:
            pipe.send(None)
            seen.append(pipe.recv())
            process.join()
        self.longest_ms = None if None in seen else max(seen)


def _watch(processor: int, pipe: Connection) -> None:
    os.sched_setaffinity(0, {processor})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        pipe.recv()
        pipe.send(None)
        return
    longest = 0.0
    while not pipe.poll():
        due = time.perf_counter() + PERIOD_S
        time.sleep(PERIOD_S)
        longest = max(longest, time.perf_counter() - due)
    pipe.send(longest * 1e3)


if __name__ == "__main__":
    with Standstill() as machine:
        time.sleep(float(sys.argv[1]))
    print(
        "no right to watch"
        if machine.longest_ms is None
        else f"longest standstill {machine.longest_ms:.1f} ms"
    )
