"""Measures the farm beside the plain relay, in turn, and prints the ratios: the figures of the README.

Run it on an idle machine, with a release build:

python3 benches/ratios.py target/release/furlong
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

PAIRS = 5
RATE = ["--window", "1000"]
MEASUREMENTS = {
    "round trip in Rust, us": ("p50_us", ["latency", "--local", "2"], ["relay"]),
    "round trip in Python, us": ("p50_us", ["latency", "--local", "2", "--runtime", "python"], ["relay"]),
    "no-ops a second": ("per_s", ["throughput", "--local", "2", *RATE], ["relay", "--count", "500000", *RATE]),
}


def measure(furlong: str, arguments: list[str], key: str) -> float:
    """Run one `furlong bench` and return one of its figures."""
    command = [furlong, "bench", *arguments, "--json"]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[key])


def main() -> None:
    """Print each measurement's median figures, and the median, least and greatest ratio of its pairs."""
    furlong = sys.argv[1] if len(sys.argv) > 1 else "furlong"
    for name, (key, farm, relay) in MEASUREMENTS.items():
        pairs = [(measure(furlong, farm, key), measure(furlong, relay, key)) for _ in range(PAIRS)]
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(figures) for figures in zip(*pairs))
        print(f"{name}: farm {ours:.0f}, relay {theirs:.0f}, ratio {statistics.median(ratios):.2f}", end=" ")
        print(f"({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
