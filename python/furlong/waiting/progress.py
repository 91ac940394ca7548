"""Bars that show how far something is: in a terminal, in a notebook, or by a library for such."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from furlong import errors
from furlong.waiting import front_end

if TYPE_CHECKING:
    from furlong.client.client import Client
    from furlong.results.async_result import AsyncResult

__all__ = [
    "Bar",
    "Progress",
    "accompany",
    "is_interactive",
    "wait_for_all",
    "wait_for_engines",
    "wait_interactive",
]

#: Whether a bar is shown; or what makes one, as `tqdm.tqdm` does.
Bar = bool | Callable[..., Any]

# Cells of the bar in a terminal.
WIDTH = 30
# A bar is drawn again after so many seconds, if something has changed.
REDRAW_SECONDS = 0.05
# A bar that nobody waits for is looked at so often.
ACCOMPANY_SECONDS = 0.1


class _Display(Protocol):
    def show(self, progress: Progress) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...


class Progress:
    """A bar with count, total, rate and the time that is left.

    It is a widget in a notebook that has ``ipywidgets``, else text that is updated in the notebook, else text on the
    standard error of a terminal. Elsewhere nothing is shown.

    Parameters
    ----------
    total : int
        The count at the end.
    label : str
        What is counted.
    widget : bool, optional
        Whether a notebook's widget is used; by default where there is one.
    bar : bool or callable
        What makes the bar, if it is not one of ours: it is called with ``total`` and ``desc``, as `tqdm.tqdm`, and
        what it makes has ``update`` and ``close``.
    note : callable, optional
        Gives words that follow the figures.
    is_of_output : bool
        In a terminal, write to standard output: what comes there clears the bar first.
    """

    def __init__(
        self,
        total: int,
        label: str,
        widget: bool | None = None,
        bar: Bar = True,
        note: Callable[[], str] | None = None,
        is_of_output: bool = False,
    ) -> None:
        self.total = total
        self.label = label
        self.n = 0
        self._note = note
        self._began = time.monotonic()
        self._drawn_at = 0.0
        self._drawn_n = -1
        self._display: _Display | None = (
            _display(self, widget, sys.stdout if is_of_output else sys.stderr)
            if isinstance(bar, bool)
            else _Foreign(bar, self)
        )
        self.update(0)

    def update(self, n: int) -> None:
        """Show a count."""
        self.n = n
        now = time.monotonic()
        is_due = now - self._drawn_at >= REDRAW_SECONDS or n >= self.total
        if self._display is not None and n != self._drawn_n and is_due:
            self._drawn_at, self._drawn_n = now, n
            self._display.show(self)

    def clear(self) -> None:
        """Leave the line to other output; the bar comes again with the next count."""
        if self._display is not None:
            self._display.clear()
            self._drawn_n = -1

    def close(self) -> None:
        """Show the last count; the bar stays as it is then."""
        if self._display is not None:
            if self.n != self._drawn_n:
                self._display.show(self)
            self._display.close()
            self._display = None

    @property
    def figures(self) -> str:
        """Count, total, rate and the time that is left, as text."""
        took = time.monotonic() - self._began
        text = f"{self.n}/{self.total}"
        if self.n and took > 0:
            rate = self.n / took
            text += f" {rate:.1f}/s" if rate < 100 else f" {rate:.0f}/s"
            text += (
                f" {_duration((self.total - self.n) / rate)} left"
                if self.n < self.total
                else f" in {_duration(took)}"
            )
        note = "" if self._note is None else self._note()
        return f"{text}; {note}" if note else text

    @property
    def line(self) -> str:
        """The bar as text."""
        part = min(1.0, self.n / self.total) if self.total else 1.0
        full = int(part * WIDTH)
        return f"{self.label} [{'#' * full}{'-' * (WIDTH - full)}] {self.figures}"


def is_interactive() -> bool:
    """Return whether a person at IPython, in a terminal or a notebook, looks on."""
    return front_end.shell() is not None


def has_prompt() -> bool:
    """Return whether a person types what runs: at IPython, in a notebook, or at Python's own prompt."""
    return hasattr(sys, "ps1") or is_interactive()


def _display(progress: Progress, widget: bool | None, stream: TextIO | None) -> _Display | None:
    if front_end.is_notebook():
        if widget is not False:
            try:
                import ipywidgets  # type: ignore[import-not-found,unused-ignore]
            except ImportError:
                return _NotebookText()
            return _Widget(ipywidgets, progress)
        return _NotebookText()
    if stream is not None and (stream.isatty() or is_interactive()):
        return _Terminal(stream)
    return None


class _Terminal:
    """A line that is written over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._length = 0

    def show(self, progress: Progress) -> None:
        line = progress.line
        self._stream.write("\r" + line.ljust(self._length))
        self._stream.flush()
        self._length = len(line)

    def clear(self) -> None:
        self._stream.write("\r" + " " * self._length + "\r")
        self._stream.flush()

    def close(self) -> None:
        self._stream.write("\n")
        self._stream.flush()


class _NotebookText:
    """Text in a notebook that is replaced."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, progress: Progress) -> None:
        import html  # it is heavy, and for notebooks alone

        from IPython.display import display

        shown = {
            "text/plain": progress.line,
            "text/html": f"<pre>{html.escape(progress.line)}</pre>",
        }
        if self._handle is None:
            self._handle = display(  # type: ignore[no-untyped-call]
                shown, raw=True, display_id=True
            )
        else:
            self._handle.update(shown, raw=True)

    def clear(self) -> None:
        """Do nothing: other output has its own place."""

    def close(self) -> None:
        self._handle = None


class _Widget:
    """A bar of ``ipywidgets``."""

    def __init__(self, ipywidgets: Any, progress: Progress) -> None:
        from IPython.display import display

        self._bar = ipywidgets.IntProgress(
            value=0, min=0, max=max(1, progress.total), description=progress.label
        )
        self._text = ipywidgets.Label(value=progress.figures)
        display(ipywidgets.HBox([self._bar, self._text]))  # type: ignore[no-untyped-call]

    def show(self, progress: Progress) -> None:
        self._bar.value = progress.n if progress.total else 1
        self._text.value = progress.figures

    def clear(self) -> None:
        """Do nothing: other output has its own place."""

    def close(self) -> None:
        is_full = self._bar.value >= self._bar.max
        self._bar.bar_style = "success" if is_full else "warning"


class _Foreign:
    """A bar that a library for such has made."""

    def __init__(self, make: Callable[..., Any], progress: Progress) -> None:
        self._bar = make(total=progress.total, desc=progress.label)
        self._n = 0

    def show(self, progress: Progress) -> None:
        self._bar.update(progress.n - self._n)
        self._n = progress.n

    def clear(self) -> None:
        if hasattr(self._bar, "clear"):
            self._bar.clear()

    def close(self) -> None:
        self._bar.close()


def accompany(result: AsyncResult, bar: Bar) -> None:
    """Show a bar until a result has ended, for which nobody waits meanwhile."""
    shown = Progress(len(result), _name_of(result), bar=bar)

    def follow() -> None:
        try:
            while not result.wait(ACCOMPANY_SECONDS):
                shown.update(result.progress)
            shown.update(result.progress)
        finally:
            shown.close()

    threading.Thread(target=follow, name="furlong-progress", daemon=True).start()


def wait_interactive(
    result: AsyncResult,
    interval: float = 0.1,
    timeout: float | None = -1,
    widget: bool | None = None,
    return_when: str | None = ALL_COMPLETED,
    progress: Bar = True,
) -> Any:
    """Wait for a result with a bar.

    Parameters
    ----------
    result : AsyncResult
        What is waited for.
    interval : float
        Seconds between two looks.
    timeout : float, optional
        In seconds; none, or a negative one, is no limit.
    widget : bool, optional
        Whether a notebook's widget is used.
    return_when : {"ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"}, optional
        When to return.
    progress : bool or callable
        What makes the bar, if it is not one of ours, as `Progress` takes it.

    Returns
    -------
    bool or (set, set)
        What `AsyncResult.wait` returns.
    """
    if return_when not in (None, ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        return result.wait(0, return_when)  # it says what is wrong
    deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    is_all = return_when in (None, ALL_COMPLETED)
    children = () if is_all else result.split()
    bar = Progress(len(result), _name_of(result), widget, progress)
    try:
        while True:
            pause = (
                interval
                if deadline is None
                else max(0.0, min(interval, deadline - time.monotonic()))
            )
            if is_all:
                returned: Any = result.wait(pause)
                is_over = returned is True
            else:
                done, pending = concurrent.futures.wait(
                    children, pause, return_when or ALL_COMPLETED
                )
                returned = (done, pending)
                is_over = not pending or any(_counts(child, return_when) for child in done)
            bar.update(result.progress)
            if is_over or (deadline is not None and time.monotonic() >= deadline):
                return returned
    finally:
        bar.close()


def wait_for_engines(
    client: Client,
    n: int,
    timeout: float,
    interactive: bool | None = None,
    widget: bool | None = None,
) -> None:
    """Wait until so many engines are online. See `Client.wait_for_engines`."""
    deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    show = is_interactive() if interactive is None else interactive
    bar: Progress | None = None
    try:
        while True:
            ids, version = client._session.engines()
            if bar is not None:
                bar.update(min(len(ids), n))
            if len(ids) >= n:
                return
            if client._session.closed:
                raise errors.ConnectionLost("the session is over")
            if client._cluster is not None:
                client._cluster._check_engines()
            if show and bar is None:
                bar = Progress(n, f"{n} engines", widget=widget)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"{len(ids)} of {n} engines are online after {timeout} s")
            # A cluster of ours is looked at between.
            pause = 0.2 if client._cluster is not None or bar is not None else None
            client._session.wait_engines(
                version, pause if left is None else min(left, pause or left)
            )
    finally:
        if bar is not None:
            bar.close()


def wait_for_all(
    futures: Sequence[concurrent.futures.Future[Any]],
    interval: float = 0.1,
    timeout: float | None = -1,
    widget: bool | None = None,
    progress: Bar = True,
) -> bool:
    """Wait for futures of any kind with a bar; whether all have ended in time."""
    deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    unfinished = list(futures)
    bar = Progress(len(futures), "results", widget, progress)
    try:
        while True:
            unfinished = [future for future in unfinished if not future.done()]
            bar.update(len(futures) - len(unfinished))
            left = None if deadline is None else deadline - time.monotonic()
            if not unfinished or (left is not None and left <= 0):
                return not unfinished
            concurrent.futures.wait(
                unfinished[:1], interval if left is None else min(interval, left)
            )
    finally:
        bar.close()


def _counts(ended: concurrent.futures.Future[Any], return_when: str | None) -> bool:
    """Return whether this end is what is waited for."""
    return return_when == FIRST_COMPLETED or (
        not ended.cancelled() and ended.exception() is not None
    )


def _name_of(result: AsyncResult) -> str:
    parts = result._parts
    return (parts[0].info.label or parts[0].info.name) if parts else "tasks"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
