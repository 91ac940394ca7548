"""The page of the farm in Jupyter: jupyter-server-proxy finds it as the entry point ``furlong``."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["server"]


def server() -> dict[str, Any]:
    """Return how the page is started, and the tile from which it is opened.

    It is served on a socket that only this user can connect to, and Jupyter's login is the way to it.
    """
    return {
        "command": [sys.executable, "-m", "furlong", "dashboard", "--socket", "{unix_socket}"],
        "unix_socket": True,
        "new_browser_tab": False,
        "launcher_entry": {"title": "Furlong", "path_info": "furlong/"},
    }
