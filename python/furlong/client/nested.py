"""Clients of tasks: the way into the farm that runs this code, and the slot that is lent while it waits.

A task's client needs no capability file: the task's engine has a key let in that is made here, with the authority of
the task's owner and for as long as the task runs. And while a task waits for others, whoever has connected it, its
engine runs others in its place. The watch tells it so: a thread that looks now and then whether the task waits.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from furlong import _furlong, errors

__all__ = ["connect", "is_engine"]

# How often is looked whether the task waits, in seconds: with unfinished tasks lately, and without.
_OFTEN, _SELDOM = 0.01, 0.05
# Without unfinished tasks for so many seconds, it is looked seldom.
_LATELY = 1.0
# A process that has used no more of a processor than this share does nothing but wait.
_IDLE_SHARE = 0.3
# A task does nothing but ask for ends that have not come if it asks so often for each second that
# it uses of a processor, and not only now and then.
_LOOKS_A_SECOND, _LOOKS_MIN = 5_000, 20
# One packet names so many sessions.
_SESSIONS_MAX = 1024


def _worker() -> Any:
    """Return the worker of the engine's interpreter that this is, if it is one that knows of farms."""
    worker = sys.modules.get("furlong_worker")
    return worker if hasattr(worker, "farm_of_task") else None


def is_engine() -> bool:
    """Return whether this process is an engine's interpreter."""
    return _worker() is not None


def connect(
    path: Path | None, cluster: str | None, timeout: float, hide_names: bool | None
) -> _furlong.Session:
    """Connect by a capability file, or by that of a cluster; in a task, without either, to the farm that runs it.

    Raises
    ------
    CapabilityNotFound, ConnectionFailed, ConnectionRefused
        If there is no connection in time.
    """
    if _worker() is None:
        return _furlong.Session.connect(path, cluster, timeout, hide_names)
    named = path is not None or cluster is not None
    session = (
        _furlong.Session.connect(path, cluster, timeout, hide_names)
        if named
        else _connect_by_pass(timeout, hide_names)
    )
    _Watch.of_process().add(session)
    return session


def _connect_by_pass(timeout: float, hide_names: bool | None) -> _furlong.Session:
    """Connect to the farm that runs this task.

    Raises
    ------
    ConnectionRefused
        If the owner's capability forbids it, or no task runs in this thread and process.
    ConnectionFailed
        If the broker does not answer in time.
    """
    key = _furlong.PassKey()
    limit = timeout if 0 <= timeout < threading.TIMEOUT_MAX else threading.TIMEOUT_MAX
    try:
        door = _worker().farm_of_task.open_door(bytes(key.public), limit)
    except TimeoutError as error:
        raise errors.ConnectionFailed(str(error)) from None
    except RuntimeError as error:
        raise errors.ConnectionRefused(str(error)) from None
    return _furlong.Session.connect_by_pass(key, door, timeout, hide_names)


class _Watch:
    """The thread that looks whether the task waits."""

    _only: _Watch | None = None

    def __init__(self) -> None:
        self._sessions: list[weakref.ref[_furlong.Session]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        # The attempt that waits, and the sessions that its engine was told.
        self._told: tuple[int, frozenset[bytes]] | None = None

    @classmethod
    def of_process(cls) -> _Watch:
        """Return that of this process, which may be the child of one that has another."""
        only = cls._only
        if only is None or only._pid != os.getpid():
            only = cls._only = cls()
        return only

    def add(self, session: _furlong.Session) -> None:
        """Watch this session too, while somebody holds it."""
        with self._lock:
            self._sessions.append(weakref.ref(session))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="furlong-lending", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        looked, used = time.monotonic(), time.process_time()
        busy_at, looks = looked, _furlong.vain_looks()
        while True:
            now = time.monotonic()
            time.sleep(_OFTEN if now - busy_at < _LATELY else _SELDOM)
            unfinished = self._unfinished()
            if unfinished is None:
                return
            now, used_now = time.monotonic(), time.process_time()
            share = (used_now - used) / max(now - looked, 1e-6)
            looks, looks_before = _furlong.vain_looks(), looks
            is_asking = looks - looks_before >= max(_LOOKS_MIN, _LOOKS_A_SECOND * (used_now - used))
            looked, used = now, used_now
            if unfinished:
                busy_at = now
            self._tell(unfinished, share < _IDLE_SHARE, is_asking)

    def _unfinished(self) -> frozenset[bytes] | None:
        """Return the sessions that have unfinished tasks; none once there is no session, and the thread shall end."""
        with self._lock:
            alive = [
                (reference, session)
                for reference in self._sessions
                if (session := reference()) is not None
            ]
            self._sessions = [reference for reference, _ in alive]
            if not alive:
                self._thread = None
                if self._told is not None:
                    self._say(None)
                return None
        found = [bytes.fromhex(session.id) for _, session in alive if session.unfinished_count]
        return frozenset(found[:_SESSIONS_MAX])

    def _tell(self, unfinished: frozenset[bytes], is_idle: bool, is_asking: bool) -> None:
        attempt = _worker().running_attempt()
        waits = bool(unfinished) and attempt is not None
        if waits and not _furlong.waiting():
            waits = is_asking or (is_idle and not _runs())
        if self._told is not None and self._told[0] != attempt:
            self._told = None  # that one has ended, and with it what was lent
        wanted = (attempt, unfinished) if waits and attempt is not None else None
        if wanted != self._told:
            self._say(wanted)

    def _say(self, wanted: tuple[int, frozenset[bytes]] | None) -> None:
        farm = _worker().farm_of_task
        with contextlib.suppress(OSError):  # the task has closed the socket, or the engine is gone
            if wanted is not None:
                farm.wait_for(wanted[0], sorted(wanted[1]))
            elif self._told is not None:
                farm.go_on(self._told[0])
            self._told = wanted


def _runs() -> bool:
    """Return whether another thread of this process has work for a processor: it may be waiting for one."""
    me = threading.get_native_id()
    try:
        threads = list(Path("/proc/self/task").iterdir())
    except OSError:
        return False
    for thread in threads:
        if int(thread.name) == me:
            continue
        with contextlib.suppress(OSError), (thread / "stat").open("rb") as file:
            state = file.read(512).rpartition(b") ")[2][:1]
            if state == b"R":
                return True
    return False
