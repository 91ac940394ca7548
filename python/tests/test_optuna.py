"""Optuna's trials on the farm: the study comes to what ``study.optimize`` would have it come to."""

from __future__ import annotations

import collections
import os
from typing import Any

import pytest

import furlong

optuna = pytest.importorskip("optuna")

import furlong.optuna

optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def parabola(trial: Any) -> float:
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    trial.set_user_attr("pid", os.getpid())
    return float((x - 2) ** 2 + (kind == "b"))


def of_grid(trial: Any) -> int:
    return int(trial.suggest_int("a", 0, 3) * 10 + trial.suggest_int("b", 0, 2))


def fail_at_four(trial: Any) -> float:
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 4:
        raise LookupError("four", x)
    return float(x)


def prune_odd(trial: Any) -> float:
    for step in range(3):
        trial.report(trial.number * 10 + step, step)
        if trial.number % 2 and step == 1:
            raise optuna.TrialPruned(f"at {step}")
    return float(trial.number)


def stop_at_three(trial: Any) -> float:
    if trial.number == 3:
        trial.study.stop()
    return float(trial.suggest_float("x", 0, 1))


def give_two(trial: Any) -> tuple[float, float]:
    x = trial.suggest_float("x", 0, 1)
    return x, 1 - x


def give_nothing(trial: Any) -> None:
    trial.suggest_float("x", 0, 1)


def states(study: Any) -> collections.Counter[str]:
    return collections.Counter(trial.state.name for trial in study.trials)


def test_trials_run_on_engines_and_the_study_is_here(rc: furlong.Client) -> None:
    study = optuna.create_study()
    furlong.optuna.optimize(study, parabola, 40, client=rc)
    assert [trial.number for trial in study.trials] == list(range(40))
    pids = {trial.user_attrs["pid"] for trial in study.trials}
    assert pids <= set(rc[:].apply_sync(os.getpid))
    assert len({trial.params["x"] for trial in study.trials}) == 40
    assert all(
        trial.value == (trial.params["x"] - 2) ** 2 + (trial.params["kind"] == "b")
        for trial in study.trials
    )
    assert study.best_value < 5


def test_sampler_that_needs_the_whole_study_has_it(rc: furlong.Client) -> None:
    space = {"a": [0, 1, 2, 3], "b": [0, 1, 2]}
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(space))
    furlong.optuna.optimize(study, of_grid, 12, client=rc, n_jobs=1)
    assert sorted(trial.value for trial in study.trials) == sorted(
        10 * a + b for a in range(4) for b in range(3)
    )


def test_enqueued_parameters_and_relative_ones_are_those_of_the_study(rc: furlong.Client) -> None:
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(multivariate=True, n_startup_trials=5)
    )
    study.enqueue_trial({"x": 2.0, "kind": "a"})
    furlong.optuna.optimize(study, parabola, 15, client=rc)
    assert study.trials[0].params == {"x": 2.0, "kind": "a"}
    assert study.best_value == 0


def test_failure_is_raised_and_its_trial_keeps_what_it_has(rc: furlong.Client) -> None:
    study = optuna.create_study()
    with pytest.raises(LookupError) as raised:
        furlong.optuna.optimize(study, fail_at_four, 20, client=rc, n_jobs=1)
    assert type(raised.value) is LookupError
    assert raised.value.args == ("four", study.trials[4].params["x"])
    assert "in fail_at_four" in str(raised.value.__cause__)
    assert states(study) == {"COMPLETE": 4, "FAIL": 1}


def test_failure_that_is_caught_is_one_trial(rc: furlong.Client) -> None:
    study = optuna.create_study()
    furlong.optuna.optimize(study, fail_at_four, 9, client=rc, catch=LookupError)
    assert states(study) == {"COMPLETE": 8, "FAIL": 1}


def test_pruned_trials_have_their_intermediate_values(rc: furlong.Client) -> None:
    study = optuna.create_study()
    furlong.optuna.optimize(study, prune_odd, 6, client=rc)
    assert states(study) == {"COMPLETE": 3, "PRUNED": 3}
    assert study.trials[1].intermediate_values == {0: 10, 1: 11}
    assert study.trials[1].value == 11


def test_pruner_sees_the_trials_before(rc: furlong.Client) -> None:
    def worse_and_worse(trial: Any) -> float:
        trial.report(trial.number, 0)
        if trial.should_prune():
            raise optuna.TrialPruned
        return float(trial.number)

    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    furlong.optuna.optimize(study, worse_and_worse, 8, client=rc, n_jobs=1)
    assert states(study) == {"COMPLETE": 3, "PRUNED": 5}


def test_study_can_be_stopped_by_an_objective_and_a_callback(rc: furlong.Client) -> None:
    study = optuna.create_study()
    furlong.optuna.optimize(study, stop_at_three, 50, client=rc, n_jobs=1)
    assert len(study.trials) == 4
    furlong.optuna.optimize(
        study,
        fail_at_four,
        None,
        client=rc,
        catch=LookupError,
        callbacks=[lambda known, _: known.stop()],
    )
    assert 5 <= len(study.trials) < 20


def test_several_objectives_and_none(rc: furlong.Client) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    furlong.optuna.optimize(study, give_two, 5, client=rc)
    assert all(sum(trial.values) == pytest.approx(1) for trial in study.trials)
    study = optuna.create_study()
    furlong.optuna.optimize(study, give_nothing, 2, client=rc)
    assert states(study) == {"FAIL": 2}
