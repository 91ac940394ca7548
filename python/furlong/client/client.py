"""The connection to a cluster: engines, views on them, and what is known of tasks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from furlong import _furlong, errors
from furlong.calls.checks import check_whole
from furlong.calls.codecs import read_json
from furlong.calls.targets import Chosen, Targets, resolve_targets
from furlong.client.libraries import ClientLibraries
from furlong.client.open_maps import OpenMaps
from furlong.client.tasks import ClientTasks, Jobs
from furlong.ipyparallel_names import ClientNames
from furlong.results.async_result import AsyncResult
from furlong.results.causes import Causes
from furlong.results.records import Held, hex_of, wait_for_ids
from furlong.views.balanced import LoadBalancedView
from furlong.views.direct import BroadcastView, DirectView
from furlong.waiting import dispatch

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Unpack

    from furlong.client.shared import Shared
    from furlong.cluster.cluster import Cluster
    from furlong.libraries.dask_farm import DaskFarm
    from furlong.notebook.watch import Watch
    from furlong.views.executor import ViewExecutor
    from furlong.views.flags import NewViewFlags
    from furlong.views.native import Native
    from furlong.waiting.progress import Bar

__all__ = ["Client"]

# How long the broker has to answer a client of its own that shall stop it, in seconds.
ADMIN_SECONDS = 10.0
# What runs tasks, as the broker numbers it.
_RUNTIMES = {1: "native", 2: "python", 3: "command"}


class Client(ClientTasks, ClientLibraries, ClientNames):
    """A session with a cluster.

    Parameters
    ----------
    connection_info : str or path, optional
        The capability file. Without it the one that ``FURLONG_CAP`` names, else that of the cluster. Code of a task
        needs none: with neither file nor cluster it is a client of the farm that runs it, as its task's owner and
        for as long as the task runs.
    cluster : str, optional
        The cluster's name; ``default`` if nothing else is said.
    timeout : float
        Seconds to wait for capability file, broker and its first answer; below 0 or infinite, for ever.
    hide_names : bool, optional
        Tell the broker neither the names of the functions that run nor the types of what they raise: ``furlong queue``
        and `records` then show neither. If nothing is said, it is so if the variable ``FURLONG_HIDE_NAMES`` is set and
        not empty.

    Raises
    ------
    CapabilityNotFound, ConnectionFailed, ConnectionRefused
        If there is no connection in time.

    Examples
    --------
    >>> rc = furlong.Client()
    >>> rc[:].apply_sync(os.getpid)
    [2101, 2102, 2103, 2104]
    """

    def __init__(
        self,
        connection_info: str | os.PathLike[str] | None = None,
        *,
        cluster: str | Cluster | None = None,
        timeout: float = 10,
        cluster_id: str | None = None,
        profile: str | None = None,
        hide_names: bool | None = None,
    ) -> None:
        self._cluster: Cluster | None = None
        if cluster is not None and not isinstance(cluster, str):
            if not hasattr(cluster, "capability"):
                raise TypeError(f"cluster is a Cluster, or the name of one, not {cluster!r}")
            self._cluster = cluster
            name = None
            connection_info = connection_info or cluster.capability
        else:
            name = cluster or cluster_id or profile
        if isinstance(connection_info, str) and "://" in connection_info:
            raise ValueError(
                f"a client connects by a capability file, not by an address: {connection_info!r}"
            )
        path = None if connection_info is None else _path(connection_info)
        self._block = False
        from furlong.client import nested

        self._session = nested.connect(path, name, timeout, hide_names)
        # A capability that nobody chose is the cluster's own, beside the one with which the cluster
        # can be stopped.
        is_chosen = path is not None or nested.is_engine()
        self._is_own = not is_chosen and not (name is None and os.environ.get("FURLONG_CAP"))
        # The results that somebody holds.
        self._held: set[Held] = set()
        self._maps = OpenMaps()
        self._causes = Causes()
        self._uuids: dict[int, str] = {}
        # Those that have submitted something.
        self._executors: set[ViewExecutor] = set()
        self._closed = False
        self._watch: Watch | None = None
        self._dask: DaskFarm | None = None
        dispatch.close_at_exit(self)
        if "IPython" in sys.modules and not nested.is_engine():
            from furlong.notebook import activate_first

            activate_first(self)

    # The cluster.

    @property
    def ids(self) -> list[int]:
        """The ids of the engines that are online, sorted; kept up to date by the broker."""
        return self._session.engines()[0]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[DirectView]:
        return (self.direct_view(engine) for engine in self.ids)

    @property
    def session(self) -> str:
        """The session's id: 32 hexadecimal digits."""
        return self._session.id

    @property
    def cluster_name(self) -> str:
        """The cluster's name."""
        return self._session.cluster

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that was started here, if it was."""
        return self._cluster

    def __repr__(self) -> str:
        if self._closed:
            return "<Client: closed>"
        return f"<Client of {self.cluster_name!r} at {self._session.endpoint}: {len(self)} engines>"

    def _repr_html_(self) -> str:
        from furlong.notebook.pages import page_of_client

        return page_of_client(self)

    def watch(self, every: float = 1.0, idle: float = 30.0) -> Watch:
        """Show the farm in a notebook, anew each second, beside what cells do.

        Parameters
        ----------
        every : float
            Seconds between two looks.
        idle : float
            It ends by itself after so many seconds in which neither a cell has run nor a task of this client.

        Returns
        -------
        Watch
            Its `stop` ends it at once.
        """
        from furlong.notebook.watch import Watch

        return Watch(self, every, idle)

    # Views.

    def __getitem__(self, key: object) -> DirectView:
        if not isinstance(key, (int, slice, list, tuple, range)):
            raise TypeError(
                f"engines are chosen by int, slice, list, tuple or range, not by {type(key).__name__}"
            )
        return self.direct_view(key)

    def direct_view(self, targets: Targets = "all", **flags: Unpack[NewViewFlags]) -> DirectView:
        """Return a view on engines.

        Parameters
        ----------
        targets : int, slice, sequence of int, or "all"
            An int makes a view whose results are single values, the others lists. ``"all"`` means those that are
            online at each call.
        **flags
            As `DirectView.set_flags` takes them.
        """
        flags.setdefault("block", self._block)
        return DirectView(self, self._chosen(targets), **flags)

    def broadcast_view(
        self,
        targets: Targets = "all",
        is_coalescing: bool = False,
        *,
        coalescing: bool = False,
        **flags: Unpack[NewViewFlags],
    ) -> BroadcastView:
        """Return a view on engines; what goes to many of one process is always sent once, however the flag is named."""
        flags.setdefault("block", self._block)
        view = BroadcastView(self, self._chosen(targets), **flags)
        view.is_coalescing = is_coalescing or coalescing
        return view

    def load_balanced_view(
        self, targets: Targets = None, **flags: Unpack[NewViewFlags]
    ) -> LoadBalancedView:
        """Return a view on the shared queue: each task runs wherever an engine is free.

        Parameters
        ----------
        targets : int or sequence of int, optional
            Only these engines; none, or ``"all"``, for any.
        """
        chosen = self._chosen(targets)
        several = [chosen] if isinstance(chosen, int) else None if chosen == "all" else chosen
        flags.setdefault("block", self._block)
        return LoadBalancedView(self, several, **flags)

    def executor(self, targets: Targets = None) -> ViewExecutor:
        """Return a `concurrent.futures.Executor` on the shared queue, or on these engines."""
        return self.load_balanced_view(targets).executor

    @property
    def native(self) -> Native:
        """The Rust functions that engines have registered: ``rc.native.integrate(0, 1)``."""
        from furlong.views.native import Native

        return Native(self)

    def share(self, obj: object) -> Shared:
        """Put a value at the cluster, once for any number of calls.

        Returns
        -------
        Shared
            Stands for the value where it is an argument, or in one. Engines do not change the value: its arrays are
            read-only there.

        Raises
        ------
        PicklingError
            If it cannot be pickled.

        Examples
        --------
        >>> with rc.share(table) as shared:
        ...     sums = lview.map_sync(lambda row, table: table[row].sum(), range(10), [shared] * 10)
        """
        from furlong.client.shared import Shared

        return Shared(self, obj)

    def _itself(self) -> Client:
        return self

    def _chosen(self, targets: Targets) -> Chosen:
        """Return ids for what a user says: an int for an int, a list for the others, ``"all"`` as it is."""
        return resolve_targets(targets, self.ids)

    def _engines(self, targets: Targets) -> list[int]:
        """Return the ids that a call goes to now."""
        chosen = self._chosen(targets)
        if chosen == "all":
            chosen = self.ids
        elif isinstance(chosen, int):
            chosen = [chosen]
        if not chosen:
            raise errors.no_engines(self.ids)
        return list(chosen)

    # Waiting.

    def wait_for_engines(
        self,
        n: int | None = None,
        *,
        timeout: float = -1,
        block: bool = True,
        interactive: bool | None = None,
        widget: bool | None = None,
    ) -> concurrent.futures.Future[None] | None:
        """Wait until so many engines are online.

        Parameters
        ----------
        n : int, optional
            How many; as many as the cluster was started with, if it was started here, else one.
        timeout : float
            In seconds; a negative one is no limit.
        block : bool
            Give a future at once if false.
        interactive : bool, optional
            Show a bar; by default in a terminal or notebook of IPython.

        Raises
        ------
        TimeoutError
            If they are not there in time.
        EngineError
            If engines of the cluster that was started here die meanwhile.
        """
        if n is None:
            n = self._cluster.n if self._cluster is not None and self._cluster.n else 1
        from furlong.waiting.progress import wait_for_engines

        n = check_whole("n", n, 0, 2**32 - 1)
        if block:
            wait_for_engines(self, n, timeout, interactive, widget)
            return None
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        if len(self) >= n:
            future.set_result(None)
            return future

        def wait(n: int = n) -> None:
            try:
                wait_for_engines(self, n, timeout, False, False)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=wait, name="furlong-engines", daemon=True).start()
        return future

    def wait(self, jobs: Jobs = None, timeout: float | None = -1) -> bool:
        """Wait for tasks: ids, results, any futures, or a list of such; all that is outstanding if nothing is said.

        Returns
        -------
        bool
            Whether all have ended in time.
        """
        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        for future in self._futures(jobs):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if isinstance(future, AsyncResult):
                if not future.wait(left):
                    return False
            elif not concurrent.futures.wait([future], left).done:
                return False
        # Results that nobody holds are still waited for.
        if jobs is not None:
            return True
        return self._maps.wait(deadline) and wait_for_ids(
            self._session, set(self._session.unfinished()), deadline
        )

    def wait_interactive(
        self,
        jobs: Jobs = None,
        interval: float = 0.1,
        timeout: float | None = -1,
        widget: bool | None = None,
        progress: Bar = True,
    ) -> bool:
        """Wait like `wait`, with a bar; `progress` may be what makes it, as `tqdm.tqdm`."""
        from furlong.waiting.progress import wait_for_all

        return wait_for_all(self._futures(jobs), interval, timeout, widget, progress)

    def _futures(self, jobs: Jobs) -> list[concurrent.futures.Future[Any]]:
        if jobs is None:
            unfinished = set(self._session.unfinished())
            seen = {
                id(result): result for key, result in self._results().items() if key in unfinished
            }
            return list(seen.values())
        if isinstance(jobs, (str, int, concurrent.futures.Future)):
            jobs = [jobs]
        return [
            job if isinstance(job, concurrent.futures.Future) else self.get_result(job)
            for job in jobs
        ]

    # Control.

    def send_signal(
        self, sig: int | str, targets: Targets = None, block: bool | None = None
    ) -> None:
        """Send a signal to what runs on engines: a number, or a name as ``"SIGINT"``. Idle engines do not notice."""
        name = str(int(sig)) if isinstance(sig, int) else sig
        self._session.signal(self._engines("all" if targets is None else targets), name)

    def restart(self, targets: Targets = None) -> None:
        """Replace the interpreters of engines by new ones, with empty namespaces. What runs there is lost."""
        self._session.restart(self._engines("all" if targets is None else targets))

    def clear(self, targets: Targets = None, block: bool | None = None) -> Any:
        """Empty the namespaces of engines."""
        return self.direct_view("all" if targets is None else targets).clear(block=block)

    def shutdown(
        self,
        targets: Targets = "all",
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> None:
        """Stop engines; with `hub` the broker too. With `restart` they get new interpreters instead."""
        if restart:
            return self.restart(targets)
        if hub:
            self._stop(None, True)
            return None
        engines = self._engines(targets)
        self._stop(engines, False)
        if block:
            deadline = time.monotonic() + 30
            while any(engine in self.ids for engine in engines):
                _, version = self._session.engines()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"engines {engines} have not left in 30 s")
                self._session.wait_engines(version, 0.5)
        return None

    def _stop(self, engines: list[int] | None, broker: bool) -> None:
        """Stop them by this session, or if it may not by the cluster's own file for that."""
        try:
            return self._session.shutdown(engines, False, broker)
        except errors.RequestRefused:
            from furlong._home import home

            admin = home() / self.cluster_name / "security" / "admin.cap.json"
            if not self._is_own or not os.access(admin, os.R_OK):
                raise
        session = _furlong.Session.connect(admin, None, ADMIN_SECONDS)
        try:
            session.shutdown(engines, False, broker)
        finally:
            session.close(False)

    def look(self) -> dict[str, Any]:
        """Return how the farm is, as `furlong top` shows it: a dictionary, with spans in microseconds.

        Returns
        -------
        dict
            ``farm``, sums that are exact and of all owners, and ``engines``, ``kinds`` of tasks, ``owners``, ``notes`` that
            say what is wrong, ``failures`` by type and place, and ``ends``, the last tasks that have ended: of
            ``ends_told`` at most 10 000. Names and tasks are those of this client's owner; a client with the role
            `auditor` or `admin` sees all.
        """
        seen: dict[str, Any] = read_json(self._session.look())
        return seen

    def queue_status(self, targets: Targets = "all", verbose: bool = False) -> dict[int | str, Any]:
        """Return how much work engines have.

        Returns
        -------
        dict
            For each engine ``queue`` (waits there), ``tasks`` (was given to it) and ``completed``; and
            ``"unassigned"``, what waits in the shared queue. For a single engine, that engine's alone. An engine that
            could not begin some work lately has ``set_aside`` too: a list of what now goes to other engines, why, and
            when it is tried again.
        """
        self._maps.submit_rest()
        status = self.status()
        wanted = None if targets == "all" else set(self._engines(targets))
        queues: dict[int | str, Any] = {"unassigned": status["tasks_waiting"]}
        for engine in status["engines"]:
            if wanted is None or engine["id"] in wanted:
                queues[engine["id"]] = {
                    "queue": engine["tasks_queued"],
                    "completed": engine["tasks_finished"],
                    "tasks": engine["tasks_assigned"],
                }
                if engine["set_aside"]:
                    named = [
                        {**aside, "runtime": _RUNTIMES[aside["runtime"]]}
                        for aside in engine["set_aside"]
                    ]
                    queues[engine["id"]]["set_aside"] = named
        if isinstance(targets, int):
            of_one: dict[int | str, object] = queues[self._engines(targets)[0]]
            return of_one
        return queues

    def status(self) -> dict[str, Any]:
        """Return all that the broker reports of the cluster."""
        known: dict[str, object] = read_json(self._session.status())
        return known

    # Bookkeeping.

    def _note(self, result: AsyncResult) -> None:
        self._held.add(Held(result, self._held.discard))

    def _results(self) -> dict[str, AsyncResult]:
        """Return the results that somebody holds, by the ids of their tasks."""
        held = [reference() for reference in self._held.copy()]
        return {
            key: result
            for result in held
            if result is not None
            for part in result._parts
            for key in part.all_ids()
        }

    def _uuid_of(self, engine: int | None) -> str | None:
        if engine is None:
            return None
        if engine not in self._uuids:
            # Each engine's id is its own for ever. One that has left is not known any more.
            with contextlib.suppress(errors.FurlongError):
                self._uuids.update(
                    (known["id"], hex_of(known["uuid"])) for known in self.status()["engines"]
                )
        return self._uuids.get(engine)

    # The end.

    def finish(self) -> None:
        """Wait for what executors of this client have submitted."""
        for executor in list(self._executors):
            executor._finish()

    def flush(self) -> None:
        """Wait until the broker has all that was submitted, and its journal what is durable of it."""
        self._maps.submit_rest()
        self._session.flush()

    def detach(self) -> None:
        """Close the session, and let tasks with the flags `keep` or `durable` go on."""
        self._close(True)

    def close(self, linger: object = None) -> None:
        """Close the session. The cluster goes on; tasks of the session that have not ended are cancelled."""
        self._close(False)

    def _close(self, detach: bool) -> None:
        if not self._closed:
            if detach:
                self._maps.submit_rest(only_retained=True)
            self._closed = True
            dispatch.forget(self)
            if self._dask is not None:
                self._dask.close()
            self._session.close(detach)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _path(text: str | os.PathLike[str]) -> Path:
    from pathlib import Path

    return Path(text).expanduser()
