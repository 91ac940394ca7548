"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["replace"]


def replace(path: str | os.PathLike[str], written: bytes) -> Path:
    """Write a file aside, then put it in the place of one that is there: whoever reads has the old one or the new one.

    Returns
    -------
    Path
        The file.
    """
    # A program that saves nothing does not import them.
    import tempfile
    from pathlib import Path

    file = Path(path)
    handle, name = tempfile.mkstemp(prefix=".furlong", dir=file.parent)
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(written)
        aside.chmod(0o644)
        aside.replace(file)
    except BaseException:
        aside.unlink()
        raise
    return file
