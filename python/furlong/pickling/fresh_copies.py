"""Values that engines make anew at each use, so that no call meets what another one has changed in its arguments.

Within one pickle, what is the same object here is one object there. That is right for one call. Items of a map are
arguments of calls of their own, and how many of them share a task must not show; so items that may have a list, say, in
common go each in a pickle of its own. Likewise a bound method, or an object that can be called, takes its object along
as it is here, for each call.

What makes pickles large or slow is still sent once: definitions that go by value, items that are the same, and memory.
"""

from __future__ import annotations

import collections
import functools
import io
import itertools
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from furlong.calls.checks import is_array
from furlong.errors import PicklingError
from furlong.pickling.engine_names import Apart, EngineFunction, EngineName
from furlong.pickling.inputs import Input, reduce_input
from furlong.pickling.plain import CACHED, NAMED, NeedsCodeError, PlainPickler
from furlong.waiting import signals

# Smaller buffers are cheaper inside the pickle.
OUT_OF_BAND_BYTES_MIN = 4096
# So deep are items looked into; what is deeper is taken apart unseen.
DEPTH_MAX = 4
_HEAP_TYPE = 1 << 9  # of a type's flags: made by a `class` statement, or by C as such are

# What no call changes.
_ATOMS = frozenset(
    (
        *(
            int,
            float,
            complex,
            bool,
            str,
            bytes,
            range,
            slice,
            type(None),
            type(...),
            type(NotImplemented),
            re.Pattern,
        ),
        *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType),
    )
)
_MODULES_OF_ATOMS = frozenset(
    ("datetime", "decimal", "fractions", "ipaddress", "pathlib", "uuid", "zoneinfo")
)
_SEQUENCES = frozenset((list, tuple, set, frozenset, collections.deque))


# Items.


def may_share(columns: Sequence[Any]) -> list[bool]:
    """Return which columns have items that may share something which a call can change."""
    nothing = [False] * len(columns)
    if not columns or len(columns[0]) < 2:
        return nothing
    is_open = are_open(columns)
    if not any(is_open) or _are_apart(list(itertools.compress(columns, is_open))):
        return nothing
    return is_open


def _is_of_atoms(column: Any) -> bool:
    if isinstance(column, range | str | bytes):
        return True
    if _is_of_numbers(column):
        return True
    return all(map(_is_atom, set(map(type, column))))


def _is_of_numbers(value: Any) -> bool:
    """Return whether it is an array that holds all of its values itself."""
    return (
        is_array(value)
        and type(value) is sys.modules["numpy"].ndarray
        and not value.dtype.hasobject
    )


def _is_atom(kind: type) -> bool:
    if kind in _ATOMS or issubclass(kind, type) or kind.__module__ in _MODULES_OF_ATOMS:
        return True
    return kind.__module__ == "numpy" and issubclass(kind, sys.modules["numpy"].generic)


def _are_apart(holders: Sequence[Iterable[Any]]) -> bool:
    """Return whether what these hold can be seen to have nothing in common that a call can change."""
    for _ in range(DEPTH_MAX):
        kinds = {
            kind
            for kind in set(map(type, itertools.chain.from_iterable(holders)))
            if not _is_atom(kind)
        }
        if not kinds:
            return True
        held = [value for value in itertools.chain.from_iterable(holders) if type(value) in kinds]
        if len(set(map(id, held))) < len(held):
            return False
        holders = []
        for value in held:
            kind = type(value)
            if kind in _SEQUENCES:
                holders.append(value)
            elif kind is dict:
                holders += (value, value.values())
            elif kind is not bytearray and not _is_of_numbers(value):
                return False
    return False


def are_open(columns: Sequence[object]) -> list[bool]:
    """Return which columns have items that can change."""
    return [not _is_of_atoms(column) for column in columns]


class Rows:
    """Rows of items as they are now, for tasks that are submitted later.

    Parameters
    ----------
    rows : sequence of tuple
        The rows. Arrays in them are not copied.
    begin : int
        The place of the first in its map.
    """

    def __init__(self, rows: Sequence[tuple[object, ...]], begin: int) -> None:
        self.begin = begin
        self._encoder = _Encoder()
        known: dict[tuple[int, ...], int] = {}
        self._cells = [self._encoder.place(row, known) for row in rows]

    @property
    def is_whole(self) -> bool:
        """True if all that is in them is pickled, but for definitions."""
        return not self._encoder.has_whole

    def parts_to_hold(self) -> list[Any]:
        """Return the parts of results whose values at the cluster are in them."""
        return [part for value in self._encoder.inputs for part in value._parts_to_hold()]

    def among(self, places: Iterable[int]) -> Apart:
        """Return some of them, by their places in the map."""
        return self._encoder.result([self._cells[place - self.begin] for place in places])


# Functions.


class _Anew:
    """A function that engines make anew for each call."""

    def __init__(self, function: Apart) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineName("Anew"), (self._function,)


def function_anew(function: object) -> Any:
    """Return a stand-in for a function that takes an object along; the function itself, if it takes none."""
    if not holds_object(function):
        return function
    encoder = _Encoder()
    apart = encoder.result([encoder.place((function,), {})])
    for value in apart.inputs.values():
        reduce_input(value, None)  # type: ignore[arg-type]  # it says what is wrong
    return _Anew(apart)


def holds_object(function: object) -> bool:
    """Return whether a function is bound to an object, or is an object that can be called, and not just code."""
    while isinstance(function, functools.partial):
        function = function.func
    kind = type(function)
    if kind in (types.MethodType, types.BuiltinFunctionType):
        owner = getattr(function, "__self__", None)
        return not isinstance(owner, types.ModuleType) and not _is_atom(type(owner))
    if kind is types.FunctionType or issubclass(kind, type) or kind is CACHED:
        return False
    return bool(kind.__flags__ & _HEAP_TYPE) and str(kind.__module__).partition(".")[0] != "furlong"


# Pickles.


class _Whole:
    """Stands for what only cloudpickle may be able to pickle: it is pickled with the definitions, and shared."""

    def __init__(self, value: object) -> None:
        self.value = value


class _Encoder:
    """Makes what `Apart` is made of."""

    def __init__(self) -> None:
        # What all pickles refer to: definitions that go by value.
        self._shared: list[object] = []
        self._shared_at: dict[int, int] = {}
        # Large memory beside the pickles.
        self._memory: list[memoryview] = []
        self._memory_at: dict[tuple[int, int, bool], int] = {}
        self._pickles: list[tuple[bytes, tuple[int, ...]]] = []
        self._beside: list[int] = []
        # What is at the cluster, and the pickles that have some of it.
        self.inputs: list[Input] = []
        self._inputs_at: dict[int, int] = {}
        self._inputs_of: dict[int, tuple[int, ...]] = {}
        self._inputs_met: list[int] = []
        self._has_modules = False
        self.has_whole = False
        self._make: Callable[..., PlainPickler] = PlainPickler
        self._pickler: PlainPickler | None = None
        self._file = io.BytesIO()

    def result(self, cells: list[int]) -> Apart:
        """Return the pickle: `cells` has for each value the place of its pickle."""
        self._pickler = None  # it holds what it has pickled last, and this
        # Only what these have, by other places.
        at: dict[int, int] = {}
        memory_at: dict[int, int] = {}
        for cell in cells:
            if cell not in at:
                at[cell] = len(at)
                for place in self._pickles[cell][1]:
                    memory_at.setdefault(place, len(memory_at))
        pickles = [self._pickles[cell] for cell in at]
        pickles = [(data, tuple(memory_at[place] for place in beside)) for data, beside in pickles]
        memory = [pickle.PickleBuffer(self._memory[place]) for place in memory_at]
        numbers = [number for cell in at for number in self._inputs_of.get(cell, ())]
        return Apart(
            (self._shared, pickles, memory, [at[cell] for cell in cells]),
            self._has_modules,
            {number: self.inputs[number] for number in numbers},
        )

    def place(self, row: tuple[object, ...], known: dict[tuple[int, ...], int]) -> int:
        """Return the place of a row's pickle, which is made unless it is known."""
        key = tuple(map(id, row))
        at = known.get(key)
        if at is None:
            at = known[key] = len(self._pickles)
            self._pickles.append((self._dump(row), tuple(self._beside)))
            if self._inputs_met:
                self._inputs_of[at] = tuple(self._inputs_met)
        return at

    def _dump(self, value: object) -> bytes:
        self._beside.clear()
        self._inputs_met.clear()
        self._file.seek(0)
        self._file.truncate()
        if self._pickler is None:
            self._pickler = self._make(self._file, 5, buffer_callback=self._take_buffer)
        pickler = self._pickler
        pickler.clear_memo()
        try:
            pickler.dump(value)
        except NeedsCodeError:
            self._make, self._pickler = self._defining, None
            return self._dump(value)
        except Exception as error:
            signals.reraise(error)
            # It met what is at the cluster.
            if isinstance(error, PicklingError) and type(pickler) is PlainPickler:
                self._make, self._pickler = self._defining, None
                return self._dump(value)
            if type(value) is _Whole:
                raise
            self._make, self._pickler, self.has_whole = self._defining, None, True
            return self._dump(_Whole(value))
        self._has_modules = self._has_modules or pickler.has_modules
        return self._file.getvalue()

    def _defining(self, *args: object, **kwargs: object) -> PlainPickler:
        return _DefiningPickler(self.share, self.meet, *args, **kwargs)

    def meet(self, value: Input) -> tuple[int]:
        """Return the number of what is at the cluster."""
        number = self._inputs_at.setdefault(id(value), len(self.inputs))
        if number == len(self.inputs):
            self.inputs.append(value)
        self._inputs_met.append(number)
        return (number,)

    def share(self, value: object) -> int:
        """Return the place of what all pickles refer to."""
        at = self._shared_at.get(id(value))
        if at is None:
            at = self._shared_at[id(value)] = len(self._shared)
            self._shared.append(value)
        return at

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES_MIN:
            return True
        owner: object = view.obj
        # Of a part of it there may be others of the same length.
        is_all = getattr(owner, "nbytes", None) == view.nbytes or (
            isinstance(owner, bytes | bytearray) and len(owner) == view.nbytes
        )
        key = id(owner) if is_all else id(view), view.nbytes, view.readonly
        at = self._memory_at.get(key)
        if at is None:
            at = self._memory_at[key] = len(self._memory)
            self._memory.append(view)
        self._beside.append(at)
        return False


class _DefiningPickler(PlainPickler):
    """Refers to what goes by value, which is pickled once beside the values, and to what is at the cluster."""

    def __init__(
        self,
        share: Callable[[Any], int],
        meet: Callable[[Input], tuple[int]],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._share, self._meet = share, meet

    def persistent_id(self, obj: Any) -> int | tuple[int] | None:
        """Return the place of what is not pickled here, or the number of what is at the cluster."""
        kind = type(obj)
        if kind is _Whole:
            return self._share(obj.value)
        if isinstance(obj, Input):
            return self._meet(obj)
        if kind in _DEFINITIONS or issubclass(kind, type) or kind in NAMED:
            try:
                self.reducer_override(obj)
            except NeedsCodeError:
                return self._share(obj)
        return None


_DEFINITIONS = frozenset((types.FunctionType, types.ModuleType, CACHED, EngineFunction))
