"""Sending figures to trackers, where the user has one. The run files stay the truth."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class Trackers:
    """MLflow where ``MLFLOW_TRACKING_URI`` is set, trackio where a project is named.

    They are opened before anything is measured. One that fails later loses a run's figures, not the measurement.

    Raises:
        OptionError: one is not installed, or does not open.
    """

    def __init__(self, trackio_project: str | None = None) -> None:
        self._senders: dict[str, Callable[[Run], None]] = {}
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow = _imported(
                "mlflow", "mlflow is not installed: pip install mlflow-skinny, or unset MLFLOW_TRACKING_URI"
            )
            with _refused("MLflow", f"correct MLFLOW_TRACKING_URI ({uri}) or unset it"):
                mlflow.set_experiment("s2d-trt")
            self._senders["MLflow"] = lambda run: _send_to_mlflow(mlflow, run)
        if trackio_project is not None:
            trackio = _imported("trackio", "trackio is not installed: pip install trackio, or leave --trackio out")
            self._senders["trackio"] = lambda run: _send_to_trackio(trackio, trackio_project, run)

    def send(self, run: Run) -> None:
        """A run's settings and figures; a tracker that fails is named on stderr."""
        for name, sender in self._senders.items():
            try:
                with _refused(name, "the run file holds the figures"):
                    sender(run)
            except OptionError as fault:
                print(f"{run.title}: {fault}", file=sys.stderr, flush=True)


def _send_to_mlflow(mlflow: Any, run: Run) -> None:
    with mlflow.start_run(run_name=run.title):
        mlflow.log_params({name: str(value) for name, value in run.settings.items()})
        mlflow.log_metrics(figures(run))


def _send_to_trackio(trackio: Any, project: str, run: Run) -> None:
    trackio.init(project=project, name=run.title, config=run.settings)
    trackio.log(figures(run))
    trackio.finish()


@contextmanager
def _refused(name: str, remedy: str) -> Iterator[None]:
    """Whatever a tracker raises is an OptionError of one line."""
    try:
        yield
    except Exception as cause:
        first = (str(cause).splitlines() or [""])[0]
        raise OptionError(f"{name} fails ({type(cause).__name__}: {first}); {remedy}") from cause


def _imported(name: str, otherwise: str) -> Any:
    try:
        return __import__(name)
    except ImportError as cause:
        raise OptionError(otherwise) from cause
