"""Displays of code: rich results, and output as it is shown to people."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from furlong.calls.codecs import read_json

if TYPE_CHECKING:
    from furlong import _furlong
    from furlong.results.subtasks import SubTask

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

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        if self.execute_result is None:
            return {"text/plain": repr(self)}, {}
        return self.execute_result["data"], self.execute_result["metadata"]

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


def _in_notebook() -> Any:
    """Return IPython's `display`, if this is a session of it that shows more than text."""
    ipython = sys.modules.get("IPython")
    shell = (
        ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    )
    if shell is None:
        return None
    from IPython.display import display

    return display


def _show(output: dict[str, Any]) -> None:
    display = _in_notebook()
    if display is not None:
        display(output["data"], metadata=output["metadata"], raw=True)
    else:
        print(output["data"].get("text/plain", ""))


def show_outputs(parts: Sequence[SubTask], single: bool, groupby: str, result_only: bool) -> None:
    """Show what tasks wrote, displayed and resulted in."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"outputs are grouped by 'type', 'engine' or 'order', not by {groupby!r}")
    if result_only:
        for part in parts:
            _show_result(part)
    elif groupby == "type":
        for stream in ("stdout", "stderr"):
            for part in parts:
                _show_stream(part, stream, single)
        for part in parts:
            _show_displays(part, single)
        for part in parts:
            _show_result(part)
    else:
        for part in parts:
            _show_stream(part, "stdout", single)
            _show_stream(part, "stderr", single)
            _show_displays(part, single)
            _show_result(part)


def _show_stream(part: SubTask, stream: str, single: bool) -> None:
    text = part.live(stream)
    if not text:
        return
    file = sys.stdout if stream == "stdout" else sys.stderr
    end = "" if text.endswith("\n") else "\n"
    if single:
        print(text, end=end, file=file)
        return
    print(f"[{stream}:{part.engine_id}]{_space(text)}{text}", end=end, file=file)


def _space(text: str) -> str:
    """One line stays beside its heading."""
    return "\n" if "\n" in text.rstrip("\n") else " "


def _show_displays(part: SubTask, single: bool) -> None:
    for output in part.metadata("outputs"):
        if not single:
            print(f"[output:{part.engine_id}]")
        _show(output)


def _show_result(part: SubTask) -> None:
    value = part.value
    if not isinstance(value, ExecuteReply) or value.execute_result is None:
        return
    display = _in_notebook()
    heading = f"Out[{part.engine_id}:{value.execution_count}]:"
    if display is not None:
        print(heading)
        display(value)
    else:
        text = value.execute_result["data"].get("text/plain", "")
        print(f"{heading}{_space(text)}{text}")


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
