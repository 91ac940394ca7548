"""Standard output and error, and what must happen to them at a job's end."""

from __future__ import annotations

import _thread
import array
import collections
import contextlib
import faulthandler
import fcntl
import io
import os
import resource
import sys
import termios
import threading
from typing import Callable

MAIN_THREAD = _thread.get_ident()
# What is kept of what comes late, and of it in one piece.
LATE_CHARACTERS_MAX = 64 * 1024
PIECE_CHARACTERS_MAX = 4 * 1024


class Stream(io.TextIOWrapper):
    """Standard output or error.

    What a thread writes after its job's end is not taken for output of a later job.
    """

    def __init__(self, fd: int, is_late: Callable[[], bool], late: Late) -> None:
        super().__init__(
            open(fd, "wb", closefd=False),  # noqa: SIM115 - the stream that is made of it closes it
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self._fd = fd
        self._is_late = is_late
        self._late = late
        # Is told how many characters are written, while a map runs.
        self.note: Callable[[int], None] | None = None

    @property
    def name(self) -> str:
        """The name that CPython gives the stream."""
        return "<stdout>" if self._fd == 1 else "<stderr>"

    def write(self, text: str) -> int:
        """Write text; newlines send it on its way."""
        if _thread.get_ident() != MAIN_THREAD and self._is_late():
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            self._late.write(self._fd, text)
            return len(text)
        if self.note is not None:
            self.note(len(text))
        return super().write(text)


class Late:
    """The last that threads have printed after their jobs' ends, for whoever asks, and for the engine's log."""

    def __init__(self, send_stray: Callable[[int, bytes], None]) -> None:
        self._send_stray = send_stray
        self._lock = threading.Lock()
        # Of a thread and a stream in turn: the thread's name, the stream's, and the text.
        self._kept: collections.deque[list[str]] = collections.deque()
        self._size = 0
        self._dropped = 0

    def write(self, fd: int, text: str) -> None:
        """Take what the calling thread has printed."""
        thread, stream = threading.current_thread().name, "stdout" if fd == 1 else "stderr"
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if (
                self._kept
                and self._kept[-1][:2] == [thread, stream]
                and len(self._kept[-1][2]) < PIECE_CHARACTERS_MAX
            ):
                self._kept[-1][2] += text
            else:
                self._kept.append([thread, stream, text])
            self._size += len(text)
            self._drop(self._size - LATE_CHARACTERS_MAX)
        self._send_stray(fd, data)

    def _drop(self, excess: int) -> None:
        """Let go of so many of the oldest characters."""
        while excess > 0:
            oldest = self._kept[0]
            text = oldest[2]
            oldest[2] = text[excess:]
            dropped = len(text) - len(oldest[2])
            if not oldest[2]:
                self._kept.popleft()
            excess -= dropped
            self._size -= dropped
            self._dropped += dropped

    def take(self) -> list[tuple[str, str, str]]:
        """Return it, the oldest first, and forget it."""
        with self._lock:
            pieces = [(thread, stream, text) for thread, stream, text in self._kept]
            if self._dropped:
                gap = (
                    f"... [{self._dropped} characters left out; "
                    "the engine's log may have them] ...\n"
                )
                pieces.insert(0, ("", "stderr", gap))
            self._kept.clear()
            self._size = self._dropped = 0
        return pieces


class Output:
    """The process's two output streams, and what must happen to them at a job's end."""

    UNREAD_NOTHING = bytes(array.array("i", [0]))

    def __init__(
        self, is_late: Callable[[], bool], send_stray: Callable[[int, bytes], None]
    ) -> None:
        self._is_late = is_late
        self.late = Late(send_stray)
        # Copies out of the way of code that closes or replaces 1 and 2.
        self._pipes = tuple(far_copy(fd) for fd in (1, 2))
        self._identities = [_identity(fd) for fd in self._pipes]
        self._can_ask = (
            sys.platform == "linux"
        )  # elsewhere the writing end does not know what is unread
        self._modules_seen = len(sys.modules)
        self._modules_own = frozenset(sys.modules)
        self._flush_c: Callable[[int | None], int] | None = None
        faulthandler.enable(file=self._pipes[1])
        self._open_streams()

    def _open_streams(self) -> None:
        self.out = Stream(1, self._is_late, self.late)
        self.err = Stream(2, self._is_late, self.late)
        for name, stream in (("stdout", self.out), ("stderr", self.err)):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def settle(self, thorough: bool) -> bool:
        """Flush everything that the job wrote; True if the engine has not read all of it yet.

        With `thorough`, also look whether 1 and 2 are still the pipes.
        """
        if sys.stdout is not self.out or sys.stderr is not self.err:
            self._put_back()
        try:
            self.out.flush()
            self.err.flush()
            is_intact = not thorough or [_identity(fd) for fd in (1, 2)] == self._identities
        except (OSError, ValueError):  # closed, by number or by name
            is_intact = False
        if not is_intact:
            for fd, pipe in zip((1, 2), self._pipes):
                os.dup2(pipe, fd)
            self._open_streams()
        if len(sys.modules) != self._modules_seen:
            self._look_for_c_code()
        if self._flush_c is not None:
            self._flush_c(None)
        out, err = self._pipes
        nothing, fionread, ioctl = self.UNREAD_NOTHING, termios.FIONREAD, fcntl.ioctl
        return (
            not self._can_ask
            or ioctl(out, fionread, nothing) != nothing
            or ioctl(err, fionread, nothing) != nothing
        )

    def _put_back(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # whatever the job put there
                stream.flush()
        sys.stdout, sys.stderr = self.out, self.err

    def _look_for_c_code(self) -> None:
        """Flush C's own buffers too, from the first module on that may print from C."""
        self._modules_seen = len(sys.modules)
        if self._flush_c is not None:
            return
        for name, module in list(sys.modules.items()):
            if name in self._modules_own:
                continue
            file = getattr(module, "__file__", None) or ""
            if name == "_ctypes" or (str(file).endswith(".so") and "lib-dynload" not in str(file)):
                try:
                    import ctypes

                    self._flush_c = ctypes.CDLL(None).fflush
                except (ImportError, OSError, AttributeError):
                    self._flush_c = _flush_nothing
                self._modules_seen = len(sys.modules)
                return


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _flush_nothing(_: int | None) -> int:
    """Stand in for C's fflush where it cannot be reached."""
    return 0


def far_copy(fd: int) -> int:
    """Copy a descriptor to a number that code which closes or replaces the first ones does not reach."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    far = 100 if limit == resource.RLIM_INFINITY else min(100, limit // 2)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, far)
