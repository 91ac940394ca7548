"""Views as executors of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.results.async_result import CANCEL_WAIT, AsyncResult
from furlong.results.records import task_phase, wait_for_ids
from furlong.waiting import dispatch, signals

if TYPE_CHECKING:
    from furlong.views.executor_map import MapCalls
    from furlong.views.view import View

__all__ = ["ExecutorFuture", "ViewExecutor"]

# How many ids of tasks are kept at least before those that have ended are sorted out.
IDS_MIN = 1024
# How long `ExecutorFuture.cancel` waits between two looks at a task that engines may give back, in
# seconds.
LOOK_SECONDS = 0.01


class ExecutorFuture(AsyncResult):
    """The future of a call by an executor: `cancel` takes back what has not begun, and leaves alone what runs."""

    def __init__(self, made: AsyncResult, executor: ViewExecutor) -> None:
        super().__init__(made._parts, made._single)
        self._executor = executor

    def _collect(self, failed: list[errors.FurlongError]) -> errors.FurlongError:
        return super()._collect([_as_cancelled(error) for error in failed])

    def cancel(self, force: bool = False) -> bool:
        """Take the call back, unless it has begun.

        Parameters
        ----------
        force : bool
            End it also if it runs; an interpreter that does not respond to the interrupt is killed.

        Returns
        -------
        bool
            Whether it is cancelled. If not, it runs, or has ended, and its value will come or is there.
        """
        if force:
            return super().cancel(True)
        # Of a call on several engines all is taken back, or nothing.
        if not self.done() and not (len(self._parts) > 1 and self._has_begun()):
            self._parts[0].info.client._session.take_back(self.msg_ids)
            pause = LOOK_SECONDS
            while not self.wait(pause) and not self.running() and pause < CANCEL_WAIT:
                pause *= 2
        return self.cancelled()

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        if not self.done():
            return False
        self._ensure_settled()
        return isinstance(self._error, errors.TaskCancelled)

    def running(self) -> bool:
        """Return whether an engine runs the call now; the broker is asked."""
        session = self._parts[0].info.client._session
        return not self.done() and any(
            task_phase(session, key) == "running" for key in self.msg_ids
        )

    def _has_begun(self) -> bool:
        return self.running() or any(part.poll() for part in self._parts)


# To whoever uses it, it is no other.
ExecutorFuture.__name__ = AsyncResult.__name__


def _as_cancelled(error: errors.FurlongError) -> errors.FurlongError:
    """Return the error of a cancelled call for that of one taken back; any other as it is."""
    if isinstance(error, errors.TaskAborted) and not isinstance(error, errors.TaskCancelled):
        return errors.TaskCancelled("TaskCancelled", error.evalue, "", vars(error)["_engine_info"])
    return error


class ViewExecutor(concurrent.futures.Executor):
    """A view as an executor of `concurrent.futures`. To shut it down does not stop engines.

    At the end of the program what it has submitted is waited for, as for other executors, unless its client or its
    cluster is closed before.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._lock = threading.Lock()
        # The tasks that may not have ended.
        self._ids: set[str] = set()
        self._ids_max = IDS_MIN
        self._maps: set[MapCalls] = set()
        self._is_shut = False
        self._is_known = False

    @property
    def _max_workers(self) -> int:
        # Dask asks for it, and takes no 0: engines may come later.
        return max(1, len(self.view))

    def submit(self, fn: Callable[..., Any], /, *args: object, **kwargs: object) -> ExecutorFuture:
        """Call a function, and give its future.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        """
        self._check_open()
        session = self.view.client._session
        return signals.owned(
            session, lambda: self._noted(self._submitting().apply_async(fn, *args, **kwargs))
        )

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call a function with each item, and give an iterator over the values, in the order of the items.

        The calls are submitted at once; of very many, the rest follows as calls end, whether or not somebody reads.
        When reading has begun and ends early, by an exception or because the iterator is closed or gone, calls that
        have not begun are cancelled.

        Parameters
        ----------
        timeout : float, optional
            How many seconds after this call a value has to be there, for the iterator to give it.
        chunksize : int
            How many calls are one task.
        buffersize : int, optional
            How many tasks are submitted at most whose values are not read yet; items are taken as values are read.

        Raises
        ------
        TimeoutError
            From the iterator, if a value is not there in time.
        RuntimeError
            After `shutdown`.
        """
        from furlong.views.executor_map import MapCalls, MapIterator

        self._check_open()
        calls = MapCalls(self, fn, iterables, timeout, chunksize, buffersize)
        with self._lock:
            self._maps = {known for known in self._maps if not known.is_over}
            self._maps.add(calls)
        iterator = MapIterator(calls)
        calls.start()
        return iterator

    def _check_open(self) -> None:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if dispatch.is_exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _submitting(self) -> Any:
        """Return the view as calls are submitted: one that fails leaves alone what is queued behind it."""
        if not self.view._is_direct:
            return self.view
        view: Any = copy.copy(self.view)
        view._aborts = False
        return view

    def _noted(self, made: AsyncResult) -> ExecutorFuture:
        """Return the future of what was submitted, and remember its tasks; nothing here keeps values or arguments."""
        future = ExecutorFuture(made, self)
        client = self.view.client
        client._note(future)
        with self._lock:
            self._ids.update(future.msg_ids)
            if len(self._ids) > self._ids_max:
                self._ids &= set(client._session.unfinished())
                self._ids_max = max(IDS_MIN, 2 * len(self._ids))
            is_known, self._is_known = self._is_known, True
        if not is_known:
            for other in [other for other in client._executors.copy() if other._is_idle()]:
                client._executors.discard(other)
            client._executors.add(self)
            dispatch.finish_before_exit(client)
        return future

    def _futures(self) -> list[ExecutorFuture]:
        """Return the futures that somebody holds."""
        held = {id(result): result for result in self.view.client._results().values()}
        return [
            result
            for result in held.values()
            if isinstance(result, ExecutorFuture) and result._executor is self
        ]

    def _is_idle(self) -> bool:
        """Check whether all that was submitted has ended; then the client need not know of it any longer."""
        with self._lock:
            self._ids &= set(self.view.client._session.unfinished())
            self._is_known = bool(self._ids) or not all(calls.is_over for calls in self._maps)
            return not self._is_known

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. Engines go on.

        Parameters
        ----------
        wait : bool
            Return when all that was submitted has ended. If not, it goes on meanwhile.
        cancel_futures : bool
            Cancel what has not begun; what runs goes on.
        """
        self._is_shut = True
        with self._lock:
            maps = list(self._maps)
        for calls in maps:
            calls.hurry(cancel_futures)
        if cancel_futures:
            self._take_back()
        if wait:
            self._finish()

    def _take_back(self) -> None:
        """Cancel what has not begun."""
        session = self.view.client._session
        with contextlib.suppress(errors.FurlongError):
            # First the broker has it all, and engines that are free have begun.
            session.flush()
            with self._lock:
                wanted = self._ids & set(session.unfinished())
            for future in self._futures():
                if (
                    len(future.msg_ids) > 1
                    and not wanted.isdisjoint(future.msg_ids)
                    and future._has_begun()
                ):
                    wanted.difference_update(future.msg_ids)
            if wanted:
                session.take_back(list(wanted))

    def _finish(self) -> None:
        """Wait until all that was submitted has ended."""
        for calls in list(self._maps):
            calls.wait_until_over()
        for future in self._futures():
            future.wait()
        # Those that nobody holds are still waited for. When the session is over, nothing is left to
        # wait for.
        with contextlib.suppress(errors.ConnectionLost):
            wait_for_ids(
                self.view.client._session,
                self._ids & set(self.view.client._session.unfinished()),
                None,
            )
        with self._lock:
            self._ids.clear()
            self._maps.clear()
            self._is_known = False
        self.view.client._executors.discard(self)
