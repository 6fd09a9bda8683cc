"""Graph networks over the patches of a slide: GIN and PNA on padded lists of neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.core.parameters import YES_OR_NO, Interval, OneOf
from histotune.data.modalities import Bag
from histotune.models.backbones._base import BACKBONES, BackboneInput, row_width
from histotune.models.backbones._instances import InstanceBackbone, only_there
from histotune.models.backbones._pool import POOL_RANGES, TokenPool

_EPS = 1e-5  # under the root of a variance, whose slope would be infinite at 0


class Edges(NamedTuple):
    """The edges: places [B, P, K] of neighbours among all B * P nodes, and which exist, bool [B, P, K]."""

    places: Tensor
    there: Tensor

    def gathered(self, nodes: Tensor) -> Tensor:
        """Map nodes [B, P, D] to those of their neighbours, [B, P, K, D]; a missing neighbour has any values."""
        return functional.embedding(self.places, nodes.flatten(0, 1))

    def total(self, gathered: Tensor) -> Tensor:
        """Map [B, P, K, D] to the sum over those that are there, [B, P, D]."""
        return (gathered * self.there[..., None]).sum(dim=2)


def edges(bag: Bag) -> Edges:
    """Return the edges of a graph as `tidy` returns it; those from or to padding are left out."""
    cases, nodes, _ = bag.neighbours.shape
    inside = bag.neighbours.clamp_min(0)
    answers = bag.there.gather(1, inside.flatten(1)).view_as(inside)
    offsets = nodes * torch.arange(cases, device=inside.device)[:, None, None]
    return Edges(inside + offsets, (bag.neighbours >= 0) & answers & bag.there[:, :, None])


class Gin(nn.Module):
    """h_i <- MLP((1 + eps) h_i + sum of its neighbours' h_j), with a learned eps (Xu et al., 2019)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, nodes: Tensor, edges: Edges) -> Tensor:
        """Map nodes [B, P, D] to the same shape."""
        mapped: Tensor = self.mlp((1 + self.eps) * nodes + edges.total(edges.gathered(nodes)))
        return mapped


class Pna(nn.Module):
    """h_i <- W [h_i; mean, max, min and std of its neighbours' h_j, each x 1, log(d+1)/delta and delta/log(d+1)].

    Corso et al., 2020, with the neighbours' own vectors as messages. All twelve are 0 of a node without neighbours.
    """

    def __init__(self, dim: int, delta: float) -> None:
        super().__init__()
        self.delta = delta
        self.map = nn.Linear(13 * dim, dim)

    def forward(self, nodes: Tensor, edges: Edges) -> Tensor:
        """Map nodes [B, P, D] to the same shape."""
        observed, degrees = edges.gathered(nodes), edges.there.sum(dim=2, keepdim=True)
        counts = degrees.clamp_min(1).to(observed.dtype)
        mean = edges.total(observed) / counts
        variance = edges.total((observed - mean[:, :, None]).square()) / counts
        far = (~edges.there).to(observed.dtype)[..., None] * (torch.finfo(observed.dtype).max / 2)
        highest, lowest = (observed - far).amax(dim=2), (observed + far).amin(dim=2)
        message = torch.cat([mean, highest, lowest, (variance + _EPS).sqrt()], dim=2) * (degrees > 0)
        scale = (counts + 1).log() / self.delta
        mapped: Tensor = self.map(torch.cat([nodes, message, message * scale, message / scale], dim=2))
        return mapped


class PatchGraph(InstanceBackbone):
    """Layers of one kind, each normed, through ReLU and added to its input, so that deep ones keep the patch."""

    def __init__(
        self, features: int, layers: Sequence[nn.Module], dropout: float, pool: TokenPool, dim: int, placed: bool
    ) -> None:
        super().__init__(pool, dim)
        self.placed = placed
        self.first = nn.Sequential(nn.Linear(features + 2 * placed, dim), nn.ReLU(), nn.Dropout(dropout))
        self.layers = nn.ModuleList(layers)
        self.rest = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Dropout(dropout)) for _ in layers)

    def embed(self, bag: Bag) -> Tensor:
        """Map patches [B, P, D] and their neighbours to [B, P, dim]."""
        features = torch.cat([bag.features, places(bag).to(bag.features)], dim=2) if self.placed else bag.features
        nodes, who = self.first(features), edges(bag)
        for layer, rest in zip(self.layers, self.rest, strict=True):
            nodes = nodes + rest(layer(nodes, who))
        return nodes


def places(bag: Bag) -> Tensor:
    """Return coordinates from the centre of a case's patches in units of their spread, [B, P, 2]: rms distance 1."""
    there, count = bag.there[:, :, None], bag.there.sum(dim=1).clamp_min(1)[:, None, None]
    corner = bag.coordinates.masked_fill(~there, torch.finfo(bag.coordinates.dtype).max).amin(dim=1, keepdim=True)
    inside = only_there(bag.coordinates - corner, bag.there)  # from a corner: pixels of a slide are large numbers
    apart = only_there(inside - inside.sum(dim=1, keepdim=True) / count, bag.there)
    spread = (apart.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    return apart / spread.clamp_min(torch.finfo(spread.dtype).tiny)


@BACKBONES.register(
    "patch_graph",
    kinds=("graph",),
    ranges={
        "layer": OneOf("gin", "pna"),
        "depth": Interval(1, 12, whole=True),
        "dim": Interval(1, 4096, whole=True),
        "dropout": Interval(0, 1, open_high=True),
        "coordinates": YES_OR_NO,
        "degree": Interval(0, 1000, open_low=True),
        **POOL_RANGES,
    },
    source="Xu et al., 2019 (GIN); Corso et al., 2020 (PNA); arXiv 2509.03408 (three layers over a slide)",
)
def patch_graph(
    given: BackboneInput,
    *,
    layer: str = "pna",
    depth: int = 3,
    dim: int = 64,
    dropout: float = 0.2,
    coordinates: bool = False,
    degree: float = 6.0,
    pool: str = "attention",
    hidden: int = 64,
    k: int = 8,
) -> PatchGraph:
    """Graph network over a slide's patches: `depth` layers of GIN (Xu et al., 2019) or PNA (Corso et al., 2020).

    Args:
        given: features of a patch.
        layer: `gin` adds neighbours up; `pna` takes their mean, maximum, minimum and standard deviation.
        depth: layers; a patch receives from others up to that many edges away.
        dim: width of a patch's token.
        dropout: of the tokens' features, after every layer.
        coordinates: whether a patch's place in its slide, from the centre of the case's patches, is a feature.
        degree: of a typical patch: PNA's delta is log(degree + 1), which no batch decides. 6 is the mean of a Delaunay
            triangulation; k nearest neighbours make it a little more than k. It only sets the scale of two scalers.
        pool: how patches become one vector, as of `attention_mil`.
        hidden: units of the attention that scores patches.
        k: patches that have a vote, with `top_k`.
    """
    features = row_width("patch_graph", given)
    layers = [Gin(dim) if layer == "gin" else Pna(dim, math.log(degree + 1)) for _ in range(depth)]
    pooled = TokenPool(dim, pool, hidden=hidden, k=k)
    return PatchGraph(features, layers, dropout, pooled, dim, coordinates)
