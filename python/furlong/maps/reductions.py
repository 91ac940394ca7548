"""Results that are combined to one on the engines, as a tree."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from furlong.maps.map_results import AsyncMapResult

if TYPE_CHECKING:
    from furlong.results.async_result import AsyncResult
    from furlong.views.balanced import LoadBalancedView

__all__ = ["reduce_results"]


def reduce_results(
    view: LoadBalancedView, f: Callable[[Any, Any], Any], results: Iterable[Any], fan_in: int
) -> AsyncResult:
    """Submit the tasks that combine results. See `LoadBalancedView.reduce`."""
    if not isinstance(fan_in, int) or fan_in < 2:
        raise ValueError(
            f"`fan_in` is the number of values that a task combines, at least 2: not {fan_in!r}"
        )
    combine = functools.partial(functools.reduce, f)
    # What is between the leaves and the end is nobody's but the next task's.
    inner = view._with({"stay": True, "block": False})
    if isinstance(results, AsyncMapResult):
        level: list[Any] = [inner.apply_async(combine, values) for values in results.split()]
    else:
        level = list(results)
    if not level:
        raise TypeError("reduce() of no results")
    while len(level) > fan_in:
        groups = [level[at : at + fan_in] for at in range(0, len(level), fan_in)]
        level = [
            inner.apply_async(combine, group) if len(group) > 1 else group[0] for group in groups
        ]
    return view.apply_async(combine, level)
