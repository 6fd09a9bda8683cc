"""Every loss against its formula in float64 numpy, written case by case, and against other people's code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from histotune.models.backbones._torchvision import declare_missing_operators
from histotune.models.losses import LOSSES, LinearObjective, Objective, ObjectiveInput
from histotune.models.losses._affinity import Affinity

WIDTH = 5
COUNTS = (12, 300, 45, 7)
Arrays = Mapping[str, np.ndarray]
Costs = Callable[[Arrays, Any], np.ndarray]


# --- the formulas: [B, C], what each case costs as a case of each class


def alphas(beta: float, counts: tuple[int, ...] = COUNTS) -> np.ndarray:
    inverse = np.array([1.0 if beta == 0 else 1 / n if beta == 1 else (1 - beta) / (1 - beta**n) for n in counts])
    return inverse / inverse.sum() * len(counts)


def minus_log_softmax(z: np.ndarray, k: int) -> float:
    return float(z.max() + np.log(np.exp(z - z.max()).sum()) - z[k])


def table(cost: Callable[[int, int], float], cases: int, classes: int) -> np.ndarray:
    return np.array([[cost(i, k) for k in range(classes)] for i in range(cases)])


def linear(at: Arrays) -> np.ndarray:
    return at["features"] @ at["head.weight"].T + at["head.bias"]


def cross_entropy(at: Arrays, o: Any) -> np.ndarray:
    adjusted = linear(at) + o.get("tau", 0) * np.log(np.array(COUNTS) / sum(COUNTS))
    alpha, smooth = alphas(o["beta"]), o.get("label_smoothing", 0)

    def cost(i: int, k: int) -> float:
        soft = [(1 - smooth) * (j == k) + smooth / len(COUNTS) for j in range(len(COUNTS))]
        return sum(alpha[j] * soft[j] * minus_log_softmax(adjusted[i], j) for j in range(len(COUNTS)))

    return table(cost, *adjusted.shape)


def focal(at: Arrays, o: Any) -> np.ndarray:
    z, alpha = linear(at), alphas(o["beta"])

    def cost(i: int, k: int) -> float:
        nll = minus_log_softmax(z[i], k)
        return float(alpha[k] * (1 - math.exp(-nll)) ** o["gamma"] * nll)

    return table(cost, *z.shape)


def sigmoid_focal(at: Arrays, o: Any) -> np.ndarray:
    z, alpha = linear(at), alphas(o["beta"])

    def cost(i: int, k: int) -> float:
        total = 0.0
        for j, logit in enumerate(z[i]):
            yes = 1 / (1 + math.exp(-logit))
            right = yes if j == k else 1 - yes
            total += (1 - right) ** o["gamma"] * -math.log(right)
        return float(alpha[k] * total)

    return table(cost, *z.shape)


def affinities(at: Arrays, sigma: float) -> np.ndarray:
    f, w = at["features"], at["centres"]
    return np.array([[max(math.exp(-((x - centre) ** 2).sum() / sigma) for centre in own) for own in w] for x in f])


def diversity(centres: np.ndarray) -> float:
    every = centres.reshape(-1, centres.shape[-1])
    distances = np.array([((a - b) ** 2).sum() for a, b in itertools.combinations(every, 2)])
    return float(((distances - distances.mean()) ** 2).mean())


def hinge(at: Arrays, o: Any) -> np.ndarray:
    d = affinities(at, o["sigma"])
    rest = [[j for j in range(d.shape[1]) if j != k] for k in range(d.shape[1])]
    return table(lambda i, k: sum(max(0.0, o["lambda"] + d[i, j] - d[i, k]) for j in rest[k]), *d.shape)


def affinity(at: Arrays, o: Any) -> np.ndarray:
    """The modulator is that of `o["frozen"]` where the gradient does not see it."""
    seen = o["frozen"] if o.get("detach_modulator", True) else at
    modulator = alphas(o.get("beta", 0)) * (1 - affinities(seen, o["sigma"])) ** o.get("gamma", 0)
    spread = o.get("reg_weight", 1) * diversity(at["centres"])
    if o.get("reg_inside", True):
        return modulator * (hinge(at, o) + spread)
    return modulator * hinge(at, o) + spread


def released(at: Arrays, o: Any) -> np.ndarray:
    """The product of two means, written as a cost of each case; `o["shares"]` are the labels."""
    share = o["shares"]
    seen = o["frozen"] if o["detach_modulator"] else at
    modulator = (share * alphas(o["beta"]) * (1 - affinities(seen, o["sigma"])) ** o["gamma"]).sum(1).mean()
    return modulator * (hinge(at, o) + o["reg_weight"] * diversity(at["centres"]))


def cosine(at: Arrays, target: Callable[[float, int], float], o: Any, *, lengths: bool = False) -> np.ndarray:
    f, w = at["features"], at["directions"]
    alpha = alphas(o["beta"])

    def cost(i: int, k: int) -> float:
        z = np.array([f[i] @ v / math.sqrt(f[i] @ f[i]) / math.sqrt(v @ v) for v in w])
        z[k] = target(z[k], k)
        return float(alpha[k] * minus_log_softmax(o["scale"] * (math.sqrt(f[i] @ f[i]) if lengths else 1) * z, k))

    return table(cost, len(f), len(w))


def arcface(at: Arrays, o: Any) -> np.ndarray:
    m = o["margin"]

    def target(c: float, _: int) -> float:
        theta = math.acos(c)
        return math.cos(theta + m) if theta <= math.pi - m else c - m * math.sin(m)

    return cosine(at, target, o)


def cosface(at: Arrays, o: Any) -> np.ndarray:
    return cosine(at, lambda c, _: c - o["margin"], o)


def sphereface(at: Arrays, o: Any) -> np.ndarray:
    def target(c: float, _: int) -> float:
        theta = math.acos(c)
        k = math.floor(o["margin"] * theta / math.pi)
        return (-1) ** k * math.cos(o["margin"] * theta) - 2 * k

    return cosine(at, target, o, lengths=not o.get("feature_norm", True))


def ldam(at: Arrays, o: Any) -> np.ndarray:
    quarter = [n**-0.25 for n in COUNTS]
    beta = o["beta"] if o["progress"] >= o["defer"] else 0
    return cosine(at, lambda c, k: c - o["margin"] * quarter[k] / max(quarter), {**o, "beta": beta})


def acbfl(at: Arrays, o: Any) -> np.ndarray:
    """`o["known"]` is how well each class is known, .5 at the beginning."""
    f, w, known = at["features"], at["directions"], np.array(o.get("known", [0.5] * len(COUNTS)))
    margin = np.array([n**-0.25 for n in COUNTS])
    margin *= o["margin"] / margin.max()
    weights = alphas(o["beta"]) * (1 + o["eta"] * (1 - known))
    weights *= len(COUNTS) / weights.sum()
    gamma = o["gamma"] * (1 + o["kappa"] * (1 - known))

    def cost(i: int, k: int) -> float:
        z = np.array([f[i] @ v / math.sqrt(f[i] @ f[i]) / math.sqrt(v @ v) for v in w])
        z[k] -= margin[k]
        nll = minus_log_softmax(o["scale"] * z, k)
        return float(weights[k] * (1 - math.exp(-nll)) ** gamma[k] * nll)

    return table(cost, len(f), len(w))


AFFINE = {"lambda": 0.3, "sigma": 9.0, "reg_weight": 0.05}
ADAPTIVE = {"scale": 16.0, "margin": 0.5, "gamma": 2.0, "beta": 0.99}
FOCUSED = {**AFFINE, "gamma": 2.0, "beta": 0.99}
CASES: list[tuple[str, dict[str, Any], Costs]] = [
    *[("cross_entropy", {"label_smoothing": s, "beta": b}, cross_entropy) for s in (0.0, 0.1) for b in (0.0, 0.99)],
    *[("cross_entropy", {"tau": t, "beta": 0.0}, cross_entropy) for t in (0.5, 1.0)],
    *[("focal", {"gamma": g, "beta": b}, focal) for g in (0.0, 0.5, 1.0, 2.0, 5.0) for b in (0.0, 0.99, 1.0)],
    *[("sigmoid_focal", {"gamma": g, "beta": b}, sigmoid_focal) for g in (0.0, 0.5, 2.0) for b in (0.0, 0.99)],
    *[("gaussian_affinity", {**AFFINE, "centres": m}, affinity) for m in (1, 3)],
    *[("class_balanced_affinity", {**AFFINE, "centres": m, "beta": 0.99}, affinity) for m in (1, 3)],
    *[("cfal", {**FOCUSED, "centres": m}, affinity) for m in (1, 3)],
    *[("cfal", {**FOCUSED, "gamma": g, "detach_modulator": False}, affinity) for g in (0.5, 1.0, 5.0)],
    *[("cfal", {**FOCUSED, "reg_inside": False, "detach_modulator": d}, affinity) for d in (False, True)],
    *[("cfal", {**FOCUSED, "mode": "released_keras", "detach_modulator": d}, released) for d in (False, True)],
    *[("arcface", {"scale": s, "margin": m, "beta": 0.99}, arcface) for s in (1.0, 30.0) for m in (0.1, 0.5, 1.5)],
    *[("cosface", {"scale": s, "margin": m, "beta": 0.99}, cosface) for s in (1.0, 20.0) for m in (0.1, 0.9)],
    *[("sphereface", {"scale": 10.0, "margin": m, "beta": 0.99}, sphereface) for m in (1.0, 1.35, 2.0, 4.0)],
    *[("sphereface", {"scale": 1.0, "margin": m, "beta": 0.0, "feature_norm": False}, sphereface) for m in (1.35, 3.0)],
    ("sphereface_reproduction", {"scale": 3.0, "margin": 0.35, "beta": 0.99}, sphereface),
    *[("acbfl", {**ADAPTIVE, "kappa": k, "eta": e}, acbfl) for k in (0.0, 1.0) for e in (0.0, 0.5)],
    *[("acbfl", {**ADAPTIVE, "gamma": g, "kappa": 0.0, "eta": 2.0}, acbfl) for g in (0.0, 0.5)],
    *[("ldam", {"scale": 30.0, "margin": 0.5, "beta": 0.9999, "defer": d}, ldam) for d in (0.3, 0.8)],
]
PROGRESS = 0.5
IDS = [f"{name}-{number}" for number, (name, _, _) in enumerate(CASES)]


def build(name: str, params: Mapping[str, Any], dtype: torch.dtype, seed: int) -> Objective:
    torch.manual_seed(seed)
    objective = LOSSES.build(name, ObjectiveInput(WIDTH, COUNTS), **params).to(dtype)
    objective.set_progress(PROGRESS)
    return objective


def drawn(seed: int, *, soft: bool) -> tuple[np.ndarray, np.ndarray]:
    """Features [B, D] and shares [B, C] of each class in each label."""
    rng = np.random.default_rng(seed)
    classes = len(COUNTS)
    features = rng.normal(size=(7, WIDTH)).astype(np.float32).astype(np.float64)
    if soft:
        return features, rng.dirichlet(np.ones(classes), size=7).astype(np.float32).astype(np.float64)
    return features, np.eye(classes)[rng.integers(classes - 1, size=7)]  # one class is absent


def gradient(value: Callable[[Arrays], float], at: Arrays, name: str, places: np.ndarray) -> np.ndarray:
    """Central differences of fourth order at some places of one array."""
    slopes = []
    for place in map(tuple, places):
        values = {}
        for steps in (-2, -1, 1, 2):
            moved = at[name].copy()
            moved[place] += steps * 1e-4
            values[steps] = value({**at, name: moved})
        slopes.append((8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-4)
    return np.array(slopes)


@pytest.mark.parametrize(("name", "params", "costs"), CASES, ids=IDS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=["64", "32"])
def test_value_and_gradients_follow_the_formula(
    name: str, params: dict[str, Any], costs: Costs, soft: bool, dtype: torch.dtype, near: float
) -> None:
    seed = 11
    objective = build(name, params, dtype, seed)
    features, shares = drawn(seed, soft=soft)
    at = {key: p.detach().double().numpy() for key, p in objective.named_parameters()} | {"features": features}
    options = {**params, "frozen": at, "shares": shares, "progress": PROGRESS}

    def value(point: Arrays) -> float:
        return float((shares * costs(point, options)).sum(axis=1).mean())

    leaf = torch.from_numpy(features).to(dtype).requires_grad_()
    labels = torch.from_numpy(shares).to(dtype) if soft else torch.from_numpy(shares.argmax(axis=1))
    loss = objective.loss(leaf, labels)
    loss.backward()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(value(at), rel=near)
    rng = np.random.default_rng(seed)
    for key, leaf_of in [("features", leaf), *objective.named_parameters()]:
        assert leaf_of.grad is not None
        places = rng.integers(0, at[key].shape, size=(6, at[key].ndim))
        ours = leaf_of.grad.double().numpy()
        expected = gradient(value, at, key, places)
        scale = float(np.abs(ours).max())
        assert scale > 0
        assert ours[tuple(places.T)] == pytest.approx(expected, rel=near, abs=near * scale), key


def test_acbfl_follows_its_formula_once_it_knows_the_classes() -> None:
    """P against an exponential mean written out, then the loss with that P."""
    options = {**ADAPTIVE, "kappa": 1.5, "eta": 0.7, "momentum": 0.9}
    objective = build("acbfl", options, torch.float64, 4)
    directions = objective.get_parameter("directions").detach().numpy()
    known = np.full(len(COUNTS), 0.5)
    for seed in range(6):
        features, shares = drawn(seed, soft=seed % 2 == 1)
        labels = torch.from_numpy(shares if seed % 2 else shares.argmax(axis=1))
        for piece in (slice(0, 3), slice(3, None)):  # a step may come in pieces
            objective.observe(torch.from_numpy(features[piece]), labels[piece])
        objective.adapt()
        units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, directions)]
        z = 16.0 * units[0] @ units[1].T
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        for k in range(len(COUNTS)):
            if shares[:, k].sum() > 0:
                known[k] = 0.9 * known[k] + 0.1 * (shares[:, k] * p[:, k]).sum() / shares[:, k].sum()
    assert objective.get_buffer("known").numpy() == pytest.approx(known, rel=1e-9)
    assert np.ptp(known) > 0.01
    features, shares = drawn(11, soft=False)
    at = {"features": features, "directions": directions}
    expected = (shares * acbfl(at, {**options, "known": known})).sum(axis=1).mean()
    loss = objective.loss(torch.from_numpy(features), torch.from_numpy(shares.argmax(axis=1)))
    assert loss.item() == pytest.approx(expected, rel=1e-6), "weights and margins are kept in float32"


# --- a worked example, and figures of papers and released code


def hand_2d(**params: Any) -> float:
    given = ObjectiveInput(2, (1, 1, 1))
    objective = LOSSES.build("cfal", given, **{"sigma": 1.0, "lambda": 0.5, "gamma": 1.0, "beta": 0.0, **params})
    centres = objective.get_parameter("centres")
    assert centres.shape == (3, 1, 2)
    centres.data = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    return objective.loss(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 2])).item()


@pytest.mark.parametrize(
    ("params", "value"),
    [
        ({}, 0.44950421),
        ({"reg_inside": False}, 0.57807894),
        ({"mode": "released_keras"}, 0.33088530),
        ({"gamma": 0.0}, 0.78517926),
    ],
    ids=["paper", "outside", "released", "affinity"],
)
def test_the_example_by_hand(params: dict[str, Any], value: float) -> None:
    assert hand_2d(**params) == pytest.approx(value, abs=1e-6), "1e-6: a case on its centre keeps that much weight"


def test_diversity_of_the_example_by_hand() -> None:
    objective = LOSSES.build("gaussian_affinity", ObjectiveInput(2, (1, 1, 1)))
    objective.get_parameter("centres").data = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    assert objective.diversity().item() == pytest.approx(2 / 9)  # type: ignore[operator]


@pytest.mark.parametrize(("classes", "centres", "spread"), [(2, 1, 1.0), (9, 1, 0.471), (4, 5, 0.316)])
def test_centres_begin_as_keras_draws_them(classes: int, centres: int, spread: float) -> None:
    torch.manual_seed(0)
    objective = LOSSES.build("cfal", ObjectiveInput(4000, (5,) * classes), sigma=1e4, centres=centres)
    drawn_centres = objective.get_parameter("centres")
    assert drawn_centres.std().item() == pytest.approx(spread, rel=0.02)
    assert drawn_centres.abs().max().item() <= 2.28 * spread


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_automatic_sigma_is_the_mean_distance_between_centres(factor: float) -> None:
    objective = LOSSES.build("cfal", ObjectiveInput(64, (5, 5, 5)), sigma_mode="auto", sigma_factor=factor, centres=2)
    centres = objective.get_parameter("centres").detach().double().numpy().reshape(6, 64)
    distances = [((a - b) ** 2).sum() for a, b in itertools.combinations(centres, 2)]
    assert isinstance(objective, Affinity)
    assert objective.sigma.item() == pytest.approx(factor * np.mean(distances), rel=1e-5)
    assert np.mean(distances) == pytest.approx(4 * 64 / 6, rel=0.25), "4 H / (C M), as published"


@pytest.mark.parametrize("centres", [1, 3])
def test_softmax_of_affinity_scores_is_the_share_of_affinities(centres: int) -> None:
    objective = build("cfal", {"sigma": 9.0, "centres": centres}, torch.float64, 0)
    features = torch.from_numpy(drawn(3, soft=False)[0])
    d = affinities({"features": features.numpy(), "centres": objective.get_parameter("centres").detach().numpy()}, 9.0)
    probabilities = objective.scores(features).softmax(dim=1).detach().numpy()
    assert probabilities == pytest.approx(d / d.sum(axis=1, keepdims=True), rel=1e-12)


# --- other people's code


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_sigmoid_focal_is_torchvisions(gamma: float) -> None:
    declare_missing_operators()
    from torchvision.ops import sigmoid_focal_loss

    objective = build("sigmoid_focal", {"gamma": gamma}, torch.float64, 1)
    assert isinstance(objective, LinearObjective)
    features, shares = drawn(5, soft=False)
    ours, theirs = (torch.from_numpy(features).requires_grad_() for _ in range(2))
    loss = objective.loss(ours, torch.from_numpy(shares.argmax(axis=1)))
    reference = sigmoid_focal_loss(objective.head(theirs), torch.from_numpy(shares), alpha=-1, gamma=gamma)
    agree(loss, ours, reference.sum() / len(features), theirs)


@pytest.mark.parametrize(("name", "margin"), [("arcface", 0.1), ("arcface", 0.5), ("cosface", 0.35)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_margins_are_those_of_pytorch_metric_learning(name: str, margin: float, scale: float) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    kind = {"arcface": losses.ArcFaceLoss, "cosface": losses.CosFaceLoss}[name]
    theirs_margin = math.degrees(margin) if name == "arcface" else margin
    reference = kind(len(COUNTS), WIDTH, margin=theirs_margin, scale=scale)
    same_as_metric_learning(build(name, {"scale": scale, "margin": margin, "beta": 0.0}, torch.float64, 2), reference)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # theirs, under NumPy 2
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_unnormed_sphereface_is_that_of_pytorch_metric_learning(margin: int) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    reference = losses.SphereFaceLoss(len(COUNTS), WIDTH, margin=margin, scale=1)
    params = {"scale": 1.0, "margin": float(margin), "feature_norm": False}
    same_as_metric_learning(build("sphereface", params, torch.float64, 2), reference)


def same_as_metric_learning(objective: Objective, reference: nn.Module) -> None:
    features, shares = drawn(7, soft=False)
    labels = torch.from_numpy(shares.argmax(axis=1))
    ours, theirs = (torch.from_numpy(features).requires_grad_() for _ in range(2))
    reference.W = nn.Parameter(objective.get_parameter("directions").detach().T.clone())
    agree(objective.loss(ours, labels), ours, reference(theirs, labels), theirs)


def agree(loss: Tensor, features: Tensor, reference: Tensor, theirs: Tensor) -> None:
    loss.backward()
    reference.backward()
    assert features.grad is not None
    assert theirs.grad is not None
    assert loss.item() == pytest.approx(reference.item(), rel=1e-9)
    assert features.grad.numpy() == pytest.approx(theirs.grad.numpy(), rel=1e-7, abs=1e-10)
