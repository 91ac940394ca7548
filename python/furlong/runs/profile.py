"""Profiles: where an interpreter was while it was sampled."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from furlong.runs.written import replace

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Profile"]

# Functions and lines that are shown; `functions` and `lines` have all.
SHOWN = 10


class Profile:
    """Samples of an engine's interpreter. ``print`` and a notebook show where it was most.

    Times are in seconds by the wall clock: waiting counts, and a call of C that holds Python's lock counts for the
    line that has made it.

    Attributes
    ----------
    engine : int
        The engine.
    task : str or None
        The id of the task that ran at the end, if one did.
    in_c : bool
        Whether it was in a call of C that holds Python's lock all the time. Then there is no sample.
    samples : int
        The number of samples. There is none if no code of yours ran there.
    seconds : float
        The time that they stand for.
    longest : float
        The longest time between two samples.
    left_out : float
        The time of stacks that are not told one by one, of all threads.
    functions : list of dict
        The functions of the main thread, the hottest first: ``function``, ``file``, ``line`` where it begins, ``self``
        the time in the function itself, and ``total`` with what it called.
    lines : list of dict
        The lines in which the main thread was most: ``file``, ``line`` and ``self``.
    """

    def __init__(self, seen: dict[str, Any]) -> None:
        self.engine: int = seen["engine"]
        self.task: str | None = seen["task"]
        self.in_c: bool = seen["in_c"]
        self.samples: int = seen["samples"]
        self.seconds: float = seen["seen_us"] / 1e6
        self.longest: float = seen["longest_us"] / 1e6
        self.left_out: float = seen["others_us"] / 1e6
        self.functions: list[dict[str, Any]] = [
            {"function": name, "file": file, "line": line, "self": own / 1e6, "total": total / 1e6}
            for own, total, name, file, line in seen["functions"]
        ]
        self.lines: list[dict[str, Any]] = [
            {"file": file, "line": line, "self": us / 1e6} for us, file, line in seen["lines"]
        ]
        self._folded: str = seen["collapsed"]
        self._speedscope: dict[str, Any] = seen["speedscope"]

    def folded(self) -> str:
        """Return the stacks of all threads as text, for programs that draw flame graphs.

        A line is a stack: the thread and the functions from the outermost to the innermost one, separated by
        semicolons, then a blank and the microseconds.
        """
        return self._folded

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the stacks to a file, in the place of one that is there, and return its path.

        Parameters
        ----------
        path : path
            Its ending says the format: ``.json`` for https://www.speedscope.app; ``.folded``, ``.collapsed`` or
            ``.txt`` for the text of `folded`.

        Raises
        ------
        ValueError
            If the ending says no format.
        """
        ending = os.fspath(path).rpartition(".")[2]
        if ending == "json":
            import json  # a program that saves nothing does not import it

            written = json.dumps(self._speedscope)
        elif ending in ("folded", "collapsed", "txt"):
            written = self._folded
        else:
            raise ValueError(
                f"{os.fspath(path)!r}: the ending says the format: .json, .folded or .txt"
            )
        return replace(path, written.encode())

    def share(self, seconds: float) -> float:
        """Return the share of a time in that of all samples, in per cent."""
        return 100 * seconds / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        lines = [repr(self)[1:-1]]
        if self.samples:
            lines.append("  self   total  function")
        for one in self.functions[:SHOWN]:
            own, total = self.share(one["self"]), self.share(one["total"])
            place = f"{one['function']} ({one['file']}:{one['line']})"
            lines.append(f"{own:5.1f}%  {total:5.1f}%  {place}")
        if self.lines:
            lines.append("  self  line")
        for one in self.lines[:SHOWN]:
            lines.append(f"{self.share(one['self']):5.1f}%  {one['file']}:{one['line']}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        if not self.samples:
            why = "in a call of C all the time" if self.in_c else "no code of yours ran there"
            return f"<Profile of engine {self.engine}: no samples, {why}>"
        counted = f"{self.samples:,} sample{'' if self.samples == 1 else 's'}"
        return f"<Profile of engine {self.engine}: {counted} of {self.seconds:.1f} s>"

    def _repr_html_(self) -> str:
        from furlong.notebook.pages import page_of_profile

        return page_of_profile(self)
