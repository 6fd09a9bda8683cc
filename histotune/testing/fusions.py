"""The laws of a fusion and of a redundancy term: order, absent modalities, finite numbers, what a saved one gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from histotune.errors import ConfigError
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.fusions import FUSIONS, Fusion
from histotune.models.redundancies import REDUNDANCIES, Redundancy
from histotune.testing._contract import Contract, alike, documented, finite, refused, require

FUSION = Contract("fusion")
REDUNDANCY = Contract("redundancy")
WIDTHS = {"image": Widths(8, 12), "genes": Widths(6, 10), "clinical": Widths(4, 4)}
DIMS = {"cnn": 6, "transformer": 6}
GARBAGE = (0.0, 1e6, float("nan"))  # what may stand where a modality is absent


def check_fusion(name: str, *, without: Iterable[str] = (), **params: Any) -> None:
    """Check every law of a fusion, with these parameters.

    Args:
        name: as registered; one that refuses three branches is checked with one.
        without: names of laws that it breaks by design.
        params: parameters of the fusion; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such fusion, parameter or law.
    """
    FUSIONS.check(name, params)
    FUSION.check(name, name, params, without=without)


def fusion_widths(name: str, params: Mapping[str, Any]) -> dict[str, Widths]:
    """Return three branches, or one where the fusion takes no more."""
    try:
        FUSIONS.build(name, WIDTHS, **params)
    except ConfigError:
        first = dict(list(WIDTHS.items())[:1])
        FUSIONS.build(name, first, **params)
        return first
    return WIDTHS


def build_fusion(name: str, params: Mapping[str, Any], *, seed: int = 0) -> Fusion:
    """Build a fusion for prediction."""
    torch.manual_seed(seed)
    return FUSIONS.build(name, fusion_widths(name, params), **params).eval()


def branch_outputs(
    widths: Mapping[str, Widths], size: int = 5, seed: int = 1
) -> tuple[dict[str, BackboneOutput], dict[str, Tensor]]:
    """Draw three tokens [size, 3, Dt] and a pooled vector [size, Dp] for every branch; all are present."""
    generator = torch.Generator().manual_seed(seed)
    branches, present = {}, {}
    for branch, width in widths.items():
        tokens = torch.randn(size, 3, width.token, generator=generator).requires_grad_()
        pooled = torch.randn(size, width.pooled, generator=generator).requires_grad_()
        branches[branch] = BackboneOutput(tokens, pooled)
        present[branch] = torch.ones(size, dtype=torch.bool)
    return branches, present


def _case(name: str, params: Mapping[str, Any]) -> tuple[Fusion, dict[str, BackboneOutput], dict[str, Tensor]]:
    return build_fusion(name, params), *branch_outputs(fusion_widths(name, params))


def _with_garbage(branches: dict[str, BackboneOutput], absent: Tensor, value: float) -> dict[str, BackboneOutput]:
    first = next(iter(branches))
    tokens, pooled = (
        torch.where(absent.view(-1, *[1] * (t.dim() - 1)), torch.full_like(t, value), t) for t in branches[first][:2]
    )
    return branches | {first: BackboneOutput(tokens, pooled)}


@FUSION.law
def it_is_documented(name: str, params: dict[str, Any]) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(FUSIONS, name)


@FUSION.law
def width_is_as_promised(name: str, params: dict[str, Any]) -> None:
    """Its output is [B, out_dim]."""
    for size in (1, 5):
        fusion = build_fusion(name, params)
        shape = tuple(fusion(*branch_outputs(fusion_widths(name, params), size)).shape)
        require(shape == (size, fusion.out_dim), f"got shape {shape}, promised {(size, fusion.out_dim)}")


@FUSION.law
def gradient_reaches_every_branch(name: str, params: dict[str, Any]) -> None:
    """Every branch is trained."""
    fusion, branches, present = _case(name, params)
    fusion(branches, present).square().sum().backward()
    for branch, output in branches.items():
        reached = [t.grad for t in output[:2] if t.grad is not None and t.grad.abs().sum() > 0]
        require(reached, f"branch {branch} gets no gradient")


@FUSION.law
def order_of_the_mapping_does_not_matter(name: str, params: dict[str, Any]) -> None:
    """The order in which the branches stand in the mapping has no meaning: sort their names."""
    fusion, branches, present = _case(name, params)
    backwards = fusion(dict(reversed(branches.items())), dict(reversed(present.items())))
    alike(fusion(branches, present), backwards, "the output for the branches in order and backwards")


@FUSION.law
def values_of_an_absent_modality_do_not_matter(name: str, params: dict[str, Any]) -> None:
    """What stands where a case lacks the modality, NaN included, changes neither output nor gradients."""
    fusion, branches, present = _case(name, params)
    absent = torch.tensor([False, True, False, True, False])
    present[next(iter(branches))] = ~absent
    expected = fusion(branches, present)
    finite(expected, "the output where a modality is absent")
    for value in GARBAGE:
        fusion.zero_grad()
        changed = fusion(_with_garbage(branches, absent, value), present)
        alike(changed, expected, f"the output with {value:g} where the modality is absent")
        changed.square().sum().backward()
        for key, weight in fusion.named_parameters():
            if weight.grad is not None:
                finite(weight.grad, f"the gradient of {key} with {value:g} where the modality is absent")


@FUSION.law
def cases_do_not_depend_on_each_other(name: str, params: dict[str, Any]) -> None:
    """A case gives the same alone and in a batch."""
    fusion, branches, present = _case(name, params)
    alone = {branch: output.part(slice(2, 3)) for branch, output in branches.items()}
    joint = fusion(alone, {branch: mask[2:3] for branch, mask in present.items()})
    alike(joint[0], fusion(branches, present)[2], "the output of a case alone and in a batch", atol=1e-6)


@FUSION.law
def embeddings_are_as_wide_as_promised_and_join_to_the_output(name: str, params: dict[str, Any]) -> None:
    """`embed` gives [B, embedding_dims], and `join` of it is the output."""
    fusion, branches, present = _case(name, params)
    embeddings = fusion.embed(branches, present)
    shapes = {branch: tuple(e.shape) for branch, e in embeddings.items()}
    promised = {branch: (5, dim) for branch, dim in fusion.embedding_dims.items()}
    require(shapes == promised, f"embeddings have shapes {shapes}, promised are {promised}")
    alike(fusion.join(embeddings, present), fusion(branches, present), "`join` of `embed` and the output")


@FUSION.law
def a_case_without_any_modality_is_finite(name: str, params: dict[str, Any]) -> None:
    """Where every modality is absent the output is finite."""
    fusion, branches, present = _case(name, params)
    nothing = {branch: torch.zeros_like(mask) for branch, mask in present.items()}
    finite(fusion(branches, nothing), "the output of cases without any modality")


@FUSION.law
def autocast_changes_little(name: str, params: dict[str, Any]) -> None:
    """Under bfloat16 the output moves by less than 0.1."""
    fusion, branches, present = _case(name, params)
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(branches, present)
    alike(rough.float(), fusion(branches, present), "the output under autocast", atol=0.1)


@FUSION.law
def a_saved_and_loaded_fusion_is_the_same(name: str, params: dict[str, Any]) -> None:
    """All that it has learned is in its state dict."""
    fusion, branches, present = _case(name, params)
    again = build_fusion(name, params, seed=9)
    again.load_state_dict(fusion.state_dict())
    alike(again(branches, present), fusion(branches, present), "the output of a loaded fusion")


@FUSION.law
def attention_shares_out_one(name: str, params: dict[str, Any]) -> None:
    """Where it reports attention, an asking token's weights over all other branches sum to 1."""
    fusion, branches, present = _case(name, params)
    for layer in fusion.attention(branches, present):
        for asking in {asking for asking, _ in layer}:
            parts = {other: part for (one, other), part in layer.items() if one == asking}
            for other, part in parts.items():
                sizes = (branches[asking].tokens.shape[1], branches[other].tokens.shape[1])
                require(tuple(part.shape[2:]) == sizes, f"{asking} -> {other}: {tuple(part.shape)}, tokens {sizes}")
            total = torch.cat(list(parts.values()), dim=-1).sum(-1)
            alike(total, torch.ones_like(total), f"the attention of {asking}, summed", atol=1e-5)


def check_redundancy(name: str, *, without: Iterable[str] = (), **params: Any) -> None:
    """Check every law of a redundancy term, with these parameters.

    Args:
        name: as registered; `none`, which is no term, breaks most of the laws.
        without: names of laws that it breaks by design.
        params: parameters but `weight`; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such redundancy, parameter or law.
    """
    REDUNDANCIES.check(name, params)
    REDUNDANCY.check(name, name, params, without=without)


def build_term(name: str, params: Mapping[str, Any], dims: Mapping[str, int] = DIMS, **more: Any) -> Redundancy:
    """Build a redundancy term of two branches."""
    torch.manual_seed(0)
    return REDUNDANCIES.build(name, dims, **params, **more)


def drawn_embeddings(
    size: int = 24, seed: int = 1, dims: Mapping[str, int] = DIMS
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw an embedding [size, D_b] for every branch; all are present."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {name: torch.randn(size, dim, generator=generator) for name, dim in dims.items()}
    return embeddings, {name: torch.ones(size, dtype=torch.bool) for name in dims}


@REDUNDANCY.law
def a_redundancy_is_documented(name: str, params: dict[str, Any]) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(REDUNDANCIES, name)


@REDUNDANCY.law
def it_is_a_finite_scalar_with_finite_gradients(name: str, params: dict[str, Any]) -> None:
    """A float32 scalar for batches of any size and embeddings of any scale; gradients from `least_cases` on."""
    for size, scale in [(1, 1.0), (2, 1.0), (3, 1.0), (24, 1.0), (24, 0.0), (24, 1e-6), (24, 1e4)]:
        embeddings, present = drawn_embeddings(size)
        leaves = {branch: (scale * e).requires_grad_() for branch, e in embeddings.items()}
        term = build_term(name, params)
        result = term(leaves, present)
        what = f"{size} cases times {scale:g}"
        require(result.shape == () and result.dtype == torch.float32, f"got {result.dtype} {tuple(result.shape)}")
        finite(result, f"the term of {what}")
        result.backward()
        for branch, leaf in leaves.items():
            finite(leaf.grad, f"the gradient of {branch} for {what}")
            moved = size < term.least_cases or scale != 1 or (leaf.grad is not None and leaf.grad.abs().sum() > 0)
            require(moved, f"branch {branch} gets no gradient of {what}")


@REDUNDANCY.law
def descent_lowers_it(name: str, params: dict[str, Any]) -> None:
    """Two branches that share nearly everything cost something, and training halves that."""
    shared = torch.randn(64, 6, generator=torch.Generator().manual_seed(4))
    leaves = {"cnn": shared.clone().requires_grad_(), "transformer": (shared + 0.1).requires_grad_()}
    term = build_term(name, params, weight=1.0)
    present = dict.fromkeys(DIMS, torch.ones(64, dtype=torch.bool))
    result = []
    for leaf_rate in (0.0, 0.05):  # first a term that has to learn learns
        groups = [{"params": leaves.values(), "lr": leaf_rate}, {"params": term.parameters(), "lr": 0.01}]
        optimizer = torch.optim.Adam(groups)
        for _ in range(100):
            optimizer.zero_grad()
            term(leaves, present).backward()
            optimizer.step()
        result.append(term(leaves, present).item())
    require(result[0] > 0.15, f"two branches that share nearly everything cost {result[0]:.4g}")
    require(result[1] < 0.5 * result[0], f"training takes it from {result[0]:.4g} to {result[1]:.4g} only")


@REDUNDANCY.law
def the_order_of_cases_and_of_the_mapping_does_not_matter(name: str, params: dict[str, Any]) -> None:
    """Neither the order of the cases nor that of the branches has a meaning."""
    term, (embeddings, present) = build_term(name, params), drawn_embeddings()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    turned = {branch: embeddings[branch][order] for branch in reversed(embeddings)}
    alike(term(turned, present), term(embeddings, present), "the term in another order", rtol=1e-4)


@REDUNDANCY.law
def a_case_without_both_modalities_does_not_matter(name: str, params: dict[str, Any]) -> None:
    """Only cases that have both modalities count."""
    term, (embeddings, present) = build_term(name, params), drawn_embeddings()
    present = {"cnn": torch.arange(24) % 3 > 0, "transformer": torch.arange(24) % 4 > 0}
    both = present["cnn"] & present["transformer"]
    alone = term({b: e[both] for b, e in embeddings.items()}, {b: m[both] for b, m in present.items()})
    embeddings["cnn"][~both] = 100.0
    alike(term(embeddings, present), alone, "the term with and without cases that lack a modality", rtol=1e-4)


@REDUNDANCY.law
def it_is_the_weighted_mean_over_all_pairs(name: str, params: dict[str, Any]) -> None:
    """Of three branches it is `weight` times the mean of `between` over the three pairs."""
    three = {"cnn": 6, "genes": 6, "transformer": 6}
    embeddings, present = drawn_embeddings(dims=three)
    term = build_term(name, params, three, weight=1.0)
    pairs = [("cnn", "genes"), ("cnn", "transformer"), ("genes", "transformer")]
    expected = sum(term.between(embeddings, pair, torch.ones(24)).item() for pair in pairs) / 3
    alike(term(embeddings, present), expected, "the term and the mean over its pairs", rtol=1e-5)
    weighted = build_term(name, params, three, weight=0.3)(embeddings, present)
    alike(weighted, 0.3 * expected, "the term of weight 0.3", rtol=1e-5)


@REDUNDANCY.law
def it_is_float32_under_autocast(name: str, params: dict[str, Any]) -> None:
    """Autocast does not change a bit of it."""
    term, (embeddings, present) = build_term(name, params), drawn_embeddings()
    with torch.autocast("cpu", torch.bfloat16):
        result = term(embeddings, present)
    alike(result, term(embeddings, present), "the term under autocast")


@REDUNDANCY.law
def a_single_branch_is_refused(name: str, params: dict[str, Any]) -> None:
    """One branch shares nothing with another."""
    refused(lambda: REDUNDANCIES.build(name, {"image": 6}, **params), ConfigError, "a single branch")
