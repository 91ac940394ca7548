"""Compares Furlong with ipyparallel, row by row, and writes the page of the guide that says what came out.

    python compare.py --peer PYTHON [--write PAGE]

Furlong runs with this interpreter, ipyparallel with the other. It fails if a row differs for which `notes.py` has no
reason, or if a reason is left over.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from notes import NOTES
from rows import ROWS

HERE = Path(__file__).parent


def results(python: str, package: str, folder: Path) -> dict[str, Any]:
    """Run all rows with one package."""
    path = folder / f"{package}.json"
    (folder / package).mkdir()
    environment = {
        **os.environ,
        "FURLONG_HOME": str(folder / "home"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    environment.pop("FURLONG_CAP", None)
    subprocess.run(
        [python, str(HERE / "each.py"), package, str(path)],
        check=True,
        env=environment,
        cwd=folder / package,
    )
    known: dict[str, Any] = json.loads(path.read_text())
    return known


def shown(found: dict[str, Any]) -> str:
    """Return the outcome as the text of a table's cell."""
    text = f"raises {found['raised']}" if "raised" in found else f"{found['value']}"
    if "raised" not in found and found["type"] not in text:
        text = f"{found['type']}: {text}"
    if found["warned"]:
        text += f" (warns: {', '.join(found['warned'])})"
    if found["printed"] != "''":
        text += f" (prints {found['printed']})"
    text = text.replace("|", "\\|").replace("\n", " ")
    return f"`{text[:90]}{'...' if len(text) > 90 else ''}`"


def page(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the page, and what is wrong."""
    wrong: list[str] = []
    tables: dict[str, list[str]] = {}
    same = 0
    today = datetime.datetime.now(datetime.timezone.utc).date()
    for group, title, code in ROWS:
        here, there = ours["rows"][title], theirs["rows"][title]
        note = NOTES.get(title, "")
        if here == there:
            same += 1
            if note:
                wrong.append(f"{title}: it is the same now; take the reason out of notes.py")
            continue
        if not note:
            wrong.append(
                f"{title}: {json.dumps(here)} here, {json.dumps(there)} there\n    {code!r}"
            )
        tables.setdefault(group, []).append(
            f"| {title} | {shown(there)} | {shown(here)} | {note} |"
        )
    wrong += [f"{title}: there is no such row" for title in NOTES if title not in ours["rows"]]
    lines = [
        "# Compared with ipyparallel",
        "",
        f"Each of {len(ROWS)} short programs was run with both packages, ipyparallel {theirs['version']} and Furlong",
        f"{ours['version']}, on {today}, and values, types, lengths, exceptions, warnings and printed",
        f"text were compared. {same} are the same. `cargo xtask compare-ipyparallel` does it again, for this page.",
        "The code of each row is in `python/compare/rows/`. In it `rc` is a client of two engines, `view`, `one` and",
        "`lview` are its views on both, on the first, and on the shared queue, and `ipp` is the package.",
        "",
    ]
    for group, rows in tables.items():
        lines += [
            f"## {group}",
            "",
            "| | ipyparallel | here | why |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    lines += ["## The same", ""]
    by_group: dict[str, list[str]] = {}
    for group, title, _ in ROWS:
        if ours["rows"][title] == theirs["rows"][title]:
            by_group.setdefault(group, []).append(title)
    lines += [f"- {group}: {'; '.join(titles)}." for group, titles in by_group.items()]
    return "\n".join(lines) + "\n", wrong


def main() -> int:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="an interpreter that has ipyparallel")
    parser.add_argument("--write", type=Path, help="the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = results(options.peer, "ipyparallel", Path(folder))
        ours = results(sys.executable, "furlong", Path(folder))
    text, wrong = page(ours, theirs)
    if options.write:
        options.write.write_text(text)
    for line in wrong:
        print(line)
    print(f"{len(ROWS)} rows; {len(wrong)} differ without a reason, or have a reason too many")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
