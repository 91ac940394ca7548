"""A farm with the interface of `multiprocessing.Pool`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from furlong import errors
from furlong.libraries.engine_side import map_chunk, prepared, star
from furlong.libraries.pool_results import Callback, IMapIterator, PoolResult
from furlong.results.async_result import AsyncResult
from furlong.waiting.dispatch import Dispatcher

if TYPE_CHECKING:
    from typing_extensions import Self

    from furlong.client.client import Client
    from furlong.views.balanced import LoadBalancedView

__all__ = ["Pool"]

# Calls of an `imap` that have not ended, at most; and values that nobody has read yet.
CALLS_MAX = 1024
UNREAD_MAX = 100_000
# How often it is looked whether some have been read, in seconds.
READ_SECONDS = 0.05
_RUN, _CLOSED, _TERMINATED = "RUN", "CLOSE", "TERMINATE"
_NO_NAMES: Mapping[str, Any] = {}


class Pool:
    """The engines as a `multiprocessing.Pool`, made by ``rc.pool()``.

    It has no processes of its own: to close or terminate it leaves the engines as they are.

    Parameters
    ----------
    client : Client
        The client that submits.
    processes : int, optional
        Only so many engines are used, those with the lowest ids, in turn; by default all, whichever is free.
    initializer : callable, optional
        Runs once on each engine, before the first call of this pool there. If it raises, so does that call.
    initargs : iterable
        Its arguments.
    maxtasksperchild : None
        Engines are not replaced after a number of tasks: nothing else is accepted.
    **flags
        Flags of the tasks, as ``rc.load_balanced_view`` takes them.
    """

    def __init__(
        self,
        client: Client,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **flags: Any,
    ) -> None:
        if processes is not None and operator.index(processes) < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None:
            _refuse_limit(maxtasksperchild)
        if processes is not None and "targets" not in flags and processes < len(client):
            flags["targets"] = sorted(client.ids)[:processes]
        self._client = client
        self._view: LoadBalancedView = client.load_balanced_view(**flags)
        self._state = _RUN
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._id = os.urandom(16).hex()
        # The ids of tasks that may not have ended, and results whose callbacks are to come.
        self._ids: set[str] = set()
        self._ids_max = CALLS_MAX
        self._pending: set[PoolResult] = set()
        self._lock = threading.Lock()
        self._feeders: list[_Feeder] = []

    @property
    def _processes(self) -> int:
        return max(1, len(self._view))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} state={self._state} pool_size={len(self._view)}>"

    # Calls.

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = _NO_NAMES,
    ) -> Any:
        """Call a function on an engine, and wait for its value."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = _NO_NAMES,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> PoolResult:
        """Call a function on an engine.

        Parameters
        ----------
        callback, error_callback : callable, optional
            Called with the value, or with the exception, in a thread, before the result is ready.
        """
        self._check_running()
        return self._result(self._begin(func, args, kwds), callback, error_callback)

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call a function with each item, and wait for the list of values."""
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> PoolResult:
        """Call a function with each item.

        Parameters
        ----------
        chunksize : int, optional
            Items in a task; by default the measured time of the first tasks chooses it.
        """
        self._check_running()
        return self._map(func, list(iterable), chunksize, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Call a function with the parts of each item, and wait for the list of values."""
        return self.starmap_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> PoolResult:
        """Call a function with the parts of each item as its arguments."""
        self._check_running()
        function = functools.partial(star, func)
        return self._map(function, list(iterable), chunksize, callback, error_callback)

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> Iterator[Any]:
        """Call a function with each item, and give the values in the order of the items, as they come.

        Items are taken in a thread, some ahead of those that have ended.
        """
        return self._imap(func, iterable, chunksize, True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> Iterator[Any]:
        """Call a function with each item, and give the values as they come."""
        return self._imap(func, iterable, chunksize, False)

    def _map(
        self,
        func: Callable[..., Any],
        items: list[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> PoolResult:
        if chunksize is not None and operator.index(chunksize) < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        if not items:  # nobody is called back, as in `multiprocessing`
            callback = error_callback = None
        call: AsyncResult | Exception
        try:
            call = self._view.map_async(self._prepared(func), items, chunksize=chunksize)
        except Exception as error:  # who asks for the value is told
            call = error
        return self._result(call, callback, error_callback)

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        is_ordered: bool,
    ) -> Iterator[Any]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        values = IMapIterator(is_ordered)
        if chunksize == 1:
            self._feed(_Feeder(self, func, iterable, values))
            return values
        function = functools.partial(map_chunk, func)
        self._feed(_Feeder(self, function, _chunks(iterable, chunksize), values))
        return itertools.chain.from_iterable(values)

    def _feed(self, feeder: _Feeder) -> None:
        with self._lock:
            self._feeders = [known for known in self._feeders if not known.is_over]
            self._feeders.append(feeder)
            is_late = self._state == _TERMINATED
        if is_late:
            feeder.stop()
        feeder.start()

    def _prepared(self, func: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(func):
            raise TypeError(f"{type(func).__name__!r} object is not callable")
        if self._initializer is None:
            return func
        return functools.partial(prepared, self._id, self._initializer, self._initargs, func)

    def _begin(
        self, func: Callable[..., Any], args: Iterable[Any], kwds: Mapping[str, Any]
    ) -> AsyncResult | Exception:
        """Submit a call, or return why it cannot be."""
        try:
            call = self._view.apply_async(self._prepared(func), *args, **kwds)
        except Exception as error:  # who asks for the value is told
            return error
        return call

    def _result(
        self,
        call: AsyncResult | Exception,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> PoolResult:
        self._note(call)
        if callback is None and error_callback is None:
            return PoolResult(call, None, None, _nothing)
        # Before it is made it has no callback to be called back by.
        with self._lock:
            result = PoolResult(call, callback, error_callback, self._have_told)
            self._pending.add(result)
        return result

    def _have_told(self, result: PoolResult) -> None:
        with self._lock:
            self._pending.discard(result)

    def _note(self, call: AsyncResult | Exception) -> None:
        """Remember the tasks, to wait for them; nothing here keeps values or arguments."""
        if isinstance(call, Exception):
            return
        with self._lock:
            self._ids.update(call.msg_ids)
            if len(self._ids) > self._ids_max:
                self._ids &= set(self._client._session.unfinished())
                self._ids_max = max(CALLS_MAX, 2 * len(self._ids))
            is_late = self._state == _TERMINATED
        if is_late:  # `terminate` came between the look at the state and here, and did not see them
            self._client._session.cancel(list(call.msg_ids), True)

    # The end.

    def _check_running(self) -> None:
        if self._state != _RUN:
            raise ValueError("Pool not running")

    def close(self) -> None:
        """Take no further calls. Those that were submitted go on."""
        if self._state == _RUN:
            self._state = _CLOSED

    def terminate(self) -> None:
        """Take no further calls, and cancel those that have not ended, also those that run."""
        with self._lock:
            self._state = _TERMINATED
            feeders = list(self._feeders)
        for feeder in feeders:
            feeder.stop()
        with self._lock:
            ids = list(self._ids & set(self._client._session.unfinished()))
        if ids:
            self._client._session.cancel(ids, True)

    def join(self) -> None:
        """Wait until all calls have ended, and their callbacks have been called.

        Raises
        ------
        ValueError
            If the pool is neither closed nor terminated.
        """
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        for feeder in list(self._feeders):
            feeder.join()
        from furlong.results.records import wait_for_ids

        session = self._client._session
        # If the session is over, so are its tasks.
        with contextlib.suppress(errors.ConnectionLost):
            wait_for_ids(session, self._ids & set(session.unfinished()), None)
        for result in list(self._pending):
            result.wait()
        self._ids.clear()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _refuse_limit(limit: object) -> NoReturn:
    if not isinstance(limit, int) or limit <= 0:
        raise ValueError("maxtasksperchild must be a positive int or None")
    raise ValueError(
        "maxtasksperchild is not supported: engines are not replaced after a number of tasks; leave it out, and "
        "replace them between two steps with rc.restart()"
    )


class _Feeder:
    """The thread that takes the items of an `imap` and submits a call for each, as there is room."""

    def __init__(
        self,
        pool: Pool,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        values: IMapIterator,
    ) -> None:
        self._pool, self._func, self._iterable = pool, func, iterable
        # Where nobody has the iterator any longer, its values are wanted by nobody.
        self._values = weakref.ref(values)
        self._room = threading.Condition()
        self._running = 0
        self._is_stopped = False
        self._ends = Dispatcher("furlong-pool-ends")
        self._thread = threading.Thread(target=self._run, name="furlong-pool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until all items have been taken, and their calls have ended."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def stop(self) -> None:
        """Take no further item."""
        with self._room:
            self._is_stopped = True
            self._room.notify_all()

    def _run(self) -> None:
        count = 0
        try:
            for item in self._iterable:
                if not self._wait_for_room():
                    break
                self._submit(count, item)
                count += 1
        except BaseException as error:  # of the iterable; a reader would wait for ever without it
            self._put(count, error)
            count += 1
        values = self._values()
        if values is not None:
            values.set_count(count)
        del values
        with self._room:
            self._room.wait_for(lambda: not self._running)
        self._ends.close(0)

    def _wait_for_room(self) -> bool:
        with self._room:
            while not self._is_stopped and (self._running >= CALLS_MAX or not self._is_read()):
                # Nobody is told when a value is read.
                self._room.wait(READ_SECONDS)
            return not self._is_stopped

    def _is_read(self) -> bool:
        values = self._values()
        return values is None or values.unread < UNREAD_MAX or self._pool._state != _RUN

    def _submit(self, place: int, item: Any) -> None:
        call = self._pool._begin(self._func, (item,), _NO_NAMES)
        if isinstance(call, Exception):
            self._put(place, call)
            return
        self._pool._note(call)
        with self._room:
            self._running += 1
        call._parts[0].when_ended(functools.partial(self._end_of, place, call), self._ends)

    def _end_of(self, place: int, call: AsyncResult) -> None:
        self._put(place, call)
        with self._room:
            self._running -= 1
            self._room.notify_all()

    def _put(self, place: int, ended: AsyncResult | BaseException) -> None:
        values = self._values()
        if values is not None:
            values.put(place, ended)


def _chunks(iterable: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    items = iter(iterable)
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk


def _nothing(_: object) -> None:
    """Be told where nobody waits for it."""
