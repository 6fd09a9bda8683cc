"""A small study of made-up tables, and its cases as files that somebody would predict from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.data.modalities.table import Table
from histotune.space import read_space
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.training.loop import run_trial

BACKBONES: Mapping[str, Any] = {
    "image": {"modality": "image", "backbone": {"name": "mlp", "width": 16}},
    "omics": {"modality": "omics", "backbone": {"name": "gene_tokens", "tokens": 5, "dim": 16}},
    "clinical": {"modality": "clinical", "backbone": {"name": "snn"}},
}


def begun(folder: Path, *, folds: int = 0, cases: int = 120, difficulty: float = 0.3) -> tuple[StudyFolder, Cohort]:
    """Begin a study of made-up tables of image features, omics and clinic, without any trial."""
    space = {
        "dataset": "multimodal_demo",
        "options": {"cases": cases, "difficulty": difficulty},
        "model": {"branches": dict(BACKBONES), "fusion": "concat"},
        "epochs": 4,
        "batch_size": 32,
        "metric": "auroc",
    }
    wanted = StudyRequest(read_space(space, folder.name), folds=folds)
    store, cohorts = begin(wanted, folder.name, Places(folder.parent, folder.parent.parent / "cache"))
    return store, cohorts[min(cohorts)]


def train(store: StudyFolder, cohort: Cohort, number: int, *branches: str, **changes: Any) -> Path:
    """Train trial `number` on some of the modalities, joined side by side unless `fusion` says otherwise."""
    fusion = changes.pop("fusion", "concat" if len(branches) > 1 else "none")
    chosen = {name: BACKBONES[name] for name in branches}
    message = {"epochs": 6, "batch_size": 16, "optimizer": {"learning_rate": 0.003}, **changes}
    config = TrialConfig.from_dict({"model": {"branches": chosen, "fusion": fusion}, **message})
    assert run_trial(config, store.training_data(cohort), store.trial_folder(number)).state == COMPLETE
    return store.trial_folder(number)


def frame_of(table: Table, ids: np.ndarray) -> pd.DataFrame:
    """Write a table as it would stand in a file: categories as words."""
    columns = {}
    for at, column in enumerate(table.columns):
        values = table.values[:, at]
        words = column.categories
        columns[column.name] = values if words is None else [None if v != v else words[int(v)] for v in values]
    return pd.DataFrame({"case_id": ids, **columns})


def write_cases(folder: Path, cohort: Cohort, ids: np.ndarray) -> Path:
    """Write some cases as a folder of one CSV per modality; who lacks one has no row there."""
    folder.mkdir(parents=True)
    rows = pd.Index(cohort.table["id"]).get_indexer(pd.Index(ids))
    for name, column in cohort.columns.items():
        some = column.select(rows[column.present[rows]])
        frame_of(some.stored, ids[column.present[rows]]).to_csv(folder / f"{name}.csv", index=False)
    return folder
