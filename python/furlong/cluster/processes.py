"""Processes of a cluster: started here, or known by their ids, and ended without ever meaning another process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Child", "EngineSet", "Folder", "Process", "end_all"]

# How long a process has to leave gracefully, in seconds, and then to be gone after it was killed.
LEAVE_SECONDS = 5.0
KILL_SECONDS = 5.0
# What of a process's standard error is shown when it fails.
LINES_SHOWN = 5
BYTES_SHOWN = 16 * 1024


class Process:
    """A process of this machine, by its id and its start: the two together are never used again.

    Parameters
    ----------
    pid : int
        Its id.
    started : str
        When it was started, as `start_of` tells it.
    """

    def __init__(self, pid: int, started: str) -> None:
        self.pid = pid
        self.started = started

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Process:
        """Make it of what `to_dict` gave."""
        return cls(int(known["pid"]), str(known["started"]))

    def to_dict(self) -> dict[str, Any]:
        """Return what another process needs to find it."""
        return {"pid": self.pid, "started": self.started}

    def _open(self) -> int | None:
        """Open a descriptor of it; none if it is gone, and perhaps another has its id."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # It is looked at after the opening: who has the id now has had it then, if it is the right
        # one.
        if start_of(self.pid) == self.started:
            return descriptor
        os.close(descriptor)
        return None

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return not self.wait(0)

    def wait(self, timeout: float) -> bool:
        """Wait for its end; whether it has come in time."""
        descriptor = self._open()
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(max(0.0, timeout) * 1000))
        finally:
            os.close(descriptor)

    def send_signal(self, number: int) -> bool:
        """Send a signal; whether there was somebody to get it."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def ask_to_leave(self) -> None:
        """Ask it to give up what it does, and to leave gracefully."""
        self.send_signal(signal.SIGINT)

    def forget(self) -> None:
        """Let go of what is held of it here."""


class Child(Process):
    """A process that is started here.

    Parameters
    ----------
    argv : sequence of str
        The program and its arguments.
    env : mapping
        All of its environment.
    is_tied : bool
        Whether it ends with this process, however that ends. It must be told to stop at the end of its standard input.
    inherits : sequence of int
        Descriptors that it inherits.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        is_tied: bool,
        inherits: Sequence[int] = (),
    ) -> None:
        # A file without a name: it never fills up as a pipe does, and is gone with the last who has
        # it open.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed by `forget`
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if is_tied else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env=env,
            pass_fds=inherits,
            # Ctrl-C at the terminal is for this process alone.
            start_new_session=True,
        )
        super().__init__(self._popen.pid, start_of(self._popen.pid) or "")

    def _open(self) -> int | None:
        # A child's id is its own until it is waited for: nothing has to be asked of /proc, which
        # may not be there.
        return None if self._popen.returncode is not None else os.pidfd_open(self.pid)

    @property
    def code(self) -> int | None:
        """The exit code, as `subprocess` has it; none if it has not ended."""
        return self._popen.poll()

    def said(self) -> str:
        """Return the last lines of its standard error."""
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._stderr.fileno()).st_size
            text = os.pread(self._stderr.fileno(), BYTES_SHOWN, max(0, size - BYTES_SHOWN)).decode(
                errors="replace"
            )
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                return "\n".join(lines[-LINES_SHOWN:])
        return "it said nothing"

    def ending(self) -> str:
        """Return a text that says how it has ended, and what it wrote last."""
        code = self.code
        if code is None:
            return "it has not ended"
        how = (
            f"with exit code {code}"
            if code >= 0
            else f"by signal {-code} ({signal.Signals(-code).name})"
        )
        return f"ended {how}: {self.said()}"

    def ask_to_leave(self) -> None:
        """Ask it to give up what it does, and to leave gracefully."""
        if self._popen.stdin is None:
            super().ask_to_leave()
        else:
            self.let_go()

    def let_go(self) -> None:
        """Close its standard input, if it was started to listen to that."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def forget(self) -> None:
        """Let go of what is held of it here: it is no zombie afterwards if it has ended."""
        self.let_go()
        self._popen.poll()
        self._stderr.close()


class EngineSet:
    """Engines that were started together, as one process."""

    def __init__(self, n: int, process: Process) -> None:
        self.n = n
        self.process = process
        # How the last process has ended, while another one is about to be started.
        self.ended: str | None = None

    def ending(self) -> str | None:
        """Return how its process has ended, if no other one was started since."""
        if self.ended is None and isinstance(self.process, Child) and self.process.code is not None:
            return self.process.ending()
        return self.ended


class Folder:
    """A folder that is removed when nobody needs it any longer, even if this process is killed.

    A shell waits for the end of a pipe, whose other end this process and the cluster's have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader, self.held = os.pipe()
        try:
            self._waiting = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; exec rm -rf -- "$0"', str(path)],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self.held)
            raise
        finally:
            os.close(reader)

    def let_go(self) -> None:
        """Close the pipe."""
        if self.held >= 0:
            os.close(self.held)
            self.held = -1

    def forget(self) -> None:
        """End the shell, which leaves the folder as it is."""
        self._waiting.kill()
        self._waiting.wait()
        self.let_go()


def start_of(pid: int) -> str | None:
    """Return when a process was started: clock ticks since the machine's start, and which start that was."""
    try:
        # The second field is the program's name in brackets, which may have blanks and brackets in
        # it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{fields[19]}@{boot}"


def end_all(processes: Iterable[Process], timeout: float = LEAVE_SECONDS) -> None:
    """Ask processes to leave, and kill those that do not in time."""
    processes = list(processes)
    for process in processes:
        process.ask_to_leave()
    deadline = time.monotonic() + timeout
    late = [process for process in processes if not process.wait(deadline - time.monotonic())]
    for process in late:
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    for process in late:
        process.wait(deadline - time.monotonic())
    for process in processes:
        process.forget()
