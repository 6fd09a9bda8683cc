"""Backbones of bags and graphs: pools and graph layers against plain arithmetic, and what may not matter to them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from histotune.data.modalities import Bag
from histotune.models.backbones import Backbone, TokenPool, build_backbone
from histotune.models.backbones._instances import InstanceBackbone
from histotune.models.backbones.patch_graph import Gin, Pna, edges, places
from histotune.testing.batches import INPUTS, batch_of, padded

POOLS = ("mean", "max", "attention", "top_k")
LENGTHS = [6, 0, 9, 1]
Arrays = Mapping[str, np.ndarray]


def build(name: str, kind: str, **params: object) -> InstanceBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(name, "slides", INPUTS[kind], **params).eval()
    assert isinstance(backbone, InstanceBackbone)
    return backbone


def bag_of(kind: str, lengths: list[int] = LENGTHS) -> Bag:
    bag = batch_of(kind, lengths)
    assert isinstance(bag, Bag)
    return bag


def arrays(module: torch.nn.Module) -> Arrays:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def linear(x: np.ndarray, at: Arrays, path: str) -> np.ndarray:
    return x @ at[f"{path}.weight"].T + at[f"{path}.bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


# --- pools


def pool(kind: str, k: int = 3) -> TokenPool:
    torch.manual_seed(3)
    return TokenPool(5, kind, hidden=4, k=k)


def scores(tokens: np.ndarray, at: Arrays) -> np.ndarray:
    """Ilse et al. (2018), equation 9, before its softmax: w^T (tanh(V h) * sigmoid(U h)) of every instance."""
    v, u = np.split(at["hidden.weight"], 2)
    v_bias, u_bias = np.split(at["hidden.bias"], 2)
    gated = np.tanh(tokens @ v.T + v_bias) / (1 + np.exp(-(tokens @ u.T + u_bias)))
    return gated @ at["score.weight"][0] + at["score.bias"]


def restated_pool(tokens: np.ndarray, kind: str, at: Arrays, k: int) -> np.ndarray:
    """One case: tokens [n, D], all there."""
    if kind == "mean":
        return tokens.mean(0)
    if kind == "max":
        return tokens.max(0)
    given = scores(tokens, at)
    chosen = np.argsort(-given)[: k if kind == "top_k" else None]
    weights = np.exp(given[chosen]) / np.exp(given[chosen]).sum()
    return weights @ tokens[chosen]


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_a_pool_is_what_plain_arithmetic_says(kind: str, k: int) -> None:
    layer, tokens, there = pool(kind, k), 3 * torch.randn(3, 8, 5), torch.arange(8) < torch.tensor([[8], [5], [2]])
    result = layer(tokens, there).detach().numpy()
    for case, count in enumerate((8, 5, 2)):
        expected = restated_pool(tokens[case, :count].double().numpy(), kind, arrays(layer), k)
        assert result[case] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(layer(tokens[:1]), layer(tokens[:1], there[:1]))


@pytest.mark.parametrize("kind", POOLS)
def test_shares_say_what_the_vector_is_made_of(kind: str) -> None:
    backbone, bag = build("attention_mil", "bag", pool=kind, k=2), bag_of("bag")
    shares, (tokens, pooled, there) = backbone.shares(bag), backbone(bag)
    assert shares.shape == bag.there.shape
    assert shares.sum(dim=1).tolist() == pytest.approx([1, 0, 1, 1])
    assert not shares[~bag.there].any()
    assert (shares > 0).sum(dim=1).max() <= {"top_k": 2}.get(kind, 9)
    if kind != "max":
        torch.testing.assert_close((shares[:, :, None] * tokens).sum(dim=1), pooled)
    else:
        won = (tokens == pooled[:, None]) & there[:, :, None]
        assert ((shares > 0) <= won.any(dim=2)).all()


def test_votes_of_all_are_the_attention_of_all() -> None:
    bag = bag_of("bag")
    attention, votes = (build("attention_mil", "bag", pool=kind, k=9)(bag).pooled for kind in ("attention", "top_k"))
    torch.testing.assert_close(votes, attention)


def test_only_the_chosen_have_a_say() -> None:
    backbone, bag = build("attention_mil", "bag", pool="top_k", k=2), bag_of("bag", [9, 9])
    features = bag.features.requires_grad_()
    backbone(bag._replace(features=features)).pooled.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad.any(dim=2), backbone.shares(bag) > 0)


def test_a_bag_does_not_look_at_the_neighbours_of_a_graph() -> None:
    backbone, graph = build("attention_mil", "graph"), bag_of("graph")
    plain = graph._replace(neighbours=graph.neighbours[:, :, :0])
    assert torch.equal(backbone(graph).pooled, backbone(plain).pooled)


# --- graph layers against a dense adjacency matrix in float64


def adjacency(bag: Bag, case: int, count: int) -> np.ndarray:
    """Row i: whom node i hears."""
    matrix = np.zeros((count, count))
    for node in range(count):
        for other in bag.neighbours[case, node].tolist():
            if other >= 0:
                matrix[node, other] = 1
    return matrix


def gin(h: np.ndarray, a: np.ndarray, at: Arrays, path: str) -> np.ndarray:
    """Xu et al. (2019), equation 4.1."""
    total = (1 + at[f"{path}.eps"]) * h + a @ h
    return linear(relu(linear(total, at, f"{path}.mlp.0")), at, f"{path}.mlp.2")


def pna(h: np.ndarray, a: np.ndarray, at: Arrays, path: str, degree: float) -> np.ndarray:
    """Corso et al. (2020), equations 5 to 8, node by node; 1e-5 under the root."""
    rows, delta = [], math.log(degree + 1)
    for node, row in enumerate(a):
        observed, d = h[row > 0], int(row.sum())
        if d:
            std = np.sqrt(observed.var(0) + 1e-5)
            message = np.concatenate([observed.mean(0), observed.max(0), observed.min(0), std])
            scaled = [message * (math.log(d + 1) / delta) ** power for power in (0, 1, -1)]
        else:
            scaled = [np.zeros(12 * h.shape[1])]
        rows.append(np.concatenate([h[node], *scaled]))
    return linear(np.stack(rows), at, f"{path}.map")


def layer_norm(x: np.ndarray, at: Arrays, path: str) -> np.ndarray:
    spread = np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return (x - x.mean(1, keepdims=True)) / spread * at[f"{path}.weight"] + at[f"{path}.bias"]


def restated(bag: Bag, case: int, count: int, at: Arrays, layer: str, *, placed: bool) -> np.ndarray:
    """The tokens of one case."""
    x = bag.features[case, :count].double().numpy()
    if placed:
        apart = bag.coordinates[case, :count].double().numpy()
        apart = apart - apart.mean(0)
        spread = np.sqrt((apart**2).sum(1).mean())
        x = np.concatenate([x, apart / (spread or 1)], axis=1)
    h, a = relu(linear(x, at, "first.0")), adjacency(bag, case, count)
    for depth in range(3):
        path = f"layers.{depth}"
        new = gin(h, a, at, path) if layer == "gin" else pna(h, a, at, path, 4.0)
        h = h + relu(layer_norm(new, at, f"rest.{depth}.0"))
    return h


def test_layers_are_what_plain_arithmetic_says_of_nodes_of_any_sign() -> None:
    bag, nodes = bag_of("graph", [9]), torch.randn(1, 9, 5)
    torch.manual_seed(0)
    sums, statistics = Gin(5), Pna(5, math.log(4.0 + 1))
    torch.nn.init.constant_(sums.eps, -0.4)
    with torch.no_grad():
        result = [layer(nodes, edges(bag))[0].numpy() for layer in (sums, statistics)]
    h, a = nodes[0].double().numpy(), adjacency(bag, 0, 9)
    layers = [{f"it.{name}": value for name, value in arrays(layer).items()} for layer in (sums, statistics)]
    assert result[0] == pytest.approx(gin(h, a, layers[0], "it"), rel=1e-4, abs=1e-5)
    assert result[1] == pytest.approx(pna(h, a, layers[1], "it", 4.0), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("layer", ["gin", "pna"])
@pytest.mark.parametrize("placed", [False, True])
def test_a_graph_network_is_what_plain_arithmetic_says(layer: str, placed: bool) -> None:
    backbone = build("patch_graph", "graph", layer=layer, dim=7, coordinates=placed, degree=4.0, pool="mean")
    for name, value in backbone.state_dict().items():
        if name.endswith("eps"):
            value.fill_(0.3)
    bag = bag_of("graph")
    result, at = backbone(bag), arrays(backbone)
    for case, count in enumerate(LENGTHS):
        if count:
            expected = restated(bag, case, count, at, layer, placed=placed)
            assert result.tokens[case, :count].detach().numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)
            assert result.pooled[case].detach().numpy() == pytest.approx(expected.mean(0), rel=1e-3, abs=1e-4)


# --- what may not matter, and what must


GRAPHS = pytest.mark.parametrize(
    "params",
    [{"layer": layer, "pool": pool, "coordinates": True, "k": 3} for layer in ("gin", "pna") for pool in POOLS],
    ids=lambda params: f"{params['layer']}-{params['pool']}",
)


def reordered(bag: Bag, order: Tensor) -> Bag:
    """Return a bag whose place i holds what was at order[i], with neighbours renamed and listed backwards."""
    renamed = torch.cat([order.argsort(), torch.tensor([-1])])[bag.neighbours]  # place -1, the last, stays -1
    features, coordinates, there = (values[:, order] for values in (bag.features, bag.coordinates, bag.there))
    return Bag(features, coordinates, there, renamed[:, order].flip(2))


@GRAPHS
def test_the_order_of_patches_and_neighbours_does_not_matter(params: dict[str, object]) -> None:
    backbone, bag = build("patch_graph", "graph", **params), bag_of("graph")
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))  # padding comes to lie between patches
    with torch.no_grad():
        first, second = backbone(bag), backbone(reordered(bag, order))
    torch.testing.assert_close(second.pooled, first.pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second.tokens, first.tokens[:, order], rtol=1e-5, atol=1e-6)


@GRAPHS
def test_edges_matter(params: dict[str, object]) -> None:
    backbone, bag = build("patch_graph", "graph", **params), bag_of("graph")
    lonely = bag._replace(neighbours=torch.full_like(bag.neighbours, -1))
    difference = (backbone(bag).pooled - backbone(lonely).pooled).abs().amax(dim=1)
    assert (difference > 1e-3).tolist() == [True, False, True, False]  # no edges in an empty graph and in one of a node


@GRAPHS
def test_nodes_without_neighbours_are_finite_and_train(params: dict[str, object]) -> None:
    backbone = build("patch_graph", "graph", **params)
    for bag in (bag_of("graph", [1]), bag_of("graph", [5])._replace(neighbours=torch.full((1, 5, 3), -1))):
        for graph in (bag, bag._replace(neighbours=bag.neighbours[:, :, :0])):
            pooled = backbone(graph).pooled
            pooled.square().sum().backward()
            assert torch.isfinite(pooled).all()
            assert all(torch.isfinite(p.grad).all() for p in backbone.parameters() if p.grad is not None)


@GRAPHS
def test_an_edge_to_padding_is_none(params: dict[str, object]) -> None:
    backbone, bag = build("patch_graph", "graph", **params), bag_of("graph")
    longer = padded(bag, 2)
    pointing = longer.neighbours.where(longer.neighbours >= 0, 10)
    with torch.no_grad():
        torch.testing.assert_close(backbone(longer._replace(neighbours=pointing)).pooled, backbone(bag).pooled)


def test_equal_patches_have_a_finite_gradient() -> None:
    """The root of a variance of 0 has no slope."""
    bag = bag_of("graph", [6])
    features = torch.ones_like(bag.features).requires_grad_()
    build("patch_graph", "graph")(bag._replace(features=features)).pooled.square().sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_a_patch_hears_of_others_as_many_edges_away_as_there_are_layers() -> None:
    count = 8
    chain = torch.arange(count)[:, None] + torch.tensor([-1, 1])
    chain[chain == count] = -1
    bag = Bag(torch.randn(1, count, 12), torch.rand(1, count, 2), torch.ones(1, count, dtype=torch.bool), chain[None])
    for layer in ("gin", "pna"):
        features = bag.features.clone().requires_grad_()
        tokens = build("patch_graph", "graph", layer=layer)(bag._replace(features=features)).tokens
        (observed,) = torch.autograd.grad(tokens[0, 0].square().sum(), features)
        assert observed[0].any(dim=1).tolist() == [True] * 4 + [False] * 4


# --- coordinates


def test_places_do_not_know_where_the_case_lies_nor_its_scale() -> None:
    bag = bag_of("graph")
    moved = bag._replace(coordinates=4 * bag.coordinates + torch.tensor([5e4, -2e4]))
    torch.testing.assert_close(places(moved), places(bag), rtol=0, atol=1e-4)
    for case, count in enumerate(LENGTHS[:1] + LENGTHS[2:3]):
        there = places(bag)[2 * case, :count]
        assert there.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-5)
        assert there.square().sum(dim=1).mean().sqrt().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_patches_at_one_place_are_in_the_centre(count: int) -> None:
    bag = bag_of("graph", [count])
    assert not places(bag._replace(coordinates=torch.full_like(bag.coordinates, 98765.4))).any()


def test_coordinates_count_only_where_asked() -> None:
    bag = bag_of("graph", [6])
    turned = bag._replace(coordinates=bag.coordinates.flip(1))
    for asked in (False, True):
        backbone: Backbone = build("patch_graph", "graph", coordinates=asked)
        assert torch.equal(backbone(bag).pooled, backbone(turned).pooled) != asked
