"""Compares two release builds: the figures of `furlong bench` in turns, and their ratios.

Run it on an idle machine. The machine's own swings are then in both series alike:

python3 benches/pairs.py OLD/target/release/furlong target/release/furlong
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess

RATE = ["--window", "1000"]
PYTHON = ["--runtime", "python"]
# What is measured: the figure's key, and the arguments of `furlong bench`.
FIGURES = {
    "round trip in Rust, us": ("p50_us", ["latency", "--local", "2"]),
    "round trip in Python, us": ("p50_us", ["latency", "--local", "2", *PYTHON]),
    "no-ops a second": ("per_s", ["throughput", "--local", "2", *RATE]),
    "Python no-ops a second": (
        "per_s",
        ["throughput", "--local", "2", *PYTHON, "--count", "100000", *RATE],
    ),
    "`true` a second": ("farm_per_s", ["command"]),
    "one more beside a million, us": ("one_more_us", ["queue"]),
    "kill -9 to the second run, ms": ("median_ms", ["kill"]),
    "256 MiB there and back, s": ("seconds", ["large"]),
}


def measure(furlong: str, key: str, arguments: list[str]) -> float:
    """Run one `furlong bench` and return its figure."""
    command = [furlong, "bench", *arguments, "--json"]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    return float(json.loads(output)[key])


def main() -> None:
    """Measure in turns, the first of a pair being the old and the new build alternately."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", nargs=2, metavar="FURLONG", help="the old program, the new one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="figures whose names contain this")
    options = parser.parse_args()
    for name, (key, arguments) in FIGURES.items():
        if options.only not in name:
            continue
        figures: tuple[list[float], list[float]] = ([], [])
        for pair in range(options.pairs):
            for build in (0, 1) if pair % 2 == 0 else (1, 0):
                figures[build].append(measure(options.builds[build], key, arguments))
        old, new = map(statistics.median, figures)
        series = " / ".join(" ".join(f"{it:.4g}" for it in one) for one in figures)
        print(f"{name}: {old:.4g} -> {new:.4g}, {new / old:.3f} times ({series})", flush=True)


if __name__ == "__main__":
    main()
