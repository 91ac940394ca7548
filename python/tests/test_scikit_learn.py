"""scikit-learn with joblib's backend: each result is that of one process, and the work was done on the farm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import furlong

pytest.importorskip("sklearn")
joblib = pytest.importorskip("joblib")

from sklearn.datasets import make_classification
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    permutation_test_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC

import furlong.joblib

X, Y = make_classification(200, 10, n_informative=6, n_classes=3, random_state=0)
LARGE, SIGN = np.random.default_rng(0).standard_normal((5000, 40)), np.arange(5000) % 2


def grid() -> object:
    search = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]}, cv=3)
    search.fit(X, Y)
    return search.best_params_, search.cv_results_["mean_test_score"].tolist()


def grid_with_failures() -> object:
    search = GridSearchCV(SVC(), {"C": [-1, 1]}, cv=3, error_score=-1).fit(X, Y)
    return search.cv_results_["mean_test_score"].tolist()


def forest() -> object:
    made = RandomForestClassifier(20, random_state=0).fit(X, Y)
    return made.predict_proba(X).tolist()


def boosting() -> object:
    made = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return cross_val_score(made, X, Y, cv=3).tolist()


def stacking() -> object:
    parts = [("a", GaussianNB()), ("b", LogisticRegression())]
    return StackingClassifier(parts, cv=3).fit(X, Y).predict(X).tolist()


CASES: dict[str, Callable[[], object]] = {
    "GridSearchCV": grid,
    "RandomForestClassifier": forest,
    "HistGradientBoosting": boosting,
    "StackingClassifier": stacking,
    "cross_val_predict": lambda: cross_val_predict(LogisticRegression(), X, Y, cv=3).tolist(),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(SVC()).fit(X, Y).predict(X).tolist(),
    "permutation_test_score": lambda: permutation_test_score(
        GaussianNB(), X, Y, n_permutations=6, random_state=0
    )[1].tolist(),
    "large": lambda: cross_val_score(GaussianNB(), LARGE, SIGN, cv=4).tolist(),
}


def tasks_of(rc: furlong.Client) -> int:
    return int(rc.status()["tasks_finished"])


@pytest.mark.parametrize("name", CASES)
def test_result_on_the_farm_is_that_of_one_process(name: str, rc: furlong.Client) -> None:
    expected = CASES[name]()
    before = tasks_of(rc)
    with joblib.parallel_config(backend="furlong", client=rc):
        assert CASES[name]() == expected
    assert tasks_of(rc) > before


@pytest.mark.filterwarnings("ignore")
def test_fits_that_fail_have_the_error_score(rc: furlong.Client) -> None:
    with joblib.parallel_config(backend="furlong", client=rc):
        scores: Any = grid_with_failures()
    assert scores[0] == -1
    assert scores[1] > 0


def test_all_fits_that_fail_are_an_error_of_scikit_learn(rc: furlong.Client) -> None:
    search = GridSearchCV(SVC(), {"C": [-1]}, cv=3)
    with joblib.parallel_config(backend="furlong", client=rc), pytest.raises(ValueError) as raised:
        search.fit(X, Y)
    assert "All the 3 fits failed" in str(raised.value)
