"""joblib's backend `furlong` beside loky: the same calls on 2 workers each, in pairs one after the other, in one run.

    python benches/libraries.py [--rounds 5] [all|grid|quick|forest|large|short]

It uses the installed packages `furlong`, `joblib` and `scikit-learn`, and starts a private cluster of its own. Both have
their workers started, and the libraries imported there, before anything is measured. Each ratio is that of the medians,
ours by theirs: below 1 is faster than loky. On a machine that others use as well, look at the pairs, not at the times.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import furlong
import furlong.joblib
import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC

WORKERS = 2


def grid() -> Any:
    """Search 24 candidates in 5 folds: 120 fits of some 20 ms each."""
    x, y = make_classification(600, 20, random_state=0)
    parameters = {"C": np.logspace(-2, 3, 6), "gamma": np.logspace(-3, 0, 4)}
    found = GridSearchCV(SVC(), parameters, n_jobs=WORKERS, cv=5).fit(x, y)
    return found.best_params_, found.best_score_


def quick() -> Any:
    """Search 40 candidates in 5 folds: 200 fits of a few milliseconds each."""
    x, y = make_classification(200, 10, random_state=0)
    parameters = {"C": np.logspace(-2, 3, 40)}
    found = GridSearchCV(LogisticRegression(), parameters, n_jobs=WORKERS, cv=5).fit(x, y)
    return found.best_params_, found.best_score_


def forest() -> Any:
    """Grow 60 trees, which come back to the caller."""
    x, y = make_classification(2000, 20, random_state=0)
    return RandomForestClassifier(60, n_jobs=WORKERS, random_state=0).fit(x, y).score(x, y)


def large() -> Any:
    """Fit something cheap to 32 MB in 12 folds: the way of the data is most of it."""
    x = np.random.default_rng(0).standard_normal((40_000, 100))
    y = (x[:, 0] > 0).astype(int)
    return cross_val_score(GaussianNB(), x, y, cv=12, n_jobs=WORKERS).tolist()


def short() -> Any:
    """Make 20 000 calls that do nothing to speak of."""
    return sum(Parallel(n_jobs=WORKERS)(delayed(abs)(n) for n in range(20_000)))


CASES: dict[str, Callable[[], Any]] = {
    "grid": grid,
    "quick": quick,
    "forest": forest,
    "large": large,
    "short": short,
}


def timed(case: Callable[[], Any], **config: Any) -> tuple[float, Any]:
    """Run a case with a backend, and return its seconds and its value."""
    with parallel_config(**config):
        begun = time.perf_counter()
        value = case()
        return time.perf_counter() - begun, value


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default="all", choices=["all", *CASES])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = list(CASES) if "all" in options.cases else list(options.cases)
    warnings.simplefilter("ignore", UserWarning)
    with furlong.Cluster(n=WORKERS) as rc:
        ours: dict[str, Any] = {"backend": "furlong", "client": rc}
        theirs: dict[str, Any] = {"backend": "loky"}
        for name in names:
            case = CASES[name]
            timed(case, **ours), timed(case, **theirs)
            pairs = []
            for turn in range(options.rounds):
                order = [ours, theirs] if turn % 2 else [theirs, ours]
                (first, one), (second, other) = (timed(case, **config) for config in order)
                assert one == other, f"{name}: the results differ: {one} and {other}"
                pairs.append((second, first) if order[0] is theirs else (first, second))
            ratio = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
            shown = "  ".join(f"{a:.2f}/{b:.2f}" for a, b in pairs)
            print(
                f"{name:<8} ratio {ratio:.2f}  of pairs {statistics.median(a / b for a, b in pairs):.2f}   seconds {shown}",
                flush=True,
            )


if __name__ == "__main__":
    main()
