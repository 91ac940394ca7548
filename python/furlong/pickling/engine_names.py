"""Names of things on engines, for arguments and functions."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from furlong.calls.checks import described

__all__ = ["Reference", "interactive"]

F = TypeVar("F", bound=Callable[..., Any])

# The module of the engine's own program that a client's pickles refer to.
ENGINE_MODULE = "furlong_worker"


class _Module:
    """A module that this process need not have: its pickle imports it there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:
        return importlib.import_module, (self.name,)


class EngineName:
    """Something that the engine's own program has, or another module there, by name: its pickle finds it there."""

    def __init__(self, name: str, module: str = ENGINE_MODULE) -> None:
        self.name = name
        self.module = module

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (_Module(self.module), self.name)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise RuntimeError(f"{self.name} is only there on engines")


class _EmptyCell:
    """A cell without contents: of a variable that its function has not set yet."""

    def __reduce__(self) -> tuple[object, ...]:
        return EngineName("CellType", "types"), ()


class Apart:
    """Values that engines make anew at each use: `furlong_worker/pickles.py` says what it is made of."""

    def __init__(
        self,
        parts: tuple[object, ...],
        has_modules: bool,
        inputs: Mapping[int, object] | None = None,
    ) -> None:
        self._parts = parts
        #: Whether it names modules of the user's own.
        self.has_modules = has_modules
        #: What of the values is at the cluster, by the numbers that stand for it in the pickles.
        self.inputs = inputs or {}

    def given(self, dump: Callable[[object], tuple[bytes, list[Any], int]]) -> Apart:
        """Return the same with pickles of what stands for values at the cluster, or of these if they have come."""
        dumped = {number: dump(value) for number, value in self.inputs.items()}
        given = {number: (data, memory) for number, (data, memory, _) in dumped.items()}
        has_modules = self.has_modules or any(holds for _, _, holds in dumped.values())
        return Apart((*self._parts, given), has_modules)

    def __reduce__(self) -> tuple[object, ...]:
        return EngineName("Apart"), self._parts


class Reference:
    """An expression that is evaluated on the engine, in its namespace, when a call has it among its arguments.

    It can be an argument, in a list or dictionary, an item of a map, and the function itself.

    Parameters
    ----------
    name : str
        The expression, as ``"a"`` or ``"g[0]"``.

    Examples
    --------
    >>> Reference("a")
    <Reference: 'a'>
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a reference is an expression as text, not {described(name)}")
        self.name = name

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def __reduce__(self) -> tuple[object, ...]:
        return EngineName("evaluate"), (self.name,)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Refuse: it is called on engines."""
        raise RuntimeError(f"{self!r} is called on engines: `view.apply({self!r}, ...)`")


class OfCaller:
    """A builtin that looks at its caller, such as `eval`: on an engine its caller is code of the namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise RuntimeError("it is only called on engines")

    def __reduce__(self) -> tuple[object, ...]:
        return EngineName("of_caller"), (self.name,)


_OF_CALLER = {f: OfCaller(f.__name__) for f in (eval, exec, globals, locals, vars, dir)}


def as_on_engine(f: object) -> Any:
    """Return what is called on an engine for a function."""
    return _OF_CALLER.get(f, f) if type(f) is types.BuiltinFunctionType else f


class EngineFunction:
    """A function whose global names are those of the engine's namespace."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[object, ...]:
        import marshal

        f = self.function
        if not isinstance(f, types.FunctionType):
            raise TypeError(
                f"a {type(f).__name__} has no code that engines could run in their namespace"
            )
        cells = None if f.__closure__ is None else tuple(_content(cell) for cell in f.__closure__)
        annotations: dict[str, object] = {}
        parts = (
            marshal.dumps(f.__code__),
            f.__name__,
            f.__defaults__,
            f.__kwdefaults__,
            cells,
            annotations,
            f.__doc__,
        )
        return EngineName("engine_function"), parts


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _EmptyCell()


def interactive(f: F) -> F:
    """Mark a function so that its global names are those of the engine's namespace, not of the module it is in.

    Examples
    --------
    >>> @interactive
    ... def scaled(x):
    ...     return factor * x  # `factor` was pushed to the engines
    """
    f.__furlong_interactive__ = True  # type: ignore[attr-defined]
    return f


def is_interactive(f: object) -> bool:
    """Return whether a function was marked by `interactive`; those of ``__main__`` see the namespace in any case."""
    return bool(getattr(f, "__furlong_interactive__", False)) and not is_of_main(f)


def is_of_main(f: object) -> bool:
    """Return whether a function's globals are those of ``__main__``."""
    return getattr(f, "__globals__", None) is vars(sys.modules["__main__"])
