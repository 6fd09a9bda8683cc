"""Whatever state a study is in, the commands that it is said to need next are not refused there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.data.cohort import Cohort
from histotune.errors import DataError, HistotuneError
from histotune.evaluation._contenders import contenders
from histotune.evaluation._outer_folds import Outer
from histotune.evaluation.confirm import _check
from histotune.evaluation.next_steps import after_export, after_search, after_slides
from histotune.storage.study_folder import StudyFolder

SPACE = {"dataset": "synthetic", "options": {"cases": 240, "patients": 24, "side": 32}, "epochs": 2, "batch_size": 32}
State = Callable[[StudyFolder], None]


def settings(store: StudyFolder, **changes: Any) -> None:
    path = store.folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def ended(store: StudyFolder, **changes: Any) -> None:
    for path in store.folder.glob("trials/*/metrics.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_weights(store: StudyFolder, *places: int) -> None:
    """Take the weights from the trials at these places of the ranking."""
    ranked = sorted(store.trials(), key=lambda trial: (-trial.metrics["balanced_accuracy"], trial.number))
    for place in places:
        (ranked[place].folder / "model.safetensors").unlink()


def rare(patients: int) -> State:
    """Return what leaves a class to so many patients, the others' cases of it being of the other class."""

    def change(store: StudyFolder) -> None:
        path = store.folder / "labels.csv"
        labels = pd.read_csv(path)
        owners = labels["id"].map(store.split.set_index("id")["patient"])
        kept = sorted(owners[labels["label"] == 1].unique())[:patients]
        labels.loc[~owners.isin(kept), "label"] = 0
        path.write_text(labels.to_csv(index=False))

    return change


def confirmed(store: StudyFolder) -> None:
    (store.folder / "confirm").mkdir()
    (store.folder / "confirm" / "confirm.json").write_text("{}")


def only_one(store: StudyFolder) -> None:
    for number in (1, 2):
        shutil.rmtree(store.trial_folder(number))


def confirmed_without_weights(store: StudyFolder) -> None:
    confirmed(store)
    without_weights(store, 0, 1, 2)


STATES: dict[str, tuple[State, str]] = {
    "nothing has ended": (lambda store: shutil.rmtree(store.folder / "trials"), "search"),
    "all failed": (
        lambda store: ended(store, state="failed", kind="out_of_memory", reason="too large", metrics={}),
        "search",
    ),
    "all were stopped": (lambda store: ended(store, state="stopped"), "search"),
    "one is complete": (only_one, "confirm ensemble"),
    "three are complete": (lambda store: None, "confirm ensemble"),
    "the best has no weights": (lambda store: without_weights(store, 0), "confirm export"),
    "the second has no weights": (lambda store: without_weights(store, 1), "confirm ensemble"),
    "nobody has weights": (lambda store: without_weights(store, 0, 1, 2), "confirm"),
    "the training set was thinned": (lambda store: settings(store, imbalance="90:10"), "ensemble"),
    "the training set was sampled": (lambda store: settings(store, training_cases=50), "ensemble"),
    "it is confirmed": (confirmed, "ensemble"),
    "it is confirmed and nobody has weights": (confirmed_without_weights, "search"),
    "one patient has a class": (rare(1), "ensemble"),
    "two patients have a class": (rare(2), "ensemble"),
    "three patients have a class": (rare(3), "confirm ensemble"),
}


def commands(lines: list[str]) -> list[list[str]]:
    """Return the words of the commands in lines."""
    found = [re.search(r"histotune [^(;]*", line) for line in lines]
    return [shlex.split(one[0].removesuffix(", then").rstrip(" ,")) for one in found if one]


def accepts(store: StudyFolder, cohort: Cohort, words: list[str]) -> None:
    """Check that a command is not refused; of a confirmation, all that is checked before the first training."""
    assert words[0] == "histotune"
    if words[1] == "search":
        assert words[words.index("--study") + 1] == store.settings.name
        assert int([*words, "--trials", "1"][words.index("--trials") + 1 if "--trials" in words else -1]) > len(
            store.trials()
        )
    elif words[1] == "confirm":
        outer = int(words[words.index("--outer") + 1]) if "--outer" in words else None
        folds = _check(store, 2, outer)
        assert contenders(store, 5)
        Outer(store, cohort, folds).dealt(10_001)
    else:
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("state", STATES)
def test_every_command_fits_the_state(
    state: str, trained_study: StudyFolder, small_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_RUNS", str(trained_study.folder.parent))
    settings(trained_study, space=SPACE)
    change, expected = STATES[state]
    change(trained_study)
    store = StudyFolder(trained_study.folder)
    lines = after_search(store)
    assert lines[0].startswith("Next: ")
    asked = commands(lines)
    assert [words[1] for words in asked] == expected.split()
    for words in asked:
        accepts(store, small_cohort, words)
    shown = CliRunner().invoke(app, ["leaderboard", store.settings.name])
    assert shown.exit_code == 0
    assert all(" ".join(line.split()) in " ".join(shown.output.split()) for line in lines)


@pytest.mark.parametrize("patients", [1, 2])
def test_what_is_not_proposed_would_be_refused(trained_study: StudyFolder, small_cohort: Cohort, patients: int) -> None:
    settings(trained_study, space=SPACE)
    rare(patients)(trained_study)
    store = StudyFolder(trained_study.folder)
    with pytest.raises(HistotuneError) as refused:
        Outer(store, small_cohort, _check(store, 2, None)).dealt(10_001)
    assert isinstance(refused.value, DataError)


def test_why_there_is_no_result_is_said(trained_study: StudyFolder) -> None:
    ended(trained_study, state="failed", kind="out_of_memory", reason="too large", metrics={})
    trained_study.record_command("histotune search my.yaml --study small --trials 3")
    (line,) = after_search(StudyFolder(trained_study.folder))
    assert line == (
        "Next: histotune search my.yaml --study small --trials 6 (no trial is complete: 3 out_of_memory; mend the "
        "cause first)"
    )


@pytest.mark.parametrize(("cases", "expected"), [(7, "histotune evaluate out"), (0, "--on DATASET")])
def test_an_export_is_evaluated_where_there_is_a_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    parts = {"train": {"cases": 9}, **({"test": {"cases": cases}} if cases else {})}
    Path("out/export.json").write_text(json.dumps({"parts": parts}))
    assert expected in after_export(Path("out"))
    assert ("--on" in after_export(Path("out"))) == (not cases)


def test_slides_need_labels_first(tmp_path: Path) -> None:
    assert after_slides(tmp_path).startswith(f"Next: write {tmp_path / 'labels.csv'}")
    (tmp_path / "labels.csv").write_text("slide,label\n")
    assert after_slides(tmp_path) == f"Next: histotune prepare slides --data {tmp_path}"
