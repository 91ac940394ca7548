"""Files that a script or a source imports: one that was edited since is read again, as in a new Python."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Tuple

Stamp = Tuple[int, int]


class Helpers:
    """The modules of users that were imported here, and what their files were like then."""

    def __init__(self) -> None:
        paths = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
        self._installed = tuple(
            f"{path.rstrip(os.sep)}/" for path in paths if path not in ("", "/", "/usr")
        )
        self._stamps: dict[str, tuple[str, Stamp]] = {}
        self._modules_seen = 0

    def note(self) -> None:
        """Take note of what has been imported since the last time."""
        if len(sys.modules) == self._modules_seen:
            return
        self._modules_seen = len(sys.modules)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if (
                name in self._stamps
                or name == "__main__"
                or getattr(module, "__spec__", None) is None
            ):
                continue
            if isinstance(file, str) and file.endswith(".py") and not self._is_installed(file):
                stamp = _stamp(file)
                if stamp is not None:
                    self._stamps[name] = file, stamp

    def forget_edited(self) -> bool:
        """Forget all of them if one has been edited, since others may have parts of it; whether that was so."""
        if all(_stamp(file) == stamp for file, stamp in self._stamps.values()):
            return False
        for name, (file, _) in self._stamps.items():
            sys.modules.pop(name, None)
            # What was compiled of it counts as current if the edit came within a second and kept
            # the size.
            with contextlib.suppress(OSError, NotImplementedError):
                Path(importlib.util.cache_from_source(file)).unlink()
        self._stamps.clear()
        self._modules_seen = 0
        importlib.invalidate_caches()
        return True

    def _is_installed(self, file: str) -> bool:
        return (
            file.startswith(self._installed) or "site-packages" in file or "dist-packages" in file
        )


def _stamp(file: str) -> Stamp | None:
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def forget_half_imported() -> None:
    """Forget the parts of packages whose import was interrupted: they would stay without their package."""
    for name in list(sys.modules):
        parent = name.rpartition(".")[0]
        if parent and parent not in sys.modules:
            del sys.modules[name]
