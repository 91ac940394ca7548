"""The start of maps: sequences become the work of engines, or of the shared queue."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong.calls.checks import described
from furlong.maps.feeders import BalancedFeeder, DirectFeeder, Feeder
from furlong.maps.lazy_maps import LazyMapIterator
from furlong.maps.map_results import AsyncMapResult, MapResult
from furlong.maps.map_subtasks import Work
from furlong.maps.sequences import array_or_list, can_be_cut, collect, deal, is_array
from furlong.pickling.engine_names import EngineName
from furlong.pickling.fresh_copies import function_anew
from furlong.pickling.functions import Pickled, is_conditional, mapped_of, name_of

if TYPE_CHECKING:
    from furlong.client.client import Client
    from furlong.pickling.inputs import Input
    from furlong.views.balanced import LoadBalancedView
    from furlong.views.direct import DirectView
    from furlong.views.view import View

__all__ = ["LazyMapIterator", "collect", "deal"]

# One function for many items.


class _Mapped:
    """A function as tasks call it with many items. Engines have the loop; it takes the items as columns."""

    def __init__(self, f: object, return_exceptions: bool) -> None:
        self._call = functools.partial(EngineName("map_items"), function_anew(f), return_exceptions)

    def __reduce__(self) -> tuple[object, ...]:
        parts: tuple[object, ...] = self._call.__reduce__()  # type: ignore[assignment]
        return parts

    def __call__(self, *columns: object) -> Any:
        raise RuntimeError("it is only called on engines")


def _mapped(view: View, f: Any, return_exceptions: bool) -> Pickled:
    from furlong.pickling.engine_names import (
        EngineFunction,
        OfCaller,
        Reference,
        as_on_engine,
        is_interactive,
    )

    if not callable(f):
        raise TypeError(f"{described(f)} cannot be called")
    f = as_on_engine(f)
    if isinstance(f, EngineFunction | Reference | OfCaller):
        pass
    elif is_interactive(f) or not view._cloudpickle:
        f = EngineFunction(f)
    return mapped_of(f, return_exceptions, _Mapped)


def _columns(sequences: Sequence[Iterable[object]]) -> tuple[list[object], int]:
    """Return sequences of one length, which is that of the shortest."""
    if not sequences:
        raise TypeError("a map takes a function and at least one sequence of items")
    # Series and frames of pandas are mapped over what iterating them gives.
    columns: list[Any] = [
        seq if can_be_cut(seq) and not hasattr(seq, "iloc") else None for seq in sequences
    ]
    lengths = [len(column) for column in columns if column is not None]
    if len(lengths) < len(columns):
        # An endless one beside one that ends is fine.
        bound = min(lengths) if lengths else None
        columns = [
            list(itertools.islice(seq, bound)) if column is None else column
            for seq, column in zip(sequences, columns)
        ]
    count = min(len(column) for column in columns)
    return [_copied(column, count) for column in columns], count


def _copied(column: Any, count: int) -> object:
    """Copy the first items: a list may be changed while the map runs. Arrays are not copied."""
    is_lasting = isinstance(column, (range, tuple, str, bytes)) or is_array(column)
    return column if is_lasting and len(column) == count else column[:count]


def _putter(columns: list[object]) -> Callable[[list[object]], object]:
    """Return what makes the result of the values: an array, if an array was mapped and they all fit into one."""
    return array_or_list if bool(columns) and is_array(columns[0]) else _same


def _same(values: list[object]) -> list[object]:
    return values


def shared_arguments(client: Client, shared: Mapping[str, object]) -> dict[str, Input]:
    """Return the arguments of all calls as what the cluster has: what is not there yet is put there."""
    from furlong.client.shared import as_shared

    if not isinstance(shared, Mapping) or not all(isinstance(name, str) for name in shared):
        raise TypeError(f"shared are names of arguments with their values, not {shared!r}")
    return {name: as_shared(client, value) for name, value in shared.items()}


def _work(
    view: View,
    f: object,
    columns: list[object],
    return_exceptions: bool,
    label: str | None,
    shared: Mapping[str, object] | None,
) -> Work:
    if view.stay and return_exceptions:
        raise ValueError(
            "stay=True and return_exceptions=True contradict each other: values that stay have no exceptions among "
            "them; leave one of them out"
        )
    view = view._snapshot()
    function = _mapped(view, f, return_exceptions)
    info = view._info(name_of(f), "map", label)
    handles = None if shared is None else shared_arguments(view.client, shared)
    work = Work(view, function, info, columns, return_exceptions, handles, is_conditional(f))
    work.options()  # it raises here what is wrong with flags
    return work


def map_direct(
    view: DirectView,
    f: object,
    sequences: Sequence[Iterable[object]],
    return_exceptions: bool,
    label: str | None,
    shared: Mapping[str, object] | None,
) -> Callable[[], AsyncMapResult]:
    """Map over engines, once what is given is called: one contiguous chunk each."""
    columns, count = _columns(sequences)
    engines = view._engines(None)
    work = _work(view, f, columns, return_exceptions, label, shared)
    if view.run_timeout is not None:
        work.isolate()
    feeder = DirectFeeder(work, count, engines)
    return _starting(feeder, columns, True, return_exceptions)


def map_balanced(
    view: LoadBalancedView,
    f: object,
    sequences: Sequence[Iterable[object]],
    chunksize: int | str | None,
    ordered: bool,
    return_exceptions: bool,
    label: str | None,
    shared: Mapping[str, object] | None,
    block: bool,
) -> Callable[[], AsyncMapResult]:
    """Map over the shared queue, once what is given is called. If the call blocks, nobody changes items meanwhile."""
    columns, count = _columns(sequences)
    size = 0 if chunksize is None or chunksize == "auto" else _chunk_items(chunksize)
    work = _work(view, f, columns, return_exceptions, label, shared)
    if size and view.run_timeout is not None:
        work.isolate()
    feeder = BalancedFeeder(
        work, count, size, max(1, len(view)), view.run_timeout, view.keep or view.durable
    )
    return _starting(feeder, columns, ordered, return_exceptions, block)


def _starting(
    feeder: Feeder,
    columns: list[object],
    ordered: bool,
    return_exceptions: bool,
    block: bool = False,
) -> Callable[[], AsyncMapResult]:
    def start() -> AsyncMapResult:
        result = MapResult(
            feeder, _putter(columns), ordered=ordered, errors_in_place=return_exceptions
        )
        feeder.client._note(result)
        try:
            feeder.start()
            if not block:
                feeder.copy_rest()
        except BaseException as error:
            feeder.give_away(error)
            raise
        return result

    return start


def _chunk_items(chunksize: Any) -> int:
    try:
        if isinstance(chunksize, bool):
            raise TypeError
        size = operator.index(chunksize)
    except TypeError:
        raise TypeError(f"chunksize is a number of items, or 'auto', not {chunksize!r}") from None
    if size < 1:
        raise ValueError(f"a chunk has at least one item, not {size}")
    return size
