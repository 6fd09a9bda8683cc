"""Parameters, operations, time and memory of a network, against hand counts and another measure of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from histotune.core.config import TrialConfig
from histotune.data.batches import Cases, images_as_cases
from histotune.data.modalities.image import ImagePreprocessing
from histotune.models.network import build_model
from histotune.models.predictor import Predictor, predict
from histotune.training.efficiency import LARGE, Efficiency, efficiency, flops

VIT = {"name": "timm/vit_tiny_patch16_224", "patch_size": 8, "depth": 2}
BRANCHES = {"cnn": {"backbone": {"name": "alexnet32", "width": 8}}, "transformer": {"backbone": VIT}}


def predictor(**model: Any) -> Predictor:
    torch.manual_seed(0)
    config = TrialConfig.from_dict({"image_size": 32, "model": model, "loss": "acbfl"})
    network = build_model(config, (30, 10)).eval()
    preparations = {"image": ImagePreprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 32)}
    return Predictor(config, ("no", "yes"), 1, preparations, network, torch.device("cpu"))


def fused(name: str, **params: Any) -> Predictor:
    return predictor(branches=BRANCHES, fusion={"name": name, **params})


def image(result: Predictor) -> Cases:
    return images_as_cases(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), result.model.images)


def test_operations_of_a_transformer_by_hand() -> None:
    """Patches 4 x 4 and a class token: T = 17, D = 192, MLP of 4 D, two blocks; a multiply-add is two operations."""
    result = predictor(branches={"transformer": {"backbone": VIT}})
    tokens, dim = 17, 192
    block = 2 * tokens * (dim * 3 * dim + dim * dim + 2 * dim * 4 * dim) + 2 * 2 * tokens * tokens * dim
    patches = 2 * 16 * (8 * 8 * 3) * dim
    head = 2 * dim * 2
    assert flops(result.model, image(result), result.preparations) == patches + 2 * block + head


def test_cross_attention_costs_its_products_more_than_concat() -> None:
    plain, cross = fused("concat"), fused("cross_attention", dim=64, heads=4)
    counted = [flops(result.model, image(result), result.preparations) for result in (plain, cross)]
    (cnn, cnn_wide), (vit, vit_wide) = (16, 21), (16, 192)  # tokens and their width; alexnet32 of width 8 has 21
    shapes = [tuple(output.tokens.shape[1:]) for output in outputs(cross)]
    assert shapes == [(cnn, cnn_wide), (vit, vit_wide)]
    projections = 2 * 64 * (cnn * cnn_wide + vit * vit_wide)
    attention = 2 * (cnn + vit) * (4 * 64 * 64) + 2 * 2 * 2 * cnn * vit * 64
    pooled = sum(output.pooled.shape[1] for output in outputs(plain))
    assert counted[1] - counted[0] == projections + attention + 2 * 2 * (128 - pooled)


def outputs(result: Predictor) -> list[Any]:
    inputs = {"image": torch.zeros(1, 3, 32, 32)}
    return list(result.model.outputs(inputs, {"image": torch.ones(1, dtype=torch.bool)})[0].values())


def test_memory_is_what_the_profiler_sees() -> None:
    result = fused("cmaf", dim=64, heads=4)
    images = torch.zeros(LARGE, 32, 32, 3, dtype=torch.uint8)
    weights = sum(t.numel() * t.element_size() for t in result.model.state_dict().values())
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        predict(result.model, [images_as_cases(images, ["image"])], result.preparations)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    peak = np.cumsum(changes).max() + weights
    assert efficiency(result).peak_memory_mb == pytest.approx(peak / 2**20, rel=0.1)


def test_measuring_leaves_no_trace() -> None:
    result = fused("cmaf", dim=64, heads=4)
    before = {name: value.clone() for name, value in result.model.state_dict().items()}
    random = torch.get_rng_state()
    measured = efficiency(result)
    assert isinstance(measured, Efficiency)
    assert measured.parameters == result.model.parameter_count()
    assert 0 < measured.latency_ms < measured.batch_latency_ms
    assert 0 < measured.peak_memory_mb < measured.training_memory_mb
    assert measured.device == "cpu"
    assert not result.model.training
    assert all(torch.equal(value, before[name]) for name, value in result.model.state_dict().items())
    assert all(parameter.grad is None for parameter in result.model.parameters())
    assert torch.equal(random, torch.get_rng_state())
