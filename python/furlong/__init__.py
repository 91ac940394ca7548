"""Furlong: a low-latency task farm and interactive parallel computing.

Examples
--------
>>> import furlong
>>> with furlong.Cluster(n=4) as rc:
...     rc[:].apply_sync(lambda: engine_id)
[0, 1, 2, 3]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from furlong import errors
    from furlong._engine import engine, publish, publish_data
    from furlong._furlong import __version__
    from furlong.client.client import Client
    from furlong.cluster.cluster import Cluster
    from furlong.errors import (
        AlreadyDisplayedError,
        CompositeError,
        EngineError,
        EngineNameWarning,
        FurlongError,
        ImpossibleDependency,
        InvalidDependency,
        NoEnginesRegistered,
        RemoteError,
        TaskAborted,
        TaskCancelled,
        TaskTimeout,
        UnmetDependency,
    )
    from furlong.maps.map_results import AsyncMapResult
    from furlong.pickling.engine_names import Reference, interactive
    from furlong.results.async_result import AsyncResult
    from furlong.results.displays import ExecuteReply
    from furlong.views.balanced import LoadBalancedView
    from furlong.views.dependencies import Dependency, depend, dependent, require
    from furlong.views.direct import DirectView
    from furlong.views.executor import ViewExecutor
    from furlong.views.functions import ParallelFunction, RemoteFunction, parallel, remote
    from furlong.views.view import View

# Where each name lives: nothing is imported before it is used.
_HOMES = {
    "AlreadyDisplayedError": "errors",
    "FIRST_EXCEPTION": "results.async_result",
    "FIRST_COMPLETED": "results.async_result",
    "ALL_COMPLETED": "results.async_result",
    "TimeoutError": "errors",
    "TaskRejectError": "errors",
    "KernelError": "errors",
    "IPythonError": "errors",
    "DependencyTimeout": "errors",
    "ClusterManager": "cluster.manager",
    "BroadcastView": "views.direct",
    "AsyncHubResult": "results.records",
    "AsyncMapResult": "maps.map_results",
    "AsyncResult": "results.async_result",
    "Client": "client",
    "Cluster": "cluster",
    "CompositeError": "errors",
    "Dependency": "views.dependencies",
    "DirectView": "views.direct",
    "EngineError": "errors",
    "EngineNameWarning": "errors",
    "ExecuteReply": "results.displays",
    "FurlongError": "errors",
    "ImpossibleDependency": "errors",
    "InvalidDependency": "errors",
    "LoadBalancedView": "views.balanced",
    "NoEnginesRegistered": "errors",
    "ParallelFunction": "views.functions",
    "Reference": "pickling.engine_names",
    "RemoteError": "errors",
    "RemoteFunction": "views.functions",
    "Shared": "client.shared",
    "TaskAborted": "errors",
    "TaskCancelled": "errors",
    "TaskTimeout": "errors",
    "UnmetDependency": "errors",
    "View": "views.view",
    "ViewExecutor": "views.executor",
    "__version__": "_furlong",
    "depend": "views.dependencies",
    "dependent": "views.dependencies",
    "engine": "_engine",
    "interactive": "pickling.engine_names",
    "load_ipython_extension": "notebook",
    "parallel": "views.functions",
    "publish": "_engine",
    "publish_data": "_engine",
    "remote": "views.functions",
    "require": "views.dependencies",
    "unload_ipython_extension": "notebook",
}
_MODULES = ("client", "cluster", "datapub", "error", "errors", "util")

__all__ = [
    "AlreadyDisplayedError",
    "AsyncMapResult",
    "AsyncResult",
    "Client",
    "Cluster",
    "CompositeError",
    "Dependency",
    "DirectView",
    "EngineError",
    "EngineNameWarning",
    "ExecuteReply",
    "FurlongError",
    "ImpossibleDependency",
    "InvalidDependency",
    "LoadBalancedView",
    "NoEnginesRegistered",
    "ParallelFunction",
    "Reference",
    "RemoteError",
    "RemoteFunction",
    "Shared",
    "TaskAborted",
    "TaskCancelled",
    "TaskTimeout",
    "UnmetDependency",
    "View",
    "ViewExecutor",
    "__version__",
    "depend",
    "dependent",
    "engine",
    "errors",
    "interactive",
    "parallel",
    "publish",
    "publish_data",
    "remote",
    "require",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"furlong.{name}")
    home = _HOMES.get(name)
    if name == "version_info":
        return _version_info()
    if home is None:
        from furlong.ipyparallel_names import absent

        raise absent("module 'furlong'", name)
    value = getattr(importlib.import_module(f"furlong.{home}"), name)
    globals()[name] = value
    return value


def _version_info() -> tuple[int | str, ...]:
    """Return the version as numbers, and what follows them."""
    from furlong._furlong import __version__

    return tuple(
        int(part) if part.isdecimal() else part for part in __version__.replace("-", ".").split(".")
    )


def use_cloudpickle() -> None:
    """Do nothing: functions go by cloudpickle from the beginning, as a view's `use_cloudpickle` says."""


use_dill = use_cloudpickle


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
