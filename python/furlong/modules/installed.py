"""Installed modules, which engines have as well, told from the user's own."""

from __future__ import annotations

import functools
import sys


@functools.lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    import site
    import sysconfig
    from pathlib import Path

    paths = [
        *sysconfig.get_paths().values(),
        *getattr(site, "getsitepackages", list)(),
        site.getusersitepackages(),
    ]
    paths += [str(Path(__file__).parent.parent)]
    # The prefixes themselves hold users' folders, as `/usr` does.
    skipped = {sysconfig.get_paths().get("data"), sysconfig.get_paths().get("scripts")}
    return tuple(sorted({str(Path(path)) + "/" for path in paths if path and path not in skipped}))


@functools.lru_cache(maxsize=4096)
def is_installed(name: str, file: str | None) -> bool:
    """Return whether a module of this file is installed, or Python's own."""
    root = name.partition(".")[0]
    if root in ("cloudpickle", "furlong"):
        return True
    if root in sys.builtin_module_names or file is None:
        return True
    # One of the user's own may have the name of one of Python's.
    is_pythons = root in sys.stdlib_module_names and (not file or ".zip/" in file)
    return (
        is_pythons
        or "site-packages/" in file
        or "dist-packages/" in file
        or file.startswith(_installed_folders())
    )


def ships(module_name: str | None) -> bool:
    """Return whether what a module defines goes by value: it is the user's own, and engines may not have it."""
    if module_name is None or module_name == "__main__":
        return True
    module = sys.modules.get(module_name)
    if module is None:
        return True
    file = getattr(module, "__file__", None)
    if (
        file is None
        and getattr(module, "__spec__", None) is None
        and module_name not in sys.builtin_module_names
    ):
        return True  # code has made it, and engines cannot import it
    return not is_installed(module_name, file)
