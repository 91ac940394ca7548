"""The interface of IPython.kernel 0.10: what people typed there works, and prints what it printed."""

import code
import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Farm, eventually
from IPython.lib import pretty

import furlong
from furlong import client

OVERVIEW = """\
>>> from furlong import client
>>> mec = client.MultiEngineClient()
>>> mec.get_ids()
[0, 1, 2, 3]
>>> mec.execute('print("Hello World")')
<Results List>
[0] In [1]: print("Hello World")
[0] Out[1]: Hello World
[1] In [1]: print("Hello World")
[1] Out[1]: Hello World
[2] In [1]: print("Hello World")
[2] Out[1]: Hello World
[3] In [1]: print("Hello World")
[3] Out[1]: Hello World
"""


@pytest.fixture
def mec(rc: furlong.Client, cluster: furlong.Cluster) -> Iterator[client.MultiEngineClient]:
    """Return a client to the engines."""
    with client.MultiEngineClient(cluster=cluster) as mec:
        yield mec


@pytest.fixture
def tc(rc: furlong.Client, cluster: furlong.Cluster) -> Iterator[client.TaskClient]:
    """Return a client to the shared queue."""
    with client.TaskClient(cluster.capability) as tc:
        yield tc


def test_the_session_of_the_overview_typed_as_it_stands(
    rc: furlong.Client, cluster: furlong.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    rc.restart()
    monkeypatch.setenv("FURLONG_CAP", str(cluster.capability))
    typed = [line.removeprefix(">>> ") for line in OVERVIEW.splitlines() if line.startswith(">>> ")]
    console, printed = code.InteractiveConsole(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for line in typed:
            print(f">>> {line}")
            assert not console.push(line)
    console.locals["mec"].close()
    assert printed.getvalue() == OVERVIEW


def test_results_of_execute_are_dictionaries(
    mec: client.MultiEngineClient, rc: furlong.Client
) -> None:
    rc.restart()
    results = mec.execute(
        "import sys; print('out'); print('err', file=sys.stderr)\n6 * 7", targets=1
    )
    assert [(r["id"], r["number"], r["stdout"], r["stderr"]) for r in results] == [
        (1, 1, "out\n42\n", "err\n")
    ]
    assert results[0]["input"].startswith("import sys")
    assert repr(results).splitlines()[-4:] == ["[1] Out[1]:", "out", "42", "[1] Err[1]: err"]
    assert pretty.pretty(results) == repr(results)
    assert repr(mec.execute("x = 1", targets=0)) == "<Results List>\n[0] In [1]: x = 1"
    mec.execute("x + 1", targets=[0])
    assert [mec.get_result(i, targets=0)[0]["stdout"] for i in (None, 1, 2)] == ["2\n", "", "2\n"]
    with pytest.raises(IndexError, match="engine 0 had no command 7"):
        mec.get_result(7, targets=0)
    mec.flush()
    with pytest.raises(IndexError):
        mec.get_result()


def test_an_int_target_gives_a_list_of_one(mec: client.MultiEngineClient) -> None:
    mec.push({"a": 5, "b": [1, 2]})
    assert mec.pull("a", targets=1) == [5]
    assert mec.pull(("a", "b"), targets=1) == [[5, [1, 2]]]
    assert mec.pull("a") == [5, 5, 5, 5]
    assert mec.zip_pull(("a", "b"), targets=[0, 2]) == [(5, 5), ([1, 2], [1, 2])]
    assert mec.keys() == [["a", "b"]] * 4
    mec.reset(targets=0)
    assert mec.keys() == [[], *[["a", "b"]] * 3]
    with pytest.raises(client.InvalidEngineID):
        mec.pull("a", targets=99)


def test_variables_as_items(mec: client.MultiEngineClient) -> None:
    mec["a"] = 10
    assert mec["a"] == [10] * 4
    mec.block = False
    mec["b"] = {"c": 1}
    assert mec["b"] == [{"c": 1}] * 4
    for key in (0, ("a", "b")):
        with pytest.raises(TypeError, match="a variable has a name: mec\\['a'\\], not mec"):
            mec[key]
    with pytest.raises(client.CompositeError):
        mec["nothing"]


def test_targets_are_the_engines_of_calls_that_name_none(mec: client.MultiEngineClient) -> None:
    assert mec.targets == "all"
    mec.targets = [0, 2]
    mec["a"] = 1
    assert (mec["a"], mec.pull("a", targets=2)) == ([1, 1], [1])
    assert mec.keys(targets="all") == [["a"], [], ["a"], []]
    assert [command["id"] for command in mec.execute("a += engine_id")] == [0, 2]
    assert [command["id"] for command in mec.get_result()] == [0, 2]
    assert mec.zip_pull(["a"]) == [(1, 3)]
    mec.scatter("part", range(4))
    assert (mec["part"], mec.gather("part")) == ([[0, 1], [2, 3]], [0, 1, 2, 3])
    assert mec.map(lambda x: engine_id, range(2)) == [0, 2]  # noqa: F821
    assert [engine for engine, _ in mec.queue_status()] == [0, 2]
    mec.set_properties({"gpu": True})
    assert mec.has_properties(["gpu"], targets="all") == [[True], [False], [True], [False]]
    mec.targets = 3
    assert mec.pull("engine_id") == [3]
    mec.targets = 99
    with pytest.raises(client.InvalidEngineID):
        mec.pull("a")


def test_all_tracebacks_of_a_composite_error(
    mec: client.MultiEngineClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(client.CompositeError) as caught:
        mec.execute("1 / 0", targets=[1, 3])
    caught.value.print_tracebacks()
    shown = capsys.readouterr().err
    assert "[1:execute] ZeroDivisionError" in shown and "[3:execute] ZeroDivisionError" in shown
    caught.value.print_tracebacks(1, file=(one := io.StringIO()))
    assert one.getvalue().count("Traceback") == 1


@pytest.mark.parametrize("wrong", ["a = 1", len, None])
def test_what_is_no_task_is_refused(tc: client.TaskClient, wrong: object) -> None:
    with pytest.raises(
        TypeError,
        match="a task is a StringTask or a MapTask, not an? .*: StringTask\\('a = 1'\\) runs code",
    ):
        tc.run(wrong)
    assert tc.run(client.StringTask("a = 1")) == 0


def test_a_name_that_is_not_there(mec: client.MultiEngineClient) -> None:
    with pytest.raises(client.CompositeError) as caught:
        mec.pull("nothing")
    assert [error.engine_info["engine_id"] for error in caught.value.errors] == [0, 1, 2, 3]
    with pytest.raises(client.NotDefined):
        caught.value.raise_exception()


def test_a_failed_command_clears_the_queue_of_its_engine(mec: client.MultiEngineClient) -> None:
    # On its own: the interrupt may come before the first line of what runs.
    mec.execute("import time", targets=0)
    first = mec.execute("time.sleep(600)", targets=0, block=False)
    second = mec.execute("a = 1", block=False)
    eventually(
        lambda: (
            ("running", 0)
            in [(task["phase"], task["engine"]) for task in mec.client.records(ended=False)]
        )
    )
    mec.client.send_signal("SIGINT", 0)
    with pytest.raises(client.CompositeError, match="KeyboardInterrupt"):
        first.get_result()
    with pytest.raises(client.CompositeError) as caught:
        second.get_result()
    with pytest.raises(client.QueueCleared):
        caught.value.raise_exception()
    assert mec.keys() == [["time"], ["a"], ["a"], ["a"]]


def test_pending_results(mec: client.MultiEngineClient) -> None:
    pending = mec.execute("input_ = 1", block=False)
    mec.barrier([pending])
    assert pending.done() and pending.r[0]["id"] == 0
    slow = mec.execute("import time; time.sleep(60)", targets=0, block=False)
    behind = mec.push({"c": 1}, targets=0, block=False)
    assert slow.get_result("not yet", block=False) == "not yet"
    with pytest.raises(client.ResultNotCompleted):
        mec.get_result(targets=0, block=False)
    eventually(
        lambda: (
            [record["phase"] for record in mec.client.records(ended=False)] == ["running", "queued"]
        )
    )
    assert mec.queue_status(targets=[0, 1]) == [
        (0, {"queue": 1, "pending": 1}),
        (1, {"queue": 0, "pending": 0}),
    ]
    mec.clear_queue(targets=0)
    with pytest.raises(client.CompositeError) as caught:
        behind.get_result()
    with pytest.raises(client.QueueCleared):
        caught.value.raise_exception()
    assert not slow.done()
    mec.client.send_signal("SIGINT", 0)
    with pytest.raises(client.CompositeError, match="KeyboardInterrupt"):
        slow.get_result()
    pulled = mec.pull("engine_id", block=False)
    pulled.add_callback(lambda values, factor: [value * factor for value in values], 10)
    pulled.add_callback(sum)
    assert (pulled.r, pulled.r) == (60, 60)


def test_functions_scatter_gather_map_and_parallel(mec: client.MultiEngineClient) -> None:
    mec.push({"factor": 3})
    mec.push_function({"triple": lambda x: x * factor})  # noqa: F821 - the engines have it
    mec.execute("y = triple(14)")
    assert mec.pull("y") == [42] * 4
    mec.execute("def twice(x):\n    return 2 * x")
    assert [f(4) for f in mec.pull_function("twice")] == [8] * 4
    mec.scatter("part", range(7))
    assert mec.pull("part") == [[0, 1], [2, 3], [4, 5], [6]]
    mec.execute("part = [item * 10 for item in part]")
    assert mec.gather("part") == list(range(0, 70, 10))
    assert mec.map(lambda x, y: x + y, range(5), range(5)) == [0, 2, 4, 6, 8]
    on_one = mec.map(lambda x: (x, engine_id), range(3), targets=1)  # noqa: F821
    assert on_one == [(0, 1), (1, 1), (2, 1)]

    @mec.parallel()
    def power(x: float) -> float:
        """Raise to the fourth power."""
        return 10.0 * x**4

    assert power(range(4)) == [0.0, 10.0, 160.0, 810.0]
    assert power.__doc__ == "Raise to the fourth power."


def test_a_script(mec: client.MultiEngineClient, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("z = engine_id + 1\nprint('ran', z)")
    assert [result["stdout"] for result in mec.run(script)] == [f"ran {n}\n" for n in (1, 2, 3, 4)]
    assert mec.pull("z") == [1, 2, 3, 4]


def test_properties(mec: client.MultiEngineClient) -> None:
    mec.set_properties({"gpu": True, "memory": 8}, targets=1)
    assert mec.get_properties(targets=[0, 1]) == [{}, {"gpu": True, "memory": 8}]
    assert mec.get_properties(["memory"], targets=1) == [{"memory": 8}]
    assert mec.has_properties(["gpu", "memory"], targets=[0, 1]) == [[False, False], [True, True]]
    mec.del_properties(["memory"], targets=1)
    assert mec.get_properties(targets=[1]) == [{"gpu": True}]
    mec.clear_properties()
    assert mec.get_properties() == [{}, {}, {}, {}]
    assert mec.keys() == [[], [], [], []]


def test_string_tasks(tc: client.TaskClient) -> None:
    assert tc.run(client.StringTask("a = b * 7", push={"b": 6}, pull=["a", "b"])) == 0
    result = tc.get_task_result(0, block=True)
    assert (result["a"], result.ns.b, result.results, result.failure) == (
        42,
        6,
        {"a": 42, "b": 6},
        None,
    )
    assert result.engineid in range(4) and result.taskid == 0
    assert result.submitted <= result.completed and result.duration >= 0
    assert tc.run(client.StringTask("c = 1", pull="c"), block=True)["c"] == 1
    failed = tc.run(client.StringTask("1 / 0", pull="a"), block=True)
    assert isinstance(failed.failure, ZeroDivisionError)
    for ask in (failed.raise_exception, lambda: failed["a"], lambda: failed.ns):
        with pytest.raises(ZeroDivisionError):
            ask()
    tc.run(client.StringTask("leaves = 1", clear_after=True), block=True)
    cleared = tc.run(
        client.StringTask(
            "found = 'b' in globals(), 'leaves' in globals()", "found", clear_before=True
        )
    )
    assert tc.get_task_result(cleared, block=True)["found"] == (False, False)
    assert tc.queue_status() == {"pending": 0, "failed": 1, "succeeded": 4, "scheduled": 0}
    assert tc.queue_status(verbose=True)["failed"] == [2]
    tc.clear()
    with pytest.raises(client.InvalidTaskID):
        tc.get_task_result(0)


def test_map_tasks(tc: client.TaskClient) -> None:
    tasks = [tc.run(client.MapTask(pow, (2, n))) for n in range(10)]
    tc.barrier(tasks)
    assert [tc.get_task_result(task) for task in tasks] == [2**n for n in range(10)]
    task = client.MapTask(lambda x, y=0: x - y, [5], {"y": 3}, clear_before=True)
    assert tc.run(task, block=True) == 2
    with pytest.raises(ValueError, match="invalid literal"):
        tc.run(client.MapTask(int, ("x",)), block=True)
    assert tc.map(lambda x: x * x, range(50)) == [x * x for x in range(50)]
    tc.spin()

    @tc.parallel()
    def cube(x: int) -> int:
        return x**3

    assert cube(range(4)) == [0, 1, 8, 27]


def test_retries_and_recovery(tc: client.TaskClient, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    flaky = f"import pathlib\nwith pathlib.Path({str(mark)!r}).open('a') as f: f.write('x')\n"
    flaky += (
        f"if len(pathlib.Path({str(mark)!r}).read_text()) < 3: raise OSError('not yet')\nok = True"
    )
    assert tc.run(client.StringTask(flaky, pull="ok", retries=2), block=True)["ok"]
    assert mark.read_text() == "xxx"
    last = client.StringTask("how = 'recovered twice'", pull="how")
    middle = client.MapTask(os.remove, (str(tmp_path / "nothing"),), recovery_task=last)
    result = tc.run(client.StringTask("raise ValueError", recovery_task=middle), block=True)
    assert result.ns.how == "recovered twice" and result.failure is None
    unsendable = client.MapTask(len, (threading.Lock(),))
    failed = tc.run(client.StringTask("raise ValueError", recovery_task=unsendable), block=True)
    assert isinstance(failed.failure, ValueError)


def test_depend_is_asked_on_engines(mec: client.MultiEngineClient, tc: client.TaskClient) -> None:
    mec.set_properties({"gpu": True}, targets=1)
    tasks = [
        tc.run(client.StringTask("e = engine_id", "e", depend=lambda p: p.get("gpu")))
        for _ in range(8)
    ]
    assert {tc.get_task_result(task, block=True)["e"] for task in tasks} == {1}
    where = client.MapTask(lambda: engine_id, depend=lambda p: "gpu" not in p)  # noqa: F821
    assert tc.run(where, block=True) in (0, 2, 3)
    nowhere = client.StringTask("e = 1", "e", depend=lambda p: False)
    assert isinstance(tc.run(nowhere, block=True).failure, furlong.ImpossibleDependency)


def test_abort_takes_back_what_has_not_begun(
    mec: client.MultiEngineClient, tc: client.TaskClient
) -> None:
    sleeping = [tc.run(client.StringTask("import time; time.sleep(60)")) for _ in range(4)]
    eventually(lambda: tc.queue_status()["pending"] == 4)
    other = client.StringTask("never = 1")
    waiting = tc.run(client.StringTask("a = 1", recovery_task=other))
    assert tc.get_task_result(waiting) is None
    eventually(lambda: tc.queue_status(verbose=True)["scheduled"] == [waiting])
    tc.abort(waiting)
    assert isinstance(tc.get_task_result(waiting, block=True).failure, client.TaskAborted)
    for task in sleeping:
        assert tc.get_task_result(task) is None
    tc.client.cancel()
    tc.barrier(sleeping)


def test_kill_stops_engines(farm: Farm) -> None:
    with client.MultiEngineClient(farm.cluster.capability.with_name("admin.cap.json")) as mec:
        mec.kill(targets=3)
        assert mec.get_ids() == [0, 1, 2]
