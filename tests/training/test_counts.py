"""A loss is given the classes of the cases that are trained on: a case without input changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from histotune.core.config import TrialConfig
from histotune.data.modalities.table import Table, TableColumn
from histotune.data.splits import TrainingData
from histotune.errors import DataError
from histotune.models.fusions.late import LateObjective
from histotune.models.losses import LOSSES, ObjectiveInput
from histotune.training.loop import run_trial
from histotune.training.session import start

CASES = 400
BRANCHES = {
    "image": {"modality": "image", "backbone": {"name": "alexnet", "width": 3, "features": 4}},
    "genes": {"modality": "genes", "backbone": {"name": "mlp", "width": 4}},
}
WEIGHED: dict[str, Any] = {  # where a loss has them, class weights and priors that depend on the counts
    name: {key: value for key, value in {"beta": 0.999, "tau": 1.0}.items() if key in known}
    for name in LOSSES.names()
    for known in [{parameter.name for parameter in LOSSES.entry(name).parameters}]
}


@pytest.fixture
def data() -> TrainingData:
    """192 training cases of class 0 and 208 of class 1, of which nearly all of class 1 lack the image."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(192, np.int64), np.ones(208, np.int64), np.tile([0, 1], 20)])
    there = np.ones(len(labels), bool)
    there[208 : 192 + 208] = False
    columns = tuple(TableColumn(name) for name in ("a", "b", "c"))
    genes = rng.normal(size=(len(labels), 3)).astype(np.float32)
    has_genes = np.ones(len(labels), bool)
    has_genes[:100] = False
    return TrainingData(
        arrays={
            "image": rng.integers(0, 255, size=(len(labels), 16, 16, 3)).astype(np.uint8),
            "genes": Table(genes, columns),
        },
        present={"image": there, "genes": has_genes},
        kinds={"image": "image", "genes": "table"},
        labels=labels,
        ids=np.array([f"case{n:03d}" for n in range(len(labels))]),
        patients=np.array([f"patient{n}" for n in range(len(labels))]),
        train=np.arange(CASES),
        val=np.arange(CASES, len(labels)),
        classes=("benign", "tumour"),
        digest="0123456789abcdef",
    )


def config(*branches: str, fusion: Any = "none", **changes: Any) -> TrialConfig:
    model = {"branches": {name: BRANCHES[name] for name in branches}, "fusion": fusion}
    return TrialConfig.from_dict({"image_size": 16, "epochs": 1, "batch_size": 64, "model": model, **changes})


def known(objective: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that a loss makes of counts."""
    return {name: value for name, value in objective.named_buffers() if not name.startswith("seen")}


@pytest.mark.parametrize("loss", LOSSES.names())
def test_weights_margins_and_priors_are_of_what_is_trained_on(data: TrainingData, loss: str) -> None:
    session = start(config("image", loss={"name": loss, **WEIGHED[loss]}), data, torch.device("cpu"))
    assert session.counts == (192, 16)
    features = session.model.fusion.out_dim
    expected = known(LOSSES.build(loss, ObjectiveInput(features, (192, 16)), **WEIGHED[loss]))
    for name, value in known(session.model.objective).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("loss", LOSSES.names())
def test_cases_without_input_change_no_bit_of_the_weights(data: TrainingData, loss: str, tmp_path: Path) -> None:
    rows = data.train[data.present["image"][data.train]]
    asked = config("image", loss={"name": loss, **WEIGHED[loss]})
    for name, one in {"all": data, "some": replace(data, train=rows)}.items():
        record = run_trial(asked, one, tmp_path / name)
        assert record.state == "complete", record.reason
        assert json.loads((tmp_path / name / "model.json").read_text())["counts"] == [192, 16]
    first, second = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("all", "some"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_branches_that_decide_together_count_the_cases_with_any_of_them(data: TrainingData) -> None:
    asked = config("image", "genes", fusion="concat", loss={"name": "focal", "beta": 1.0})
    session = start(asked, data, torch.device("cpu"))
    assert session.counts == (192, 208)


def test_branches_that_decide_for_themselves_count_their_own(data: TrainingData) -> None:
    asked = config(
        "image", "genes", fusion={"name": "late", "of": "probabilities"}, loss={"name": "focal", "beta": 1.0}
    )
    objective = start(asked, data, torch.device("cpu")).model.objective
    assert isinstance(objective, LateObjective)
    for name, counts in {"image": (192, 16), "genes": (92, 208)}.items():
        weights = objective.heads[name].get_buffer("objective.weights")
        assert weights == pytest.approx(ObjectiveInput(4, counts).class_weights(1.0))


def test_each_fold_counts_its_own(data: TrainingData) -> None:
    dealt = np.where(np.arange(len(data.labels)) < CASES, 1 + np.arange(len(data.labels)) % 2, 0)[None]
    for cut in replace(data, folds=dealt).cuts():
        session = start(config("image", loss={"name": "focal", "beta": 1.0}), cut, torch.device("cpu"))
        rows = cut.train[cut.present["image"][cut.train]]
        assert session.counts == tuple(np.bincount(cut.labels[rows]))
        weights = ObjectiveInput(4, session.counts).class_weights(1.0)
        assert session.model.objective.get_buffer("weights") == pytest.approx(weights)


@pytest.mark.parametrize("fusion", ["none", "late"])
def test_a_class_that_is_never_trained_on_is_named(data: TrainingData, fusion: str) -> None:
    there = data.present["image"] & (data.labels == 0)
    lacking = replace(data, present={**data.present, "image": there})
    named = {"none": config("image"), "late": config("image", "genes", fusion={"name": "late", "of": "logits"})}
    with pytest.raises(DataError, match="no training case of class 'tumour' has image: leave that modality out"):
        start(named[fusion], lacking, torch.device("cpu"))
