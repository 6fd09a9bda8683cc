"""Graphs: bags with the neighbours of every instance in the slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from histotune.core.parameters import Allowed, Interval, OneOf
from histotune.data.modalities._base import MODALITIES
from histotune.data.modalities.bag import BagModality, Bags

EDGES = ("knn", "delaunay")
RANGES: Mapping[str, Allowed] = {"edges": OneOf(*EDGES), "k": Interval(1, whole=True), "limit": Interval(0)}
_EQUAL = 1e-9  # relative difference of two distances that rounding alone makes
_THIN = 1e-8  # width of a row of places by its length, below which it is a line


class GraphModality(BagModality):
    """`Bags` with neighbours; they are stored, standardised and taken as bags are."""

    name = "graph"


@MODALITIES.register("graph")
def graph() -> GraphModality:
    """The instances of a case with their neighbours: features [P, D], places [P, 2], neighbours [P, K]."""
    return GraphModality()


def connect(bags: Bags, *, edges: str = "knn", k: int = 8, limit: float = 0.0) -> Bags:
    """Return the bags with the neighbours of every case, each as `neighbours` finds them."""
    cases = [neighbours(bags.coordinates[bags.case(row)], edges=edges, k=k, limit=limit) for row in range(len(bags))]
    joined = np.full((len(bags.features), max((case.shape[1] for case in cases), default=0)), -1, np.int32)
    for row, case in enumerate(cases):
        joined[bags.case(row), : case.shape[1]] = case
    return replace(bags, neighbours=joined)


def stacked(result: Sequence[Bags]) -> Bags:
    """Put the cases of several bags one after the other, in memory; the lists of neighbours get one width.

    Raises:
        ValueError: their instances have different numbers of features.
    """
    widths = {bags.features.shape[1] for bags in result}
    if len(widths) != 1:
        raise ValueError(f"instances have vectors of {sorted(widths)} numbers")
    counts = [len(bags.features) for bags in result]
    near = np.full((sum(counts), max(bags.neighbours.shape[1] for bags in result)), -1, np.int32)
    for start, bags in zip(np.cumsum([0, *counts]), result, strict=False):
        near[start : start + len(bags.features), : bags.neighbours.shape[1]] = bags.neighbours
    features, places = (np.concatenate([getattr(b, name) for b in result]) for name in ("features", "coordinates"))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([bags.counts for bags in result]))]).astype(np.int64)
    return Bags(features, places, offsets, near)


def neighbours(coordinates: np.ndarray, *, edges: str = "knn", k: int = 8, limit: float = 0.0) -> np.ndarray:
    """Find every place's neighbours; the relation is symmetric, and no place is its own neighbour.

    Args:
        coordinates: [n, 2], any n, in any order; several instances may lie on one place.
        edges: `knn`: the k nearest, and all that are as near as the k-th, so that the order of the instances decides
            nothing; an edge stands where either has the other among its nearest. `delaunay`: the Delaunay
            triangulation; places on a line are joined one by one along it. Instances on one place are neighbours, and
            have the same neighbours.
        k: of `knn`.
        limit: longest edge, in the coordinates' unit; 0 is any length.

    Returns:
        int32 [n, K], ascending, -1 for none; K is the largest number of neighbours.

    Raises:
        ConfigError: an impossible option.
    """
    for name, value in (("edges", edges), ("k", k), ("limit", limit)):
        RANGES[name].check(name, value)
    points = np.asarray(coordinates, np.float64).reshape(-1, 2)
    if len(points) < 2:
        return np.zeros((len(points), 0), np.int32)
    pairs = _nearest(points, k) if edges == "knn" else _triangulated(points)
    if limit:
        pairs = pairs[np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) <= limit]
    return _listed(np.concatenate([pairs, pairs[:, ::-1]]), len(points))


def _nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Return pairs (instance, one of its k nearest or as near), int64 [E, 2]."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    radius = tree.query(points, min(k, len(points) - 1) + 1)[0][:, -1]  # the first of them is the place itself
    result = tree.query_ball_point(points, radius * (1 + _EQUAL))
    return np.stack([np.repeat(np.arange(len(points)), [len(near) for near in result]), np.concatenate(result)], axis=1)


def _triangulated(points: np.ndarray) -> np.ndarray:
    """Return pairs along the edges of the Delaunay triangulation, int64 [E, 2]."""
    places, place_of = np.unique(points, axis=0, return_inverse=True)
    pairs = np.concatenate([_triangulated_places(places), np.repeat(np.arange(len(places))[:, None], 2, axis=1)])
    members = np.split(np.argsort(place_of, kind="stable"), np.cumsum(np.bincount(place_of))[:-1])
    grids = [np.stack(np.meshgrid(members[a], members[b]), axis=-1).reshape(-1, 2) for a, b in pairs]
    return np.concatenate(grids)


def _triangulated_places(places: np.ndarray) -> np.ndarray:
    """Triangulate places of which no two are the same."""
    from scipy.spatial import Delaunay

    centred = places - places.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    if len(places) < 3 or lengths[1] <= _THIN * lengths[0]:
        along = np.argsort(centred @ axes[0], kind="stable")
        return np.stack([along[:-1], along[1:]], axis=1)
    result = Delaunay(centred / np.abs(centred).max())
    triangles = result.simplices
    left_out = result.coplanar[:, [0, 2]]  # by rounding: (place, nearest corner)
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]], left_out])


def _listed(pairs: np.ndarray, count: int) -> np.ndarray:
    """List for every instance the others that it stands in a pair with, int32 [count, K]."""
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    degree = np.bincount(pairs[:, 0], minlength=count)
    table = np.full((count, degree.max(initial=0)), -1, np.int32)
    table[pairs[:, 0], np.arange(len(pairs)) - np.repeat(np.cumsum(degree) - degree, degree)] = pairs[:, 1]
    return table
