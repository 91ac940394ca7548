"""A program that defines everything which a `__main__` can define, and sends each definition there and back.

`test_definitions.py` runs it with each Python of the machine. It prints a JSON object: what was wrong with each entry.
Types and functions are in `more_in_main.py`, which becomes a part of this `__main__`.
"""

# ruff: noqa: D101

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import sys
import typing
from pathlib import Path

from main_trial import entry, try_all

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
    return Plain(3), lambda v: (
        v.text(),
        v.double,
        v.make(2).value,
        v.add(1, 2),
        v.square,
        type(v).__name__,
    )


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
    return Data(1, [2], 3), lambda v: (
        repr(v),
        [f.name for f in dataclasses.fields(v)],
        v.sum,
        v.kind,
    )


@entry
def dataclass_slots_frozen_ordered_kw_only():
    return Frozen(x=2), lambda v: (
        repr(v),
        hash(v) == hash(Frozen(x=2)),
        v < Frozen(x=3),
        dataclasses.asdict(v),
    )


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
    return OfMeta(), lambda v: (
        len(type(v)),
        v.by_meta,
        type(v).options,
        type(type(v)).__name__,
        Meta.made,
    )


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
    return First(), lambda v: (
        sorted(v.registry),
        v.registry["first"] is type(v),
        len(Plugin.registry),
    )


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
    return made, lambda v: (
        v.field,
        type(v).field.name,
        type(v).field.owner is type(v),
        type(v)().field,
    )


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
    return Square(3), lambda v: (
        v.area(),
        isinstance(v, Shape),
        isinstance(Virtual(), Shape),
        _is_abstract(Shape),
    )


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
    return Movie, lambda c: (
        c(title="x"),
        sorted(c.__annotations__),
        sorted(c.__optional_keys__),
        c.__total__,
    )


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
    return Color.CRIMSON, lambda v: (
        v.name,
        v.next().name,
        list(Color.__members__),
        Color["CRIMSON"] is Color.RED,
    )


@entry
def int_enum():
    return Level.HIGH, lambda v: (v + 1, v.name, v > Level.LOW, f"{v:d}", Level(9) is v)


@entry
def flag():
    return Access.BOTH, lambda v: (
        v.name,
        Access.READ in v,
        (v & Access.WRITE).name,
        (~Access.READ).value,
    )


@entry
def int_flag_without_a_name():
    return Mode.A | Mode.B, lambda v: (int(v), Mode.A in v, bool(v & Mode.B))


@entry
def text_enum():
    return Text.B, lambda v: (v.upper(), v.value, v == "b", Text("b") is v)


@entry
def enum_with_init():
    return Planet.MARS, lambda v: (
        v.mass,
        round(v.density, 3),
        Planet((5.9, 6.3)).name,
        len(Planet),
    )


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


MORE = Path(__file__).with_name("more_in_main.py")
exec(compile(MORE.read_text(), str(MORE), "exec"), globals())


if __name__ == "__main__":
    try_all(sys.argv[1], Plugin, Meta)
