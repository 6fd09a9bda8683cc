"""The command line refuses bad input in words, with code 2, without a traceback, and does what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up_slides import block, tiled_tiff
from typer.testing import CliRunner, Result

from histotune.cli.app import app
from histotune.data.cohort import load
from histotune.ingest.datasets import DATASETS
from histotune.models.predictor import load_model

Call = Callable[..., Result]

SPACE = """
description: one small network, for tests
dataset: image_folder
image_size: 16
epochs: 2
batch_size: 16
loss:
  choice:
    cross_entropy: {}
    focal: {gamma: {low: 0.5, high: 3.0}}
optimizer:
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
"""
PATIENTS = {f"p{i}": {"benign": 6, "tumour": 4} for i in range(8)}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `histotune ARGUMENTS` in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HISTOTUNE_DATA", raising=False)
    (tmp_path / "small.yaml").write_text(SPACE)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def refused(result: Result, *words: str) -> None:
    """Check that a call ended with code 2 and a message that holds these words."""
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.split())
    assert "Error: " in message
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


def test_missing_data_says_what_to_download(call: Call) -> None:
    refused(call("search", "idc"), "source:", "size:", "licence:", "layout:", "--data", "HISTOTUNE_DATA")


def test_folder_without_images(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(call("search", "small.yaml", "--data", "empty"), "no image")


@pytest.mark.parametrize(
    ("patients", "word"),
    [
        ({"p1": {"benign": 5}, "p2": {"benign": 5}, "p3": {"benign": 5}}, "one class"),
        ({"p1": {"benign": 9, "tumour": 9}}, "patient"),
    ],
    ids=["one class", "one patient"],
)
def test_impossible_cohorts(call: Call, tiny_folder: Callable[..., Path], patients: dict, word: str) -> None:
    refused(call("search", "small.yaml", "--data", tiny_folder(patients)), word)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "idcc"], ["idcc", "Did you mean 'idc'"]),
        (["search", "demo", "--fix", "loss=focl"], ["focl", "Did you mean 'focal'"]),
        (["search", "demo", "--fix", "model.backbone=alexnett"], ["alexnett", "Did you mean 'alexnet'"]),
        (["search", "demo", "--metric", "aurok"], ["aurok", "Did you mean 'auroc'"]),
        (["search", "demo", "--fix", "optimizer.learning_rat=0.1"], ["Did you mean 'learning_rate'"]),
        (["search", "demo", "--range", "optimizer.learning_rate=1:0.1"], ["optimizer.learning_rate"]),
        (["search", "demo", "--split", "patien"], ["patien", "Did you mean 'patient'"]),
        (["search", "demo", "--gpus-per-trial", "64"], ["64", "GPU"]),
        (["search", "demo", "--cpus-per-trial", "4096"], ["4096"]),
        (["search", "demo", "--sampler", "tpee"], ["tpee", "Did you mean 'tpe'"]),
        (["search", "demo", "--scheduler", "ashaa"], ["ashaa", "Did you mean 'asha'"]),
        (["search", "demo", "--time", "soon"], ["soon", "30m"]),
        (["search", "demo", "--warm-start", "nothing"], ["no study 'nothing' in"]),
        (["search", "demo", "--start-with", "gone.yaml"], ["gone.yaml cannot be read"]),
        (["search", "demo", "--start-with", "small.yaml"], ["small.yaml, line 2: description: unknown key"]),
        (["list", "loses"], ["loses", "Did you mean 'losses'"]),
        (["leaderboard", "nothing"], ["nothing"]),
        (["ensemble", "nothing"], ["nothing"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        (["predict", "nowhere", "."], ["nowhere"]),
        (["train", "demo", "--set", "loss.gama=2"], ["--set loss.gama=2"]),
        (["train", "demo", "--set", "epochs"], ["epochs"]),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else None,
)
def test_wrong_names_and_values_are_named(call: Call, arguments: list[str], words: list[str]) -> None:
    refused(call(*arguments), *words)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "somewhere", "ray://127.0.0.1:10001", ":6379"])
def test_a_cluster_that_does_not_answer_is_named_before_anything_is_prepared(
    call: Call, tmp_path: Path, address: str
) -> None:
    refused(call("search", "demo", "--ray-address", address), "no Ray cluster answers at", address, "HOST:PORT")
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml"}


def test_malformed_yaml_names_file_and_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("dataset: idc\nloss: {choice: [cross_entropy\n")
    refused(call("show-space", "bad.yaml"), "bad.yaml", "line")


def test_unknown_key_in_yaml_names_file_line_and_path(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("dataset: idc\noptimizer:\n  learning_rte: 0.1\n")
    refused(call("show-space", "bad.yaml"), "bad.yaml", "3", "optimizer.learning_rte", "Did you mean 'learning_rate'")


KINDS = ["backbones", "fusions", "redundancies", "losses", "datasets", "ensembles", "metrics", "spaces"]


@pytest.mark.parametrize("kind", KINDS)
def test_lists_answer_in_words_and_in_json(call: Call, kind: str) -> None:
    entries = json.loads(call("list", kind, "--json").stdout)
    assert entries
    shown = call("list", kind, "-v").stdout
    assert all(entry["summary"] for entry in entries)
    assert all(entry["name"] in shown for entry in entries)


def test_a_dataset_says_how_its_files_must_lie(call: Call) -> None:
    message = call("list", "datasets", "--verbose").stdout
    for dataset in DATASETS.names():
        assert DATASETS.build(dataset).info.layout in message
    assert "    Licence: CC0 1.0" in message


def test_one_training_keeps_its_folder_and_is_not_repeated(call: Call, tiny_folder: Callable[..., Path]) -> None:
    arguments = ["train", "small.yaml", "--data", tiny_folder(PATIENTS), "--set", "loss.name=focal", "--json"]
    first, second = call(*arguments), call(*arguments)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout) == json.loads(second.stdout)
    assert (Path(json.loads(first.stdout)["folder"]) / "model.safetensors").exists()


def test_a_study_refuses_data_that_changed(call: Call, tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder(PATIENTS)
    assert call("train", "small.yaml", "--data", folder).exit_code == 0
    next(folder.rglob("*.png")).unlink()
    refused(call("train", "small.yaml", "--data", folder, "--set", "seed=1"), "changed", "removed")


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")])
def test_shell_completion_is_offered(shell: str, word: str) -> None:
    environment = {**os.environ, "_HISTOTUNE_COMPLETE": f"source_{shell}"}
    answer = subprocess.run(
        [sys.executable, "-c", "from histotune.cli.app import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert word in answer.stdout


def test_completion_knows_the_spaces() -> None:
    environment = {
        **os.environ,
        "_HISTOTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": "histotune search d",
        "COMP_CWORD": "2",
    }
    answer = subprocess.run(
        [sys.executable, "-c", "from histotune.cli.app import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "demo" in answer.stdout.split()


def test_every_command_shows_an_example(call: Call) -> None:
    overview = call("--help").stdout
    commands = ["search", "train", "prepare", "leaderboard", "ensemble", "export", "evaluate", "predict", "list", "ui"]
    for command in [*commands, "explain", "show-space"]:
        assert command in overview
        shown = call(command, "--help")
        assert shown.exit_code == 0
        assert f"histotune {command}" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("resize", ["area", "pad"])
def test_a_space_may_pad_instead_of_stretch(call: Call, tiny_folder: Callable[..., Path], resize: str) -> None:
    folder = tiny_folder(PATIENTS)
    Path("wide.yaml").write_text(SPACE + f"resize: {resize}\n")
    assert call("train", "wide.yaml", "--data", folder).exit_code == 0
    shown = json.loads(call("prepare", "image_folder", "--data", folder, "--resize", resize, "--json").stdout)
    assert shown["resize"] == resize
    refused(call("prepare", "image_folder", "--data", folder, "--resize", "zoom"), "zoom", "area")


SLIDES = """
description: bags of three patches, for tests
dataset: slides
image_size: 16
epochs: 2
batch_size: 4
model:
  branches: {patches: {modality: patches, backbone: attention_mil}, graph: {modality: graph, backbone: patch_graph}}
  fusion: {name: concat, dim: 8}
"""


def test_whole_slides_become_a_trained_model(call: Call, frozen: dict[str, str]) -> None:
    pytest.importorskip("openslide")
    Path("in").mkdir()
    for at in range(12):
        tissue = block(range(at % 3, at % 3 + 2), range(1, 3), ((190, 90, 160), (90, 60, 150))[at % 2])
        tiled_tiff(Path("in") / f"s{at:02d}.tif", 4, 4, tissue)
    Path("in/text.svs").write_text("no slide")
    options = ["--patch-size", 64, "--mpp", 1, "--top", 12, *(f"--{name}={value}" for name, value in frozen.items())]
    shown = json.loads(call("prepare", "slides", "in", *options, "--json").stdout)
    assert {row["patches"] for row in shown["slides"]} == {12}
    assert [problem["kind"] for problem in shown["problems"]] == ["not_a_slide"]
    refused(call("prepare", "slides", "in", "--mean", "0.5"), "mean must be 3 numbers")
    refused(call("prepare", "slides", "in", "--std", "0.2,0.2,o"), "--std 0.2,0.2,o: expected three numbers R,G,B")
    message = call("prepare", "slides", "in", *options).stdout
    assert "slides: 12, patches: 144" in message
    assert "Left out text.svs: not_a_slide" in message
    assert "Next: write " in message
    assert "histotune prepare slides --data" in message
    refused(call("prepare", "slides", "--data", "in-bags"), "labels.csv does not exist", "slide and label")
    lines = [f"s{at:02d}.tif,{('benign', 'tumour')[at % 2]}" for at in range(12)]
    Path("in-bags/labels.csv").write_text("\n".join(["slide,label", *lines]))
    cohort = json.loads(call("prepare", "slides", "--data", "in-bags", "--json").stdout)
    assert cohort["modalities"] == {"patches": 12, "graph": 12}
    Path("slides.yaml").write_text(SLIDES)
    trained = call("train", "slides.yaml", "--data", "in-bags")
    assert trained.exit_code == 0, trained.output
    assert "complete after 2 epochs" in trained.stdout
    folder = next(line.removeprefix("Folder: ") for line in trained.stdout.splitlines() if line.startswith("Folder: "))
    logits = load_model(Path(folder)).logits(load(Path(cohort["folder"])).columns)
    assert logits.shape == (12, 2)
    assert np.isfinite(logits).all()


def test_options_of_whole_slides_need_whole_slides(call: Call, tmp_path: Path) -> None:
    refused(call("prepare", "idc", "--top", 5), "--top", "prepare slides FOLDER")
    refused(call("prepare", "idc", "in"), "--data in")
    refused(call("prepare", "slides", "in", "--data", "out"), "either")
    refused(call("prepare", "slides", "in"), "in is no folder")
    refused(call("prepare", "slides", "in", "--tissue", "otzu"), "Did you mean 'otsu'")
