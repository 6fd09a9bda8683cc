"""The study's journal: what was proposed and how it ended, in Optuna's own format; the search's only state on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from histotune.core import files
from histotune.errors import HistotuneError, StudyError
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE

CONFIG, DIGEST, RECORD, DEATHS, PARENT = "config", "digest", "record", "deaths", "parent"  # user attributes of a trial
ORDER = "order"  # in `record`: how many trials of the study had ended before it


class Journal:
    """Optuna's journal of one study, written by the one process that holds the study's lock.

    Only a complete trial is COMPLETE in it. Trials that the scheduler stopped, and failed ones, are FAIL with their
    facts in the user attribute `record`: no sampler, ours or another that opens the file, learns from a value that a
    trial had when it was cut short. A proposal is one line, so that a crash leaves all of it or nothing.

    Args:
        path: the file; a last line that a crash cut short is removed.
        name: the Optuna study's name.
        maximize: whether more of the metric is better.
        others: the same of further metrics, for a search with several.
    """

    def __init__(self, path: Path, name: str, *, maximize: bool, others: Sequence[bool] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path.parent.mkdir(parents=True, exist_ok=True)
        _mend(path)
        self._path = path
        self._failure: HistotuneError | None = None
        try:
            self._storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=["maximize" if more else "minimize" for more in (maximize, *others)],
                load_if_exists=True,
            )
        except ValueError as error:
            raise StudyError(
                f"{path} is damaged{_where(path)}: {error}. Restore it from a copy; or move it away: what the trial "
                "folders hold is kept, and the search goes on without what only the journal knew"
            ) from error
        self._id = self._storage.get_study_id_from_name(name)

    def trials(self) -> list[FrozenTrial]:
        """Return every trial, by number."""
        return self._study.get_trials(deepcopy=False)

    def propose(
        self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], attributes: Mapping[str, Any]
    ) -> int:
        """Write a new running trial in one line and return its number."""
        running = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attributes),
        )
        return self._storage.get_trial_number_from_id(self._create(running))

    def adopt(self, attributes: Mapping[str, Any]) -> None:
        """Write a trial whose proposal is unknown, so that its number stays taken."""
        self._create(create_trial(state=TrialState.FAIL, user_attrs=dict(attributes)))

    def report(self, number: int, epoch: int, value: float) -> None:
        """Write the metric after an epoch."""
        with self._writing():
            self._storage.set_trial_intermediate_value(self._trial(number), epoch, value)

    def note(self, number: int, key: str, value: Any) -> None:
        """Write a fact about a trial."""
        with self._writing():
            self._storage.set_trial_user_attr(self._trial(number), key, value)

    def tell(self, record: TrialRecord, values: list[float] | None, order: int) -> None:
        """Write how a trial ended; `values` are the metrics of a complete trial, None hides the trial from samplers."""
        self.note(record.number, RECORD, facts(record) | {ORDER: order})
        with self._writing():
            self._storage.set_trial_state_values(
                self._trial(record.number),
                TrialState.FAIL if values is None else TrialState.COMPLETE,
                values,
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a failure to write into an error that a person can act on.

        Nothing is written after it: a line that was cut short stays the last one, and the next start removes it.
        """
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except OSError as error:
            self._failure = files.unwritable(self._path, error)
            raise self._failure from error

    def _create(self, trial: FrozenTrial) -> int:
        with self._writing():
            return self._storage.create_new_trial(self._id, template_trial=trial)

    def _trial(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)


def facts(record: TrialRecord) -> dict[str, Any]:
    """Return what the journal keeps of a record, as JSON can hold it."""
    kept = {"state": record.state, "epochs": record.epochs, "best_epoch": record.best_epoch, "seconds": record.seconds}
    if record.state == COMPLETE:
        return kept | {"metrics": files.without_nan(record.metrics)}
    return kept | {"metrics": files.without_nan(record.metrics), "kind": record.kind, "reason": record.reason}


def _mend(path: Path) -> None:
    """Cut off a last line that a crash left without its end, and the lock of a process that is gone.

    The caller holds the study's lock, so that nobody is writing.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _where(path: Path) -> str:
    """Name the first line that is no JSON, from 1."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError:
            return f" in line {number}"
    return ""
