"""Processes with a client: forks, Ctrl-C, and their exit with work that has not ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import SOON_SECONDS, eventually

import furlong

#: What each script begins with.
PRELUDE = """
import os, pathlib, signal, sys, threading, time
import furlong

def touch_and_sleep(path, seconds=1000):
    pathlib.Path(path).touch()
    time.sleep(seconds)

def say(*words):
    print(*words, flush=True)

def say_when_it_waits():
    main, waits = threading.main_thread().ident, ("wait", "wait_for_all", "wait_for_engines")
    while True:
        frame = sys._current_frames()[main]
        while frame is not None:
            if frame.f_code.co_name in waits and "furlong" in frame.f_code.co_filename:
                return say("waits")
            frame = frame.f_back
        time.sleep(0.001)

rc = furlong.Client(sys.argv[1])
rc.wait_for_engines(2, timeout=30)
began = sys.argv[2]
"""

Script = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def cluster(nothing_is_left: None) -> Iterator[furlong.Cluster]:
    """Return a cluster whose engines are busy at times."""
    made = furlong.Cluster(n=2)
    made.start_and_connect_sync().close()
    yield made
    made.stop_cluster_sync()


@pytest.fixture
def began(tmp_path: Path) -> Path:
    """Return the file that a script's task touches when it runs."""
    return tmp_path / "began"


@pytest.fixture
def script(cluster: furlong.Cluster, began: Path) -> Iterator[Script]:
    """Return a function that starts code in a process of its own with a client, and see to it that it ends."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            PRELUDE + textwrap.dedent(code),
            str(cluster.capability),
            str(began),
        ]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def printed_by(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait until a script has ended gracefully, and give what it printed."""
    stdout, stderr = process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == code, stdout + stderr
    assert stderr == ""
    return stdout


def test_a_child_of_a_fork_is_told_whose_the_client_is(script: Script) -> None:
    code = """
    result = rc[0].apply_async(time.sleep, 0.3)
    view = rc[:]
    child = os.fork()
    if child == 0:
        for use in (lambda: rc.ids, result.get, result.done, lambda: view.apply_sync(os.getpid), rc.status, rc.close):
            try:
                use()
            except RuntimeError as error:
                assert "forked" in str(error), error
            else:
                say("nothing was raised")
        own = furlong.Client(sys.argv[1])
        called = threading.Event()
        own[0].apply_async(os.getpid).add_done_callback(lambda _: called.set())
        assert called.wait(30)
        say("child", len(set(own[:].apply_sync(os.getpid))))
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    say("parent", os.waitstatus_to_exitcode(status), result.get(30), len(view.apply_sync(os.getpid)))
    """
    assert printed_by(script(code)) == "child 2\nparent 7 None 2\n"


def test_a_process_that_sigpipe_would_end_comes_by_tcp(script: Script) -> None:
    code = """
    def pipes():
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link).startswith("pipe:") for link in links if os.path.lexists(link))

    first = pipes()
    second = furlong.Client(sys.argv[1])
    by_pipes = pipes() - first
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    third = furlong.Client(sys.argv[1])
    say(by_pipes, pipes() - first, third[0].apply_sync(abs, -7), second[0].apply_sync(abs, -8))
    """
    assert printed_by(script(code)) == "2 2 7 8\n"


def test_a_child_of_a_fork_ends_with_what_it_took_over(script: Script) -> None:
    code = """
    results = [rc[0].apply_async(time.sleep, 0.1) for _ in range(3)]
    for result in results:
        result.add_done_callback(lambda _: None)
    child = os.fork()
    if child == 0:
        del results, result, rc
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    say(os.waitstatus_to_exitcode(status), rc.wait(results, 30))
    """
    assert printed_by(script(code)) == "7 True\n"


def test_a_child_of_a_fork_neither_stops_a_cluster_nor_keeps_it() -> None:
    code = """
    import furlong, os, signal, sys, time
    cluster = furlong.Cluster(n=1)
    with cluster as rc:
        child = os.fork()
        if child == 0:
            try:
                cluster.stop_cluster_sync()
            except RuntimeError as error:
                assert "parent" in str(error)
                print(repr(cluster).partition(": ")[2], flush=True)
            grandchild = os.fork()
            if grandchild == 0:
                # It outlives the others.
                time.sleep(1000)
            print(grandchild, flush=True)
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), len(rc[:].apply_sync(os.getpid)), cluster.folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    with process.stdout as stdout:  # type: ignore[union-attr]
        assert stdout.readline() == "of another process>\n"
        grandchild = psutil.Process(int(stdout.readline()))
        try:
            said, _, folder = stdout.readline().rstrip().rpartition(" ")
            assert said == "7 1"
            assert process.wait(SOON_SECONDS) == -signal.SIGKILL
            # Broker and engine have ended then.
            eventually(lambda: not Path(folder).exists())
            assert grandchild.is_running()
        finally:
            grandchild.kill()
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("", id="tasks"),
        pytest.param("result.add_done_callback(lambda _: say('called'))", id="callbacks"),
        pytest.param("rc.wait_for_engines(9, block=False)", id="waiting-for-engines"),
        pytest.param("rc.cancel(result); say(result.done())", id="cancelled"),
    ],
)
def test_an_exit_with_work_that_has_not_ended(
    script: Script, began: Path, rc: furlong.Client, work: str
) -> None:
    code = f"""
    result = rc[0].apply_async(touch_and_sleep, began)
    while not os.path.exists(began):
        time.sleep(0.005)
    {work}
    say("ends")
    """
    lines = printed_by(script(code)).splitlines()
    assert lines[-1] == "ends" or lines == ["ends", "called"]
    # What it had there is cancelled: the engine is free.
    assert rc[0].apply_async(os.getpid).get(SOON_SECONDS) > 0


@pytest.mark.parametrize(
    "call", ["result.get", "lambda: rc[1].apply_sync(time.sleep, 1000)", "rc.wait"]
)
def test_an_exit_while_a_thread_waits(script: Script, began: Path, call: str) -> None:
    process = script(f"""
    result = rc[0].apply_async(touch_and_sleep, began)
    threading.Thread(target={call}, daemon=True).start()
    while not os.path.exists(began):
        time.sleep(0.005)
    say("ends")
    """)
    # The thread may still get to say that its connection is lost.
    stdout, stderr = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, stdout) == (0, "ends\n")
    assert "Fatal" not in stderr


def test_an_exit_with_an_error_that_nobody_caught(script: Script) -> None:
    process = script("rc[0].apply_async(time.sleep, 1000)\n1 / 0")
    _, stderr = process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == 1
    assert stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert stderr.count("Traceback") == 1


def interrupted(process: subprocess.Popen[str]) -> str:
    """Interrupt a script when it waits, and give what it prints from then on."""
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    return printed_by(process)


def test_ctrl_c_at_a_prompt_gives_the_result_of_a_call(script: Script) -> None:
    process = script("""
    sys.ps1 = ">>> "
    threading.Thread(target=say_when_it_waits).start()
    result = rc[0].apply_sync(time.sleep, 1000)
    say(type(result).__name__, result.done())
    say(result.cancel(), result.cancelled())
    """)
    assert interrupted(process) == "AsyncResult False\nTrue True\n"


@pytest.mark.parametrize("call", ["apply_sync(time.sleep, 1000)", "map_sync(time.sleep, [1000])"])
def test_ctrl_c_in_a_call_ends_a_script(script: Script, call: str) -> None:
    process = script(f"""
    threading.Thread(target=say_when_it_waits).start()
    rc[0].{call}
    say("goes on")
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, stdout) == (-signal.SIGINT, "")
    assert stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "wait",
    [
        "result.get()",
        "result.wait()",
        "rc.wait(timeout=1000)",
        "rc.wait_for_engines(9)",
        "rc.wait_interactive()",
    ],
)
def test_ctrl_c_in_other_waits_is_an_interrupt(script: Script, wait: str) -> None:
    process = script(f"""
    result = rc[:].apply_async(time.sleep, 1000)
    threading.Thread(target=say_when_it_waits).start()
    try:
        {wait}
    except KeyboardInterrupt:
        say("interrupted", result.done())
    """)
    assert interrupted(process) == "interrupted False\n"


def test_threads_wait_side_by_side(rc: furlong.Client) -> None:
    # One waits for a long task while others call: none holds the others up.
    import threading

    slow = rc[0].apply_async(os.getppid)
    values: list[int] = []
    threads = [
        threading.Thread(target=lambda: values.append(rc[1].apply_sync(os.getpid)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_SECONDS)
    assert len(values) == 8
    assert len(set(values)) == 1
    assert slow.get(SOON_SECONDS) > 0


@pytest.fixture
def rc(cluster: furlong.Cluster) -> Iterator[furlong.Client]:
    """Return a client of this process's own."""
    with furlong.Client(cluster=cluster) as client:
        yield client
