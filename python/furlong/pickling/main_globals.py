"""Functions whose globals are the engine's namespace: those of ``__main__``, and others that no module has.

Their global names go along by value. Engines let these values serve where the session has put no such name into the
namespace; `furlong_worker/scopes.py` is the other side. What has no pickle is left out if it is on the engines.
"""

from __future__ import annotations

import collections
import functools
import re
import sys
import types
import weakref
from collections.abc import Iterable
from typing import Any

from furlong.pickling.engine_names import EngineName, is_of_main

CODES_MAX = 1000
_READS = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL"))
# What the namespace has of its own.
_OF_NAMESPACE = frozenset(("__builtins__", "__name__"))
_read_names: weakref.WeakKeyDictionary[types.CodeType, frozenset[str]] = weakref.WeakKeyDictionary()


class Scope:
    """The globals in whose place the functions of one pickle get the engine's namespace.

    They are those of ``__main__``. In a doctest, or after ``%run``, functions have other globals that no module has:
    these, if the called function itself has them, or if they are the first ones of the name ``__main__``. There is one
    only, since names of several would meet in the namespace.
    """

    def __init__(self, called: object = None, left_out: frozenset[str] = frozenset()) -> None:
        self._scope: dict[str, object] | None = None
        self.left_out = left_out
        inner = _innermost(called)
        if isinstance(inner, types.FunctionType) and not _is_of_module(inner.__globals__):
            self._scope = inner.__globals__

    def __contains__(self, function: types.FunctionType) -> bool:
        scope = function.__globals__
        if self._scope is None and scope.get("__name__") == "__main__":
            self._scope = scope
        return scope is self._scope or is_of_main(function)

    def globals(self) -> dict[str, Any]:
        """Return the globals."""
        return vars(sys.modules["__main__"]) if self._scope is None else self._scope


def _innermost(function: object) -> object:
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType | types.MethodType):
        function = getattr(type(function), "__call__", None)  # noqa: B004 - it is what a call calls
    return getattr(function, "__func__", function)


def _is_of_module(scope: dict[str, object]) -> bool:
    module = sys.modules.get(str(scope.get("__name__")))
    return module is not None and vars(module) is scope


class Put:
    """Names that this process has put on engines, as far as that can be seen from here."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._codes: collections.deque[str] = collections.deque(maxlen=CODES_MAX)

    def note(self, names: Iterable[str]) -> None:
        """Note names that are pushed, or that a function stores."""
        self._names.update(names)

    def note_code(self, code: str) -> None:
        """Note code that is executed."""
        self._codes.append(code)

    def among(self, names: Iterable[str]) -> frozenset[str]:
        """Return those of the names that engines may have from here."""
        put = self._names.union(*(re.findall(r"\w+", code) for code in self._codes))
        return frozenset(put.intersection(names))


put = Put()


def reduced_to_namespace(
    function: types.FunctionType, reduced: tuple[Any, ...], left_out: frozenset[str]
) -> tuple[Any, ...]:
    """Return the reduction of a function by cloudpickle with the engine's namespace in the place of its globals."""
    _, (code, *_, closure), (attributes, slots), *_ = reduced
    scope = function.__globals__
    names = read_names(function.__code__) - _OF_NAMESPACE
    shipped = {name: scope[name] for name in sorted(names - left_out) if name in scope}
    if scope.get("__package__"):
        shipped["__package__"] = scope["__package__"]  # for relative imports
    slots["__globals__"] = shipped
    slots["__asked__"] = tuple(sorted(names - shipped.keys()))
    return (
        EngineName("main_function"),
        (code, closure),
        (attributes, slots),
        None,
        None,
        EngineName("set_main_function"),
    )


def read_names(code: types.CodeType) -> frozenset[str]:
    """Return the global names that code reads, that of functions and classes within included."""
    known = _read_names.get(code)
    if known is None:
        import dis

        steps = list(dis.get_instructions(code))
        put.note(str(step.argval) for step in steps if step.opname == "STORE_GLOBAL")
        names = {str(step.argval) for step in steps if step.opname in _READS}
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                names |= read_names(constant)
        known = _read_names[code] = frozenset(names)
    return known


def names_of(code: types.CodeType) -> set[str]:
    """Return the global names and attributes that code uses, that of functions within included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_of(constant)
    return names
