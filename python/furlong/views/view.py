"""Views: their flags, and the calls that both kinds have."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong
from furlong.calls.checks import check_flag, described, unknown_flag
from furlong.calls.targets import Chosen, Targets, are_ids, resolve_targets
from furlong.calls.task_spec import CallInfo
from furlong.ipyparallel_names import ViewNames
from furlong.pickling.engine_names import EngineFunction, as_on_engine, is_interactive
from furlong.pickling.functions import Pickled, PreparedFunction, cached_function, function_of
from furlong.results.async_result import AsyncResult
from furlong.results.records import Numbers
from furlong.views.flags import FLAGS, TASK_FLAGS

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from furlong.calls.checks import Tasks
    from furlong.client.client import Client
    from furlong.client.tasks import Jobs
    from furlong.maps.map_calls import LazyMapIterator
    from furlong.maps.map_results import AsyncMapResult
    from furlong.views.executor import ViewExecutor
    from furlong.views.flags import CallFlags, ViewFlags
    from furlong.waiting.progress import Bar

__all__ = ["View", "disown", "in_engine_namespace"]


class View(ViewNames):
    """The base of both kinds of views.

    Its flags are attributes; `set_flags` and `temp_flags` set them.

    Attributes
    ----------
    block : bool, default False
        Calls wait for their results, and return values instead of `AsyncResult`.
    targets : int, list of int, "all" or None
        The engines; None for the shared queue of all.
    label : str, optional
        A name of the tasks, for people and selectors; at most 256 bytes.
    priority : int, default 0
        Higher runs first in the shared queue.
    retries : int, optional
        Further runs after the loss of an engine, and after an error of the task's own; by default 3 after losses and
        none after errors. For the shared queue.
    error_retries : int, optional
        Further runs after an error of the task's own alone; by default `retries`, else 0. For the shared queue.
    backoff : float, default 0
        Seconds before a task runs again after an error, doubled each time up to a minute.
    at_most_once : bool, default False
        A task whose engine is lost is not run again, and ends as lost.
    timeout : float, optional
        Seconds for which a task may wait for an engine; without limit by default, as for 0.
    run_timeout : float, optional
        Seconds for which a task may run; then it is stopped. Without limit by default.
    time_request : float, optional
        Seconds that an engine must have left before it ends; by default `run_timeout`. For the shared queue.
    after, follow : result, id, `Dependency`, or several of such, optional
        Tasks that must have succeeded before; with `follow`, the task runs on their engine.
    require : str or sequence of str, default ()
        Labels that the engine must have, at most 64.
    keep : bool, default False
        The broker retains results for other processes of the same owner, and goes on with the tasks when this session
        ends.
    durable : bool, default False
        The broker's journal must have a task before it is accepted.
    restart_safe : bool, default False
        A task for one engine may run there also after its interpreter was replaced, in an empty namespace.
    stay : bool, default False
        Values stay at the cluster: `AsyncResult.get` fetches one that is asked for, and as an argument of another call
        it does not come here.
    track, writable : bool
        Are accepted, and have no meaning: arguments are kept until they are sent, and arrays in results can always be
        changed.
    """

    client: Client
    block: bool
    track: bool
    writable: bool
    targets: Chosen | None
    label: str | None
    priority: int
    retries: int | None
    error_retries: int | None
    backoff: float
    at_most_once: bool
    timeout: float | None
    run_timeout: float | None
    time_request: float | None
    after: Tasks
    follow: Tasks
    require: str | Sequence[str]
    keep: bool
    durable: bool
    restart_safe: bool
    stay: bool

    # Whether each engine has its own queue, instead of one queue for all.
    _is_direct = False

    def _own_engines(self) -> list[int] | None:
        """Return the engines that have the tasks, as a call chooses them now; None for the shared queue."""
        return None

    def _on(self, engine: int | None) -> Self:
        """Return the same view on one of its own engines; itself for the shared queue."""
        return self

    def __len__(self) -> int:
        raise NotImplementedError

    def __init__(self, client: Client, **flags: Unpack[ViewFlags]) -> None:
        object.__setattr__(self, "_options", None)
        object.__setattr__(self, "_infos", {})
        object.__setattr__(self, "client", client)
        self._cloudpickle = True
        # The tasks that were submitted by this view.
        self._submitted = Numbers()
        for name, value in FLAGS.items():
            object.__setattr__(self, name, value)
        self.set_flags(**flags)

    def __setattr__(self, name: str, value: object) -> None:
        if name in FLAGS:
            self._set_flag(name, self._checked(name, value))
        elif (
            name.startswith("_")
            or hasattr(type(self), name)
            or not type(self).__module__.startswith("furlong.")
        ):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(unknown_flag(name, FLAGS))

    def _set_flag(self, name: str, value: object) -> None:
        """Set a flag to a value that was checked, and forget what was made of the one before."""
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_options", None)
        object.__setattr__(self, "_infos", {})

    def _repr_html_(self) -> str:
        from furlong.notebook.pages import page_of_view

        return page_of_view(self)

    def set_flags(self, **flags: Unpack[ViewFlags]) -> Self:
        """Set flags, and give the view itself.

        Raises
        ------
        KeyError
            For a flag that does not exist.
        TypeError, ValueError
            For a value that a flag does not take. Then none is set.
        """
        for name in flags:
            if name not in FLAGS:
                raise KeyError(unknown_flag(name, FLAGS))
        self._set_all(flags)
        return self

    def _set_all(self, flags: Mapping[str, object]) -> None:
        checked = {name: self._checked(name, value) for name, value in flags.items()}
        for name, value in checked.items():
            self._set_flag(name, value)

    def _checked(self, name: str, value: Any) -> object:
        """Return a flag's value as it is kept; raise if the flag does not take it."""
        if name == "targets" and value is not None and not are_ids(value):
            return resolve_targets(value, self.client.ids)
        return check_flag(name, value)

    @contextlib.contextmanager
    def temp_flags(self, **flags: Unpack[ViewFlags]) -> Iterator[Self]:
        """Set flags within a ``with`` block."""
        before = {name: getattr(self, name, None) for name in flags}
        self.set_flags(**flags)
        try:
            yield self
        finally:
            self._set_all(before)

    def _with(self, flags: Mapping[str, object]) -> Self:
        """Return the same view with other flags, for one call: other threads may be using this one."""
        if not flags:
            return self
        unknown = next((name for name in flags if name not in FLAGS), None)
        if unknown is not None:
            raise TypeError(unknown_flag(unknown, FLAGS))
        view = copy.copy(self)
        view._set_all(flags)
        return view

    def _snapshot(self) -> Self:
        """Return the view as it is now, for calls whose tasks follow later: other flags are for other calls."""
        object.__setattr__(self, "_turn", getattr(self, "_turn", 0) + 1)
        return copy.copy(self)

    def use_cloudpickle(self) -> None:
        """Send functions with the globals that they have here: the default."""
        self._cloudpickle = True

    use_dill = use_cloudpickle

    def use_pickle(self) -> None:
        """Send functions without globals: their global names are those of the engine's namespace."""
        self._cloudpickle = False

    # Tasks.

    def _task_options(
        self, abort_on_error: bool = False, label: str | None = None, stays: bool = True
    ) -> _furlong.Options | None:
        if (label is not None and label != self.label) or (self.stay and not stays):
            return self._made_options(abort_on_error, label, stays)
        known: dict[bool, _furlong.Options | None] | None = vars(self)["_options"]
        if known is None:
            known = {}
            object.__setattr__(self, "_options", known)
        if abort_on_error not in known:
            known[abort_on_error] = self._made_options(abort_on_error, self.label)
        return known[abort_on_error]

    def _made_options(
        self, abort_on_error: bool, label: str | None, stays: bool = True
    ) -> _furlong.Options | None:
        flags = {name: getattr(self, name) for name in TASK_FLAGS}
        flags["stay"] = flags["stay"] and stays
        if not abort_on_error and label is None and flags == TASK_FLAGS:
            return None
        from furlong.views.dependencies import as_condition

        _check_retries(flags, self.targets)
        retries, error_retries = flags.pop("retries"), flags.pop("error_retries")
        flags["queue_timeout"] = flags.pop("timeout")
        flags["label"] = label
        for name in ("after", "follow"):
            flags[name] = as_condition(flags[name])
        flags["require"] = (
            [flags["require"]] if isinstance(flags["require"], str) else list(flags["require"])
        )
        error_retries = error_retries if error_retries is not None else retries or 0
        return _furlong.Options(
            retries=retries, error_retries=error_retries, abort_on_error=abort_on_error, **flags
        )

    def _info(
        self, name: str, method: str = "apply", label: str | None = None, code: str | None = None
    ) -> CallInfo:
        if label is not None:
            check_flag("label", label)
        known: dict[Any, CallInfo] = self._infos  # type: ignore[attr-defined]
        info = known.get(name) if method == "apply" and label is None else None
        if info is None:
            info = CallInfo(
                self.client,
                name,
                method,
                label=label or self.label,
                after=self.after,
                follow=self.follow,
                code=code,
                stays=self.stay,
            )
            if method == "apply" and label is None:
                known[name] = info
        return info

    def _prepared(self, f: Any) -> Pickled:
        """Return a function as it is submitted."""
        if self._cloudpickle and not is_interactive(f):
            known = cached_function(f)
            if known is not None:
                return known
        if type(f) is PreparedFunction:
            return f.pickled
        from furlong.views.native import NativeFunction

        if isinstance(f, NativeFunction):
            raise TypeError(
                f"{f!r} is called by itself, or with `rc.native`; views call Python functions"
            )
        if isinstance(f, str):
            return Pickled(_furlong.Function.named(f))
        if not callable(f):
            raise TypeError(f"{described(f)} cannot be called")
        f = as_on_engine(f)
        if not self._cloudpickle or is_interactive(f):
            f = in_engine_namespace(f)
        return function_of(f)

    # Calls, as both kinds have them.

    def apply(self, f: Callable[..., Any], /, *args: object, **kwargs: object) -> Any:
        """Call a function on engines: its value if the view blocks, else an `AsyncResult`."""
        return self._apply(f, args, kwargs, self.block)

    def apply_async(self, f: Callable[..., Any], /, *args: object, **kwargs: object) -> AsyncResult:
        """Call a function on engines, and give an `AsyncResult` at once."""
        return self._apply(f, args, kwargs, False)  # type: ignore[no-any-return]

    def apply_sync(self, f: Callable[..., Any], /, *args: object, **kwargs: object) -> Any:
        """Call a function on engines, and wait for its value."""
        return self._apply(f, args, kwargs, True)

    def _apply(
        self, f: object, args: Sequence[object], kwargs: Mapping[str, object], block: bool
    ) -> Any:
        raise NotImplementedError

    def map(self, f: Callable[..., Any], *sequences: Iterable[object], **options: Any) -> Any:
        """Call a function with each item: see the views."""
        raise NotImplementedError

    def map_async(
        self, f: Callable[..., Any], *sequences: Iterable[object], **options: Any
    ) -> AsyncMapResult:
        """Map, and give the `AsyncMapResult` at once."""
        return self.map(f, *sequences, **{**options, "block": False})  # type: ignore[no-any-return]

    def map_sync(self, f: Callable[..., Any], *sequences: Iterable[object], **options: Any) -> Any:
        """Map, and wait for the values."""
        return self.map(f, *sequences, **{**options, "block": True})

    def imap(
        self,
        f: Callable[..., Any],
        *sequences: Iterable[object],
        ordered: bool = True,
        max_outstanding: int | str = "auto",
        return_exceptions: bool = False,
        shared: Mapping[str, object] | None = None,
    ) -> LazyMapIterator:
        """Map lazily: items are taken as results are, so that the input may be endless.

        Parameters
        ----------
        ordered : bool
            Give results in the items' order, or as they come.
        max_outstanding : int or "auto"
            Items that are submitted and not yet given; ``"auto"`` is the number of engines, 0 no bound.
        return_exceptions : bool
            Give exceptions in the place of values, and go on.
        shared : dict of str to object, optional
            Named arguments of all calls, which are sent once: handles of `Client.share`, results, or values.
        """
        from furlong.maps.map_calls import LazyMapIterator, shared_arguments

        handles = None if shared is None else shared_arguments(self.client, shared)
        return LazyMapIterator(
            self, f, sequences, ordered, max_outstanding, return_exceptions, shared=handles
        )

    def _finish(
        self,
        block: bool | None,
        begin: Callable[..., AsyncResult],
        *arguments: object,
        progress: Bar = False,
    ) -> Any:
        """Submit tasks, and give their result, or its value; at an interactive prompt Ctrl-C gives the result.

        Where a signal's handler ends this otherwise, at whichever line, nobody has the result: the tasks are cancelled,
        and the exception has the result as `result`, if there was one.
        """
        session = self.client._session
        count = session.submitted()
        result = None
        try:
            result = begin(*arguments)
            is_waiting = self.block if block is None else block
            if progress:
                _show_progress(result, progress, is_waiting)
            if not is_waiting:
                return result
            result.wait()
        except BaseException as error:
            if result is not None and isinstance(error, KeyboardInterrupt):
                from furlong.waiting.progress import has_prompt

                if has_prompt():
                    return result
            session.cancel_since(count)
            if result is not None:
                disown(result, error)
            raise
        return result.get()

    def remote(
        self, block: bool | None = None, **flags: Unpack[CallFlags]
    ) -> Callable[[Callable[..., Any]], Any]:
        """Make a decorator: the function runs on the engines of this view when it is called."""
        from furlong.views.functions import remote

        return remote(self, block, **flags)

    def parallel(
        self,
        dist: str = "b",
        block: bool | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        **flags: Unpack[CallFlags],
    ) -> Callable[[Callable[..., Any]], Any]:
        """Make a decorator: the function is called with parts of its sequences, on all engines at once."""
        from furlong.views.functions import parallel

        return parallel(self, dist, block, ordered, chunksize, **flags)

    def wait(self, jobs: Jobs = None, timeout: float | None = -1) -> bool:
        """Wait for tasks. See `Client.wait`."""
        return self.client.wait(self._jobs(jobs), timeout)

    def abort(self, jobs: Jobs = None, targets: Targets = None, block: bool | None = None) -> None:
        """Take tasks back that have not begun. See `Client.abort`."""
        self.client.abort(jobs, targets, block)

    def get_result(
        self, indices_or_msg_ids: Jobs = None, block: bool | None = None, owner: bool = True
    ) -> AsyncResult:
        """Return a result by its id, or its place in this view's `history`. See `Client.get_result`."""
        wanted = indices_or_msg_ids
        if wanted is None or isinstance(wanted, int):
            wanted = self.history[-1 if wanted is None else wanted]
        return self.client.get_result(wanted, self.block if block is None else block, owner)

    def _jobs(self, jobs: Jobs) -> Jobs:
        return jobs

    @property
    def executor(self) -> ViewExecutor:
        """The view as a `concurrent.futures.Executor`; to shut it down does not stop engines."""
        from furlong.views.executor import ViewExecutor

        return ViewExecutor(self)


def _check_retries(flags: Mapping[str, object], targets: Targets) -> None:
    """Check that nothing is said against running a task again after an error, if that is wanted."""
    name = "retries" if flags["error_retries"] is None else "error_retries"
    if not flags[name]:
        return
    if flags["at_most_once"]:
        raise ValueError(
            f"{name}={flags[name]} and at_most_once=True contradict each other; leave one of them out"
        )
    if targets is not None:
        raise ValueError(
            f"{name}={flags[name]} is for the shared queue: tasks for chosen engines run once, in the order of their "
            f"queues; leave out {name} or targets"
        )


def disown(result: AsyncResult, error: BaseException) -> None:
    """Cancel what nobody waits for any longer, and let the exception that has ended the wait have it."""
    with contextlib.suppress(Exception):
        error.result = result  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):  # as if the connection is gone
        result.cancel()


def _show_progress(result: AsyncResult, progress: Bar, is_waiting: bool) -> None:
    """Show how far a result is: while the call waits for it, or beside what the program does."""
    if is_waiting:
        result.wait_interactive(progress=progress)
        return
    from furlong.waiting.progress import accompany

    accompany(result, progress)


def in_engine_namespace(f: object) -> Any:
    """Have a function's global names be those of the engine's namespace; return anything else as it is."""
    import types

    return EngineFunction(f) if isinstance(f, types.FunctionType) else f
