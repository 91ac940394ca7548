"""The connection to a cluster: engines, views on them, and what is known of tasks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal as signals
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from furlong import _dispatch, _nested, errors
from furlong._checks import check_whole
from furlong.direct import DirectView
from furlong.records import PHASES, Fetched, History, hex_of, wait_for_ids, whole_id
from furlong.results import AsyncResult
from furlong.targets import chosen_of
from furlong.views import Again, LoadBalancedView

if TYPE_CHECKING:
    from furlong.cluster import Cluster

__all__ = ["Client"]


class Client:
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
        Seconds to wait for capability file and broker; below 0 or infinite, for ever.

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
            raise ValueError(f"a client connects by a capability file, not by an address: {connection_info!r}")
        path = None if connection_info is None else Path(connection_info).expanduser()
        self._session = _nested.connect(path, name, timeout)
        # The results that somebody holds.
        self._held: set[weakref.ref[AsyncResult]] = set()
        self._uuids: dict[int, str] = {}
        self._closed = False
        _dispatch.close_at_exit(self)

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

    # Views.

    def __getitem__(self, key: Any) -> DirectView:
        if not isinstance(key, (int, slice, list, tuple, range)):
            raise TypeError(f"engines are chosen by int, slice, list, tuple or range, not by {type(key).__name__}")
        return self.direct_view(key)

    def direct_view(self, targets: Any = "all", **flags: Any) -> DirectView:
        """Give a view on engines.

        Parameters
        ----------
        targets : int, slice, sequence of int, or "all"
            An int makes a view whose results are single values, the others lists. ``"all"`` means those that are
            online at each call.
        **flags
            As `DirectView.set_flags` takes them.
        """
        return DirectView(self, self._chosen(targets), **flags)

    def broadcast_view(self, targets: Any = "all", is_coalescing: bool = False, **flags: Any) -> DirectView:
        """Give a view on engines; what goes to many of one process is always sent once."""
        return self.direct_view(targets, **flags)

    def load_balanced_view(self, targets: Any = None, **flags: Any) -> LoadBalancedView:
        """Give a view on the shared queue: each task runs wherever an engine is free.

        Parameters
        ----------
        targets : int or sequence of int, optional
            Only these engines; none, or ``"all"``, for any.
        """
        chosen = None if targets is None or isinstance(targets, str) else self._chosen(targets)
        if isinstance(targets, str) and targets != "all":
            raise TypeError(f"targets are ids of engines, or 'all', not {targets!r}")
        return LoadBalancedView(self, [chosen] if isinstance(chosen, int) else chosen, **flags)

    def executor(self, targets: Any = None) -> Any:
        """Give a `concurrent.futures.Executor` on the shared queue, or on these engines."""
        return self.load_balanced_view(targets).executor

    @property
    def native(self) -> Any:
        """The Rust functions that engines have registered: ``rc.native.integrate(0, 1)``."""
        from furlong.native import Native

        return Native(self)

    def _chosen(self, targets: Any) -> Any:
        """Give ids for what a user says: an int for an int, a list for the others, ``"all"`` as it is."""
        return chosen_of(targets, self.ids)

    def _engines(self, targets: Any) -> list[int]:
        """Give the ids that a call goes to now."""
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
        n = check_whole("n", n, 0, 2**32 - 1)
        if block:
            self._wait_for_engines(n, timeout, interactive, widget)
            return None
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        if len(self) >= n:
            future.set_result(None)
            return future

        def wait(n: int = n) -> None:
            try:
                self._wait_for_engines(n, timeout, False, False)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=wait, name="furlong-engines", daemon=True).start()
        return future

    def _wait_for_engines(self, n: int, timeout: float, interactive: bool | None, widget: bool | None) -> None:
        from furlong.progress import Progress, is_interactive

        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        show = is_interactive() if interactive is None else interactive
        bar: Progress | None = None
        try:
            while True:
                ids, version = self._session.engines()
                if bar is not None:
                    bar.update(min(len(ids), n))
                if len(ids) >= n:
                    return
                if self._session.closed:
                    raise errors.ConnectionLost("the session is over")
                if self._cluster is not None:
                    self._cluster._check_engines()
                if show and bar is None:
                    bar = Progress(n, f"{n} engines", widget=widget)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{len(ids)} of {n} engines are online after {timeout} s")
                # A cluster of ours is looked at between.
                pause = 0.2 if self._cluster is not None or bar is not None else None
                self._session.wait_engines(version, pause if left is None else min(left, pause or left))
        finally:
            if bar is not None:
                bar.close()

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
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
        return jobs is not None or wait_for_ids(self._session, self.outstanding, deadline)

    def wait_interactive(
        self, jobs: Any = None, interval: float = 0.1, timeout: float | None = -1, widget: bool | None = None
    ) -> bool:
        """Wait like `wait`, with a bar."""
        from furlong.progress import wait_for_all

        return wait_for_all(self._futures(jobs), interval, timeout, widget)

    def _futures(self, jobs: Any) -> list[concurrent.futures.Future[Any]]:
        if jobs is None:
            unfinished = self.outstanding
            seen = {id(result): result for key, result in self._results().items() if key in unfinished}
            return list(seen.values())
        if isinstance(jobs, (str, int, concurrent.futures.Future)):
            jobs = [jobs]
        return [job if isinstance(job, concurrent.futures.Future) else self.get_result(job) for job in jobs]

    # Tasks.

    @property
    def history(self) -> Sequence[str]:
        """The ids of all tasks of this session, in the order of their submits."""
        return History(self._session.id, self._session.submitted())

    @property
    def outstanding(self) -> set[str]:
        """The ids of the tasks of this session that have not ended."""
        return set(self._session.unfinished())

    def _id_of(self, job: Any) -> str:
        """Give the whole id of what names a task."""
        if isinstance(job, int):
            return self.history[job]
        if not isinstance(job, str):
            raise TypeError(f"a task is named by its id, its place in the history, or its result, not by {job!r}")
        session, colon, number = job.rpartition(":")
        if len(session) == 32 or not (colon and number.isdecimal()):
            return job
        found = json.loads(self._session.records(session=session, first=int(number), last=int(number)))
        if not found:
            raise KeyError(f"no task {job!r} is known")
        return whole_id(found[0]["id"])

    def get_result(
        self, jobs: Any = None, block: bool = False, owner: bool = True, timeout: float | None = None
    ) -> AsyncResult | Fetched:
        """Give the result of a task by its id, of this session or of any of the same owner.

        Parameters
        ----------
        jobs : str, int, AsyncResult, or a list of such
            Ids, places in `history` (-1, the last, if nothing is said), results.
        block : bool
            Wait for the end.
        owner : bool
            Is accepted; results stay with who holds them.

        Raises
        ------
        RequestRefused
            If the broker does not know the task. Results of other sessions are there for tasks with the flag `keep`.
        """
        if isinstance(jobs, AsyncResult):
            return jobs
        if isinstance(jobs, (list, tuple)):
            results = [self.get_result(job) for job in jobs]
            made = AsyncResult.join(*results)
            if block:
                made.wait(timeout)
            return made
        key = self._id_of(-1 if jobs is None else jobs)
        result = self._results().get(key)
        if result is None:
            result = Fetched(self, key)
        elif len(result._parts) > 1 and isinstance(jobs, str):
            part = next(part for part in result._parts if part.task.id == key)
            result = AsyncResult([part], True)
        if block:
            result.wait(timeout)
        return result

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> None:
        """Take tasks back that have not begun; what runs goes on. They end with `TaskAborted`.

        A task that moves to another engine at that moment goes on all the same.

        Parameters
        ----------
        jobs : optional
            As `wait` takes them; all that is outstanding if nothing is said.
        targets : optional
            Only those for these engines.
        """
        engines = None if targets is None else set(self._engines(targets))
        results = (future for future in self._futures(jobs) if isinstance(future, AsyncResult))
        tasks = (part.task for result in results for part in result._parts)
        wanted = [task.id for task in tasks if engines is None or task.engine in engines]
        if wanted:
            self._session.take_back(wanted)

    def _not_running(self) -> set[str]:
        records = json.loads(self._session.records(session=self._session.short_id, ended=False))
        return {whole_id(record["id"]) for record in records if PHASES[record["phase"]] != "running"}

    def cancel(self, jobs: Any = None, force: bool = False) -> int:
        """Cancel tasks, of this session or by their ids of any of the same owner: what waits, and what runs.

        Returns
        -------
        int
            How many had not ended before.
        """
        if jobs is None:
            ids = list(self.outstanding)
        else:
            jobs = [jobs] if isinstance(jobs, (str, int, AsyncResult)) else jobs
            ids = []
            for job in jobs:
                ids += job.msg_ids if isinstance(job, AsyncResult) else [self._id_of(job)]
        return self._session.cancel(ids, force)[0] if ids else 0

    def send_signal(self, sig: int | str, targets: Any = None, block: bool | None = None) -> None:
        """Send a signal to what runs on engines: a number, or a name as ``"SIGINT"``. Idle engines do not notice."""
        name = str(int(sig)) if isinstance(sig, (int, signals.Signals)) else sig
        self._session.signal(self._engines("all" if targets is None else targets), name)

    def restart(self, targets: Any = None) -> None:
        """Give engines new interpreters, with empty namespaces. What runs there is lost."""
        self._session.restart(self._engines("all" if targets is None else targets))

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty the namespaces of engines."""
        return self.direct_view("all" if targets is None else targets).clear(block=block)

    def shutdown(
        self, targets: Any = "all", restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> None:
        """Stop engines; with `hub` the broker too. With `restart` they get new interpreters instead."""
        if restart:
            return self.restart(targets)
        if hub:
            self._session.shutdown(None, False, True)
            return None
        engines = self._engines(targets)
        self._session.shutdown(engines, False, False)
        if block:
            deadline = time.monotonic() + 30
            while any(engine in self.ids for engine in engines):
                _, version = self._session.engines()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"engines {engines} have not left in 30 s")
                self._session.wait_engines(version, 0.5)
        return None

    def queue_status(self, targets: Any = "all", verbose: bool = False) -> dict[int | str, Any]:
        """Tell how much engines have to do.

        Returns
        -------
        dict
            For each engine ``queue`` (waits there), ``tasks`` (was given to it) and ``completed``; and
            ``"unassigned"``, what waits in the shared queue.
        """
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
        return queues

    def status(self) -> dict[str, Any]:
        """Tell all that the broker tells of the cluster."""
        known: dict[str, Any] = json.loads(self._session.status())
        return known

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Tell which tasks have ended: lists ``pending`` and ``completed`` of ids, and if wanted their values by id."""
        ids = [msg_ids] if isinstance(msg_ids, (str, int, AsyncResult)) else list(msg_ids)
        known: dict[str, Any] = {"pending": [], "completed": []}
        for job in ids:
            result = self.get_result(job)
            for part in result.split():
                key = part.msg_ids[0]
                if part.done():
                    known["completed"].append(key)
                    if not status_only:
                        known[key] = part.get(return_exceptions=True)
                else:
                    known["pending"].append(key)
        return known

    def records(self, label: str | None = None, ended: bool | None = None, limit: int = 0) -> list[dict[str, Any]]:
        """Give what the broker knows of the owner's tasks, of all sessions: a dictionary each.

        Parameters
        ----------
        label : str, optional
            Only tasks with this label; ``*`` stands for any characters.
        ended : bool, optional
            Only those that have, or have not, ended.
        limit : int
            So many at most; 0 for all.
        """
        found = json.loads(self._session.records(label=label, ended=ended, limit=limit))
        for record in found:
            record["id"], record["phase"] = whole_id(record["id"]), PHASES[record["phase"]]
        return list(found)

    def hub_history(self) -> list[str]:
        """Give the ids of the owner's tasks that the broker knows, of all sessions, in the order of their submits."""
        found = sorted(self.records(), key=lambda record: record["times"]["submitted_unix_us"])
        return [record["id"] for record in found]

    def resubmit(self, jobs: Any = None, block: bool | None = None) -> AsyncResult:
        """Run tasks of this session again, as they were submitted, with all their options.

        Raises
        ------
        KeyError
            If there is no such task, or its result is not held here any longer, so that what it ran is not known.
        """
        try:
            wanted = self._futures([-1] if jobs is None else jobs)
        except (errors.RequestRefused, ValueError) as error:
            raise KeyError(str(error)) from error
        again = []
        for result in wanted:
            if not isinstance(result, AsyncResult) or any(part.call is None for part in result._parts):
                raise KeyError("what the task ran is not held here any longer: keep its result, or submit it anew")
            again += [Again(*part.call)() for part in result._parts if part.call is not None]
        made = again[0] if len(again) == 1 else AsyncResult.join(*again)
        if block:
            made.wait()
        return made

    def purge_results(self, jobs: Any = "all", targets: Any = None) -> None:
        """Forget kept results at the broker: of these tasks, or of all that have ended."""
        if isinstance(jobs, str) and jobs == "all":
            ids = [record["id"] for record in self.records(ended=True)]
        else:
            jobs = [jobs] if isinstance(jobs, (str, int, AsyncResult)) else jobs
            ids = []
            for job in jobs:
                ids += job.msg_ids if isinstance(job, AsyncResult) else [self._id_of(job)]
        if ids:
            self._session.purge(ids)

    purge_hub_results = purge_results

    def purge_local_results(self, jobs: Any = "all", targets: Any = None) -> None:
        """Forget results here.

        Raises
        ------
        RuntimeError
            If one has not ended.
        """
        chosen = list(self._results().values()) if jobs == "all" else self._futures(jobs)
        for result in chosen:
            if not result.done():
                raise RuntimeError(f"{result!r} has not ended; wait for it, or cancel it")
        for result in chosen:
            if isinstance(result, AsyncResult):
                self._held.discard(weakref.ref(result))

    def purge_everything(self) -> None:
        """Forget all results, here and at the broker."""
        self.purge_local_results("all")
        self.purge_results("all")

    # Bookkeeping.

    def _note(self, result: AsyncResult) -> None:
        self._held.add(weakref.ref(result, self._held.discard))

    def _results(self) -> dict[str, AsyncResult]:
        """Give the results that somebody holds, by the ids of their tasks."""
        held = [reference() for reference in self._held.copy()]
        return {part.task.id: result for result in held if result is not None for part in result._parts}

    def _uuid_of(self, engine: int | None) -> str | None:
        if engine is None:
            return None
        if engine not in self._uuids:
            # Each engine's id is its own for ever. One that has left is not known any more.
            with contextlib.suppress(errors.FurlongError):
                self._uuids.update((known["id"], hex_of(known["uuid"])) for known in self.status()["engines"])
        return self._uuids.get(engine)

    # The end.

    def flush(self) -> None:
        """Wait until the broker has all that was submitted, and its journal what is durable of it."""
        self._session.flush()

    def detach(self) -> None:
        """Close the session, and let tasks with the flags `keep` or `durable` go on."""
        self._close(True)

    def close(self, linger: Any = None) -> None:
        """Close the session. The cluster goes on; tasks of the session that have not ended are cancelled."""
        self._close(False)

    def _close(self, detach: bool) -> None:
        if not self._closed:
            self._closed = True
            _dispatch.forget(self)
            self._session.close(detach)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
