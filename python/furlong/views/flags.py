"""The flags of views: their names, types and defaults. `View` says what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["FLAGS", "TASK_FLAGS"]

# For type checkers alone: making the classes costs each program's start.
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypedDict

    from furlong.calls.checks import Tasks
    from furlong.calls.targets import Targets

    class TaskFlags(TypedDict, total=False):
        """Options of tasks, as the broker has them."""

        label: str | None
        priority: int
        retries: int | None
        error_retries: int | None
        backoff: float
        at_most_once: bool
        timeout: float | None
        run_timeout: float | None
        time_request: float | None
        after: Tasks
        follow: Tasks
        require: str | Iterable[str]
        keep: bool
        durable: bool
        restart_safe: bool
        stay: bool

    class NewViewFlags(TaskFlags, total=False):
        """Flags with which a view on chosen engines is made."""

        block: bool
        track: bool
        writable: bool

    class ViewFlags(NewViewFlags, total=False):
        """All flags of a view."""

        targets: Targets

    class CallFlags(TaskFlags, total=False):
        """Flags of single calls, which say by themselves whether they block."""

        track: bool
        targets: Targets


TASK_FLAGS: dict[str, object] = {
    "label": None,
    "priority": 0,
    "retries": None,
    "error_retries": None,
    "backoff": 0.0,
    "at_most_once": False,
    "timeout": None,
    "run_timeout": None,
    "time_request": None,
    "after": None,
    "follow": None,
    "require": (),
    "keep": False,
    "durable": False,
    "restart_safe": False,
    "stay": False,
}
FLAGS: dict[str, object] = {
    "block": False,
    "track": False,
    "targets": None,
    "writable": True,
    **TASK_FLAGS,
}
