"""Sequences: how they are dealt into parts, and how parts, or the values of a map, become one again."""

from __future__ import annotations

import array
import functools
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from furlong.calls.checks import is_array
from furlong.results.staying import ClusterResult

__all__ = ["array_or_list", "can_be_cut", "collect", "deal", "flattened", "is_array", "items_of"]


def can_be_cut(seq: object) -> bool:
    """Return whether slices of it are parts of it, of its own kind; a deque has places and no slices.

    Raises
    ------
    TypeError
        For the result of one task, which is no sequence.
    """
    if isinstance(seq, ClusterResult) and seq._single:
        raise TypeError(
            f"{type(seq).__name__} of one task has no items: give its value, `get()`, or a list that has it as an item"
        )
    if not (hasattr(seq, "__len__") and hasattr(seq, "__getitem__")) or isinstance(seq, Mapping):
        return False
    try:
        _by_places(seq)[:0]
    except (TypeError, LookupError):
        return False
    return True


def _by_places(seq: object) -> Any:
    """Return what finds items by their places: data frames and series find them by labels."""
    return getattr(seq, "iloc", seq)


def flattened(part: Any) -> Any:
    """Return the item of a part that has one, a row of an array or of a data frame; any other part as it is."""
    return _by_places(part)[0] if len(part) == 1 else part


def deal(seq: Iterable[object], count: int, dist: str = "b") -> list[Any]:
    """Deal a sequence into parts.

    Parameters
    ----------
    seq : iterable
        What can be sliced stays of its kind; the others become lists.
    count : int
        How many parts.
    dist : {"b", "r"}
        Contiguous blocks, the first ones longer by one where they cannot be equal; or one item each in turn.
    """
    if dist not in ("b", "r"):
        raise ValueError(f"dist is 'b', blocks, or 'r', round-robin, not {dist!r}")
    if isinstance(seq, range) or not can_be_cut(seq):
        seq = list(seq)
    cut = _by_places(seq)
    if dist == "r":
        return [cut[part::count] for part in range(count)]
    size, longer = divmod(len(seq), count)  # type: ignore[arg-type]
    parts, begin = [], 0
    for part in range(count):
        end = begin + size + (part < longer)
        parts.append(cut[begin:end])
        begin = end
    return parts


def items_of(part: Any) -> Sequence[Any]:
    """Return what a part adds to the whole: its items, or itself if it is no list, tuple or array."""
    if isinstance(part, (list, tuple, range, array.array)) or (is_array(part) and part.ndim):
        return part  # type: ignore[no-any-return]
    return [part]


def collect(parts: Sequence[object], dist: str = "b") -> Any:
    """Put parts together again.

    Arrays that differ in nothing but their lengths become an array, other arrays, lists and tuples a list of their
    items. Data frames become one, and so do series. Of anything else, the list has the part itself.

    Between arrays, and between data frames, rows are parts of one; the values of series that are beside single values
    are collected with those. So parts are put together of which some were flattened.
    """
    if dist not in ("b", "r"):
        raise ValueError(f"dist is 'b', blocks, or 'r', round-robin, not {dist!r}")
    parts = _unflattened_frames(_unflattened_arrays(parts))
    if _are_alike(parts):
        return _collect_arrays(parts, dist)
    if _are_frames(parts):
        return _collect_frames(parts, dist)
    columns = [items_of(part) for part in parts]
    if dist == "b":
        return list(itertools.chain.from_iterable(columns))
    missing = object()
    rows = itertools.zip_longest(*columns, fillvalue=missing)
    return [item for row in rows for item in row if item is not missing]


# Arrays.


def _are_alike(parts: Sequence[object]) -> bool:
    """Return whether one array can hold all parts as they are: arrays, perhaps with items that were flattened."""
    if not any(map(is_array, parts)):
        return False
    import numpy

    if not all(isinstance(part, (numpy.ndarray, numpy.generic)) for part in parts):
        return False
    return len({(_kind(part), part.shape[1:]) for part in _filled(parts)}) == 1


def _unflattened_arrays(parts: Sequence[Any]) -> Sequence[object]:
    """Make rows of arrays arrays with one row, if some of the parts are arrays of such rows."""
    arrays = [part for part in parts if is_array(part)]
    ndim = max((part.ndim for part in arrays), default=0)
    shapes = {part.shape[1:] for part in arrays if part.ndim == ndim}
    if ndim < 2 or len(shapes) != 1:
        return parts
    (row,) = shapes
    return [
        part[None] if is_array(part) and part.size and part.shape == row else part for part in parts
    ]


def _filled(parts: Sequence[Any]) -> list[Any]:
    """Leave out the empty ones: code that made one did not know what of."""
    return [part for part in parts if part.shape[:1] != (0,)] or list(parts[:1])


def _kind(value: Any) -> Any:
    """Return an array's type of items; texts are of one type, however long they are."""
    return value.dtype.kind if value.dtype.kind in "US" else value.dtype


def _collect_arrays(parts: Sequence[object], dist: str) -> object:
    import numpy

    masked = sys.modules.get("numpy.ma")
    # Plain NumPy would lose the masks.
    by: Any = (
        masked if masked and any(isinstance(part, masked.MaskedArray) for part in parts) else numpy
    )
    parts = [by.atleast_1d(part) for part in parts]
    whole = by.concatenate(_filled(parts))
    return whole if dist == "b" else whole[_order_in_turn(parts)]


def _order_in_turn(parts: Sequence[Any]) -> object:
    """Return the order that takes one item of each part in turn, from parts that are one behind another."""
    import numpy

    return numpy.argsort(
        numpy.concatenate([numpy.arange(len(part)) for part in parts]), kind="stable"
    )


def array_or_list(values: list[Any]) -> Any:
    """Make an array of values if it holds them as they are, else leave the list.

    That is so if all are scalars or arrays of NumPy of one dtype and shape; or if all are numbers of one of Python's
    types, and NumPy has a type for all of them.
    """
    import numpy

    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= _NUMBERS.keys():
        made = numpy.asarray(values)
        return made if made.dtype.kind in _NUMBERS[kinds.pop()] else values
    # Masked arrays and the like would lose what they are.
    arrays = {numpy.ndarray, numpy.memmap}
    if not all(kind in arrays or issubclass(kind, numpy.generic) for kind in kinds):
        return values
    if len({(_kind(value), value.shape) for value in values}) != 1:
        return values
    return numpy.stack(values) if kinds <= arrays else numpy.asarray(values)


# The kinds of arrays that hold Python's numbers.
_NUMBERS: dict[type, str] = {bool: "b", int: "iu", float: "f", complex: "c"}


# Data frames.


def _are_frames(parts: Sequence[object]) -> bool:
    pandas = sys.modules.get("pandas")
    if pandas is None or not parts:
        return False
    return any(
        all(isinstance(part, kind) for part in parts) for kind in (pandas.DataFrame, pandas.Series)
    )


def _collect_frames(parts: Sequence[object], dist: str) -> object:
    whole = sys.modules["pandas"].concat(parts)
    return whole if dist == "b" else whole.iloc[_order_in_turn(parts)]


def _unflattened_frames(parts: Sequence[Any]) -> Sequence[object]:
    """Make rows data frames between data frames, and series lists or arrays of their values between single values."""
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return parts
    some = [part for part in parts if isinstance(part, pandas.Series)]
    others = [part for part in parts if not isinstance(part, pandas.Series)]
    if not some or not others:
        return parts
    make: Any = None
    if all(map(pandas.api.types.is_scalar, others)):
        make = _values_of
    elif all(isinstance(part, pandas.DataFrame) for part in others):
        columns, types = others[0].columns, others[0].dtypes
        if all(row.index.equals(columns) for row in some):
            make = functools.partial(_frame_of, types=types)
    return (
        parts
        if make is None
        else [make(part) if isinstance(part, pandas.Series) else part for part in parts]
    )


def _values_of(series: Any) -> object:
    """Return what a series holds as its single items come: NumPy's numbers as an array, anything else in a list."""
    import numpy

    is_plain = isinstance(series.dtype, numpy.dtype) and series.dtype.kind in "biufc"
    return series.to_numpy() if is_plain else list(series)


def _frame_of(row: Any, types: object) -> object:
    """Make a data frame of its row, with these types of columns if they hold its values as they are."""
    frame = row.to_frame().T.infer_objects()
    try:
        cast = frame.astype(types)
    except (TypeError, ValueError):
        return frame
    return cast if cast.astype(object).equals(frame.astype(object)) else frame
