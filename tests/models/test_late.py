"""Late fusion: its posterior is the average of those of the branches' own models, whatever the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from histotune.core.config import TrialConfig
from histotune.models.backbones import BackboneInput
from histotune.models.fusions.late import LateObjective
from histotune.models.losses import LOSSES
from histotune.models.network import Model, build_model
from histotune.space import load_space

BRANCHES = {
    "cnn": {"modality": "image", "backbone": {"name": "alexnet", "width": 3, "features": 6, "batch_norm": True}},
    "genes": {"modality": "genes", "backbone": {"name": "mlp", "width": 5}},
    "clinic": {"modality": "clinic", "backbone": {"name": "mlp", "width": 4, "norm": "batch"}},
}
GIVEN = {
    "image": BackboneInput((3, 16, 16)),
    "genes": BackboneInput((7,), "table"),
    "clinic": BackboneInput((3,), "table"),
}
COUNTS, CASES = (30, 12, 5), 9
HEADS: tuple[Mapping[str, Any], ...] = (
    {},
    {"feature_dim": 8, "feature_norm": "layer"},
    {"feature_dim": 6, "bottleneck": 0.01},
    {"feature_norm": "batch", "dropout": 0.4},
)
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.names())
OF = pytest.mark.parametrize("of", ["probabilities", "logits"])


def build(fusion: Any, branches: Mapping[str, Any] = BRANCHES, **changes: Any) -> Model:
    config = {"image_size": 16, "model": {"branches": branches, "fusion": fusion, "head": changes.pop("head", {})}}
    return build_model(TrialConfig.from_dict(config | changes), COUNTS, GIVEN)


def late(**changes: Any) -> Model:
    params = {key: changes.pop(key) for key in ("of", "weights", "dim") if key in changes}
    torch.manual_seed(3)
    return build({"name": "late", "of": "probabilities", **params}, **changes)


def own_models(model: Model, **changes: Any) -> dict[str, Model]:
    """Return for every branch a model of it alone, with the branch's weights in the late one."""
    assert isinstance(model.objective, LateObjective)
    result = {}
    for name in model.branches:
        alone = build("none", {name: BRANCHES[name]}, **changes)
        state = {f"branches.{name}.{key}": value for key, value in model.branches[name].state_dict().items()}
        alone.load_state_dict(state | model.objective.heads[name].state_dict())
        result[name] = alone.eval()
    return result


def cases(size: int = CASES, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Draw inputs; every case lacks something but the first, and none lacks all."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(size, *what.shape, generator=generator) for name, what in GIVEN.items()}
    there = torch.rand(size, 3, generator=generator) > 0.4
    there[0] = True
    there[~there.any(dim=1), 0] = True
    present = {name: there[:, place] for place, name in enumerate(sorted(GIVEN))}
    return inputs, present, torch.randint(0, 3, (size,), generator=generator)


def slope(parameter: torch.nn.Parameter) -> Tensor:
    """Return its gradient, which is there."""
    assert parameter.grad is not None
    return parameter.grad


def averaged(models: Mapping[str, Model], inputs: Any, present: Any, of: str, weights: Tensor) -> Tensor:
    """Average what the models say of the cases that they have input of, case by case; returns probabilities."""
    names = sorted(models)
    logits = {name: models[name].logits(inputs, present) for name in names}
    rows = []
    for case in range(CASES):
        has = [at for at, name in enumerate(names) if present[models[name].modalities[name]][case]]
        shares = weights[has] / weights[has].sum()
        own = torch.stack([logits[names[at]][case] for at in has])
        rows.append(shares @ own.softmax(dim=1) if of == "probabilities" else (shares @ own).softmax(dim=0))
    return torch.stack(rows)


@EVERY_LOSS
@OF
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_it_is_the_average_of_the_branches_own_models(loss: str, of: str, head: Mapping[str, Any]) -> None:
    model = late(of=of, loss=loss, head=head).eval()
    inputs, present, _ = cases()
    expected = averaged(own_models(model, loss=loss, head=head), inputs, present, of, torch.ones(3))
    result = model.logits(inputs, present)
    assert result.dtype == torch.float32
    assert torch.allclose(result.softmax(dim=1), expected, atol=1e-6)


@OF
@torch.no_grad()
def test_learned_weights_are_shares_of_those_present(of: str) -> None:
    model = late(of=of, weights="learned", loss="arcface").eval()
    model.objective.get_parameter("weights").data = torch.tensor([0.4, -1.0, 1.5])
    inputs, present, _ = cases()
    expected = averaged(own_models(model, loss="arcface"), inputs, present, of, torch.tensor([0.4, -1.0, 1.5]).exp())
    assert torch.allclose(model.logits(inputs, present).softmax(dim=1), expected, atol=1e-6)


@EVERY_LOSS
def test_each_branch_learns_as_its_own_model_does(loss: str) -> None:
    """The gradient of a branch and its head is that of its own model, over the cases that have it, in proportion."""
    model = late(loss=loss).eval()  # no dropout and no statistics of a batch
    alone = own_models(model, loss=loss)
    inputs, present, labels = cases()
    total = model.loss(inputs, present, labels)
    total.backward()
    expected = 0.0
    for name, one in alone.items():
        there = present[one.modalities[name]]
        own = {modality: values[there] for modality, values in inputs.items()}
        masks = {modality: mask[there] for modality, mask in present.items()}
        share = int(there.sum()) / CASES / 3
        loss_of_it = one.loss(own, masks, labels[there]) * share
        loss_of_it.backward()
        expected += loss_of_it.item()
        for key, weight in one.branches[name].named_parameters():
            mine = model.branches[name].get_parameter(key)
            assert torch.allclose(slope(mine), slope(weight), atol=1e-5, rtol=1e-3), (name, key)
        for key, weight in one.objective.named_parameters():
            mine = model.objective.get_parameter(f"heads.{name}.objective.{key}")
            assert torch.allclose(slope(mine), slope(weight), atol=1e-5, rtol=1e-3), (name, key)
    assert total.item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_learned_weights_reaches_the_weights_alone() -> None:
    plain, learned = late(loss="cfal").eval(), late(loss="cfal", weights="learned").eval()
    learned.load_state_dict(plain.state_dict(), strict=False)
    inputs, present, labels = cases()
    plain.loss(inputs, present, labels).backward()
    learned.loss(inputs, present, labels).backward()
    for key, weight in plain.named_parameters():
        assert torch.allclose(slope(learned.get_parameter(key)), slope(weight)), key
    assert slope(learned.objective.get_parameter("weights")).abs().max() > 1e-4


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "cfal", "arcface", "acbfl"])
def test_learned_weights_come_to_favour_the_branch_that_knows(loss: str) -> None:
    model = late(loss=loss, weights="learned")
    labels = torch.arange(60) % 3
    torch.manual_seed(0)
    inputs = {name: torch.randn(60, *what.shape) for name, what in GIVEN.items()}
    inputs["genes"][:, :3] += 4 * torch.eye(3)[labels]
    present = {name: torch.ones(60, dtype=torch.bool) for name in GIVEN}
    optimizer = torch.optim.Adam([model.objective.get_parameter("weights")], lr=0.1)
    others = [p for key, p in model.named_parameters() if key != "objective.weights"]
    features = torch.optim.Adam(others, lr=0.01)
    for step in range(80):
        if step == 40:  # the other branches know these cases by heart by then; others they do not
            inputs = {**inputs, **{n: torch.randn(60, *GIVEN[n].shape) for n in ("image", "clinic")}}
        for each in (optimizer, features):
            each.zero_grad()
        model.loss(inputs, present, labels).backward()
        optimizer.step()
        if step < 40:
            features.step()
    weights = model.objective.get_parameter("weights").detach()
    assert weights.argmax() == sorted(BRANCHES).index("genes")


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 8), seed=st.integers(0, 999), weights=st.sampled_from(["mean", "learned"]))
def test_any_pattern_of_absent_modalities_trains(size: int, seed: int, weights: str) -> None:
    """Also where a branch with batch norm has one case, or none; what stands where a modality is absent is nothing."""
    model = late(loss="acbfl", weights=weights, head={"feature_norm": "batch"})
    inputs, present, labels = cases(size, seed)
    for name, mask in present.items():
        inputs[name][~mask] = math.nan
    inputs = {n: v.nan_to_num() if n == "image" else v for n, v in inputs.items()}  # batch norm of the image's network
    total = model.loss({n: v.nan_to_num() for n, v in inputs.items()}, present, labels)
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.objective.adapt()
    assert torch.isfinite(model.eval().logits(inputs, present)).all()


def test_parts_of_a_batch_add_up_to_it() -> None:
    model = late(loss="cross_entropy", weights="learned").double().eval()
    inputs, present, labels = cases(12)
    inputs = {name: values.double() for name, values in inputs.items()}
    whole = model.loss(inputs, present, labels)
    parts = torch.stack(
        [
            model.loss({n: v[at] for n, v in inputs.items()}, {n: v[at] for n, v in present.items()}, labels[at])
            * (len(at) / 12)
            for at in (torch.arange(5), torch.arange(5, 12))
        ]
    ).sum()
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)


def test_bfloat16_changes_little() -> None:
    model = late(loss="cfal", weights="learned").eval()
    inputs, present, labels = cases()
    exact, logits = model.loss(inputs, present, labels), model.logits(inputs, present)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rounded = model.loss(inputs, present, labels), model.logits(inputs, present)
    assert rough.dtype == rounded.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    assert torch.allclose(rounded.softmax(1), logits.softmax(1), atol=0.05)


def test_a_space_spells_out_what_it_is_of() -> None:
    """However a user names it: else it would be taken for that of an earlier version."""
    for fix in (["model.fusion=late"], ["model.fusion.name=late"], ["model.fusion=late", "model.fusion.dim=64"]):
        fusion = load_space("idc_cmaf", fix=fix).default()["model"]["fusion"]
        assert (fusion["name"], fusion["of"]) == ("late", "probabilities")
    chosen = load_space("idc_cmaf", choices=["model.fusion=late,concat"])
    found = [config["model"]["fusion"] for config in chosen.samples()]
    assert {one["of"] for one in found if one["name"] == "late"} == {"probabilities"}
    logits = load_space("idc_cmaf", fix=["model.fusion=late", "model.fusion.of=logits"])
    assert logits.default()["model"]["fusion"]["of"] == "logits"
