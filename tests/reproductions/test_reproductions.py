"""A reproduction is fair (the same budget and everything but the contender alike), honest (no number under another
metric or without its source, the seal opened once, seeds and patients in the tests), and goes on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.cli.catalogue import catalogue
from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.core.registry import load_plugins
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError
from histotune.ingest.datasets import DATASETS
from histotune.metrics.bootstrap import holm
from histotune.metrics.intervals import Difference
from histotune.metrics.scores import METRICS
from histotune.reproductions import papers as reproductions
from histotune.reproductions.papers import REPRODUCTIONS, ComparisonTable, Published, Scale
from histotune.reproductions.report import Arm, ReproductionReport, lines, markdown, verdict
from histotune.reproductions.rows import MeasuredContender, ResultRow
from histotune.reproductions.run import Reproduced, reproduce
from histotune.reproductions.train import LineUp, candidates
from histotune.space.presets import load_preset
from histotune.storage.study_folder import StudyFolder

FILES = (Path(reproductions.__file__).parent).glob("[!_]*.py")
BUILT = {path.stem: REPRODUCTIONS.build(path.stem) for path in sorted(FILES)}
SEARCHED = {name: one for name, one in BUILT.items() if one.compare is None}  # see test_reproduce_folds, too
EVERY = [(name, on) for name, one in SEARCHED.items() for on in one.settings]
SETTINGS = pytest.mark.parametrize(("name", "on"), EVERY, ids=lambda value: str(value))


# --- the contract of every registered reproduction


def test_reproductions_are_listed_with_their_paper() -> None:
    listed = {str(entry["name"]): entry for entry in catalogue("reproductions")}
    assert {name for name, _ in EVERY} <= listed.keys()
    assert "10.1109/JBHI.2023.3336372" in str(listed["cfal"]["source"])


@SETTINGS
def test_names_lead_somewhere(name: str, on: str) -> None:
    result = SEARCHED[name]
    rows = {*result.contenders, *result.ensembles}
    assert result.reference in result.contenders
    assert set(result.members) <= set(result.contenders)
    assert set(result.ensembles.values()) <= set(ENSEMBLES.names())
    printed = [setting.printed(arm) for setting in result.settings.values() for arm in ("", *setting.published_of)]
    others = {label for published in printed for label in published} - rows
    setting = result.setting(on)
    assert set(setting.contenders) <= set(result.contenders)
    assert result.reference in (setting.contenders or result.contenders)
    assert all(setting.arms(scale) for scale in setting.budgets.values())
    assert setting.external in {"", *DATASETS.names()}
    for table in result.tables:
        assert set(table.rows) <= rows | others
        assert set(table.metrics) <= set(METRICS)
        assert table.tested in table.metrics
    listed = {label for table in result.tables for label in table.rows}
    assert set(result.setting(on).published) <= listed, "published and never shown"


@pytest.mark.parametrize(
    (
        "name",
        "on",
    ),  # the line-ups of `cmaf` are drawn alike, for a minute each; `demo_imbalance` stands for all by default
    [pytest.param(*one, marks=[pytest.mark.slow] * (one[0] == "cmaf" and one[1] != "demo_imbalance")) for one in EVERY],
    ids=str,
)
def test_every_contender_gets_the_same_and_differs_in_nothing_else(name: str, on: str) -> None:
    result = SEARCHED[name]
    for scale in result.setting(on).budgets.values():
        line_up = LineUp.of(result, result.setting(on), scale)
        assert set(line_up.searched) == set(result.setting(on).contenders or result.contenders)
        for configs in line_up.searched.values():
            assert len({config.digest() for config in configs}) == len(configs) == scale.trials
        everyone = [config for configs in line_up.searched.values() for config in configs]
        assert len({config.digest() for config in everyone}) == len(everyone)
        assert len({common(config, everyone[0], name).digest() for config in everyone}) == 1
        assert {(config.epochs, config.patience, config.seed) for config in everyone} == {(scale.epochs, 0, 0)}
        assert 0 not in line_up.seeds
        assert len(line_up.seeds) == scale.seeds


def common(config: TrialConfig, other: TrialConfig, name: str) -> TrialConfig:
    """Leave out what contenders may differ in: the loss, and for CMAF-Net what joins the branches."""
    model, theirs = config.model, other.model
    if name == "cmaf":
        model = replace(model, fusion=theirs.fusion, redundancy=theirs.redundancy)
    optimizer = config.optimizer
    if name == "cmaf":
        optimizer = replace(optimizer, learning_rate=other.optimizer.learning_rate)
    return replace(config, loss=other.loss, model=model, optimizer=optimizer)


def test_a_larger_search_begins_with_the_smaller_one() -> None:
    few, many = (candidates("idc_losses", ["loss.name=cfal"], count) for count in (3, 9))
    assert many[:3] == few


def test_a_contender_with_too_few_configurations_is_refused() -> None:
    with pytest.raises(ConfigError, match="Focal: 21 trials asked of every contender, but it has 20"):
        candidates("idc_losses", ["loss.name=focal"], 21, "Focal")


@pytest.mark.parametrize(
    "name", ["cce_idc", "sphere_idc", "cfal_idc", "arc_idc", "cos_idc", "focal_idc", "cce_crc_vgg"]
)
def test_cfal_trains_its_presets_first(name: str) -> None:
    preset = load_preset(name).config
    space = "crc_losses" if "crc" in name else "idc_losses"
    first = candidates(space, [f"loss.name={preset['loss']['name']}"], 1)[0].to_dict()
    assert preset["loss"].items() <= first["loss"].items()
    assert preset["optimizer"].items() <= first["optimizer"].items()
    assert preset["model"]["head"].items() <= first["model"]["head"].items()
    assert preset["model"]["branches"]["image"].items() <= first["model"]["branches"]["image"].items()
    same = ("augment", "batch_size", "image_size", "precision", "ema_decay", "tta", "seed")
    assert [first[key] for key in same] == [preset[key] for key in same]


# --- published numbers


@SETTINGS
def test_every_published_number_says_where_it_is_printed(name: str, on: str) -> None:
    setting = SEARCHED[name].setting(on)
    for published in (row for arm in ("", *setting.published_of) for row in setting.printed(arm).values()):
        assert ", row " in published.source
        assert any(table.name in published.source for table in setting.printed_tables)
        assert "not available" not in published.source
        assert all(0 < value < 1 for value in published.values.values())


def test_macro_f1_and_the_positive_class_are_never_mixed() -> None:
    published = SEARCHED["cfal"].setting("idc").published
    positive = {label for label, row in published.items() if "positive_f1" in row.values}
    assert positive == {"Cruz-Roa 2014", "Janowczyk 2016"}
    assert not any("macro_f1" in published[label].values or "accuracy" in published[label].values for label in positive)
    assert not any("auroc" in row.values for row in published.values()), "Table VI is no ranking AUROC"


def test_a_published_number_needs_a_source_and_a_metric() -> None:
    with pytest.raises(ConfigError, match="have no source"):
        Published({"accuracy": 0.8}, "")
    with pytest.raises(ConfigError, match="unknown metric 'f1_macro'"):
        Published({"f1_macro": 0.8}, "Table I")
    with pytest.raises(ConfigError, match="trials must be at least 1, got 0"):
        Scale(1, 0, 1)


# --- tables


def row(*values: float, **differences: Difference) -> ResultRow:
    result = {"macro_f1": [*values], "positive_f1": [value / 2 for value in values]}
    return ResultRow(list(range(1, len(values) + 1)), result, differences, [])


@pytest.fixture
def measured() -> MeasuredContender:
    rows = {
        "CCE": row(0.70, 0.72, 0.74),
        "A": row(0.80, 0.80, 0.86, macro_f1=Difference(0.10, 0.05, 0.15, 0.01)),
        "B": row(0.60, 0.61, 0.62, macro_f1=Difference(-0.11, -0.2, -0.01, 0.03)),
        "C": row(0.71, 0.71, 0.71, macro_f1=Difference(-0.01, -0.1, 0.1, 0.60)),
    }
    return MeasuredContender(
        "0" * 12, rows, {"train": 9, "val": 5, "test": 7}, {"train": 3, "val": 2, "test": 4}, ["no", "yes"]
    )


TABLE = ComparisonTable("Losses", ("Other", "CCE", "A", "B", "C", "unknown"), ("macro_f1", "positive_f1"), "macro_f1")
PRINTED = {
    "Other": Published({"positive_f1": 0.7648}, "Table I"),
    "A": Published({"macro_f1": 0.83}, "Table II"),
}


CALLED = {"reproduction": "x", "on": "y", "protocol": "z", "budget": "b"}
REPORT = ReproductionReport(CALLED, [], [], {}, "macro_f1", "CCE", {"": {"CCE": 1.0}}, [], {})


def arm(measured: MeasuredContender, *tables: Any) -> Arm:
    return Arm("", StudyFolder(Path("nowhere")), {}, measured, tables, "CCE")


def test_mean_spread_and_correction_by_hand(measured: MeasuredContender) -> None:
    result = {line.label: line for line in lines(TABLE, measured, PRINTED)}
    assert list(result) == ["Other", "CCE", "A", "B", "C"]
    mean, spread = result["A"].here["macro_f1"]
    assert mean == pytest.approx((0.80 + 0.80 + 0.86) / 3)
    assert spread == pytest.approx(((2 * 0.02**2 + 0.04**2) / 2) ** 0.5)
    assert [result[label].corrected for label in "ABC"] == pytest.approx([0.03, 0.06, 0.60])
    assert result["CCE"].corrected is None
    assert verdict(TABLE, list(result.values()), "CCE") == (
        "Significantly better than CCE in macro F1 (p corrected < 0.05): A."
    )
    costs = replace(TABLE, metrics=("nll",), tested="nll")
    better = [replace(line, corrected=0.001) for line in result.values() if line.label == "B"]
    assert verdict(costs, better, "CCE").startswith("Significantly better than CCE in NLL"), "less is better"


def test_a_published_number_stands_under_its_own_metric_only(measured: MeasuredContender) -> None:
    text = markdown(REPORT, [arm(measured, (TABLE, lines(TABLE, measured, PRINTED)))])
    grid = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("## Losses")[1].splitlines()[2:9]]
    head, cells = grid[0], {line[0]: dict(zip(grid[0], line, strict=True)) for line in grid[2:]}
    assert "unknown" not in cells
    assert head.index("macro F1, published") == head.index("macro F1") + 1
    assert cells["Other"]["positive F1, published"] == "0.765"
    assert cells["Other"]["macro F1, published"] == cells["Other"]["macro F1"] == cells["Other"]["patients"] == ""
    assert (cells["A"]["macro F1, published"], cells["A"]["positive F1, published"]) == ("0.830", "")
    assert cells["A"]["macro F1"] == "0.820 ± 0.035"
    assert (cells["A"]["seeds"], cells["A"]["patients"], cells["A"]["published in"]) == ("3", "4", "Table II")


def test_a_table_without_published_numbers_names_no_source(measured: MeasuredContender) -> None:
    table = replace(TABLE, rows=("CCE", "A"), metrics=("positive_f1",))
    text = markdown(REPORT, [arm(measured, (table, lines(table, measured, PRINTED)))])
    assert "Table II" not in text
    assert "published in" not in text


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_what_the_step_down_procedure_rejects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 0.2, size=rng.integers(1, 12)) ** 2
    rejected = set[int]()
    for step, k in enumerate(np.argsort(p)):
        if p[k] > 0.05 / (len(p) - step):
            break
        rejected.add(int(k))
    assert {k for k, value in enumerate(holm(list(p))) if value <= 0.05} == rejected
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, float("nan")])[0] == 0.01, "what was not tested is not corrected for"


# --- end to end: real searches, a reproduction in a file of its own

PLUGIN = """
from histotune.reproductions.papers import (REPRODUCTIONS, ComparisonTable, Published, Reproduction, Scale, Setting)

@REPRODUCTIONS.register("{name}")
def tiny() -> Reproduction:
    '''Two losses on made-up images.'''
    rows = ("CE", "Focal", "Both")
    return Reproduction(
        title="Two losses", contenders={{"CE": ("loss.name=cross_entropy",), "Focal": ("loss.name=focal",)}},
        reference="CE", members=("CE", "Focal"), ensembles={{"Both": "average"}},
        tables=(ComparisonTable("Losses", rows, ("macro_f1", "positive_f1"), "macro_f1"),),
        figures=("runtime_per_epoch",), confused=("Both",),
        settings={{"made-up": Setting({space!r}, {{"small": Scale(epochs=1, trials=2, seeds=2, cases=100)}},
                   published={{"CE": Published({{"macro_f1": 0.5}}, "Table I")}})}},
    )
"""
SPACE = """
dataset: synthetic
options: {cases: 240, patients: 24, side: 16}
metric: macro_f1
image_size: 16
batch_size: 16
model: {branches: {image: {backbone: {name: alexnet, width: 4}}}}
loss:
  choice:
    cross_entropy: {beta: {choice: [0.0, 0.9]}}
    focal: {gamma: {choice: [1.0, 2.0]}}
seed: {low: 0, high: 99, default: 0}
"""


def plugin(folder: Path, name: str) -> Path:
    (folder / "parts").mkdir()
    (folder / "space.yaml").write_text(SPACE)
    (folder / "parts" / f"{name}.py").write_text(PLUGIN.format(name=name, space=str(folder / "space.yaml")))
    return folder / "parts"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    load_plugins(plugin(folder, "tiny"))
    return folder


@pytest.fixture(scope="module")
def once(home: Path) -> Reproduced:
    return run(home)


def run(home: Path, said: list[str] | None = None) -> Reproduced:
    where = {"runs": home / "runs", "cache": home / "cache", "out": home / "reports"}
    hear = None if said is None else said.append
    return reproduce("tiny", on="made-up", said=hear, **where)  # type: ignore[arg-type]


def test_a_reproduction_trains_alike_and_opens_the_seal_once(once: Reproduced) -> None:
    records = once.arms[0].store.trials()
    assert {record.state for record in records} == {"complete"}
    configs = [record.config() for record in records]
    trained = [(config["loss"]["name"], config["seed"]) for config in configs]
    assert sorted(trained) == sorted([(loss, seed) for loss in ("cross_entropy", "focal") for seed in (0, 0, 1, 2)])
    assert len(once.arms[0].store.openings()) == 1
    for label, rows in once.arms[0].trained.items():
        searched = [
            r
            for r in records
            if r.config()["seed"] == 0 and r.config()["loss"]["name"] in rows[0].config()["loss"]["name"]
        ]
        best = max(searched, key=lambda record: record.metrics["macro_f1"])
        assert all(record.config()["loss"] == best.config()["loss"] for record in rows), label


def test_the_training_part_is_limited_and_the_report_says_it(once: Reproduced) -> None:
    parts = once.arms[0].store.split["part"]
    assert 98 <= (parts == "train").sum() <= 100
    assert once.arms[0].measured.cases["test"] == (parts == "test").sum()
    text = once.files[0].read_text()
    assert "cases at random, in the proportions of the classes" in text
    assert "The images are made up" in text


def test_its_figures_are_drawn(once: Reproduced) -> None:
    drawn = {path.name: path for path in once.files[3:]}
    assert drawn.keys() == {"runtime_per_epoch.html", "confusion_matrix-both.html"}
    cases = once.arms[0].measured.cases["test"] * len(once.arms[0].trained["CE"])
    assert f"{cases} cases" in drawn["confusion_matrix-both.html"].read_text()


def test_the_files_hold_every_number(once: Reproduced) -> None:
    text, numbers, whole = (path.read_text() for path in once.files[:3])
    rows = {(row["row"], row["metric"]): row for row in csv.DictReader(numbers.splitlines())}
    for label, measured in once.arms[0].measured.rows.items():
        values = [float(value) for value in rows[label, "macro_f1"]["values"].split()]
        assert values == measured.values["macro_f1"]
        assert float(rows[label, "macro_f1"]["mean"]) == pytest.approx(np.mean(values))
        assert float(rows[label, "macro_f1"]["sd"]) == pytest.approx(np.std(values, ddof=1))
        assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in text
    assert rows["CE", "macro_f1"]["published"] == "0.5"
    assert rows["CE", "positive_f1"]["published"] == rows["CE", "positive_f1"]["source"] == ""
    (only,) = json.loads(whole)["arms"]
    assert only["measured"]["rows"].keys() == {"CE", "Focal", "Both"}


def test_the_same_again_only_writes(home: Path, once: Reproduced) -> None:
    before = {path: path.read_bytes() for path in once.files}
    message: list[str] = []
    began = time.monotonic()
    again = run(home, message)
    assert time.monotonic() - began < 10
    assert {path: path.read_bytes() for path in again.files} == before
    assert again.arms[0].measured == once.arms[0].measured
    assert len(again.arms[0].store.openings()) == 1
    assert not any("min left" in line for line in message)


@pytest.mark.slow
def test_a_killed_reproduction_goes_on(tmp_path: Path) -> None:
    parts = plugin(tmp_path, "tiny_killed")
    program = [str(Path(sys.executable).with_name("histotune")), "--plugins", str(parts), "reproduce", "tiny_killed"]
    command = [*program, "--on", "made-up"]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("HISTOTUNE_")}
    variables |= {"HISTOTUNE_RUNS": str(tmp_path / "runs"), "HISTOTUNE_CACHE": str(tmp_path / "cache")}
    ended: list[set[int]] = []
    for line_of_death in ("[2/8]", "[6/8]", ""):
        options: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command, env=variables, cwd=tmp_path, **options) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line_of_death and line_of_death in line:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
            rest = process.stderr.read()
            assert process.wait() == (-signal.SIGKILL if line_of_death else 0), rest
        store = StudyFolder(tmp_path / "runs" / "tiny_killed-made-up-patient-small")
        ended.append({record.number for record in store.trials()})
    assert ended[0] < ended[1] < ended[2] == set(range(8))
    assert all(record.state == "complete" for record in store.trials())
    assert len(store.openings()) == 1
    assert (tmp_path / "reports" / "tiny_killed-made-up-patient.md").exists()


# --- errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cfla", "--on", "idc"], "unknown reproduction 'cfla'. Did you mean 'cfal'"),
        (["cfal", "--on", "cr"], "nothing to reproduce on 'cr'. Did you mean 'crc'"),
        (["cfal", "--on", "demo", "--budget", "smal"], "unknown budget 'smal'. Did you mean 'small'"),
        (["cfal", "--on", "demo", "--protocol", "patient_70"], "unknown split protocol 'patient_70'. Did you mean"),
        (["cfal", "--on", "demo", "--protocol", "official_patient"], "'official_patient' is for dataset 'idc'"),
        (["cfal", "--on", "crc", "--data", "nowhere"], "nowhere"),
        (["cmaf", "--on", "breakhis", "--external-data", "nowhere"], "Then give its place: --external-data PATH"),
        (["cmaf", "--on", "imbalances"], "nothing to reproduce on 'imbalances'. Did you mean 'imbalance'"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    where = ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, ["reproduce", *words, *where])
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


# --- the reports of the repository

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.mark.parametrize("path", sorted(REPORTS.glob("cmaf-*.json")), ids=lambda path: path.stem)
def test_a_committed_report_is_what_its_numbers_give(path: Path) -> None:
    """Tables and verdicts of the Markdown follow from the JSON beside it (cfal has an earlier form of it)."""
    whole, written = files.read_json(path), path.with_suffix(".md").read_text(encoding="utf-8")
    own = BUILT[whole["reproduction"]]
    for saved in whole["arms"]:
        result = files.restored(MeasuredContender, saved["measured"], path, "")
        printed = own.setting(whole["on"]).printed(saved["arm"])
        for shown in saved["tables"]:
            table = next(one for one in own.tables if one.title == shown["title"])
            filled = [(table, lines(table, result, printed))]
            text = markdown(REPORT, [Arm(saved["arm"], StudyFolder(path), {}, result, filled, own.reference)])
            section = text.split("\n## ")[2]
            assert f"\n## {section.strip()}\n" in written
