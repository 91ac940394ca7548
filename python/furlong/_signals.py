"""Exceptions of signal handlers: one may come out of any line, and then says nothing of what that line does."""

from __future__ import annotations

import threading
import traceback
import types

__all__ = ["reraise"]


def reraise(error: BaseException) -> None:
    """Raise an exception again if a signal's handler raised it, as one does that ends what takes too long.

    To be asked wherever an exception would be kept as that of an item or a value.
    """
    if threading.current_thread() is threading.main_thread() and _is_of_handler(error):
        raise error


def _is_of_handler(error: BaseException) -> bool:
    return any(_is_handler(frame) for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_handler(frame: types.FrameType) -> bool:
    """Tell a handler's frame: it alone is called with the frame that it interrupts. It may be set no longer."""
    interrupted = frame.f_back
    if interrupted is None or frame.f_code.co_name == "<module>":
        return False
    return any(
        value is interrupted or (type(value) is tuple and any(one is interrupted for one in value))
        for value in frame.f_locals.values()
    )
