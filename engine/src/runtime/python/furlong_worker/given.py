"""The values of a job's inputs: what the pickles of its arguments refer to.

A result was pickled for clients, and names functions of `furlong._wire`. What these do there, their
namesakes here do for engines: with the definitions that this interpreter knows.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import itertools
import json
import pickle
import sys
from typing import Any, Callable, Mapping, Sequence

from furlong_worker import Buffer, definitions
from furlong_worker.channel import JSON, PICKLE, RAW
from furlong_worker.inputs import UNMADE, Input

CLIENT_MODULE = "furlong._wire"
# The functions of NumPy with which pickles make arrays.
_MAKERS = ("_frombuffer", "_mareconstruct", "_reconstruct")


class Given:
    """The inputs of the job that runs."""

    __slots__ = ("arrays", "inputs")

    def __init__(self) -> None:
        self.inputs: Sequence[Input] = ()
        # The arrays of what is loaded for all calls, so far; none if it is for one.
        self.arrays: list[Any] | None = None


GIVEN = Given()


def taken(place: int) -> Any:
    """Return the value of an input: each time another one."""
    before, GIVEN.arrays = GIVEN.arrays, None
    try:
        return _load(GIVEN.inputs[place], False)
    finally:
        GIVEN.arrays = before


def shared_value(place: int) -> Any:
    """Return the value of an input that a client shares: always the same, as long as it is kept here."""
    given = GIVEN.inputs[place]
    if given.value is UNMADE:
        before, GIVEN.arrays = GIVEN.arrays, []
        try:
            value = _load(given, True)
            # Those that lay in the pickle have memory of their own, which could be written to.
            for array in GIVEN.arrays:
                array.setflags(write=False)
        finally:
            GIVEN.arrays = before
        given.value = value
    return given.value


def flat(*parts: Sequence[Any]) -> list[Any]:
    """Return the values of a map, which come in parts."""
    return list(itertools.chain.from_iterable(parts))


def all_taken() -> list[Any]:
    """Return the values of all inputs, for calls whose arguments do not say where each goes."""
    return [taken(place) for place in range(len(GIVEN.inputs))]


def _load(given: Input, is_shared: bool) -> Any:
    codec = given.codec
    if codec not in (JSON, PICKLE, RAW):
        what = "comes as msgpack, which Python functions do not take" if codec else "has no value"
        raise TypeError(f"an input of the call {what}")
    buffers = given.buffers(is_shared)
    if codec == PICKLE:
        return _loads(buffers[0], buffers[1:])
    if codec == JSON:
        return json.loads(bytes(buffers[0]))
    parts = [bytes(buffer) for buffer in buffers]
    return parts[0] if len(parts) == 1 else parts or None


def _loads(data: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


class _Unpickler(pickle.Unpickler):
    """Finds here what clients would find in their own package."""

    def find_class(self, module: str, name: str) -> Any:
        """Find a function or class by its names."""
        if module == CLIENT_MODULE:
            return getattr(_Client, name)
        if module == "importlib" and name == "import_module":
            return _import
        found = super().find_class(module, name)
        if GIVEN.arrays is None or name not in _MAKERS or not module.startswith("numpy."):
            return found
        return functools.partial(_noted, found)


def _noted(make: Callable[..., Any], *args: Any) -> Any:
    assert GIVEN.arrays is not None  # it is called within the same load
    array = make(*args)
    GIVEN.arrays.append(array)
    return array


def _import(name: str) -> Any:
    return _Client if name == CLIENT_MODULE else importlib.import_module(name)


def _load_code(major: int, minor: int, inner: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    here = sys.version_info[:2]
    if (major, minor) != here:
        raise TypeError(
            f"an input holds functions or classes by value, which Python {major}.{minor} made and "
            f"Python {here[0]}.{here[1]} cannot read"
        )
    return _loads(inner, buffers)


def _load_noted(_names: str, inner: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    return _loads(inner, buffers)


def _kept(inner: Buffer, *buffers: Buffer) -> Any:
    return _loads(inner, buffers)


def _items(values: list[Any], _failed: Sequence[int], _written: Mapping[int, Any]) -> list[Any]:
    return values


def _failed(ename: str, evalue: str, *_: Any) -> Exception:
    """Return an exception of Python's own that says what has failed."""
    kind = getattr(builtins, ename, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(evalue)
        except TypeError:  # it takes more than a text
            pass
    return RuntimeError(f"{ename}: {evalue}")


class _Client:
    """Stands for the module of clients."""

    load_code = staticmethod(_load_code)
    load_noted = staticmethod(_load_noted)
    kept = staticmethod(_kept)
    items = staticmethod(_items)
    failed = staticmethod(_failed)


for _function in definitions.PUBLIC:
    setattr(_Client, _function.__name__, staticmethod(_function))

PUBLIC: Sequence[Callable[..., Any]] = (taken, shared_value, flat)
