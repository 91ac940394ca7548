"""The functions that run on engines for other libraries. They import nothing of the client."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Batch", "map_chunk", "prepared", "star"]


class Batch:
    """Runs a batch of joblib's calls, under the name of the first one's function.

    Whoever looks at the farm sees that name, and not that of this class.
    """

    def __init__(self, module: str, qualname: str) -> None:
        self.__module__ = module
        self.__qualname__ = qualname

    def __reduce__(self) -> tuple[object, ...]:
        return Batch, (self.__module__, self.__qualname__)

    def __call__(self, calls: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """Run the batch that joblib has made."""
        # A call within may name the backend, which nobody has imported here.
        sys.modules["joblib"].parallel.BACKENDS.setdefault("furlong", _backend)
        return calls()


def _backend(**options: Any) -> Any:
    from furlong.joblib import FurlongBackend

    return FurlongBackend(**options)


# Of a `functools.partial` of each of these, the last argument is the user's function: `kind_of`
# names that.


def star(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call a function with an item as its arguments."""
    return function(*tuple(arguments))  # whatever is no iterable says so by itself


def map_chunk(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Call a function with each of several items."""
    return list(map(function, items))


# The pools whose initializer has run in this interpreter.
_initialized: set[str] = set()


def prepared(
    pool: str,
    initializer: Callable[..., Any],
    initargs: Sequence[Any],
    function: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a function; before the first one of a pool, its initializer."""
    if pool not in _initialized:
        initializer(*initargs)
        _initialized.add(pool)
    return function(*args, **kwargs)
