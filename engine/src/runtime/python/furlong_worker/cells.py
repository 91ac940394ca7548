"""Cells and scripts as compiled trees: top-level `await`, and the value of a cell's last expression."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import tokenize
import types
from typing import Any, Callable

ALLOW_AWAIT: int = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
# What may follow a cell's last statement.
_LAYOUT = frozenset(
    (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.DEDENT)
)


def ends_quietly(source: str) -> bool:
    """Return whether a cell ends with a semicolon: then its last value is not shown, as in IPython."""
    if ";" not in source:
        return False
    last = ""
    # Magics are no Python; a semicolon at their end belongs to them.
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in _LAYOUT:
                last = token.string
    return last == ";"


class Cells:
    """Runs trees in a namespace. What they await runs in one event loop, which lasts from cell to cell."""

    def __init__(self, namespace: dict[str, Any], show: Callable[[Any], str | None]) -> None:
        self._namespace = namespace
        self._show = show
        self._loop: Any = None

    def run_script(self, tree: ast.Module, file: str) -> None:
        """Run a script."""
        exec(compile(tree, file, "exec", dont_inherit=True), self._namespace)

    def run(self, tree: ast.Module, file: str, source: str) -> str | None:
        """Run a cell, which may `await`, and give the text of its last expression, if it has one to show."""
        flags = ALLOW_AWAIT
        last = tree.body[-1] if tree.body else None
        expression: types.CodeType | None = None
        if isinstance(last, ast.Expr) and not ends_quietly(source):
            del tree.body[-1]
            expression = compile(ast.Expression(last.value), file, "eval", flags, dont_inherit=True)
        self._evaluate(compile(tree, file, "exec", flags, dont_inherit=True))
        value = None if expression is None else self._evaluate(expression)
        if value is None:
            return None
        text = self._show(value)
        return repr(value) if text is None else text

    def _evaluate(self, code: types.CodeType) -> Any:
        value = eval(code, self._namespace)
        return self._finish(value) if code.co_flags & inspect.CO_COROUTINE else value

    def _finish(self, coroutine: Any) -> Any:
        """Run a coroutine to its end; an interrupt cancels it first."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(task)
            raise
