"""The threads that learn of tasks' ends, and what happens at a fork and at the interpreter's exit.

Who waits for a result waits for it alone, without them. There are two. One serves those who want to be told of results:
callbacks, `concurrent.futures.wait`, ``await``. What users' callbacks do takes its time, and may be a map; so what maps
need to go on is done by the other. Each starts with the first result that it is asked for.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from furlong import _furlong

# A signal that comes just before a thread goes to sleep does not wake it: it looks after so many
# seconds.
SIGNALS_SECONDS = 0.1


class _Closes(Protocol):
    def close(self) -> None: ...


class Dispatcher:
    """Calls back when tasks have ended, in one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._completions = _furlong.Completions()
        self._keys = itertools.count()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def when_ended(self, task: _furlong.Task, callback: Callable[[], None]) -> None:
        """Call back once, when the task has ended. The callback must not wait for other tasks."""
        key = next(self._keys)
        self._callbacks[key] = callback
        if self._thread is None:
            self._start()
        task.notify(self._completions, key)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back once, from the thread."""
        key = next(self._keys)
        self._callbacks[key] = callback
        if self._thread is None:
            self._start()
        self._completions.push(key)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            keys = self._completions.take()
            if not keys:
                return
            for key in keys:
                try:
                    # A task that ends while it is asked to tell may tell twice.
                    self._callbacks.pop(key, _nothing)()
                except Exception:
                    sys.excepthook(*sys.exc_info())

    def close(self, seconds: float = 5) -> None:
        """End the thread, once it has called what is due; wait so long for that."""
        self._completions.close()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)


def _nothing() -> None:
    """Be what is called the second time."""


class WaitQueue:
    """Threads that wait for something to change.

    It is a condition variable without a lock: the exception of a signal's handler, which may come anywhere in a main
    thread, leaves none locked.
    """

    def __init__(self) -> None:
        self._waiting: list[Any] = []
        #: How often something has changed.
        self.changes = 0

    def notify_all(self) -> None:
        """Wake all who wait. What has changed is to be seen before."""
        self.changes += 1
        # Who comes meanwhile looks at what has changed after having come.
        while self._waiting:
            try:
                waiter = self._waiting.pop()
            except IndexError:
                return
            waiter.release()

    def wait_for(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until something is true; whether it is so in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            waiter = _thread.allocate_lock()
            waiter.acquire()
            self._waiting.append(waiter)
            try:
                if condition():
                    return True
                left = -1.0 if deadline is None else deadline - time.monotonic()
                if deadline is not None and left <= 0:
                    return False
                waiter.acquire(
                    True, SIGNALS_SECONDS if deadline is None else min(left, SIGNALS_SECONDS)
                )
            finally:
                if waiter in self._waiting:  # nobody has woken it
                    self._discard(waiter)

    def _discard(self, waiter: object) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiter)


_dispatchers: dict[str, Dispatcher] = {}
# What is closed at the exit, and whether after the others.
_open: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
# What has work to finish before.
_unfinished: weakref.WeakSet[Any] = weakref.WeakSet()
_exiting = threading.Event()


def dispatcher() -> Dispatcher:
    """Return this process's dispatcher for what the package itself does."""
    return _dispatcher("furlong-results")


def callbacks() -> Dispatcher:
    """Return this process's dispatcher for what users do."""
    return _dispatcher("furlong-callbacks")


def _dispatcher(name: str) -> Dispatcher:
    found = _dispatchers.get(name)
    # Of two that are made at once, one is kept.
    return found if found is not None else _dispatchers.setdefault(name, Dispatcher(name))


def close_at_exit(thing: _Closes, last: bool = False) -> None:
    """Close something before the interpreter goes, unless it is closed or gone before; after the others if `last`."""
    _open[thing] = last


class _Finishes(Protocol):
    def finish(self) -> None: ...


def finish_before_exit(thing: _Finishes) -> None:
    """Let something finish its work before the interpreter goes and anything is closed."""
    _unfinished.add(thing)


def is_exiting() -> bool:
    """Return whether the interpreter is about to go."""
    return _exiting.is_set()


def forget(thing: _Closes) -> None:
    """Leave to itself what is closed."""
    _open.pop(thing, None)


def _at_exit() -> None:
    _exiting.set()
    for unfinished in list(_unfinished):
        try:
            unfinished.finish()
        except Exception:
            sys.excepthook(*sys.exc_info())
    for thing, _ in sorted(_open.items(), key=lambda item: item[1]):
        try:
            thing.close()
        except Exception:
            sys.excepthook(*sys.exc_info())
    for each in list(_dispatchers.values()):
        each.close()


def _after_fork() -> None:
    _furlong.after_fork()
    _dispatchers.clear()
    _open.clear()
    _unfinished.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
