"""The part of a value that cannot be pickled: its path from the value, and its type.

This file needs nothing but the standard library: clients use it as well as engines.
"""

from __future__ import annotations

import functools
import types
from typing import Any, Callable, Iterator, Sequence

# As deep a walk goes, and so many parts it tries to pickle.
DEPTH_MAX = 64
TRIES_MAX = 10_000
KEY_CHARACTERS_MAX = 60


def find(value: Any, name: str, dump: Callable[[Any], object]) -> str:
    """Return what keeps a value from being pickled, as a text.

    Parameters
    ----------
    value : object
        What cannot be pickled.
    name : str
        What it is called, as ``result``.
    dump : callable
        Pickles one object; raises if that cannot be done.

    Returns
    -------
    str
        As ``result['a'].lock is a _thread.lock``: the deepest part that fails while none of its own parts does.
    """
    tries = TRIES_MAX
    seen = {id(value)}
    for _ in range(DEPTH_MAX):
        for step, part in _parts(value):
            if id(part) in seen or isinstance(part, (str, bytes, int, float, bool, type(None))):
                continue
            if tries == 0:
                break
            tries -= 1
            seen.add(id(part))
            if not can(dump, part):
                value, name = part, name + step
                break
        else:
            break
        if tries == 0:
            break
    return f"{name} is a {_type_name(type(value))}"


def find_item(columns: Sequence[Any], first: int, dump: Callable[[Any], object]) -> str | None:
    """Return which item of a map cannot be pickled; None if it is none of them.

    Parameters
    ----------
    columns : sequence
        The items, one column for each sequence of the map.
    first : int
        The place of the first ones in theirs.
    dump : callable
        Pickles one object; raises if that cannot be done.
    """
    for at, column in enumerate(columns):
        if can(dump, column):
            continue
        begin, end = 0, len(column)
        while end - begin > 1:
            middle = (begin + end) // 2
            if can(dump, column[begin:middle]):
                begin = middle
            else:
                end = middle
        if begin == end or can(dump, column[begin]):
            return None
        found = find(column[begin], f"items[{first + begin}]", dump)
        return found if len(columns) == 1 else f"{found}, of sequences[{at}]"
    return None


def can(dump: Callable[[Any], object], part: Any) -> bool:
    """Try whether an object can be pickled."""
    try:
        dump(part)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Return what a value is made of, each with its name relative to it."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"[{_key(key)}]", item
        for key in list(value):
            yield f".key({_key(key)})", key
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        for at, item in enumerate(list(value)):
            is_field = isinstance(names, tuple) and at < len(names)
            yield f".{names[at]}" if is_field else f"[{at}]", item  # type: ignore[index]
    elif isinstance(value, (set, frozenset)):
        for item in list(value):
            yield f".item({_key(item)})", item
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    if not isinstance(value, types.ModuleType):
        yield from _attributes(value)


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield f".__closure__[{_key(name)}]", cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".__globals__[{_key(name)}]", function.__globals__[name]
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(value, "__dict__", None)
    if isinstance(own, (dict, types.MappingProxyType)):
        for name, item in list(own.items()):
            if not isinstance(value, type) or not name.startswith("__"):
                yield f".{name}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name not in ("__dict__", "__weakref__"):
                mangled = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") else name
                try:
                    yield f".{name}", getattr(value, mangled)
                except AttributeError:
                    continue


def _key(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    if len(text) > KEY_CHARACTERS_MAX:
        text = text[:KEY_CHARACTERS_MAX] + "..."
    return text


def _type_name(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"
