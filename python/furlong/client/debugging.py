"""A debugger after the end: a prompt here, and Python's `pdb` in the frames of a failed task on its engine.

`furlong_worker/frames.py` is the other side. A command is a task of its own for that engine.
"""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong import _furlong, errors
from furlong.calls.codecs import RAW
from furlong.calls.task_spec import CallInfo, TaskSpec
from furlong.results.async_result import AsyncResult
from furlong.results.subtasks import SubTask

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["Debugger", "debug", "failure_of", "last_failure"]

PROMPT = "(Pdb) "
# What the engine's interpreter calls it.
FUNCTION = "furlong_worker:debug"
# Failures of one result that are tried, the first one that has its frames being the one that is
# opened.
TRIED_MAX = 100
# Of what is lent to an engine that has not the source of functions: for a larger message the engine
# lets the frames go.
SOURCES_CHARACTERS_MAX = 200_000

_NEVER = (
    "{where} kept no frames of this failure: it keeps those of an exception that Python code has raised, in a chunk of "
    "a map those of its first item that fails, and none where memory has run out"
)
_GONE = (
    "the frames of this failure are gone: {why}. Run it again with an engine to itself and without retries, as "
    "`rc[{engine}].apply(...)` or with `targets={engine}, retries=0` (on the command line `--retries 0`), and open the "
    "debugger before anything else runs there"
)


def debug(client: Client, error: BaseException, commands: Sequence[str] | None) -> None:
    """Read commands and print what they say, until the debugger is left or its frames are gone; or run these."""
    debugger = _opened(client, error)
    if commands is not None:
        for command in commands:
            print(debugger.run(command), end="")
        return
    print(debugger.text, end="")
    while debugger.is_open:
        try:
            line = input(PROMPT)
        except EOFError:
            print()
            line = "q"
        except KeyboardInterrupt:
            print("\n--KeyboardInterrupt--")
            continue
        try:
            print(debugger.run(line), end="")
        except KeyboardInterrupt:
            print("--KeyboardInterrupt--")
        except errors.FramesGone as gone:
            print(f"*** {gone}")


def failure_of(result: AsyncResult) -> BaseException:
    """Return what a result has failed with; waits for its end.

    Raises
    ------
    ValueError
        If it has not failed.
    """
    try:
        error = result.exception()
    except errors.TaskCancelled as cancelled:
        error = cancelled
    if error is None:
        raise ValueError(f"{result!r} has not failed: there is nothing to debug")
    return error


def last_failure() -> BaseException:
    """Return the exception that the prompt, or a notebook, has shown last.

    Raises
    ------
    ValueError
        If there is none.
    """
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if not isinstance(error, BaseException):
        raise ValueError("nothing has failed at this prompt: name a result, an error or a task")
    return error


class Debugger:
    """The debugger of one failure.

    Attributes
    ----------
    is_open : bool
        Whether there are frames to look at.
    text : str
        Where it is, as it was when it was opened.
    """

    def __init__(self, client: Client, engine: int, token: str) -> None:
        self._client = client
        self._engine = engine
        self._token = token
        self.is_open = True
        told = self._ask(None, {})
        sources = _sources(told["missing"])
        if sources:
            told = self._ask(None, sources)
        self.text: str = told["text"]

    def run(self, line: str) -> str:
        """Run a command, and return what it has printed.

        Raises
        ------
        FramesGone
            If the frames are gone.
        """
        text: str = self._ask(line, {})["text"]
        return text

    def _ask(self, line: str | None, sources: Mapping[str, str]) -> dict[str, Any]:
        if self._engine not in self._client.ids:
            raise self._gone(f"engine {self._engine} has left")
        wanted = {"token": self._token, "command": line, "sources": sources}
        text = json.dumps(wanted, ensure_ascii=False)
        function = _furlong.Function.named(FUNCTION)
        call = _furlong.Call(function, RAW, [text.encode("utf-8", "backslashreplace")])
        spec = TaskSpec(call, CallInfo(self._client, "debug", codecs=(RAW,)))
        result = AsyncResult([SubTask(spec.submit(self._engine), spec)], True)
        self._client._note(result)
        try:
            told: dict[str, Any] = json.loads(bytes(result.get()[0]))
        except KeyboardInterrupt:
            result.cancel()
            raise
        except errors.RemoteError as error:
            raise self._gone(str(error)) from error
        if told["state"] == "gone":
            raise self._gone(told["text"])
        self.is_open = told["state"] == "open"
        return told

    def _gone(self, why: str) -> errors.FramesGone:
        self.is_open = False
        return errors.FramesGone(_GONE.format(why=why, engine=self._engine))


def _opened(client: Client, error: BaseException) -> Debugger:
    """Open the first failure whose frames are there."""
    gone: errors.FramesGone | None = None
    for one in _failures(error):
        engine, token = _engine_and_token(one)
        if engine is None or not token:
            where = "the cluster" if engine is None else f"engine {engine}"
            gone = gone or errors.FramesGone(_NEVER.format(where=where))
            continue
        try:
            return Debugger(client, engine, token)
        except errors.FramesGone as why:
            gone = why
    if gone is None:
        raise TypeError(f"a failure of a task is debugged, not {error!r}")
    raise gone


def _failures(error: BaseException) -> Iterator[errors.RemoteError]:
    several = error.errors if isinstance(error, errors.CompositeError) else [error]
    for one in several[:TRIED_MAX]:
        if isinstance(one, errors.RemoteError):
            yield one


def _engine_and_token(error: errors.RemoteError) -> tuple[int | None, str]:
    """Return the engine that has the frames, and what opens them there."""
    engine = error.engine_info.get("engine_id")
    details: tuple[Sequence[bytes], int, bool] = vars(error).get("_details") or ((), 0, False)
    buffers, at, _ = details
    try:
        token = json.loads(bytes(buffers[0]))[at]["frames"]
    except (IndexError, KeyError, TypeError, ValueError):
        token = ""
    return engine, token if isinstance(token, str) else ""


def _sources(files: object) -> dict[str, str]:
    """Return the sources that this process has of files which the engine has not, as cells of a notebook.

    An engine names the files: it gets those of which code was loaded here, and nothing else that can be read here.
    """
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    found: dict[str, str] = {}
    room = SOURCES_CHARACTERS_MAX
    for file in files if isinstance(files, list) else ():
        if isinstance(file, str) and (file in linecache.cache or file in loaded):
            source = "".join(linecache.getlines(file))
            if 0 < len(source) <= room:
                room -= len(source)
                found[file] = source
    return found
