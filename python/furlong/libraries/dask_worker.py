"""The workers of Dask in the interpreters of engines, for ``rc.become_dask()``. Nothing here needs the client."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from furlong import _engine

__all__ = ["folder_of", "is_there", "network", "start", "stop", "worker_of"]

# How long a worker has to come up, and to close, in seconds.
START_SECONDS = 60.0
CLOSE_SECONDS = 10.0
# How long is looked whether a scheduler listens that may be gone, in seconds.
LOOK_SECONDS = 2.0

# Those that run in this interpreter, by the farm's name for their scheduler.
_hosts: dict[str, _Host] = {}


def is_there() -> bool:
    """Return whether workers can run here."""
    return importlib.util.find_spec("distributed") is not None


def network() -> str:
    """Return the name of the network that this process is in: processes with the same one reach each other's loopback."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot} {Path('/proc/self/ns/net').readlink()}"


def start(scheduler: str, address: str, nanny: bool, options: Mapping[str, Any]) -> None:
    """Start a worker for a scheduler, unless one runs here; wait until the scheduler has it.

    Parameters
    ----------
    scheduler : str
        The farm's name for the scheduler.
    address : str
        Where the scheduler is.
    nanny : bool
        Let the worker be a process of its own.
    options : mapping
        Arguments of `distributed.Worker`.
    """
    host = _hosts.get(scheduler)
    if host is not None and host.is_alive():
        return
    known = {"name": _engine.engine().id, **options}
    host = _hosts[scheduler] = _Host(scheduler, address, nanny, known)
    host.start()
    try:
        host.wait_for_start()
    except BaseException:
        host.close()
        _forget(host)
        raise


def worker_of(scheduler: str) -> Any:
    """Return the worker that runs here for a scheduler."""
    return _hosts[scheduler].worker


def stop(scheduler: str) -> None:
    """Stop the worker of a scheduler, and remove what others of it have left on this machine when they were killed."""
    host = _hosts.get(scheduler)
    if host is not None:
        host.close()
        _forget(host)
    # Those of earlier schedulers end by themselves: after this there is none of them either.
    for other in list(_hosts.values()):
        if other.is_ending:
            other.join(CLOSE_SECONDS)
    _remove_folders(scheduler)


def folder_of(scheduler: str) -> str:
    """Make a folder for a scheduler, or for one of its workers."""
    return tempfile.mkdtemp(prefix=_prefix(scheduler))


def _remove_folders(scheduler: str) -> None:
    """Remove what a scheduler and its workers have left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(scheduler)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(scheduler: str) -> str:
    return f"furlong-dask-{scheduler}-"


def _forget(host: _Host) -> None:
    """Let go of a worker that has ended, and of all data that it had."""
    if _hosts.get(host.scheduler) is host:
        del _hosts[host.scheduler]


class _Host(threading.Thread):
    """The thread in which a worker runs, beside the tasks of the farm. It ends when its scheduler does."""

    def __init__(
        self, scheduler: str, address: str, nanny: bool, options: Mapping[str, Any]
    ) -> None:
        super().__init__(name="furlong-dask-worker", daemon=True)
        self.scheduler = scheduler
        self._address = address
        self._nanny = nanny
        self._folder = folder_of(scheduler)
        self._options = {"local_directory": self._folder, **options}
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.worker: Any = None
        # The interpreter may end before the worker does.
        weakref.finalize(self, shutil.rmtree, self._folder, True)

    def run(self) -> None:
        """Run the worker until it is closed, or has lost its scheduler."""
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # whoever has started it raises it
            self._error = error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._ready.set()
        # Of a process that was killed nobody else removes the folder.
        if self._has_lost_scheduler():
            _remove_folders(self.scheduler)
        _forget(self)

    @property
    def is_ending(self) -> bool:
        """The state of the worker, true if it closes, or has closed."""
        return self.worker is not None and self.worker.status.name in ("closing", "closed")

    def _has_lost_scheduler(self) -> bool:
        host, _, port = self._address.rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), LOOK_SECONDS).close()
        except OSError:
            return True
        return False

    async def _serve(self) -> None:
        distributed: Any = importlib.import_module("distributed")  # it has no types
        self._loop = asyncio.get_running_loop()
        if "host" not in self._options and "interface" not in self._options:
            # The way to the scheduler, which is the machine's own loopback if that is where it is.
            self._options["host"] = distributed.utils.get_ip(
                distributed.comm.get_address_host(self._address)
            )
        kind = distributed.Nanny if self._nanny else distributed.Worker
        self.worker = kind(self._address, **self._options)
        async with self.worker:
            self._ready.set()
            await self.worker.finished()

    def wait_for_start(self) -> None:
        """Wait until the scheduler has the worker; raise what has kept it from starting."""
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError(
                f"Dask's worker has not reached {self._address} in {START_SECONDS:g} s"
            )
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Close the worker. What one of its threads runs meanwhile goes on: nothing can end a thread."""
        loop, worker = self._loop, self.worker
        if loop is not None and worker is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._close_soon)
        self.join(CLOSE_SECONDS)

    def _close_soon(self) -> None:
        self._closing = asyncio.ensure_future(self.worker.close(timeout=CLOSE_SECONDS / 2))
