"""Displays of code: rich results, and output as it is shown to people."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong.calls.codecs import read_json
from furlong.waiting.front_end import is_notebook, shell

if TYPE_CHECKING:
    from furlong import _furlong
    from furlong.results.subtasks import SubTask

# A collection that does not fit on a line is laid out over several, if it is not very large.
LINE_CHARACTERS = 79
LAID_OUT_CHARACTERS_MAX = 64 * 1024
_BINARY = ("image/png", "image/jpeg", "application/pdf", "image/gif")
_REPRS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_pdf_": "application/pdf",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
}


def outputs_of(outcome: _furlong.Outcome) -> list[dict[str, Any]]:
    """Return what a task displayed, without its value: dictionaries with ``data`` and ``metadata``, both by type."""
    return [
        _output(data, metadata) for data, metadata, is_value in outcome.displays() if not is_value
    ]


def _output(data: dict[str, str], metadata: dict[str, str]) -> dict[str, Any]:
    shown = {kind: _decoded(kind, text) for kind, text in data.items()}
    return {
        "data": shown,
        "metadata": {kind: read_json(text) for kind, text in metadata.items()},
    }


def _decoded(kind: str, text: str) -> object:
    if kind.endswith("json"):
        return read_json(text)
    return text


class ExecuteReply:
    """The result of executed code.

    Attributes
    ----------
    execution_count : int
        The engine's count of executions.
    execute_result : dict or None
        The value of the last expression, if it was asked for: ``data`` and ``metadata`` by type.
    outputs : list of dict
        What the code displayed.
    stdout, stderr : str
        What it wrote.
    """

    def __init__(self, outcome: _furlong.Outcome, engine_id: int | None) -> None:
        executed = outcome.executed
        self.execution_count, text = executed or (0, None)
        self.engine_id = engine_id
        self.stdout = outcome.stdout
        self.stderr = outcome.stderr
        self.outputs = outputs_of(outcome)
        self.execute_result: dict[str, Any] | None = None
        if text is not None:
            self.execute_result = {"data": {"text/plain": text}, "metadata": {}}
            for data, metadata, is_value in outcome.displays():
                if is_value:
                    rich = _output(data, metadata)
                    self.execute_result["data"].update(rich["data"])
                    self.execute_result["metadata"].update(rich["metadata"])

    def __repr__(self) -> str:
        text = self._text()
        return f"<ExecuteReply[{self.execution_count}]: {text}>"

    def _text(self) -> str:
        if self.execute_result is None:
            return ""
        text: str = self.execute_result["data"].get("text/plain", "")
        return text if len(text) <= 32 else text[:29] + "..."

    def plain(self) -> str:
        """Return the value as text, behind engine and count, as ``Out[0:3]: 5``; empty if there is none."""
        text = "" if self.execute_result is None else self.execute_result["data"].get("text/plain")
        if not text:
            return ""
        text = _laid_out(text)
        return f"Out[{self.engine_id}:{self.execution_count}]:{_gap(text)}{text}"

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        if self.execute_result is None:
            return {"text/plain": repr(self)}, {}
        data = self.execute_result["data"]
        return {**data, "text/plain": self.plain()}, self.execute_result["metadata"]

    def __getattr__(self, name: str) -> Any:
        kind = _REPRS.get(name)
        if kind is None or self.execute_result is None or kind not in self.execute_result["data"]:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        data = self.execute_result["data"][kind]
        if kind in _BINARY:
            import base64

            data = base64.b64decode(data)
        metadata = self.execute_result["metadata"].get(kind)
        return lambda: (data, metadata) if metadata else data

    def __getitem__(self, key: str) -> Any:
        if key not in (
            "execution_count",
            "execute_result",
            "outputs",
            "stdout",
            "stderr",
            "engine_id",
        ):
            raise KeyError(key)
        return getattr(self, key)


def show_outputs(
    parts: Sequence[SubTask], is_single: bool, groupby: str, result_only: bool
) -> None:
    """Show what tasks wrote, displayed and resulted in."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"outputs are grouped by 'type', 'engine' or 'order', not by {groupby!r}")
    if groupby == "engine" and not result_only:
        for part in parts:
            _show_streams([part], is_single)
            _show_each(part, part.metadata("outputs"), is_single)
            show_result(part)
        return
    if not result_only:
        _show_streams(parts, is_single)
        displays = [(part, part.metadata("outputs")) for part in parts]
        if groupby == "order":
            for turn in range(max((len(shown) for _, shown in displays), default=0)):
                for part, shown in displays:
                    _show_each(part, shown[turn : turn + 1], is_single)
        else:
            for part, shown in displays:
                _show_each(part, shown, is_single)
    for part in parts:
        show_result(part)


def _show_streams(parts: Sequence[SubTask], is_single: bool) -> None:
    for stream in ("stdout", "stderr"):
        for part in parts:
            text = part.live(stream)
            if not text:
                continue
            heading = "" if is_single else f"[{stream}:{part.engine_id}]{_gap(text)}"
            end = "" if text.endswith("\n") else "\n"
            print(f"{heading}{text}", end=end, file=getattr(sys, stream))


def _laid_out(text: str) -> str:
    """Return a collection that is longer than a line as IPython shows one, in a session of it."""
    is_long = LINE_CHARACTERS < len(text) <= LAID_OUT_CHARACTERS_MAX and "\n" not in text
    if not is_long or text[0] not in "[({" or shell() is None:
        return text
    import ast

    from IPython.lib.pretty import pretty

    try:
        # Data alone: what an engine sends is not run.
        return str(pretty(ast.literal_eval(text)))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def _gap(text: str) -> str:
    """One line stays beside its heading."""
    return "\n" if "\n" in text.rstrip("\n") else " "


def _show_each(part: SubTask, outputs: Sequence[dict[str, Any]], is_single: bool) -> None:
    if outputs and not is_single:
        print(f"[output:{part.engine_id}]")
    for output in outputs:
        metadata = {**output["metadata"], "engine": part.engine_id}
        _publish(output["data"], metadata)


def show_displays(part: SubTask) -> None:
    """Show what a task displayed, behind the id of its engine."""
    _show_each(part, part.metadata("outputs"), False)


def show_result(part: SubTask) -> None:
    """Show the value of executed code, behind engine and count; in a notebook also as more than text."""
    value = part.value
    if not isinstance(value, ExecuteReply) or value.execute_result is None:
        return
    data = value.execute_result["data"]
    if not is_notebook() or not data.keys() - {"text/plain"}:
        _publish({"text/plain": value.plain()}, {})
        return
    # The richest form is shown alone, and would have no number.
    print(f"Out[{value.engine_id}:{value.execution_count}]:")
    _publish(data, {**value.execute_result["metadata"], "engine": part.engine_id})


def _publish(data: dict[str, Any], metadata: dict[str, Any]) -> None:
    if is_notebook():
        from IPython.display import display

        display(  # type: ignore[no-untyped-call]
            data, metadata=metadata, raw=True
        )
    else:
        print(data.get("text/plain", ""))


@contextlib.contextmanager
def stream_output(parts: Sequence[SubTask]) -> Iterator[None]:
    """Print what tasks write while they run, each piece behind its engine's id where there are several."""
    shown = Shown(len(parts) > 1)
    threads = [
        threading.Thread(target=_follow, args=(part, shown), name="furlong-output", daemon=True)
        for part in parts
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for part in parts:
            part.task.wait()
        for thread in threads:
            thread.join()


class Shown:
    """The last that was printed, of the tasks that are followed together."""

    def __init__(self, named: bool) -> None:
        self._named = named
        self._lock = threading.Lock()
        self._last = ""
        self._is_at_start = True

    def show(self, stream: str, engine: int | None, text: str) -> None:
        """Print a piece, behind a heading if the piece before it was another's."""
        file = sys.stdout if stream == "stdout" else sys.stderr
        with self._lock:
            heading = f"[{stream}:{engine}]"
            if self._named and heading != self._last:
                text = f"{'' if self._is_at_start else chr(10)}{heading}\n{text}"
            self._last = heading
            self._is_at_start = text.endswith("\n")
            file.write(text)
            file.flush()


def _follow(part: SubTask, shown: Shown) -> None:
    reader = part.task.output()
    while (piece := reader.next()) is not None:
        stream, _, _, left_out, data = piece
        text = data.decode("utf-8", "replace")
        if left_out:
            text = f"\n[{left_out} bytes left out]\n{text}"
        shown.show(stream, part.engine_id, text)
