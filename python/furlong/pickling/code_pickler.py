"""Cloudpickle for engines: functions and classes by value, modules of the user's own by name."""

from __future__ import annotations

import collections
import functools
import importlib
import sys
import threading
import types
import typing
from collections.abc import Callable
from typing import Any

from furlong.modules import own_modules
from furlong.pickling import main_globals
from furlong.pickling.engine_names import Apart, EngineName
from furlong.pickling.inputs import Input, Inputs, reduce_input
from furlong.pickling.plain import (
    CACHED,
    NAMED,
    goes_by_value,
    is_own_cached,
    reduce_memoryview,
)
from furlong.shared.definitions import Reducer

__all__ = ["code_pickler"]


class _Globals:
    """The global names of a module, which engines import."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __reduce__(self) -> tuple[object, ...]:
        return vars, (_Imported(self._module),)


class _Imported:
    """A module, by the import that gives it on engines."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[object, ...]:
        return importlib.import_module, (self._name,)


@functools.lru_cache(maxsize=1)
def code_pickler() -> Any:
    """Return the class of picklers, which loads cloudpickle when it is first needed."""
    import cloudpickle  # type: ignore[import-untyped]

    table: Any = cloudpickle.Pickler.dispatch_table
    reducer = Reducer(EngineName)

    class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Cloudpickle, with modules of the user's own by name, and definitions that never write to what is there."""

        dispatch_table = collections.ChainMap(
            {types.CodeType: functools.partial(_reduce_code, table[types.CodeType])}, table
        )
        inputs: Inputs | None = None

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            self.has_modules = False
            self.scope = main_globals.Scope()

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is memoryview:
                return reduce_memoryview(obj)
            if kind is own_modules.ModuleName:
                self._need(obj)
            if isinstance(obj, Input):
                return reduce_input(obj, self.inputs)
            if self.inputs is not None and kind in self.inputs.replaceable:
                shared = self.inputs.stand_in(obj)
                if shared is not None:
                    return reduce_input(shared, self.inputs)
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
                and own_modules.uses_variables(func, main_globals.names_of(func.__code__))
            ):
                self._need(module.__name__)
                code, _, *others = arguments
                arguments = code, _Globals(module.__name__), *others
                state[1]["__globals__"] = {}
            return make, arguments, state, *rest

        def dump(self, obj: object) -> None:
            with _code_lock:
                super().dump(obj)

    return CodePickler


def _reduce_code(reduce: Callable[[types.CodeType], Any], code: types.CodeType) -> Any:
    """Reduce code with the file's name, which cloudpickle leaves out and tracebacks show."""
    make, parts, *rest = reduce(code)
    named = tuple(code.co_filename if part == "<dynamic-code>" else part for part in parts)
    return make, named, *rest


_code_lock = threading.RLock()
