"""The codecs in which arguments and values go, and how values are read."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from furlong import _furlong

__all__ = [
    "DATA",
    "JSON",
    "MSGPACK",
    "PICKLE",
    "RAW",
    "Codec",
    "Codecs",
    "check_codec",
    "decoded",
    "loads",
    "read_json",
    "value_of",
]

Codec = Literal["json", "msgpack", "pickle", "raw"]
JSON: Final = "json"
MSGPACK: Final = "msgpack"
PICKLE: Final = "pickle"
RAW: Final = "raw"

# Those in which a value may come; None stands for no value.
Codecs = tuple["Codec | None", ...]
# Those that run no code when they are read.
DATA: Codecs = (JSON, MSGPACK)


def value_of(outcome: _furlong.Outcome, codecs: Codecs) -> Any:
    """Read the value of a success.

    Raises
    ------
    ValueError
        If it came in another codec than it was asked for.
    """
    codec = outcome.codec
    check_codec(codec, codecs)
    if codec is not None:
        return decoded(codec, outcome.data())
    return None if outcome.exited is None else outcome.exited[0]


def check_codec(codec: Codec | None, codecs: Codecs) -> None:
    """Check that data come as they were asked for: who has asked for data does not load a pickle, which can run code.

    Raises
    ------
    ValueError
        If they do not.
    """
    if codec not in codecs:
        came = "no value came" if codec is None else f"it came as {_named(codec)}"
        raise ValueError(f"{came}, and what was asked for is {' or '.join(map(_named, codecs))}")


def _named(codec: Codec | None) -> str:
    return {None: "no value", PICKLE: "a pickle", JSON: "JSON"}.get(codec, codec or "")


def loads(buffers: Sequence[Any]) -> Any:
    """Unpickle a value; arrays have the memory that came beside it for their own."""
    return pickle.loads(buffers[0], buffers=buffers[1:])


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. The module for it is loaded when there is some."""
    import json

    return json.loads(text)


def decoded(codec: Codec, buffers: Sequence[Any]) -> Any:
    """Read data in a codec."""
    if codec == PICKLE:
        return loads(buffers)
    if codec == JSON:
        return read_json(bytes(buffers[0]))
    if codec == MSGPACK:
        from furlong.calls.msgpack import unpack

        return unpack(buffers[0])
    return buffers
