"""Timelines: which tasks ran when, and where; as pictures, files and tables."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong, errors
from furlong.calls.codecs import read_json
from furlong.runs.written import replace

if TYPE_CHECKING:
    from pathlib import Path

    from furlong.results.subtasks import SubTask

__all__ = ["Timeline", "TimelineResult", "of_parts"]


class Timeline:
    """Tasks that have ended, with their times by the broker's clock.

    In a notebook it is a picture. `save` writes it for programs that draw traces, `to_pandas` makes a table of it.
    """

    def __init__(self, trace: _furlong.Trace) -> None:
        self._trace = trace
        self._spans: list[dict[str, Any]] | None = None

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The tasks in the order of their ends: a dictionary each.

        ``task``, ``name``, ``engine``, ``host``, ``state``, ``error``, ``attempts``; the moments ``submitted``,
        ``queued``, ``assigned``, ``started``, ``stopped`` and ``ended``, in seconds since 1970, None where there was
        none; ``load_time``, ``run_time`` and ``store_time`` in seconds, as the engine has measured them.
        """
        if self._spans is None:
            self._spans = read_json(self._trace.spans())
        return self._spans

    @property
    def forgotten(self) -> int:
        """The number of tasks that ended earlier, and whose times the broker has forgotten."""
        return self._trace.forgotten

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file, in the place of one that is there, and return its path.

        Parameters
        ----------
        path : path
            Its ending says the format: ``.pftrace`` for Perfetto, ``.json`` for Chrome's tracing, ``.svg`` a picture,
            ``.html`` a page.

        Raises
        ------
        ValueError
            If the ending says no format.
        """
        from pathlib import Path  # a program that saves nothing does not import it

        return replace(path, self._trace.written(Path(path).name))

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each task; moments are in UTC.

        Raises
        ------
        ImportError
            If there is no pandas.
        """
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError("a table needs pandas, which is not installed") from error
        table = pandas.DataFrame(self.spans, columns=list(_COLUMNS))
        for moment in ("submitted", "queued", "assigned", "started", "stopped", "ended"):
            table[moment] = pandas.to_datetime(table[moment], unit="s", utc=True)
        return table

    def __len__(self) -> int:
        return len(self._trace)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.spans)

    def __repr__(self) -> str:
        return f"<Timeline: {self._trace.extent}>"

    def _repr_html_(self) -> str:
        return f"<div>{self._trace.svg()}</div>"


_COLUMNS = (
    "task",
    "name",
    "engine",
    "host",
    "state",
    "error",
    "attempts",
    "submitted",
    "queued",
    "assigned",
    "started",
    "stopped",
    "ended",
    "load_time",
    "run_time",
    "store_time",
)


class TimelineResult:
    """The part of a result that shows when its tasks ran."""

    __slots__ = ()

    _parts: Sequence[SubTask]

    def timeline(self) -> Timeline:
        """Return a timeline of those of its tasks that have ended. The broker is not asked."""
        return of_parts(list(self._parts))


def of_parts(parts: Sequence[SubTask]) -> Timeline:
    """Return a timeline of the tasks that have ended and whose times are known."""
    rows = []
    cluster = ""
    for part in parts:
        outcome = _end_of(part)
        # What has not come to the broker has no times.
        if outcome is None or not outcome.times[0]:
            continue
        cluster = part.info.client._session.cluster
        raised = outcome.remote[0] if outcome.remote else outcome.kind
        row = (outcome.id, part.info.name, outcome.engine, outcome.state)
        rows.append((*row, raised, outcome.attempts, outcome.times, outcome.parts))
    return Timeline(_furlong.Trace.of_tasks(cluster, rows))


def _end_of(part: SubTask) -> _furlong.Outcome | None:
    """Return a task's end, if it has come and is known."""
    if part.outcome is None and part.poll() and part.outcome is None:
        try:
            return part.task.outcome()
        except errors.ResultLost:
            return None
    return part.outcome
