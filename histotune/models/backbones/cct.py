"""Compact convolutional transformer: a convolutional tokeniser, two attention blocks, sequence pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.errors import ConfigError, suggest
from histotune.models.backbones._base import BACKBONES, Backbone, BackboneInput, BackboneOutput, Widths

_WIDTH, _HEADS, _HEAD_WIDTH, _BLOCKS = 128, 2, 128, 2
_EPS = 1e-5
_POSITIONS = ("trainable", "frozen_random")


class ConvTokenizer(nn.Module):
    """Images [B, C, H, W] -> tokens [B, about H/4 * W/4, 128]: twice a valid convolution, ReLU and a strided max pool.

    A convolution loses one pixel on each side and a border of zeros gives it back; the pool keeps ceil(side / 2)
    positions, padded as TensorFlow's SAME does: right and bottom first.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(channels, 64, 3, bias=False), nn.Conv2d(64, _WIDTH, 3, bias=False)]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, T, 128]."""
        maps = images
        for convolution in self.convolutions:
            maps = functional.pad(functional.relu(convolution(maps)), (1, 1, 1, 1))
            height, width = maps.shape[-2:]
            # after ReLU zeros are as good as minus infinity around a maximum; an even side is padded on one side only
            maps = functional.pad(maps, (width % 2, 1, height % 2, 1))
            maps = functional.max_pool2d(maps, 3, 2)
        return maps.flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Self-attention with 2 heads of 128 each, wider inside (256) than outside (128)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query_key_value = nn.Linear(_WIDTH, 3 * _HEADS * _HEAD_WIDTH)
        self.output = nn.Linear(_HEADS * _HEAD_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [B, T, 128] to [B, T, 128]."""
        size, length, _ = tokens.shape
        split = self.query_key_value(tokens).view(size, length, 3, _HEADS, _HEAD_WIDTH)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # [B, heads, T, 128] each
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input and skipped for a case with probability `depth_dropout`."""

    def __init__(self, dropout: float, depth_dropout: float) -> None:
        super().__init__()
        self.depth_dropout = depth_dropout
        self.norm_attention = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.attention = SelfAttention(dropout)
        self.norm_mlp = nn.LayerNorm(_WIDTH, eps=_EPS)
        hidden = [(nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Dropout(dropout)) for _ in range(2)]
        self.mlp = nn.Sequential(*(layer for layers in hidden for layer in layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [B, T, 128] to [B, T, 128]."""
        tokens = tokens + self._keep(self.attention(self.norm_attention(tokens)))
        return tokens + self._keep(self.mlp(self.norm_mlp(tokens)))

    def _keep(self, change: Tensor) -> Tensor:
        if not self.training or not self.depth_dropout:
            return change
        kept = torch.rand(len(change), 1, 1, device=change.device) >= self.depth_dropout
        return change * kept / (1 - self.depth_dropout)


class CompactTransformer(Backbone):
    """Tokeniser, position embedding, two blocks, norm; pooled by a learned softmax over the positions."""

    dense = True

    def __init__(self, shape: tuple[int, ...], positions: str, dropout: float, depth_dropout: float) -> None:
        super().__init__()
        self.tokenizer = ConvTokenizer(shape[0])
        height, width = (math.ceil(side / 4) for side in shape[1:])  # halved twice, rounded up each time
        self.grid = (height, width)
        embedding = torch.empty(1, height * width, _WIDTH).uniform_(-0.05, 0.05)
        self.position: Tensor
        if positions == "trainable":
            self.position = nn.Parameter(embedding)
        else:
            self.register_buffer("position", embedding)  # saved with the weights, so that a loaded model is the same
        rates = torch.linspace(0, depth_dropout, _BLOCKS).tolist()
        self.blocks = nn.Sequential(*(Block(dropout, rate) for rate in rates))
        self.norm = nn.LayerNorm(_WIDTH, eps=_EPS)
        self.pool = nn.Linear(_WIDTH, 1)
        self.widths = Widths(token=_WIDTH, pooled=_WIDTH)
        self.apply(_initialise)

    def forward(self, batch: Tensor) -> BackboneOutput:
        """Map images [B, C, H, W] to tokens [B, T, 128] and pooled [B, 128]."""
        tokens = self.norm(self.blocks(self.tokenizer(batch) + self.position))
        weights = self.pool(tokens).softmax(dim=1)  # [B, T, 1]
        return BackboneOutput(tokens, (weights * tokens).sum(dim=1))


@BACKBONES.register("cct_2")
def cct_2(
    given: BackboneInput, *, positions: str = "trainable", dropout: float = 0.1, depth_dropout: float = 0.1
) -> CompactTransformer:
    """CCT-2/3x2 (Hassani et al., 2021) as CFAL trains it: 2 blocks of width 128, 406,849 weights and the positions.

    At 112 px it sees 28 x 28 = 784 tokens. Its attention has 2 heads of 128, twice as wide as usual.

    Args:
        given: shape of an image, of at least 8 px.
        positions: `trainable` position embedding (128 more weights per token), or `frozen_random`: uniform in
            [-.05, .05] and never trained, as in the released code.
        dropout: of attention weights and in the MLP.
        depth_dropout: stochastic depth of the last block, growing from 0 in the first.
    """
    if len(given.shape) != 3 or min(given.shape[1:]) < 8:
        raise ConfigError(f"backbone 'cct_2' reads images (channels, height, width) from 8 px, got shape {given.shape}")
    if positions not in _POSITIONS:
        raise ConfigError(f"backbone 'cct_2': unknown {positions=}. {suggest(positions, _POSITIONS)}")
    for name, rate in (("dropout", dropout), ("depth_dropout", depth_dropout)):
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"backbone 'cct_2': {name} must lie in [0, 1), got {rate}")
    return CompactTransformer(given.shape, positions, dropout, depth_dropout)


def _initialise(module: nn.Module) -> None:
    """Initialise as Keras does: convolutions He normal, matrices Glorot uniform, biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
