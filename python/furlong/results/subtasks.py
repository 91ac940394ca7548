"""The parts of results: one task each, its end, and its metadata."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _wire, errors
from furlong.calls.codecs import DATA, PICKLE, check_codec, decoded, value_of
from furlong.pickling.inputs import is_pinned
from furlong.results.displays import ExecuteReply
from furlong.waiting import signals
from furlong.waiting.dispatch import Dispatcher, dispatcher
from furlong.waiting.no_engines import wait_patiently

if TYPE_CHECKING:
    import datetime

    from furlong import _furlong
    from furlong.calls.task_spec import CallInfo, TaskSpec

__all__ = [
    "AWAY",
    "METADATA",
    "BalancedSubTask",
    "Hold",
    "Metadata",
    "SubTask",
    "as_ended",
    "deadline_after",
    "error_of",
    "first_value",
    "is_away",
    "remaining",
]

METADATA = (
    "msg_id",
    "submitted",
    "started",
    "completed",
    "received",
    "engine_id",
    "engine_uuid",
    "follow",
    "after",
    "status",
    "attempts",
    "engine_wait_time",
    "load_time",
    "run_time",
    "store_time",
    "execute_input",
    "execute_result",
    "error",
    "stdout",
    "stderr",
    "outputs",
    "data",
    "label",
)
_KINDS: dict[str, type[errors.RemoteError]] = {
    "remote": errors.RemoteError,
    "no_engines": errors.EngineError,
    "unknown_engine": errors.EngineError,
    "forbidden": errors.Forbidden,
    "engine_lost": errors.EngineError,
    "cancelled": errors.TaskCancelled,
    "aborted": errors.TaskAborted,
    "queue_timeout": errors.TaskTimeout,
    "run_timeout": errors.RunTimeout,
    "dependency": errors.ImpossibleDependency,
    "unsupported": errors.Unsupported,
    "payload": errors.ResultLost,
    "exit": errors.CommandError,
    "journal": errors.JournalError,
}


class _Away:
    """Stands for a value that has stayed at the cluster."""


AWAY = _Away()


class Hold:
    """Keeps the value of a task at the cluster for as long as somebody has this."""

    __slots__ = ("_task",)

    def __init__(self, task: _furlong.Task) -> None:
        self._task = task

    def __del__(self) -> None:
        """Let it go: it waits for nothing."""
        try:  # noqa: SIM105 - at the interpreter's end there may be no `contextlib`
            self._task.release()
        except Exception:
            pass  # this is a process that was forked


def is_away(info: CallInfo, outcome: _furlong.Outcome) -> bool:
    """Return whether a value has stayed at the cluster: any that comes has bytes."""
    return info.stays and not outcome.nbytes


def first_value(part: SubTask, outcome: _furlong.Outcome) -> Any:
    """Return the only value of several that were asked for."""
    return value_of(outcome, part.info.codecs)[0]


class SubTask:
    """One task of a result: what was asked, and how it ended once that is known."""

    __slots__ = (
        "_lock",
        "_tried",
        "hold",
        "info",
        "began",
        "began_at",
        "error",
        "is_settled",
        "outcome",
        "received",
        "spec",
        "task",
        "value",
        "__weakref__",
    )

    def __init__(self, task: _furlong.Task, spec: TaskSpec) -> None:
        self.task = task
        self.spec = spec
        self.info = spec.info
        self.began = time.time()
        # The same by the clock that nobody sets.
        self.began_at = time.monotonic()
        self.outcome: _furlong.Outcome | None = None
        self.value: object = None
        self.error: errors.FurlongError | None = None
        self.received: float | None = None
        self.is_settled = False
        # Keeps the value at the cluster, if it is to stay there.
        self.hold: Hold | None = Hold(task) if spec.info.stays else None
        self._lock = _thread.allocate_lock()
        # Engines that did not fit.
        self._tried: set[int] | None = None

    def all_ids(self) -> Sequence[str]:
        """Return the ids of the tasks that it had."""
        return (self.task.id,)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it has come in time."""
        return self.is_settled or wait_patiently(self.task.wait, timeout, self.info.client)

    def poll(self) -> bool:
        """Take an end that has come, as far as that leads to another submit; return whether all has ended."""
        return self.is_settled or self.task.done()

    def when_ended(self, callback: Callable[[], None], by: Dispatcher | None = None) -> None:
        """Call back once, from a dispatcher's thread, when the end has come."""
        (by or dispatcher()).when_ended(self.task, callback)

    def settle(self) -> None:
        """Take the end, which has come, and decode it."""
        if self.is_settled:
            return
        with self._lock:
            if self.is_settled:
                return
            outcome = self.outcome = self.outcome or self.task.outcome()
            if outcome is None:
                raise RuntimeError("the task has not ended")
            self.received = time.time()
            try:
                if outcome.ok:
                    self.value = AWAY if is_away(self.info, outcome) else self._value(outcome)
                elif self.error is None:
                    self.error = error_of(outcome, self.where(), is_pickled=self.info.is_pickled)
                    if self.spec.inputs and isinstance(self.error, errors.ImpossibleDependency):
                        self.error.__cause__ = self.info.client._causes.find(self.spec.inputs)
            except Exception as error:
                signals.reraise(error)
                self.error = self._unreadable(error)
            self.is_settled = True
            # Until now a signal's handler may have ended this, and the next look begins anew.
            outcome.drop_data()

    def _unreadable(self, error: Exception) -> errors.ResultLost:
        text = f"the result cannot be read: {error}"
        lost = errors.ResultLost(type(error).__name__, text, "", self.where())
        lost.__cause__ = error
        return lost

    def _value(self, outcome: _furlong.Outcome) -> object:
        if self.spec.decode is not None:
            return self.spec.decode(self, outcome)
        if self.info.method == "map":
            with _wire.loading_of(self.where):
                return value_of(outcome, self.info.codecs)
        return value_of(outcome, self.info.codecs)

    # Values that stay at the cluster.

    def pieces(self) -> Sequence[_furlong.Task]:
        """Return the tasks that have the value."""
        return (self.task,)

    def wait_until_fixed(self) -> None:
        """Wait while another task may still take the place of this one, which would then be no input."""
        if self.spec.may_move:
            self.wait()

    def holds(self) -> Sequence[Hold]:
        """Return what keeps the value at the cluster."""
        return () if self.hold is None else (self.hold,)

    def is_held(self) -> bool:
        """Return whether the value was not let go, or is held by the call that is pickled now."""
        return self.hold is not None or is_pinned(self)

    def stays(self) -> int | None:
        """Return the bytes of the value at the cluster; None if there is none."""
        return self.outcome.stays if self.outcome is not None and self.is_held() else None

    def bring(self, timeout: float | None = None) -> bool:
        """Fetch a value that has stayed at the cluster, if it has; whether it is here in time."""
        if self.value is not AWAY:
            return True
        outcome = self._fetched(self.task.id, timeout)
        if outcome is None:
            return False
        try:
            value = self._value(outcome)
        except Exception as error:
            signals.reraise(error)
            raise self._unreadable(error) from error
        with self._lock:
            if self.value is AWAY:  # another thread may have it meanwhile
                self.value = value
        return True

    def _fetched(self, key: str, timeout: float | None) -> _furlong.Outcome | None:
        """Fetch the end of a task, whose value has stayed at the cluster; None if it does not come in time.

        Raises
        ------
        ResultLost
            If it is no longer there.
        """
        if self.hold is None:
            text = "the value is no longer at the cluster: it was let go by `release`"
            raise errors.ResultLost("ResultLost", text, "", self.where())
        try:
            found = self.info.client._session.fetch(key, True, timeout)
        except errors.RequestRefused as error:
            raise errors.ResultLost("ResultLost", str(error), "", self.where()) from error
        if found is None:
            return None
        outcome = found[1]
        if outcome is None or not outcome.ok:
            why = None if outcome is None else outcome.text
            text = f"the value is no longer at the cluster: {why or 'it was let go'}"
            raise errors.ResultLost("ResultLost", text, "", self.where())
        return outcome

    def release(self) -> None:
        """Let go of the value at the cluster, now or when the task has ended. Calls that hold it keep it."""
        self.hold = None

    def given(self) -> Any:
        """Return the value, or the error in its place, of one that is settled."""
        return self.value if self.error is None else self.error

    def where(self) -> errors.Where:
        """Return the engine, for errors."""
        return self._where(self.engine_id)

    def _where(self, engine: int | None) -> errors.Where:
        return errors.Where(engine, self.info.method, self.info.client._uuid_of)

    @property
    def engine_id(self) -> int | None:
        """The engine that ran it, or that it is for."""
        if self.outcome is not None and self.outcome.engine is not None:
            return self.outcome.engine
        return self.task.engine

    def submitted(self) -> float:
        """Return the time at which the broker got it; if that is not known, at which it was made."""
        known = 0 if self.outcome is None else self.outcome.times[0]
        return known / 1e6 if known else self.began

    def span(self) -> tuple[float, float] | None:
        """Return the times at which the broker got it and at which it ended, in seconds by its clock; None if unknown."""
        times = None if self.outcome is None else self.outcome.times
        return (
            (times[0] / 1e6, (times[0] + times[2]) / 1e6)
            if times is not None and times[0]
            else None
        )

    def metadata(self, name: str) -> Any:
        """Return something of what happened."""
        return METADATA_OF[name](self)

    def all_metadata(self) -> Metadata:
        """Return all of it, with an error in the place of data that cannot be read."""

        def told(name: str) -> Any:
            try:
                return self.metadata(name)
            except errors.ResultLost as error:
                return error

        return Metadata({name: told(name) for name in METADATA})

    def live(self, stream: str) -> str:
        """Return what it has written so far."""
        if self.outcome is not None:
            text: str = getattr(self.outcome, stream)
            return text
        return self.task.written(stream)


class BalancedSubTask(SubTask):
    """A task of the shared queue, which tries another engine where its own code says that this one does not fit."""

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it has come in time."""
        if self.poll():
            return True
        deadline = deadline_after(timeout)
        while not self.poll():
            if not wait_patiently(self.task.wait, remaining(deadline), self.info.client):
                return False
        return True

    def poll(self) -> bool:
        """Take the ends of attempts that have come, and submit the task elsewhere if they ask for it."""
        while self.outcome is None and not self.is_settled:
            if not self.task.done():
                return False
            self._take()
        return True

    def when_ended(self, callback: Callable[[], None], by: Dispatcher | None = None) -> None:
        """Call back once, from a dispatcher's thread, when the end has come."""

        def one_ended() -> None:
            if self.poll():
                callback()
            else:
                self.when_ended(callback, by)

        super().when_ended(one_ended, by)

    def _take(self) -> None:
        """Take the end of an attempt, which has come; go elsewhere if that is what it says."""
        with self._lock:
            outcome = self.task.outcome() if self.outcome is None else None
            if outcome is None or (not outcome.ok and self._try_elsewhere(outcome)):
                return
            self.outcome = outcome
            if self.spec.again is not None:  # it has the arguments
                self.spec = self.spec._replace(again=None)

    def _try_elsewhere(self, outcome: _furlong.Outcome) -> bool:
        """Submit the task to another engine, if the one that had it did not fit; return whether one has it now."""
        remote = outcome.remote
        if remote is None or remote[0] != UNMET or outcome.engine is None:
            return False
        tried = self._tried = self._tried or set()
        tried.add(outcome.engine)
        engine = self.spec.engine_beside(tried)
        text = f"no engine is left to try; {sorted(tried)} did not fit: {remote[1]}"
        if engine is not None:
            try:
                signals.owned(self.info.client._session, self._submit_to, engine)
            except errors.InputTaken as error:
                text = (
                    f"engine {outcome.engine} did not fit: {remote[1]}; no other can have the call, since {error}; "
                    "a function with the decorator `depend` keeps what it needs to go on"
                )
            else:
                return True
        where = self._where(outcome.engine)
        self.error = errors.ImpossibleDependency("ImpossibleDependency", text, remote[2], where)
        return False

    def _submit_to(self, engine: int) -> None:
        spec = self.spec
        try:
            task = spec.submit(engine)
        except errors.InputTaken:
            if spec.again is None:
                raise
            spec = spec.again()
            task = spec.submit(engine)
        if self.hold is not None:
            self.hold = Hold(task)
        # Last: where a signal's handler ends this before, what was submitted is cancelled.
        self.spec, self.task = spec, task


# What the worker calls `UnmetDependency`.
UNMET = "furlong.errors.UnmetDependency"


def error_of(
    outcome: _furlong.Outcome,
    where: errors.EngineInfo,
    *,
    is_pickled: bool = False,
    said: Callable[[str], str] = str,
) -> errors.FurlongError:
    """Make the exception of a failure, whose text is put as people are told it.

    What it has beyond its texts is read from pickles if the call was one.
    """
    kind, text = outcome.kind or "remote", said(outcome.text or "")
    if kind in ("disconnected", "submit"):
        return errors.ConnectionLost(text)
    if kind == "busy":
        return errors.Busy(text)
    remote = outcome.remote
    if remote is not None:
        ename, evalue, traceback, _ = remote
        own = _OWN.get(ename)
        if own is not None:
            return own(ename, evalue, traceback, where)
        details = outcome.remote_details()
        return errors.remote_error(
            ename, evalue, traceback, where, details=details, may_unpickle=is_pickled
        )
    text = text.removeprefix(f"{kind}: ")
    if kind == "dependency" and "was not submitted before" in text:
        return errors.InvalidDependency("InvalidDependency", text, "", where)
    base = _KINDS.get(kind, errors.RemoteError)
    error = base(base.__name__, text, "", where)
    if isinstance(error, errors.CommandError) and outcome.exited is not None:
        code, signal = outcome.exited
        error.returncode = code if signal is None else -signal
    return error


# Exceptions of engines that are kinds of ours.
_OWN = {"furlong.PythonVersionError": errors.PythonVersionError}


def _time(
    part: SubTask, offset_us: Callable[[tuple[int, int | None, int, int]], int | None]
) -> object:
    if part.outcome is None:
        return None
    times = part.outcome.times
    offset = offset_us(times)
    if offset is None or times[0] == 0:
        return None
    return _date((times[0] + offset) / 1e6)


def _started_us(times: tuple[int, int | None, int, int]) -> int | None:
    _, assigned, finished, run = times
    return None if assigned is None else max(assigned, finished - run)


def _part(part: SubTask, at: int) -> float | None:
    return None if part.outcome is None else part.outcome.parts[at] / 1e6


def _received(part: SubTask) -> object:
    received = part.received
    return None if received is None else _date(received)


def _date(seconds: float) -> datetime.datetime:
    import datetime

    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


def _status(part: SubTask) -> str | None:
    if not part.is_settled:
        return None
    if part.error is None:
        return "ok"
    return "aborted" if isinstance(part.error, errors.TaskAborted) else "error"


def _data(part: SubTask) -> object:
    published = part.task.latest() if part.outcome is None else part.outcome.published()
    if published is None:
        return {}
    codec, buffers, _ = published
    try:
        check_codec(codec, (*DATA, PICKLE) if part.info.is_pickled else DATA)
        assert codec is not None  # that is none of these
        # Who asks again gets another copy.
        return decoded(codec, [buffers[0], *map(bytearray, buffers[1:])])
    except Exception as error:
        signals.reraise(error)
        text = f"what was published cannot be read: {error}"
        raise errors.ResultLost(type(error).__name__, text, "", part.where()) from error


def _execute_result(part: SubTask) -> object:
    value = part.value
    return value.execute_result if isinstance(value, ExecuteReply) else None


def _outputs(part: SubTask) -> list[dict[str, object]]:
    from furlong.results.displays import outputs_of

    return [] if part.outcome is None else outputs_of(part.outcome)


METADATA_OF: dict[str, Callable[[SubTask], object]] = {
    "msg_id": lambda part: part.task.id,
    "submitted": lambda part: _date(part.submitted()),
    "started": lambda part: _time(part, _started_us),
    "completed": lambda part: _time(part, lambda times: times[2]),
    "received": _received,
    "engine_id": lambda part: part.engine_id,
    "engine_uuid": lambda part: part.info.client._uuid_of(part.engine_id),
    "follow": lambda part: part.info.follow,
    "after": lambda part: part.info.after,
    "status": _status,
    "attempts": lambda part: None if part.outcome is None else part.outcome.attempts,
    "engine_wait_time": lambda part: _part(part, 0),
    "load_time": lambda part: _part(part, 1),
    "run_time": lambda part: _part(part, 2),
    "store_time": lambda part: _part(part, 3),
    "execute_input": lambda part: part.info.code,
    "execute_result": _execute_result,
    "error": lambda part: part.error,
    "stdout": lambda part: part.live("stdout"),
    "stderr": lambda part: part.live("stderr"),
    "outputs": _outputs,
    "data": _data,
    "label": lambda part: part.info.label,
}


class Metadata(dict[str, Any]):
    """All that is known of a task, by names that are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            ) from None


def deadline_after(timeout: float | None) -> float | None:
    """Return the time at which a wait ends; none, or a negative one, is no limit."""
    return None if timeout is None or timeout < 0 else time.monotonic() + timeout


def remaining(deadline: float | None) -> float | None:
    """Return the seconds that are left of a wait."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def as_ended(parts: Sequence[SubTask]) -> Iterator[SubTask]:
    """Return parts in the order in which they end."""
    ended: list[SubTask] = []
    changed = threading.Condition()

    def note(part: SubTask) -> Callable[[], None]:
        def tell() -> None:
            with changed:
                ended.append(part)
                changed.notify()

        return tell

    for part in parts:
        part.when_ended(note(part))
    for _ in parts:
        with changed:
            while not ended:
                changed.wait()
            part = ended.pop(0)
        yield part
