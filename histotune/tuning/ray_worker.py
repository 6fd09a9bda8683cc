"""What runs in a worker process: one trial after another, epoch by epoch, with imports and data kept warm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import ray
from ray.tune import Trainable

from histotune.core import runtime
from histotune.core.config import TrialConfig
from histotune.data.splits import TrainingData
from histotune.errors import HistotuneError, StudyError, TrialFailed
from histotune.storage import layout
from histotune.storage.records import Parent, read_record
from histotune.storage.study_folder import STOPPED, StudyFolder
from histotune.training import memory
from histotune.training.checkpoint import Epoch, forget
from histotune.training.loop import epochs
from histotune.training.session import named_failures
from histotune.training.trial_folder import conclude, fail
from histotune.tuning.ray_pool import share
from histotune.tuning.trial_workspace import TrialWorkspace, unpack

# Keys of the answer of a step: whether the trial has ended (always); an epoch; the worker; a note; why the search
# cannot go on.
ENDED, EPOCH, METRICS, NODE, PROCESS, NOTE, DISK = "ended", "epoch", "metrics", "node", "process", "note", "disk"


class TrialWorker(Trainable):  # type: ignore[misc]
    """Trains what the driver assigns; its result is the trial folder, its answers report progress only.

    A worker that is reset for the next trial keeps its imports and its memory-mapped cohorts. Checkpoints are the
    trial's own, by its number: Ray neither saves nor restores anything.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Get ready once in the life of the process."""
        unpack(config["plugins"])
        runtime.share_gpu(config["gpus"])
        self._share = share(config["gpus"], config["cpus"], config["at_once"])
        self._studies: dict[str, StudyFolder] = {}
        self._data: dict[str, TrainingData] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the last trial behind and turn to the next."""
        runtime.set_threads(new_config["threads"])
        self._assignment = new_config
        self._workspace = TrialWorkspace(new_config, self._studies)
        self._folder = self._workspace.folder
        self._epochs: Generator[Epoch, None, None] | None = None
        self._begun = False
        self._note = ""
        return True

    def step(self) -> dict[str, Any]:
        """Report that the worker is ready, then train one epoch per call, then end the trial; guards all of it."""
        if not self._begun:
            self._begun = True  # from here on a death of this process is the trial's
            return {ENDED: False, NODE: ray.get_runtime_context().get_node_id(), PROCESS: os.getpid()}
        try:
            with named_failures():
                answer = self._advance()
                self._workspace.deliver()
                return answer
        except TrialFailed as error:
            failure = memory.verdict(self._folder, error)
        except HistotuneError as error:
            failure = TrialFailed("error", str(error))
        except Exception as error:
            failure = TrialFailed("error", f"{type(error).__name__}: {error}")
        self._epochs = None
        if failure is not None and failure.kind == "disk_full":
            return {ENDED: False, DISK: failure.reason}  # it is not the trial's fault, and there is no place to say so
        if failure is None:
            runtime.free_memory()
            self._workspace.deliver()  # the folder records the smaller micro-batch to try next
            return {ENDED: False}
        fail(self._folder, failure, config=self._assignment["config"])
        self._workspace.deliver()
        return {ENDED: True}

    def cleanup(self) -> None:
        """Let go of the trial; what it has is in its folder."""
        self._epochs = None

    def _advance(self) -> dict[str, Any]:
        if read_record(self._folder) is not None:
            return {ENDED: True}  # it ended before the driver was informed
        if self._workspace.stop_asked():
            return self._stop()
        if self._epochs is None:
            self._epochs = self._train()
            epoch = self._first()
        else:
            epoch = next(self._epochs)
        # pairs, because Ray flattens mappings
        answer = {EPOCH: epoch.number, METRICS: list(epoch.metrics.items()), ENDED: epoch.finished}
        note, self._note = self._note, ""
        return answer | ({NOTE: note} if note else {})

    def _stop(self) -> dict[str, Any]:
        if self._epochs is not None:
            self._epochs.close()  # writes the checkpoint that the record is made from
        answer: dict[str, Any] = {ENDED: True}
        try:
            conclude(self._folder, STOPPED)
        except StudyError as error:  # a damaged checkpoint; what was decided stands
            answer[NOTE] = f"trial {self._assignment['number']} was stopped and has no result: {error}"
            forget(self._folder)
            conclude(self._folder, STOPPED)
        (self._folder / layout.STOP).unlink(missing_ok=True)
        return answer

    def _first(self) -> Epoch:
        assert self._epochs is not None
        try:
            return next(self._epochs)
        except StudyError as error:
            # a damaged checkpoint, or what another configuration left unfinished under this number: train anew
            self._note = f"trial {self._assignment['number']} began anew: {error}"
            shutil.rmtree(self._folder)
            self._epochs = self._train()
            return next(self._epochs)

    def _train(self) -> Generator[Epoch, None, None]:
        given = self._assignment
        data = self._load(given["cohort"])
        config, how = TrialConfig.from_dict(given["config"]), {"metric": given["metric"], "share": self._share}
        if given["parent"] is not None:
            self._workspace.inherit(Parent(*given["parent"]), config.digest())
        training = epochs(config, data, self._folder, **how, keep=given["keep"])
        assert isinstance(training, Generator)
        return training

    def _load(self, folder: str) -> TrainingData:
        if folder not in self._data:
            self._data[folder] = self._workspace.store.training_data(self._workspace.cohort(Path(folder)))
        return self._data[folder]
