"""The rows: a group, what is tried, and the code, whose last expression is what is compared.

They are in `rows/`, one file for each group: a line that begins with ``## `` names what is tried, and the code follows.
It has `ipp`, the package; `cluster`; `rc`, a client of it; `view`, `one` and `lview`, its views on all engines, on the
first, and on the shared queue.
"""

from __future__ import annotations

from pathlib import Path

GROUPS = (
    "package",
    "clients",
    "views",
    "calls",
    "namespaces",
    "results",
    "maps",
    "errors",
    "clusters",
)


def read(group: str) -> list[tuple[str, str, str]]:
    """Read the rows of a group."""
    text = (Path(__file__).parent / "rows" / f"{group}.txt").read_text()
    rows = []
    for row in text.split("## ")[1:]:
        title, _, code = row.partition("\n")
        rows.append((group.capitalize(), title, code.strip()))
    return rows


ROWS = [row for group in GROUPS for row in read(group)]
