"""A reproduction of an earlier version, whose `late` was another fusion, stays as it is; another one begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histotune.core.runtime import Places
from histotune.reproductions.papers import REPRODUCTIONS
from histotune.reproductions.train import LineUp, ReproductionRequest
from histotune.space import load_space


def request_in(runs: Path) -> ReproductionRequest:
    reproduction = REPRODUCTIONS.build("cmaf")
    setting = reproduction.setting("idc")
    scale = setting.scale("small")
    line_up = LineUp.of(reproduction, setting, scale)
    about: dict[str, Any] = {"say": print, "progress": None, "command": "", "tracking_uri": None, "external_data": None}
    return ReproductionRequest(
        "cmaf",
        "idc",
        reproduction,
        setting,
        scale,
        spent="small",
        line_up=line_up,
        space=load_space(setting.space, fix=line_up.fix),
        protocol="patient",
        place=Places(runs, runs / "cache"),
        data=None,
        **about,
    )


def began(folder: Path, space: Any) -> None:
    """Write as much of a study as says in which space it searches."""
    known: dict[str, Any] = {
        "name": folder.name,
        "dataset": "idc",
        "data": "",
        "options": {},
        "digests": {},
        "classes": ["a", "b"],
    }
    known |= {"positive": 1, "protocol": "patient", "leaky": False, "seed": 0, "metric": "auroc"}
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({**known, "space": space}))


@pytest.mark.parametrize("past", [True, False])
def test_an_earlier_study_with_a_late_contender_is_left_alone(tmp_path: Path, past: bool) -> None:
    asked = request_in(tmp_path)
    name = asked.store().folder.name
    assert name == "cmaf-idc-patient-small"
    space = json.loads(json.dumps(asked.space.to_dict()))
    if past:
        del space["model"]["fusion"]["choice"]["late"]["of"]
    began(tmp_path / name, space)
    assert asked.store().folder.name == (f"{name}-late" if past else name)


def test_the_contender_late_is_late(tmp_path: Path) -> None:
    fusions = {config.model.fusion.params.get("of") for config in request_in(tmp_path).line_up.searched["late"]}
    assert fusions == {"probabilities"}
    subtyping = REPRODUCTIONS.build("subtyping")
    for setting in subtyping.settings.values():
        named = [network.fusion for row, network in setting.networks.items() if "late" in row]
        assert all(fusion.name == "late" and fusion.params == {"of": "probabilities"} for fusion in named)
