"""Data for Rust functions, as msgpack."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]


def pack(value: object) -> bytes:
    """Encode plain data.

    Raises
    ------
    TypeError
        If a part of it is no plain data.
    """
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"Rust functions take numbers, text, bytes, lists and dictionaries: {error}"
        ) from None
    return packed


def unpack(data: object) -> Any:
    """Decode plain data."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)
