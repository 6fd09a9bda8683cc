"""Which operating point a study's models get: as asked, else by its metric; and the cases that it is chosen on."""

from __future__ import annotations

from histotune.errors import ConfigError
from histotune.metrics.calibration import THRESHOLD_METRICS
from histotune.metrics.operating_points import OperatingPoint
from histotune.storage.study_folder import StudySettings


def point_of(asked: str | OperatingPoint | None, settings: StudySettings) -> OperatingPoint | None:
    """Return how a threshold is chosen: as asked, else by the study's metric; None for more than two classes.

    Raises:
        ConfigError: a point is asked for and there are more classes.
    """
    if len(settings.classes) != 2:
        if asked is not None:
            raise ConfigError(
                f"operating point {asked}: a threshold needs two classes, and study {settings.name!r} has "
                f"{len(settings.classes)}, of which the one with the highest probability is predicted: leave it out"
            )
        return None
    if asked is None:
        return OperatingPoint(settings.metric if settings.metric in THRESHOLD_METRICS else "balanced_accuracy")
    return OperatingPoint.parse(asked) if isinstance(asked, str) else asked


def scored_cases(settings: StudySettings) -> str:
    """Name the cases that ensembles and thresholds are fitted on."""
    return f"out of {settings.folds} folds" if settings.folds else "validation part"
