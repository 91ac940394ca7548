"""The map of an executor: calls that are submitted when it is called, and values that are read as they come."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong, errors
from furlong.calls.checks import check_whole
from furlong.maps.map_calls import _mapped
from furlong.maps.map_subtasks import MapSubTask, Work
from furlong.pickling.arguments import error_of_item
from furlong.pickling.functions import name_of
from furlong.results.async_result import AsyncResult, TimedOut
from furlong.waiting import dispatch, signals

if TYPE_CHECKING:
    from furlong.views.executor import ExecutorFuture, ViewExecutor

__all__ = ["MapCalls", "MapIterator"]

# Tasks of one map that are submitted and have not ended, at most, and the bytes of their arguments.
TASKS_MAX = 10_000
BYTES_MAX = 256 * 1024 * 1024
# On chosen engines, which have queues of their own: for each engine, so that the rest goes to
# whichever is done first.
TASKS_PER_ENGINE = 2
# Values that wait for somebody who has begun to read, before the rest waits as well.
UNREAD_MAX = 100_000
CHUNK_ITEMS_MAX = 2**31 - 1


class MapCalls:
    """The calls of one map, in the order of the items: those that are to come, those submitted, values not yet read.

    `start` submits what fits; a thread submits the rest, if there is any.
    """

    def __init__(
        self,
        executor: ViewExecutor,
        fn: Callable[..., Any],
        iterables: Sequence[Iterable[object]],
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
    ) -> None:
        self._chunk = check_whole("chunksize", chunksize, 1, CHUNK_ITEMS_MAX)
        self._buffer = (
            None
            if buffersize is None
            else check_whole("buffersize", buffersize, 1, CHUNK_ITEMS_MAX)
        )
        if not callable(fn):
            raise TypeError(f"{fn!r} cannot be called")
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._executor, self._fn = executor, fn
        self._rows: Iterator[tuple[object, ...]] = zip(*iterables)
        self._engines = _Engines(executor)
        self._changed = threading.Condition()
        # What was submitted and not read: futures, and at the end perhaps an exception.
        self._unread: collections.deque[ExecutorFuture | Exception] = collections.deque()
        self._first = 0
        # Tasks that have not ended, with the bytes of their arguments; counted if not all fit.
        self._tasks = 0
        self._bytes = 0
        # So they are, too, if one task may be followed by others.
        self._is_counted = self._chunk > 1
        self._is_submitting = False
        self._has_begun = False
        self._has_reader = True
        self._is_hurried = False
        self._is_cancelled = False
        self.is_all_submitted = False

    # Submitting.

    def start(self) -> None:
        """Submit what fits. If something goes wrong with it, it is raised here, and nothing more is submitted."""
        try:
            self._feed()
        except BaseException as error:
            self.stop(signals.is_of_signal(error))
            raise
        if self.is_all_submitted or self._buffer is not None:
            return
        if not self._is_counted:
            self._is_counted = True
            for future in list(self._unread):
                self._count_end_of(future)
        threading.Thread(target=self._feed_the_rest, name="furlong-map", daemon=True).start()

    def _feed(self) -> None:
        """Submit what there is room for. It is done by one thread at a time: the caller's, the reader's, or our own."""
        while self._is_room():
            # Items may take their time; nobody else is kept waiting.
            row = (
                next(self._rows, None)
                if self._chunk == 1
                else list(itertools.islice(self._rows, self._chunk))
            )
            with self._changed:
                if not row or self.is_all_submitted:
                    # A map of no iterables at all has no rows; a row is never empty.
                    self._end()
                    return
                self._is_submitting = True
            try:
                signals.owned(
                    self._executor.view.client._session, functools.partial(self._submit, row)
                )
            finally:
                with self._changed:
                    self._is_submitting = False
                    self._changed.notify_all()

    def _submit(self, row: Any) -> None:
        future = self._call(row) if isinstance(row, tuple) else self._call_chunk(row)
        self._first += self._chunk
        with self._changed:
            self._tasks += 1
            self._bytes += self._bytes_of(future)
            if self._has_reader:
                self._unread.append(future)
            is_late = self._is_cancelled
        if self._is_counted:
            self._count_end_of(future)
        if is_late:
            self._take_back([future])

    def _is_room(self) -> bool:
        if self.is_all_submitted:
            return False
        if self._buffer is not None:
            return len(self._unread) < self._buffer
        if self._has_begun and not self._is_hurried and len(self._unread) >= UNREAD_MAX:
            return False
        return self._tasks < self._engines.tasks_max and self._bytes < BYTES_MAX

    def _is_time_to_feed(self) -> bool:
        """Return whether there is room for several tasks: for each alone the thread would be woken again and again."""
        bound = self._engines.tasks_max
        return self._tasks <= bound - max(1, bound // 8) and self._is_room()

    def _end(self) -> None:
        self.is_all_submitted = True
        self._rows = iter(())
        self._changed.notify_all()

    def _call(self, row: tuple[object, ...]) -> ExecutorFuture:
        view = self._engines.view()
        try:
            made = view.apply_async(self._fn, *row)
        except errors.PicklingError as error:
            raise error_of_item(error, row, self._first) from error.__cause__
        return self._engines.noted(self._executor._noted(made))

    def _call_chunk(self, rows: list[tuple[object, ...]]) -> ExecutorFuture:
        view = self._engines.view()._with({"stay": False})
        function = _mapped(view, self._fn, True)
        info = view._info(name_of(self._fn), "map")
        work = Work(view, function, info, list(map(list, zip(*rows))), True)
        part = MapSubTask(work, 0, len(rows), self._engines.direct)
        return self._engines.noted(self._executor._noted(AsyncResult((part,), True)))

    def _bytes_of(self, future: ExecutorFuture) -> int:
        return future._parts[0].spec.nbytes

    # The rest.

    def _count_end_of(self, future: Any) -> None:
        nbytes = self._bytes_of(future)

        def one_ended() -> None:
            with self._changed:
                self._tasks -= 1
                self._bytes -= nbytes
                if not self._tasks or self._is_time_to_feed():
                    self._changed.notify_all()

        # The first of several: the others are not waited for.
        future._parts[0].when_ended(one_ended)

    def _feed_the_rest(self) -> None:
        try:
            while not self.is_all_submitted:
                self._feed()
                with self._changed:
                    self._changed.wait_for(lambda: self.is_all_submitted or self._is_time_to_feed())
        except Exception as error:  # of the items, or of a submit: who reads comes to it
            with self._changed:
                self._unread.append(error)
                self._end()

    def hurry(self, cancel: bool) -> None:
        """Do not wait for a reader any longer; with `cancel`, submit nothing more."""
        with self._changed:
            self._is_hurried = True
            if self._buffer is not None or cancel:
                # With a buffer only reading goes on; and nothing is submitted after a shutdown.
                self._cancel()
            self._changed.notify_all()

    def _cancel(self) -> None:
        self._is_cancelled = self._is_cancelled or not self.is_all_submitted
        self._end()

    @property
    def is_over(self) -> bool:
        """True if all calls are submitted or given up, and have ended where they are counted."""
        is_idle = self.is_all_submitted and not self._is_submitting
        return is_idle and not (self._is_counted and self._tasks)

    def wait_until_over(self) -> None:
        """Wait until it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over)

    # Reading.

    def read(self) -> Iterator[tuple[Any, BaseException | None]]:
        """Return what the calls of the next task came to: the value of each, or its error.

        Raises
        ------
        StopIteration
            If there is no further task.
        """
        if not (self._has_begun and self._unread):
            self._await_next()
        future = self._unread[0]
        if isinstance(future, Exception):
            raise future
        if not future.wait(self._left()):
            raise TimedOut("the next value has not come in time")
        self._unread.popleft()
        if self._buffer is not None or len(self._unread) == UNREAD_MAX - 1:
            with self._changed:
                self._changed.notify_all()
            if self._buffer is not None:
                self._feed()
        if self._chunk == 1:
            return iter([(future.get(), None)])
        values = future.get()
        failures: dict[int, BaseException] = future._parts[0].failures  # type: ignore[attr-defined]
        return ((value, failures.get(place)) for place, value in enumerate(values))

    def _await_next(self) -> None:
        with self._changed:
            self._has_begun = True
            if not self._changed.wait_for(
                lambda: bool(self._unread) or self.is_all_submitted, self._left()
            ):
                raise TimedOut("the next value has not come in time")
            if not self._unread:
                if self._is_cancelled:
                    raise errors.TaskCancelled(
                        "TaskCancelled", "the map was cancelled before all calls were submitted"
                    )
                raise StopIteration

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def stop(self, running: bool = False) -> None:
        """Submit nothing more, and cancel what has not begun, with `running` also what has."""
        with self._changed:
            self._cancel()
            unread, self._unread = self._unread, collections.deque()
        self._take_back(unread, running)

    def _take_back(
        self, futures: Iterable[ExecutorFuture | Exception], running: bool = False
    ) -> None:
        unfinished = [
            future for future in futures if not isinstance(future, Exception) and not future.done()
        ]
        if unfinished:
            with contextlib.suppress(errors.FurlongError):
                ids = [key for future in unfinished for key in future.msg_ids]
                session = self._executor.view.client._session
                session.cancel(ids) if running else session.take_back(ids)

    def forget(self) -> None:
        """Keep no values: the iterator is gone. If reading had begun, what has not begun is cancelled."""
        if self._has_begun and not (self.is_all_submitted and not self._unread):
            dispatch.callbacks().soon(self.stop)
        self._has_reader = False
        if not self._has_begun:
            self._unread.clear()


class MapIterator(Iterator[Any]):
    """The values of the map of an executor, in the order of the items."""

    # Nothing is to be given back of what was interrupted at its making.
    _is_over = True

    def __init__(self, calls: MapCalls) -> None:
        self._calls = calls
        self._values: collections.deque[tuple[object, BaseException | None]] = collections.deque()
        self._is_over = False

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        try:
            if not self._values:
                self._values.extend(self._calls.read())
            value, error = self._values.popleft()
            if error is not None:
                raise error
            return value
        except BaseException as error:
            # Where a signal has ended the wait, nobody will have what runs.
            self._end(signals.is_of_signal(error))
            raise

    def _end(self, running: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._values.clear()
            self._calls.stop(running)

    def close(self) -> None:
        """Read no more: calls that have not begun are cancelled."""
        self._end(False)

    cancel = close

    def __del__(self) -> None:
        if not self._is_over:
            self._calls.forget()


class _Engines:
    """The targets of a map's tasks: the shared queue, or of chosen engines the one that has the least to do."""

    def __init__(self, executor: ViewExecutor) -> None:
        # As its flags are at the call.
        view = self._view = executor._submitting()._snapshot()
        self._is_direct = view._is_direct
        self._is_shared = not self._is_direct and view.targets is None
        # What each engine has of this map: tasks, which hold no values.
        self._given: dict[int, list[_furlong.Task]] = {}
        self._chosen = 0

    @property
    def direct(self) -> int | None:
        """The engine of a direct view that was chosen; none for the shared queue, which chooses by the view."""
        return self._chosen if self._is_direct else None

    @property
    def tasks_max(self) -> int:
        """The number of tasks that may be unfinished at once."""
        return TASKS_MAX if self._is_shared else TASKS_PER_ENGINE * len(self._ids())

    def _ids(self) -> list[int]:
        view = self._view
        chosen = view._engines(None) if self._is_direct else view.targets
        online = set(view.client.ids)
        return [engine for engine in chosen if engine in online] or list(chosen)

    def view(self) -> Any:
        """Return a view for the next task."""
        if self._is_shared:
            return self._view
        for engine in self._ids():
            given = self._given.setdefault(engine, [])
            given[:] = [task for task in given if not task.done()]
        self._chosen = min(self._ids(), key=lambda engine: len(self._given[engine]))
        view = copy.copy(self._view)
        view.targets = self._chosen if self._is_direct else [self._chosen]
        return view

    def noted(self, future: ExecutorFuture) -> ExecutorFuture:
        """Remember the task, which went to the engine of the view."""
        if not self._is_shared:
            self._given[self._chosen].append(future._parts[0].task)
        return future
