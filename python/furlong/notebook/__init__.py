"""IPython and Jupyter: magics, pages, and displays that go on.

What is here is loaded when a session of IPython uses it. Plain programs import none of it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from furlong.waiting import front_end

if TYPE_CHECKING:
    from furlong.client.client import Client
    from furlong.views.direct import DirectView

__all__ = ["activate", "activate_first", "load_ipython_extension", "unload_ipython_extension"]


def activate(view: DirectView, suffix: str = "") -> None:
    """Let the magics with this suffix act on a view. See `DirectView.activate`."""
    shell = front_end.shell()
    if shell is None:
        warnings.warn(
            "%px and the other magics are for sessions of IPython, and this is none: use "
            "view.execute(code, silent=False).display_outputs()",
            stacklevel=3,
        )
        return
    from furlong.notebook.magics import register

    register(shell, view, suffix)


def activate_first(client: Client) -> None:
    """Let ``%px`` act on all engines of a client, unless it acts on a view of one that is open."""
    shell = front_end.shell()
    if shell is None:
        return
    try:
        from furlong.notebook.magics import registered
    except ImportError:
        return  # an IPython that has no such magics has clients all the same

    known = registered(shell, "")
    is_free = "px" not in shell.magics_manager.magics["line"]
    if is_free or (known is not None and not known.is_usable):
        client.activate()


def load_ipython_extension(shell: Any) -> None:
    """Register the magics, for ``%load_ext furlong``. The first one that runs connects, if there is no client yet."""
    from furlong.notebook.magics import register, registered

    if registered(shell, "") is None:
        register(shell, None, "")


def unload_ipython_extension(shell: Any) -> None:
    """Forget the magics again, for ``%unload_ext furlong``."""
    from furlong.notebook.magics import forget

    forget(shell)
