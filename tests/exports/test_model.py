"""The use law: an export folder alone gives the same answers for the same pixels, however they come."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from histotune.data.cohort import Cohort
from histotune.ensembles.merge import merge
from histotune.errors import DataError
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.model import Export, load
from histotune.ingest.datasets import DATASETS
from histotune.ingest.prepare import prepare
from histotune.storage.study_folder import StudyFolder

SIZE = 6


@pytest.fixture
def model(trained_study: StudyFolder, tmp_path: Path) -> Export:
    merged = merge(trained_study, top=2, replicates=20)
    return load(export_ensemble(trained_study, merged, tmp_path / "export"))


@pytest.fixture
def pixels(small_cohort: Cohort) -> np.ndarray:
    """The first images of the small cohort, uint8 [6, 32, 32, 3]."""
    return np.array(small_cohort.arrays["image"][:SIZE])


@pytest.fixture
def folder(pixels: np.ndarray, tmp_path: Path) -> Path:
    """The same images as files, two of them in a subfolder."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(root / ("sub" if number > 3 else ".") / f"{number}.png")
    (root / "notes.txt").write_text("no image", encoding="utf-8")
    return root


def listing(folder: Path) -> list[Path]:
    return [folder / ("sub" if number > 3 else ".") / f"{number}.png" for number in range(SIZE)]


def csv_of(folder: Path) -> Path:
    table = pd.DataFrame({"path": [str(path.relative_to(folder)) for path in listing(folder)], "age": 1})
    table.to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[column for column in table if str(column).startswith("p_")]].to_numpy()


WAYS: dict[str, Callable[[Path], Any]] = {
    "folder": lambda folder: folder,
    "text": str,
    "list": listing,
    "csv": csv_of,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same_probabilities(model: Export, pixels: np.ndarray, folder: Path, way: str) -> None:
    table = model.predict(WAYS[way](folder))
    assert [Path(path).stem for path in table["path"]] == [str(number) for number in range(SIZE)]
    np.testing.assert_allclose(probabilities(table), model.probabilities({32: pixels}), atol=1e-6)


def test_an_array_gives_a_row_per_image(model: Export, pixels: np.ndarray) -> None:
    table = model.predict(pixels)
    assert list(table.columns) == ["id", "p_benign", "p_malignant", "label", "label_at_threshold"]
    np.testing.assert_allclose(probabilities(table).sum(axis=1), 1)


def test_labels_follow_from_the_probabilities(model: Export, pixels: np.ndarray) -> None:
    table = model.predict(pixels)
    assert model.threshold is not None
    malignant = table["p_malignant"].to_numpy()
    assert list(table["label"] == "malignant") == list(malignant > 0.5)
    assert list(table["label_at_threshold"] == "malignant") == list(malignant >= model.threshold)


def test_more_images_than_fit_in_a_chunk(model: Export, small_cohort: Cohort) -> None:
    many = np.concatenate([small_cohort.arrays["image"]] * 2)[:300]
    result = probabilities(model.predict(many))
    np.testing.assert_allclose(result[240:], result[:60], atol=1e-6)


@pytest.mark.parametrize("threads", [2, 5])
def test_batches_side_by_side_give_the_same(model: Export, small_cohort: Cohort, threads: int) -> None:
    images, before = small_cohort.arrays["image"], torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = model.probabilities({32: images})
        torch.set_num_threads(threads)
        several = model.probabilities({32: images})
        assert torch.get_num_threads() == threads, "they are given back"
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(several, one, atol=1e-6)


@pytest.mark.parametrize("side", [50, 32, 20])
def test_images_are_resized_exactly_as_the_cohort_was(
    model: Export, tiny_folder: Any, tmp_path: Path, side: int
) -> None:
    root = tiny_folder({"p1": {"benign": 2, "malignant": 2}, "p2": {"benign": 2, "malignant": 2}}, side=side)
    cohort = prepare(DATASETS.build("image_folder"), root, image_size=32, cache=tmp_path / "cache")
    expected = model.probabilities({32: np.array(cohort.arrays["image"])})
    table = model.predict(root)
    np.testing.assert_allclose(np.sort(probabilities(table)[:, 1]), np.sort(expected[:, 1]), atol=1e-6)


@pytest.fixture
def broken(folder: Path) -> Path:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:1000])
    (folder / "sub" / "5.png").write_text("no image", encoding="utf-8")
    (folder / "sub" / "6.png").touch()
    return folder


def test_broken_images_are_counted_listed_and_left_out(model: Export, broken: Path) -> None:
    with pytest.warns(UserWarning, match=r"3 of 7 images cannot be read and are left out; the first: .*0\.png"):
        table = model.predict(broken)
    assert [Path(path).stem for path in table["path"]] == ["1", "2", "3", "4"]
    listed = {Path(problem["path"]).stem: problem["kind"] for problem in table.attrs["problems"]}
    assert listed == {"0": "broken", "5": "not_an_image", "6": "empty"}


def test_strict_makes_a_broken_image_an_error(model: Export, broken: Path) -> None:
    with pytest.raises(DataError, match=r"0\.png: broken"):
        model.predict(broken, strict=True)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("nowhere", "nowhere does not exist"),
        ([], "the list of images is empty"),
        (["gone.png"], "none of 1 images can be read; the first: .*gone.png: missing"),
        (np.zeros((2, 32, 32), np.uint8), r"uint8 \[n, H, W, 3\]"),
        (np.zeros((2, 32, 32, 3)), "got float64"),
        (np.zeros((0, 32, 32, 3), np.uint8), "at least 1"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(model: Export, images: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        model.predict(images)


def test_an_empty_folder_is_refused(model: Export, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="hold no image files"):
        model.predict(tmp_path / "empty")


def test_a_table_without_paths_is_refused(model: Export, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,label\na.png,1\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no column 'path'; it has: file, label"):
        model.predict(tmp_path / "list.csv")


def test_the_folder_is_enough_in_a_fresh_process(
    trained_study: StudyFolder, folder: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    expected = probabilities(load(export_trial(trained_study, 0, tmp_path / "export")).predict(pixels))
    shutil.move(tmp_path / "export", tmp_path / "moved")
    shutil.rmtree(trained_study.folder)
    code = (
        "import sys; from histotune.exports.model import load; "
        "load(sys.argv[1]).predict(sys.argv[2]).to_csv(sys.argv[3], index=False)"
    )
    arguments = [str(tmp_path / "moved"), str(folder), str(tmp_path / "out.csv")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=os.environ, cwd=tmp_path)
    np.testing.assert_allclose(probabilities(pd.read_csv(tmp_path / "out.csv")), expected, atol=1e-6)


def test_predicting_needs_no_search_engine(trained_study: StudyFolder, folder: Path, tmp_path: Path) -> None:
    export = export_trial(trained_study, 0, tmp_path / "export")
    code = (
        "import sys; from histotune.exports.model import load; load(sys.argv[1]).predict(sys.argv[2]); "
        "print([name for name in ('ray', 'mlflow', 'optuna', 'sklearn', 'plotly') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, export, folder], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert answer.stdout.strip() == "[]"
