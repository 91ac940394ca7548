"""Functions as pickles, each made once for as long as nothing has changed that it is made of."""

from __future__ import annotations

import functools
import io
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from furlong import _furlong
from furlong.calls.codecs import PICKLE
from furlong.modules import own_modules
from furlong.modules.cloudpickle_text import support
from furlong.pickling import fresh_copies, main_globals
from furlong.pickling.arguments import (
    DATA_ONLY,
    HAS_CODE,
    HAS_MODULES,
    Pickle,
    can_pickle,
    pickling_error,
)
from furlong.pickling.engine_names import Reference
from furlong.pickling.inputs import InputMetError
from furlong.pickling.plain import NeedsCodeError, PlainPickler, goes_by_value
from furlong.waiting import signals

PYTHON = (sys.version_info[0], sys.version_info[1])


class Pickled(NamedTuple):
    """A function as it is submitted, and what its pickle holds."""

    function: _furlong.Function
    holds: int = DATA_ONLY


_Check = tuple[dict[str, object], str, object]
_MISSING = object()
_ATOMS = (int, float, complex, str, bytes, bool, type(None), types.BuiltinFunctionType)


class _CachedFunction:
    """A function that was pickled, and what must be as it was for the pickle to be right still."""

    def __init__(self, function: types.FunctionType, made: _furlong.Function, holds: int) -> None:
        self.answer = Pickled(made, holds)
        # It is named while its module has it by this name.
        self._place = _place_of(function) if holds == HAS_MODULES else None
        self._parts: list[tuple[weakref.ref[types.FunctionType], tuple[object, ...]]] = []
        self._globals: list[_Check] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self.is_lasting = not holds & HAS_CODE or self._watch(function, set())

    def is_right(self) -> bool:
        """Return whether nothing that was looked at has changed."""
        if self._place is not None:
            named, scope, name = self._place
            return scope.get(name) is named()
        for reference, (code, defaults, keywords) in self._parts:
            function = reference()
            if function is None or function.__code__ is not code:
                return False
            if function.__defaults__ is not defaults or function.__kwdefaults__ is not keywords:
                return False
        for scope, name, value in self._globals:
            if scope.get(name, _MISSING) is not value:
                return False
        for cell, value in self._cells:  # noqa: SIM110 - it costs a generator at each call
            if _content(cell) is not value:
                return False
        return True

    def _watch(self, function: types.FunctionType, seen: set[int]) -> bool:
        """Note what a function's pickle is made of; return whether all of it can be watched."""
        if id(function) in seen:
            return True
        seen.add(id(function))
        self._parts.append((weakref.ref(function), _parts_of(function)))
        values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        values += [*function.__dict__.values(), *function.__annotations__.values()]
        for cell in function.__closure__ or ():
            value = _content(cell)
            self._cells.append((cell, value))
            values.append(value)
        for name in main_globals.names_of(function.__code__):
            value = function.__globals__.get(name, _MISSING)
            self._globals.append((function.__globals__, name, value))
            values.append(value)
        return all(self._watch_value(value, seen) for value in values)

    def _watch_value(self, value: object, seen: set[int]) -> bool:
        if value is _MISSING or isinstance(value, _ATOMS):
            return True
        if isinstance(value, (tuple, frozenset)):
            return all(self._watch_value(item, seen) for item in value)
        if isinstance(value, types.ModuleType):
            return True
        if isinstance(value, types.FunctionType):
            return self._watch(value, seen) if goes_by_value(value) else True
        return isinstance(value, type) and not goes_by_value(value)


def _place_of(
    function: types.FunctionType,
) -> tuple[weakref.ref[types.FunctionType], dict[str, object], str] | None:
    module = sys.modules.get(function.__module__)
    if module is None or vars(module).get(function.__qualname__) is not function:
        return None
    return weakref.ref(function), vars(module), function.__qualname__


def _parts_of(function: types.FunctionType) -> tuple[object, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


_functions: weakref.WeakKeyDictionary[object, _CachedFunction] = weakref.WeakKeyDictionary()
# What was made last of functions that hold what may change in place: they are pickled for each
# call, and if the pickle is the same, nothing is hashed and nothing is sent.
_made: weakref.WeakKeyDictionary[object, dict[bool | None, _furlong.Function]] = (
    weakref.WeakKeyDictionary()
)


def function_of(function: Callable[..., Any]) -> Pickled:
    """Pickle a function for engines, once for as long as nothing that it is made of has changed.

    Its pickle is sent once a session.
    """
    kind = type(function)
    known = cached_function(function)
    if known is not None:
        return known
    blob, holds = _dump_function(function)
    made = _make(function, None, blob, holds)
    if kind is types.FunctionType:
        noted = _CachedFunction(function, made, holds)  # type: ignore[arg-type]
        if noted.is_lasting:
            _functions[function] = noted
    return Pickled(made, holds)


class PreparedFunction:
    """A function that was pickled once, whatever changes in it later, for very many calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.pickled = function_of(function)
        self.__qualname__ = name_of(function)


def equipped(function: _furlong.Function, holds: int) -> _furlong.Function:
    """Return a function with the modules of the user's own that a call needs that holds this."""
    if not holds & HAS_MODULES:
        return function
    return own_modules.current().equip(function, _dump_variables) or function


def call_of(
    function: Pickled,
    arguments: Pickle,
    options: _furlong.Options | None,
    session: _furlong.Session,
) -> _furlong.Call:
    """Make a call ready to be submitted in a session."""
    holds = function.holds | arguments.holds
    made = equipped(function.function, holds) if holds else function.function
    has_code = bool(holds & HAS_CODE)
    inputs = arguments.inputs
    if inputs is None:
        return _furlong.Call(made, PICKLE, arguments.buffers, options, has_code)
    inputs.check(session)
    return _furlong.Call(
        made, PICKLE, arguments.buffers, options, has_code, inputs.ids, inputs.failed
    )


def _dump_variables(value: object) -> bytes:
    file = io.BytesIO()
    from furlong.pickling.code_pickler import code_pickler

    code_pickler()(file, 4).dump(value)
    return file.getvalue()


def cached_function(function: Callable[..., Any]) -> Pickled | None:
    """Return what `function_of` would, if it need not pickle; else None."""
    if type(function) is not types.FunctionType:
        return None
    known = _functions.get(function)
    return known.answer if known is not None and known.is_right() else None


_mapped: weakref.WeakKeyDictionary[object, dict[bool, _CachedFunction]] = (
    weakref.WeakKeyDictionary()
)


def mapped_of(f: object, return_exceptions: bool, wrap: Callable[[object, bool], Any]) -> Pickled:
    """Pickle a function within what calls it with many items, once like `function_of`."""
    if type(f) is types.FunctionType:
        known = _mapped.get(f, {}).get(return_exceptions)
        if known is not None and known.is_right():
            return known.answer
    blob, holds = _dump_function(wrap(f, return_exceptions))
    made = _make(f, return_exceptions, blob, holds)
    if type(f) is types.FunctionType:
        known = _CachedFunction(f, made, holds)
        if known.is_lasting:
            _mapped.setdefault(f, {})[return_exceptions] = known
    return Pickled(made, holds)


def is_conditional(function: object) -> bool:
    """Return whether a function may ask for another engine than the first that gets it."""
    if type(function) is types.FunctionType:  # mostly
        return _may_reject(function)
    is_known = getattr(function, "is_conditional", None) is True
    while isinstance(function, functools.partial) and not is_known:
        function = function.func
        is_known = getattr(function, "is_conditional", None) is True
    return is_known or isinstance(function, types.FunctionType) and _may_reject(function)


# As what a function knows the error with which it asks for another engine.
_REJECTS = frozenset(("TaskRejectError", "UnmetDependency"))


def _may_reject(function: types.FunctionType) -> bool:
    """Return whether a function names the error with which it asks for another engine."""
    code = function.__code__
    if not _REJECTS.isdisjoint(code.co_names):
        return True
    return function.__closure__ is not None and not _REJECTS.isdisjoint(code.co_freevars)


def _make(function: object, wrapped: bool | None, blob: bytes, holds: int) -> _furlong.Function:
    """Make of a pickle what sessions submit; what was made last of the function, if its pickle is the same."""
    can_be_remembered = type(function) in (types.FunctionType, functools.partial)
    last = _made.get(function, {}).get(wrapped) if can_be_remembered else None
    if last is not None and last.is_of(blob):
        return last
    is_defined_once = not isinstance(function, Reference)
    made = _furlong.Function.pickled(
        kind_of(function), blob, PYTHON, bool(holds & HAS_CODE), support(), is_defined_once
    )
    if can_be_remembered:
        _made.setdefault(function, {})[wrapped] = made
    return made


def _dump_function(function: Callable[..., Any]) -> tuple[bytes, int]:
    """Pickle a function into one buffer: it may hold arrays, but is sent once."""
    sent = fresh_copies.function_anew(function)
    file = io.BytesIO()
    plain = PlainPickler(file, 5)
    try:
        plain.dump(sent)
    except NeedsCodeError:
        pass
    except Exception as error:  # what plain pickle cannot do, cloudpickle may
        signals.reraise(error)
    else:
        return file.getvalue(), HAS_MODULES if plain.has_modules else DATA_ONLY
    try:
        return _dump_code(sent, function, frozenset())
    except Exception as error:
        signals.reraise(error)
        # On engines each may have one of its own, as a lock or a connection to a database.
        left_out = frozenset(_names_without_pickle(function))
        try:
            if left_out:
                return _dump_code(sent, function, left_out)
        except Exception as why:
            signals.reraise(why)
        if isinstance(error, InputMetError):
            raise
        raise pickling_error(function, f"the function {name_of(function)}", error) from error


def _dump_code(
    sent: object, function: Callable[..., Any], left_out: frozenset[str]
) -> tuple[bytes, int]:
    from furlong.pickling.code_pickler import code_pickler

    file = io.BytesIO()
    pickler = code_pickler()(file, 5)
    pickler.scope = main_globals.Scope(function, left_out)
    pickler.dump(sent)
    return file.getvalue(), HAS_CODE | HAS_MODULES if pickler.has_modules else HAS_CODE


def _names_without_pickle(function: Callable[..., Any]) -> Iterator[str]:
    """Return the global names that engines may have from here, and whose values here cannot be pickled."""
    scope = main_globals.Scope(function).globals()
    for name in main_globals.put.among(scope):
        value = scope[name]
        if not isinstance(value, types.FunctionType | type) and not can_pickle(value):
            yield name


def kind_of(function: object) -> str:
    """Name a function as those know it who look at the farm: with its module, if that is not the program itself."""
    function = _innermost(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    name = str(named.__qualname__).rpartition("<locals>.")[2]
    module = getattr(named, "__module__", None)
    is_plain = module in (None, "__main__", "builtins") or name == "<lambda>"
    return (name if is_plain else f"{module}.{name}")[:200]


def name_of(function: object) -> str:
    """Name a function for people."""
    function = _innermost(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)[:200]


def _innermost(function: object) -> object:
    """Return the user's function within a `functools.partial`, also where it is the argument of one of ours."""
    while isinstance(function, functools.partial):
        is_ours = getattr(function.func, "__module__", None) == "furlong.libraries.engine_side"
        function = function.args[-1] if is_ours and function.args else function.func
    return function
