"""The part of a result that people see: output, displays, a bar while it is waited for, and its page in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ALL_COMPLETED
from typing import TYPE_CHECKING, Any

from furlong.results.displays import show_outputs, stream_output

if TYPE_CHECKING:
    from furlong.results.subtasks import SubTask
    from furlong.waiting.progress import Bar

__all__ = ["ShownResult"]


class ShownResult:
    """The part of a result that shows itself."""

    __slots__ = ()

    _parts: Sequence[SubTask]
    _single: bool

    if TYPE_CHECKING:

        def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
            """See `AsyncResult.wait`."""

        def _check_ready(self) -> None: ...

    def _repr_html_(self: Any) -> str:
        from furlong.notebook.pages import page_of_result

        return page_of_result(self)

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait for the output, which is there when the tasks have ended."""
        return bool(self.wait(timeout))

    def display_outputs(self, groupby: str = "type", result_only: bool = False) -> None:
        """Show what the tasks wrote and displayed.

        Parameters
        ----------
        groupby : {"type", "engine", "order"}
            First all standard output, then all errors, then displays; or all of each engine; or as ``"type"``, but the
            first display of each engine comes before the second of any.
        result_only : bool
            Only the results of executed code.
        """
        self._check_ready()
        show_outputs(self._parts, self._single, groupby, result_only)

    def stream_output(self) -> Any:
        """Print output as it comes, within a ``with`` block."""
        return stream_output(self._parts)

    def wait_interactive(
        self: Any,
        interval: float = 0.1,
        timeout: float | None = -1,
        widget: bool | None = None,
        return_when: str = ALL_COMPLETED,
        progress: Bar = True,
    ) -> Any:
        """Wait with a bar that shows how many tasks have ended: in the terminal, or as a widget in a notebook.

        Parameters
        ----------
        interval : float
            Seconds between two looks.
        timeout : float, optional
            In seconds; none, or a negative one, is no limit.
        widget : bool, optional
            Whether a notebook's widget is used; by default where there is one.
        return_when : str
            ``"FIRST_EXCEPTION"`` returns when one has failed.
        progress : bool or callable
            What makes the bar, if it is not one of ours: it is called with ``total`` and ``desc``, as `tqdm.tqdm`.
        """
        from furlong.waiting.progress import wait_interactive

        return wait_interactive(self, interval, timeout, widget, return_when, progress)
