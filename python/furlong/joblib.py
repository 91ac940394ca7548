"""A backend of joblib: what `joblib.Parallel` calls, and scikit-learn by it, runs on the farm.

To import this module registers it. joblib finds backends by no entry point, so one import is needed.

Examples
--------
>>> import furlong.joblib
>>> from joblib import Parallel, delayed, parallel_config
>>> with parallel_config(backend="furlong"):
...     Parallel()(delayed(pow)(n, 2) for n in range(4))
[0, 1, 4, 9]
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from joblib._parallel_backends import FallbackToBackend, SequentialBackend  # type: ignore
from joblib.externals.loky.process_executor import (  # type: ignore[import-untyped,unused-ignore]
    TerminatedWorkerError,
)
from joblib.parallel import (  # type: ignore[import-untyped,unused-ignore]
    AutoBatchingMixin,
    ParallelBackendBase,
    register_parallel_backend,
)

from furlong import errors
from furlong.calls.checks import unknown_flag
from furlong.client.client import Client
from furlong.libraries.engine_side import Batch, prepared
from furlong.libraries.large_arrays import LargeArrays
from furlong.libraries.originals import exit_of, original_of
from furlong.pickling.functions import PreparedFunction, kind_of
from furlong.results.async_result import AsyncResult
from furlong.views.flags import FLAGS
from furlong.waiting.dispatch import Dispatcher

if TYPE_CHECKING:
    from furlong.views.balanced import LoadBalancedView

__all__ = ["EngineTerminated", "FurlongBackend", "register"]

# Who has not said how large an argument must be to be sent once.
LARGE_BYTES = 1_000_000
NESTED = ("threads", "sequential", "tasks")
_FLAGS = {name: value for name, value in FLAGS.items() if name not in ("block", "stay")}
# What `joblib.Parallel` says to all backends, about processes of this machine.
_OF_PROCESSES = ("context", "prefer", "require", "temp_folder", "verbose")


class FurlongBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc,unused-ignore]
    """The backend ``"furlong"``: each batch of calls is a task of the shared queue.

    Parameters
    ----------
    client : Client, optional
        The client that submits. Without it the backend opens one as ``furlong.Client()`` does, when it is first used,
        and closes it when nothing uses the backend any longer.
    shared : sequence of arrays
        Arrays that are sent once for all calls of this backend. Do not change them meanwhile. Others of at least
        `max_nbytes` are sent once for each call of `joblib.Parallel`.
    nested : {"threads", "sequential", "tasks"}
        What a `joblib.Parallel` within a call does: as joblib has it, threads of the engine; one call after the other;
        or tasks of the farm, for which the engine lends its slot meanwhile.
    initializer : callable, optional
        Runs once on each engine, before the first call there.
    initargs : sequence
        Its arguments.
    engines_timeout : float
        Seconds to wait for a first engine.
    **flags
        Flags of the tasks, as ``rc.load_balanced_view`` takes them: `label`, `priority`, `retries`, `targets`, ...
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    default_n_jobs = -1
    # As others have it: the calls of a batch often have much in common, which then goes once.
    MIN_IDEAL_BATCH_DURATION = 0.2
    MAX_IDEAL_BATCH_DURATION = 1.0

    def __init__(
        self,
        client: Client | None = None,
        *,
        shared: Sequence[Any] = (),
        nested: str = "threads",
        initializer: Callable[..., Any] | None = None,
        initargs: Sequence[Any] = (),
        engines_timeout: float = 10.0,
        nesting_level: int | None = None,
        **flags: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        if nested not in NESTED:
            raise ValueError(f"nested is one of {', '.join(map(repr, NESTED))}, not {nested!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if client is not None and not isinstance(client, Client):
            raise TypeError(f"client is a furlong.Client, not {client!r}")
        for name in flags:
            if name not in _FLAGS:
                raise TypeError(unknown_flag(name, _FLAGS))
        self._options: dict[str, Any] = {
            "client": client,
            "shared": shared,
            "nested": nested,
            "initializer": initializer,
            "initargs": initargs,
            "engines_timeout": engines_timeout,
            **flags,
        }
        self._link = _Link(client, tuple(shared), flags)
        self._link.set_initializer(initializer, tuple(initargs))
        self._nested = nested
        self._engines_timeout = engines_timeout
        # A copy belongs to one `Parallel`, which is then the only one whose calls it aborts.
        self._is_copy = False
        self._parallel: weakref.ref[Any] | None = None
        self._call: _Call | None = None
        self._n_jobs = -1
        self._large_bytes: int | None = LARGE_BYTES

    @property
    def parallel(self) -> Any:
        """The `joblib.Parallel` that uses this; none if it is gone."""
        return None if self._parallel is None else self._parallel()

    @parallel.setter
    def parallel(self, parallel: Any) -> None:
        self._parallel = None if parallel is None else weakref.ref(parallel)

    def __reduce__(self) -> tuple[object, ...]:
        # On an engine it is a client of the farm that runs it.
        parts = self.nesting_level, self._nested, self._engines_timeout
        return _made_on_engine, (*parts, self._link.flags_of_tasks())

    # The life of a `Parallel`.

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        max_nbytes: int | None = LARGE_BYTES,
        mmap_mode: str | None = "r",
        **options: Any,
    ) -> int:
        """Make ready for the calls of one `joblib.Parallel`, and return how many batches run at once.

        Its further options are those of the backend.
        """
        own = {name: value for name, value in options.items() if name not in _OF_PROCESSES}
        if not self._is_copy:
            raise FallbackToBackend(self._copy(own))
        found = self.effective_n_jobs(n_jobs)
        if found == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._n_jobs = n_jobs
        # Only where engines may not write to an argument can all calls have the same one.
        self._large_bytes = max_nbytes if mmap_mode == "r" else None
        return found

    def _copy(self, options: dict[str, Any]) -> FurlongBackend:
        copy = FurlongBackend(nesting_level=self.nesting_level, **{**self._options, **options})
        copy._is_copy = True
        if not options:
            copy._link = self._link
        return copy

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches run at once: of all engines, less so many for a number below -1."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        count = self._link.count_engines(self._engines_timeout)
        # joblib runs what is for one job here, and not on the farm: one engine gets two in turn.
        return max(count + 1 + (-1 if n_jobs is None else n_jobs), 2 if n_jobs in (None, -1) else 1)

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Return the backend of a `joblib.Parallel` within a call."""
        level = (self.nesting_level or 0) + 1
        if self._nested == "threads":
            return super().get_nested_backend()  # type: ignore[no-any-return]
        if self._nested == "sequential":
            return SequentialBackend(nesting_level=level), None
        return FurlongBackend(
            nested=self._nested,
            engines_timeout=self._engines_timeout,
            nesting_level=level,
            **self._link.flags_of_tasks(),
        ), -1

    def start_call(self) -> None:
        """Begin a call of `joblib.Parallel`."""
        if self._call is not None:
            self._call.end()
        limit = self._n_jobs if self._n_jobs is not None and self._n_jobs > 0 else None
        self._call = _Call(self._link, limit, self._large_bytes)

    def stop_call(self) -> None:
        """End a call of `joblib.Parallel`: nothing of it runs any longer, or is kept."""
        if self._call is not None:
            self._call.end()

    def terminate(self) -> None:
        """End the use by a `joblib.Parallel`."""
        self.stop_call()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what waits and what runs."""
        if self._call is not None:
            self._call.end()
            if ensure_ready:
                self.start_call()

    # Batches.

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        """Submit a batch of calls, and call back when it has ended."""
        call = self._call
        if call is None:
            raise RuntimeError("a batch is submitted within a call of joblib.Parallel")
        return call.submit(func, callback or _nothing)

    def retrieve_result_callback(self, out: _Batch) -> Any:
        """Return the values of a batch that has ended; raise what one of its calls raised."""
        return out.get()


class _Link:
    """The client that the copies of a backend share, and what is at the cluster for all of their calls."""

    def __init__(self, client: Client | None, shared: Sequence[Any], flags: dict[str, Any]) -> None:
        self._client = client
        self._is_own = client is None
        self._shared = shared
        self._flags = flags
        self._lock = threading.Lock()
        self._view: LoadBalancedView | None = None
        self._initializer: Callable[..., Any] | None = None
        self._initargs: Sequence[Any] = ()
        self._id = os.urandom(16).hex()
        self._prepared: dict[str, PreparedFunction] = {}
        #: The arrays of all calls.
        self.arrays: LargeArrays | None = None

    def set_initializer(
        self, initializer: Callable[..., Any] | None, arguments: Sequence[Any]
    ) -> None:
        """Set what runs on each engine before the first batch."""
        self._initializer, self._initargs = initializer, arguments

    def prepared(self, calls: Any) -> PreparedFunction:
        """Return what runs a batch, after the initializer, under the name of the batch's first function."""
        items = getattr(calls, "items", None)
        name = kind_of(items[0][0] if items else calls)
        known = self._prepared.get(name)
        if known is None:
            module, _, qualname = name.rpartition(".")
            function: Callable[..., Any] = Batch(module or "__main__", qualname)
            if self._initializer is not None:
                function = functools.partial(
                    prepared, self._id, self._initializer, self._initargs, function
                )
            known = self._prepared[name] = PreparedFunction(function)
        return known

    def view(self) -> LoadBalancedView:
        """Return the view on the shared queue, and connect before that if it is the first time."""
        with self._lock:
            if self._view is None:
                if self._client is None:
                    self._client = Client()
                    weakref.finalize(self, self._client.close)
                self._view = self._client.load_balanced_view(**self._flags)
                self.arrays = LargeArrays(self._client, 0)
                self.arrays.keep(self._shared)
            return self._view

    def count_engines(self, timeout: float) -> int:
        """Count the engines; wait for a first one."""
        view = self.view()
        if not len(view):
            try:
                view.client.wait_for_engines(1, timeout=timeout, interactive=False)
            except TimeoutError:
                raise errors.NoEnginesRegistered(
                    f"joblib's backend has waited {timeout:g} s for an engine; start some: "
                    "`furlong cluster start -n 4`"
                ) from None
        return max(1, len(view))

    def flags_of_tasks(self) -> dict[str, Any]:
        """Return the flags for tasks of tasks: those that name no engines of this client."""
        return {name: value for name, value in self._flags.items() if name != "targets"}


class _Call:
    """One call of `joblib.Parallel`: its batches, and its large arrays."""

    def __init__(self, link: _Link, limit: int | None, large_bytes: int | None) -> None:
        self._view = link.view()
        self._client = self._view.client
        # With fewer jobs than engines, so many batches are submitted at once.
        self._limit = limit
        self._link = link
        self._arrays = LargeArrays(self._client, large_bytes, link.arrays)
        self._lock = threading.Lock()
        self._is_over = False
        self._running: set[_Batch] = set()
        self._waiting: collections.deque[tuple[_Batch, Any]] = collections.deque()
        # Callbacks take the caller's next items, which may wait for the callbacks of another call:
        # so each call has a thread for its own.
        self._callbacks = Dispatcher("furlong-joblib")

    def submit(self, calls: Any, callback: Callable[[Any], Any]) -> _Batch:
        """Submit a batch, or note it if enough of them run."""
        batch = _Batch(callback)
        with self._lock:
            if self._is_over:
                return batch
            limit = self._limit
            if limit is not None and limit < len(self._view) and len(self._running) >= limit:
                self._waiting.append((batch, calls))
                return batch
            self._running.add(batch)
        self._begin(batch, calls)
        return batch

    def _begin(self, batch: _Batch, calls: Any) -> None:
        try:
            function = self._link.prepared(calls)
            batch.result = self._view._apply_pickled(function, lambda: self._dumps(calls))
        except Exception as error:  # joblib is told of it as of one of the calls
            batch.error = error
            self._callbacks.soon(lambda: self._end_of(batch))
            return
        batch.result._parts[0].when_ended(lambda: self._end_of(batch), self._callbacks)
        if self._is_over:
            batch.result._parts[0].task.cancel(False)

    def _dumps(self, calls: Any) -> Any:
        self._arrays.sweep()
        return self._arrays.dumps(calls)

    def _end_of(self, batch: _Batch) -> None:
        with self._lock:
            self._running.discard(batch)
            following = self._waiting.popleft() if self._waiting else None
            if following is not None:
                self._running.add(following[0])
            is_over = self._is_over
        if following is not None:
            self._begin(*following)
        self._arrays.sweep()
        if not is_over:
            batch.show_output()
        batch.callback(batch)

    def end(self) -> None:
        """Cancel what has not ended, and keep nothing."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            self._waiting.clear()
            running, self._running = self._running, set()
        ids = [key for batch in running if batch.result for key in batch.result.msg_ids]
        if ids:
            # If the session is over, so are its tasks.
            with contextlib.suppress(errors.FurlongError):
                self._client._session.cancel(ids)
        self._arrays.clear()
        self._callbacks.close(0)


class EngineTerminated(
    errors.EngineError,
    TerminatedWorkerError,  # type: ignore[misc,unused-ignore]
):
    """The engine, or its interpreter, died while it had a batch: joblib's `TerminatedWorkerError`, too."""

    @classmethod
    def of(cls, error: errors.EngineError) -> EngineTerminated:
        """Return the error as what joblib's own processes raise."""
        if isinstance(error, cls):
            return error
        made = cls(error.ename, error.evalue, error.traceback, error.engine_info)
        if notes := getattr(error, "__notes__", None):
            made.__notes__ = notes  # type: ignore[attr-defined,unused-ignore]
        return made


class _Batch:
    """A batch that was submitted, or could not be."""

    def __init__(self, callback: Callable[[Any], Any]) -> None:
        self.callback = callback
        self.result: AsyncResult | None = None
        self.error: Exception | None = None

    def get(self) -> Any:
        """Return the values, which have come; raise what was raised."""
        if self.error is not None:
            raise self.error
        assert self.result is not None, "it was submitted, or has an error"
        try:
            return self.result.get()
        except errors.EngineError as error:
            raised: BaseException = EngineTerminated.of(error)
        except errors.RemoteError as error:
            raised = exit_of(error) or original_of(error)
        raise raised

    def show_output(self) -> None:
        """Write here what the calls have written there, as processes of this machine would."""
        if self.result is None:
            return
        part = self.result._parts[0]
        part.settle()
        if part.outcome is None:
            return
        for text, file in ((part.outcome.stdout, sys.stdout), (part.outcome.stderr, sys.stderr)):
            if text and file is not None:
                file.write(text)
                file.flush()


def _made_on_engine(
    level: int | None, nested: str, engines_timeout: float, flags: dict[str, Any]
) -> FurlongBackend:
    return FurlongBackend(
        nested=nested, engines_timeout=engines_timeout, nesting_level=level, **flags
    )


def _nothing(_: object) -> None:
    """Be the callback where there is none."""


def register(make_default: bool = False) -> None:
    """Register the backend with joblib as ``"furlong"``, which the import of this module has done already.

    Parameters
    ----------
    make_default : bool
        Let it be the backend of each `joblib.Parallel` that names none.
    """
    register_parallel_backend("furlong", FurlongBackend, make_default=make_default)


register()
