"""Each call has its arguments, and the object of a bound method, for itself; a value is what it was when it came.

How many calls share a task, and what ran on the engine before, does not show.
"""

from __future__ import annotations

import collections
import functools
import gc
import operator
import pickle
import random
import threading
import types
import weakref
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import eventually

import furlong
from furlong.pickling import fresh_copies
from furlong.pickling.arguments import dumps_items

COUNT = 300


@pytest.fixture(params=["balanced", "chunks of 50", "direct", "executor"])
def mapped(rc, request):
    """Return a map, as each kind of view has it; tasks have many items in all of them."""
    return {
        "balanced": lambda f, *items: rc.load_balanced_view().map_sync(f, *items),
        "chunks of 50": lambda f, *items: rc.load_balanced_view().map_sync(f, *items, chunksize=50),
        "direct": lambda f, *items: rc[:].map_sync(f, *items),
        "executor": lambda f, *items: list(rc.executor().map(f, *items, chunksize=50)),
    }[request.param]


# Arguments.


class Job:
    """An item."""

    def __init__(self, number: int, options: dict[str, Any]) -> None:
        self.number = number
        self.options = options


def popped(number, options):
    return options.pop("scale", 0) * number


def test_items_that_share_a_value_have_each_their_own(mapped):
    options = {"scale": 2}
    wanted = [2 * x for x in range(COUNT)]
    assert mapped(popped, range(COUNT), [options] * COUNT) == wanted
    assert mapped(lambda pair: popped(*pair), [(x, options) for x in range(COUNT)]) == wanted
    assert (
        mapped(
            lambda pair: popped(pair["x"], *pair["y"]),
            [{"x": x, "y": (options,)} for x in range(COUNT)],
        )
        == wanted
    )
    assert (
        mapped(lambda job: popped(job.number, job.options), [Job(x, options) for x in range(COUNT)])
        == wanted
    )
    assert (
        mapped(
            lambda one: popped(one.x, one.y),
            [SimpleNamespace(x=x, y=options) for x in range(COUNT)],
        )
        == wanted
    )
    assert options == {"scale": 2}


def test_items_of_any_kind_have_each_their_own(mapped):
    def emptied(value):
        count = len(value)
        value.clear()
        return count

    for shared in (
        [1, 2],
        {1, 2},
        {1: 2, 2: 1},
        bytearray(b"12"),
        collections.deque([1, 2]),
        collections.Counter("ab"),
    ):
        assert mapped(emptied, [shared] * COUNT) == [2] * COUNT
    objects = np.empty(COUNT, dtype=object)
    objects[:] = [[1, 2]] * COUNT
    assert list(mapped(emptied, [objects[0]] * COUNT)) == [2] * COUNT
    shared = [1, 2]
    for at in range(COUNT):
        objects[at] = shared
    assert list(mapped(emptied, objects)) == [2] * COUNT


@pytest.mark.parametrize("length", [3, 5000])
def test_arrays_that_items_share_can_be_changed_by_each(mapped, length):
    def doubled(x, y):
        x += 1
        return float(x.sum()), x is y

    ones = np.ones(length)
    assert mapped(doubled, [ones] * COUNT, [ones] * COUNT) == [(2.0 * length, True)] * COUNT
    assert (
        mapped(lambda pair: doubled(*pair), [(ones, ones[:])] * COUNT)
        == [(2.0 * length, False)] * COUNT
    )
    assert ones.sum() == length


def test_neighbours_of_a_window_have_each_their_own(mapped):
    rows = [[x] for x in range(COUNT + 1)]

    def moved(one, other):
        other.append(one.pop())
        return len(one), len(other)

    assert mapped(moved, rows[:-1], rows[1:]) == [(0, 2)] * COUNT
    assert mapped(lambda one, other: one is other, rows, rows) == [True] * (COUNT + 1)


def test_definitions_within_such_items_are_one(mapped):
    class Own:
        seen: list[int] = []  # noqa: RUF012

    shared = [Own()]
    items = [(Own, shared, lambda x: x + 1)] * COUNT
    assert (
        mapped(lambda item: (type(item[1].pop()) is item[0], item[2](1)), items)
        == [(True, 2)] * COUNT
    )


def test_what_stands_for_the_engines_own_is_not_copied(rc):
    rc[0].push({"found": []}, block=True)
    here = furlong.Reference("found")
    rc[0].map_sync(lambda found, x: found.append(x[0]), [here] * 3, [[1], [2], [3]])
    assert rc[0].pull("found", block=True) == [1, 2, 3]


def test_an_item_that_cannot_be_pickled_is_named_as_ever(lview):
    shared: list[Any] = []
    with pytest.raises(
        furlong.errors.PicklingError, match=r"items\[1\]\[1\]\[0\] is a _thread.lock"
    ):
        lview.map_sync(len, [(1, shared), (2, [threading.Lock()])], chunksize=2)
    with pytest.raises(
        furlong.errors.PicklingError, match=r"items\[0\]\[2\] is a test_fresh_copies.Fails"
    ) as caught:
        lview.map_sync(len, [(1, shared, Fails()), (2, shared, Fails())], chunksize=2)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Fails:
    """Has no pickle."""

    def __reduce__(self):
        raise ZeroDivisionError


def test_items_that_are_the_same_are_sent_once():
    large, small = np.ones(100_000), {"a": [1] * 1000}
    data, *_ = dumps_items([range(50), [(large, small)] * 50], 0)
    assert sum(memoryview(part).nbytes for part in data) < large.nbytes + 10_000
    # And what has nothing in common goes in one pickle, as it did.
    apart = [[x, [x], {"x": (x, b"x")}, np.ones(2)] for x in range(50)]
    assert fresh_copies.may_share([range(50), apart]) == [False, False]
    assert fresh_copies.may_share([[large] * 50, range(50)]) == [True, False]
    assert fresh_copies.may_share([["a", 1, None, len, int] * 50]) == [False]
    assert fresh_copies.may_share([np.ones((50, 2))]) == [False]
    assert fresh_copies.may_share([[large]]) == [False]


# Values.


def test_a_value_is_what_it_was_when_it_came(mapped):
    kept, buffer, wide = [], np.zeros(2), np.zeros((2, 5000))
    one = SimpleNamespace(x=0)

    def grown(x):
        kept.append(x)
        return kept, len(kept)

    def filled(x):
        buffer[:] = x
        wide[:] = x
        one.x = x
        return x, buffer, {"row": wide[0]}, [wide], one, buffer[1:]

    assert all(len(found) == count for found, count in mapped(grown, range(COUNT)))
    for x, row, named, [whole], found, part in mapped(filled, range(COUNT)):
        assert (
            (row == x).all()
            and (named["row"] == x).all()
            and (whole == x).all()
            and (part == x).all()
        )
        assert found.x == x

    def same(x):
        buffer[:] = x
        return buffer

    assert [float(row[0]) for row in mapped(same, range(COUNT))] == list(range(COUNT))


def test_a_value_that_comes_late_is_what_it_was_as_well(lview):
    kept: list[int] = []

    def sometimes(x):
        kept.append(x)
        return kept if x >= 299 else x

    values = lview.map_sync(sometimes, range(305), chunksize=305)
    assert [len(value) for value in values[299:]] == list(range(300, 306))


def test_values_are_objects_of_their_own(mapped):
    empty: list[int] = []
    values = mapped(lambda x: empty, range(COUNT))
    values[0].append(1)
    assert values[1:] == [[]] * (COUNT - 1)


def test_a_value_that_cannot_be_pickled_fails_alone(lview):
    def locked(x):
        import threading

        return [threading.Lock()] if x == 7 else [x]

    values = lview.map_async(locked, range(20), chunksize=20).get(return_exceptions=True)
    assert isinstance(values.pop(7), TypeError)
    assert values == [[x] for x in range(20) if x != 7]


# Functions.


class Counter:
    """Counts, and can be called."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.seen = np.zeros(3)

    def add(self, x: int) -> int:
        self.count += x
        self.seen += x
        return self.count

    def __call__(self, x: int) -> int:
        return self.add(x)

    @classmethod
    def made(cls, x: int) -> int:
        return cls(x).count


def test_a_bound_method_takes_its_object_along_as_it_is_here(rc, view, mapped):
    counter = Counter()
    for function in (
        counter.add,
        counter,
        functools.partial(counter.add),
        functools.partial(counter, 1),
    ):
        arguments = [] if isinstance(function, functools.partial) and function.args else [1]
        assert [view.apply_sync(function, *arguments) for _ in range(3)] == [[1] * 4] * 3
        assert [rc.executor().submit(function, *arguments).result() for _ in range(3)] == [1] * 3
    assert mapped(counter.add, [1] * COUNT) == [1] * COUNT
    assert mapped(counter, [1] * COUNT) == [1] * COUNT
    counter.add(10)
    assert view.apply_sync(counter.add, 1) == [11] * 4
    assert mapped(counter, [1] * COUNT) == [11] * COUNT
    assert counter.count == 10
    assert mapped(Counter.made, [1] * COUNT) == [1] * COUNT


def test_so_do_methods_of_objects_in_c(rc, mapped):
    def first():
        return random.Random(5).random()

    wanted = first()
    assert [rc[0].apply_sync(random.Random(5).random) for _ in range(3)] == [wanted] * 3
    assert rc[0].apply_sync(np.random.default_rng(5).normal) == rc[0].apply_sync(
        np.random.default_rng(5).normal
    )
    assert mapped([1, 2].__add__, [[x] for x in range(COUNT)]) == [[1, 2, x] for x in range(COUNT)]
    assert mapped([0].pop, [0] * COUNT) == [0] * COUNT
    assert mapped(operator.itemgetter(0), [(x,) for x in range(COUNT)]) == list(range(COUNT))


def test_methods_by_other_names_are_found(rc, view):
    class Odd:
        def __hidden(self, x):
            return self, x

        hidden = __hidden
        named = lambda self, x: 2 * x  # noqa: E731

        def public(self, x):
            return x

    odd = Odd()
    odd.own = functools.partial(pow, 2).__call__
    Odd.patched = lambda self, x: 3 * x
    assert rc[0].apply_sync(odd.hidden, 1)[1] == 1
    assert rc[0].apply_sync(odd.named, 2) == 4
    assert rc[0].apply_sync(odd.patched, 2) == 6
    assert rc[0].apply_sync(lambda f: f(2), odd.patched) == 6
    assert rc[0].map_sync(odd.public, [1, 2]) == [1, 2]
    fraction = Fraction(1, 3)
    assert rc[0].apply_sync(fraction.limit_denominator, 5) == fraction
    assert rc[0].apply_sync(types.MethodType(pow, 2), 3) == 8


def test_what_only_names_code_is_not_made_anew():
    for function in (
        len,
        int,
        Counter.made,
        Counter,
        math_like,
        functools.partial(pow, 2),
        "".join,
        np.sum,
    ):
        assert not fresh_copies.holds_object(function), function
    for function in (Counter().add, Counter(), [].append, functools.partial(Counter().add, 1)):
        assert fresh_copies.holds_object(function), function


def math_like(x: int) -> int:
    return x


def test_a_method_sees_the_engines_names(view):
    class Scaled:
        def __init__(self, by):
            self.by = by

        def run(self, x):
            return self.by * x * engine_id  # noqa: F821 - the engine has it

    assert view.apply_sync(Scaled(2).run, 3) == [0, 6, 12, 18]


def test_an_object_that_cannot_be_pickled_is_named_as_ever(view):
    counter = Counter()
    counter.lock = threading.Lock()
    with pytest.raises(
        furlong.errors.PicklingError, match=r"the function Counter.add cannot be pickled: .*lock"
    ):
        view.apply_async(counter.add, 1)


def test_nothing_here_holds_the_object_of_a_method(rc):
    counter = Counter()
    gone = weakref.ref(counter)
    result = rc[0].apply_async(counter.add, 1)
    items = [[counter], [counter]]
    mapped = rc.load_balanced_view().map_async(len, items)
    del counter, items
    assert result.get(60) == 1 and mapped.get(60) == [1, 1]
    del mapped  # a map has its items
    gc.collect(0)
    eventually(lambda: gone() is None)


def test_a_large_object_of_a_method_is_pickled_beside(rc):
    counter = Counter()
    counter.seen = np.ones(100_000)
    assert rc[0].apply_sync(counter.add, 1) == 1
    assert rc[0].map_sync(counter.add, [1] * 10) == [1] * 10
    assert len(pickle.dumps(counter)) > 100_000
