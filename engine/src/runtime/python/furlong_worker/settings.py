"""The settings of this interpreter. The engine appends the values as it sends this file."""

from __future__ import annotations

LABELS: list[str] = []
