"""What backbones over the instances of a bag share: padding that never matters, and one vector of all instances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from histotune.data.modalities import Bag
from histotune.models.backbones._base import Backbone, BackboneOutput, Widths
from histotune.models.backbones._pool import TokenPool


class InstanceBackbone(Backbone):
    """Every instance of a bag becomes a token (zeros for padding); a subclass writes `embed`.

    An empty bag has the pooled vector 0.
    """

    def __init__(self, pool: TokenPool, dim: int) -> None:
        super().__init__()
        self.pool = pool
        self.widths = Widths(token=dim, pooled=dim)

    def embed(self, bag: Bag) -> Tensor:
        """Map a bag as `tidy` returns it to one vector of every instance, [B, P, dim]; padding may become anything."""
        raise NotImplementedError

    def forward(self, batch: Bag) -> BackboneOutput:
        """Map a bag to tokens [B, max(P, 1), dim], pooled [B, dim] and which tokens are there."""
        tokens, there = self._tokens(batch)
        return BackboneOutput(tokens, self.pool(tokens, there), there)

    def shares(self, batch: Bag) -> Tensor:
        """Return each instance's share of the pooled vector, [B, P] of sum 1, or 0 where a bag is empty."""
        return self.pool.weights(*self._tokens(batch))[:, : batch.there.shape[1]]

    def _tokens(self, batch: Bag) -> tuple[Tensor, Tensor]:
        bag = tidy(batch)
        return only_there(self.embed(bag), bag.there), bag.there


def only_there(values: Tensor, there: Tensor) -> Tensor:
    """Replace the values [B, P, ...] of padding (bool [B, P]) by zeros, also where they are NaN."""
    return values.where(there.view(*there.shape, *[1] * (values.dim() - 2)), torch.zeros_like(values))


def tidy(bag: Bag) -> Bag:
    """Return a bag of at least one place and one neighbour each, with zeros for padding."""
    if not bag.there.shape[1]:
        features, coordinates = (functional.pad(values, (0, 0, 0, 1)) for values in (bag.features, bag.coordinates))
        neighbours = bag.neighbours.new_full((len(bag.there), 1, bag.neighbours.shape[2]), -1)
        bag = Bag(features, coordinates, functional.pad(bag.there, (0, 1)), neighbours)
    if not bag.neighbours.shape[2]:
        bag = bag._replace(neighbours=functional.pad(bag.neighbours, (0, 1), value=-1))
    features, coordinates = (only_there(values, bag.there) for values in (bag.features, bag.coordinates))
    return bag._replace(features=features, coordinates=coordinates)
