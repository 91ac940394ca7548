"""Tasks that are inputs of others: when one of these fails for that, the input's error is the cause."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from furlong import errors
from furlong.results.subtasks import SubTask, error_of
from furlong.waiting.dispatch import dispatcher

if TYPE_CHECKING:
    from furlong.pickling.arguments import Pickle

__all__ = ["Causes"]

T = TypeVar("T")

# So many failures are remembered, the latest.
FAILED_MAX = 1000
# The failure that is a cause has come, or is on its way for no longer than so many seconds.
CAUSE_SECONDS = 5.0


class _Watched:
    """A task that is an input, without its value: nobody may have the result any longer."""

    def __init__(self, part: SubTask) -> None:
        self.task = part.task
        self._part = weakref.ref(part)
        self._where, self._is_pickled = part.where(), part.info.is_pickled
        self._inputs = part.spec.inputs

    def error(self, causes: Causes) -> BaseException | None:
        """Return what it has failed with; waits a moment for it."""
        part = self._part()
        if part is not None:
            if part.wait(CAUSE_SECONDS):
                part.settle()
            return part.error
        if not self.task.wait(CAUSE_SECONDS):
            return None
        outcome = self.task.outcome()
        if outcome is None or outcome.ok:
            return None
        error = error_of(outcome, self._where, is_pickled=self._is_pickled)
        if self._inputs and isinstance(error, errors.ImpossibleDependency):
            error.__cause__ = causes.find(self._inputs)
        return error

    def has_failed(self) -> bool:
        """Return whether it has failed, now that it has ended."""
        outcome = self.task.outcome()
        return outcome is None or not outcome.ok


class Causes:
    """The inputs of a client's tasks that have not succeeded."""

    def __init__(self) -> None:
        self._unfinished: dict[str, _Watched] = {}
        self._failed: dict[str, _Watched] = {}

    def submit(
        self,
        arguments: Pickle,
        pickle: Callable[[], Pickle],
        submit: Callable[[Pickle], T],
    ) -> T:
        """Submit a call that has inputs, and remember these.

        Where one has come since the arguments were pickled, they are pickled once more: its value goes along.
        """
        while True:
            inputs = arguments.inputs
            try:
                made = submit(arguments)
            except errors.InputTaken:
                arguments = pickle()
                left = 0 if arguments.inputs is None else len(arguments.inputs.ids)
                if inputs is None or left >= len(inputs.ids):
                    raise
                continue
            if inputs is not None:
                self._note(inputs.owners)
            return made

    def _note(self, parts: Sequence[SubTask]) -> None:
        for part in parts:
            key = part.task.id
            if key in self._unfinished:
                continue
            watched = _Watched(part)
            if part.task.done():
                self._note_end(key, watched)
            else:
                self._unfinished[key] = watched
                # As soon as it has succeeded: else its value would be held here.
                dispatcher().when_ended(part.task, functools.partial(self._note_end, key, watched))

    def _note_end(self, key: str, watched: _Watched) -> None:
        if watched.has_failed():
            self._failed[key] = watched
            if len(self._failed) > FAILED_MAX:
                self._failed.pop(next(iter(self._failed)), None)
        self._unfinished.pop(key, None)

    def find(self, ids: Iterable[str]) -> BaseException | None:
        """Return the error of the first of these that has failed."""
        for key in ids:
            watched = self._failed.get(key) or self._unfinished.get(key)
            error = None if watched is None else watched.error(self)
            if error is not None:
                return error
        return None
