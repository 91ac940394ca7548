"""A program that defines everything which a `__main__` can define, and sends each definition there and back.

`test_definitions.py` runs it with each Python of the machine. It prints one JSON object: what was wrong with each entry.
"""

from __future__ import annotations

import abc
import array
import collections
import contextlib
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import operator
import pathlib
import re
import sys
import traceback
import types
import typing
import weakref
import zoneinfo

import furlong

ENTRIES: dict[str, typing.Callable[[], tuple[object, typing.Callable]]] = {}


def entry(make):
    """Note an entry: it gives a value, and what tells the same of it wherever it is."""
    ENTRIES[make.__name__] = make
    return make


def of_text(text):
    """Note entries of a newer syntax than the oldest Python has."""
    exec(compile(text, __file__, "exec"), globals())


# Classes.

unit = "m"


class Plain:
    total = 0
    units = ["m"]

    def __init__(self, value=1):
        self.value = value
        type(self).total += 1

    def text(self):
        return f"{self.value} {unit}"

    @property
    def double(self):
        return 2 * self.value

    @classmethod
    def make(cls, value):
        return cls(value)

    @staticmethod
    def add(a, b):
        return a + b

    @functools.cached_property
    def square(self):
        return self.value**2

    def __eq__(self, other):
        return type(other) is type(self) and other.value == self.value

    __hash__ = None


@entry
def plain_class():
    return Plain(3), lambda v: (v.text(), v.double, v.make(2).value, v.add(1, 2), v.square, type(v).__name__)


@entry
def class_itself():
    return Plain, lambda c: (c.__name__, c.__qualname__, c.units, c(4).text())


@entry
def bound_method():
    return Plain(5).text, lambda m: m()


class Derived(Plain):
    def text(self):
        return "derived " + super().text()


@entry
def subclass_with_super():
    return Derived(2), lambda v: (v.text(), isinstance(v, Plain), Derived.__mro__[1] is Plain)


class Slots:
    __slots__ = ("__hidden", "a", "b")

    def __init__(self, a, b):
        self.a, self.b, self.__hidden = a, b, a + b

    def hidden(self):
        return self.__hidden


class MoreSlots(Slots):
    __slots__ = "c"

    def __init__(self):
        super().__init__(1, 2)
        self.c = 3


@entry
def slots():
    return Slots(1, 2), lambda v: (v.a, v.b, v.hidden(), hasattr(v, "__dict__"))


@entry
def slots_of_a_subclass():
    return MoreSlots(), lambda v: (v.a, v.b, v.c, v.hidden(), hasattr(v, "__dict__"))


@dataclasses.dataclass
class Data:
    x: int
    y: list = dataclasses.field(default_factory=list)
    z: dataclasses.InitVar[int] = 0
    kind: typing.ClassVar[str] = "data"

    def __post_init__(self, z):
        self.sum = self.x + z


@dataclasses.dataclass(slots=True, frozen=True, order=True, kw_only=True)
class Frozen:
    x: int = 1
    y: str = "y"


@dataclasses.dataclass(slots=True)
class SlottedChild(Data):
    w: int = 0


@entry
def dataclass():
    return Data(1, [2], 3), lambda v: (repr(v), [f.name for f in dataclasses.fields(v)], v.sum, v.kind)


@entry
def dataclass_slots_frozen_ordered_kw_only():
    return Frozen(x=2), lambda v: (repr(v), hash(v) == hash(Frozen(x=2)), v < Frozen(x=3), dataclasses.asdict(v))


@entry
def dataclass_with_slots_and_a_parent():
    return SlottedChild(1, [2], 3, 4), lambda v: (repr(v), v.w, isinstance(v, Data))


class Meta(type):
    made: list = []

    def __new__(mcls, name, bases, namespace, **options):
        cls = super().__new__(mcls, name, bases, namespace)
        mcls.made.append(name)
        cls.options = options
        return cls

    def __init__(cls, name, bases, namespace, **_):
        super().__init__(name, bases, namespace)

    def __len__(cls):
        return 42

    def __call__(cls, *args):
        made = super().__call__(*args)
        made.by_meta = True
        return made


class OfMeta(metaclass=Meta, option=1):
    pass


@entry
def metaclass():
    return OfMeta(), lambda v: (len(type(v)), v.by_meta, type(v).options, type(type(v)).__name__, Meta.made)


class Plugin:
    registry: dict = {}

    def __init_subclass__(cls, /, name, **options):
        super().__init_subclass__(**options)
        Plugin.registry[name] = cls


class First(Plugin, name="first"):
    pass


class Second(Plugin, name="second"):
    pass


@entry
def init_subclass():
    return First(), lambda v: (sorted(v.registry), v.registry["first"] is type(v), len(Plugin.registry))


class Named:
    def __set_name__(self, owner, name):
        self.name, self.owner = name, owner

    def __get__(self, instance, owner=None):
        return self if instance is None else instance.__dict__.get(self.name, f"no {self.name}")

    def __set__(self, instance, value):
        instance.__dict__[self.name] = value


class WithDescriptor:
    field = Named()


@entry
def descriptor_and_set_name():
    made = WithDescriptor()
    made.field = 5
    return made, lambda v: (v.field, type(v).field.name, type(v).field.owner is type(v), type(v)().field)


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

    @property
    @abc.abstractmethod
    def name(self): ...

    @classmethod
    def __subclasshook__(cls, other):
        return NotImplemented


class Square(Shape):
    name = "square"

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


@Shape.register
class Virtual:
    pass


@entry
def abstract_class():
    return Square(3), lambda v: (v.area(), isinstance(v, Shape), isinstance(Virtual(), Shape), _is_abstract(Shape))


def _is_abstract(cls):
    try:
        cls()
    except TypeError:
        return sorted(cls.__abstractmethods__)
    return None


@typing.runtime_checkable
class Sized(typing.Protocol):
    size: int

    def grow(self, by: int) -> None: ...


class HasSize:
    size = 3

    def grow(self, by):
        self.size += by


class Declared(Sized):
    size = 1

    def grow(self, by):
        return by


@entry
def protocol():
    return HasSize(), lambda v: (isinstance(v, Sized), isinstance(3, Sized), Declared().grow(2))


@entry
def protocol_declared():
    return Declared(), lambda v: (v.grow(1), isinstance(v, Sized), Sized in type(v).__mro__)


class Movie(typing.TypedDict, total=False):
    title: str
    year: int


class Row(typing.NamedTuple):
    a: int
    b: str = "b"

    def both(self):
        return f"{self.a}{self.b}"


Pair = collections.namedtuple("Pair", "left right", defaults=[7])


@entry
def typed_dict():
    return Movie, lambda c: (c(title="x"), sorted(c.__annotations__), sorted(c.__optional_keys__), c.__total__)


@entry
def typed_named_tuple():
    return Row(1), lambda v: (v, v.both(), v._replace(b="c"), v._fields, type(v)._make([1, 2]))


@entry
def named_tuple():
    return Pair(1), lambda v: (v, v.right, v._asdict())


# Enumerations.


class Color(enum.Enum):
    RED = enum.auto()
    GREEN = enum.auto()
    CRIMSON = RED

    def next(self):
        return Color(self.value % 2 + 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 9


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE


class Mode(enum.IntFlag):
    A = 1
    B = 2


class Text(str, enum.Enum):
    A = "a"
    B = "b"


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.4)

    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius

    @property
    def density(self):
        return self.mass / self.radius


class Coded(bytes, enum.Enum):
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made

    ONE = (1, "one")
    TWO = (2, "two")


class Unhashable(enum.Enum):
    A = [1]
    B = [2]


@entry
def enumeration():
    return Color.CRIMSON, lambda v: (v.name, v.next().name, list(Color.__members__), Color["CRIMSON"] is Color.RED)


@entry
def int_enum():
    return Level.HIGH, lambda v: (v + 1, v.name, v > Level.LOW, f"{v:d}", Level(9) is v)


@entry
def flag():
    return Access.BOTH, lambda v: (v.name, Access.READ in v, (v & Access.WRITE).name, (~Access.READ).value)


@entry
def int_flag_without_a_name():
    return Mode.A | Mode.B, lambda v: (int(v), Mode.A in v, bool(v & Mode.B))


@entry
def text_enum():
    return Text.B, lambda v: (v.upper(), v.value, v == "b", Text("b") is v)


@entry
def enum_with_init():
    return Planet.MARS, lambda v: (v.mass, round(v.density, 3), Planet((5.9, 6.3)).name, len(Planet))


@entry
def enum_with_new():
    return Coded.TWO, lambda v: (v.label, v.value, bytes(v), Coded(1).label)


@entry
def enum_of_unhashable_values():
    return Unhashable.B, lambda v: (v.name, v.value, Unhashable([1]).name)


@entry
def enum_class():
    return Color, lambda c: ([m.name for m in c], len(c), c.RED.value)


@entry
def enum_as_key():
    return {Color.RED: 1, Level.LOW: 2}, lambda d: (d[Color.RED], d[Level.LOW], d[1])


if hasattr(enum, "StrEnum"):

    class Word(enum.StrEnum):
        YES = enum.auto()

    @entry
    def str_enum():
        return Word.YES, lambda v: (str(v), v.name, Word("yes") is v)


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


@functools.lru_cache(maxsize=None)
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


class Callable_:
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
    return Callable_(3), lambda f: f(4)


@entry
def function_with_everything():
    def f(a, /, b: "int" = 2, *rest, c, d=[4], **more):  # noqa: B006
        return a, b, rest, c, d, more

    f.note = "note"
    return f, lambda f: (f(1, c=3), f.note, f.__kwdefaults__, f.__annotations__, f.__qualname__)


@entry
def operators():
    return [operator.itemgetter(1, 0), operator.attrgetter("real"), operator.methodcaller("bit_length")], lambda o: (
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
    return Outer.Inner(), lambda v: (v.outer(), type(v).__qualname__, type(v).Deep.x, Outer.Inner is type(v))


@entry
def deeply_nested_class():
    return Outer.Inner.Deep(), lambda v: (v.x, type(v).__qualname__)


@entry
def recursive_class():
    return Node(1, Node(2)), lambda v: (v.next.value, type(v).root.next.value, type(v.root) is type(v))


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
        made = [np.float32(1.5), np.array([(1, b"a")], dtype=[("x", "i4"), ("y", "S1")]), np.datetime64("2024-01-01")]
        return made, repr

    class Array(np.ndarray):
        pass

    @entry
    def numpy_subclass():
        return np.arange(3).view(Array), lambda a: (a.tolist(), type(a).__name__)


if pd is not None:

    @entry
    def pandas_values():
        made = [pd.DataFrame({"a": [1], "b": ["x"]}), pd.Series([1], name="s"), pd.Timestamp("2024-01-01"), pd.NaT]
        return made, lambda m: [repr(each) for each in m]


# The trial.


def classes():
    """Give the classes that are defined here."""
    return [value for value in list(globals().values()) if isinstance(value, type) and value.__module__ == "__main__"]


def state():
    """Tell all that the classes hold, and what they are registered with."""
    held = {(cls, name): value for cls in classes() for name, value in vars(cls).items()}
    held = {key: value for key, value in held.items() if key[1] not in ("__slotnames__", "_abc_impl")}
    registered = [sorted(Plugin.registry), list(Meta.made)]
    return held, registered, {cls: list(type.__subclasses__(cls)) for cls in classes()}


def same_state(a, b):
    return a[0].keys() == b[0].keys() and all(a[0][key] is b[0][key] for key in a[0]) and a[1:] == b[1:]


def is_back(value, back):
    if isinstance(value, types.GenericAlias):
        return value == back
    if isinstance(value, (type, typing.TypeVar, typing.ParamSpec, typing.NewType)) or isinstance(value, enum.Enum):
        return value is back
    if value.__class__.__name__ == "TypeAliasType":
        return value is back
    if isinstance(value, (list, dict)) and type(value) in (list, dict):
        return [type(each) for each in value] == [type(each) for each in back]
    return type(value) is type(back)


def try_entry(engine, name):
    """Send one there and back, twice."""
    value, tell = ENTRIES[name]()
    here = tell(value)
    for _ in range(2):
        before = state()
        there, back, made = engine.apply_sync(lambda v, t, m: (t(v), v, m()[0]), value, tell, ENTRIES[name])
        if not same_state(before, state()):
            return "the result has written to what is here"
        if repr(there) != repr(here):
            return f"there it is {there!r}, here {here!r}"
        if not is_back(value, back):
            return f"it came back as {back!r} of {type(back)}"
        if repr(tell(back)) != repr(here):
            return f"it came back as {tell(back)!r}, and was {here!r}"
        if not is_back(value, made) and not isinstance(value, Plain):
            return f"made there it is {made!r}"
    return None


def main():
    """Try all."""
    wrong = {}
    with furlong.Client(sys.argv[1]) as rc:
        for name in ENTRIES:
            try:
                wrong[name] = try_entry(rc[0], name)
            except Exception:
                wrong[name] = traceback.format_exc()[-1500:]
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
