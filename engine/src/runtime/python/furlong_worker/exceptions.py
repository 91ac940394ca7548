"""The parts of an exception beyond its texts, for a client to rebuild it: classes, arguments, attributes, causes.

It is a JSON document, and behind it a buffer with pickles of what JSON cannot carry, where the call is one of pickles.
The document is a list of exceptions, of which the first is the one that was raised and the others hang on it: causes,
contexts, members of groups, exceptions among the attributes. Nothing of it is code of the user's but what pickling
calls, so a class with an odd constructor, an attribute without a pickle or a `__str__` that raises costs itself alone.
"""

from __future__ import annotations

import base64
import builtins
import json
import math
import pickle
import traceback
import types
from typing import Any, Sequence

from furlong_worker import Buffer, definitions, pickles
from furlong_worker.errors import OWN_FILES, type_name

# All that goes along with one exception.
BYTES_MAX = 1024 * 1024
EXCEPTIONS_MAX = 2048
DEPTH_MAX = 20
TEXT_MAX = 8 * 1024

_DICT: Any = vars(BaseException)["__dict__"]
_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)
# Told apart from the attributes, or of this process alone: the object that has not an attribute is
# none of the error.
_NOT_ATTRIBUTES = frozenset(
    (
        "args",
        "exceptions",
        "obj",
        "__dict__",
        "__weakref__",
        "__cause__",
        "__context__",
        "__suppress_context__",
    )
) | {"__traceback__"}
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())


def details(error: BaseException, with_pickles: bool, frames: str = "") -> list[Buffer]:
    """Describe an exception: the document, with the token of its frames, and the pickles if there are any."""
    try:
        document = _Document(with_pickles)
        document.place(error)
        document.fill()
        if frames:
            document.nodes[0]["frames"] = frames
        parts: list[Buffer] = [json.dumps(document.nodes).encode("ascii")]
        return [*parts, b"".join(document.pickles)] if document.pickles else parts
    except BaseException:  # its texts are there all the same
        return []


class _TooMuchError(Exception):
    """There is no room for a value."""


class _Counter:
    """A file that takes so many bytes and keeps none."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._room -= size
        if self._room < 0:
            raise _TooMuchError
        return size


class _Document:
    """The document while it is written."""

    def __init__(self, with_pickles: bool) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.pickles: list[Buffer] = []
        self._pickled = 0
        self._with_pickles = with_pickles
        self._room = BYTES_MAX
        self._errors: list[BaseException] = []
        self._places: dict[int, int] = {}

    def place(self, error: Any) -> int | None:
        """Return an exception's place in the list; none if there are too many."""
        if not isinstance(error, BaseException):
            return None
        at = self._places.get(id(error))
        if at is None and len(self._errors) < EXCEPTIONS_MAX:
            at = self._places[id(error)] = len(self._errors)
            self._errors.append(error)
        return at

    def fill(self) -> None:
        """Describe all that have a place, and those that come to it meanwhile."""
        while len(self.nodes) < len(self._errors):
            self.nodes.append(self._node(self._errors[len(self.nodes)]))

    def _node(self, error: BaseException) -> dict[str, Any]:
        lost: dict[str, str] = {}
        node: dict[str, Any] = {
            "classes": [_class(cls) for cls in type(error).__mro__[:-1]],
            "lost": lost,
        }
        if self.nodes:  # the texts of the first one go beside the document
            node.update(zip(("name", "text", "traceback"), self._texts(error)))
        for name, other in (("cause", error.__cause__), ("context", error.__context__)):
            at = self.place(other)
            if at is not None:
                node[name] = at
            elif other is not None:
                lost[f"__{name}__"] = "there are too many exceptions for all to come along"
        node["suppress"] = bool(error.__suppress_context__)
        if isinstance(error, _GROUP):
            members = error.exceptions  # type: ignore[attr-defined]
            places = [self.place(member) for member in members]
            node["members"] = [at for at in places if at is not None]
            if None in places:
                lost["exceptions"] = (
                    f"{places.count(None)} of {len(places)} are too many to come along"
                )
        node["args"] = [self._argument(value) for value in error.args]
        node["attributes"] = attributes = {}
        for name, value in _attributes(error):
            try:
                attributes[name] = self._encode_whole(value)
            except Exception as why:
                lost[name] = _why(value, why)
        return node

    def _texts(self, error: BaseException) -> tuple[str, str, str]:
        name = type_name(type(error))
        try:
            text = str(error)
        except Exception:
            text = "<its text cannot be had: str() failed>"
        frames = traceback.extract_tb(error.__traceback__)
        lines = traceback.format_list(
            [frame for frame in frames if not frame.filename.startswith(OWN_FILES)]
        )
        stack = (
            "".join(["Traceback (most recent call last):\n", *lines, f"{name}: {text}\n"])
            if lines
            else ""
        )
        text, stack = text[:TEXT_MAX], stack if len(stack) <= min(self._room, 8 * TEXT_MAX) else ""
        self._room -= len(text) + len(stack)
        return name, text, stack

    def _argument(self, value: Any) -> Any:
        try:
            return self._encode_whole(value)
        except Exception:
            try:
                return repr(value)[:TEXT_MAX]
            except Exception:
                return f"<{type_name(type(value))}>"

    def _encode_whole(self, value: Any) -> Any:
        """Encode a value, or raise and take no room."""
        before = self._room, self._pickled, len(self.pickles)
        try:
            return self._encode(value, 0)
        except BaseException:
            self._room, self._pickled, count = before
            del self.pickles[count:]
            raise

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise _TooMuchError

    def _encode(self, value: Any, depth: int) -> Any:
        cls = type(value)
        if value is None or cls is bool:
            return value
        if cls is int:
            self._take(value.bit_length() // 3 + 1)
            # Of many digits Python makes no text.
            return value if value.bit_length() < 10_000 else self._pickle(value)
        if cls is float:
            self._take(8)
            return value if math.isfinite(value) else {"float": repr(value)}
        if cls is str:
            self._take(len(value))
            return value
        if cls is bytes:
            self._take(len(value))
            return {"bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, BaseException):
            at = self.place(value)
            if at is None:
                raise _TooMuchError
            return {"error": at}
        if cls in (list, tuple, dict) and depth < DEPTH_MAX:
            self._take(4 * len(value))
            if cls is dict:
                pairs = value.items()
                return {
                    "dict": [
                        [self._encode(key, depth + 1), self._encode(one, depth + 1)]
                        for key, one in pairs
                    ]
                }
            return {cls.__name__: [self._encode(one, depth + 1) for one in value]}
        return self._pickle(value)

    def _pickle(self, value: Any) -> Any:
        if not self._with_pickles:
            raise TypeError("only plain values go with this call")
        try:  # without a copy, and no longer than there is room
            pickle.Pickler(_Counter(self._room), 5).dump(value)  # type: ignore[arg-type]
        except _TooMuchError:
            raise
        except Exception:
            pass  # it may have one with the help of cloudpickle
        extents = []
        for part in pickles.dump(value):
            size = memoryview(part).nbytes
            self._take(size)
            extents.append([self._pickled, self._pickled + size])
            self._pickled += size
            self.pickles.append(part)
        return {"pickle": extents}


def _class(cls: type) -> Sequence[str]:
    """Name a class: its module, its path there, and the id of one that came by value."""
    known = definitions.known_id(cls)
    names = [str(cls.__module__), cls.__qualname__]
    return names if known is None else [*names, known]


def _attributes(error: BaseException) -> list[tuple[str, Any]]:
    """List what is set on an exception, in its dictionary and its slots. No code of its class is asked."""
    found = dict(_DICT.__get__(error))
    for cls in type(error).__mro__[:-1]:
        for name, member in () if cls is _GROUP else vars(cls).items():
            if name in found or name in _NOT_ATTRIBUTES or not isinstance(member, _MEMBERS):
                continue
            try:
                value = member.__get__(error)
            except Exception:  # it was not set
                continue
            if value is not None or cls.__module__ != "builtins":
                found[name] = value
    return [(name, value) for name, value in found.items() if isinstance(name, str)]


def _why(value: Any, why: Exception) -> str:
    if isinstance(why, _TooMuchError):
        return f"a {type_name(type(value))}, is too large to come along"
    return f"a {type_name(type(value))}, could not come along: {type(why).__name__}"
