"""The engine, for code that runs on it."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["engine", "publish", "publish_data"]


def _worker() -> Any:
    worker = sys.modules.get("furlong_worker")
    if worker is None:
        raise RuntimeError("this is no engine: it is for code that runs as a task")
    return worker


def engine() -> Any:
    """Return the engine that the calling task runs on: ``id``, ``rank`` (None without MPI), ``labels``.

    Raises
    ------
    RuntimeError
        If this process is no engine.
    """
    return _worker().current_engine()


def publish(value: object) -> None:
    """Send a value to the client while the task runs: there it is the result's ``data``, the latest one only.

    Raises
    ------
    RuntimeError
        If no task runs here.
    ValueError
        If the value is larger than 16 MiB.
    """
    _worker().publish(value)


publish_data = publish
