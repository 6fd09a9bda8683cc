"""A name that becomes a folder is a name, on every system; everything else is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from histotune import open_study, search
from histotune.cli.app import app
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError
from histotune.storage.layout import checked_name
from histotune.storage.study_folder import StudyFolder

NO_NAMES = ["", " ", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", "C:x", ".hidden", "-v", "~", "a.", "a ", " a", "a\n"]
NO_NAMES += ["a\0b", "x" * 121, "ä" * 61, "con", "NUL.txt", "mlflow.db", "a*", "what?", "<a>"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a study: "):
        StudyFolder.named(name, tmp_path)


@pytest.mark.parametrize("name", ["idc", "idc-32 px", "Größe", "a.b", "2026_11", "研究", "x" * 120])
def test_names_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    assert checked_name(name, "a study") == name
    (StudyFolder.named(name, tmp_path).folder).mkdir(parents=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@given(st.text(min_size=1, max_size=30))
def test_what_is_taken_stays_in_the_folder_of_studies(name: str) -> None:
    try:
        folder = StudyFolder.named(name, Path("/runs")).folder
    except ConfigError:
        return
    assert folder.resolve().parent == Path("/runs")


@pytest.mark.parametrize("name", ["..", "a/b", "../../x"])
def test_nothing_is_written_outside(name: str, tmp_path: Path) -> None:
    runs = tmp_path / "place" / "runs"
    with pytest.raises(ConfigError, match="is no path"):
        search("demo", study=name if name != ".." else "a/..", runs=runs, cache=tmp_path / "cache", trials=1)
    with pytest.raises(ConfigError):
        open_study(name, runs=runs)
    assert not runs.exists()
    for words in (["search", "demo", "--study", name], ["leaderboard", name], ["report", name], ["gc", name]):
        answer = CliRunner().invoke(app, [*words, "--runs", str(runs), "--cache", str(tmp_path / "cache")])
        assert isinstance(answer.exception, (ConfigError, SystemExit)), words
    assert not list(tmp_path.glob("place/*"))


def test_an_ensemble_has_a_name_too(trained_study: StudyFolder) -> None:
    with pytest.raises(ConfigError, match="cannot name an ensemble"):
        merge(trained_study, name="../exports", replicates=20)
