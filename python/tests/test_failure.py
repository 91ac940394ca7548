"""Failures: engines that die, interpreters that die, clients that leave."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import SOON_SECONDS, eventually

import furlong
from furlong import CompositeError, EngineError, RemoteError


def die(*engines):
    if not engines or engine_id in engines:  # noqa: F821
        os.kill(os.getpid(), 9)
    return engine_id  # noqa: F821


def kill_engine(rc, engine):
    """Kill the process of an engine; its interpreter goes with it."""
    (process,) = [process for process in rc.status()["processes"] if engine in process["engines"]]
    os.kill(process["pid"], signal.SIGKILL)


@pytest.fixture
def apart(own):
    """Return a client of a cluster whose four engines are processes of their own."""
    cluster = own(n=1)
    client = cluster.start_and_connect_sync()
    for _ in range(3):
        cluster.start_engines_sync(1)
    client.wait_for_engines(4, timeout=SOON_SECONDS)
    with furlong.Client(cluster.capability) as client:
        yield client


def gone(rc, engine):
    eventually(lambda: engine not in rc.ids)


def test_088_an_interpreter_that_dies_fails_its_task_only(rc, view):
    result = view.apply_async(die, 1)
    with pytest.raises(CompositeError) as caught:
        result.get(SOON_SECONDS)
    (error,) = caught.value.errors
    assert isinstance(error, EngineError)
    assert error.engine_info["engine_id"] == 1
    assert "signal 9" in str(error) or "SIGKILL" in str(error)
    values = result.get(return_exceptions=True)
    assert values[0] == 0
    assert values[2:] == [2, 3]
    assert rc.ids == [0, 1, 2, 3]
    assert view.apply_sync(lambda: engine_id) == [0, 1, 2, 3]  # noqa: F821


def test_088_an_engine_that_dies_in_a_call_on_several(apart):
    result = apart[:].apply_async(
        lambda: engine_id if engine_id != 2 else time.sleep(120)  # noqa: F821
    )
    assert [result.split()[n].get(SOON_SECONDS) for n in (0, 1, 3)] == [0, 1, 3]
    kill_engine(apart, 2)
    with pytest.raises(CompositeError) as caught:
        result.get(SOON_SECONDS)
    (error,) = caught.value.errors
    assert isinstance(error, EngineError)
    assert error.engine_info["engine_id"] == 2
    gone(apart, 2)
    assert apart.ids[:3] == [0, 1, 3], (
        "another one may have come in its place, with an id of its own"
    )
    assert apart[:].apply_sync(lambda: engine_id)[:3] == [0, 1, 3]  # noqa: F821
    with pytest.raises(IndexError):
        apart[2]


def test_088_an_engine_that_died_is_gone_within_five_seconds(apart):
    kill_engine(apart, 2)
    eventually(lambda: 2 not in apart.ids, 5)


def test_088_a_view_that_is_older_than_the_death(apart):
    old, everywhere = apart[:], apart.direct_view("all")
    kill_engine(apart, 0)
    gone(apart, 0)
    result = old.apply_async(int)
    with pytest.raises(CompositeError) as caught:
        result.get(SOON_SECONDS)
    assert [error.engine_info["engine_id"] for error in caught.value.errors] == [0]
    assert isinstance(caught.value.errors[0], EngineError)
    assert everywhere.apply_sync(int)[:3] == [0, 0, 0]


def test_089_an_engine_that_dies_in_a_balanced_task(rc, lview):
    with lview.temp_flags(retries=0):
        result = lview.apply_async(die)
    with pytest.raises(EngineError) as caught:
        result.get(SOON_SECONDS)
    assert result.engine_id in (0, 1, 2, 3)
    assert caught.value.engine_info["engine_id"] == result.engine_id
    assert result.status == "error"
    assert lview.apply_sync(int) == 0


def test_089_a_balanced_task_goes_on_elsewhere(apart, tmp_path):
    def where(folder):
        (folder / str(engine_id)).touch()  # noqa: F821
        if len(list(folder.iterdir())) == 1:
            time.sleep(120)
        return engine_id  # noqa: F821

    with apart.load_balanced_view().temp_flags(retries=3) as lview:
        result = lview.apply_async(where, tmp_path)
    (path,) = eventually(lambda: list(tmp_path.iterdir()))
    kill_engine(apart, int(path.name))
    assert result.get(SOON_SECONDS) != int(path.name)
    assert result.attempts == 2


def test_089_maps_go_on_without_an_engine(apart):
    lview = apart.load_balanced_view(retries=3)
    result = lview.map_async(lambda x: time.sleep(0.005) or x, range(1000))
    assert next(iter(result)) == 0
    kill_engine(apart, 1)
    assert result.get(SOON_SECONDS) == list(range(1000))


def test_090_signals_interrupt_what_runs(rc, view):
    for sig in (signal.SIGINT, int(signal.SIGINT), "SIGINT"):
        result = view.execute("print('on', flush=True)\nimport time\ntime.sleep(120)")
        for part in result._parts:
            assert part.task.output().next(SOON_SECONDS) is not None
        view.send_signal(sig)
        with pytest.raises(CompositeError) as caught:
            result.get(SOON_SECONDS)
        assert [error.ename for error in caught.value.errors] == ["KeyboardInterrupt"] * 4
    view.send_signal("SIGINT")
    assert view.apply_sync(int) == [0] * 4
    with pytest.raises(ValueError, match="signal"):
        view.send_signal("SIGNOTHING")


def test_restarted_interpreters_are_empty(rc, view):
    view["a"] = 1
    before = view.apply_sync(os.getpid)
    rc.restart([1, 2])
    after = view.apply_sync(os.getpid)
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True,
        False,
        False,
        True,
    ]
    assert view.pull("'a' in globals()", block=True) == [True, False, False, True]


def run(code, cluster, *args):
    """Run a client in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(cluster.capability), *args],
        capture_output=True,
        text=True,
        timeout=SOON_SECONDS,
        check=False,
    )


def test_a_program_may_end_with_everything_open(cluster):
    code = """
        import furlong, sys, time
        rc = furlong.Client(sys.argv[1])
        lview = rc.load_balanced_view()
        slow = rc[0].apply_async(time.sleep, 120)
        slow.add_done_callback(print)
        values = lview.imap(abs, iter(int, 1))
        print([next(values) for _ in range(3)])
        mapped = lview.map_async(abs, range(100000))
        mapped.add_done_callback(lambda r: None)
    """
    ended = run(code, cluster)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("[0, 0, 0]")
    assert "Traceback" not in ended.stderr


def test_a_forked_process_says_that_it_has_no_client(cluster):
    code = """
        import furlong, os, sys, threading
        rc = furlong.Client(sys.argv[1])
        assert rc[0].apply_sync(int) == 0
        pid = os.fork()
        if pid == 0:
            try:
                rc[0].apply_sync(int)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            with furlong.Client(sys.argv[1]) as own:
                print(own[0].apply_sync(abs, -3), flush=True)
                called = threading.Event()
                own[0].apply_async(int).add_done_callback(lambda r: called.set())
                print("called back" if called.wait(30) else "not called", flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(rc[0].apply_sync(abs, -4))
    """
    ended = run(code, cluster)
    assert ended.returncode == 0, ended.stderr
    assert "fork" in ended.stdout.splitlines()[0]
    assert ended.stdout.splitlines()[1:-1] == ["3", "called back"]
    assert ended.stdout.splitlines()[-1] == "4"


def test_a_broker_that_goes_ends_what_waits(farm):
    rc = farm.client()
    result = rc[0].apply_async(time.sleep, 120)
    rc.flush()
    farm.cluster.stop_cluster_sync()
    with pytest.raises((furlong.errors.ConnectionLost, RemoteError)):
        result.get(SOON_SECONDS)
    with pytest.raises(furlong.FurlongError):
        rc.direct_view("all").apply_sync(int)
    rc.close()
