"""Functions that run on engines when they are called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from furlong.calls.checks import described
from furlong.maps.map_results import AsyncMapResult
from furlong.maps.sequences import collect, deal
from furlong.pickling.functions import name_of
from furlong.views.balanced import LoadBalancedView
from furlong.views.view import View

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from furlong.views.flags import CallFlags

__all__ = ["ParallelFunction", "RemoteFunction", "parallel", "remote"]


def remote(
    view: View, block: bool | None = None, **flags: Unpack[CallFlags]
) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """Make a decorator: the function runs on the engines of the view when it is called."""
    _check_is_called("remote", block)
    return lambda f: RemoteFunction(view, f, block, **flags)


def parallel(
    view: View,
    dist: str = "b",
    block: bool | None = None,
    ordered: bool = True,
    chunksize: int | None = None,
    **flags: Unpack[CallFlags],
) -> Callable[[Callable[..., Any]], ParallelFunction]:
    """Make a decorator: the function is called with parts of its sequences, on all engines at once."""
    _check_is_called("parallel", dist)
    return lambda f: ParallelFunction(view, f, dist, block, chunksize, ordered, **flags)


def _check_is_called(name: str, first: object) -> None:
    """Check that a decorator has its parentheses: without them its first argument is the function."""
    if callable(first):
        raise TypeError(f"`{name}` takes flags, and then the function: write @view.{name}()")


class RemoteFunction:
    """A function that runs on the engines of a view.

    Its call gives a value if it blocks, else an `AsyncResult`.
    """

    def __init__(
        self,
        view: View,
        f: Callable[..., Any],
        block: bool | None = None,
        **flags: Unpack[CallFlags],
    ) -> None:
        if not (callable(f) or isinstance(f, str)):
            raise TypeError(f"it decorates functions, and {described(f)} cannot be called")
        functools.update_wrapper(self, f)
        self.__doc__ = f"{type(self).__name__} wrapping:\n{f.__doc__ or ''}"
        self.view = view
        self.func = f
        self.block = block
        self.flags = flags

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it on the engines."""
        block = self.view.block if self.block is None else self.block
        return self.view._with(self.flags)._apply(self.func, args, kwargs, block)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, '__name__', None) or name_of(self.func)}>"


class ParallelFunction(RemoteFunction):
    """A function that is called with parts of its sequences, and whose results are put together.

    Its method `map` calls it with each item instead.
    """

    def __init__(
        self,
        view: View,
        f: Callable[..., Any],
        dist: str = "b",
        block: bool | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        **flags: Unpack[CallFlags],
    ) -> None:
        super().__init__(view, f, block, **flags)
        self.dist = dist
        self.chunksize = chunksize
        self.ordered = ordered

    def __call__(self, *sequences: Iterable[Any]) -> Any:
        """Call it with parts of sequences of equal lengths.

        Raises
        ------
        ValueError
            If the lengths differ.
        """
        columns = [seq if hasattr(seq, "__len__") else list(seq) for seq in sequences]
        if len({len(column) for column in columns}) > 1:  # type: ignore[arg-type]
            raise ValueError("all sequences must have equal length")
        if not columns:
            raise TypeError("a parallel function takes at least one sequence")
        count = len(columns[0])  # type: ignore[arg-type]
        view = self.view._with(self.flags)
        engines = view._own_engines()
        if engines is not None:
            many = len(engines)
        else:
            size = self.chunksize or max(1, -(-count // max(1, len(view) * 2)))
            many = max(1, -(-count // size))
        dealt = [deal(column, many, self.dist) for column in columns]

        def begin() -> AsyncMapResult:
            parts: list[Any] = []
            for at in range(many):
                chunk = [part[at] for part in dealt]
                if len(chunk[0]):
                    one = view if engines is None else view._on(engines[at])
                    parts += one._apply(self.func, chunk, {}, False)._parts
            return AsyncMapResult(
                parts, lambda values: collect(values, self.dist), count, ordered=self.ordered
            )

        return self.view._finish(self.block, begin)

    def map(self, *sequences: Iterable[Any]) -> Any:
        """Call it with each item."""
        if isinstance(self.view, LoadBalancedView):
            return self.view.map(
                self.func,
                *sequences,
                block=self.block,
                chunksize=self.chunksize,
                ordered=self.ordered,
                **self.flags,
            )
        return self.view._with(self.flags).map(self.func, *sequences, block=self.block)
