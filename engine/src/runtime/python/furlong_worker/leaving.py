"""The end of the process: its threads, and the files that it has open."""

from __future__ import annotations

import contextlib
import gc
import io
import signal
import threading
import types

# Threads have so long to end by themselves, of the time that the engine gives the whole process for
# its end.
THREADS_SECONDS = 1.0


def end_threads() -> None:
    """Do what Python does with threads at its end, for a while: then the rest of its end goes on without them.

    So a thread that never ends keeps nobody from what was registered with `atexit`, nor from their files.
    """

    def give_up(_number: int, _frame: types.FrameType | None) -> None:
        raise TimeoutError

    with contextlib.suppress(BaseException):  # whatever the code of threads does when asked to end
        signal.signal(signal.SIGALRM, give_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        signal.setitimer(signal.ITIMER_REAL, THREADS_SECONDS)
        threading._shutdown()  # type: ignore[attr-defined]
    signal.setitimer(signal.ITIMER_REAL, 0)
    # Python's own end would call it once more, and wait.
    threading._shutdown = lambda: None  # type: ignore[attr-defined]


def flush_files() -> None:
    """Write what open files have not written yet.

    Python does so at its end by letting go of them, but not of those that a thread which goes on may need.
    """
    if threading.active_count() > 1:
        for one in gc.get_objects():
            if isinstance(one, (io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)):
                with contextlib.suppress(Exception):  # it is closed, or cannot be written
                    one.flush()
