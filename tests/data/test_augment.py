"""Laws of augmentation: what it keeps, what it changes, and that 0 changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histotune.core.config import AugmentConfig
from histotune.data.augment import augment, flip_and_turn, jitter_colors, jitter_stains, mixup, symmetry

OFF = AugmentConfig(flip=False, turn=False)
JITTERS = pytest.mark.parametrize("jitter", [jitter_colors, jitter_stains], ids=lambda f: f.__name__)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(size: int = 16, side: int = 6) -> torch.Tensor:
    return torch.from_numpy(rng(9).integers(0, 256, size=(size, side, side, 3), dtype=np.uint8))


def code_of(original: torch.Tensor, changed: torch.Tensor) -> int:
    """Find which of the eight symmetries took `original` [S, S, 3] to `changed`."""
    result = [code for code in range(8) if torch.equal(symmetry(original[None], code)[0], changed)]
    assert len(result) == 1
    return result[0]


# --- off means off


def test_nothing_asked_is_the_very_same_tensor() -> None:
    images, draws = picture(), rng()
    assert augment(images, OFF, draws) is images
    assert draws.bit_generator.state == rng().bit_generator.state, "nothing was drawn"


@JITTERS
def test_amount_zero_is_the_identity(jitter: object) -> None:
    images = picture().float() / 255
    assert callable(jitter)
    assert jitter(images, 0.0, rng()) is images


def test_mixup_zero_is_the_identity() -> None:
    images, labels = torch.randn(4, 3, 5, 5), torch.eye(4)
    mixed, soft = mixup(images, labels, 0.0, rng())
    assert mixed is images
    assert soft is labels


# --- flips and turns


def test_eight_symmetries_are_all_different_and_reversible() -> None:
    image = picture(1)
    views = [symmetry(image, code) for code in range(8)]
    assert torch.equal(views[0], image)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    assert all(any(torch.equal(symmetry(view, back), image) for back in range(8)) for view in views)


@pytest.mark.parametrize(
    ("flip", "turn", "reached"),
    [(True, True, set(range(8))), (True, False, {0, 1, 2, 3}), (False, True, {0, 3, 5, 6}), (False, False, {0})],
)
def test_each_image_gets_a_symmetry_of_its_own_with_equal_chance(flip: bool, turn: bool, reached: set[int]) -> None:
    images = picture(800)
    changed = flip_and_turn(images, rng(), flip=flip, turn=turn)
    assert changed.dtype == torch.uint8
    codes = [code_of(before, after) for before, after in zip(images, changed, strict=True)]
    counts = np.bincount(codes, minlength=8)
    assert set(np.flatnonzero(counts)) == reached
    expected = 800 / len(reached)
    assert sum((counts[code] - expected) ** 2 / expected for code in reached) < 25  # chi-squared, p about 0.001


def test_turning_keeps_handedness() -> None:
    quarter = torch.rot90(picture(1), 1, (1, 2))
    assert any(torch.equal(symmetry(picture(1), code), quarter) for code in (5, 6))


# --- colours


@JITTERS
def test_jitter_stays_in_range_and_differs_between_images(jitter: object) -> None:
    assert callable(jitter)
    images = (picture(1).float() / 255).repeat(8, 1, 1, 1)
    changed = jitter(images, 0.3, rng())
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 8


@JITTERS
def test_jitter_follows_its_generator(jitter: object) -> None:
    assert callable(jitter)
    images = picture().float() / 255
    assert torch.equal(jitter(images, 0.2, rng(3)), jitter(images, 0.2, rng(3)))
    assert not torch.equal(jitter(images, 0.2, rng(3)), jitter(images, 0.2, rng(4)))


@JITTERS
def test_a_small_amount_is_a_small_change(jitter: object) -> None:
    assert callable(jitter)
    images = picture().float() / 255
    assert (jitter(images, 1e-4, rng()) - images).abs().max() < 2e-3


def test_color_jitter_equals_its_three_steps() -> None:
    images, amount = 0.3 + 0.4 * picture(5).double() / 255, 0.1
    brightness, contrast, saturation = (rng(2).uniform(0.9, 1.1, size=(3, 5)).astype(np.float32))[..., None, None, None]
    luma = np.array([0.2989, 0.5870, 0.1140]) / (0.2989 + 0.5870 + 0.1140)
    x = images.numpy() * brightness
    mean = (x @ luma).mean(axis=(1, 2))[:, None, None, None]
    x = (x - mean) * contrast + mean
    grey = (x @ luma)[..., None]
    x = (x - grey) * saturation + grey
    assert jitter_colors(images.float(), amount, rng(2)).numpy() == pytest.approx(x, abs=1e-6)


def test_grey_stays_grey_under_color_jitter() -> None:
    grey = torch.rand(4, 5, 5, 1).expand(4, 5, 5, 3)
    changed = jitter_colors(grey.contiguous(), 0.3, rng())
    assert changed.std(dim=-1).max() < 1e-6


def test_white_stays_white_under_stain_jitter() -> None:
    assert jitter_stains(torch.ones(4, 3, 3, 3), 0.5, rng()).min() == pytest.approx(1.0, abs=1e-6)


def test_stain_jitter_scales_a_pure_stain() -> None:
    stain = torch.tensor([0.650, 0.704, 0.286]) / torch.tensor([0.650, 0.704, 0.286]).norm()
    pixel = (256 * torch.exp(-0.8 * stain) - 1) / 255
    changed = jitter_stains(pixel.expand(6, 2, 2, 3).contiguous(), 0.4, rng(5))
    density = -torch.log((changed * 255 + 1) / 256)[:, 0, 0]
    factors = rng(5).uniform(0.6, 1.4, size=(6, 2))[:, 0]
    assert density.numpy() == pytest.approx(0.8 * factors[:, None] * stain.numpy(), abs=1e-4)


# --- mixup


def test_mixup_mixes_images_and_labels_with_the_same_weight_per_case() -> None:
    images, labels = torch.eye(16).reshape(16, 1, 4, 4), torch.eye(16)
    mixed, soft = mixup(images, labels, 0.4, rng())
    assert torch.allclose(mixed.flatten(1), soft)
    assert torch.allclose(soft.sum(dim=1), torch.ones(16))
    assert len({round(float(row.max()), 6) for row in soft}) > 8, "weights are drawn per case"


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_mixup_weights_follow_the_beta_distribution(alpha: float) -> None:
    _, soft = mixup(torch.zeros(4000, 1), torch.eye(4000), alpha, rng())
    weight = soft.diagonal()
    assert weight.mean().item() == pytest.approx(0.5, abs=0.03)
    assert weight.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


# --- all together


def test_colours_come_as_fractions_and_geometry_alone_as_bytes() -> None:
    images = picture()
    assert augment(images, AugmentConfig(), rng()).dtype == torch.uint8
    changed = augment(images, AugmentConfig(color_jitter=0.1, stain_jitter=0.1), rng())
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_input_is_left_as_it_was() -> None:
    images = picture()
    kept = images.clone()
    augment(images, AugmentConfig(color_jitter=0.3, stain_jitter=0.3), rng())
    assert torch.equal(images, kept)
