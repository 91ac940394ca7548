"""A client's farm for other libraries: pools, and Dask's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client as DaskClient  # type: ignore[import-not-found,unused-ignore]
    from distributed import Security  # type: ignore[import-not-found,unused-ignore]

    from furlong.calls.targets import Targets
    from furlong.client.client import Client
    from furlong.libraries.dask_farm import DaskFarm
    from furlong.libraries.pool import Pool

__all__ = ["ClientLibraries"]


class ClientLibraries:
    """The part of a client that other libraries work with."""

    _dask: DaskFarm | None

    def _engines(self, targets: Targets) -> list[int]:
        raise NotImplementedError

    def pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **flags: Any,
    ) -> Pool:
        """Return the engines with the interface of `multiprocessing.Pool`. See `furlong.libraries.pool.Pool`.

        Examples
        --------
        >>> with rc.pool() as pool:
        ...     pool.starmap(pow, [(2, 3), (3, 2)])
        [8, 9]
        """
        from furlong.libraries.pool import Pool

        return Pool(self._itself(), processes, initializer, initargs, maxtasksperchild, **flags)

    def become_dask(
        self,
        targets: Targets = "all",
        port: int = 0,
        nanny: bool = False,
        scheduler_args: Mapping[str, Any] | None = None,
        *,
        security: Security | bool | None = None,
        **worker_args: Any,
    ) -> DaskClient:
        """Start a scheduler of Dask in this process and its workers in the engines, and return a client of it.

        Called again it starts workers where none run, as on engines that have come since, and returns another client.
        `stop_dask`, or the end of this client, ends all of it. The engines go on running tasks meanwhile.

        Parameters
        ----------
        targets : int, slice, sequence of int, or "all"
            The engines that become workers; each has its number as the worker's name.
        port : int
            The scheduler's; 0 for one that is free.
        nanny : bool
            Let each worker be a process of its own, which Dask's client can restart.
        scheduler_args : mapping, optional
            Arguments of `distributed.Scheduler`, as ``host`` or ``dashboard_address``.
        security : distributed.Security or False, optional
            The keys of all connections; by default such as are made for this scheduler alone. False for connections
            that are open to everybody who reaches their ports.
        **worker_args
            Arguments of `distributed.Worker`; ``nthreads`` is 1 if nothing is said.

        Returns
        -------
        distributed.Client
            It is Dask's default from now on, as each of its clients is.

        Raises
        ------
        ImportError
            If `distributed` is missing, here or on an engine, or `cryptography`, which makes the keys.
        NoEnginesRegistered
            If there are no engines.

        Examples
        --------
        >>> dask = rc.become_dask()
        >>> dask.submit(sum, [1, 2]).result()
        3
        """
        from furlong.libraries.dask_farm import DaskFarm, check_engines

        client, engines = self._itself(), self._engines(targets)
        check_engines(client, engines)
        if self._dask is not None and not self._dask.is_open:
            self.stop_dask()
        if self._dask is None:
            options = {"port": port, **(scheduler_args or {})}
            self._dask = DaskFarm(client, engines, security, options)
        self._dask.start_workers(client, engines, nanny, worker_args)
        made: DaskClient = self._dask.client()
        return made

    def stop_dask(self, targets: Targets = "all") -> None:
        """Stop the scheduler and the workers that `become_dask` has started, and close its clients.

        What a worker runs at that moment goes on to its end, since nothing ends a thread; ``rc.restart()`` does.

        Parameters
        ----------
        targets : int, slice, sequence of int, or "all"
            The engines that are waited for until their workers are gone.
        """
        farm, self._dask = self._dask, None
        if farm is not None:
            client = self._itself()
            farm.stop(client, self._engines(targets) if client.ids else [])

    become_distributed = become_dask
    stop_distributed = stop_dask

    def _itself(self) -> Client:
        raise NotImplementedError
