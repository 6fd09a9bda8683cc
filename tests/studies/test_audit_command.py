"""The audit as a user meets it: a command, a line before a search, a file in the study, an exit code for a leak."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import histotune
from histotune.cli.app import app
from histotune.core.runtime import Places
from histotune.data.audits import AUDITS, SEVERITIES
from histotune.data.cohort import Cohort
from histotune.errors import ConfigError, DataError
from histotune.space import load_space
from histotune.storage.study_folder import StudyFolder
from histotune.studies import audit as _audit
from histotune.studies.create import StudyRequest, begin

PATIENTS = {f"p{i}": {"benign": 6, "tumour": 4} for i in range(12)}
SPACE = "dataset: image_folder\nimage_size: 16\nepochs: 1\nloss: {choice: {cross_entropy: {}, focal: {}}}\n"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of 12 patients, of which one has a mirrored copy of another's; a space; nothing prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    root = tiny_folder(PATIENTS)
    (tmp_path / "space.yaml").write_text(SPACE)
    return root


def plant_copies(root: Path) -> None:
    """Give every patient a mirrored copy of one image of the first, so that some stand on the other side."""
    pixels = np.asarray(Image.open(root / "p0" / "benign" / "000.png"))
    for patient in list(PATIENTS)[1:]:
        changed = pixels[:, ::-1].copy()
        changed[0, 0, 0] ^= int(patient[1:])
        Image.fromarray(changed).save(root / patient / "benign" / "900.png")


def test_the_command_prints_a_table_and_exits_by_what_it_finds(folder: Path) -> None:
    clean = call("audit", "image_folder", "--data", folder, "--image-size", 16, "--strict")
    assert clean.exit_code == 0, clean.output
    assert "Audit: no leak in" in clean.output
    assert all(name in clean.output for name in AUDITS.names())
    leaky = call("audit", "space.yaml", "--data", folder, "--split", "patch_random_70_30")
    assert leaky.exit_code == 0
    assert "What to do: split by patient" in leaky.output
    strict = call("audit", "space.yaml", "--data", folder, "--split", "patch_random_70_30", "--strict")
    assert strict.exit_code == 2
    assert "LEAK" in strict.output


def test_copies_among_files_are_found(folder: Path) -> None:
    plant_copies(folder)
    answer = call("audit", "image_folder", "--data", folder, "--image-size", 16, "--json")
    report = json.loads(answer.stdout)
    assert set(report) == {"time", "command", "checks", "seconds"}
    assert {check["name"] for check in report["checks"]} == set(AUDITS.names())
    ranks = [SEVERITIES.index(check["severity"]) for check in report["checks"]]
    assert ranks == sorted(ranks, reverse=True)
    first = report["checks"][0]
    assert set(first) == {"name", "severity", "count", "of", "sentence", "examples", "advice"}
    assert (first["name"], first["severity"], len(first["examples"])) == ("near_identical", "leak", 3)


def test_a_strict_search_stops_before_anything_trains(folder: Path) -> None:
    plant_copies(folder)
    answer = call("search", "space.yaml", "--data", folder, "--trials", 1, "--strict")
    assert answer.exit_code == 2
    assert "near_identical" in answer.output
    study = Path("runs/space")
    assert not (study / "controls").exists()
    assert not (study / "trials").exists()
    assert json.loads((study / "audit.json").read_text())["checks"][0]["severity"] == "leak"
    with pytest.raises(DataError, match="the audit found leaks"):
        histotune.train("space.yaml", data=folder, study="other", strict=True)
    assert "1 LEAK (near_identical" in _audit.line(StudyFolder(study))
    assert histotune.train("space.yaml", data=folder).state == "complete"


def test_a_study_is_audited_once_and_anew_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, places = StudyRequest(load_space("space.yaml"), folder), Places.of()
    store, _ = begin(wanted, None, places)
    written = (store.folder / "audit.json").read_text()
    begin(wanted, None, places)
    assert (store.folder / "audit.json").read_text() == written
    report = histotune.audit("space", command="again")
    assert report.command == "again"
    assert _audit.read(store) == report
    assert not report.leaks
    saved = json.loads(written)
    saved["checks"].pop()
    (store.folder / "audit.json").write_text(json.dumps(saved))  # of a version with fewer checks
    begin(wanted, None, places)
    assert json.loads((store.folder / "audit.json").read_text())["checks"][0]["name"]
    assert len(json.loads((store.folder / "audit.json").read_text())["checks"]) == len(AUDITS.names())


def test_studies_are_audited_by_name_and_data_by_the_split_that_is_asked_for(
    small_study: StudyFolder, small_cohort: Cohort
) -> None:
    runs, cache = small_study.folder.parent, small_cohort.folder.parent
    of_study = histotune.audit("small", runs=runs, cache=cache)
    assert (small_study.folder / "audit.json").exists()
    assert {finding.name for finding in of_study.checks} == set(AUDITS.names())
    how: dict[str, Any] = {"options": {"cases": 240, "patients": 24, "side": 32}, "runs": runs, "cache": cache}
    leaky = histotune.audit("synthetic", protocol="patch_random_70_30", **how)
    assert [finding.name for finding in leaky.leaks] == ["patients"]
    folded = histotune.audit("synthetic", folds=3, protocol="patient_kfold", **how)
    assert not folded.leaks


def test_what_does_not_exist_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'demo'"):
        histotune.audit("demmo", runs=tmp_path, cache=tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'patient'"):
        histotune.audit("demo", protocol="patien", runs=tmp_path, cache=tmp_path)
    with pytest.raises(DataError, match="no data for 'idc'"):
        histotune.audit("idc", data=tmp_path / "nowhere", runs=tmp_path, cache=tmp_path)
