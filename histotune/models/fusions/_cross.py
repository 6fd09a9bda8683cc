"""Cross-attention between branches' tokens: one implementation for every fusion by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histotune.core.parameters import Allowed, Interval, OneOf
from histotune.errors import ConfigError, suggest
from histotune.models.backbones import BackboneOutput, TokenPool, Widths
from histotune.models.fusions._attention import COLDEST, HOTTEST, MODES, CrossAttention, Temperature
from histotune.models.fusions._base import AttentionMaps, Fusion, common_width, only_present, several, unpadded

BOTH, ARROW = "both", "->"

There = Mapping[str, Tensor | None]
"""{branch: which tokens are no padding, bool [B, T]}; None: all of them."""

SHARED_RANGES: Mapping[str, Allowed] = {
    "dim": Interval(0, 4096, whole=True),
    "heads": Interval(1, 64, whole=True),
    "layers": Interval(1, 12, whole=True),
    "expansion": Interval(0, 8),
    "dropout": Interval(0, 1, open_high=True),
    "pool": OneOf("mean", "attention"),
}
TEMPERATURE_RANGES: Mapping[str, Allowed] = {
    "temperature": Interval(COLDEST, HOTTEST),
    "temperature_mode": OneOf(*MODES),
    "start_temperature": Interval(COLDEST, HOTTEST),
}


@dataclass(frozen=True)
class CrossOptions:
    """How branches attend to each other.

    Args:
        dim: width of all tokens, to which each branch's are projected; 0 keeps the width that they share.
        heads: of the attention; they divide `dim`.
        layers: how many times over.
        expansion: width of the MLP after each attention, in multiples of `dim`; 0 leaves it out.
        dropout: of attention weights and in the MLP.
        pool: how tokens become one vector, `mean` or gated `attention`.
        direction: `both`, or `a->b`: a asks and is passed on, b only answers.
        residual: the attention's output is added to the tokens instead of replacing them.
        temperature, temperature_mode, start_temperature: as `Temperature` takes them.
    """

    dim: int
    heads: int
    layers: int
    expansion: float
    dropout: float
    pool: str
    direction: str = BOTH
    residual: bool = True
    temperature: float = 1.0
    temperature_mode: str = "fixed"
    start_temperature: float = 1.0


class CrossBlock(nn.Module):
    """Every branch that asks attends to the tokens of the others, all as they were before; an MLP follows."""

    def __init__(self, asks: Mapping[str, Sequence[str]], dim: int, options: CrossOptions) -> None:
        super().__init__()
        self.asks, self.residual = asks, options.residual
        observed = sorted({name for asking, others in asks.items() for name in (asking, *others)})
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in observed})
        self.attentions = nn.ModuleDict({name: _attention(dim, options) for name in asks})
        self.mlps = nn.ModuleDict({name: _mlp(dim, options) for name in asks} if options.expansion else {})

    def forward(self, tokens: Mapping[str, Tensor], there: There) -> dict[str, Tensor]:
        """Map {branch: [B, T, D]} to the same shapes; T may differ between branches."""
        new, normed = dict(tokens), self._normed(tokens)
        for name, others in self.asks.items():
            observed = self.attentions[name](normed[name], *_side_by_side(normed, there, others))
            new[name] = tokens[name] + observed if self.residual else observed
            if name in self.mlps:
                new[name] = new[name] + self.mlps[name](new[name])
        return new

    def attention(self, tokens: Mapping[str, Tensor], there: There, temperature: float | None = None) -> AttentionMaps:
        """Return the attention weights when `forward` maps these tokens {branch: [B, T, D]}."""
        normed = self._normed(tokens)
        result: dict[tuple[str, str], Tensor] = {}
        for name, others in self.asks.items():
            layer = self.attentions[name]
            assert isinstance(layer, CrossAttention)
            answering, answers = _side_by_side(normed, there, others)
            weights = layer.weights(normed[name], answering, temperature, answers)
            asks = there[name]
            if asks is not None:
                weights = weights * asks[:, None, :, None]
            lengths = [normed[other].shape[1] for other in others]
            result |= {(name, other): part for other, part in zip(others, weights.split(lengths, dim=-1), strict=True)}
        return result

    def temperature(self, asking: str) -> Tensor:
        """Return tau [heads] of a branch that asks."""
        layer = self.attentions[asking]
        assert isinstance(layer, CrossAttention)
        tau: Tensor = layer.temperature()
        return tau

    def _normed(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: norm(tokens[name]) for name, norm in self.norms.items()}


class CrossFusion(Fusion):
    """Tokens of one width, blocks of cross-attention, one pooled vector of each branch; those that asked side by side.

    An absent branch gives the same whatever its values are: what its layers make of zeros.
    """

    def __init__(self, fusion: str, widths: Mapping[str, Widths], options: CrossOptions) -> None:
        super().__init__()
        names = several(fusion, widths)
        token = {name: widths[name].token for name in names}
        dim = common_width(fusion, "tokens", token, options.dim)
        if dim % options.heads:
            divisors = [n for n in range(1, dim + 1) if dim % n == 0]
            near = min(divisors, key=lambda n: abs(n - options.heads))
            raise ConfigError(f"fusion {fusion!r}: {options.heads} heads do not divide tokens of {dim}; {near} would")
        asks = {name: [other for other in names if other != name] for name in names}
        if options.direction != BOTH:
            asking, answering = _ends(fusion, options.direction, names)
            asks = {asking: [answering]}
        self.asking = list(asks)
        self.embedding_dims = dict.fromkeys(names, dim)
        self.out_dim = dim * len(asks)
        self.projections = nn.ModuleDict({name: _projection(token[name], dim, options.dim) for name in names})
        self.blocks = nn.ModuleList(CrossBlock(asks, dim, options) for _ in range(options.layers))
        self.pools = nn.ModuleDict({name: TokenPool(dim, options.pool) for name in names})

    def tokens(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: tokens [B, T, Dt]} to what the first block sees, {branch: [B, T, D]}."""
        given = {name: _without_padding(branches[name], present[name]) for name in self.projections}
        return {name: projection(given[name]) for name, projection in self.projections.items()}

    def there(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> There:
        """Return which tokens are no padding, where there is any."""
        padded = {name: branches[name].there is not None for name in self.projections}
        return {name: unpadded(branches[name], present[name]) if some else None for name, some in padded.items()}

    def embed(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: tokens [B, T, Dt]} to {branch: [B, D]}."""
        tokens, there = self.tokens(branches, present), self.there(branches, present)
        for block in self.blocks:
            tokens = block(tokens, there)
        return {name: pool(tokens[name], there[name]) for name, pool in self.pools.items()}

    def attention(
        self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor], temperature: float | None = None
    ) -> list[AttentionMaps]:
        """Return who looked at what in every block, or would with heads of a `temperature` in that block."""
        tokens, there, result = self.tokens(branches, present), self.there(branches, present), []
        for block in self.blocks:
            assert isinstance(block, CrossBlock)
            result.append(block.attention(tokens, there, temperature))
            tokens = block(tokens, there)
        return result

    def temperatures(self) -> list[dict[str, Tensor]]:
        """Return the temperatures [heads] of every branch that asks, block by block."""
        result = []
        for block in self.blocks:
            assert isinstance(block, CrossBlock)
            result.append({name: block.temperature(name) for name in self.asking})
        return result

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors of the branches that asked, side by side, [B, D times their number]."""
        return torch.cat([embeddings[name] for name in self.asking], dim=1)

    def set_progress(self, fraction: float) -> None:
        """Anneal the temperatures."""
        for module in self.modules():
            if isinstance(module, Temperature):
                module.set_progress(fraction)


def _ends(fusion: str, direction: str, names: Sequence[str]) -> tuple[str, str]:
    if len(names) > 2:
        raise ConfigError(f"fusion {fusion!r}: direction {direction!r} is for two branches, got {names}: take {BOTH!r}")
    asking, arrow, answering = direction.partition(ARROW)
    if not arrow or asking == answering or {asking, answering} - set(names):
        known = [BOTH, *(f"{a}{ARROW}{b}" for a in names for b in names if a != b)]
        raise ConfigError(f"fusion {fusion!r}: unknown direction {direction!r}. {suggest(direction, known)}")
    return asking, answering


def _side_by_side(tokens: Mapping[str, Tensor], there: There, names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Return the tokens of several branches in a row, and which are no padding (None: all)."""
    if len(names) == 1:
        return tokens[names[0]], there[names[0]]
    row, masks = torch.cat([tokens[name] for name in names], dim=1), [there[name] for name in names]
    if all(mask is None for mask in masks):
        return row, None
    every = [torch.ones_like(tokens[name][:, :, 0], dtype=torch.bool) for name in names]
    return row, torch.cat([one if mask is None else mask for one, mask in zip(every, masks, strict=True)], dim=1)


def _without_padding(output: BackboneOutput, present: Tensor) -> Tensor:
    """Return tokens with zeros for padding and for all of a case without the modality."""
    tokens = only_present(output.tokens, present)
    return tokens if output.there is None else tokens.where(output.there[:, :, None], torch.zeros_like(tokens))


def _projection(width: int, dim: int, asked: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, dim) if asked else nn.Identity(), nn.LayerNorm(dim))


def _attention(dim: int, options: CrossOptions) -> CrossAttention:
    temperature = Temperature(options.heads, options.temperature, options.temperature_mode, options.start_temperature)
    return CrossAttention(dim, options.heads, options.dropout, temperature)


def _mlp(dim: int, options: CrossOptions) -> nn.Module:
    hidden = max(1, round(options.expansion * dim))
    layers = (nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(options.dropout), nn.Linear(hidden, dim))
    return nn.Sequential(*layers)
