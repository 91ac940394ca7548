"""The module `cloudpickle` as text, for engines whose Python has none."""

from __future__ import annotations

import functools
from pathlib import Path

from furlong import _furlong


@functools.lru_cache(maxsize=1)
def support() -> _furlong.Support:
    """Give the source of our cloudpickle, for engines that have none."""
    import importlib.util
    import zlib

    package = importlib.util.find_spec("cloudpickle")
    if package is None or package.origin is None:
        raise ImportError(
            "furlong needs the package cloudpickle: pip install cloudpickle", name="cloudpickle"
        )
    return _furlong.Support(
        zlib.compress((Path(package.origin).parent / "cloudpickle.py").read_bytes())
    )
