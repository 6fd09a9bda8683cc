"""The contract of every fusion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from histotune.backbones import BackboneOutput, Widths
from histotune.errors import ConfigError
from histotune.fusions import FUSIONS, Fusion

EVERY = pytest.mark.parametrize("name", FUSIONS.names())
SINGLE = {"none"}  # fusions that take exactly one branch
WIDTHS = {"image": Widths(8, 12), "genes": Widths(6, 10), "clinical": Widths(4, 4)}


def widths(name: str) -> dict[str, Widths]:
    branches = 1 if name in SINGLE else 3
    return dict(list(WIDTHS.items())[:branches])


def build(name: str) -> Fusion:
    torch.manual_seed(0)
    return FUSIONS.build(name, widths(name)).eval()


def outputs(name: str, size: int = 5, seed: int = 1) -> tuple[dict[str, BackboneOutput], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    branches, present = {}, {}
    for branch, width in widths(name).items():
        tokens = torch.randn(size, 3, width.token, generator=generator).requires_grad_()
        pooled = torch.randn(size, width.pooled, generator=generator).requires_grad_()
        branches[branch] = BackboneOutput(tokens, pooled)
        present[branch] = torch.ones(size, dtype=torch.bool)
    return branches, present


@EVERY
@pytest.mark.parametrize("size", [1, 5])
def test_width_is_as_promised(name: str, size: int) -> None:
    fusion = build(name)
    assert fusion(*outputs(name, size)).shape == (size, fusion.out_dim)


@EVERY
def test_gradient_reaches_every_branch(name: str) -> None:
    branches, present = outputs(name)
    build(name)(branches, present).square().sum().backward()
    for branch, output in branches.items():
        reached = [t.grad for t in output if t.grad is not None and t.grad.abs().sum() > 0]
        assert reached, f"{branch} gets no gradient"


@EVERY
def test_order_of_the_mapping_does_not_matter(name: str) -> None:
    fusion, (branches, present) = build(name), outputs(name)
    backwards = dict(reversed(branches.items()))
    assert torch.equal(fusion(branches, present), fusion(backwards, dict(reversed(present.items()))))


@EVERY
@pytest.mark.parametrize("value", [0.0, 1e6, float("nan")])
def test_an_absent_modality_has_no_say(name: str, value: float) -> None:
    fusion, (branches, present) = build(name), outputs(name)
    masked = next(iter(branches))
    present[masked] = torch.tensor([True, False, True, False, True])
    expected = fusion(branches, present)
    tokens, pooled = (t.detach().clone() for t in branches[masked])
    tokens[~present[masked]], pooled[~present[masked]] = value, value
    changed = fusion(branches | {masked: BackboneOutput(tokens, pooled)}, present)
    assert torch.isfinite(expected).all()
    assert torch.equal(changed, expected)


@EVERY
def test_cases_do_not_look_at_each_other(name: str) -> None:
    fusion, (branches, present) = build(name), outputs(name)
    alone = {branch: BackboneOutput(*(t[2:3] for t in output)) for branch, output in branches.items()}
    joint = fusion(alone, {branch: mask[2:3] for branch, mask in present.items()})
    assert torch.allclose(joint[0], fusion(branches, present)[2], atol=1e-6)


def test_none_refuses_two_branches() -> None:
    with pytest.raises(ConfigError, match=r"one branch.*genes.*image"):
        FUSIONS.build("none", {"image": Widths(8, 8), "genes": Widths(4, 4)})
