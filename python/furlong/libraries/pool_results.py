"""The results of a pool: what `multiprocessing.pool` calls `AsyncResult` and `IMapIterator`."""

from __future__ import annotations

import collections
import multiprocessing
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import pool as standard
from typing import Any

from furlong.errors import CompositeError, EngineTraceback, PicklingError, RemoteError
from furlong.libraries.originals import original_of
from furlong.results.async_result import AsyncResult
from furlong.waiting.dispatch import callbacks

__all__ = ["IMapIterator", "PoolResult", "error_of_pool"]

MaybeEncodingError: Any = vars(standard)["MaybeEncodingError"]
RemoteTraceback: Any = vars(standard)["RemoteTraceback"]
Callback = Callable[[Any], Any]
# As engines begin the text of an error that is about the value, and not of the function.
_UNSENT = "the result cannot be pickled"


def error_of_pool(error: BaseException) -> BaseException:
    """Return the exception as `multiprocessing.Pool` would raise it."""
    if isinstance(error, CompositeError):  # of a map, the first
        error = error.errors[0]
    if isinstance(error, PicklingError) and isinstance(error.__cause__, Exception):
        # What has no pickle is named better by ours; what its own code raises is for its caller.
        is_ours = isinstance(error.__cause__, (TypeError, AttributeError, pickle.PicklingError))
        return error if is_ours else error.__cause__
    if isinstance(error, RemoteError) and error.evalue.startswith(_UNSENT):
        unsent: BaseException = MaybeEncodingError(error.evalue, "what the function returned")
        return unsent
    made = original_of(error)
    if made is not error and isinstance(made.__cause__, EngineTraceback):
        made.__cause__ = RemoteTraceback(str(made.__cause__))
    return made


class PoolResult:
    """The result of `Pool.apply_async` or `Pool.map_async`.

    Parameters
    ----------
    call : AsyncResult or Exception
        What was submitted, or why it could not be.
    callback, error_callback : callable, optional
        Called with the value, or with the exception, before the result is ready.
    told : callable
        Called once the callback has been.
    """

    def __init__(
        self,
        call: AsyncResult | Exception,
        callback: Callback | None,
        error_callback: Callback | None,
        told: Callable[[PoolResult], None],
    ) -> None:
        self._call = call
        self._error = error_of_pool(call) if isinstance(call, Exception) else None
        self._callback, self._error_callback = callback, error_callback
        self._told = told
        # Set when the callback has returned; none if there is none to wait for.
        self._ready: threading.Event | None = None
        if callback is not None or error_callback is not None:
            self._ready = threading.Event()
            if isinstance(call, AsyncResult):
                call._when_over(self._tell)
            else:
                callbacks().soon(self._tell)

    def _tell(self) -> None:
        assert self._ready is not None, "it is called where there is a callback"
        try:
            value = self._value()
        except Exception as error:
            self._tell_one(self._error_callback, error)
        else:
            self._tell_one(self._callback, value)
        self._ready.set()
        self._told(self)

    def _tell_one(self, callback: Callback | None, value: Any) -> None:
        if callback is not None:
            try:
                callback(value)
            except Exception:  # it must not keep others from being told
                sys.excepthook(*sys.exc_info())

    def _value(self) -> Any:
        """Return the value, which has come; raise what was raised."""
        if self._error is not None:
            raise self._error
        assert isinstance(self._call, AsyncResult), "anything else is an error"
        try:
            return self._call.get()
        except Exception as error:
            self._error = error_of_pool(error)
        raise self._error

    def ready(self) -> bool:
        """Return whether it has ended."""
        if self._ready is not None:
            return self._ready.is_set()
        return not isinstance(self._call, AsyncResult) or self._call.done()

    def successful(self) -> bool:
        """Return whether it has ended without an exception.

        Raises
        ------
        ValueError
            If it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        if isinstance(self._call, AsyncResult):
            return self._call.successful()
        return False

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end, for so many seconds at most."""
        if self._ready is not None:
            self._ready.wait(timeout)
        elif isinstance(self._call, AsyncResult):
            self._call.wait(-1 if timeout is None else max(0.0, timeout))

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the value; raise what was raised.

        Raises
        ------
        multiprocessing.TimeoutError
            If it does not come in time.
        """
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        return self._value()


class IMapIterator(Iterator[Any]):
    """The values of `Pool.imap` as they come, or in the order of the items."""

    def __init__(self, is_ordered: bool) -> None:
        self._is_ordered = is_ordered
        self._changed = threading.Condition()
        # What can be given: futures that have ended, or exceptions of the items themselves.
        self._given: collections.deque[AsyncResult | BaseException] = collections.deque()
        # Those that have ended before one ahead of them.
        self._early: dict[int, AsyncResult | BaseException] = {}
        self._next = 0
        self._count: int | None = None

    def put(self, place: int, ended: AsyncResult | BaseException) -> None:
        """Take one that has ended."""
        with self._changed:
            if not self._is_ordered:
                self._given.append(ended)
                self._next += 1
            else:
                self._early[place] = ended
                while self._next in self._early:
                    self._given.append(self._early.pop(self._next))
                    self._next += 1
            self._changed.notify_all()

    def set_count(self, count: int) -> None:
        """Say how many there are."""
        with self._changed:
            self._count = count
            self._changed.notify_all()

    @property
    def unread(self) -> int:
        """The number of values that wait for a reader."""
        return len(self._given) + len(self._early)

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Wait for the next value; raise what its call raised.

        Raises
        ------
        multiprocessing.TimeoutError
            If it does not come in time. It can be asked for again.
        StopIteration
            If there is none.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._given:
                if self._next == self._count:
                    raise StopIteration
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise multiprocessing.TimeoutError
                self._changed.wait(left)
            ended = self._given.popleft()
        if isinstance(ended, BaseException):
            raise error_of_pool(ended)
        try:
            return ended.get()
        except RemoteError as error:
            raised = error_of_pool(error)
        raise raised

    __next__ = next
