"""Searching a larger space with optuna: thresholds, confidence, depth, width, nodes and lookup together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.tuning import DEEPEST, Trial, Tuner
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError

if TYPE_CHECKING:
    import optuna


def search(tuner: Tuner, trials: int, storage: str | None = None) -> Trial:
    """The best of so many trials by optuna's TPE sampler, on the tuned texts. Raises OptionError without optuna."""
    try:
        import optuna
    except ImportError as cause:
        raise OptionError("optuna is not installed; pip install -e '.[evaluate]' in the checkout") from cause
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        study_name="s2d-trt",
        storage=storage,
        load_if_exists=True,
    )
    exits = len(tuner.recordings[0].pair.exits)

    def objective(trial: optuna.Trial) -> float:
        return tuner.try_policy("trial", _policy(trial, exits, tuner.chain)).speed(tuner.tokens, tuner.tuned)

    study.optimize(objective, n_trials=trials)
    policy = _policy(study.best_trial, exits, tuner.chain)
    return tuner.try_policy(f"best of {trials} trials", policy)


def _policy(trial: optuna.Trial | optuna.trial.FrozenTrial, exits: int, chain: bool) -> Policy:
    thresholds = [trial.suggest_float(f"threshold {index}", 0.0, 1.0) for index in range(exits - 1)]
    top_k = 1 if chain else trial.suggest_int("top_k", 1, 8)
    shape = TreeShape(trial.suggest_int("depth", 0, DEEPEST), top_k, trial.suggest_int("nodes", 2, 48))
    rule = "max" if top_k > 1 and trial.suggest_categorical("confidence", ["mean", "max"]) == "max" else "mean"
    lookup = trial.suggest_categorical("lookup", [True, False])
    return Policy(FixedThresholds((*thresholds, 0.0), rule), shape, lookup)  # type: ignore[arg-type]
