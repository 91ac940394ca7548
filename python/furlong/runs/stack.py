"""Stacks: the threads of an interpreter, and their frames."""

from __future__ import annotations

from typing import Any


class Stack:
    """The threads of an engine's interpreter, as they were when it was asked. ``print`` shows them.

    Attributes
    ----------
    engine : int
        The engine.
    task : str or None
        The id of the task that ran, if one did.
    in_c : bool
        Whether it was in a call of C that holds Python's lock, and could not answer itself.
    threads : list of dict
        The main one first. Each has a ``name`` and ``frames``, the innermost first: dictionaries with
        ``file``, ``line``, ``function`` and ``source``, which is empty where it may not be seen or is not there.
    left_out : int
        How many threads are not told.
    """

    def __init__(self, seen: dict[str, Any]) -> None:
        self.engine: int = seen["engine"]
        self.task: str | None = seen["task"]
        self.in_c: bool = seen["in_c"]
        self.threads: list[dict[str, Any]] = seen["threads"]
        self.left_out: int = seen["left_out"]

    def __str__(self) -> str:
        lines = [repr(self)[1:-1]]
        for thread in self.threads:
            lines.append(thread["name"])
            for frame in thread["frames"]:
                place = f"{frame['file']}:{frame['line']} in " if frame["file"] else ""
                lines.append(f"  {place}{frame['function']}")
                if frame["source"]:
                    lines.append(f"    {frame['source']}")
            if not thread["frames"]:
                lines.append("  (no code of a task)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        what = f"task {self.task}" if self.task else "no task"
        return f"<Stack of engine {self.engine}: {what}{', in a call of C' if self.in_c else ''}>"
