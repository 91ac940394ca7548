"""Stacks of running tasks, as `rc.stack` tells them."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

import furlong


def waits_in_thread(path: str) -> None:
    """Wait for a file, in two threads."""

    def until_there() -> None:
        while not Path(path).exists():
            time.sleep(0.01)

    helper = threading.Thread(target=until_there, name="helper")
    helper.start()
    until_there()
    helper.join()


def is_waiting(function: str) -> bool:
    """Return whether a thread waits in `waits_in_thread`."""
    return function.endswith("until_there")


def test_a_stack_has_the_tasks_threads_and_prints(rc: furlong.Client, tmp_path: Path) -> None:
    path = tmp_path / "go"
    result = rc[rc.ids[0]].apply_async(waits_in_thread, str(path))
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(furlong.errors.RequestRefused):  # it has not begun
            stack = rc.stack(result)
            # The second thread may be there while the first one still starts it.
            functions = [frame["function"] for frame in stack.threads[0]["frames"]]
            if len(stack.threads) == 2 and any(map(is_waiting, functions)):
                break
        assert time.monotonic() < deadline
    path.touch()
    result.get(timeout=30)
    names = [thread["name"] for thread in stack.threads]
    assert names == ["MainThread", "helper"]
    assert stack.engine == rc.ids[0] and stack.task == result.msg_ids[0] and not stack.in_c
    assert any(map(is_waiting, functions))
    assert functions[-1] == "waits_in_thread"
    assert "in waits_in_thread" in str(stack) and "<Stack of engine" in repr(stack)


def test_a_stack_of_what_does_not_run_is_refused(rc: furlong.Client) -> None:
    result = rc[rc.ids[0]].apply_async(int)
    result.get(timeout=30)
    with pytest.raises(furlong.errors.RequestRefused, match="does not run"):
        rc.stack(result)
    with pytest.raises(furlong.errors.RequestRefused, match="there is no engine 99"):
        rc.stack(99)
