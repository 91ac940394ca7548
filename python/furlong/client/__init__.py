"""The connection to a cluster.

`from furlong import client` gives what IPython.kernel 0.10 has in its module of that name as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from furlong.client.client import Client

if TYPE_CHECKING:
    from furlong import ipython_kernel
    from furlong.ipython_kernel import *  # noqa: F403

    __all__: list[str] = ["Client"]
    __all__ += ipython_kernel.__all__


def __getattr__(name: str) -> Any:
    # Python itself asks for names with underscores: they load nothing.
    if name == "__all__" or not name.startswith("_"):
        from furlong import ipython_kernel

        if name == "__all__":
            return ["Client", *ipython_kernel.__all__]
        if name in ipython_kernel.__all__:
            return getattr(ipython_kernel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
