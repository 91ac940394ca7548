"""Methods that wait, for programs with an event loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

__all__ = ["coroutine"]

P = ParamSpec("P")
T = TypeVar("T")


def coroutine(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make the twin of a method that waits: it waits in a thread, and the event loop goes on."""

    @functools.wraps(method)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> T:
        # It takes longer to import than a broker to start, and few need it.
        import asyncio

        return await asyncio.to_thread(method, *args, **kwargs)

    twin.__name__ = method.__name__.removesuffix("_sync")
    return twin
