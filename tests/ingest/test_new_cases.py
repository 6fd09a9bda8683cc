"""The use law for cases of several modalities: what a study predicted, its export predicts from files again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_tables import begun, train, write_cases
from PIL import Image
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.data.cohort import Cohort, select
from histotune.data.modalities import Column
from histotune.data.modalities.bag import join
from histotune.data.modalities.graph import GraphModality, connect
from histotune.data.modalities.table import Table
from histotune.ensembles.merge import merge
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError, DataError
from histotune.evaluation.sealed import evaluate
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.model import load
from histotune.ingest.new_cases import CaseFiles, Reads
from histotune.metrics import scores as metrics
from histotune.metrics.calibration import apply_temperatures
from histotune.storage.selection import Selection, by_modality
from histotune.storage.study_folder import StudyFolder

ALL = ("image", "omics", "clinical")
Begun = tuple[StudyFolder, Cohort]


@pytest.fixture(scope="module", params=[0, 3], ids=["one split", "folds"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """A study of one trial on all modalities and one on each alone; read-only."""
    store, cohort = begun(tmp_path_factory.mktemp("runs") / "runs" / "brca", folds=request.param)
    train(store, cohort, 0, *ALL)
    for number, name in enumerate(ALL, start=1):
        train(store, cohort, number, name)
    return store, cohort


@pytest.fixture(scope="module")
def exported(study: Begun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trial 0 as an export."""
    return export_trial(study[0], 0, tmp_path_factory.mktemp("exports") / "all")


@pytest.fixture(scope="module")
def coupled(study: Begun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Members that read one modality each, loosely coupled, as an export."""
    store, _ = study
    merged = merge(store, strategy="weighted_logits", chosen=Selection(by_modality(store, ALL)), replicates=20)
    return export_ensemble(store, merged, tmp_path_factory.mktemp("exports") / "loose")


@pytest.fixture
def cases(study: Begun, tmp_path: Path) -> Path:
    """The validation cases as files."""
    return write_cases(tmp_path / "cases", study[1], study[0].trials()[0].predictions().ids)


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[column for column in table if str(column).startswith("p_")]].to_numpy()


def test_a_trial_predicts_its_validation_cases_as_it_did(study: Begun, exported: Path, cases: Path) -> None:
    store, cohort = study
    if store.settings.folds:
        pytest.skip("with folds an export is the mean of networks, and what was saved is of one each")
    saved, model = store.trials()[0].predictions(), load(exported)
    table = model.predict(cases).set_index("id").loc[saved.ids]
    scaled = apply_temperatures(saved.logits[None], [model.members[0].temperature])[0]
    assert probabilities(table) == pytest.approx(metrics.softmax(scaled), abs=1e-5)
    rows = pd.Index(cohort.table["id"]).get_indexer(pd.Index(saved.ids))
    lacking = [", ".join(name for name in sorted(ALL) if not cohort.present[name][row]) for row in rows]
    assert table["missing"].tolist() == lacking
    assert any(lacking)


def test_an_ensemble_predicts_its_validation_cases_as_it_did(study: Begun, coupled: Path, cases: Path) -> None:
    store, _ = study
    if store.settings.folds:
        pytest.skip("with folds an export is the mean of networks, and what was saved is of one each")
    model = load(coupled)
    trials = {trial.number: trial.predictions() for trial in store.trials()}
    saved = [trials[member.trial] for member in model.members]
    present = np.stack([one.has_input for one in saved])
    assert not present.all()
    logits = apply_temperatures(np.stack([one.logits for one in saved]), [m.temperature for m in model.members])
    fitted = ENSEMBLES.build("weighted_logits", **model.info["params"])
    fitted.load_state(model.info["state"])
    fitted.temperature = model.info["temperature"]
    table = model.predict(cases).set_index("id")
    known = present.any(axis=0)
    expected = fitted.predict(logits, present)[known]
    assert probabilities(table.loc[saved[0].ids[known]]) == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(expected, fitted.predict(logits)[known], atol=1e-3), "a mask that made no difference"


def test_folds_are_averaged_each_with_its_own_preprocessing(study: Begun, exported: Path, cases: Path) -> None:
    store, cohort = study
    model = load(exported)
    table = model.predict(cases)
    rows = pd.Index(cohort.table["id"]).get_indexer(pd.Index(table["id"]))
    columns = select(cohort.columns, rows)
    predictor = model.members[0].predictor
    logits = np.mean([part.logits(columns) for part in predictor.parts], axis=0)
    expected = metrics.softmax(logits / model.members[0].temperature)
    assert len(predictor.parts) == max(1, store.settings.folds)
    assert probabilities(table) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("which", ["exported", "coupled"])
def test_columns_in_memory_say_the_same(study: Begun, which: str, cases: Path, request: pytest.FixtureRequest) -> None:
    model, cohort = load(request.getfixturevalue(which)), study[1]
    table = model.predict(cases)
    rows = pd.Index(cohort.table["id"]).get_indexer(pd.Index(table["id"]))
    again = model.predict(select(cohort.columns, rows))
    assert again["id"].tolist() == list(range(len(rows)))
    assert again["missing"].tolist() == table["missing"].tolist()
    assert probabilities(again) == pytest.approx(probabilities(table), abs=1e-6)


def test_a_modality_that_is_left_out_is_absent_for_everybody(study: Begun, coupled: Path, cases: Path) -> None:
    model = load(coupled)
    (cases / "clinical.csv").unlink()
    with pytest.warns(UserWarning, match=r"modality 'clinical' is absent for every case.*clinical\.csv"):
        table = model.predict(cases)
    assert all("clinical" in text for text in table["missing"])
    assert np.isfinite(probabilities(table)).all()
    columns = select(study[1].columns, np.arange(40))
    without = {name: column for name, column in columns.items() if name != "clinical"}
    masked = columns | {"clinical": columns["clinical"]._replace(present=np.zeros(40, bool))}
    assert probabilities(model.predict(without)) == pytest.approx(probabilities(model.predict(masked)))


def test_a_case_of_which_nothing_is_known_is_listed(exported: Path, cases: Path) -> None:
    for name in ALL:
        frame = pd.read_csv(cases / f"{name}.csv")
        frame.loc[len(frame)] = ["nobody", *[None] * (frame.shape[1] - 1)]
        frame.to_csv(cases / f"{name}.csv", index=False)
    with pytest.warns(UserWarning, match=r"1 cases have nothing that .* reads and are left out: nobody"):
        table = load(exported).predict(cases)
    assert "nobody" not in set(table["id"])
    assert table.attrs["problems"][-1]["path"] == "nobody"


def test_files_of_every_form_and_order_say_the_same(exported: Path, cases: Path) -> None:
    model = load(exported)
    expected = model.predict(cases)
    for name, write in (("image", pd.DataFrame.to_parquet), ("omics", pd.DataFrame.to_csv)):
        frame = pd.read_csv(cases / f"{name}.csv").sample(frac=1, random_state=0)
        frame = frame[["case_id", *sorted(frame.columns[1:], reverse=True)]].rename(columns={"case_id": "who"})
        frame = pd.concat([frame, pd.Series("x", frame.index, name="further")], axis=1)
        (cases / f"{name}.csv").unlink()
        write(frame, cases / f"{name}.{'parquet' if name == 'image' else 'csv.gz'}", index=False)
    result = model.predict(cases)
    assert result["id"].tolist() == expected["id"].tolist()
    assert probabilities(result) == pytest.approx(probabilities(expected))


def spoilt(cases: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(cases / f"{name}.csv")).to_csv(cases / f"{name}.csv", index=False)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "omics",
            lambda frame: frame.drop(columns=["GENE003", "GENE004"]),
            r"lacks 2 of \d+ .*GENE003, GENE004",
        ),
        ("omics", lambda frame: frame.astype({"GENE007": object}).assign(GENE007="high"), r"column 'GENE007'.*'high'"),
        ("clinical", lambda frame: pd.concat([frame, frame.assign(age=1)]), "several rows that differ"),
        ("clinical", lambda frame: frame.drop(columns="case_id"), "no column of case ids: its first column 'age'"),
        ("image", lambda frame: frame.iloc[:0], "empty table"),
    ],
    ids=["no column", "no number", "two rows", "no ids", "empty"],
)
def test_bad_tables_are_refused(exported: Path, cases: Path, name: str, change: Any, says: str) -> None:
    spoilt(cases, name, change)
    with pytest.raises(DataError, match=says):
        load(exported).predict(cases)


def test_a_folder_with_nothing_or_twice_the_same_is_refused(exported: Path, cases: Path, tmp_path: Path) -> None:
    model = load(exported)
    shutil.copy(cases / "omics.csv", cases / "omics.parquet")
    with pytest.raises(DataError, match=r"both modality 'omics'"):
        model.predict(cases)
    with pytest.raises(DataError, match="does not exist"):
        model.predict(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of what the model reads: clinical\.csv"):
        model.predict(tmp_path / "empty")
    with pytest.raises(DataError, match=r"is one file, and the model reads clinical\.csv"):
        model.predict(cases / "omics.csv")
    with pytest.raises(DataError, match="give a folder of cases"):
        model.predict(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"the cases have \['cnv'\] only"):
        model.predict({"cnv": Column("table", Table(np.zeros((1, 1), np.float32), ()), np.ones(1, bool))})


def test_a_model_of_one_table_takes_that_file(study: Begun, cases: Path, tmp_path: Path) -> None:
    model = load(export_trial(study[0], 2, tmp_path / "omics"))
    with pytest.warns(UserWarning, match="is not read: the model reads omics"):
        expected = model.predict(cases)
    pd.testing.assert_frame_equal(model.predict(cases / "omics.csv"), expected)


def test_the_command_writes_what_python_says(exported: Path, cases: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["predict", str(exported), str(cases), "-o", str(tmp_path / "out.csv")])
    assert answer.exit_code == 0, answer.output
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert written["missing"].tolist() == load(exported).predict(cases)["missing"].tolist()
    spoilt(cases, "omics", lambda frame: frame[["case_id", "GENE001"]])
    answer = CliRunner().invoke(app, ["predict", str(exported), str(cases)])
    assert answer.exit_code == 2
    assert "columns that the model reads" in answer.output


def test_the_card_names_what_is_read(exported: Path, study: Begun) -> None:
    text = (exported / "README.md").read_text(encoding="utf-8")
    assert "- `clinical`: a table, of which 5 columns are needed: age, positive_nodes, stage, menopause, sex" in text
    assert "`omics`: omics.csv (.csv.gz, .parquet; its first column, or case_id, is the case)" in text
    assert "Images of any size" not in text


def test_onnx_is_refused_with_a_sentence(study: Begun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reads clinical \(table\).*images only"):
        export_trial(study[0], 0, tmp_path / "export", onnx=True)
    assert not (tmp_path / "export").exists()


def test_an_evaluation_gives_no_voice_to_members_that_hear_nothing(study: Begun, coupled: Path) -> None:
    store, cohort = study
    model = load(coupled)
    result = evaluate(model, dict.fromkeys(model.image_sizes, cohort), store, command="test", replicates=20)
    rows = np.flatnonzero(store.split["part"].to_numpy() == "test")
    sealed, _ = store.open_seal("test", "test")
    labels = sealed.set_index("id")["label"].loc[cohort.table["id"].iloc[rows]].to_numpy()
    columns = select(cohort.columns, rows)
    logits = [np.asarray(m.predictor.logits(columns), np.float64) / m.temperature for m in model.members]
    present = np.stack([columns[m.predictor.modalities[0]].present for m in model.members])
    expected = model.ensemble.predict(np.stack(logits), present)
    assert result.metrics["auroc"].value == pytest.approx(metrics.auroc(expected, labels), abs=1e-6)


def test_bags_are_read_from_folders_of_slides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bags = [connect(join([rng.normal(size=(n, 4))], [100 * rng.normal(size=(n, 2))]), k=2) for n in (5, 3, 9)]
    for name, bag in zip("abc", bags, strict=True):
        (tmp_path / "out" / "slides" / name).mkdir(parents=True)
        GraphModality().save(bag, tmp_path / "out" / "slides" / name)
    reads = {"graph": Reads("graph", shape=(4,)), "patches": Reads("bag", shape=(4,))}
    slides = tmp_path / "out" / "slides"
    (slides / "unfinished").mkdir()
    (slides / "gone").symlink_to(tmp_path / "nowhere")
    shutil.copytree(slides / "a", slides / ".a")
    (slides / "note.txt").write_text("no bag, and nobody takes it for one")
    files = CaseFiles(tmp_path / "out", reads, "area")
    assert files.ids == ["a", "b", "c"]
    said = {Path(problem["path"]).name: problem["reason"] for problem in files.problems}
    assert len(files.problems) == len(said) == 3, "once, and not for each modality"
    assert "without features.npy" in said["unfinished"]
    assert "the link leads to a folder that is not there" in said["gone"]
    assert "hidden" in said[".a"]
    result = files.take(["c", "nobody", "a"], [32])[32]
    assert result["graph"].present.tolist() == result["patches"].present.tolist() == [True, False, True]
    assert result["graph"].stored.counts.tolist() == [9, 0, 5]
    assert result["patches"].stored.neighbours.shape[1] == 0
    alone = GraphModality().select(result["graph"].stored, np.array([2]))
    assert np.array_equal(alone.features, bags[0].features)
    assert np.array_equal(alone.neighbours[:, : bags[0].neighbours.shape[1]], bags[0].neighbours)


def test_images_of_cases_are_resized_and_unreadable_ones_are_absent(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image" / "a.png")
    (tmp_path / "image" / "b.png").write_text("no image")
    files = CaseFiles(tmp_path, {"image": Reads("image"), "cnv": Reads("table")}, "area")
    result = files.take(files.ids, [8, 16])
    assert result[16]["image"].stored.shape == (2, 16, 16, 3)
    assert result[8]["image"].present.tolist() == [True, False]
    assert [problem["path"] for problem in files.problems] == [str(tmp_path / "image" / "b.png")]
    assert "modality 'cnv' is absent for every case" in files.notes[0]
