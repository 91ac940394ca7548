"""The options of the magics, under the names that ipyparallel has for them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core import magic_arguments
from IPython.core.error import UsageError

if TYPE_CHECKING:
    from furlong.calls.targets import Targets

__all__ = [
    "argument",
    "execution_options",
    "options_of",
    "output_options",
    "signal_of",
    "targets_of",
    "with_options",
]

Magic = TypeVar("Magic", bound=Callable[..., Any])

# IPython says no types of these.
argument: Any = magic_arguments.argument
_parsed: Any = magic_arguments.parse_argstring
_with_parser: Any = magic_arguments.magic_arguments()  # type: ignore[no-untyped-call]


def with_options(magic: Magic) -> Magic:
    """Make a method a magic with options, which the decorators below this one say."""
    made: Magic = _with_parser(magic)
    return made


def options_of(magic: Callable[..., Any], line: str) -> Any:
    """Return the options of a line, as attributes."""
    return _parsed(magic, line)


def execution_options(magic: Magic) -> Magic:
    """Add the options that say where and how code runs."""
    for option in reversed(_EXECUTION):
        magic = option(magic)
    return magic


def output_options(magic: Magic) -> Magic:
    """Add the options that say how results are shown."""
    for option in reversed(_OUTPUT):
        magic = option(magic)
    return magic


def _switch(*names: str, to: str, value: object, text: str) -> Any:
    return argument(*names, action="store_const", dest=to, const=value, help=text)


_EXECUTION = (
    _switch("-b", "--block", to="block", value=True, text="wait for the engines"),
    _switch("-a", "--noblock", to="block", value=False, text="return an AsyncResult at once"),
    _switch("--stream", to="stream", value=True, text="show output as it comes, while waiting"),
    _switch("--no-stream", to="stream", value=False, text="show output at the end"),
    argument(
        "-t", "--targets", help="the engines: all, an id, ids as 0,2, or a slice of them as ::2"
    ),
    _switch("--verbose", to="verbose", value=True, text="say where each cell runs"),
    _switch("--no-verbose", to="verbose", value=False, text="do not say it"),
    argument(
        "--progress-after",
        dest="progress_after",
        type=float,
        help="seconds until a bar is shown: 0 for at once, -1 for none",
    ),
    argument(
        "--signal-on-interrupt",
        dest="interrupt",
        help="the signal for engines if the wait is interrupted: a name, a number, or 0 for none",
    ),
)
_OUTPUT = (
    _switch("-r", to="groupby", value="order", text="the same as --group-outputs=order"),
    _switch("-e", to="groupby", value="engine", text="the same as --group-outputs=engine"),
    argument(
        "--group-outputs",
        dest="groupby",
        choices=["type", "engine", "order"],
        help=(
            "what is shown together: type (all standard output, then all errors, and so on), "
            "engine (all of each engine), or order (as type, but the first display of each engine "
            "comes before the second of any)"
        ),
    ),
    argument("-o", "--out", dest="name", help="a variable for the AsyncResult"),
)


def targets_of(text: str, ids: list[int]) -> Targets:
    """Return the engines that an option names.

    Raises
    ------
    UsageError
        If it names none.
    """
    if text.strip() == "all":
        return "all"
    if ":" in text:
        try:
            bounds = [
                int(bound) if bound.strip() else None for bound in text.strip("[] ").split(":")
            ]
            return ids[slice(*bounds)]
        except (TypeError, ValueError):
            pass
    else:
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = None
        if isinstance(value, int):
            return value
        if isinstance(value, list | tuple) and value:
            return list(value)
    raise UsageError(f"engines are `all`, an id, ids as `0,2`, or a slice as `::2`, not {text!r}")


def signal_of(text: str) -> int | str:
    """Return a signal that an option names: a number, or a name."""
    return int(text) if text.isdigit() else text
