"""What pickles from engines refer to by name."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from typing import Any


def load_code(major: int, minor: int, inner: bytes, buffers: Sequence[Any] = ()) -> Any:
    """Load a value that holds code objects, which only the same version of Python can read."""
    here = sys.version_info[:2]
    if (major, minor) != here:
        raise TypeError(
            f"the result holds functions or classes by value, which Python {major}.{minor} made and "
            f"Python {here[0]}.{here[1]} cannot read; return data, or run the engines with this version (`--python`)"
        )
    return pickle.loads(inner, buffers=buffers)
