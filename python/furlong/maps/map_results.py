"""The results of maps: one value or one error for each item, however its tasks were cut."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Any

from furlong import errors
from furlong.maps.feeders import Feeder, cancelled
from furlong.maps.map_subtasks import MapSubTask
from furlong.maps.sequences import items_of
from furlong.pickling.engine_names import EngineName
from furlong.pickling.inputs import Inputs, reduced_value
from furlong.results.async_result import CANCEL_WAIT, AsyncResult, TimedOut
from furlong.results.lazy_future import UNKNOWN
from furlong.results.staying import argument_of
from furlong.results.subtasks import METADATA, SubTask, as_ended, deadline_after, remaining
from furlong.waiting import signals
from furlong.waiting.dispatch import callbacks

__all__ = ["AsyncMapResult", "MapResult"]

Collect = Callable[[list[object]], object]

# Makes a list of the parts of a map.
FLAT = EngineName("flat")


class AsyncMapResult(AsyncResult):
    """The result of a map: the items' values in the order of the items.

    Iterating gives values as they come, in the items' order unless `ordered` is false.
    """

    def __init__(
        self,
        parts: Sequence[SubTask],
        collect: Collect,
        count: int,
        *,
        ordered: bool = True,
        errors_in_place: bool = False,
    ) -> None:
        super().__init__(parts, False)
        self._collect_values = collect
        self._count = count
        self._ordered = ordered
        self._errors_in_place = errors_in_place

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def _assemble(self, values: list[object]) -> object:
        return self._collect_values(values)

    def _reduced(self, inputs: Inputs) -> tuple[Any, ...]:
        if not self.done():
            raise errors.PicklingError(
                f"{self!r} is put together here, so that engines do not get it before it has come: wait for it"
            )
        return reduced_value(self.get())

    def _collect(self, failed: list[errors.FurlongError]) -> errors.FurlongError:
        return failed[0] if len(failed) == 1 else super()._collect(failed)

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool = False,
        return_when: str | None = None,
    ) -> Any:
        """Wait for the list of values. See `AsyncResult.get`."""
        return super().get(timeout, return_exceptions or self._errors_in_place, return_when)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts if self._ordered else as_ended(self._parts):
            part.wait()
            part.settle()
            if part.error is None:
                part.bring()
                yield from items_of(part.value)
            elif self._errors_in_place:
                yield part.error
            else:
                raise part.error

    @property
    def progress(self) -> int:
        """The number of items that have ended, as far as whole chunks have."""
        ended = sum(part.poll() for part in self._parts)
        return (
            self._count
            if ended == len(self._parts)
            else ended * self._count // max(1, len(self._parts))
        )


class MapResult(AsyncMapResult):
    """The result of a map: the items' values in the order of the items.

    Iterating gives values as they come, in the items' order unless `ordered` is false. What is known of the tasks, as
    ``engine_id``, ``stdout`` or ``completed``, has an entry for each item too.
    """

    def __init__(
        self, feeder: Feeder, put: Collect, *, ordered: bool, errors_in_place: bool
    ) -> None:
        super().__init__(
            feeder.parts, put, feeder.count, ordered=ordered, errors_in_place=errors_in_place
        )
        self._feeder = feeder

    # Waiting.

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait for the end. See `AsyncResult.wait`."""
        limit = None if timeout is None or timeout < 0 else timeout
        if return_when is None:
            return self._feeder.wait(limit)
        if return_when == ALL_COMPLETED:
            self._feeder.wait(limit)
        elif return_when in (FIRST_COMPLETED, FIRST_EXCEPTION):
            self._wait_for_one(limit, return_when == FIRST_EXCEPTION)
        else:
            return super().wait(timeout, return_when)  # it says what is wrong
        self._feeder.submit_rest()
        done = list(self._feeder.ended)
        pending = [part for part in list(self._feeder.parts) if part not in done]
        return {self._child(part) for part in done}, {self._child(part) for part in pending}

    def _wait_for_one(self, timeout: float | None, failed: bool) -> None:
        feeder = self._feeder

        def has_come() -> bool:
            return feeder.is_over or any(part.failures or not failed for part in list(feeder.ended))

        feeder.wait_for(has_come, timeout)

    def done(self) -> bool:
        """Return whether all items have ended."""
        return self._feeder.poll()

    def _when_over(self, callback: Callable[[], None]) -> None:
        self._feeder.when_over(functools.partial(callbacks().soon, callback))

    # Values.

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool = False,
        return_when: str | None = None,
    ) -> Any:
        """Wait for the list of values. See `AsyncResult.get`."""
        if self._final is UNKNOWN:
            self._wait_to_get(timeout, return_exceptions, return_when)
        if return_exceptions and self._error is not None and self._unsent_error() is None:
            self._bring(None)
            return self._collect_values(self._outcomes())
        if self._error is not None:
            raise self._error
        return self._final

    def _wait_to_get(
        self, timeout: float | None, return_exceptions: bool, return_when: str | None
    ) -> None:
        deadline = deadline_after(timeout)
        if return_when not in (None, ALL_COMPLETED):
            self._wait_for_first(deadline, return_when, return_exceptions or self._errors_in_place)
        if not self.wait(remaining(deadline)):
            raise TimedOut(f"{self!r} has not ended in time")
        self._settle()
        if self._final is UNKNOWN:
            self._take_values(deadline)

    def _raise_first(self) -> None:
        for part in list(self._feeder.ended):
            if part.error is not None:
                raise part.error

    def _outcomes(self) -> list[object]:
        """Return the values of all items, with errors in the places of those that have failed."""
        feeder = self._feeder
        values: list[object] = []
        for part in feeder.parts:
            values += part.values
        values += [feeder.why_stopped] * len(feeder.unsubmitted)
        return values

    def _unsent_error(self) -> BaseException | None:
        """Return the error that kept items from being submitted, if nobody has stopped the map."""
        why = self._feeder.why_stopped
        return None if isinstance(why, (errors.TaskCancelled, errors.TaskAborted)) else why

    def _settle(self) -> None:
        feeder = self._feeder
        final = None
        try:
            self._error = self._unsent_error()
            if self._error is None:
                failed = [error for part in feeder.parts for error in part.failures.values()]
                if feeder.unsubmitted:
                    failed.append(feeder.why_stopped)  # type: ignore[arg-type]
                if failed and not self._errors_in_place:
                    self._error = self._collect(failed)  # type: ignore[arg-type]
                elif self._is_away():
                    return
                else:
                    final = self._collect_values(self._outcomes())
        except Exception as error:  # who waits is told of this as well
            signals.reraise(error)
            self._error = error
        self._final = final

    def _collect(self, failed: list[errors.FurlongError]) -> errors.FurlongError:
        stopped = [error for error in failed if isinstance(error, errors.TaskCancelled)]
        return stopped[0] if stopped else super()._collect(failed)

    def __iter__(self) -> Iterator[Any]:
        feeder = self._feeder
        at = 0
        while True:
            source: Any = feeder.parts if self._ordered else feeder.ended

            def is_next(source: Any = source, at: int = at) -> bool:
                return at < len(source) and source[at].is_settled or feeder.is_over

            feeder.wait_for(is_next)
            if at >= len(source):
                break
            part = source[at]
            at += 1
            yield from self._given(part)
        if feeder.why_stopped is not None:
            for _ in feeder.unsubmitted:
                if not self._errors_in_place or self._unsent_error() is not None:
                    raise feeder.why_stopped
                yield feeder.why_stopped

    def _given(self, part: MapSubTask) -> Iterator[object]:
        """Return the values of a part that has ended, up to the first that has failed."""
        part.bring()
        if self._errors_in_place or not part.failures:
            yield from part.values
            return
        first, error = next(iter(part.failures.items()))
        yield from part.values[:first]
        raise error

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        values = self.get(return_exceptions=True)
        if self._error is None or self._errors_in_place:
            return values[key]
        failed = self._failed_among(range(self._count)[key])
        if failed:
            raise self._collect(failed)
        return values[key]

    def _failed_among(self, chosen: Any) -> list[Any]:
        places = {chosen} if isinstance(chosen, int) else set(chosen)
        parts = self._feeder.parts
        failed = [
            error
            for part in parts
            for at, error in part.failures.items()
            if part.begin + at in places
        ]
        unsent = self._feeder.unsubmitted
        return failed + [self._feeder.why_stopped for place in places if place in unsent][:1]

    def get_dict(self, timeout: float | None = -1) -> dict[int, Any]:
        """Return the values by engine: for each the list of those of the items that it ran."""
        self.get(timeout)
        found: dict[Any, list[object]] = {}
        for part in self._feeder.parts:
            found.setdefault(part.engine_id, []).extend(part.values)
        return found

    def _reduced(self, inputs: Inputs) -> tuple[Any, ...]:
        if self.done():
            if self._errors_in_place and self._unsent_error() is None:
                return reduced_value(self.get())
            feeder = self._feeder
            if feeder.unsubmitted and not any(part.error for part in feeder.parts):
                raise errors.PicklingError(
                    f"an argument is {self!r}, of which not all items were submitted: {feeder.why_stopped}"
                ) from feeder.why_stopped
        return FLAT, tuple(argument_of(part, inputs) for part in self._all_parts())

    # Cancelling.

    def cancel(self, force: bool = False) -> bool:
        """End the tasks, and submit no more. See `AsyncResult.cancel`."""
        if self.done() and not force:
            return self.cancelled()
        self._feeder.cancel(cancelled(), force)
        self.wait(CANCEL_WAIT)
        return self.cancelled()

    def _give_up(self, is_abort: bool) -> None:
        self._feeder.give_up(is_abort)

    def cancelled(self) -> bool:
        """Return whether the map was cancelled: some items did not run, or not to their end, because of that."""
        if not self.done():
            return False
        if isinstance(self._feeder.why_stopped, errors.TaskCancelled):
            return True
        return any(
            isinstance(error, errors.TaskCancelled)
            for part in self._parts
            for error in _failures(part)
        )

    # What happened.

    def _all_parts(self) -> Sequence[Any]:
        self._feeder.submit_rest()
        return self._parts

    @property
    def progress(self) -> int:
        """The number of items that have ended, as far as whole chunks have."""
        if self.done():
            return self._count
        return sum(part.size for part in list(self._feeder.ended))

    @property
    def elapsed(self) -> float:
        """Seconds from the submit to the end, or to now."""
        return super().elapsed if self._parts else 0.0

    @property
    def serial_time(self) -> float:
        """Seconds that the items ran, added up. See `AsyncResult.serial_time`."""
        self._check_ready()
        return sum(part.run_seconds for part in self._feeder.parts)

    def _metadata(self, name: str) -> object:
        found = list(
            itertools.chain.from_iterable(part.of_items(name) for part in list(self._feeder.parts))
        )
        feeder = self._feeder
        return found + [_unsubmitted(name, feeder.why_stopped)] * len(feeder.unsubmitted)

    @property
    def metadata(self) -> Any:
        """All that is known of the items: a list of dictionaries."""
        columns = [self._metadata(name) for name in METADATA]
        return [dict(zip(METADATA, row)) for row in zip(*columns)]

    def split(self) -> tuple[AsyncResult, ...]:
        """Return a result for each task: the list of its items' values."""
        return tuple(self._child(part) for part in list(self._all_parts()))


# To whoever uses it, it is no other.
MapResult.__name__ = AsyncMapResult.__name__


def _failures(part: Any) -> Sequence[BaseException]:
    return tuple(part.failures.values())


def _unsubmitted(name: str, why: BaseException | None) -> object:
    """Return something of an item that was not submitted."""
    if name == "error":
        return why
    if name == "status" and why is not None:
        return "aborted" if isinstance(why, errors.TaskAborted) else "error"
    return _OF_NOTHING.get(name)


_OF_NOTHING: dict[str, object] = {"stdout": "", "stderr": "", "outputs": [], "data": {}}
