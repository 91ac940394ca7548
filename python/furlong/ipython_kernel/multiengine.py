"""The engines of IPython.kernel 0.10 by their ids, over the views.

Its defaults are kept: calls wait unless they are told not to, they go to all engines unless some are named, and what
is asked of one engine comes in a list of one. What follows a command that failed is not run.
"""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.ipython_kernel.tasks import (
    PROPERTIES,
    Connected,
)
from furlong.pickling.engine_names import Reference
from furlong.results.async_result import AsyncResult
from furlong.results.displays import ExecuteReply
from furlong.results.exceptions import type_by_name
from furlong.results.subtasks import SubTask
from furlong.views.direct import DirectView
from furlong.views.view import disown
from furlong.waiting.progress import has_prompt

if TYPE_CHECKING:
    from furlong.calls.targets import Targets
    from furlong.cluster.cluster import Cluster

__all__ = [
    "FileTimeoutError",
    "InvalidEngineID",
    "MessageSizeError",
    "MultiEngineClient",
    "NotDefined",
    "PendingResult",
    "QueueCleared",
    "ResultList",
    "ResultNotCompleted",
    "SecurityError",
    "SerializationError",
    "TaskRejectError",
]

# The errors of 0.10, by the names that it had.
NotDefined = type_by_name("NameError")
QueueCleared = errors.TaskAborted
SerializationError = errors.PicklingError
MessageSizeError = errors.PayloadTooLarge
SecurityError = errors.ConnectionRefused
FileTimeoutError = errors.CapabilityNotFound
TaskRejectError = errors.UnmetDependency


class InvalidEngineID(errors.FurlongError, IndexError):
    """There is no such engine."""


class ResultNotCompleted(errors.FurlongError, TimeoutError):
    """The result is not there yet."""


# So many results of commands are remembered for `MultiEngineClient.get_result`.
_REMEMBERED = 1000


class ResultList(list):  # type: ignore[type-arg]
    """The results of commands, a dictionary for each engine; prints as the commands and their output."""

    def __repr__(self) -> str:
        """Show commands and output."""
        return "\n".join(
            ["<Results List>", *(line for command in self for line in _shown(command))]
        )


def _shown(command: Mapping[str, Any]) -> Iterator[str]:
    who, number = command["id"], command["number"]
    yield f"[{who}] In [{number}]: {command['input'].rstrip()}"
    for heading, text in (("Out", command["stdout"]), ("Err", command["stderr"])):
        if text:
            between = "\n" if "\n" in text.rstrip("\n") else " "
            yield f"[{who}] {heading}[{number}]:{between}{text.rstrip()}"


def _command_of(part: SubTask) -> dict[str, object]:
    """Return what a command came to. The value of its last expression is in its output, as an interpreter prints it."""
    assert part.outcome is not None, "a part that has succeeded has its outcome"
    reply = ExecuteReply(part.outcome, part.engine_id)
    shown = (
        "" if reply.execute_result is None else reply.execute_result["data"]["text/plain"] + "\n"
    )
    return {
        "id": part.engine_id,
        "number": reply.execution_count,
        "input": part.info.code,
        "stdout": reply.stdout + shown,
        "stderr": reply.stderr,
        "outputs": reply.outputs,
    }


class PendingResult:
    """A result that need not be there yet."""

    def __init__(
        self, result: AsyncResult, read: Callable[[AsyncResult], object] | None = None
    ) -> None:
        self._result = result
        self._read = read or AsyncResult.get
        self._callbacks: list[Callable[[object], object]] = []

    def get_result(self, default: object = None, block: bool = True) -> Any:
        """Return the result, as the callbacks have made it.

        Parameters
        ----------
        default : object
            What is given while it is not there.
        block : bool
            Wait for it.

        Raises
        ------
        CompositeError
            If it failed.
        """
        if not block and not self._result.done():
            return default
        value = self._read(self._result)
        while self._callbacks:
            value = self._callbacks.pop(0)(value)
            self._read = functools.partial(_always, value)
        return value

    @property
    def r(self) -> Any:
        """The result; waits for it."""
        return self.get_result()

    def add_callback(self, f: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Have the result go through a function when it is asked for. What it returns is the result from then on."""
        self._callbacks.append(lambda value: f(value, *args, **kwargs))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it has come in time."""
        return bool(self._result.wait(timeout))

    def done(self) -> bool:
        """Return whether it is there."""
        return self._result.done()

    def __repr__(self) -> str:
        """Name the result."""
        return f"<{type(self).__name__} of {self._result!r}>"


def _always(value: object, _: AsyncResult) -> object:
    return value


class MultiEngineClient(Connected):
    """Engines by their ids, as IPython.kernel 0.10 had them.

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
    block : bool
        Whether calls wait for their results, if they are not told; true at first.
    targets : "all", int, or sequence of int
        The engines that calls go to, if they are not told; all at first.
    client : Client
        The connection, for everything else.

    Examples
    --------
    >>> mec = client.MultiEngineClient()
    >>> mec.execute('print("Hello World")')
    <Results List>
    [0] In [1]: print("Hello World")
    [0] Out[1]: Hello World
    """

    def __init__(
        self,
        cap_file: str | os.PathLike[str] | None = None,
        *,
        cluster: str | Cluster | None = None,
        timeout: float = 10,
    ) -> None:
        super().__init__(cap_file, cluster=cluster, timeout=timeout)
        self.block = True
        self.targets: Targets = "all"
        self._commands: collections.deque[AsyncResult] = collections.deque(maxlen=_REMEMBERED)

    def get_ids(self) -> list[int]:
        """Return the ids of the engines, sorted."""
        return self.client.ids

    def __len__(self) -> int:
        """Return how many engines there are."""
        return len(self.client)

    def _view(self, targets: Targets) -> DirectView:
        """Return a view whose results are lists, also of one engine."""
        targets = self.targets if targets is None else targets
        try:
            return self.client.direct_view([targets] if isinstance(targets, int) else targets)
        except IndexError as error:
            raise InvalidEngineID(str(error)) from None

    def _finish(
        self,
        result: AsyncResult,
        block: bool | None,
        read: Callable[[AsyncResult], object] | None = None,
    ) -> object:
        pending = PendingResult(result, read)
        if not (self.block if block is None else block):
            return pending
        try:
            result.wait()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and has_prompt():
                return pending
            disown(result, error)
            raise
        return pending.r

    # Code.

    def execute(self, lines: str, targets: Targets = None, block: bool | None = None) -> Any:
        """Execute code in the namespaces of engines.

        Returns
        -------
        ResultList, or PendingResult if it does not wait
            For each engine ``id``, ``number``, ``input``, ``stdout``, ``stderr`` and ``outputs``.
        """
        return self._finish_commands(
            self._view(targets).execute(lines, silent=False, block=False), block
        )

    def run(self, filename: str | Path, targets: Targets = None, block: bool | None = None) -> Any:
        """Run a script, which is read here, in the namespaces of engines. See `execute`."""
        return self._finish_commands(self._view(targets).run(filename, block=False), block)

    def _finish_commands(self, result: AsyncResult, block: bool | None) -> object:
        self._commands.append(result)

        def read(result: AsyncResult) -> ResultList:
            result.get()
            return ResultList(_command_of(part) for part in result._parts)

        return self._finish(result, block, read)

    def get_result(
        self, i: int | None = None, targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Return what this client's last command came to on each engine, or that of the number `i` there.

        Raises
        ------
        IndexError
            If an engine had no such command of this client, or it is too long ago, or it failed.
        ResultNotCompleted
            If it has not ended, and this does not wait.
        """
        waits = self.block if block is None else block
        return ResultList(
            self._command(engine, i, waits) for engine in self._view(targets)._engines(None)
        )

    def _command(self, engine: int, number: int | None, waits: bool) -> dict[str, object]:
        for result in reversed(self._commands):
            for part in result._parts:
                if part.engine_id != engine:
                    continue
                if not waits and not part.poll():
                    raise ResultNotCompleted(f"a command has not ended on engine {engine}")
                part.wait()
                part.settle()
                if part.error is None:
                    command = _command_of(part)
                    if number in (None, command["number"]):
                        return command
                elif number is None:
                    raise part.error
        which = "command" if number is None else f"command {number} that succeeded"
        raise IndexError(f"engine {engine} had no {which} of this client")

    # Variables.

    def push(
        self, namespace: Mapping[str, object], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Set variables."""
        return self._finish(self._view(targets).push(namespace, block=False), block)

    def pull(
        self, keys: str | Sequence[str], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Get variables: of one name a value from each engine, of several a list from each.

        Raises
        ------
        CompositeError
            Of `NotDefined`, where a name is not there.
        """
        return self._finish(self._view(targets).pull(keys, block=False), block)

    def __getitem__(self, key: str) -> Any:
        """Get a variable, and wait for it: the list of its values, one from each engine.

        Raises
        ------
        TypeError
            If the name is no str.
        """
        if not isinstance(key, str):
            raise TypeError(
                f"a variable has a name: mec['a'], not mec[{key!r}]; `pull(key, targets)` chooses engines"
            )
        return self.pull(key, block=True)

    def __setitem__(self, key: str, value: object) -> None:
        """Set a variable, and wait for that."""
        self.push({key: value}, block=True)

    def zip_pull(
        self, keys: Sequence[str], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Get variables: for each name a tuple of the values of all engines."""
        result = self._view(targets).pull(list(keys), block=False)
        return self._finish(result, block, lambda result: list(zip(*result.get(), strict=True)))

    def push_function(
        self,
        namespace: dict[str, Callable[..., Any]],
        targets: Targets = None,
        block: bool | None = None,
    ) -> Any:
        """Set functions whose global names are those of the engine's namespace."""
        view = self._view(targets)
        view.use_pickle()
        return self._finish(view.push(namespace, block=False), block)

    def pull_function(
        self, keys: str | Sequence[str], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Get functions, as `pull` gets variables."""
        return self.pull(keys, targets, block)

    def keys(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Get the names that users have made."""
        return self._finish(self._view(targets).keys(block=False), block)

    def scatter(
        self,
        key: str,
        seq: Sequence[object],
        dist: str = "b",
        flatten: bool = False,
        targets: Targets = None,
        block: bool | None = None,
    ) -> Any:
        """Deal a sequence to engines. See `DirectView.scatter`."""
        return self._finish(
            self._view(targets).scatter(key, seq, dist, flatten, block=False), block
        )

    def gather(
        self, key: str, dist: str = "b", targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Collect what was scattered. See `DirectView.gather`."""
        return self._finish(self._view(targets).gather(key, dist, block=False), block)

    def map(
        self,
        func: Callable[..., Any],
        *sequences: Iterable[object],
        targets: Targets = None,
        block: bool | None = None,
    ) -> Any:
        """Call a function with each item, one block of them for each engine; give the list of values."""
        return self._finish(self._view(targets).map(func, *sequences, block=False), block)

    # What an engine knows of itself.

    def set_properties(
        self, properties: Mapping[str, object], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Set properties of engines. A task's `depend` is asked with them. `reset` clears them too."""
        return self._on_properties("update", targets, block, dict(properties))

    def get_properties(
        self, keys: Sequence[str] | None = None, targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Get the properties of engines, or some of them: a dictionary from each.

        Raises
        ------
        KeyError
            If an engine does not have one of them.
        """

        def read(result: AsyncResult) -> list[dict[str, Any]]:
            return [
                known if keys is None else {key: known[key] for key in keys}
                for known in result.get()
            ]

        return self._on_properties("copy", targets, block, read=read)

    def has_properties(
        self, keys: Sequence[str], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Return which of these properties engines have: a list of bools from each."""
        return self._on_properties(
            "copy",
            targets,
            block,
            read=lambda result: [[key in known for key in keys] for known in result.get()],
        )

    def del_properties(
        self, keys: Sequence[str], targets: Targets = None, block: bool | None = None
    ) -> Any:
        """Delete properties of engines."""
        view = self._view(targets)
        pop = Reference(f"{PROPERTIES}.pop")
        results = [view.apply_async(pop, key) for key in keys]
        return self._finish(
            AsyncResult._listed(results), block, lambda result: result.get() and None
        )

    def clear_properties(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Delete all properties of engines."""
        return self._on_properties("clear", targets, block)

    def _on_properties(
        self,
        method: str,
        targets: Targets,
        block: bool | None,
        *args: object,
        read: Callable[[AsyncResult], object] | None = None,
    ) -> object:
        result = self._view(targets).apply_async(Reference(f"{PROPERTIES}.{method}"), *args)
        return self._finish(result, block, read)

    # Control.

    def reset(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Empty the namespaces of engines."""
        return self._finish(self._view(targets).clear(block=False), block)

    def clear_queue(self, targets: Targets = None) -> None:
        """Take back what this client has queued and engines have not begun. It ends with `QueueCleared`."""
        self.client.abort(targets=self._view(targets)._engines(None))

    def queue_status(self, targets: Targets = None) -> list[tuple[int, dict[str, int]]]:
        """Return how much work engines have: what waits, ``queue``, and what they have, ``pending``."""
        status = self.client.queue_status(self._view(targets)._engines(None))
        engines = sorted(key for key in status if isinstance(key, int))
        return [
            (key, {"queue": status[key]["queue"], "pending": status[key]["tasks"]})
            for key in engines
        ]

    def barrier(self, pending_results: Iterable[PendingResult]) -> None:
        """Wait for results. Errors are raised when the results are asked for."""
        for pending in pending_results:
            pending.wait()

    def flush(self) -> None:
        """Forget the results of commands that have ended: `get_result` does not know them any longer."""
        left = [result for result in self._commands if not result.done()]
        self._commands = collections.deque(left, maxlen=_REMEMBERED)

    def kill(
        self, controller: bool = False, targets: Targets = None, block: bool | None = None
    ) -> None:
        """Stop engines; with `controller` all of them, and the broker."""
        waits = self.block if block is None else block
        self.client.shutdown(self._view(targets)._engines(None), hub=controller, block=waits)
