"""The ONNX graph of an export gives PyTorch's probabilities: every fusion, loss, head and strategy, any batch.

What cannot be written, or differs, is refused and leaves nothing behind; a graph that was changed later is found.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from made_up_exports import SMALL, VIT, exported, images_for, model_of, plain, register
from typer.testing import CliRunner, Result

from histotune.cli.app import app
from histotune.ensembles.merge import merge
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError, HistotuneError
from histotune.exports import graph as one_graph
from histotune.exports import onnx as onnx_model
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.graph import input_name
from histotune.exports.model import load
from histotune.exports.onnx import add_onnx, largest_difference
from histotune.models.backbones import reading
from histotune.models.fusions import FUSIONS
from histotune.models.losses import LOSSES
from histotune.storage.study_folder import StudyFolder
from histotune.study import Study

OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "late": {"weights": "learned", "of": "logits"},
    "mean_embedding": {"weights": "learned"},
    "concat": {"dim": 24},
    "cross_attention": {"direction": "cnn->transformer", "residual": False, "layers": 2},
    "cmaf": {"pool": "attention", "expansion": 0.0, "temperature_mode": "annealed"},
}
FUSED = [name for name in FUSIONS.names() if name != "none"]
HEADS: Sequence[Mapping[str, Any]] = (
    {"feature_dim": 16, "dropout": 0.3},
    {"feature_dim": 16, "bottleneck": 0.01},
    {"bottleneck": 0.01, "feature_norm": "layer"},
    {"feature_norm": "batch"},
    {"feature_dim": 8, "feature_norm": "layer"},
)


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `side_by_side`, `mean_colours` and `bessel` where no other test sees them."""
    register(monkeypatch)


def scored(folder: Path, images: Mapping[int, np.ndarray]) -> np.ndarray:
    """Score images as somebody does who has onnxruntime only."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {given.name: images[given.shape[1]] for given in session.get_inputs()}
    (result,) = session.run(["probabilities"], feed)
    return np.asarray(result)


def check_equal(folder: Path) -> None:
    """Write the graph and compare it with the export on batches of one and of five."""
    add_onnx(folder)
    model = load(folder, torch.device("cpu"))
    for count in (1, 5):
        images = images_for(model, count)
        expected = model.probabilities(images)
        assert expected.std() > 0.02  # else a wrong graph would not show
        np.testing.assert_allclose(scored(folder, images), expected, rtol=0, atol=1e-4)


def test_every_fusion(tmp_path: Path) -> None:
    configs = [{}, *(model_of(name) for name in FUSED)]
    check_equal(exported(tmp_path / "all", configs, "side_by_side"))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSED)
def test_every_fusion_built_otherwise(tmp_path: Path, fusion: str) -> None:
    convolutional = {**SMALL, "transformer": {"backbone": "cct_2"}}
    check_equal(exported(tmp_path / "one", [model_of(fusion, convolutional, **OTHERWISE.get(fusion, {}))], "average"))


def test_every_loss(tmp_path: Path) -> None:
    losses: list[dict[str, Any]] = [{"name": name} for name in LOSSES.names()]
    losses += [{"name": "sphereface", "feature_norm": False, "scale": 1.0}]
    losses += [{"name": "cfal", "centres": 3, "sigma_mode": "auto"}]
    configs = [plain(loss=loss) for loss in losses]
    check_equal(exported(tmp_path / "all", configs, "side_by_side"))


def test_every_head_and_the_flips_and_turns(tmp_path: Path) -> None:
    configs = [*(plain(head=head) for head in HEADS), plain(tta=True)]
    check_equal(exported(tmp_path / "all", configs, "side_by_side"))


@pytest.mark.parametrize(
    ("strategy", "params"), [*((name, {}) for name in ENSEMBLES.names()), ("average", {"mean": "geometric"})]
)
def test_every_strategy_over_members_of_several_sizes(tmp_path: Path, strategy: str, params: Mapping[str, Any]) -> None:
    configs = [plain(image_size=size) for size in (32, 48, 32)]
    check_equal(exported(tmp_path / "all", configs, strategy, **params))


@pytest.mark.slow
@pytest.mark.parametrize(("cnn", "side"), [("timm/resnet18", 64), ("timm/convnext_atto", 224)])
@pytest.mark.parametrize("fusion", FUSED)
def test_every_fusion_of_two_timm_backbones(tmp_path: Path, fusion: str, cnn: str, side: int) -> None:
    branches = {"cnn": {"backbone": cnn}, "transformer": {"backbone": {**VIT, "depth": 4}}}
    check_equal(exported(tmp_path / "one", [{"image_size": side, **model_of(fusion, branches)}], "average"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        *(name for name in reading("image") if name != "timm/"),
        "timm/mobilenetv3_small_050",
        "timm/swin_tiny_patch4_window7_224",
        "timm/densenet121",
    ],
)
def test_every_backbone(tmp_path: Path, backbone: str) -> None:
    branches = {"image": {"backbone": backbone}}
    check_equal(exported(tmp_path / "one", [{"image_size": 64, "model": {"branches": branches}}], "average"))


@pytest.fixture(scope="module")
def vote_once(
    tmp_path_factory: pytest.TempPathFactory, new_study: Callable[[Path], StudyFolder], trained_trials: Path
) -> Path:
    folder = tmp_path_factory.mktemp("vote")
    store = new_study(folder / "runs" / "small")
    shutil.copytree(trained_trials, store.folder / "trials")
    merged = merge(store, top=3, strategy="vote", replicates=20)
    plain = export_ensemble(store, merged, folder / "plain")
    written = export_ensemble(store, merged, folder / "exports" / "vote", onnx=True)
    assert load(plain).digest == load(written).digest  # one model, in one form or in two
    assert [path.name for path in written.parent.iterdir()] == ["vote"]
    return written


@pytest.fixture
def vote(vote_once: Path, tmp_path: Path) -> Path:
    """An ensemble of three trials with its graph; every test gets its own."""
    return shutil.copytree(vote_once, tmp_path / "vote")


def test_an_exported_ensemble_holds_its_graph(vote: Path) -> None:
    model = load(vote)
    images = images_for(model, 6)
    np.testing.assert_allclose(scored(vote, images), model.probabilities(images), atol=1e-4)
    assert model.info["onnx"]["largest_difference"] <= 1e-4
    assert {path.name for path in vote.iterdir()} == {"export.json", "README.md", "members", "model.onnx"}


def test_a_graph_that_travels_alone_names_its_classes_and_its_export(vote: Path) -> None:
    model = load(vote)
    text = onnxruntime.InferenceSession(vote / "model.onnx").get_modelmeta().custom_metadata_map
    assert tuple(json.loads(text["classes"])) == model.classes
    assert int(text["positive"]) == model.positive
    assert text["digest"] == model.digest
    assert float(text["threshold"]) == model.threshold


def test_the_lines_of_the_card_score_images(vote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(import onnxruntime.*?)```", (vote / "README.md").read_text("utf-8"), re.DOTALL)
    assert example
    monkeypatch.chdir(vote)
    model = load(vote)
    images = images_for(model, 3)
    names: dict[str, Any] = {input_name(size): array for size, array in images.items()}
    exec(example[1], names)
    np.testing.assert_allclose(names["probabilities"], model.probabilities(images), atol=1e-4)


def test_the_lines_of_the_manual_score_images(vote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "predict-and-export.md").read_text("utf-8")
    example = re.search(r"```python\n(import numpy as np\nimport onnxruntime.*?)```", page, re.DOTALL)
    assert example
    (vote.parent / "exports").mkdir()
    vote.rename(vote.parent / "exports" / "idc")
    monkeypatch.chdir(vote.parent)
    names: dict[str, Any] = {}
    exec(example[1], names)
    assert names["probabilities"] == pytest.approx(load("exports/idc").probabilities({32: names["images"]}), abs=1e-4)


def test_a_changed_graph_is_refused_and_a_removed_one_is_not_missed(vote: Path) -> None:
    with (vote / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(HistotuneError, match="changed after it was exported"):
        load(vote)
    (vote / "model.onnx").unlink()
    load(vote)


def test_a_graph_from_elsewhere_is_refused(vote: Path, trained_study: StudyFolder, tmp_path: Path) -> None:
    plain = export_trial(trained_study, 0, tmp_path / "plain")
    shutil.copyfile(vote / "model.onnx", plain / "model.onnx")
    with pytest.raises(HistotuneError, match="changed after it was exported"):
        load(plain)


def test_the_check_tells_one_model_from_another(tmp_path: Path) -> None:
    one = exported(tmp_path / "one", [plain()], "average")
    other = exported(tmp_path / "other", [plain(loss="arcface")], "average")
    assert add_onnx(one)["onnx"]["largest_difference"] <= 1e-6
    assert largest_difference(one / "model.onnx", load(other)) > 1e-2


def test_a_graph_that_differs_is_refused_and_leaves_nothing(
    trained_study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_graph, "TOLERANCE", 0.0)
    with pytest.raises(HistotuneError, match="gives other probabilities than PyTorch"):
        export_trial(trained_study, 0, tmp_path / "exports" / "zero", onnx=True)
    assert not list((tmp_path / "exports").iterdir())


def test_an_operator_without_translation_is_refused_in_words(tmp_path: Path) -> None:
    folder = exported(tmp_path / "one", [plain(backbone="bessel")], "average")
    with pytest.raises(HistotuneError, match=r"made-up \(bessel\) cannot be written as ONNX: .*bessel_j0"):
        add_onnx(folder)


def test_more_weights_than_a_file_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported(tmp_path / "one", [plain()], "average")
    monkeypatch.setattr(onnx_model, "_LARGEST", 1000)
    with pytest.raises(HistotuneError, match=r"0\.0 GiB of weights.*2 GiB at most: export fewer members"):
        add_onnx(folder)


def test_a_missing_package_is_named(
    trained_study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs onnxscript: pip install 'histotune\[onnx\]'"):
        Study(trained_study).ensemble(top=2, export=tmp_path / "exports" / "two", onnx=True)
    assert not trained_study.ensembles.exists()  # refused before anything was combined
    with pytest.raises(ConfigError, match="needs onnxscript"):
        Study(trained_study).export(0, tmp_path / "exports" / "zero", onnx=True)
    assert not list((tmp_path / "exports").iterdir())


def test_the_command_line_writes_a_graph_and_refuses_one_without_a_folder(
    trained_study: StudyFolder, tmp_path: Path
) -> None:
    def call(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--onnx", "--runs", str(trained_study.folder.parent)])

    answer = call("export", "small", 2, tmp_path / "two")
    assert answer.exit_code == 0, answer.output
    model = load(tmp_path / "two")
    np.testing.assert_allclose(
        scored(tmp_path / "two", images_for(model, 2)), model.probabilities(images_for(model, 2)), atol=1e-4
    )
    refused = call("ensemble", "small")
    assert refused.exit_code == 2
    assert "an ONNX graph lies in an export folder" in refused.stderr
