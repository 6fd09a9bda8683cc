"""Exports of untrained members that are far from their beginnings, and images for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.data.modalities.image import ImagePreprocessing
from histotune.ensembles.strategies import ENSEMBLES, Ensemble
from histotune.exports.model import FORMAT, Export, content_digest
from histotune.models.backbones import BACKBONES, Backbone, BackboneInput, BackboneOutput, Widths
from histotune.models.network import build_model
from histotune.models.predictor import save_preparations, save_weights
from histotune.storage import layout

COUNTS = (30, 20, 10)
VIT = {"name": "timm/vit_tiny_patch16_224", "patch_size": 8}
SMALL = {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": {**VIT, "depth": 1}}}


class SideBySide(Ensemble):
    """Keeps every member's probabilities apart, [N, M C], so that no difference is averaged away."""

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        return probabilities.transpose(0, 1).flatten(1)


class MeanColours(Backbone):
    """A layer over the mean colours of 8 x 8 px: next to no graph, where the backbone is not what is tested."""

    dense = True

    def __init__(self, given: BackboneInput) -> None:
        super().__init__()
        fields = (given.shape[1] // 8) ** 2
        self.layers = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * fields, 16), nn.Tanh())
        self.widths = Widths(16, 16)

    def forward(self, batch: Tensor) -> BackboneOutput:
        pooled = self.layers(batch)
        return BackboneOutput(pooled[:, None], pooled)


class Bessel(MeanColours):
    """The same through a function that ONNX does not have."""

    def forward(self, batch: Tensor) -> BackboneOutput:
        pooled = torch.special.bessel_j0(self.layers(batch))
        return BackboneOutput(pooled[:, None], pooled)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `side_by_side`, `mean_colours` and `bessel` where no other test sees them."""
    for registry in (ENSEMBLES, BACKBONES):
        monkeypatch.setattr(registry, "_entries", {name: registry.entry(name) for name in registry.names()})
    ENSEMBLES.register("side_by_side")(SideBySide)
    BACKBONES.register("mean_colours")(MeanColours)
    BACKBONES.register("bessel")(Bessel)


def exported(folder: Path, configs: Sequence[Mapping[str, Any]], strategy: str, **params: Any) -> Path:
    """Write an export of untrained members whose statistics, temperatures and scores are far from their beginnings."""
    members = []
    for k, settings in enumerate(configs):
        config = TrialConfig.from_dict(settings)
        torch.manual_seed(k)
        model = build_model(config, COUNTS)
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.copy_(torch.rand_like(value) + 0.5)
        for weight in model.objective.parameters():
            weight.data *= 8
        place = folder / "members" / str(k)
        files.write_text(place / "config.yaml", yaml.safe_dump(config.to_dict()))
        files.write_json(place / "model.json", {"classes": list("abc"), "positive": 1, "counts": COUNTS})
        fitted = ImagePreprocessing((0.7, 0.5 + 0.02 * k, 0.6), (0.2, 0.25, 0.15), config.image_size)
        save_preparations({"image": fitted}, place / "preprocessing.json")
        save_weights(model.state_dict(), place / "model.safetensors")
        members.append({"folder": f"members/{k}", "trial": k, "temperature": 0.25 + 0.25 * k})
    rng, ensemble = np.random.default_rng(0), ENSEMBLES.build(strategy, **params)
    ensemble.fit(rng.normal(size=(len(configs), 60, 3)), rng.integers(0, 3, 60))
    state = ensemble.state()
    info: dict[str, Any] = {"format": FORMAT, "name": "made-up", "strategy": strategy, "params": params, "state": state}
    info |= {"members": members, "classes": list("abc"), "positive": 1, "threshold": None, "resize": "area"}
    files.write_json(folder / layout.EXPORT, info | {"digest": content_digest(folder, info)})
    return folder


def images_for(model: Export, count: int) -> dict[int, np.ndarray]:
    """Draw noise of many brightnesses, uint8 [count, S, S, 3] for each size S."""
    rng = np.random.default_rng(count)
    top = rng.integers(20, 256, size=(count, 1, 1, 3))
    return {s: rng.integers(0, top, size=(count, s, s, 3)).astype(np.uint8) for s in model.image_sizes}


def model_of(fusion: str, branches: Mapping[str, Any] = SMALL, **params: Any) -> dict[str, Any]:
    return {"model": {"branches": branches, "fusion": {"name": fusion, **params}}}


def plain(*, backbone: str = "mean_colours", head: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return {"model": {"branches": {"image": {"backbone": backbone}}, "head": head or {}}, **settings}
