"""Cross-validation: how folds are dealt, and that a trial of several trainings says what each of them says.

The contract: in every repeat each case of the development part is predicted once, by a model that never saw its
patient, and no sealed case comes near any of it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import UNKNOWN, Cohort
from histotune.data.fold_assignment import columns, deal_folds, read
from histotune.data.modalities import image
from histotune.data.splits import Split, TrainingData, split
from histotune.errors import ConfigError, DataError, StudyError
from histotune.evaluation.sealed import evaluate as evaluate_sealed
from histotune.exports.export import export_trial
from histotune.exports.model import load
from histotune.metrics.scores import COSTS, evaluate, softmax
from histotune.models.predictor import load_model
from histotune.space import read_space
from histotune.storage.records import Predictions, networks, read_record
from histotune.storage.study_folder import COMPLETE, FAILED, STOPPED, StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.training import memory
from histotune.training.checkpoint import Checkpoint
from histotune.training.loop import StopTrial, epochs, run_trial
from histotune.training.pooling import pooled
from histotune.training.session import Session, start
from histotune.training.trial_folder import conclude

MADE_UP: dict[str, Any] = {
    "dataset": "synthetic",
    "options": {"cases": 240, "patients": 24, "side": 32},
    "epochs": 3,
    "batch_size": 32,
}


def config(**changes: Any) -> TrialConfig:
    return TrialConfig.from_dict({"epochs": 3, "batch_size": 32, **changes})


def new_study(folder: Path, **changes: Any) -> tuple[StudyFolder, Cohort]:
    """Begin a study of the made-up cohort with folds."""
    wanted = StudyRequest(read_space(MADE_UP, "folded"), **{"folds": 3, **changes})
    store, cohorts = begin(wanted, folder.name, Places(folder.parent, folder.parent.parent / "cache"))
    return store, cohorts[32]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Cohort]:
    """A study with three folds, dealt twice; read-only."""
    return new_study(tmp_path_factory.mktemp("folds") / "runs" / "twice", repeats=2)


@pytest.fixture(scope="module")
def data(study: tuple[StudyFolder, Cohort]) -> TrainingData:
    """Three folds, dealt once, of the same data."""
    dealt = study[0].training_data(study[1])
    assert dealt.folds is not None
    return replace(dealt, folds=dealt.folds[:1])


@pytest.fixture(scope="module")
def trained(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete trial on three folds; read-only."""
    folder = tmp_path_factory.mktemp("trained") / "trial"
    assert run_trial(config(), data, folder).state == COMPLETE
    return folder


def result_of(folder: Path) -> list[Any]:
    """Return weights, scores, curve and record of a trial without times and costs, to be compared bit by bit."""
    record = read_record(folder)
    assert record is not None
    result: list[Any] = [
        {name: value for name, value in scores.items() if name not in COSTS}
        for scores in (record.metrics, record.spread, record.out_of_fold)
    ]
    result += [record.predictions().logits.tobytes(), record.epochs, record.digest]
    result += [{k: v for k, v in row.items() if k != "seconds"} for row in record.curve()]
    return result + [(place / "model.safetensors").read_bytes() for place in networks(folder)]


# --- how folds are dealt


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("folds", "repeats"), [(2, 1), (3, 2), (5, 1)])
def test_every_case_of_the_development_part_is_in_one_fold_and_its_patient_with_it(
    small_cohort: Cohort, small_labels: np.ndarray, seed: int, folds: int, repeats: int
) -> None:
    parts = split(small_cohort, small_labels, seed=seed)
    dealt = deal_folds(small_cohort, small_labels, parts, folds, repeats, seed=seed)
    assert dealt.folds is not None
    assert dealt.folds.shape == (repeats, len(small_cohort))
    again = deal_folds(small_cohort, small_labels, parts, folds, repeats, seed=seed)
    np.testing.assert_array_equal(dealt.folds, again.folds)
    assert (dealt.folds[:, dealt.test] == 0).all()
    patients = small_cohort.table["patient"].to_numpy(str)
    for row in dealt.folds:
        assert set(row[np.concatenate([dealt.train, dealt.val])]) == set(range(1, folds + 1))
        owners = [set(patients[row == k]) for k in range(1, folds + 1)]
        assert sum(map(len, owners)) == len(set.union(*owners))
        sizes = [(row == k).sum() for k in range(1, folds + 1)]
        assert max(sizes) <= 2 * min(sizes)
    assert repeats == 1 or (dealt.folds[0] != dealt.folds[1]).any()
    table = small_cohort.table.assign(**columns(dealt.folds))
    result = read(table.astype(str))
    assert result is not None
    np.testing.assert_array_equal(result, dealt.folds)


def test_without_folds_a_split_stays_as_it_is(
    small_cohort: Cohort, small_labels: np.ndarray, small_split: Split
) -> None:
    assert deal_folds(small_cohort, small_labels, small_split, 0, 1, seed=0) is small_split
    assert read(small_cohort.table) is None


def test_a_fold_without_a_class_is_refused_with_what_to_do(
    small_cohort: Cohort, small_labels: np.ndarray, small_split: Split
) -> None:
    patients = small_cohort.table["patient"].to_numpy(str)
    development = np.concatenate([small_split.train, small_split.val])
    for rare in (1, 2):
        labels = np.zeros_like(small_labels)
        labels[np.isin(patients, np.unique(patients[development])[:rare])] = 1
        message = r"fold 1 of 3 has all of them|fold 2 of 3 has all|fold 3 of 3 has all" if rare == 1 else "has none"
        with pytest.raises(DataError, match=rf"class 'malignant': .*({message}).*{rare} patients.*merge or drop"):
            deal_folds(small_cohort, labels, small_split, 3, 1, seed=0)
    assert deal_folds(small_cohort, labels, small_split, 2, 1, seed=0).folds is not None, "two patients, two folds"


def test_more_folds_than_patients_are_refused(
    small_cohort: Cohort, small_labels: np.ndarray, small_split: Split
) -> None:
    with pytest.raises(DataError, match="a split by patient into 20 parts needs at least 20"):
        deal_folds(small_cohort, small_labels, small_split, 20, 1, seed=0)


def sited(cohort: Cohort, sites: int) -> Cohort:
    number = cohort.table["patient"].astype("category").cat.codes % sites
    return replace(cohort, table=cohort.table.assign(site="site" + number.astype(str)))


def test_without_a_test_part_everybody_is_scored_out_of_folds(tmp_path: Path) -> None:
    store, cohort = new_study(tmp_path / "runs" / "whole", protocol="patient_kfold")
    assert set(store.split["part"]) == {"train"}
    assert (store.folder / "sealed" / "labels.csv").read_text() == "id,label\n", "nothing is sealed"
    dealt = store.training_data(cohort)
    assert (dealt.labels != UNKNOWN).all()
    scored = np.concatenate([cut.val for cut in dealt.cuts()])
    assert np.array_equal(np.sort(scored), np.arange(len(cohort)))
    for cut in dealt.cuts():
        assert not set(dealt.patients[cut.train]) & set(dealt.patients[cut.val])
    with pytest.raises(ConfigError, match="'patient_kfold' has no validation and no test part"):
        deal_folds(cohort, dealt.labels, split(cohort, dealt.labels, "patient_kfold"), 0, 1, seed=0)


def test_a_study_without_a_test_part_exports_and_has_nothing_to_evaluate(tmp_path: Path) -> None:
    store, cohort = new_study(tmp_path / "runs" / "whole", protocol="patient_kfold", folds=2)
    folder = store.trial_folder(0)
    assert run_trial(config(epochs=1), store.training_data(cohort), folder).state == COMPLETE
    model = load(export_trial(store, 0, tmp_path / "export"))
    with pytest.raises(StudyError, match="study 'whole' has no sealed test set: its scores are out-of-fold"):
        evaluate_sealed(model, {32: cohort}, store, command="test")
    assert not store.openings()


def test_sites_stay_whole_in_parts_and_folds(small_cohort: Cohort, small_labels: np.ndarray) -> None:
    cohort = sited(small_cohort, 8)
    dealt = deal_folds(cohort, small_labels, split(cohort, small_labels, "site"), 3, 1, seed=0)
    assert dealt.folds is not None
    sites = cohort.table["site"].to_numpy(str)
    parts = [set(sites[dealt.test]), *(set(sites[dealt.folds[0] == k]) for k in (1, 2, 3))]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 8


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unknown", "240 of 240 cases have no site; split by 'patient'"),
        ("two", r"patient 'patient-\d+' stands at several sites \(elsewhere, site\d\)"),
        ("few", r"2 sites \(site0, site1\): a split by site into 3 parts needs at least 3; check the site column"),
    ],
)
def test_sites_that_cannot_be_kept_whole_are_refused(
    small_cohort: Cohort, small_labels: np.ndarray, how: str, message: str
) -> None:
    cohort = sited(small_cohort, 2 if how == "few" else 8)
    if how == "unknown":
        cohort = replace(cohort, table=cohort.table.assign(site=""))
    if how == "two":
        table = cohort.table.copy()
        table.loc[0, "site"] = "elsewhere"
        cohort = replace(cohort, table=table)
    with pytest.raises(DataError, match=message):
        split(cohort, small_labels, "site")


# --- what is asked


@pytest.mark.parametrize(
    ("space", "asked", "message"),
    [
        ({}, {"folds": 1}, "folds=1: a cross-validation needs at least 2"),
        ({}, {"folds": 0, "repeats": 2}, "repeats=2, folds=0: folds are dealt at least once"),
        ({"folds": 3, "patience": 4}, {}, "patience=4: with folds no epoch is chosen"),
        ({"patience": {"low": 0, "high": 5}}, {"folds": 2}, "patience=5: with folds no epoch is chosen"),
        ({"imbalance": "90:10"}, {"folds": 2}, "`imbalance` and `training_cases` thin"),
        ({"protocol": "patient_kfold"}, {}, "split 'patient_kfold' has no validation and no test part"),
        ({"folds": 3}, {"protocol": "patient_kfold", "folds": 0}, "every score is out of folds: ask for folds"),
        ({}, {"folds": 2, "training_cases": 50}, "`imbalance` and `training_cases` thin"),
        ({"folds": "three"}, {}, "folds: expected a whole number, got 'three'"),
        ({"folds": True}, {}, "folds: expected a whole number, got True"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_prepared(
    space: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        StudyRequest(read_space(MADE_UP | space, "folded"), **asked)


def test_the_space_says_folds_and_the_user_has_the_last_word() -> None:
    space = read_space(MADE_UP | {"folds": 4, "repeats": 2}, "folded")
    assert StudyRequest(space).dealt == (4, 2)
    assert StudyRequest(space, folds=3, repeats=1).dealt == (3, 1)
    assert StudyRequest(space, folds=0).dealt == (0, 1)


# --- the contract


def test_every_case_is_predicted_once_per_repeat_by_a_model_that_never_saw_its_patient(
    study: tuple[StudyFolder, Cohort], tmp_path: Path
) -> None:
    store, cohort = study
    data = store.training_data(cohort)
    record = run_trial(config(epochs=1), data, tmp_path / "trial")
    table = store.split.set_index("id")
    development = set(table.index[table["part"] != "test"])
    places = networks(tmp_path / "trial")
    assert len(places) == 6
    for repeat in (places[:3], places[3:]):
        scored = [read_record(place).predictions() for place in repeat]  # type: ignore[union-attr]
        ids = np.concatenate([one.ids for one in scored])
        assert sorted(ids) == sorted(development)
    for place, cut in zip(places, data.cuts(), strict=True):
        seen, judged = Predictions.load(place / "predictions.npz").patients, data.patients[cut.train]
        assert not set(seen) & set(judged)
        assert set(data.ids[cut.train]) | set(data.ids[cut.val]) == development
        assert (cut.labels[np.concatenate([cut.train, cut.val])] != UNKNOWN).all()
        message = json.loads((place / "environment.json").read_text())
        assert (message["training_cases"], message["validation_cases"]) == (len(cut.train), len(cut.val))
    assert record.predictions().ids.tolist() == sorted(development)


@pytest.mark.parametrize("fold", [0, 2])
def test_a_fold_is_the_plain_training_of_its_rows_at_its_last_epoch(
    data: TrainingData, trained: Path, tmp_path: Path, fold: int
) -> None:
    cut = data.cuts()[fold]
    alone = epochs(config(), cut, tmp_path)
    curve = [(epoch.number, epoch.metrics["auroc"], epoch.metrics["train_loss"]) for epoch in alone]
    place = networks(trained)[fold]
    record = read_record(place)
    assert record is not None
    assert curve == [(row["epoch"], row["auroc"], row["train_loss"]) for row in record.curve()]
    assert record.best_epoch == record.epochs == 3, "no epoch is chosen on what is scored"
    last = evaluate(softmax(record.predictions().logits), cut.labels[cut.val])
    assert last["auroc"] == curve[-1][1]


def test_another_fold_is_preprocessed_by_its_own_training_part(trained: Path) -> None:
    fitted = {(place / "preprocessing.json").read_text() for place in networks(trained)}
    assert len(fitted) == 3


def test_means_and_spreads_are_those_of_the_folds(trained: Path) -> None:
    record, folds = read_record(trained), [read_record(place) for place in networks(trained)]
    assert record is not None
    assert (record.epochs, record.best_epoch) == (3, 3)
    for name, value in record.metrics.items():
        values = [fold.metrics[name] for fold in folds if fold is not None]
        assert len(values) == 3
        middle = sum(values) / 3
        assert value == pytest.approx(middle)
        assert record.spread[name] == pytest.approx((sum((v - middle) ** 2 for v in values) / 2) ** 0.5)
    together = record.predictions()
    assert record.out_of_fold == evaluate(softmax(together.logits), together.labels)
    curves = [fold.curve() for fold in folds if fold is not None]
    for number, row in enumerate(record.curve(), start=1):
        values = [curve[number - 1]["auroc"] for curve in curves]
        assert row["epoch"] == number
        assert row["auroc"] == pytest.approx(np.mean(values))
        assert row["spread"]["auroc"] == pytest.approx(np.std(values, ddof=1))
        assert row["seconds"] == pytest.approx(sum(curve[number - 1]["seconds"] for curve in curves))


def test_repeats_are_averaged_by_case() -> None:
    def saved(ids: str, *logits: float) -> Predictions:
        rows = np.array(list(ids))
        return Predictions(rows, rows, np.zeros(len(rows), np.int64), np.array(logits, np.float32)[:, None])

    result = pooled([saved("bd", 1, 2), saved("ac", 3, 4), saved("ab", 5, 7), saved("cd", 0, 0)])
    assert result.ids.tolist() == list("abcd")
    assert result.logits[:, 0].tolist() == [4.0, 4.0, 2.0, 1.0]


def test_the_model_of_a_trial_is_the_mean_of_its_folds(trained: Path, study: tuple[StudyFolder, Cohort]) -> None:
    predictor = load_model(trained)
    images = study[1].arrays["image"][:5]
    alone = [load_model(place).logits(images) for place in networks(trained)]
    assert len(predictor.parts) == 3
    assert np.ptp(alone, axis=0).max() > 0
    np.testing.assert_array_equal(predictor.logits(images), np.mean(alone, axis=0))
    assert predictor.logits(images[:0]).shape == (0, 2)
    with pytest.raises(ConfigError, match="3 models of as many folds have no features in common"):
        predictor.features(images)


# --- how it ends, and goes on


def test_killed_in_the_middle_of_a_fold_it_ends_with_the_same_bits(
    study: tuple[StudyFolder, Cohort], data: TrainingData, trained: Path, tmp_path: Path
) -> None:
    changes = config().to_dict()
    folder = tmp_path / "trial"
    store, cohort = study
    single = tmp_path / "once"
    single.mkdir()
    for path in ("study.json", "labels.csv"):
        (single / path).write_text((store.folder / path).read_text())
    store.split.drop(columns="fold2").to_csv(single / "split.csv", index=False)
    for dies in (5, 2):  # in the second fold of the second epoch, then right after taking up the first fold
        given = [str(single), str(cohort.folder), str(folder), json.dumps(changes), str(dies)]
        script = Path(__file__).parents[1] / "support" / "folds_process.py"
        ended = subprocess.run([sys.executable, str(script), *given], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert read_record(folder) is None
    reached = {len((place / "curve.jsonl").read_text().splitlines()) for place in networks(folder)}
    assert max(reached) > min(reached), "one fold is ahead of the others"
    numbers = [epoch.number for epoch in epochs(config(), data, folder)]
    assert numbers == list(range(numbers[0], 4))
    assert result_of(folder) == result_of(trained)
    assert not list(folder.rglob("checkpoint*"))


@pytest.mark.parametrize("stop", [1, 2])
def test_closed_between_epochs_it_ends_with_the_same_bits(
    data: TrainingData, trained: Path, tmp_path: Path, stop: int
) -> None:
    training = epochs(config(), data, tmp_path / "trial")
    while next(training).number < stop:
        pass
    training.close()
    assert [epoch.number for epoch in epochs(config(), data, tmp_path / "trial")] == list(range(stop + 1, 4))
    assert result_of(tmp_path / "trial") == result_of(trained)
    assert [epoch.number for epoch in epochs(config(), data, tmp_path / "trial")] == [3], "it has ended"


def test_a_stopped_trial_has_the_means_of_its_last_epoch(data: TrainingData, tmp_path: Path) -> None:
    def stop(epoch: int, metrics: Any) -> None:
        if epoch == 2:
            raise StopTrial

    record = run_trial(config(), data, tmp_path, stop)
    assert (record.state, record.epochs) == (STOPPED, 2)
    assert record.metrics["auroc"] == pytest.approx(record.curve()[-1]["auroc"])
    assert len(record.predictions().ids) == sum(len(cut.val) for cut in data.cuts())
    assert not list(tmp_path.rglob("checkpoint*"))


def test_stopped_before_every_fold_has_an_epoch_it_has_no_result(data: TrainingData, tmp_path: Path) -> None:
    training = epochs(config(), data, tmp_path)
    next(training)
    training.close()
    Checkpoint(networks(tmp_path)[1]).delete()
    record = conclude(tmp_path)
    assert (record.state, record.metrics, record.digest) == (STOPPED, {}, config().digest())
    assert not (tmp_path / "predictions.npz").exists()


def test_one_fold_that_fails_fails_the_trial(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Session.loss, iter(range(10**6))

    def loss(self: Session, *arguments: Any) -> torch.Tensor:
        bad = len(self.data.val) == len(data.cuts()[1].val) and next(calls) > 10
        return real(self, *arguments) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(Session, "loss", loss)
    record = run_trial(config(), data, tmp_path)
    assert (record.state, record.kind, record.metrics) == (FAILED, "nan_loss", {})
    assert not list(tmp_path.rglob("checkpoint*"))


def test_a_fold_without_memory_makes_the_micro_batch_of_all_smaller(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, used = Session.loss, iter(range(10**6)), list[int]()

    def loss(self: Session, inputs: Any, present: Any, labels: torch.Tensor) -> torch.Tensor:
        if len(labels) > 16 and next(calls) > 20:
            raise torch.OutOfMemoryError("made-up")
        used.append(len(labels))
        return real(self, inputs, present, labels)

    monkeypatch.setattr(Session, "loss", loss)
    record = run_trial(config(), data, tmp_path)
    assert record.state == COMPLETE
    places = [tmp_path, *networks(tmp_path)]
    assert {json.loads((place / "environment.json").read_text())["micro_batch"] for place in places} == {16}
    assert [row["epoch"] for row in record.curve()] == [1, 2, 3]
    assert max(used[-20:]) <= 16


def test_memory_is_planned_for_the_folds_that_are_still_to_come(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start(config(), data.cuts()[0])
    needed, weights = memory.need(session), 4 * session.model.parameter_count()
    room = needed.fixed + memory.MARGIN * 40 * needed.per_case + weights
    monkeypatch.setattr(memory, "limit", lambda device, share: room)
    assert memory.plan(session, tmp_path) == 32
    assert memory.plan(session, tmp_path, at_once=3) < 32


def test_patience_and_checkpoints_for_others_are_refused(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="patience=2: with folds no epoch is chosen"):
        run_trial(config(patience=2), data, tmp_path)
    with pytest.raises(ConfigError, match="scheduler 'pbt' has no folds"):
        list(epochs(config(), data, tmp_path, keep=[1]))
    assert not list(tmp_path.iterdir())


def test_folds_share_the_images_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    monkeypatch.setattr(image, "_upload", lambda array, device: torch.from_numpy(array.copy()))
    array, other = np.zeros((2, 3, 8, 8, 3), np.uint8)
    gpu = torch.device("cuda:0")
    first, second, third = (image.ImageSource(one, gpu) for one in (array, array, other))
    assert first.resident is second.resident
    assert first.resident is not third.resident
    held = len(image._HELD)
    del first, second
    assert len(image._HELD) == held - 1, "what nobody uses any more is let go"
