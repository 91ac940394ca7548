"""Exceptions of engines as the library that called expects them: of the very class that was raised there."""

from __future__ import annotations

import builtins
from typing import Any

from furlong.errors import RemoteError

__all__ = ["exit_of", "original_of"]

# Attributes that a `RemoteError` has besides those of the exception it stands for.
_OWN = frozenset(("ename", "evalue", "traceback", "_engine_info", "_details", "not_carried"))


def original_of(error: BaseException) -> BaseException:
    """Return the exception that was raised on the engine: its class, arguments, attributes and causes.

    Its constructor is not called. An error of the farm, or of a class that is not known here, is returned as it is.
    """
    cls = _class_of(error)
    if cls is None:
        return error
    try:
        made: Any = cls.__new__(cls, *error.args)
        made.args = error.args
    except Exception:  # its `__new__` wants what is not among the arguments
        return error
    vars(made).update((name, value) for name, value in vars(error).items() if name not in _OWN)
    _copy_slots(error, made, cls)
    made.__cause__, made.__context__ = error.__cause__, error.__context__
    made.__suppress_context__ = error.__suppress_context__
    return made  # type: ignore[no-any-return]


def exit_of(error: RemoteError) -> BaseException | None:
    """Return what was raised if it is one of Python's own that a `RemoteError` is not: `SystemExit`, `StopIteration`.

    For callers that expect what a process of this machine would have raised in them.
    """
    cls = getattr(builtins, error.ename, None)
    if not isinstance(cls, type) or not issubclass(cls, BaseException) or isinstance(error, cls):
        return None
    if issubclass(cls, Exception) and not issubclass(cls, (StopIteration, StopAsyncIteration)):
        return None
    try:
        made: BaseException = cls(*error.args)
    except TypeError:  # a group, whose members are not among its arguments
        return None
    made.__cause__ = error
    return made


def _class_of(error: BaseException) -> type[BaseException] | None:
    """Return the class beside `RemoteError`; None if the error is one of the farm's own."""
    if not isinstance(error, RemoteError) or not hasattr(type(error), "_furlong_base"):
        return None
    bases: Any = type(error).__bases__
    found = [base for base in bases if not issubclass(base, RemoteError)]
    return found[0] if len(found) == 1 else None


def _copy_slots(error: BaseException, made: BaseException, cls: type[BaseException]) -> None:
    for base in cls.__mro__:
        if base in (BaseException, object):
            continue
        for name, member in vars(base).items():
            if type(member).__name__ in ("member_descriptor", "getset_descriptor"):
                try:
                    setattr(made, name, getattr(error, name))
                except (AttributeError, TypeError):  # read-only, or not set
                    continue
