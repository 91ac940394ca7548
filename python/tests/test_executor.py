"""Views as executors of `concurrent.futures`."""

import concurrent.futures
import itertools
import operator

import pytest


def test_098_submit_and_map(rc, view, lview):
    for some in (lview.executor, rc.executor(), rc[2].executor, rc.executor([1, 2])):
        assert isinstance(some, concurrent.futures.Executor)
        assert some.submit(pow, 2, 5).result() == 32
        assert some.submit(int, "12", base=3).result(timeout=60) == 5
        assert isinstance(some.submit(operator.truediv, 1, 0).exception(), ZeroDivisionError)
        assert list(some.map(operator.add, range(10), range(10))) == list(range(0, 20, 2))
    assert rc.executor().submit(int)._parts[0].about.client is rc
    assert lview.executor._max_workers == 4
    assert rc.executor([1, 2])._max_workers == 2


def test_098_map_is_lazy(lview):
    source = itertools.count()
    values = lview.executor.map(lambda x: x * x, source)
    assert [next(values) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert next(source) < 20


def test_098_map_times_out(lview):
    import time

    values = lview.executor.map(time.sleep, [120], timeout=0.1)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(values)
    with pytest.raises(TimeoutError):
        next(values)
    values.cancel()


def test_098_the_context_manager_waits_and_engines_stay(rc, lview):
    import time

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
    import time

    pool = lview.executor
    for _ in range(8):
        pool.submit(time.sleep, 0.05)
    pool.shutdown()
    assert not rc.outstanding


def test_098_shutdown_may_cancel(rc, lview, gate):
    pool = lview.executor
    futures = [pool.submit(gate.wait) for _ in range(20)]
    pool.shutdown(wait=True, cancel_futures=True)
    assert all(future.done() for future in futures)
    assert any(future.cancelled() for future in futures)


def test_098_executors_of_several_engines_give_lists(view):
    assert view.executor.submit(int).result() == [0, 0, 0, 0]
