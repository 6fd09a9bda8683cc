"""Trains the folds of one trial in a process that dies in the middle of one of them; run by test_folds.

Usage: python folds_process.py STUDY COHORT FOLDER CONFIG DIES, where CONFIG is JSON and DIES says in which epoch of a
fold, counted over all folds, it is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path

from histotune.core.config import TrialConfig
from histotune.data.cohort import load
from histotune.storage.study_folder import StudyFolder
from histotune.training.session import Session

train = importlib.import_module(
    "histotune.training.loop"
)  # `histotune.train` is a function to those who use the package
began, dies = 0, 0
real = train.train_epoch


def train_epoch(session: Session, number: int) -> float:
    """Train an epoch of a fold, or be killed instead."""
    global began
    began += 1
    if began == dies:
        os.kill(os.getpid(), signal.SIGKILL)
    loss: float = real(session, number)
    return loss


def die_in(epoch: int) -> None:
    """Be killed in that epoch, counted over all trainings of this process."""
    global dies
    dies = epoch
    vars(train)["train_epoch"] = train_epoch


if __name__ == "__main__":
    study, cohort, folder, config, killed_at = sys.argv[1:]
    die_in(int(killed_at))
    data = StudyFolder(Path(study)).training_data(load(Path(cohort)))
    train.run_trial(TrialConfig.from_dict(json.loads(config)), data, Path(folder))
