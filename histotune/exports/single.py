"""One network for itself: its temperature and threshold, fitted to held-out predictions and described cross-fitted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from histotune.ensembles.crossfit import calibration, reached, tune
from histotune.ensembles.held_out import parts_by_patient
from histotune.ensembles.operating import point_of, scored_cases
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.metrics.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from histotune.metrics.operating_points import OperatingPoint
from histotune.storage.study_folder import Predictions, StudyStore


def describe_single(
    store: StudyStore, saved: Predictions, operating_point: str | OperatingPoint | None = None
) -> tuple[dict[str, Any], float]:
    """Return what an export says of one network with these held-out predictions, and its temperature."""
    settings, raw = store.settings(), metrics.softmax(saved.logits)
    point, parts = point_of(operating_point, settings), parts_by_patient(saved.patients, saved.labels)
    positive, bounds = settings.positive, (LEAST_TEMPERATURE, MOST_TEMPERATURE)
    tuned = tune(raw, saved.labels, parts, point, positive=positive, bounds=bounds)
    at = point and reached(tuned, point, saved.labels, saved.patients, scored_cases(settings), positive=positive)
    validation, on = tuned.measure(saved.labels, positive), (saved.labels, saved.patients)
    intervals = {name: patient_bootstrap(name, tuned.of(name), *on, positive=positive) for name in validation}
    how = {
        "strategy": "average",
        "params": {},
        "state": {},
        "temperature": 1.0,
        "threshold": tuned.threshold,
        "operating_point": at and asdict(at),
        "calibration": calibration(tuned.temperature, raw, tuned.crossfitted, saved.labels),
        "validation": validation,
        "validation_intervals": {name: asdict(interval) for name, interval in intervals.items()},
    }
    return how, tuned.temperature
