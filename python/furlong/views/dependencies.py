"""The needs of tasks: other tasks, modules, engines that fit."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from furlong.calls.checks import described, ids_of
from furlong.errors import UnmetDependency
from furlong.modules import own_modules

__all__ = ["Dependency", "depend", "dependent", "require"]


class Dependency(set):  # type: ignore[type-arg]
    """A condition on other tasks, for the flags ``after`` and ``follow``.

    Parameters
    ----------
    dependencies : result, id, or several of such
        The tasks.
    all : bool
        Whether all must end so, or one is enough.
    success, failure : bool
        Which ends satisfy.

    Raises
    ------
    ValueError
        If no end satisfies.
    """

    def __init__(
        self,
        dependencies: object = (),
        all: bool = True,
        success: bool = True,
        failure: bool = False,
    ) -> None:
        if not (success or failure):
            raise ValueError(
                "neither success nor failure satisfies the dependency: nothing ever does"
            )
        super().__init__(ids_of(dependencies))
        self.all = all
        self.success = success
        self.failure = failure

    def check(self, completed: Iterable[str], failed: Iterable[str] = ()) -> bool:
        """Return whether the condition is met when these tasks have succeeded, and these failed."""
        if not self:
            return True
        met: set[str] = set()
        if self.success:
            met |= set(completed)
        if self.failure:
            met |= set(failed)
        return self <= met if self.all else bool(self & met)

    def unreachable(self, completed: Iterable[str], failed: Iterable[str] = ()) -> bool:
        """Return whether the condition cannot be met any more when these have succeeded, and these failed."""
        if not self:
            return False
        wrong: set[str] = set()
        if not self.success:
            wrong |= set(completed)
        if not self.failure:
            wrong |= set(failed)
        return bool(self & wrong) if self.all else self <= wrong

    def __repr__(self) -> str:
        which = "all" if self.all else "any"
        ends = " or ".join(name for name in ("success", "failure") if getattr(self, name))
        return f"<Dependency on {ends} of {which} of {sorted(self)}>"

    __hash__ = None


def as_condition(tasks: object) -> tuple[list[str], bool, bool, bool] | None:
    """Return what the broker takes: ids, whether one is enough, whether success and failure satisfy."""
    if tasks is None:
        return None
    if isinstance(tasks, Dependency):
        return (list(tasks), not tasks.all, tasks.success, tasks.failure) if tasks else None
    ids = ids_of(tasks)
    return (ids, False, True, False) if ids else None


class dependent:  # noqa: N801 - the name that people know
    """A function with a condition, which is asked on the engine before it runs there.

    Where the condition is false, the task tries another engine.
    """

    is_conditional = True

    def __init__(
        self, _f: Callable[..., Any], _df: Callable[..., Any], /, *args: object, **kwargs: object
    ) -> None:
        for what, given in (("a function", _f), ("a condition", _df)):
            if not callable(given):
                raise TypeError(f"`dependent` takes {what}: {described(given)} cannot be called")
        self.f = _f
        self.df = _df
        self.dargs = args
        self.dkwargs = kwargs
        self.__name__ = getattr(_f, "__name__", "f")
        self.__doc__ = getattr(_f, "__doc__", None)

    def __reduce__(self) -> tuple[object, ...]:
        import functools

        from furlong.pickling.engine_names import EngineName

        call = functools.partial(EngineName("call_if"), self.f, self.df, self.dargs, self.dkwargs)
        return call.__reduce__()  # type: ignore[return-value]

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call it, if the condition is true.

        Raises
        ------
        UnmetDependency
            If it is false.
        """
        if self.df(*self.dargs, **self.dkwargs) is False:
            raise UnmetDependency(f"the condition of {self.__name__} is not met on this engine")
        return self.f(*args, **kwargs)


def depend(
    _wrapped: Callable[..., Any], /, *args: object, **kwargs: object
) -> Callable[[Callable[..., Any]], dependent]:
    """Make a decorator: the function runs only where a condition holds.

    Examples
    --------
    >>> @depend(lambda: sys.platform == "linux")
    ... def f(): ...

    Raises
    ------
    TypeError
        For a condition that cannot be called, and without parentheses.
    """
    hint = "write @depend(condition)"
    if not callable(_wrapped):
        raise TypeError(
            f"`depend` takes a condition, and {described(_wrapped)} cannot be called: {hint}"
        )
    if not args and not kwargs and _is_being_decorated(_wrapped, sys._getframe(1)):
        raise TypeError(
            f"`depend` takes the condition of a function, and then the function: {hint}"
        )
    return _decorator(lambda f: dependent(f, _wrapped, *args, **kwargs), hint)


def _decorator(decorate: Callable[[Any], object], hint: str) -> Callable[[Callable[..., Any]], Any]:
    def checked(f: Callable[..., Any]) -> Any:
        if not callable(f):
            raise TypeError(f"it decorates functions, and {described(f)} cannot be called: {hint}")
        return decorate(f)

    return checked


def _is_being_decorated(f: object, caller: types.FrameType) -> bool:
    """Return whether a function has just been defined by the caller, who has no name for it yet."""
    if not isinstance(f, types.FunctionType) or f.__name__ == "<lambda>":
        return False
    is_defined_here = any(f.__code__ is constant for constant in caller.f_code.co_consts)
    return is_defined_here and not any(f is value for value in caller.f_locals.values())


def require(*objects: object, **mapping: object) -> Callable[[Callable[..., Any]], Any]:
    """Make a decorator: the engine imports these modules, and gets these objects, before the function runs.

    Parameters
    ----------
    *objects : str, module, function or class
        Modules by name or as they are; objects under their own names.
    **mapping
        Objects under the names that are given.

    Raises
    ------
    TypeError
        For something that has no name, and without parentheses.
    """
    hint = "write @require('module')"
    if len(objects) == 1 and not mapping and _is_being_decorated(objects[0], sys._getframe(1)):
        raise TypeError(f"`require` takes what a function needs, and then the function: {hint}")
    modules: list[str] = []
    names: dict[str, object] = {}
    for thing in objects:
        if isinstance(thing, str):
            modules.append(thing)
        elif isinstance(thing, types.ModuleType):
            modules.append(thing.__name__)
        elif hasattr(thing, "__name__"):
            names[thing.__name__] = thing
        else:
            raise TypeError(
                f"`require` takes modules, their names, and things that have a name, not {thing!r}"
            )
    for name, thing in mapping.items():
        if isinstance(thing, types.ModuleType):
            modules.append(thing.__name__)
        else:
            names[name] = thing
    return _decorator(lambda f: _Requires(f, modules, names), hint)


class _Requires:
    """A function, and what it needs in the engine's namespace."""

    is_conditional = True

    def __init__(self, f: Callable[..., Any], modules: list[str], names: dict[str, Any]) -> None:
        self.f = f
        self._modules = modules
        self._names = names
        self.__name__ = getattr(f, "__name__", "f")
        self.__doc__ = getattr(f, "__doc__", None)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.f(*args, **kwargs)

    def __reduce__(self) -> tuple[object, ...]:
        import functools

        from furlong.pickling.engine_names import EngineFunction, EngineName, is_of_main

        f = (
            EngineFunction(self.f)
            if isinstance(self.f, types.FunctionType) and not is_of_main(self.f)
            else self.f
        )
        modules = [own_modules.named(name) for name in self._modules]
        call = functools.partial(EngineName("call_with"), f, modules, self._names)
        return call.__reduce__()  # type: ignore[return-value]
