"""Exceptions as texts for the other side: type, text and traceback, bounded."""

from __future__ import annotations

import binascii
import builtins
import contextlib
import importlib
import re
import sys
import traceback
from typing import Any

from furlong_worker import Buffer

TEXT_BYTES_MAX = 64 * 1024
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
# Files of this package, which a user's traceback does not show.
OWN_FILES = "<furlong worker "
# Where installed modules are.
_INSTALLED = ("<frozen ", traceback.__file__.rpartition("/")[0] + "/")
_PACKAGES = re.compile(r"[/\\](site|dist)-packages[/\\]")


def type_name(cls: type) -> str:
    """Name a type as users write it."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


class Loss:
    """The end of the interpreter before this one, whose variables are gone; empty if there was none."""

    text = ""


def describe(error: BaseException) -> list[Buffer]:
    """Return an exception's type, text and traceback, whatever its own code does when asked."""
    if Loss.text:
        with contextlib.suppress(Exception):  # whatever code of a subclass does when asked
            _say_what_was_lost(error, set())
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


def fingerprint(error: BaseException) -> int:
    """Return a number that errors of one type from one line of the user's code have in common.

    The line is the last one that is in no installed module, else the last one.
    """
    last = own = ""
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith(OWN_FILES):
            last = f"{file}:{step.tb_lineno}"
            if not file.startswith(_INSTALLED) and not _PACKAGES.search(file):
                own = last
        step = step.tb_next
    try:
        name = type_name(type(error))
    except BaseException:
        name = "Exception"
    return binascii.crc32(f"{name}\n{own or last}".encode("utf-8", "backslashreplace"))


def _say_what_was_lost(error: BaseException | None, seen: set[int]) -> None:
    """Add to errors that miss a variable that it may have been lost with the interpreter before this one."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    if _misses_variable(error):
        hint = f"; if it was set before: the variables of this engine were lost, as {Loss.text}"
        if isinstance(error, ImportError):
            error.msg = error.msg if str(error.msg).endswith(hint) else f"{error.msg}{hint}"
        elif not str(error).endswith(hint):
            error.args = (f"{error}{hint}", *error.args[1:])
    for other in (error.__cause__, error.__context__):
        _say_what_was_lost(other, seen)
    if isinstance(error, _GROUP):
        for member in error.exceptions:  # type: ignore[attr-defined]
            _say_what_was_lost(member, seen)


def _misses_variable(error: BaseException) -> bool:
    kind = type(error)
    if kind is AttributeError:
        return getattr(error, "obj", None) is sys.modules["__main__"]
    return kind is NameError or (kind is ImportError and getattr(error, "name", None) == "__main__")


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
