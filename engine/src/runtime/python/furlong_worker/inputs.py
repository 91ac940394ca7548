"""Inputs of jobs as they came: results of other tasks, and what clients share."""

from __future__ import annotations

import collections
from typing import Any, Sequence

from furlong_worker import Buffer
from furlong_worker.files import KeptFile

# Inputs that are kept; `known.rs` keeps the same list, to know which need not be sent again.
KNOWN_MAX = 64
UNMADE: Any = object()


class Input:
    """A result, by its codec and buffers, or the file in which these lie.

    Attributes
    ----------
    codec : int
        The codec; 0 if there is no value.
    value : object
        The one value of all, once somebody has asked for it.
    """

    def __init__(
        self,
        codec: int,
        buffers: Sequence[Buffer],
        file: KeptFile | None = None,
        unfit_bytes: int | None = None,
    ) -> None:
        self.codec = codec
        self.value = UNMADE
        self._buffers = buffers
        self._file = file
        self._unfit_bytes = unfit_bytes

    def buffers(self, is_shared: bool) -> Sequence[Buffer]:
        """Return memory of its content: the caller's own, to be written to; or read-only, if shared.

        Raises
        ------
        MemoryError
            If there is none.
        """
        if self._unfit_bytes is not None:
            raise _no_room(self._unfit_bytes)
        if self._file is not None:
            try:
                return self._file.map(is_shared)
            except (OSError, MemoryError) as error:
                raise _no_room(self._file.nbytes) from error
        if is_shared:
            return [memoryview(buffer).toreadonly() for buffer in self._buffers]
        return [bytearray(buffer) for buffer in self._buffers]


def _no_room(size: int) -> MemoryError:
    return MemoryError(f"an input has {size} bytes, more than this interpreter can take")


class KnownInputs:
    """The inputs that have come, by their keys; the one that was used last is the last one."""

    def __init__(self) -> None:
        self._known: collections.OrderedDict[int, Input] = collections.OrderedDict()

    def find(self, key: int) -> Input:
        """Find one of which the engine knows that it is here."""
        self._known.move_to_end(key)
        return self._known[key]

    def note(self, key: int, given: Input) -> None:
        """Keep a new one."""
        self._known[key] = given
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def forget(self, key: int) -> None:
        """Let one go."""
        self._known.pop(key, None)
