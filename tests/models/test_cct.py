"""cct_2 is the published network, layer by layer: shapes, numbers of weights, and what plain arithmetic answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.models.backbones import BACKBONES, BackboneInput
from histotune.models.backbones.cct import Block, CompactTransformer, ConvTokenizer, SelfAttention
from histotune.models.network import build_model


def build(side: int = 112, **params: object) -> CompactTransformer:
    torch.manual_seed(0)
    backbone = BACKBONES.build("cct_2", BackboneInput((3, side, side)), **params)
    assert isinstance(backbone, CompactTransformer)
    return backbone


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def shapes_seen(module: nn.Module, run: Callable[[], object]) -> list[tuple[int, ...]]:
    """Return the output shape of every leaf of `module` that `run` reaches, in order."""
    seen: list[tuple[int, ...]] = []
    leaves = [m for m in module.modules() if not list(m.children())]
    handles = [leaf.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape))) for leaf in leaves]
    run()
    for handle in handles:
        handle.remove()
    return seen


def test_the_published_number_of_weights_in_every_part() -> None:
    backbone = build(positions="frozen_random")
    assert weights(backbone.tokenizer) == 75_456
    for block in backbone.blocks:
        assert isinstance(block, Block)
        assert weights(block.attention) == 131_968
        assert weights(block.mlp) == 2 * 16_512
        assert weights(block.norm_attention) == weights(block.norm_mlp) == 256
    assert weights(backbone.norm) == 256
    assert weights(backbone.pool) == 129
    assert weights(backbone) == 406_849
    assert weights(build()) == 406_849 + 784 * 128


def test_nine_centres_on_top_make_the_published_total() -> None:
    assert weights(build(positions="frozen_random")) + 9 * 128 == 408_001


def test_every_layer_has_its_published_shape_at_112_px() -> None:
    backbone = build().eval()
    images = torch.randn(2, 3, 112, 112)
    assert shapes_seen(backbone.tokenizer, lambda: backbone.tokenizer(images)) == [(2, 64, 110, 110), (2, 128, 54, 54)]
    tokens = backbone.tokenizer(images)
    assert tokens.shape == (2, 784, 128)
    norm, inner = (2, 784, 128), [(2, 784, 768), (2, 784, 128)]  # 768: query, key and value of 2 heads of 128
    in_block = [norm, *inner, norm, *[(2, 784, 128)] * 6]
    assert shapes_seen(backbone.blocks, lambda: backbone.blocks(tokens)) == 2 * in_block
    output = backbone(images)
    assert output.tokens.shape == (2, 784, 128)
    assert output.pooled.shape == (2, 128)


def same(maps: Tensor) -> Tensor:
    """Max pool 3/2 as TensorFlow's SAME defines it, by windows: ceil(n / 2) outputs, the odd pixel at the end."""
    for axis in (2, 3):
        n = maps.shape[axis]
        out = math.ceil(n / 2)
        before = max((out - 1) * 2 + 3 - n, 0) // 2
        pieces = []
        for at in range(out):
            low, high = max(at * 2 - before, 0), min(at * 2 - before + 3, n)
            pieces.append(maps.narrow(axis, low, high - low).amax(dim=axis, keepdim=True))
        maps = torch.cat(pieces, dim=axis)
    return maps


@pytest.mark.parametrize("side", [112, 50, 33])
def test_the_tokenizer_pads_as_tensorflow_does(side: int) -> None:
    torch.manual_seed(1)
    tokenizer, images = ConvTokenizer(3), torch.randn(2, 3, side, side + 1)
    maps = images
    for convolution in tokenizer.convolutions:
        maps = same(nn.functional.pad(convolution(maps).clamp_min(0), (1, 1, 1, 1)))
    assert torch.allclose(tokenizer(images), maps.flatten(2).mT, atol=1e-6)


def test_attention_is_that_of_two_heads_of_128() -> None:
    torch.manual_seed(2)
    attention, tokens = SelfAttention(0.1).eval(), torch.randn(2, 5, 128)
    mixed = []
    for head in range(2):
        rows = [slice(256 * part + 128 * head, 256 * part + 128 * (head + 1)) for part in range(3)]
        layer = attention.query_key_value
        q, k, v = (tokens @ layer.weight[row].mT + layer.bias[row] for row in rows)
        mixed.append((q @ k.mT / math.sqrt(128)).softmax(-1) @ v)
    expected = attention.output(torch.cat(mixed, dim=-1))
    assert torch.allclose(attention(tokens), expected, atol=1e-5)


def test_the_pool_is_a_weighted_mean_of_the_tokens() -> None:
    backbone = build(32).eval()
    nn.init.zeros_(backbone.pool.weight)  # equal weights
    output = backbone(torch.randn(3, 3, 32, 32))
    assert torch.allclose(output.pooled, output.tokens.mean(dim=1), atol=1e-6)


def test_a_frozen_position_embedding_is_saved_and_stays_as_it_was() -> None:
    backbone = build(32, positions="frozen_random")
    before = backbone.position.clone()
    assert before.abs().max() <= 0.05
    assert before.abs().max() > 0.04
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1)
    backbone(torch.randn(2, 3, 32, 32)).pooled.sum().backward()
    optimizer.step()
    assert torch.equal(backbone.position, before)
    assert torch.equal(backbone.state_dict()["position"], before)


def test_the_position_matters() -> None:
    """Without its position embedding the network would not see the order of tokens that do not overlap."""
    backbone, images = build(32).eval(), torch.randn(1, 3, 32, 32)
    first = backbone(images).pooled
    with torch.no_grad():
        backbone.position.copy_(backbone.position.flip(1))
    assert not torch.allclose(first, backbone(images).pooled, atol=1e-4)


def test_depth_dropout_skips_cases_of_the_last_block_only_and_keeps_the_mean() -> None:
    torch.manual_seed(3)
    first, last = build(32, dropout=0.0, depth_dropout=0.5).blocks
    tokens = torch.randn(1, 4, 128).expand(4000, 4, 128)
    assert isinstance(first, Block)
    assert isinstance(last, Block)
    assert torch.equal(first._keep(tokens), tokens)
    kept = last._keep(tokens)
    skipped = (kept == 0).all(dim=(1, 2))
    assert skipped.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert torch.allclose(kept[~skipped], 2 * tokens[~skipped])
    assert torch.equal(last.eval()._keep(tokens), tokens)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"positions": "frozen"}, "Did you mean 'frozen_random'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"depth_dropout": -0.1}, "depth_dropout"),
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(32, **params)


@pytest.mark.parametrize(("width", "norm"), [(0, "none"), (16, "none"), (16, "layer"), (0, "batch"), (64, "layer")])
def test_the_head_sets_width_and_norm_of_the_features(width: int, norm: str) -> None:
    torch.manual_seed(4)
    head = {"feature_dim": width, "feature_norm": norm}
    config = TrialConfig.from_dict(
        {"image_size": 16, "model": {"branches": {"image": {"backbone": "cct_2"}}, "head": head}}
    )
    model = build_model(config, (3, 2))
    present = {"image": torch.ones(6, dtype=torch.bool)}
    features = model({"image": torch.randn(6, 3, 16, 16) * 5}, present)
    assert features.shape == (6, width or 128)
    if norm == "layer":
        assert torch.allclose(features.mean(dim=1), torch.zeros(6), atol=1e-5)
    if norm == "batch":
        assert torch.allclose(features.mean(dim=0), torch.zeros(width or 128), atol=1e-5)


@pytest.mark.parametrize(("loss", "normed"), [("cfal", True), ("gaussian_affinity", True), ("cross_entropy", False)])
def test_the_loss_says_which_norm_it_needs_where_nobody_does(loss: str, normed: bool) -> None:
    def layers(**head: object) -> set[type]:
        model = {"branches": {"image": {"backbone": "alexnet"}}, "head": head}
        config = TrialConfig.from_dict({"image_size": 32, "loss": loss, "model": model})
        return {type(layer) for layer in build_model(config, (3, 2)).head}

    assert (torch.nn.LayerNorm in layers()) == normed
    assert layers(feature_norm="none") == set()
    assert layers(feature_norm="batch") == {torch.nn.BatchNorm1d}
