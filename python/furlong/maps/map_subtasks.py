"""The tasks of a map: each runs some items, and what fails of them fails alone.

A task that is lost, runs too long or cannot tell its values takes none of its items along: those that are not to blame
run again, in tasks that follow it.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
import time
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from furlong import _wire, errors
from furlong.calls.codecs import PICKLE, check_codec, loads
from furlong.calls.task_spec import CallInfo, TaskSpec
from furlong.pickling import fresh_copies
from furlong.pickling.arguments import Pickle, dumps_items, input_ids
from furlong.pickling.functions import Pickled, call_of
from furlong.pickling.inputs import Input, Pins
from furlong.results.subtasks import (
    AWAY,
    METADATA_OF,
    UNMET,
    BalancedSubTask,
    Hold,
    deadline_after,
    error_of,
    is_away,
    remaining,
)
from furlong.waiting import signals

if TYPE_CHECKING:
    from furlong import _furlong
    from furlong.views.view import View

__all__ = ["MapSubTask", "Work"]

# How an engine tells which item ran when an interpreter died: see `death.rs`.
_RAN = re.compile(r" \[items (\d+)\+(\d+) of its part of the map\]")
# What stands beside the error of a task whose items have failed, before the items.
_ITEMS_MARK = b"items"
# Ends of a task that one of its items may have brought about.
_BLAMES_ONE = ("engine_lost", "run_timeout", "payload", "remote")
# So many items that fail one after another in the same way, before their own code begins, stand for
# all.
_ALIKE = 3


class Work:
    """The work of a map: its function, its items, and how their tasks are submitted."""

    def __init__(
        self,
        view: View,
        function: Pickled,
        info: CallInfo,
        columns: list[Any],
        in_place: bool,
        shared: Mapping[str, Input] | None = None,
        is_conditional: bool = False,
    ) -> None:
        self.info = info
        self.columns = columns
        self.in_place = in_place
        # Arguments of all calls, and what they get from the cluster, until there is no task left.
        self._shared = shared
        self._pins = Pins()
        self._view = view
        self._function = function
        targets = view.targets
        # Those of a direct view have engines of their own.
        self._targets: list[int] | None = targets if isinstance(targets, list) else None
        # Items as they were when the map was called, if they can change before they are submitted.
        self._rows: fresh_copies.Rows | None = None
        self._is_open: list[bool] = []
        #: How often items that have failed run again.
        self.retries = _error_retries(view)
        #: Whether an item must not run again because of others, so that each has a task of its own.
        self.is_alone = (
            view.at_most_once or view.retries == 0 or bool(self.retries and view.backoff)
        )
        # The broker runs a task of one item again. Of several items only those run again that have
        # failed.
        self._shared_view = (
            view
            if self.is_alone or not self.retries
            else copy.copy(view).set_flags(error_retries=0)
        )
        if self.is_alone:
            self.isolate()
        # Items that fail run again, in other tasks, unless the broker sees to that.
        self._may_move = is_conditional or bool(self.retries and not self.is_alone)

    def end(self) -> None:
        """Let go of what was held for tasks: there is none any more."""
        self._shared, self._pins = None, Pins()

    def isolate(self) -> None:
        """Submit each item as a task of its own."""
        self.is_alone = True
        # One that ends its engine's interpreter must not take those along that wait there.
        self._shared_view = self._view
        if self._view._is_direct:
            self._shared_view = copy.copy(self._view).set_flags(restart_safe=True)

    def copy_items(self, begin: int) -> None:
        """Copy the items from there on: the caller may change them before they are submitted."""
        is_open = fresh_copies.are_open(self.columns)
        if any(is_open):
            columns = [column[begin:] for column in itertools.compress(self.columns, is_open)]
            rows = fresh_copies.Rows(list(zip(*columns)), begin)
            # What cloudpickle alone can pickle is sent as it is then.
            if rows.is_whole:
                self._is_open, self._rows = is_open, rows
                self._pins.add(rows.parts_to_hold())

    def options(self) -> _furlong.Options | None:
        """Return the options of the tasks."""
        self._view._task_options(False, self.info.label)
        return self._shared_view._task_options(False, self.info.label)

    def submit(
        self, begin: int, places: Sequence[int], engine: int | None, exact: bool = False
    ) -> tuple[_furlong.Task, TaskSpec]:
        """Submit a task of these items, whose places count from there."""
        first, last = begin + places[0], begin + places[-1] + 1
        if last - first == len(places):
            chunk = [column[first:last] for column in self.columns]
        else:
            chunk = [[column[begin + place] for place in places] for column in self.columns]
        copies = None
        if self._rows is not None and first >= self._rows.begin:
            copies = self._rows.among(begin + place for place in places), self._is_open

        def pickle() -> Pickle:
            with self._pins.in_use():
                return dumps_items(chunk, first, exact, copies, self._shared)

        def submit(items: Pickle) -> tuple[_furlong.Task, TaskSpec]:
            client = self.info.client
            call = call_of(self._function, items, self.options(), client._session)
            spec = TaskSpec(
                call, self.info, None, self._targets, input_ids(items), may_move=self._may_move
            )
            to = engine
            if to is None and self._targets is not None:
                to = self._view._next_engine()  # type: ignore[attr-defined]
            return spec.submit(to), spec

        items = pickle()
        if items.inputs is None:
            task, spec = submit(items)
        else:
            self._pins.add(items.inputs.owners)
            task, spec = self.info.client._causes.submit(items, pickle, submit)
        self._view._submitted.add(task.number)
        return task, spec


def _buffers_of(outcome: _furlong.Outcome) -> Sequence[object] | None:
    """Return what a task tells of its items, by pickles as it was called; none if it failed as a whole."""
    if outcome.ok:
        check_codec(outcome.codec, (PICKLE,))
        return outcome.data()
    if outcome.remote is None:
        return None
    details = outcome.remote_details()
    # An error keeps its details: what is made of them has memory of its own.
    is_items = details and bytes(details[0]) == _ITEMS_MARK
    return [*details[1:2], *map(bytearray, details[2:])] if is_items else None


def _error_retries(view: Any) -> int:
    retries = view.retries if view.error_retries is None else view.error_retries
    return retries or 0


class _Faults:
    """The failures of some items, and which of them are to run again."""

    __slots__ = ("alike", "exact", "failures", "left", "singly", "tries")

    def __init__(self) -> None:
        self.failures: dict[int, BaseException] = {}
        # The places of items for the tasks that follow; whether these tell each item before its
        # call, and whether each has an item of its own.
        self.left: list[int] = []
        self.exact = self.singly = False
        # The errors, all of one kind, with which the last such tasks have failed.
        self.alike: list[tuple[str, str]] = []
        # How often items were tried again.
        self.tries: dict[int, int] = {}

    def copy(self) -> _Faults:
        """Return another that is the same."""
        other = _Faults()
        other.failures, other.left, other.alike = dict(self.failures), [*self.left], [*self.alike]
        other.tries, other.exact, other.singly = dict(self.tries), self.exact, self.singly
        return other


class _Away(NamedTuple):
    """A task whose values stay at the cluster, and the places of its items."""

    task: _furlong.Task
    places: Sequence[int]
    hold: Hold | None


_NO_FAILURES: Mapping[int, BaseException] = types.MappingProxyType({})


class MapSubTask(BalancedSubTask):
    """Some items of a map, one after another in theirs, and the tasks that run them: mostly one.

    Attributes
    ----------
    begin, size : int
        Which items.
    values : list
        Once all have ended: a value or an error for each.
    failures : dict
        The errors, by their places in `values`.
    """

    __slots__ = (
        "_absorbed",
        "_away",
        "_earlier",
        "_engine",
        "_faults",
        "_inputs",
        "_places",
        "_stopped",
        "_texts",
        "_work",
        "begin",
        "nbytes",
        "run_seconds",
        "size",
        "values",
    )

    def __init__(self, work: Work, begin: int, size: int, engine: int | None = None) -> None:
        task, spec = work.submit(begin, range(size), engine)
        super().__init__(task, spec)
        self.nbytes = spec.nbytes
        self.begin, self.size = begin, size
        # Of many items few fail. What is noted of failures is made when one comes: that many
        # containers would have Python look for garbage in all the values that have come.
        self.values: Any = ()
        self._faults: _Faults | None = None
        self._texts: dict[str, dict[int, str]] | None = None
        self._earlier: tuple[str, ...] = ()
        # The tasks whose values stay at the cluster, with the places of their items.
        self._away: tuple[_Away, ...] = ()
        # The tasks whose values are arguments of the one that runs.
        self._inputs = spec.inputs
        self.run_seconds = 0.0
        self._work = work
        self._engine = engine
        # The places of the task that runs.
        self._places: Sequence[int] = range(size)
        # The last end of which all is noted that it says.
        self._absorbed: _furlong.Outcome | None = None
        self._stopped: BaseException | None = None

    def stop(self, why: BaseException) -> None:
        """Submit no task any more."""
        with self._lock:
            self._stopped = why

    def all_ids(self) -> Sequence[str]:
        """Return the ids of the tasks that it had."""
        return (*self._earlier, self.task.id)

    def given(self) -> Any:
        """Return the values, with errors in the places of those that have failed."""
        return self.values

    # Ends of tasks.

    def settle(self) -> None:
        """Take the end, which has come."""
        if not self.is_settled and not self.poll():
            raise RuntimeError("the task has not ended")

    def _take(self) -> None:
        """Take the end of a task, which has come; let others follow if items are to run again."""
        with self._lock:
            if self.is_settled or not self.task.done():
                return
            outcome = self.task.outcome()
            if outcome is None:
                raise RuntimeError("the task has ended, and its end is not there")
            if self._absorbed is not outcome:
                # The user's code runs here, and so may handlers of signals: then the next look
                # begins anew.
                before = self._noted()
                try:
                    self._absorb(outcome)
                    self._absorbed = outcome
                except BaseException:
                    self._faults, self._tried = before
                    raise
                self.received = time.time()
                self.run_seconds += outcome.times[3] / 1e6
            outcome.drop_data()
            # The task stays the one that is asked for until another has followed it.
            faults = self._faults
            if faults is None or not faults.left or not self._submit_next(outcome, faults):
                self._end(outcome)

    def _noted(self) -> tuple[_Faults | None, set[int] | None]:
        """Return a copy of what an end changes."""
        faults = None if self._faults is None else self._faults.copy()
        return faults, None if self._tried is None else set(self._tried)

    def _faulty(self) -> _Faults:
        """Return the notes of failures, made if there are none."""
        if self._faults is None:
            self._faults = _Faults()
        return self._faults

    @property
    def failures(self) -> Mapping[int, BaseException]:
        """The errors, by their places in `values`."""
        return _NO_FAILURES if self._faults is None else self._faults.failures

    def _end(self, outcome: _furlong.Outcome) -> None:
        if self._faults is not None and self._faults.failures:
            failures = self._faults.failures = dict(sorted(self._faults.failures.items()))
            for place, error in failures.items():
                self.values[place] = error
            if not self._work.in_place:
                self.error = next(iter(failures.values()))  # type: ignore[assignment]
        self.value = AWAY if self._away else self.values
        self.outcome = outcome
        self.is_settled = True

    def _absorb(self, outcome: _furlong.Outcome) -> None:
        """Take what a task came to. Items may be left, for other tasks."""
        places = self._places
        if outcome.ok and is_away(self.info, outcome):
            self._note_texts(outcome, places, {})
            self._away = (*self._away, _Away(self.task, places, self.hold))
            return
        items = None
        try:
            buffers = _buffers_of(outcome)
            if buffers is not None:
                items = self._load(outcome, buffers)
        except Exception as error:
            signals.reraise(error)
            self._note_texts(outcome, places, {})
            text = f"the result cannot be read: {error}"
            lost = errors.ResultLost(type(error).__name__, text, "", self._where(outcome.engine))
            lost.__cause__ = error
            self._fail(places, lost)
            return
        if items is None:
            self._note_texts(outcome, places, {})
            self._blame(outcome, places, self._where(outcome.engine))
        else:
            self._put(items, places, outcome)

    def _load(self, outcome: _furlong.Outcome, buffers: Sequence[object]) -> _wire.Items:
        return _wire.load_items(lambda: loads(buffers), lambda: self._where(outcome.engine))

    def _put(self, items: _wire.Items, places: Sequence[int], outcome: _furlong.Outcome) -> None:
        if self._faults is not None:
            self._faults.alike.clear()
        self._note_texts(outcome, places, items.written)
        if len(items.values) != len(places):
            lost = errors.ResultLost(
                "ResultLost", f"{len(items.values)} values came for {len(places)} items", ""
            )
            return self._fail(places, lost)
        self._put_values(items.values, places)
        for at in items.failed:
            self._fail_or_retry(places[at], items.values[at], outcome.engine)
        return None

    def _put_values(self, values: list[Any], places: Sequence[int]) -> None:
        if len(places) == self.size:
            self.values = values
        else:
            self._make_room()
            for place, value in zip(places, values):
                self.values[place] = value

    # Values that stay at the cluster.

    def pieces(self) -> Sequence[_furlong.Task]:
        """Return the tasks that have the values."""
        return (self.task, *self._earlier)  # type: ignore[arg-type]  # it is counted

    def release(self) -> None:
        """Let go of the values at the cluster."""
        super().release()
        self._away = tuple(away._replace(hold=None) for away in self._away)

    def holds(self) -> Sequence[Hold]:
        """Return what keeps the values at the cluster."""
        return (*super().holds(), *(away.hold for away in self._away if away.hold))

    def bring(self, timeout: float | None = None) -> bool:
        """Fetch the values that have stayed at the cluster; whether they are here in time."""
        deadline = deadline_after(timeout)
        # Another thread may have some of them meanwhile.
        while away := self._away[-1:]:
            outcome = self._fetched(away[0].task.id, remaining(deadline))
            if outcome is None:
                return False
            try:
                items = self._load(outcome, outcome.data())
            except Exception as error:
                signals.reraise(error)
                raise self._unreadable(error) from error
            with self._lock:
                if self._away[-1:] == away:
                    self._put_values(items.values, away[0].places)
                    if len(self._away) == 1:
                        self.value = self.values
                    self._away = self._away[:-1]
        return True

    def _fail_or_retry(self, place: int, error: Any, engine: int | None) -> None:
        faults = self._faulty()
        tries = faults.tries.get(place, 0)
        if getattr(error, "ename", None) == UNMET and engine is not None and self._engine is None:
            self._tried = {*(self._tried or ()), engine}
            faults.left.append(place)
        elif tries < self._work.retries and not self._work.is_alone:
            faults.tries[place] = tries + 1
            faults.left.append(place)
        else:
            faults.failures[place] = error

    def _fail(self, places: Sequence[int], error: BaseException) -> None:
        self._make_room()
        self._faulty().failures.update(dict.fromkeys(places, error))

    def _make_room(self) -> None:
        if not self.values:
            self.values = [None] * self.size

    def _blame(
        self, outcome: _furlong.Outcome, places: Sequence[int], where: errors.EngineInfo
    ) -> None:
        """Take a task's failure that says nothing of its items: find out who is to blame."""
        ran = _RAN.search(outcome.text or "")
        first, count = (int(ran[1]), int(ran[2])) if ran else (0, 0)
        error = error_of(outcome, where, is_pickled=True, said=lambda text: _RAN.sub("", text))
        is_of_input = outcome.kind == "dependency" and bool(self._inputs)
        if is_of_input:
            error.__cause__ = self.info.client._causes.find(self._inputs)
        remote, faults = outcome.remote, self._faulty()
        if (
            remote is not None
            and remote[0] == UNMET
            and outcome.engine is not None
            and self._engine is None
        ):
            self._tried = {*(self._tried or ()), outcome.engine}
            faults.left += places
        elif len(places) > 1 and count == 1 and first < len(places):
            faults.exact = True
            self._fail([places[first]], error)
            faults.left += [place for place in places if place != places[first]]
        elif len(places) > 1 and count > 1 and not faults.exact:
            faults.exact = True
            faults.left += places
        elif (
            len(places) > 1
            and (outcome.kind in _BLAMES_ONE or is_of_input)
            and not isinstance(error, errors.PythonVersionError)
        ):
            faults.singly = True
            faults.left = [*places, *faults.left]
        else:
            self._fail(places, error)
            if remote is not None and faults.singly:
                said = remote[0], remote[1]
                faults.alike = [*faults.alike, said] if said in faults.alike else [said]
                if len(faults.alike) >= _ALIKE:
                    self._fail(faults.left, error)
                    faults.left = []

    def _submit_next(self, outcome: _furlong.Outcome, faults: _Faults) -> bool:
        """Submit the next task; return whether there is one."""
        engine = self._engine
        if self._stopped is not None:
            self._fail(faults.left, self._stopped)
            return False
        if self._tried:
            engine = self.spec.engine_beside(self._tried)
            if engine is None:
                self._fail(faults.left, self._no_engine(outcome))
                return False
        places = sorted(faults.left)
        places, left = (places[:1], places[1:]) if faults.singly else (places, [])
        before = self._places, faults.left, self._earlier

        def submit() -> None:
            task, spec = self._work.submit(self.begin, places, engine, faults.exact)
            self._places, faults.left = places, left
            self._earlier = (*self._earlier, self.task.id)
            if self.hold is not None:
                self.hold = Hold(task)
            self.task, self._inputs = task, spec.inputs

        try:
            signals.owned(self.info.client._session, submit)
        except BaseException as error:
            self._places, faults.left, self._earlier = before
            if not isinstance(error, Exception):
                raise
            signals.reraise(error)
            self._fail([*places, *left], error)
            return False
        return True

    def _no_engine(self, outcome: _furlong.Outcome) -> errors.FurlongError:
        remote = outcome.remote
        why, traceback = (remote[1], remote[2]) if remote is not None else ("", "")
        text = f"no engine is left to try; {sorted(self._tried or ())} did not fit: {why}"
        return errors.ImpossibleDependency(
            "ImpossibleDependency", text, traceback, self._where(outcome.engine)
        )

    # What is known of each item.

    def _note_texts(
        self, outcome: _furlong.Outcome, places: Sequence[int], written: Mapping[int, Sequence[int]]
    ) -> None:
        """Note what each item wrote. What cannot be told apart is the first one's."""
        for at, stream in enumerate(("stdout", "stderr")):
            text = getattr(outcome, stream)
            if not text:
                continue
            self._texts = self._texts or {}
            of_items = self._texts.setdefault(stream, {})
            if sum(sizes[at] for sizes in written.values()) != len(text):
                of_items[places[0]] = of_items.get(places[0], "") + text
                continue
            begin = 0
            for item in sorted(written):
                end = begin + written[item][at]
                if end > begin:
                    of_items[places[item]] = of_items.get(places[item], "") + text[begin:end]
                begin = end

    def live(self, stream: str) -> str:
        """Return what all items have written so far."""
        noted = (self._texts or {}).get(stream, {})
        before = "".join(noted[place] for place in sorted(noted))
        return before if self.is_settled else before + self.task.written(stream)

    def of_items(self, name: str) -> list[Any]:
        """Return something of each item. What is known of its task only is the same for all items of that."""
        self.poll()
        if name in ("stdout", "stderr"):
            return self._texts_of_items(name)
        if name == "error":
            return [self.failures.get(place) for place in range(self.size)]
        if name == "status":
            return [self._status_of(place) for place in range(self.size)]
        if name == "run_time":
            return [self.run_seconds / self.size if self.is_settled else None] * self.size
        if name == "outputs":
            return [METADATA_OF[name](self), *([] for _ in range(self.size - 1))]
        return [METADATA_OF[name](self)] * self.size

    def _texts_of_items(self, stream: str) -> list[str]:
        noted = (self._texts or {}).get(stream, {})
        texts = [noted.get(place, "") for place in range(self.size)]
        if not self.is_settled:
            with contextlib.suppress(LookupError):
                texts[self._places[0]] += self.task.written(stream)
        return texts

    def _status_of(self, place: int) -> str | None:
        if not self.is_settled:
            return None
        error = self.failures.get(place)
        return (
            "ok"
            if error is None
            else "aborted"
            if isinstance(error, errors.TaskAborted)
            else "error"
        )
