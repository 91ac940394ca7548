"""A scheduler of Dask in this process, whose workers are in the engines' interpreters: ``rc.become_dask()``."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong.libraries import dask_worker

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["DaskFarm"]

# How long the scheduler has to come up and to close, and engines to say that their workers are
# gone, in seconds.
START_SECONDS = 30.0
CLOSE_SECONDS = 10.0
# Pages of Dask ask for no password: by default they are for this machine alone.
PAGES = "127.0.0.1:0"


class DaskFarm:
    """A scheduler, the workers that were started for it, and the clients that were given out.

    Parameters
    ----------
    client : Client
        The client whose engines become workers.
    engines : sequence of int
        The engines that are the first ones.
    security : distributed.Security or False, optional
        The keys of all connections; by default such as are made for this scheduler alone. False for connections that
        are open to everybody who reaches their ports.
    options : mapping
        Arguments of `distributed.Scheduler`.

    Raises
    ------
    ImportError
        If `distributed`, or `cryptography` which makes the keys, is missing here.
    """

    def __init__(
        self, client: Client, engines: Sequence[int], security: Any, options: Mapping[str, Any]
    ) -> None:
        self._id = os.urandom(8).hex()
        self._security = _keys() if security in (None, True) else security or None
        known = {"security": self._security, "dashboard_address": PAGES, **options}
        if "host" not in known and "interface" not in known:
            known["host"] = _host(client, engines)
        _check_options(known)
        folder = dask_worker.folder_of(self._id)
        known = {"local_directory": folder, **known}
        self._clients: list[Any] = []
        self._thread = _Scheduler(known, folder)
        # If the client is forgotten, nobody can stop it any longer.
        self._finalizer = weakref.finalize(client, _close, self._thread, self._clients)
        self._finalizer.atexit = False  # then it is closed, as the client is
        try:
            self._thread.wait_for_start()
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """The state of the scheduler, true if it runs: `shutdown` of one of Dask's clients ends it, too."""
        return self._thread.is_open

    def start_workers(
        self, client: Client, engines: Sequence[int], nanny: bool, options: Mapping[str, Any]
    ) -> None:
        """Start workers on these engines, where none runs yet."""
        known = {
            "security": self._security,
            "dashboard_address": PAGES,
            "silence_logs": logging.WARNING,
            "nthreads": 1,
            **options,
        }
        view = client.direct_view(list(engines), block=True)
        view.apply_sync(dask_worker.start, self._id, self._thread.address, nanny, known)
        view.execute(_NAMES.format(self._id), silent=True)

    def client(self) -> Any:
        """Return a new `distributed.Client` of the scheduler."""
        # On the loop of the scheduler, as clients of a `LocalCluster` are: Dask does not end a loop
        # of its own when `shutdown` closes its client.
        address, loop = self._thread.address, self._thread.io_loop
        made = _distributed().Client(
            address, loop=loop, security=self._security, timeout=START_SECONDS
        )
        self._clients[:] = [one for one in self._clients if one.status != "closed"] + [made]
        return made

    def stop(self, client: Client, engines: Sequence[int]) -> None:
        """Close clients, scheduler and workers. An engine that is busy with something else is not waited for."""
        self.close()
        view = client.direct_view(list(engines), block=False)
        stopped = view.apply_async(dask_worker.stop, self._id)
        names = view.execute(_NO_NAMES, silent=True)
        for result in (stopped, names):
            if not result.wait(CLOSE_SECONDS):
                result.abort()  # the worker there has heard of the end from the scheduler

    def close(self) -> None:
        """Close clients and scheduler; workers end when their scheduler does."""
        self._finalizer()


# The names that ipyparallel gives the worker, for `Reference` and for code.
_NAMES = (
    "import furlong.libraries.dask_worker as _dask_worker\n"
    "dask_worker = distributed_worker = _dask_worker.worker_of({!r})\n"
    "del _dask_worker"
)
_NO_NAMES = (
    "for _name in ('dask_worker', 'distributed_worker', '_name'): globals().pop(_name, None)"
)


def check_engines(client: Client, engines: Sequence[int]) -> None:
    """Raise `ImportError` if one of these engines has no `distributed`."""
    found = client.direct_view(list(engines)).apply_sync(dask_worker.is_there)
    missing = [engine for engine, is_there in zip(engines, found, strict=True) if not is_there]
    if missing:
        raise ImportError(
            f"engines {missing} have no package `distributed`: install it there, in the version that is here"
        )


def _distributed() -> Any:
    """Import the package, which has no types."""
    return importlib.import_module("distributed")


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an option that no scheduler has: Dask's own check comes when its page is open already."""
    classes = [one for one in _distributed().Scheduler.__mro__ if "__init__" in vars(one)]
    known = {name for one in classes for name in inspect.signature(one.__init__).parameters}
    for name in options:
        if name not in known:
            raise TypeError(f"distributed.Scheduler has no option {name!r}")


def _keys() -> Any:
    """Make keys for one scheduler."""
    try:
        return _distributed().Security.temporary()
    except ImportError:
        raise ImportError(
            "the connections of Dask are encrypted by keys that the package `cryptography` makes: install it here, or "
            "pass `security=False` where nobody else reaches the ports of these machines"
        ) from None


def _host(client: Client, engines: Sequence[int]) -> str | None:
    """Return the address at which engines reach this process: of this machine alone if all of them are here."""
    here = dask_worker.network()
    networks = client.direct_view(list(engines)).apply_sync(dask_worker.network)
    if all(network == here for network in networks):
        return "127.0.0.1"
    broker = client._session.endpoint.partition("://")[2].rpartition(":")[0].strip("[]")
    found = str(_distributed().utils.get_ip(broker))
    return None if found.startswith("127.") or found == "::1" else found


def _close(scheduler: _Scheduler, clients: list[Any]) -> None:
    for client in clients:
        with contextlib.suppress(Exception):  # it may have been closed while its scheduler was gone
            client.close(timeout=CLOSE_SECONDS)
    scheduler.close()


class _Scheduler(threading.Thread):
    """The thread of a scheduler."""

    def __init__(self, options: Mapping[str, Any], folder: str) -> None:
        super().__init__(name="furlong-dask-scheduler", daemon=True)
        self._options = options
        self._folder = folder
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        #: Its address, and the loop on which it and its clients run.
        self.address = ""
        self.io_loop: Any = None
        #: Whether it runs: one of Dask's clients may end it before `close` does.
        self.is_open = False
        self.start()

    def run(self) -> None:
        """Run the scheduler, and its loop until `close` is called."""
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # whoever has made it raises it
            self._error = error
        finally:
            self.is_open = False
            shutil.rmtree(self._folder, ignore_errors=True)
            self._ready.set()

    async def _serve(self) -> None:
        distributed = _distributed()
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.io_loop = importlib.import_module("tornado.ioloop").IOLoop.current()
        with distributed.utils.silence_logging_cmgr(logging.WARNING):
            async with distributed.Scheduler(**self._options) as scheduler:
                self.address = scheduler.address
                self.is_open = True
                self._ready.set()
                finished = asyncio.ensure_future(self._note_end(scheduler))
                await self._end.wait()
                finished.cancel()

    async def _note_end(self, scheduler: Any) -> None:
        await scheduler.finished()
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait_for_start(self) -> None:
        """Wait until it listens; raise what has kept it from that."""
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError(f"Dask's scheduler has not started in {START_SECONDS:g} s")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Close it, and with it its workers."""
        loop, end = self._loop, self._end
        if loop is not None and end is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(end.set)
        self.join(CLOSE_SECONDS)
