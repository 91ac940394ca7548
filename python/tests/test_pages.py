"""Clients, clusters, views and results as pages of notebooks; and the display of the farm that goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ENGINES, SOON_SECONDS, Gate
from notebook import Notebook

import furlong
from furlong.notebook import pages

HOSTILE = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """Reads a page: its text, and what else it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.values += [f"{name}={value}" for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    @property
    def text(self) -> str:
        """All of it, in one line."""
        return " ".join(" ".join(self._text).split())


def read(thing: object) -> Reader:
    """Read a thing's page, which has to be whole, static and without colours of its own for text."""
    page = thing._repr_html_()  # type: ignore[attr-defined]
    reader = Reader(page)
    assert not {"script", "style", "link", "iframe", "img"} & set(reader.tags)
    assert not [value for value in reader.values if value.startswith("on")]
    # Light or dark is the notebook's.
    for style in (value for value in reader.values if value.startswith("style=")):
        assert "background:#fff" not in style
        assert not re.search(r"[^-]color:(?!#(?:e69f00|999999|56b4e9|2f86c1|009e73))", style)
    return reader


def test_a_client_shows_the_farm(rc: furlong.Client) -> None:
    rc[:].apply_sync(int)
    reader = read(rc)
    assert f"Cluster {rc.cluster_name} at tcp://" in reader.text
    assert f"engines {ENGINES}, 0 busy" in reader.text
    assert f"0-{ENGINES - 1}" in reader.text
    rc.close()
    assert read(rc).text == "Client closed"


def test_a_client_shows_no_stale_farm_when_the_broker_is_away(
    rc: furlong.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise furlong.errors.ConnectionLost("the broker is away")

    monkeypatch.setattr(type(rc), "status", lambda self: fails())
    assert "the broker has not answered" in read(rc).text


def test_a_cluster_shows_its_state(own: Callable[..., furlong.Cluster]) -> None:
    cluster = own(n=1)
    assert "stopped, 0 engines" in read(cluster).text
    cluster.start_and_connect_sync().close()
    assert "running, 1 engines" in read(cluster).text
    assert f"Client(cluster='{cluster.cluster_id}')" in read(cluster).text


def test_views_show_engines_and_flags(rc: furlong.Client) -> None:
    assert f"{ENGINES} engines of {rc.cluster_name} engines 0-3" in read(rc[:]).text
    assert (
        "engines 0, 2-3 block True label night"
        in read(rc.direct_view([0, 2, 3], block=True, label="night")).text
    )
    assert "the shared queue" in read(rc.load_balanced_view(retries=2)).text
    assert "retries 2" in read(rc.load_balanced_view(retries=2)).text


def test_results_show_states_times_and_errors(rc: furlong.Client, gate: Gate) -> None:
    held = rc[0].apply_async(gate.wait)
    assert "1 pending" in read(held).text
    gate.open()
    held.get(SOON_SECONDS)
    reader = read(held)
    assert "1 succeeded" in reader.text
    assert re.search(r"run \d+ .?s \(\d+ %\)", reader.text)
    failed = rc[:].apply_async(lambda: 1 // engine_id)  # type: ignore[name-defined] # noqa: F821
    failed.wait()
    assert "3 succeeded, 1 failed" in read(failed).text
    assert "ZeroDivisionError" in read(failed).text
    assert "Traceback (most recent call last):" in read(failed).text


def test_a_result_of_a_map_shows_tasks_up_to_a_bound(lview: furlong.LoadBalancedView) -> None:
    result = lview.map_async(abs, range(100), chunksize=1)
    result.wait()
    assert "100 succeeded" in read(result).text
    assert "and 68 more" in read(result).text


def test_what_peers_send_is_text(rc: furlong.Client) -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    fail.__name__ = fail.__qualname__ = HOSTILE
    result = rc.direct_view(0, label=HOSTILE).apply_async(fail, HOSTILE)
    result.wait()
    assert read(result).text.count("<script>alert(1)</script>") >= 3
    assert "<script>" not in result._repr_html_()
    assert "<script>" not in rc.direct_view(0, label=HOSTILE)._repr_html_()


def test_hosts_and_names_of_the_broker_are_text(
    rc: furlong.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = rc.status()
    for process in status["processes"]:
        process["host"] = process["labels"] = HOSTILE
    monkeypatch.setattr(type(rc), "status", lambda self: status)
    assert "<script>" not in rc._repr_html_()
    assert "<script>alert(1)" in read(rc).text


def test_ids_are_shown_as_ranges() -> None:
    assert pages._ids([]) == "none"
    assert pages._ids([3, 1, 2, 7, 9, 8, 12]) == "1-3, 7-9, 12"


def test_the_link_to_the_page_has_no_key(rc: furlong.Client, home: Path) -> None:
    folder = home / rc.cluster_name / "run"
    folder.mkdir(exist_ok=True)
    served = folder / "dashboard.json"
    served.write_text('{"url": "http://127.0.0.1:4187/", "secret": "0123"}')
    try:
        reader = read(rc)
        assert "href=http://127.0.0.1:4187/" in reader.values
        assert "0123" not in rc._repr_html_()
        served.write_text('{"url": "javascript:alert(1)"}')
        assert "a" not in read(rc).tags
    finally:
        served.unlink()


def test_watch_outside_of_a_notebook_says_what_else_there_is(rc: furlong.Client) -> None:
    with pytest.raises(RuntimeError, match="furlong top"):
        rc.watch()


def test_watch_goes_on_while_cells_run_and_ends_by_itself(
    cluster: furlong.Cluster, rc: furlong.Client, tmp_path: Path
) -> None:
    notebook = Notebook(tmp_path)
    try:
        notebook.run(f"import furlong\nclient = furlong.Client({str(cluster.capability)!r})")
        cell = notebook.run(
            "import time\nwatch = client.watch(every=0.02, idle=0.2)\nbegan = client.status()\n"
            "for n in range(1000000):\n    client[:].apply_async(int).get()\n"
            "    print(client.status()['tasks_finished'] - began['tasks_finished'], end=' ')",
            interrupt_at=" 300 ",
        )
        assert cell.error is not None
        (page,) = [data["text/html"] for data in cell.displays]
        ended = re.search(r"ended</span> ([\d,]+)", page)
        assert ended is not None
        assert int(ended[1].replace(",", "")) > ENGINES
        # A cell that asks is a cell that runs: it waits.
        waiting = f"watch._thread.join({SOON_SECONDS})\nwatch"
        assert notebook.run("watch._cell_ends()\n" + waiting).texts == ["<Watch: ended>"]
        again = "other = client.watch()\nclient.close()\nother._thread.join()\nother"
        assert notebook.run(again).texts[-1] == "<Watch: ended>"
    finally:
        notebook.close()
