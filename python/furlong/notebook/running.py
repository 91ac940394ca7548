"""One run of a cell on engines: the wait for it, what is shown meanwhile, and what an interrupt does."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from furlong import errors
from furlong.notebook.following import Following
from furlong.waiting.progress import Progress

if TYPE_CHECKING:
    from furlong.results.async_result import AsyncResult

__all__ = ["Run"]

# What ends within the first look's time is shown in the order of the engines, not of their ends.
FIRST_LOOK_SECONDS = 0.1
# Between two looks at the output later.
LOOK_SECONDS = 0.02
# How long the rest of the output may take to come after the end.
REST_SECONDS = 5.0
# How long engines have to respond to an interrupt, before the prompt comes back without them.
RESPONSE_SECONDS = 10.0
# Engines that a bar names.
NAMED_MAX = 8


class Run:
    """A wait for executed code.

    Parameters
    ----------
    result : AsyncResult
        The code's.
    is_streamed : bool
        Show output as it comes, else at the end.
    groupby : str
        The order of what is shown at the end, as `AsyncResult.display_outputs` takes it.
    progress_after : float
        Seconds until a bar is shown; a negative number for none.
    interrupt : int or str
        The signal that engines get if this wait is interrupted: a number, or a name; 0 for none.
    """

    def __init__(
        self,
        result: AsyncResult,
        is_streamed: bool,
        groupby: str,
        progress_after: float,
        interrupt: int | str,
    ) -> None:
        self._result = result
        self._groupby = groupby
        self._progress_after = progress_after
        self._interrupt = interrupt
        self._was_interrupted = False
        self._bar: Progress | None = None
        self._following: Following | None = None
        if is_streamed:
            self._following = Following(result._parts, self._is_quiet, self._clear_bar)

    def wait(self, is_interrupted: bool = False) -> None:
        """Wait for the end, and show everything. An interrupt goes on to the engines, and ends the wait.

        Parameters
        ----------
        is_interrupted : bool
            There was an interrupt already.

        Raises
        ------
        RemoteError, CompositeError, AlreadyDisplayedError
            If the code failed; the last if each engine's error was shown as it came.
        """
        try:
            try:
                if is_interrupted:
                    raise KeyboardInterrupt
                self._follow(None)
            except KeyboardInterrupt:
                self.interrupt()
        finally:
            if self._bar is not None:
                self._bar.close()
        self._show_rest()
        if self._result.done():
            self._raise()

    def interrupt(self) -> None:
        """Let engines have the interrupt, and wait until they have stopped; a second one kills what runs."""
        try:
            self._was_interrupted = True
            text = f"Received Keyboard Interrupt. Sending signal {self._interrupt} to engines..."
            print(text, file=sys.stderr, flush=True)
            if self._interrupt == 0:
                print("That is none: they go on, and %pxresult waits for them.", file=sys.stderr)
                return
            self._signal()
            self._follow(time.monotonic() + RESPONSE_SECONDS)
        except KeyboardInterrupt:
            print("Interrupted again: what still runs is killed.", file=sys.stderr, flush=True)
            self._result.cancel(force=True)
            self._follow(time.monotonic() + RESPONSE_SECONDS)
        if not self._result.done():
            print(
                f"{self._missing()} to the interrupt: `cancel(force=True)` of the result, or an "
                "interrupt while this waits, kills what runs",
                file=sys.stderr,
            )

    def _signal(self) -> None:
        """End the tasks that have not begun, and send the signal to the others."""
        client = self._result._parts[0].info.client
        if not self._result.done():
            self._result.abort()
        engines = self._unfinished()
        if engines:
            client.send_signal(self._interrupt, engines)

    def _follow(self, until: float | None) -> None:
        """Wait for the end, or until then, with output and a bar."""
        bar_at = time.monotonic() + self._progress_after
        pause = FIRST_LOOK_SECONDS
        is_bar_wanted = self._progress_after >= 0 and not self._was_interrupted
        while not self._result.wait(pause):
            now = time.monotonic()
            self._look()
            if until is not None and now >= until:
                return
            if is_bar_wanted and self._bar is None and now >= bar_at:
                total = len(self._result)
                self._bar = Progress(total, "%px", note=self._missing, is_of_output=True)
            # A look at very many engines takes its time, of which the program has most.
            pause = max(LOOK_SECONDS, 4 * (time.monotonic() - now))
        self._look()
        rest_until = time.monotonic() + REST_SECONDS
        while self._following is not None and not self._following.is_over:
            if time.monotonic() >= rest_until:
                print("[the rest of the output has not come]", file=sys.stderr)
                return
            time.sleep(LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        if self._following is not None:
            self._following.look()
        if self._bar is not None:
            self._bar.update(self._result.progress)

    def _clear_bar(self) -> None:
        if self._bar is not None:
            self._bar.clear()

    def _show_rest(self) -> None:
        if self._following is not None:
            self._following.close()
        elif self._result.done():
            self._result.display_outputs(self._groupby)

    def _raise(self) -> None:
        """Raise what the code raised, unless that is what the interrupt has brought about."""
        try:
            self._result.get()
        except errors.RemoteError as error:
            each = error.errors if isinstance(error, errors.CompositeError) else [error]
            if all(map(self._is_quiet, each)):
                return
            is_shown = self._following is not None and self._following.has_shown_errors
            if is_shown and isinstance(error, errors.CompositeError):
                raise errors.AlreadyDisplayedError(error) from None
            raise

    def _is_quiet(self, error: errors.FurlongError) -> bool:
        """Return whether an error only says that the code was interrupted."""
        return self._was_interrupted and (
            isinstance(error, errors.TaskAborted | errors.EngineError)
            or getattr(error, "ename", "") == "KeyboardInterrupt"
        )

    def _unfinished(self) -> list[int]:
        """Return the engines whose tasks have not ended."""
        parts = [part for part in self._result._parts if not part.poll()]
        return [part.engine_id for part in parts if part.engine_id is not None]

    def _missing(self) -> str:
        """Return which engines have not answered, as words."""
        engines = self._unfinished()
        if not engines:
            return ""
        named = ", ".join(map(str, engines[:NAMED_MAX]))
        more = f" and {len(engines) - NAMED_MAX} more" if len(engines) > NAMED_MAX else ""
        subject, verb = ("engine", "has") if len(engines) == 1 else ("engines", "have")
        return f"{subject} {named}{more} {verb} not answered"
