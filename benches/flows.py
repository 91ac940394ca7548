"""Data that stay at the cluster: what flows of several tasks cost, beside other systems, in one run.

    python benches/flows.py [tree] [chain] [push] [batches] [--rounds 3]

`tree` sums arrays that are made on the workers, two by two, and fetches one number. `chain` is
calls each of which has the result of the one before as its argument, beside as many calls one after
the other. `push` sends an array to eight engines, beside one `write` of it into a memory file, and
counts the memory of all processes. `batches` are short calls over one shared array, as joblib makes
them, beside loky. Dask, Ray and joblib are measured where they are installed. Run it on an idle
machine, with the package built in the release profile. Every result is checked; times are the
medians of the rounds, in ms.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import furlong
import numpy

MIB = 1 << 20
LEAVES = 64
LEAF_BYTES = 16 * MIB
CHAIN = 1000
PUSHED_BYTES = 100 * MIB
PUSHED_TO = 8
BATCHES = 12
SHARED_BYTES = 32 * MIB


def make(seed: int) -> numpy.ndarray:
    """Return one array of the tree."""
    return numpy.full(LEAF_BYTES // 8, float(seed))


def total(array: numpy.ndarray) -> float:
    """Return the sum of an array's first and last element."""
    return float(array[0] + array[-1])


def increment(n: int) -> int:
    """Return the next number."""
    return n + 1


def part_of(array: numpy.ndarray, n: int) -> float:
    """Return the sum of a twelfth of an array."""
    rows = len(array) // BATCHES
    return float(array[n * rows : (n + 1) * rows].sum())


def tree_of(submit: Callable[..., Any], last: Callable[..., float]) -> float:
    """Sum all arrays with a system's `submit`, and fetch the end with its `last`."""
    level = [submit(make, n) for n in range(LEAVES)]
    while len(level) > 1:
        level = [
            submit(numpy.add, one, two) for one, two in zip(level[::2], level[1::2], strict=True)
        ]
    return last(total, level[0])


def tree_by_furlong() -> float:
    """Two engines, results that stay."""
    with furlong.Cluster(n=2) as rc:
        view, stay = rc.load_balanced_view(), rc.load_balanced_view(stay=True)
        view.apply_sync(total, numpy.zeros(2))
        return timed(lambda: tree_of(stay.apply_async, view.apply_sync), LEAVES * (LEAVES - 1.0))


def tree_by_dask() -> float:
    """Two worker processes of Dask.distributed."""
    from dask.distributed import Client

    with Client(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as client:
        client.submit(total, numpy.zeros(2)).result()
        return timed(
            lambda: tree_of(client.submit, lambda f, x: client.submit(f, x).result()),
            LEAVES * (LEAVES - 1.0),
        )


def tree_by_ray() -> float:
    """Two workers of Ray."""
    import ray

    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    functions = {f: ray.remote(f) for f in (make, total)}
    add = ray.remote(lambda one, two: one + two)
    functions[numpy.add] = add
    ray.get(functions[total].remote(numpy.zeros(2)))
    try:
        return timed(
            lambda: tree_of(
                lambda f, *args: functions[f].remote(*args),
                lambda f, x: ray.get(functions[f].remote(x)),
            ),
            LEAVES * (LEAVES - 1.0),
        )
    finally:
        ray.shutdown()


def chain_by_furlong() -> float:
    """One engine; each call has the result of the one before."""
    with furlong.Cluster(n=1) as rc:
        view = rc.load_balanced_view()
        view.apply_sync(increment, 0)

        def chain() -> int:
            result: Any = 0
            for _ in range(CHAIN):
                result = view.apply_async(increment, result)
            return int(result.get())

        return timed(chain, CHAIN)


def sequence_by_furlong() -> float:
    """One engine; each call is made when the one before has ended."""
    with furlong.Cluster(n=1) as rc:
        view = rc.load_balanced_view()
        view.apply_sync(increment, 0)

        def sequence() -> int:
            result = 0
            for _ in range(CHAIN):
                result = view.apply_sync(increment, result)
            return result

        return timed(sequence, CHAIN)


def write() -> float:
    """Write the pushed array into a memory file."""
    array = numpy.ones(PUSHED_BYTES, dtype=numpy.uint8)
    fd = os.memfd_create("floor")
    begun = time.perf_counter()
    left = memoryview(array)
    while left:
        left = left[os.write(fd, left) :]
    took = (time.perf_counter() - begun) * 1e3
    os.close(fd)
    return took


def push_by_furlong() -> tuple[float, float]:
    """Return the time of a push to eight engines, and how many copies of the array there are then.

    The array of this process counts.
    """
    array = numpy.ones(PUSHED_BYTES, dtype=numpy.uint8)
    with furlong.Cluster(n=PUSHED_TO) as rc:
        view = rc[:]
        pids = [*view.apply_sync(os.getpid), os.getpid()]
        view.execute("import numpy", block=True)
        before = memory_bytes(pids)
        begun = time.perf_counter()
        view.push({"pushed": array}, block=True)
        took = (time.perf_counter() - begun) * 1e3
        sums = view.apply_sync(lambda: int(globals()["pushed"].sum()))
        if sums != [PUSHED_BYTES] * PUSHED_TO:
            raise SystemExit("a pushed array is wrong")
        return took, 1 + (memory_bytes(pids) - before) / PUSHED_BYTES


def memory_bytes(pids: list[int]) -> int:
    """Return the proportional set size of some processes."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) * 1024


def batches_by_furlong() -> float:
    """Two engines, a shared array."""
    array = numpy.ones(SHARED_BYTES // 8)
    with furlong.Cluster(n=2) as rc:
        view = rc.load_balanced_view()
        view.apply_sync(total, numpy.zeros(2))

        def batches() -> float:
            with rc.share(array) as shared:
                sums = view.map_sync(part_of, [shared] * BATCHES, range(BATCHES), chunksize=1)
            return sum(sums)

        return timed(batches, len(array) // BATCHES * BATCHES)


def batches_by_loky() -> float:
    """Two workers of joblib's own backend."""
    from joblib import Parallel, delayed

    array = numpy.ones(SHARED_BYTES // 8)
    with Parallel(n_jobs=2) as parallel:
        parallel(delayed(total)(numpy.zeros(2)) for _ in range(2))
        return timed(
            lambda: sum(parallel(delayed(part_of)(array, n) for n in range(BATCHES))),
            len(array) // BATCHES * BATCHES,
        )


def timed(act: Callable[[], float], expected: float) -> float:
    """Return the time of something in ms."""
    begun = time.perf_counter()
    result = act()
    took = (time.perf_counter() - begun) * 1e3
    if result != expected:
        raise SystemExit(f"a result is wrong: {result}, not {expected}")
    return took


ROWS: dict[str, dict[str, tuple[str, Callable[[], Any]]]] = {
    "tree": {
        "furlong": ("", tree_by_furlong),
        "dask": ("distributed", tree_by_dask),
        "ray": ("ray", tree_by_ray),
    },
    "chain": {"furlong": ("", chain_by_furlong), "sequence": ("", sequence_by_furlong)},
    "push": {"furlong": ("", push_by_furlong), "write": ("", write)},
    "batches": {"furlong": ("", batches_by_furlong), "loky": ("joblib", batches_by_loky)},
}


def main() -> None:
    """Measure all systems of each row in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for row in options.rows:
        figures: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for name, (module, measure) in ROWS[row].items():
                if module and importlib.util.find_spec(module) is None:
                    continue
                found = measure()
                took, *copies = found if isinstance(found, tuple) else (found,)
                figures.setdefault(f"{name}_ms", []).append(took)
                for value in copies:
                    figures.setdefault("copies", []).append(value)
        medians = {name: round(statistics.median(found), 2) for name, found in figures.items()}
        print(json.dumps({"row": row, **medians}), flush=True)


if __name__ == "__main__":
    main()
