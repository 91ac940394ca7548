"""Why rows differ: by what is tried, one sentence."""

from __future__ import annotations

NOTES: dict[str, str] = {}
