"""Measures the farm beside the plain relay, in turn, and prints the ratios; then the figures that need no relay.

Run it on an idle machine, with a release build:

python3 benches/ratios.py target/release/furlong
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from standstill import Standstill

PAIRS = 5
RATE = ["--window", "1000"]
RELAY_RATE = ["relay", "--count", "500000", *RATE]
PYTHON = ["--runtime", "python"]
# What is measured: the figure's key, the farm's arguments, the relay's.
PAIRED = {
    "round trip in Rust, us": ("p50_us", ["latency", "--local", "2"], ["relay"]),
    "round trip in Python, us": ("p50_us", ["latency", "--local", "2", *PYTHON], ["relay"]),
    "no-ops a second": ("per_s", ["throughput", "--local", "2", *RATE], RELAY_RATE),
    "Python no-ops a second": (
        "per_s",
        ["throughput", "--local", "2", *PYTHON, "--count", "100000", *RATE],
        RELAY_RATE,
    ),
}
# What is measured: the arguments, and the figures' keys.
ALONE = {
    "`true` 5 000 times": (["command"], ["farm_per_s", "bare_per_s", "ratio"]),
    "a million queued no-ops": (
        ["queue"],
        ["bytes_each", "one_more_short_us", "one_more_us", "ratio"],
    ),
    "kill -9 of an engine, to the second run": (["kill"], ["median_ms", "max_ms"]),
}


def measure(furlong: str, arguments: list[str]) -> dict[str, float]:
    """Run one `furlong bench` and return its figures."""
    command = [furlong, "bench", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def large(furlong: str) -> None:
    """Print a line for each time that 256 MiB go there and back, with no-ops beside them."""
    for _ in range(PAIRS):
        with Standstill() as machine:
            figures = measure(furlong, ["large"])
        stood = "not known" if machine.longest_ms is None else f"{machine.longest_ms:.1f} ms"
        seconds, peak, longest = (figures[key] for key in ("seconds", "peak_ratio", "noop_max_us"))
        print(
            f"256 MiB there and back: {seconds:.1f} s, broker's peak {peak:.3g}, longest no-op",
            end=" ",
        )
        print(
            f"beside it {longest / 1e3:.1f} ms (the machine itself stood still for {stood})",
            flush=True,
        )


def main() -> None:
    """Print the median figures and the median, least and greatest ratio of the pairs; then the others."""
    furlong = sys.argv[1] if len(sys.argv) > 1 else "furlong"
    for name, (key, farm, relay) in PAIRED.items():
        pairs = [(measure(furlong, farm)[key], measure(furlong, relay)[key]) for _ in range(PAIRS)]
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(figures) for figures in zip(*pairs))
        print(
            f"{name}: farm {ours:.0f}, relay {theirs:.0f}, ratio {statistics.median(ratios):.3g}",
            end=" ",
        )
        print(f"({ratios[0]:.3g} to {ratios[-1]:.3g})", flush=True)
    for name, (arguments, keys) in ALONE.items():
        figures = measure(furlong, arguments)
        print(f"{name}:", ", ".join(f"{key} {figures[key]:.4g}" for key in keys), flush=True)
    large(furlong)


if __name__ == "__main__":
    main()
