"""Confirms a study in a process that dies in the middle of a training; run by test_confirm.

Usage: python confirm_process.py STUDY CACHE DIES, where DIES says in which epoch, counted over all trainings, it is
killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import folds_process

from histotune.core.runtime import Places
from histotune.evaluation.confirm import confirm
from histotune.storage.study_folder import StudyFolder

if __name__ == "__main__":
    study, cache, killed_at = sys.argv[1:]
    folds_process.die_in(int(killed_at))
    store = StudyFolder(Path(study))
    confirm(store, Places(store.folder.parent, Path(cache)), top=1, seeds=2, outer=2, replicates=50)
