"""Values that a client has put at the cluster, for any number of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong
from furlong.calls.codecs import PICKLE
from furlong.calls.task_spec import CallInfo, TaskSpec
from furlong.errors import PicklingError
from furlong.pickling.arguments import dumps
from furlong.pickling.inputs import Input, Inputs
from furlong.results.async_result import AsyncResult
from furlong.results.subtasks import AWAY, SubTask

if TYPE_CHECKING:
    from typing_extensions import Self

    from furlong.client.client import Client

__all__ = ["Shared", "as_shared"]


class Shared(Input):
    """A value that a client has put at the cluster: where it is an argument, the engine has the value.

    Made by ``rc.share(obj)``. The value is sent once; each engine has one object of it, for all calls, whose arrays are
    read-only. It stays at the cluster until `release`, the end of a ``with`` block or the session, or until nobody
    refers to this any longer. Calls and maps that began before still get it.

    Attributes
    ----------
    nbytes : int
        Bytes of the value.
    """

    def __init__(self, client: Client, value: object) -> None:
        made = dumps(value, "what is shared", memory_min=1, of_call=False)
        call = _furlong.Call(_furlong.Function.value(), PICKLE, made.buffers)
        self.nbytes = call.nbytes
        self._holds = made.holds
        self._kind = type(value).__name__
        info = CallInfo(client, "share", stays=True)
        # The call is not kept: nobody runs it again, and it holds the caller's arrays.
        self._part = SubTask(client._session.submit(call), TaskSpec(None, info, _undecoded))

    def release(self) -> None:
        """Let go of the value at the cluster: no later call can have it."""
        self._part.release()

    def _parts_to_hold(self) -> Sequence[SubTask]:
        return (self._part,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "released" if self._part.hold is None else f"{self.nbytes} bytes"
        return f"<{type(self).__name__} {self._kind}: {state}>"

    def _reduced(self, inputs: Inputs) -> tuple[Any, ...]:
        part = self._part
        if not part.is_held():
            raise PicklingError(f"{self!r} cannot be an argument any longer: share the value again")
        if part.poll():
            part.settle()
            if part.error is not None:
                raise PicklingError(f"{self!r} cannot be an argument: {part.error}") from part.error
        inputs.holds |= self._holds
        with inputs.sharing():
            return inputs.take(part.task, part.info.client._session, part).__reduce__()


def _undecoded(_part: SubTask, _outcome: _furlong.Outcome) -> object:
    """Stand for the value, if it is small and came with the end: only engines load it, who know its definitions."""
    return AWAY


def as_shared(client: Client, value: object) -> Input:
    """Return what stands for a value that is one for all calls, and is put at the cluster unless it is there."""
    if isinstance(value, AsyncResult):
        return _SharedResult(client, value)
    return value if isinstance(value, Shared) else Shared(client, value)


class _SharedResult(Input):
    """The value of a result, as one object for all calls of an interpreter.

    A value that has come meanwhile is put at the cluster again, once.
    """

    def __init__(self, client: Client, result: AsyncResult) -> None:
        self._client, self._result = client, result
        self._own: Shared | None = None

    def _reduced(self, inputs: Inputs) -> tuple[Any, ...]:
        result = self._result
        if self._own is None and result.done() and result.successful() and not self._stays():
            self._own = Shared(self._client, result.get())
        if self._own is not None:
            return self._own._reduced(inputs)
        with inputs.sharing():
            return result._reduced(inputs)

    def _parts_to_hold(self) -> Sequence[SubTask]:
        return (self._own or self._result)._parts_to_hold()

    def _stays(self) -> bool:
        # What has come may have been changed here since.
        return self._result._is_away() or self._result.stays is not None

    def __repr__(self) -> str:
        return repr(self._result)
