"""Cells that all run on engines, as ``%autopx`` wants it: IPython's own methods are replaced for that time."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Everything"]

# How cells come: IPython has one method for cells without `await`, and one for cells with it.
_ENTRANCES = ("run_cell", "run_cell_async")


class Everything:
    """Sends a session's cells elsewhere.

    IPython still numbers the cells, keeps their history and checks their syntax. Only what would run their code is
    replaced.

    Parameters
    ----------
    shell : InteractiveShell
        The session.
    suffix : str
        That of the magics which stay here.
    run : callable
        Runs a cell elsewhere.
    """

    def __init__(self, shell: Any, suffix: str, run: Callable[[str], object]) -> None:
        self._shell = shell
        self._run = run
        self._cell = ""
        self._replaced: dict[str, Any] = {}
        # Such a cell is for the magics of this session.
        self._own = re.compile(rf"\s*%(?:(?:autopx|pxresult|pxconfig){suffix}|result)\b[^\n]*\Z")

    @property
    def is_on(self) -> bool:
        """True if cells go elsewhere."""
        return bool(self._replaced)

    def start(self) -> None:
        """Send cells elsewhere from the next one on."""
        shell = self._shell
        names = [name for name in (*_ENTRANCES, "run_ast_nodes") if hasattr(shell, name)]
        self._replaced = {name: getattr(shell, name) for name in names}
        for name in names:
            setattr(shell, name, self._nodes if name == "run_ast_nodes" else self._noting(name))

    def stop(self) -> None:
        """Run cells here again."""
        for name, method in self._replaced.items():
            # What was a method of the class is one again.
            if getattr(method, "__self__", None) is self._shell:
                vars(self._shell).pop(name, None)
            else:
                setattr(self._shell, name, method)
        self._replaced = {}

    def _noting(self, name: str) -> Callable[..., Any]:
        """Return an entrance that notes the cell as it was typed."""
        entrance = self._replaced[name]

        # Kernels look at the signature for what they may pass on.
        @functools.wraps(entrance)
        def noting(raw_cell: str, *args: Any, **kwargs: Any) -> Any:
            self._cell = raw_cell
            return entrance(raw_cell, *args, **kwargs)

        return noting

    async def _nodes(
        self,
        nodelist: Any,
        cell_name: str,
        interactivity: str = "last_expr",
        compiler: Any = compile,
        result: Any = None,
    ) -> bool:
        """Run what was noted elsewhere, in the place of its code here; return whether it has failed."""
        if self._own.match(self._cell.rstrip()):
            own = self._replaced["run_ast_nodes"]
            failed = own(nodelist, cell_name, interactivity, compiler, result=result)
            return bool(await failed if inspect.isawaitable(failed) else failed)
        try:
            self._run(self._cell)
        except Exception as error:
            if result is not None:
                # So that a notebook does not go on with the next cell.
                result.error_in_exec = error
            self._shell.showtraceback(sys.exc_info())
            return True
        return False
