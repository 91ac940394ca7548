"""How an exception is told to those who were not there: type, text and traceback, bounded."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from furlong_worker import Buffer

TEXT_BYTES_MAX = 64 * 1024
# Files of this package, which a user's traceback does not show.
OWN_FILES = "<furlong worker "


def type_name(cls: type) -> str:
    """Name a type as users write it."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def describe(error: BaseException) -> list[Buffer]:
    """Tell an exception as type, text and traceback, whatever its own code does when asked."""
    try:
        name = type_name(type(error))
    except BaseException:
        name = "Exception"
    try:
        message = str(error)
    except BaseException:
        message = "<its text cannot be had: str() failed>"
    try:
        report = traceback.TracebackException(type(error), error, error.__traceback__)
        _strip(report, set())
        text = "".join(report.format())
    except BaseException:
        text = f"{name}: {message}\n"
    return [_bounded(name), _bounded(message), _bounded(text)]


def _strip(report: Any, seen: set[int]) -> None:
    """Take frames that are not the user's out of a traceback and its causes.

    Those are our own, and the import machinery's where an import finds nothing.
    """
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    frames = [frame for frame in report.stack if not frame.filename.startswith(OWN_FILES)]
    while frames and frames[-1].filename.startswith("<frozen importlib"):
        frames.pop()
    if frames and frames[-1].filename == importlib.__file__:
        frames.pop()
    report.stack[:] = frames
    for other in (
        report.__cause__,
        report.__context__,
        *(getattr(report, "exceptions", None) or ()),
    ):
        _strip(other, seen)


def _bounded(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > TEXT_BYTES_MAX:
        half = TEXT_BYTES_MAX // 2
        gap = f"\n... [{len(data) - 2 * half} bytes left out] ...\n"
        head, tail = data[:half].decode("utf-8", "ignore"), data[-half:].decode("utf-8", "ignore")
        data = (head + gap + tail).encode("utf-8")
    return data
