"""Functions, arguments and results between client and engine: by value, beside the pickle, and what cannot."""

import abc
import dataclasses
import enum
import functools
import importlib
import io
import itertools
import operator
import sys
import threading
import types
import typing
import warnings

import numpy as np
import pandas as pd
import pytest

import furlong
from furlong import Reference, RemoteError, errors
from furlong.pickling.arguments import DATA_ONLY, OUT_OF_BAND_BYTES_MIN, dumps
from furlong.pickling.functions import function_of

BEFORE = 5


def doubled(x):
    return 2 * x


def shadowed(x):
    return doubled(x) + BEFORE


@dataclasses.dataclass
class Point:
    """A data class, which goes by value."""

    x: int
    y: list = dataclasses.field(default_factory=list)

    def norm(self):
        return doubled(self.x)


class Shape(abc.ABC):
    """An abstract class."""

    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    """A class with all kinds of methods."""

    sides = 4

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2

    @property
    def name(self):
        return type(self).__name__

    @classmethod
    def unit(cls):
        return cls(1)

    @staticmethod
    def corners():
        return Square.sides


class Color(enum.Enum):
    """An enumeration."""

    RED = 1
    BLUE = "b"


class Slots:
    """A class without a dictionary."""

    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a

    def __eq__(self, other):
        return self.a == other.a

    __hash__ = None


def test_100_closures(rc):
    def outer(n):
        kept = [n]

        def inner(x):
            def innermost(y):
                return x + y + kept[0] + n

            return innermost(1)

        return inner

    assert rc[0].apply_sync(outer(10), 100) == 121
    assert rc[0].apply_sync(lambda f: f(1), outer(1)) == 4
    assert rc[0].apply_sync(lambda: [f(1) for f in [lambda x, n=n: x + n for n in range(3)]]) == [
        1,
        2,
        3,
    ]


def test_100_generators_over_closures(rc):
    def make(n):
        def numbers():
            for i in range(n):
                yield i * n

        return numbers

    assert rc[0].apply_sync(lambda g: list(g()), make(4)) == [0, 4, 8, 12]
    assert rc[0].apply_sync(lambda g: sum(x for x in g() if x > 4), make(4)) == 20


def test_100_partials(rc):
    array = np.arange(10000.0)
    bound = functools.partial(operator.mul, array)
    np.testing.assert_array_equal(rc[0].apply_sync(bound, 2), array * 2)
    nested = functools.partial(
        functools.partial(lambda *args, **named: (args, named), 1, a=2), 3, b=4
    )
    assert rc[0].apply_sync(nested, 5) == ((1, 3, 5), {"a": 2, "b": 4})
    assert rc[0].map_sync(functools.partial(pow, 2), range(5)) == [1, 2, 4, 8, 16]
    assert rc[0].apply_sync(functools.partial(Reference("abs"), -3)) == 3


def test_100_keywords_only_and_annotations(rc):
    def f(
        a: int, /, b: str = "b", *rest: int, c: float, d: "list[int]" = (1,), **more: None
    ) -> bool:  # noqa: RUF013
        return a, b, rest, c, d, more

    assert rc[0].apply_sync(f, 1, c=2.0) == (1, "b", (), 2.0, (1,), {})
    assert rc[0].apply_sync(f, 1, "x", 3, 4, c=2, d=[5], e=None) == (
        1,
        "x",
        (3, 4),
        2,
        [5],
        {"e": None},
    )
    told = rc[0].apply_sync(lambda g: (g.__annotations__["c"], g.__kwdefaults__, g.__name__), f)
    assert told == (float, {"d": (1,)}, "f")


def test_100_classes_of_the_callers_module_go_by_value(rc):
    assert rc[0].apply_sync(lambda p: (p.x, p.norm(), p.y), Point(3, [1])) == (3, 6, [1])
    back = rc[0].apply_sync(lambda: Point(1))
    assert back == Point(1)
    assert isinstance(back, Point)
    assert rc[0].apply_sync(lambda: (Square(3).area(), Square.unit().name, Square.corners())) == (
        9,
        "Square",
        4,
    )
    assert isinstance(rc[0].apply_sync(Square, 2), Square)
    assert rc[0].apply_sync(lambda c: (c.name, c.value), Color.BLUE) == ("BLUE", "b")
    assert rc[0].apply_sync(lambda: Color.RED) is Color.RED
    assert rc[0].apply_sync(lambda s: s.a, Slots([1])) == [1]
    with pytest.raises(TypeError, match="abstract"):
        rc[0].apply_sync(Shape)


def test_100_classes_of_functions_go_by_value(rc):
    @dataclasses.dataclass(frozen=True, order=True)
    class Local:
        x: int

    class Typed(typing.NamedTuple):
        a: int
        b: str = "b"

    assert rc[0].apply_sync(lambda v: v.x, Local(4)) == 4
    back = rc[0].apply_sync(lambda: Local(5))
    assert back == Local(5)
    assert rc[0].apply_sync(lambda t: t._replace(a=2), Typed(1)) == Typed(2)
    bound = Square(5).area
    assert rc[0].apply_sync(bound) == 25
    assert rc[0].apply_sync(Square.unit).side == 1
    assert rc[0].apply_sync(type("Made", (), {"f": lambda self: 7})().f) == 7


def test_100_classes_that_their_modules_do_not_have_come_back_as_themselves(rc):
    made = dataclasses.make_dataclass("Made", [("x", int)])
    made.__module__ = "types"  # as before Python 3.12
    Named = types.new_class("Named")  # noqa: N806
    Named.__module__ = "types"
    for cls, arguments in ((made, (1,)), (Named, ())):
        cls.__qualname__ = cls.__name__
        assert type(rc[0].apply_sync(lambda cls=cls, arguments=arguments: cls(*arguments))) is cls
        assert type(rc[0].apply_sync(lambda x: x, cls(*arguments))) is cls
        assert rc[0].apply_sync(lambda x, cls: type(x) is cls, cls(*arguments), cls)


def test_100_decorated_and_cached_functions(rc):
    def twice(f):
        @functools.wraps(f)
        def inner(*args):
            return f(f(*args))

        return inner

    @twice
    def inc(x):
        return x + 1

    assert rc[0].apply_sync(inc, 1) == 3

    class Callable:
        def __init__(self, n):
            self.n = n

        def __call__(self, x):
            return x * self.n

    assert rc[0].apply_sync(Callable(3), 4) == 12
    assert rc[0].map_sync(Callable(3), [1, 2]) == [3, 6]
    assert rc[0].apply_sync(operator.itemgetter(1), [1, 2]) == 2
    assert rc[0].apply_sync(str.upper, "a") == "A"
    assert rc[0].apply_sync("abc".upper) == "ABC"
    assert rc[0].apply_sync(np.add, 1, 2) == 3


def test_100_an_edited_function_is_sent_again(rc, lview):
    scope: dict = {"__name__": "__main__"}
    for n in range(5):
        exec(f"def f(x):\n    return x + {n}", scope)
        assert rc[0].apply_sync(scope["f"], 1) == 1 + n
        assert lview.map_sync(scope["f"], [1, 2]) == [1 + n, 2 + n]

    def g(x, y=1):
        return x + y

    assert rc[0].apply_sync(g, 1) == 2
    g.__defaults__ = (5,)
    assert rc[0].apply_sync(g, 1) == 6
    g.__code__ = (lambda x, y: x * y).__code__
    assert rc[0].apply_sync(g, 2) == 10
    g.attribute = 3
    assert rc[0].apply_sync(lambda f: f.attribute, g) == 3


def test_100_a_helper_that_changed_is_sent_again(rc, monkeypatch):
    assert rc[0].apply_sync(shadowed, 1) == 7
    monkeypatch.setattr(sys.modules[__name__], "doubled", lambda x: 100 * x)
    assert rc[0].apply_sync(shadowed, 1) == 105
    monkeypatch.setattr(sys.modules[__name__], "BEFORE", 6)
    assert rc[0].apply_sync(shadowed, 1) == 106
    counter = itertools.count()

    def closed():
        return n

    for n in range(3):
        assert rc[0].apply_sync(closed) == n
    del counter


def test_100_functions_keep_nothing_of_other_calls(rc):
    def counts(seen=[]):  # noqa: B006
        seen.append(1)
        return len(seen)

    assert [rc[0].apply_sync(counts) for _ in range(3)][0] == 1


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a maker of a module that lies beside the user's script."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        if name in sys.modules:
            return importlib.reload(sys.modules[name])
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
        return sys.modules[name]

    return make


def test_100_own_modules_go_by_value_and_edits_arrive(rc, lview, module):
    own = module(
        "own_helpers",
        "SCALE = 2\ndef inner(x):\n    return x * SCALE\ndef f(x):\n    return inner(x) + 1\n",
    )
    assert rc[0].apply_sync(own.f, 3) == 7
    assert lview.map_sync(own.f, [1, 2]) == [3, 5]
    assert rc[0].apply_sync(lambda x: own.f(x), 4) == 9
    own = module(
        "own_helpers", "def f(x):\n    return [x]\nclass C:\n    kind = 'edited, and longer'\n"
    )
    assert rc[0].apply_sync(own.f, 3) == [3]
    assert lview.map_sync(own.f, [1, 2]) == [[1], [2]]
    assert rc[0].apply_sync(lambda: own.C.kind) == "edited, and longer"
    back = rc[0].apply_sync(lambda c: c(), own.C)
    assert type(back).__name__ == "C"
    own.SCALE = 3
    assert rc[0].apply_sync(own.f, 3) == [3]


def test_100_modules_of_modules(rc, module):
    deep = module("own_deep", "def base(x):\n    return x + 1\n")
    top = module(
        "own_top",
        "import own_deep\nfrom own_deep import base\ndef f(x):\n    return own_deep.base(base(x))\n",
    )
    assert rc[0].apply_sync(top.f, 1) == 3
    deep.own_top = top  # they hold each other
    assert rc[0].apply_sync(lambda: own_names(top)) == ["f"]
    assert rc[0].apply_sync(top.f, 1) == 3
    module("own_deep", "def base(x):\n    return x + 10\n")
    assert rc[0].apply_sync(lambda: top.own_deep.base(1)) == 11


def own_names(module):
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    ]


def test_100_installed_modules_go_by_name(rc):
    function, has_code = function_of(importlib.import_module("json").dumps)
    assert not has_code
    assert rc[0].apply_sync(importlib.import_module("json").dumps, {"a": 1}) == '{"a": 1}'
    assert rc[0].apply_sync(lambda m: m.__name__, importlib.import_module("json")) == "json"
    assert isinstance(rc[0].apply_sync(lambda: types), types.ModuleType)


# Buffers.


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 100_000])
def test_101_large_buffers_go_beside_the_pickle(size):
    for value in (np.zeros(size, dtype="u1"), memoryview(bytes(size)), bytearray(size)):
        buffers, has_code, _ = dumps(value)
        assert not has_code
        beside = size >= OUT_OF_BAND_BYTES_MIN and not isinstance(value, bytearray)
        if isinstance(value, bytearray):
            beside = len(buffers) == 2
        assert len(buffers) == (2 if beside else 1)
        assert beside or len(buffers[0]) >= size
        if beside:
            assert len(buffers[0]) < 1000
            assert memoryview(buffers[1]).nbytes == size


def test_101_arrays_are_not_copied_on_their_way_out():
    array = np.zeros(1_000_000)
    (_, beside), *_ = dumps(([array], {}))
    array[0] = 5
    assert np.frombuffer(beside)[0] == 5


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_101_memoryviews_come_back_as_such(rc, size):
    data = bytes(range(256)) * (size // 256 + 1)
    view = memoryview(data)[:size]
    back = rc[0].apply_sync(lambda v: (type(v).__name__, v), view)
    assert back[0] == "memoryview"
    assert isinstance(back[1], memoryview)
    assert bytes(back[1]) == bytes(view)
    shaped = memoryview(np.arange(6000, dtype="i4").reshape(20, 300))
    again = rc[0].apply_sync(lambda v: v, shaped)
    assert (again.format, again.shape) == (shaped.format, shaped.shape)
    assert again.tolist() == shaped.tolist()
    strided = memoryview(bytes(range(100)))[::3]
    assert bytes(rc[0].apply_sync(lambda v: v, strided)) == bytes(strided)


@pytest.mark.parametrize("size", [10, 100_000])
def test_101_bytes_stay_bytes_and_bytearrays_stay_such(rc, size):
    for value in (bytes(size), bytearray(size)):
        back = rc[0].apply_sync(lambda v: v, value)
        assert type(back) is type(value)
        assert back == value
    changed = rc[0].apply_sync(lambda v: (v.append(1), v)[1], bytearray(size))
    assert len(changed) == size + 1


SIZES = [0, 1, 100, 511, 512, 513, 5_000, 100_000, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_101_arrays_in_results_can_be_changed(rc, view, lview, size):
    def changed(array):
        assert array.flags.writeable
        array += 1
        return array.sum()

    def part(n):
        return np.ones(size) if 1 // (n % 4 != 3) else None

    ones = functools.partial(np.ones, size)
    view.push({"a": np.ones(size)}, block=True)
    several = {
        "value": [rc[0].apply_sync(ones)],
        "two in one": rc[0].apply_sync(lambda n: (np.ones(n), np.ones(n)), size),
        "each engine": view.apply_sync(ones),
        "map": list(lview.map_sync(np.ones, [size] * 3)),
        "direct map": list(view.map_sync(np.ones, [size] * 3)),
        "pulled": view["a"],
        "gathered": [view.gather("a", block=True)[:size]],
        "beside an error": [
            x
            for x in view.map_sync(part, range(8), return_exceptions=True)
            if isinstance(x, np.ndarray)
        ],
        "returned": [rc[0].apply_sync(lambda a: a, np.ones(size))],
        "by code": [rc[0].apply_sync(lambda n: (lambda: 1, np.ones(n)), size)[1]],
    }
    for what, arrays in several.items():
        assert [changed(array) for array in arrays] == [2 * size] * len(arrays), what


@pytest.mark.parametrize("size", SIZES)
def test_101_arrays_in_arguments_can_be_changed(rc, view, lview, size):
    def changed(array, frame=None):
        array += 1
        if frame is not None:
            frame.iloc[:, 0] += 1
            assert frame.iloc[:, 0].sum() == 2 * size
        return array.sum()

    array = np.ones(size)
    assert rc[0].apply_sync(changed, array, pd.DataFrame({"x": np.ones(size)})) == 2 * size
    assert lview.map_sync(changed, [array, array.copy()]) == [2 * size] * 2
    view.push({"a": array}, block=True)
    assert view.apply_sync(changed, furlong.Reference("a")) == [2 * size] * len(view)
    assert array.sum() == size


def test_101_what_was_read_only_stays_so(rc):
    array = np.ones(5_000)
    array.flags.writeable = False
    assert not rc[0].apply_sync(lambda a: a.flags.writeable, array)
    assert not rc[0].apply_sync(lambda a: a, array).flags.writeable


def test_101_a_changed_result_changes_no_other(rc, view):
    first, second = view.apply_async(np.ones, 10_000), view.apply_async(np.ones, 10_000)
    for array in first.get():
        array[:] = 5
    assert [array.sum() for array in second.get()] == [10_000] * len(view)
    assert first.get()[0][0] == 5

    def publish(n):
        furlong.publish(np.ones(n))

    result = rc[0].apply_async(publish, 10_000)
    result.get()
    result.data[0] = 7
    assert result.data[0] == 1


def test_101_the_flag_writable_says_that_it_does_nothing(rc):
    with pytest.warns(DeprecationWarning, match="can always be changed"):
        rc.load_balanced_view(writable=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.load_balanced_view().set_flags(block=True)


def test_101_thousands_of_buffers(rc):
    arrays = [np.full(600, n) for n in range(5000)]
    back = rc[0].apply_sync(lambda a: a, arrays)
    assert len(back) == 5000
    assert all((one == other).all() for one, other in zip(arrays, back, strict=True))


def test_101_one_array_twice_is_one_array(rc):
    array = np.arange(10_000)
    assert rc[0].apply_sync(lambda a, b: a is b, array, array)
    first, second = rc[0].apply_sync(lambda a: (a, a), array)
    assert first is second


def test_101_frames_go_beside_the_pickle():
    frame = pd.DataFrame({"a": np.arange(100_000.0), "b": np.arange(100_000.0)})
    buffers, *_ = dumps(frame)
    assert len(buffers[0]) < 10_000
    assert sum(memoryview(buffer).nbytes for buffer in buffers[1:]) >= 1_600_000


def test_huge_values(rc):
    assert rc[0].apply_sync(lambda n: n + 1, 7**5000) == 7**5000 + 1
    text = "ä" * 5_000_000
    assert rc[0].apply_sync(lambda t: t, text) == text
    assert rc[0].apply_sync(len, bytes(50_000_000)) == 50_000_000
    assert len(rc[0].apply_sync(bytes, 50_000_000)) == 50_000_000


def test_cycles_and_shared_objects(rc):
    loop: list = [1]
    loop.append(loop)
    back = rc[0].apply_sync(lambda v: v, loop)
    assert back[1] is back
    assert rc[0].apply_sync(lambda v: v[1][1] is v, loop)


# What cannot be pickled.


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), "lock"),
        ({"a": [1, {"b": (x for x in ())}]}, r"'a'.*1.*'b'"),
        (Point(1, [open]), None),
        ([io.StringIO(), sys._getframe()], r"1.*frame"),
        (Point(threading.Lock()), r"x.*lock"),
    ],
)
def test_arguments_that_cannot_be_pickled_are_named(rc, lview, value, path):
    if path is None:
        assert rc[0].apply_sync(lambda p: p.y[0].__name__, value) == "open"
        return
    before = len(rc.history)
    for some in (rc[0], lview):
        with pytest.raises(errors.PicklingError, match=path):
            some.apply_async(id, value)
        with pytest.raises(TypeError):
            some.apply_async(lambda: value)
    assert len(rc.history) == before


def test_arguments_that_are_nested_too_deeply(rc):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(errors.PicklingError, match="deep"):
        rc[0].apply_async(id, deep)


def test_results_that_cannot_be_pickled_are_named(rc):
    def fails():
        import threading

        return {"a": [1, {"b": threading.Lock()}]}

    with pytest.raises(TypeError, match=r"result.*'a'.*1.*'b'.*lock") as caught:
        rc[0].apply_sync(fails)
    assert isinstance(caught.value, RemoteError)
    rc[0].execute("g = (x for x in [1])", block=True)
    with pytest.raises(TypeError, match="generator"):
        rc[0].pull("g", block=True)
    assert rc[0].apply_sync(int) == 0


class Unreadable:
    """Its pickle cannot be loaded here."""

    def __reduce__(self):
        return int, ("not a number",)


def test_results_that_cannot_be_loaded(rc):
    result = rc[0].apply_async(Unreadable)
    with pytest.raises(errors.ResultLost, match="not a number"):
        result.get()
    assert result.status == "error"
    with pytest.raises(ValueError, match="not a number"):
        rc[0].apply_sync(id, Unreadable())


def test_exceptions_with_any_arguments(rc):
    class Odd(Exception):
        def __init__(self, code, *, detail):
            super().__init__(code)
            self.detail = detail

        def __str__(self):
            return f"{self.args[0]}/{self.detail}"

    class NoText(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Unpicklable(Exception):
        def __init__(self):
            self.lock = threading.Lock()
            super().__init__("held", self.lock)

    def raises(make):
        raise make()

    for make, text in (
        (lambda: Odd(5, detail={"a": 1}), "5/{'a': 1}"),
        (NoText, "text"),
        (Unpicklable, "held"),
        (lambda: KeyError("k", 2), "k"),
        (lambda: OSError(2, "no file", "/a/b"), "/a/b"),
        (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "bad"),
        (lambda: StopIteration(5), "5"),
        (lambda: ValueError(), ""),
        (lambda: ValueError("ä" * 200_000), "ää"),
    ):
        with pytest.raises(RemoteError) as caught:
            rc[0].apply_sync(raises, make)
        assert text in caught.value.evalue
        assert text in str(caught.value)
        assert len(str(caught.value)) < 200_000
        assert "raises" in caught.value.traceback
        assert caught.value.ename.rpartition(".")[2] == type(make()).__name__
    assert rc[0].apply_sync(int) == 0


def test_builtin_errors_are_caught_by_their_own_type(rc):
    def raises(kind, *args):
        raise kind(*args)

    for kind, args in (
        (FileNotFoundError, (2, "no", "x")),
        (UnicodeDecodeError, ("utf-8", b"", 0, 1, "bad")),
        (AssertionError, ()),
        (KeyError, ("k",)),
        (ImportError, ("no",)),
        (MemoryError, ()),
        (TimeoutError, ()),
        (BrokenPipeError, ()),
        (SyntaxError, ("s",)),
    ):
        with pytest.raises(kind) as caught:
            rc[0].apply_async(raises, kind, *args).get()
        assert isinstance(caught.value, RemoteError)
        assert str(caught.value).startswith("[0:apply] ")
        assert repr(caught.value)


def test_causes_are_in_the_traceback(rc):
    def raises():
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as caught:
        rc[0].apply_sync(raises)
    assert "ZeroDivisionError" in caught.value.traceback
    assert "direct cause" in caught.value.traceback


@functools.lru_cache(maxsize=7, typed=True)
def fibonacci(n):
    """Recur through its own cache."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


fibonacci.note = "kept"


class Cached:
    """A class whose methods have caches."""

    @staticmethod
    @functools.cache
    def plus_one(x):
        return x + 1


def uses_caches(n):
    value, about = (
        fibonacci(n),
        (fibonacci.cache_parameters(), fibonacci.note, fibonacci.__doc__, fibonacci.__name__),
    )
    return value, fibonacci.cache_info().currsize, about, Cached.plus_one(n)


def test_cached_functions_go_by_value(rc, view, lview, monkeypatch):
    # One of `__main__`, as in a script or a notebook.
    made = {"__name__": "__main__", "functools": functools}
    exec("import uuid\n@functools.cache\ndef token(x): return uuid.uuid4().hex", made)
    monkeypatch.setattr(sys.modules["__main__"], "token", made["token"], raising=False)
    first = [view.apply_sync(made["token"], 1) for _ in range(2)]
    assert first[0] == first[1] and len(set(first[0])) == 4, (
        "each engine has its cache, and keeps it"
    )
    assert view.apply_sync(made["token"], 2)[0] not in first[0]
    # Of a module of the user's own: called directly, as a global, in a map, as an argument, pushed.
    about = ({"maxsize": 7, "typed": True}, "kept", "Recur through its own cache.", "fibonacci")
    assert lview.apply_sync(uses_caches, 80) == (23416728348467685, 7, about, 81)
    assert view.apply_sync(fibonacci, 30) == [832040] * 4
    assert (
        view.map_sync(fibonacci, range(8))
        == lview.map_sync(fibonacci, range(8))
        == [0, 1, 1, 2, 3, 5, 8, 13]
    )
    assert rc[0].apply_sync(lambda f: f(20), fibonacci) == 6765
    rc[0].push({"f": fibonacci, "two": [fibonacci, fibonacci]}, block=True)
    assert rc[0].pull(
        "f(20), two[0] is two[1], f.__wrapped__.__globals__['fibonacci'] is f", block=True
    ) == (
        6765,
        True,
        True,
    )
    assert fibonacci.cache_info().currsize == 0
    # Of what no module has by its name; and by name as before where one has it.
    assert rc[0].apply_sync(functools.lru_cache(len), "ab") == 2
    assert rc[0].apply_sync(functools.cache(functools.partial(pow, 2)), 5) == 32
    assert dumps(functools.cached_property).holds == DATA_ONLY
    assert not dumps(importlib.import_module("fnmatch")._compile_pattern).holds
