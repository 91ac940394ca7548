"""The front end of IPython that this program belongs to, if it belongs to one: a terminal, or a notebook."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["is_notebook", "shell"]


def shell() -> Any:
    """Return the session of IPython that this program is; None if it is none."""
    ipython = sys.modules.get("IPython")
    # While IPython is being imported it has no such function yet.
    get_ipython = getattr(ipython, "get_ipython", None)
    return None if get_ipython is None else get_ipython()


def is_notebook() -> bool:
    """Return whether the front end shows more than text."""
    return getattr(shell(), "kernel", None) is not None
