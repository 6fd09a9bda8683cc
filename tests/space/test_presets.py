"""A preset is a whole configuration, holds the published values, and trains in the study of its space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from histotune.api import train
from histotune.cli.app import app
from histotune.cli.catalogue import catalogue
from histotune.core.config import TrialConfig
from histotune.errors import ConfigError, StudyError
from histotune.ingest.datasets.idc import official_patients
from histotune.space import check_config, load_space, space_names
from histotune.space._yaml import SHIPPED
from histotune.space.presets import load_preset, preset_names
from histotune.study import open_study

EVERY = pytest.mark.parametrize("name", preset_names())


# What a model of one image branch, trained by another optimiser than SGD, does not read.
UNREAD = {
    "model.fusion",
    "model.redundancy",
    "model.head.bottleneck",
    "model.branches.image.modality",
    "optimizer.momentum",
    "model.modality_dropout",
    "preprocess",
}


def keys(config: Mapping[str, Any], path: str = "") -> set[str]:
    """Return every dotted key; what is inside a component is the component's own."""
    groups = {
        k for k, v in config.items() if isinstance(v, Mapping) and k not in ("loss", "fusion", "redundancy", "backbone")
    }
    own = {f"{path}{key}" for key in config.keys() - groups}
    return own.union(*(keys(config[key], f"{path}{key}.") for key in groups))


@EVERY
def test_a_preset_leaves_nothing_to_be_searched_or_to_a_default(name: str) -> None:
    path = next(p for p in (folder / "presets" / f"{name}.yaml" for folder in SHIPPED) if p.is_file())
    assert load_space(path).parameters() == []
    config = load_preset(name).config
    assert keys(config) == keys(TrialConfig().to_dict()) - UNREAD
    check_config(TrialConfig.from_dict(config))


@EVERY
def test_a_preset_belongs_to_a_shipped_space_of_its_dataset(name: str) -> None:
    preset = load_preset(name)
    assert preset.space.stem in space_names()
    assert load_space(preset.space).dataset == preset.dataset
    assert preset.config["image_size"] in load_space(preset.space).image_sizes()
    assert preset.description


def test_janowczyk_is_trained_as_published() -> None:
    preset = load_preset("janowczyk")
    assert preset.protocol == "official_patient"
    optimizer = preset.config["optimizer"]
    assert (optimizer["name"], optimizer["learning_rate"], optimizer["weight_decay"]) == ("adagrad", 0.001, 0.004)
    assert preset.config["epochs"] * 83_300 / preset.config["batch_size"] == pytest.approx(600_000, rel=1e-3)


AFFINITY = {"sigma": 130, "lambda": 0.1, "centres": 1}
PUBLISHED = {  # Table IX of CFAL; the margin .35 of SphereFace is read as 1.35, the gamma of the focal loss is Lin's
    "cfal_idc": ("cfal", {**AFFINITY, "gamma": 2, "beta": 0.999}),
    "arc_idc": ("arcface", {"scale": 30, "margin": 0.5, "beta": 0.999}),
    "cos_idc": ("cosface", {"scale": 10, "margin": 0.5, "beta": 0.999}),
    "sphere_idc": ("sphereface", {"scale": 30, "margin": 1.35, "beta": 0.999}),
    "focal_idc": ("focal", {"gamma": 2, "beta": 0.999}),
    "cce_idc": ("cross_entropy", {}),
    "cfal_crc": ("cfal", {**AFFINITY, "gamma": 1, "beta": 0.9999}),
    "arc_crc": ("arcface", {"scale": 15, "margin": 0.1, "beta": 0.9999}),
    "cos_crc": ("cosface", {"scale": 20, "margin": 0.35, "beta": 0.9999}),
    "sphere_crc": ("sphereface", {"scale": 20, "margin": 1.35, "beta": 0.9999}),
    "focal_crc": ("focal", {"gamma": 2, "beta": 0.9999}),
    "cce_crc": ("cross_entropy", {}),
}
NETWORKS = {"idc": ("alexnet", 32), "vgg": ("vgg19", 224), "cct": ("cct_2", 112)}


@pytest.mark.parametrize("name", sorted(set(preset_names()) - {"janowczyk"}))
def test_the_presets_of_cfal_hold_its_published_values(name: str) -> None:
    config = load_preset(name).config
    loss, params = PUBLISHED[name.removesuffix("_vgg").removesuffix("_cct")]
    assert config["loss"] == {"name": loss, **params}
    backbone, side = NETWORKS[name.rpartition("_")[2]]
    assert (config["model"]["branches"]["image"]["backbone"]["name"], config["image_size"]) == (backbone, side)
    assert (config["optimizer"]["learning_rate"], config["optimizer"]["weight_decay"]) == (1e-3, 1e-4)
    assert (config["optimizer"]["name"], config["batch_size"], config["patience"]) == ("adamw", 32, 5)
    assert (config["augment"]["flip"], config["augment"]["turn"]) == (True, False)


def test_every_preset_of_cfal_is_there() -> None:
    idc = [name for name in PUBLISHED if name.endswith("_idc")]
    crc = [f"{name}_{network}" for name in PUBLISHED if name.endswith("_crc") for network in ("vgg", "cct")]
    assert preset_names() == sorted([*idc, *crc, "janowczyk"])


def test_presets_are_listed_with_space_and_loss() -> None:
    listed = {entry["name"]: entry for entry in catalogue("presets")}
    assert list(listed) == preset_names()
    assert listed["focal_idc"]["parameters"] == {"space": "idc", "loss": "focal", "gamma": 2.0, "beta": 0.999}


def test_an_unknown_preset_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'focal_icd'\. Did you mean 'focal_idc'"):
        load_preset("focal_icd")


# --- own presets, and training


SPACE = """
dataset: synthetic
options: {cases: 240, patients: 24, side: 32}
image_size: 16
epochs: 1
model: {branches: {image: {backbone: {name: alexnet, width: 4}}}}
optimizer: {learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true, default: 2.0e-3}, weight_decay: 0.01}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a space and a preset that says part of a configuration."""
    (tmp_path / "small.yaml").write_text(SPACE)
    (tmp_path / "focal.yaml").write_text(
        "extends: small.yaml\nloss: {name: focal, gamma: 1.0}\noptimizer: {name: sgd}\n"
    )
    return tmp_path


def places(folder: Path) -> dict[str, Any]:
    return {"runs": folder / "runs", "cache": folder / "cache"}


def test_what_a_preset_leaves_out_is_the_default_of_its_space(own: Path) -> None:
    preset = load_preset(own / "focal.yaml")
    assert preset.space == own / "small.yaml"
    assert preset.config["loss"] == {"name": "focal", "gamma": 1.0}
    assert preset.config["optimizer"] == {"name": "sgd", "learning_rate": 0.002, "weight_decay": 0.01}


def test_presets_of_one_space_train_in_one_study_beside_its_default(own: Path) -> None:
    default = train(own / "small.yaml", **places(own))
    focal = train(preset=own / "focal.yaml", **places(own))
    again = train(own / "small.yaml", ["loss.gamma=3"], preset=own / "focal.yaml", **places(own))
    assert default.folder.parent == focal.folder.parent == again.folder.parent
    assert focal.config()["loss"] == {"name": "focal", "gamma": 1.0}
    assert again.config()["loss"] == {"name": "focal", "gamma": 3}


def test_the_split_of_a_preset_is_that_of_its_study(own: Path) -> None:
    (own / "random.yaml").write_text("extends: small.yaml\nprotocol: patch_random_70_30\nimbalance: long_tail\n")
    train(preset=own / "random.yaml", **places(own))
    settings = open_study("small", runs=own / "runs").settings
    assert (settings.protocol, settings.imbalance) == ("patch_random_70_30", "long_tail")
    train(preset=own / "focal.yaml", **places(own))  # asks nothing of the split
    train(own / "small.yaml", preset=own / "focal.yaml", study="other", **places(own))
    with pytest.raises(StudyError, match="began with another split: 'patient' then, 'patch_random_70_30' now"):
        train(preset=own / "random.yaml", study="other", **places(own))


def test_a_preset_without_a_space_or_of_another_dataset_is_refused(own: Path) -> None:
    (own / "alone.yaml").write_text("dataset: synthetic\n")
    with pytest.raises(ConfigError, match=r"alone\.yaml: a preset extends the search space of its study"):
        load_preset(own / "alone.yaml")
    with pytest.raises(
        ConfigError, match="preset 'cce_idc' is for dataset 'idc', and space 'small' is for 'synthetic'"
    ):
        train(own / "small.yaml", preset="cce_idc", **places(own))
    with pytest.raises(ConfigError, match="name a search space"):
        train(**places(own))


def idc_folder(root: Path) -> Path:
    """Two patches of each class for some published patients of every part."""
    rng = np.random.default_rng(0)
    for patients in official_patients().values():
        for patient in patients[:4]:
            for label in (0, 1):
                (root / patient / str(label)).mkdir(parents=True)
                for x in (1, 51):
                    path = root / patient / str(label) / f"{patient}_idx5_x{x + 100 * label}_y1_class{label}.png"
                    Image.fromarray(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(path)
    return root


def test_a_shipped_preset_trains_from_the_command_line(tmp_path: Path) -> None:
    where = ["--data", str(idc_folder(tmp_path / "idc")), "--set", "epochs=1"]
    where += ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    answer = CliRunner().invoke(app, ["train", "--preset", "janowczyk", *where])
    assert answer.exit_code == 0, answer.output
    assert "complete after 1 epochs" in answer.output
    assert open_study("idc", runs=tmp_path / "runs").settings.protocol == "official_patient"
    wrong = CliRunner().invoke(app, ["train", "--preset", "janowczik", *where])
    assert wrong.exit_code == 2
    assert "Did you mean 'janowczyk'" in wrong.stderr
