"""Optuna's trials on the farm: the study stays here, and each objective runs on an engine.

Examples
--------
>>> import furlong.optuna
>>> study = optuna.create_study()
>>> furlong.optuna.optimize(study, objective, n_trials=100)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna  # type: ignore[import-not-found,unused-ignore]
from optuna.distributions import BaseDistribution  # type: ignore[import-not-found,unused-ignore]
from optuna.samplers import BaseSampler  # type: ignore[import-not-found,unused-ignore]

from furlong.errors import RemoteError
from furlong.libraries.originals import original_of

if TYPE_CHECKING:
    from furlong.client.client import Client

__all__ = ["optimize"]

# The attribute of an objective's exception that has what its trial has set before.
_OUTCOME = "_furlong_trial"


def optimize(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float | Sequence[float]],
    n_trials: int | None = None,
    timeout: float | None = None,
    *,
    client: Client | None = None,
    n_jobs: int | None = None,
    catch: Iterable[type[Exception]] | type[Exception] = (),
    callbacks: Iterable[Callable[[optuna.Study, Any], None]] | None = None,
    gc_after_trial: bool = False,
    show_progress_bar: bool = False,
    **flags: Any,
) -> None:
    """Optimize a study, as ``study.optimize`` does, with each objective on an engine.

    Parameters
    ----------
    study : optuna.Study
        Stays here, with its storage and its sampler.
    objective : callable
        Gets a trial of a copy of the study, which has the other trials as they were when this one began.
    n_jobs : int, optional
        How many trials run at once; as many as there are engines now.
    client : Client, optional
        The client that submits; by default one for this call, as ``furlong.Client()`` makes it.
    n_trials, timeout, catch, callbacks, gc_after_trial, show_progress_bar
        As ``study.optimize`` has them.
    **flags
        Flags of the tasks, as ``rc.load_balanced_view`` takes them.

    Raises
    ------
    Exception
        What an objective has raised, unless `catch` names it.
    """
    with _client_of(client) as rc:
        view = rc.load_balanced_view(**flags)
        if not len(view):
            rc.wait_for_engines(1, timeout=10, interactive=False)

        def on_farm(trial: optuna.Trial) -> float | Sequence[float]:
            call = view.apply_async(_run, objective, *_parts_of(trial))
            try:
                outcome: _Outcome = call.get()
            except RemoteError as error:
                outcome = vars(error).pop(_OUTCOME, None)
                original = original_of(error)
            else:
                return _take(trial, outcome)
            if outcome is not None:
                _take(trial, outcome)
            raise original

        study.optimize(
            on_farm,
            n_trials,
            timeout,
            len(view) if n_jobs is None else n_jobs,
            catch,
            callbacks,
            gc_after_trial,
            show_progress_bar,
        )


@contextlib.contextmanager
def _client_of(client: Client | None) -> Iterator[Client]:
    if client is not None:
        yield client
        return
    from furlong.client.client import Client as Connected

    with Connected() as own:
        yield own


class _Outcome(NamedTuple):
    """The end of an objective: what it has set in its trial, and its values, if it has not raised."""

    suggested: list[tuple[str, Any, BaseDistribution]]
    reported: dict[int, float]
    user_attrs: dict[str, Any]
    values: Any
    is_stopped: bool
    pruned: str | None


def _parts_of(trial: optuna.Trial) -> tuple[Any, ...]:
    """Return what an engine makes the same trial of."""
    study = trial.study
    relative = trial.relative_params
    space = trial.relative_search_space
    number = trial.number
    others = [one for one in study.get_trials(deepcopy=False) if one.number < number]
    frozen = study._storage.get_trial(trial._trial_id)
    return study.directions, study.sampler, study.pruner, others, frozen, space, relative


def _take(trial: optuna.Trial, outcome: _Outcome) -> float | Sequence[float]:
    """Set here what the objective has set there; return its values, or raise what it raised."""
    for name, value, distribution in outcome.suggested:
        trial._fixed_params[name] = value
        trial._suggest(name, distribution)
    for step, value in outcome.reported.items():
        trial.report(value, step)
    for name, value in outcome.user_attrs.items():
        trial.set_user_attr(name, value)
    if outcome.is_stopped:
        trial.study.stop()
    if outcome.pruned is not None:
        raise optuna.TrialPruned(outcome.pruned)
    return outcome.values  # type: ignore[no-any-return]


# On engines.


class _Given(BaseSampler):  # type: ignore[misc,unused-ignore]
    """The sampler of one trial, for which the study's own has done what needs all of the study."""

    def __init__(self, sampler: BaseSampler, space: Any, relative: Any) -> None:
        self._sampler, self._space, self._relative = sampler, space, relative
        # Else all trials that run at once would be the same.
        sampler.reseed_rng()

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return self._space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self._relative

    def sample_independent(
        self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def _run(
    objective: Callable[[optuna.Trial], Any],
    directions: Sequence[Any],
    sampler: BaseSampler,
    pruner: Any,
    others: Sequence[Any],
    frozen: Any,
    space: Any,
    relative: Any,
) -> _Outcome:
    """Run an objective with a trial of a copy of its study."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # of a study that is no news
    try:
        study = optuna.create_study(
            directions=directions, sampler=_Given(sampler, space, relative), pruner=pruner
        )
        study.add_trials(others)
        trial_id = study._storage.create_new_trial(study._study_id, template_trial=frozen)
    finally:
        optuna.logging.set_verbosity(level)
    study._thread_local.in_optimize_loop = True  # so that the objective may stop it
    trial = optuna.Trial(study, trial_id)
    values, pruned = None, None
    try:
        values = objective(trial)
    except optuna.TrialPruned as why:
        pruned = str(why)
    except Exception as error:
        setattr(error, _OUTCOME, _outcome_of(trial, frozen, None, None))
        raise
    return _outcome_of(trial, frozen, values, pruned)


def _outcome_of(trial: optuna.Trial, before: Any, values: Any, pruned: str | None) -> _Outcome:
    study = trial.study
    made = study._storage.get_trial(trial._trial_id)
    suggested = [
        (name, value, made.distributions[name])
        for name, value in made.params.items()
        if name not in before.params
    ]
    reported = made.intermediate_values
    return _Outcome(suggested, reported, made.user_attrs, values, study._stop_flag, pruned)
