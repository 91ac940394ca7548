"""Maps: how sequences are dealt to engines, and their results put together."""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _pickling, errors
from furlong._checks import described
from furlong._dispatch import callbacks
from furlong._remote import OnEngine
from furlong._sequences import array_or_list, can_be_cut, collect, deal, is_array
from furlong.parts import About, Part
from furlong.results import AsyncMapResult, AsyncResult, TimedOut

if TYPE_CHECKING:
    from furlong.direct import DirectView
    from furlong.views import LoadBalancedView, View

__all__ = ["LazyMapIterator", "collect", "deal"]

# The time that a chunk of a balanced map is meant to take, in seconds: far more than what a task costs, and short
# enough that engines end together.
CHUNK_SECONDS = 0.02
# How much larger than the one before a chunk may be.
GROWTH = 16
# Chunks that each engine has or will have next.
CHUNKS_AHEAD = 3
CHUNK_ITEMS_MAX = 65_536
# Bytes of items, or of values, that a chunk has at most, unless one has more.
CHUNK_BYTES = 4 * 1024 * 1024


# One function for many items.


class _Mapped:
    """A function as tasks call it with many items. Engines have the loop; it takes the items as columns."""

    def __init__(self, f: Any, return_exceptions: bool) -> None:
        self._call = functools.partial(OnEngine("map_items"), f, return_exceptions)

    def __reduce__(self) -> tuple[Any, ...]:
        parts: tuple[Any, ...] = self._call.__reduce__()  # type: ignore[assignment]
        return parts

    def __call__(self, *columns: Any) -> Any:
        raise RuntimeError("it is only called on engines")


def _mapped(view: View, f: Any, return_exceptions: bool) -> tuple[Any, int]:
    from furlong._remote import EngineFunction, Reference, is_interactive

    if not callable(f):
        raise TypeError(f"{described(f)} cannot be called")
    if isinstance(f, EngineFunction | Reference):
        pass
    elif is_interactive(f) or not view._cloudpickle:
        f = EngineFunction(f)
    return _pickling.mapped_of(f, return_exceptions, _Mapped)


def _columns(sequences: Sequence[Iterable[Any]]) -> tuple[list[Any], int]:
    """Give sequences of one length, which is that of the shortest."""
    if not sequences:
        raise TypeError("a map takes a function and at least one sequence of items")
    # Series and frames of pandas are mapped over what iterating them gives.
    columns: list[Any] = [seq if can_be_cut(seq) and not hasattr(seq, "iloc") else None for seq in sequences]
    lengths = [len(column) for column in columns if column is not None]
    if len(lengths) < len(columns):
        # An endless one beside one that ends is fine.
        bound = min(lengths) if lengths else None
        columns = [
            list(itertools.islice(seq, bound)) if column is None else column for seq, column in zip(sequences, columns)
        ]
    count = min(len(column) for column in columns)
    return [column if len(column) == count else column[:count] for column in columns], count


def _putter(columns: list[Any]) -> Callable[[list[Any]], Any]:
    """Say how the values of chunks become the result: an array, if an array was mapped and they all fit into one."""
    join = array_or_list if bool(columns) and is_array(columns[0]) else list

    def put(chunks: list[Any]) -> Any:
        return join(list(itertools.chain.from_iterable(_chunk_values(chunks))))

    return put


def _chunk_values(chunks: list[Any]) -> Iterator[Any]:
    """Give the values of each chunk; an exception in the place of a chunk stands for its items."""
    for chunk in chunks:
        yield [chunk] if isinstance(chunk, BaseException) else chunk


def map_direct(
    view: DirectView, f: Any, sequences: Sequence[Iterable[Any]], return_exceptions: bool, label: str | None
) -> AsyncMapResult:
    """Map over engines: one contiguous chunk each."""
    columns, count = _columns(sequences)
    engines = view._engines(None)
    function, holds = _mapped(view, f, return_exceptions)
    about = view._about(_pickling.name_of(f), "map", label)
    parts: list[Part] = []
    dealt = [deal(column, len(engines)) for column in columns]
    first = 0
    for at, engine in enumerate(engines):
        chunk = [part[at] for part in dealt]
        if len(chunk[0]):
            data, items_hold = _pickling.dumps_items(chunk, first)
            first += len(chunk[0])
            hold = holds | items_hold
            parts += view._submit(function, "pickle", data, about, targets=[engine], holds=hold)._parts
    result = AsyncMapResult(parts, _putter(columns), count, errors_in_place=return_exceptions)
    view.client._note(result)
    return result


def map_balanced(
    view: LoadBalancedView,
    f: Any,
    sequences: Sequence[Iterable[Any]],
    chunksize: int | str | None,
    ordered: bool,
    return_exceptions: bool,
    label: str | None,
) -> AsyncMapResult:
    """Map over the shared queue."""
    columns, count = _columns(sequences)
    size = 0 if chunksize is None or chunksize == "auto" else _chunk_items(chunksize)
    function, holds = _mapped(view, f, return_exceptions)
    about = view._about(_pickling.name_of(f), "map", label)
    view._task_options(False, about.label)  # it raises here what is wrong with flags
    feeder = _Feeder(view, function, holds, about, columns, count, size)
    result = _FedMapResult(feeder, _putter(columns), count, ordered=ordered, errors_in_place=return_exceptions)
    feeder.start()
    return result


def _chunk_items(chunksize: Any) -> int:
    try:
        if isinstance(chunksize, bool):
            raise TypeError
        size = operator.index(chunksize)
    except TypeError:
        raise TypeError(f"chunksize is a number of items, or 'auto', not {chunksize!r}") from None
    if size < 1:
        raise ValueError(f"a chunk has at least one item, not {size}")
    return size


class _Feeder:
    """Submits the chunks of a map as engines take them, of the size that the time of earlier ones suggests."""

    def __init__(
        self,
        view: LoadBalancedView,
        function: Any,
        holds: int,
        about: About,
        columns: list[Any],
        count: int,
        chunk: int,
    ) -> None:
        self.parts: list[Part] = []
        self.ended: collections.deque[Part] = collections.deque()
        self.changed = threading.Condition()
        self.is_over = False
        self._when_over: list[Callable[[], None]] = []
        self.is_cancelled = False
        self.failure: BaseException | None = None
        self._view = view
        self._function, self._holds, self._about = function, holds, about
        self._columns, self._count = columns, count
        self._at = 0
        self._engines = max(1, len(view))
        self._fixed = chunk
        self._size = chunk or 1
        # Bytes of an item, or of its value, as far as is known.
        self._item_bytes = 1.0
        self._unfinished = 0

    def start(self) -> None:
        """Submit the first chunks; the rest follows from the dispatcher's thread."""
        with self.changed:
            self._feed()

    def _feed(self) -> None:
        wanted = self._engines * CHUNKS_AHEAD if not self._fixed else max(256, self._engines * CHUNKS_AHEAD)
        try:
            while self._unfinished < wanted and self._at < self._count and not self.is_cancelled:
                self._submit(min(self._next_size(), self._count - self._at))
        except Exception as error:
            self.failure = error
            self.is_cancelled = True
        self._end_if_over()
        self.changed.notify_all()

    def _next_size(self) -> int:
        if self._fixed:
            return self._fixed
        # What is left is shared evenly at last, so that engines end together.
        fair = -(-(self._count - self._at) // (self._engines * 2))
        return max(1, min(self._size, fair, CHUNK_ITEMS_MAX, int(CHUNK_BYTES / self._item_bytes)))

    def _submit(self, size: int) -> None:
        chunk = [column[self._at : self._at + size] for column in self._columns]
        data, items_hold = _pickling.dumps_items(chunk, self._at)
        self._note_bytes(sum(len(buffer) for buffer in data), size)
        holds = self._holds | items_hold
        part = self._view._submit(self._function, "pickle", data, self._about, holds=holds)
        self._at += size
        self._unfinished += 1
        self.parts.append(part)
        part.when_ended(lambda: self._handle_end(part, size))

    def _handle_end(self, part: Part, size: int) -> None:
        part.settle()
        with self.changed:
            self._unfinished -= 1
            self.ended.append(part)
            if not self._fixed and part.outcome is not None and part.error is None:
                self._note_bytes(part.outcome.nbytes, size)
                self._adapt(part.outcome.times[3] / 1e6, size)
            self._feed()

    def _note_bytes(self, nbytes: int, size: int) -> None:
        self._item_bytes = max(self._item_bytes, nbytes / size)

    def _adapt(self, seconds: float, size: int) -> None:
        fitting = int(CHUNK_SECONDS / max(seconds / size, 1e-8))
        self._size = max(1, min(fitting, max(self._size, size * GROWTH)))

    def cancel(self) -> None:
        """Submit nothing more; what has ended stays as it is."""
        with self.changed:
            if self.is_over:
                return
            self.is_cancelled = True
            self._end_if_over()
            self.changed.notify_all()

    def _end_if_over(self) -> None:
        if self._unfinished == 0 and (self._at >= self._count or self.is_cancelled):
            self.is_over = True
            while self._when_over:
                self._when_over.pop()()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back once, when all chunks have ended: at once, or from the dispatcher's thread. It must be short."""
        with self.changed:
            if not self.is_over:
                self._when_over.append(callback)
                return
        callback()

    def wait(self, timeout: float | None) -> bool:
        """Wait until all chunks have ended."""
        with self.changed:
            return self.changed.wait_for(lambda: self.is_over, timeout)


class _FedMapResult(AsyncMapResult):
    """The result of a balanced map, whose tasks are submitted as others end."""

    _shown_as = "AsyncMapResult"

    def __init__(self, feeder: _Feeder, put: Any, count: int, *, ordered: bool, errors_in_place: bool) -> None:
        super().__init__(feeder.parts, put, count, ordered=ordered, errors_in_place=errors_in_place)
        self._feeder = feeder

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait for the end. See `AsyncResult.wait`."""
        limit = None if timeout is None or timeout < 0 else timeout
        if return_when not in (None, "ALL_COMPLETED"):
            return self._wait_for_one(limit, return_when == "FIRST_EXCEPTION")
        return self._feeder.wait(limit)

    def _wait_for_one(self, timeout: float | None, failed: bool) -> Any:
        feeder = self._feeder

        def has_come() -> bool:
            return feeder.is_over or any(part.error is not None or not failed for part in feeder.ended)

        with feeder.changed:
            feeder.changed.wait_for(has_come, timeout)
            if feeder.is_over:
                return True
            done = list(feeder.ended)
            pending = [part for part in feeder.parts if part not in done]
        return {AsyncResult([part], True) for part in done}, {AsyncResult([part], True) for part in pending}

    def done(self) -> bool:
        """Whether all has ended."""
        return self._feeder.is_over

    def _settle(self) -> None:
        super()._settle()
        if self._feeder.failure is not None:
            self._error = self._feeder.failure
        elif self._feeder.is_cancelled and self._error is None:
            self._error = errors.TaskCancelled("TaskCancelled", "the map was cancelled before all items were submitted")

    def _assemble(self, values: list[Any]) -> Any:
        if self._feeder.failure is not None:
            raise self._feeder.failure
        return super()._assemble(values)

    def _collect(self, failed: list[errors.FurlongError]) -> errors.FurlongError:
        cancelled = [error for error in failed if isinstance(error, errors.TaskCancelled)]
        if self._feeder.is_cancelled and cancelled:
            return cancelled[0]
        return super()._collect(failed)

    def cancel(self, force: bool = False) -> bool:
        """End the tasks, and submit no more. See `AsyncResult.cancel`."""
        self._feeder.cancel()
        return super().cancel(force)

    def cancelled(self) -> bool:
        """Whether the map was cancelled."""
        return self._feeder.is_over and self._feeder.is_cancelled and self._feeder.failure is None

    def _arm(self) -> None:
        import concurrent.futures

        concurrent.futures.Future.__init__(self)
        self._feeder.when_over(functools.partial(callbacks().soon, self._complete))

    @property
    def progress(self) -> int:
        """How many items have ended, as far as whole chunks have."""
        feeder = self._feeder
        if feeder.is_over:
            return self._count
        return sum(len(part.value) for part in list(feeder.ended) if part.error is None)

    def __iter__(self) -> Iterator[Any]:
        feeder = self._feeder
        at = 0
        while True:
            source: Any = feeder.parts if self._ordered else feeder.ended

            def is_next(source: Any = source, at: int = at) -> bool:
                return at < len(source) and source[at].is_settled or feeder.is_over

            with feeder.changed:
                feeder.changed.wait_for(is_next)
                if at >= len(source):
                    break
                part = source[at]
            at += 1
            if part.error is None:
                yield from part.value
            elif self._errors_in_place:
                yield part.error
            else:
                raise part.error
        if feeder.failure is not None:
            raise feeder.failure


class LazyMapIterator(Iterator[Any]):
    """The values of a lazy map. Items are taken and submitted as values are asked for."""

    def __init__(
        self,
        view: View,
        f: Any,
        sequences: Sequence[Iterable[Any]],
        ordered: bool,
        max_outstanding: int | str,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> None:
        if not sequences:
            raise TypeError("a map takes a function and at least one sequence of items")
        self._deadline = None if timeout is None else time.monotonic() + timeout
        bound: Any = max(1, len(view)) if max_outstanding == "auto" else max_outstanding  # type: ignore[arg-type]
        if isinstance(bound, bool) or not hasattr(bound, "__index__") or bound < 0:
            raise ValueError(
                f"max_outstanding is a number of items, 0 for no bound, or 'auto', not {max_outstanding!r}"
            )
        self._view, self._f = view, f
        self._items = zip(*sequences)
        self._ordered = ordered
        self._bound = operator.index(bound)
        self._errors_in_place = return_exceptions
        self._waiting: collections.deque[AsyncResult] = collections.deque()
        self._ended: collections.deque[AsyncResult] = collections.deque()
        self._changed = threading.Condition()
        self._unordered: set[AsyncResult] = set()
        self._taken = 0
        self._is_exhausted = False
        self._is_cancelled = False

    def _submit(self) -> None:
        """Submit up to the bound."""
        while not (self._is_exhausted or self._is_cancelled):
            outstanding = len(self._waiting if self._ordered else self._unordered)
            if self._bound and outstanding >= self._bound:
                return
            try:
                item = next(self._items)
            except StopIteration:
                self._is_exhausted = True
                return
            result = self._call(item)
            if self._ordered:
                self._waiting.append(result)
            else:
                self._unordered.add(result)
                result._parts[0].when_ended(functools.partial(self._note, result))

    def _call(self, item: tuple[Any, ...]) -> AsyncResult:
        view: Any = self._view
        if hasattr(view, "execute"):  # a direct view gives its engines an item each in turn
            engines = view._engines(None)
            view = view._on(engines[self._taken % len(engines)])
        at = self._taken
        self._taken += 1
        try:
            result: AsyncResult = view.apply_async(self._f, *item)
        except errors.PicklingError as error:
            raise _pickling.error_of_item(error, item, at) from error.__cause__
        return result

    def _note(self, result: AsyncResult) -> None:
        with self._changed:
            self._ended.append(result)
            self._changed.notify()

    def __next__(self) -> Any:
        self._submit()
        if self._is_cancelled:
            raise StopIteration
        if self._ordered:
            if not self._waiting:
                raise StopIteration
            result = self._waiting[0]
            if not result.wait(self._left()):
                raise TimedOut("the next value has not come in time")
            self._waiting.popleft()
        else:
            if not self._unordered:
                raise StopIteration
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._ended), self._left()):
                    raise TimedOut("no value has come in time")
                result = self._ended.popleft()
            self._unordered.discard(result)
        return result.get(return_exceptions=self._errors_in_place)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> None:
        """Submit nothing more, and end what was submitted."""
        self._is_cancelled = True
        for result in (*self._waiting, *self._unordered):
            for part in result._parts:
                part.task.cancel()
