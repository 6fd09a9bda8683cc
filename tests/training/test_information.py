"""Estimates of information against closed forms and other people's implementations; their laws and their limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as entropy_of_shares
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from histotune.training.information import (
    COMPONENTS,
    attention_entropy,
    cross_correlation,
    effective_rank,
    entropy,
    gaussian_information,
    hsic,
    label_information,
)

CASES = 300


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for busy cores make small matrices a hundred times slower."""
    with threadpool_limits(1, user_api="blas"):
        yield


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(width: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(normal(width, width, seed=seed))[0]


def related(cases: int, correlations: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of Gaussian vectors with these canonical correlations, in rotated coordinates."""
    one, noise = normal(cases, len(correlations), seed=seed), normal(cases, len(correlations), seed=seed + 10_000)
    rho = np.array(correlations)
    other = rho * one + np.sqrt(1 - rho**2) * noise
    return one @ rotation(len(rho), 1), other @ rotation(len(rho), 2)


# --- between embeddings


@pytest.mark.parametrize("correlations", [[0.5], [0.95], [0.0, 0.0, 0.0], [0.9, 0.6, 0.3], [0.99, 0.8, 0.5, 0.0, 0.0]])
def test_the_information_of_gaussians_has_no_bias(correlations: list[float]) -> None:
    known = -0.5 * np.log(1 - np.square(correlations)).sum()
    result = [gaussian_information(*related(CASES, correlations, seed)) for seed in range(60)]
    assert abs(np.mean(result) - known) < 4 * np.std(result) / np.sqrt(60) + 1e-9
    assert np.std(result) < 0.03 + 0.1 * known


@pytest.mark.parametrize("cases", [100, CASES])
def test_wide_independent_embeddings_share_nothing(cases: int) -> None:
    result = [gaussian_information(normal(cases, 64, seed=s), normal(cases, 48, seed=s + 500)) for s in range(30)]
    assert abs(np.mean(result)) < 4 * np.std(result) / np.sqrt(30)
    assert np.abs(result).max() < 0.3


def test_the_correlations_are_those_of_scikit_learn() -> None:
    one, other = related(CASES, [0.9, 0.6, 0.3], seed=7)
    scores = CCA(n_components=3, scale=False, max_iter=5000, tol=1e-12).fit(one, other).transform(one, other)
    rho = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores[0].T, scores[1].T, strict=True)]
    chance = -0.5 * np.log(1 - np.square(rho)).sum() - gaussian_information(one, other)
    assert chance == pytest.approx(3 * 3 / (2 * CASES), rel=0.05)


def test_an_affine_map_changes_nothing() -> None:
    one, other = related(CASES, [0.9, 0.5, 0.2, 0.0], seed=3)
    mapped = one @ normal(4, 4, seed=9) + 5.0
    assert gaussian_information(mapped, 0.01 * other - 3.0) == pytest.approx(gaussian_information(one, other))


def test_a_rotation_of_a_wide_embedding_changes_nothing() -> None:
    scales = np.linspace(3, 0.1, 40)
    one, other = normal(CASES, 40) * scales, normal(CASES, 40, seed=1) * scales + normal(CASES, 40)
    turned = 7.0 * one @ rotation(40) - 2.0
    assert gaussian_information(turned, other) == pytest.approx(gaussian_information(one, other))
    assert gaussian_information(other, one) == pytest.approx(gaussian_information(one, other))


def test_equal_constant_and_few_are_answered() -> None:
    one = normal(CASES, 8)
    assert 50 < gaussian_information(one, one) < 8 * 14
    assert gaussian_information(one, np.full((CASES, 5), 0.3, np.float32)) == 0.0
    assert np.isnan(gaussian_information(one[:9], one[:9]))
    assert np.isfinite(gaussian_information(one[:10], one[:10]))


@settings(deadline=None, max_examples=50)  # it trains five probes
@given(st.integers(10, 60), st.integers(1, 30), st.integers(0, 3), st.integers(0, 1000))
def test_any_embedding_has_a_finite_answer(cases: int, width: int, rank: int, seed: int) -> None:
    one = (normal(cases, rank, seed=seed) @ normal(rank, width, seed=seed)).astype(np.float32)
    other = normal(cases, 4, seed=seed + 1)
    labels, patients = np.arange(cases) % 3 % 2, np.arange(cases) // 4
    assert np.isfinite(gaussian_information(one, other))
    assert label_information(one, labels, patients) <= entropy(labels)
    assert 1 <= effective_rank(one) <= max(1, rank) + 1e-6


def test_cross_correlation_is_numpys() -> None:
    one, other = related(CASES, [0.9, 0.4], seed=2)
    expected = np.square(np.corrcoef(one.T, other.T)[:2, 2:]).mean()
    assert cross_correlation(one, other) == pytest.approx(expected)


def test_independent_features_correlate_by_chance_as_said() -> None:
    result = [cross_correlation(normal(50, 6, seed=s), normal(50, 6, seed=s + 100)) for s in range(100)]
    assert np.mean(result) == pytest.approx(1 / 49, rel=0.1)


def test_hsic_sees_what_correlation_does_not() -> None:
    one = normal(CASES, 1)
    bent = one**2 + 0.1 * normal(CASES, 1, seed=1)
    assert hsic(one, one) == pytest.approx(1.0)
    assert abs(hsic(one, normal(CASES, 1, seed=2))) < 0.05
    assert hsic(one, bent) > 0.2
    assert gaussian_information(one, bent) < 0.1, "what a Gaussian estimate cannot see"
    assert np.isnan(hsic(one[:3], one[:3]))


# --- on the label


def patients_of(cases: int) -> np.ndarray:
    return np.array([f"patient {number % 30}" for number in range(cases)])


def test_a_probe_is_scikit_learns() -> None:
    labels = np.arange(CASES) % 3
    values = normal(CASES, 24) * np.linspace(2, 0.5, 24) + 0.8 * np.eye(24)[labels]
    pipeline = make_pipeline(PCA(COMPONENTS, whiten=True, svd_solver="full"), LogisticRegression(max_iter=1000))
    shares = cross_val_predict(
        pipeline, values, labels, groups=patients_of(CASES), cv=GroupKFold(5), method="predict_proba"
    )
    expected = entropy(labels) - log_loss(labels, shares)
    assert label_information(values, labels, patients_of(CASES)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_the_information_of_two_gaussian_classes_is_found(shift: float) -> None:
    labels = np.arange(4000) % 2
    values = normal(4000, 3) + shift * (2 * labels[:, None] - 1) * np.array([1, 0, 0])
    x = np.linspace(-12, 12, 20_001)
    densities = [np.exp(-((x - side * shift) ** 2) / 2) / np.sqrt(2 * np.pi) for side in (-1, 1)]
    both = (densities[0] + densities[1]) / 2
    known = sum((d * np.log(d / both)).sum() / 2 for d in densities) * (x[1] - x[0])
    assert label_information(values, labels, patients_of(4000)) == pytest.approx(known, abs=0.025)


def test_it_is_at_most_the_entropy_of_the_label_and_about_zero_without_information() -> None:
    labels = (np.arange(CASES) % 10 < 3).astype(int)
    ceiling = entropy(labels)
    assert ceiling == pytest.approx(entropy_of_shares([0.7, 0.3]))
    assert 0.9 * ceiling < label_information(normal(CASES, 8) + 20 * labels[:, None], labels, patients_of(CASES))
    nothing = [label_information(normal(CASES, 64, seed=s), labels, patients_of(CASES)) for s in range(10)]
    assert -0.06 < np.mean(nothing) < 0.02, "a probe that learns noise may fall below 0, which is not cut off"
    assert label_information(np.zeros((CASES, 4)), labels, patients_of(CASES)) == pytest.approx(0, abs=0.01)


def test_who_the_patient_is_tells_nothing_of_other_patients() -> None:
    patients = np.arange(CASES) // 10
    labels = patients % 2
    who = 5 * normal(30, 16)[patients] + 0.1 * normal(CASES, 16, seed=1)
    assert label_information(who, labels, np.arange(CASES), components=16) > 0.8 * entropy(labels)
    assert label_information(who, labels, patients, components=16) < 0.1


def test_odd_labels_are_answered() -> None:
    values = normal(60, 3)
    assert np.isnan(label_information(values, np.arange(60) % 2, np.zeros(60)))
    assert label_information(values, np.zeros(60, int), np.arange(60) // 6) == pytest.approx(0.0, abs=0.001)
    rare = (np.arange(60) < 6).astype(int)  # one patient alone has it
    assert np.isfinite(label_information(values, rare, np.arange(60) // 6))


# --- directions and attention


def test_effective_rank_counts_directions() -> None:
    centred = normal(CASES, 12) - normal(CASES, 12).mean(axis=0)
    even = np.linalg.svd(centred, full_matrices=False)[0]
    assert effective_rank(even) == pytest.approx(12)
    assert effective_rank(even[:, :1] @ normal(1, 12)) == pytest.approx(1)
    assert effective_rank(np.full((CASES, 12), 0.7, np.float32)) == 1.0
    sizes = np.linspace(1, 5, 12)
    assert effective_rank(even * sizes + 3.0) == pytest.approx(np.exp(entropy_of_shares(sizes)))
    assert effective_rank(9 * even * sizes @ rotation(12)) == pytest.approx(effective_rank(even * sizes))


def everybody(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Who asks and who answers where nothing is padding."""
    return rows[:, 0, :, 0] >= 0, rows[:, 0, 0] >= 0


def test_attention_entropy_is_scipys_and_a_share() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(7, 0.3), size=(4, 2, 5)))
    expected = entropy_of_shares(rows.numpy(), axis=-1).mean(axis=2) / np.log(7)
    assert attention_entropy(rows, *everybody(rows)).numpy() == pytest.approx(expected)
    even, certain, single = torch.full((2, 3, 4, 5), 0.2), torch.eye(5).expand(2, 3, 5, 5), torch.ones(2, 3, 4, 1)
    assert attention_entropy(even, *everybody(even)).numpy() == pytest.approx(1.0)
    assert not attention_entropy(certain, *everybody(certain)).any()
    assert attention_entropy(single, *everybody(single)).isnan().all(), "one answer is no choice"


def test_attention_entropy_counts_no_padding() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(7, 0.3), size=(4, 2, 5)))
    padded = torch.nn.functional.pad(rows, (0, 3, 0, 2))
    asks, answers = (torch.nn.functional.pad(who, (0, more)) for who, more in zip(everybody(rows), (2, 3), strict=True))
    torch.testing.assert_close(attention_entropy(padded, asks, answers), attention_entropy(rows, *everybody(rows)))
