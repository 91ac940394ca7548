"""Large arrays of calls, which are put at the cluster once and stay there for as long as the caller has them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.client.shared import Shared
from furlong.pickling.arguments import Pickle, dumps
from furlong.pickling.inputs import Input, Inputs

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["LargeArrays"]

# So many values at the cluster has one call at most; further arrays go along with it.
INPUTS_MAX = 256


class LargeArrays:
    """The large arrays of one client's calls.

    The first call that has an array puts it at the cluster; later calls name it. It is let go when nobody else has the
    array any longer, so that no later call can have it, or at `clear`.

    Parameters
    ----------
    client : Client
        Whose session has them.
    nbytes_min : int, optional
        From which size on an array is large; none for no array at all.
    others : LargeArrays, optional
        Those that are at the cluster for longer, and are named from there.
    """

    def __init__(
        self, client: Client, nbytes_min: int | None, others: LargeArrays | None = None
    ) -> None:
        self._client = client
        self._nbytes_min = nbytes_min
        self._others = others
        self._lock = threading.RLock()
        # By the id of the array, which is its own for as long as it is here.
        self._known: dict[int, tuple[Any, Shared]] = {}

    def dumps(self, *args: object) -> Pickle:
        """Pickle the arguments of a call, with what stands for large arrays in their places."""
        return dumps((args, {}), inputs=_Inputs(self))

    def stand_in(self, value: Any) -> Shared | None:
        """Return what stands for an array; None if it is not large."""
        numpy = sys.modules["numpy"]
        with self._lock:
            known = self._known.get(id(value))
        if known is not None:
            return known[1]
        found = None if self._others is None else self._others.find(value)
        if found is not None or not self._is_large(value, type(value) is numpy.memmap):
            return found
        try:
            shared = Shared(self._client, numpy.asarray(value))
        except errors.FurlongError:
            return None  # it goes along, and if there is no room for that, the call says so
        with self._lock:
            self._known[id(value)] = value, shared
        return shared

    def types(self) -> frozenset[type]:
        """Return the types of arrays, as far as anybody here can have one."""
        numpy = sys.modules.get("numpy")
        return frozenset() if numpy is None else frozenset((numpy.ndarray, numpy.memmap))

    def _is_large(self, array: Any, is_file: bool) -> bool:
        if self._nbytes_min is None or array.dtype.hasobject or not array.nbytes:
            return False
        # What is written to a mapped file on an engine would be lost: there it is read-only, and
        # raises.
        return is_file or int(array.nbytes) >= self._nbytes_min

    def find(self, value: object) -> Shared | None:
        """Return what stands for an array that is at the cluster."""
        with self._lock:
            known = self._known.get(id(value))
        return None if known is None else known[1]

    def keep(self, arrays: Iterable[Any]) -> None:
        """Put arrays at the cluster now."""
        for array in arrays:
            if type(array) not in self.types():
                raise TypeError(f"shared are arrays of NumPy, not {array!r}")
            self.stand_in(array)

    def sweep(self) -> None:
        """Let go of those that nobody else has. Calls that were submitted with one still get it."""
        with self._lock:
            lonely = [key for key, entry in self._known.items() if _holders(entry) <= _LONELY]
            gone = [self._known.pop(key) for key in lonely]
        del gone

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            gone, self._known = self._known, {}
        del gone


def _holders(entry: tuple[Any, object]) -> int:
    return sys.getrefcount(entry[0])


# Of an array that only its entry has, and the view of its memory that was sent. If it is fewer some
# day, an array is sent once more than it need be.
_LONELY = _holders((object(), None)) + 1


class _Inputs(Inputs):
    """The inputs of one call that sends large arrays once."""

    def __init__(self, arrays: LargeArrays) -> None:
        self._arrays = arrays
        self.replaceable = arrays.types()

    def stand_in(self, value: Any) -> Input | None:
        """Return what goes in the place of a large array."""
        return self._arrays.stand_in(value) if len(self.ids) < INPUTS_MAX else None
