"""The warning of a waiting call when there is nobody who could do the work. The wait goes on."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from furlong import errors

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["wait_patiently"]

# Seconds between two looks whether there are engines. Those that are started anew are back by then.
LOOK_SECONDS = 2.0


def wait_patiently(
    wait: Callable[[float | None], bool], limit: float | None, client: Client
) -> bool:
    """Wait, and warn once if there are no engines meanwhile.

    Parameters
    ----------
    wait : callable
        Waits for so many seconds at most; whether the end has come.
    limit : float, optional
        How long to wait, in seconds.
    client : Client
        Whose engines are to do the work.

    Returns
    -------
    bool
        Whether the end has come.
    """
    if limit is not None and limit <= LOOK_SECONDS:
        return wait(limit)
    deadline = None if limit is None else time.monotonic() + limit
    was_alone = False
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= LOOK_SECONDS:
            return wait(max(0.0, left))
        if wait(LOOK_SECONDS):
            return True
        is_alone = _is_alone(client)
        if is_alone and was_alone:
            warnings.warn(_why(client), errors.NoEnginesWarning, stacklevel=_depth())
            return wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        was_alone = is_alone


def _is_alone(client: Client) -> bool:
    session = client._session
    return not session.closed and not session.engines()[0]


def _why(client: Client) -> str:
    ended = "" if client.cluster is None else client.cluster._ended_engines()
    return (
        f"no engine of cluster {client._session.cluster!r} is online, and a call waits for a task; {ended}start one, "
        "as with `furlong engine`, or cancel the task. The wait goes on"
    )


def _depth() -> int:
    """Return which of the calling frames is the first that is not ours."""
    depth, frame = 1, sys._getframe(1)
    while (
        frame.f_back is not None
        and frame.f_globals.get("__name__", "").partition(".")[0] == "furlong"
    ):
        frame = frame.f_back
        depth += 1
    return depth
