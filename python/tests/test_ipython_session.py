"""Sessions of IPython in a terminal, and how the magics come into a session and leave it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SOON_SECONDS

import furlong


class Session:
    """IPython in a terminal, as far as a pipe is one: what is typed, and what is shown."""

    def __init__(self, folder: Path, capability: Path | None) -> None:
        env = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), "PYTHONUNBUFFERED": "1"}
        if capability is not None:
            env["FURLONG_CAP"] = str(capability)
        options = ["--simple-prompt", "--no-banner", "--colors=nocolor", "--no-confirm-exit"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "IPython", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=folder,
            process_group=0,
        )

    def type(self, *lines: str) -> None:
        """Type lines."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(line + "\n" for line in lines))
        self.process.stdin.flush()

    def until(self, text: str) -> str:
        """Return what is shown up to a text, which has to come."""
        assert self.process.stdout is not None
        shown = ""
        while text not in shown:
            piece = self.process.stdout.read(1)
            assert piece, f"{text!r} has not come: {shown}"
            shown += piece
        return shown

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(SOON_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def session(cluster: furlong.Cluster, rc: furlong.Client, tmp_path: Path) -> Iterator[Session]:
    """Return a session that finds the cluster."""
    opened = Session(tmp_path, cluster.capability)
    yield opened
    opened.close()


def test_px_in_a_terminal(session: Session) -> None:
    session.type("import furlong", "rc = furlong.Client()")
    session.type("%px print('here'); engine_id", "print('the ' + 'prompt')")
    shown = re.sub(r"(Out\[\d):\d+", r"\1", session.until("the prompt"))
    for engine in range(4):
        assert f"[stdout:{engine}] here\nOut[{engine}]: {engine}\n" in shown
    session.type("%px 1 / 0")
    shown = session.until("4 errors")
    assert shown.count("ZeroDivisionError: division by zero") == 8


def test_bars_of_engines_in_a_terminal_stay_apart(session: Session) -> None:
    session.type("import furlong", "rc = furlong.Client()")
    session.type("%px for n in range(3): print(f'\\r{n} of 3', end='')")
    session.type("print('the ' + 'prompt')")
    shown = session.until("the prompt")
    for engine in range(4):
        assert f"[stdout:{engine}] 2 of 3\n" in shown


def test_ctrl_c_returns_to_the_prompt(session: Session) -> None:
    session.type("import furlong", "rc = furlong.Client()")
    session.type("%px import time; print('running'); time.sleep(1000)")
    session.until("[stdout:3] running")
    os.kill(session.process.pid, signal.SIGINT)
    session.until("Sending signal SIGINT to engines")
    session.type("print('the ' + 'prompt')", "%px 'idle'")
    session.until("the prompt")
    session.until("Out[3:")


def test_ctrl_c_twice_kills_what_runs(session: Session, rc: furlong.Client) -> None:
    session.type("import furlong", "rc = furlong.Client()")
    deaf = (
        "import time\nprint('deaf')\nwhile True:\n"
        "    try: time.sleep(1000)\n    except KeyboardInterrupt: print('heard')"
    )
    session.type(f"%px exec({deaf!r})")
    session.until("[stdout:3] deaf")
    os.kill(session.process.pid, signal.SIGINT)
    session.until("[stdout:3] heard")
    os.kill(session.process.pid, signal.SIGINT)
    session.until("what still runs is killed")
    session.type("print('the ' + 'prompt')")
    session.until("the prompt")
    assert rc[:].apply_async(int).get(SOON_SECONDS) == [0] * 4


def test_the_extension_connects_when_it_is_used(session: Session) -> None:
    session.type("%load_ext furlong", "%px engine_id")
    session.until("Out[3:")
    session.type("%unload_ext furlong", "%px 1")
    session.until("Line magic function `%px` not found")


def test_the_extension_without_a_cluster_says_so(tmp_path: Path) -> None:
    session = Session(tmp_path, tmp_path / "nowhere.json")
    try:
        session.type("%load_ext furlong", "%px 1")
        session.until("UsageError: %px needs a cluster")
    finally:
        session.close()


def test_a_new_client_takes_the_place_of_a_closed_one(session: Session) -> None:
    session.type("import furlong", "rc = furlong.Client()", "other = furlong.Client()")
    session.type("rc[0].execute('mine = 5', block=True); rc.close()", "%px 1")
    session.until("UsageError: the client of %px is closed")
    session.type("rc = furlong.Client()", "%px 'open'")
    session.until("Out[3:")
