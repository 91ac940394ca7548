"""Names of things on engines, for arguments and functions."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Reference", "interactive"]

F = TypeVar("F", bound=Callable[..., Any])

# The module of the engine's own program that a client's pickles refer to.
ENGINE_MODULE = "furlong_worker"


class _EngineModule:
    """The engine's module, which this process does not have: its pickle imports it there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (ENGINE_MODULE,)


class OnEngine:
    """Something that the engine's own program has, by name: its pickle finds it there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_EngineModule(), self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{self.name} is only there on engines")


class _Call:
    """A call that is made when its pickle is loaded."""

    def __init__(self, function: OnEngine, *args: Any) -> None:
        self._parts = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._parts


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
            raise TypeError(f"a reference is an expression as text, not a {type(name).__name__}")
        self.name = name

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return OnEngine("evaluate"), (self.name,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{self!r} is called on engines: `view.apply({self!r}, ...)`")


class EngineFunction:
    """A function whose global names are those of the engine's namespace."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        import marshal

        f = self.function
        if not isinstance(f, types.FunctionType):
            raise TypeError(f"a {type(f).__name__} has no code that engines could run in their namespace")
        cells = None if f.__closure__ is None else tuple(cell.cell_contents for cell in f.__closure__)
        annotations: dict[str, Any] = {}
        parts = (marshal.dumps(f.__code__), f.__name__, f.__defaults__, f.__kwdefaults__, cells, annotations, f.__doc__)
        return OnEngine("engine_function"), parts


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


def is_interactive(f: Any) -> bool:
    """Whether a function was marked by `interactive`."""
    return bool(getattr(f, "__furlong_interactive__", False))
