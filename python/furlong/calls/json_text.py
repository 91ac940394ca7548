"""JSON as the broker tells it. What reads it is imported when there is some."""

from __future__ import annotations

from typing import Any


def read(text: str | bytes) -> Any:
    """Return the value of a JSON text."""
    import json

    return json.loads(text)
