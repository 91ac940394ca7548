"""Queries over tasks by their fields, with ipyparallel's operators: of what the broker knows and of the history."""

from __future__ import annotations

import datetime
import fnmatch
import sqlite3
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from furlong import errors

__all__ = ["FIELDS", "History", "Query", "find"]

# What is known of each task.
FIELDS = (
    "msg_id",
    "client_uuid",
    "engine_id",
    "host",
    "name",
    "label",
    "state",
    "error",
    "attempts",
    "submitted",
    "started",
    "completed",
    "received",
)
# What ipyparallel has beyond that, and where it is here.
ELSEWHERE = {
    "engine_uuid": "engines are named by their ids: use 'engine_id'",
    "header": "use 'name' and 'label'",
    "metadata": "the metadata of results that are held are `result.metadata`",
    "result_metadata": "the metadata of results that are held are `result.metadata`",
    "content": "the broker does not see what is called: use 'name'",
    "result_content": "results are not in the history: use `rc.get_result`",
    "result_header": "results are not in the history: use 'state' and 'error'",
    "result_buffers": "results are not in the history: use `rc.get_result`",
    "buffers": "the broker does not see arguments",
    "execute_input": "the broker does not see code",
    "execute_result": "results are not in the history: use `rc.get_result`",
    "stdout": "output is not in the history: use `rc.get_result`",
    "stderr": "output is not in the history: use `rc.get_result`",
    "queue": "use 'engine_id'",
    "resubmitted": "a task that is run again is a task of its own",
}
MOMENTS = ("submitted", "started", "completed", "received")
NUMBERS = ("engine_id", "attempts")
# How tasks end, and what with, by the numbers of the protocol.
STATES = ("", "succeeded", "failed", "cancelled", "timed_out", "lost")
ERRORS = (
    "",
    "remote",
    "no_engines",
    "unknown_engine",
    "forbidden",
    "engine_lost",
    "cancelled",
    "aborted",
    "queue_timeout",
    "run_timeout",
    "dependency",
    "busy",
    "unsupported",
    "payload",
    "exit",
    "journal",
    "not_begun",
    "no_runtime",
)
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, wanted: value == wanted,
    "$ne": lambda value, wanted: value != wanted,
    "$lt": lambda value, wanted: value is not None and value < wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
    "$gt": lambda value, wanted: value is not None and value > wanted,
    "$gte": lambda value, wanted: value is not None and value >= wanted,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
    "$mod": lambda value, wanted: value is not None and value % wanted[0] == wanted[1],
    "$exists": lambda value, wanted: (value is not None) == bool(wanted),
    "$glob": lambda value, wanted: value is not None and fnmatch.fnmatchcase(value, wanted),
}
# Fields that are columns of the history under another name, or as they are.
COLUMNS = {
    "client_uuid": "session",
    "engine_id": "engine",
    "host": "host",
    "name": "name",
    "state": "state",
    "attempts": "attempts",
    "completed": "ended_us",
    "received": "ended_us",
    "submitted": "submitted_us",
}
COMPARISONS = {"$eq": "=", "$lt": "<=", "$lte": "<=", "$gt": ">=", "$gte": ">="}
# `FURH`, and the version of the tables.
APPLICATION_ID, VERSION = 0x46555248, 1
# Gaps that a warning names.
GAPS_NAMED_MAX = 3

Record = dict[str, Any]


class Query:
    """Fields with the values that are asked for, or with operators and values."""

    def __init__(self, query: Mapping[str, Any], keys: str | Sequence[str] | None) -> None:
        self._tests: list[tuple[str, str, Any]] = []
        for field, wanted in query.items():
            _check(field)
            tests = wanted.items() if isinstance(wanted, Mapping) else [("$eq", wanted)]
            for operator, value in tests:
                if operator not in OPERATORS:
                    raise ValueError(
                        f"{operator!r} is no operator; there are {', '.join(sorted(OPERATORS))}"
                    )
                _check_operand(field, operator, value)
                self._tests.append((field, operator, _comparable(field, value)))
        named = [keys] if isinstance(keys, str) else list(keys or FIELDS)
        for field in named:
            _check(field)
        self._keys = ["msg_id", *(field for field in named if field != "msg_id")]

    def matches(self, record: Record) -> bool:
        """Return whether a task is asked for."""
        return all(OPERATORS[name](record[field], value) for field, name, value in self._tests)

    def answer(self, records: Iterator[Record]) -> list[Record]:
        """Return what is asked for of these tasks, in the order of their submits."""
        found = sorted(filter(self.matches, records), key=_place)
        return [{key: record[key] for key in self._keys} for record in found]

    def as_sql(self) -> tuple[str, list[Any]]:
        """Return a condition that all tasks meet which are asked for; not all that meet it are."""
        conditions, values = ["1"], []
        for field, operator, value in self._tests:
            if field == "msg_id" and operator == "$eq" and isinstance(value, str):
                session, _, number = value.partition(":")
                conditions.append("session = ? AND n = ?")
                values += [session, int(number) if number.isdecimal() else -1]
            elif field in COLUMNS and operator in COMPARISONS and value is not None:
                conditions.append(f"{COLUMNS[field]} {COMPARISONS[operator]} ?")
                values.append(_microseconds(value) if field in MOMENTS else value)
        return " AND ".join(conditions), values

    def range(self) -> tuple[datetime.datetime | None, datetime.datetime | None]:
        """Return the times before and after which no task is asked for that has ended."""
        from_, to = None, None
        for field, operator, value in self._tests:
            if field in ("submitted", "completed", "received") and operator in ("$gt", "$gte"):
                from_ = value if from_ is None else max(from_, value)
            elif field in ("completed", "received") and operator in ("$lt", "$lte"):
                to = value if to is None else min(to, value)
        return from_, to


class History:
    """The history of ended tasks that `furlong history record` writes."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"there is no history {path}")
        # A reader takes part in the write-ahead log, and so needs the right to write.
        place = f"file:{urllib.parse.quote(str(path))}?mode=rw"
        self._database = sqlite3.connect(place, uri=True, timeout=60)
        try:
            self._database.execute("PRAGMA query_only = 1")
            kind = tuple(
                self._database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version")
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ValueError(f"{path} is no history: {error}") from error
        if kind != (APPLICATION_ID, VERSION):
            self._database.close()
            raise ValueError(f"{path} is no history, or one of another version")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def records(self, query: Query) -> Iterator[Record]:
        """Yield tasks, among them all that are asked for."""
        condition, values = query.as_sql()
        found = self._database.execute(
            "SELECT session || ':' || n, session, engine, host, name, state,"
            " coalesce(nullif(type, ''), error), attempts, submitted_us,"
            " iif(engine IS NULL, NULL, assigned_us + way_us / 2 + began_us), ended_us"
            f" FROM tasks WHERE {condition}",  # noqa: S608 - of constants alone
            values,
        )
        for key, session, engine, host, name, state, error, attempts, *moments in found:
            submitted, started, ended = map(_moment_us, moments)
            yield {
                "msg_id": key,
                "client_uuid": session,
                "engine_id": engine,
                "host": host,
                "name": name,
                "label": None,
                "state": state,
                "error": error,
                "attempts": attempts,
                "submitted": submitted,
                "started": started,
                "completed": ended,
                "received": ended,
            }

    def recorded_to(self) -> datetime.datetime | None:
        """Return the time of the last look at the broker."""
        (looked_us,) = self._database.execute("SELECT max(looked_us) FROM starts").fetchone()
        return _moment_us(looked_us)

    def missing(self, query: Query) -> list[str]:
        """Return, for people, what may be missing of what is asked for."""
        from_, to = query.range()
        (dropped_to,) = self._database.execute("SELECT dropped_to_us FROM about").fetchone()
        missing = []
        begins = _moment_us(dropped_to)
        if begins is not None and (from_ is None or from_ < begins):
            missing.append(f"what ended before {begins:%Y-%m-%d %H:%M:%S} UTC was deleted")
        gaps = self._database.execute(
            "SELECT from_us, to_us, ends, why FROM gaps WHERE to_us >= ? AND from_us <= ?",
            [_microseconds(from_) if from_ else 0, _microseconds(to) if to else 2**62],
        ).fetchall()
        for from_us, to_us, ends, why in gaps[:GAPS_NAMED_MAX]:
            count = "tasks" if ends is None else f"{ends} tasks"
            times = [f"{_moment_us(us):%Y-%m-%d %H:%M:%S}" for us in (from_us, to_us)]
            missing.append(f"{count} between {times[0]} and {times[1]} UTC: {why}")
        if len(gaps) > GAPS_NAMED_MAX:
            missing.append(f"tasks in {len(gaps) - GAPS_NAMED_MAX} more gaps")
        return missing


def of_span(span: Mapping[str, Any]) -> Record:
    """Make a task of a timeline's."""
    has_ended = span["state"] != "running"
    ended = _moment(span["ended"]) if has_ended else None
    return {
        "msg_id": span["task"],
        "client_uuid": span["task"].partition(":")[0],
        "engine_id": span["engine"],
        "host": span["host"],
        "name": span["name"],
        "label": None,
        "state": span["state"],
        "error": span["error"],
        "attempts": span["attempts"],
        "submitted": _moment(span["submitted"]),
        "started": _moment(span["started"]),
        "completed": ended,
        "received": ended,
    }


def of_record(record: Mapping[str, Any], known: Record | None) -> Record:
    """Make a task of the broker's record; what is known of it already has its host, and when it began to run."""
    times, outcome = record["times"], record["outcome"]
    submitted_us = times["submitted_unix_us"]

    def moment(name: str) -> datetime.datetime | None:
        since = times[name]
        return None if since is None else _moment_us(submitted_us + since)

    error = outcome and outcome["error"]
    raised = error and error["raised"]
    ended = moment("finished_us") if outcome else None
    return {
        "msg_id": record["id"],
        "client_uuid": record["id"].partition(":")[0],
        "engine_id": record["engine"],
        "host": known and known["host"],
        "name": record["name"],
        "label": record["label"],
        "state": STATES[outcome["state"]] if outcome else record["phase"],
        "error": raised["type_name"] if raised else error and ERRORS[error["kind"]],
        "attempts": record["attempts"],
        "submitted": _moment_us(submitted_us),
        "started": (known and known["started"]) or moment("started_us"),
        "completed": ended,
        "received": ended,
    }


def find(
    query: Query,
    history: History | None,
    spans: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    forgotten: int,
) -> list[Record]:
    """Return the tasks that are asked for, and warn if some may be missing.

    Parameters
    ----------
    history : History, optional
        What was written down.
    spans : sequence
        The last tasks that have ended, of a timeline, and those that run.
    records : sequence
        The broker's records: tasks that have not ended, and those whose results are kept.
    forgotten : int
        How many tasks ended before those of the timeline.
    """
    found: dict[str, Record] = {}
    missing: list[str] = []
    if history is not None:
        found.update((record["msg_id"], record) for record in history.records(query))
        missing = history.missing(query)
    recorded_to = history.recorded_to() if history is not None else None
    first = min((span["ended"] for span in spans), default=None)
    if forgotten and (
        recorded_to is None or first is None or recorded_to < (_moment(first) or recorded_to)
    ):
        missing.append(
            f"{forgotten} tasks that the broker has forgotten: run `furlong history record`"
        )
    for span in spans:
        found[span["task"]] = of_span(span)
    for record in records:
        found[record["id"]] = of_record(record, found.get(record["id"]))
    if missing:
        text = f"these are not in the answer: {'; '.join(missing)}"
        warnings.warn(text, errors.IncompleteHistoryWarning, stacklevel=3)
    return query.answer(iter(found.values()))


def _check(field: str) -> None:
    if field not in FIELDS:
        why = ELSEWHERE.get(field, f"there are {', '.join(FIELDS)}")
        raise ValueError(f"{field!r} is not known of tasks: {why}")


def _check_operand(field: str, operator: str, value: Any) -> None:
    """Raise if a field's values do not compare with what is asked for, whatever tasks there are."""
    if operator == "$exists":
        return
    if operator in ("$in", "$nin"):
        # A text has parts of texts, which nobody asks for.
        if not isinstance(value, (list, tuple, set, frozenset)):
            _refuse_operand(field, operator, value, "a list")
        for each in value:
            _check_operand(field, "$eq", each)
    elif operator == "$mod":
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        if not is_pair or not all(isinstance(each, int) for each in value) or not value[0]:
            _refuse_operand(field, operator, value, "a divisor, which is not 0, and a remainder")
        if field not in NUMBERS:
            raise ValueError(f"{operator!r} is of numbers, and {field!r} is none")
    elif operator == "$glob":
        if not isinstance(value, str):
            _refuse_operand(field, operator, value, "a text")
        if field in NUMBERS or field in MOMENTS:
            raise ValueError(f"{operator!r} is of texts, and {field!r} is none")
    elif value is not None or operator not in ("$eq", "$ne"):
        kind: type
        kind, words = str, "a text"
        if field in MOMENTS:
            kind, words = datetime.datetime, "a datetime"
        elif field in NUMBERS:
            kind, words = int, "a whole number"
        if not isinstance(value, kind):
            _refuse_operand(field, operator, value, words)


def _refuse_operand(field: str, operator: str, value: Any, wanted: str) -> NoReturn:
    raise ValueError(f"{operator!r} of {field!r} takes {wanted}, not {value!r}")


def _place(record: Record) -> tuple[datetime.datetime, str, int]:
    """Return where a task stands in the order of submits: many are of one microsecond."""
    session, _, number = record["msg_id"].partition(":")
    return record["submitted"], session, int(number)


def _comparable(field: str, value: Any) -> Any:
    """Return a value with which those of a field compare: times without a zone are of this machine's."""
    if field not in MOMENTS:
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_comparable(field, each) for each in value]
    return value.astimezone() if isinstance(value, datetime.datetime) else value


def _microseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1e6)


def _moment(seconds: float | None) -> datetime.datetime | None:
    return None if seconds is None else _moment_us(round(seconds * 1e6))


def _moment_us(microseconds: int | None) -> datetime.datetime | None:
    if microseconds is None:
        return None
    zero = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return zero + datetime.timedelta(microseconds=microseconds)
