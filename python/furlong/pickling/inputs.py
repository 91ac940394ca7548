"""Arguments that engines get from the cluster: results of tasks, and what a client shares.

In a call's pickle stands what engines make the value of, and beside the call the tasks that have it.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong.errors import PicklingError
from furlong.pickling.engine_names import EngineName

if TYPE_CHECKING:
    from furlong import _furlong

__all__ = [
    "Input",
    "InputMetError",
    "Inputs",
    "Pins",
    "Taken",
    "is_pinned",
    "reduce_input",
    "reduced_list",
    "reduced_value",
]


class InputMetError(PicklingError):
    """Something that stands for a value at the cluster was met where there can be none, or none was expected."""


class Input:
    """The base of what stands for a value at the cluster, where it is an argument."""

    __slots__ = ()

    def _reduced(self, inputs: Inputs) -> tuple[Any, ...]:
        """Return what engines make the value of, and note which tasks have it."""
        raise NotImplementedError

    def _parts_to_hold(self) -> Sequence[Any]:
        """Return the parts of results whose values these are, as far as they are known."""
        return ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse any other pickle: none of it outlives the session."""
        raise PicklingError(
            f"{self!r} stands for a value at the cluster, and has no pickle; pass it as an argument of a call, or "
            "pickle its value"
        )


class _Now(threading.local):
    """The purpose for which this thread pickles."""

    pins: Pins | None = None


_now = _Now()


class Pins:
    """Values at the cluster that a call needs which may be submitted again, or bit by bit.

    They stay there for as long as this does, whoever lets go of them meanwhile.
    """

    def __init__(self) -> None:
        self._holds: dict[Any, Sequence[object]] = {}

    def add(self, parts: Iterable[Any]) -> None:
        """Hold what these parts of results hold."""
        others = _now.pins
        for part in parts:
            # Of what was let go, what the call has that this one is a part of.
            holds = part.holds() or (others and others._holds.get(part))
            if holds:
                self._holds[part] = holds

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Within this, what is held here can be an argument, even if it was let go."""
        return self._in_use() if self._holds else contextlib.nullcontext()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        before, _now.pins = _now.pins, self
        try:
            yield
        finally:
            _now.pins = before

    def has(self, part: object) -> bool:
        """Return whether the value of a part of a result is held."""
        return part in self._holds


def is_pinned(part: object) -> bool:
    """Return whether what is pickled now is for a call that holds the value of a part of a result."""
    return _now.pins is not None and _now.pins.has(part)


class Taken:
    """The value of a task, as engines get it: each call its own, or one for all if it is shared."""

    def __init__(self, place: int, is_shared: bool) -> None:
        self.place = place
        self._name = EngineName("shared_value" if is_shared else "taken")

    def __reduce__(self) -> tuple[Any, ...]:
        return self._name, (self.place,)


# Stands for no list; nobody writes to it.
_NONE: list[Any] = []


class Inputs:
    """The tasks whose values a call gets from the cluster, each once, in the order of their places.

    Attributes
    ----------
    ids : list of str
        The tasks.
    failed : list of str
        Tasks that have failed: the call will fail because of them.
    owners : list
        The parts of results that all of these are.
    holds : int
        What the values hold besides data, as far as it is known.
    shares : bool
        Whether what is noted now is one value for all calls.
    """

    # One is made for each call: what few need is made when it is needed.
    ids: list[str] = _NONE
    failed: list[str] = _NONE
    owners: list[Any] = _NONE
    holds = 0
    shares = False
    #: The types of objects for which something else may go, where a call sends large ones once.
    replaceable: frozenset[type] = frozenset()
    # By the task, and whether its value is shared. It is replaced before it is written to.
    _taken: dict[tuple[str, bool], Taken] = {}  # noqa: RUF012
    _session: object = None

    def take(self, task: _furlong.Task, session: _furlong.Session, owner: object) -> Taken:
        """Return what stands for the value of a task.

        Raises
        ------
        PicklingError
            If another client has submitted it than those before.
        """
        key, shares = task.id, self.shares
        taken = self._taken.get((key, shares))
        if taken is None:
            self.check(session)
            if self.ids is _NONE:
                self.ids, self._taken = [], {}
            other = self._taken.get((key, not shares))
            if other is None:
                self.ids.append(key)
                self._own(owner)
            place = len(self.ids) - 1 if other is None else other.place
            taken = self._taken[key, shares] = Taken(place, shares)
        return taken

    def stand_in(self, value: Any) -> Input | None:
        """Return what goes in the place of an object of such a type; None if it goes itself."""
        raise NotImplementedError

    @contextlib.contextmanager
    def sharing(self) -> Iterator[None]:
        """Within this, what is noted is one value for all calls."""
        before, self.shares = self.shares, True
        try:
            yield
        finally:
            self.shares = before

    def fail(self, task: _furlong.Task, owner: object) -> None:
        """Note that a task has failed."""
        if self.failed is _NONE:
            self.failed = []
        self.failed.append(task.id)
        self._own(owner)

    def _own(self, owner: object) -> None:
        if self.owners is _NONE:
            self.owners = []
        self.owners.append(owner)

    def check(self, session: _furlong.Session) -> None:
        """Check that the tasks are of the session that is to submit the call.

        Raises
        ------
        PicklingError
            If they are not.
        """
        if self._session not in (None, session):
            raise PicklingError(
                "an argument is the result of another client, which is pending or stays at the cluster: "
                "pass its value, `result.get()`"
            )
        self._session = session


def reduce_input(value: Input, inputs: Inputs | None) -> tuple[Any, ...]:
    """Reduce an argument that stands for a value at the cluster.

    Raises
    ------
    InputMetError
        If nothing notes the tasks.
    """
    if inputs is None:
        raise InputMetError(
            f"{value!r} can be an argument of a call, or in one, but no part of a function or of what is shared: "
            "pass it as an argument, or its value"
        )
    return value._reduced(inputs)


def reduced_value(value: object) -> tuple[Any, ...]:
    """Reduce something to a value in its place."""
    return _FIRST, ((value,),)


def reduced_list(values: Sequence[object]) -> tuple[Any, ...]:
    """Reduce something to a list in its place."""
    return list, (tuple(values),)


_FIRST = operator.itemgetter(0)
