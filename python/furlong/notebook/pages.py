"""Clients, clusters, views and results as HTML, for notebooks.

The pages are static: no script, no style sheet, nothing from elsewhere. Colours of text and background are the
notebook's own, light or dark. What peers have sent (names, hosts, labels, errors) is text, and escaped.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from furlong import errors
from furlong.views.flags import FLAGS

if TYPE_CHECKING:
    from furlong.client.client import Client
    from furlong.cluster.cluster import Cluster
    from furlong.results.async_result import AsyncResult
    from furlong.results.subtasks import SubTask
    from furlong.runs.profile import Profile
    from furlong.views.view import View

__all__ = ["page_of_client", "page_of_cluster", "page_of_profile", "page_of_result", "page_of_view"]

# How long the broker may take to say how it is: a notebook shows a page without that.
ANSWER_SECONDS = 3.0
# Rows of a table, errors of a result, and characters of one text.
ROWS_MAX = 32
ERRORS_MAX = 4
TEXT_MAX = 4000
# The parts of a task's time, with the colours that the farm's page has for them.
SPANS = (
    ("queue", "#e69f00"),
    ("way", "#999999"),
    ("load", "#56b4e9"),
    ("run", "#2f86c1"),
    ("store", "#009e73"),
)


# Pages.


def page_of_client(client: Client, note: str = "") -> str:
    """Return a farm as it is now."""
    if client._closed:
        return _box("Client", "closed", [])
    heading = f"Cluster {client.cluster_name}"
    status = _status(client)
    if status is None:
        return _box(heading, "the broker has not answered", [])
    online = [engine for engine in status["engines"] if engine["online"]]
    busy = sum(engine["tasks_assigned"] > 0 for engine in online)
    used, limit = status["payload_bytes"]
    facts = [
        ("engines", f"{len(online)}, {busy} busy"),
        ("waiting", f"{status['tasks_waiting'] + status['tasks_held']:,}"),
        ("running", f"{status['tasks_assigned']:,}"),
        ("ended", f"{status['tasks_finished']:,}"),
        ("results held", f"{status['results_held']:,}"),
        ("payloads", f"{_bytes(used)} of {_bytes(limit)}"),
        ("up", _duration(status["uptime_ms"] / 1000)),
    ]
    pieces = [_facts(facts), _details("Engines by host", _hosts(status)), _link(client)]
    return _box(heading, f"at {client._session.endpoint}", [*pieces, _dim(note)])


def page_of_cluster(cluster: Cluster) -> str:
    """Return a cluster of this process: its name, state and processes."""
    known = repr(cluster).removeprefix("<").removesuffix(">")
    name, _, state = known.partition(": ")
    text = f"connect by <code>furlong.Client(cluster={escape(repr(cluster.cluster_id))})</code>"
    return _box(name, state, [f"<div>{text}</div>"] if state.startswith("running") else [])


def page_of_view(view: View) -> str:
    """Return a view: its engines, and the flags that are not the usual ones."""
    client = view.client
    own = view._own_engines() if not client._closed else []
    online = set() if client._closed else set(client.ids)
    where = "the shared queue" if own is None else f"{len(own)} engines"
    facts = []
    if own is None:
        chosen: Any = view.targets
        own = sorted(online) if chosen is None else chosen
    gone = [engine for engine in own if engine not in online]
    facts.append(("engines", _ids(engine for engine in own if engine in online)))
    if gone:
        facts.append(("not online", _ids(gone)))
    flags = {
        name: getattr(view, name)
        for name, usual in FLAGS.items()
        if name != "targets" and getattr(view, name) != usual
    }
    facts += [(name, _short(value)) for name, value in flags.items()]
    state = "closed" if client._closed else f"{where} of {client.cluster_name}"
    return _box(type(view).__name__, state, [_facts(facts)])


def page_of_result(result: AsyncResult) -> str:
    """Return how far a result is, where the time went, and what has failed."""
    parts = list(result._parts)
    ended = [part for part in parts if part.poll()]
    for part in ended:
        part.settle()
    name = parts[0].info.name if parts else ""
    heading = f"{type(result).__name__} {name}".rstrip()
    states = Counter(_state(part) for part in parts)
    state = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    facts = [("elapsed", _duration(result.elapsed))] if parts else []
    if parts and parts[0].info.label:
        facts.append(("label", _short(parts[0].info.label)))
    failed = [part for part in ended if part.error is not None]
    pieces = [_facts(facts), _times(ended), _details("Tasks", _tasks(parts)), *_failures(failed)]
    return _box(heading, state or "no tasks", pieces)


def page_of_profile(profile: Profile) -> str:
    """Return where an interpreter was most: functions and lines."""
    name, _, state = repr(profile)[1:-1].partition(": ")
    if not profile.samples:
        return _box(name, state, [])
    shown = profile.functions[:ROWS_MAX]
    rows = [
        (
            f"{profile.share(one['self']):.1f} %",
            f"{profile.share(one['total']):.1f} %",
            _short(one["function"]),
            _short(f"{one['file']}:{one['line']}"),
        )
        for one in shown
    ]
    functions = _table(
        ("self", "total", "function", "where"), rows, len(profile.functions) - ROWS_MAX
    )
    lines = [
        (f"{profile.share(one['self']):.1f} %", _short(f"{one['file']}:{one['line']}"))
        for one in profile.lines
    ]
    facts = [("task", profile.task)] if profile.task else []
    pieces = [_facts(facts), functions, _details("Lines", _table(("self", "line"), lines))]
    return _box(name, state, pieces)


# What they show.


def _status(client: Client) -> dict[str, Any] | None:
    """Ask the broker, but not for long: it may be away."""
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        try:
            answers.append(client.status())
        except errors.FurlongError:
            return

    asking = threading.Thread(target=ask, name="furlong-status", daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answers[0] if answers else None


def _hosts(status: dict[str, Any]) -> str:
    engines = {engine["id"]: engine for engine in status["engines"]}
    by_host: dict[str, list[Any]] = defaultdict(list)
    for process in status["processes"]:
        by_host[process["host"]].append(process)
    rows = []
    for host, processes in sorted(by_host.items()):
        ids = [id for process in processes for id in process["engines"] if id in engines]
        own = [engines[id] for id in ids if engines[id]["online"]]
        labels = sorted({label for process in processes for label in process["labels"]})
        rows.append(
            (
                host,
                _ids(engine["id"] for engine in own),
                f"{sum(engine['tasks_assigned'] > 0 for engine in own)}",
                f"{sum(engine['tasks_queued'] for engine in own):,}",
                f"{sum(engine['tasks_finished'] for engine in own):,}",
                _short(", ".join(labels)),
            )
        )
    return _table(("host", "engines", "busy", "queued", "ended", "labels"), rows)


def _link(client: Client) -> str:
    """Return the address of the farm's page, if one is served here for this user; it holds no key."""
    from furlong._home import home, read_json

    served = read_json(home() / client.cluster_name / "run" / "dashboard.json") or {}
    url = str(served.get("url", ""))
    if not url.startswith(("http://", "https://")):
        return ""
    link = f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{escape(url)}</a>'
    return f"<div>page: {link} (<code>furlong dashboard url</code> prints its key)</div>"


def _state(part: SubTask) -> str:
    if not part.poll():
        return "pending"
    if part.error is None:
        return "succeeded"
    if isinstance(part.error, errors.TaskCancelled):
        return "cancelled"
    return "aborted" if isinstance(part.error, errors.TaskAborted) else "failed"


def _tasks(parts: Sequence[SubTask]) -> str:
    rows = []
    for part in parts[: ROWS_MAX + 1]:
        run = part.metadata("run_time") if part.is_settled else None
        failure = "" if part.error is None else str(part.error).split("\n", 1)[0]
        engine = "" if part.engine_id is None else str(part.engine_id)
        took = "" if run is None else _duration(run)
        rows.append((part.task.id.rpartition(":")[2], engine, _state(part), took, _short(failure)))
    more = len(parts) - ROWS_MAX
    return _table(("task", "engine", "state", "run", "error"), rows[:ROWS_MAX], more)


def _failures(failed: Sequence[SubTask]) -> list[str]:
    """Return tracebacks, each of which opens."""
    pieces = []
    for part in failed[:ERRORS_MAX]:
        error = part.error
        heading = str(error).split("\n", 1)[0]
        lines = error.render_traceback() if isinstance(error, errors.RemoteError) else [str(error)]
        text = escape("\n".join(lines)[-TEXT_MAX:])
        style = "margin:4px 0;overflow:auto;white-space:pre-wrap"
        pieces.append(_details(_short(heading), f'<pre style="{style}">{text}</pre>'))
    if len(failed) > ERRORS_MAX:
        pieces.append(_dim(f"and {len(failed) - ERRORS_MAX:,} more errors"))
    return pieces


def _times(ended: Sequence[SubTask]) -> str:
    """Return where the time of tasks went, added up, as a bar with its legend."""
    sums = dict.fromkeys((name for name, _ in SPANS), 0.0)
    for part in ended:
        outcome = part.outcome
        if outcome is None or not outcome.times[0]:
            continue
        _, assigned, finished, _ = outcome.times
        waited, loaded, run, stored = outcome.parts
        if assigned is None:
            continue
        at_engine = max(0, finished - assigned)
        sums["queue"] += assigned + min(waited, at_engine)
        sums["load"] += loaded
        sums["run"] += run
        sums["store"] += stored
        sums["way"] += max(0, at_engine - waited - loaded - run - stored)
    total = sum(sums.values())
    if not total:
        return ""
    bar, legend = [], []
    for name, colour in SPANS:
        share = sums[name] / total * 100
        bar.append(f'<span style="display:block;width:{share:.2f}%;background:{colour}"></span>')
        mark = f'<span style="color:{colour}">&#9632;</span>'
        legend.append(f"{mark} {name} {_duration(sums[name] / 1e6)} ({share:.0f} %)")
    style = "display:flex;height:10px;border-radius:3px;overflow:hidden;margin:6px 0 2px"
    return f'<div style="{style}">{"".join(bar)}</div><div>{"&ensp;".join(legend)}</div>'


# HTML.


def _box(heading: str, state: str, pieces: Iterable[str]) -> str:
    style = (
        "border:1px solid rgba(128,128,128,.45);border-radius:6px;padding:8px 12px;margin:4px 0;"
        "max-width:64em;font-size:13px;line-height:1.5"
    )
    title = f"<div><strong>{escape(heading)}</strong> {escape(state)}</div>"
    return f'<div style="{style}">{title}{"".join(pieces)}</div>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    each = (f"<span>{_faint(name)} {escape(value)}</span>" for name, value in facts)
    return f'<div style="display:flex;flex-wrap:wrap;gap:2px 18px">{"".join(each)}</div>'


def _faint(text: str) -> str:
    return f'<span style="opacity:.7">{escape(text)}</span>'


def _dim(text: str) -> str:
    return f"<div>{_faint(text)}</div>" if text else ""


def _details(heading: str, content: str) -> str:
    return f"<details><summary>{escape(heading)}</summary>{content}</details>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], more: int | None = None) -> str:
    more = len(rows) - ROWS_MAX if more is None else more
    cell = 'style="text-align:left;padding:1px 10px 1px 0"'
    head = "".join(f"<th {cell}>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{escape(text)}</td>" for text in row) + "</tr>"
        for row in rows[:ROWS_MAX]
    )
    rest = _dim(f"and {more:,} more") if more > 0 else ""
    style = 'style="font-size:inherit"'
    return f"<table {style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _ids(ids: Iterable[int]) -> str:
    """Return ids as ranges, as ``0-3, 7``."""
    ranges: list[list[int]] = []
    for id in sorted(ids):
        if ranges and ranges[-1][1] == id - 1:
            ranges[-1][1] = id
        else:
            ranges.append([id, id])
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in ranges]
    return _short(", ".join(texts)) or "none"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min" if hours < 2 else f"{hours} h {minutes % 60} min"
