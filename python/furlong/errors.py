"""The errors, by kind.

All errors here are a `FurlongError`. What happened on an engine is a `RemoteError`, and an error of the type that the
exception had there too, so ``except ZeroDivisionError`` catches it, or ``except BadInput`` one of your own.
"""

from __future__ import annotations

import concurrent.futures
import linecache
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

__all__ = [
    "AlreadyDisplayedError",
    "Busy",
    "CapabilityNotFound",
    "CommandError",
    "CompositeCancelled",
    "CompositeError",
    "ConnectionFailed",
    "ConnectionLost",
    "ConnectionRefused",
    "EngineError",
    "EngineNameWarning",
    "Forbidden",
    "FurlongError",
    "ImpossibleDependency",
    "IncompleteHistoryWarning",
    "InvalidDependency",
    "InvalidOption",
    "JournalError",
    "NoEnginesRegistered",
    "NoEnginesWarning",
    "PayloadTooLarge",
    "PicklingError",
    "PythonVersionError",
    "RemoteError",
    "RequestRefused",
    "ResultLost",
    "RunTimeout",
    "TaskAborted",
    "TaskCancelled",
    "TaskTimeout",
    "UnmetDependency",
    "Unsupported",
]

EngineInfo = Mapping[str, object]


class Where(Mapping[str, object]):
    """The place where something went wrong: ``engine_id``, ``engine_uuid`` and ``method``.

    An engine's uuid is asked of the broker when somebody reads it, and not to make an error.
    """

    __slots__ = ("_engine_id", "_method", "_uuid_of")

    def __init__(
        self, engine_id: int | None, method: str, uuid_of: Callable[[int | None], str | None]
    ) -> None:
        self._engine_id = engine_id
        self._method = method
        self._uuid_of = uuid_of

    def __getitem__(self, name: str) -> Any:
        if name == "engine_id":
            return self._engine_id
        if name == "method":
            return self._method
        if name == "engine_uuid":
            return self._uuid_of(self._engine_id)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("engine_id", "engine_uuid", "method"))

    def __len__(self) -> int:
        return 3


class FurlongError(Exception):
    """The base of all errors of this package."""


class EngineNameWarning(UserWarning):
    """A function used a name of the engine's namespace, and this process has another value under that name."""


class CapabilityNotFound(FurlongError, OSError):
    """There is no capability file: no cluster runs, or it is elsewhere."""


class ConnectionFailed(FurlongError, TimeoutError):
    """The broker did not answer in time."""


class ConnectionRefused(FurlongError, ConnectionError):
    """The broker, or the capability file, does not let this client in."""


class ConnectionLost(FurlongError, ConnectionError):
    """The session is over, so what had not finished is not known."""


class RequestRefused(FurlongError, LookupError):
    """The broker cannot do what was asked: a task that it does not know, something of another owner."""


class InputTaken(FurlongError):
    """A result that was to be an input of a task has come, and the broker holds it no longer."""


class Busy(FurlongError):
    """A limit of the broker is reached: its memory for payloads, or the tasks of a session."""


class PayloadTooLarge(FurlongError, ValueError):
    """Function and arguments are larger than the broker takes."""


class InvalidOption(FurlongError, ValueError):
    """An option of a task is beyond its bounds."""


class PicklingError(FurlongError, TypeError):
    """Something cannot be pickled; the text says which part of it."""


class NoEnginesRegistered(FurlongError):
    """There are no engines to run on."""


def no_engines(ids: Sequence[int]) -> NoEnginesRegistered:
    """Return the error that says why a call goes to none of the engines that there are."""
    if ids:
        return NoEnginesRegistered(f"the targets name no engine; there are {list(ids)}")
    return NoEnginesRegistered("no engines are connected; start some: `furlong cluster start -n 4`")


class FramesGone(FurlongError):
    """The frames of a failed task are not, or no longer, there for a debugger; the text says why, and what to do."""


class IncompleteHistoryWarning(UserWarning):
    """Tasks may be missing in an answer: nobody had written them down when the broker forgot them."""


class NoEnginesWarning(UserWarning):
    """No engine is online, and a call waits for a task. It waits on."""


class UnmetDependency(FurlongError):
    """Raised by a task's own code: this engine is not the right one, try another."""


class EngineTraceback(Exception):
    """The engine's traceback, which Python shows above a `RemoteError` that nobody caught."""

    def __str__(self) -> str:
        return "\n".join(["", *_with_source(self.args[0])])


class RemoteError(FurlongError):
    """A failure on an engine, or of a task.

    Parameters
    ----------
    ename : str
        The exception's type, as ``ValueError`` or ``numpy.linalg.LinAlgError``.
    evalue : str
        Its text.
    traceback : str
        The formatted traceback of the engine; may be empty.
    engine_info : mapping, optional
        ``engine_id``, ``engine_uuid`` and ``method`` (``apply`` or ``execute``).

    Attributes
    ----------
    not_carried : mapping of str to str
        What of the exception could not come here, by the attribute's name, and why. The error has everything else
        that was set on the exception: its ``args``, attributes, notes, causes, and the members of a group.
    """

    # Errors that something is missing of have their own.
    not_carried: Mapping[str, str] = types.MappingProxyType({})

    def __init__(
        self,
        ename: str = "",
        evalue: str = "",
        traceback: str = "",
        engine_info: EngineInfo | None = None,
    ) -> None:
        self.ename: str
        self.evalue: str
        self.traceback: str
        Exception.__init__(self, ename, evalue, traceback, engine_info)
        # Past any `__setattr__` of the class whose exception it was.
        vars(self).update(
            ename=ename, evalue=evalue, traceback=traceback, _engine_info=engine_info or {}
        )
        if traceback:
            Exception.__setattr__(self, "__cause__", EngineTraceback(traceback))

    @property
    def engine_info(self) -> dict[str, Any]:
        """The place where it happened: ``engine_id``, ``engine_uuid`` and ``method``, as far as they are known."""
        info = vars(self)["_engine_info"]
        if type(info) is not dict:
            info = vars(self)["_engine_info"] = dict(info)
        return info

    @engine_info.setter
    def engine_info(self, info: EngineInfo) -> None:
        vars(self)["_engine_info"] = info

    def __str__(self) -> str:
        info = vars(self)["_engine_info"]
        engine = info.get("engine_id")
        where = (
            "[Engine Exception]" if engine is None else f"[{engine}:{info.get('method', 'apply')}]"
        )
        text = f"{self.ename}: {self.evalue}" if self.evalue else self.ename
        return f"{where} {text}"

    def __reduce__(self) -> tuple[object, ...]:
        base = getattr(type(self), "_furlong_base", type(self))
        texts = (self.ename, self.evalue, self.traceback, self.engine_info)
        notes = vars(self).get("__notes__")
        state = None if notes is None else {"__notes__": notes}
        return _rebuild, (base, *texts, vars(self).get("_details")), state

    def render_traceback(self) -> list[str]:
        """Return the engine's traceback as lines; where there is none, the error itself."""
        return _with_source(self.traceback) if self.traceback else str(self).splitlines()

    def print_traceback(self, excid: int | None = None, file: IO[str] | None = None) -> None:
        """Print the engine's traceback to standard error, or to `file`."""
        print("\n".join(self.render_traceback()), file=file or sys.stderr)

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows for it."""
        return self.render_traceback()


class EngineError(RemoteError):
    """The engine, or its interpreter, died while it had the task."""


class TaskAborted(RemoteError):
    """The task was not run: an earlier one of the same session failed on that engine, or it was taken back."""


class TaskCancelled(TaskAborted, concurrent.futures.CancelledError):
    """The task was cancelled."""


class TaskTimeout(RemoteError, TimeoutError):
    """The task waited for an engine for longer than it may."""


class RunTimeout(TaskTimeout):
    """The task ran for longer than it may, and was stopped."""


class ImpossibleDependency(RemoteError):
    """The task waits for something that cannot happen any more."""


class InvalidDependency(ImpossibleDependency):
    """The task waits for one that does not exist."""


class CommandError(RemoteError):
    """A program ended with a code other than 0, or by a signal.

    Attributes
    ----------
    returncode : int or None
        As `subprocess` has it: negative for a signal.
    """

    returncode: int | None = None


class Forbidden(RemoteError, PermissionError):
    """The capability does not allow it."""


class Unsupported(RemoteError):
    """The broker or the engine does not do that."""


class ResultLost(RemoteError):
    """The task ended, and its result cannot be read, or is kept nowhere any longer."""


class JournalError(RemoteError):
    """The broker's journal could not be written, so it did not take a durable task."""


class PythonVersionError(RemoteError, TypeError):
    """Functions or classes by value were for another version of Python; data cross."""


class CompositeError(RemoteError):
    """Several engines failed.

    Parameters
    ----------
    message : str
        What was done.
    errors : sequence
        The errors, in the order of the engines.
    """

    tb_limit = 4

    def __init__(self, message: str, errors: Sequence[RemoteError] = ()) -> None:
        super().__init__(type(errors[0]).__name__ if errors else "CompositeError", message)
        self.args = (message, list(errors))
        self.message = self.msg = message
        self.errors: list[RemoteError] = []
        for error in errors:
            self.errors.extend(error.errors if isinstance(error, CompositeError) else [error])

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args

    @property
    def elist(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """Type, text, traceback and engine of each."""
        return [
            (error.ename, error.evalue, error.traceback, error.engine_info) for error in self.errors
        ]

    def __str__(self) -> str:
        shown = [str(error) for error in self.errors[: self.tb_limit]]
        return "\n".join([self.message, *shown, *self._more()])

    def _more(self) -> list[str]:
        left = len(self.errors) - self.tb_limit
        return [f"... {left} more exceptions ..."] if left > 0 else []

    def raise_exception(self, excid: int = 0) -> None:
        """Raise one of them.

        Raises
        ------
        RemoteError
            The one at that place.
        IndexError
            If there are not so many.
        """
        try:
            error = self.errors[excid]
        except IndexError:
            raise IndexError(
                f"there are {len(self.errors)} exceptions; none has the index {excid}"
            ) from None
        raise error

    def render_traceback(self, excid: int | None = None) -> list[str]:
        """Return the tracebacks as lines: all up to a limit, or the one at that place."""
        if excid is not None:
            return self.errors[excid].render_traceback()
        lines: list[str] = []
        for error in self.errors[: self.tb_limit]:
            lines += [str(error).split("\n", 1)[0], *error.render_traceback(), ""]
        return lines + self._more()

    def print_traceback(self, excid: int | None = None, file: IO[str] | None = None) -> None:
        """Print the tracebacks, or the one at that place."""
        print("\n".join(self.render_traceback(excid)), file=file or sys.stderr)

    # So IPython.kernel 0.10 called it.
    print_tracebacks = print_traceback


class CompositeCancelled(CompositeError, TaskCancelled):
    """Several engines failed, and some because their tasks were cancelled: so the call was cancelled."""


class AlreadyDisplayedError(RemoteError):
    """A composite error whose tracebacks were shown already."""

    def __init__(self, original: CompositeError) -> None:
        super().__init__(original.ename, original.evalue)
        self.args = (original,)
        self.original = self.original_error = original

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args

    def __str__(self) -> str:
        count = len(self.original.errors)
        return f"{count} error{'s' if count != 1 else ''}"

    def render_traceback(self) -> list[str]:
        """Return the one line that is left to say."""
        return [str(self)]


def _rebuild(
    base: type[RemoteError],
    ename: str,
    evalue: str,
    traceback: str,
    engine_info: EngineInfo | None,
    details: Any = None,
) -> RemoteError:
    if details is None:
        return remote_error(ename, evalue, traceback, engine_info, base)
    from furlong.results import exceptions

    buffers, at, may_unpickle = details
    return exceptions.remake(
        (ename, evalue, traceback), engine_info, base, buffers, may_unpickle, at
    )


def remote_error(
    ename: str,
    evalue: str,
    traceback: str = "",
    engine_info: EngineInfo | None = None,
    base: type[RemoteError] = RemoteError,
    details: Sequence[Any] = (),
    may_unpickle: bool = False,
) -> RemoteError:
    """Make the error of an exception on an engine, which is of that exception's type as well.

    Exceptions that are meant for this process, as ``KeyboardInterrupt`` and ``SystemExit``, are not taken over, nor
    those by which an iteration ends, as ``StopIteration``: it would be one here that ends.

    Parameters
    ----------
    ename, evalue, traceback, engine_info
        As `RemoteError` has them.
    base : type
        The kind of error that it is besides.
    details : sequence of bytes-like
        What the engine says of it beyond its texts. Without it only Python's own types are known.
    may_unpickle : bool
        Whether the details may be read from pickles, and may name modules that are not loaded: only where the call
        itself was one of pickles.
    """
    from furlong.results import exceptions

    if details:
        texts = (ename, evalue, traceback)
        return exceptions.remake(
            texts, engine_info, base, [bytes(part) for part in details], may_unpickle
        )
    error: RemoteError = exceptions.type_by_name(ename, base)(ename, evalue, traceback, engine_info)
    set_attributes(error)
    return error


_FRAME = re.compile(r'  File "(.*)", line (\d+), in ')
_PLACE_OF_SYNTAX = re.compile(
    r'  File "(.*)", line (\d+)\n(?:    (.*)\n)?(?:    ( *)[\^~]+\n)?(?!  File|    )'
)
_OS_ERROR = re.compile(r"\[Errno (\d+)\] (.*?)(?:: '(.*?)')?(?: -> '(.*)')?$")
_NO_MODULE = re.compile(r"No module named '(.*?)'")


def set_attributes(error: RemoteError) -> None:
    """Set what code that handles such an error asks it for, as far as the texts from the engine say it."""
    if isinstance(error, SyntaxError):
        error.msg = error.evalue.rpartition(" (")[0] if error.evalue.endswith(")") else error.evalue
        places = list(_PLACE_OF_SYNTAX.finditer(error.traceback))
        if places:
            error.filename, line, error.text, before = places[-1].groups()
            error.lineno = int(line)
            error.offset = None if before is None else len(before) + 1
    elif isinstance(error, OSError):
        found = _OS_ERROR.search(error.evalue)
        if found:
            number, error.strerror, error.filename, error.filename2 = found.groups()
            error.errno = int(number)
    elif isinstance(error, ImportError):
        error.msg = error.evalue
        found = _NO_MODULE.search(error.evalue)
        error.name = found and found[1]


def _with_source(traceback: str) -> list[str]:
    """Add the lines of code that the engine could not read: those of cells, and of files that are here alone."""
    lines: list[str] = []
    given = traceback.splitlines()
    for line, following in zip(given, [*given[1:], ""], strict=True):
        lines.append(line)
        frame = _FRAME.match(line)
        if frame and not following.startswith("    "):
            source = linecache.getline(frame[1], int(frame[2])).strip()
            lines += [f"    {source}"] if source else []
    return lines


# Names of ipyparallel.
_OTHER_NAMES = {
    "DependencyTimeout": TaskTimeout,
    "IPythonError": FurlongError,
    "KernelError": FurlongError,
    "TaskRejectError": UnmetDependency,
    "TimeoutError": TimeoutError,
}


def __getattr__(name: str) -> Any:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
