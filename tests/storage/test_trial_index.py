"""The cache of ended trials is only ever a shorter way to what the trial folders say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histotune.core import files
from histotune.errors import StudyError
from histotune.storage.layout import TRIAL_INDEX
from histotune.storage.records import TrialEnd, write_record
from histotune.storage.study_folder import StudyFolder


def end(store: StudyFolder, number: int, **changes: object) -> None:
    folder = store.trial_folder(number)
    files.write_text(folder / "config.yaml", f"seed: {number}\n")
    write_record(folder, {"state": "complete", "digest": f"d{number}", "metrics": {"auroc": None}} | changes)


@pytest.fixture
def study(small_study: StudyFolder) -> StudyFolder:
    for number in (0, 2, 11):
        end(small_study, number)
    return small_study


def test_the_second_reading_says_what_the_first_said(study: StudyFolder) -> None:
    first = study.trials()
    assert [record.number for record in first] == [0, 2, 11]
    assert json.loads((study.folder / TRIAL_INDEX).read_text())["trials"].keys() == {"0", "2", "11"}
    second = study.trials()
    assert [(r.number, r.folder, r.digest, r.config()) for r in second] == [
        (r.number, study.trial_folder(r.number), f"d{r.number}", {"seed": r.number}) for r in first
    ]
    assert all(record.metrics["auroc"] != record.metrics["auroc"] for record in second)


def test_what_is_cached_is_not_read_from_the_folders(study: StudyFolder) -> None:
    study.trials()
    (study.trial_folder(2) / "config.yaml").unlink()
    assert study.trials()[1].config() == {"seed": 2}


def test_a_changed_a_new_and_a_deleted_trial_are_seen(study: StudyFolder) -> None:
    study.trials()
    end(study, 2, state="stopped", epochs=7)
    end(study, 5)
    (study.trial_folder(0) / "metrics.json").unlink()
    result = {record.number: record for record in study.trials()}
    assert sorted(result) == [2, 5, 11]
    assert (result[2].state, result[2].epochs) == ("stopped", 7)


@pytest.mark.parametrize("damage", ["", "{", '{"format": 99, "trials": {}}', "[]", '{"format": 1, "trials": 3}'])
def test_a_damaged_cache_is_built_anew(study: StudyFolder, damage: str) -> None:
    study.trials()
    before = (study.folder / TRIAL_INDEX).read_text()
    (study.folder / TRIAL_INDEX).write_text(damage)
    assert [record.number for record in study.trials()] == [0, 2, 11]
    assert (study.folder / TRIAL_INDEX).read_text() == before


def test_an_unwritable_place_does_not_hinder_reading(study: StudyFolder, tmp_path: Path) -> None:
    (study.folder / TRIAL_INDEX).mkdir()  # nobody, root included, can put a file there
    assert [record.number for record in study.trials()] == [0, 2, 11]


def test_a_study_without_trials_has_none_and_writes_nothing(small_study: StudyFolder) -> None:
    assert small_study.trials() == []
    assert not (small_study.folder / TRIAL_INDEX).exists()


def test_a_state_on_disk_is_a_word_that_is_known(study: StudyFolder) -> None:
    assert [record.state for record in study.trials()] == [TrialEnd.COMPLETE] * 3
    assert json.dumps(study.trials()[0].state) == '"complete"'
    end(study, 12, state="completed")
    with pytest.raises(StudyError, match=r"its state is 'completed', not complete \| stopped \| failed \| infeasible"):
        study.trials()
