"""Standard output and error, and what must happen to them at a job's end."""

from __future__ import annotations

import _thread
import array
import contextlib
import faulthandler
import fcntl
import io
import os
import resource
import sys
import termios
from typing import Callable

MAIN_THREAD = _thread.get_ident()


class Stream(io.TextIOWrapper):
    """Standard output or error.

    What a thread writes after its job's end is not taken for output of a later job.
    """

    def __init__(self, fd: int, is_late: Callable[[], bool], send_stray: Callable[[int, bytes], None]) -> None:
        super().__init__(
            open(fd, "wb", closefd=False),  # noqa: SIM115 - the stream that is made of it closes it
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self._fd = fd
        self._is_late = is_late
        self._send_stray = send_stray

    @property
    def name(self) -> str:
        """The name that CPython gives the stream."""
        return "<stdout>" if self._fd == 1 else "<stderr>"

    def write(self, text: str) -> int:
        """Write text; newlines send it on its way."""
        if _thread.get_ident() != MAIN_THREAD and self._is_late():
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            self._send_stray(self._fd, text.encode("utf-8", "backslashreplace"))
            return len(text)
        return super().write(text)


class Output:
    """The process's two output streams, and what must happen to them at a job's end."""

    UNREAD_NOTHING = bytes(array.array("i", [0]))

    def __init__(self, is_late: Callable[[], bool], send_stray: Callable[[int, bytes], None]) -> None:
        self._is_late = is_late
        self._send_stray = send_stray
        # Copies out of the way of code that closes or replaces 1 and 2.
        self._pipes = tuple(far_copy(fd) for fd in (1, 2))
        self._identities = [_identity(fd) for fd in self._pipes]
        self._can_ask = sys.platform == "linux"  # elsewhere the writing end does not know what is unread
        self._modules_seen = len(sys.modules)
        self._modules_own = frozenset(sys.modules)
        self._flush_c: Callable[[int | None], int] | None = None
        faulthandler.enable(file=self._pipes[1])
        self._open_streams()

    def _open_streams(self) -> None:
        self.out = Stream(1, self._is_late, self._send_stray)
        self.err = Stream(2, self._is_late, self._send_stray)
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
        return not self._can_ask or ioctl(out, fionread, nothing) != nothing or ioctl(err, fionread, nothing) != nothing

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
