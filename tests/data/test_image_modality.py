"""Mean and standard deviation of images: measured on the training set, or those of a network's weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from histotune.core.config import TrialConfig
from histotune.data.modalities import MODALITIES
from histotune.errors import ConfigError
from histotune.space import read_space

GIVEN = {"mean": [0.707, 0.579, 0.704], "std": [0.212, 0.23, 0.178]}  # of H-optimus, by its card
IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 8, 8, 3)).astype(np.uint8)
ROWS, LABELS = np.arange(4), np.zeros(6, np.int64)


def fitted(**options: Any) -> Any:
    return MODALITIES.build("image").fit(IMAGES, ROWS, LABELS, options)


def test_given_numbers_take_the_place_of_measured_ones() -> None:
    both = fitted(**GIVEN)
    assert (list(both.mean), list(both.std), both.image_size) == (GIVEN["mean"], GIVEN["std"], 8)
    expected = (IMAGES / 255 - np.array(GIVEN["mean"])) / np.array(GIVEN["std"])
    result = both.standardise(torch.from_numpy(IMAGES))
    assert result.permute(0, 2, 3, 1).numpy() == pytest.approx(expected, abs=1e-5)
    assert MODALITIES.build("image").restore(both.to_dict()) == both


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_what_is_not_given_is_measured(name: str) -> None:
    measured, one = fitted(), fitted(**{name: GIVEN[name]})
    other = next(iter(GIVEN.keys() - {name}))
    assert list(getattr(one, name)) == GIVEN[name]
    assert getattr(one, other) == getattr(measured, other)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mean": [123.7, 116.3, 103.5]}, r"'mean' of kind 'image'\[0\] must lie in \[0, 1\], got 123.7"),
        ({"std": [0.2, 0.0, 0.2]}, r"'std' of kind 'image'\[1\] must lie in \(0, 1\], got 0.0"),
        ({"mean": 0.5}, r"must be 3 numbers in \[0, 1\], of red, green and blue, got 0.5"),
        ({"std": [0.2, 0.2]}, r"must be 3 numbers in \(0, 1\]"),
        ({"means": [0.5] * 3}, r"no option 'means'. Did you mean 'mean'"),
    ],
)
def test_impossible_numbers_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        fitted(**options)


def test_a_space_may_give_them() -> None:
    space = read_space({"dataset": "synthetic", "image_size": 16, "preprocess": {"image": GIVEN}}, "mine")
    assert TrialConfig.from_dict(space.default()).preprocess["image"] == GIVEN
