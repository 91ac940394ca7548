"""The extension module: what of the package is in Rust."""

from collections.abc import Sequence

__version__: str

def run_command(argv: Sequence[str], program: Sequence[str]) -> int:
    """Run the ``furlong`` command, which takes the process for itself, and return its exit code.

    Parameters
    ----------
    argv
        The arguments, without the program's name.
    program
        How this process is started again: the interpreter, and what is between it and the arguments.
    """
