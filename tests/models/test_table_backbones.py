"""Backbones of tables: widths and weights as published, and gene tokens against one linear map for each chunk."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from histotune.errors import ConfigError
from histotune.models.backbones import Backbone, BackboneInput, build_backbone
from histotune.models.backbones.gene_tokens import Chunks, GeneTokens


def build(name: str, columns: int, **params: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, "cnv", BackboneInput((columns,), "table"), **params)


def linear_layers(backbone: Backbone) -> list[nn.Linear]:
    return [module for module in backbone.modules() if isinstance(module, nn.Linear)]


# --- mlp and snn


@pytest.mark.parametrize(
    ("name", "params", "widths"),
    [
        ("mlp", {}, [256, 256]),
        ("mlp", {"width": 100, "depth": 3, "shrink": 3.0}, [100, 33, 11]),
        ("mlp", {"width": 2, "depth": 3, "shrink": 16.0}, [2, 1, 1]),
        ("snn", {}, [256, 64]),
        ("snn", {"width": 8192}, [8192, 2048]),
    ],
)
def test_layers_are_as_wide_as_asked(name: str, params: dict[str, object], widths: list[int]) -> None:
    backbone = build(name, 30, **params)
    assert [layer.out_features for layer in linear_layers(backbone)] == widths == [*widths[:-1], backbone.widths.pooled]


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_an_mlp_is_its_layers(norm: str, activation: str) -> None:
    backbone, table = build("mlp", 7, width=6, norm=norm, activation=activation).eval(), torch.randn(4, 7)
    norms = {
        "none": lambda x: x,
        "batch": lambda x: x / math.sqrt(1 + 1e-5),  # nothing was seen yet: mean 0, variance 1
        "layer": lambda x: functional.layer_norm(x, (6,)),
    }
    expected = table
    for layer in linear_layers(backbone):
        expected = getattr(functional, activation)(norms[norm](layer(expected)))
    torch.testing.assert_close(backbone(table).pooled, expected)


def test_weights_of_an_snn_are_lecun_normal() -> None:
    for layer in linear_layers(build("snn", 400, width=1000, shrink=1.0)):
        scaled = layer.weight.detach() * math.sqrt(layer.in_features)
        assert scaled.mean().item() == pytest.approx(0, abs=0.01)
        assert scaled.std().item() == pytest.approx(1, abs=0.01)
        assert scaled.abs().max() > 3, "normal, not uniform"
        assert not layer.bias.any()


@pytest.mark.parametrize("training", [False, True])
def test_an_snn_keeps_mean_0_and_variance_1_through_eight_layers(training: bool) -> None:
    backbone = build("snn", 500, width=512, depth=8, shrink=1.0, dropout=0.05).train(training)
    with torch.no_grad():
        pooled = backbone(torch.randn(400, 500)).pooled
    assert pooled.mean().item() == pytest.approx(0, abs=0.15)
    assert pooled.var().item() == pytest.approx(1, abs=0.25)


def test_without_lecun_weights_variance_is_lost() -> None:
    """The law above can fail: with the usual initial weights it does."""
    backbone = build("snn", 500, width=512, depth=8, shrink=1.0)
    for layer in linear_layers(backbone):
        layer.reset_parameters()
    with torch.no_grad():
        assert backbone.eval()(torch.randn(400, 500)).pooled.var() < 0.5


# --- gene tokens


@pytest.mark.parametrize(("columns", "tokens"), [(64, 16), (70, 16), (70, 32), (70, 64), (70, 1), (5, 5), (7, 4)])
def test_every_token_is_a_linear_map_of_its_own_chunk(columns: int, tokens: int) -> None:
    backbone, table = (
        build("gene_tokens", columns, tokens=tokens, dim=6, activation="relu").eval(),
        torch.randn(3, columns),
    )
    assert isinstance(backbone, GeneTokens)
    groups = [group for group in backbone.chunks if isinstance(group, Chunks)]
    weights = [weight for group in groups for weight in group.weight]
    biases = [bias for group in groups for bias in group.bias]
    chunks = table.tensor_split(tokens, dim=1)
    assert len(chunks) == len(weights) == len(biases)
    for place, (chunk, weight, bias) in enumerate(zip(chunks, weights, biases, strict=True)):
        expected = functional.layer_norm(chunk @ weight + bias, (6,)).relu()
        torch.testing.assert_close(backbone(table).tokens[:, place], expected, atol=1e-5, rtol=1e-5)


def test_every_column_belongs_to_one_token() -> None:
    backbone, table = build("gene_tokens", 70, tokens=16).eval(), torch.randn(1, 70, requires_grad=True)
    message = backbone(table).tokens.square().sum(dim=2)[0]
    reads = torch.stack([torch.autograd.grad(one, table, retain_graph=True)[0][0] != 0 for one in message])
    assert reads.sum(dim=0).tolist() == [1] * 70
    assert sorted(reads.sum(dim=1).tolist(), reverse=True) == reads.sum(dim=1).tolist() == [5] * 6 + [4] * 10


def test_weights_of_a_chunk_begin_as_those_of_a_linear_layer() -> None:
    chunks, layer = Chunks(20, 16, 50), nn.Linear(16, 1000)
    for ours, theirs in ((chunks.weight, layer.weight), (chunks.bias, layer.bias)):
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.02)


def test_more_tokens_than_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot cut 15 columns into 16 tokens: set tokens to 15 at most"):
        build("gene_tokens", 15)
    with pytest.raises(ConfigError, match=r"'tokens' of backbone 'gene_tokens' must lie in"):
        build("gene_tokens", 15, tokens=0)
