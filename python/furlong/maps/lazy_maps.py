"""Lazy maps: items are taken and submitted as values are asked for."""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.pickling.arguments import error_of_item
from furlong.pickling.inputs import Pins
from furlong.results.async_result import AsyncResult, TimedOut
from furlong.results.subtasks import remaining
from furlong.waiting import signals
from furlong.waiting.dispatch import WaitQueue

if TYPE_CHECKING:
    from furlong.pickling.inputs import Input
    from furlong.views.view import View

__all__ = ["LazyMapIterator"]

# The next value is waited for alone for so many seconds; if it takes longer, others go on
# meanwhile.
HEAD_SECONDS = 0.002
# Values that have come and were not asked for: how many there are at most, and how many bytes with
# their items.
UNREAD_MAX = 1024
UNREAD_BYTES_MAX = 64 * 1024 * 1024


class LazyMapIterator(Iterator[Any]):
    """The values of a lazy map. Items are taken and submitted as values are asked for.

    While a value is waited for, others are submitted in the place of those that have ended, up to the bound: one slow
    item keeps no engine idle. To let go of the iterator cancels what it has submitted.
    """

    def __init__(
        self,
        view: View,
        f: Callable[..., Any],
        sequences: Sequence[Iterable[object]],
        ordered: bool,
        max_outstanding: int | str,
        return_exceptions: bool,
        timeout: float | None = None,
        shared: Mapping[str, Input] | None = None,
    ) -> None:
        # What `cancel` looks at comes first: `__del__` calls it whatever has been made.
        self._is_over = False
        self._why: BaseException | None = None
        # In the order of the items: those whose values were not given; and those that may run.
        self._waiting: collections.deque[AsyncResult] = collections.deque()
        self._active: list[AsyncResult] = []
        if not sequences:
            raise TypeError("a map takes a function and at least one sequence of items")
        self._deadline = None if timeout is None else time.monotonic() + timeout
        bound: Any = max_outstanding
        if bound == "auto":
            bound = max(1, len(view))
        if isinstance(bound, bool) or not hasattr(bound, "__index__") or bound < 0:
            raise ValueError(
                f"max_outstanding is a number of items, 0 for no bound, or 'auto', not {max_outstanding!r}"
            )
        self._view, self._f = view._snapshot(), f
        self._shared = shared or {}
        self._pins = Pins()
        self._pins.add(part for value in self._shared.values() for part in value._parts_to_hold())
        self._items = zip(*sequences)
        self._ordered = ordered
        self._bound = operator.index(bound)
        self._errors_in_place = return_exceptions
        self._ends = WaitQueue()
        self._followed: set[int] = set()
        self._unread_bytes = 0
        self._taken = 0
        self._is_exhausted = False

    # Submitting.

    def _submit(self, is_slow: bool = False) -> None:
        """Submit up to the bound.

        If the next value is slow, those that have ended do not count; of a direct view's engines, those that have
        something to do get no more.
        """
        self._prune()
        while not self._is_exhausted and self._has_room(is_slow):
            engine = self._next_engine(is_slow)
            if engine == _NONE_IDLE:
                return
            try:
                item = next(self._items)
            except StopIteration:
                self._is_exhausted = True
                self._shared, self._pins = {}, Pins()
                return
            signals.owned(
                self._view.client._session, functools.partial(self._call_and_note, item, engine)
            )

    def _prune(self) -> None:
        """Take those that have ended off those that may run."""
        active = []
        for result in self._active:
            if result.done():
                self._followed.discard(id(result))
                result._parts[0].settle()
                self._unread_bytes += _bytes_of(result)
            else:
                active.append(result)
        self._active = active

    def _has_room(self, is_slow: bool) -> bool:
        if not self._bound:
            return True
        if not is_slow:
            return len(self._waiting) < self._bound
        unread = len(self._waiting) - len(self._active)
        return (
            len(self._active) < self._bound
            and unread < UNREAD_MAX
            and self._unread_bytes < UNREAD_BYTES_MAX
        )

    def _next_engine(self, idle_only: bool) -> int | None:
        """Choose the engine of a direct view whose turn it is; none for the shared queue."""
        engines = self._view._own_engines()
        if engines is None:
            return None
        turn = self._taken % len(engines)
        if not idle_only:
            return engines[turn]
        busy = {result._parts[0].engine_id for result in self._active}
        return next(
            (engine for engine in engines[turn:] + engines[:turn] if engine not in busy), _NONE_IDLE
        )

    def _call_and_note(self, item: tuple[object, ...], engine: int | None) -> None:
        result = self._call(item, engine)
        # Those that are cancelled are the active ones: it is among them first.
        self._active.append(result)
        self._waiting.append(result)

    def _call(self, item: tuple[object, ...], engine: int | None) -> AsyncResult:
        view = self._view._on(engine)
        at = self._taken
        self._taken += 1
        try:
            with self._pins.in_use():
                result = view.apply_async(self._f, *item, **self._shared)
        except errors.PicklingError as error:
            raise error_of_item(error, item, at) from error.__cause__
        return result

    # Giving.

    def __next__(self) -> Any:
        if isinstance(self._why, TimedOut):
            raise TimedOut(str(self._why))
        if self._why is not None:
            text = f"the map was cancelled when a wait for its value ended: {self._why!r}"
            raise errors.TaskCancelled("TaskCancelled", text)
        if self._is_over:
            raise StopIteration
        try:
            self._submit()
            if not self._waiting:
                raise StopIteration
            result = self._await_next()
        except (StopIteration, errors.PicklingError):
            raise
        except BaseException as error:
            # Whoever reads on is told; nobody may be left to.
            self._why = error
            self.cancel()
            raise
        self._waiting.remove(result)
        self._prune()
        self._unread_bytes -= _bytes_of(result)
        return result.get(return_exceptions=self._errors_in_place)

    def _await_next(self) -> AsyncResult:
        """Wait for the next value: the first one's, or whichever comes first."""
        if self._ordered:
            head = self._waiting[0]
            quick = remaining(self._deadline)
            if head.wait(HEAD_SECONDS if quick is None else min(quick, HEAD_SECONDS)):
                return head
        while True:
            seen = self._ends.changes
            found = self._ended()
            if found is not None:
                return found
            self._submit(is_slow=self._ordered)
            self._follow()
            # One that has ended since it was looked at is not among those that are followed.
            if not self._ends.wait_for(
                functools.partial(self._has_come, seen), remaining(self._deadline)
            ):
                raise TimedOut("the next value has not come in time")

    def _has_come(self, seen: int) -> bool:
        return self._ends.changes != seen or self._ended() is not None

    def _ended(self) -> AsyncResult | None:
        for result in self._waiting:
            if result.done():
                return result
            if self._ordered:
                return None
        return None

    def _follow(self) -> None:
        """Be woken by the ends of those that run."""
        for result in self._active:
            if id(result) not in self._followed:
                self._followed.add(id(result))
                result._parts[0].when_ended(self._ends.notify_all)

    def cancel(self) -> None:
        """Submit nothing more, and end what was submitted."""
        self._is_over = True
        self._shared, self._pins = {}, Pins()
        active, self._active = self._active, []
        self._waiting.clear()
        for result in active:
            for part in result._parts:
                part.task.cancel()

    def __del__(self) -> None:
        """Leave no task that nobody owns."""
        with contextlib.suppress(
            Exception
        ):  # the connection may be closed, or the interpreter may be about to end
            self.cancel()


def _bytes_of(result: AsyncResult) -> int:
    """Count what a result that has ended keeps in memory: its value, and its arguments, which could be sent again."""
    part = result._parts[0]
    return part.spec.nbytes + (0 if part.outcome is None else part.outcome.nbytes)


# Stands for an engine where all have something to do.
_NONE_IDLE = -1
