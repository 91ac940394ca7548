"""The command ``furlong``: the script of that name, and ``python -m furlong``."""

import os
import sys

from furlong._furlong import run_command

#: Not to find modules in the folder in which the command happens to be run. Older versions have no
# such flag.
SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else []


def main() -> int:
    """Run the command with the arguments of this process.

    Returns
    -------
    int
        The exit code.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            # It was closed by who started the process. Its number must not become that of a socket.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    return run_command(sys.argv[1:], [sys.executable, *SAFE_PATH, "-m", "furlong"])


if __name__ == "__main__":
    sys.exit(main())
