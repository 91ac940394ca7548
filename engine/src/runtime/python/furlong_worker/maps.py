"""Functions that a client's pickles call with other functions: for many items, and with what they need."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable, Mapping, Sequence

import furlong_worker
from furlong_worker.errors import describe


def _namespace() -> dict[str, Any]:
    """Give the engine's namespace, as which `__main__` lives."""
    return vars(sys.modules["__main__"])


def map_items(function: Callable[..., Any], with_errors: bool, *columns: Sequence[Any]) -> list[Any]:
    """Call a function with each item: the arguments come as columns of one length.

    With `with_errors`, an exception takes the place of its value, as one that a client can load.
    """
    if not with_errors:
        return [function(item) for item in columns[0]] if len(columns) == 1 else list(map(function, *columns))
    values: list[Any] = []
    for arguments in zip(*columns):
        try:
            values.append(function(*arguments))
        except Exception as error:
            values.append(Failed(error))
    return values


class Failed:
    """An exception in the place of a value. A client loads it as its own kind of error."""

    def __init__(self, error: BaseException) -> None:
        self._parts = tuple(bytes(part).decode("utf-8") for part in describe(error))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as a call of the client's own function."""
        engine = furlong_worker.current_engine().id  # type: ignore[attr-defined]  # users may set the variable
        return ClientFunction("failed"), (*self._parts, engine)


class _ClientModule:
    """A module that only clients have, by the import that loads it there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("furlong._wire",)


class ClientFunction:
    """A function of that module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_: object) -> None:
        """Be what pickle takes for a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_ClientModule(), self._name)


def call_with(
    function: Callable[..., Any], modules: Sequence[str], names: Mapping[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """Import modules into the namespace, and set names there, then call.

    Raises
    ------
    furlong.errors.UnmetDependency
        If a module is not there: another engine may have it.
    """
    variables = _namespace()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UnmetDependency(str(error)) from error
        variables.setdefault(name.partition(".")[0], importlib.import_module(name.partition(".")[0]))
        if "." not in name:
            variables[name] = module
    variables.update(names)
    return function(*args, **kwargs)


def call_if(
    function: Callable[..., Any],
    condition: Callable[..., Any],
    condition_args: Sequence[Any],
    condition_kwargs: Mapping[str, Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call, unless a condition says that this engine is not the right one.

    Raises
    ------
    furlong.errors.UnmetDependency
        If it is false.
    """
    if condition(*condition_args, **condition_kwargs) is False:
        raise UnmetDependency("the task's condition is not met on this engine")
    return function(*args, **kwargs)


class UnmetDependency(Exception):  # noqa: N818 - as clients call it
    """The task is for another engine."""


UnmetDependency.__module__ = "furlong.errors"
