"""The test labels are sealed: no command but `evaluate` opens a file that holds them, and no function but one names it.

Every file that a process opens is heard of through an audit hook. A new command fails here until it is listed.
"""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import histotune
from histotune.cli.app import app
from histotune.storage.study_folder import StudyFolder

PACKAGE = Path(histotune.__file__).parent
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

# Commands on a study that has one training and the export `exports/one`; {data}, {space}: a folder, a file.
QUICK = {
    "train": "train {space} --study sealed --data {data}",
    "leaderboard": "leaderboard sealed",
    "export": "export sealed 0 exports/zero",
    "ensemble": "ensemble sealed --top 1",
    "predict": "predict exports/one {data}",
    "explain": "explain exports/one {data} --most 1 --open-seal",
    "figure": "figure confusion_matrix sealed --set of=0",
    "list": "list losses",
    "show-space": "show-space {space}",
    "gc": "gc --yes",
    "audit": "audit sealed",
    "report": "report sealed --with-images",
}
SLOW = {  # they train, for minutes
    "search": "search {space} --study sealed --data {data} --trials 2",
    "confirm": "confirm sealed --top 1 --seeds 2",
}
READS_TEST_LABELS = {"evaluate", "reproduce"}  # `reproduce` ends with a measurement on the record, as `evaluate` is
BEFORE_A_STUDY = {"prepare"}
NO_END = {"ui", "serve"}  # what they do is `predict`, and MLflow's server, which is another program

_opened: list[str] | None = None


def _hear(event: str, given: tuple[object, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(given[0], (str, bytes)):
        _opened.append(given[0] if isinstance(given[0], str) else given[0].decode(errors="replace"))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path that this process opens from here on."""
    global _opened
    if not getattr(sys, "_histotune_hears", False):
        sys.addaudithook(_hear)  # for good: there is no way to remove one
        sys._histotune_hears = True  # type: ignore[attr-defined]
    _opened = []
    yield _opened
    _opened = None


class Place:
    """A folder with a study in it, and the files that hold its test labels."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.space = folder, data, folder / "space.yaml"
        self.store = StudyFolder(folder / "runs" / "sealed")
        self.space.write_text(SPACE)

    def call(self, line: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, [word.format(data=self.data, space=self.space) for word in line.split()])

    def secrets(self) -> set[str]:
        """Return every file that holds a label of the test part."""
        result = [self.store.folder / "sealed" / "labels.csv", *(self.folder / "cache").rglob("labels.csv")]
        return {str(path.resolve()) for path in result}


def readings(opened: list[str]) -> int:
    """Count how often the settings of the study were read, which never change."""
    return sum(Path(path).name == "study.json" for path in opened)


def told(opened: list[str]) -> set[str]:
    return {str(Path(path).resolve()) for path in opened}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A study of one trial and one training, and an export of it, in a folder of its own."""
    import numpy as np
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("sealed"), np.random.default_rng(0)
    for root, brightest in (("images", 256), ("elsewhere", 120)):
        for patient, classes in PATIENTS.items():
            for label, count in classes.items():
                (folder / root / patient / label).mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, brightest, (16, 16, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / root / patient / label / f"{number:03d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HISTOTUNE_RUNS", str(folder / "runs"))
        patch.setenv("HISTOTUNE_CACHE", str(folder / "cache"))
        patch.setenv("HISTOTUNE_DATA", str(folder))
        result = Place(folder, folder / "images")
        for line in (QUICK["train"], "export sealed 0 exports/one"):
            answer = result.call(line)
            assert answer.exit_code == 0, answer.output
            for single in result.store.singles.glob("*/"):
                if not result.store.trial_folder(0).exists():
                    result.store.trial_folder(0).parent.mkdir()
                    single.rename(result.store.trial_folder(0))
        assert len(result.secrets()) == 2
        yield result


def test_every_command_is_listed() -> None:
    commands = get_command(app).commands.keys()  # type: ignore[attr-defined]
    listed = QUICK.keys() | SLOW.keys() | READS_TEST_LABELS | BEFORE_A_STUDY | NO_END
    assert commands <= listed, (
        f"say here what {sorted(commands - listed)} are: no command but evaluate reads test labels"
    )


def known(lines: dict[str, str]) -> list[str]:
    return sorted(lines.keys() & get_command(app).commands.keys())  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", known(QUICK))
def test_no_other_command_opens_a_file_with_test_labels(place: Place, opened: list[str], command: str) -> None:
    answer = place.call(QUICK[command])
    assert answer.exit_code == 0, answer.output
    assert not told(opened) & place.secrets()
    assert readings(opened) <= 2


def test_evaluate_opens_the_sealed_file_and_no_other_with_test_labels(place: Place, opened: list[str]) -> None:
    before = len(place.store.openings())
    answer = place.call("evaluate exports/one --json")
    assert answer.exit_code == 0, answer.output
    assert told(opened) & place.secrets() == {str((place.store.folder / "sealed" / "labels.csv").resolve())}
    assert readings(opened) == 1
    latest = place.store.openings()[before]
    assert latest["figures"]["sealed-trial-0"]["accuracy"]["value"] == pytest.approx(
        json.loads((place.store.folder / "evaluation.json").read_text())[-1]["metrics"]["accuracy"]["value"]
    )
    assert "opened" in place.call("leaderboard sealed").output
    assert "evaluation 1" in (place.folder / "exports" / "one" / "README.md").read_text()


def test_on_an_external_cohort_only_its_own_labels_are_opened_and_the_shift_is_told(
    place: Place, opened: list[str]
) -> None:
    before, secrets = place.store.openings(), place.secrets()
    answer = place.call("evaluate exports/one --on image_folder --data elsewhere")
    assert answer.exit_code == 0, answer.output
    assert not told(opened) & secrets
    assert readings(opened) == 2
    assert "Shift in colour:" in answer.output
    assert "SHIFTED" in answer.output
    assert place.store.openings() == before
    latest = json.loads((place.store.folder / "evaluation.json").read_text())[-1]
    assert latest["part"] == "external cohort"
    assert latest["shift"]["colour"]["shifted"]
    assert latest["shift"]["colour"]["value"] > 60 > latest["shift"]["colour"]["own_high"]
    card = (place.folder / "exports" / "one" / "README.md").read_text()
    assert "## External cohorts" in card
    assert "**shifted**" in card


def test_without_the_sealed_file_evaluate_refuses_and_nothing_is_on_record(place: Place) -> None:
    path, before = place.store.folder / "sealed" / "labels.csv", len(place.store.openings())
    path.rename(path.with_suffix(".hidden"))
    answer = place.call("evaluate exports/one")
    path.with_suffix(".hidden").rename(path)
    assert answer.exit_code == 2
    assert "restore it from a copy, or begin a new study" in answer.stderr
    assert len(place.store.openings()) == before


def test_labels_of_the_study_are_those_of_the_parts_that_may_be_seen(place: Place) -> None:
    table = place.store.split
    seen = {line.split(",")[0] for line in (place.store.folder / "labels.csv").read_text().splitlines()[1:]}
    assert seen == set(table.loc[table["part"] != "test", "id"])
    assert not any(word in "".join(table["id"]) for word in ("benign", "tumour"))


def test_a_kill_between_opening_and_figures_leaves_an_opening_without(small_study: StudyFolder) -> None:
    code = """
import os, sys
from pathlib import Path
from histotune.storage.study_folder import StudyFolder
StudyFolder(Path(sys.argv[1])).open_seal("histotune evaluate exports/e", "abc")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(small_study.folder)], check=False)
    (opening,) = small_study.openings()
    assert opening["figures"] is None
    answer = CliRunner().invoke(app, ["leaderboard", "small", "--runs", str(small_study.folder.parent)])
    assert "ended without a result" in answer.output
    small_study.open_seal("histotune evaluate exports/e", "abc")
    small_study.close_seal(1, {"e": {"balanced_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}})
    assert [one["figures"] is None for one in small_study.openings()] == [True, False]
    answer = CliRunner().invoke(app, ["leaderboard", "small", "--runs", str(small_study.folder.parent)])
    assert "opened 2 times" in answer.output
    assert "1 of these openings ended without a result" in " ".join(answer.output.split())


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _callers(name: str) -> set[str]:
    """Return the functions in which something of this name is called, as FILE:FUNCTION."""
    result = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef):
                calls = [one.func for one in ast.walk(node) if isinstance(one, ast.Call)]
                names = {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in calls}
                result |= {f"{path.relative_to(PACKAGE)}:{node.name}"} if name in names else set()
    return result


def test_one_function_names_the_sealed_file_and_few_read_all_labels() -> None:
    assert _callers("open_seal") == {"evaluation/sealed.py:evaluate", "reproductions/measure.py:sealed"}
    assert _callers("read_labels") == {
        "studies/create.py:divide",
        "evaluation/external.py:evaluate_on",
        "reproductions/sealed.py:check",  # of an external cohort
        "testing/data.py:check_audit",  # of the cohort that its caller gives
    }
    inside = [
        node.name
        for node in ast.walk(_tree(PACKAGE / "storage" / "study_folder.py"))
        if isinstance(node, ast.FunctionDef) and {"_sealed", "LABELS"} <= _attributes(node)
    ]
    assert inside == ["create", "open_seal"]
    # evaluation/sealed.py names the record and its lock.
    names_it = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "SEALED" in _attributes(_tree(path))
    }
    assert names_it == {"storage/study_folder.py", "evaluation/sealed.py"}


def _attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.slow
@pytest.mark.parametrize("command", known(SLOW))
def test_no_command_that_trains_needs_a_file_with_test_labels(
    place: Place, opened: list[str], command: str, request: pytest.FixtureRequest
) -> None:
    hidden = {Path(path): Path(path).with_suffix(".hidden") for path in place.secrets()}
    for path, away in hidden.items():  # workers are other processes, where no hook listens
        path.rename(away)
    request.addfinalizer(lambda: [away.rename(path) for path, away in hidden.items()])
    answer = place.call(SLOW[command])
    assert answer.exit_code == 0, answer.output
    assert not told(opened) & {str(path) for path in hidden}
    assert readings(opened) <= 2


@pytest.mark.slow
def test_a_process_that_searches_opens_no_file_with_test_labels(place: Place, request: pytest.FixtureRequest) -> None:
    code = """
import json, sys
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
import histotune
space, data = sys.argv[1:]
histotune.train(space, ["seed=2"], study="sealed", data=data)
study = histotune.search(space, study="sealed", data=data, trials=1)
study.leaderboard(), str(study.verdict()), study.ensemble(top=1, export="exports/other")
print(json.dumps(opened))
"""
    command = [sys.executable, "-c", code, str(place.space), str(place.data)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    result = {str(Path(path).resolve()) for path in json.loads(answer.stdout.splitlines()[-1])}
    assert not result & place.secrets()
    assert str((place.store.folder / "labels.csv").resolve()) in result
