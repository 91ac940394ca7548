"""Functions, arguments and results as bytes: pickle protocol 5, and code objects where that cannot do.

Plain pickle goes first, in C. It meets a function or class that engines cannot import, of ``__main__`` or made inside a
function, and gives up; then cloudpickle sends it by value. What modules of the user's own define goes by name, and the
modules go along. Memory of arrays, data frames and the like goes beside the pickle and is not copied.
"""

from __future__ import annotations

import collections
import functools
import importlib
import io
import itertools
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from furlong import _furlong
from furlong.calls.codecs import PICKLE
from furlong.errors import PicklingError
from furlong.modules import own_modules
from furlong.modules.cloudpickle_text import support
from furlong.pickling import fresh_copies, main_globals
from furlong.pickling.engine_names import Apart, EngineName, Reference
from furlong.pickling.plain import (
    CACHED,
    NAMED,
    NeedsCodeError,
    PlainPickler,
    goes_by_value,
    is_own_cached,
    reduce_memoryview,
)
from furlong.shared import paths
from furlong.shared.definitions import Reducer
from furlong.waiting import signals

# Smaller buffers are cheaper inside the pickle, and a payload holds at most 4096 buffers.
OUT_OF_BAND_BYTES_MIN = 4096
BUFFERS_MAX = 4000
PYTHON = (sys.version_info[0], sys.version_info[1])


# What a pickle holds besides data, as bits. `HAS_CODE`: functions or classes by value, which only
# the same version of Python can read. `HAS_MODULES`: names of modules of the user's own.
DATA_ONLY = 0
HAS_CODE = 1
HAS_MODULES = 2


class Pickle(NamedTuple):
    """A pickled value: the pickle, then the memory that goes beside it; and what they hold."""

    buffers: list[Any]
    holds: int = DATA_ONLY


class Pickled(NamedTuple):
    """A function as it is submitted, and what its pickle holds."""

    function: _furlong.Function
    holds: int = DATA_ONLY


class _Globals:
    """The global names of a module, which engines import."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return vars, (_Imported(self._module),)


class _Imported:
    """A module, by the import that gives it on engines."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self._name,)


@functools.lru_cache(maxsize=1)
def _code_pickler() -> Any:
    import cloudpickle  # type: ignore[import-untyped]

    table: Any = cloudpickle.Pickler.dispatch_table
    reducer = Reducer(EngineName)

    def reduce_code(code: types.CodeType) -> Any:
        """Keep the file's name, which cloudpickle leaves out and tracebacks show."""
        make, parts, *rest = table[types.CodeType](code)
        return (
            make,
            tuple(code.co_filename if part == "<dynamic-code>" else part for part in parts),
            *rest,
        )

    class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Cloudpickle, with modules of the user's own by name, and definitions that never write to what is there."""

        dispatch_table = collections.ChainMap({types.CodeType: reduce_code}, table)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.has_modules = False
            self.scope = main_globals.Scope()

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is memoryview:
                return reduce_memoryview(obj)
            if kind is own_modules.ModuleName:
                self._need(obj)
            self.has_modules = self.has_modules or (kind is Apart and obj.has_modules)
            if kind is types.ModuleType and own_modules.is_own_source(obj):
                self._need(obj.__name__)
                return importlib.import_module, (obj.__name__,)
            if (
                kind is types.FunctionType
                or issubclass(kind, type)
                or kind in NAMED
                or kind is CACHED
            ):
                module = own_modules.names(obj)
                if module is not None:
                    self._need(module)
                    return (
                        NotImplemented
                        if kind is not typing.TypeVar
                        else (getattr, (_Imported(module), obj.__name__))
                    )
            reduced = reducer.reduce(obj, is_own_cached if kind is CACHED else goes_by_value)
            if reduced is NotImplemented and kind is types.FunctionType and goes_by_value(obj):
                reduced = self._dynamic_function_reduce(obj)
                if obj in self.scope:
                    return main_globals.reduced_to_namespace(obj, reduced, self.scope.left_out)
                return reduced
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

        def _need(self, module: str) -> None:
            self.has_modules = True
            own_modules.need(module)

        def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
            make, arguments, state, *rest = super()._dynamic_function_reduce(func)
            scope = func.__globals__
            if own_modules.need_imports(func.__code__, scope.get("__package__") or ""):
                self.has_modules = True
            name = scope.get("__name__")
            module = sys.modules.get(name) if isinstance(name, str) else None
            is_of_module = (
                module is not None and vars(module) is scope and own_modules.is_own_source(module)
            )
            if (
                module is not None
                and is_of_module
                and own_modules.uses_variables(func, _names_of(func.__code__))
            ):
                self._need(module.__name__)
                code, _, *others = arguments
                arguments = code, _Globals(module.__name__), *others
                state[1]["__globals__"] = {}
            return make, arguments, state, *rest

        def dump(self, obj: Any) -> None:
            with _code_lock:
                super().dump(obj)

    return CodePickler


_code_lock = threading.RLock()


def dumps(
    value: Any, what: str = "the arguments", find: Callable[[], str | None] | None = None
) -> Pickle:
    """Pickle a value.

    Parameters
    ----------
    value : object
        What is pickled.
    what : str
        What it is, for the error.
    find : callable, optional
        Says for the error which part it is, if it knows better than a walk through the value.

    Raises
    ------
    PicklingError
        If a part of it cannot be pickled; the text names the part.
    """
    buffers: list[Any] = [b""]

    def take_buffer(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES_MIN or len(buffers) > BUFFERS_MAX:
            return True
        buffers.append(view)
        return False

    file = io.BytesIO()
    plain = PlainPickler(file, 5, buffer_callback=take_buffer)
    try:
        plain.dump(value)
    except NeedsCodeError:
        pass
    except Exception as error:
        signals.reraise(error)
        # What plain pickle cannot do, cloudpickle may.
        if not isinstance(error, (pickle.PicklingError, TypeError, AttributeError)):
            raise _described(value, what, error, find) from error
    else:
        buffers[0] = file.getvalue()
        return Pickle(buffers, HAS_MODULES if plain.has_modules else DATA_ONLY)
    del buffers[1:]
    file = io.BytesIO()
    pickler = _code_pickler()(file, 5, buffer_callback=take_buffer)
    try:
        pickler.dump(value)
    except Exception as error:
        signals.reraise(error)
        raise _described(value, what, error, find) from error
    buffers[0] = file.getvalue()
    return Pickle(buffers, HAS_CODE | HAS_MODULES if pickler.has_modules else HAS_CODE)


def dumps_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Pickle:
    """Pickle the arguments of a call, like `dumps`."""
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        return Pickle([pickle.dumps((args, kwargs), 5)])
    return dumps((args, kwargs))


# Types of arguments that need no look.
_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))


def dumps_pushed(values: Mapping[str, Any]) -> Pickle:
    """Pickle variables as the arguments of a push, like `dumps`."""
    what = "what is pushed"
    return dumps(((values,), {}), what, lambda: paths.find(values, what, _try))


def dumps_items(
    columns: Sequence[Any],
    first: int,
    exact: bool = False,
    copies: tuple[Apart, list[bool]] | None = None,
) -> Pickle:
    """Pickle items of a map, one column for each sequence; `first` is the place of the first ones in theirs.

    With `exact`, the engine always tells which of them runs. Items that may share what calls can change go each in a
    pickle of its own, so that each call has its arguments for itself. `copies` are such pickles that were made before.
    """
    kwargs: dict[str, Any] = {"exact": True} if exact else {}
    sent = columns
    if copies is None:
        is_apart = fresh_copies.may_share(columns)
        rows = list(zip(*itertools.compress(columns, is_apart), strict=True))
        apart = fresh_copies.Rows(rows, 0).among(range(len(rows))) if rows else None
    else:
        apart, is_apart = copies
    if apart is not None:
        kwargs.update(apart=apart, is_apart=is_apart)
        sent = [column for column, alone in zip(columns, is_apart, strict=True) if not alone]
    return dumps((sent, kwargs), "the items", lambda: paths.find_item(columns, first, _try))


def error_of_item(error: PicklingError, item: Sequence[Any], at: int) -> PicklingError:
    """Return the error that `dumps_items` would raise for a call with one item of a map; any other error as it is."""
    found = paths.find_item([[part] for part in item], at, _try)
    return error if found is None else PicklingError(f"the items cannot be pickled: {found}")


def _described(
    value: Any, what: str, error: Exception, find: Callable[[], str | None] | None = None
) -> PicklingError:
    if isinstance(error, RecursionError):
        return PicklingError(f"{what} cannot be pickled: nested too deeply")
    name = "arguments" if what == "the arguments" else what.removeprefix("the ")
    found = (find and find()) or paths.find(value, name, _try)
    return PicklingError(f"{what} cannot be pickled: {found}")


def _try(value: Any) -> None:
    _code_pickler()(io.BytesIO(), 5, buffer_callback=lambda _: None).dump(value)


# Functions.

_Check = tuple[dict[str, Any], str, Any]
_MISSING = object()
_ATOMS = (int, float, complex, str, bytes, bool, type(None), types.BuiltinFunctionType)


class _CachedFunction:
    """A function that was pickled, and what must be as it was for the pickle to be right still."""

    def __init__(self, function: types.FunctionType, made: _furlong.Function, holds: int) -> None:
        self.answer = Pickled(made, holds)
        # It is named while its module has it by this name.
        self._place = _place_of(function) if holds == HAS_MODULES else None
        self._parts: list[tuple[weakref.ref[types.FunctionType], tuple[Any, ...]]] = []
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
        for name in _names_of(function.__code__):
            value = function.__globals__.get(name, _MISSING)
            self._globals.append((function.__globals__, name, value))
            values.append(value)
        return all(self._watch_value(value, seen) for value in values)

    def _watch_value(self, value: Any, seen: set[int]) -> bool:
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
) -> tuple[weakref.ref[types.FunctionType], dict[str, Any], str] | None:
    module = sys.modules.get(function.__module__)
    if module is None or vars(module).get(function.__qualname__) is not function:
        return None
    return weakref.ref(function), vars(module), function.__qualname__


def _parts_of(function: types.FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _names_of(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_of(constant)
    return names


_functions: weakref.WeakKeyDictionary[Any, _CachedFunction] = weakref.WeakKeyDictionary()
# What was made last of functions that hold what may change in place: they are pickled for each
# call, and if the pickle is the same, nothing is hashed and nothing is sent.
_made: weakref.WeakKeyDictionary[Any, dict[bool | None, _furlong.Function]] = (
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


def equipped(function: _furlong.Function, holds: int) -> _furlong.Function:
    """Return a function with the modules of the user's own that a call needs that holds this."""
    if not holds & HAS_MODULES:
        return function
    return own_modules.current().equip(function, _dump_variables) or function


def call_of(
    function: Pickled, arguments: Pickle, options: _furlong.Options | None = None
) -> _furlong.Call:
    """Make a call ready to be submitted."""
    holds = function.holds | arguments.holds
    made = equipped(function.function, holds) if holds else function.function
    return _furlong.Call(made, PICKLE, arguments.buffers, options, bool(holds & HAS_CODE))


def _dump_variables(value: Any) -> bytes:
    file = io.BytesIO()
    _code_pickler()(file, 4).dump(value)
    return file.getvalue()


def cached_function(function: Callable[..., Any]) -> Pickled | None:
    """Return what `function_of` would, if it need not pickle; else None."""
    if type(function) is not types.FunctionType:
        return None
    known = _functions.get(function)
    return known.answer if known is not None and known.is_right() else None


_mapped: weakref.WeakKeyDictionary[Any, dict[bool, _CachedFunction]] = weakref.WeakKeyDictionary()


def mapped_of(f: Any, return_exceptions: bool, wrap: Callable[[Any, bool], Any]) -> Pickled:
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


def _make(function: Any, wrapped: bool | None, blob: bytes, holds: int) -> _furlong.Function:
    """Make of a pickle what sessions submit; what was made last of the function, if its pickle is the same."""
    can_be_remembered = type(function) in (types.FunctionType, functools.partial)
    last = _made.get(function, {}).get(wrapped) if can_be_remembered else None
    if last is not None and last.is_of(blob):
        return last
    is_defined_once = not isinstance(function, Reference)
    made = _furlong.Function.pickled(
        name_of(function), blob, PYTHON, bool(holds & HAS_CODE), support(), is_defined_once
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
        raise _described(function, f"the function {name_of(function)}", error) from error


def _dump_code(
    sent: Any, function: Callable[..., Any], left_out: frozenset[str]
) -> tuple[bytes, int]:
    file = io.BytesIO()
    pickler = _code_pickler()(file, 5)
    pickler.scope = main_globals.Scope(function, left_out)
    pickler.dump(sent)
    return file.getvalue(), HAS_CODE | HAS_MODULES if pickler.has_modules else HAS_CODE


def _names_without_pickle(function: Callable[..., Any]) -> Iterator[str]:
    """Return the global names that engines may have from here, and whose values here cannot be pickled."""
    scope = main_globals.Scope(function).globals()
    for name in main_globals.put.among(scope):
        value = scope[name]
        if not isinstance(value, types.FunctionType | type) and not paths.can(_try, value):
            yield name


def name_of(function: Any) -> str:
    """Name a function for people."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)[:200]
