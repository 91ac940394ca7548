"""What pickles from engines refer to by name."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from furlong import _definitions


def load_code(major: int, minor: int, inner: bytes, buffers: Sequence[Any] = ()) -> Any:
    """Load a value that holds code objects, which only the same version of Python can read."""
    here = sys.version_info[:2]
    if (major, minor) != here:
        raise TypeError(
            f"the result holds functions or classes by value, which Python {major}.{minor} made and "
            f"Python {here[0]}.{here[1]} cannot read; return data, or run the engines with this version (`--python`)"
        )
    return pickle.loads(inner, buffers=buffers)


# What definitions by value refer to. Those of this process are the originals of what it has sent.
_definitions.Receiving.binds_names = True
for _function in _definitions.PUBLIC:
    globals()[_function.__name__] = _function


# Whose values this thread loads: the task's engine, for errors among them.
_loading = threading.local()


@contextlib.contextmanager
def loading_of(where: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Have errors that are loaded within the block name the engine that the task's record names."""
    before = getattr(_loading, "where", None)
    _loading.where = where
    try:
        yield
    finally:
        _loading.where = before


def failed(ename: str, evalue: str, traceback: str, engine_id: int | None) -> Exception:
    """Make the error that an engine has put in the place of a value."""
    from furlong.errors import remote_error

    known = getattr(_loading, "where", None)
    # Loaded as something else than a map's values, it is of the engine that it names itself.
    where = {"engine_id": engine_id, "engine_uuid": None, "method": "map"} if known is None else known()
    return remote_error(ename, evalue, traceback, where)
