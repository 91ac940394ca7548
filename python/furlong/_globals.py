"""Functions whose globals are the engine's namespace: those of ``__main__``, and others that no module has.

Their global names go along by value. Engines let these values serve where the session has put no such name into the
namespace; `furlong_worker/scopes.py` is the other side.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
import weakref
from typing import Any

from furlong._remote import OnEngine, is_of_main

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

    def __init__(self, called: Any = None) -> None:
        self._scope: dict[str, Any] | None = None
        inner = _innermost(called)
        if isinstance(inner, types.FunctionType) and not _is_of_module(inner.__globals__):
            self._scope = inner.__globals__

    def __contains__(self, function: types.FunctionType) -> bool:
        scope = function.__globals__
        if self._scope is None and scope.get("__name__") == "__main__":
            self._scope = scope
        return scope is self._scope or is_of_main(function)


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType | types.MethodType):
        function = getattr(type(function), "__call__", None)  # noqa: B004 - it is what a call calls
    return getattr(function, "__func__", function)


def _is_of_module(scope: dict[str, Any]) -> bool:
    module = sys.modules.get(str(scope.get("__name__")))
    return module is not None and vars(module) is scope


def reduced_to_namespace(function: types.FunctionType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give the reduction of a function by cloudpickle with the engine's namespace in the place of its globals."""
    _, (code, *_, closure), (attributes, slots), *_ = reduced
    scope = function.__globals__
    names = read_names(function.__code__) - _OF_NAMESPACE
    shipped = {name: scope[name] for name in sorted(names) if name in scope}
    if scope.get("__package__"):
        shipped["__package__"] = scope["__package__"]  # for relative imports
    slots["__globals__"] = shipped
    slots["__asked__"] = tuple(sorted(names - shipped.keys()))
    return OnEngine("main_function"), (code, closure), (attributes, slots), None, None, OnEngine("set_main_function")


def read_names(code: types.CodeType) -> frozenset[str]:
    """Give the global names that code reads, that of functions and classes within included."""
    known = _read_names.get(code)
    if known is None:
        names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in _READS}
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                names |= read_names(constant)
        known = _read_names[code] = frozenset(names)
    return known
