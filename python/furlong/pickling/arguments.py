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
from furlong.pickling.inputs import InputMetError, Inputs
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
    """A pickled value: the pickle, then the memory that goes beside it; what they hold; what is at the cluster."""

    buffers: list[object]
    holds: int = DATA_ONLY
    inputs: Inputs | None = None


def dumps(
    value: object,
    what: str = "the arguments",
    find: Callable[[], str | None] | None = None,
    inputs: Inputs | None = None,
    memory_min: int = OUT_OF_BAND_BYTES_MIN,
    of_call: bool = True,
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
    inputs : Inputs, optional
        Notes what of it is at the cluster; made if it is needed.
    memory_min : int
        Bytes of memory from which on it goes beside the pickle.
    of_call : bool
        Whether something of it can be at the cluster.

    Raises
    ------
    PicklingError
        If a part of it cannot be pickled; the text names the part.
    """
    buffers: list[object] = [b""]

    def take_buffer(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < memory_min or len(buffers) > BUFFERS_MAX:
            return True
        buffers.append(view)
        return False

    file = io.BytesIO()
    plain = PlainPickler(file, 5, buffer_callback=take_buffer)
    if inputs is not None:
        plain.inputs = inputs
    is_met = False
    try:
        plain.dump(value)
    except NeedsCodeError:
        pass
    except InputMetError:
        # It is not looked at, since that would have its traceback keep the value.
        if not of_call:
            raise
        is_met = True
    except Exception as error:
        signals.reraise(error)
        if isinstance(error, PicklingError):
            raise
        # What plain pickle cannot do, cloudpickle may.
        if not isinstance(error, (pickle.PicklingError, TypeError, AttributeError)):
            raise pickling_error(value, what, error, find) from error
    else:
        buffers[0] = file.getvalue()
        holds = HAS_MODULES if plain.has_modules else DATA_ONLY
        return Pickle(buffers, holds) if inputs is None else _with_inputs(buffers, holds, inputs)
    if is_met:
        return dumps(value, what, find, Inputs(), memory_min)
    from furlong.pickling.code_pickler import code_pickler

    del buffers[1:]
    file = io.BytesIO()
    pickler = code_pickler()(file, 5, buffer_callback=take_buffer)
    pickler.inputs = inputs
    try:
        pickler.dump(value)
    except InputMetError:
        if not of_call:
            raise
        is_met = True
    except Exception as error:
        signals.reraise(error)
        if isinstance(error, PicklingError):
            raise
        raise pickling_error(value, what, error, find) from error
    if is_met:
        return dumps(value, what, find, Inputs(), memory_min)
    buffers[0] = file.getvalue()
    holds = HAS_CODE | HAS_MODULES if pickler.has_modules else HAS_CODE
    return Pickle(buffers, holds) if inputs is None else _with_inputs(buffers, holds, inputs)


def _with_inputs(buffers: list[object], holds: int, inputs: Inputs) -> Pickle:
    is_needed = inputs.ids or inputs.failed
    return Pickle(buffers, holds | inputs.holds, inputs if is_needed else None)


def dumps_call(args: Sequence[object], kwargs: Mapping[str, object]) -> Pickle:
    """Pickle the arguments of a call, like `dumps`."""
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        return Pickle([pickle.dumps((args, kwargs), 5)])
    return dumps((args, kwargs))


def input_ids(arguments: Pickle) -> Sequence[str]:
    """Return the ids of the tasks whose values are among the arguments."""
    inputs = arguments.inputs
    return () if inputs is None else (*inputs.ids, *inputs.failed)


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
    shared: Mapping[str, object] | None = None,
) -> Pickle:
    """Pickle items of a map, one column for each sequence; `first` is the place of the first ones in theirs.

    With `exact`, the engine always tells which of them runs. Items that may share what calls can change go each in a
    pickle of its own, so that each call has its arguments for itself. `copies` are such pickles that were made before.
    All calls have the `shared` arguments.
    """
    kwargs: dict[str, object] = {"exact": True} if exact else {}
    if shared:
        kwargs["shared"] = shared
    inputs = None
    sent = columns
    if copies is None:
        is_apart = fresh_copies.may_share(columns)
        rows = list(zip(*itertools.compress(columns, is_apart), strict=True))
        apart = fresh_copies.Rows(rows, 0).among(range(len(rows))) if rows else None
    else:
        apart, is_apart = copies
    if apart is not None:
        if apart.inputs:
            inputs = Inputs()
            apart = _given(apart, columns, first, inputs)
        kwargs.update(apart=apart, is_apart=is_apart)
        sent = [column for column, alone in zip(columns, is_apart, strict=True) if not alone]
    return dumps((sent, kwargs), "the items", lambda: _find_item(columns, first), inputs)


def _given(apart: Apart, columns: Sequence[Sequence[object]], first: int, inputs: Inputs) -> Apart:
    """Return rows of pickles with what of them is at the cluster, or has come from there since they were made."""

    def dump(value: object) -> tuple[bytes, list[pickle.PickleBuffer], int]:
        made = dumps(value, "the items", lambda: _find_item(columns, first), inputs)
        inputs.holds |= made.holds
        data, *memory = made.buffers
        given = [pickle.PickleBuffer(view) for view in memory]  # type: ignore[arg-type]
        return data, given, made.holds  # type: ignore[return-value]

    return apart.given(dump)


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

    return paths.can(_dump_for_nobody, value)


def _try(value: object) -> None:
    """Pickle a value among arguments, where some of it may be at the cluster."""
    _dump_for_nobody(value, Inputs())


def _dump_for_nobody(value: object, inputs: Inputs | None = None) -> None:
    from furlong.pickling.code_pickler import code_pickler

    pickler = code_pickler()(io.BytesIO(), 5, buffer_callback=lambda _: None)
    pickler.inputs = inputs
    pickler.dump(value)
