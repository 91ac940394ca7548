"""Tasks by the records of the broker: results of other sessions, histories, ids."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong, errors
from furlong.calls.codecs import JSON, MSGPACK, PICKLE, RAW, Codecs, read_json
from furlong.calls.task_spec import CallInfo, TaskSpec
from furlong.results.async_result import AsyncResult
from furlong.results.subtasks import SubTask

if TYPE_CHECKING:
    from furlong.client.client import Client

# What a view that takes turns with others remembers of its submits: ranges, of 120 bytes each.
RANGES_MAX = 65_536

__all__ = [
    "PHASES",
    "Fetched",
    "Held",
    "History",
    "Numbers",
    "hex_of",
    "task_phase",
    "wait_for_ids",
    "whole_id",
]

# In which codecs the value of a task may come that another session has submitted, by the numbers of
# runtimes: a Rust function's, Python's, a command's. Who asks for a task of Python asks for what
# Python returned, which may be a pickle.
CODECS: dict[int, Codecs] = {
    1: (JSON, MSGPACK, RAW),
    2: (PICKLE, JSON, MSGPACK, RAW, None),
    3: (None,),
}
# Where a task stands, by the numbers of the protocol.
PHASES = ("", "receiving", "waiting", "queued", "assigned", "running", "ended")


class Fetched(AsyncResult):
    """The result of a task by its id, asked of the broker: of any session of the same owner."""

    def __init__(self, client: Client, key: str) -> None:
        task = _FetchedTask(client._session, key)
        info = CallInfo(client, key, owner=False, label=task.label, codecs=CODECS[task.runtime])
        part = SubTask(task, TaskSpec(None, info))  # type: ignore[arg-type]
        part.began = task.began
        part.began_at -= task.age
        super().__init__([part], True)


# The name that ipyparallel has for it.
AsyncHubResult = Fetched


class _FetchedTask:
    """Stands for a task of another session: asks the broker for its end."""

    def __init__(self, session: _furlong.Session, key: str) -> None:
        self.id = key
        self._session = session
        found = session.fetch(key, False)
        if found is None:
            raise TimeoutError(f"the broker did not answer about {key}")
        self._record, self._outcome = found
        record = read_json(self._record)
        self.label: str | None = record["label"]
        self.runtime: int = record["runtime"]
        # When the other session submitted it.
        self.began: float = record["times"]["submitted_unix_us"] / 1e6
        # How long ago, by the broker's clock.
        self.age: float = record["times"]["now_us"] / 1e6

    @property
    def engine(self) -> int | None:
        engine: int | None = read_json(self._record)["engine"]
        return engine

    def done(self) -> bool:
        if not self._has_ended():
            found = self._session.fetch(self.id, False)
            if found is not None:
                self._record, self._outcome = found
        return self._has_ended()

    def _has_ended(self) -> bool:
        return PHASES[read_json(self._record)["phase"]] == "ended"

    def wait(self, timeout: float | None = None) -> bool:
        if not self._has_ended():
            found = self._session.fetch(self.id, True, timeout)
            if found is None:
                return False
            self._record, self._outcome = found
        return self._has_ended()

    def outcome(self) -> Any:
        if self._outcome is None:
            raise errors.ResultLost(
                "ResultLost",
                f"the task {self.id} has ended, and its result is not kept: submit with the flag keep=True",
            )
        return self._outcome

    def notify(self, completions: _furlong.Completions, key: int) -> None:
        def wait() -> None:
            self.wait()
            completions.push(key)

        threading.Thread(target=wait, name="furlong-fetch", daemon=True).start()

    def cancel(self, force: bool = False) -> None:
        self._session.cancel([self.id], force)

    def stopped(self, timeout: float | None = None) -> bool:
        return self.wait(timeout)

    def latest(self) -> None:
        return None

    def written(self, stream: str) -> str:
        return "" if self._outcome is None else getattr(self._outcome, stream)


class History(Sequence[str]):
    """Ids of a session's tasks, which are numbered from 1."""

    def __init__(self, session: str, count: int) -> None:
        self._session = session
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [f"{self._session}:{n + 1}" for n in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"the history has {self._count} tasks")
        return f"{self._session}:{index % self._count + 1}"

    def __repr__(self) -> str:
        return repr(list(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self._session, self._count))


class Held(weakref.ref[AsyncResult]):
    """A result that somebody holds. It is itself alone: results of the same tasks are held each for itself."""

    __slots__ = ()
    # Those of `ref` ask the result, which is Python code and as dear as all else of a submit.
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Numbers:
    """Numbers of tasks in the order of their submits, as ranges: most follow one another.

    Of very many that do not, the oldest are forgotten.
    """

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []

    def add(self, number: int) -> None:
        """Add one. Two threads that do so at once may change the order and lose nothing."""
        ranges = self._ranges
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
            if len(ranges) > RANGES_MAX:
                del ranges[: RANGES_MAX // 2]

    def __iter__(self) -> Iterator[int]:
        for first, last in list(self._ranges):
            yield from range(first, last + 1)


def hex_of(uuid: Any) -> str:
    """Return a uuid as text."""
    return uuid if isinstance(uuid, str) else bytes(uuid).hex()


def whole_id(record_id: Any) -> str:
    """Read the id of a record."""
    session, n = (
        (record_id["session"], record_id["n"]) if isinstance(record_id, dict) else record_id
    )
    if not isinstance(session, str):
        session = bytes(session).hex()
    return f"{session}:{n}"


def task_phase(session: _furlong.Session, key: str) -> str:
    """Return where a task of a session stands, one of `PHASES`; an empty text if the broker does not know it."""
    try:
        found = session.fetch(key, False)
    except errors.RequestRefused:
        return ""
    return PHASES[read_json(found[0])["phase"]] if found else ""


def wait_for_ids(session: _furlong.Session, ids: set[str], deadline: float | None) -> bool:
    """Wait for tasks of a session by their ids; whether they have ended by that time of the monotonic clock."""
    if ids:
        session.flush()  # the broker is to know them
    for key in ids:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            if session.fetch(key, True, left) is None:
                return False
        except errors.RequestRefused:
            continue  # it has ended, and is not kept
    return True
