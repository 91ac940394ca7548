"""Maps as one thing: each item has one value or one error at its place, and whatever names a map means all of it."""

import concurrent.futures
import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

import furlong
from furlong import Dependency, RemoteError
from furlong.errors import RequestRefused, ResultLost, RunTimeout, TaskAborted, TaskCancelled

COUNT = 100
BAD = 50


def raises(x):
    if x == BAD:
        raise ValueError(x)
    return x


def exits(x):
    if x == BAD:
        sys.exit(3)
    return x


def is_interrupted(x):
    if x == BAD:
        raise KeyboardInterrupt
    return x


def stops(x):
    return next(iter(())) if x == BAD else x


def locks(x):
    return threading.Lock() if x == BAD else x


class Unread:
    """A value that cannot be read where it arrives."""

    def __reduce__(self):
        return eval, ("1 / 0",)


def unread(x):
    return Unread() if x == BAD else x


def dies(x):
    if x == BAD:
        os._exit(1)
    return x


def crashes(x):
    if x == BAD:
        os.kill(os.getpid(), signal.SIGSEGV)
    return x


WAYS = {
    raises: ValueError,
    exits: RemoteError,
    is_interrupted: RemoteError,
    stops: RemoteError,
    locks: TypeError,
    unread: ResultLost,
    dies: furlong.errors.EngineError,
    crashes: furlong.errors.EngineError,
}


@pytest.fixture(params=["balanced", "chunks of 30", "direct", "one engine"])
def start(request, rc):
    """Return what starts a map, in each of the ways."""
    if request.param == "chunks of 30":
        lview = rc.load_balanced_view()
        return lambda *args, **options: lview.map_async(*args, chunksize=30, **options)
    return {"balanced": rc.load_balanced_view(), "direct": rc[:], "one engine": rc[1]}[
        request.param
    ].map_async


@pytest.fixture
def ran(tmp_path):
    """Return what notes that an item runs, and what counts how often each did."""
    path = tmp_path / "ran"
    path.touch()
    return Ran(path)


class Ran:
    """A file that has a line for each item that runs."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def note(self, x):
        with Path(self.path).open("ab", 0) as file:
            file.write(b"%d\n" % x)

    def count(self):
        return Counter(map(int, Path(self.path).read_text().split()))


def values_before(result):
    """Iterate up to an error: the values, and the error."""
    values = []
    try:
        for value in result:
            values.append(value)
    except BaseException as error:
        return values, error
    return values, None


# One value or one error.


@pytest.mark.parametrize("f", WAYS, ids=lambda f: f.__name__)
def test_an_item_that_fails_fails_alone(start, f):
    result = start(f, range(COUNT))
    given = result.get(60, return_exceptions=True)
    assert isinstance(given[BAD], WAYS[f])
    assert given[:BAD] + given[BAD + 1 :] == [x for x in range(COUNT) if x != BAD]
    with pytest.raises(WAYS[f]):
        result.get()
    for _ in range(2):
        values, error = values_before(result)
        assert values == list(range(BAD))
        assert isinstance(error, WAYS[f])
    assert (result[7], result[-1], result[1:3]) == (7, COUNT - 1, [1, 2])
    for key in (BAD, slice(BAD - 1, None)):
        with pytest.raises(WAYS[f]):
            result[key]
    assert [x for x in range(COUNT) if result.status[x] != "ok"] == [BAD]
    assert [x for x in range(COUNT) if result.error[x] is not None] == [BAD]
    assert not result.successful()
    assert result.progress == COUNT


@pytest.mark.parametrize("f", WAYS, ids=lambda f: f.__name__)
def test_an_error_in_place_is_a_value(start, f):
    result = start(f, range(COUNT), return_exceptions=True)
    for given in (result.get(60), list(result), result.get(return_exceptions=True)):
        assert isinstance(given[BAD], WAYS[f])
        assert given[:BAD] + given[BAD + 1 :] == [x for x in range(COUNT) if x != BAD]
    assert result.successful()
    assert result.exception() is None


def test_all_items_run_beside_failed_ones(start, ran):
    def f(x):
        ran.note(x)
        return 1 // (x % 10)

    result = start(f, range(COUNT))
    assert (
        sum(
            isinstance(value, ZeroDivisionError) for value in result.get(60, return_exceptions=True)
        )
        == 10
    )
    assert ran.count() == Counter(range(COUNT))


def test_an_exception_that_is_returned_is_a_value(start):
    result = start(lambda x: ValueError(x) if x == 3 else x, range(10))
    assert [type(value) for value in result.get(60)] == [int] * 3 + [ValueError] + [int] * 6
    assert result.successful()


def test_unordered_values_are_all_there(lview):
    values = list(lview.map_async(raises, range(COUNT), ordered=False, return_exceptions=True))
    assert sorted(value for value in values if isinstance(value, int)) == [
        x for x in range(COUNT) if x != BAD
    ]
    assert len(values) == COUNT


def test_many_quick_items_lose_the_one_that_dies(view, lview):
    def f(x):
        if x == 20_000:
            os._exit(1)
        return x

    for result in (
        view.map_async(f, range(30_000)),
        lview.map_async(f, range(30_000), chunksize=7_000),
    ):
        given = result.get(60, return_exceptions=True)
        assert [x for x in range(30_000) if given[x] != x] == [20_000]


def test_several_items_of_a_chunk_may_die(start):
    result = start(lambda x: os._exit(1) if x in (3, 4, 20) else x, range(30))
    given = result.get(60, return_exceptions=True)
    assert [x for x in range(30) if given[x] != x] == [3, 4, 20]


def test_what_kills_its_interpreter_runs_once(start, ran):
    def f(x):
        ran.note(x)
        return dies(x)

    start(f, range(COUNT)).wait(60)
    counted = ran.count()
    assert counted[BAD] == 1
    assert set(counted) == set(range(COUNT))


@pytest.mark.parametrize("flags", [{"at_most_once": True}, {"retries": 0}])
def test_items_that_may_run_once_do_beside_one_that_dies(rc, ran, flags):
    def f(x):
        ran.note(x)
        return dies(x)

    views = [rc.load_balanced_view(**flags)] + (
        [rc.direct_view("all", **flags)] if "retries" not in flags else []
    )
    for view in views:
        Path(ran.path).write_text("")
        given = view.map_async(f, range(COUNT)).get(60, return_exceptions=True)
        assert [x for x in range(COUNT) if given[x] != x] == [BAD]
        assert ran.count() == Counter(range(COUNT))


@pytest.mark.parametrize("chunksize", [None, 10])
def test_a_time_limit_is_for_each_item(rc, chunksize):
    def f(x):
        while x in (7, 8):
            time.sleep(0.01)
        return x

    views = [
        (rc.load_balanced_view(run_timeout=1), {"chunksize": chunksize}),
        (rc.direct_view([1], run_timeout=1), {}),
    ]
    for view, options in views[: 1 if chunksize else 2]:
        given = view.map_async(f, range(20), **options).get(60, return_exceptions=True)
        assert [x for x in range(20) if given[x] != x] == [7, 8]
        assert isinstance(given[7], RunTimeout)


@pytest.mark.parametrize(
    "flags", [{"retries": 2}, {"error_retries": 2}, {"retries": 2, "backoff": 0.01}]
)
def test_only_items_that_fail_run_again(rc, ran, flags):
    def f(x):
        ran.note(x)
        if x % 10 == 7 and ran.count()[x] < 3:
            raise ValueError(x)
        return x

    assert rc.load_balanced_view(**flags).map_async(f, range(30), chunksize=15).get(60) == list(
        range(30)
    )
    assert ran.count() == Counter({x: 3 if x % 10 == 7 else 1 for x in range(30)})


class UnreadThere:
    """An item that no engine can read."""

    def __init__(self):
        self.pid = os.getpid()

    def __reduce__(self):
        return is_read_here, (self.pid,)


def is_read_here(pid):
    if os.getpid() != pid:
        raise ValueError("it is of another process")


def test_an_item_that_cannot_be_read_fails_alone(start):
    given = start(lambda x: x, [0, 1, 2, UnreadThere(), 4, 5]).get(60, return_exceptions=True)
    assert [type(value) for value in given] == [int] * 3 + [type(given[3])] + [int] * 2
    assert isinstance(given[3], ValueError)


def test_what_no_item_can_begin_is_told_once_for_all(lview):
    def f(x):
        return x

    f.__defaults__ = (UnreadThere(),)
    given = lview.map_async(f, range(1000), chunksize=1000).get(60, return_exceptions=True)
    assert {type(value).__mro__[1] for value in given} == {type(given[0]).__mro__[1]}
    assert len(given) == 1000
    assert isinstance(given[0], ValueError)


def test_arrays_beside_a_failed_one_are_kept(start):
    given = start(lambda x: np.arange(3) + x if x != 4 else threading.Lock(), range(8)).get(
        60, return_exceptions=True
    )
    assert isinstance(given[4], TypeError)
    assert [value.tolist() for value in given[5:]] == [[5, 6, 7], [6, 7, 8], [7, 8, 9]]


def test_a_list_may_be_changed_while_it_is_mapped(start):
    items = list(range(20_000))
    result = start(lambda x: x, items)
    items[:] = ["changed"]
    assert result.get(60) == list(range(20_000))


# What is told of items.


def test_what_an_item_writes_is_told_of_it(start):
    def f(x):
        print("item", x)
        if x % 5 == 0:
            print("error", x, file=sys.stderr)
        return raises(x)

    result = start(f, range(COUNT))
    assert result.wait(60)
    assert result.stdout == [f"item {x}\n" for x in range(COUNT)]
    assert result.stderr == [f"error {x}\n" if x % 5 == 0 else "" for x in range(COUNT)]
    assert [record["stdout"] for record in result.metadata] == result.stdout
    assert len(result.engine_id) == len(result.msg_id) == len(result.completed) == COUNT


def test_what_its_children_write_is_told(start):
    result = start(lambda x: os.system(f"echo child {x}"), range(10))
    assert result.wait(60)
    assert sorted("".join(result.stdout).splitlines()) == [f"child {x}" for x in range(10)]


def test_values_by_engine_are_lists(view, lview):
    assert view.map_async(lambda x: x, range(8)).get_dict() == {
        0: [0, 1],
        1: [2, 3],
        2: [4, 5],
        3: [6, 7],
    }
    assert sorted(
        itertools.chain(*lview.map_async(lambda x: x, range(50)).get_dict(60).values())
    ) == list(range(50))


def test_a_map_of_nothing_tells_nothing(start):
    result = start(lambda x: x, [])
    assert (result.get(60), result.stdout, result.metadata, result.msg_ids, result.split()) == (
        [],
        [],
        [],
        [],
        (),
    )
    assert (result.elapsed, result.serial_time, result.progress) == (0.0, 0.0, 0)
    assert result.done()


# All of it.


def nap(x):
    time.sleep(0.01)
    return x


def test_after_a_map_is_after_its_last_item(start, lview):
    result = start(nap, range(COUNT))
    with lview.temp_flags(after=result):
        behind = lview.apply_async(time.time)
    assert result.get(60) == list(range(COUNT))
    assert behind.get(60) >= max(at.timestamp() for at in result.completed)


def test_after_a_map_that_fails_nothing_runs(start, lview):
    result = start(raises, range(COUNT))
    with lview.temp_flags(after=result):
        never = lview.apply_async(os.getpid)
    with pytest.raises(furlong.errors.ImpossibleDependency):
        never.get(60)
    with lview.temp_flags(after=Dependency(result, success=True, failure=True)):
        assert lview.apply_async(os.getpid).get(60) > 0


def test_waits_for_a_map_wait_for_all_of_it(rc, lview):
    for wait in (
        lambda result: rc.wait(timeout=60),
        lambda result: rc.wait(result, timeout=60),
        lambda result: rc.wait(result.msg_ids, timeout=60),
        lambda result: rc.wait(list(rc.outstanding), timeout=60),
    ):
        result = lview.map_async(nap, range(COUNT))
        assert wait(result)
        assert result.done()
        assert result.progress == COUNT


def test_a_map_that_nobody_holds_is_waited_for_and_ends(rc, lview, ran, gate):
    lview.map_async(lambda x: ran.note(x), range(COUNT))
    assert rc.wait(timeout=60)
    assert ran.count() == Counter(range(COUNT))
    lview.map_async(gate.wait, range(1000), chunksize=1)
    assert rc.cancel() > 0
    assert rc.wait(timeout=60)


def test_tasks_of_a_map_are_all_there(rc, lview):
    result = lview.map_async(nap, range(COUNT))
    assert sorted(
        x for task in concurrent.futures.as_completed(result.split()) for x in task.result()
    ) == list(range(COUNT))
    result = lview.map_async(nap, range(COUNT))
    assert [x for key in result.msg_ids for x in rc.get_result(key).get(60)] == list(range(COUNT))
    assert rc.get_result(result) is result
    joined = furlong.AsyncResult.join(result, lview.map_async(nap, range(7), chunksize=7))
    assert joined.get(60)[-1] == list(range(7))


@pytest.mark.parametrize("chunksize", [None, 1])
def test_whatever_ends_a_map_ends_all_of_it(rc, lview, ran, gate, chunksize):
    def f(x):
        ran.note(x)
        return gate.wait(x)

    ways = (
        lambda result: result.abort(),
        lambda result: rc.abort(),
        lambda result: rc.abort(result),
        lambda result: result.cancel(),
        lambda result: rc.cancel(),
        lambda result: rc.cancel(result),
        lambda result: rc.cancel([result]),
    )
    for end in ways:
        Path(ran.path).write_text("")
        gate.close()
        result = lview.map_async(f, range(1000), chunksize=chunksize)
        eventually(ran.count)
        end(result)
        for engine in rc.ids:  # it has read of the end when it answers, whatever it answers
            with contextlib.suppress(RequestRefused):
                rc.stack(engine)
        gate.open()
        assert result.wait(60)
        given = result.get(return_exceptions=True)
        assert len(given) == len(result.status) == 1000
        assert all(value == x or isinstance(value, TaskAborted) for x, value in enumerate(given))
        # What engines had begun goes on, and nothing else begins.
        assert len(ran.count()) < 20
        assert result.cancelled()


def test_what_had_ended_before_a_cancel_stays(lview, gate):
    # Three of four engines wait in the end: the fourth runs what is left, in whatever order they
    # were given it.
    result = lview.map_async(lambda x: x if x < 37 else gate.wait(x), range(40), chunksize=1)
    values = iter(result)
    assert [next(values) for _ in range(37)] == list(range(37))
    result.cancel()
    given = result.get(return_exceptions=True)
    assert given[:37] == list(range(37))
    assert all(isinstance(value, TaskCancelled) for value in given[37:])


def test_a_kept_map_goes_on_without_its_client(cluster, rc):
    with furlong.Client(cluster=cluster) as other:
        label = "kept map"
        other.load_balanced_view(keep=True, label=label).map_async(nap, range(COUNT))
        other.detach()
    records = eventually(
        lambda: (
            (found := rc.records(label=label))
            and all(r["phase"] == "ended" for r in found)
            and found
        )
    )
    values = [x for record in records for x in rc.get_result(record["id"]).get(60)]
    assert sorted(values) == list(range(COUNT))


def test_queues_count_all_of_a_map(rc, lview, gate):
    result = lview.map_async(gate.wait, range(COUNT), chunksize=None)
    status = rc.queue_status()
    waiting = status["unassigned"] + sum(status[engine]["tasks"] for engine in rc.ids)
    assert waiting == len(result.msg_ids)
    gate.open()
    assert result.get(60) == list(range(COUNT))


def test_a_direct_map_that_fails_leaves_others_alone(rc, view, gate):
    def fails(x):
        gate.wait()
        raise ValueError(x)

    failing = view.map_async(fails, range(8))
    behind = view.map_async(lambda x: x, range(8))
    called = view.apply_async(int)
    gate.open()
    assert behind.get(60) == list(range(8))
    assert called.get(60) == [0, 0, 0, 0]
    with pytest.raises(ValueError):
        failing[0]


# What changes after the call.


def test_flags_of_the_call_are_those_of_all_its_tasks(rc, lview, ran):
    def waits(x):
        if x == COUNT - 1:
            time.sleep(600)
        return x

    with lview.temp_flags(run_timeout=0.5):
        result = lview.map_async(waits, range(COUNT))
    assert isinstance(result.get(60, return_exceptions=True)[-1], RunTimeout)
    lview.targets = [2]
    chosen = lview.map_async(lambda x: time.sleep(0.002), range(COUNT))
    values = lview.imap(lambda x: engine_id, range(COUNT))  # noqa: F821 - the engine has it
    calls = lview.executor.map(lambda x: engine_id, range(COUNT), buffersize=4)  # noqa: F821
    lview.targets = None
    chosen.get(60)
    assert set(chosen.engine_id) == set(values) == set(calls) == {2}


def test_items_are_mapped_as_they_are_at_the_call(lview, gate):
    def read(x, y, z):
        gate.wait()
        return x, len(y), z.x

    class Own:
        def __init__(self, x):
            self.x = x

    rows = [[x] for x in range(1000)]
    objects = [Own(x) for x in range(1000)]
    result = lview.map_async(read, range(1000), rows, objects)
    mapped = lview.map_async(lambda x: len(x), (row for row in rows))
    for row, one in zip(rows, objects, strict=True):
        row.append(1)
        one.x = None
    rows.clear()
    gate.open()
    assert result.get(60) == [(x, 1, x) for x in range(1000)]
    assert mapped.get(60) == [1] * 1000


# Interrupted calls.


class Interrupted(Exception):
    """The exception that a signal's handler raises."""


@pytest.fixture
def interrupt():
    """Return what raises an exception in this thread once something is true."""

    def start(condition, error=KeyboardInterrupt):
        def raise_it(*_):
            raise error

        def again(unraisable):
            # Python ignores what is raised in `__del__`, or in the callback of a weak reference.
            if isinstance(unraisable.exc_value, error):
                os.kill(os.getpid(), signal.SIGUSR1)

        before.append(signal.signal(signal.SIGUSR1, raise_it))
        sys.unraisablehook = again

        def send():
            eventually(condition)
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=send)
        threads.append(thread)
        thread.start()

    before, threads = [], []
    hook = sys.unraisablehook
    yield start
    sys.unraisablehook = hook
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGUSR1, before[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize(
    "call",
    [
        lambda rc, f: rc.load_balanced_view().map_sync(f, range(100)),
        lambda rc, f: rc.load_balanced_view().apply_sync(f, 1),
        lambda rc, f: rc[:].map(f, range(100), block=True),
        lambda rc, f: rc[:].apply_sync(f, 1),
        lambda rc, f: rc[:].parallel(block=True)(lambda part: f(part)).map(range(100)),
        lambda rc, f: rc.load_balanced_view().remote(block=True)(f)(1),
        lambda rc, f: list(rc.load_balanced_view().imap(f, range(100))),
        lambda rc, f: list(rc.load_balanced_view().imap(f, range(100), ordered=False)),
        lambda rc, f: rc[:].execute("import time\nwhile True: time.sleep(0.01)", block=True),
    ],
    ids=[
        "map_sync",
        "apply_sync",
        "map",
        "direct apply",
        "parallel",
        "remote",
        "imap",
        "unordered imap",
        "execute",
    ],
)
def test_an_interrupted_call_leaves_no_task(rc, interrupt, gate, call, error):
    interrupt(lambda: any(engine["tasks_assigned"] for engine in rc.status()["engines"]), error)
    with pytest.raises(error) as caught:
        call(rc, gate.wait)
    eventually(lambda: not rc._session.unfinished())
    if hasattr(caught.value, "result"):
        assert caught.value.result.done()


class Interrupting:
    """Raises a signal as it is pickled, or as its copy is read, in one process."""

    def __init__(self, when, process):
        self.when, self.process = when, process

    def __reduce__(self):
        if self.when == "pickled":
            signal.raise_signal(signal.SIGUSR1)
        return _interrupt, (self.process if self.when == "read" else 0,)


def _interrupt(process):
    if os.getpid() == process:
        signal.raise_signal(signal.SIGUSR1)
    return 1


@pytest.fixture
def once():
    """Let the signal raise an exception once, by each kind of handler; the handler is unset by then."""

    def set_handler(make):
        def interrupted(number, frame):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            raise Interrupted

        signal.signal(signal.SIGUSR1, make(interrupted))

    yield set_handler
    signal.signal(
        signal.SIGUSR1, signal.SIG_IGN
    )  # a copy may still be read, and would end this process


class Handler:
    """Something with a method that handles signals."""

    def __init__(self, inner):
        self.inner = inner

    def handle(self, number, frame):
        self.inner(number, frame)


HANDLERS = [
    pytest.param(lambda inner: inner, id="function"),
    pytest.param(lambda inner: Handler(inner).handle, id="method"),
    pytest.param(lambda inner: lambda *args: inner(*args), id="any arguments"),
]


@pytest.mark.parametrize("make", HANDLERS)
@pytest.mark.parametrize(
    "call",
    [
        lambda rc, x: rc.load_balanced_view().map_async(lambda x: x, [x, x]),
        lambda rc, x: rc[:].map_async(lambda x: x, [x, x]),
        lambda rc, x: rc[:].apply_async(lambda x: x, x),
        lambda rc, x: rc[:].apply_async(lambda: x),
        lambda rc, x: rc[:].push({"x": x}),
        lambda rc, x: rc.executor().submit(lambda x: x, x),
    ],
    ids=["map", "direct map", "apply", "closure", "push", "executor"],
)
def test_what_a_signal_raises_while_something_is_pickled_comes_out_as_it_is(rc, once, call, make):
    once(make)
    with pytest.raises(Interrupted):
        call(rc, Interrupting("pickled", os.getpid()))
    eventually(lambda: not rc._session.unfinished())


@pytest.mark.parametrize(
    "call",
    [
        lambda rc, f: rc.load_balanced_view().map_async(f, range(8)),
        lambda rc, f: rc[:].map_async(f, range(8)),
        lambda rc, f: rc[:].apply_async(f, 1),
    ],
    ids=["map", "direct map", "apply"],
)
def test_a_value_whose_reading_a_signal_ends_is_read_the_next_time(rc, once, call):
    f = functools.partial(lambda process, _: Interrupting("read", process), os.getpid())
    result = call(rc, f)
    eventually(lambda: not rc._session.unfinished())
    once(lambda inner: inner)
    with pytest.raises(Interrupted):
        for _ in range(3):  # the dispatcher's thread may have read some
            result.get(30)
            result = call(rc, f)
    assert set(result.get(30)) == {1}


def test_a_lazy_map_that_is_dropped_leaves_no_task(rc, lview, gate):
    values = lview.imap(lambda x: x or gate.wait(x), itertools.count(1))
    assert next(values) == 1
    values = lview.imap(gate.wait, itertools.count())
    threading.Timer(0, gate.open).start()
    assert next(values) == 0
    del values
    eventually(lambda: not rc._session.unfinished())


def test_a_lazy_map_that_was_interrupted_does_not_end_in_silence(rc, lview, interrupt, gate):
    values = lview.imap(gate.wait, range(10))
    interrupt(lambda: rc._session.unfinished())
    with pytest.raises(KeyboardInterrupt):
        next(values)
    with pytest.raises(TaskCancelled):
        next(values)


# Slow heads.


@pytest.mark.parametrize("direct", [False, True])
def test_a_slow_head_keeps_no_engine_idle(rc, lview, gate, ran, direct):
    def f(x):
        if x == 0:
            return gate.wait(x)
        ran.note(x)
        return x

    values = (rc[:] if direct else lview).imap(f, range(200))

    def open_late():
        eventually(lambda: len(ran.count()) >= 100)
        gate.open()

    thread = threading.Thread(target=open_late)
    thread.start()
    assert next(values) == 0
    thread.join()
    assert list(values) == list(range(1, 200))


def test_values_that_nobody_reads_are_bounded(lview, monkeypatch, gate):
    from furlong.maps import lazy_maps

    monkeypatch.setattr(lazy_maps, "UNREAD_MAX", 20)
    taken = []

    def items():
        for x in itertools.count():
            taken.append(x)
            yield x

    values = lview.imap(lambda x: x or gate.wait(x), items())

    def open_late():
        eventually(lambda: len(taken) > 20)
        gate.open()

    thread = threading.Thread(target=open_late)
    thread.start()
    assert next(values) == 0
    thread.join()
    assert len(taken) <= 20 + 2 * 4 + 1
    values.cancel()
