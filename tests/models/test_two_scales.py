"""The laws of the benchmark over two scales: a cue alone says nothing, both together all, each branch has one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from histotune.models.backbones import BACKBONES

CELLS = np.array([(above, upright) for above in (True, False) for upright in (True, False)])


@pytest.fixture(scope="module")
def task() -> Iterator[ModuleType]:
    """The benchmark as a module; what it registers is gone afterwards."""
    path = Path(__file__).parents[1] / "benchmarks" / "two_scales.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BACKBONES, "_entries", {name: BACKBONES.entry(name) for name in BACKBONES.names()})
        spec = importlib.util.spec_from_file_location("two_scales", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.register()
        yield module


def cues_in(image: np.ndarray) -> tuple[bool, tuple[bool, bool]]:
    """Read the cues off the pixels uint8 [32, 32, 3]: is the bar above, are red and blue upright."""
    pixels = image.astype(np.float64)
    brightest = pixels.min(axis=2).mean(axis=1).argmax()
    redness = pixels[12:20, :, 0] - pixels[12:20, :, 2]  # [8, 32]
    upright = []
    for sign in (1, -1):
        columns = np.flatnonzero((sign * redness).mean(axis=0) > 50)
        square = pixels[12:20, columns[0] : columns[-1] + 1].mean(axis=2)
        upright.append(bool(np.abs(np.diff(square, axis=1)).mean() > np.abs(np.diff(square, axis=0)).mean()))
    return bool(brightest < 12), (upright[0], upright[1])


def test_who_reads_both_cues_off_the_pixels_is_right(task: ModuleType) -> None:
    rng = np.random.default_rng(0)
    above, upright = task.drawn(200, rng, contested=0.5)
    images = task.painted(above, upright, rng)
    read = [cues_in(image) for image in images]
    text = task.label(np.array([where for where, _ in read]), np.array([what for _, what in read]))
    assert np.array_equal(text, task.label(above, upright))


def test_where_the_squares_differ_each_cue_alone_is_at_chance(task: ModuleType) -> None:
    above, red = CELLS.T
    labels = task.label(above, np.stack([red, ~red], axis=1))
    for cue in (above, red):
        assert labels[cue].mean() == labels[~cue].mean() == 0.5
    assert np.array_equal(labels, (above == red).astype(int))  # both decide it, by a product


@pytest.mark.parametrize("shuffled", ["where", "what"])
def test_shuffling_either_cue_destroys_the_label(task: ModuleType, shuffled: str) -> None:
    rng = np.random.default_rng(1)
    above, upright = task.drawn(4000, rng, contested=1.0)
    other = (rng.permutation(above), upright) if shuffled == "where" else (above, rng.permutation(upright))
    agreement = (task.label(above, upright) == task.label(*other)).mean()
    assert agreement == pytest.approx(0.5, abs=0.04)  # five standard deviations


def test_the_cnn_pools_the_layout_away_and_the_transformer_averages_the_texture_away(task: ModuleType) -> None:
    torch.manual_seed(0)
    cnn, transformer = task.LocalTexture().eval(), task.CoarseLayout().eval()
    outputs = []
    for above, red in CELLS:
        many = np.repeat(above, 20), np.tile([red, not red], (20, 1))
        images = task.painted(*many, np.random.default_rng(2), noise=0.0)  # nothing else differs between the cells
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            outputs.append((cnn(batch).pooled, transformer(batch)))
    (above_red, layout), (above_blue, same_layout), (below_red, other_layout), _ = outputs
    torch.testing.assert_close(above_red, below_red, rtol=0, atol=1e-5)
    torch.testing.assert_close(layout.tokens, same_layout.tokens, rtol=0, atol=1e-5)
    assert (above_red - above_blue).abs().amax(dim=1).min() > 1e-3
    assert (layout.pooled - other_layout.pooled).abs().amax(dim=1).min() > 1e-3


def test_the_exact_test_knows_ten_wins_of_ten(task: ModuleType) -> None:
    mean, half, p = task.difference(np.full(10, 0.9), np.full(10, 0.5) + 0.01 * np.arange(10))
    assert mean == pytest.approx(0.355)
    assert 0 < half < 0.05
    assert p == 2 / 1024
    assert task.difference(np.array([0.6, 0.4]), np.array([0.5, 0.5]))[2] == 1.0


def test_an_arm_trains(task: ModuleType) -> None:
    validation, test, nll = task.trained("cmaf", 1e-3, 0, epochs=1, train=128)
    assert 0.3 < validation < 0.8
    assert 0.3 < test < 0.8
    assert 0.5 < nll < 1.5
