"""The contract of every fusion, attention against plain arithmetic, temperatures, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from histotune.errors import ConfigError
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.bounded import bounded, unbounded
from histotune.models.fusions import FUSIONS, Fusion
from histotune.models.fusions._attention import CrossAttention, Temperature
from histotune.testing.fusions import FUSION, WIDTHS, branch_outputs, build_fusion, fusion_widths

EVERY = pytest.mark.parametrize("name", FUSIONS.names())
SINGLE = {"none"}  # fusions that take exactly one branch
Arrays = Mapping[str, np.ndarray]


def build(name: str, **params: Any) -> Fusion:
    return build_fusion(name, params)


def outputs(name: str, size: int = 5, seed: int = 1) -> tuple[dict[str, BackboneOutput], dict[str, Tensor]]:
    return branch_outputs(fusion_widths(name, {}), size, seed)


@EVERY
@pytest.mark.parametrize("law", FUSION.laws)
def test_every_fusion_keeps_the_law(name: str, law: str) -> None:
    FUSION.check_one(law, FUSION.laws[law], name, name, {})


def two() -> dict[str, Widths]:
    return {name: WIDTHS[name] for name in ("image", "genes")}


@EVERY
def test_every_parameter_says_what_it_may_be(name: str) -> None:
    parameters = FUSIONS.entry(name).parameters
    assert all(p.range for p in parameters if p.name not in ("direction", "branch"))  # names of branches


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mean_embedding", {}),
        ("mean_embedding", {"weights": "learned"}),
        ("cross_attention", {"dim": 8}),
        ("cmaf", {"dim": 8}),
    ],
)
def test_the_names_of_the_branches_do_not_matter(name: str, params: dict[str, Any]) -> None:
    """What the weights of each branch do does not depend on which name comes first; `concat` only changes places."""
    fusion, (branches, present) = build(name, **params), outputs(name)
    renamed = {"image": "z_image", "genes": "m_genes", "clinical": "a_clinical"}
    twin = FUSIONS.build(name, {renamed[b]: w for b, w in WIDTHS.items()}, **params).double().eval()
    before, after = sorted(WIDTHS), sorted(renamed, key=renamed.__getitem__)
    order = torch.tensor([before.index(branch) for branch in after])  # places of the branches, where they are counted
    state = {}
    for key, value in fusion.double().state_dict().items():
        path = ".".join(renamed.get(part, part) for part in key.split("."))
        if key == "scores":
            value = value[order]
        if key.startswith("gate."):
            value = value.unflatten(0, (3, -1))[order].flatten(0, 1)
        if key == "gate.weight":
            value = value.unflatten(1, (3, -1))[:, order].flatten(1)
        state[path] = value
    twin.load_state_dict(state)
    exact = {b: BackboneOutput(*(t.double() for t in output[:2])) for b, output in branches.items()}
    expected = fusion(exact, present)
    result = twin({renamed[b]: o for b, o in exact.items()}, {renamed[b]: m for b, m in present.items()})
    if name == "cross_attention":  # side by side in the order of the names
        expected = expected.unflatten(1, (3, -1))[:, order].flatten(1)
    assert torch.allclose(result, expected, atol=1e-12)


def test_none_refuses_two_branches() -> None:
    with pytest.raises(ConfigError, match=r"one branch.*genes.*image"):
        FUSIONS.build("none", {"image": Widths(8, 8), "genes": Widths(4, 4)})


def test_none_keeps_the_branch_asked_for() -> None:
    kept = FUSIONS.build("none", two(), branch="genes")
    assert (dict(kept.embedding_dims), kept.out_dim) == ({"genes": 10}, 10)
    with pytest.raises(ConfigError, match=r"there is no branch 'gene'. Did you mean 'genes'"):
        FUSIONS.build("none", two(), branch="gene")


@pytest.mark.parametrize("name", [name for name in FUSIONS.names() if name not in SINGLE])
def test_what_joins_refuses_a_single_branch(name: str) -> None:
    with pytest.raises(ConfigError, match=r"at least two branches, got \['image'\]"):
        FUSIONS.build(name, {"image": Widths(8, 8)})


@pytest.mark.parametrize(
    ("name", "params", "word"),
    [
        ("cmaf", {"dim": 0}, r"tokens, whose widths differ and cannot be joined \(clinical 4, genes 6, image 8\)"),
        (
            "mean_embedding",
            {"dim": 0},
            r"pooled vectors, whose widths differ .*clinical 4, genes 10, image 12.* such as 12",
        ),
        ("cmaf", {"dim": 100}, "8 heads do not divide tokens of 100; 10 would"),
        ("cross_attention", {"direction": "image->genes"}, r"for two branches, got .*take 'both'"),
        ("cross_attention", {"temperature": 2.0}, "no parameter 'temperature'"),
        ("cmaf", {"temperature": 0.0}, r"'temperature' of fusion 'cmaf' must lie in \[0.05, 5\], got 0.0"),
        ("cmaf", {"temperature_mode": "learned"}, "learnable | fixed | annealed"),
        ("cmaf", {"pool": "max"}, r"mean | attention, got 'max'"),
        ("crossattention", {}, "Did you mean 'cross_attention'"),
    ],
)
def test_bad_parameters_are_named(name: str, params: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        FUSIONS.build(name, WIDTHS, **params)


@pytest.mark.parametrize("direction", ["image->gene", "image", "image->image", "->", "image<-genes"])
def test_an_unknown_direction_offers_the_known_ones(direction: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown direction .*image->genes"):
        FUSIONS.build("cross_attention", two(), direction=direction)


# --- the mean of pooled vectors


@pytest.mark.parametrize("weights", ["mean", "learned"])
def test_the_mean_embedding_before_a_linear_head_averages_the_logits_of_the_branches(weights: str) -> None:
    fusion, (branches, present) = build("mean_embedding", weights=weights), outputs("mean_embedding")
    if weights == "learned":
        fusion.get_parameter("scores").data = torch.tensor([0.3, -1.0, 2.0])
    share = torch.tensor([0.3, -1.0, 2.0]).softmax(0) if weights == "learned" else torch.full((3,), 1 / 3)
    head = torch.nn.Linear(fusion.out_dim, 4)
    own = [head(fusion.get_submodule(f"maps.{b}")(branches[b].pooled)) for b in sorted(branches)]
    expected = torch.stack(own, dim=2) @ share
    assert torch.allclose(head(fusion(branches, present)), expected, atol=1e-5)


def test_the_mean_embedding_shares_among_those_present() -> None:
    fusion, (branches, present) = build("mean_embedding"), outputs("mean_embedding")
    for branch in ("genes", "clinical"):
        present[branch] = torch.zeros(5, dtype=torch.bool)
    assert torch.allclose(fusion(branches, present), fusion.embed(branches, present)["image"])


@EVERY
def test_only_fusions_with_attention_report_it(name: str) -> None:
    fusion = build(name)
    branches, present = outputs(name)
    layers = fusion.attention(branches, present)
    assert bool(layers) == (name in {"cross_attention", "cmaf"})


# --- branches whose cases have different numbers of tokens

POOLED: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in FUSIONS.names()]
POOLED += [(name, {"pool": "attention", "layers": 2, "expansion": 1.0}) for name in ("cmaf", "cross_attention")]
PADDED = pytest.mark.parametrize(("name", "params"), POOLED)
LENGTHS = (4, 1, 0, 3, 2)  # tokens of each case


def bags(name: str, length: int, garbage: float = math.nan) -> tuple[dict[str, BackboneOutput], dict[str, Tensor]]:
    """Branches of which the first has as many tokens as LENGTHS say, padded to `length`; case 3 lacks all but that."""
    branches, present = outputs(name)
    first = next(iter(branches))
    own = torch.randn(5, max(LENGTHS), WIDTHS[first].token, generator=torch.Generator().manual_seed(2))
    there = torch.arange(length) < torch.tensor(LENGTHS)[:, None]
    tokens = torch.nn.functional.pad(own, (0, 0, 0, length - max(LENGTHS)))
    tokens = tokens.where(there[:, :, None], garbage).requires_grad_()
    branches[first] = BackboneOutput(tokens, branches[first].pooled, there)
    for other in branches.keys() - {first}:
        present[other] = torch.tensor([True, True, True, False, True])
    return branches, present


@PADDED
@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_padding_changes_nothing(name: str, params: dict[str, Any], garbage: float) -> None:
    fusion = build(name, **params)
    expected, result = fusion(*bags(name, 4, 0.0)), fusion(*bags(name, 9, garbage))
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@PADDED
@pytest.mark.parametrize("case", [0, 1, 3, 4])
def test_a_case_says_the_same_alone_and_beside_longer_ones(name: str, params: dict[str, Any], case: int) -> None:
    fusion, (branches, present) = build(name, **params), bags(name, 6)
    first = next(iter(branches))
    alone = {branch: output.part(slice(case, case + 1)) for branch, output in branches.items()}
    alone[first] = BackboneOutput(alone[first].tokens[:, : LENGTHS[case]], alone[first].pooled)
    result = fusion(alone, {branch: there[case : case + 1] for branch, there in present.items()})
    torch.testing.assert_close(result[0], fusion(branches, present)[case], rtol=0, atol=1e-6)


@PADDED
def test_an_empty_bag_is_as_good_as_an_absent_one(name: str, params: dict[str, Any]) -> None:
    fusion, (branches, present) = build(name, **params), bags(name, 5)
    first = next(iter(branches))
    tokens, pooled, there = branches[first]
    branches[first] = BackboneOutput(tokens, pooled * torch.tensor([1, 1, 0, 1, 1])[:, None], there)
    empty = fusion.embed(branches, present)[first][2]
    present[first] = torch.tensor([True, True, False, True, True])
    torch.testing.assert_close(fusion.embed(branches, present)[first][2], empty)


@PADDED
def test_the_bag_of_an_absent_modality_has_no_say(name: str, params: dict[str, Any]) -> None:
    fusion, (branches, present) = build(name, **params), bags(name, 5)
    first = next(iter(branches))
    present[first] = torch.tensor([False, True, True, True, False])
    expected = fusion(branches, present)
    tokens, pooled, there = branches[first]
    assert there is not None
    for many in (True, False):
        branches[first] = BackboneOutput(tokens, pooled, there.where(present[first][:, None], many))
        torch.testing.assert_close(fusion(branches, present), expected, rtol=0, atol=1e-6)


@PADDED
def test_no_gradient_goes_to_padding_and_all_are_finite(name: str, params: dict[str, Any]) -> None:
    fusion, (branches, present) = build(name, **params), bags(name, 6)
    tokens, _, there = next(iter(branches.values()))
    fusion(branches, present).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)
    if name in {"cmaf", "cross_attention"}:  # the others read pooled vectors
        assert tokens.grad is not None
        assert there is not None
        assert ((tokens.grad != 0).any(dim=2) == there).all()


@pytest.mark.parametrize("name", ["cross_attention", "cmaf"])
@pytest.mark.parametrize("temperature", [None, 0.2])
def test_padding_shares_out_nothing_and_gets_nothing(name: str, temperature: float | None) -> None:
    fusion = build(name, layers=2)
    with torch.no_grad():
        short, long = (fusion.attention(*bags(name, length), temperature) for length in (4, 9))
    for before, after in zip(short, long, strict=True):
        for (asking, answering), weights in after.items():
            kept = weights[:, :, : 4 if asking == "image" else None, : 4 if answering == "image" else None]
            torch.testing.assert_close(kept, before[asking, answering], rtol=0, atol=1e-6)
            assert weights.sum() == pytest.approx(kept.sum())
            if asking == "image":
                spoken = weights.sum(dim=(1, 3)) > 0
                assert spoken.sum(dim=1).tolist() == [4, 1, 1, 3, 2]  # an empty bag's first token speaks for it


# --- attention against plain arithmetic in float64


def layer_norm(x: np.ndarray, at: Arrays, path: str) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * at[f"{path}.weight"] + at[f"{path}.bias"]


def linear(x: np.ndarray, at: Arrays, path: str) -> np.ndarray:
    return x @ at[f"{path}.weight"].T + at[f"{path}.bias"]


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def attend(asking: np.ndarray, answering: np.ndarray, at: Arrays, path: str, heads: int) -> np.ndarray:
    """One case: tokens [Tq, D] that ask and [Tk, D] that answer, head by head."""
    dim = asking.shape[1]
    size = dim // heads
    name = f"{path}.temperature.log_tau"
    tau = np.exp(at[name] if name in at else at[f"{path}.temperature.raw_log_tau"])  # far from the ends
    query, keys_values = linear(asking, at, f"{path}.query"), linear(answering, at, f"{path}.key_value")
    observed = []
    for h in range(heads):
        q = query[:, h * size : (h + 1) * size]
        k = keys_values[:, h * size : (h + 1) * size]
        v = keys_values[:, dim + h * size : dim + (h + 1) * size]
        observed.append(softmax(q @ k.T / (tau[h] * math.sqrt(size)), 1) @ v)
    return linear(np.concatenate(observed, axis=1), at, f"{path}.output")


def mlp(x: np.ndarray, at: Arrays, path: str) -> np.ndarray:
    hidden = linear(layer_norm(x, at, f"{path}.0"), at, f"{path}.1")
    gelu = np.array([[0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in hidden])
    return linear(gelu, at, f"{path}.4")


def pooled(x: np.ndarray, at: Arrays, path: str, kind: str) -> np.ndarray:
    if kind == "mean":
        return x.mean(0)
    message, gate = np.split(linear(x, at, f"{path}.hidden"), 2, axis=1)
    return softmax(linear(np.tanh(message) / (1 + np.exp(-gate)), at, f"{path}.score"), 0)[:, 0] @ x


def restated(
    tokens: dict[str, np.ndarray], at: Arrays, asks: dict[str, list[str]], o: dict[str, Any]
) -> dict[str, Any]:
    """The embeddings of one case."""
    z = {b: layer_norm(linear(x, at, f"projections.{b}.0"), at, f"projections.{b}.1") for b, x in tokens.items()}
    for layer in range(o["layers"]):
        block = f"blocks.{layer}"
        old, z = z, dict(z)
        normed = {b: layer_norm(x, at, f"{block}.norms.{b}") for b, x in old.items()}
        for b, others in asks.items():
            message = np.concatenate([normed[other] for other in others])
            observed = attend(normed[b], message, at, f"{block}.attentions.{b}", o["heads"])
            z[b] = old[b] + observed if o.get("residual", True) else observed
            if o["expansion"]:
                z[b] = z[b] + mlp(z[b], at, f"{block}.mlps.{b}")
    return {b: pooled(x, at, f"pools.{b}", o["pool"]) for b, x in z.items()}


SHAPES = [
    {"heads": 1, "layers": 1, "expansion": 0.0, "pool": "mean"},
    {"heads": 2, "layers": 2, "expansion": 1.5, "pool": "attention"},
]


def exactly(fusion: Fusion, names: list[str]) -> tuple[Arrays, dict[str, BackboneOutput], dict[str, Tensor]]:
    """Weights and inputs in float64, temperatures that differ, and token counts that differ."""
    generator = torch.Generator().manual_seed(3)
    fusion.double()
    for key, value in fusion.state_dict().items():
        if key.endswith("log_tau"):
            value.copy_(torch.linspace(-1.0, 1.2, len(value)))
    branches = {}
    for at, name in enumerate(names):
        tokens = torch.randn(4, 3 + 2 * at, WIDTHS[name].token, generator=generator, dtype=torch.float64)
        branches[name] = BackboneOutput(tokens, torch.zeros(4, WIDTHS[name].pooled, dtype=torch.float64))
    weights = {key: value.detach().numpy() for key, value in fusion.state_dict().items()}
    return weights, branches, {name: torch.ones(4, dtype=torch.bool) for name in names}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", [["genes", "image"], ["clinical", "genes", "image"]])
def test_cmaf_is_what_plain_arithmetic_says(shape: dict[str, Any], names: list[str]) -> None:
    fusion = FUSIONS.build("cmaf", {n: WIDTHS[n] for n in names}, dim=6, **shape).eval()
    at, branches, present = exactly(fusion, names)
    asks = {name: [other for other in names if other != name] for name in names}
    result = fusion(branches, present).detach().numpy()
    for case in range(4):
        own = restated({n: o.tokens[case].numpy() for n, o in branches.items()}, at, asks, shape)
        every = np.stack([own[name] for name in names])
        gates = linear(every.reshape(1, -1), at, "gate").reshape(every.shape)
        expected = (softmax(gates, 0) * every).sum(0)
        if len(names) == 2:
            g = 1 / (1 + np.exp(gates[1] - gates[0]))
            assert g * every[0] + (1 - g) * every[1] == pytest.approx(expected, rel=1e-12)
        assert result[case] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("direction", ["both", "genes->image", "image->genes"])
@pytest.mark.parametrize("residual", [True, False])
def test_cross_attention_is_what_plain_arithmetic_says(shape: dict[str, Any], direction: str, residual: bool) -> None:
    fusion = FUSIONS.build("cross_attention", two(), dim=6, direction=direction, residual=residual, **shape).eval()
    at, branches, present = exactly(fusion, ["genes", "image"])
    asks = {"genes": ["image"], "image": ["genes"]}
    if direction != "both":
        asks = {direction.split("->")[0]: [direction.split("->")[1]]}
    result = fusion(branches, present).detach().numpy()
    for case in range(4):
        tokens = {n: o.tokens[case].numpy() for n, o in branches.items()}
        own = restated(tokens, at, asks, {**shape, "residual": residual})
        assert result[case] == pytest.approx(np.concatenate([own[b] for b in asks]), rel=1e-9, abs=1e-12)


# --- temperature


def attention(**options: Any) -> CrossAttention:
    torch.manual_seed(0)
    given = {"value": 1.0, "mode": "fixed", "start": 1.0, **options}
    return CrossAttention(8, 2, 0.0, Temperature(2, **given)).eval()


def entropies(taus: list[float]) -> list[Tensor]:
    """Entropy of every row of the attention, [case, head, asking token], in nats."""
    asking, answering = 3 * torch.randn(4, 5, 8), 3 * torch.randn(4, 7, 8)
    rows = [attention(value=tau).weights(asking, answering) for tau in taus]
    return [-(row * row.clamp_min(1e-30).log()).sum(-1) for row in rows]


def test_entropy_of_every_row_rises_with_the_temperature() -> None:
    torch.manual_seed(1)
    result = entropies([0.05, 0.3, 1.0, 2.0, 5.0])
    for colder, hotter in itertools.pairwise(result):
        assert (hotter > colder).all()
    assert (result[-1] < math.log(7)).all()


def test_attention_applies_its_weights_to_the_values() -> None:
    layer, asking, answering = attention(value=0.7), torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    weights = layer.weights(asking, answering)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 3))
    value = layer.key_value(answering)[..., 8:].unflatten(-1, (2, 4)).transpose(1, 2)
    expected = layer.output((weights @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(asking, answering), expected, atol=1e-6)


@pytest.mark.parametrize(("mode", "trained"), [("learnable", True), ("fixed", False), ("annealed", False)])
def test_only_a_learnable_temperature_is_trained(mode: str, trained: bool) -> None:
    fusion, (branches, present) = build("cmaf", temperature_mode=mode), outputs("cmaf")
    fusion(branches, present).square().sum().backward()
    taus = [p for name, p in fusion.named_parameters() if name.endswith("log_tau")]
    assert len(taus) == (3 if trained else 0)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in taus)


def test_annealing_goes_from_start_to_end_and_is_saved() -> None:
    options = {"temperature_mode": "annealed", "start_temperature": 4.0, "temperature": 0.25}
    fusion, (branches, present) = build("cmaf", **options), outputs("cmaf")
    tau = next(m for m in fusion.modules() if isinstance(m, Temperature))
    for fraction, expected in [(0.0, 4.0), (0.5, 1.0), (1.0, 0.25), (0.25, 2.0)]:
        fusion.set_progress(fraction)
        assert tau().tolist() == pytest.approx([expected] * 8)
    again = build("cmaf", **options)
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again(branches, present), fusion(branches, present))


@pytest.mark.parametrize("mode", ["learnable", "fixed"])
def test_progress_changes_no_other_temperature(mode: str) -> None:
    fusion, (branches, present) = build("cmaf", temperature_mode=mode), outputs("cmaf")
    before = fusion(branches, present)
    fusion.set_progress(0.7)
    assert torch.equal(fusion(branches, present), before)


def test_a_learnable_temperature_stays_within_its_bounds() -> None:
    for far, bound in ((9.0, 5.0), (-9.0, 0.05)):
        tau = Temperature(3, 1.0, "learnable", 1.0)
        torch.nn.init.constant_(tau.raw_log_tau, far)
        assert tau().tolist() == pytest.approx([bound] * 3, rel=0.02)
        assert ((tau() >= 0.05) & (tau() <= 5.0)).all()


@pytest.mark.parametrize(("to", "back"), [(5.0, 0.5), (0.05, 1.0)])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_temperature_that_was_pushed_to_an_end_comes_back(to: float, back: float, optimizer: Any) -> None:
    """Between 0.064 and 3.9 it is what it was; beyond, it is slower, and has a slope everywhere."""
    tau = Temperature(2, 1.0, "learnable", 1.0)
    steps = optimizer(tau.parameters(), lr=0.03)
    for aim, count, near in ((to, 400, 0.25), (back, 6000, 0.05)):
        for _ in range(count):
            steps.zero_grad()
            (tau().log() - math.log(aim)).square().sum().backward()
            assert (slope := tau.raw_log_tau.grad) is not None
            assert ((slope != 0) | (tau() == aim)).all()
            steps.step()
        assert tau().tolist() == pytest.approx([aim] * 2, rel=near)


@pytest.mark.parametrize("log_tau", [math.log(0.05), math.log(5.0), -9.0, 9.0, -2.9, 1.55, -1.0, 0.0, 0.7, 1.2])
def test_a_temperature_of_earlier_weights_is_the_same(log_tau: float) -> None:
    """They were cut off at the ends, and away from these they are the same to the last bit."""
    past = torch.full((2,), log_tau)
    tau = Temperature(2, 1.0, "learnable", 1.0)
    tau.load_state_dict({"log_tau": past})
    expected = past.exp().clamp(0.05, 5.0)
    assert tau().tolist() == pytest.approx(expected.tolist(), rel=3e-6)
    assert not -2.7 < log_tau < 1.35 or torch.equal(tau(), expected)
    again = Temperature(2, 1.0, "learnable", 1.0)
    again.load_state_dict(tau.state_dict())
    assert torch.equal(again(), tau())


@pytest.mark.parametrize("value", [0.05, 5.0])
def test_a_learnable_temperature_may_begin_at_an_end(value: float) -> None:
    tau = Temperature(2, value, "learnable", 1.0)
    assert tau().tolist() == pytest.approx([value] * 2, rel=0.021)
    tau().sum().backward()
    assert tau.raw_log_tau.grad is not None
    assert (tau.raw_log_tau.grad.abs() > 1e-4).all()


@given(st.floats(-60, 60, width=32), st.floats(0.0625, 2))
def test_a_bound_is_smooth_monotone_and_what_it_bounds_away_from_its_ends(x: float, margin: float) -> None:
    low, high = -3.0, 2.0
    values = torch.tensor([x, x + 1e-3], dtype=torch.float64, requires_grad=True)
    result = bounded(values, low, high, margin)
    assert ((result >= low) & (result <= high)).all()
    assert result[0] <= result[1]
    if low + margin <= x and x + 1e-3 <= high - margin:
        assert torch.equal(result, values)
    (slope,) = torch.autograd.grad(result.sum(), values)
    assert ((slope > 0) & (slope <= 2)).all()
    back = unbounded(result.detach(), low, high, margin, least=1e-9)
    assert bounded(back, low, high, margin).tolist() == pytest.approx(result.tolist(), abs=2e-9)


# --- who has a say


@pytest.mark.parametrize("residual", [True, False])
def test_with_one_answering_token_only_the_residual_lets_the_asking_branch_speak(residual: bool) -> None:
    """The released code of arXiv 2503.02849 asks a single token of genes without a residual: its image is not seen."""
    fusion = FUSIONS.build("cross_attention", two(), dim=8, heads=2, direction="image->genes", residual=residual).eval()
    image, genes = (torch.randn(5, n, w, requires_grad=True) for n, w in ((3, 8), (1, 6)))
    branches = {"image": BackboneOutput(image, torch.zeros(5, 12)), "genes": BackboneOutput(genes, torch.zeros(5, 10))}
    fusion(branches, dict.fromkeys(branches, torch.ones(5, dtype=torch.bool))).square().sum().backward()
    assert image.grad is not None
    assert genes.grad is not None
    assert genes.grad.abs().max() > 1e-4
    assert (image.grad.abs().max() > 1e-4) == residual


def test_the_gate_shares_among_those_present() -> None:
    fusion, (branches, present) = build("cmaf"), outputs("cmaf")
    for branch in ("genes", "clinical"):
        present[branch] = torch.zeros(5, dtype=torch.bool)
    assert torch.allclose(fusion(branches, present), fusion.embed(branches, present)["image"])


def test_an_unlearned_width_needs_no_projection() -> None:
    same = {"cnn": Widths(8, 8), "transformer": Widths(8, 8)}
    kept, mapped = (FUSIONS.build("cmaf", same, dim=dim) for dim in (0, 8))
    assert kept.out_dim == mapped.out_dim == 8
    weights = [sum(p.numel() for p in fusion.parameters()) for fusion in (kept, mapped)]
    assert weights[1] - weights[0] == 2 * (8 * 8 + 8)
