"""Results as arguments of other calls, results that stay at the cluster, and values that calls share."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SOON_SECONDS, Gate, eventually

import furlong
from furlong.pickling import functions

KIB = 1024
MIB = 1024 * KIB
SIZES = [100, 33 * KIB, 129 * KIB, 5 * MIB]


def array(size: int) -> np.ndarray:
    """Return bytes that differ from place to place."""
    return np.arange(size, dtype=np.uint64).astype(np.uint8)


def add(one: Any, other: Any = 1) -> Any:
    """Add."""
    return one + other


def same(value: Any) -> Any:
    """Return what is given."""
    return value


class Counted:
    """Counts how often an engine's interpreter has loaded one."""

    loads = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        type(self).loads += 1


def is_known(rc: furlong.Client, key: str) -> bool:
    """Return whether the broker has the result of a task."""
    try:
        found = rc._session.fetch(key, False)
    except furlong.errors.RequestRefused:
        return False
    return found is not None and found[1] is not None


# Futures as arguments.


def test_a_result_is_an_argument_before_it_has_come(
    lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """A chain and a diamond: each call gets the values of those before."""
    first = lview.apply_async(gate.wait, [1])
    second = lview.apply_async(add, first, [2])
    left, right = lview.apply_async(add, second, [3]), lview.apply_async(add, second, other=[4])
    last = lview.apply_async(add, left, right)
    assert not first.done() and not last.done()
    gate.open()
    assert last.get(SOON_SECONDS) == [1, 2, 3, 1, 2, 4]
    assert second.get(SOON_SECONDS) == [1, 2]
    assert lview.apply_sync(add, second, second) == [1, 2, 1, 2], "it has come"


def test_results_are_found_wherever_they_are_in_arguments(
    lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """In lists, dictionaries, objects; within one call the same result is the same object."""
    one, other = lview.apply_async(gate.wait, [1]), lview.apply_async(gate.wait, [2])

    class Holder:
        def __init__(self, held: object) -> None:
            self.held = held

    def look(holder: Holder, pairs: dict[str, Any], *rest: Any) -> Any:
        (again,) = pairs["again"]
        return holder.held, again is holder.held, pairs["other"], rest

    made = lview.apply_async(look, Holder(one), {"again": [one], "other": (other, 3)}, other)
    gate.open()
    assert made.get(SOON_SECONDS) == ([1], True, ([2], 3), ([2],))


def test_results_of_several_tasks_are_lists(
    rc: furlong.Client, lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """A call on several engines, a joined result, and a map, whose values are its items'."""
    several = rc[:3].apply_async(gate.wait, "a")
    mapped = lview.map_async(gate.wait, range(20), chunksize=3)
    joined = furlong.AsyncResult.join(*[lview.apply_async(gate.wait, at) for at in range(2)])
    looked = lview.apply_async(lambda *values: values, several, mapped, joined)
    gate.open()
    expected = (["a"] * 3, list(range(20)), [0, 1])
    assert looked.get(SOON_SECONDS) == expected
    assert mapped.get(SOON_SECONDS) == list(range(20))
    assert lview.apply_sync(lambda *values: values, several, mapped, joined) == expected
    arrays = lview.map_async(lambda at: np.full(5000, at), range(4))
    assert lview.apply_sync(lambda parts: [int(part[-1]) for part in parts], arrays) == [0, 1, 2, 3]


def test_results_are_items_of_maps_and_each_call_has_its_own(
    lview: furlong.LoadBalancedView, rc: furlong.Client, gate: Gate
) -> None:
    """Also where items share a result, or a list that holds one, and in lazy maps and executors."""
    results = [lview.apply_async(gate.wait, [at]) for at in range(6)]

    def grown(value: list[int], more: object = None) -> tuple[int, int]:
        value.append(0)
        return value[0], len(value)

    mapped = lview.map_async(grown, results, chunksize=2)
    shared = lview.map_async(grown, results[:1] * 5, [results[1]] * 5, chunksize=5)
    direct = rc[:].map_async(grown, results)
    gate.open()
    assert mapped.get(SOON_SECONDS) == [(at, 2) for at in range(6)]
    assert shared.get(SOON_SECONDS) == [(0, 2)] * 5
    assert direct.get(SOON_SECONDS) == [(at, 2) for at in range(6)]
    assert list(lview.imap(grown, results)) == [(at, 2) for at in range(6)]
    assert lview.map_sync(grown, results[:1] * 5, chunksize=5) == [(0, 2)] * 5, "it has come"


def test_executors_take_futures_as_arguments(lview: furlong.LoadBalancedView, gate: Gate) -> None:
    """As `dask.distributed` has it."""
    executor = lview.executor
    first = executor.submit(gate.wait, 1)
    second = executor.submit(add, first, 2)
    mapped = executor.map(add, [first, second])
    chunks = executor.map(add, [first, second, first], chunksize=2)
    gate.open()
    assert second.result(SOON_SECONDS) == 3
    assert (list(mapped), list(chunks)) == ([2, 4], [2, 4, 2])
    assert concurrent.futures.wait([first, second], SOON_SECONDS).not_done == set()


def test_results_can_be_pushed_and_pulled_ones_be_arguments(
    rc: furlong.Client, view: furlong.DirectView, gate: Gate
) -> None:
    """Variables of engines, without a way through the client."""
    pending = rc[0].apply_async(gate.wait, [1, 2])
    pushed = rc[1:].push({"values": pending, "more": {"it": pending}}, block=False)
    one, both = rc[1].pull("values", block=False), rc[1].pull(["values", "more"], block=False)
    looked = rc[2].apply_async(lambda one, both: (one, both), one, both)
    gate.open()
    pushed.get(SOON_SECONDS)
    assert looked.get(SOON_SECONDS) == ([1, 2], [[1, 2], {"it": [1, 2]}])
    assert rc[1:]["values"] == [[1, 2]] * 3


def test_classes_and_functions_by_value_are_arguments_as_they_are(
    rc: furlong.Client, gate: Gate
) -> None:
    """An engine loads a pickle that was made for a client, and knows the client's classes."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    def make(x: int) -> Any:
        return Point(x), lambda y: x + y

    made = rc[0].apply_async(make, 3)
    after = rc[1].apply_async(lambda it: (type(it[0]) is Point, it[0].x, it[1](4)), made)
    assert after.get(SOON_SECONDS) == (True, 3, 7)
    rc[0].execute("class Own:\n    x = 5\ndef own(): return Own()", block=True)
    own = rc[0].apply_async(furlong.Reference("own"))
    assert rc[1].apply_sync(lambda it: (it.x, type(it).__name__), own) == (5, "Own")
    mixed = rc[0].map_async(lambda at: Point(at) if at % 2 else at, range(4))
    assert rc[1].apply_sync(lambda them: [type(one) is Point for one in them], mixed) == [
        False,
        True,
        False,
        True,
    ]


def test_the_error_of_an_argument_is_the_cause(lview: furlong.LoadBalancedView, gate: Gate) -> None:
    """It may have failed before or fail later, and somebody may have its result or nobody."""

    def fail(value: object = None) -> None:
        gate.wait()
        raise KeyError(f"no {value}")

    failed = lview.apply_async(fail, "a")
    late = lview.apply_async(same, failed)
    nobodys = lview.apply_async(same, [lview.apply_async(same, lview.apply_async(fail, "b"))])
    gate.open()
    with pytest.raises(furlong.ImpossibleDependency, match="did not succeed") as caught:
        late.get(SOON_SECONDS)
    assert caught.value.__cause__ is failed.exception()
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(furlong.ImpossibleDependency) as caught:
        nobodys.get(SOON_SECONDS)
    inner = caught.value.__cause__
    assert isinstance(inner, furlong.ImpossibleDependency)
    assert isinstance(inner.__cause__, KeyError)
    with pytest.raises(furlong.ImpossibleDependency) as caught:
        lview.apply_sync(same, failed)
    assert caught.value.__cause__ is failed.exception(), "it had come"
    cancelled = lview.apply_async(fail)
    cancelled.cancel()
    with pytest.raises(furlong.ImpossibleDependency) as caught:
        lview.apply_sync(same, cancelled)
    assert isinstance(caught.value.__cause__, furlong.TaskCancelled)


def test_of_a_map_those_items_fail_whose_results_have(
    lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """Others of the same task run all the same."""

    def half(value: int) -> int:
        gate.wait()
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value // 2

    halves = [lview.apply_async(half, at) for at in range(6)]
    mapped = lview.map_async(add, halves, chunksize=6, return_exceptions=True)
    gate.open()
    values = mapped.get(SOON_SECONDS)
    assert values[::2] == [1, 2, 3]
    assert all(isinstance(value, furlong.ImpossibleDependency) for value in values[1::2])
    assert all(isinstance(value.__cause__, ValueError) for value in values[1::2])


@pytest.mark.parametrize("size", SIZES)
def test_arrays_of_any_size_are_each_calls_own(rc: furlong.Client, size: int) -> None:
    """From engine to engine, in place where they can be; several of one result too."""
    made = rc[0].apply_async(lambda: {"one": array(size), "other": array(size)[::-1].copy()})

    def change(arrays: dict[str, np.ndarray], again: Any = None) -> tuple[int, bool, bool]:
        before = int(arrays["one"].astype(np.int64).sum())
        is_turned = bool((arrays["one"] == arrays["other"][::-1]).all())
        arrays["one"][:] = 0
        return before, is_turned, bool(arrays["other"].flags.writeable)

    expected = int(array(size).astype(np.int64).sum()), True, True
    changed = [rc[engine].apply_async(change, made) for engine in (1, 1, 2, 0)]
    assert [result.get(SOON_SECONDS) for result in changed] == [expected] * 4
    assert (made.get(SOON_SECONDS)["one"] == array(size)).all()


def test_arrays_go_between_engines_of_a_network_as_well(own: Callable[..., Any]) -> None:
    """No memory files are passed there."""
    cluster = own(n=2, controller_args=["--tcp-only"])
    with cluster.start_and_connect_sync() as rc:
        made = rc[0].apply_async(array, 2 * MIB)
        total = int(array(2 * MIB).astype(np.int64).sum())
        for engine in (1, 1, 0):
            sums = rc[engine].apply_async(lambda it: int(it.astype(np.int64).sum()), made)
            assert sums.get(SOON_SECONDS) == total
        shared = rc.share(array(2 * MIB))
        looked = rc[:].apply_sync(lambda it: (int(it[-1]), it.flags.writeable), shared)
        assert looked == [(255, False)] * 2


def test_a_value_that_comes_before_the_call_is_submitted_goes_along(
    rc: furlong.Client, lview: furlong.LoadBalancedView, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker does not hold it any longer: the call is made again with the value itself."""
    made, call_of = [], functions.call_of

    def late(function: Any, arguments: Any, *rest: Any) -> Any:
        call = call_of(function, arguments, *rest)
        made.append(arguments.inputs and list(arguments.inputs.ids))
        for part in arguments.inputs.owners if arguments.inputs else ():
            gate.open()
            part.task.wait()
            part.task.outcome()
            gate.close()
        return call

    for module in ("views.balanced", "views.direct", "maps.map_subtasks"):
        monkeypatch.setattr(f"furlong.{module}.call_of", late)
    pending = lview.apply_async(gate.wait, [1])
    assert lview.apply_sync(add, pending, pending) == [1, 1]
    assert made == [None, pending.msg_ids, None]
    assert rc[:2].apply_sync(same, lview.apply_async(gate.wait, [1])) == [[1], [1]]
    pending = lview.apply_async(gate.wait, [1])
    assert lview.map_sync(add, [pending] * 3, [[2]] * 3, chunksize=3) == [[1, 2]] * 3


def test_a_call_that_does_not_fit_its_first_engine_keeps_its_arguments(
    rc: furlong.Client, lview: furlong.LoadBalancedView
) -> None:
    """Their values have come to the client meanwhile, and go along to the next engine."""
    home = rc.ids[-1]

    @furlong.depend(lambda: engine_id == home)  # noqa: F821
    def here(value: list[int]) -> tuple[int, list[int]]:
        return engine_id, value  # noqa: F821

    def by_itself(value: list[int]) -> tuple[int, list[int]]:
        if engine_id != home:  # noqa: F821
            raise furlong.TaskRejectError("not here")
        return engine_id, value  # noqa: F821

    for f in (here, by_itself):
        results = [lview.apply_async(f, lview.apply_async(same, [at])) for at in range(4)]
        assert [result.get(SOON_SECONDS) for result in results] == [(home, [at]) for at in range(4)]


def test_what_engines_cannot_get_is_refused_with_the_reason(
    rc: furlong.Client, lview: furlong.LoadBalancedView, cluster: furlong.Cluster, gate: Gate
) -> None:
    """One line each, and values that have come can be arguments anywhere."""
    pending = lview.apply_async(gate.wait, 1)
    refused = pytest.raises(furlong.errors.PicklingError, match="no part of a function")
    with refused:
        lview.apply_async(functools.partial(add, pending))
    with refused:
        lview.apply_async(lambda: pending)
    with refused:
        rc.share([pending])

    class Bound:
        def __init__(self) -> None:
            self.held = pending

        def call(self) -> None:
            """Be called."""

    with refused:
        lview.apply_async(Bound().call)
    execution = rc[0].execute(gate.code, block=False)
    with pytest.raises(furlong.errors.PicklingError, match="executed code"):
        lview.apply_async(same, execution)
    gathered = rc[:].gather("x", block=False)
    with pytest.raises(furlong.errors.PicklingError, match="wait for it"):
        lview.apply_async(same, gathered)
    for call in (rc[:].map, lview.map, lambda _, it: rc[:].scatter("a", it)):
        with pytest.raises(TypeError, match="one task has no items"):
            call(same, pending)
    with furlong.Client(cluster=cluster) as other:
        theirs = other.load_balanced_view()
        for given in (pending, rc.share(1)):
            with pytest.raises(furlong.errors.PicklingError, match="another client"):
                theirs.apply_async(same, given)
            with pytest.raises(furlong.errors.PicklingError, match="another client"):
                theirs.map_sync(same, [given])
        with pytest.raises(furlong.errors.PicklingError, match=r"arguments\[0\]\[1\] is a _thread"):
            lview.apply_async(same, pending, threading.Lock())
        gate.open()
        assert pending.get(SOON_SECONDS) == 1
        assert theirs.apply_sync(same, pending) == 1


def test_a_result_that_comes_from_another_engine_or_at_another_try_is_an_argument(
    rc: furlong.Client, lview: furlong.LoadBalancedView, tmp_path: Path
) -> None:
    """The call waits until no other task can take the place of the one that makes the value."""
    home = rc.ids[-1]

    @furlong.depend(lambda: engine_id == home)  # noqa: F821
    def here(value: int) -> int:
        return value

    results = [lview.apply_async(same, lview.apply_async(here, at)) for at in range(4)]
    assert [result.get(SOON_SECONDS) for result in results] == list(range(4))

    def second(at: int) -> int:
        path = tmp_path / str(at)
        if not path.exists():
            path.touch()
            raise ValueError("the first try fails")
        return at

    mapped = rc.load_balanced_view(retries=1).map_async(second, range(10), chunksize=5)
    assert lview.apply_sync(sum, mapped) == 45
    home_too = lview.map_async(here, range(10), chunksize=5)
    assert lview.apply_sync(sum, home_too) == 45


def test_a_task_that_runs_again_has_its_arguments_again(
    lview: furlong.LoadBalancedView, tmp_path: Path, gate: Gate
) -> None:
    """The value has come to the client meanwhile."""

    def fails_once(value: np.ndarray, shared: np.ndarray) -> tuple[int, int]:
        path = tmp_path / "failed"
        if not path.exists():
            path.touch()
            value[:] = 0
            raise ValueError("the first try fails")
        return int(value[200]), int(shared[201])

    pending = lview.apply_async(lambda: (gate.wait(), array(MIB))[1])
    lview.set_flags(retries=1)
    result = lview.apply_async(fails_once, pending, lview.client.share(array(MIB)))
    gate.open()
    assert len(pending.get(SOON_SECONDS)) == MIB
    assert result.get(SOON_SECONDS) == (200, 201)
    assert result.attempts == 2


def test_cancelled_work_as_an_argument_and_cancelled_work_that_has_arguments(
    lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """An argument goes on when the call is cancelled, and a call ends when an argument is."""
    pending = lview.apply_async(gate.wait, 1)
    waits, cancelled = lview.apply_async(same, pending), lview.apply_async(same, pending)
    assert cancelled.cancel() and not pending.done()
    mapped = lview.map_async(gate.wait, range(1000), chunksize=1)
    has_mapped = lview.apply_async(len, lview.map_async(gate.wait, range(4), chunksize=1))
    mapped.cancel()
    with pytest.raises(furlong.ImpossibleDependency) as caught:
        lview.apply_sync(len, mapped)
    assert isinstance(caught.value.__cause__, furlong.TaskCancelled)
    gate.open()
    assert (waits.get(SOON_SECONDS), has_mapped.get(SOON_SECONDS)) == (1, 4)


def test_kept_results_of_this_client_are_arguments(
    rc: furlong.Client, lview: furlong.LoadBalancedView, cluster: furlong.Cluster, gate: Gate
) -> None:
    """Another client passes their values."""
    kept = rc.load_balanced_view(keep=True).apply_async(gate.wait, [1])
    mine = lview.apply_async(same, kept)
    with furlong.Client(cluster=cluster) as other:
        theirs = other.get_result(kept.msg_id)
        with pytest.raises(furlong.errors.PicklingError, match="another session"):
            other.load_balanced_view().apply_async(same, theirs)
        gate.open()
        assert mine.get(SOON_SECONDS) == theirs.get(SOON_SECONDS) == [1]
        assert other.load_balanced_view().apply_sync(same, theirs) == [1]


def test_results_and_shared_values_have_no_pickle_of_their_own(
    rc: furlong.Client, lview: furlong.LoadBalancedView
) -> None:
    """Nobody could use it in another session."""
    for handle in (lview.apply_async(same, 1), rc.share(1)):
        with pytest.raises(furlong.errors.PicklingError, match="pickle its value"):
            pickle.dumps(handle)


def test_the_client_holds_no_value_because_a_call_has_it_as_an_argument(
    rc: furlong.Client, lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """It is watched for its error until it has ended."""
    parts = [lview.apply_async(gate.wait, at) for at in range(20)]
    total = lview.apply_async(sum, parts)
    assert len(rc._causes._unfinished) == 20
    del parts
    gate.open()
    assert total.get(SOON_SECONDS) == 190
    eventually(lambda: not rc._causes._unfinished)
    assert not rc._causes._failed


# Results that stay.


def test_a_value_that_stays_comes_when_it_is_asked_for(rc: furlong.Client) -> None:
    """The task's end comes at once; the value, once it was fetched, is kept here."""
    stay = rc.load_balanced_view(stay=True)
    result = stay.apply_async(array, MIB)
    assert result.wait(SOON_SECONDS) and result.successful()
    assert result.stays is not None and result.stays > MIB
    assert "finished" in repr(result) and result._final is not None
    size = rc.load_balanced_view().apply_sync(len, result)
    assert size == MIB
    value = result.get(SOON_SECONDS)
    assert (value == array(MIB)).all() and result.get() is value
    value[:] = 0
    assert int(rc.load_balanced_view().apply_sync(lambda it: it[200], result)) == 200
    small = stay.apply_async(same, [1])
    assert small.get(SOON_SECONDS) == [1] and small.stays
    assert stay.apply_sync(same, small) == [1]
    assert rc.load_balanced_view().apply_async(same, 1).stays is None


def test_all_ways_to_a_value_fetch_it(rc: furlong.Client) -> None:
    """Lists, maps, iteration, indices, events, futures, and `async`."""
    stay, direct = rc.load_balanced_view(stay=True), rc[:].set_flags(stay=True)
    assert [int(it[1]) for it in direct.apply_async(array, MIB).get(SOON_SECONDS)] == [1] * 4
    assert [len(it) for it in direct.apply_async(array, MIB)] == [MIB] * 4
    assert set(direct.apply_async(array, MIB).get_dict(SOON_SECONDS)) == set(rc.ids)
    direct.push({"x": array(MIB)}, block=True)
    assert len(direct.gather("x", block=True)) == 4 * MIB
    mapped = stay.map_async(array, [MIB, 2 * MIB, 10], chunksize=2)
    assert mapped.wait(SOON_SECONDS) and (mapped.stays or 0) > 3 * MIB
    assert stay.apply_sync(lambda them: list(map(len, them)), mapped) == [MIB, 2 * MIB, 10]
    assert [len(it) for it in mapped] == [MIB, 2 * MIB, 10]
    assert len(stay.map_async(array, [MIB, MIB])[1]) == MIB
    assert len(rc[:].map_sync(array, [MIB] * 8, stay=True)) == 8
    assert [len(it) for it in stay.imap(array, [MIB, 10])] == [MIB, 10]
    one, other = stay.apply_async(array, MIB).split()[0], stay.apply_async(array, MIB)
    assert [len(it) for it in furlong.AsyncResult.join(one, other).get(SOON_SECONDS)] == [MIB] * 2
    assert len(concurrent.futures.wait([other], SOON_SECONDS).done) == 1
    called: concurrent.futures.Future[int] = concurrent.futures.Future()
    other.add_done_callback(lambda done: called.set_result(len(done.result())))
    assert called.result(SOON_SECONDS) == MIB

    async def wait() -> int:
        return len(await stay.apply_async(array, MIB))

    assert asyncio.run(wait()) == MIB
    assert len(stay.executor.submit(array, MIB).result(SOON_SECONDS)) == MIB
    assert [len(it) for it in stay.executor.map(array, [MIB] * 3, chunksize=2)] == [MIB] * 3
    executed = rc[0].set_flags(stay=True).execute("40 + 2", silent=False)
    assert "42" in str(executed.get(SOON_SECONDS))


def test_failures_do_not_stay(rc: furlong.Client) -> None:
    """An error comes as ever, also beside values that stay."""
    stay = rc.load_balanced_view(stay=True)
    with pytest.raises(ZeroDivisionError):
        stay.apply_sync(lambda: 1 / 0)
    view = rc[:2].set_flags(stay=True)
    mixed = view.apply_async(
        lambda first: array(MIB) if engine_id == first else 1 / 0,  # noqa: F821
        rc.ids[0],
    )
    values = mixed.get(SOON_SECONDS, return_exceptions=True)
    assert len(values[0]) == MIB and isinstance(values[1], ZeroDivisionError)

    def odd(at: int) -> np.ndarray:
        if at == 3:
            raise ValueError("three")
        return array(MIB)

    with pytest.raises(ValueError, match="three"):
        stay.map_sync(odd, range(5), chunksize=5)
    values = stay.map_async(odd, range(5), chunksize=1).get(SOON_SECONDS, return_exceptions=True)
    assert [isinstance(value, ValueError) or len(value) for value in values] == [
        *[MIB] * 3,
        True,
        MIB,
    ]
    with pytest.raises(ValueError, match="contradict"):
        stay.map_async(odd, range(5), return_exceptions=True)
    with pytest.raises(TypeError, match="stay is True or False"):
        rc.load_balanced_view(stay="yes")


def test_a_value_is_let_go_by_release_or_with_its_last_reference(
    rc: furlong.Client, gate: Gate
) -> None:
    """Then it cannot be fetched; calls that were submitted with it before get it all the same."""
    stay, lview = rc.load_balanced_view(stay=True), rc.load_balanced_view()
    result = stay.apply_async(array, MIB)
    result.wait(SOON_SECONDS)
    (key,) = result.msg_ids
    later = lview.apply_async(len, result), lview.apply_async(gate.wait, result)
    result.release()
    eventually(lambda: not is_known(rc, key))
    with pytest.raises(furlong.errors.ResultLost, match="let go by `release`"):
        result.get()
    with pytest.raises(furlong.errors.PicklingError, match="let go by `release`"):
        lview.apply_async(len, result)
    gate.open()
    assert later[0].get(SOON_SECONDS) == len(later[1].get(SOON_SECONDS)) == MIB
    fetched = stay.apply_async(array, MIB)
    assert len(fetched.get(SOON_SECONDS)) == MIB
    fetched.release()
    assert len(fetched.get()) == MIB and fetched.stays is None
    assert lview.apply_sync(len, fetched) == MIB, "the value is here"
    dropped = stay.apply_async(array, MIB)
    dropped.wait(SOON_SECONDS)
    (key,) = dropped.msg_ids
    children = dropped.split(), furlong.AsyncResult.join(dropped, fetched)
    del dropped
    assert is_known(rc, key)
    del children
    eventually(lambda: not is_known(rc, key))
    early = stay.apply_async(array, MIB)
    (key,) = early.msg_ids
    early.release()
    early.wait(SOON_SECONDS)
    eventually(lambda: not is_known(rc, key))


def test_values_between_calls_are_let_go_when_they_are_not_needed(rc: furlong.Client) -> None:
    """A chain of large values keeps none of them but the last, and none comes here."""
    stay = rc.load_balanced_view(stay=True)
    value, keys = stay.apply_async(array, MIB), []
    for _ in range(10):
        keys += value.msg_ids
        value = stay.apply_async(lambda it: it + 1, value)
    value.wait(SOON_SECONDS)
    assert is_known(rc, value.msg_ids[0])
    stay.apply_async(same, value).wait(SOON_SECONDS)
    eventually(lambda: not any(is_known(rc, key) for key in keys))
    assert (value.get(SOON_SECONDS) == array(MIB) + 10).all()


def test_a_value_that_finds_no_room_to_stay_comes_here(own: Callable[..., Any]) -> None:
    """Values take half of the payload memory: no call waits for room, and all of them are arguments."""
    cluster = own(n=2, broker_memory="64M")
    with cluster.start_and_connect_sync() as rc:
        stay, lview = rc.load_balanced_view(stay=True), rc.load_balanced_view()
        results = [stay.apply_async(array, 4 * MIB) for _ in range(12)]
        assert all(result.wait(SOON_SECONDS) for result in results)
        staying = [result for result in results if result.stays]
        assert 0 < len(staying) < len(results)
        assert [lview.apply_sync(len, result) for result in results] == [4 * MIB] * 12
        full = rc.share(array(4 * MIB))
        # The refusal comes before the call is made, or after it.
        refusals = furlong.ImpossibleDependency, furlong.errors.PicklingError
        with pytest.raises(refusals) as caught:
            lview.apply_sync(len, full)
        assert isinstance(caught.value.__cause__, furlong.errors.Busy)
        with pytest.raises(furlong.errors.PicklingError, match="half of the broker's") as told:
            lview.apply_async(len, full)
        assert isinstance(told.value.__cause__, furlong.errors.Busy)
        for result in staying:
            result.release()
        with rc.share(array(4 * MIB)) as shared:
            assert lview.apply_sync(len, shared) == 4 * MIB


def test_a_broker_that_was_killed_has_everything_again(own: Callable[..., Any], gate: Gate) -> None:
    """Results that stay, shared values, and calls that wait for their arguments."""
    cluster = own(n=2)
    with cluster.start_and_connect_sync() as rc:
        lview, shared = rc.load_balanced_view(), rc.share(array(MIB))
        result = rc.load_balanced_view(stay=True).apply_async(array, MIB)
        assert result.wait(SOON_SECONDS)
        assert lview.apply_sync(len, shared) == MIB
        waits = lview.apply_async(
            lambda *them: sum(map(len, them)), lview.apply_async(gate.wait, "a"), result, shared
        )
        os.kill(cluster.to_dict()["controller"]["pid"], signal.SIGKILL)

        def is_started() -> bool:
            with contextlib.suppress(RuntimeError):  # the one before is still to end
                cluster.start_controller_sync()
                return True
            return False

        eventually(is_started)
        gate.open()
        assert waits.get(SOON_SECONDS) == 2 * MIB + 1
        assert (result.get(SOON_SECONDS) == array(MIB)).all()
        looked = lview.apply_async(lambda one, other: (one == other).all(), result, shared)
        assert looked.get(SOON_SECONDS)


# Shared values.


def test_a_shared_value_is_loaded_once_by_each_engine(rc: furlong.Client) -> None:
    """It may be small or large, and an argument of anything."""

    def loads(counted: Counted) -> int:
        return type(counted).loads

    for size in (1, MIB):
        counted = Counted()
        counted.data = array(size)  # type: ignore[attr-defined]
        before = rc[0].apply_sync(lambda kind=Counted: kind.loads)
        with rc.share(counted) as shared:
            assert "Counted" in repr(shared) and shared.nbytes >= size
            seen = [rc[0].apply_sync(loads, shared) for _ in range(3)]
            seen += rc[0].map_sync(loads, [shared] * 3)
            seen += rc[0].apply_sync(lambda them: [len({id(one) for one in them})], [shared] * 3)
        assert seen == [before + 1] * 6 + [1]


def test_shared_arrays_are_read_only_and_calls_see_one_object(rc: furlong.Client) -> None:
    """An attempt to change one is an error."""
    for size in (10, MIB):
        shared = rc.share({"values": array(size)})
        with pytest.raises(ValueError, match="read-only"):
            rc[0].apply_sync(lambda it: it["values"].fill(1), shared)
        ids = rc[0].map_sync(id, [shared] * 3)
        assert len(set(ids)) == 1
        mapped = rc[:].apply_sync(lambda it: it["values"].sum(dtype=np.int64), shared)
        assert mapped == [array(size).sum(dtype=np.int64)] * 4
    stay = rc.load_balanced_view(stay=True)
    made = stay.apply_async(lambda: [np.ones(3), np.ones((4, 4))[::2], np.ones(9)[::2], array(MIB)])
    look: Any = lambda _, them: [one.flags.writeable for one in them]  # noqa: E731
    assert rc[0].map_sync(look, [0], shared={"them": made}) == [[False] * 4]
    assert rc[0].apply_sync(look, 0, made) == [True] * 4


def test_maps_bind_shared_arguments_by_name(rc: furlong.Client, gate: Gate) -> None:
    """Handles, results, and values, which are let go when the map has ended."""
    lview, table = rc.load_balanced_view(), array(MIB)
    handle = rc.share(table)
    calls: list[tuple[Any, Any]] = [(lview.map, {"chunksize": 7}), (rc[:].map, {})]
    for call, options in calls:
        for given in (handle, table, lview.apply_async(array, MIB)):
            shared = {"table": given, "more": 1000}
            values = call(
                lambda at, table, more: int(table[at]) + more,
                range(50),
                shared=shared,
                block=True,
                **options,
            )
            assert values == [1000 + at for at in range(50)]
    assert list(
        lview.imap(lambda at, table: at + len(table), range(9), shared={"table": handle})
    ) == [MIB + at for at in range(9)]
    mapped = lview.map_async(
        lambda at, table: (gate.wait(), len(table))[1], range(4), shared={"table": table}
    )
    key = mapped._feeder._work._shared["table"]._part.task.id  # type: ignore[attr-defined]
    gate.open()
    assert mapped.get(SOON_SECONDS) == [MIB] * 4
    eventually(lambda: not is_known(rc, key))
    for wrong in ([("table", 1)], {1: 2}):
        with pytest.raises(TypeError, match="shared are names"):
            lview.map_async(same, range(2), shared=wrong)


def test_a_result_is_one_object_for_all_calls_of_a_map_that_shares_it(
    rc: furlong.Client, lview: furlong.LoadBalancedView, gate: Gate
) -> None:
    """Before it has come, while it stays, and when it is here; an item of a map is always its own."""

    def make(delay: bool) -> Counted:
        if delay:
            gate.wait()
        counted = Counted()
        counted.data = array(MIB)  # type: ignore[attr-defined]
        return counted

    def look(at: int, item: Any = None, *, counted: Any) -> tuple[int, bool, bool]:
        is_own = item is None or item is not counted and item.data.flags.writeable
        return id(counted), counted.data.flags.writeable, is_own

    pending, here = lview.apply_async(make, True), lview.apply_async(make, False)
    here.get(SOON_SECONDS)
    stays = rc.load_balanced_view(stay=True).apply_async(make, False)
    for result in (here, stays, pending):
        shared = {"counted": result}
        mapped = rc[0].map_async(look, range(1000), [result] * 1000, shared=shared)
        gate.open()
        found = mapped.get(SOON_SECONDS)
        assert len({key for key, _, _ in found}) == 1
        assert {(can_write, is_own) for _, can_write, is_own in found} == {(False, True)}
    stays.get().data = None
    before = rc[0].apply_sync(lambda kind=Counted: kind.loads)
    assert len(rc[0].map_sync(look, range(1000), shared={"counted": stays})) == 1000
    assert rc[0].apply_sync(lambda kind=Counted: kind.loads) == before, "it is there"
    values = lview.map_sync(look, range(1000), shared={"counted": here}, chunksize=10)
    assert len({key for key, _, _ in values}) <= len(rc)
    for call in (lview.map, lview.imap):
        failed = call(look, range(3), shared={"counted": lview.apply_async(int, "x")})
        with pytest.raises(furlong.ImpossibleDependency) as caught:
            list(failed)
        assert isinstance(caught.value.__cause__, ValueError)


def test_engines_hold_no_file_of_a_value_that_was_let_go(rc: furlong.Client) -> None:
    """Of as many values as calls have had."""

    def files() -> int:
        gc.collect()
        links = list(Path("/proc/self/fd").iterdir())
        names = [str(link.readlink()) for link in links if link.is_symlink()]
        return sum("furlong-payload" in name or "furlong-result" in name for name in names)

    held = 0
    for _ in range(3):
        with rc.share(array(MIB)) as shared:
            assert rc[:].apply_sync(len, shared) == [MIB] * len(rc)
            held += sum(rc[:].apply_sync(files))
        eventually(lambda: rc[:].apply_sync(files) == [0] * len(rc))
        result = rc[0].set_flags(stay=True).apply_async(array, MIB)
        assert rc[:].apply_sync(len, result) == [MIB] * len(rc)
        held += sum(rc[:].apply_sync(files))
        del result
        eventually(lambda: rc[:].apply_sync(files) == [0] * len(rc))
    assert held


def test_a_shared_value_is_let_go_with_its_handle(rc: furlong.Client, gate: Gate) -> None:
    """By `release`, `with`, or the last reference; what was submitted before gets it."""
    lview = rc.load_balanced_view()
    with rc.share(array(MIB)) as shared:
        waiting = lview.apply_async(lambda it, path: (gate.wait(), len(it))[1], shared, 0)
        key = shared._part.task.id
        eventually(lambda: is_known(rc, key))
    eventually(lambda: not is_known(rc, key))
    assert "released" in repr(shared)
    with pytest.raises(furlong.errors.PicklingError, match="share the value again"):
        lview.apply_async(len, shared)
    gate.open()
    assert waiting.get(SOON_SECONDS) == MIB
    dropped = rc.share(array(MIB))
    key = dropped._part.task.id
    eventually(lambda: is_known(rc, key))
    del dropped
    eventually(lambda: not is_known(rc, key))


def test_calls_that_began_before_a_value_was_let_go_have_it(rc: furlong.Client) -> None:
    """Maps that are submitted bit by bit, and calls that move to another engine."""
    lview, home, values = rc.load_balanced_view(), rc.ids[-1], list(range(999))
    here = furlong.depend(lambda: engine_id == home)(lambda at, it: it[at])  # noqa: F821
    result = rc.load_balanced_view(stay=True).apply_async(list, values)
    shared = rc.share(values)
    for made, key in ((shared, shared._part.task.id), (result, str(result.msg_id))):
        given: Any = {"shared": {"it": made}}
        mapped = lview.map_async(lambda at, it: it[at % 9], range(5000), **given)
        items = lview.map_async(lambda at, it: it[0][at % 9], range(5000), [[made]] * 5000)
        moved = lview.map_async(here, range(9), chunksize=1, **given)
        lazy = [lview.imap(f, range(9), **given) for f in (here, lambda at, it: it[at])]
        alone = [lview.apply_async(here, 8, made) for _ in rc.ids]
        made.release()  # type: ignore[attr-defined]
        with pytest.raises(furlong.errors.PicklingError, match="share the value again|let go by"):
            lview.apply_async(same, made)
        assert mapped.get(SOON_SECONDS) == items.get(SOON_SECONDS) == [at % 9 for at in range(5000)]
        assert [moved.get(SOON_SECONDS), *map(list, lazy)] == [values[:9]] * 3
        assert [one.get(SOON_SECONDS) for one in alone] == [8] * len(rc)
        eventually(lambda key=key: not is_known(rc, key))


def test_functions_and_classes_can_be_shared(rc: furlong.Client) -> None:
    """They go by value, with what engines need for that."""
    factor = 3

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def scaled(self) -> int:
            return self.x * factor

    shared = rc.share([Point(2), lambda x: x * factor])
    found = rc[:2].apply_sync(lambda it: (it[0].scaled(), it[1](5), type(it[0]) is Point), shared)
    assert found == [(6, 15, True)] * 2
    # Its end has come by now, and the small value with it: only engines load it.
    assert rc[:].map_sync(lambda x, it: it[1](x), [5], shared={"it": shared}) == [15]


def joined(one: str, other: str) -> str:
    """Join texts, which shows their order."""
    return f"({one}{other})"


@pytest.mark.parametrize(("fan_in", "expected"), [(2, "(((ab)(cd))e)"), (3, "(((ab)c)(de))")])
def test_reduce_keeps_the_order_and_is_a_tree(
    rc: furlong.Client, fan_in: int, expected: str
) -> None:
    """Results, pending or not, and values are combined in their order."""
    view = rc.load_balanced_view()
    leaves = [view.apply_async(str.lower, text) for text in "ABCD"]
    leaves[0].wait()
    assert view.reduce(joined, [*leaves, "e"], fan_in=fan_in, block=True) == expected


def test_reduce_of_a_map_combines_on_the_engines(rc: furlong.Client) -> None:
    """Each task's values are combined first, and nothing large comes here."""
    stay = rc.load_balanced_view(stay=True)
    made = stay.map_async(array, [MIB] * 5, chunksize=2)
    sums = rc.load_balanced_view().reduce(add, made)
    assert (sums.get() == functools.reduce(add, [array(MIB)] * 5)).all()
    assert made.wait(SOON_SECONDS)
    assert made.stays > 5 * MIB


def test_reduce_of_one_of_none_and_of_failures(rc: furlong.Client) -> None:
    """One value is the end, none is an error, a failure is the cause."""
    view = rc.load_balanced_view()
    assert view.reduce(add, [view.apply_async(int, 3)], block=True) == 3
    wrong: list[Any] = [(add, [], 2), (5, [1, 2], 2), (add, [1, 2], 1), (add, [1, 2], "2")]
    for f, them, fan_in in wrong:
        with pytest.raises((TypeError, ValueError), match="no results|cannot be called|at least 2"):
            view.reduce(f, them, fan_in=fan_in)
    two: Any = np.int64(2)
    assert view.reduce(add, range(5), fan_in=two, block=True) == 10
    here = furlong.depend(lambda home=rc.ids[-1]: engine_id == home)(add)  # noqa: F821
    assert view.reduce(here, [view.apply_async(int, at) for at in range(5)], block=True) == 10
    leaves = [view.apply_async(int, text) for text in ("1", "2", "x")]
    with pytest.raises(furlong.ImpossibleDependency) as caught:
        view.reduce(add, leaves).get()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_reduce_is_cancelled_as_a_whole(rc: furlong.Client, gate: Gate) -> None:
    """By its result, or by the client."""
    view = rc.load_balanced_view()
    for by_client in (False, True):
        total = view.reduce(lambda one, other: gate.wait(one), range(9))
        assert len(rc.outstanding) == 8
        rc.cancel(total) if by_client else total.cancel()
        eventually(lambda: not rc.outstanding)
        assert total.cancelled()
