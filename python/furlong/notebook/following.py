"""Output of tasks as it comes, for the thread that waits for them: each engine's apart."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from furlong import errors
from furlong.results.displays import show_displays, show_result
from furlong.waiting.front_end import is_notebook

if TYPE_CHECKING:
    from furlong.results.subtasks import SubTask

__all__ = ["Following", "settled"]

# Characters of a block in a notebook: the whole of it goes to the front end with each change.
BLOCK_CHARACTERS = 128 * 1024
# A block is shown again after so many seconds.
REDRAW_SECONDS = 0.1


class _Sink(Protocol):
    def write(self, stream: str, engine: int | None, text: str) -> None: ...
    def flush(self, is_last: bool = False) -> None: ...


class Following:
    """Shows what tasks write, display, result in and fail with, in the order in which it comes.

    The thread that waits calls `look` again and again: whatever is printed belongs to the cell that this thread runs,
    and an interrupt comes between two looks.

    Parameters
    ----------
    parts : sequence of SubTask
        The tasks.
    is_quiet : callable
        Returns whether an error is not worth showing, since it was asked for.
    before : callable
        Is called before something is shown.
    """

    def __init__(
        self,
        parts: Sequence[SubTask],
        is_quiet: Callable[[errors.FurlongError], bool],
        before: Callable[[], None],
    ) -> None:
        self._sink: _Sink = _Blocks() if is_notebook() else _Lines()
        self._followed = [_Followed(part) for part in parts]
        self._is_quiet = is_quiet
        self._before = before
        # A single task's error is raised, and shown by whoever catches it.
        self._shows_errors = len(parts) > 1
        self._errors = 0

    @property
    def is_over(self) -> bool:
        """True if everything was shown."""
        return not self._followed

    @property
    def has_shown_errors(self) -> bool:
        """True if the errors of tasks were shown one by one."""
        return self._errors > 0

    def look(self) -> None:
        """Show what has come since the last look."""
        for followed in list(self._followed):
            for stream, text in followed.take():
                self._before()
                self._sink.write(stream, followed.part.engine_id, text)
            if followed.has_ended:
                self._followed.remove(followed)
                self._show_end(followed.part)
        self._sink.flush()

    def _show_end(self, part: SubTask) -> None:
        part.settle()
        outputs = part.metadata("outputs")
        if part.error is None and not outputs and part.metadata("execute_result") is None:
            return
        self._before()
        self._sink.flush(is_last=True)
        if outputs:
            show_displays(part)
        if part.error is None:
            show_result(part)
        elif self._shows_errors and not self._is_quiet(part.error):
            self._show_error(part.error)

    def _show_error(self, error: errors.FurlongError) -> None:
        self._errors += 1
        lines = [str(error).split("\n", 1)[0]]
        if isinstance(error, errors.RemoteError) and self._errors <= errors.CompositeError.tb_limit:
            lines += error.render_traceback()
        print("\n".join(lines), file=sys.stderr)

    def close(self) -> None:
        """Show what was held back."""
        self._sink.flush(is_last=True)


class _Followed:
    """One task's output, as text."""

    def __init__(self, part: SubTask) -> None:
        self.part = part
        self.has_ended = False
        self._reader = part.task.output()
        # A character may come in two pieces.
        self._decoders = {
            stream: codecs.getincrementaldecoder("utf-8")("replace")
            for stream in ("stdout", "stderr")
        }

    def take(self) -> list[tuple[str, str]]:
        """Return what has come: pairs of stream and text."""
        taken = []
        while not self.has_ended:
            try:
                piece = self._reader.next(0)
            except TimeoutError:
                break
            if piece is None:
                self.has_ended = True
                break
            stream, _, _, left_out, data = piece
            text = self._decoders[stream].decode(data)
            if left_out:
                text = f"\n[{left_out} bytes left out]\n{text}"
            taken.append((stream, text))
        return taken


def settled(line: str) -> str:
    """Return a line as a terminal leaves it: what follows a carriage return is written over what was there."""
    shown = ""
    for piece in line.split("\r"):
        shown = piece + shown[len(piece) :]
    return shown


class _Lines:
    """Lines of a terminal, behind a heading where another engine's, or the other stream's, came before."""

    def __init__(self) -> None:
        self._last = ""
        self._is_at_start = True
        # Unfinished lines that write over themselves: one engine's bar would be written over
        # another's.
        self._held: dict[tuple[str, int | None], str] = {}

    def write(self, stream: str, engine: int | None, text: str) -> None:
        text = self._held.pop((stream, engine), "") + text
        whole, newline, rest = text.rpartition("\n")
        lines = [settled(line) for line in whole.split("\n")] if newline else []
        if "\r" in rest:
            self._held[stream, engine] = _shortened(rest)
            rest = ""
        if lines or rest:
            self._print(stream, engine, "".join(line + "\n" for line in lines) + rest)

    def _print(self, stream: str, engine: int | None, text: str) -> None:
        heading = f"[{stream}:{engine}]"
        if heading != self._last:
            text = f"{'' if self._is_at_start else chr(10)}{heading}{_gap(text)}{text}"
        self._last = heading
        self._is_at_start = text.endswith("\n")
        file = sys.stdout if stream == "stdout" else sys.stderr
        file.write(text)
        file.flush()

    def flush(self, is_last: bool = False) -> None:
        if not is_last:
            return
        for (stream, engine), rest in self._held.items():
            self._print(stream, engine, settled(rest) + "\n")
        self._held.clear()
        if not self._is_at_start:
            print()
            self._is_at_start = True


class _Blocks:
    """Displays of a notebook: each engine has one for each of its streams, which grows."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, int | None], _Block] = {}

    def write(self, stream: str, engine: int | None, text: str) -> None:
        key = (stream, engine)
        if key not in self._blocks:
            self._blocks[key] = _Block(f"[{stream}:{engine}]")
        self._blocks[key].add(text)

    def flush(self, is_last: bool = False) -> None:
        now = time.monotonic()
        for block in self._blocks.values():
            block.draw(now, is_last)


class _Block:
    """The text that one engine has written to one stream."""

    def __init__(self, heading: str) -> None:
        self._heading = heading
        self._whole = ""
        self._rest = ""
        self._left_out = 0
        self._is_new = False
        self._drawn_at = 0.0
        self._handle: Any = None

    def add(self, text: str) -> None:
        whole, newline, rest = (self._rest + text).rpartition("\n")
        if newline:
            self._whole += "".join(settled(line) + "\n" for line in whole.split("\n"))
        self._rest = _shortened(rest)
        surplus = len(self._whole) - BLOCK_CHARACTERS
        if surplus > 0:
            # Whole lines go, unless there is a single one.
            cut = self._whole.find("\n", surplus) + 1 or surplus
            self._left_out += cut
            self._whole = self._whole[cut:]
        self._is_new = True

    def draw(self, now: float, is_last: bool) -> None:
        if not self._is_new or (not is_last and now - self._drawn_at < REDRAW_SECONDS):
            return
        from IPython.display import display

        self._is_new, self._drawn_at = False, now
        text = self._whole + settled(self._rest)
        if self._left_out:
            where = "the result's `stdout` and `stderr` have more"
            text = f"[{self._left_out} characters left out: {where}]\n{text}"
        shown = {"text/plain": f"{self._heading}{_gap(text)}{text}".removesuffix("\n")}
        if self._handle is None:
            self._handle = display(  # type: ignore[no-untyped-call]
                shown, raw=True, display_id=True
            )
        else:
            self._handle.update(shown, raw=True)


def _shortened(rest: str) -> str:
    """Return an unfinished line without what was written over: a bar may go on for hours."""
    before, carriage, after = rest.rpartition("\r")
    return settled(before) + carriage + after


def _gap(text: str) -> str:
    """One line stays beside its heading."""
    return "\n" if "\n" in text.rstrip("\n") else " "
