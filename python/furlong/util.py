"""The names that programs for ipyparallel take from its module of that name."""

from __future__ import annotations

import datetime
from typing import Any

from furlong.pickling.engine_names import interactive

__all__ = ["Namespace", "compare_datetimes", "ensure_timezone", "interactive", "utcnow"]


class Namespace(dict[str, Any]):
    """A dictionary whose keys are attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value


def utcnow() -> datetime.datetime:
    """Return the time, with its zone."""
    return datetime.datetime.now(datetime.timezone.utc)


def ensure_timezone(time: datetime.datetime) -> datetime.datetime:
    """Return a time with a zone: that of this machine, if it has none."""
    return time if time.tzinfo else time.astimezone()


def compare_datetimes(a: datetime.datetime, b: datetime.datetime) -> datetime.timedelta:
    """Return the time from `b` to `a`, with zones or without."""
    return ensure_timezone(a) - ensure_timezone(b)


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}: it has {', '.join(__all__)}"
    )
