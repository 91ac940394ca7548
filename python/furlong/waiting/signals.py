"""Exceptions of signal handlers: one may come out of any line, and then says nothing of what that line does."""

from __future__ import annotations

import threading
import traceback
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from furlong import _furlong

__all__ = ["is_of_signal", "owned", "reraise"]

T = TypeVar("T")


def owned(session: _furlong.Session, begin: Callable[..., T], *arguments: object) -> T:
    """Submit tasks, and give what stands for them: they are noted wherever anybody looks for them.

    A signal's handler may raise before that. Then nobody has them, and they are cancelled.
    """
    count = session.submitted()
    try:
        return begin(*arguments)
    except BaseException:
        session.cancel_since(count)
        raise


def reraise(error: BaseException) -> None:
    """Raise an exception again if a signal's handler raised it, as one does that ends what takes too long.

    To be asked wherever an exception would be kept as that of an item or a value.
    """
    if threading.current_thread() is threading.main_thread() and _is_of_handler(error):
        raise error


def is_of_signal(error: BaseException) -> bool:
    """Return whether a signal has raised an exception: its handler, or Python's own for Ctrl-C."""
    return isinstance(error, KeyboardInterrupt) or _is_of_handler(error)


def _is_of_handler(error: BaseException) -> bool:
    return any(_is_handler(frame) for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_handler(frame: types.FrameType) -> bool:
    """Return whether it is a handler's frame: it alone is called with the frame that it interrupts, set or not any longer."""
    interrupted = frame.f_back
    if interrupted is None or frame.f_code.co_name == "<module>":
        return False
    return any(
        value is interrupted or (type(value) is tuple and any(one is interrupted for one in value))
        for value in frame.f_locals.values()
    )
