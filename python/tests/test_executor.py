"""Views as executors of `concurrent.futures`. CPython's own tests of executors are run by test_stdlib_futures.py."""

import concurrent.futures
import contextlib
import gc
import itertools
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from conftest import SOON_SECONDS, eventually

import furlong


def touch(path):
    Path(path).touch()


def die():
    os._exit(1)


def test_098_submit_and_map(rc, view, lview):
    for some in (lview.executor, rc.executor(), rc[2].executor, rc.executor([1, 2])):
        assert isinstance(some, concurrent.futures.Executor)
        assert some.submit(pow, 2, 5).result() == 32
        assert some.submit(int, "12", base=3).result(timeout=60) == 5
        assert isinstance(some.submit(operator.truediv, 1, 0).exception(), ZeroDivisionError)
        assert list(some.map(operator.add, range(10), range(10))) == list(range(0, 20, 2))
        assert list(some.map(operator.add, range(10), range(10), chunksize=3)) == list(
            range(0, 20, 2)
        )
    assert rc.executor().submit(int)._parts[0].info.client is rc
    assert lview.executor._max_workers == 4
    assert rc.executor([1, 2])._max_workers == 2


# The map.


@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"timeout": SOON_SECONDS}])
def test_map_runs_all_calls_without_a_reader(rc, view, tmp_path, options):
    for at, executor in enumerate(
        (rc.executor(), rc.executor([1, 2]), view.executor, rc[0].executor)
    ):
        folder = tmp_path / str(at)
        folder.mkdir()
        with executor:
            executor.map(touch, [folder / str(n) for n in range(50)], **options)
        assert len(list(folder.iterdir())) == 50


def test_map_goes_on_beyond_its_bound_without_a_reader(rc, monkeypatch, tmp_path):
    monkeypatch.setattr("furlong.views.executor_map.TASKS_MAX", 8)
    with rc.executor() as executor:
        values = executor.map(touch, (tmp_path / str(n) for n in range(100)))
        gone = executor.map(abs, range(100))
        del gone
    assert len(list(tmp_path.iterdir())) == 100
    assert list(values) == [None] * 100


def test_map_takes_an_endless_input(lview, monkeypatch):
    monkeypatch.setattr("furlong.views.executor_map.TASKS_MAX", 100)
    monkeypatch.setattr("furlong.views.executor_map.UNREAD_MAX", 200)
    source = itertools.count()
    values = lview.executor.map(lambda x: x * x, source)
    assert [next(values) for _ in range(5)] == [0, 1, 4, 9, 16]
    values.close()
    assert next(source) < 1000
    assert list(values) == []


def test_map_with_a_buffer_submits_as_values_are_read(rc, lview):
    source = itertools.count()
    values = lview.executor.map(abs, source, buffersize=3)
    assert next(source) == 3
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    assert next(source) == 7
    values.close()
    for wrong, error in ((0, ValueError), ("3", TypeError)):
        with pytest.raises(error, match="buffersize"):
            lview.executor.map(abs, [], buffersize=wrong)


def test_a_slow_head_keeps_no_engine_idle(rc, gate, tmp_path):
    for executor in (rc.executor(), rc.executor([0, 1]), rc[:].executor):
        values = executor.map(lambda n: gate.wait(n) if n == 0 else n, range(40))
        eventually(lambda: len(rc.outstanding) <= 2)
        gate.open()
        assert list(values) == list(range(40))
        (tmp_path / "gate").unlink()


def test_values_come_before_the_error_at_its_place_and_nothing_after(rc):
    for chunksize in (1, 3):
        values = rc.executor().map(lambda n: 1 // (n - 4), range(10), chunksize=chunksize)
        assert [next(values) for _ in range(4)] == [-1, -1, -1, -1]
        with pytest.raises(ZeroDivisionError):
            next(values)
        assert list(values) == []


def die_at(bad, n):
    if n == bad:
        os._exit(1)
    return n


@pytest.mark.parametrize("bad", [0, 4, 9])
def test_only_the_item_that_kills_its_interpreter_is_lost(rc, tmp_path, bad):
    values = rc.executor().map(die_at, [bad] * 10, range(10), chunksize=5)
    assert [next(values) for _ in range(bad)] == list(range(bad))
    with pytest.raises(furlong.EngineError):
        next(values)

    def touch_or_die(n):
        if n == bad:
            os._exit(1)
        (tmp_path / str(n)).touch()

    with rc.executor() as executor:
        executor.map(touch_or_die, range(10), chunksize=5)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [
        n for n in range(10) if n != bad
    ]


def test_values_that_are_exceptions_are_values(rc):
    for chunksize in (1, 2):
        values = list(rc.executor().map(lambda n: ValueError(n), range(3), chunksize=chunksize))
        assert [type(value) for value in values] == [ValueError] * 3


def test_map_times_out_and_cancels_the_rest(rc, lview, gate):
    values = lview.executor.map(gate.wait, range(50), timeout=0.1)
    with pytest.raises(TimeoutError):
        next(values)
    with pytest.raises(StopIteration):
        next(values)
    eventually(lambda: len(rc.outstanding) <= len(rc))
    gate.open()
    eventually(lambda: not rc.outstanding)


@pytest.mark.parametrize("end", ["close", "drop", "loop"])
def test_an_iterator_that_ends_early_cancels_the_rest(rc, lview, gate, end):
    values = lview.executor.map(lambda n: n and gate.wait(), range(50))
    if end == "loop":
        for _ in values:
            break
    else:
        next(values)
    if end == "close":
        with contextlib.closing(values):
            pass
    del values
    eventually(lambda: len(rc.outstanding) <= len(rc))
    gate.open()
    eventually(lambda: not rc.outstanding)


def test_an_interrupted_reader_leaves_no_call(rc, gate):
    values = rc.executor().map(gate.wait, range(50))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(values)
    finally:
        signal.signal(signal.SIGALRM, before)
    eventually(lambda: not rc.outstanding)


def test_executors_that_have_nothing_to_do_are_not_kept(rc):
    for _ in range(20):
        assert rc.executor().submit(int).result() == 0
    assert len(rc._executors) <= 2


def test_map_says_what_is_wrong_at_the_call(rc, lview):
    executor = lview.executor
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="chunksize"):
            executor.map(abs, [1], chunksize=wrong)
    with pytest.raises(TypeError):
        executor.map(3, [1])
    with pytest.raises(TypeError):
        executor.map(abs, 3)
    with pytest.raises(furlong.errors.PicklingError, match=r"items\[2\]"):
        executor.map(repr, [1, 2, threading.Lock()])
    eventually(lambda: not rc.outstanding)


def test_an_error_of_the_items_comes_at_its_place(lview, monkeypatch):
    monkeypatch.setattr("furlong.views.executor_map.TASKS_MAX", 8)

    def items():
        yield from range(20)
        raise LookupError("no more")

    values = lview.executor.map(abs, items())
    assert [next(values) for _ in range(20)] == list(range(20))
    with pytest.raises(LookupError, match="no more"):
        next(values)


def test_slow_items_hold_up_no_other_map(lview, monkeypatch):
    monkeypatch.setattr("furlong.views.executor_map.TASKS_MAX", 8)
    go_on = threading.Event()

    def items():
        yield from range(20)
        go_on.wait(SOON_SECONDS)
        yield 20

    slow = lview.executor.map(abs, items())
    assert [next(slow) for _ in range(20)] == list(range(20))
    assert lview.map_sync(abs, range(100)) == list(range(100))
    go_on.set()
    assert list(slow) == [20]


def test_values_are_let_go_when_they_are_given(rc):
    for executor in (rc.executor(), rc[:].executor):
        for value in executor.map(lambda n: {n}, range(10)):
            reference = weakref.ref(value)
            del value
            gc.collect()
            assert reference() is None


# Futures.


def test_cancel_takes_back_what_has_not_begun_and_nothing_else(rc, gate):
    executor = rc[0].executor
    runs, waits = executor.submit(gate.wait, 5), executor.submit(gate.wait)
    eventually(runs.running)
    assert not waits.running()
    assert waits.cancel()
    assert waits.cancelled()
    assert waits.done()
    assert waits.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        waits.result()
    with pytest.raises(concurrent.futures.CancelledError):
        waits.exception()
    assert concurrent.futures.wait([waits], 0).done == {waits}
    assert not runs.cancel()
    assert not runs.cancelled()
    with pytest.raises(concurrent.futures.TimeoutError):
        runs.result(timeout=0)
    gate.open()
    assert runs.result(SOON_SECONDS) == 5
    assert not runs.cancel()
    assert not runs.running()


def test_cancel_means_all_engines_of_a_call_or_none(rc, gate):
    pool = rc[[0, 1]].executor
    runs = pool.submit(gate.wait, 1)
    behind = rc[0].executor.submit(gate.wait, 2)
    eventually(runs.running)
    half = pool.submit(int)
    only_here = rc[[1, 2]].executor.submit(gate.wait, 3)
    eventually(only_here.running)
    assert not runs.cancel()
    assert half.cancel()
    assert half.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        half.result()
    with pytest.raises(concurrent.futures.CancelledError):
        half.exception()
    assert concurrent.futures.wait([half], 0).done == {half}
    # It runs on one of its engines, so it goes on on the other one too.
    assert not only_here.cancel()
    rc[[1, 2]].executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    assert runs.result(60) == [1, 1]
    assert only_here.result(60) == [3, 3]
    assert behind.result(60) == 2


def test_shutdown_cancels_calls_on_several_engines_as_a_whole(rc, gate):
    pool = rc[[0, 1]].executor
    begun = pool.submit(gate.wait, 1)
    eventually(begun.running)
    waiting = [pool.submit(int) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()
    assert begun.result(60) == [1, 1]
    concurrent.futures.wait(waiting, 60)
    assert all(future.cancelled() for future in waiting)


def test_cancel_with_force_ends_what_runs(rc, gate):
    runs = rc.executor().submit(gate.wait)
    eventually(runs.running)
    assert runs.cancel(force=True)
    assert runs.cancelled()


def test_a_call_that_fails_leaves_alone_what_is_queued_behind_it(rc):
    executor = rc[0].executor
    futures = [executor.submit(operator.truediv, 1, n) for n in (0, 1, 0, 2)]
    assert [future.exception() is None for future in futures] == [False, True, False, True]


def test_exceptions_keep_their_type(rc):
    executor = rc.executor()
    assert isinstance(executor.submit(die).exception(), furlong.EngineError)
    with pytest.raises(FileNotFoundError):
        executor.submit(open, "/nowhere/at/all").result()


def test_executors_of_several_engines_give_lists(view):
    assert view.executor.submit(int).result() == [0, 0, 0, 0]


# Shutdown, in its four forms.


def test_098_the_context_manager_waits_and_engines_stay(rc, lview):
    with lview.executor as pool:
        futures = [pool.submit(time.sleep, 0.05) for _ in range(8)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.map(int, [1])
    assert rc.ids == [0, 1, 2, 3]
    assert lview.executor.submit(int).result() == 0


def test_098_shutdown_waits_for_what_nobody_holds(rc, lview):
    pool = lview.executor
    for _ in range(8):
        pool.submit(time.sleep, 0.05)
    pool.shutdown()
    assert not rc.outstanding
    pool.shutdown()


def test_shutdown_without_waiting_lets_all_go_on(rc, lview, gate, monkeypatch):
    monkeypatch.setattr("furlong.views.executor_map.TASKS_MAX", 8)
    pool = lview.executor
    future, values = pool.submit(gate.wait, 1), pool.map(gate.wait, range(30))
    pool.shutdown(wait=False)
    assert not future.done()
    gate.open()
    assert future.result(SOON_SECONDS) == 1
    assert list(values) == list(range(30))


@pytest.mark.parametrize("wait", [False, True])
def test_shutdown_may_cancel_what_has_not_begun(rc, lview, gate, monkeypatch, wait):
    monkeypatch.setattr("furlong.views.executor_map.TASKS_MAX", 8)
    pool = lview.executor
    first = pool.submit(gate.wait, "first")
    eventually(first.running)
    futures = [pool.submit(gate.wait) for _ in range(20)]
    values = pool.map(gate.wait, range(30))
    shutting = threading.Thread(target=pool.shutdown, kwargs={"wait": wait, "cancel_futures": True})
    shutting.start()
    eventually(lambda: futures[-1].done())
    if not wait:
        shutting.join(SOON_SECONDS)
        assert not shutting.is_alive()
    assert not first.done()
    gate.open()
    shutting.join(SOON_SECONDS)
    assert first.result(SOON_SECONDS) == "first"
    ended = [future for future in futures if not future.cancelled()]
    assert len(ended) <= len(rc)
    assert [future.result(SOON_SECONDS) for future in ended] == [None] * len(ended)
    with pytest.raises(concurrent.futures.CancelledError):
        list(values)


AT_EXIT = """
import atexit, sys, time
def late():
    try:
        executor.submit(int)
    except RuntimeError as error:
        print(error)
atexit.register(late)
import furlong
rc = furlong.Client()
executor = rc.executor()
def touch(path):
    time.sleep(0.2)
    open(path, "w").close()
executor.submit(touch, sys.argv[1] + "/submitted")
executor.map(touch, [sys.argv[1] + "/mapped"])
if sys.argv[2] == "shutdown":
    executor.shutdown(wait=False)
"""


@pytest.mark.parametrize("how", ["left", "shutdown"])
def test_a_program_ends_when_its_calls_have(cluster, tmp_path, how):

    environment = {**os.environ, "FURLONG_CAP": str(cluster.capability)}
    argv = [sys.executable, "-c", AT_EXIT, str(tmp_path), how]
    ended = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=SOON_SECONDS
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "cannot schedule new futures after" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"submitted", "mapped"}
