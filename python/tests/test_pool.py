"""``rc.pool()`` beside `multiprocessing.Pool`: each row does the same with both, and what comes of it is compared."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import operator
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError
from typing import Any

import pytest
from conftest import ENGINES, SOON_SECONDS, Gate, eventually

import furlong


class Odd(Exception):
    """An exception whose arguments are not those of its constructor, and that has more than these."""

    def __init__(self, text: str, place: int) -> None:
        super().__init__(text, place)
        self.place = place
        self.half = place / 2


def square(x: int) -> int:
    return x * x


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three", x)
    return x


def raise_odd(x: int) -> int:
    raise Odd("odd", x)


def raise_file_error(_: int) -> None:
    raise FileNotFoundError(2, "No such file", "there")


def add(x: int, y: int = 10, *, z: int = 100) -> int:
    return x + y + z


def give_lock(_: int) -> object:
    return threading.Lock()


def set_number(number: int) -> None:
    global _number
    _number = number


def number_and(x: int) -> tuple[int, int]:
    return _number, x


def items_that_fail() -> Iterator[int]:
    yield from range(3)
    raise LookupError("no further item")


def read_all(values: Any) -> list[object]:
    """Read all values and errors of an iterator, until it ends."""
    found: list[object] = []
    while True:
        try:
            found.append(next(values))
        except StopIteration:
            return found
        except Exception as error:
            found.append((type(error), error.args))


def called_back(pool: Any, function: Callable[[int], Any], method: str, items: Any) -> object:
    """Submit with both callbacks, and give what they were called with."""
    told: list[object] = []

    def note(value: object) -> None:
        told.append(value)

    def note_error(error: Exception) -> None:
        told.append((type(error), error.args))

    result = getattr(pool, method)(function, items, callback=note, error_callback=note_error)
    result.wait(SOON_SECONDS)
    return told, result.ready(), result.successful()


def closed(pool: Any) -> Any:
    pool.close()
    return pool


def joined(pool: Any) -> list[int]:
    """Collect by callbacks, which have all been called when the pool is joined."""
    found: list[int] = []
    for n in range(20):
        pool.apply_async(square, (n,), callback=found.append)
    pool.close()
    pool.join()
    return sorted(found)


def not_ready(pool: Any) -> object:
    result = pool.apply_async(time.sleep, (1,))
    try:
        return result.ready(), result.successful()
    finally:
        result.wait()


ROWS: dict[str, Callable[[Any], object]] = {
    "apply": lambda pool: pool.apply(add, (1,), {"z": 2}),
    "apply without arguments": lambda pool: pool.apply(dict),
    "apply of a list": lambda pool: pool.apply(add, [1, 2]),
    "apply that fails": lambda pool: pool.apply(fail_at_three, (3,)),
    "apply, an odd error": lambda pool: pool.apply(raise_odd, (3,)),
    "apply, an error of the system": lambda pool: pool.apply(raise_file_error, (3,)),
    "apply, too many arguments": lambda pool: pool.apply(square, (1, 2)),
    "apply of nothing": lambda pool: pool.apply(3),
    "apply_async": lambda pool: pool.apply_async(add, (1, 2)).get(SOON_SECONDS),
    "apply_async, calls back": lambda pool: called_back(pool, square, "apply_async", (3,)),
    "apply_async, calls back with an error": lambda pool: called_back(
        pool, fail_at_three, "apply_async", (3,)
    ),
    "apply_async, a lock": lambda pool: pool.apply_async(square, (threading.Lock(),)).get(),
    "a value that cannot come": lambda pool: pool.apply(give_lock, (1,)),
    "map": lambda pool: pool.map(square, range(100)),
    "map in chunks": lambda pool: pool.map(square, range(10), chunksize=3),
    "map of a generator": lambda pool: pool.map(square, (n for n in range(5))),
    "map of a text": lambda pool: pool.map(ord, "abc"),
    "map of nothing": lambda pool: pool.map(square, []),
    "map that fails": lambda pool: pool.map(fail_at_three, range(5)),
    "map, items that fail": lambda pool: pool.map(square, items_that_fail()),
    "map of no sequence": lambda pool: pool.map(square, 5),
    "map_async": lambda pool: pool.map_async(square, [1, 2]).get(SOON_SECONDS),
    "map_async, calls back": lambda pool: called_back(pool, square, "map_async", [1, 2]),
    "map_async of nothing": lambda pool: called_back(pool, square, "map_async", []),
    "map_async, calls back with an error": lambda pool: called_back(
        pool, fail_at_three, "map_async", range(5)
    ),
    "starmap": lambda pool: pool.starmap(add, [(1,), (1, 2)]),
    "starmap in chunks": lambda pool: pool.starmap(operator.mul, zip(range(9), range(9)), 2),
    "starmap of no rows": lambda pool: pool.starmap(square, [1]),
    "starmap_async": lambda pool: pool.starmap_async(pow, [(2, 3)]).get(SOON_SECONDS),
    "starmap_async, calls back": lambda pool: called_back(pool, pow, "starmap_async", [(2, 3)]),
    "imap": lambda pool: list(pool.imap(square, range(50))),
    "imap in chunks": lambda pool: list(pool.imap(square, range(50), 7)),
    "imap of nothing": lambda pool: list(pool.imap(square, [])),
    "imap goes on after an error": lambda pool: read_all(pool.imap(fail_at_three, range(6))),
    "imap in chunks ends with an error": lambda pool: read_all(
        pool.imap(fail_at_three, range(6), 2)
    ),
    "imap, items that fail": lambda pool: read_all(pool.imap(square, items_that_fail())),
    "imap of no iterable": lambda pool: read_all(pool.imap(square, 5)),
    "imap, next in time": lambda pool: pool.imap(square, [3]).next(timeout=SOON_SECONDS),
    "imap, next too late": lambda pool: pool.imap(time.sleep, [1]).next(timeout=0.01),
    "imap, no chunk": lambda pool: pool.imap(square, [1], 0),
    "imap_unordered": lambda pool: sorted(pool.imap_unordered(square, range(50))),
    "imap_unordered in chunks": lambda pool: sorted(pool.imap_unordered(square, range(50), 7)),
    "imap_unordered, an error": lambda pool: sorted(
        map(str, read_all(pool.imap_unordered(fail_at_three, range(6))))
    ),
    "imap_unordered, no chunk": lambda pool: pool.imap_unordered(square, [1], 0),
    "imap of an endless iterable": lambda pool: list(
        itertools.islice(pool.imap(square, itertools.count()), 10)
    ),
    "get too late": lambda pool: pool.apply_async(time.sleep, (1,)).get(timeout=0.01),
    "wait too late": lambda pool: pool.apply_async(time.sleep, (1,)).wait(timeout=0.01),
    "successful too early": not_ready,
    "successful": lambda pool: (
        (result := pool.apply_async(square, (3,))).wait(),
        result.ready(),
        result.successful(),
    ),
    "not successful": lambda pool: (
        (result := pool.apply_async(fail_at_three, (3,))).wait(),
        result.ready(),
        result.successful(),
    ),
    "the same error each time": lambda pool: (
        result := pool.apply_async(fail_at_three, (3,)),
        error_of(result.get),
        error_of(result.get),
    )[1:],
    "join calls back before": joined,
    "join too early": lambda pool: pool.join(),
    "close twice": lambda pool: (pool.close(), pool.close(), pool.join()),
    "terminate, then join": lambda pool: (pool.terminate(), pool.join()),
    "close lets go on": lambda pool: (
        result := pool.map_async(square, range(5)),
        pool.close(),
        pool.join(),
        result.get(),
    )[1:],
    "within with": lambda pool: (pool.__enter__() is pool, pool.__exit__(None, None, None)),
    "with a closed pool": lambda pool: closed(pool).__enter__(),
    "pickled": pickle.dumps,
    **{
        f"{method} when closed": lambda pool, method=method: getattr(closed(pool), method)(
            square, [1]
        )
        for method in (
            *("apply", "apply_async", "map", "map_async", "starmap", "starmap_async"),
            *("imap", "imap_unordered"),
        )
    },
}


def error_of(call: Callable[..., object], *arguments: object) -> object:
    """Return what a call comes to: its value, or the class and the arguments of its exception."""
    try:
        value = call(*arguments)
    except Exception as error:
        if isinstance(error, MaybeEncodingError):
            return "error", MaybeEncodingError
        if isinstance(error, TypeError) and "pickle" in str(error):
            return "error", "no pickle"  # each names the part that has none in its own words
        text = error.args if "not ready" not in str(error) else "not ready"
        more = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        return "error", type(error), text, more
    return "value", type(value), value


@pytest.fixture(scope="module")
def expected(nothing_is_left: None) -> dict[str, object]:
    """Do all rows with pools of the standard library."""
    found = {}
    context = multiprocessing.get_context("fork")
    for name, row in ROWS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            pool = context.Pool(2)
        try:
            found[name] = error_of(row, pool)
        finally:
            pool.terminate()
            pool.join()
    del pool
    gc.collect()  # a pool of the standard library holds its pipes in a cycle
    return found


@pytest.mark.parametrize("name", ROWS)
def test_pool_does_what_that_of_multiprocessing_does(
    name: str, rc: furlong.Client, expected: dict[str, object]
) -> None:
    with rc.pool() as pool:
        assert error_of(ROWS[name], pool) == expected[name]


def test_pool_error_shows_the_traceback_of_the_engine(rc: furlong.Client) -> None:
    with rc.pool() as pool, pytest.raises(Odd) as raised:
        pool.apply(raise_odd, (3,))
    assert type(raised.value) is Odd
    assert raised.value.half == 1.5
    assert "in raise_odd" in str(raised.value.__cause__)


def test_pool_takes_what_has_no_pickle_elsewhere(rc: furlong.Client) -> None:
    with rc.pool() as pool:
        assert pool.map(lambda x: x + 1, [1, 2]) == [2, 3]


def test_pool_initializer_runs_once_on_each_engine(rc: furlong.Client) -> None:
    with rc.pool(initializer=set_number, initargs=(7,)) as pool:
        assert pool.map(number_and, range(8), chunksize=1) == [(7, n) for n in range(8)]
        assert pool.apply(number_and, (1,)) == (7, 1)
    with rc.pool(initializer=set_number, initargs=[8]) as pool:
        assert list(pool.imap(number_and, [1])) == [(8, 1)]


def test_pool_initializer_that_fails_fails_the_calls(rc: furlong.Client) -> None:
    pool = rc.pool(initializer=fail_at_three, initargs=(3,))
    with pool, pytest.raises(ValueError, match="three"):
        pool.apply(square, (1,))


def test_pool_of_so_many_processes_uses_so_many_engines(rc: furlong.Client) -> None:
    with rc.pool(2) as pool:
        engines = set(pool.map(lambda _: engine_id, range(20), chunksize=1))  # noqa: F821
    assert engines == set(sorted(rc.ids)[:2])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"processes": 0}, "at least 1"),
        ({"maxtasksperchild": 0}, "positive int"),
        ({"maxtasksperchild": 3}, "not supported: engines are not replaced"),
    ],
)
def test_pool_refuses_what_it_cannot_do(
    options: dict[str, int], text: str, rc: furlong.Client
) -> None:
    with pytest.raises(ValueError, match=text):
        rc.pool(**options)


def test_pool_initializer_must_be_callable(rc: furlong.Client) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        rc.pool(initializer=3)  # type: ignore[arg-type]


def test_terminate_ends_what_runs_and_what_waits(rc: furlong.Client, gate: Gate) -> None:
    pool = rc.pool()
    results = [pool.apply_async(gate.wait) for _ in range(3 * ENGINES)]
    values = pool.imap(gate.wait, range(3 * ENGINES))
    pool.terminate()
    pool.join()
    assert all(result.ready() for result in results)
    with pytest.raises(furlong.TaskCancelled):
        results[0].get()
    assert len(read_all(values)) <= 3 * ENGINES
    eventually(lambda: not rc.outstanding)


def test_terminate_while_a_call_is_being_submitted_cancels_it(
    rc: furlong.Client, gate: Gate
) -> None:
    class Terminating:
        """An argument that terminates the pool while it is pickled."""

        def __reduce__(self) -> object:
            pool.terminate()
            return int, ()

    pool = rc.pool()
    result = pool.apply_async(gate.wait, (Terminating(),))
    pool.join()
    with pytest.raises(furlong.TaskCancelled):
        result.get(SOON_SECONDS)
    pool = rc.pool()
    values = pool.imap(gate.wait, [Terminating()])
    pool.join()
    assert [kind for kind, _ in read_all(values)] == [furlong.TaskCancelled]


def test_imap_of_items_that_exit_raises_that(rc: furlong.Client) -> None:
    def items() -> Iterator[int]:
        yield 2
        raise SystemExit("no more")

    # `multiprocessing` lets the reader wait for ever.
    for chunksize in (1, 2):
        with rc.pool() as pool:
            values: Any = pool.imap_unordered(square, items(), chunksize)
            with pytest.raises(SystemExit, match="no more"):
                list(values)


def test_pool_at_the_end_of_with_leaves_the_engines(rc: furlong.Client) -> None:
    with rc.pool() as pool:
        pool.map(square, range(4))
    assert len(rc) == ENGINES
    assert rc[:].apply_sync(os.getpid)


def test_close_and_join_wait_for_what_nobody_reads(rc: furlong.Client, gate: Gate) -> None:
    pool = rc.pool()
    pool.imap(gate.wait, range(50))
    pool.close()
    gate.open()
    pool.join()
    assert not rc.outstanding


def test_callback_that_fails_keeps_no_other_from_being_called(
    rc: furlong.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr("sys.excepthook", lambda kind, *_: seen.append(kind))
    found: list[int] = []
    with rc.pool() as pool:
        pool.apply_async(square, (3,), callback=lambda value: value / 0)
        pool.apply_async(square, (3,), callback=found.append).wait()
        pool.close()
        pool.join()
    assert seen == [ZeroDivisionError]
    assert found == [9]


def test_farm_names_the_function_that_a_pool_calls(rc: furlong.Client) -> None:
    with rc.pool(initializer=set_number, initargs=(1,)) as pool:
        pool.starmap(add, [(1, 2)])
        list(pool.imap(number_and, [1], 2))
    kinds = {span["name"] for span in rc.trace().spans}
    assert {f"{__name__}.add", f"{__name__}.number_and"} <= kinds
