"""The laws of a backbone of any kind of modality: widths, gradients, padding, what a saved one gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import safetensors.torch
import torch

from histotune.data.modalities import Bag
from histotune.errors import ConfigError
from histotune.models.backbones import BACKBONES, Backbone, build_backbone
from histotune.testing._contract import Contract, alike, documented, finite, require
from histotune.testing.batches import INPUTS, batch_of, cases_of, padded, values_of, with_values

BACKBONE = Contract("backbone")


def check_backbone(name: str, *, kind: str = "", without: Iterable[str] = (), **params: Any) -> None:
    """Check every law of a backbone, with these parameters, on small batches of every kind that it reads.

    Args:
        name: as registered.
        kind: of modality, `image`, `table`, `bag` or `graph`; "" takes all that it reads.
        without: names of laws that it breaks by design.
        params: parameters of the backbone; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such backbone, parameter or law, or a kind of modality of which there are no made-up batches.
    """
    BACKBONES.check(name, params)
    for each in [kind] if kind else BACKBONES.entry(name).kinds or ("image",):
        if each not in INPUTS:
            raise ConfigError(f"backbone {name!r} reads {each}, and made-up batches are of {', '.join(INPUTS)} only")
        BACKBONE.check(f"{name} on {each}", name, each, params, without=without)


def make_backbone(name: str, kind: str, params: dict[str, Any], *, seed: int = 0) -> Backbone:
    """Build a backbone for made-up batches of a kind."""
    torch.manual_seed(seed)
    return build_backbone(name, "made up", INPUTS[kind], **params)


@BACKBONE.law
def it_is_documented(name: str, kind: str, params: dict[str, Any]) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(BACKBONES, name)


@BACKBONE.law
def it_arrives_ready_to_train(name: str, kind: str, params: dict[str, Any]) -> None:
    """A new backbone is in training mode."""
    require(make_backbone(name, kind, params).training, "it is in evaluation mode")


@BACKBONE.law
def tokens_and_pooled_are_as_wide_as_promised(name: str, kind: str, params: dict[str, Any]) -> None:
    """Tokens are [B, T, Dt], pooled is [B, Dp], and (Dt, Dp) are its `widths`."""
    for size in (1, 3):
        backbone = make_backbone(name, kind, params).eval()
        tokens, pooled, there = backbone(batch_of(kind, [5, 2, 7][:size]))
        shapes = f"tokens {tuple(tokens.shape)}, pooled {tuple(pooled.shape)} of {size} cases"
        require(tokens.ndim == 3 and tokens.shape[1] >= 1 and tokens.shape[0] == pooled.shape[0] == size, shapes)
        require((tokens.shape[2], *pooled.shape[1:]) == backbone.widths, f"{shapes}, promised {backbone.widths}")
        finite(tokens, "tokens")
        finite(pooled, "the pooled vector")
        mask = there is None or (there.dtype, there.shape) == (torch.bool, tokens.shape[:2])
        require(mask, "`there` must be bool [B, T]")


@BACKBONE.law
def gradient_reaches_every_weight(name: str, kind: str, params: dict[str, Any]) -> None:
    """Tokens and pooled vector together train every weight."""
    backbone = make_backbone(name, kind, params)
    tokens, pooled, _ = backbone(batch_of(kind, [5, 2, 7, 1]))
    (tokens.square().mean() + pooled.square().mean()).backward()
    for key, weight in backbone.named_parameters():
        require(weight.grad is not None or not weight.requires_grad, f"{key} gets no gradient")


@BACKBONE.law
def gradient_reaches_every_case(name: str, kind: str, params: dict[str, Any]) -> None:
    """The pooled vector of every case depends on that case."""
    backbone, batch = make_backbone(name, kind, params).eval(), batch_of(kind, [5, 2, 7])
    values = values_of(batch).requires_grad_()
    backbone(with_values(batch, values)).pooled.square().sum().backward()
    require(
        values.grad is not None and values.grad.flatten(1).any(dim=1).all(), "a case has no influence on its output"
    )


@BACKBONE.law
def the_pooled_vector_is_made_of_the_tokens(name: str, kind: str, params: dict[str, Any]) -> None:
    """A gradient finds the way from the pooled vector to the tokens (not so where a class token is read)."""
    tokens, pooled, _ = make_backbone(name, kind, params).eval()(batch_of(kind, [5, 2]))
    (gradient,) = torch.autograd.grad(pooled.square().sum(), tokens, allow_unused=True)
    require(gradient is not None and gradient.any(), "the pooled vector does not depend on this very tensor `tokens`")


@BACKBONE.law
def cases_do_not_depend_on_each_other_once_trained(name: str, kind: str, params: dict[str, Any]) -> None:
    """In evaluation mode a case gives the same alone and in a batch."""
    backbone, batch = make_backbone(name, kind, params).eval(), batch_of(kind, [5, 2, 7, 1])
    with torch.no_grad():
        pairs = zip(("tokens", "pooled"), backbone(cases_of(batch, slice(2, 3))), backbone(batch), strict=False)
        for what, alone, beside in pairs:
            near = {"rtol": 1e-5, "atol": 1e-4 if kind == "image" else 1e-6}
            alike(alone[0], beside[2], f"{what} of a case alone and in a batch", **near)


@BACKBONE.law
def once_trained_the_same_batch_gives_the_same(name: str, kind: str, params: dict[str, Any]) -> None:
    """In evaluation mode nothing is drawn at random."""
    backbone, batch = make_backbone(name, kind, params).eval(), batch_of(kind, [5, 2, 7])
    for what, one, other in zip(("tokens", "pooled"), backbone(batch), backbone(batch), strict=False):
        alike(one, other, f"{what} of the same batch twice")


@BACKBONE.law
def a_saved_and_loaded_backbone_is_the_same(name: str, kind: str, params: dict[str, Any]) -> None:
    """All that it has learned is in its state dict, which safetensors can hold."""
    backbone, batch = make_backbone(name, kind, params).eval(), batch_of(kind, [5, 2])
    again = make_backbone(name, kind, params, seed=9).eval()
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(backbone.state_dict())))
    alike(again(batch).pooled, backbone(batch).pooled, "the pooled vector of a loaded backbone")


@BACKBONE.law
def a_case_without_the_modality_is_finite(name: str, kind: str, params: dict[str, Any]) -> None:
    """A case of zeros, or an empty bag, gives finite output and gradients."""
    backbone, batch = make_backbone(name, kind, params), batch_of(kind, [5, 2, 7])
    nothing = torch.ones_like(values_of(batch))
    nothing[1] = 0
    batch = with_values(batch, values_of(batch) * nothing)
    if isinstance(batch, Bag):
        batch.there[1], batch.neighbours[1] = False, 0
    tokens, pooled, _ = backbone(batch)
    (tokens.square().sum() + pooled.square().sum()).backward()
    finite(tokens, "tokens")
    finite(pooled, "the pooled vector")
    for key, weight in backbone.named_parameters():
        if weight.grad is not None:
            finite(weight.grad, f"the gradient of {key}")


@BACKBONE.law
def padding_changes_nothing(name: str, kind: str, params: dict[str, Any]) -> None:
    """More padding of a bag, whatever it holds, changes neither tokens nor pooled vector; padded tokens are 0."""
    if kind not in ("bag", "graph"):
        return
    backbone, bag = make_backbone(name, kind, params), batch_of(kind, [5, 0, 7, 1])
    assert isinstance(bag, Bag)
    for garbage in (0.0, 1e6, float("nan")):
        longer = padded(bag, 4, neighbours=2, value=garbage)
        with torch.no_grad():
            (tokens, pooled, there), (more, same, _) = backbone.eval()(bag), backbone(longer)
        require(there is not None, "a backbone of bags says which tokens are there")
        alike(same, pooled, f"the pooled vector with padding of {garbage:g}", atol=1e-6)
        alike(more[:, :7], tokens, f"tokens with padding of {garbage:g}", atol=1e-6)
        require(not tokens[~there].any() and not more[:, 7:].any(), "tokens of padding are not 0")
        backbone.zero_grad()
        backbone(longer).pooled.square().sum().backward()
        for key, weight in backbone.named_parameters():
            if weight.grad is not None:
                finite(weight.grad, f"the gradient of {key} with padding of {garbage:g}")


@BACKBONE.law
def an_empty_bag_is_zero(name: str, kind: str, params: dict[str, Any]) -> None:
    """A bag without instances has one token that is not there, and a pooled vector of zeros."""
    if kind not in ("bag", "graph"):
        return
    backbone = make_backbone(name, kind, params).eval()
    for lengths in ([0, 0], [0, 3]):
        tokens, pooled, there = backbone(batch_of(kind, lengths))
        require(tokens.shape[1] == there.shape[1] == max(1, *lengths), f"{tokens.shape[1]} tokens for {lengths}")
        require(not pooled[0].any(), "the pooled vector of an empty bag is not 0")
        require(not there[0].any(), "an empty bag has a token that is there")
