"""Runs all rows with one of the two packages, and writes what came out as JSON.

    python each.py furlong|ipyparallel OUT.json [GROUP]

Each row has a client of its own, and empty namespaces, on one cluster of two engines.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import re
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from rows import ROWS

ROW_SECONDS = 30
TEXT_MAX = 300
# ipyparallel's `clear` does not wait until all namespaces are empty.
CLEAR_SECONDS = 0.1
# What is different each time: ids, addresses, times, names of clusters, escapes of a terminal.
CHANGING = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b[0-9a-f]{32}:[0-9]+\b|\b[0-9a-f]{8}-[0-9a-f]{24,}(_[0-9]+){0,2}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f]{8,}\b"), "HEX"),
    (re.compile(r"0x[0-9a-f]+"), "0xADDRESS"),
    (re.compile(r"<ExecuteReply\[[0-9]+\]"), "<ExecuteReply[N]"),
    (re.compile(r"datetime\.datetime\(.*?tzinfo=[^)]*\)+"), "TIME"),
    (re.compile(r"\b[0-9]{10}-[a-z0-9]{4}\b|\bpy-[0-9a-f]{8}\b"), "NAME"),
    (re.compile(r"\bfurlong\b|\bipyparallel\b"), "PACKAGE"),
    (re.compile(r"/tmp/[^\s'\"]+"), "PATH"),
)


class TookTooLongError(BaseException):
    """A row has not ended in time."""


def text_of(value: Any) -> str:
    """Return a value as text, without what is different each time."""
    if isinstance(value, set):
        text = "{" + ", ".join(sorted(map(repr, value))) + "}" if value else "set()"
    elif isinstance(value, dict):
        text = repr(dict(value))
    else:
        text = repr(value)
    for pattern, stands_for in CHANGING:
        text = pattern.sub(stands_for, text)
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "..."


def raised(error: BaseException) -> str:
    """Name an exception: that of an engine by its type there, one of several by all of theirs."""
    if type(error).__name__ == "CompositeError":
        rows = error.elist  # type: ignore[attr-defined]
        return "CompositeError of " + ", ".join(str(row[0]) for row in rows)
    ename = getattr(error, "ename", None)
    names = [kind.__name__ for kind in type(error).__mro__]
    return f"RemoteError {ename}" if ename and "RemoteError" in names else type(error).__name__


def evaluated(code: str, names: dict[str, Any]) -> Any:
    """Run statements, and give the value of the last if it is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<row>", "exec"), names)
    return (
        None if last is None else eval(compile(ast.Expression(last.value), "<row>", "eval"), names)
    )


def outcome(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a row."""

    def too_long(*_: object) -> None:
        raise TookTooLongError

    found: dict[str, Any] = {}
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(ROW_SECONDS)
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(out):
            warnings.simplefilter("always")
            with contextlib.redirect_stderr(err):
                value = evaluated(code, names)
                found = {"type": type(value).__name__, "value": text_of(value)}
                with contextlib.suppress(Exception):
                    found["len"] = len(value)
    except TookTooLongError:
        found = {"raised": f"nothing in {ROW_SECONDS} s"}
    except Exception as error:
        found = {"raised": raised(error)}
    finally:
        signal.alarm(0)
    found["warned"] = sorted(
        {
            each.category.__name__
            for each in caught
            if each.category in (UserWarning, RuntimeWarning)
        }
    )
    found["printed"] = text_of(out.getvalue())
    return found


def main() -> None:
    """Run them all."""
    package, path, *groups = sys.argv[1:]
    ipp = importlib.import_module(package)
    sys.modules["ipp"] = ipp
    found: dict[str, Any] = {}
    with contextlib.redirect_stderr(io.StringIO()):
        cluster = ipp.Cluster(
            n=2, cluster_id="compared", **({"log_level": 40} if package == "ipyparallel" else {})
        )
        cluster.start_and_connect_sync().close()
    try:
        for group, title, code in ROWS:
            if groups and group not in groups:
                continue
            rc = cluster.connect_client_sync()
            rc.wait_for_engines(2, timeout=60)
            try:
                rc[:].clear(block=True)
                if package == "ipyparallel":
                    time.sleep(CLEAR_SECONDS)
                names = {
                    "ipp": ipp,
                    "rc": rc,
                    "view": rc[:],
                    "one": rc[0],
                    "lview": rc.load_balanced_view(),
                }
                found[title] = outcome(code, {"__name__": "__main__", "cluster": cluster, **names})
            finally:
                rc.close()
            Path(path).write_text(json.dumps({"version": ipp.__version__, "rows": found}, indent=1))
    finally:
        with contextlib.redirect_stderr(io.StringIO()):
            cluster.stop_cluster_sync()


if __name__ == "__main__":
    main()
