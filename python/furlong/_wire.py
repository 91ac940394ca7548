"""The functions that pickles from engines refer to by name."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from furlong.shared import definitions
from furlong.waiting import signals


def load_code(major: int, minor: int, inner: bytes, buffers: Sequence[object] = ()) -> Any:
    """Load a value that holds code objects, which only the same version of Python can read."""
    here = sys.version_info[:2]
    if (major, minor) != here:
        raise TypeError(
            f"the result holds functions or classes by value, which Python {major}.{minor} made and "
            f"Python {here[0]}.{here[1]} cannot read; return data, or run the engines with this version (`--python`)"
        )
    return pickle.loads(inner, buffers=buffers)


def load_noted(names: str, inner: bytes, buffers: Sequence[object] = ()) -> Any:
    """Load a value, and warn of the names whose values here gave way to those on the engine, once each."""
    from furlong.errors import EngineNameWarning

    for name in names.split("\n"):
        if name not in _warned_of:
            _warned_of.add(name)
            warnings.warn(
                f"a function used the `{name}` that this session has put on the engine, not the `{name}` that it has "
                "here: give one of them another name, or pass the value as an argument",
                EngineNameWarning,
                stacklevel=_level_of_user(),
            )
    return pickle.loads(inner, buffers=buffers)


def _level_of_user() -> int:
    """Return the level, for the caller's warning, of the line that does not belong to this package."""
    level, frame = 1, sys._getframe(1)
    while (
        frame.f_back is not None
        and str(frame.f_globals.get("__name__")).partition(".")[0] == "furlong"
    ):
        level, frame = level + 1, frame.f_back
    return level


_warned_of: set[str] = set()


# What definitions by value refer to. Those of this process are the originals of what it has sent.
definitions.Receiving.binds_names = True
for _function in definitions.PUBLIC:
    globals()[_function.__name__] = _function


# Whose values this thread loads: the task's engine, for errors among them.
_loading = threading.local()


@contextlib.contextmanager
def loading_of(where: Callable[[], Mapping[str, object]]) -> Iterator[None]:
    """Have errors that are loaded within the block name the engine that the task's record names."""
    before = getattr(_loading, "where", None)
    _loading.where = where
    try:
        yield
    finally:
        _loading.where = before


class Items(NamedTuple):
    """The items of a task of a map: their values and errors."""

    #: The items' values, with errors in the places of those that have failed.
    values: list[object]
    #: These places.
    failed: Sequence[int]
    #: By place: characters of standard output and error, and the number of displays.
    written: Mapping[int, Sequence[int]]


def items(
    values: list[object], failed: Sequence[int], written: Mapping[int, Sequence[int]]
) -> Items:
    """Take what an engine tells of a map's items."""
    return Items(values, failed, written)


class Unreadable:
    """Stands for a value that cannot be read here."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def kept(inner: bytes, *buffers: object) -> Any:
    """Load a value that has a pickle of its own, so that the others are read where this one cannot be."""
    try:
        return pickle.loads(inner, buffers=buffers)
    except Exception as error:
        signals.reraise(error)
        _loading.unreadable = True
        return Unreadable(error)


def load_items(load: Callable[[], Any], where: Callable[[], Mapping[str, object]]) -> Items:
    """Load what a task of a map came to, which ran there; what cannot be read has failed."""
    from furlong.errors import ResultLost

    _loading.unreadable = False
    with loading_of(where):
        loaded = load()
    found = loaded if type(loaded) is Items else Items(loaded, (), {})
    if not _loading.unreadable:
        return found
    failed = list(found.failed)
    for at, value in enumerate(found.values):
        if type(value) is Unreadable:
            name, text = type(value.error).__name__, f"the result cannot be read: {value.error}"
            lost = ResultLost(name, text, "", where())
            lost.__cause__ = value.error
            found.values[at] = lost
            failed.append(at)
    return found._replace(failed=failed)


def failed(
    ename: str, evalue: str, traceback: str, engine_id: int | None, details: Sequence[bytes] = ()
) -> Exception:
    """Make the error that an engine has put in the place of a value."""
    from furlong.errors import remote_error

    known = getattr(_loading, "where", None)
    # Loaded as something else than a map's values, it is of the engine that it names itself.
    where = (
        {"engine_id": engine_id, "engine_uuid": None, "method": "map"} if known is None else known()
    )
    # It is in a pickle itself.
    return remote_error(ename, evalue, traceback, where, details=details, may_unpickle=True)
