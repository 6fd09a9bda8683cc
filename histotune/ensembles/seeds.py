"""One configuration with several seeds: what other initial weights and batches alone give an ensemble.

It is the control of an ensemble over losses: what that gains beyond this one, the variety of losses gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.core.progress import Progress, silent
from histotune.data.cohort import Cohort
from histotune.errors import ConfigError, StudyError
from histotune.storage import layout
from histotune.storage.records import TrialRecord
from histotune.storage.selection import SelectedTrial, Selection, best_first, complete_trial
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.training.loop import run_trial


def over_seeds(
    store: StudyFolder,
    trial: TrialRecord,
    seeds: int,
    cohort: Callable[[int], Cohort],
    *,
    progress: Progress = silent,
) -> Selection:
    """Train a trial's configuration with the seeds that follow its own, in `seeds/seed-<k>` of the study.

    A training that ended is read, and one that was interrupted goes on.

    Args:
        seeds: members, the trial among them, at least 2.
        cohort: image size, pixels -> the study's data.
        progress: is called with how many epochs are trained.

    Returns:
        The trial and its copies, best first by the study's metric.

    Raises:
        ConfigError: `seeds` is below 2.
        StudyError: a training failed, or another process trains them.
    """
    if seeds < 2:
        raise ConfigError(f"seeds={seeds}: an ensemble over seeds needs at least 2, the trial's own among them")
    config = TrialConfig.from_dict(trial.config())
    data = store.training_data(cohort(config.image_size))
    members = [SelectedTrial(trial, store)]
    for at in range(1, seeds):
        other = replace(config, seed=config.seed + at)
        place = StudyFolder(store.folder / layout.SEEDS / f"seed-{other.seed}")

        def report(epoch: int, metrics: Mapping[str, float], done: int = (at - 1) * config.epochs) -> None:
            progress("training seeds", done + epoch, (seeds - 1) * config.epochs)

        with files.lock(place.folder / layout.LOCK, "histotune ensemble --seeds"):
            folder = place.trial_folder(trial.number)
            record = run_trial(other, data, folder, report, metric=store.settings.metric, probed=False)
        if record.state != COMPLETE:
            raise StudyError(
                f"trial {trial.number} with seed {other.seed} is {record.state}: {record.kind}, {record.reason}. "
                "The same command trains it anew"
            )
        members.append(SelectedTrial(complete_trial(place, trial.number), place))
    name = f"trial-{trial.number}-seeds-{seeds}"
    return Selection(best_first(store, members), name, f"trial {trial.number} with {seeds} seeds")
