"""A name that is given to something new is the name of one folder: every way in refuses what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from histotune.api import train
from histotune.cli.app import app
from histotune.core.runtime import Places
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError
from histotune.exports.export import export_trial
from histotune.reporting import figures
from histotune.storage.layout import checked_name
from histotune.storage.study_folder import StudyFolder


@given(st.text(max_size=30))
def test_what_is_taken_is_one_folder_below_its_parent(name: str) -> None:
    try:
        checked_name(name, "a study")
    except ConfigError:
        return
    place = Path("/parent") / name
    assert place.parent == Path("/parent")
    assert place.name == name
    assert not name.startswith(("-", "."))


@pytest.mark.parametrize("name", ["..", "a/b", "", ".x", "con"])
@pytest.mark.parametrize("command", ["search", "train"])
def test_a_study_is_not_begun_under_such_a_name(command: str, name: str, tmp_path: Path) -> None:
    runs = tmp_path / "place" / "runs"
    options = ["--runs", str(runs), "--cache", str(tmp_path / "cache"), "--study", name, "-q"]
    result = CliRunner().invoke(app, [command, "demo", *options])
    assert result.exit_code == 2
    assert "cannot name a study" in result.output
    assert not [path for path in tmp_path.rglob("*") if "cache" not in path.parts[len(tmp_path.parts) :]]


def test_the_python_interface_refuses_the_same(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a study"):
        train("demo", study="../elsewhere", runs=tmp_path / "runs", cache=tmp_path / "cache")


def test_no_ensemble_export_or_figure_lies_elsewhere(trained_study: StudyFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name an ensemble"):
        merge(trained_study, top=1, name="../../x")
    with pytest.raises(ConfigError, match="name an export"):
        export_trial(trained_study, 0, tmp_path / "new" / "..")
    numbers = figures.compute("search_history", trained_study, places=Places.of(tmp_path, tmp_path))
    with pytest.raises(ConfigError, match="name a figure"):
        figures.save("search_history", numbers, tmp_path / "reports", stem="../x")


def test_the_folder_of_a_figure_is_named_as_the_study(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["figure", "confusion_matrix", "..", "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 2
