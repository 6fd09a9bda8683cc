"""What runs in a worker process: one trial after another, epoch by epoch, with imports and data kept warm."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from histotune import runtime
from histotune.config import TrialConfig
from histotune.errors import HistotuneError, StudyError, TrialFailed
from histotune.search.conductor import STOP
from histotune.search.desk import Desk, unpack
from histotune.splits import TrainingData
from histotune.store import STOPPED, StudyStore, read_record
from histotune.train import Epoch, conclude, epochs, fail

EPOCH, METRICS, ENDED = "epoch", "metrics", "ended"  # what a step answers


class TrialWorker(Trainable):  # type: ignore[misc]
    """Trains what the driver assigns; its result is the trial folder, its answers say only how far it is.

    A worker that is reset for the next trial keeps its imports and its memory-mapped cohorts. Checkpoints are the
    trial's own, by its number: Ray neither saves nor restores anything.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Get ready once in the life of the process."""
        unpack(config["plugins"])
        runtime.share_gpu(config["gpus"])
        self._studies: dict[str, StudyStore] = {}
        self._data: dict[str, TrainingData] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the last trial behind and turn to the next."""
        runtime.set_threads(new_config["threads"])
        self._assignment = new_config
        self._desk = Desk(new_config, self._studies)
        self._folder = self._desk.folder
        self._epochs: Generator[Epoch, None, None] | None = None
        self._begun = False
        return True

    def step(self) -> dict[str, Any]:
        """Say that the worker is there, then train one epoch at a time, then end the trial; the one guard around it."""
        if not self._begun:
            self._begun = True  # from here on a death of this process is the trial's
            return {ENDED: False}
        try:
            answer = self._advance()
            self._desk.deliver()
            return answer
        except TrialFailed as error:
            failure = error
        except HistotuneError as error:
            failure = TrialFailed("error", str(error))
        except Exception as error:
            failure = TrialFailed("error", f"{type(error).__name__}: {error}")
        self._epochs = None
        fail(self._folder, failure)
        self._desk.deliver()
        return {ENDED: True}

    def cleanup(self) -> None:
        """Let go of the trial; what it has is in its folder."""
        self._epochs = None

    def _advance(self) -> dict[str, Any]:
        if read_record(self._folder) is not None:
            return {ENDED: True}  # it ended before the driver could hear of it
        if self._desk.stop_asked():
            return self._stop()
        if self._epochs is None:
            self._epochs = self._train()
            epoch = self._first()
        else:
            epoch = next(self._epochs)
        # pairs, because Ray flattens mappings
        return {EPOCH: epoch.number, METRICS: list(epoch.metrics.items()), ENDED: epoch.finished}

    def _stop(self) -> dict[str, Any]:
        if self._epochs is not None:
            self._epochs.close()  # writes the checkpoint that the record is made from
        conclude(self._folder, STOPPED)
        (self._folder / STOP).unlink(missing_ok=True)
        return {ENDED: True}

    def _first(self) -> Epoch:
        assert self._epochs is not None
        try:
            return next(self._epochs)
        except StudyError:
            # a damaged checkpoint, or what another configuration left unfinished under this number: train anew
            shutil.rmtree(self._folder)
            self._epochs = self._train()
            return next(self._epochs)

    def _train(self) -> Generator[Epoch, None, None]:
        given = self._assignment
        data = self._load(given["cohort"])
        training = epochs(TrialConfig.from_dict(given["config"]), data, self._folder, metric=given["metric"])
        assert isinstance(training, Generator)
        return training

    def _load(self, folder: str) -> TrainingData:
        if folder not in self._data:
            self._data[folder] = self._desk.store.training_data(self._desk.cohort(Path(folder)))
        return self._data[folder]
