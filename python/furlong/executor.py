"""Views as executors of `concurrent.futures`."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from furlong.results import AsyncResult
    from furlong.views import View

__all__ = ["ViewExecutor"]


class ViewExecutor(concurrent.futures.Executor):
    """A view as an executor. To shut it down waits for what it has submitted; the engines go on."""

    def __init__(self, view: View) -> None:
        self.view = view
        # What has not ended, and a few that have.
        self._results: collections.deque[AsyncResult] = collections.deque()
        self._is_shut = False

    @property
    def _max_workers(self) -> int:
        return len(self.view)  # type: ignore[arg-type]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call a function, and give its future.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        """
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        result = self.view.apply_async(fn, *args, **kwargs)
        self._results.append(result)
        while self._results and self._results[0].done():
            self._results.popleft()
        return result

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Call a function with each item, lazily.

        Raises
        ------
        TimeoutError
            From the iterator, if a value has not come so many seconds after this call.
        """
        from furlong.maps import LazyMapIterator

        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return LazyMapIterator(self.view, fn, iterables, True, "auto", False, timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; wait for what was submitted, or cancel it. Engines go on."""
        self._is_shut = True
        for result in list(self._results):
            if cancel_futures:
                result.cancel()
            if wait:
                result.wait()
