"""The codecs of `wire/src/call.rs`: arguments become a call, and its value a reply."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from time import monotonic_ns
from typing import Any, Callable, Sequence

from furlong_worker import Buffer, pickles
from furlong_worker.channel import JSON, PICKLE, RAW
from furlong_worker.errors import type_name
from furlong_worker.given import GIVEN, all_taken
from furlong_worker.pickles import BUFFERS_MAX
from furlong_worker.scopes import notes

# Nesting that every reader of json can follow.
DEPTH_MAX = 100


PUBLISHED_BYTES_MAX = 16 * 1024 * 1024


class Steps:
    """The times at which the running job had its arguments, and its code returned; 0 before that."""

    __slots__ = ("loaded", "returned")

    def __init__(self) -> None:
        self.loaded = self.returned = 0


# An object, and not the class: whatever sets attributes of a class makes it slow to read.
STEPS = Steps()


def apply(function: Callable[..., Any], codec: int, data: Sequence[Buffer]) -> list[Buffer]:
    """Decode the arguments, call, and encode the value.

    A pickle says where inputs go; in other codecs they are the last arguments.
    """
    if not data and codec != RAW:
        raise TypeError("the call has no buffer with its arguments")
    if codec == JSON:
        args, kwargs = _arguments_from_json(data)
        if GIVEN.inputs:
            args = [*args, *all_taken()]
        STEPS.loaded = monotonic_ns()
        value = function(*args, **kwargs)
        STEPS.returned = monotonic_ns()
        return [_value_to_json(value)]
    if codec == PICKLE:
        args, kwargs = pickles.load(data[0], data[1:])
        STEPS.loaded = monotonic_ns()
        value = function(*args, **kwargs)
        STEPS.returned = STEPS.returned or monotonic_ns()  # a map says it itself
        parts = pickles.dump(value)
        return pickles.with_notes(parts) if notes else parts
    if codec == RAW:
        raw = [memoryview(buffer) for buffer in data]
        STEPS.loaded = monotonic_ns()
        value = function(*raw, *all_taken())
        STEPS.returned = monotonic_ns()
        return _value_to_raw(value)
    raise TypeError("Python functions take their arguments as json, pickle or raw, not as msgpack")


def encode(value: Any, codec: int) -> list[Buffer]:
    """Encode a value of ours in the codec of a call."""
    if codec == JSON:
        return [_value_to_json(value)]
    if codec == PICKLE:
        return pickles.dump(value)
    raise TypeError("this operation answers as json or pickle, not as msgpack or raw")


def encode_published(value: Any) -> tuple[int, list[Buffer]]:
    """Encode a value as json if that says the same, else as a pickle."""
    codec: int = PICKLE
    buffers: list[Buffer] = []
    if _is_plain(value, 0):
        with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair
            codec, buffers = JSON, [_json_encode(value).encode("utf-8")]
    if codec == PICKLE:
        buffers = pickles.dump(value)
    size = 128 + sum(len(buffer) + 72 for buffer in buffers)  # with what a payload adds
    if size > PUBLISHED_BYTES_MAX:
        raise ValueError(
            f"the published value has {size} bytes, over the limit of {PUBLISHED_BYTES_MAX}; "
            "publish less, or return it as the task's result"
        )
    return codec, buffers


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether json gives the value back as it is."""
    cls = type(value)
    if cls is float:
        return bool(math.isfinite(value))
    if cls is dict:
        return depth < DEPTH_MAX and all(
            type(key) is str and _is_plain(item, depth + 1) for key, item in value.items()
        )
    if cls is list:
        return depth < DEPTH_MAX and all(_is_plain(item, depth + 1) for item in value)
    return value is None or cls is str or cls is bool or (cls is int and -(2**63) <= value < 2**64)


_json_decode = json.JSONDecoder().decode
_json_escape = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_json_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _arguments_from_json(data: Sequence[Buffer]) -> tuple[Sequence[Any], dict[str, Any]]:
    if data[0] == b"[[],{}]":
        return (), {}
    call = _json_decode(str(data[0], "utf-8"))
    try:
        args, kwargs = call
        if isinstance(args, list) and isinstance(kwargs, dict):
            return args, kwargs
    except (TypeError, ValueError):
        pass
    raise TypeError("the arguments of a json call are [[positional...], {named...}]")


def _value_to_json(value: Any) -> bytes:
    if value is None:
        return b"null"
    try:
        return _json_encode(value).encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair, such as names of files have that are not UTF-8: json can say it
        # by its number.
        return _json_escape(value).encode("ascii")
    except RecursionError:
        raise TypeError(
            f"the result, a {type_name(type(value))}, is nested too deeply for json"
        ) from None
    except (TypeError, ValueError):
        said = _Said()
        text = _json_escape(said.plain(value, "result"))
        said.warn()
        return text.encode("ascii")


class _Said:
    """Makes a value of what json can say; anything else becomes its text."""

    def __init__(self) -> None:
        self._odd: list[str] = []
        self._holders: list[int] = []

    def plain(self, value: Any, path: str) -> Any:
        """Return a value that json can say, and note what had to become text."""
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else self._text(value, path)
        if isinstance(value, (dict, list, tuple)):
            if id(value) in self._holders or len(self._holders) == DEPTH_MAX:
                raise TypeError(
                    f"the result cannot be written as json: {path} holds itself, or is nested too deeply"
                )
            self._holders.append(id(value))
            plain = self._plain_parts(value, path)
            self._holders.pop()
            return plain
        item = getattr(value, "item", None)
        if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 and item is not None:
            number = item()  # a number of NumPy
            return (
                self._text(value, path) if type(number) is type(value) else self.plain(number, path)
            )
        return self._text(value, path)

    def _plain_parts(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return [self.plain(part, f"{path}[{at}]") for at, part in enumerate(value)]
        plain = {}
        for key, part in value.items():
            name = key
            if key is not None and not isinstance(key, (str, bool, int)):
                name = (
                    key
                    if isinstance(key, float) and math.isfinite(key)
                    else self._text(key, f"a key of {path}")
                )
            if name in plain:
                raise TypeError(
                    f"the result cannot be written as json: two keys of {path} have the text {name!r}"
                )
            plain[name] = self.plain(part, f"{path}[{key!r}]")
        return plain

    def _text(self, value: Any, path: str) -> str:
        self._odd.append(
            f"{path} is {str(value)!r}"
            if isinstance(value, float)
            else f"{path} is a {type_name(type(value))}"
        )
        return str(value)

    def warn(self) -> None:
        """Write to the standard error what became text."""
        if self._odd:
            more = f", and {len(self._odd) - 1} more" if len(self._odd) > 1 else ""
            print(
                f"furlong: {self._odd[0]}{more}, which json cannot say: it is given as text",
                file=sys.stderr,
            )


def _value_to_raw(value: Any) -> list[Buffer]:
    if value is None:
        return []
    parts = value if isinstance(value, (list, tuple)) else [value]
    if len(parts) > BUFFERS_MAX:
        raise ValueError(f"a result has at most {BUFFERS_MAX} buffers, not {len(parts)}")
    try:
        return [memoryview(part).cast("B") for part in parts]
    except TypeError as error:
        raise TypeError(
            f"the result of a raw call is bytes-like, or a list of such, not a {type_name(type(value))}: {error}"
        ) from None
