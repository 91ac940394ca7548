"""Results: waiting, values, errors, what happened, and the protocol of futures."""

import asyncio
import concurrent.futures
import datetime
import gc
import pickle
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import eventually

import furlong
from furlong import AsyncResult, CompositeError, RemoteError, TaskCancelled, errors
from furlong.results import displays

LONG = 120


def sleep(seconds=LONG):
    time.sleep(seconds)
    return seconds


def fail_on(*engines):
    if engine_id in engines:  # noqa: F821
        raise ValueError(f"not on {engine_id}")  # noqa: F821
    return engine_id  # noqa: F821


def fail_now_on(engine):
    if engine_id == engine:  # noqa: F821
        raise ValueError("at once")
    time.sleep(LONG)


@pytest.fixture
def busy(rc):
    """Return a result that does not end by itself, on one engine."""
    result = rc[0].apply_async(sleep)
    yield result
    result.cancel()


def test_046_get_gives_the_same_each_time(rc, view):
    result = view.apply_async(lambda: [engine_id])  # noqa: F821
    first = result.get()
    assert first == [[0], [1], [2], [3]]
    assert result.get() is first
    assert result.result() is first
    assert result.r is first
    assert rc[0].apply_async(int).get(timeout=-1) == 0


def test_a_pending_result_tells_what_was_known_at_its_submit(rc, cluster, gate):
    before = datetime.datetime.now(datetime.timezone.utc)
    lview = rc.load_balanced_view(label="night", keep=True)
    result, direct = lview.apply_async(gate.wait, 5), rc[:2].apply_async(gate.wait)
    mapped = lview.map(gate.wait, [1, 2], label="mapped", chunksize=1)
    after = datetime.datetime.now(datetime.timezone.utc)
    assert before <= result.submitted <= after
    assert (result.label, result.status, result.started, result.completed) == (
        "night",
        None,
        None,
        None,
    )
    assert (result.metadata["submitted"], result["label"]) == (result.submitted, "night")
    assert [before <= submitted <= after for submitted in direct.submitted] == [True, True]
    assert (mapped.label, len(mapped.submitted)) == (["mapped"] * 2, 2)
    rc.flush()
    with furlong.Client(cluster=cluster) as other:
        fetched = other.get_result(result.msg_ids[0])
        assert (fetched.label, fetched.status) == ("night", None)
        known = fetched.submitted
        gate.open()
        assert (fetched.get(), fetched.submitted) == (5, known)
    assert result.get() == 5
    assert result.submitted == known


def test_046_what_is_pending_is_waited_for_in_bounds(rc, busy):
    assert not busy.ready()
    assert not busy.done()
    assert busy.running()
    for wait in (busy.get, busy.result, busy.exception):
        with pytest.raises(TimeoutError):
            wait(0)
        with pytest.raises(concurrent.futures.TimeoutError):
            wait(0.01)
    assert busy.wait(0) is False
    assert busy.wait(0.01) is False
    with pytest.raises(RuntimeError, match="not ready"):
        busy.successful()
    busy.cancel()
    assert busy.wait(60) is True
    assert busy.ready()


def test_046_successful_says_how_it_ended(rc):
    good, bad = rc[0].apply_async(int), rc[1].apply_async(lambda: 1 / 0)
    assert good.wait()
    assert good.successful()
    assert good.exception() is None
    assert bad.wait()
    assert not bad.successful()
    assert isinstance(bad.exception(), ZeroDivisionError)


def test_047_the_error_is_raised_each_time(rc, view):
    result = rc[1].apply_async(lambda: 1 / 0)
    for get in (
        result.get,
        result.get,
        result.get_dict,
        result.result,
        lambda: result.r,
        lambda: result[0],
    ):
        with pytest.raises(ZeroDivisionError) as caught:
            get()
        assert caught.value.ename == "ZeroDivisionError"
    several = view.apply_async(fail_on, 1, 2)
    for get in (several.get, several.get_dict, several.result, lambda: several.result_dict):
        with pytest.raises(CompositeError) as caught:
            get()
        assert len(caught.value.errors) == 2
    # A traceback that grows with each raise would keep frames alive.
    assert caught.value.__traceback__ is not None


def test_048_results_by_engine(rc, view, lview):
    by_engine = view.apply_async(lambda: engine_id * 10).get_dict()  # noqa: F821
    assert by_engine == {0: 0, 1: 10, 2: 20, 3: 30}
    assert rc[2].apply_async(lambda: "x").get_dict() == {2: "x"}
    assert rc[[3, 1]].apply_async(int).result_dict == {3: 0, 1: 0}
    (engine,) = lview.apply_async(int).get_dict()
    assert engine in rc.ids
    joined = AsyncResult.join(rc[0].apply_async(int), rc[0].apply_async(int))
    with pytest.raises(ValueError, match="several"):
        joined.get_dict()
    busy = rc[0].apply_async(sleep)
    with pytest.raises(TimeoutError):
        busy.get_dict(timeout=0)
    busy.cancel()


def test_049_metadata_before_and_after(rc, view, gate):
    view.apply_async(gate.wait)
    result = view.apply_async(int)
    assert result.completed == [None] * 4
    assert result.started == [None] * 4
    assert result.status == [None] * 4
    assert rc[0].apply_async(int).completed is None
    gate.open()
    result.get(60)
    for name in ("submitted", "started", "completed", "received"):
        times = getattr(result, name)
        assert len(times) == 4
        assert all(
            isinstance(when, datetime.datetime) and when.tzinfo is not None for when in times
        )
    for submitted, started, completed in zip(
        result.submitted, result.started, result.completed, strict=True
    ):
        assert submitted <= started <= completed
        assert abs((datetime.datetime.now(datetime.timezone.utc) - submitted).total_seconds()) < 300
    assert result.engine_id == [0, 1, 2, 3]
    assert result.status == ["ok"] * 4
    assert result.error == [None] * 4
    assert result.attempts == [1] * 4
    assert result["engine_id"] == result.engine_id
    assert [record["engine_id"] for record in result.metadata] == [0, 1, 2, 3]
    assert result.msg_id == result.msg_ids


def test_049_metadata_of_one_is_not_a_list(rc):
    result = rc[1].apply_async(int)
    result.get()
    assert result.engine_id == 1
    assert result["status"] == "ok"
    assert isinstance(result.completed, datetime.datetime)
    assert result.metadata["msg_id"] == result.msg_ids[0]
    assert result.stdout == ""
    assert result.outputs == []
    failed = rc[1].apply_async(lambda: 1 / 0)
    failed.wait()
    assert failed.status == "error"
    assert isinstance(failed.error, ZeroDivisionError)


def test_049_unknown_metadata(rc):
    result = rc[0].apply_async(int)
    with pytest.raises(AttributeError, match="nothing_such"):
        result.nothing_such  # noqa: B018
    with pytest.raises(KeyError, match="nothing_such"):
        result["nothing_such"]
    assert not hasattr(result, "_nothing_such")
    assert {"engine_id", "stdout", "completed", "get", "wall_time"} <= set(dir(result))
    result.get()


def test_050_length_is_that_of_items_or_engines(rc, view, lview):
    assert len(view.map_async(int, range(0))) == 0
    assert len(view.map_async(abs, range(17))) == 17
    assert len(lview.map_async(abs, range(17))) == 17
    assert len(view.apply_async(int)) == 4
    assert len(rc[0].apply_async(int)) == 1
    assert len(rc[:2].apply_async(int)) == 2


def test_050_items_of_results(rc, view):
    result = view.apply_async(lambda: engine_id)  # noqa: F821
    assert list(result) == [0, 1, 2, 3]
    assert result[1:3] == [1, 2]
    assert result[-1] == 3
    with pytest.raises(IndexError):
        result[4]
    single = rc[0].apply_async(int)
    with pytest.raises(TypeError):
        iter(single).__next__()
    assert single[0] == 0


def test_051_times(rc, view):
    busy = rc[0].apply_async(sleep)
    for name in ("wall_time", "serial_time"):
        with pytest.raises(TimeoutError):
            getattr(busy, name)
    assert busy.elapsed >= 0
    busy.cancel()
    result = rc[0].apply_async(sleep, 0.25)
    result.get()
    assert 0.2 < result.wall_time < 30
    assert 0.2 < result.serial_time < 30
    assert result.elapsed >= result.serial_time
    several = view.apply_async(sleep, 0.25)
    several.get()
    assert 0.8 < several.serial_time < 60
    assert 0.2 < several.wall_time < 30
    assert several.timedelta(several.submitted, several.completed) >= 0.2
    assert several.timedelta(several.started[0], several.completed[0]) >= 0.2
    assert all(0.2 < seconds < 30 for seconds in several.run_time)


def test_052_another_client_sees_the_same_times(rc, cluster, lview):
    with lview.temp_flags(keep=True):
        result = lview.apply_async(sleep, 0.2)
    assert result.get() == 0.2
    with furlong.Client(cluster=cluster) as other:
        again = other.get_result(result.msg_ids[0])
        assert again.get(60) == 0.2
        assert again.serial_time == result.serial_time
        for name in ("submitted", "started", "completed", "engine_id", "status", "attempts"):
            assert getattr(again, name) == getattr(result, name)
        assert again.elapsed > 0
        assert again.wall_time > 0
        assert not again.owner
        assert result.owner


def test_053_nothing_is_shown_of_empty_streams(rc, view, capsys):
    for result in (
        view.execute("", block=True),
        rc[0].execute("", block=True),
        view.apply_async(int),
    ):
        result.wait()
        result.display_outputs()
        result.display_outputs(groupby="engine")
    assert capsys.readouterr() == ("", "")


def test_053_one_engine_shows_just_what_it_wrote(rc, capsys):
    result = rc[0].execute("print(5555)", block=True)
    result.display_outputs()
    assert capsys.readouterr() == ("5555\n", "")
    result = rc[0].execute("import sys; sys.stderr.write('err'); print('out')", block=True)
    result.display_outputs()
    assert capsys.readouterr() == ("out\n", "err\n")


def test_053_several_engines_have_headings(view, capsys):
    result = view.execute("print(engine_id)", block=True)
    result.display_outputs()
    assert capsys.readouterr().out == "".join(f"[stdout:{n}] {n}\n" for n in range(4))
    result = view.execute("print(engine_id)\nprint('b')\nengine_id", silent=False, block=True)
    result.display_outputs(groupby="engine")
    count = result.get()[0].execution_count
    assert f"[stdout:0]\n0\nb\nOut[0:{count}]: 0\n[stdout:1]\n1\nb\n" in capsys.readouterr().out
    result.display_outputs(result_only=True)
    printed = capsys.readouterr().out
    assert "stdout" not in printed
    assert f"Out[3:{result.get()[3].execution_count}]: 3\n" in printed
    with pytest.raises(ValueError, match="grouped"):
        result.display_outputs(groupby="colour")


def test_053_output_before_an_error_is_shown_and_the_error_is_not(rc, capsys):
    result = rc[0].execute("print(5555)\n1/0")
    result.wait()
    result.display_outputs()
    assert capsys.readouterr() == ("5555\n", "")
    with pytest.raises(ZeroDivisionError):
        result.get()


def test_053_output_of_what_runs_cannot_be_shown(busy):
    with pytest.raises(TimeoutError):
        busy.display_outputs()


def test_053_output_is_streamed(rc, view, capfd):
    result = view.execute("print('first', engine_id, flush=True)\nprint('second')")
    with result.stream_output():
        pass
    printed = capfd.readouterr().out
    for n in range(4):
        assert f"first {n}\n" in printed
    assert printed.count("second") == 4
    with rc[0].execute("import sys; print('äö'); print('e', file=sys.stderr)").stream_output():
        pass
    assert capfd.readouterr() == ("äö\n", "e\n")


def test_053_each_piece_of_streamed_output_stands_behind_its_engines_heading(capsys):
    shown = displays.Shown(named=True)
    for stream, engine, text in [
        ("stdout", 0, "a\n"),
        ("stdout", 0, "b\n"),
        ("stdout", 1, "c"),
        ("stdout", 0, "d\n"),
        ("stderr", 0, "e\n"),
        ("stdout", 0, "f\n"),
    ]:
        shown.show(stream, engine, text)
    out = "[stdout:0]\na\nb\n[stdout:1]\nc\n[stdout:0]\nd\n[stdout:0]\nf\n"
    assert capsys.readouterr() == (out, "[stderr:0]\ne\n")
    displays.Shown(named=False).show("stdout", 0, "alone")
    assert capsys.readouterr().out == "alone"


def test_054_data_is_there_while_the_task_runs(rc, lview):
    def publishes():
        for n in range(5):
            publish({"n": n})  # noqa: F821
        time.sleep(LONG)

    result = rc[0].apply_async(publishes)
    assert result.data == {} or "n" in result.data
    deadline = time.monotonic() + 60
    while result.data != {"n": 4}:
        assert time.monotonic() < deadline
        assert not result.done()
    result.cancel()
    assert result.data == {"n": 4}


def test_054_the_last_data_stays(rc, view):
    def publishes(last):
        for n in range(last + 1):
            publish({"n": n, "engine": engine_id})  # noqa: F821
        return "value"

    result = view.apply_async(publishes, 4)
    assert result.get() == ["value"] * 4
    assert result.data == [{"n": 4, "engine": n} for n in range(4)]
    quiet = rc[0].apply_async(int)
    quiet.get()
    assert quiet.data == {}


def test_054_data_may_be_anything_that_pickles(rc):
    def publishes(value):
        publish(value)  # noqa: F821
        time.sleep(LONG)

    for value in ({1, 2}, (1, "two"), 1 + 2j, [None, {"a": b"bytes"}], {"x": list(range(5000))}):
        result = rc[0].apply_async(publishes, value)
        eventually(lambda value=value, result=result: result.data == value)
        assert type(result.data) is type(value)
        result.cancel()
    result = rc[0].apply_async(publishes, np.arange(10000))
    eventually(lambda: len(result.data) == 10000)
    np.testing.assert_array_equal(result.data, np.arange(10000))
    result.cancel()


def test_054_data_that_is_large_stays_as_well(rc):
    def publishes(value):
        publish(value)  # noqa: F821

    for _ in range(100):
        result = rc[0].apply_async(publishes, np.arange(1000))
        result.get()
        assert len(result.data) == 1000


def test_055_results_are_gone_once_nobody_holds_them(rc, view, lview):
    for make in (
        lambda: view.apply_async(bytes, 100_000),
        lambda: lview.apply_async(bytes, 100_000),
    ):
        result = make()
        result.get()
        seen = weakref.ref(result)
        ids = result.msg_ids
        del result
        gc.collect()
        assert seen() is None
        assert not set(ids) & set(rc._results())
    results = [lview.apply_async(int) for _ in range(100)]
    assert rc.wait(results, timeout=60)
    assert set(rc.outstanding) == set()
    del results
    gc.collect()
    assert len(rc._results()) == 0


def test_056_values_and_one_error_in_its_place(view):
    result = view.apply_async(fail_on, 2)
    with pytest.raises(CompositeError):
        result.get()
    values = result.get(return_exceptions=True)
    assert values[:2] + values[3:] == [0, 1, 3]
    assert isinstance(values[2], RemoteError)
    assert isinstance(values[2], ValueError)
    assert values[2].evalue == "not on 2"
    with pytest.raises(CompositeError):
        result.get()
    mapped = view.map_async(lambda x: 1 // x, [1, 0, 1, 1])
    with pytest.raises(ZeroDivisionError):
        mapped.get()
    values = mapped.get(return_exceptions=True)
    assert values[0] == 1
    assert isinstance(values[1], ZeroDivisionError)
    assert values[2:] == [1, 1]


def test_057_split_and_join(rc, view):
    result = view.apply_async(lambda: engine_id)  # noqa: F821
    parts = result.split()
    assert [part.get() for part in parts] == [0, 1, 2, 3]
    assert [part.msg_ids for part in parts] == [[key] for key in result.msg_ids]
    assert all(type(part) is AsyncResult for part in parts)
    joined = AsyncResult.join(*parts)
    assert joined == result
    assert hash(joined) == hash(result)
    assert joined.get() == result.get()
    assert joined.msg_ids == result.msg_ids
    single = rc[0].apply_async(int)
    assert single.split() == (single,)
    assert single != result
    assert single != 5
    assert len({joined, result, single}) == 2


def test_057_split_of_a_map(view):
    result = view.map_async(lambda x: x, range(4))
    parts = result.split()
    assert [part.get() for part in parts] == [[0], [1], [2], [3]]
    assert [type(part) for part in parts] == [AsyncResult] * 4


def test_058_wait_for_the_first_exception(rc, view):
    result = view.apply_async(fail_now_on, 2)
    done, pending = result.wait(60, return_when="FIRST_EXCEPTION")
    assert [part.msg_ids for part in done] == [[result.msg_ids[2]]]
    assert {part.msg_ids[0] for part in pending} == set(result.msg_ids) - {result.msg_ids[2]}
    assert all(isinstance(part, AsyncResult) for part in done | pending)
    with pytest.raises(ValueError, match="at once"):
        result.get(60, return_when="FIRST_EXCEPTION")
    result.cancel()
    result.wait(60)
    assert result.wait(0, return_when="FIRST_EXCEPTION") == (set(result.split()), set())


def test_058_wait_for_the_first_completed(rc, view):
    result = view.apply_async(lambda: engine_id == 1 or time.sleep(LONG))  # noqa: F821
    done, pending = result.wait(60, return_when="FIRST_COMPLETED")
    assert [part.get() for part in done] == [True]
    assert len(pending) == 3
    result.cancel()
    finished = view.apply_async(int)
    finished.get(60)
    assert finished.wait(60, return_when="FIRST_COMPLETED") == (set(finished.split()), set())
    assert finished.wait(60, return_when="ALL_COMPLETED") == (set(finished.split()), set())
    with pytest.raises(ValueError, match="return_when"):
        finished.wait(return_when="SOMETIMES")


def test_058_wait_for_the_first_exception_of_a_map(view):
    result = view.map_async(lambda x: 1 // x if x != 1 else time.sleep(LONG), [1, 0, 1, 1])
    done, pending = result.wait(60, return_when="FIRST_EXCEPTION")
    assert [part.msg_ids[0] for part in done] == [result.msg_ids[1]]
    assert len(pending) == 3
    result.cancel()


def test_059_interactive_waits_return_at_the_first_exception(view, capsys):
    result = view.apply_async(fail_now_on, 0)
    began = time.monotonic()
    result.wait_interactive(return_when="FIRST_EXCEPTION", widget=False)
    assert time.monotonic() - began < 60
    assert not result.done()
    result.cancel()


def test_059_progress_goes_from_nothing_to_all(rc, view, lview, gate):
    held = view.apply_async(gate.wait)
    result, mapped = view.apply_async(int), lview.map_async(int, range(7))
    assert result.progress == 0
    assert mapped.progress == 0
    assert held.progress == 0
    gate.open()
    for n, part in enumerate(result.split()):
        assert part.wait(60)
        assert result.progress >= n + 1
    assert result.progress == len(result) == 4
    mapped.get(60)
    assert mapped.progress == len(mapped) == 7


def test_060_exceptions_say_where(rc, view):
    with pytest.raises(CompositeError) as caught:
        view.apply_sync(fail_on, 0, 1, 2, 3)
    infos = [error.engine_info for error in caught.value.errors]
    assert [info["engine_id"] for info in infos] == [0, 1, 2, 3]
    assert {info["method"] for info in infos} == {"apply"}
    assert all(set(info) == {"engine_id", "engine_uuid", "method"} for info in infos)
    assert [entry[0] for entry in caught.value.elist] == ["ValueError"] * 4
    assert [entry[3]["engine_id"] for entry in caught.value.elist] == [0, 1, 2, 3]
    result = rc[3].execute("1/0")
    with pytest.raises(RemoteError) as caught:
        result.get()
    assert caught.value.engine_info == {
        "engine_id": 3,
        "engine_uuid": result.engine_uuid,
        "method": "execute",
    }
    assert str(caught.value).startswith("[3:execute] ZeroDivisionError: division by zero")


# Futures.


def test_as_completed_over_a_thousand(lview):
    results = [lview.apply_async(lambda n: n, n) for n in range(1000)]
    assert sorted(
        f.result() for f in concurrent.futures.as_completed(results, timeout=120)
    ) == list(range(1000))
    done, pending = concurrent.futures.wait(results, timeout=60)
    assert len(done) == 1000
    assert not pending


def test_an_error_asks_the_broker_for_nothing_before_its_place_is_read(rc, monkeypatch):
    asked = []
    status = furlong.Client.status
    monkeypatch.setattr(furlong.Client, "status", lambda rc: asked.append(rc) or status(rc))
    with pytest.raises(RemoteError) as caught:
        rc[1].apply_sync(lambda: 1 / 0)
    assert str(caught.value).startswith("[1:apply] ZeroDivisionError")
    assert not asked
    assert caught.value.engine_info["engine_uuid"] == caught.value.engine_info["engine_uuid"] != ""
    assert asked == [rc]


def test_results_mix_with_other_futures(rc, lview):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        futures = [lview.apply_async(int), pool.submit(int), lview.apply_async(lambda: 1 / 0)]
        done, pending = concurrent.futures.wait(futures, 60)
        assert not pending
        assert rc.wait(futures, timeout=60)


def test_asyncio_gather_of_many(lview):
    async def main():
        results = [lview.apply_async(lambda n: n * n, n) for n in range(300)]
        return await asyncio.gather(*results)

    assert asyncio.run(main()) == [n * n for n in range(300)]


def test_asyncio_raises_and_times_out(rc, view):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await rc[0].apply_async(lambda: 1 / 0)
        with pytest.raises(CompositeError):
            await view.apply_async(lambda: 1 / 0)
        assert await view.apply_async(int) == [0] * 4
        slow = rc[1].apply_async(sleep)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(slow)), 0.05)
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    asyncio.run(main())


def test_asyncio_cancels_the_task(rc):
    async def main():
        slow = rc[1].apply_async(sleep)
        with pytest.raises((asyncio.TimeoutError, asyncio.CancelledError)):
            await asyncio.wait_for(slow, 0.2)
        return slow

    slow = asyncio.run(main())
    assert slow.wait(60)
    assert slow.cancelled()


def test_callbacks_are_called_once_with_the_result(rc, view):
    for make in (view.apply_async, rc[0].apply_async):
        told = []
        both = threading.Semaphore(0)
        result = make(int)
        result.add_done_callback(lambda r: (told.append(r), both.release()))
        result.get()
        result.add_done_callback(lambda r: (told.append(r), both.release()))
        assert both.acquire(timeout=60)
        assert both.acquire(timeout=60)
        assert told == [result, result]
        assert told[0] is result


def test_callbacks_may_use_the_client(rc, view, lview):
    found = []
    told = threading.Event()

    def go_on(result):
        found.append(view.apply_sync(lambda x: x, result.get()))
        found.append(lview.map_sync(lambda x: x, range(100)))
        found.append(list(lview.imap(lambda x: x, range(20), ordered=False))[0] in range(20))
        told.set()

    lview.apply_async(lambda: 5).add_done_callback(go_on)
    assert told.wait(60)
    assert found == [[5] * 4, list(range(100)), True]


def test_an_error_in_a_callback_harms_nobody(lview, caplog):
    told = threading.Event()

    def fails(result):
        raise RuntimeError("in the callback")

    result = lview.apply_async(int)
    result.add_done_callback(fails)
    result.add_done_callback(lambda r: told.set())
    assert told.wait(60)
    assert result.get() == 0
    assert "in the callback" in caplog.text


def test_many_threads_wait_for_one_result(rc):
    gate = threading.Barrier(16)
    for _ in range(20):
        result = rc[0].apply_async(lambda: 5)

        def wait(thread, result=result):
            gate.wait(60)
            if thread % 2:
                return result.get(60)
            (done,) = concurrent.futures.wait([result], 60)[0]
            return done.result()

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert list(pool.map(wait, range(16))) == [5] * 16


def test_cancel_ends_what_waits_and_what_runs(rc):
    running, waiting = rc[0].apply_async(sleep), rc[0].apply_async(sleep)
    assert waiting.cancel()
    assert waiting.cancelled()
    assert running.cancel()
    for result in (running, waiting):
        with pytest.raises(TaskCancelled):
            result.get(60)
        with pytest.raises(concurrent.futures.CancelledError):
            result.result(60)
        with pytest.raises(concurrent.futures.CancelledError):
            result.exception(60)
        assert result.cancel()
    assert rc[0].apply_sync(int) == 0
    done = rc[0].apply_async(int)
    done.get()
    assert not done.cancel()
    assert not done.cancelled()


def test_cancel_force_kills_what_ignores_it(rc):
    def stubborn():
        while True:
            try:
                time.sleep(LONG)
            except KeyboardInterrupt:
                pass

    result = rc[0].apply_async(stubborn)
    assert result.cancel(force=True)
    assert result.wait_for_stop(60)
    assert rc[0].apply_sync(int) == 0


def test_exceptions_can_be_pickled(rc, view):
    with pytest.raises(RemoteError) as caught:
        rc[0].apply_sync(lambda: 1 / 0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ZeroDivisionError)
    assert isinstance(again, RemoteError)
    assert str(again) == str(caught.value)
    assert again.traceback == caught.value.traceback
    assert again.engine_info == caught.value.engine_info
    with pytest.raises(CompositeError) as composite:
        view.apply_sync(lambda: 1 / 0)
    again = pickle.loads(pickle.dumps(composite.value))
    assert str(again) == str(composite.value)
    assert [type(error) for error in again.errors] == [
        type(error) for error in composite.value.errors
    ]
    every = [
        errors.EngineError("EngineError", "gone", "", {"engine_id": 1}),
        errors.TaskTimeout("TaskTimeout", "late"),
        errors.AlreadyDisplayedError(composite.value),
        errors.PicklingError("no"),
        errors.NoEnginesRegistered("none"),
    ]
    for error in every:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_results_themselves_do_not_pickle_and_say_so(rc):
    result = rc[0].apply_async(int)
    result.get()
    with pytest.raises(TypeError):
        pickle.dumps(result)


def test_a_result_of_a_closed_client_says_that_it_is_over(cluster):
    client = furlong.Client(cluster=cluster)
    slow = client[0].apply_async(sleep)
    quick = client[1].apply_async(int)
    quick.get()
    client.close()
    assert quick.get() == 0
    with pytest.raises((errors.ConnectionLost, TaskCancelled)):
        slow.get(60)
    assert slow.elapsed >= 0
    assert repr(client) == "<Client: closed>"
    with pytest.raises(errors.ConnectionLost):
        client[0].apply_async(int)
    client.close()


def test_an_exception_waits_like_any_future(rc):
    result = rc[0].apply_async(lambda: {}["k"])
    error = result.exception(60)
    assert isinstance(error, KeyError)
    assert result.exception() is error
    composite = rc[:].apply_async(lambda: {}["k"]).exception(60)
    assert isinstance(composite, CompositeError)
    assert isinstance(furlong.AsyncResult.join(result, result).exception(), CompositeError)


def test_a_cancelled_call_on_several_engines_is_a_cancelled_future(view, gate):
    result = view.apply_async(gate.wait)
    assert result.cancel()
    assert result.cancelled()
    with pytest.raises(CompositeError) as caught:
        result.get()
    assert isinstance(caught.value, TaskCancelled)
    assert len(caught.value.elist) == 4
    with pytest.raises(concurrent.futures.CancelledError):
        result.exception()
    assert pickle.loads(pickle.dumps(caught.value)).elist[0][0] == "TaskCancelled"
