"""Plain pickles, in C: of all that engines can find by its name, and of data."""

from __future__ import annotations

import functools
import importlib
import operator
import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from furlong.modules import own_modules
from furlong.modules.installed import ships
from furlong.pickling.engine_names import Apart, EngineFunction
from furlong.pickling.inputs import Input, Inputs, reduce_input
from furlong.shared.definitions import find_here


class NeedsCodeError(Exception):
    """Plain pickle met something that goes by value."""


class PlainPickler(pickle.Pickler):
    """Pickle as it is, unless something must go by value."""

    has_modules = False
    #: What notes the arguments that are at the cluster; none where there can be none.
    inputs: Inputs | None = None

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what the C code would pickle otherwise than engines need it; raise for what needs code."""
        kind = type(obj)
        if kind is types.FunctionType or issubclass(kind, type) or kind in NAMED:
            if ships(getattr(obj, "__module__", None)):
                self._name_or_give_up(obj, goes_by_value)
            elif _is_nameless(obj) or _is_homeless(obj):
                raise NeedsCodeError
        elif kind is CACHED:
            self._name_or_give_up(obj, is_own_cached)
        elif kind is own_modules.ModuleName:
            self.has_modules = True
            own_modules.need(obj)
        elif kind is types.ModuleType:
            if not own_modules.is_own_source(obj):
                raise NeedsCodeError
            self.has_modules = True
            own_modules.need(obj.__name__)
            return importlib.import_module, (obj.__name__,)
        elif kind is EngineFunction:
            raise NeedsCodeError
        elif kind is memoryview:
            return reduce_memoryview(obj)
        elif kind is types.MethodType and not _is_found_by_name(obj):
            return types.MethodType, (obj.__func__, obj.__self__)
        elif kind is Apart and obj.has_modules:
            self.has_modules = True
        elif isinstance(obj, Input):
            return reduce_input(obj, self.inputs)
        elif self.inputs is not None and kind in self.inputs.replaceable:
            shared = self.inputs.stand_in(obj)
            return NotImplemented if shared is None else reduce_input(shared, self.inputs)
        return NotImplemented

    def _name_or_give_up(self, obj: object, is_by_value: Callable[[object], bool]) -> None:
        """Note the module that engines import for an object, unless it goes by value."""
        module = own_modules.names(obj)
        if module is not None:
            self.has_modules = True
            own_modules.need(module)
        elif is_by_value(obj):
            raise NeedsCodeError


def _is_found_by_name(method: types.MethodType) -> bool:
    """Return whether its object has it by its function's name, as pickle takes it: not so lambdas, and `__names`."""
    owner, function = method.__self__, method.__func__
    found = getattr(
        owner if isinstance(owner, type) else type(owner), getattr(function, "__name__", ""), None
    )
    return getattr(found, "__func__", found) is function


def _is_homeless(obj: object) -> bool:
    """Return whether it is a class that its module does not have: `dataclasses.make_dataclass` may say `types`."""
    if not isinstance(obj, type) or not obj.__flags__ & _HEAP_TYPE:
        return False
    return obj.__module__ in sys.modules and find_here(obj.__module__, obj.__qualname__) is None


def _is_nameless(obj: object) -> bool:
    name = getattr(obj, "__qualname__", "")
    return "<locals>" in name or "<lambda>" in name


_HEAP_TYPE = 1 << 9  # of a type's flags: made by a `class` statement, or by C as such are

# What has a name and is neither function nor class.
NAMED = frozenset(
    kind
    for name in ("TypeVar", "ParamSpec", "TypeVarTuple", "NewType", "TypeAliasType")
    for kind in [getattr(typing, name, None)]
    if isinstance(kind, type)
)
# What `functools.lru_cache` makes of a function.
CACHED = type(functools.lru_cache(len))


def is_own_cached(cached: object) -> bool:
    """Return whether a function with a cache goes by value: the user's own, and one that no module has by its name."""
    found: object = sys.modules.get(str(getattr(cached, "__module__", None)))
    for name in str(getattr(cached, "__qualname__", None)).split("."):
        found = getattr(found, name, None)
    return found is not cached or goes_by_value(cached)


def reduce_memoryview(view: memoryview) -> tuple[Any, ...]:
    """Reduce a view of memory to the same view of a copy."""
    plain = pickle.PickleBuffer(view if view.contiguous else bytes(view))
    if view.format == "B" and view.ndim == 1:
        return memoryview, (plain,)
    return operator.methodcaller("cast", view.format, view.shape), (_Bytes(plain),)


class _Bytes:
    """A memoryview of plain bytes, inside the reduction of one that is more."""

    def __init__(self, plain: pickle.PickleBuffer) -> None:
        self._plain = plain

    def __reduce__(self) -> tuple[object, ...]:
        return memoryview, (self._plain,)


def goes_by_value(obj: object) -> bool:
    """Return whether a function, a class or the like goes by value."""
    if _is_nameless(obj) or _is_homeless(obj):
        return True
    return (
        ships(getattr(obj, "__module__", None))
        and own_modules.names(obj) is None
        and not own_modules.is_binary(obj)
    )
