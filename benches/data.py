"""Arrays there and back: the least that it can cost, Furlong, and others, in turns, in one run.

    python benches/data.py [--rounds 3] [--sizes 0.0625 1 16 256]

A call returns the array that it is given. The floor is three plain processes that pass a memory
file by descriptor: no encryption, no queue, no promise. Ray and Dask are measured where they are
installed. Run it on an idle machine, with the package built in the release profile. One worker
each; every result is checked; figures are medians, in ms.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import mmap
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import furlong
import numpy

MIB = 1 << 20
Call = Callable[[numpy.ndarray], numpy.ndarray]


def identity(array: numpy.ndarray) -> numpy.ndarray:
    """Return the argument."""
    return array


def to_file(array: numpy.ndarray) -> int:
    """Write an array into a memory file."""
    fd = os.memfd_create("floor")
    left = memoryview(array)
    while left:
        left = left[os.write(fd, left) :]
    return fd


def from_file(fd: int) -> numpy.ndarray:
    """Map a memory file and close its descriptor."""
    mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    return numpy.frombuffer(mapped, dtype=numpy.uint8)


def take(sock: socket.socket) -> int:
    """Wait for a descriptor."""
    _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    if not fds:
        os._exit(0)  # the other side has left
    return fds[0]


def give(sock: socket.socket, fd: int) -> None:
    """Pass a descriptor on."""
    socket.send_fds(sock, [b"f"], [fd])
    os.close(fd)


@contextlib.contextmanager
def floor() -> Iterator[Call]:
    """Three processes: this one, a relay, and one that maps what comes and writes it anew."""
    ours, relay_in = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    relay_out, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        worker.close()
        while True:
            give(relay_out, take(relay_in))
            give(relay_in, take(relay_out))
    if os.fork() == 0:
        for sock in (ours, relay_in, relay_out):
            sock.close()
        while True:
            give(worker, to_file(from_file(take(worker))))
    for sock in (relay_in, relay_out, worker):
        sock.close()

    def call(array: numpy.ndarray) -> numpy.ndarray:
        give(ours, to_file(array))
        return from_file(take(ours))

    yield call
    ours.close()
    os.wait()
    os.wait()


@contextlib.contextmanager
def of_furlong() -> Iterator[Call]:
    """One engine of a private cluster."""
    with furlong.Cluster(n=1) as rc:
        engine = rc[0]
        yield lambda array: engine.apply_sync(identity, array)


@contextlib.contextmanager
def of_executor() -> Iterator[Call]:
    """One worker of the standard library's pool."""
    with ProcessPoolExecutor(1) as pool:
        yield lambda array: pool.submit(identity, array).result()


@contextlib.contextmanager
def of_ray() -> Iterator[Call]:
    """One worker of Ray."""
    import ray

    ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    remote = ray.remote(identity)
    yield lambda array: ray.get(remote.remote(array))
    ray.shutdown()


@contextlib.contextmanager
def of_dask() -> Iterator[Call]:
    """One worker process of Dask.distributed."""
    from dask.distributed import Client

    with Client(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as client:
        yield lambda array: client.submit(identity, array, pure=False).result()


SYSTEMS = {
    "floor": ("", floor),
    "furlong": ("", of_furlong),
    "executor": ("", of_executor),
    "ray": ("ray", of_ray),
    "dask": ("distributed", of_dask),
}


def median_ms(call: Call, size: int) -> float:
    """Return the median time of a call with so many bytes."""
    array = numpy.frombuffer(numpy.random.default_rng(size).bytes(size), dtype=numpy.uint8)
    times = []
    for turn in range(3 if size > 64 * MIB else 20 if size > 4 * MIB else 100):
        begun = time.perf_counter()
        back = call(array)
        same = back[0] == array[0] and back[-1] == array[-1] and len(back) == size
        times.append((time.perf_counter() - begun) * 1e3)
        if not same or (turn == 0 and not (back == array).all()):
            raise SystemExit("a result is wrong")
        del back
    return statistics.median(times)


def main() -> None:
    """Measure all systems in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1 / 16, 1, 16, 256])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args()
    figures: dict[tuple[float, str], list[float]] = {}
    for _ in range(options.rounds):
        for name in options.systems:
            module, system = SYSTEMS[name]
            if module and importlib.util.find_spec(module) is None:
                continue
            with system() as call:
                call(numpy.zeros(8, dtype=numpy.uint8))
                for mib in options.sizes:
                    figures.setdefault((mib, name), []).append(median_ms(call, int(mib * MIB)))
    for mib in options.sizes:
        medians = {
            name: statistics.median(found) for (size, name), found in figures.items() if size == mib
        }
        times = {f"{name}_ms": round(value, 3) for name, value in medians.items()}
        least = medians.get("floor", float("nan"))
        over = round(medians.get("furlong", float("nan")) / least, 2)
        print(json.dumps({"mib": mib, **times, "furlong_over_floor": over}), flush=True)


if __name__ == "__main__":
    main()
