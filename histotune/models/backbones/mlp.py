"""Multilayer perceptron over the columns of a table."""

from __future__ import annotations

from torch import Tensor, nn

from histotune.core.parameters import Interval, OneOf
from histotune.models.backbones._base import BACKBONES, Backbone, BackboneInput, BackboneOutput, Widths, row_width

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
_NORMS = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
WIDTH_RANGES = {
    "width": Interval(1, 16384, whole=True),
    "depth": Interval(1, 12, whole=True),
    "shrink": Interval(1, 16),
    "dropout": Interval(0, 1, open_high=True),
}


class Perceptron(Backbone):
    """Layers over all columns; what comes out is the only token and the pooled vector."""

    dense = True

    def __init__(self, layers: nn.Module, width: int) -> None:
        super().__init__()
        self.layers = layers
        self.widths = Widths(token=width, pooled=width)

    def forward(self, batch: Tensor) -> BackboneOutput:
        """Map tables [B, F] to tokens [B, 1, width] and pooled [B, width]."""
        tokens = self.layers(batch)[:, None]
        return BackboneOutput(tokens, tokens[:, 0])


@BACKBONES.register(
    "mlp",
    kinds=("table",),
    ranges={**WIDTH_RANGES, "activation": OneOf(*ACTIVATIONS), "norm": OneOf(*_NORMS)},
)
def mlp(
    given: BackboneInput,
    *,
    width: int = 256,
    depth: int = 2,
    shrink: float = 1.0,
    dropout: float = 0.25,
    activation: str = "relu",
    norm: str = "layer",
) -> Perceptron:
    """Multilayer perceptron over a table's columns: `depth` hidden layers, the first of `width`.

    Args:
        given: number of columns.
        width: units of the first layer.
        depth: layers.
        shrink: every further layer has this many times fewer units.
        dropout: after every layer.
        activation: after every norm.
        norm: after every linear map: `layer`, `batch`, or `none`. The statistics of `batch` need more than one case.
    """
    layers: list[nn.Module] = []
    before, sizes = row_width("mlp", given), shrinking(width, depth, shrink)
    for size in sizes:
        layers += [nn.Linear(before, size), _NORMS[norm](size), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        before = size
    return Perceptron(nn.Sequential(*layers), sizes[-1])


def shrinking(width: int, depth: int, shrink: float) -> list[int]:
    """Return the units of every layer.

    >>> shrinking(8192, 3, 4)
    [8192, 2048, 512]
    """
    return [max(1, round(width / shrink**layer)) for layer in range(depth)]
