"""A debugger after the end: `rc.debug`, and what opens the frames of a failed task."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SOON_SECONDS, eventually
from notebook import Notebook

import furlong
from furlong import errors
from furlong.client.debugging import Debugger

# A commands' reader and a printer in one: it runs these, and gives what was printed.
Typed = Callable[..., str]


def divide(total: int) -> float:
    """Fail in an inner function."""
    values = [1, 2, 3]

    def share(value: int) -> float:
        return value / total

    return sum(map(share, values))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """Return a function that types lines at the prompt, then Ctrl-D, and gives what was printed."""

    def type_all(rc: furlong.Client, what: Any, *lines: str) -> str:
        left = list(lines)

        def read(prompt: str) -> str:
            assert prompt == "(Pdb) "
            if not left:
                raise EOFError
            return left.pop(0)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "input", read)
            rc.debug(what)
        assert not left
        return capsys.readouterr().out

    return type_all


def failed(view: Any, function: Callable[..., Any], *args: Any) -> furlong.AsyncResult:
    """Return the result of a call that has failed."""
    result: furlong.AsyncResult = view.apply_async(function, *args)
    assert isinstance(result.exception(SOON_SECONDS), errors.RemoteError)
    return result


def token_of(error: Any) -> str:
    """Return what opens the frames of a failure."""
    token: str = json.loads(bytes(vars(error)["_details"][0][0]))[0]["frames"]
    return token


def test_the_frames_of_a_failure_can_be_looked_at(rc: furlong.Client, typed: Typed) -> None:
    result = failed(rc[0], divide, 0)
    shown = typed(
        rc, result, "p total", "a", "up", "p values", "values[0] = 7", "p values ;; 1", "q"
    )
    assert shown.startswith("ZeroDivisionError: division by zero\n> ")
    assert f"{__file__}(" in shown and "share()" in shown and "return value / total" in shown
    assert "\n0\n" in shown and "value = 1\n" in shown
    assert "[1, 2, 3]\n[7, 2, 3]\n1\n" in shown
    assert "furlong worker" not in shown


def test_commands_that_are_given_leave_the_frames(
    rc: furlong.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    result = failed(rc[0], divide, 0)
    for _ in range(2):
        rc.debug(result, commands=["p total + 1", "w"])
        assert capsys.readouterr().out.startswith("1\n")


def test_a_debugger_that_is_left_lets_the_frames_go(rc: furlong.Client, typed: Typed) -> None:
    result = failed(rc[0], divide, 0)
    assert "(" in typed(rc, result)  # the end of the input leaves it too
    with pytest.raises(errors.FramesGone, match="its debugger was left"):
        rc.debug(result)


def test_other_work_lets_the_frames_go_and_what_to_do_is_said(rc: furlong.Client) -> None:
    result = failed(rc[0], divide, 0)
    rc[0].apply_sync(int)
    with pytest.raises(errors.FramesGone) as gone:
        rc.debug(result)
    text = str(gone.value)
    assert "its interpreter has begun other work since" in text
    assert "`rc[0].apply(...)`" in text and "`targets=0, retries=0`" in text


def test_a_new_interpreter_has_no_frames(farm: Any) -> None:
    with farm.client() as rc:
        rc.wait_for_engines(4, timeout=SOON_SECONDS)
        result = failed(rc[0], divide, 0)
        rc.restart(0)
        with pytest.raises(errors.FramesGone, match="or is another one now"):
            rc.debug(result)
        result = failed(rc[1], divide, 0)
        rc.shutdown(1, block=True)
        with pytest.raises(errors.FramesGone, match="engine 1 has left"):
            rc.debug(result)


class Held:
    """A local variable that leaves a file when it goes."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self) -> None:
        """Leave it."""
        Path(self.path).touch()


def hold_and_fail(path: str) -> None:
    """Fail with such a variable."""
    held = Held(path)
    raise ValueError(held.path)


def test_what_is_held_goes_with_the_next_job_or_when_the_debugger_is_left(
    rc: furlong.Client, typed: Typed, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    result = failed(rc[0], hold_and_fail, str(first))
    assert str(first) in typed(rc, result, "p held.path", "!$x = held") and first.exists()
    failed(rc[0], hold_and_fail, str(second))
    assert not second.exists()
    rc[0].apply_sync(int)
    assert second.exists()


def test_what_is_held_goes_when_the_time_is_over(rc: furlong.Client, tmp_path: Path) -> None:
    path = tmp_path / "gone"
    rc[0].execute("import furlong_worker.frames as f; f.KEPT_SECONDS = 0.0", block=True)
    try:
        result = failed(rc[0], hold_and_fail, str(path))
        eventually(path.exists)
        with pytest.raises(errors.FramesGone, match="nobody has looked at them for 10 minutes"):
            rc.debug(result)
    finally:
        rc[0].execute("f.KEPT_SECONDS = 600.0", block=True)


def test_a_wrong_token_opens_nothing_and_leaves_all_as_it_is(
    rc: furlong.Client, typed: Typed
) -> None:
    results = [failed(rc[engine], divide, 0) for engine in (0, 1)]
    tokens = [token_of(result.exception()) for result in results]
    for wrong in (tokens[1], "", "0" * 32, tokens[0][:-1], "\ud800", None, 7, [tokens[0]]):
        with pytest.raises(errors.FramesGone, match="begun other work since, or is another"):
            Debugger(rc, 0, wrong)  # type: ignore[arg-type]
    function = furlong._furlong.Function.named("furlong_worker:debug")
    for garbage in ([], [b""], [b"\xff\x00"], [b"[1]"], [b"{}", b"{}"], [b"[" * 10_000]):
        call = furlong._furlong.Call(function, "raw", garbage)
        task = rc._session.submit_to([0], call)[0]
        assert task.wait(SOON_SECONDS)
        (answer,) = task.outcome().data()
        assert json.loads(bytes(answer))["state"] == "gone"
    assert "\n0\n" in typed(rc, results[0], "p total")


def test_a_huge_output_is_bounded(rc: furlong.Client, typed: Typed) -> None:
    result = failed(rc[0], divide, 0)
    shown = typed(rc, result, "p 'x' * 10_000_000", "!print('y' * 10_000_000)", "p total")
    assert len(shown) < 150_000 and shown.count("characters left out] ...") == 2
    assert "\n0\n" in shown


def test_nothing_goes_on_from_the_end(rc: furlong.Client, typed: Typed) -> None:
    result = failed(rc[0], divide, 0)
    going = ["c", "n", "s", "r", "j 1", "unt", "b 1", "run", "interact", "debug f()", "commands"]
    shown = typed(rc, result, *going, "!input()", "def f(:", "p nothing", "p total")
    assert shown.count("is not here: the task has ended") == len(going)
    assert "EOFError" in shown and "SyntaxError" in shown and "NameError" in shown
    assert "\n0\n" in shown


def test_an_interrupt_ends_a_command_and_not_the_debugger(
    rc: furlong.Client, typed: Typed, tmp_path: Path
) -> None:
    result = failed(rc[0], divide, 0)
    path = tmp_path / "runs"

    def interrupt() -> None:
        eventually(path.exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    endless = f"!import time; open({str(path)!r}, 'w').close(); time.sleep(1000)"
    shown = typed(rc, result, endless, "p total")
    thread.join()
    assert "--KeyboardInterrupt--" in shown and shown.endswith("0\n\n")


def test_an_exception_a_task_and_several_are_accepted(rc: furlong.Client, typed: Typed) -> None:
    result = failed(rc[0], divide, 0)
    error = pickle.loads(pickle.dumps(result.exception()))
    assert "return value / total" in typed(rc, error, "p total", "!pass")
    result = failed(rc[:], divide, 0)
    assert "ZeroDivisionError" in typed(rc, result)
    assert "ZeroDivisionError" in typed(rc, result.msg_ids[-1])
    with pytest.raises(ValueError, match="has not failed"):
        rc.debug(rc[0].apply_async(int))
    with pytest.raises(TypeError, match="a failure of a task is debugged"):
        rc.debug(ValueError("of nobody"))


def test_another_client_of_the_owner_debugs_what_is_kept(
    cluster: furlong.Cluster, rc: furlong.Client, typed: Typed
) -> None:
    view = rc.load_balanced_view(2, keep=True)
    result = failed(view, divide, 0)
    with furlong.Client(cluster=cluster) as other:
        assert "\n0\n" in typed(other, result.msg_ids[0], "p total")


def odd(number: int) -> int:
    """Fail with some numbers."""
    if number % 2:
        raise ValueError(number)
    return number


def test_a_map_keeps_the_first_failure_of_its_last_chunk(rc: furlong.Client, typed: Typed) -> None:
    result = rc.load_balanced_view(3).map_async(odd, range(100), chunksize=50)
    assert isinstance(result.exception(SOON_SECONDS), errors.CompositeError)
    shown = typed(rc, result, "p number")
    assert "ValueError: 51\n" in shown and "\n51\n" in shown


def out_of_memory() -> None:
    """Fail as if memory had run out."""
    raise MemoryError


def test_of_what_is_cancelled_or_out_of_memory_no_frames_are_kept(
    rc: furlong.Client, gate: Any
) -> None:
    with pytest.raises(errors.FramesGone, match="none where memory has run out"):
        rc.debug(failed(rc[0], out_of_memory))
    result = rc[0].execute(gate.code)
    result.cancel()
    with pytest.raises(errors.FramesGone, match="kept no frames of this failure"):
        rc.debug(result)


def test_in_a_notebook_the_last_failure_is_debugged_with_the_cells_source(
    cluster: furlong.Cluster, tmp_path: Path
) -> None:
    notebook = Notebook(tmp_path)
    try:
        notebook.run(f"import furlong\nrc = furlong.Client(cluster={cluster.cluster_id!r})")
        notebook.run("def outer(n):\n    # of the cell\n    return 1 / n")
        assert "ZeroDivisionError" in notebook.run("rc[1].apply_sync(outer, 0)").text
        notebook.run("import builtins\nlines = ['l', 'p n * 3 + 7', 'q']")
        cell = notebook.run("builtins.input = lambda _: lines.pop(0)\nrc.debug()")
        assert cell.error is None, cell.text
        assert "# of the cell" in cell.text and "->" in cell.text and "\n7\n" in cell.text
        notebook.run("rc.close()")
    finally:
        notebook.close()
