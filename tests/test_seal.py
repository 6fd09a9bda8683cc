"""The test labels are sealed: every command but `evaluate` works without the files that hold them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from histotune.cli import app
from histotune.store import StudyStore

SPACE = """
dataset: image_folder
image_size: 16
epochs: 2
batch_size: 16
loss:
  choice:
    cross_entropy: {label_smoothing: {low: 0.0, high: 0.2}}
    focal: {gamma: {low: 0.5, high: 3.0}}
"""
PATIENTS = {f"p{i}": {"benign": 6, "tumour": 4} for i in range(8)}


class Place:
    """A folder with a study in it, and the files that hold its test labels."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.store = StudyStore(folder / "runs" / "sealed")
        (folder / "space.yaml").write_text(SPACE)

    def call(self, *arguments: object) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def train(self, *more: str) -> Result:
        """Train one configuration; the first call creates the study."""
        return self.call("train", self.folder / "space.yaml", "--study", "sealed", "--data", self.data, *more)

    def secrets(self) -> list[Path]:
        """Return every file that holds a label of the test part."""
        return [self.store.folder / "sealed" / "labels.csv", *(self.folder / "cache").rglob("labels.csv")]

    def hide(self) -> None:
        """Take the test labels away."""
        for path in self.secrets():
            path.rename(path.with_suffix(".hidden"))

    def show(self) -> None:
        """Put the test labels back."""
        for path in self.folder.rglob("labels.hidden"):
            path.rename(path.with_suffix(".csv"))


@pytest.fixture
def place(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Place:
    """A study of one training, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    found = Place(tmp_path, tiny_folder(PATIENTS))
    answer = found.train()
    assert answer.exit_code == 0, answer.output
    assert len(found.secrets()) == 2
    assert all(path.exists() for path in found.secrets())
    return found


def test_only_evaluate_needs_the_sealed_labels(place: Place) -> None:
    place.hide()
    commands: list[list[object]] = [
        ["search", place.folder / "space.yaml", "--study", "sealed", "--data", place.data, "--trials", 2],
        ["leaderboard", "sealed"],
        ["audit", "sealed"],
        ["ensemble", "sealed", "--top", 2, "--export", "exports/sealed"],
        ["predict", "exports/sealed", place.data],
    ]
    for command in commands:
        answer = place.call(*command)
        assert answer.exit_code == 0, answer.output
    assert place.train("--set", "seed=1").exit_code == 0
    assert place.call("evaluate", "exports/sealed").exit_code == 2
    assert place.store.openings() == []
    place.show()
    assert place.call("evaluate", "exports/sealed", "--json").exit_code == 0


def test_labels_of_the_study_are_those_of_the_parts_that_may_be_seen(place: Place) -> None:
    table = place.store.split_table()
    seen = {line.split(",")[0] for line in (place.store.folder / "labels.csv").read_text().splitlines()[1:]}
    assert seen == set(table.loc[table["part"] != "test", "id"])
    assert not any(word in "".join(table["id"]) for word in ("benign", "tumour"))


def test_a_process_that_searches_opens_no_file_with_test_labels(place: Place) -> None:
    code = """
import json, sys
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
import histotune
space, data = sys.argv[1:]
histotune.train(space, ["seed=2"], study="sealed", data=data)
study = histotune.search(space, study="sealed", data=data, trials=1)
study.leaderboard(), str(study.verdict()), study.ensemble(top=1, export="exports/one")
print(json.dumps(opened))
"""
    command = [sys.executable, "-c", code, str(place.folder / "space.yaml"), str(place.data)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    opened = {str(Path(path).resolve()) for path in json.loads(answer.stdout.splitlines()[-1])}
    assert not opened & {str(path.resolve()) for path in place.secrets()}
    assert str((place.store.folder / "labels.csv").resolve()) in opened
