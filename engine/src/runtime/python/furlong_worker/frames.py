"""The frames of the job that failed last, and a debugger in them for who has got its error.

They are kept until the next job begins, or for `KEPT_SECONDS`. A token goes with what is told of the error, in the
sealed result; without it nobody gets to them. Each command of the debugger is a job of its own, a call of `DEBUG`.
"""

from __future__ import annotations

import _thread
import binascii
import contextlib
import functools
import hmac
import io
import json
import linecache
import os
import sys
import time
import types
from typing import Any

from furlong_worker import Buffer
from furlong_worker.errors import OWN_FILES, TEXT_BYTES_MAX, type_name
from furlong_worker.output import MAIN_THREAD

# The function by which a debugger's commands are called.
DEBUG = b"furlong_worker:debug"
# For so long after the failure, or after the last command.
KEPT_SECONDS = 600.0
TOKEN_BYTES = 16
# Of the sources that a client may lend to the frames' files.
SOURCES_CHARACTERS_MAX = 1024 * 1024
# Files without source here that a client is asked for.
MISSING_MAX = 32
# Characters of an exception's text where a debugger says in which one it is.
LINE_MAX = 2000
# Where Python 3.12 and later keep the debugger's own variables: in the globals of each frame.
CONVENIENCE = "__pdb_convenience_variables"

# Nothing goes on from where an exception was raised, and there is no terminal to read from.
REFUSED = frozenset(
    [
        "b",
        "break",
        "tbreak",
        "cl",
        "clear",
        "commands",
        "condition",
        "disable",
        "enable",
        "ignore",
        "c",
        "cont",
        "continue",
        "n",
        "next",
        "s",
        "step",
        "unt",
        "until",
        "r",
        "return",
        "j",
        "jump",
        "run",
        "restart",
        "interact",
        "debug",
    ]
)
OTHER_WORK = "its interpreter has begun other work since"
RELEASED, OPEN, GONE = "released", "open", "gone"


class Frames:
    """The frames that are kept, if there are some."""

    def __init__(self) -> None:
        self.kept: Kept | None = None
        self.is_debugging = False
        # The token of what was kept before, and why it is kept no longer.
        self._last: tuple[str, str] = ("", "")

    def keep(self, error: BaseException) -> str:
        """Keep an exception's frames for a debugger, and return the token that opens them.

        It is empty if there is none of user code, or if those of another error of this job are kept. Where memory has
        run out nothing is held on to.
        """
        if self.is_debugging or self.kept is not None or isinstance(error, MemoryError):
            return ""
        step = error.__traceback__
        while step is not None and _is_own(step.tb_frame):
            step = step.tb_next
        if step is None:
            return ""
        self.kept = Kept(error, step)
        return self.kept.token

    def release(self, why: str) -> None:
        """Let go of them."""
        kept, self.kept = self.kept, None
        if kept is not None:
            self._last = kept.token, why
            kept.give_back()

    def begin(self, is_debugger: bool) -> None:
        """Let go of them for a job that begins, unless it is a debugger's command."""
        self.is_debugging = is_debugger
        if self.kept is not None and not is_debugger:
            self.release(OTHER_WORK)

    def make_room(self) -> None:
        """Let go of them before the data of a large job come."""
        self.release(OTHER_WORK)

    def seconds_left(self) -> float:
        """Return for how long they are still kept."""
        return 0.0 if self.kept is None else self.kept.until - time.monotonic()

    def debug(self, call: Buffer = b"{}", *_: Buffer) -> bytes:
        """Answer a debugger's command: what `run` takes and gives, as JSON."""
        self.is_debugging = True
        try:
            wanted = json.loads(bytes(call))
            token, command, sources = (wanted.get(name) for name in ("token", "command", "sources"))
        except (AttributeError, RecursionError, ValueError):
            token = command = sources = None
        return json.dumps(self.run(token, command, sources)).encode()

    def run(self, token: object, command: object, sources: object) -> dict[str, Any]:
        """Run a command of the debugger in the frames that a token opens; without one say where they are.

        Returns
        -------
        dict
            ``state``: whether they are ``open``, or ``released`` by this command, or ``gone``; ``text``, what the
            debugger has written, or why they are gone; and ``missing``, files of the frames without source here.
        """
        kept = self.kept
        if kept is None or not _is_same(kept.token, token):
            return {"state": GONE, "text": self._why_gone(token), "missing": []}
        kept.renew()
        if isinstance(sources, dict):
            kept.lend(sources)
        text, is_over = kept.run(command if isinstance(command, str) else None)
        if is_over:
            self.release("its debugger was left")
        state = RELEASED if is_over else OPEN
        return {"state": state, "text": text, "missing": [] if is_over else kept.missing()}

    def _why_gone(self, token: object) -> str:
        last, why = self._last
        if last and _is_same(last, token):
            return why
        return f"{OTHER_WORK}, or is another one now"


class Kept:
    """An exception with its frames, and the debugger in them once somebody has opened it."""

    def __init__(self, error: BaseException, traceback: types.TracebackType) -> None:
        self.token = binascii.hexlify(os.urandom(TOKEN_BYTES)).decode()
        self.until = 0.0
        self._error = error
        self._traceback = traceback
        self._written = _Bounded()
        self._debugger: Any = None
        self._lent: list[str] = []
        self.renew()

    def renew(self) -> None:
        """Keep it for the whole time again."""
        self.until = time.monotonic() + KEPT_SECONDS

    def missing(self) -> list[str]:
        """Return the files of its frames of which there is no source here."""
        files = dict.fromkeys(frame.f_code.co_filename for frame, _ in self._debugger.stack)
        return [file for file in files if not linecache.getlines(file)][:MISSING_MAX]

    def lend(self, sources: dict[Any, Any]) -> None:
        """Take sources of files that are not here, until the frames go."""
        if self._debugger is None:
            return
        room = SOURCES_CHARACTERS_MAX
        for file in self.missing():
            source = sources.get(file)
            if isinstance(source, str) and len(source) <= room:
                room -= len(source)
                linecache.cache[file] = len(source), None, source.splitlines(True), file
                self._lent.append(file)

    def give_back(self) -> None:
        """Forget what was left elsewhere: the sources that were lent, and what the debugger has put in modules."""
        for file in self._lent:
            linecache.cache.pop(file, None)
        for frame, _ in [] if self._debugger is None else self._debugger.stack:
            frame.f_globals.pop(CONVENIENCE, None)

    def run(self, command: str | None) -> tuple[str, bool]:
        """Run a command, or say where the frames are; return what was written, and whether that was the end."""
        if self._debugger is None:
            self._debugger = _debugger()(self._written, self._error, self._traceback)
        is_over = False
        with contextlib.redirect_stdout(self._written), contextlib.redirect_stderr(self._written):
            try:
                if command is None:
                    self._say_where()
                else:
                    is_over = self._debugger.run_line(command)
            except KeyboardInterrupt:
                self._written.take()
                raise
            except BaseException as error:  # of the debugger itself
                print(f"*** {type_name(type(error))}: {error}"[:LINE_MAX])
        return self._written.take(), is_over

    def _say_where(self) -> None:
        try:
            text = str(self._error)
        except BaseException:
            text = "<its text cannot be had: str() failed>"
        name = type_name(type(self._error))
        print(f"{name}: {text}"[:LINE_MAX] if text else name)
        debugger = self._debugger
        debugger.print_stack_entry(debugger.stack[debugger.curindex])


class _Bounded(io.StringIO):
    """The text that the main thread writes, up to a bound, and how much of it is left out."""

    _left_out = 0

    def write(self, text: str) -> int:
        """Take a text; that of a thread which other work has left behind is not for this owner."""
        if _thread.get_ident() != MAIN_THREAD and sys.__stdout__ is not None:
            return sys.__stdout__.write(text)
        room = max(0, TEXT_BYTES_MAX - self.tell())
        self._left_out += max(0, len(text) - room)
        super().write(text[:room])
        return len(text)

    def take(self) -> str:
        """Return what was written, and begin anew."""
        text = self.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
        if self._left_out:
            text += f"\n... [{self._left_out} characters left out] ...\n"
        self.seek(0)
        self.truncate()
        self._left_out = 0
        return text


@functools.lru_cache(maxsize=None)
def _debugger() -> Any:
    """Make the class of debuggers; its module is loaded for that."""
    import pdb

    class Debugger(pdb.Pdb):
        """A debugger after the end: it looks, and goes nowhere."""

        def __init__(
            self, written: io.StringIO, error: BaseException, traceback: types.TracebackType
        ) -> None:
            super().__init__(stdin=io.StringIO(), stdout=written, nosigint=True, readrc=False)
            self.reset()
            self.setup(None, traceback)
            if hasattr(self, "set_convenience_variable"):  # Python 3.12 and later
                self.set_convenience_variable(self.curframe, "exception", error)

        def get_stack(self, f: Any, t: Any) -> tuple[list[Any], int]:
            """Leave out the frames that are not the user's."""
            stack = [entry for entry in super().get_stack(f, t)[0] if not _is_own(entry[0])]
            return stack, max(0, len(stack) - 1)

        def run_line(self, line: str) -> bool:
            """Run a line, and those that it stands for; return whether it was the last one."""
            is_over = False
            self.cmdqueue.append(line)
            while self.cmdqueue and not is_over:
                line = self.precmd(self.cmdqueue.pop(0))
                is_over = bool(self.postcmd(self.onecmd(line), line))
            self.cmdqueue.clear()
            return is_over

        def onecmd(self, line: str) -> Any:
            """Refuse what would go on from here."""
            name = self.parseline(line)[0]
            if name in REFUSED:
                print(
                    f"*** `{name}` is not here: the task has ended. Look around with w, u, d, l, ll, a, p, pp and "
                    f"`!code`; q ends the debugger."
                )
                return False
            return super().onecmd(line)

    return Debugger


def _is_own(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OWN_FILES)


def _is_same(token: str, other: object) -> bool:
    return isinstance(other, str) and hmac.compare_digest(
        token.encode(), other.encode("utf-8", "backslashreplace")
    )


# Those of this interpreter.
FRAMES = Frames()
