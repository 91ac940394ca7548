"""A display of the farm in a notebook that is drawn anew while work goes on, and ends by itself."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from furlong.notebook.pages import page_of_client
from furlong.waiting import front_end

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["Watch"]


class Watch:
    """A display that shows a farm, made by `Client.watch`.

    Raises
    ------
    RuntimeError
        If this is no notebook.
    """

    def __init__(self, client: Client, every: float, idle: float) -> None:
        if every <= 0 or idle < 0:
            raise ValueError(f"every is above 0, and idle not below, not {every!r} and {idle!r}")
        if not front_end.is_notebook():
            raise RuntimeError(
                "there is no notebook that could show the farm: `furlong top` shows it in a "
                "terminal, `furlong dashboard` in a browser"
            )
        from IPython.display import display

        if client._watch is not None:
            client._watch.stop()
        client._watch = self
        self._client = client
        self._every, self._idle = every, idle
        self._end = threading.Event()
        self._shell = front_end.shell()
        # The cell that has made this runs.
        self._cells_running = 1
        self._shell.events.register("pre_execute", self._cell_begins)
        self._shell.events.register("post_execute", self._cell_ends)
        self._handle: Any = display(  # type: ignore[no-untyped-call]
            self._page(""), raw=True, display_id=True
        )
        self._thread = threading.Thread(target=self._follow, name="furlong-watch", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Watch: {'ended' if self._end.is_set() else 'running'}>"

    def stop(self) -> None:
        """End it; the display stays as it is."""
        self._end.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _cell_begins(self) -> None:
        self._cells_running = 1

    def _cell_ends(self) -> None:
        self._cells_running = 0

    def _is_working(self) -> bool:
        return bool(self._cells_running or self._client._session.unfinished_count)

    def _follow(self) -> None:
        quiet_since = time.monotonic()
        note = "stopped"
        while not self._end.wait(self._every):
            if self._client._closed:
                note = "the client is closed"
                break
            now = time.monotonic()
            if self._is_working():
                quiet_since = now
            elif now - quiet_since >= self._idle:
                note = f"ended: nothing has run for {self._idle:g} s"
                break
            self._draw("")
        self._end.set()
        self._draw(f"{note}, at {time.strftime('%H:%M:%S')}")
        for event, callback in (
            ("pre_execute", self._cell_begins),
            ("post_execute", self._cell_ends),
        ):
            with contextlib.suppress(ValueError):
                self._shell.events.unregister(event, callback)

    def _draw(self, note: str) -> None:
        # At the end of the kernel nobody listens.
        with contextlib.suppress(Exception):
            self._handle.update(self._page(note), raw=True)

    def _page(self, note: str) -> dict[str, str]:
        return {"text/plain": repr(self._client), "text/html": page_of_client(self._client, note)}
