"""The types, functions and values of `everything_in_main.py`, in whose namespace this runs."""

# ruff: noqa: D101, D106

from __future__ import annotations

import array
import collections
import contextlib
import copyreg
import datetime
import decimal
import fractions
import functools
import json
import operator
import pathlib
import re
import sys
import types
import typing
import weakref
import zoneinfo

from main_trial import entry

if typing.TYPE_CHECKING:
    from everything_in_main import Plain


def of_text(text):
    """Note entries of a newer syntax than the oldest Python has."""
    exec(compile(text, __file__, "exec"), globals())


# Types.

T = typing.TypeVar("T", bound=int)
P = typing.ParamSpec("P")
UserId = typing.NewType("UserId", int)
Alias = dict[str, "list[UserId]"]


class Box(typing.Generic[T]):
    def __init__(self, value: T):
        self.value = value


class IntBox(Box[int]):
    pass


@entry
def new_type():
    return UserId, lambda t: (t(5), t.__name__, t.__supertype__ is int, t is UserId)


@entry
def type_variable():
    return T, lambda t: (t.__name__, t.__bound__, t is T)


@entry
def parameter_specification():
    return P, lambda p: (p.__name__, p is P)


@entry
def generic_class():
    return Box(3), lambda v: (v.value, type(v).__parameters__ == (T,), Box[int].__args__)


@entry
def generic_subclass():
    return IntBox(4), lambda v: (v.value, type(v).__orig_bases__[0].__args__, isinstance(v, Box))


@entry
def generic_alias():
    return Box[int], lambda a: (a.__args__, a.__origin__ is Box, a(3).value)


@entry
def alias():
    return Alias, lambda a: (str(a.__args__[0]), a.__origin__)


of_text(
    """
if sys.version_info >= (3, 12):
    type Vector[N] = list[N]
    class Stack[E]:
        def __init__(self): self.items = []
        def push(self, item: E) -> None: self.items.append(item)
    def first[A](items: list[A]) -> A: return items[0]
    @entry
    def generic_class_of_the_new_syntax():
        made = Stack()
        made.push(1)
        return made, lambda v: (v.items, [str(p) for p in type(v).__type_params__], Stack[int].__args__)
    @entry
    def generic_function_of_the_new_syntax():
        return first, lambda f: f([3])
    @entry
    def type_alias():
        return Vector, lambda a: (a.__name__, a is Vector, str(a.__value__))
"""
    if sys.version_info >= (3, 12)
    else ""
)


# Functions.


@functools.singledispatch
def describe(value):
    return "thing"


@describe.register
def _(value: int):
    return "int"


@describe.register(Plain)
def _(value):
    return f"plain {value.value}"


class Dispatching:
    @functools.singledispatchmethod
    def of(self, value):
        return "thing"

    @of.register
    def _(self, value: str):
        return "text"

    add_two = functools.partialmethod(lambda self, a, b: a + b, 2)


@entry
def single_dispatch():
    return describe, lambda f: (f(1), f("a"), f(Plain(2)), f.__name__, len(f.registry))


@entry
def single_dispatch_method():
    return Dispatching(), lambda v: (v.of("a"), v.of(1), v.add_two(3))


def doubled(f):
    @functools.wraps(f)
    def inner(*args):
        return 2 * f(*args)

    return inner


@doubled
def decorated(x: int) -> int:
    """Text."""
    return x + 1


@functools.cache
def cached(n):
    return n if n < 2 else cached(n - 1) + cached(n - 2)


def generate(n):
    yield from range(n)


async def coroutine(x):
    return x + 1


async def agenerate(n):
    for x in range(n):
        yield x


async def _all(items):
    return [item async for item in items]


def _run(awaitable):
    import asyncio

    return asyncio.run(awaitable)


@contextlib.contextmanager
def managed(x):
    yield x + 1


class Managed:
    def __enter__(self):
        return 5

    def __exit__(self, *_):
        return True


def _in(manager):
    with manager as got:
        return got


def counter():
    n = 0

    def count():
        nonlocal n
        n += 1
        return n

    return count


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


class Multiplying:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x * self.n


@entry
def wraps():
    return decorated, lambda f: (f(1), f.__name__, f.__doc__, f.__wrapped__(1))


@entry
def lru_cache():
    return cached, lambda f: (f(50), f.cache_parameters()["maxsize"])


@entry
def partial():
    return functools.partial(Plain.add, 1), lambda f: f(2)


@entry
def generator_function():
    return generate, lambda f: list(f(3))


@entry
def coroutine_function():
    return coroutine, lambda f: _run(f(1))


@entry
def async_generator_function():
    return agenerate, lambda f: _run(_all(f(3)))


@entry
def context_manager_function():
    return managed, lambda f: _in(f(1))


@entry
def context_manager_class():
    return Managed(), lambda v: _in(v)


@entry
def closure():
    return counter(), lambda f: f() > 0


@entry
def mutual_recursion():
    return even, lambda f: (f(10), f(7))


@entry
def callable_instance():
    return Multiplying(3), lambda f: f(4)


@entry
def function_with_everything():
    def f(a, /, b: int = 2, *rest, c, d=[4], **more):  # noqa: B006
        return a, b, rest, c, d, more

    f.note = "note"
    return f, lambda f: (f(1, c=3), f.note, f.__kwdefaults__, f.__annotations__, f.__qualname__)


@entry
def operators():
    return [
        operator.itemgetter(1, 0),
        operator.attrgetter("real"),
        operator.methodcaller("bit_length"),
    ], lambda o: (
        o[0]("ab"),
        o[1](5),
        o[2](8),
    )


# How instances are pickled.


class ByReduce:
    def __init__(self, a, b):
        self.a, self.b = a, b

    def __reduce__(self):
        return ByReduce, (self.a, self.b)


class ByState:
    def __init__(self):
        self.kept, self.dropped = 1, lambda: None

    def __getstate__(self):
        return {"kept": self.kept}

    def __setstate__(self, state):
        self.kept, self.dropped = state["kept"] + 1, "made anew"


class ByNewArguments(tuple):
    def __new__(cls, a, *, b):
        made = super().__new__(cls, (a,))
        made.b = b
        return made

    def __getnewargs_ex__(self):
        return (self[0],), {"b": self.b}


class ByCopyreg:
    def __init__(self, x):
        self.x = x


def _reduce_by_copyreg(value):
    return ByCopyreg, (value.x,)


copyreg.pickle(ByCopyreg, _reduce_by_copyreg)


class Numbers(list):
    pass


class Table(dict):
    def __missing__(self, key):
        return f"no {key}"


@entry
def by_reduce():
    return ByReduce(1, [2]), lambda v: (v.a, v.b)


@entry
def by_new_arguments():
    return ByNewArguments(1, b=2), lambda v: (v[0], v.b)


@entry
def by_copyreg():
    return ByCopyreg(3), lambda v: v.x


@entry
def subclasses_of_builtins():
    made = Numbers([1, 2])
    made.note = "n"
    return [made, Table(a=1)], lambda v: (v[0], v[0].note, v[1]["a"], v[1]["b"])


# Nested, local, recursive.


class Outer:
    class Inner:
        class Deep:
            x = 1

        def outer(self):
            return Outer.__name__


class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next

    @classmethod
    def chain(cls, n):
        return cls(n, cls.chain(n - 1) if n else None)


Node.root = Node.chain(2)


@entry
def nested_class():
    return Outer.Inner(), lambda v: (
        v.outer(),
        type(v).__qualname__,
        type(v).Deep.x,
        Outer.Inner is type(v),
    )


@entry
def deeply_nested_class():
    return Outer.Inner.Deep(), lambda v: (v.x, type(v).__qualname__)


@entry
def recursive_class():
    return Node(1, Node(2)), lambda v: (
        v.next.value,
        type(v).root.next.value,
        type(v.root) is type(v),
    )


def make_local(n):
    class Local:
        size = n

        def get(self):
            return self.size + n

    return Local


LocalThree = make_local(3)


@entry
def local_class():
    return LocalThree(), lambda v: (v.get(), type(v).__qualname__)


@entry
def closure_over_a_class():
    return (lambda: LocalThree().get()), lambda f: f()


Made = type("Made", (Plain,), {"extra": lambda self: self.value + 1, "__module__": "__main__"})


@entry
def made_by_type():
    return Made(2), lambda v: (v.extra(), v.text())


class Failure(ValueError):
    def __init__(self, code, *, where="here"):
        super().__init__(f"{code} {where}")
        self.code, self.where = code, where

    def __reduce__(self):
        return _failure, (self.code, self.where)


def _failure(code, where):
    return Failure(code, where=where)


class Simple(KeyError):
    pass


@entry
def exception():
    return Failure(3, where="there"), lambda e: (e.code, e.where, str(e), isinstance(e, ValueError))


@entry
def exception_as_it_is():
    return Simple("k", 2), lambda e: (e.args, isinstance(e, KeyError))


# What the standard library has.


@entry
def values():
    made = [
        types.SimpleNamespace(a=1),
        datetime.datetime(2024, 2, 29, tzinfo=zoneinfo.ZoneInfo("UTC")),
        datetime.timedelta(seconds=3),
        pathlib.PurePosixPath("a/b"),
        re.compile("a+", re.I),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        array.array("d", [1, 2]),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.deque([1], maxlen=3),
        frozenset([1]),
        range(3),
        slice(1, 2),
        ...,
        NotImplemented,
        1j,
        {}.keys(),
        types.MappingProxyType({"a": 1}),
    ]
    return made, repr


@entry
def default_dictionary():
    made = collections.defaultdict(Numbers)
    made["a"].append(1)
    return made, lambda d: (d["a"], d["b"], type(d["b"]).__name__)


@entry
def view_of_memory():
    return memoryview(b"abc"), lambda m: (bytes(m), m.format)


@entry
def modules():
    return [json, sys.modules["os.path"]], lambda m: [each.__name__ for each in m]


@entry
def weak_set():
    return weakref.WeakSet([Plain]), lambda s: [c.__name__ for c in s]


try:
    import numpy as np
except ImportError:
    np = None
try:
    import pandas as pd
except ImportError:
    pd = None

if np is not None:

    @entry
    def numpy_values():
        made = [
            np.float32(1.5),
            np.array([(1, b"a")], dtype=[("x", "i4"), ("y", "S1")]),
            np.datetime64("2024-01-01"),
        ]
        return made, repr

    class Array(np.ndarray):
        pass

    @entry
    def numpy_subclass():
        return np.arange(3).view(Array), lambda a: (a.tolist(), type(a).__name__)


if pd is not None:

    @entry
    def pandas_values():
        made = [
            pd.DataFrame({"a": [1], "b": ["x"]}),
            pd.Series([1], name="s"),
            pd.Timestamp("2024-01-01"),
            pd.NaT,
        ]
        return made, lambda m: [repr(each) for each in m]
