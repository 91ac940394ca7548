"""A client's tasks: ids, results, records; and what it does to tasks by their ids."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.calls.codecs import read_json
from furlong.inspection.profile import Profile
from furlong.inspection.stack import Stack
from furlong.results.async_result import AsyncResult
from furlong.results.records import PHASES, Fetched, Held, History, whole_id
from furlong.results.subtasks import SubTask
from furlong.results.timeline import Timeline
from furlong.waiting import signals

if TYPE_CHECKING:
    from furlong import _furlong
    from furlong.calls.targets import Targets
    from furlong.client.open_maps import OpenMaps

__all__ = ["ClientTasks", "Job", "Jobs"]

# What names a task: its id, its place in the session's history, its result, or another future.
Job = str | int | concurrent.futures.Future[Any]
# Tasks, as users name them: one, or several.
Jobs = Job | Iterable[Job] | None

# The bounds of a profile, which are the broker's.
SECONDS_MAX = 600
RATE_MAX = 200


class ClientTasks:
    """The part of a client that is about tasks."""

    _session: _furlong.Session
    _block: bool
    _is_own: bool
    _held: set[Held]
    _maps: OpenMaps

    def _engines(self, targets: Targets) -> list[int]:
        raise NotImplementedError

    def _results(self) -> dict[str, AsyncResult]:
        raise NotImplementedError

    def _note(self, result: AsyncResult) -> None:
        raise NotImplementedError

    def _futures(self, jobs: Jobs) -> list[concurrent.futures.Future[Any]]:
        raise NotImplementedError

    @property
    def history(self) -> Sequence[str]:
        """The ids of all tasks of this session, in the order of their submits."""
        return History(self._session.id, self._session.submitted())

    @property
    def outstanding(self) -> set[str]:
        """The ids of the tasks of this session that have not ended."""
        self._maps.submit_rest()
        return set(self._session.unfinished())

    def _id_of(self, job: Job) -> str:
        """Return the whole id of what names a task."""
        if isinstance(job, int):
            return self.history[job]
        if not isinstance(job, str):
            raise TypeError(
                f"a task is named by its id, its place in the history, or its result, not by {job!r}"
            )
        session, colon, number = job.rpartition(":")
        if len(session) == 32 or not (colon and number.isdecimal()):
            return job
        found = read_json(
            self._session.records(session=session, first=int(number), last=int(number))
        )
        if not found:
            raise KeyError(f"no task {job!r} is known")
        return whole_id(found[0]["id"])

    def get_result(
        self,
        indices_or_msg_ids: Jobs = None,
        block: bool | None = None,
        owner: bool = True,
        timeout: float | None = None,
    ) -> AsyncResult | Fetched:
        """Return the result of a task by its id, of this session or of any of the same owner.

        Parameters
        ----------
        indices_or_msg_ids : str, int, AsyncResult, or a list of such
            Ids, places in `history` (-1, the last, if nothing is said), results.
        block : bool
            Wait for the end; by default if the client blocks.
        owner : bool
            Is accepted; results stay with who holds them.

        Raises
        ------
        RequestRefused
            If the broker does not know the task. Results of other sessions are there for tasks with the flag `keep`.
        """
        from furlong.maps.map_results import AsyncMapResult

        jobs = indices_or_msg_ids
        block = self._block if block is None else block
        if isinstance(jobs, AsyncResult):
            return jobs
        if isinstance(jobs, Iterable) and not isinstance(jobs, (str, concurrent.futures.Future)):
            results = [self.get_result(job) for job in jobs]
            made = AsyncResult._listed(results)
            if block:
                made.wait(timeout)
            return made
        key = self._id_of(-1 if jobs is None else jobs)
        result = self._results().get(key)
        if result is None:
            result = Fetched(self, key)  # type: ignore[arg-type]  # the client is made of this
        elif isinstance(jobs, str) and (
            len(result._parts) > 1 or isinstance(result, AsyncMapResult)
        ):
            result = result._child(next(part for part in result._parts if key in part.all_ids()))
        if block:
            result.wait(timeout)
        return result

    def abort(self, jobs: Jobs = None, targets: Targets = None, block: bool | None = None) -> None:
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
        results = [future for future in self._futures(jobs) if isinstance(future, AsyncResult)]
        if engines is None:
            self._give_up(None if jobs is None else results, True)
        tasks = (part.task for result in results for part in result._parts)
        wanted = [task.id for task in tasks if engines is None or task.engine in engines]
        wanted += [key for result in results for key in result._inner if engines is None]
        if wanted:
            self._session.take_back(wanted)

    def _give_up(self, jobs: Iterable[Job] | None, is_abort: bool) -> None:
        """Submit nothing more of these maps, or of any."""
        if jobs is None:
            self._maps.give_up(is_abort)
        for job in jobs or ():
            if isinstance(job, AsyncResult):
                job._give_up(is_abort)

    def _not_running(self) -> set[str]:
        records = read_json(self._session.records(session=self._session.short_id, ended=False))
        return {
            whole_id(record["id"]) for record in records if PHASES[record["phase"]] != "running"
        }

    def cancel(self, jobs: Jobs = None, force: bool = False) -> int:
        """Cancel tasks, of this session or by their ids of any of the same owner: what waits, and what runs.

        Returns
        -------
        int
            How many had not ended before.
        """
        inner: list[str] = []
        if jobs is None:
            self._give_up(None, False)
            ids = self._session.unfinished()
        else:
            wanted = _listed(jobs)
            self._give_up(wanted, False)
            ids = []
            for job in wanted:
                ids += job.msg_ids if isinstance(job, AsyncResult) else [self._id_of(job)]
                inner += job._inner if isinstance(job, AsyncResult) else []
        # These last: the others would fail because of them.
        return sum(self._session.cancel(some, force)[0] for some in (ids, inner) if some)

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Return which tasks have ended: lists ``pending`` and ``completed`` of ids, if wanted with their values by id."""
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

    def records(
        self, label: str | None = None, ended: bool | None = None, limit: int = 0
    ) -> list[dict[str, Any]]:
        """Return what the broker knows of the owner's tasks, of all sessions: a dictionary each.

        Parameters
        ----------
        label : str, optional
            Only tasks with this label; ``*`` stands for any characters.
        ended : bool, optional
            Only those that have, or have not, ended.
        limit : int
            So many at most; 0 for all.
        """
        found = read_json(self._session.records(label=label, ended=ended, limit=limit))
        for record in found:
            record["id"], record["phase"] = whole_id(record["id"]), PHASES[record["phase"]]
            times = record["times"]
            times.update(times.pop("run"))
        return list(found)

    def stack(self, what: int | Job) -> Stack:
        """Return where an interpreter is now, without stopping it.

        Only tasks of this client's owner are shown. An administrator sees all, without the lines of source.

        Parameters
        ----------
        what : int, str or AsyncResult
            An engine, or a running task: its id, or its result.

        Raises
        ------
        RequestRefused
            If nothing of yours runs there, or the interpreter does not answer.
        """
        return Stack(read_json(self._session.stack(*self._interpreter(what))))

    def take_profile(self, what: int | Job, seconds: float = 10, rate: int = 100) -> Profile:
        """Sample an interpreter for a while, without stopping it, and return where it was most.

        A task is sampled until its end; an engine for the whole time, with what runs there for this client's owner.
        An administrator sees the tasks of all.

        Parameters
        ----------
        what : int, str or AsyncResult
            An engine, or a running task: its id, or its result.
        seconds : float
            For so long: 0.1 to 600.
        rate : int
            So many times a second: 1 to 200.

        Raises
        ------
        RequestRefused
            If nothing of yours runs there, the interpreter does not answer, or another profile of it is being made.
        ValueError
            For a time or a rate that is out of range.
        """
        if not 0.1 <= seconds <= SECONDS_MAX:
            raise ValueError(f"seconds: a number from 0.1 to {SECONDS_MAX}, not {seconds!r}")
        if not 1 <= rate <= RATE_MAX:
            raise ValueError(f"rate: a number from 1 to {RATE_MAX}, not {rate!r}")
        engine, task = self._interpreter(what)
        return Profile(read_json(self._session.profile(engine, task, seconds, rate)))

    def debug(
        self, what: Job | BaseException | None = None, commands: Sequence[str] | None = None
    ) -> None:
        """Open a debugger in the frames of a failed task, on its engine, where the exception was raised.

        The prompt is here; the commands are those of Python's `pdb` that look around: ``w``, ``u``, ``d``, ``l``, ``ll``,
        ``a``, ``p``, ``pp``, and ``!`` for a statement. ``q`` leaves it, and the engine lets go of the frames. It does so
        anyway when it begins other work, or nobody has looked at them for ten minutes.

        Parameters
        ----------
        what : AsyncResult, exception, str or int, optional
            A result, which is waited for, or the exception that it has raised; a task's id, or its place in `history`.
            Of several failures the first one that still has frames is opened. If nothing is said, what failed last at
            this prompt, or in this notebook.
        commands : sequence of str, optional
            Run these instead of a prompt, print what they say, and leave the frames as they are.

        Raises
        ------
        FramesGone
            If there are none, or none any longer: the text says why, and what to do.
        ValueError
            If the task has not failed.

        Examples
        --------
        >>> result = rc[0].apply_async(fit, data)
        >>> rc.debug(result)  # doctest: +SKIP
        ZeroDivisionError: division by zero
        > fit.py(12)scale()
        -> return values / total
        (Pdb) p total
        0
        """
        from furlong.client import debugging

        if what is None:
            what = debugging.last_failure()
        if not isinstance(what, BaseException):
            what = debugging.failure_of(self.get_result(what, block=True))
        client: Any = self  # it is made of this
        debugging.debug(client, what, commands)

    def _interpreter(self, what: int | Job) -> tuple[int | None, str | None]:
        """Return the engine, or the id of the task, whose interpreter is meant."""
        if isinstance(what, AsyncResult):
            if len(what.msg_ids) != 1:
                raise ValueError("the result has several tasks: give the id of one, of `msg_ids`")
            what = what.msg_ids[0]
        return (what, None) if isinstance(what, int) else (None, self._id_of(what))

    def trace(self, last: str | None = None, kind: str | None = None) -> Timeline:
        """Return a timeline of what the broker remembers: the last 65 536 tasks that have ended.

        They are those of this client's owner, of all sessions; an administrator's client gets all.

        Parameters
        ----------
        last : str, optional
            Only tasks of the last time, as ``90s``, ``10m`` or ``2h``.
        kind : str, optional
            Only tasks of the function of this name, with its module or without, or of the program.

        Raises
        ------
        KeyError
            If there is no kind of that name.
        """
        return Timeline(self._session.trace(last, kind))

    def db_query(
        self,
        query: Mapping[str, Any],
        keys: str | Sequence[str] | None = None,
        history: str | os.PathLike[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the tasks that a query asks for: a dictionary each, in the order of their submits.

        They are those that the broker knows of, and those of the history that ``furlong history record`` writes.

        Parameters
        ----------
        query : mapping
            Fields and their values, or a mapping of operators and values for each: ``$eq``, ``$ne``, ``$lt``, ``$lte``,
            ``$gt``, ``$gte``, ``$in``, ``$nin``, ``$mod``, ``$exists`` and ``$glob``. The fields are ``msg_id``,
            ``client_uuid``, ``engine_id``, ``host``, ``name``, ``label``, ``state``, ``error`` and ``attempts``, and the
            times ``submitted``, ``started``, ``completed`` and ``received``. ``label`` is not in the history.
        keys : list of str, optional
            The fields that are wanted; all if nothing is said. ``msg_id`` is always there.
        history : path, optional
            The file; by default that of the cluster, if the client has found the cluster by its name.

        Raises
        ------
        ValueError
            If a field or an operator is not known, or the file is no history.

        Warns
        -----
        IncompleteHistoryWarning
            If tasks may be missing: which, and why.
        """
        # A program that asks for nothing does not import it.
        from pathlib import Path

        from furlong._home import home
        from furlong.results import database

        asked = database.Query(query, keys)
        path = None if history is None else Path(history)
        if path is None and self._is_own:
            of_cluster = home() / self._session.cluster / "history.db"
            path = of_cluster if of_cluster.exists() else None
        opened = None if path is None else database.History(path)
        try:
            trace = self._session.trace(None, None)
            spans = read_json(trace.spans())
            return database.find(asked, opened, spans, self.records(), trace.forgotten)
        finally:
            if opened is not None:
                opened.close()

    def hub_history(self) -> list[str]:
        """Return the ids of the owner's tasks that the broker knows, of all sessions, in the order of their submits."""
        found = sorted(self.records(), key=lambda record: record["times"]["submitted_unix_us"])
        return [record["id"] for record in found]

    def resubmit(
        self, indices_or_msg_ids: Jobs = None, metadata: object = None, block: bool | None = None
    ) -> AsyncResult:
        """Run tasks of this session again, as they were submitted, with all their options.

        Raises
        ------
        KeyError
            If there is no such task, or its result is not held here any longer, so that what it ran is not known.
        InputTaken
            If the value of one of its arguments has come here meanwhile, and is no longer at the cluster.
        """
        jobs = indices_or_msg_ids
        if metadata is not None:
            raise TypeError("a task is run again with its own options: metadata cannot be given")
        try:
            wanted = self._futures([-1] if jobs is None else jobs)
        except (errors.RequestRefused, ValueError) as error:
            raise KeyError(str(error)) from error
        parts: list[SubTask] = []
        for result in wanted:
            if not isinstance(result, AsyncResult) or any(
                part.spec.call is None for part in result._parts
            ):
                raise KeyError(
                    "what the task ran is not held here any longer: keep its result, or submit it anew"
                )
            parts += result._parts
        again = signals.owned(self._session, lambda: [self._submit_again(part) for part in parts])
        made = again[0] if len(again) == 1 else AsyncResult._listed(again)
        if block:
            made.wait()
        return made

    def _submit_again(self, part: SubTask) -> AsyncResult:
        task = part.spec.submit(part.task.engine)
        result = AsyncResult([SubTask(task, part.spec)], True)
        self._note(result)
        return result

    def purge_results(self, jobs: Jobs = None, targets: Targets = None) -> None:
        """Forget retained results at the broker.

        Parameters
        ----------
        jobs : optional
            These tasks, as `wait` takes them, or ``"all"`` that have ended.
        targets : optional
            Those that these engines had.

        Raises
        ------
        ValueError
            If nothing is said.
        """
        ids = self._chosen_ids(jobs, targets)
        if ids:
            self._session.purge(ids)

    purge_hub_results = purge_results

    def _chosen_ids(self, jobs: Jobs, targets: Targets) -> list[str]:
        """Return the ids of what is to be forgotten."""
        if _says_nothing(jobs) and _says_nothing(targets):
            raise ValueError(
                "say which results are to be forgotten: jobs, or targets, or jobs='all'"
            )
        ids: list[str] = []
        if isinstance(jobs, str) and jobs == "all":
            return [record["id"] for record in self.records(ended=True)]
        if not _says_nothing(jobs):
            for job in _listed(jobs):
                ids += job.msg_ids if isinstance(job, AsyncResult) else [self._id_of(job)]
        if not _says_nothing(targets):
            engines = set(self._engines(targets))
            ids += [
                record["id"] for record in self.records(ended=True) if record["engine"] in engines
            ]
        return ids

    def purge_local_results(self, jobs: Jobs = None, targets: Targets = None) -> None:
        """Forget results here. See `purge_results`.

        Raises
        ------
        RuntimeError
            If one has not ended.
        """
        if _says_nothing(jobs) and _says_nothing(targets):
            raise ValueError(
                "say which results are to be forgotten: jobs, or targets, or jobs='all'"
            )
        held = list(self._results().values())
        if isinstance(jobs, str) and jobs == "all":
            chosen: list[Any] = held
        else:
            chosen = [] if _says_nothing(jobs) else list(self._futures(jobs))
            if not _says_nothing(targets):
                engines = set(self._engines(targets))
                chosen += [
                    result
                    for result in held
                    if any(part.engine_id in engines for part in result._parts)
                ]
        for result in chosen:
            if not result.done():
                raise RuntimeError(f"{result!r} has not ended; wait for it, or cancel it")
        self._held.difference_update([one for one in self._held.copy() if one() in chosen])

    def purge_everything(self) -> None:
        """Forget all results, here and at the broker."""
        self.purge_local_results("all")
        self.purge_results("all")


def _listed(jobs: Jobs) -> list[Job]:
    """Return each of the tasks that somebody names."""
    one = isinstance(jobs, (str, int, concurrent.futures.Future))
    return [jobs] if one else list(jobs or ())  # type: ignore[list-item, arg-type]


def _says_nothing(chosen: object) -> bool:
    return chosen is None or (isinstance(chosen, (list, tuple)) and not chosen)
