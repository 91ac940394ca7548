"""The connection to a cluster.

`from furlong import client` gives what IPython.kernel 0.10 has in its module of that name as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from furlong.client.client import Client

if TYPE_CHECKING:
    from furlong.ipython_kernel import (
        CompositeError,
        FileTimeoutError,
        InvalidEngineID,
        InvalidTaskID,
        MapTask,
        MessageSizeError,
        MultiEngineClient,
        NotDefined,
        PendingResult,
        QueueCleared,
        ResultList,
        ResultNotCompleted,
        SecurityError,
        SerializationError,
        StringTask,
        TaskAborted,
        TaskClient,
        TaskRejectError,
        TaskResult,
        TaskTimeout,
    )

__all__ = [
    "Client",
    "CompositeError",
    "FileTimeoutError",
    "InvalidEngineID",
    "InvalidTaskID",
    "MapTask",
    "MessageSizeError",
    "MultiEngineClient",
    "NotDefined",
    "PendingResult",
    "QueueCleared",
    "ResultList",
    "ResultNotCompleted",
    "SecurityError",
    "SerializationError",
    "StringTask",
    "TaskAborted",
    "TaskClient",
    "TaskRejectError",
    "TaskResult",
    "TaskTimeout",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from furlong import ipython_kernel

    return getattr(ipython_kernel, name)
