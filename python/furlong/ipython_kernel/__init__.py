"""The interface of IPython.kernel 0.10: `MultiEngineClient` and `TaskClient`, over the views."""

from __future__ import annotations

from furlong.errors import CompositeError, TaskAborted, TaskTimeout
from furlong.ipython_kernel.multiengine import (
    FileTimeoutError,
    InvalidEngineID,
    MessageSizeError,
    MultiEngineClient,
    NotDefined,
    PendingResult,
    QueueCleared,
    ResultList,
    ResultNotCompleted,
    SecurityError,
    SerializationError,
    TaskRejectError,
)
from furlong.ipython_kernel.tasks import (
    InvalidTaskID,
    MapTask,
    StringTask,
    TaskClient,
    TaskResult,
)

__all__: list[str] = [
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
