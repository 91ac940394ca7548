"""Looks at the farm, and its metrics as Prometheus' own parser reads them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from conftest import SOON_SECONDS, eventually

import furlong


def fit(n: int) -> int:
    if n == 3:
        raise ValueError(n)
    return n


def run_some(rc: furlong.Client) -> None:
    """Run five tasks, one of which fails."""
    for result in [rc.load_balanced_view().apply_async(fit, n) for n in range(5)]:
        result.wait(SOON_SECONDS)


def kind_of(seen: dict[str, Any]) -> dict[str, Any]:
    [kind] = (kind for kind in seen["kinds"] if kind["name"] == "test_watching.fit")
    found: dict[str, Any] = kind
    return found


def test_a_look_shows_the_farm(rc: furlong.Client, gate: Any) -> None:
    before = rc.look()["farm"]["tasks"]
    run_some(rc)
    waits = rc[0].apply_async(gate.wait)
    eventually(lambda: rc.look()["engines"][0]["running"])
    seen = rc.look()
    assert seen["farm"]["engines"] == {"online": len(rc), "away": 0, "busy": 1}
    after = seen["farm"]["tasks"]
    assert (after["ended"] - before["ended"], after["failed"] - before["failed"]) == (5, 1)
    kind = kind_of(seen)
    assert kind["ended"] - kind["failed"] == 4 * kind["failed"]
    assert [engine["id"] for engine in seen["engines"]] == rc.ids
    assert seen["ends_told"] == len(seen["ends"]) == after["ended"]
    assert any(failure["type"] == "ValueError" for failure in seen["failures"])
    gate.open()
    waits.get(SOON_SECONDS)


def test_prometheus_reads_the_metrics(rc: furlong.Client) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    run_some(rc)
    words = [sys.executable, "-m", "furlong", "metrics", "--cluster", rc.cluster_name]
    text = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["furlong_tasks_ended"].type == "counter"
    ended = {
        sample.labels["outcome"]: sample.value for sample in families["furlong_tasks_ended"].samples
    }
    tasks = rc.look()["farm"]["tasks"]
    assert ended["failed"] == tasks["failed"] > 0
    assert sum(ended.values()) == tasks["ended"]
    phases = families["furlong_task_phase_seconds"]
    assert phases.type == "histogram"
    counts = [
        sample.value
        for sample in phases.samples
        if sample.name.endswith("_count")
        and sample.labels == {"kind": "test_watching.fit", "phase": "run"}
    ]
    assert counts == [kind_of(rc.look())["ended"]]
