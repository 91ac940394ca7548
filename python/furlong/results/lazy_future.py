"""Results as futures of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import Any

from furlong import errors

__all__ = ["UNKNOWN", "LazyFuture"]

# Stands for a value that has not been taken yet.
UNKNOWN: object = object()
# Where `concurrent.futures` reports callbacks that raise.
LOGGER = logging.getLogger("concurrent.futures")


class _Part:
    """An attribute of the base class, which is made when somebody reads it.

    The instance's own attribute goes before it, once it is there. A `__getattr__` would do as well,
    but makes each look at any attribute several times as dear.
    """

    def __set_name__(self, kind: type, name: str) -> None:
        self._name = name

    def __get__(self, future: LazyFuture | None, kind: type) -> Any:
        if future is None:
            return self
        future._arm()
        return vars(future)[self._name]


def _part() -> Any:
    return _Part()


class LazyFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    """A future that costs nothing before somebody uses it as one.

    A subclass knows by itself whether it has ended (`done`), takes its end (`_settle`, which sets `_final` and
    `_error`), and says when it ends (`_when_over`). The parts of the base class are made on first use. Its state is
    derived: it is finished as soon as `done` says so, whether or not the thread that calls callbacks has come to it.
    """

    # There is no `__init__`: what the base class needs is made when somebody uses it, see `_Part`.
    _final: object = UNKNOWN
    _error: BaseException | None = None
    _armed = False
    # The parts of the base class, under their names there.
    _done_callbacks: list[Callable[..., Any]] = _part()
    _exception: BaseException | None = _part()
    _result: object = _part()
    _waiters: list[Any] = _part()
    # What stands behind its state and its condition.
    _stage: str = _part()
    _held: threading.Condition = _part()
    # The thread that calls a callback now; and whether callbacks are left to the thread for them.
    _caller: int | None = _part()
    _callbacks_are_due: bool = _part()

    def _settle(self) -> None:
        """Take the end, which has come: set `_final`, and `_error` if it failed."""
        raise NotImplementedError

    def _when_over(self, callback: Callable[[], None]) -> None:
        """Call back once, from the thread of callbacks, when it has ended."""
        raise NotImplementedError

    # The parts of the base class.

    def _arm(self) -> None:
        """Become a future that others are told of."""
        if self.done() and self._final is UNKNOWN:
            self._settle()
        with _arming:  # two threads may ask at once
            if self._armed:
                return
            super().__init__()
            self._armed = True
            self._caller = None
            if self.done():
                self._finish()
                self._callbacks_are_due = False
                return
            self._callbacks_are_due = True
        self._when_over(self._complete)

    @property
    def _condition(self) -> threading.Condition:
        self._look()
        return self._held

    @_condition.setter
    def _condition(self, condition: threading.Condition) -> None:
        self._held = condition

    @property
    def _state(self) -> str:
        self._look()
        return self._stage

    @_state.setter
    def _state(self, stage: str) -> None:
        self._stage = stage

    def _look(self) -> None:
        """Take an end that has come, unless this thread holds the condition.

        `concurrent.futures.wait` reads states twice while it does: a future that ended between the
        two would be neither done nor waited for.
        """
        is_held: bool = self._held._is_owned()  # type: ignore[attr-defined]
        if self._stage == PENDING and not is_held and self.done():
            self._finish()

    def _finish(self) -> None:
        """Take the end, which has come, and tell those who wait. Callbacks are left to `_complete`."""
        if self._final is UNKNOWN:
            self._settle()
        with self._held:
            if self._stage != PENDING:
                return
            if isinstance(self._error, errors.TaskCancelled):
                self._stage, tell = CANCELLED_AND_NOTIFIED, "add_cancelled"
            elif self._error is not None:
                self._exception = self._error
                self._stage, tell = FINISHED, "add_exception"
            else:
                self._result = self._final
                self._stage, tell = FINISHED, "add_result"
            for waiter in self._waiters:
                getattr(waiter, tell)(self)
            self._held.notify_all()

    # Callbacks.

    def _complete(self) -> None:
        """Finish, and call back, in the order in which the callbacks were added."""
        self._finish()
        while True:
            with self._held:
                if self._caller is not None:
                    return
                if not self._done_callbacks:
                    self._callbacks_are_due = False
                    return
                callback = self._done_callbacks.pop(0)
                self._caller = threading.get_ident()
            try:
                self._call(callback)
            finally:
                self._caller = None

    def _call(self, callback: Callable[..., Any]) -> None:
        try:
            callback(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)

    def add_done_callback(self, fn: Callable[..., Any]) -> None:
        """Call back when it has ended; at once, in this thread, if it has. Else callbacks run in a thread of their own.

        They run in the order in which they were added. One that raises is reported by `logging`, and the next runs.
        """
        if getattr(fn, "__module__", None) == "asyncio.tasks":
            fn = _InLoop(fn)
        with self._held:
            is_due = self._callbacks_are_due and self._caller != threading.get_ident()
            if is_due:
                self._done_callbacks.append(fn)
        if not is_due:
            self._call(fn)
        elif self.done():  # the thread of callbacks may not have come to it yet
            self._complete()

    def remove_done_callback(self, fn: Callable[..., Any]) -> int:
        """Forget a callback that was not called yet; how often it was there. `asyncio.wait` needs it."""
        with self._held:
            kept = [known for known in self._done_callbacks if known != fn]
            removed = len(self._done_callbacks) - len(kept)
            self._done_callbacks[:] = kept
        return removed

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        return asyncio.wrap_future(self).__await__()


class _InLoop:
    """A callback of `asyncio.wait`, which takes it that it is called in its event loop."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        import asyncio

        self._fn = fn
        self._loop = asyncio.get_running_loop()

    def __call__(self, future: LazyFuture) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fn, future)

    def __eq__(self, other: object) -> bool:
        return other == self._fn if not isinstance(other, _InLoop) else other._fn == self._fn

    def __hash__(self) -> int:
        return hash(self._fn)


_arming = threading.RLock()
