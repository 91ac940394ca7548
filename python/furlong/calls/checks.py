"""Checks of arguments, where they are given: one line says which it is and what it takes."""

from __future__ import annotations

import math
import numbers
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class HasTaskIds(Protocol):
        """A result, or anything else that names tasks by their ids."""

        @property
        def msg_ids(self) -> Sequence[str]:
            """The tasks' ids."""

    # Tasks as users name them, to wait for: by ids, results, or several of such.
    Tasks = str | HasTaskIds | Iterable["Tasks"] | None

__all__ = [
    "check_flag",
    "check_names",
    "check_whole",
    "described",
    "ids_of",
    "is_array",
    "unknown_flag",
]

# What the broker takes.
RETRIES_MAX = 2**32 - 1
PRIORITY_MAX = 2**31 - 1
NAME_BYTES_MAX = 256
LABELS_MAX = 64
# Longer than anything lasts, and still a number of milliseconds.
SECONDS_MAX = 1e15

_TASK_ID = re.compile(r"[0-9a-fA-F]{32}:[0-9]+")


def described(value: object) -> str:
    """Name the kind of an object, with its article: ``"an int object"``."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name} object"


def is_array(value: object) -> bool:
    """Return whether it is an array of NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def unknown_flag(name: str, known: Iterable[str]) -> str:
    """Return the message for a flag that is not there, with the name that was perhaps meant."""
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
    return f"there is no flag {name!r}{hint}"


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number as an int.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is beyond the bounds.
    """
    wrong = f"{name} is a whole number from {low} to {high}, not {value!r}"
    if isinstance(value, bool):
        raise TypeError(wrong)
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(wrong) from None
    if not low <= whole <= high:
        raise ValueError(wrong)
    return whole


def check_names(variables: Mapping[Any, object]) -> None:
    """Check that all keys are names of variables, or of attributes with dots, as engines take them.

    Raises
    ------
    TypeError, ValueError
        If one is not.
    """
    for name in variables:
        if not isinstance(name, str):
            raise TypeError(f"names of variables are str, not {type(name).__name__}: {name!r}")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is no name for a variable")


def check_flag(name: str, value: object) -> Any:
    """Return a flag's value as views keep it.

    Raises
    ------
    TypeError, ValueError
        If the flag does not take it.
    """
    check = _CHECKS.get(name)
    return value if check is None else check(name, value)


def _bool(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} is True or False, not {value!r}")


def _retries(name: str, value: object) -> int | None:
    return None if value is None else check_whole(name, value, 0, RETRIES_MAX)


def _priority(name: str, value: object) -> int:
    return check_whole(name, value, -PRIORITY_MAX - 1, PRIORITY_MAX)


def _seconds(name: str, value: object, takes: str, is_right: Callable[[float], bool]) -> object:
    wrong = f"{name} is {takes}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(wrong)
    seconds = float(value)
    if not (math.isfinite(seconds) and seconds <= SECONDS_MAX and is_right(seconds)):
        raise ValueError(wrong)
    return value if isinstance(value, (int, float)) else seconds


def _writable(name: str, value: object) -> object:
    warnings.warn(
        "the flag `writable` does nothing any more, since arrays in results can always be changed: leave it out",
        DeprecationWarning,
        stacklevel=4,
    )
    return _bool(name, value)


def _limit(name: str, value: object) -> object:
    takes = "a number of seconds above 0, or None for no limit"
    return None if value is None else _seconds(name, value, takes, lambda seconds: seconds > 0)


def _wait_limit(name: str, value: object) -> object:
    takes = "a number of seconds, 0 or None for no limit"
    return (
        None
        if value is None
        else _seconds(name, value, takes, lambda seconds: seconds >= 0) or None
    )


def _pause(name: str, value: object) -> object:
    return _seconds(
        name, value, "a number of seconds, 0 for no pause", lambda seconds: seconds >= 0
    )


def _label(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is a str or None, not {value!r}")
    _check_length(name, value or "")
    return value


def _check_length(name: str, text: str) -> None:
    length = len(text.encode(errors="surrogatepass"))
    if length > NAME_BYTES_MAX:
        raise ValueError(f"{name} has at most {NAME_BYTES_MAX} bytes, not {length}")


def _require(name: str, value: object) -> object:
    wrong = f"{name} is a label of engines, or several of them, not {value!r}"
    if not isinstance(value, Iterable):
        raise TypeError(wrong)
    if isinstance(value, Iterator):
        value = tuple(value)
    labels = [value] if isinstance(value, str) else list(value)
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(wrong)
        _check_length(name, label)
    if len(labels) > LABELS_MAX:
        raise ValueError(f"{name} has at most {LABELS_MAX} labels, not {len(labels)}")
    return value


def _tasks(name: str, value: object) -> object:
    if isinstance(value, Iterator):
        value = list(value)
    try:
        ids = ids_of(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    for key in ids:
        if not _TASK_ID.fullmatch(key):
            raise ValueError(
                f"{name}: {key!r} is no task's id, which has 32 hexadecimal digits, a colon, a number"
            )
    return value


def ids_of(tasks: object) -> list[str]:
    """Return the ids of results, ids, or several of such."""
    if tasks is None:
        return []
    if isinstance(tasks, str):
        return [tasks]
    ids = getattr(tasks, "msg_ids", None)
    if ids is not None:
        return list(ids)
    if not isinstance(tasks, Iterable):
        raise TypeError(f"tasks are named by their results or ids, not by {tasks!r}")
    return [key for task in tasks for key in ids_of(task)]


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "block": _bool,
    "track": _bool,
    "writable": _writable,
    "label": _label,
    "priority": _priority,
    "retries": _retries,
    "error_retries": _retries,
    "backoff": _pause,
    "at_most_once": _bool,
    "timeout": _wait_limit,
    "run_timeout": _limit,
    "time_request": _limit,
    "after": _tasks,
    "follow": _tasks,
    "require": _require,
    "keep": _bool,
    "durable": _bool,
    "restart_safe": _bool,
    "stay": _bool,
}
