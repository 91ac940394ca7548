"""Engine processes that are killed are started again: more and more slowly, until one has lived for a while."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from furlong.cluster.processes import Child, EngineSet

if TYPE_CHECKING:
    from furlong.cluster.cluster import Cluster

__all__ = ["Supervisor"]

# The first pause before a process is started again, doubled each time, and the longest one, in
# seconds.
PAUSE = 0.1
PAUSE_MAX = 60.0
# A process that has lived for so long was sound.
SOUND_SECONDS = 60.0
# How long to wait for an end before waiting again.
LONG = 3600.0
# The exit code of a program that has found a fault of its own.
PANIC = 101

_log = logging.getLogger("furlong")


class Supervisor:
    """Looks after one set of engines, in a thread of its own, until the set is stopped.

    Parameters
    ----------
    cluster : Cluster
        Whose set it is.
    key : str
        The set's id.
    engines : EngineSet
        The set, whose process is a child of this one.
    argv : list of str
        The engines' flags.
    """

    def __init__(self, cluster: Cluster, key: str, engines: EngineSet, argv: list[str]) -> None:
        self._cluster = weakref.ref(cluster)
        self.key, self._engines, self._argv = key, engines, argv
        self._failures = 0
        threading.Thread(target=self._run, name=f"furlong-supervisor-{key}", daemon=True).start()

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            child = self._engines.process
            while not child.wait(LONG):
                pass
            if not isinstance(child, Child) or not self._note_end(child):
                return
            lived = time.monotonic() - began
            self._failures = 1 if lived >= SOUND_SECONDS else self._failures + 1
            pause = min(PAUSE * 2.0 ** min(self._failures - 1, 16), PAUSE_MAX)
            how = self._engines.ended
            _log.warning(
                "the engine process %d %s; another one is started in %g s", child.pid, how, pause
            )
            time.sleep(pause)
            if not self._start():
                return

    def _note_end(self, child: Child) -> bool:
        """Return whether another process is to be started: this one was killed, and its set was not stopped."""
        cluster = self._cluster()
        if cluster is None:
            return False
        with cluster._lock:
            code = child.code
            was_killed = code is not None and (code < 0 or code == PANIC)
            if not was_killed or cluster._engines.get(self.key) is not self._engines:
                return False
            # Who is killed has not said why.
            self._engines.ended = child.ending().partition(":")[0]
            return True

    def _start(self) -> bool:
        cluster = self._cluster()
        if cluster is None:
            return False
        with cluster._lock:
            if cluster._engines.get(self.key) is not self._engines or not cluster.is_running:
                return False
            before = self._engines.process
            self._engines.process = cluster._spawn("engine", self._argv)
            self._engines.ended = None
            before.forget()
            cluster._save()
            return True
