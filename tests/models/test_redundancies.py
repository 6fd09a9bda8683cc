"""Redundancy terms and the bottleneck: the contract, formulas in float64 numpy, and how a model carries them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.models.heads import Bottleneck
from histotune.models.network import Model, build_model
from histotune.models.redundancies import REDUNDANCIES, Redundancy
from histotune.models.redundancies.club import Club
from histotune.space import read_space
from histotune.testing.fusions import DIMS, REDUNDANCY, build_term

TERMS = [name for name in REDUNDANCIES.names() if name != "none"]
EVERY = pytest.mark.parametrize("name", TERMS)


def build(name: str, dims: dict[str, int] = DIMS, **params: Any) -> Redundancy:
    return build_term(name, params, dims)


def value(name: str, one: Tensor, other: Tensor, **params: Any) -> float:
    term = build(name, {"cnn": one.shape[1], "transformer": other.shape[1]}, weight=1.0, **params).to(one.dtype)
    there = torch.ones(len(one), dtype=torch.bool)
    return term({"cnn": one, "transformer": other}, {"cnn": there, "transformer": there}).item()


# --- the contract


@EVERY
@pytest.mark.parametrize("law", REDUNDANCY.laws)
def test_every_redundancy_keeps_the_law(name: str, law: str) -> None:
    REDUNDANCY.check_one(law, REDUNDANCY.laws[law], name, name, {})


@EVERY
def test_a_single_branch_has_nothing_to_share(name: str) -> None:
    with pytest.raises(ConfigError, match=r"there is one, \['image'\]: set model.redundancy to none"):
        REDUNDANCIES.build(name, {"image": 6})


def test_cosine_wants_one_width() -> None:
    with pytest.raises(ConfigError, match="one width, got cnn 6, transformer 8: take a fusion that projects"):
        REDUNDANCIES.build("cosine", {"cnn": 6, "transformer": 8})


# --- the formulas


def test_cosine_follows_the_formula() -> None:
    x, y = (torch.randn(9, 5, dtype=torch.float64) for _ in range(2))
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(x, y, strict=True)]
    assert value("cosine", x, y) == pytest.approx(np.mean(np.square(cosines)), rel=1e-9)
    assert value("cosine", x, x) == pytest.approx(1.0)


def test_cross_correlation_is_numpys() -> None:
    x, y = torch.randn(15, 3, dtype=torch.float64), torch.randn(15, 4, dtype=torch.float64)
    correlations = np.corrcoef(x.numpy().T, y.numpy().T)[:3, 3:]
    assert value("cross_correlation", x, y) == pytest.approx(np.mean(correlations**2), rel=1e-9)
    assert value("cross_correlation", x[:, :1], -3 * x[:, :1] + 7) == pytest.approx(1.0)


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al., 2012, Eq. 5, of Gaussian kernels whose width is the mean squared distance."""
    kernels = []
    for values in (x, y):
        squares = ((values[:, None] - values[None]) ** 2).sum(-1)
        n = len(values)
        kernel = np.exp(-squares / (squares.sum() / (n * (n - 1))))
        np.fill_diagonal(kernel, 0.0)
        kernels.append(kernel)
    k, m = kernels
    one, n = np.ones(len(x)), len(x)
    total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 * one @ k @ m @ one / (n - 2)
    return float(total / (n * (n - 3)))


def test_hsic_follows_the_unbiased_estimate() -> None:
    x = torch.randn(12, 3, dtype=torch.float64)
    y = torch.cat([x[:, :1].square(), torch.randn(12, 1, dtype=torch.float64)], dim=1)
    a, b = x.numpy(), y.numpy()
    expected = unbiased_hsic(a, b) / math.sqrt(unbiased_hsic(a, a) * unbiased_hsic(b, b))
    assert value("hsic", x, y) == pytest.approx(expected, rel=1e-8)


def test_hsic_is_maximal_for_equal_embeddings() -> None:
    torch.manual_seed(3)
    x = torch.randn(40, 5)
    assert value("hsic", x, x) == pytest.approx(1.0, abs=1e-5)
    assert value("hsic", x, 2 * x - 3) == pytest.approx(1.0, abs=1e-4), "nor does a shift or scale matter"
    for noise in (0.1, 1.0, 10.0):
        assert value("hsic", x, x + noise * torch.randn(40, 5)) < 1


@pytest.mark.parametrize("dim", [1, 16])
def test_hsic_is_zero_for_independent_embeddings(dim: int) -> None:
    """On average over draws, within four standard errors: no estimate from a batch is exactly zero."""
    generator = torch.Generator().manual_seed(5)
    pairs = torch.randn(150, 2, 32, dim, generator=generator)
    result = [value("hsic", one, other) for one, other in pairs]
    assert np.std(result) > 0.01
    assert abs(np.mean(result)) < 4 * np.std(result) / math.sqrt(150)
    assert value("hsic", torch.ones(32, dim), torch.randn(32, dim)) == pytest.approx(0.0, abs=1e-3)


def test_hsic_sees_what_no_correlation_shows() -> None:
    torch.manual_seed(6)
    x = torch.randn(200, 1)
    assert value("cross_correlation", x, x.square()) < 0.05
    assert value("hsic", x, x.square()) > 0.3


def test_club_follows_the_formula_and_its_network_learns_the_likelihood() -> None:
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    term = build("club", {"cnn": 3, "transformer": 2}, weight=1.0).double()
    assert isinstance(term, Club)
    leaves = {"cnn": x.clone().requires_grad_(), "transformer": y.clone().requires_grad_()}
    result = term(leaves, dict.fromkeys(leaves, torch.ones(7, dtype=torch.bool)))
    guess = term.guesses["cnn-transformer"]
    mean, raw = guess(x).detach().chunk(2, dim=1)

    def log_q(i: int, j: int) -> float:
        """Log density of y_j under the guess from x_i, without the constant that cancels."""
        variance = torch.exp(torch.tanh(raw[i]))
        return float(-0.5 * ((y[j] - mean[i]).square() / variance + variance.log()).sum())

    joint = np.mean([log_q(i, i) for i in range(7)])
    assert result.item() == pytest.approx(joint - np.mean([log_q(i, j) for i in range(7) for j in range(7)]), rel=1e-9)
    result.backward()
    variance = raw.tanh().exp()
    slope = ((mean - y.detach()) / variance).mean(0)  # of minus the log likelihood by the bias of the mean
    assert guess[-1].bias.grad[:2].numpy() == pytest.approx(slope.numpy(), rel=1e-9)  # type: ignore[index]


# --- the bottleneck


def test_the_bottleneck_costs_its_divergence_and_is_still_when_it_predicts() -> None:
    torch.manual_seed(0)
    narrow = Bottleneck(6, 3, 0.5)
    joint = torch.randn(4, 6)
    assert narrow.code is not None
    mean, log_variance = narrow.code(joint).detach().double().numpy().T.reshape(2, 3, 4)
    nats = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(0).mean()
    first, cost = narrow(joint)
    assert cost.item() == pytest.approx(0.5 * nats, rel=1e-5)
    assert not torch.equal(first, narrow(joint)[0])
    assert torch.equal(narrow.eval()(joint)[0], narrow.code(joint)[:, :3])


def test_codes_scatter_as_the_bottleneck_says() -> None:
    torch.manual_seed(0)
    narrow = Bottleneck(6, 3, 0.5)
    assert narrow.code is not None
    joint = torch.randn(1, 6).expand(20_000, 6)
    codes = narrow(joint)[0].detach()
    mean, log_variance = narrow.code(joint[:1]).detach()[0].chunk(2)
    assert codes.mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.05)
    assert codes.std(0).tolist() == pytest.approx((0.5 * log_variance).exp().tolist(), rel=0.05)


def test_without_weight_there_is_no_bottleneck() -> None:
    joint = torch.randn(4, 6)
    passed, cost = Bottleneck(6, 6, 0.0)(joint)
    assert passed is joint
    assert cost.item() == 0
    assert not list(Bottleneck(6, 6, 0.0).parameters())


# --- in a model

BRANCHES = {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": "cct_2"}}


def model(**changes: Any) -> Model:
    settings: dict[str, Any] = {
        "model": {"branches": BRANCHES, "fusion": {"name": "mean_embedding", "dim": 8}, **changes}
    }
    torch.manual_seed(0)
    return build_model(TrialConfig.from_dict(settings), (5, 9))


def batch() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(8)
    images, labels = torch.randn(6, 3, 32, 32, generator=generator), torch.tensor([0, 1, 1, 0, 1, 0])
    return {"image": images}, {"image": torch.ones(6, dtype=torch.bool)}, labels


def gradients(network: Model, loss: Tensor) -> list[Tensor]:
    network.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_is_not_heard_is_no_part_of_the_network(branch: str) -> None:
    network = model(fusion={"name": "none", "branch": branch})
    alone = model(branches={branch: BRANCHES[branch]}, fusion={"name": "none"})
    assert list(network.branches) == list(network.modalities) == [branch]
    assert network.parameter_count() == alone.parameter_count() < model().parameter_count()
    alone.load_state_dict(network.state_dict())
    inputs, present, _ = batch()
    assert torch.equal(network.eval().logits(inputs, present), alone.eval().logits(inputs, present))


def test_a_branch_that_is_left_alone_by_its_fusion_has_nothing_to_share() -> None:
    """So that a space may search over `none` and redundancies at once; a model of one branch is told of it."""
    alone = model(fusion={"name": "none", "branch": "cnn"}, redundancy={"name": "hsic", "weight": 1.0})
    inputs, present, labels = batch()
    plain = model(fusion={"name": "none", "branch": "cnn"})
    plain.load_state_dict(alone.state_dict())
    losses = []
    for network in (alone, plain):
        torch.manual_seed(1)
        losses.append(network.loss(inputs, present, labels))
    assert torch.equal(*losses)
    with pytest.raises(ConfigError, match="no parameter 'wait'"):
        model(fusion={"name": "none", "branch": "cnn"}, redundancy={"name": "hsic", "wait": 1.0})
    with pytest.raises(ConfigError, match="what two branches share, and there is one"):
        model(branches={"cnn": BRANCHES["cnn"]}, fusion={"name": "none"}, redundancy={"name": "hsic"})


def test_a_model_without_them_trains_on_its_objective_alone_bit_by_bit() -> None:
    network, (inputs, present, labels) = model(), batch()
    torch.manual_seed(1)
    ours = network.loss(inputs, present, labels)
    torch.manual_seed(1)
    plain = network.objective.loss(network(inputs, present), labels)
    assert torch.equal(ours, plain)
    for one, other in zip(gradients(network, ours), gradients(network, plain), strict=True):
        assert torch.equal(one, other)


@EVERY
def test_a_model_adds_its_redundancy_and_predicts_the_same(name: str) -> None:
    (inputs, present, labels), weight = batch(), 0.5
    network, plain = model(redundancy={"name": name, "weight": weight}).eval(), model().eval()
    outputs, masks = network.outputs(inputs, present)
    expected = network.redundancy(network.fusion.embed(outputs, masks), masks)
    assert expected.abs().item() > 0
    added = network.loss(inputs, present, labels) - plain.loss(inputs, present, labels)
    assert added.item() == pytest.approx(expected.item(), rel=1e-3)
    assert torch.equal(network.logits(inputs, present), plain.logits(inputs, present))
    assert network.parameter_count() == plain.parameter_count()


def test_a_model_with_a_bottleneck_has_the_width_asked_for() -> None:
    inputs, present, labels = batch()
    network = model(head={"feature_dim": 5, "bottleneck": 0.01})
    assert network(inputs, present).shape == (6, 5)
    network.loss(inputs, present, labels).backward()
    assert network.bottleneck.code is not None
    assert network.bottleneck.code.weight.grad is not None
    assert len(network.head) == 0


def test_a_redundancy_on_a_single_branch_is_found_when_the_space_is_read() -> None:
    values = {"dataset": "synthetic", "model": {"redundancy": {"name": "hsic", "weight": {"low": 0.01, "high": 1.0}}}}
    with pytest.raises(ConfigError, match=r"mine: model.redundancy: redundancy 'hsic' is what two branches share"):
        read_space(values, "mine")


def test_a_space_searches_fusion_and_redundancy() -> None:
    values = {
        "dataset": "synthetic",
        "model": {
            "branches": BRANCHES,
            "fusion": {"choice": {"concat": {}, "cmaf": {"temperature": {"low": 0.1, "high": 2.0, "log": True}}}},
            "redundancy": {"choice": {"none": {}, "hsic": {"weight": {"low": 0.01, "high": 1.0, "log": True}}}},
        },
    }
    searched = [p.path for p in read_space(values, "mine").parameters()]
    weights = ["model.fusion.cmaf.temperature", "model.redundancy", "model.redundancy.hsic.weight"]
    assert searched == ["model.fusion", *weights]


@pytest.mark.parametrize(
    ("fusion", "word"),
    [
        ({"name": "cmaf", "heads": 7}, "7 heads do not divide"),
        ({"name": "cross_attention", "direction": "cnn->trafo"}, r"Did you mean 'cnn->transformer'"),
        ("none", "takes one branch"),
    ],
)
def test_a_fusion_that_cannot_be_built_is_found_when_the_space_is_read(fusion: Any, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine: model.fusion: fusion .*{word}"):
        read_space({"dataset": "synthetic", "model": {"branches": BRANCHES, "fusion": fusion}}, "mine")
