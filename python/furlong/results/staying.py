"""Results whose values are at the cluster: they stay there, or are arguments before they have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.calls.codecs import PICKLE
from furlong.pickling.inputs import (
    Input,
    Inputs,
    Taken,
    reduced_list,
    reduced_value,
)
from furlong.results.subtasks import AWAY, SubTask, deadline_after, first_value, remaining

if TYPE_CHECKING:
    from furlong.calls.task_spec import CallInfo

__all__ = ["ClusterResult", "argument_of"]


class ClusterResult(Input):
    """The part of a result that is about its value at the cluster."""

    __slots__ = ()

    _parts: Sequence[SubTask]
    _single: bool
    # The ids of tasks whose only use is this result. They are cancelled with it, once its own have
    # ended: else these would fail because of them.
    _inner: Sequence[str] = ()

    def _all_parts(self) -> Sequence[SubTask]:
        raise NotImplementedError

    @property
    def stays(self) -> int | None:
        """Bytes of the value at the cluster; None if it does not stay there, or not yet."""
        sizes = [part.stays() for part in self._parts]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None

    def release(self) -> None:
        """Let go of the value at the cluster. Calls that were submitted with it still get it.

        `get` gives it afterwards only if it has given it before.
        """
        for part in self._parts:
            part.release()

    def _parts_to_hold(self) -> Sequence[SubTask]:
        return list(self._parts)

    def _is_away(self) -> bool:
        return any(part.value is AWAY for part in self._parts)

    def _bring(self, timeout: float | None) -> bool:
        """Fetch what has stayed at the cluster, of tasks that have ended; whether it is here in time."""
        deadline = deadline_after(timeout)
        return all(part.bring(remaining(deadline)) for part in list(self._parts))

    def _reduced(self, inputs: Inputs) -> tuple[Any, ...]:
        values = [argument_of(part, inputs) for part in self._all_parts()]
        return reduced_value(values[0]) if self._single else reduced_list(values)


def argument_of(part: SubTask, inputs: Inputs) -> Any:
    """Return what stands for a value in the arguments of a call: itself if it is here, else what engines make it of.

    Raises
    ------
    PicklingError
        If engines cannot get it.
    """
    part.wait_until_fixed()
    if part.poll():
        part.settle()
        if part.error is not None:
            inputs.fail(part.task, part)
            return None
        if part.value is not AWAY and part.stays() is None:
            return part.value
    session, info = part.info.client._session, part.info
    _check(info)
    if info.stays and not part.is_held():
        raise errors.PicklingError(
            f"an argument is a result of {info.name!r} that is no longer at the cluster: it was let go by `release`"
        )
    pieces = part.pieces()
    if len(pieces) > 1:  # each has some of the values, which only clients know to put together
        part.wait()
        part.bring()
        return part.value if part.error is None else argument_of(part, inputs)
    if part.spec.decode not in (None, first_value):
        raise errors.PicklingError(
            f"the result of {info.name!r} is made by its client, so that engines do not get it: pass `result.get()`"
        )
    taken = inputs.take(pieces[0], session, part)
    return taken if part.spec.decode is None else _First(taken)


def _check(info: CallInfo) -> None:
    if not info.owner:
        raise errors.PicklingError(
            "an argument is the result of another session's task: pass its value, `result.get()`"
        )
    if info.method == "execute":
        raise errors.PicklingError(
            "an argument is the result of executed code, which is no value for engines; to wait for it, use the flag "
            "`after`"
        )
    if PICKLE not in info.codecs:
        raise errors.PicklingError(
            f"an argument is the pending result of {info.name!r}, which is no Python function: pass `result.get()`"
        )


class _First:
    """The first of the values of a task that has one."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def __reduce__(self) -> tuple[Any, ...]:
        import operator

        return operator.itemgetter(0), (self._taken,)
