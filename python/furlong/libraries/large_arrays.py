"""Large arrays of calls, which are put at the cluster once and stay there for as long as the caller has them."""

from __future__ import annotations

import sys
import weakref
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

    The first call that has an array puts it at the cluster; later calls name it. It is let go when the array is gone
    here, or at `clear`.

    Parameters
    ----------
    client : Client
        Whose session has them.
    nbytes_min : int, optional
        From which size on an array is large; none for no array at all.
    """

    def __init__(self, client: Client, nbytes_min: int | None) -> None:
        self._client = client
        self._nbytes_min = nbytes_min
        # By the id of the array, which is its own for as long as the reference is alive.
        self._known: dict[int, tuple[weakref.ref[Any], Shared]] = {}

    def dumps(self, *args: object) -> Pickle:
        """Pickle the arguments of a call, with what stands for large arrays in their places."""
        if self._nbytes_min is None:
            return dumps((args, {}))
        return dumps((args, {}), inputs=_Inputs(self))

    def stand_in(self, value: Any) -> Shared | None:
        """Return what stands for a large array; None for anything else."""
        numpy = sys.modules.get("numpy")
        if numpy is None or type(value) not in (numpy.ndarray, numpy.memmap):
            return None
        # What is written to a mapped file on an engine would be lost: there it is read-only, and raises.
        is_file = type(value) is numpy.memmap and value.nbytes > 0
        if self._nbytes_min is None or (value.nbytes < self._nbytes_min and not is_file):
            return None
        if value.dtype.hasobject:
            return None
        key = id(value)
        known = self._known.get(key)
        if known is not None and known[0]() is value:
            return known[1]
        try:
            shared = Shared(self._client, numpy.asarray(value))
        except errors.FurlongError:
            return None  # it goes along, and if there is no room for that, the call says so
        reference = weakref.ref(value, lambda gone: self._forget(key, gone))
        self._known[key] = reference, shared
        return shared

    def keep(self, arrays: Iterable[Any]) -> None:
        """Put arrays at the cluster now."""
        for array in arrays:
            self.stand_in(array)

    def _forget(self, key: int, gone: object) -> None:
        known = self._known.get(key)
        if known is not None and known[0] is gone:
            del self._known[key]

    def clear(self) -> None:
        """Let go of all. Calls that were submitted with one still get it."""
        self._known.clear()


class _Inputs(Inputs):
    """The inputs of one call that sends large arrays once."""

    def __init__(self, arrays: LargeArrays) -> None:
        self._arrays = arrays

    def stand_in(self, value: Any) -> Input | None:
        """Return what goes in the place of a large array."""
        return self._arrays.stand_in(value) if len(self.ids) < INPUTS_MAX else None
