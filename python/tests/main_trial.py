"""The trial of the entries of `everything_in_main.py`: a module of the program's own."""

from __future__ import annotations

import enum
import json
import sys
import traceback
import types
import typing

import furlong

ENTRIES: dict[str, typing.Callable[[], tuple[object, typing.Callable]]] = {}
# Of these there is one alone.
SINGLE = (type, typing.TypeVar, typing.ParamSpec, typing.NewType, enum.Enum)


def entry(make):
    """Note an entry: it gives a value, and what tells the same of it wherever it is."""
    ENTRIES[make.__name__] = make
    return make


def classes():
    """Return the classes that the program has defined."""
    defined = list(vars(sys.modules["__main__"]).values())
    return [
        value for value in defined if isinstance(value, type) and value.__module__ == "__main__"
    ]


def state(plugin, meta):
    """Return all that the classes hold, and what they are registered with."""
    held = {(cls, name): value for cls in classes() for name, value in vars(cls).items()}
    held = {
        key: value for key, value in held.items() if key[1] not in ("__slotnames__", "_abc_impl")
    }
    registered = [sorted(plugin.registry), list(meta.made)]
    return held, registered, {cls: list(type.__subclasses__(cls)) for cls in classes()}


def same_state(a, b):
    return (
        a[0].keys() == b[0].keys()
        and all(a[0][key] is b[0][key] for key in a[0])
        and a[1:] == b[1:]
    )


def is_back(value, back):
    if isinstance(value, types.GenericAlias):
        return value == back
    if isinstance(value, SINGLE) or type(value).__name__ == "TypeAliasType":
        return value is back
    if isinstance(value, (list, dict)) and type(value) in (list, dict):
        return [type(each) for each in value] == [type(each) for each in back]
    return type(value) is type(back)


def try_entry(engine, name, *registries):
    """Send one there and back, twice."""
    value, tell = ENTRIES[name]()
    here = tell(value)
    for _ in range(2):
        before = state(*registries)
        there, back, made = engine.apply_sync(
            lambda v, t, m: (t(v), v, m()[0]), value, tell, ENTRIES[name]
        )
        if not same_state(before, state(*registries)):
            return "the result has written to what is here"
        if repr(there) != repr(here):
            return f"there it is {there!r}, here {here!r}"
        if not is_back(value, back):
            return f"it came back as {back!r} of {type(back)}"
        if repr(tell(back)) != repr(here):
            return f"it came back as {tell(back)!r}, and was {here!r}"
        if not is_back(value, made):
            return f"made there it is {made!r}"
    return None


def try_all(capability, *registries):
    """Try all entries, and print what was wrong with each."""
    wrong = {}
    with furlong.Client(capability) as rc:
        for name in ENTRIES:
            try:
                wrong[name] = try_entry(rc[0], name, *registries)
            except Exception:
                wrong[name] = traceback.format_exc()[-1500:]
    print(json.dumps(wrong))
