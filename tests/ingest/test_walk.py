"""One walk for training, prediction and slides: links are followed, and nothing is passed over in silence."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histotune.errors import DataError
from histotune.ingest.datasets import DATASETS
from histotune.ingest.new_cases import image_paths
from histotune.ingest.prepare import prepare
from histotune.ingest.slides.prepare import _slide_files
from histotune.ingest.walk import HARMLESS, refused, summary, walk

PNG = {".png"}


def kinds(root: Path) -> dict[str, str]:
    return {problem.path: problem.kind for problem in walk(root, PNG).problems}


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    return path


def test_everything_odd_in_a_folder_is_listed_with_its_kind(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    for name in ("a.png", "b/c.png", "b/d.PNG", ".hidden.png", "._a.png", ".cache/e.png", ".cache/f.png"):
        image(root / name) if name != "b/d.PNG" else shutil.copy(image(root / "b/x.png"), root / name)
    image(store / "far.png")
    (root / "linked").symlink_to(store)
    (root / "one.png").symlink_to(store / "far.png")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "self.png").symlink_to("self.png")
    (root / "b" / "up").symlink_to(root)
    os.mkfifo(root / "pipe.png")
    for name in ("scan.dcm", "IM0001", "b/z.heic", "README", "labels.csv", "Thumbs.db"):
        (root / name).write_bytes(b"x")
    (root / "big.zarr").mkdir()
    image(root / "big.zarr" / "0.png")
    result = walk(root, PNG)
    assert [file.path for file in result.files] == [
        "a.png", "b/c.png", "b/d.PNG", "b/x.png", "linked/far.png", "one.png",
    ]  # fmt: skip
    assert {problem.path: problem.kind for problem in result.problems} == {
        ".hidden.png": "hidden",
        "._a.png": "hidden",
        ".cache": "hidden",
        "gone.png": "missing",
        "self.png": "unreadable",
        "b/up": "loop",
        "pipe.png": "unreadable",
        "scan.dcm": "unread_format",
        "IM0001": "unread_format",
        "b/z.heic": "unread_format",
        "big.zarr": "unread_format",
    }
    assert not {problem.kind for problem in refused(result.problems)} & HARMLESS
    assert "2 unreadable" in summary(result.problems)


def test_files_that_differ_in_their_ending_are_kept_and_listed(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg")
    result = walk(tmp_path, {".png", ".jpg"})
    assert len(result.files) == 2
    assert [(one.path, one.kind, one.kept) for one in result.problems] == [("a.png", "same_name", True)]


def test_a_name_that_is_no_text_and_a_folder_without_permission_are_listed(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    shutil.copy(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/\xff.png")
    assert kinds(tmp_path) == {"\\xff.png": "bad_name"}
    assert kinds(tmp_path / "not there") == {".": "unreadable"}


def test_the_data_of_an_mrxs_slide_are_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"x")
    (tmp_path / "s.mrxs").write_bytes(b"x")
    assert walk(tmp_path, {".mrxs"}).problems == []


NAMES = st.sampled_from(["a.png", "b.png", "c.dcm", ".d.png", "e.csv"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["file", "folder", "link", "dangling"]), st.integers(0, 9), st.integers(0, 9), NAMES),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_every_reader_sees_the_same_files_in_any_layout(steps: list[tuple[str, int, int, str]]) -> None:
    """Whatever links there are, the walk ends, and training, prediction and slides list the same images."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        folders = [root, Path(place) / "store"]
        for folder in folders:
            folder.mkdir()
        image(root / "first.png")
        for number, (what, at, to, name) in enumerate(steps):
            folder, other = folders[at % len(folders)], folders[to % len(folders)]
            if what == "file":
                (folder / name).write_bytes(b"x")
            elif what == "folder":
                folders.append(folder / f"folder{number}")
                folders[-1].mkdir()
            else:
                target = other if what == "link" else Path(place) / "gone"
                (folder / f"link{number}{'' if what == 'link' else '.png'}").symlink_to(target)
        walked = walk(root, PNG)
        expected, todo = list[Path](), list[tuple[Path, tuple[Path, ...]]]([(root, (root.resolve(),))])
        while todo:
            folder, above = todo.pop()
            for path in folder.iterdir():
                if path.is_dir() and path.resolve() not in above and not path.name.startswith("."):
                    todo.append((path, (*above, path.resolve())))
                elif path.is_file() and path.suffix == ".png" and not path.name.startswith("."):
                    expected.append(path.relative_to(root))
        assert sorted(file.path for file in walked.files) == sorted(path.as_posix() for path in expected)
        assert sorted(image_paths(root)[0]) == sorted(str(root / path) for path in expected)
        slides, others = _slide_files(root, Path(place) / "out")
        assert [path.relative_to(root).as_posix() for path in slides] == [file.path for file in walked.files]
        assert {one.path for one in others} == {one.path for one in walked.problems if one.kind != "same_name"}


def test_links_and_odd_files_of_a_training_folder_are_in_its_problems(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    for patient in range(4):
        for kind in ("benign", "malignant"):
            image(store / f"P{patient}" / kind / "a.png", 10 * patient + len(kind))
    root.mkdir()
    for patient in range(4):
        (root / f"P{patient}").symlink_to(store / f"P{patient}")
    (store / "P0" / "benign" / "gone.png").symlink_to("nowhere.png")
    (store / "P1" / "benign" / "scan.dcm").write_bytes(b"x")
    image(store / "P2" / "benign" / "._a.png")
    dataset = DATASETS.build("image_folder")
    cohort = prepare(dataset, root, image_size=16, cache=tmp_path / "cache")
    assert len(cohort) == 8
    assert cohort.facts["left_out"] == {"missing": 1, "unread_format": 1, "hidden": 1}
    with pytest.raises(DataError, match="2 files have problems"):
        prepare(dataset, root, image_size=16, cache=tmp_path / "cache", strict=True)


@pytest.mark.parametrize("name", ["idc", "breakhis", "crc"])
def test_the_readers_of_known_data_sets_list_what_they_pass_over(name: str, tmp_path: Path) -> None:
    files = {
        "idc": ["8863/0/8863_idx5_x51_y1_class0.png", "8863/1/8863_idx5_x1_y1_class1.png"],
        "breakhis": ["benign/SOB_B_A-14-22549AB-40-001.png", "malignant/SOB_M_DC-14-2523-40-001.png"],
        "crc": [f"{kind}/{kind}-A.tif" for kind in ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")],
    }[name]
    for number, file in enumerate(files):
        image(tmp_path / file, number)
    folder = (tmp_path / files[0]).parent
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "other.jp2").write_bytes(b"x")
    image(folder / "._copy.png")
    listing = DATASETS.build(name).scan(tmp_path)
    assert len(listing.table) == len(files)
    assert sorted(problem.kind for problem in listing.problems) == ["hidden", "missing", "unread_format"]


@pytest.mark.parametrize("target", ["..", "../..", "/"])
def test_a_link_to_a_folder_above_the_root_is_a_loop(target: str, tmp_path: Path) -> None:
    image(tmp_path / "root/a.png")
    image(tmp_path / "beside/b.png")
    (tmp_path / "root/up").symlink_to(target)
    result = walk(tmp_path / "root", PNG)
    assert [file.path for file in result.files] == ["a.png"]
    assert [(problem.path, problem.kind) for problem in result.problems] == [("up", "loop")]
