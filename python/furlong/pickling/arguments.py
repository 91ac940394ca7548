"""Arguments as pickles: protocol 5, and code objects where that cannot do.

Plain pickle goes first, in C. It meets a function or class that engines cannot import, of ``__main__`` or made inside a
function, and gives up; then cloudpickle sends it by value. What modules of the user's own define goes by name, and the
modules go along. Memory of arrays, data frames and the like goes beside the pickle and is not copied.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from furlong.errors import PicklingError
from furlong.pickling import fresh_copies
from furlong.pickling.engine_names import Apart
from furlong.pickling.plain import NeedsCodeError, PlainPickler
from furlong.waiting import signals

# Smaller buffers are cheaper inside the pickle, and a payload holds at most 4096 buffers.
OUT_OF_BAND_BYTES_MIN = 4096
BUFFERS_MAX = 4000

# What a pickle holds besides data, as bits. `HAS_CODE`: functions or classes by value, which only
# the same version of Python can read. `HAS_MODULES`: names of modules of the user's own.
DATA_ONLY = 0
HAS_CODE = 1
HAS_MODULES = 2


class Pickle(NamedTuple):
    """A pickled value: the pickle, then the memory that goes beside it; and what they hold."""

    buffers: list[object]
    holds: int = DATA_ONLY


def dumps(
    value: object, what: str = "the arguments", find: Callable[[], str | None] | None = None
) -> Pickle:
    """Pickle a value.

    Parameters
    ----------
    value : object
        What is pickled.
    what : str
        What it is, for the error.
    find : callable, optional
        Says for the error which part it is, if it knows better than a walk through the value.

    Raises
    ------
    PicklingError
        If a part of it cannot be pickled; the text names the part.
    """
    buffers: list[object] = [b""]

    def take_buffer(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES_MIN or len(buffers) > BUFFERS_MAX:
            return True
        buffers.append(view)
        return False

    file = io.BytesIO()
    plain = PlainPickler(file, 5, buffer_callback=take_buffer)
    try:
        plain.dump(value)
    except NeedsCodeError:
        pass
    except Exception as error:
        signals.reraise(error)
        # What plain pickle cannot do, cloudpickle may.
        if not isinstance(error, (pickle.PicklingError, TypeError, AttributeError)):
            raise pickling_error(value, what, error, find) from error
    else:
        buffers[0] = file.getvalue()
        return Pickle(buffers, HAS_MODULES if plain.has_modules else DATA_ONLY)
    from furlong.pickling.code_pickler import code_pickler

    del buffers[1:]
    file = io.BytesIO()
    pickler = code_pickler()(file, 5, buffer_callback=take_buffer)
    try:
        pickler.dump(value)
    except Exception as error:
        signals.reraise(error)
        raise pickling_error(value, what, error, find) from error
    buffers[0] = file.getvalue()
    return Pickle(buffers, HAS_CODE | HAS_MODULES if pickler.has_modules else HAS_CODE)


def dumps_call(args: Sequence[object], kwargs: Mapping[str, object]) -> Pickle:
    """Pickle the arguments of a call, like `dumps`."""
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        return Pickle([pickle.dumps((args, kwargs), 5)])
    return dumps((args, kwargs))


# Types of arguments that need no look.
_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))


def dumps_pushed(values: Mapping[str, object]) -> Pickle:
    """Pickle variables as the arguments of a push, like `dumps`."""
    what = "what is pushed"
    return dumps(((values,), {}), what, lambda: _find(values, what))


def dumps_items(
    columns: Sequence[Sequence[object]],
    first: int,
    exact: bool = False,
    copies: tuple[Apart, list[bool]] | None = None,
) -> Pickle:
    """Pickle items of a map, one column for each sequence; `first` is the place of the first ones in theirs.

    With `exact`, the engine always tells which of them runs. Items that may share what calls can change go each in a
    pickle of its own, so that each call has its arguments for itself. `copies` are such pickles that were made before.
    """
    kwargs: dict[str, object] = {"exact": True} if exact else {}
    sent = columns
    if copies is None:
        is_apart = fresh_copies.may_share(columns)
        rows = list(zip(*itertools.compress(columns, is_apart), strict=True))
        apart = fresh_copies.Rows(rows, 0).among(range(len(rows))) if rows else None
    else:
        apart, is_apart = copies
    if apart is not None:
        kwargs.update(apart=apart, is_apart=is_apart)
        sent = [column for column, alone in zip(columns, is_apart, strict=True) if not alone]
    return dumps((sent, kwargs), "the items", lambda: _find_item(columns, first))


def error_of_item(error: PicklingError, item: Sequence[object], at: int) -> PicklingError:
    """Return the error that `dumps_items` would raise for a call with one item of a map; any other error as it is."""
    found = _find_item([[part] for part in item], at)
    return error if found is None else PicklingError(f"the items cannot be pickled: {found}")


def pickling_error(
    value: object, what: str, error: Exception, find: Callable[[], str | None] | None = None
) -> PicklingError:
    """Make the error of a value that cannot be pickled, which names the part of it that cannot."""
    if isinstance(error, RecursionError):
        return PicklingError(f"{what} cannot be pickled: nested too deeply")
    name = "arguments" if what == "the arguments" else what.removeprefix("the ")
    found = (find and find()) or _find(value, name)
    return PicklingError(f"{what} cannot be pickled: {found}")


def _find(value: object, name: str) -> str | None:
    from furlong.shared import paths

    return paths.find(value, name, _try)


def _find_item(columns: Sequence[Sequence[object]], first: int) -> str | None:
    from furlong.shared import paths

    return paths.find_item(columns, first, _try)


def can_pickle(value: object) -> bool:
    """Return whether there is any way to pickle a value."""
    from furlong.shared import paths

    return paths.can(_try, value)


def _try(value: object) -> None:
    from furlong.pickling.code_pickler import code_pickler

    code_pickler()(io.BytesIO(), 5, buffer_callback=lambda _: None).dump(value)
