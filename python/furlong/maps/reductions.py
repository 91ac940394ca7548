"""Results that are combined to one on the engines, as a tree."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from furlong.calls.checks import described
from furlong.maps.map_results import AsyncMapResult
from furlong.pickling.functions import is_conditional

if TYPE_CHECKING:
    from furlong.results.async_result import AsyncResult
    from furlong.views.balanced import LoadBalancedView

__all__ = ["reduce_results"]


def reduce_results(
    view: LoadBalancedView, f: Callable[[Any, Any], Any], results: Iterable[Any], fan_in: int
) -> AsyncResult:
    """Submit the tasks that combine results. See `LoadBalancedView.reduce`."""
    if not callable(f):
        raise TypeError(f"{described(f)} cannot be called")
    what = "`fan_in` is the number of values that a task combines, at least 2"
    try:
        width = operator.index(fan_in)
    except TypeError:
        raise TypeError(f"{what}: not {fan_in!r}") from None
    if width < 2:
        raise ValueError(f"{what}: not {fan_in!r}")
    combine: Any = functools.partial(functools.reduce, f)
    if is_conditional(f):
        combine.is_conditional = True
    # The ids alone: the results would keep the values between the tasks at the cluster.
    ids: list[str] = []

    def submit(values: Any) -> AsyncResult:
        made: AsyncResult = inner.apply_async(combine, values)
        ids.extend(made.msg_ids)
        return made

    # What is between the leaves and the end is nobody's but the next task's.
    inner = view._with({"stay": True, "block": False})
    if isinstance(results, AsyncMapResult):
        level: list[Any] = [submit(values) for values in results.split()]
    else:
        level = list(results)
    if not level:
        raise TypeError("reduce() of no results")
    while len(level) > width:
        groups = [level[at : at + width] for at in range(0, len(level), width)]
        level = [submit(group) if len(group) > 1 else group[0] for group in groups]
    result: AsyncResult = view.apply_async(combine, level)
    result._inner = ids
    return result
