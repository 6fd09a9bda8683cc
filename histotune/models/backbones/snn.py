"""Self-normalising network over the columns of a table."""

from __future__ import annotations

from torch import nn

from histotune.models.backbones._base import BACKBONES, BackboneInput, row_width
from histotune.models.backbones.mlp import WIDTH_RANGES, Perceptron, shrinking


@BACKBONES.register(
    "snn",
    kinds=("table",),
    ranges=WIDTH_RANGES,
    source="Klambauer et al., 2017; arXiv 2509.03408 (8192-2048 over copy numbers)",
)
def snn(
    given: BackboneInput, *, width: int = 256, depth: int = 2, shrink: float = 4.0, dropout: float = 0.1
) -> Perceptron:
    """Self-normalising network (Klambauer et al., 2017): SELU, alpha dropout, LeCun normal weights; 256-64 units.

    Mean 0 and variance 1 of standardised columns come through its layers without any norm. arXiv 2509.03408 takes
    8192-2048 for copy numbers of 977 patients: `width` 8192.

    Args:
        given: number of columns.
        width: units of the first layer.
        depth: layers.
        shrink: every further layer has this many times fewer units.
        dropout: alpha dropout after every layer, which keeps mean and variance.
    """
    layers: list[nn.Module] = []
    before, sizes = row_width("snn", given), shrinking(width, depth, shrink)
    for size in sizes:
        linear = nn.Linear(before, size)
        nn.init.normal_(linear.weight, std=before**-0.5)  # LeCun normal
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SELU(), nn.AlphaDropout(dropout)]
        before = size
    return Perceptron(nn.Sequential(*layers), sizes[-1])
