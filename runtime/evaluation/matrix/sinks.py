"""Sending figures to trackers, where the user has one. The run files stay the truth."""

from __future__ import annotations

import os
from typing import Any

from runtime.evaluation.matrix.figures import identical, mean_accepted, speeds, speedup
from runtime.evaluation.matrix.runs import Run
from s2d_trt.errors import OptionError


def figures(run: Run) -> dict[str, float]:
    """The numbers of a run that trackers plot."""
    interval, (same, texts) = speedup(run), identical(run)
    return {
        "speedup": interval.value,
        "speedup_low": interval.low,
        "speedup_high": interval.high,
        "tokens_per_second": float(speeds(run.units, "drafted").mean()),
        "tokens_per_second_alone": float(speeds(run.units, "alone").mean()),
        "mean_accepted_tokens": mean_accepted(run),
        "identical_share": same / texts,
    }


def send(run: Run, trackio_project: str | None = None) -> None:
    """To MLflow where ``MLFLOW_TRACKING_URI`` is set, to trackio where a project is named. Raises OptionError."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow = _imported("mlflow", "MLFLOW_TRACKING_URI is set, but there is no mlflow: pip install mlflow-skinny")
        mlflow.set_experiment("s2d-trt")
        with mlflow.start_run(run_name=run.title):
            mlflow.log_params({name: str(value) for name, value in run.settings.items()})
            mlflow.log_metrics(figures(run))
    if trackio_project is not None:
        trackio = _imported("trackio", "trackio is not installed: pip install trackio, or leave --trackio out")
        trackio.init(project=trackio_project, name=run.title, config=run.settings)
        trackio.log(figures(run))
        trackio.finish()


def _imported(name: str, otherwise: str) -> Any:
    try:
        return __import__(name)
    except ImportError as cause:
        raise OptionError(otherwise) from cause
