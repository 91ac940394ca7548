"""Definitions in pickles: classes and the like by value, and how the other side finds or makes them.

A class is made as a copy of what its dictionary holds, without its metaclass's `__new__`, `__init_subclass__` or
`__set_name__`: all of them have run where it was defined. A class that is here already is never written to, but for a
copy of one whose original has changed since.

This file needs nothing but the standard library: clients use it as well as engines.
"""

from __future__ import annotations

import abc
import enum
import functools
import os
import sys
import types
import weakref
from typing import Any, Callable, Mapping  # noqa: UP035 - engines may have Python 3.8

# Parts of a class's dictionary that its creation makes anew.
_MADE_ANEW = frozenset(
    (
        "__dict__",
        "__weakref__",
        "__module__",
        "__qualname__",
        "__slots__",
        "__slotnames__",
        "_abc_impl",
    )
)
# The same, of an evaluation that was put off: what it gives goes instead.
_EVALUATED = frozenset(("__annotate__", "__annotate_func__", "__annotations_cache__"))
# Flags of types: classes that Python code makes have the first and not the other.
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8
_ATOMS = (int, float, complex, str, bytes, bool, type(None))
_DEPTH_MAX = 3
_ITEMS_MAX = 1000

# What `typing` makes with a name, and the arguments besides it. Those that this Python lacks are
# left out.
_PARAMETERS = {
    "TypeVar": ("bound", "covariant", "contravariant", "infer_variance"),
    "ParamSpec": ("bound", "covariant", "contravariant", "infer_variance"),
    "TypeVarTuple": (),
}
# What `functools.lru_cache` makes of a function.
_CACHED = type(functools.lru_cache(maxsize=1)(len))
_SINGLE_DISPATCH = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]


class _Tracked:
    """The definitions that crossed, by ids that both sides know, and what is a copy here."""

    ids: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
    by_id: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
    # Of copies: which version of each attribute they have.
    copies: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()
    # Of originals: what each attribute was when it was sent last, and how often it had changed.
    sent: weakref.WeakKeyDictionary[Any, dict[str, tuple[Any, int]]] = weakref.WeakKeyDictionary()
    # Members of enumerations that are being made.
    members: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def find_here(module: str | None, qualname: str) -> Any:
    """Find what a module of this process has by a name; None if there is nothing."""
    found: Any = sys.modules.get(module or "")
    for part in qualname.split("."):
        found = getattr(found, part, None) if found is not None else None
    return found


def known_id(definition: Any) -> str | None:
    """Return the id of a definition that has crossed; None of any other."""
    try:
        return _Tracked.ids.get(definition)
    except TypeError:  # an alias has no weak references
        return None


def find_by_id(known: str) -> Any:
    """Find a definition that has crossed; None if it is gone."""
    return _Tracked.by_id.get(known)


def _id_of(definition: Any) -> str | None:
    try:
        known = _Tracked.ids.get(definition)
    except TypeError:  # an alias has no weak references
        return None
    if known is None:
        known = os.urandom(16).hex()
        _track(definition, known)
    return known


def _track(definition: Any, known: str | None) -> None:
    if known is not None:
        _Tracked.ids[definition] = known
        _Tracked.by_id[known] = definition


# Sending.


class Reducer:
    """Reduces definitions for the other side; `far` gives what stands for a function of this file there."""

    def __init__(self, far: Callable[[str], Callable[..., Any]]) -> None:
        self._far = far

    def reduce(self, value: Any, is_by_value: Callable[[Any], bool]) -> Any:
        """Reduce what is a definition by value, or holds on to what has no pickle; give NotImplemented for the rest."""
        kind = type(value)
        if issubclass(kind, type):
            is_made_here = value.__flags__ & (_HEAP_TYPE | _IMMUTABLE_TYPE) == _HEAP_TYPE
            return self._class(value) if is_made_here and is_by_value(value) else NotImplemented
        if kind is types.FunctionType:
            is_ours = value.__code__ is _SINGLE_DISPATCH and is_by_value(value)
            return self._single_dispatch(value) if is_ours else NotImplemented
        if kind is _CACHED:
            return self._cached(value) if is_by_value(value) else NotImplemented
        if kind is functools.cached_property:
            return (
                functools.cached_property,
                (value.func,),
                {"attrname": value.attrname, "__doc__": value.__doc__},
            )
        if isinstance(value, enum.Enum) and is_by_value(kind):
            return self._far("enum_member"), (kind, _key_of(value))
        if kind is functools.singledispatchmethod:
            return self._far("make_dispatching_method"), (value.func, value.dispatcher)
        if kind.__module__ in ("typing", "typing_extensions") and (
            is_by_value(value) or _is_parameter(value)
        ):
            return self._typing(value, kind)
        return NotImplemented

    def _class(self, cls: Any) -> Any:
        is_enum = isinstance(cls, enum.EnumMeta)
        state = _state_of(cls)
        members = _members_of(cls) if is_enum else {}
        parts = {
            "id": _id_of(cls),
            "name": cls.__name__,
            "qualname": cls.__qualname__,
            "module": cls.__module__,
            "slots": _slots_of(cls),
            "members": [(key, _arguments_of(member)) for key, member in members.items()],
        }
        contents = {key: dict(vars(member)) for key, member in members.items()}
        versions = _versions_of(cls, state)
        return (
            self._far("make_class"),
            (type(cls), cls.__bases__, parts),
            (parts["id"], state, versions, contents),
            None,
            None,
            self._far("fill_class"),
        )

    def _cached(self, function: Any) -> Any:
        """Return the function within, which is cached anew, and what was set on the outer one."""
        attributes = {
            name: value for name, value in vars(function).items() if name != "__wrapped__"
        }
        parts = function.__wrapped__, function.cache_parameters()
        return self._far("make_cached"), parts, attributes, None, None, self._far("fill_function")

    def _single_dispatch(self, function: Any) -> Any:
        registry = dict(function.registry)
        first = registry.pop(object)
        attributes = {
            name: value
            for name, value in vars(function).items()
            if name not in ("register", "dispatch", "registry", "_clear_cache", "__wrapped__")
        }
        return (
            self._far("make_single_dispatch"),
            (first, registry),
            attributes,
            None,
            None,
            self._far("fill_function"),
        )

    def _typing(self, value: Any, kind: type) -> Any:
        name = getattr(value, "__name__", None)
        module = getattr(value, "__module__", None)
        if kind.__name__ in _PARAMETERS:
            options = {
                key: getattr(value, f"__{key}__", None) for key in _PARAMETERS[kind.__name__]
            }
            options = {key: option for key, option in options.items() if option}
            if hasattr(value, "has_default") and value.has_default():
                options["default"] = value.__default__
            bounds = getattr(value, "__constraints__", ())
            return self._far("make_named"), (kind, _id_of(value), module, name, bounds, options)
        if kind.__name__ == "NewType":
            qualname = getattr(value, "__qualname__", name)
            return self._far("make_named"), (
                kind,
                _id_of(value),
                module,
                qualname,
                (value.__supertype__,),
                {},
            )
        if kind.__name__ == "TypeAliasType":
            options = {"type_params": value.__type_params__}
            return self._far("make_named"), (
                kind,
                _id_of(value),
                module,
                name,
                (value.__value__,),
                options,
            )
        return NotImplemented


def _is_parameter(value: Any) -> bool:
    """Return whether it is a type parameter of the newer syntax, which no module has by its name."""
    return bool(getattr(value, "__infer_variance__", False))


def _state_of(cls: Any) -> dict[str, Any]:
    state = {}
    for name, value in vars(cls).items():
        is_slot = isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls
        if not (name in _MADE_ANEW or name in _EVALUATED or is_slot):
            state["".join(name)] = value
    if _EVALUATED.intersection(vars(cls)):
        state["__annotations__"] = dict(cls.__annotations__)
    if isinstance(cls, abc.ABCMeta):
        references = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
        registered = [reference() for reference in references]
        state["_abc_registered"] = [each for each in registered if each is not None]
    return state


def _slots_of(cls: Any) -> list[str] | None:
    slots = vars(cls).get("__slots__")
    if slots is None:
        return None
    if isinstance(slots, str):
        return [slots]
    names = list(slots)
    if not names:  # an iterator is used up: what it gave is there
        names = [
            name
            for name, value in vars(cls).items()
            if isinstance(value, types.MemberDescriptorType)
        ]
    return names


def _versions_of(cls: Any, state: Mapping[str, Any]) -> dict[str, int]:
    """Count for each attribute how often it has changed since the class was sent first."""
    before = _Tracked.sent.get(cls, {})
    now = {}
    for name, value in state.items():
        mark = _mark_of(value, 0)
        old, count = before.get(name, (mark, 0))
        now[name] = (mark, count if old == mark else count + 1)
    # What is there again after it was not goes on counting.
    gone = {name: (None, count) for name, (_, count) in before.items() if name not in now}
    _Tracked.sent[cls] = {**gone, **now}
    return {name: count for name, (_, count) in now.items()}


def _mark_of(value: Any, depth: int) -> Any:
    """Return what differs when a value has changed, as far as that can be told at no great cost."""
    kind = type(value)
    if kind in _ATOMS:
        return kind, repr(value) if kind is float else value
    if kind is types.FunctionType:
        return id(value), id(value.__code__), _mark_of(value.__defaults__, depth)
    if (
        depth < _DEPTH_MAX
        and isinstance(value, (list, tuple, set, frozenset))
        and len(value) <= _ITEMS_MAX
    ):
        return id(value), [_mark_of(item, depth + 1) for item in value]
    if depth < _DEPTH_MAX and isinstance(value, dict) and len(value) <= _ITEMS_MAX:
        return id(value), [
            (_mark_of(key, depth + 1), _mark_of(item, depth + 1)) for key, item in value.items()
        ]
    return id(value)


def _members_of(cls: Any) -> dict[Any, Any]:
    """Return the members of an enumeration, and what flags made of them, by what names them."""
    found = {}
    others = [vars(cls).get(name) or {} for name in ("_member_map_", "_value2member_map_")]
    for member in [member for members in others for member in members.values()]:
        found[_key_of(member)] = member
    return found


def _key_of(member: Any) -> Any:
    """Name a member: by its name, or by its value if it has none."""
    name = member._name_
    named = type(member)._member_map_.get(name) if name is not None else None
    return name if named is member else ("value", member._value_)


def _arguments_of(member: Any) -> Any:
    """Return the arguments that make a member anew; None if it is a plain object."""
    kind = type(member)._member_type_
    if kind is object:
        return None
    if hasattr(member, "__getnewargs__"):
        return member.__getnewargs__()
    return ()


# Receiving.


def make_class(meta: Any, bases: tuple[Any, ...], parts: Mapping[str, Any]) -> Any:
    """Find a class that is here, or make it, for `fill_class` to fill."""
    known = _Tracked.by_id.get(parts["id"])
    if known is None and Receiving.binds_names:
        found = find_here(parts["module"], parts["qualname"])
        if isinstance(found, type):
            known = found
            _Tracked.by_id.setdefault(parts["id"], found)
    if known is not None:
        return known
    namespace = {"__module__": parts["module"], "__qualname__": parts["qualname"]}
    if parts["slots"] is not None:
        namespace["__slots__"] = tuple(parts["slots"])
    cls = _new_class(meta, parts["name"], bases, namespace)
    members: dict[Any, Any] = {}
    for key, arguments in parts["members"]:
        kind = object if arguments is None else _data_type(bases)
        members[key] = kind.__new__(cls, *(arguments or ()))
    if members:
        _Tracked.members[cls] = members
    _Tracked.copies[cls] = {}
    _track(cls, parts["id"])
    return cls


class Receiving:
    """The way in which this process finds definitions: clients also by module and name, as theirs are the originals."""

    binds_names = False


def _data_type(bases: tuple[Any, ...]) -> Any:
    """Find the type of an enumeration's values as `enum` does: the first that makes them by itself."""
    for base in (each for cls in bases for each in cls.__mro__):
        if base is not object and "__new__" in vars(base) and not isinstance(base, enum.EnumMeta):
            return base
    return object


def _new_class(meta: Any, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
    """Make a class without what its bases and its metaclass do about new ones."""
    make: Any = type.__new__
    for each in meta.__mro__:
        if each is abc.ABCMeta or not each.__flags__ & _HEAP_TYPE:
            make = each.__new__
            break
    if any(_is_told(base) for base in bases) and not issubclass(meta, enum.EnumMeta):
        # A first base that hears of it and tells nobody, for a moment.
        quiet = {"__init_subclass__": classmethod(lambda _cls, **_: None)}
        if not any(base.__dictoffset__ for base in bases):
            quiet["__slots__"] = ()  # type: ignore[assignment]
        first = abc.ABCMeta if issubclass(meta, abc.ABCMeta) else type
        try:
            cls = make(meta, name, (first("_Quiet", (), quiet), *bases), dict(namespace))
            cls.__bases__ = bases
        except TypeError:  # the layouts differ, so they are told
            pass
        else:
            return cls
    return make(meta, name, bases, namespace)


def _is_told(cls: Any) -> bool:
    """Return whether a class does something about new classes that are made of it."""
    owner = next(each for each in cls.__mro__ if "__init_subclass__" in vars(each))
    return owner is not object


def fill_class(
    cls: Any, parts: tuple[str, dict[str, Any], dict[str, int], dict[Any, dict[str, Any]]]
) -> Any:
    """Set what a copy's dictionary holds, as far as its original has changed; leave an original alone."""
    known, state, versions, contents = parts
    applied = _Tracked.copies.get(cls)
    if applied is None or applied == versions or _Tracked.ids.get(cls) != known:
        return cls
    members = _Tracked.members.pop(cls, {})
    for key, content in contents.items():
        if key in members:
            vars(members[key]).update(content)
    for name in [name for name in applied if name not in versions]:
        _delete(cls, name)
    is_c_made = not _is_plain(type(cls))
    for name, value in state.items():
        if name == "_abc_registered":
            for each in value:
                cls.register(each)
        elif applied.get(name, -1) < versions[name]:
            if is_c_made:
                setattr(cls, name, value)
            else:
                type.__setattr__(cls, name, value)
    if "__firstlineno__" in state:  # it goes when `__module__` or the like is set
        type.__setattr__(cls, "__firstlineno__", state["__firstlineno__"])
    _Tracked.copies[cls] = dict(versions)
    return cls


def _is_plain(meta: Any) -> bool:
    """Return whether a metaclass is written in Python, or one of Python's own."""
    return all(
        each in (type, object, abc.ABCMeta) or each.__flags__ & _HEAP_TYPE for each in meta.__mro__
    )


def _delete(cls: Any, name: str) -> None:
    if name in vars(cls):
        type.__delattr__(cls, name)


def enum_member(cls: Any, key: Any) -> Any:
    """Find a member of an enumeration."""
    made = _Tracked.members.get(cls, {}).get(key)
    if made is not None:
        return made
    return cls(key[1]) if isinstance(key, tuple) else cls._member_map_[key]


def make_named(
    kind: Any,
    known: str | None,
    module: str | None,
    qualname: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Find a type variable, a new type or an alias that is here, or make it."""
    found = _Tracked.by_id.get(known or "")
    if found is not None:
        return found
    if Receiving.binds_names:
        found = find_here(module, qualname)
        if type(found) is kind:
            return found
    made = kind(qualname.rpartition(".")[2], *arguments, **options)
    for name, value in (("__module__", module), ("__qualname__", qualname)):
        try:
            setattr(made, name, value)
        except (AttributeError, TypeError):  # read-only, or not there
            continue
    _track(made, known)
    return made


def make_cached(function: Any, parameters: Mapping[str, Any]) -> Any:
    """Make a function with a cache, which is empty."""
    return functools.lru_cache(parameters["maxsize"], parameters["typed"])(function)


def make_single_dispatch(first: Any, registry: Mapping[Any, Any]) -> Any:
    """Make a function of `functools.singledispatch`."""
    function = functools.singledispatch(first)
    for cls, implementation in registry.items():
        function.register(cls, implementation)
    return function


def make_dispatching_method(function: Any, dispatcher: Any) -> Any:
    """Make a `functools.singledispatchmethod`."""
    method: Any = functools.singledispatchmethod(function)
    method.dispatcher = dispatcher
    return method


def fill_function(function: Any, attributes: Mapping[str, Any]) -> Any:
    """Set what was set on a function."""
    vars(function).update(attributes)
    return function


#: What pickles refer to.
PUBLIC = (
    make_class,
    fill_class,
    enum_member,
    make_named,
    make_cached,
    make_single_dispatch,
    make_dispatching_method,
    fill_function,
)
