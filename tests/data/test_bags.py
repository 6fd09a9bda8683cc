"""Guards bags and graphs: what is stored comes back, batches hold the right instances, neighbours are the true ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.data.modalities import MODALITIES
from histotune.data.modalities.bag import BagModality, Bags, join
from histotune.data.modalities.graph import GraphModality, connect, neighbours
from histotune.errors import ConfigError, DataError

CPU = torch.device("cpu")
SIZES = (5, 0, 12, 1)


def bags(sizes: tuple[int, ...] = SIZES, seed: int = 0, width: int = 3) -> Bags:
    rng = np.random.default_rng(seed)
    features = [rng.normal(3, 2, (size, width)).astype(np.float32) for size in sizes]
    return join(features, [rng.integers(0, 5000, (size, 2)).astype(np.float32) for size in sizes])


def graphs(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Bags:
    return connect(bags(sizes, seed), k=3)


def edges_of(table: np.ndarray) -> set[tuple[int, int]]:
    return {(at, int(other)) for at, row in enumerate(table) for other in row if other >= 0}


@pytest.fixture(params=["bag", "graph"])
def kind(request: pytest.FixtureRequest) -> BagModality:
    modality = MODALITIES.build(request.param)
    assert isinstance(modality, BagModality)
    return modality


def example(kind: BagModality) -> Bags:
    return graphs() if kind.name == "graph" else bags()


def test_what_is_saved_is_loaded_and_mapped(kind: BagModality, tmp_path: Path) -> None:
    stored = example(kind)
    kind.save(stored, tmp_path)
    loaded = kind.load(tmp_path)
    assert isinstance(loaded.features, np.memmap)
    for name in ("features", "coordinates", "offsets", "neighbours"):
        assert np.array_equal(getattr(loaded, name), getattr(stored, name))
    assert kind.digests(loaded) == kind.digests(stored)
    assert kind.cases(loaded) == len(SIZES)


def test_a_damaged_folder_is_noticed(kind: BagModality, tmp_path: Path) -> None:
    kind.save(example(kind), tmp_path)
    np.save(tmp_path / "coordinates.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        kind.load(tmp_path)


def test_features_that_are_no_numbers_are_refused_with_their_case(tmp_path: Path) -> None:
    stored = bags()
    stored.features[stored.offsets[2] + 1, 2] = np.inf
    with pytest.raises(DataError, match="feature 2 of an instance of case number 2"):
        MODALITIES.build("bag").save(stored, tmp_path)


def test_a_digest_follows_a_case_and_not_its_company(kind: BagModality) -> None:
    stored = example(kind)
    digests = kind.digests(stored)
    rows = np.array([3, 2, 0])
    assert kind.digests(kind.select(stored, rows)) == [digests[row] for row in rows]
    assert len(set(digests)) == len(digests)
    alone = kind.select(bags(), np.array([0]))
    alone = connect(alone, k=3) if kind.name == "graph" else alone
    assert kind.digests(alone)[0] == digests[0]  # though the others have more neighbours
    changed = replace(stored, coordinates=stored.coordinates + 1)
    assert not set(kind.digests(changed)[:1]) & set(digests)


def test_a_batch_holds_each_case_and_padding(kind: BagModality) -> None:
    stored = example(kind)
    rows = np.array([2, 1, 0, 2])
    batch = kind.source(stored, CPU).take(rows)
    assert batch.there.sum(1).tolist() == [12, 0, 5, 12]
    assert batch.features.shape == (4, 12, 3)
    assert batch.neighbours.dtype == torch.int64
    for at, row in enumerate(rows):
        where, count = stored.case(row), stored.counts[row]
        assert np.array_equal(batch.features[at, :count], stored.features[where])
        assert np.array_equal(batch.coordinates[at, :count], stored.coordinates[where])
        assert np.array_equal(batch.neighbours[at, :count], stored.neighbours[where])
        assert batch.features[at, count:].abs().sum() == 0
        assert (batch.neighbours[at, count:] == -1).all()


def test_bags_that_lie_on_the_device_give_the_same_batches(kind: BagModality) -> None:
    stored, rows = replace(example(kind), most=4), np.array([2, 1, 0, 3])
    mapped, resident = kind.source(stored, CPU), kind.source(stored, CPU)
    arrays = {name: getattr(stored, name) for name in ("features", "coordinates", "neighbours")}
    resident.resident = {name: torch.from_numpy(array) for name, array in arrays.items()}  # as on a GPU
    for one, other in zip(mapped.take(rows), resident.take(rows), strict=True):
        assert torch.equal(one, other)


def test_only_empty_bags_make_a_batch(kind: BagModality) -> None:
    stored = kind.select(example(kind), np.array([1, 1]))
    batch = kind.source(stored, CPU).take(np.array([0, 1]))
    assert batch.features.shape == (2, 1, 3)
    assert not batch.there.any()


@pytest.mark.parametrize("most", [1, 4, 7, 12, 50])
def test_a_long_case_is_thinned_evenly_and_its_edges_renumbered(most: int) -> None:
    stored = graphs()
    batch = GraphModality().source(replace(stored, most=most), CPU).take(np.array([2, 0]))
    for at, row in enumerate((2, 0)):
        count = int(stored.counts[row])
        chosen = [j * count // min(most, count) for j in range(min(most, count))]
        assert batch.there[at].sum() == len(chosen)
        assert np.array_equal(batch.features[at, : len(chosen)], stored.features[stored.case(row)][chosen])
        whole = edges_of(stored.neighbours[stored.case(row)])
        induced = {(chosen.index(a), chosen.index(b)) for a, b in whole if a in chosen and b in chosen}
        assert edges_of(batch.neighbours[at, : len(chosen)].numpy()) == induced


def test_z_scores_count_every_case_alike_and_the_others_not_at_all(kind: BagModality) -> None:
    stored, rows = example(kind), np.array([0, 2])
    fitted = kind.fit(stored, rows, np.array([0, 1]), {})
    cases = [stored.features[stored.case(row)].astype(np.float64) for row in rows]
    weights = np.concatenate([np.full(len(case), 0.5 / len(case)) for case in cases])
    mean = np.average(np.concatenate(cases), axis=0, weights=weights)
    std = np.sqrt(np.average((np.concatenate(cases) - mean) ** 2, axis=0, weights=weights))
    assert np.allclose(fitted.mean, mean, rtol=1e-6)
    assert np.allclose(fitted.std, std, rtol=1e-6)
    stored.features[stored.case(3)] = 1e9  # not a training case
    again = kind.fit(stored, rows, np.array([0, 1]), {})
    assert again.to_dict() == fitted.to_dict()
    scored = fitted.standardise(kind.source(stored, CPU).take(rows))
    assert np.allclose(scored.features[1, :12], (cases[1] - mean) / std, atol=1e-5)
    assert scored.features[0, 5:].abs().sum() == 0


def test_a_constant_feature_becomes_zero_and_stays_small() -> None:
    stored = bags()
    stored.features[:, 1] = 1234.567
    fitted = BagModality().fit(stored, np.array([0, 2]), np.zeros(2, np.int64), {})
    scored = fitted.standardise(BagModality().source(stored, CPU).take(np.array([0])))
    assert scored.features[..., 1].abs().max() < 1e-3
    assert fitted.shape == (3,)


def test_a_preprocessing_comes_back_and_limits_what_is_read(kind: BagModality) -> None:
    stored = example(kind)
    fitted = kind.fit(stored, np.array([0, 2]), np.zeros(2, np.int64), {"instances": 4})
    restored = kind.restore(fitted.to_dict())
    assert restored.to_dict() == fitted.to_dict()
    assert restored.kind == kind.name
    batch = kind.source(restored.check(stored), CPU).take(np.array([2]))
    assert batch.there.sum() == 4
    with pytest.raises(DataError, match="reads 3 features"):
        restored.check(bags(width=5))
    blank = restored.blank(2, CPU)
    assert restored.standardise(blank).features.shape == (2, 1, 3)


def test_impossible_options_are_refused(kind: BagModality) -> None:
    with pytest.raises(ConfigError, match="instances"):
        kind.check_options({"instance": 4})
    with pytest.raises(ConfigError, match="whole number"):
        kind.check_options({"instances": 1.5})
    with pytest.raises(DataError, match="none of 1 training cases"):
        kind.fit(example(kind), np.array([1]), np.zeros(1, np.int64), {})


def test_the_summary_is_the_mean_and_the_logarithm_of_the_count(kind: BagModality) -> None:
    stored = example(kind)
    text = kind.summary(stored, np.array([2, 1]))
    assert np.allclose(text[0, :-1], stored.features[stored.case(2)].mean(axis=0), rtol=1e-6)
    assert text[0, -1] == pytest.approx(np.log(12))
    assert np.isnan(text[1]).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grid", [False, True])
def test_nearest_neighbours_are_those_of_brute_force(seed: int, *, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 8, (40, 2)) * 50.0 if grid else rng.normal(0, 1000, (40, 2))  # a grid has ties and twins
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    near = distance <= np.sort(distance, axis=1)[:, 4:5] * (1 + 1e-12)
    expected = {(a, b) for a, b in zip(*np.nonzero(near | near.T), strict=True)}
    assert edges_of(neighbours(points, k=5)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_delaunay_edges_are_those_of_empty_circles(seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 3000, (14, 2))
    expected: set[tuple[int, int]] = set()
    for corners in combinations(range(len(points)), 3):
        a, b, c = points[list(corners)]
        centre = np.linalg.solve(2 * np.stack([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a])
        others = np.delete(points, corners, axis=0)
        if (np.linalg.norm(others - centre, axis=1) > np.linalg.norm(a - centre)).all():
            expected |= {(p, q) for p in corners for q in corners if p != q}
    assert edges_of(neighbours(points, edges="delaunay")) == expected


@pytest.mark.parametrize("edges", ["knn", "delaunay"])
@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 2)),
        np.zeros((1, 2)),
        np.zeros((6, 2)),
        np.array([[0, 0], [9, 9]]),
        np.array([[0, 0], [9, 9], [3, 3]]),
        np.array([[0, 0], [9, 0], [3, 4], [9, 0]]),
        np.arange(20)[:, None] * np.array([[50, 100]]),
        np.arange(20)[:, None] * np.array([[50, 100]]) + np.eye(20, 2) * 1e-3,
        np.indices((7, 9)).reshape(2, -1).T * 224 + 1e6,
    ],
    ids=["none", "one", "twins", "two", "line of 3", "twin of 3", "line", "almost a line", "grid"],
)
def test_neighbours_are_mutual_wherever_places_lie(points: np.ndarray, edges: str) -> None:
    table = neighbours(points, edges=edges, k=4)
    result = edges_of(table)
    assert table.shape[0] == len(points)
    assert table.dtype == np.int32
    assert {(b, a) for a, b in result} == result
    assert all(a != b for a, b in result)
    if len(points) > 1:
        assert {a for a, _ in result} == set(range(len(points)))  # nobody is alone


def test_places_on_a_line_are_joined_one_by_one() -> None:
    order = np.array([3, 0, 4, 1, 2])
    result = edges_of(neighbours(order[:, None] * np.array([[30.0, 40.0]]), edges="delaunay"))
    steps = {(int(order[a]), int(order[b])) for a, b in result}
    assert steps == {(a, b) for a in range(5) for b in range(5) if abs(a - b) == 1}


def test_no_edge_is_longer_than_the_limit() -> None:
    points = np.random.default_rng(0).uniform(0, 10_000, (60, 2))
    for edges in ("knn", "delaunay"):
        every = edges_of(neighbours(points, edges=edges))
        short = {(a, b) for a, b in every if np.linalg.norm(points[a] - points[b]) <= 1500}
        assert edges_of(neighbours(points, edges=edges, limit=1500)) == short
        assert 0 < len(short) < len(every)


def test_the_order_of_instances_does_not_matter() -> None:
    points = np.indices((6, 5)).reshape(2, -1).T * 50.0
    order = np.random.default_rng(0).permutation(len(points))
    renamed = {(int(order[a]), int(order[b])) for a, b in edges_of(neighbours(points[order], k=8))}
    assert renamed == edges_of(neighbours(points, k=8))


def test_impossible_edges_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'delaunay'"):
        neighbours(np.zeros((3, 2)), edges="delauney")
    with pytest.raises(ConfigError, match="k must lie"):
        neighbours(np.zeros((3, 2)), k=0)
