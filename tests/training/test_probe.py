"""What training measures of several branches: the same cases every epoch, nothing of the training changed by it.

That it survives an interruption bit by bit stands in tests/training/test_loop.py, whose curves hold it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from histotune.core.config import TrialConfig
from histotune.data.batches import Cases, images_as_cases
from histotune.data.cohort import Cohort
from histotune.data.splits import TrainingData
from histotune.metrics.scores import INFORMATION
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.fusions import FUSIONS as FUSIONS_OF
from histotune.models.fusions import Fusion
from histotune.models.predictor import Predictor, load_model
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import StudyFolder
from histotune.training import information, probe
from histotune.training.loop import StopTrial, run_trial

BRANCHES = {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": {"name": "cct_2", "dropout": 0.1}}}
FUSIONS: dict[str, dict[str, Any]] = {
    "cmaf": {"name": "cmaf", "dim": 8, "heads": 2, "layers": 2},
    "cross_attention": {"name": "cross_attention", "dim": 8, "heads": 4, "direction": "cnn->transformer"},
    "concat": {"name": "concat", "dim": 8},
}


def config(fusion: str = "cmaf", **changes: Any) -> TrialConfig:
    model = {"branches": BRANCHES, "fusion": FUSIONS[fusion]}
    return TrialConfig.from_dict({"epochs": 1, "batch_size": 64, "ema_decay": 0.5, "model": model, **changes})


@pytest.fixture(scope="module")
def data(
    tmp_path_factory: pytest.TempPathFactory, new_study: Callable[[Path], StudyFolder], small_cohort: Cohort
) -> TrainingData:
    """What the trials of these tests may see; read-only."""
    return new_study(tmp_path_factory.mktemp("runs") / "small").training_data(small_cohort)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: TrainingData) -> dict[str, TrialRecord]:
    """A trial of one epoch of every fusion; read-only."""
    folder = tmp_path_factory.mktemp("branches")
    return {name: run_trial(config(name), data, folder / name) for name in FUSIONS}


def batches(data: TrainingData, at_once: int = 256) -> Iterator[Cases]:
    for start in range(0, len(data.val), at_once):
        pixels = torch.from_numpy(data.arrays["image"][data.val[start : start + at_once]])
        yield images_as_cases(pixels, ["image"])


def numbers(value: Any) -> Iterator[float]:
    """Walk over all numbers of nested mappings and lists."""
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from numbers(item)
    if isinstance(value, (int, float)):
        yield value


def predictor_of(record: TrialRecord) -> Predictor:
    return load_model(record.folder, torch.device("cpu"))


# --- which cases


@pytest.mark.parametrize("cases", [1, 30, 256, 5000])
def test_the_same_cases_are_chosen_every_time(cases: int) -> None:
    chosen = probe.chosen(cases)
    assert len(set(chosen)) == len(chosen) == min(cases, 256)
    assert chosen.tolist() == sorted(chosen) == sorted(probe.chosen(cases))
    assert chosen.max() < cases


def test_choosing_touches_no_random_state() -> None:
    drawn = []
    for choose in (False, True):
        np.random.seed(0)
        torch.manual_seed(0)
        if choose:
            probe.chosen(5000)
        drawn.append((np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


# --- what the row of an epoch holds


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_epoch_holds_finite_numbers_within_their_bounds(fusion: str, trained: dict[str, TrialRecord]) -> None:
    (row,) = trained[fusion].curve()
    result = row[INFORMATION]
    patients = trained[fusion].predictions().patients
    assert (result["cases"], result["patients"]) == (len(patients), len(set(patients)))
    assert all(map(math.isfinite, numbers(result)))
    assert 0 <= result["redundancy"]["cnn-transformer"] <= 1
    assert -1 <= result["hsic"]["cnn-transformer"] <= 1
    for name in ("cnn", "transformer", "joint"):
        assert result["label_information"][name] <= result["label_entropy"] <= math.log(2)
        assert 1 <= result["effective_rank"][name] <= 16
    asked = {"cmaf": {"cnn", "transformer"}, "cross_attention": {"cnn"}, "concat": set()}[fusion]
    assert result["attention_entropy"].keys() == {head["asking"] for head in result["heads"]} == asked
    assert all(0 < share <= 1 for head in result["heads"] for share in head["entropy"])


def test_heads_are_those_of_all_layers(trained: dict[str, TrialRecord]) -> None:
    heads = trained["cmaf"].curve()[0][INFORMATION]["heads"]
    assert [(head["layer"], head["asking"]) for head in heads] == [
        (1, "cnn"),
        (1, "transformer"),
        (2, "cnn"),
        (2, "transformer"),
    ]
    taus = predictor_of(trained["cmaf"]).model.fusion.temperatures()
    assert heads[3]["temperature"] == pytest.approx(taus[1]["transformer"].tolist())
    assert len(heads[3]["entropy"]) == 2


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_is_measured_of_the_network_that_is_kept(
    fusion: str, trained: dict[str, TrialRecord], data: TrainingData
) -> None:
    predictor = predictor_of(trained[fusion])
    result = probe.embeddings(predictor.model, batches(data), predictor.preparations)
    assert result.keys() == {"cnn", "transformer", "joint"}
    again = probe.of_embeddings(result, data.labels[data.val], data.patients[data.val])
    text = trained[fusion].curve()[0][INFORMATION]
    assert list(numbers(again)) == pytest.approx(list(numbers({key: text[key] for key in again})), abs=1e-3)


def test_of_three_branches_every_pair_is_measured() -> None:
    rng = np.random.default_rng(0)
    result = {name: rng.normal(size=(60, 4)) for name in ("genes", "cnn", "vit", probe.JOINT)}
    text = probe.of_embeddings(result, np.arange(60) % 2, np.arange(60) // 6)
    assert list(text["redundancy"]) == ["cnn-genes", "cnn-vit", "genes-vit"]
    assert text["mutual_information"]["cnn-vit"] == information.gaussian_information(result["cnn"], result["vit"])
    assert text["effective_rank"].keys() == result.keys()


# --- attention at other temperatures


def test_heads_are_looked_at_the_same_in_portions(
    trained: dict[str, TrialRecord], data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of(trained["cmaf"])

    def entropies(at_once: int) -> probe.Heads:
        (result,) = probe.head_entropies(predictor.model, batches(data, at_once), predictor.preparations, [None])
        return result

    whole = entropies(256)
    monkeypatch.setattr(probe, "_WEIGHTS", 5000)
    for head, shares in entropies(7).items():
        assert shares == pytest.approx(whole[head], abs=1e-5)


def test_attention_gets_more_even_with_temperature_and_is_its_own_at_its_own(
    trained: dict[str, TrialRecord], data: TrainingData
) -> None:
    predictor = predictor_of(trained["cmaf"])
    grid = [0.05, 0.3, 1.0, 5.0]
    own = probe.own_temperatures(predictor.model)
    same = float(own[1, "cnn"][0])
    asked = [None, same, *grid]
    first, second, *others = probe.head_entropies(predictor.model, batches(data), predictor.preparations, asked)
    assert second[1, "cnn"][0] == pytest.approx(first[1, "cnn"][0], abs=1e-6)
    for head in own:
        by_temperature = np.array([result[head] for result in others])
        assert (np.diff(by_temperature, axis=0) > 0).all()
        assert by_temperature.max() <= 1 + 1e-6


def bag_and_image(length: int) -> tuple[Fusion, dict[str, BackboneOutput], dict[str, Tensor]]:
    """A fusion and six cases of 0 to 5 instances, padded to `length`, beside an image of seven positions."""
    torch.manual_seed(0)
    own, there = torch.randn(6, 5, 4), torch.arange(length) < torch.arange(6)[:, None]
    tokens = torch.nn.functional.pad(own, (0, 0, 0, length - 5), value=torch.nan)
    branches = {
        "bag": BackboneOutput(tokens, torch.randn(6, 4), there),
        "image": BackboneOutput(torch.randn(6, 7, 4), torch.randn(6, 4)),
    }
    fusion = FUSIONS_OF.build("cross_attention", dict.fromkeys(branches, Widths(4, 4)), dim=4, heads=2).eval()
    return fusion, branches, dict.fromkeys(branches, torch.ones(6, dtype=torch.bool))


def test_padding_does_not_count_in_the_entropy_of_attention() -> None:
    with torch.no_grad():
        short, long = (probe.rows_entropy(*bag_and_image(length), None) for length in (5, 20))
    for head, shares in long.items():
        assert shares == pytest.approx(short[head], abs=1e-6, nan_ok=True)
    assert np.isnan(long[1, "image"]).all(axis=1).tolist() == [True, True, *[False] * 4], "one answer is no choice"
    assert not np.isnan(long[1, "bag"]).any()


def test_portions_keep_what_is_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WEIGHTS", 1)
    _, branches, present = bag_and_image(8)
    parts = [outputs["bag"].there for outputs, _ in probe.portions(branches, present)]
    assert len(parts) == 6
    assert [int(there.sum()) for there in parts if there is not None] == [0, 1, 2, 3, 4, 5]


# --- what it leaves alone


def without(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", INFORMATION)} for row in curve]


def test_measuring_changes_no_bit_of_the_training(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, decay in (("averaged", 0.5), ("plain", 0.0)):
        text = config(epochs=2, ema_decay=decay)
        measured = run_trial(text, data, tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(probe, "several_branches", lambda model: False)
            plain = run_trial(text, data, tmp_path / f"{name}-unmeasured")
        assert [INFORMATION in record.curve()[0] for record in (measured, plain)] == [True, False]
        assert without(measured.curve()) == without(plain.curve())
        weights = [(record.folder / "model.safetensors").read_bytes() for record in (measured, plain)]
        assert weights[0] == weights[1]


@pytest.mark.parametrize("fusion", [None, {"name": "none", "branch": "cnn"}], ids=["one branch", "one of two"])
def test_a_single_branch_is_not_measured(
    fusion: dict[str, str] | None, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "measure", None)
    model = {"branches": BRANCHES, "fusion": fusion} if fusion else {"branches": {"image": BRANCHES["cnn"]}}
    record = run_trial(config(model=model), data, tmp_path)
    assert record.state == "complete"
    assert INFORMATION not in record.curve()[0]


def test_nobody_who_decides_hears_of_it(data: TrainingData, tmp_path: Path) -> None:
    observed: list[Mapping[str, float]] = []

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        observed.append(metrics)
        raise StopTrial

    record = run_trial(config(epochs=2), data, tmp_path, report)
    assert record.state == "stopped"
    assert INFORMATION in record.curve()[0]
    for message in (observed[0], record.metrics, json.loads((tmp_path / "metrics.json").read_text())["metrics"]):
        assert all(isinstance(value, float) for value in message.values())
