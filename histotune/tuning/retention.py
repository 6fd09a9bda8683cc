"""Which weights a study keeps while it is searched."""

from __future__ import annotations

import heapq
from pathlib import Path

from histotune.errors import ConfigError
from histotune.metrics.scores import direction
from histotune.storage import layout
from histotune.storage.records import TrialRecord, networks, read_ensemble
from histotune.storage.selection import modality_of
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder

KEEP = 20  # trials whose weights a search keeps


class ModelRetention:
    """Keeps the weights of the best `keep` complete trials while a search runs, and frees those of the others.

    Nothing else of a trial goes: it stays ranked, and its predictions can be combined. Members of saved ensembles are
    kept whatever their rank, and so is the best trial that reads one modality alone, of each: ensembles by modality
    are made of those.

    Args:
        keep: how many; 0 keeps the weights of every trial.

    Raises:
        ConfigError: `keep` is negative.
    """

    def __init__(self, store: StudyFolder, keep: int) -> None:
        if keep < 0:
            raise ConfigError(f"keep_models must be at least 0, got {keep}")
        self._store, self._keep = store, keep
        self._sign, self._metric = 0.0, ""
        self._best: list[tuple[float, int]] = []  # a heap, the worst first; of equals the later trial is worse
        self._alone: dict[str, tuple[float, int]] = {}  # by modality, as in the heap
        if keep:
            self._metric = store.settings.metric
            self._sign = direction(self._metric)
            for record in store.trials():
                self.ended(record)

    def ended(self, record: TrialRecord) -> None:
        """Record an ended trial and delete weights that are no longer kept."""
        if not self._keep:
            return
        if record.state == COMPLETE:
            value = self._sign * record.metrics.get(self._metric, float("nan"))
            own = (value if value == value else float("-inf"), -record.number)
            heapq.heappush(self._best, own)
            modality = modality_of(record.config())
            before = self._alone.get(modality, own)
            self._alone[modality] = max(before, own)
            if before not in self._best:
                self._free(before)
        elif record.state == STOPPED:
            _free_weights(record.folder)
        if len(self._best) > self._keep:
            self._free(heapq.heappop(self._best))

    def _free(self, one: tuple[float, int]) -> None:
        if one not in [best for modality, best in self._alone.items() if modality] and -one[1] not in members(
            self._store
        ):
            _free_weights(self._store.trial_folder(-one[1]))


def _free_weights(folder: Path) -> None:
    for place in networks(folder):
        (place / layout.WEIGHTS).unlink(missing_ok=True)


def members(store: StudyFolder) -> set[int]:
    """Return the trials that saved ensembles are made of."""
    saved = map(read_ensemble, store.built_ensembles())
    return {
        number
        for ensemble in saved
        for number, study in zip(ensemble["members"], ensemble.get("studies") or ensemble["members"], strict=True)
        if not isinstance(study, str) or not study
    }
