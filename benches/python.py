"""The Python package beside `concurrent.futures.ProcessPoolExecutor`: 2 workers each, in turns, in one run.

    python benches/python.py [--rounds 3] [all|calls|map|arrays|start|memory]

It uses the installed package `furlong`, and starts a private cluster of its own. Run it on an idle machine, with the
package built in the release profile. Every result is checked. Figures are the medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import furlong
import numpy

TASKS = 10_000
ITEMS = 1_000_000
MIB = 1 << 20


def noop(x: object = None) -> object:
    """Return the argument back."""
    return x


def double(x: int) -> int:
    """Do a trivial thing."""
    return x + x


def latency_us(call: Callable[[], object], count: int = 1000) -> float:
    """Return the median time of a call, in microseconds."""
    for _ in range(50):
        call()
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(times)


def per_second(count: int, run: Callable[[], object]) -> float:
    """Return the rate of something that does so many."""
    begun = time.perf_counter()
    run()
    return count / (time.perf_counter() - begun)


def report(name: str, ours: float, theirs: float | None, unit: str, asked: str) -> None:
    """Print one line."""
    beside = (
        "" if theirs is None else f"  executor {theirs:>12,.1f} {unit}  ratio {ours / theirs:.2f}"
    )
    print(f"{name:<34} furlong {ours:>12,.1f} {unit}{beside}  (asked: {asked})", flush=True)


def calls(rc: furlong.Client, rounds: int) -> None:
    """Sequential calls, and many at once."""
    view = rc.load_balanced_view()
    direct = rc[0]
    sequential: dict[str, list[float]] = {"ours": [], "direct": [], "theirs": []}
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}

    def collect(submit: Callable[..., object]) -> None:
        submitted = [submit(noop, n) for n in range(TASKS)]
        results = [result.result() for result in submitted]  # type: ignore[attr-defined]
        assert results == list(range(TASKS))

    with ProcessPoolExecutor(2) as pool:
        for _ in range(rounds):
            sequential["ours"].append(latency_us(lambda: view.apply_sync(noop, 1)))
            sequential["direct"].append(latency_us(lambda: direct.apply_sync(noop, 1)))
            sequential["theirs"].append(latency_us(lambda: pool.submit(noop, 1).result()))
            rates["ours"].append(per_second(TASKS, lambda: collect(view.apply_async)))
            rates["theirs"].append(per_second(TASKS, lambda: collect(pool.submit)))
    middle = {name: statistics.median(times) for name, times in sequential.items()}
    report(
        "sequential no-op, shared queue",
        middle["ours"],
        middle["theirs"],
        "us",
        "ratio at most 0.5",
    )
    report(
        "sequential no-op, one engine",
        middle["direct"],
        middle["theirs"],
        "us",
        "ratio at most 0.5",
    )
    ours, theirs = statistics.median(rates["ours"]), statistics.median(rates["theirs"])
    report("10 000 no-ops", ours, theirs, "tasks/s", "ratio at least 5")


def maps(rc: furlong.Client, rounds: int) -> None:
    """Map a million trivial items, with automatic chunks."""
    view = rc.load_balanced_view()
    expected = [2 * n for n in range(ITEMS)]
    rates = []
    for _ in range(rounds):
        begun = time.perf_counter()
        values = view.map_sync(double, range(ITEMS))
        rates.append(ITEMS / (time.perf_counter() - begun))
        assert values == expected
    report(
        "map of a million items", statistics.median(rates), None, "items/s", "at least 1 000 000"
    )


def arrays(rc: furlong.Client, rounds: int) -> None:
    """Send an array of 1 MiB there and back, and 100 MiB to eight engines of one process."""
    view = rc.load_balanced_view()
    array = numpy.frombuffer(os.urandom(MIB), dtype="u1")
    ours, theirs = [], []

    def echo(call: Callable[..., object]) -> None:
        assert call(noop, array).nbytes == array.nbytes  # type: ignore[attr-defined]

    assert numpy.array_equal(view.apply_sync(noop, array), array)

    with ProcessPoolExecutor(2) as pool:
        for _ in range(rounds):
            ours.append(latency_us(lambda: echo(view.apply_sync), 100) / 1000)
            theirs.append(
                latency_us(lambda: echo(lambda f, x: pool.submit(f, x).result()), 100) / 1000
            )
    report(
        "1 MiB array there and back",
        statistics.median(ours),
        statistics.median(theirs),
        "ms",
        "less than Ray",
    )
    with furlong.Cluster(n=8) as eight:
        large = numpy.ones(100 * MIB, dtype="u1")
        begun = time.perf_counter()
        eight[:].push({"large": large}, block=True)
        taken = time.perf_counter() - begun
        assert eight[:].pull("large.nbytes", block=True) == [large.nbytes] * 8
    report("100 MiB to 8 engines", taken * 1000, None, "ms", "sent once")


def start(rounds: int) -> None:
    """Import the package, and wait for a cluster's first result."""
    imports, firsts = [], []
    for _ in range(rounds):
        code = (
            "import time; t = time.perf_counter(); import furlong; furlong.Client; "
            "print(time.perf_counter() - t)"
        )
        imports.append(float(subprocess.check_output([sys.executable, "-c", code])) * 1000)
        begun = time.perf_counter()
        with furlong.Cluster(n=4) as rc:
            assert rc[:].apply_sync(noop, 1) == [1] * 4
            firsts.append((time.perf_counter() - begun) * 1000)
    report("import furlong", statistics.median(imports), None, "ms", "less than 100")
    report("Cluster(n=4) to first results", statistics.median(firsts), None, "ms", "less than 1500")


def memory(rc: furlong.Client, millions: int) -> None:
    """Many tasks through one client, in batches: the memory of client and broker."""
    view = rc.load_balanced_view()
    broker = rc.status()["pid"]

    def mib(pid: int | str) -> float:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    batches = millions * 1_000_000 // TASKS
    print(f"{'tasks':>12} {'client MiB':>12} {'broker MiB':>12}")
    for batch in range(batches + 1):
        if batch % max(1, batches // 10) == 0:
            print(f"{batch * TASKS:>12,} {mib('self'):>12.1f} {mib(broker):>12.1f}", flush=True)
        results = [view.apply_async(noop, n) for n in range(TASKS)]
        assert results[-1].get() == TASKS - 1
        for result in results:
            result.get()


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=["all", "calls", "map", "arrays", "start", "memory"],
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--millions", type=int, default=10, help="tasks of `memory`")
    options = parser.parse_args()
    wants = {options.what} if options.what != "all" else {"calls", "map", "arrays", "start"}
    with furlong.Cluster(n=2) as rc:
        if "calls" in wants:
            calls(rc, options.rounds)
        if "map" in wants:
            maps(rc, options.rounds)
        if "arrays" in wants:
            arrays(rc, options.rounds)
        if "memory" in wants:
            memory(rc, options.millions)
    if "start" in wants:
        start(options.rounds)


if __name__ == "__main__":
    main()
