"""An explanation says what it shows: which images, whose truth, on which scale; and its page needs nothing else."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.data.cohort import Cohort, read_labels
from histotune.data.modalities.image import ImagePreprocessing
from histotune.data.splits import TEST, TRAIN
from histotune.errors import ConfigError, DataError
from histotune.explanation.images import SIDE, Explanation, explain
from histotune.explanation.patches import listed
from histotune.explanation.saliency import Key
from histotune.explanation.slide_map import grid_of, spread_out
from histotune.exports.export import export_trial
from histotune.exports.model import Export, load
from histotune.exports.scorer import LoadedMember
from histotune.ingest.images import read_image
from histotune.models.network import build_model
from histotune.models.predictor import Predictor
from histotune.reporting import explanation_page
from histotune.reporting import explanation_page as _sheet
from histotune.reporting.figures import _overlay
from histotune.storage.study_folder import StudyFolder
from histotune.training.loop import run_trial

CHROME = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
CLASSES = ("benign", "malignant")
TWO = {
    "image_size": 32,
    "epochs": 1,
    "model": {
        "branches": {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": "cct_2"}},
        "fusion": {"name": "cmaf", "dim": 16, "heads": 2},
    },
}
TWO_CONCAT = {
    "image_size": 32,
    "epochs": 1,
    "model": {"branches": {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": "cct_2"}}, "fusion": "concat"},
}
ALEXNET = {"image_size": 32, "model": {"branches": {"cnn": {"backbone": "alexnet"}}}}


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, new_study: Callable[[Path], StudyFolder], small_cohort: Cohort
) -> StudyFolder:
    """A study with one trial of two branches, trained for an epoch; read-only."""
    store = new_study(tmp_path_factory.mktemp("explained") / "runs" / "two")
    record = run_trial(TrialConfig.from_dict(TWO), store.training_data(small_cohort), store.folder / "trials" / "00000")
    assert record.state == "complete", record.reason
    return store


@pytest.fixture(scope="module")
def exported(study: StudyFolder) -> Path:
    return export_trial(study, 0, study.folder.parent.parent / "exports" / "two")


@pytest.fixture(scope="module")
def model(exported: Path) -> Export:
    return load(exported)


@pytest.fixture
def own_study(study: StudyFolder, model: Export, tmp_path: Path) -> Export:
    """The export, whose study is a copy that may be changed."""
    folder = tmp_path / "runs" / "two"
    shutil.copytree(study.folder, folder)
    return dataclasses.replace(model, info={**model.info, "study": {**model.info["study"], "folder": str(folder)}})


def untrained(trial: int, settings: dict[str, Any]) -> LoadedMember:
    torch.manual_seed(trial)
    config = TrialConfig.from_dict(settings)
    preparations = {"image": ImagePreprocessing((0.7, 0.5, 0.6), (0.2, 0.2, 0.2), config.image_size)}
    network = build_model(config, (5, 9)).eval()
    return LoadedMember(trial, 1.0, Predictor(config, CLASSES, 1, preparations, network, torch.device("cpu")))


def with_members(model: Export, *members: LoadedMember) -> Export:
    return dataclasses.replace(model, members=members)


@pytest.fixture(scope="module")
def patches(small_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Every image of the cohort as a file, on a grid of 20 columns and steps of 50 px, in a list beside them."""
    folder = tmp_path_factory.mktemp("patches")
    labels = read_labels(small_cohort)
    rows = []
    for number, pixels in enumerate(small_cohort.arrays["image"]):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        x, y = 50 * (number % 20) + 1, 50 * (number // 20) + 101
        case = small_cohort.table.iloc[number]
        rows.append((f"{folder}/{number:03d}.png", case["id"], "", x, y, CLASSES[labels[number]]))
    return pd.DataFrame(rows, columns=["path", "id", "patient", "x", "y", "label"])


@pytest.fixture
def slide(patches: pd.DataFrame, tmp_path: Path) -> Callable[..., Path]:
    """Factory of a CSV of the images of these parts of the study."""

    def write(model: Export, *parts: str, **columns: Any) -> Path:
        table = StudyFolder(model.study_folder).split
        rows = np.flatnonzero(table["part"].isin(parts)) if parts else np.arange(len(table))
        path = tmp_path / "slide.csv"
        patches.iloc[rows].assign(**columns).to_csv(path, index=False)
        return path

    return write


def found(explained: Explanation, key: Key) -> np.ndarray:
    return next(shown.values for shown in explained.maps if shown.key == key)


# --- images


def test_file_names_of_the_kaggle_layout_tell_patient_place_and_class(tmp_path: Path) -> None:
    folder = tmp_path / "8863" / "1"
    folder.mkdir(parents=True)
    for name in ("8863_idx5_x51_y101_class1.png", "other.png"):
        Image.new("RGB", (50, 50)).save(folder / name)
    first, second = listed(tmp_path, ("negative", "positive")).to_dict("records")
    assert (first["name"], first["patient"], first["x"], first["y"]) == ("8863_idx5_x51_y101", "8863", 51, 101)
    assert first["truth"] == "positive"
    assert (second["name"], second["patient"], second["truth"]) == ("8863/1/other.png", "", "")
    assert np.isnan(second["x"])
    assert list(listed(tmp_path, CLASSES)["truth"]) == ["", ""], "the model knows no class of that name"


def test_the_columns_of_a_csv_win_over_the_file_names(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "8863_idx5_x51_y101_class1.png")
    file = tmp_path / "list.csv"
    file.write_text("path,x,y,label,patient\n8863_idx5_x51_y101_class1.png,7,8.0,negative,p\n", encoding="utf-8")
    (row,) = listed(file, ("negative", "positive")).to_dict("records")
    assert (row["x"], row["y"], row["truth"], row["patient"]) == (7, 8, "negative", "p")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,1,2,bening", "'bening' is no class of the model. Did you mean 'benign'"),
        ("a.png,1,far,", "line 2: y 'f"),
    ],
)
def test_a_csv_that_makes_no_sense_is_refused(tmp_path: Path, row: str, said: str) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(f"path,x,y,label\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        listed(tmp_path / "list.csv", CLASSES)


def test_every_way_in_gives_the_same_maps(model: Export, patches: pd.DataFrame, small_cohort: Cohort) -> None:
    pixels = np.array(small_cohort.arrays["image"][:4])
    paths = list(patches["path"][:4])
    expected = explain(model, pixels)
    for shown in expected.maps:
        np.testing.assert_allclose(found(explain(model, paths), shown.key), shown.values, atol=1e-5)
        np.testing.assert_allclose(found(explain(model, paths[::-1]), shown.key), shown.values[::-1], atol=1e-5)
        np.testing.assert_allclose(found(explain(model, paths[2]), shown.key)[0], shown.values[2], atol=1e-5)


def test_it_explains_what_predict_predicts(model: Export, patches: pd.DataFrame) -> None:
    folder = Path(patches["path"][0]).parent
    explained = explain(model, folder, most=5)
    table = model.predict([folder / f"{number:03d}.png" for number in (0, 60, 120, 179, 239)])
    assert [patch.predicted for patch in explained.patches] == list(table["label"])
    assert [patch.asked for patch in explained.patches] == list(table["label"])
    np.testing.assert_allclose([patch.probabilities[1] for patch in explained.patches], table["p_malignant"], atol=1e-6)
    assert explained.available == 240
    assert {patch.asked for patch in explain(model, folder, most=5, asked="benign").patches} == {"benign"}


def test_images_that_cannot_be_read_are_left_out(model: Export, patches: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [patches["path"][0], tmp_path / "broken.png", patches["path"][1]]
    with pytest.warns(UserWarning, match="1 of 3 images cannot be read"):
        explained = explain(model, paths)
    assert len(explained.patches) == explained.available == 2
    with pytest.raises(DataError, match=r"broken\.png: not_an_image"):
        explain(model, paths, strict=True)


# --- members


def test_maps_of_an_ensemble_are_the_mean_over_the_members_that_have_them(model: Export, small_cohort: Cohort) -> None:
    pixels = np.array(small_cohort.arrays["image"][:3])
    two, one = untrained(4, {**TWO, "image_size": 24}), untrained(5, ALEXNET)
    both, first, second = (
        explain(with_members(model, *members), pixels, asked="malignant") for members in ((two, one), (two,), (one,))
    )
    shown = {one.key: one.members for one in both.maps}
    assert shown == {Key("cnn"): (4, 5), Key("cnn", "transformer"): (4,), Key("transformer", "cnn"): (4,)}
    mean = (found(first, Key("cnn")) + found(second, Key("cnn"))) / 2
    np.testing.assert_allclose(found(both, Key("cnn")), mean, atol=1e-6)
    np.testing.assert_allclose(found(both, Key("cnn", "transformer")), found(first, Key("cnn", "transformer")))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ((ALEXNET,), "a single branch has no other"),
        ((TWO, ALEXNET), ""),
        ((TWO_CONCAT,), "the fusion concat has none"),
    ],
)
def test_it_says_why_there_is_no_attention(model: Export, small_cohort: Cohort, members: Any, said: str) -> None:
    pixels = np.array(small_cohort.arrays["image"][:2])
    notes = explain(with_members(model, *(untrained(7, one) for one in members)), pixels).notes
    assert any("no map of attention" in note for note in notes) == bool(said)
    assert said in " ".join(notes)


def test_a_model_without_places_is_refused_with_what_to_do(model: Export, small_cohort: Cohort) -> None:
    blind = with_members(
        model, untrained(8, {"image_size": 32, "model": {"branches": {"image": {"backbone": "timm/resnet18"}}}})
    )
    with pytest.raises(ConfigError, match="'image': its backbone sees the whole image as one position"):
        explain(blind, np.array(small_cohort.arrays["image"][:2]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"asked": "malign"}, "no class 'malign'. Did you mean 'malignant'"),
        ({"branches": ["cn"]}, "no branch 'cn'. Did you mean 'cnn'"),
        ({"most": 0}, "at least one patch"),
    ],
)
def test_what_is_not_there_is_refused(model: Export, small_cohort: Cohort, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        explain(model, np.array(small_cohort.arrays["image"][:2]), **options)


# --- where the images stand


def test_truth_of_the_sealed_part_is_left_out(own_study: Export, slide: Callable[..., Path]) -> None:
    explained = explain(own_study, slide(own_study, TRAIN, TEST), slide=True, most=40)
    parts = {patch.part for patch in explained.patches}
    assert parts == {TRAIN, TEST}
    for patch in explained.patches:
        assert bool(patch.truth) == (patch.part == TRAIN)
    known = (StudyFolder(own_study.study_folder).split["part"] == TRAIN).sum()
    assert explained.slide is not None
    assert explained.slide.truth is not None
    assert np.isfinite(explained.slide.truth).sum() == known
    assert "are left out. `--open-seal` shows them" in " ".join(explained.notes)
    assert StudyFolder(own_study.study_folder).openings() == []


def test_sealed_truth_is_shown_on_the_record_only(own_study: Export, slide: Callable[..., Path]) -> None:
    store = StudyFolder(own_study.study_folder)
    explained = explain(own_study, slide(own_study, TEST), slide=True, seal="histotune explain ...")
    assert all(patch.truth for patch in explained.patches)
    assert [(one["command"], one["subject"]) for one in store.openings()] == [
        ("histotune explain ...", own_study.digest)
    ]
    assert "opening 1 in the study's record" in " ".join(explained.notes)
    explain(own_study, slide(own_study, TRAIN), slide=True, seal="histotune explain ...")
    assert len(store.openings()) == 1, "nothing sealed was shown"


def test_what_fails_leaves_the_seal_closed(own_study: Export, slide: Callable[..., Path]) -> None:
    blind = untrained(8, {"image_size": 32, "model": {"branches": {"image": {"backbone": "timm/resnet18"}}}})
    with pytest.raises(ConfigError, match="no map can be drawn"):
        explain(with_members(own_study, blind), slide(own_study, TEST), seal="histotune explain ...")
    assert StudyFolder(own_study.study_folder).openings() == []


def test_training_images_are_called_so(model: Export, slide: Callable[..., Path]) -> None:
    explained = explain(model, slide(model, TRAIN), most=3)
    assert "3 of 3 images stand in the train part of study 'two': the model was fitted to them" in explained.notes[0]
    assert {patch.truth for patch in explained.patches} <= set(CLASSES)


def test_an_image_is_known_by_its_pixels_and_named_as_in_the_study(model: Export, patches: pd.DataFrame) -> None:
    explained = explain(model, list(patches["path"][:3]))
    assert [patch.name for patch in explained.patches] == list(patches["id"][:3])


def test_a_cut_image_of_a_test_patient_is_sealed_too(own_study: Export, patches: pd.DataFrame, tmp_path: Path) -> None:
    parts = StudyFolder(own_study.study_folder).split["part"].to_numpy()
    Image.fromarray(read_image(patches["path"][0]).pixels[:20]).save(tmp_path / "cut.png")
    whole = patches["path"][int(np.flatnonzero(parts == TEST)[0])]
    rows = [(tmp_path / "cut.png", "p", "benign"), (whole, "p", "benign")]
    pd.DataFrame(rows, columns=["path", "patient", "label"]).to_csv(tmp_path / "list.csv", index=False)
    explained = explain(own_study, tmp_path / "list.csv")
    assert [(patch.part, patch.truth) for patch in explained.patches] == [(TEST, ""), (TEST, "")]


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "another study of that name"])
def test_without_its_study_an_export_knows_nothing_of_the_images(
    own_study: Export, slide: Callable[..., Path], gone: bool
) -> None:
    file = slide(own_study)
    if gone:
        shutil.rmtree(own_study.study_folder)
    else:
        settings = own_study.study_folder / "study.json"
        settings.write_text(re.sub(r'"created": "20\d\d', '"created": "1999', settings.read_text(encoding="utf-8")))
    explained = explain(own_study, file, most=3)
    assert "whether the model was trained on these images is not known" in " ".join(explained.notes)
    assert {patch.part for patch in explained.patches} == {""}
    assert all(patch.truth for patch in explained.patches), "the user's own labels, of whom nothing else is known"


# --- slides


def places(*rows: tuple[float, float], patient: str = "8863") -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["x", "y"])
    return table.assign(name=[f"patch {number}" for number in range(len(rows))], patient=patient)


@pytest.mark.parametrize("seed", range(5))
def test_values_come_back_from_the_places_where_they_were_put(seed: int) -> None:
    rng = np.random.default_rng(seed)
    step, cells = int(rng.integers(1, 300)), rng.choice(30 * 40, size=200, replace=False)
    x, y = 7 + step * (cells % 40), 11 + step * (cells // 40)
    grid, values = grid_of(places(*zip(x, y, strict=True))), rng.random(200)
    laid = spread_out(grid, values)
    assert grid.step == step
    assert np.isfinite(laid).sum() == 200
    np.testing.assert_array_equal(laid[grid.rows, grid.columns], values)
    np.testing.assert_array_equal(grid.left + step * grid.columns, x)
    np.testing.assert_array_equal(grid.top + step * grid.rows, y)


def test_a_single_patch_is_a_slide() -> None:
    assert grid_of(places((51, 101))).shape == (1, 1)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (places((1, 1), (np.nan, 2)), "1 of 2 images have no place in the slide, such as patch 1.*columns path, x, y"),
        (places((1, 1), (51, 1)).assign(patient=["1", "2"]), r"of 2 patients \(1, 2\).*name the folder of one patient"),
        (places((1, 1), (51, 1), (1, 1)), "patch 0 and patch 2 lie on the same place"),
        (places((0, 0), (100_000, 100_001)), "lie on no grid: the only step that they share is 1 px"),
    ],
    ids=["no place", "two patients", "same place", "no grid"],
)
def test_what_is_no_slide_is_refused_with_what_to_do(table: pd.DataFrame, said: str) -> None:
    with pytest.raises(DataError, match=said):
        grid_of(table)


def test_a_slide_shows_prediction_truth_and_patches_where_they_lie(model: Export, slide: Callable[..., Path]) -> None:
    file = slide(model, TRAIN)
    drawn = explain(model, file, slide=True, most=0).slide
    assert drawn is not None
    assert drawn.truth is not None
    table, predicted = pd.read_csv(file), model.predict(file)
    rows, columns = (table["y"] - table["y"].min()) // 50, (table["x"] - table["x"].min()) // 50
    np.testing.assert_allclose(drawn.probability[rows, columns], predicted["p_malignant"], atol=1e-6)
    np.testing.assert_array_equal(drawn.truth[rows, columns] == 1, table["label"] == "malignant")
    assert np.isfinite(drawn.probability).sum() == len(table)
    side = drawn.picture.shape[0] // drawn.grid.shape[0]
    assert side == 32
    row, column = int(rows[5]) * side, int(columns[5]) * side
    pixels = read_image(table["path"][5]).pixels
    np.testing.assert_array_equal(drawn.picture[row : row + side, column : column + side], pixels)
    other = explain(model, file, slide=True, most=0, asked="benign").slide
    assert other is not None
    np.testing.assert_allclose(other.probability, 1 - drawn.probability)
    assert (drawn.threshold, other.threshold) == (model.threshold, None)


# --- drawing


def test_the_tint_is_grey_at_0_and_stronger_the_further_from_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = _overlay.tinted(pixels, np.zeros((8, 8)))
    assert (grey == grey[:, :, :1]).all()
    near, far = (_overlay.tinted(pixels, np.full((8, 8), value)).astype(int) for value in (0.3, 0.9))
    assert np.abs(far - grey).sum() > np.abs(near - grey).sum() > 0
    assert (far[:, :, 0] >= far[:, :, 2]).all(), "more is orange"
    less = _overlay.tinted(pixels, np.full((8, 8), -0.9)).astype(int)
    assert (less[:, :, 2] >= less[:, :, 0]).all(), "less is blue"


def test_attention_has_one_scale_around_an_equal_share() -> None:
    values = np.array([1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0])
    np.testing.assert_allclose(_overlay.attention_strength(values, 4), [-1, -1, -0.5, 0, 0.5, 1, 1])


@pytest.fixture(scope="module")
def explained(model: Export, patches: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """A slide of the training part and five of its patches, one with a name that is a danger to a page."""
    parts = StudyFolder(model.study_folder).split["part"].to_numpy()
    table = patches[parts == TRAIN].assign(patient="<b>&p")
    file = tmp_path_factory.mktemp("slide") / "slide.csv"
    table.to_csv(file, index=False)
    whole = explain(model, file, slide=True, most=5)
    named = (dataclasses.replace(whole.patches[0], name="<script>alert(1)</script>"), *whole.patches[1:])
    return dataclasses.replace(whole, patches=named)


def test_a_slide_is_drawn_in_the_colours_of_its_scale(explained: Explanation) -> None:
    assert explained.slide is not None
    drawn = explanation_page.draw_slide(explained.slide)
    assert list(drawn) == ["prediction", "truth", "patches"]
    for name in ("prediction", "truth"):
        assert (drawn[name].data[0].zmin, drawn[name].data[0].zmax) == (0, 1)
        assert drawn[name].data[0].colorbar.ticktext
    assert list(explanation_page.draw_slide(dataclasses.replace(explained.slide, truth=None))) == [
        "prediction",
        "patches",
    ]


def test_the_page_and_images_are_written(explained: Explanation, tmp_path: Path) -> None:
    written = explanation_page.write(explained, tmp_path / "out", images=True)
    assert [path.name for path in written] == ["slide-_b_p.html", "slide-_b_p-patches.png", "slide-_b_p.png"]
    page = written[0].read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "5 of " in page
    assert page.count('<section class="patch">') == 5
    assert page.count('<div class="bar"') == 5 * 3, "a scale under every map"
    assert read_image(written[1]).pixels.shape[0] > 5 * 2 * SIDE
    assert read_image(written[2]).pixels.shape[1] > 1600
    assert _sheet.limit(explained) >= 2


@pytest.mark.skipif(CHROME is None, reason="no Chrome")
@pytest.mark.parametrize("with_slide", [True, False])
def test_a_browser_opens_the_page_without_the_network_and_without_complaints(
    explained: Explanation, tmp_path: Path, with_slide: bool
) -> None:
    """Chrome may fetch nothing (the policy refuses, and says so on the console), and has nothing to say."""
    shown = explained if with_slide else dataclasses.replace(explained, slide=None)
    page = explanation_page.write(shown, tmp_path)[0]
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    text = page.read_text(encoding="utf-8")
    head = f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
    page.write_text(text.replace("<head>", head, 1), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/c"]
    command = [str(CHROME), *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in answer.stderr.splitlines() if "CONSOLE" in line] == []
    assert answer.stdout.count("plotly-graph-div js-plotly-plot") == 3 * with_slide
    assert answer.stdout.count("<img") == 5 * 4


# --- command line


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_the_command_writes_page_and_images(
    call: Callable[..., Result], exported: Path, model: Export, slide: Callable[..., Path]
) -> None:
    result = call(exported, slide(model, TRAIN), "--slide", "--most", 2, "--png", "--class", "benign")
    assert result.exit_code == 0, result.output
    assert "stand in the train part of study 'two'" in result.stdout
    names = {path.name for path in Path("reports/explain-two").iterdir()}
    assert names == {"slide.html", "slide.png", "slide-patches.png"}
    assert "Predicted probability of benign" in Path("reports/explain-two/slide.html").read_text(encoding="utf-8")


def test_the_command_explains_one_image(call: Callable[..., Result], exported: Path, patches: pd.DataFrame) -> None:
    result = call(exported, patches["path"][0], "--branch", "transformer", "--out", "here")
    assert result.exit_code == 0, result.output
    page = Path("here/patches.html").read_text(encoding="utf-8")
    assert "Grad-CAM of transformer (8 x 8 positions)" in page
    assert "Grad-CAM of cnn" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{export}", "nowhere"], "nowhere does not exist"),
        (["nowhere", "{images}"], "nowhere is no export"),
        (["{export}", "empty"], "hold no image files"),
        (["{export}", "broken.png"], "none of 1 images can be read"),
        (["{export}", "{images}", "--class", "tumour"], "no class 'tumour'"),
        (["{export}", "{images}", "--branch", "rnn"], "no branch 'rnn'"),
        (["{export}", "{images}", "--slide"], "240 of 240 images have no place in the slide"),
        (["{export}", "kaggle", "--slide"], "of 2 patients (1, 2), and a slide is of one"),
        (["{export}", "{images}", "--most", "0"], "at least one patch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_words(
    call: Callable[..., Result], exported: Path, patches: pd.DataFrame, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no image", encoding="utf-8")
    (tmp_path / "kaggle").mkdir()
    for patient in (1, 2):
        Image.new("RGB", (50, 50)).save(tmp_path / "kaggle" / f"{patient}_idx5_x1_y1_class0.png")
    given = {"export": exported, "images": Path(patches["path"][0]).parent}
    result = call(*(argument.format(**given) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert said in " ".join(result.stderr.split())
