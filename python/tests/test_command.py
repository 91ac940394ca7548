"""The command ``furlong`` of the package: farms are started, used and stopped by it, and nothing of them is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: How long anything may take on a machine that is busy with other tests.
SOON_SECONDS = 60
#: The script that pip makes.
FURLONG = Path(sys.executable).with_name("furlong")


class Farm:
    """A home of its own, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.folder = folder
        #: Whether the process was killed that would have removed its file.
        self.was_killed = False
        self.environment = {**os.environ, "FURLONG_HOME": str(self.home)}
        # The engines' interpreter is the command's, whatever is active.
        for name in ("FURLONG_CAP", "VIRTUAL_ENV"):
            self.environment.pop(name, None)
        if sys.version_info >= (3, 11):
            # What lies in the folder in which the command is run is not taken for the package.
            (folder / "furlong.py").write_text("raise SystemExit('the wrong package')\n")

    def spawn(self, *args: str) -> "subprocess.Popen[str]":
        """Start the command, with its output in pipes."""
        return subprocess.Popen(
            [FURLONG, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
            # A shell that runs the tests in the background has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *args: str, code: int = 0) -> str:
        """Run the command until it ends with this exit code, and return what it printed there."""
        command = self.spawn(*args)
        stdout, stderr = command.communicate(timeout=SOON_SECONDS)
        assert command.returncode == code, stdout + stderr
        return stderr if code else stdout

    def start(self) -> "subprocess.Popen[str]":
        """Start a cluster of two engines, and return the process that looks after it, when it stands."""
        supervisor = self.spawn("cluster", "start", "-n", "2")
        assert supervisor.stdout is not None
        printed = [supervisor.stdout.readline() for _ in range(3)]
        assert printed[1].startswith("engines   2 online: "), printed
        return supervisor

    def state(self) -> dict:
        """Return the processes of the cluster."""
        return json.loads((self.home / "default/run/cluster.json").read_text())

    def processes(self) -> list[str]:
        """Return the command lines of all processes that have this home in their environment."""
        lines = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    if str(self.home).encode() in (process / "environ").read_bytes():
                        lines.append((process / "cmdline").read_text().replace("\0", " "))
                except OSError:
                    continue
        return lines


def eventually(holds: Callable[[], bool]) -> bool:
    """Wait until it holds; false if it does not soon."""
    deadline = time.monotonic() + SOON_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Return a farm of which nothing runs after the test, and that has left no file to say that it does."""
    farm = Farm(tmp_path)
    yield farm
    left = not eventually(lambda: not farm.processes())
    if left:
        subprocess.run([FURLONG, "cluster", "stop"], env=farm.environment, check=False)
    assert not left, farm.processes()
    assert not (farm.home / "default/run/cluster.json").exists() or farm.was_killed


def test_version_and_wrong_usage(farm: Farm) -> None:
    assert farm.run("--version").startswith("furlong 0.")
    assert "by default that which runs this command" in " ".join(
        farm.run("engine", "--help").split()
    )
    assert "Usage: furlong submit" in farm.run("submit", "--wait", code=2)
    assert "cluster default does not run here" in farm.run("cluster", "stop", code=1)


def test_only_the_extension_is_imported_for_it(farm: Farm) -> None:
    command = [sys.executable, "-X", "importtime", "-P", "-m", "furlong", "--version"]
    if sys.version_info < (3, 11):
        command.remove("-P")
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, env=farm.environment
    )
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "furlong._furlong" in imported
    assert {name for name in imported if name.startswith("furlong")} <= {
        "furlong",
        "furlong._furlong",
    }
    assert not imported & {
        "asyncio",
        "cloudpickle",
        "concurrent",
        "numpy",
        "pandas",
        "pickle",
        "signal",
        "threading",
    }


def test_a_cluster_is_started_used_and_stopped(farm: Farm) -> None:
    supervisor = farm.start()
    printed = farm.run("execute", "--targets", "0", "import sys; print(sys.executable)")
    assert f"Out: {sys.executable}" in printed or sys.executable in printed.split(), printed
    assert farm.run("ids") == "[0, 1]\n"
    farm.run("submit", "--wait", "--", "sh", "-c", "exit 7", code=7)
    assert farm.run("cluster", "stop") == "cluster default is stopped\n"
    assert supervisor.wait(SOON_SECONDS) == 0


def test_what_tasks_run_ignores_no_signal_that_python_does(farm: Farm) -> None:
    supervisor = farm.start()
    ignored = farm.run("submit", "--wait", "--", "grep", "SigIgn", "/proc/self/status")
    mask = int(ignored.split()[1], 16)
    assert not [
        number
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
        if mask >> (number - 1) & 1
    ]
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(SOON_SECONDS) == 0


def test_a_cluster_in_the_background(farm: Farm) -> None:
    assert "engines   1 online: 0" in farm.run("cluster", "start", "-n", "1", "--daemon")
    farm.run("cluster", "stop")


def test_a_broker_and_an_engine_that_are_killed_are_started_again(farm: Farm) -> None:
    supervisor = farm.start()
    farm.run("execute", "x = 1")
    before = farm.state()
    for process in (before["broker_pid"], before["engine_pids"][0]):
        os.kill(process, signal.SIGKILL)

    def is_new() -> bool:
        now = farm.state()
        return (
            now["broker_pid"] != before["broker_pid"]
            and now["engine_pids"][0] != before["engine_pids"][0]
        )

    assert eventually(is_new)
    assert eventually(lambda: len(json.loads(farm.run("ids", "--json"))) == 2)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(SOON_SECONDS) == 0


def test_nothing_outlives_a_supervisor_that_is_killed(farm: Farm) -> None:
    supervisor = farm.start()
    farm.run("execute", "import os; x = os.getpid()")
    supervisor.kill()
    supervisor.wait(SOON_SECONDS)
    farm.was_killed = True


def test_a_command_that_does_not_listen_ends_with_ctrl_c(farm: Farm) -> None:
    # It is a command that waits for a broker, of which there is none.
    waiting = farm.spawn("ids", "--wait", str(SOON_SECONDS))
    process = Path(f"/proc/{waiting.pid}")

    def runs_the_command() -> bool:
        # Python listens from its start on, also while it loads the extension, until the command is
        # run.
        if "_furlong" not in (process / "maps").read_text():
            return False
        caught = next(
            line
            for line in (process / "status").read_text().splitlines()
            if line.startswith("SigCgt:")
        )
        return not int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1

    assert eventually(runs_the_command)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(SOON_SECONDS) == -signal.SIGINT


def test_a_reader_that_leaves_is_no_error(farm: Farm) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ended = subprocess.run(
            [FURLONG, "completions", "bash"],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=farm.environment,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_closed_streams_do_not_become_sockets(farm: Farm) -> None:
    script = f"exec {FURLONG} broker --bind 127.0.0.1 <&- >&- 2>&-"
    broker = subprocess.Popen(["sh", "-c", script], env=farm.environment, cwd=farm.folder)
    assert eventually((farm.home / "default/run/broker.json").exists)
    streams = [Path(f"/proc/{broker.pid}/fd/{number}").readlink() for number in range(3)]
    assert streams == [Path(os.devnull)] * 3
    # When it answers, it listens to signals too.
    farm.run("ids", "--wait", str(SOON_SECONDS))
    broker.terminate()
    assert broker.wait(SOON_SECONDS) == 0
