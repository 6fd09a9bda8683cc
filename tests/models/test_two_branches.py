"""A CNN and a Transformer on one image, joined by every fusion: sizes, gradients, and the space that searches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histotune.core.config import TrialConfig
from histotune.data.splits import TrainingData
from histotune.models.fusions import FUSIONS
from histotune.models.network import Model, build_model
from histotune.models.predictor import load_model
from histotune.space import load_space
from histotune.training.loop import run_trial

FUSED = [name for name in FUSIONS.names() if name != "none"]
TIMM = {
    "cnn": {"backbone": "timm/convnext_atto"},
    "transformer": {"backbone": {"name": "timm/vit_tiny_patch16_224", "depth": 1}},
}


def build(fusion: str, side: int) -> Model:
    torch.manual_seed(0)
    named = {"name": "late", "of": "probabilities"} if fusion == "late" else fusion
    settings = {"image_size": side, "model": {"branches": TIMM, "fusion": named}, "loss": "acbfl"}
    return build_model(TrialConfig.from_dict(settings), (5, 9))


@pytest.mark.parametrize("fusion", FUSED)
@pytest.mark.parametrize("side", [32, 224])
def test_two_timm_backbones_train_on_one_image_of_any_size(fusion: str, side: int) -> None:
    model = build(fusion, side)
    images, present = {"image": torch.randn(2, 3, side, side)}, {"image": torch.ones(2, dtype=torch.bool)}
    model.loss(images, present, torch.tensor([0, 1])).backward()
    for branch in model.branches.values():
        assert sum(p.grad.abs().sum() for p in branch.parameters() if p.grad is not None) > 0
    assert model.eval().logits(images, present).shape == (2, 2)


@pytest.mark.parametrize("fusion", FUSED)
def test_a_trial_of_the_shipped_space_learns_and_loads(fusion: str, small_data: TrainingData, tmp_path: Path) -> None:
    space = load_space("idc_cmaf", fix=[f"model.fusion={fusion}", "epochs=2", "batch_size=32"])
    config = TrialConfig.from_dict(space.default())
    assert config.model.fusion.name == fusion
    record = run_trial(config, small_data, tmp_path)
    assert record.state == "complete", record.reason
    assert record.curve()[1]["train_loss"] < record.curve()[0]["train_loss"]
    logits = load_model(tmp_path).logits(small_data.arrays["image"][small_data.val])
    assert logits == pytest.approx(record.predictions().logits, abs=1e-4)


def test_every_draw_of_the_shipped_space_can_be_built() -> None:
    """Also what the check of a space cannot see: widths that meet only when the branches are known."""
    space = load_space("idc_cmaf")
    rng = np.random.default_rng(0)

    class Draws:
        def suggest_float(
            self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
        ) -> float:
            return float(
                rng.uniform(low, high) if step is None else low + step * rng.integers(round((high - low) / step) + 1)
            )

        def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
            return int(rng.integers(low, high + 1))

        def suggest_categorical(self, name: str, choices: Any) -> Any:
            return choices[rng.integers(len(choices))]

    seen = set()
    for _ in range(25):
        config = TrialConfig.from_dict(space.suggest(Draws()))
        build_model(config, (300, 100))
        seen.add((config.model.fusion.name, config.model.redundancy.name))
    assert {fusion for fusion, _ in seen} == set(FUSED) - {"mean_embedding"}  # which the space does not offer
    assert len({redundancy for _, redundancy in seen}) == 5
