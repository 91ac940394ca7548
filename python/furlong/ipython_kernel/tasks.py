"""The tasks of IPython.kernel 0.10: expressions with what they need and what is wanted of them, and functions."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.calls.checks import check_flag, check_names, described
from furlong.client.client import Client
from furlong.pickling.engine_names import EngineFunction, Reference
from furlong.results.async_result import AsyncResult
from furlong.views.dependencies import dependent

if TYPE_CHECKING:
    from furlong.cluster.cluster import Cluster

__all__ = ["Connected", "InvalidTaskID", "MapTask", "StringTask", "TaskClient", "TaskResult"]

# What an engine knows of itself: a dictionary in its namespace, which clearing empties as well.
PROPERTIES = "globals().setdefault('_properties', {})"


class InvalidTaskID(errors.FurlongError, IndexError):
    """The client has no task of that number."""


class Connected:
    """The base of the clients of both interfaces: a connection."""

    def __init__(
        self,
        cap_file: str | os.PathLike[str] | None = None,
        *,
        cluster: str | Cluster | None = None,
        timeout: float = 10,
    ) -> None:
        self.client = Client(cap_file, cluster=cluster, timeout=timeout)

    def close(self) -> None:
        """Close the connection. The cluster goes on."""
        self.client.close()

    def __enter__(self) -> Any:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def map(self, func: Callable[..., Any], *sequences: Iterable[object]) -> Any:
        """Call a function with each item, and give the list of values."""
        raise NotImplementedError

    def parallel(self, **options: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a decorator: the function of single items is called with sequences, and `map` does it.

        Parameters
        ----------
        **options
            As `map` takes them.
        """
        return lambda f: functools.wraps(f)(lambda *sequences: self.map(f, *sequences, **options))


class _Task:
    """The base of both kinds of tasks."""

    def __init__(
        self,
        clear_before: bool,
        clear_after: bool,
        retries: int,
        recovery_task: _Task | None,
        depend: Callable[[dict[str, Any]], object] | None,
    ) -> None:
        self.clear_before = clear_before
        self.clear_after = clear_after
        self.retries = check_flag("retries", retries)
        if recovery_task is not None:
            _check_task("recovery_task", recovery_task)
        if depend is not None and not callable(depend):
            raise TypeError(
                f"depend is asked with an engine's properties: {described(depend)} cannot be called"
            )
        self.recovery_task = recovery_task
        self.depend = depend

    def _call(self) -> tuple[Any, Sequence[object], Mapping[str, object]]:
        """Return the function that an engine calls, and its arguments."""
        raise NotImplementedError

    def _submit(self, client: Client) -> AsyncResult:
        f, args, kwargs = self._call()
        if self.depend is not None:
            f = dependent(f, _truth_of(self.depend), Reference(PROPERTIES))
        return client.load_balanced_view(retries=self.retries).apply_async(f, *args, **kwargs)

    def _outcome(self, number: int, result: AsyncResult) -> object:
        """Return what a client is given for a task that has ended."""
        raise NotImplementedError


def _check_task(what: str, task: object) -> None:
    if not isinstance(task, _Task):
        raise TypeError(
            f"{what} is a StringTask or a MapTask, not {described(task)}: StringTask('a = 1') runs code"
        )


def _truth_of(
    condition: Callable[[dict[str, object]], object],
) -> Callable[[dict[str, object]], bool]:
    return lambda properties: bool(condition(properties))


class StringTask(_Task):
    """Code that runs wherever an engine is free.

    Parameters
    ----------
    expression : str
        Any statements. They run in the engine's namespace.
    pull : str or sequence of str, optional
        The names whose values are wanted.
    push : dict, optional
        Variables that are set before.
    clear_before, clear_after : bool
        Whether the namespace is emptied.
    retries : int
        How often it is run again after an error, or the loss of its engine.
    recovery_task : StringTask or MapTask, optional
        What runs in its place when it has failed.
    depend : callable, optional
        Is asked on the engine, with the engine's properties; where it is false the task goes elsewhere.
    """

    def __init__(
        self,
        expression: str,
        pull: str | Sequence[str] | None = None,
        push: Mapping[str, object] | None = None,
        clear_before: bool = False,
        clear_after: bool = False,
        retries: int = 0,
        recovery_task: _Task | None = None,
        depend: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        super().__init__(clear_before, clear_after, retries, recovery_task, depend)
        self.expression = expression
        self.pull = [pull] if isinstance(pull, str) else list(pull or ())
        self.push = dict(push or {})
        check_names(self.push)

    def _call(self) -> tuple[Any, Sequence[object], Mapping[str, object]]:
        clears = (self.clear_before, self.clear_after)
        return EngineFunction(_run_string), (clears, self.push, self.expression, self.pull), {}

    def _outcome(self, number: int, result: AsyncResult) -> TaskResult:
        return TaskResult(number, result)


def _run_string(
    clears: tuple[bool, bool], push: Mapping[str, object], expression: str, pull: list[str]
) -> dict[str, object]:
    """Run an expression; on the engine, whose worker has the namespace."""
    import importlib

    names = importlib.import_module("furlong_worker.engine")._Bound.names
    before, after = clears
    try:
        if before:
            names.clear()
        names.push(push)
        exec(compile(expression, "<task>", "exec", dont_inherit=True), names.variables)
        # No `strict`: engines may run a Python that does not have it.
        return dict(zip(pull, names.pull(pull)))
    finally:
        if after:
            names.clear()


class MapTask(_Task):
    """A call of a function, wherever an engine is free. Its result is the function's value.

    Parameters
    ----------
    function : callable
        The function.
    args, kwargs : sequence, dict, optional
        Its arguments.
    clear_before, clear_after, retries, recovery_task, depend
        As `StringTask` has them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        clear_before: bool = False,
        clear_after: bool = False,
        retries: int = 0,
        recovery_task: _Task | None = None,
        depend: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        super().__init__(clear_before, clear_after, retries, recovery_task, depend)
        self.function = function
        self.args = tuple(args or ())
        self.kwargs = dict(kwargs or {})

    def _call(self) -> tuple[object, Sequence[object], Mapping[str, object]]:
        if not (self.clear_before or self.clear_after):
            return self.function, self.args, self.kwargs
        clears = (self.clear_before, self.clear_after)
        return EngineFunction(_run_function), (clears, self.function, self.args, self.kwargs), {}

    def _outcome(self, number: int, result: AsyncResult) -> object:
        return result.get()


def _run_function(
    clears: tuple[bool, bool],
    function: Callable[..., Any],
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> object:
    """Call a function; on the engine, whose worker has the namespace."""
    import importlib

    names = importlib.import_module("furlong_worker.engine")._Bound.names
    before, after = clears
    try:
        if before:
            names.clear()
        return function(*args, **kwargs)
    finally:
        if after:
            names.clear()


class TaskResult:
    """The result of a `StringTask`.

    Attributes
    ----------
    taskid : int
        Its number.
    engineid : int or None
        The engine that ran it.
    results : dict
        The values that were pulled, by their names; also as ``result["x"]`` and ``result.ns.x``.
    failure : Exception or None
        Why it failed.
    submitted, completed : datetime or None
        When.
    duration : float or None
        Seconds between the two.
    """

    def __init__(self, taskid: int, result: AsyncResult) -> None:
        self.failure = _failure_of(result)
        self.results: dict[str, Any] = {} if self.failure is not None else result.get()
        self.taskid = taskid
        self.engineid: int | None = result.engine_id
        self.submitted: datetime.datetime | None = result.submitted
        self.completed: datetime.datetime | None = result.completed
        self.duration: float | None = None
        if self.submitted is not None and self.completed is not None:
            self.duration = (self.completed - self.submitted).total_seconds()

    def raise_exception(self) -> None:
        """Raise why it failed, if it did."""
        if self.failure is not None:
            raise self.failure

    @property
    def ns(self) -> SimpleNamespace:
        """The values that were pulled, as attributes; raises why it failed, if it did."""
        self.raise_exception()
        return SimpleNamespace(**self.results)

    def __getitem__(self, name: str) -> Any:
        """Return the value of a name that was pulled; raise why the task failed, if it did."""
        self.raise_exception()
        return self.results[name]

    def __repr__(self) -> str:
        """Show the values, or why there are none."""
        end = repr(self.results) if self.failure is None else str(self.failure)
        return f"<TaskResult {self.taskid}: {end}>"


def _failure_of(result: AsyncResult) -> BaseException | None:
    try:
        return result.exception()
    except concurrent.futures.CancelledError as error:
        return error


class _Entry:
    """A task of a client, and what runs for it: itself, or later what it has for its recovery."""

    def __init__(self, client: Client, number: int, task: _Task) -> None:
        self.number = number
        self._client = client
        self._changed = threading.Condition()
        self._final: tuple[_Task, AsyncResult] | None = None
        self._start(task)

    def _start(self, task: _Task) -> None:
        result = self.result = task._submit(self._client)
        result.add_done_callback(lambda _: self._note(task, result))

    def _note(self, task: _Task, result: AsyncResult) -> None:
        """Take an end. What was taken back is not recovered from."""
        failed = _failure_of(result)
        if (
            failed is not None
            and task.recovery_task is not None
            and not isinstance(failed, errors.TaskAborted)
        ):
            # What cannot be submitted recovers from nothing: the failure stands.
            with contextlib.suppress(errors.FurlongError):
                self._start(task.recovery_task)
                return
        with self._changed:
            self._final = task, result
            self._changed.notify_all()

    def done(self) -> bool:
        return self._final is not None

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(self.done, timeout)

    def succeeded(self) -> bool:
        return self._final is not None and _failure_of(self._final[1]) is None

    def outcome(self) -> Any:
        assert self._final is not None, "it is asked for once it has ended"
        task, result = self._final
        return task._outcome(self.number, result)


class TaskClient(Connected):
    """The shared queue, as IPython.kernel 0.10 had it: tasks have numbers, which begin at 0.

    Parameters
    ----------
    cap_file : str or path, optional
        The capability file. Without it that of the cluster, as `furlong.Client` finds it.
    cluster : str or Cluster, optional
        The cluster, or its name.
    timeout : float
        Seconds to wait for file and broker.

    Attributes
    ----------
    client : Client
        The connection, for everything else.

    Examples
    --------
    >>> tc = client.TaskClient()
    >>> tc.get_task_result(tc.run(client.StringTask("a = 6 * 7", pull="a")), block=True)["a"]
    42
    """

    def __init__(
        self,
        cap_file: str | os.PathLike[str] | None = None,
        *,
        cluster: str | Cluster | None = None,
        timeout: float = 10,
    ) -> None:
        super().__init__(cap_file, cluster=cluster, timeout=timeout)
        self._entries: dict[int, _Entry] = {}
        self._next = 0

    def run(self, task: _Task, block: bool = False) -> Any:
        """Submit a task.

        Returns
        -------
        int
            Its number; or, if it waits, what `get_task_result` gives.

        Raises
        ------
        TypeError
            If it is no `StringTask` or `MapTask`.
        """
        _check_task("a task", task)
        number = self._next
        self._entries[number] = _Entry(self.client, number, task)
        self._next += 1
        return self.get_task_result(number, block=True) if block else number

    def _entry(self, taskid: int) -> _Entry:
        entry = self._entries.get(taskid)
        if entry is None:
            raise InvalidTaskID(f"this client has no task {taskid}")
        return entry

    def get_task_result(self, taskid: int, block: bool = False) -> Any:
        """Return what a task came to: a `TaskResult`, or the value of a `MapTask`. None if it has not ended.

        Raises
        ------
        InvalidTaskID
            If there is no such task, or `clear` has forgotten it.
        RemoteError
            If a `MapTask` failed.
        """
        entry = self._entry(taskid)
        if block:
            entry.wait()
        return entry.outcome() if entry.done() else None

    def abort(self, taskid: int) -> None:
        """Take a task back that has not begun; what runs goes on."""
        entry = self._entry(taskid)
        if not entry.done():
            self.client.abort(entry.result)

    def barrier(self, taskids: Iterable[int]) -> None:
        """Wait for tasks. Errors are raised when the results are asked for."""
        for taskid in taskids:
            self._entry(taskid).wait()

    def spin(self) -> None:
        """Do nothing: tasks are given to engines as these get free."""

    def queue_status(self, verbose: bool = False) -> dict[str, Any]:
        """Return the state of this client's tasks.

        Parameters
        ----------
        verbose : bool
            Give lists of numbers instead of counts.

        Returns
        -------
        dict
            ``pending`` (an engine has it), ``failed``, ``succeeded``, ``scheduled`` (waits for an engine).
        """
        status: dict[str, list[int]] = {
            "pending": [],
            "failed": [],
            "succeeded": [],
            "scheduled": [],
        }
        waiting = self.client._not_running()
        for number, entry in self._entries.items():
            if entry.done():
                key = "succeeded" if entry.succeeded() else "failed"
            else:
                key = "scheduled" if entry.result.msg_ids[0] in waiting else "pending"
            status[key].append(number)
        return status if verbose else {key: len(numbers) for key, numbers in status.items()}

    def clear(self) -> None:
        """Forget the tasks that have ended. Numbers go on."""
        self._entries = {
            number: entry for number, entry in self._entries.items() if not entry.done()
        }

    def map(self, func: Callable[..., Any], *sequences: Iterable[object]) -> Any:
        """Call a function with each item, wherever an engine is free; give the list of values."""
        return self.client.load_balanced_view().map(func, *sequences, block=True)
