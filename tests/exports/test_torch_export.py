"""The torch.export program of an export gives its probabilities: read back from the file, any batch, every strategy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_exports import SMALL, exported, images_for, model_of, plain, register
from made_up_tables import begun, train
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.ensembles.merge import merge
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError, HistotuneError
from histotune.exports import graph as one_graph
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.model import load
from histotune.exports.torch_export import add_torch_export
from histotune.storage.study_folder import StudyFolder


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register made-up parts where no other test sees them."""
    register(monkeypatch)


def scored(folder: Path, images: Mapping[int, np.ndarray]) -> np.ndarray:
    """Score images as somebody does who has torch only."""
    program = torch.export.load(folder / "model.pt2").module()
    result: np.ndarray = program(*(torch.from_numpy(images[size]) for size in sorted(images))).detach().numpy()
    return result


def check_equal(folder: Path) -> None:
    """Write the program and compare it with the export on batches of one and of five."""
    add_torch_export(folder)
    model = load(folder, torch.device("cpu"))
    for count in (1, 5):
        images = images_for(model, count)
        expected = model.probabilities(images)
        assert expected.std() > 0.02  # else a wrong program would not show
        np.testing.assert_allclose(scored(folder, images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("strategy", ENSEMBLES.names())
def test_every_strategy_over_members_of_several_sizes(tmp_path: Path, strategy: str) -> None:
    check_equal(exported(tmp_path / "all", [plain(image_size=size) for size in (32, 48)], strategy))


def test_two_branches_and_the_flips_and_turns(tmp_path: Path) -> None:
    check_equal(exported(tmp_path / "all", [model_of("cmaf", SMALL), plain(tta=True)], "side_by_side"))


def test_an_exported_ensemble_holds_its_program(trained_study: StudyFolder, tmp_path: Path) -> None:
    merged = merge(trained_study, top=2, replicates=20)
    model = load(export_ensemble(trained_study, merged, tmp_path / "two", torch_export=True))
    images = images_for(model, 6)
    np.testing.assert_allclose(scored(tmp_path / "two", images), model.probabilities(images), atol=1e-4)
    assert model.info["torch_export"]["largest_difference"] <= 1e-4
    text: dict[str, Any] = dict.fromkeys(["digest", "classes"], "")
    torch.export.load(tmp_path / "two" / "model.pt2", extra_files=text)
    assert text["digest"] == model.digest
    with (tmp_path / "two" / "model.pt2").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(HistotuneError, match="changed after it was exported"):
        load(tmp_path / "two")


def test_the_lines_of_the_card_score_images(
    trained_study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_trial(trained_study, 0, tmp_path / "zero", torch_export=True)
    example = re.search(r"```python\n(import torch\n.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    assert example
    model = load(folder)
    images = images_for(model, 3)
    names: dict[str, Any] = {f"images_{size}": torch.from_numpy(array) for size, array in images.items()}
    monkeypatch.chdir(folder)
    exec(example[1], names)
    np.testing.assert_allclose(names["probabilities"].detach(), model.probabilities(images), atol=1e-4)


def test_a_program_that_differs_is_refused_and_leaves_nothing(
    trained_study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_graph, "TOLERANCE", -1.0)
    with pytest.raises(HistotuneError, match="gives other probabilities than PyTorch"):
        export_trial(trained_study, 0, tmp_path / "exports" / "zero", torch_export=True)
    assert not list((tmp_path / "exports").iterdir())


def test_tables_are_refused_in_a_sentence(tmp_path: Path) -> None:
    store, cohort = begun(tmp_path / "runs" / "tables")
    train(store, cohort, 0, "clinical", epochs=1)
    with pytest.raises(ConfigError, match=r"reads clinical \(table\), and a program of torch.export"):
        export_trial(store, 0, tmp_path / "zero", torch_export=True)
    assert not (tmp_path / "zero").exists()


def test_the_command_line_refuses_a_program_without_a_folder(trained_study: StudyFolder) -> None:
    refused = CliRunner().invoke(
        app, ["ensemble", "small", "--torch-export", "--runs", str(trained_study.folder.parent)]
    )
    assert refused.exit_code == 2
    assert "a torch.export program lies in an export folder" in refused.stderr
