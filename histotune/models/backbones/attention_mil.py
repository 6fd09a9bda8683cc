"""Multiple-instance learning: the instances of a bag, each for itself, pooled by attention or more simply."""

from __future__ import annotations

from torch import Tensor, nn

from histotune.core.parameters import Interval
from histotune.data.modalities import Bag
from histotune.models.backbones._base import BACKBONES, BackboneInput, row_width
from histotune.models.backbones._instances import InstanceBackbone
from histotune.models.backbones._pool import POOL_RANGES, TokenPool


class MultipleInstances(InstanceBackbone):
    """Instances through one layer; a graph's neighbours are not looked at."""

    dense = True

    def __init__(self, layers: nn.Module, pool: TokenPool, dim: int) -> None:
        super().__init__(pool, dim)
        self.layers = layers

    def embed(self, bag: Bag) -> Tensor:
        """Map instances [B, P, D] to [B, P, dim]."""
        embedded: Tensor = self.layers(bag.features)
        return embedded


@BACKBONES.register(
    "attention_mil",
    kinds=("bag", "graph"),
    ranges={
        "dim": Interval(1, 4096, whole=True),
        "dropout": Interval(0, 1, open_high=True),
        **POOL_RANGES,
    },
    source="Ilse et al., 2018",
)
def attention_mil(
    given: BackboneInput,
    *,
    dim: int = 256,
    dropout: float = 0.25,
    pool: str = "attention",
    hidden: int = 128,
    k: int = 8,
) -> MultipleInstances:
    """Instances of a bag through one layer, pooled by mean, maximum, gated attention (Ilse et al., 2018) or top-k vote.

    Args:
        given: features of an instance.
        dim: width of an instance's token.
        dropout: of the tokens' features.
        pool: `mean`; `max`, feature by feature; gated `attention`; `top_k`: attention among the `k` instances of
            highest score alone.
        hidden: units of the attention that scores instances.
        k: instances that have a vote, with `top_k`.
    """
    layers = nn.Sequential(nn.Linear(row_width("attention_mil", given), dim), nn.ReLU(), nn.Dropout(dropout))
    return MultipleInstances(layers, TokenPool(dim, pool, hidden=hidden, k=k), dim)
