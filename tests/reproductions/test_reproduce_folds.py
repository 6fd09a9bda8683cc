"""A comparison out of folds is honest: every number is that of saved out-of-fold predictions, stage 2 never learned
from the fold that it scores, what a network was trained on earns it nothing, and a kill repeats no training."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.splits import TrainingData
from histotune.ensembles.crossfit import temperature_of
from histotune.errors import ConfigError, DataError
from histotune.metrics.bootstrap import bootstrap_of_seeds, paired_bootstrap_of_seeds
from histotune.metrics.scores import auroc, softmax
from histotune.reproductions import out_of_fold_measure
from histotune.reproductions.out_of_fold_measure import crossfit, fit
from histotune.reproductions.papers import REPRODUCTIONS, Contender, Setting
from histotune.reproductions.papers.loose import STRATEGIES
from histotune.reproductions.run import Reproduced, reproduce
from histotune.space import check_config, load_space
from histotune.storage.records import Predictions, networks
from histotune.studies.controls import STRENGTHS, fit_linear
from histotune.studies.create import StudyRequest, begin

BUILT = {name: REPRODUCTIONS.build(name) for name in REPRODUCTIONS.names()}
FOLDED = {name: one for name, one in BUILT.items() if one.compare is not None}
SETTINGS = [(name, on) for name, one in FOLDED.items() for on in one.settings]
CLASSES, REPLICATES = 3, 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Draw few patients: two thousand draws of every row and pair are what takes long here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(out_of_fold_measure, "REPLICATES", REPLICATES)
        yield


def run(name: str, home: Path, **changes: Any) -> Reproduced:
    return reproduce(name, on="demo", **{"runs": home / "runs", "cache": home / "cache", "out": home / "out"} | changes)


@pytest.fixture(scope="module")
def subtyping(home: Path) -> Reproduced:
    return run("subtyping", home)


@pytest.fixture(scope="module")
def loose(home: Path) -> Reproduced:
    return run("loose", home)


def numbers(result: Reproduced, table: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return {(row, metric): what the CSV says} of the tables whose arm and title hold a text."""
    with result.files[1].open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if table in f"{row['arm']}: {row['table']}"]
    return {(row["row"], row["metric"]): row for row in rows}


def saved(name: str, row: str, seed: int, home: Path) -> Predictions:
    """Read the out-of-fold predictions of a training, by its configuration."""
    setting = FOLDED[name].settings["demo"]
    contender = setting.networks[row]
    config = contender.config(load_space(setting.space), epochs=setting.scale("small").epochs, seed=seed)
    folder = home / "runs" / f"{name}-demo-patient_kfold-small-seed{seed}"
    return Predictions.load(
        folder / ("complete" if contender.complete else "singles") / config.digest() / "predictions.npz"
    )


def by_hand(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measure with scikit-learn what histotune measures itself."""
    decided, truth = probabilities.argmax(axis=1), np.eye(CLASSES)[labels]
    return {
        "auroc": reference.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, decided),
        "macro_f1": reference.f1_score(labels, decided, average="macro"),
        "mcc": reference.matthews_corrcoef(labels, decided),
        "average_precision": reference.average_precision_score(truth, probabilities, average="macro"),
        "accuracy": reference.accuracy_score(labels, decided),
    }


def having(result: Reproduced, *modalities: str) -> np.ndarray:
    """Return the ids of the patients who have all of these modalities, from the cohort itself."""
    dataset = load_space("subtyping_demo")
    home = result.arms[0].store.folder.parents[1]
    _, cohorts = begin(StudyRequest(dataset), "looked-up", Places(home / "runs", home / "cache"))
    (cohort,) = cohorts.values()
    there = np.all([cohort.present[name] for name in modalities], axis=0)
    ids: np.ndarray = cohort.table["id"].to_numpy(str)[there]
    return ids


def of(predictions: Predictions, ids: np.ndarray) -> np.ndarray:
    """Return the rows of predictions that belong to ids."""
    return pd.Index(predictions.ids).get_indexer(pd.Index(ids))


# --- every number is that of saved predictions


def test_every_number_is_that_of_the_saved_out_of_fold_predictions(home: Path, subtyping: Reproduced) -> None:
    ids = having(subtyping, "image", "omics")
    printed = numbers(subtyping, f"{len(ids)} patients with image and omics: All rows")
    setting = FOLDED["subtyping"].settings["demo"]
    for row in (row for row in setting.networks if row not in setting.marked):
        result = [saved("subtyping", row, seed, home) for seed in (1, 2)]
        probabilities = [softmax(one.logits)[of(one, ids)] for one in result]
        labels = result[0].labels[of(result[0], ids)]
        measured = [by_hand(p, labels) for p in probabilities]
        for metric in ("auroc", "balanced_accuracy", "macro_f1", "mcc", "average_precision"):
            values = [one[metric] for one in measured]
            message = printed[row, metric]
            assert [float(value) for value in message["values"].split()] == pytest.approx(values)
            assert float(message["mean"]) == pytest.approx(np.mean(values))
            assert float(message["sd"]) == pytest.approx(np.std(values, ddof=1))
            assert int(message["patients"]) == len(ids)
        interval = bootstrap_of_seeds("auroc", probabilities, labels, ids, positive=2, replicates=REPLICATES)
        message = printed[row, "auroc"]
        assert [float(message[key]) for key in ("mean_low", "mean_high")] == pytest.approx(
            [interval.low, interval.high]
        )


def test_the_reference_is_the_best_single_modality_and_differences_are_paired(
    home: Path, subtyping: Reproduced
) -> None:
    ids = having(subtyping, "image", "omics")
    printed = numbers(subtyping, "patients with image and omics: All rows")
    best = max(("image", "omics"), key=lambda row: float(printed[row, "auroc"]["mean"]))
    assert subtyping.reference == best
    assert printed[best, "auroc"]["difference"] == ""
    assert f"The reference, {best}, is the best single modality" in subtyping.files[0].read_text()
    sides = [[saved("subtyping", row, seed, home) for seed in (1, 2)] for row in ("concat, image + omics", best)]
    scores = [[softmax(one.logits)[of(one, ids)] for one in side] for side in sides]
    labels = sides[0][0].labels[of(sides[0][0], ids)]
    d = paired_bootstrap_of_seeds("auroc", scores[0], scores[1], labels, ids, positive=2, replicates=REPLICATES)
    message = printed["concat, image + omics", "auroc"]
    assert [float(message[key]) for key in ("difference", "low", "high", "p")] == pytest.approx(
        [d.value, d.low, d.high, d.p]
    )


def test_the_mean_of_arms_hears_whoever_is_there(home: Path, subtyping: Reproduced) -> None:
    values = []
    for seed in (1, 2):
        arms = [saved("subtyping", row, seed, home) for row in ("image", "omics")]
        assert np.array_equal(arms[0].ids, arms[1].ids)
        there = np.stack([one.has_input for one in arms]).astype(float)
        there[:, there.sum(axis=0) == 0] = 1
        p = np.einsum("mn,mnc->nc", there / there.sum(axis=0), np.stack([softmax(one.logits) for one in arms]))
        values.append(by_hand(p, arms[0].labels)["auroc"])
    message = numbers(subtyping, "All 120 patients")["mean of arms", "auroc"]
    assert float(message["mean"]) == pytest.approx(np.mean(values))


def test_complete_cases_alone_are_trained_on_and_scored(home: Path, subtyping: Reproduced) -> None:
    row, ids = "concat, complete cases alone", having(subtyping, "image", "omics")
    assert set(saved("subtyping", row, 1, home).ids) == set(ids)
    assert set(saved("subtyping", "concat, image + omics", 1, home).ids) > set(ids)
    folder = next((home / "runs" / "subtyping-demo-patient_kfold-small-seed1" / "complete").iterdir())
    for place in networks(folder):
        trained = json.loads((place / "environment.json").read_text())
        assert trained["training_cases"] + trained["validation_cases"] == len(ids)
    assert (row, "auroc") not in numbers(subtyping, "All 120 patients"), "it has no answer for the others"


def test_marked_rows_are_shown_apart_and_compared_with_nothing(subtyping: Reproduced) -> None:
    text = subtyping.files[0].read_text()
    assert "clinical (marked)" not in {row for row, _ in numbers(subtyping, "")}
    assert "| clinical (marked) |" in text.split("## Marked rows")[1].split("##")[0]


def test_a_seed_is_another_deal_of_the_folds(home: Path, subtyping: Reproduced) -> None:
    stores = [home / "runs" / f"subtyping-demo-patient_kfold-small-seed{seed}" for seed in (1, 2)]
    tables = [pd.read_csv(store / "split.csv", dtype=str) for store in stores]
    assert (tables[0]["fold"] != tables[1]["fold"]).mean() > 0.4
    assert all(set(table["part"]) == {"train"} for table in tables)
    assert not any((store / "sealed" / "openings.jsonl").exists() for store in stores)


def test_loose_joins_by_hand_what_it_says(home: Path, loose: Reproduced) -> None:
    """The mean over calibrated members, each calibrated on the other folds; with one absent for everybody, too."""
    ids = having(loose, "image", "omics", "clinical")
    values: dict[str, list[float]] = {"all": [], "without image": []}
    for seed in (1, 2):
        members = [saved("loose", row, seed, home) for row in ("image", "omics", "clinical")]
        table = pd.read_csv(home / "runs" / f"loose-demo-patient_kfold-small-seed{seed}" / "split.csv", dtype=str)
        folds = table.set_index("id").loc[members[0].ids, "fold"].to_numpy()
        scores = np.zeros((3, len(folds), CLASSES))
        for m, fold in itertools.product(range(3), np.unique(folds)):
            others = (folds != fold) & members[m].has_input
            known = members[m]
            temperature = temperature_of(known.logits[others], known.labels[others], known.patients[others])
            scores[m, folds == fold] = softmax(members[m].logits[folds == fold].astype(np.float64) / temperature)
        rows = of(members[0], ids)
        labels = members[0].labels[rows]
        values["all"].append(by_hand(scores[:, rows].mean(axis=0), labels)["auroc"])
        values["without image"].append(by_hand(scores[1:, rows].mean(axis=0), labels)["auroc"])
    who = f"{len(ids)} patients with image, omics, clinical"
    message = numbers(loose, f"{who}: All modalities")["image + omics + clinical: mean", "auroc"]
    assert float(message["mean"]) == pytest.approx(np.mean(values["all"]))
    combined = numbers(loose, "every combination")[f"{who}: image + omics + clinical: mean", "auroc"]
    assert float(combined["mean"]) == pytest.approx(np.mean(values["all"]))
    dropped = numbers(loose, "a modality absent at test")[f"{who}: mean without image", "auroc"]
    assert float(dropped["mean"]) == pytest.approx(np.mean(values["without image"]))
    change = np.mean(values["without image"]) - np.mean(values["all"])
    assert float(dropped["difference"]) == pytest.approx(change)


def test_loose_shows_every_combination_and_every_way(loose: Reproduced) -> None:
    text = loose.files[0].read_text()
    table = text.split("patients with image, omics, clinical: every combination")[1].split("\n## ")[0]
    for names in ("image", "omics + clinical", "image + omics + clinical"):
        assert f"\n| {names} |" in table
    assert all(f" {way} |" in table for way in STRATEGIES)
    assert "12 numbers, " in text.split("## Adding and dropping a modality")[1], "(3 + 1) x 3"
    assert [path.name for path in loose.files[3:]] == ["modality_drop.html"]


# --- stage 2 learns from other folds


@pytest.fixture(scope="module")
def members() -> dict[str, np.ndarray]:
    """Two members that know something of 150 cases in 5 folds, out of folds; each lacks a few cases."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 150)
    logits = rng.normal(size=(2, 150, CLASSES)) + np.array([1.5, 0.7])[:, None, None] * np.eye(CLASSES)[labels]
    present = rng.random((2, 150)) > 0.2
    present[0, ~present.any(axis=0)] = True
    return {
        "logits": logits,
        "present": present,
        "labels": labels,
        "patients": np.arange(150),
        "folds": np.arange(150) % 5 + 1,
    }


@pytest.mark.parametrize("way", STRATEGIES)
def test_stage_2_never_learns_from_the_fold_that_it_scores(way: str, members: Mapping[str, np.ndarray]) -> None:
    (before,) = crossfit(STRATEGIES[way], **members)  # type: ignore[arg-type]
    for fold in range(1, 6):
        inside = members["folds"] == fold
        wrong = np.where(inside, (members["labels"] + 1) % CLASSES, members["labels"])
        (after,) = crossfit(STRATEGIES[way], **{**members, "labels": wrong})  # type: ignore[arg-type]
        assert np.array_equal(after[inside], before[inside]), "its own labels do not matter"
        if STRATEGIES[way].name in ("weighted_logits", "stacking"):
            assert not np.array_equal(after[~inside], before[~inside]), "those of the others do"


@pytest.mark.parametrize("way", ["WLB", "WL", "stacking", "weighted"])
def test_a_member_that_knows_its_own_training_folds_alone_gets_no_credit(
    way: str, members: Mapping[str, np.ndarray]
) -> None:
    """Out of folds it guesses; on what it was trained on it knows everything, which stage 2 must not see."""
    rng = np.random.default_rng(1)
    labels, folds, present = members["labels"], members["folds"], np.ones((2, 150), bool)
    guesses, knows = rng.normal(size=(150, CLASSES)), 6.0 * np.eye(CLASSES)[members["labels"]]
    honest = np.stack([members["logits"][0], guesses])
    (result,) = crossfit(STRATEGIES[way], honest, present, labels, members["patients"], folds)
    alone = auroc(softmax(honest[0]), labels, 1)
    assert auroc(result, labels, 1) > alone - 0.03
    others = folds != 1
    seen = np.where(others[:, None], knows, guesses)  # what the network of fold 1 would say of its own training part
    known = (np.stack([honest[0], seen])[:, others], present[:, others], labels[others], members["patients"][others])
    leaky, temperatures, _ = fit(STRATEGIES[way], *known)
    tempered = honest[:, ~others] / np.array(temperatures)[:, None, None]
    fooled = auroc(leaky.predict(tempered), labels[~others], 1)
    assert fooled < auroc(result[~others], labels[~others], 1) - 0.03, "and this is what a leak would cost"


@pytest.mark.parametrize("way", STRATEGIES)
def test_a_member_that_is_withheld_says_nothing(way: str, members: Mapping[str, np.ndarray]) -> None:
    """Not even of a case that nobody else knows, where an ensemble falls back on what all members answer."""
    mask, inside = members["present"].copy(), members["folds"] == 1
    mask[0] = False
    assert (inside & members["present"][0] & ~members["present"][1]).any()
    shouting = members["logits"].copy()
    shouting[0, inside] *= -9
    quiet, loud = (
        crossfit(STRATEGIES[way], **{**members, "logits": logits}, asked=[mask, members["present"]])
        for logits in (members["logits"], shouting)
    )
    assert np.array_equal(quiet[0][inside], loud[0][inside])
    assert not np.array_equal(quiet[1][inside], loud[1][inside]), "it does where it is not withheld"


# --- the linear controls


@pytest.fixture(scope="module")
def data(home: Path) -> TrainingData:
    """The made-up tables in three folds."""
    store, cohorts = begin(StudyRequest(load_space("subtyping_demo")), "linear", Places(home / "runs", home / "cache"))
    (cohort,) = cohorts.values()
    return store.training_data(cohort)


def test_a_strength_is_chosen_without_the_fold_that_is_scored(data: TrainingData, tmp_path: Path) -> None:
    before = fit_linear(data, tmp_path / "before", ["image", "omics"], STRENGTHS).predictions()
    assert data.folds is not None
    inside = data.folds[0] == 1
    wrong = replace(data, labels=np.where(inside, (data.labels + 1) % CLASSES, data.labels))
    after = fit_linear(wrong, tmp_path / "after", ["image", "omics"], STRENGTHS).predictions()
    where = inside[of(Predictions(data.ids, data.patients, data.labels, np.zeros((0, 3))), before.ids)]
    assert np.array_equal(before.logits[where], after.logits[where])
    assert not np.array_equal(before.logits[~where], after.logits[~where])


def test_of_strengths_one_is_taken(data: TrainingData, tmp_path: Path) -> None:
    """In every fold, the chosen control is one of the controls of a single strength."""
    chosen = fit_linear(data, tmp_path / "chosen", ["clinical"], STRENGTHS[1:4]).predictions()
    singles = [fit_linear(data, tmp_path / f"C{c}", ["clinical"], [c]).predictions() for c in STRENGTHS[1:4]]
    assert data.folds is not None
    folds = data.folds[0][pd.Index(data.ids).get_indexer(pd.Index(chosen.ids))]
    for fold in np.unique(folds):
        rows = folds == fold
        assert any(np.allclose(chosen.logits[rows], one.logits[rows], atol=1e-5) for one in singles)


def test_a_control_of_a_modality_that_is_not_there_is_refused(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no linear baseline of 'imag': .* Did you mean 'image'"):
        fit_linear(data, tmp_path / "none", ["imag"])


# --- it goes on


def test_a_kill_repeats_no_training(home: Path, subtyping: Reproduced, tmp_path: Path) -> None:
    """Killed after some trainings and called again, it gives the very scores of a run that nothing interrupted."""
    command = [
        sys.executable,
        "-c",
        "from histotune.cli.app import app; app()",
        "reproduce",
        "subtyping",
        "--on",
        "demo",
    ]
    where = ["--runs", str(tmp_path / "runs"), "--cache", str(home / "cache"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--seeds", "1", *where], env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(done := list((tmp_path / "runs").glob("*/singles/*/metrics.json"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in done}
    run("subtyping", home, seeds=1, runs=tmp_path / "runs", out=tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in done} == before
    setting = FOLDED["subtyping"].settings["demo"]
    assert len(list((tmp_path / "runs").glob("*/*/*/metrics.json"))) > len(setting.networks) > len(done)
    for row in setting.networks:
        whole, resumed = (saved("subtyping", row, 1, place).logits for place in (home, tmp_path))
        assert np.array_equal(whole, resumed), row


def test_the_same_again_only_writes(home: Path, subtyping: Reproduced) -> None:
    before = {path: path.read_bytes() for path in subtyping.files}
    message: list[str] = []
    again = run("subtyping", home, said=message.append)
    assert not any("min left" in line for line in message)
    assert {path: path.read_bytes() for path in again.files} == before


@pytest.mark.slow
def test_mlflow_mirrors_it_where_it_is_asked_for(home: Path, subtyping: Reproduced, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run("subtyping", home, seeds=1, tracking_uri=uri, out=tmp_path)
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = client.search_experiments(filter_string="name LIKE '%subtyping-demo%'")
    kinds = [one.data.tags.get("kind", "") for one in client.search_runs([experiment.experiment_id])]
    assert kinds.count("single") == 6, "a training per contender; the one on complete cases stands apart"
    assert kinds.count("control") >= 3


# --- what is asked


@pytest.mark.parametrize(("name", "on"), SETTINGS, ids=str)
def test_settings_lead_somewhere(name: str, on: str) -> None:
    setting = FOLDED[name].setting(on)
    space = load_space(setting.space)
    assert space.protocol == "patient_kfold"
    assert (space.folds or 0) >= 2
    for contender in setting.networks.values():
        check_config(contender.config(space, epochs=1, seed=1))
    for published in setting.published.values():
        assert "table number not available here" in published.source
        assert all(0 < value < 1 for value in published.values.values())
    assert {"small", "full"} == setting.budgets.keys()
    assert not {*setting.singles, *setting.controls} & setting.marked.keys()


@pytest.mark.parametrize("on", ["pam50", "ihc"])
@pytest.mark.parametrize("name", FOLDED)
def test_no_compared_arm_reads_genes_of_which_its_label_is_made(name: str, on: str) -> None:
    setting = FOLDED[name].setting(on)
    branches = TrialConfig.from_dict(load_space(setting.space).default()).model.branches
    reads = {row: {branches[b].modality for b in one.branches} for row, one in setting.networks.items()}
    assert {row for row, modalities in reads.items() if "rna" in modalities} == set(setting.marked)
    assert not any("rna" in modalities for modalities in {**setting.linear, **setting.tuned}.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on": "pam5"}, "nothing to reproduce on 'pam5'. Did you mean 'pam50'"),
        ({"on": "demo", "budget": "smal"}, "unknown budget 'smal'. Did you mean 'small'"),
        ({"on": "demo", "protocol": "patient"}, "its split is 'patient_kfold', not 'patient'"),
        ({"on": "demo", "external_data": "x"}, "measures on no external dataset"),
        ({"on": "demo", "seeds": 0}, "seeds must be at least 1, got 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FOLDED)
def test_what_makes_no_sense_is_refused_before_anything_is_prepared(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        reproduce(name, **{"runs": tmp_path, "cache": tmp_path, "out": tmp_path} | changes)
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="tables of TCGA-BRCA"):
        reproduce("subtyping", on="pam50", data=tmp_path / "empty", runs=tmp_path / "runs", cache=tmp_path)


def test_a_setting_that_names_no_row_is_refused() -> None:
    arms = {"image": Contender(["image"]), "omics": Contender(["omics"])}
    for wrong in (
        {"singles": ["imag"]},
        {"singles": [], "means": {"mean": ["image", "omic"]}},
        {"singles": [], "controls": ["linear"]},
        {"singles": [], "pairs": {"one": ["image", "imago"]}},
    ):
        with pytest.raises(ConfigError, match="there is no row"):
            Setting("subtyping_demo", {}, networks=arms, patients=["image"], **wrong)
    with pytest.raises(ConfigError, match=r"has no branch 'omic'. Did you mean 'omics'"):
        Contender(["omic"]).config(load_space("subtyping_demo"), epochs=1, seed=1)


def test_the_command_prints_its_tables(home: Path, subtyping: Reproduced) -> None:
    where = ["--runs", str(home / "runs"), "--cache", str(home / "cache"), "--out", str(home / "said")]
    answer = CliRunner().invoke(app, ["reproduce", "subtyping", "--on", "demo", "--quiet", *where])
    assert answer.exit_code == 0, answer.output
    assert f"AUROC minus {subtyping.reference} [95 %]" in answer.output
    assert "against linear, image + omics" in answer.output
    assert (home / "said" / "subtyping-demo-patient_kfold" / "auroc.html").is_file()
    wrong = CliRunner().invoke(app, ["reproduce", "loose", "--on", "demo", "--split", "site", *where])
    assert wrong.exit_code == 2
    assert "Traceback" not in wrong.output
