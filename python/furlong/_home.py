"""The folder of the programs' files: `FURLONG_HOME`, by default ``~/.furlong``, with one folder a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["check_name", "home", "read_json", "remove", "write_private"]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def home() -> Path:
    """Return the folder of all clusters, which need not exist."""
    named = os.environ.get("FURLONG_HOME")
    return Path(named).absolute() if named else Path.home() / ".furlong"


def check_name(name: str) -> str:
    """Return a cluster's name.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a cluster's name is 1 to 64 letters, digits, '.', '_' or '-', and does not begin with a dot; "
            f"{name!r} is none"
        )
    return name


def is_of_broker(state: dict[str, Any] | None, pid: int) -> bool:
    """Return whether the file of a broker's state, as it was read, is that of a process which listens."""
    return state is not None and state.get("pid") == pid and not state.get("stopped")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read an object; none if it is not there, or not whole."""
    try:
        with open(path, encoding="utf-8", opener=_open) as file:
            value = (
                json.loads(file.read()) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
            )
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _open(path: str, flags: int) -> int:
    """Open a file, but not through a link, and without waiting for whoever has the other end of a named pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def remove(path: Path) -> None:
    """Remove a file, if it is there, and its folder is one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def write_private(path: Path, value: Mapping[str, object]) -> None:
    """Write an object to a file of the user's own, which is there as a whole or not at all."""
    import tempfile

    # Such a file has the mode 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file, indent=1)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
