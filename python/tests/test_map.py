"""Maps: direct, balanced, lazy."""

import asyncio
import collections
import concurrent.futures
import gc
import itertools
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import furlong
from furlong import CompositeError, RemoteError
from furlong.maps import lazy_maps
from furlong.maps.sequences import collect, deal

# The cluster is the same for all examples, and slow beside what hypothesis expects.
on_cluster = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
items = st.lists(st.integers() | st.text(max_size=5) | st.none(), max_size=40)
dists = st.sampled_from(["b", "r"])


def square(x):
    return x * x


@pytest.mark.parametrize("count", [1, 3, 4, 16, 101])
def test_035_direct_map_is_map(view, count):
    result = view.map_async(square, range(count))
    assert len(result) == count
    assert result.get() == [x * x for x in range(count)]
    assert list(result) == result.get()
    assert result[0] == 0
    assert result[-1] == (count - 1) ** 2
    assert result[::2] == [x * x for x in range(count)][::2]


def test_035_an_engine_gets_one_contiguous_chunk(view):
    engines = view.map_sync(lambda x: engine_id, range(10))  # noqa: F821
    assert engines == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]


def test_035_generators_and_several_sequences(view):
    assert view.map_sync(lambda x, y: x + y, (x for x in range(17)), range(17)) == [
        2 * x for x in range(17)
    ]
    assert view.map_sync(pow, range(5), itertools.repeat(2)) == [0, 1, 4, 9, 16]
    assert view.map_sync(str, {"a": 1, "b": 2}) == ["a", "b"]
    assert view.map_sync(str, {3}) == ["3"]
    assert view.map_sync(ord, "abc") == [97, 98, 99]
    with pytest.raises(TypeError):
        view.map_sync(square)


def test_035_a_chunksize_is_ignored_with_a_warning(view):
    with pytest.warns(UserWarning, match="chunksize"):
        assert view.map_sync(square, range(5), chunksize=2) == [0, 1, 4, 9, 16]


def test_035_direct_map_obeys_block(view):
    view.block = True
    assert view.map(square, range(3)) == [0, 1, 4]
    assert isinstance(view.map(square, range(3), block=False), furlong.AsyncMapResult)


def test_036_map_of_nothing(rc, view, lview):
    for some in (view, lview, rc[0], rc[[1]]):
        for nothing in ([], (), iter(()), np.array([])):
            result = some.map_async(square, nothing)
            assert result.get(60) == []
            assert result.done()
            assert result.successful()
            assert list(result) == []
            assert len(result) == 0
    assert list(lview.imap(square, [])) == []


def test_036_map_on_one_engine(rc):
    assert rc[2].map_sync(square, range(10)) == [x * x for x in range(10)]
    assert rc[[2]].map_sync(square, range(10)) == [x * x for x in range(10)]


@pytest.mark.parametrize("shape", [(64,), (7,), (9, 3)])
def test_037_map_of_an_array_is_an_array(view, lview, shape):
    array = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    for some in (view, lview):
        mapped = some.map_sync(lambda x: x, array)
        assert isinstance(mapped, np.ndarray)
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
        np.testing.assert_array_equal(some.map_sync(np.sqrt, array), np.sqrt(array))


# Functions of a number, and whether their values over an array make an array.
VALUES = {
    "lists of different lengths": (lambda n: [0] * int(n), False),
    "lists of one length": (lambda n: [0, 1], False),
    "arrays of different lengths": (lambda n: np.zeros(int(n)), False),
    "arrays of one length": (lambda n: np.full(2, n), True),
    "arrays of different dtypes": (lambda n: np.zeros(2, "i4" if n == 1 else "i8"), False),
    "masked arrays": (lambda n: np.ma.masked_equal([1, 2], n), False),
    "arrays of lists": (lambda n: np.array([[1], [2, 3]], dtype=object), True),
    "tuples": (lambda n: (int(n), str(n)), False),
    "texts": (lambda n: str(n), False),
    "none": (lambda n: None, False),
    "ints": (lambda n: int(n), True),
    "floats": (lambda n: float(n) or float("nan"), True),
    "complex": (lambda n: complex(n), True),
    "bools": (lambda n: bool(n > 1), True),
    "bools and ints": (lambda n: bool(n) if n == 1 else int(n), False),
    "ints and floats": (lambda n: int(n) if n == 1 else float(n), False),
    "large ints": (lambda n: 10**30 + int(n), False),
    "ints that are none of one type": (lambda n: 2**63 if n == 1 else -1, False),
    "numpy's numbers": (lambda n: np.float32(n), True),
    "numpy's numbers of different types": (
        lambda n: np.float32(n) if n == 1 else np.int64(n),
        False,
    ),
    "numpy's numbers and python's": (lambda n: np.float64(n) if n == 1 else float(n), False),
    "numpy's texts": (lambda n: np.str_("x" * int(n)), True),
    "times": (lambda n: np.datetime64(int(n), "s"), True),
}


@pytest.mark.parametrize("name", VALUES)
def test_037_an_array_of_values_holds_them_as_they_are(view, lview, name):
    function, as_array = VALUES[name]
    items = np.arange(1, 4)
    expected = [function(item) for item in items]
    for some in (view, lview):
        result = some.map_async(function, items)
        assert concurrent.futures.wait([result], 60).done == {result}
        values = result.get()
        assert type(values) is (np.ndarray if as_array else list)
        assert len(values) == len(expected)
        for value, wanted in zip(values.tolist() if as_array else values, expected):
            plain = (
                wanted.tolist()
                if as_array and isinstance(wanted, (np.ndarray, np.generic))
                else wanted
            )
            assert type(value) is type(plain)
            np.testing.assert_equal(value, plain)


@pytest.mark.parametrize(
    "items", [np.array(["a", "bcd", ""]), np.array([b"x", b"yz"]), np.array([(1, 2.5)], "i4,f8")]
)
def test_037_map_of_an_array_of_texts_or_records_is_an_array(view, lview, items):
    for some in (view, lview):
        mapped = some.map_sync(lambda x: x, items)
        assert mapped.dtype == items.dtype
        assert mapped.tolist() == items.tolist()


def test_037_series_and_data_frames_are_mapped_as_they_are_iterated(view, lview):
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([1, 2, 3], index=[1.5, 0.5, 2.5])
    for some in (view, lview):
        assert some.map_sync(square, series) == [1, 4, 9]
        assert some.map_sync(str, pandas.DataFrame({"name": [1, 2, 3], "size": 4})) == [
            "name",
            "size",
        ]


def test_038_balanced_map_takes_iterators(lview):
    assert lview.map_sync(square, iter(range(50))) == [x * x for x in range(50)]
    assert lview.map_sync(square, (x for x in range(50)), chunksize=7) == [x * x for x in range(50)]
    assert lview.map_sync(square, range(5000)) == [x * x for x in range(5000)]
    assert lview.map_sync(square, np.arange(5)).tolist() == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("lengths", [(5, 20), (20, 5), (0, 5), (5, 0)])
def test_038_the_shortest_sequence_rules(view, lview, lengths):
    short, long = (list(range(length)) for length in lengths)
    expected = list(map(lambda x, y: (x, y), short, long))  # noqa: C417
    for some in (view, lview):
        for first, second in (
            (short, long),
            (iter(short), long),
            (short, iter(long)),
            (iter(short), iter(long)),
        ):
            result = some.map_async(lambda x, y: (x, y), first, second)
            assert result.get() == expected
        short, long = list(short), list(long)


def test_038_chunks_may_be_chosen(lview):
    for chunksize in (1, 3, 100, None, "auto"):
        result = lview.map_async(square, range(20), chunksize=chunksize)
        assert result.get() == [x * x for x in range(20)]
        assert len(result) == 20
    assert len(lview.map_async(square, range(20), chunksize=5).msg_ids) == 4
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="chunk"):
            lview.map_async(square, range(20), chunksize=wrong)
    for wrong in (1.5, True, "five"):
        with pytest.raises(TypeError, match="chunk"):
            lview.map_async(square, range(20), chunksize=wrong)


def test_039_balanced_map_gives_results_in_order_as_they_come(rc, lview):
    rc[:].execute("import threading", block=True)

    def wait_for(x):
        if x == 3:
            time.sleep(60)
        return x

    result = lview.map_async(wait_for, range(4), chunksize=1)
    values = iter(result)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    assert not result.done()
    assert result.cancel()
    with pytest.raises(furlong.TaskCancelled):
        next(values)


def test_039_unordered_gives_what_is_done_first(lview):
    def slow_first(x):
        if x == 0:
            time.sleep(1)
        return x

    result = lview.map_async(slow_first, range(20), chunksize=1, ordered=False)
    values = list(result)
    assert values != list(range(20))
    assert values[-1] == 0
    assert collections.Counter(values) == collections.Counter(range(20))
    assert result.get() == list(range(20))
    assert list(result) == values


def test_039_iterating_twice_gives_the_same(lview):
    result = lview.map_async(square, range(30))
    assert list(result) == list(result) == [x * x for x in range(30)]


class Counted:
    """Items that say how many of them were taken."""

    def __init__(self, end=math.inf):
        self.taken = 0
        self.end = end

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken >= self.end:
            raise StopIteration
        self.taken += 1
        return self.taken - 1


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("bound", [1, 3, 10, "auto"])
def test_040_imap_takes_items_as_values_are_asked_for(rc, lview, ordered, bound):
    source = Counted()
    values = lview.imap(square, source, max_outstanding=bound, ordered=ordered)
    assert source.taken == 0
    before = len(rc.history)
    limit = 4 if bound == "auto" else bound
    for given_out in range(20):
        next(values)
        # On a busy machine a value may be slow to come: then more are taken meanwhile.
        most = limit + 1 + (lazy_maps.UNREAD_MAX if ordered and limit > 1 else 0)
        assert limit <= source.taken - given_out <= most
        assert len(rc.history) - before == source.taken
    values.cancel()


def test_040_imap_without_a_bound_takes_all(lview):
    source = Counted(50)
    values = lview.imap(square, source, max_outstanding=0)
    assert next(values) == 0
    assert source.taken == 50
    assert list(values) == [x * x for x in range(1, 50)]
    for wrong in (-1, 1.5, "many"):
        with pytest.raises(ValueError, match="max_outstanding"):
            lview.imap(square, [1], max_outstanding=wrong)


@pytest.mark.parametrize("ordered", [True, False])
def test_041_imap_over_endless_items_can_be_cancelled(rc, lview, ordered):
    source = Counted()
    values = lview.imap(square, source, ordered=ordered)
    found = [next(values) for _ in range(10)]
    assert set(found) <= {x * x for x in range(20)}
    values.cancel()
    taken = source.taken
    assert list(values) == []
    assert source.taken == taken
    assert rc.wait(timeout=60)
    assert not rc.outstanding


def test_041_cancel_ends_what_runs(rc, lview):
    values = lview.imap(lambda x: time.sleep(60 * (x > 0)), itertools.count(), ordered=False)
    assert next(values) is None
    values.cancel()
    assert rc.wait(timeout=60)


def test_042_imap_unordered_gives_quick_ones_first(lview):
    def slow_first(x):
        if x == 0:
            time.sleep(1)
        return x

    values = list(lview.imap(slow_first, range(12), ordered=False, max_outstanding=8))
    assert values[0] != 0
    assert sorted(values) == list(range(12))


def test_042_imap_of_a_direct_view_deals_items_out(view):
    found = list(view.imap(lambda x: (x, engine_id), range(8)))  # noqa: F821
    assert [x for x, _ in found] == list(range(8))
    engines = [engine for _, engine in found]
    assert (engines[:4], set(engines)) == ([0, 1, 2, 3], {0, 1, 2, 3})
    view.use_pickle()
    view.push({"offset": 5}, block=True)
    assert list(view.imap(lambda x: x + offset, range(5))) == [5, 6, 7, 8, 9]  # noqa: F821


def fails_at_3(x):
    if x == 3:
        raise ValueError("three")
    return x


def test_043_errors_in_the_places_of_values(view, lview):
    for some in (view, lview):
        for options in ({}, {"chunksize": 3} if some is lview else {}):
            result = some.map_async(fails_at_3, range(10), return_exceptions=True, **options)
            values = result.get()
            assert [x for x in values if not isinstance(x, Exception)] == [
                0,
                1,
                2,
                4,
                5,
                6,
                7,
                8,
                9,
            ]
            assert isinstance(values[3], RemoteError)
            assert isinstance(values[3], ValueError)
            assert values[3].ename == "ValueError"
            assert values[3].evalue == "three"
            assert values[3].engine_info["engine_id"] in (0, 1, 2, 3)
            assert "fails_at_3" in values[3].traceback
            listed = list(result)
            assert [str(x) for x in listed] == [str(x) for x in values]
            assert result.successful()


def test_errors_name_the_real_engine_whatever_is_pushed(rc, view, lview):
    view.push({"engine_id": 7}, block=True)
    uuids = {engine["id"]: bytes(engine["uuid"]).hex() for engine in rc.status()["engines"]}
    for some in (view, lview, rc[2]):
        result = some.map(lambda x: 1 // x, [0] * 4, return_exceptions=True)
        placed = result.get()
        assert [type(error).__name__ for error in placed] == ["ZeroDivisionError"] * 4
        engines = {error.engine_info["engine_id"] for error in placed}
        assert engines == set(result.engine_id) and engines <= set(rc.ids)
        for error in placed:
            engine = error.engine_info["engine_id"]
            assert error.engine_info == {
                "engine_id": engine,
                "engine_uuid": uuids[engine],
                "method": "map",
            }
            assert str(error).startswith(f"[{engine}:map] ZeroDivisionError")
    with pytest.raises(ZeroDivisionError, match=r"^\[2:map\]"):
        rc[2].map_sync(lambda x: 1 // x, [0])
    with pytest.raises(ZeroDivisionError, match=r"^\[2:apply\]"):
        rc[2].apply_sync(lambda: 1 / 0)


def test_043_errors_in_the_places_of_values_of_a_lazy_map(view, lview):
    for some in (view, lview):
        values = list(some.imap(fails_at_3, range(10), return_exceptions=True))
        assert [x for x in values if not isinstance(x, Exception)] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert isinstance(values[3], ValueError)
        assert values[3].engine_info["engine_id"] in (0, 1, 2, 3)


def test_043_a_lazy_map_raises_where_the_error_is(lview):
    values = lview.imap(fails_at_3, range(10))
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(values)
    assert list(values) == [4, 5, 6, 7, 8, 9]


def test_043_arrays_with_errors_are_lists(view):
    values = view.map_sync(fails_at_3, np.arange(5), return_exceptions=True)
    assert [int(x) for x in values if not isinstance(x, Exception)] == [0, 1, 2, 4]
    assert isinstance(values[3], ValueError)


def test_044_iterating_raises_the_error_each_time(view, lview):
    for result in (
        view.map_async(fails_at_3, range(8)),
        lview.map_async(fails_at_3, range(8), chunksize=1),
    ):
        for _ in range(3):
            found = []
            with pytest.raises(ValueError, match="three"):
                for value in result:
                    found.append(value)
            assert found == [0, 1, 2][: len(found)]
        with pytest.raises(RemoteError):
            result.get()
        with pytest.raises(ValueError, match="three"):
            list(result)


def test_044_a_failed_map_raises_what_it_can(view, lview):
    for some in (view, lview):
        with pytest.raises(ValueError, match="three"):
            some.map_sync(fails_at_3, [3])
        with pytest.raises(ValueError, match="three"):
            some.map_sync(fails_at_3, range(10))
    with pytest.raises(CompositeError) as caught:
        view.map_sync(fails_at_3, [3, 3, 3, 3])
    assert [error.engine_info["engine_id"] for error in caught.value.errors] == [0, 1, 2, 3]
    with pytest.raises(CompositeError) as caught:
        lview.map_sync(fails_at_3, [3, 3, 3, 3], chunksize=1)
    assert len(caught.value.errors) == 4


def test_044_a_generator_that_raises_is_the_callers(view, lview):
    def items():
        yield 1
        raise RuntimeError("no more")

    for some in (view, lview):
        with pytest.raises(RuntimeError, match="no more"):
            some.map_async(square, items())
    values = lview.imap(square, items(), max_outstanding=1)
    assert next(values) == 1
    with pytest.raises(RuntimeError, match="no more"):
        next(values)


def test_a_map_takes_what_has_places_but_no_slices(view, lview):
    for some in (view, lview):
        assert some.map_sync(square, collections.deque(range(10))) == [x * x for x in range(10)]
        assert some.map_sync(square, collections.UserDict.fromkeys(range(10))) == [
            x * x for x in range(10)
        ]


def test_044_items_that_cannot_be_pickled_are_told(lview):
    with pytest.raises(furlong.errors.PicklingError, match="generator"):
        lview.map_async(square, [1, (x for x in ())]).get(60)


def test_a_balanced_map_can_be_cancelled(rc, lview):
    result = lview.map_async(lambda x: time.sleep(60), range(10_000))
    assert not result.done()
    assert result.cancel()
    assert result.cancelled()
    with pytest.raises(furlong.TaskCancelled):
        result.get(60)
    assert rc.wait(timeout=60)
    assert len(rc.history) < 1000


def test_numbers_of_items_are_what_numpy_has_too(lview):
    assert lview.map_sync(square, range(10), chunksize=np.int64(3)) == [x * x for x in range(10)]
    assert list(lview.imap(square, range(10), max_outstanding=np.int64(3))) == [
        x * x for x in range(10)
    ]
    for wrong in (2.0, True, "b"):
        with pytest.raises(
            TypeError, match=f"chunksize is a number of items, or 'auto', not {wrong!r}"
        ):
            lview.map_async(square, [1], chunksize=wrong)
        with pytest.raises(
            ValueError, match=f"max_outstanding is a number of items, .* not {wrong!r}"
        ):
            lview.imap(square, [1], max_outstanding=wrong)
    with pytest.raises(ValueError, match="a chunk has at least one item, not 0"):
        lview.map_async(square, [1], chunksize=np.int64(0))


def test_the_result_of_a_map_of_nothing_has_what_others_have(view, lview):
    for some in (view, lview):
        result = some.map_async(square, [])
        assert result.owner
        with pytest.raises(
            AttributeError, match="'AsyncMapResult' object has no attribute 'nothing'"
        ):
            result.nothing()


def test_a_map_that_has_ended_is_cancelled_no_more(view, lview):
    for some in (view, lview):
        for items in (range(10), ()):
            result = some.map_async(square, items)
            assert result.wait(60)
            assert not result.cancel()
            assert not result.cancelled()
            assert result.get(60) == [x * x for x in items]
            assert result.successful()


def test_a_map_calls_back_and_can_be_awaited(view, lview):
    for some in (view, lview):
        told = threading.Event()
        result = some.map_async(square, range(100))
        result.add_done_callback(lambda result, told=told: told.set())
        assert told.wait(60)

        async def main(some=some):
            return await asyncio.gather(*[some.map_async(square, range(n)) for n in range(5)])

        assert asyncio.run(main()) == [[x * x for x in range(n)] for n in range(5)]


def test_a_map_waits_for_its_first_error(lview):
    def f(x):
        if x == 1:
            raise ValueError
        time.sleep(60)

    result = lview.map_async(f, range(3), chunksize=1)
    done, pending = result.wait(60, return_when="FIRST_EXCEPTION")
    assert len(done) == 1
    assert len(pending) == 2
    with pytest.raises(ValueError):
        done.pop().get()
    result.cancel()


def test_maps_within_maps_are_lists_of_lists(lview):
    lists = lview.map_sync(lambda x: list(map(lambda y: y * x, range(3))), range(3))  # noqa: C417
    assert lists == [[0, 0, 0], [0, 1, 2], [0, 2, 4]]


def test_large_maps(lview, view):
    count = 100_000
    for some in (lview, view):
        assert sum(some.map_sync(square, range(count))) == sum(x * x for x in range(count))


# Against the plain result.


@given(seq=items, count=st.integers(1, 12), dist=dists)
def test_020_collect_undoes_deal(seq, count, dist):
    for some in (seq, tuple(seq)):
        parts = deal(some, count, dist)
        assert len(parts) == count
        sizes = [len(part) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1
        assert all(type(part) is type(some) for part in parts)
        assert collect(parts, dist) == seq


@given(
    length=st.integers(0, 40),
    rest=st.lists(st.integers(1, 3), max_size=2),
    count=st.integers(1, 12),
    dist=dists,
    dtype=st.sampled_from(["i1", "f8", "U3", "c16", "O"]),
)
def test_020_collect_undoes_deal_of_arrays(length, rest, count, dist, dtype):
    shape = (length, *rest)
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    whole = collect(deal(array, count, dist), dist)
    assert whole.dtype == array.dtype
    assert whole.shape == array.shape
    assert (whole == array).all()


@pytest.mark.parametrize("dist", ["b", "r"])
def test_020_collected_arrays_are_as_they_were(dist):
    first, second = np.array([1, 2]), np.array([3.5, 4.5])
    expected = [1, 2, 3.5, 4.5] if dist == "b" else [1, 3.5, 2, 4.5]
    assert [(type(item), item) for item in collect([first, second], dist)] == [
        (np.float64 if item in second else np.int64, item) for item in expected
    ]
    assert collect([[1, 2], first], dist) == ([1, 2, 1, 2] if dist == "b" else [1, 1, 2, 2])
    # An empty one says nothing of the others.
    assert collect([first, np.array([])], dist).dtype == first.dtype
    assert collect([first, np.int64(3)], dist).tolist() == ([1, 2, 3] if dist == "b" else [1, 3, 2])
    rows = collect([np.zeros((1, 2)), np.ones((1, 3))], dist)
    assert [row.tolist() for row in rows] == [[0, 0], [1, 1, 1]]
    masked = collect([np.ma.masked_equal([1, 2], 2), np.ma.array([3])], dist)
    assert masked.tolist() == ([1, None, 3] if dist == "b" else [1, 3, None])


@on_cluster
@given(seq=items, dist=dists)
def test_020_any_list_is_gathered_as_it_was_scattered(view, seq, dist):
    view.scatter("x", seq, dist=dist)
    assert view.gather("x", dist=dist).get() == seq


@on_cluster
@given(
    columns=st.lists(st.lists(st.integers(), max_size=20), min_size=1, max_size=3),
    chunksize=st.integers(1, 9),
)
def test_038_any_map_is_map(view, lview, columns, chunksize):
    def f(*args):
        return args

    expected = list(map(f, *columns))
    assert view.map_sync(f, *columns) == expected
    assert lview.map_sync(f, *columns, chunksize=chunksize) == expected
    assert list(lview.imap(f, *columns)) == expected
    assert sorted(lview.imap(f, *columns, ordered=False, max_outstanding=chunksize)) == sorted(
        expected
    )


bounds = st.none() | st.integers(-6, 6)


@on_cluster
@given(start=bounds, stop=bounds, step=st.none() | st.integers(-3, 3).filter(bool))
def test_003_any_slice_is_the_slice_of_the_ids(rc, start, stop, step):
    chosen = slice(start, stop, step)
    assert rc[chosen].targets == rc.ids[chosen]
    ids = rc.ids[chosen]
    if ids:
        assert rc[chosen].apply_sync(lambda: engine_id) == ids  # noqa: F821


@on_cluster
@given(index=st.integers(-6, 6))
def test_003_any_index_is_that_engine_or_an_error(rc, index):
    if -4 <= index < 4:
        assert rc[index].targets == rc.ids[index]
    else:
        with pytest.raises(IndexError):
            rc[index]


def test_chunks_of_large_items_or_values_are_small(lview):
    arrays = [np.zeros(1 << 20, dtype="u1") for _ in range(40)]
    for result in (
        lview.map_async(len, arrays),
        lview.map_async(lambda n: bytes(1 << 20), range(40)),
    ):
        result.get()
        assert sum(len(part.value) for part in result._parts) == 40
        assert max(len(part.value) for part in result._parts) <= 4


def test_what_fails_when_values_are_put_together_is_the_results_error(view, lview):
    class Wrong(Exception):
        pass

    def put(values):
        raise Wrong(f"of {len(values)}")

    for some in (view, lview):
        result = some.map_async(square, range(3), **({"chunksize": 1} if some is lview else {}))
        result._collect_values = put
        told = threading.Event()
        result.add_done_callback(lambda result, told=told: told.set())
        assert told.wait(60)
        assert concurrent.futures.wait([result], 60).done == {result}

        async def main(result=result):
            return await result

        asks = (
            result.get,
            result.result,
            lambda run=main: asyncio.run(run()),
            lambda r=result: r.get(0, True),
        )
        for ask in asks:
            with pytest.raises(Wrong, match="of 3"):
                ask()
        assert isinstance(result.exception(), Wrong)
        assert not result.successful()
        assert "failed" in repr(result)


def told(some, *sequences, **options):
    """Return the message of a map about items that cannot be pickled."""
    return told_by(some.map_sync, *sequences, **options)


def told_by(way, *sequences, **options):
    """Return the same of any kind of map."""
    with pytest.raises(furlong.errors.PicklingError) as caught:
        list(way(lambda *_: 1, *sequences, **options))
    text = str(caught.value)
    assert text.startswith("the items cannot be pickled: ")
    return text.removeprefix("the items cannot be pickled: ")


def test_044_the_item_that_cannot_be_pickled_is_named(view, lview):
    lock = threading.Lock()
    many = [*range(50), lock, *range(51, 100)]
    for some in (view, lview):
        assert told(some, [1, 2, lock, 4]) == "items[2] is a _thread.lock"
        assert told(some, many) == "items[50] is a _thread.lock"
        assert told(some, tuple(many)) == "items[50] is a _thread.lock"
        assert told(some, np.array(many)) == "items[50] is a _thread.lock"
        assert told(some, range(100), many) == "items[50] is a _thread.lock, of sequences[1]"
        assert told(some, [1, {"a": [2, lock]}]) == "items[1]['a'][1] is a _thread.lock"
    assert told(lview, many, chunksize=10) == "items[50] is a _thread.lock"
    assert told(lview, many, chunksize=100) == "items[50] is a _thread.lock"
    long = [*range(30_000), lock]
    assert told(lview, long, chunksize=50_000) == "items[30000] is a _thread.lock"


def test_044_a_lazy_map_names_the_item_as_others_do(view, lview):
    lock = threading.Lock()
    for some in (view, lview):
        assert told_by(some.imap, [1, 2, lock, 4]) == "items[2] is a _thread.lock"
        assert told_by(some.imap, range(9), [*range(8), [{"a": lock}]], max_outstanding=1) == (
            "items[8][0]['a'] is a _thread.lock, of sequences[1]"
        )
        assert told_by(some.executor.map, (x for x in (1, lock))) == "items[1] is a _thread.lock"
        with pytest.raises(
            furlong.errors.PicklingError, match="the function .* cannot be pickled: .*lock"
        ):
            next(some.imap(lambda x: lock, [1]))


class Unsent(collections.UserList):
    """A sequence that cannot be pickled, whatever it holds."""

    def __reduce__(self):
        raise TypeError("stays here")


def test_044_a_sequence_that_cannot_be_pickled_is_named(view, lview):
    for some in (view, lview):
        assert told(some, Unsent(range(10))).endswith(f"is a {__name__}.Unsent")


def test_044_items_that_cannot_be_pickled_are_told_where_errors_are_values(lview):
    with pytest.raises(furlong.errors.PicklingError, match="generator"):
        lview.map_async(fails_at_3, [3, (x for x in ())], return_exceptions=True, chunksize=1).get(
            60
        )


def test_tasks_of_a_map_leave_the_collector_little_to_visit(lview):
    """Each container counts towards the next collection, which visits every value that has come."""
    lview.map_sync(square, range(4))
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        result = lview.map_async(square, range(400), chunksize=4)
        result.get()
        made = gc.get_count()[0] - before
    finally:
        gc.enable()
    assert made / len(result.msg_ids) < 11
