"""Results as futures: what has ended is done, whoever asks, and callbacks are called once, in order."""

import asyncio
import concurrent.futures
import logging
import threading

import pytest
from conftest import SOON_SECONDS, eventually

from furlong.results.lazy_future import LazyFuture

MANY = 200


def test_what_has_ended_is_done_at_once_for_the_standard_library(rc, view, lview):
    for made in (
        view.apply_async(int),
        rc[0].apply_async(int),
        lview.apply_async(int),
        lview.map_async(abs, range(9)),
    ):
        made.get(SOON_SECONDS)
        assert concurrent.futures.wait([made], timeout=0) == ({made}, set())
        assert list(concurrent.futures.as_completed([made], timeout=0)) == [made]


def test_what_ends_after_somebody_asked_is_done_at_once_as_well(rc):
    # The thread of callbacks is told of each of these; nobody may have to wait for it.
    for _ in range(MANY):
        made = rc[0].apply_async(int)
        assert concurrent.futures.wait([made], timeout=0).done <= {made}
        made.get(SOON_SECONDS)
        assert concurrent.futures.wait([made], timeout=0).done == {made}


def test_results_end_while_the_thread_of_callbacks_is_busy(rc):
    go_on = threading.Event()
    first = rc[0].apply_async(int)
    first.add_done_callback(lambda _: go_on.wait(SOON_SECONDS))
    second = rc[0].apply_async(int)
    assert not concurrent.futures.wait([second], timeout=0).not_done & {first}
    second.get(SOON_SECONDS)
    try:
        assert concurrent.futures.wait([second], timeout=0).done == {second}
        seen = []
        second.add_done_callback(seen.append)
        assert seen == [second]
    finally:
        go_on.set()


def test_wait_gives_the_pair(rc, view, gate):
    made = view.apply_async(lambda wait: engine_id == 0 or wait(), gate.wait)  # noqa: F821
    done, pending = made.wait(SOON_SECONDS, concurrent.futures.FIRST_COMPLETED)
    assert [part.get() for part in done] == [True]
    assert len(pending) == len(rc) - 1
    gate.open()
    done, pending = made.wait(return_when=concurrent.futures.ALL_COMPLETED)
    assert (len(done), pending) == (len(rc), set())
    one = rc[0].apply_async(int)
    assert one.wait(return_when=concurrent.futures.FIRST_EXCEPTION) == ({one}, set())
    assert one.wait(0) is True


def test_callbacks_run_once_each_in_their_order(rc, gate):
    seen = []
    ended = threading.Event()
    made = rc[0].apply_async(gate.wait)
    for at in range(MANY):
        made.add_done_callback(lambda _, at=at: seen.append(at))
    made.add_done_callback(lambda _: ended.set())
    gate.open()
    made.get(SOON_SECONDS)
    made.add_done_callback(lambda _: seen.append("later"))
    assert ended.wait(SOON_SECONDS)
    # The last may be called by this thread or the other, and after all before it in any case.
    made.add_done_callback(lambda _: seen.append("last"))
    assert seen == [*range(MANY), "later", "last"]


def test_a_callback_that_raises_is_logged_and_the_next_runs(rc, gate, caplog):
    ended = threading.Event()
    made = rc[0].apply_async(gate.wait)
    made.add_done_callback(lambda _: 1 / 0)
    made.add_done_callback(lambda _: ended.set())
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        assert ended.wait(SOON_SECONDS)
        made.add_done_callback(lambda _: [][0])
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError, IndexError]


def test_asyncio_takes_results(rc, gate):
    async def use():
        results = [rc[0].apply_async(pow, 2, n) for n in range(5)]
        done, pending = await asyncio.wait(results)
        assert (len(done), pending) == (5, set())
        assert await asyncio.gather(*results) == [1, 2, 4, 8, 16]
        assert await asyncio.wait_for(results[3], SOON_SECONDS) == 8
        assert await asyncio.wrap_future(results[4]) == 16
        waiting = rc[1].apply_async(gate.wait)
        done, pending = await asyncio.wait([waiting, *results], return_when=asyncio.FIRST_COMPLETED)
        assert len(pending) == 1
        done, pending = await asyncio.wait(pending, timeout=0.001)
        assert (done, len(pending)) == (set(), 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(waiting)), 0.001)
        failed = rc[0].apply_async(lambda: 1 / 0)
        (error,) = await asyncio.gather(failed, return_exceptions=True)
        assert isinstance(error, ZeroDivisionError)

    asyncio.run(use())


def test_asyncio_learns_of_a_cancel(rc, gate):
    async def use():
        waiting = rc[0].apply_async(gate.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(use())


class EndsWhenAsked(LazyFuture):
    """It has ended when it is asked so many times; at the latest when somebody waits for it."""

    def __init__(self, asked):
        self._left = asked

    def done(self):
        self._left -= 1
        return self._left <= 0

    def _settle(self):
        self._final = 3

    def _when_over(self, callback):
        def tell():
            eventually(lambda: self._left <= 0 or self._waiters)
            self._left = 0
            callback()

        threading.Thread(target=tell).start()


@pytest.mark.parametrize("asked", range(1, 9))
def test_a_result_that_ends_while_it_is_looked_at_is_done(asked):
    made = EndsWhenAsked(asked)
    other = concurrent.futures.Future()
    other.set_result(None)
    assert concurrent.futures.wait([made, other], SOON_SECONDS) == ({made, other}, set())
    assert list(concurrent.futures.as_completed([made], SOON_SECONDS)) == [made]
