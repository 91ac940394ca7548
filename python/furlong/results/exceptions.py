"""Exceptions of engines, made anew here: `furlong_worker/exceptions.py` describes them.

An error is of a class that is a `RemoteError` and the exception's own class, if that is here, by its module and its
name there, else the nearest of its bases that is. No constructor of it is called.
"""

from __future__ import annotations

import base64
import builtins
import importlib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from furlong import errors
from furlong.calls.codecs import loads
from furlong.errors import EngineInfo, RemoteError
from furlong.shared import definitions
from furlong.waiting import signals

__all__ = ["remake", "type_by_name"]

# Raised here, they would end a loop, or be lost in a coroutine.
_ENDS = (StopIteration, StopAsyncIteration)
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_HEAP_TYPE = 1 << 9  # of a type's flags: made by a `class` statement, not in C
# Of a `RemoteError` itself.
_OWN = frozenset(
    ("ename", "evalue", "traceback", "engine_info", "_engine_info", "not_carried", "_details")
)


def type_by_name(ename: str, base: type[RemoteError] = RemoteError) -> type[RemoteError]:
    """Return the class for an exception of which only the type's name is known: one of Python's own."""
    original: Any = getattr(builtins, ename, None)
    # Groups of exceptions hold others, which are not here.
    if not _may_be(original) or issubclass(original, _GROUP):
        return base
    return _typed(original, base)


def _may_be(original: object) -> bool:
    """Return whether an error of an engine can be of that class here."""
    return (
        isinstance(original, type)
        and issubclass(original, Exception)
        and not issubclass(original, _ENDS)
    )


# The classes that were made, by the two that each is of: those of cells that run again and again do
# not all stay.
_classes: dict[tuple[type[Exception], type[RemoteError]], type[RemoteError]] = {}
_CLASSES_MAX = 256


def _typed(original: type[Exception], base: type[RemoteError]) -> type[RemoteError]:
    """Return the class of errors that are of both.

    Raises
    ------
    Exception
        If there can be no such class: whatever its metaclass, or `__init_subclass__`, says.
    """
    if issubclass(base, original):
        return base
    if issubclass(original, base):
        return original
    known = _classes.get((original, base))
    if known is not None:
        return known
    module = errors.__name__ if original.__module__ == "builtins" else original.__module__

    def fill(names: dict[str, Any]) -> None:
        names.update(
            __init__=RemoteError.__init__,
            __new__=_new,
            __module__=module,
            __qualname__=original.__qualname__,
        )
        names["_furlong_base"] = base

    made: type[RemoteError] = types.new_class(original.__name__, (base, original), {}, fill)
    if len(_classes) >= _CLASSES_MAX:
        del _classes[next(key for key in _classes if key[0].__module__ != "builtins")]
    _classes[original, base] = made
    return made


def _new(cls: type[RemoteError], *args: object) -> RemoteError:
    """Make an error past the constructors of its classes, but for the one of Python's own among them."""
    native: Any = cls
    while native.__flags__ & _HEAP_TYPE:
        native = native.__base__
    made: RemoteError
    if issubclass(native, _GROUP):
        made = native.__new__(cls, *args)
        return made
    try:
        made = native.__new__(cls)
    except TypeError:  # `MemoryError` makes nothing but its own kind
        made = Exception.__new__(cls)
    Exception.__setattr__(made, "args", args)  # past that of the class
    return made


def remake(
    texts: tuple[str, str, str],
    engine_info: EngineInfo | None,
    base: type[RemoteError],
    buffers: Sequence[bytes],
    may_unpickle: bool,
    at: int = 0,
) -> RemoteError:
    """Make the error of an exception, by its type's name, its text, its traceback, and what else its engine says.

    Parameters
    ----------
    buffers : sequence of bytes
        The description, and the pickles if there are any.
    may_unpickle : bool
        Whether those may be read, and modules be loaded to find classes.
    at : int
        Which of the exceptions in the description.
    """
    try:
        nodes = json.loads(buffers[0])
        made = _Maker(nodes, buffers, engine_info, may_unpickle, base, (at, texts)).make(at)
    except Exception as why:
        signals.reraise(why)
        made = None  # it is no description, or of another version
    if made is None:
        made = type_by_name(texts[0], base)(*texts, engine_info)
        errors.set_attributes(made)
    return made


class _Maker:
    """The exceptions that are made from one description."""

    def __init__(
        self,
        nodes: Sequence[Mapping[str, object]],
        buffers: Sequence[bytes],
        engine_info: EngineInfo | None,
        may_unpickle: bool,
        base: type[RemoteError],
        first: tuple[int, tuple[str, str, str]],
    ) -> None:
        self._nodes = nodes
        self._buffers = buffers
        self._engine_info = engine_info
        self._may_unpickle = may_unpickle
        self._base = base
        self._first = first
        # By their places; none while one is being made, or if it cannot be.
        self._made: dict[int, RemoteError | None] = {}
        self._order: list[int] = []

    def make(self, at: int) -> RemoteError | None:
        """Make an error, and all that hangs on it."""
        error = self._error(at)
        # Causes may be in a circle, and be many: one after the other, and those that come to it
        # meanwhile.
        for place in self._order:
            one = self._made[place]
            if one is not None:
                self._link(one, self._nodes[place])
        if error is not None and error.traceback:
            first = _first_shown(error)
            if first is not None:
                Exception.__setattr__(first, "__cause__", errors.EngineTraceback(error.traceback))
            self._set_suppress(error, self._nodes[at])
        return error

    def _error(self, at: Any) -> RemoteError | None:
        """Make an error without its causes."""
        if at in self._made:
            return self._made[at]
        self._made[at] = None
        self._order.append(at)
        node = self._nodes[at]
        is_first = at == self._first[0]
        # The texts of the first in the list are beside it.
        texts = (
            self._first[1]
            if is_first
            else tuple(node.get(name, "") for name in ("name", "text", "traceback"))
        )
        members = [self._error(member) for member in node.get("members", ())]
        error = self._empty(
            node, self._base if is_first else RemoteError, [it for it in members if it]
        )
        self._made[at] = error
        vars(error).update(zip(("ename", "evalue", "traceback"), texts, strict=True))
        vars(error)["_engine_info"] = self._engine_info or {}
        vars(error)["_details"] = self._buffers, at, self._may_unpickle
        self._fill(error, node)
        return error

    def _empty(
        self, node: Mapping[str, Any], base: type[RemoteError], members: list[RemoteError]
    ) -> RemoteError:
        """Make an error of the nearest class that is here, with nothing but the members of a group."""
        for names in node["classes"]:
            found = self._find(*names)
            if found is _GROUP:  # all of its members are an `Exception` here
                found = ExceptionGroup  # noqa: F821 - there where `_GROUP` is
            if not _may_be(found) or issubclass(base, found):
                continue
            if issubclass(found, _GROUP) and not members:
                continue
            try:
                cls = _typed(found, base)
                is_group = issubclass(cls, _GROUP)
                made: RemoteError = _new(
                    cls, *([str(node["args"][0]), members] if is_group else [])
                )
            except Exception as why:  # its metaclass forbids it, or its layout
                signals.reraise(why)
                continue
            return made
        return _new(base)

    def _find(self, module: str, path: str, known: str | None = None) -> Any:
        """Find a class here, as its name means it now; none if it is not here."""
        found: object = sys.modules.get(module)
        try:
            if self._may_unpickle:
                found = importlib.import_module(module)
            for name in path.split("."):
                # No `__getattr__` of a module is asked where no code is to be run.
                found = getattr(found, name) if self._may_unpickle else vars(found)[name]
        except Exception as why:  # it is on the engine alone, or does not load here
            signals.reraise(why)
            found = None
        if found is None and known is not None:  # of a function's own, which this process has sent
            found = definitions.find_by_id(known)
        return found

    def _fill(self, error: RemoteError, node: Mapping[str, Any]) -> None:
        lost = dict(node["lost"])
        Exception.__setattr__(error, "args", tuple(self._argument(value) for value in node["args"]))
        for name, value in node["attributes"].items():
            if name in _OWN:
                continue
            try:
                _set(error, name, self._decode(value))
            except Exception as why:
                signals.reraise(why)
                lost[name] = f"it could not be read here: {type(why).__name__}: {why}"
        if lost:
            vars(error)["not_carried"] = lost

    def _argument(self, value: object) -> object:
        try:
            return self._decode(value)
        except Exception as why:
            signals.reraise(why)
            return f"<it could not be read here: {type(why).__name__}: {why}>"

    def _decode(self, value: object) -> object:
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "pickle":
            return self._unpickle(inner)
        if kind == "error":
            return self._error(inner)
        if kind == "bytes":
            return base64.b64decode(inner)
        if kind == "float":
            return float(inner)
        if kind == "dict":
            return {self._decode(key): self._decode(one) for key, one in inner}
        return {"list": list, "tuple": tuple}[kind](self._decode(one) for one in inner)

    def _unpickle(self, extents: Sequence[tuple[int, int]]) -> object:
        if not self._may_unpickle:
            raise TypeError("only plain values go with this call")
        pickles = memoryview(self._buffers[1])
        first, *beside = [pickles[begin:end] for begin, end in extents]
        return loads([first, *map(bytearray, beside)])

    def _link(self, error: RemoteError, node: Mapping[str, object]) -> None:
        for name in ("cause", "context"):
            if name in node:
                Exception.__setattr__(error, f"__{name}__", self._error(node[name]))
        self._set_suppress(error, node)

    def _set_suppress(self, error: RemoteError, node: Mapping[str, object]) -> None:
        Exception.__setattr__(error, "__suppress_context__", bool(node["suppress"]))


def _set(error: RemoteError, name: str, value: object) -> None:
    """Set an attribute as it was, past properties and `__setattr__` of its class."""
    for cls in type(error).__mro__:
        member: object = vars(cls).get(name)
        if isinstance(member, _MEMBERS):
            member.__set__(error, value)
            return
    vars(error)[name] = value


def _first_shown(error: BaseException) -> object:
    """Return the exception that a traceback of this one shows first: above it is room for the engine's traceback.

    There is none where the causes are in a circle.
    """
    seen = {id(error)}
    while True:
        before = error.__cause__
        if before is None and not error.__suppress_context__:
            before = error.__context__
        if before is None:
            return error
        if id(before) in seen:
            return None
        seen.add(id(before))
        error = before
