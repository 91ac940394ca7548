"""The module `cloudpickle` as text, for engines whose Python has none."""

from __future__ import annotations

import functools

from furlong import _furlong


@functools.lru_cache(maxsize=1)
def support() -> _furlong.Support:
    """Return the source of our cloudpickle, for engines that have none."""
    return _furlong.Support(compressed(cloudpickle_source()))


def cloudpickle_source() -> bytes:
    """Read the text of our cloudpickle."""
    import importlib.util
    from pathlib import Path

    package = importlib.util.find_spec("cloudpickle")
    if package is None or package.origin is None:
        raise ImportError(
            "furlong needs the package cloudpickle: pip install cloudpickle", name="cloudpickle"
        )
    return (Path(package.origin).parent / "cloudpickle.py").read_bytes()


def compressed(content: bytes) -> bytes:
    """Compress what is sent once a session."""
    import zlib  # it loads a library

    return zlib.compress(content)


def read_file(path: str) -> bytes:
    """Read a file."""
    from pathlib import Path  # it takes a tenth of the time that the package's import does

    return Path(path).read_bytes()
