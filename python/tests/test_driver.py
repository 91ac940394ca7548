"""A row of quick calls, in which the caller itself reads and writes: nothing else may suffer from it."""

import os
import threading
import time

from conftest import eventually

QUICK = 50


def quick_calls(view):
    assert [view.apply_sync(abs, -n) for n in range(QUICK)] == list(range(QUICK))


def test_what_comes_while_nobody_waits_is_taken(lview):
    quick_calls(lview)
    result = lview.apply_async(abs, -7)
    eventually(result.done)
    assert result.get() == 7
    quick_calls(lview)
    called = threading.Event()
    lview.apply_async(abs, -1).add_done_callback(lambda _: called.set())
    assert called.wait(30)


def test_what_is_submitted_and_not_waited_for_runs(lview, tmp_path):
    quick_calls(lview)
    names = [tmp_path / f"{n}" for n in range(40)]
    for name in names:
        lview.apply_async(type(name).touch, name)
    eventually(lambda: all(name.exists() for name in names))


def test_a_thread_that_sleeps_over_a_long_task_is_woken(rc, lview):
    long = rc[0].apply_async(time.sleep, 0.3)
    woken = threading.Thread(target=long.get)
    woken.start()
    while not long.done():
        quick_calls(lview)
    woken.join(30)
    assert not woken.is_alive()


def test_threads_make_quick_calls_side_by_side(rc, lview):
    failed = []

    def call(view):
        try:
            for _ in range(4):
                quick_calls(view)
        except BaseException as error:
            failed.append(error)

    views = [lview, rc.load_balanced_view(), rc[0], rc[1]]
    threads = [threading.Thread(target=call, args=(view,)) for view in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)


def test_many_after_quick_calls(lview):
    quick_calls(lview)
    results = [lview.apply_async(abs, -n) for n in range(2000)]
    assert [result.get() for result in results] == list(range(2000))


def test_large_values_after_quick_calls(rc, lview):
    quick_calls(rc[0])
    data = os.urandom(4 << 20)
    assert rc[0].apply_sync(bytes, data) == data
    quick_calls(lview)
    results = [lview.apply_async(len, data) for _ in range(8)]
    quick_calls(rc[1])
    assert [result.get() for result in results] == [len(data)] * 8
