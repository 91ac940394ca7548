"""Results of tasks: futures that can wait, cancel, and tell what happened."""

from __future__ import annotations

import concurrent.futures
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Any

from furlong import errors
from furlong.results.displays import ExecuteReply
from furlong.results.lazy_future import UNKNOWN, LazyFuture
from furlong.results.shown import ShownResult
from furlong.results.staying import ClusterResult
from furlong.results.subtasks import AWAY, METADATA_OF, SubTask, deadline_after, remaining
from furlong.runs.timeline import TimelineResult
from furlong.waiting import signals
from furlong.waiting.dispatch import callbacks

__all__ = ["AsyncResult", "ExecuteReply"]

# How long `cancel` waits for the broker's answer, in seconds.
CANCEL_WAIT = 3.0

if issubclass(TimeoutError, concurrent.futures.TimeoutError):
    TimedOut: type[TimeoutError] = TimeoutError
else:  # before Python 3.11 they are two

    class TimedOut(TimeoutError, concurrent.futures.TimeoutError):  # type: ignore[no-redef,misc]
        pass


class _MetadataField:
    """Something that is known of a result's tasks: of a single one itself, else a list.

    A `__getattr__` would do as well, but makes each look at any attribute several times as dear.
    """

    def __set_name__(self, kind: type, name: str) -> None:
        self._name = name

    def __get__(self, result: AsyncResult | None, kind: type) -> Any:
        return self if result is None else result._metadata(self._name)


class AsyncResult(LazyFuture, ClusterResult, TimelineResult, ShownResult):
    """The result of one call: one task, or one for each engine.

    It is a `concurrent.futures.Future`: it has callbacks, can be waited for with `concurrent.futures.wait`, and
    awaited. `cancel` ends the tasks, whether they wait or run.

    A call for one engine, or for whichever is free, has a value; one for a list of engines has a list of values.
    To forget a result cancels nothing: the tasks go on. A result can be an argument of a call, also before it has come:
    the engine gets the value.
    """

    def __init__(self, parts: Sequence[SubTask], single: bool) -> None:
        self._parts = parts
        self._single = single

    # Waiting.

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait for the end.

        Parameters
        ----------
        timeout : float, optional
            In seconds; none, or a negative one, is no limit.
        return_when : {"ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"}, optional
            When to return, as `concurrent.futures.wait` has it.

        Returns
        -------
        bool or (set, set)
            Whether all have ended. With `return_when`, as `concurrent.futures.wait` has it: the tasks that have
            ended, and those that have not, as results of their own.
        """
        if return_when is not None:
            return wait_for_some(self.split(), remaining(deadline_after(timeout)), return_when)
        if len(self._parts) == 1:
            return self._parts[0].wait(None if timeout is None or timeout < 0 else timeout)
        deadline = deadline_after(timeout)
        return all(part.wait(remaining(deadline)) for part in self._parts)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the value; raise what the task raised.

        Raises
        ------
        TimeoutError
            If the end does not come in time.
        RemoteError, CompositeError
            If a task, or several, did not succeed.
        """
        return self.get(timeout)

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool = False,
        return_when: str | None = None,
    ) -> Any:
        """Wait for the value.

        Parameters
        ----------
        timeout : float, optional
            In seconds; none, or a negative one, is no limit.
        return_exceptions : bool
            Put exceptions in the place of values, and raise nothing.
        return_when : str, optional
            ``"FIRST_EXCEPTION"``: raise the first exception as soon as it comes.

        Raises
        ------
        TimeoutError
            If the end does not come in time.
        """
        if self._final is UNKNOWN:
            if return_when is not None and return_when != ALL_COMPLETED:
                deadline = deadline_after(timeout)
                self._wait_for_first(deadline, return_when, return_exceptions)
                timeout = remaining(deadline)
            deadline = None if timeout is None else deadline_after(timeout)
            if not self.wait(timeout):
                raise TimedOut(f"{self!r} has not ended in time")
            self._settle()
            if self._final is UNKNOWN:
                self._take_values(deadline)
        if return_exceptions and any(part.error is not None for part in self._parts):
            self._bring(None)
            values = [part.given() for part in self._parts]
            return self._assemble(values)
        if self._error is not None:
            raise self._error
        return self._final

    def _take_values(self, deadline: float | None) -> None:
        """Fetch what has stayed at the cluster."""
        if not self._bring(remaining(deadline)):
            raise TimedOut(f"the value of {self!r} has not come in time")
        self._settle()

    def _wait_for_first(
        self, deadline: float | None, return_when: str | None, return_exceptions: bool
    ) -> None:
        """Raise the first exception that comes, if that is wanted."""
        if return_when == FIRST_COMPLETED:
            warnings.warn(
                "get has no value before all have ended: FIRST_COMPLETED is ignored", stacklevel=3
            )
            return
        self.wait(remaining(deadline), return_when)
        if not return_exceptions:
            self._raise_first()

    def _raise_first(self) -> None:
        for part in self._parts:
            if part.poll():
                part.settle()
                if part.error is not None:
                    raise part.error

    def _ensure_settled(self) -> None:
        if self._final is UNKNOWN:
            self._settle()

    def _settle(self) -> None:
        """Take all ends, which have come, and what they amount to."""
        for part in self._parts:
            part.settle()
        if self._single and self._parts[0].error is None:  # mostly
            value = self._parts[0].value
            self._final = UNKNOWN if value is AWAY else value
            return
        failed = [part.error for part in self._parts if part.error is not None]
        final = None
        try:
            if failed:
                self._error = self._error or self._collect(failed)
            elif self._is_away():
                return
            else:
                final = self._assemble([part.value for part in self._parts])
        except Exception as error:  # who waits is told of this as well
            signals.reraise(error)
            self._error = error
        self._final = final

    def _collect(self, failed: list[errors.FurlongError]) -> errors.FurlongError:
        if self._single:
            return failed[0]
        lost = [error for error in failed if not isinstance(error, errors.RemoteError)]
        if lost:
            return lost[0]
        name = self._parts[0].info.name
        remote = [error for error in failed if isinstance(error, errors.RemoteError)]
        is_cancelled = any(isinstance(error, errors.TaskCancelled) for error in remote)
        kind = errors.CompositeCancelled if is_cancelled else errors.CompositeError
        return kind(f"one or more exceptions raised in: {name}", remote)

    def _assemble(self, values: list[object]) -> object:
        return values[0] if self._single else values

    @property
    def r(self) -> Any:
        """The value; waits for it."""
        return self.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and give the exception if there was one."""
        if self._final is UNKNOWN:
            if not self.wait(timeout):
                raise TimedOut(f"{self!r} has not ended in time")
            self._settle()
        if isinstance(self._error, errors.TaskCancelled):
            raise self._error
        return self._error

    def ready(self) -> bool:
        """Return whether all tasks have ended."""
        return self.done()

    def done(self) -> bool:
        """Return whether all tasks have ended."""
        # The ends that have come are taken: a task whose engine did not fit goes on elsewhere.
        return self._final is not UNKNOWN or all(part.poll() for part in self._parts)

    def running(self) -> bool:
        """Return whether a task has not ended."""
        return not self.done()

    def successful(self) -> bool:
        """Return whether all tasks have succeeded.

        Raises
        ------
        RuntimeError
            If not all have ended.
        """
        if not self.done():
            raise RuntimeError("the result is not ready")
        if self._final is UNKNOWN:
            self._settle()
        return self._error is None

    # Cancelling.

    def cancel(self, force: bool = False) -> bool:
        """End the tasks: those that wait are gone, those that run are interrupted.

        Parameters
        ----------
        force : bool
            Kill an interpreter that does not respond to the interrupt.

        Returns
        -------
        bool
            Whether a task was cancelled, and had not ended before.
        """
        if self.done() and not force:
            return self.cancelled()
        for part in self._parts:
            part.task.cancel(force)
        self.wait(CANCEL_WAIT)
        if self._inner:
            self._parts[0].info.client._session.cancel(list(self._inner), force)
        return self.cancelled()

    def cancelled(self) -> bool:
        """Return whether the tasks were cancelled."""
        if not self.done():
            return False
        self._ensure_settled()
        return any(isinstance(part.error, errors.TaskCancelled) for part in self._parts)

    def abort(self) -> None:
        """Take back the tasks that have not begun; what runs goes on.

        Raises
        ------
        RuntimeError
            If all tasks have ended.
        """
        if self.done():
            raise RuntimeError("the result is ready: there is nothing to abort")
        self._parts[0].info.client.abort(self)

    def _give_up(self, is_abort: bool) -> None:
        """Submit nothing more that belongs to it."""

    def wait_for_stop(self, timeout: float | None = None) -> bool:
        """Wait until nothing of the tasks runs any longer, after a cancel; whether that is so in time."""
        deadline = deadline_after(timeout)
        return all(part.task.stopped(remaining(deadline)) for part in self._parts)

    def _when_over(self, callback: Callable[[], None]) -> None:
        """Call back once, from the thread of callbacks, when all tasks have ended."""
        pending = [part for part in self._parts if not part.is_settled]
        left = itertools.count(len(pending) - 1, -1)

        def one_ended() -> None:
            if next(left) == 0:
                callback()

        if not pending:
            callbacks().soon(callback)
        for part in pending:
            part.when_ended(one_ended, callbacks())

    msg_id = _MetadataField()
    submitted = _MetadataField()
    started = _MetadataField()
    completed = _MetadataField()
    received = _MetadataField()
    engine_id = _MetadataField()
    engine_uuid = _MetadataField()
    follow = _MetadataField()
    after = _MetadataField()
    status = _MetadataField()
    attempts = _MetadataField()
    run_time = _MetadataField()
    execute_input = _MetadataField()
    execute_result = _MetadataField()
    error = _MetadataField()
    stdout = _MetadataField()
    stderr = _MetadataField()
    outputs = _MetadataField()
    data = _MetadataField()
    label = _MetadataField()

    def _metadata(self, name: str) -> object:
        if self.done() and self._final is UNKNOWN:
            self._settle()
        values = [part.metadata(name) for part in self._parts]
        return values[0] if self._single else values

    @property
    def metadata(self) -> Any:
        """All that is known of the tasks: a dictionary, or a list of such."""
        if self.done() and self._final is UNKNOWN:
            self._settle()
        every = [part.all_metadata() for part in self._parts]
        return every[0] if self._single else every

    @property
    def msg_ids(self) -> list[str]:
        """The tasks' ids."""
        return [part.task.id for part in self._all_parts()]

    def _all_parts(self) -> Sequence[SubTask]:
        """Return all of its tasks, which all have been submitted then."""
        return self._parts

    @property
    def owner(self) -> bool:
        """True if the result is this client's own."""
        return all(part.info.owner for part in self._parts)

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in METADATA_OF:
                raise KeyError(key)
            return self._metadata(key)
        values = self.get()
        if self._single:
            values = [values]
        return values[key]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        if self._single:
            raise TypeError(f"{type(self).__name__} of one task has no items: its value is `get()`")
        for part in self._parts:
            part.wait()
            part.settle()
            if part.error is not None:
                raise part.error
            part.bring()
            yield part.value

    def get_dict(self, timeout: float | None = -1) -> dict[int, Any]:
        """Return the values by engine.

        Raises
        ------
        ValueError
            If one engine has several.
        """
        values = self.get(timeout)
        if self._single:
            values = [values]
        engines = [part.engine_id for part in self._parts]
        if len(set(engines)) < len(engines):
            raise ValueError(
                "an engine has several of the results: they have no dictionary by engine"
            )
        return dict(zip(engines, values))  # type: ignore[arg-type]

    @property
    def result_dict(self) -> dict[int, Any]:
        """The values by engine; waits for them."""
        return self.get_dict()

    # Timing.

    @property
    def progress(self) -> int:
        """The number of tasks that have ended."""
        return sum(part.poll() for part in self._parts)

    @property
    def elapsed(self) -> float:
        """Seconds from the submit to the end, or to now."""
        if self.done():
            return self.wall_time
        return time.monotonic() - self._parts[0].began_at

    @property
    def serial_time(self) -> float:
        """Seconds that the tasks ran, added up.

        Raises
        ------
        TimeoutError
            If not all have ended.
        """
        self._check_ready()
        return sum(part.outcome.times[3] for part in self._parts if part.outcome is not None) / 1e6

    @property
    def wall_time(self) -> float:
        """Seconds from the first submit to the last task's end, by the broker's clock.

        Raises
        ------
        TimeoutError
            If not all have ended.
        """
        self._check_ready()
        spans = [span for span in (part.span() for part in self._parts) if span is not None]
        return max(end for _, end in spans) - min(begin for begin, _ in spans) if spans else 0.0

    def _check_ready(self) -> None:
        if not self.done():
            raise TimeoutError("the result is not ready")
        if self._final is UNKNOWN:
            self._settle()

    def timedelta(
        self,
        start: object,
        end: object,
        start_key: Callable[[Iterable[Any]], Any] = min,
        end_key: Callable[[Iterable[Any]], Any] = max,
    ) -> float:
        """Return the seconds between two times, or between the first of several and the last of several."""
        import datetime

        def one(times: Any, choose: Callable[[Iterable[Any]], Any]) -> Any:
            return (
                times
                if isinstance(times, datetime.datetime)
                else choose(time for time in times if time)
            )

        seconds: float = (one(end, end_key) - one(start, start_key)).total_seconds()
        return seconds

    # Sending.

    @property
    def sent(self) -> bool:
        """True if the arguments may be changed again.

        They are kept as they are for as long as they may have to be sent once more: until the tasks have ended.
        """
        return self.done()

    def wait_for_send(self, timeout: float | None = -1) -> None:
        """Wait until the arguments may be changed again.

        Raises
        ------
        TimeoutError
            If they may not within the time.
        """
        if not self.wait(timeout):
            raise TimeoutError("the arguments are still needed")

    # Taking apart.

    def _child(self, part: SubTask) -> AsyncResult:
        """Return the result of one of its tasks."""
        return AsyncResult([part], True)

    def split(self) -> tuple[AsyncResult, ...]:
        """Return a result for each task; of one task, itself."""
        if len(self._parts) == 1 and type(self) is AsyncResult:
            return (self,)
        return tuple(AsyncResult([part], True) for part in self._parts)

    @classmethod
    def join(cls, *results: AsyncResult) -> AsyncResult:
        """Make one result of several; of one, itself.

        Raises
        ------
        ValueError
            If there is none.
        """
        if not results:
            raise ValueError("there is no result to join: give at least one")
        return results[0] if len(results) == 1 else cls._listed(results)

    @classmethod
    def _listed(cls, results: Iterable[AsyncResult]) -> AsyncResult:
        """Make one result whose value is a list, of any number of results."""
        return AsyncResult([part for result in results for part in result._all_parts()], False)

    def __repr__(self) -> str:
        name = self._parts[0].info.name if self._parts else ""
        state = "pending" if not self.done() else "finished" if self.successful() else "failed"
        return f"<{type(self).__name__}({name}): {state}>"

    def __hash__(self) -> int:
        return hash(self._parts[0]) if self._parts else 0

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is type(self):
            return tuple(self._parts) == tuple(other._parts)
        return NotImplemented


def wait_for_some(children: Iterable[AsyncResult], timeout: float | None, return_when: str) -> Any:
    """Wait as `concurrent.futures.wait` does: give the set of those that have ended, and that of the others."""
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(
            f"return_when is one of ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, not {return_when!r}"
        )
    done, pending = concurrent.futures.wait(children, timeout, return_when)
    return done, pending
