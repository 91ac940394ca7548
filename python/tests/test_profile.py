"""Profiles of running tasks, as `rc.take_profile` takes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import SOON_SECONDS, eventually
from test_pages import read

import furlong
from furlong.inspection.profile import Profile

SVG = "{http://www.w3.org/2000/svg}"


def spins(stop: str) -> None:
    """Be busy until a file is there."""
    while not Path(stop).exists():
        inner()


def inner() -> int:
    """Be busy for longer than Python lets a thread have its lock: else it is only seen where that is let go of."""
    total = 0
    for number in range(500_000):
        total += number
    return total


@pytest.fixture
def running(rc: furlong.Client, tmp_path: Path) -> Iterator[furlong.AsyncResult]:
    """Run `spins`."""
    stop = tmp_path / "stop"
    result = rc[rc.ids[1]].apply_async(spins, str(stop))

    def is_there() -> bool:
        with contextlib.suppress(furlong.errors.RequestRefused):
            return "in spins" in str(rc.stack(result))
        return False

    eventually(is_there)
    yield result
    stop.touch()
    result.get(timeout=SOON_SECONDS)


def test_a_profile_has_the_hottest_functions_and_the_stacks(
    rc: furlong.Client, running: furlong.AsyncResult, tmp_path: Path
) -> None:
    taken: list[Profile] = []

    def has_both() -> bool:
        # A busy machine lets few samples be taken, and all of them may be of one function.
        taken.append(rc.take_profile(running, seconds=0.5, rate=200))
        return {"spins", "inner"} <= {one["function"] for one in taken[-1].functions}

    eventually(has_both)
    profile = taken[-1]
    assert (profile.engine, profile.task) == (rc.ids[1], running.msg_ids[0])
    assert profile.samples > 1 and 0.1 < profile.seconds <= SOON_SECONDS and not profile.in_c
    found = {one["function"]: one for one in profile.functions}
    assert found["spins"]["total"] >= found["spins"]["self"]
    assert found["spins"]["total"] >= found["inner"]["total"] > 0
    assert profile.lines[0]["self"] >= profile.lines[-1]["self"] > 0
    assert f"engine {rc.ids[1]}: " in repr(profile) and "total  function" in str(profile)
    stacks = [line.rpartition(" ") for line in profile.folded().splitlines()]
    assert all(stack.startswith("MainThread;") and int(us) > 0 for stack, _, us in stacks)
    assert any("spins (" in stack and "inner (" in stack for stack, _, _ in stacks)
    written = json.loads(profile.save(tmp_path / "p.json").read_text())
    assert written["profiles"][0]["type"] == "sampled"
    assert profile.save(tmp_path / "p.folded").read_text() == profile.folded()
    picture = profile.save(tmp_path / "p.svg").read_text()
    assert picture == profile.flame_graph() and picture.startswith("<svg ")
    titles = [str(it.text) for it in ElementTree.fromstring(picture).iterfind(f".//{SVG}title")]
    assert any(title.startswith("spins (") for title in titles), titles
    with pytest.raises(ValueError, match="the ending says the format"):
        profile.save(tmp_path / "p.pdf")
    page = read(profile)
    assert "inner" in page.text and "spins" in page.text and "%" in page.text


def test_a_profile_of_an_engine_has_what_runs_there(
    rc: furlong.Client, running: furlong.AsyncResult
) -> None:
    assert "spins (" in rc.take_profile(rc.ids[1], seconds=0.2).folded()


def test_what_cannot_be_sampled_is_refused(rc: furlong.Client) -> None:
    result = rc[rc.ids[0]].apply_async(int)
    result.get(timeout=SOON_SECONDS)
    with pytest.raises(furlong.errors.RequestRefused, match="does not run"):
        rc.take_profile(result)
    with pytest.raises(ValueError, match="from 0.1 to 600"):
        rc.take_profile(0, seconds=601)
    with pytest.raises(ValueError, match="from 1 to 200"):
        rc.take_profile(0, rate=0)
    with pytest.raises(furlong.errors.RequestRefused, match="there is no engine 99"):
        rc.take_profile(99, seconds=0.1)
