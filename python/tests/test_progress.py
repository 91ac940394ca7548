"""Bars: what they show, where they show nothing, and what waiting with them gives."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import time
from pathlib import Path
from typing import ClassVar

import pytest
import tqdm
from conftest import ENGINES, SOON_SECONDS, eventually

import furlong
from furlong.waiting.progress import Progress, is_interactive


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_059_waiting_with_a_bar(rc: furlong.Client) -> None:
    result = rc[:].map_async(abs, range(-8, 0))
    with contextlib.redirect_stderr(Terminal()) as terminal:
        assert result.wait_interactive(interval=0.01, timeout=SOON_SECONDS) is True
    assert result.progress == len(result) == 8
    lines = terminal.getvalue().split("\r")
    assert lines[0] == ""
    assert "] 0/8" in lines[1]
    assert "[" + "#" * 30 + "] 8/8 " in lines[-1]
    assert lines[-1].endswith("\n")
    assert "/s in 0:0" in lines[-1]


def test_059_the_first_exception_ends_the_wait(rc: furlong.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    calls = [
        view.apply_async(wait_for if view.targets != rc.ids[1] else fail, str(go)) for view in rc
    ]
    result = furlong.AsyncResult.join(*calls)
    done, pending = result.wait_interactive(timeout=SOON_SECONDS, return_when="FIRST_EXCEPTION")
    failed = [child for child in done if child.exception() is not None]
    assert [child.engine_id for child in failed] == [rc.ids[1]]
    assert len(done) + len(pending) == ENGINES
    assert result.progress < ENGINES
    go.touch()
    assert result.wait(SOON_SECONDS)
    assert result.wait_interactive(return_when="FIRST_EXCEPTION") == (set(result.split()), set())
    assert result.progress == ENGINES


def test_059_the_first_end_and_no_end_in_time(rc: furlong.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    result = furlong.AsyncResult.join(
        rc[0].apply_async(os.getpid), rc[1].apply_async(wait_for, str(go))
    )
    (done,), (pending,) = result.wait_interactive(
        timeout=SOON_SECONDS, return_when="FIRST_COMPLETED"
    )
    assert (done.engine_id, pending.engine_id) == (rc.ids[0], rc.ids[1])
    assert result.wait_interactive(interval=0.01, timeout=0.05) is False
    assert rc.wait_interactive(result, interval=0.01, timeout=0.05) is False
    with pytest.raises(ValueError, match="SOON"):
        result.wait_interactive(return_when="SOON")
    go.touch()
    own: concurrent.futures.Future[None] = concurrent.futures.Future()
    own.set_result(None)
    assert rc.wait_interactive([result, own], timeout=SOON_SECONDS) is True


def test_nothing_is_shown_where_nobody_looks(
    rc: furlong.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not is_interactive()
    assert rc[:].apply_async(os.getpid).wait_interactive(timeout=SOON_SECONDS) is True
    rc.wait_for_engines(ENGINES, interactive=True)
    assert capfd.readouterr() == ("", "")


def test_waiting_for_engines_with_a_bar(rc: furlong.Client) -> None:
    with contextlib.redirect_stderr(Terminal()) as terminal, pytest.raises(TimeoutError):
        rc.wait_for_engines(ENGINES + 1, timeout=0.1, interactive=True)
    assert f"] {ENGINES}/{ENGINES + 1} " in terminal.getvalue()


@pytest.mark.parametrize("make", ["lview", "view"])
def test_maps_show_a_bar_of_another_library(
    make: str,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its thread would stay.
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    view = request.getfixturevalue(make)
    assert view.map_sync(abs, range(-8, 0), progress=tqdm.tqdm) == list(range(8, 0, -1))
    assert "abs: 100%" in capfd.readouterr().err
    result = view.map_async(abs, range(-8, 0))
    assert result.wait_interactive(progress=tqdm.tqdm, timeout=SOON_SECONDS) is True
    assert view.client.wait_interactive([result], progress=tqdm.tqdm) is True
    shown = capfd.readouterr().err
    assert "abs: 100%" in shown
    assert "results: 100%" in shown


def test_maps_show_a_bar_of_ours(lview: furlong.LoadBalancedView) -> None:
    with contextlib.redirect_stderr(Terminal()) as terminal:
        assert lview.map_sync(abs, range(-8, 0), progress=True) == list(range(8, 0, -1))
    assert "] 8/8 " in terminal.getvalue()
    assert lview.map_sync(abs, range(3)) == [0, 1, 2]


def test_a_map_that_nobody_waits_for_has_a_bar(
    lview: furlong.LoadBalancedView, tmp_path: Path
) -> None:
    counted = Counted.made = []
    result = lview.map_async(wait_for, [str(tmp_path / "go")] * 4, progress=Counted)
    assert not result.done()
    (bar,) = counted
    assert (bar.total, bar.desc, bar.closed) == (4, "wait_for", False)
    (tmp_path / "go").touch()
    result.get(SOON_SECONDS)
    eventually(lambda: bar.closed)
    assert bar.n == 4


class Counted:
    """A bar as other libraries have them."""

    made: ClassVar[list[Counted]] = []

    def __init__(self, total: int, desc: str) -> None:
        self.total, self.desc = total, desc
        self.n, self.closed = 0, False
        self.made.append(self)

    def update(self, n: int) -> None:
        """Go on."""
        self.n += n

    def close(self) -> None:
        """End."""
        self.closed = True


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with contextlib.redirect_stderr(Terminal()) as terminal:
        bar = Progress(8000, "squares")
    assert bar.line == f"squares [{'-' * 30}] 0/8000"
    now[0] += 4
    bar.update(2)
    assert bar.figures == "2/8000 0.5/s 4:26:36 left"
    bar.update(4000)
    assert bar.line == f"squares [{'#' * 15}{'-' * 15}] 4000/8000 1000/s 0:04 left"
    now[0] += 70
    bar.update(8000)
    assert bar.figures == "8000/8000 108/s in 1:14"
    bar.close()
    bar.close()
    assert terminal.getvalue().rstrip(" \n").endswith("1:14")
    assert terminal.getvalue().count("\n") == 1


def fail(_: str) -> None:
    raise ValueError("it was told to")


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)
