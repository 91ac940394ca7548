"""The submits of a map's tasks, and what is known of the map as a whole."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence

from furlong import errors
from furlong.maps.map_subtasks import MapSubTask, Work
from furlong.waiting import signals
from furlong.waiting.dispatch import WaitQueue
from furlong.waiting.no_engines import wait_patiently

__all__ = ["BalancedFeeder", "DirectFeeder", "Feeder"]

# The time that a chunk of a balanced map is meant to take, in seconds: far more than what a task
# costs, and short enough that engines end together.
CHUNK_SECONDS = 0.02
# Such chunks of a map whose items may run for so long are this part of that at most: one that takes
# longer has an item that does.
LIMIT_PART = 0.02
# How much larger than the one before a chunk may be.
GROWTH = 16
# Chunks that each engine has or will have next.
CHUNKS_AHEAD = 3
# The same of a map whose chunks have a given size.
FIXED_AHEAD_MIN = 256
CHUNK_ITEMS_MAX = 65_536
# Bytes of items, or of values, that a chunk has at most, unless one has more.
CHUNK_BYTES = 4 * 1024 * 1024
# Tasks that a map has at most which somebody refers to, beyond those that it had before.
REST_TASKS_MAX = 10_000


class Feeder:
    """The tasks of a map: those that were submitted, and the items that were not.

    Attributes
    ----------
    parts : list of MapSubTask
        In the order of the items.
    ended : deque of MapSubTask
        In the order of their ends.
    changes : WaitQueue
        Is notified whenever something of this has changed.
    why_stopped : Exception or None
        What stands for the items that will not be submitted.
    """

    def __init__(self, work: Work, count: int) -> None:
        self.parts: list[MapSubTask] = []
        self.ended: collections.deque[MapSubTask] = collections.deque()
        self.changes = WaitQueue()
        self.is_over = False
        self.why_stopped: BaseException | None = None
        self.count = count
        self.began = time.time()
        self.client = work.info.client
        # Whether its tasks go on when the session ends.
        self.is_retained = False
        self._work = work
        self._at = 0
        self._unfinished = 0
        self._when_over: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    @property
    def unsubmitted(self) -> range:
        """The items that were not submitted."""
        return range(self._at, self.count)

    def start(self) -> None:
        """Submit the first tasks."""
        raise NotImplementedError

    def copy_rest(self) -> None:
        """Copy the items that were not submitted, which the caller may change."""
        if self._at < self.count:
            self._work.copy_items(self._at)

    def submit_rest(self) -> None:
        """Submit all items that were not: somebody refers to all of the map."""

    def _submit(self, size: int, engine: int | None = None) -> None:
        part = MapSubTask(self._work, self._at, size, engine)
        self._at += size
        self._unfinished += 1
        self.parts.append(part)
        part.when_ended(lambda: self._handle_end(part))

    def _handle_end(self, part: MapSubTask) -> None:
        with self._lock:
            self._unfinished -= 1
            self.ended.append(part)
            self._go_on(part)
            self._end_if_over()
            self.changes.notify_all()

    def _go_on(self, part: MapSubTask) -> None:
        """Submit more, now that a part has ended."""

    def stop(self, why: BaseException) -> None:
        """Submit nothing more; what has ended stays as it is."""
        with self._lock:
            if self.is_over:
                return
            if self._at < self.count and self.why_stopped is None:
                self.why_stopped = why
            parts = list(self.parts)
            self._end_if_over()
            self.changes.notify_all()
        for part in parts:
            part.stop(why)

    def give_up(self, is_abort: bool) -> None:
        """Submit nothing more, because all that there is to do is taken back, or cancelled."""
        self.stop(aborted() if is_abort else cancelled())

    def cancel(self, why: BaseException, force: bool = False) -> None:
        """End what was submitted, and submit nothing more."""
        self.stop(why)
        for part in list(self.parts):
            part.task.cancel(force)

    def give_away(self, why: BaseException) -> None:
        """End what was submitted, and be over: its start was interrupted, and nobody will ever have the result."""
        self.cancel(why)
        with self._lock:
            self.is_over = True
            self.client._maps.discard(self)

    def _end_if_over(self) -> None:
        if (
            not self.is_over
            and self._unfinished == 0
            and (self._at >= self.count or self.why_stopped is not None)
        ):
            self.is_over = True
            self.client._maps.discard(self)
            self._work.end()
            while self._when_over:
                self._when_over.pop()()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back once, when all items have ended: at once, or from the dispatcher's thread. It must be short."""
        with self._lock:
            if not self.is_over:
                self._when_over.append(callback)
                return
        callback()

    def poll(self) -> bool:
        """Take the ends that have come; return whether all items have ended. The dispatcher may not have noticed yet."""
        if not self.is_over and (self._at >= self.count or self.why_stopped is not None):
            return all(part.poll() for part in list(self.parts))
        return self.is_over

    def wait(self, timeout: float | None) -> bool:
        """Wait until all items have ended."""
        if self.poll():
            timeout = None  # the dispatcher will notice at once
        return self.wait_for(lambda: self.is_over, timeout)

    def wait_for(self, has_come: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until something has come."""
        return wait_patiently(
            lambda limit: self.changes.wait_for(has_come, limit), timeout, self.client
        )


class DirectFeeder(Feeder):
    """Submits all at once: to each engine one contiguous piece."""

    def __init__(self, work: Work, count: int, engines: Sequence[int]) -> None:
        super().__init__(work, count)
        self._engines = engines

    def start(self) -> None:
        """Submit everything."""
        self.client._maps.add(self)
        length, longer = divmod(self.count, len(self._engines))
        with self._lock:
            for at, engine in enumerate(self._engines):
                left = length + (at < longer)
                while left > 0:
                    size = 1 if self._work.is_alone else left
                    self._submit(size, engine)
                    left -= size
            self._end_if_over()


class BalancedFeeder(Feeder):
    """Submits tasks as engines take them, of the size that the time of earlier ones suggests."""

    def __init__(
        self,
        work: Work,
        count: int,
        chunk: int,
        engines: int,
        run_timeout: float | None,
        is_retained: bool,
    ) -> None:
        super().__init__(work, count)
        self._fixed = 1 if work.is_alone else chunk
        self._engines = engines
        self.is_retained = is_retained
        self._size = self._fixed or 1
        self._seconds = (
            CHUNK_SECONDS if run_timeout is None else min(CHUNK_SECONDS, LIMIT_PART * run_timeout)
        )
        # Bytes of an item, or of its value, as far as is known.
        self._item_bytes = 1.0
        self._ahead = engines * CHUNKS_AHEAD
        if self._fixed:
            self._ahead = max(FIXED_AHEAD_MIN, self._ahead)

    def start(self) -> None:
        """Submit the first chunks; the rest follows from the dispatcher's thread."""
        self.client._maps.add(self)
        with self._lock:
            self._feed(self._ahead)
            self._end_if_over()
        if self.is_retained:
            self.submit_rest()

    def submit_rest(self) -> None:
        """Submit all items that were not, in chunks of one size."""
        with self._lock:
            left = self.count - self._at
            if left and not self._fixed:
                # Engines are to end together; and one task must not wait for too many others.
                self._fixed = max(
                    -(-left // REST_TASKS_MAX),
                    min(self._next_size(), -(-left // (self._engines * 8))),
                )
            self._feed(None)
            self._end_if_over()
            self.changes.notify_all()

    def _feed(self, ahead: int | None) -> None:
        try:
            while (
                (ahead is None or self._unfinished < ahead)
                and self._at < self.count
                and self.why_stopped is None
            ):
                size = min(self._next_size(), self.count - self._at)
                self._submit(size)
                self._note_bytes(self.parts[-1].nbytes, size)
        except Exception as error:
            signals.reraise(error)
            self.why_stopped = error

    def _next_size(self) -> int:
        if self._fixed:
            return self._fixed
        # What is left is shared evenly at last, so that engines end together.
        fair = -(-(self.count - self._at) // (self._engines * 2))
        return max(1, min(self._size, fair, CHUNK_ITEMS_MAX, int(CHUNK_BYTES / self._item_bytes)))

    def _go_on(self, part: MapSubTask) -> None:
        outcome = part.outcome
        if not self._fixed and outcome is not None and len(part.all_ids()) == 1:
            self._note_bytes(outcome.nbytes, part.size)
            self._adapt(outcome.times[3] / 1e6, part.size)
        self._feed(self._ahead)

    def _note_bytes(self, nbytes: int, size: int) -> None:
        self._item_bytes = max(self._item_bytes, nbytes / size)

    def _adapt(self, seconds: float, size: int) -> None:
        fitting = int(self._seconds / max(seconds / size, 1e-8))
        self._size = max(1, min(fitting, max(self._size, size * GROWTH)))


def cancelled() -> errors.FurlongError:
    """Make what stands for an item of a map that was cancelled."""
    return errors.TaskCancelled("TaskCancelled", "the map was cancelled before the item ran")


def aborted() -> errors.FurlongError:
    """Make what stands for an item of a map that was taken back."""
    return errors.TaskAborted("TaskAborted", "the map was taken back before the item ran")
