"""Information in the branches of a network, shared and own, and their attention, after every training epoch.

Nothing here draws from a random state that training uses, and nothing is trained along.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histotune.data.batches import Cases, Preparations, in_order
from histotune.models.fusions import Fusion, unpadded
from histotune.models.network import Model, Outputs, Present
from histotune.models.predictor import inputs_of
from histotune.training import information
from histotune.training.session import Session

JOINT, TABLE = "joint", "table"
CASES = 256  # at most: their way through the network is what measuring costs
LOOKED_AT = 64  # cases whose attention is written out, which no forward pass needs
_SEED = 0
_WEIGHTS = 2**20  # attention weights of a head that are written out at once

Heads = dict[tuple[int, str], np.ndarray]
"""{(layer from 1, asking branch): a number for each head, [heads]}."""


def several_branches(model: Model) -> bool:
    """Return whether there is something to measure: a fusion of at least two branches."""
    return len(model.fusion.embedding_dims) > 1


def due(session: Session, epoch: int) -> bool:
    """Whether an epoch is measured: every one, but of tables alone the last, for the rest would cost the most."""
    if not several_branches(session.judged):
        return False
    kinds = {fitted.kind for fitted in session.preparations.values()}
    return kinds != {TABLE} or epoch == session.config.epochs


def chosen(cases: int, most: int = CASES) -> np.ndarray:
    """Choose at most `most` of the cases 0 ... cases - 1, always the same; int64, ascending."""
    return np.sort(np.random.default_rng(_SEED).permutation(cases)[:most])


def measure(session: Session, at_once: int) -> dict[str, Any]:
    """Measure the network that is validated, on at most 256 validation cases.

    Args:
        at_once: cases that go through the network at once.

    Returns:
        `cases`, `patients`, `components` and `label_entropy` (nats); by pair of branches `redundancy`, `hsic` and
        `mutual_information`; by branch and `joint` `label_information` and `effective_rank`; by asking branch
        `attention_entropy`, the mean of all its `heads`. These are a list of mappings `layer` (from 1), `asking`,
        `entropy` and `temperature` (by head). See the module `information` for what they are.
    """
    from threadpoolctl import threadpool_limits

    data, model = session.data, session.judged
    rows = data.val[chosen(len(data.val))]
    result = embeddings(model, map(session.feed.take, in_order(rows, at_once)), session.preparations)
    looked_at = map(session.feed.take, in_order(rows[chosen(len(rows), LOOKED_AT)], at_once))
    (entropies,) = head_entropies(model, looked_at, session.preparations, [None])
    with threadpool_limits(1, user_api="blas"):  # else the last bits differ, and threads wait for busy cores
        return {
            "cases": len(rows),
            "patients": len(np.unique(data.patients[rows])),
            "components": information.COMPONENTS,
            **of_embeddings(result, data.labels[rows], data.patients[rows]),
            **_of_heads(entropies, own_temperatures(model)),
        }


def of_embeddings(result: dict[str, np.ndarray], labels: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Measure {branch or `joint`: [n, D]} of cases with labels [n] from patients [n]; see `measure`."""
    pairs = itertools.combinations(sorted(result.keys() - {JOINT}), 2)
    both = {f"{one}-{other}": (result[one], result[other]) for one, other in pairs}
    return {
        "label_entropy": information.entropy(labels),
        "redundancy": {name: information.cross_correlation(*pair) for name, pair in both.items()},
        "hsic": {name: information.hsic(*pair) for name, pair in both.items()},
        "mutual_information": {name: information.gaussian_information(*pair) for name, pair in both.items()},
        "label_information": {
            name: information.label_information(values, labels, patients) for name, values in result.items()
        },
        "effective_rank": {name: information.effective_rank(values) for name, values in result.items()},
    }


@torch.inference_mode()
def embeddings(model: Model, batches: Iterable[Cases], preparations: Preparations) -> dict[str, np.ndarray]:
    """Return {branch: [n, D_b]}, and as `joint` what the fusion makes of them [n, D], of cases, in float32."""
    model.eval()
    parts: list[dict[str, Tensor]] = []
    for raw in batches:
        outputs, present = model.outputs(*inputs_of(model, preparations, raw))
        apart = model.fusion.embed(outputs, present)
        parts.append({**apart, JOINT: model.fusion.join(apart, present)})
    return {name: torch.cat([part[name].cpu() for part in parts]).numpy() for name in parts[0]}


@torch.inference_mode()
def head_entropies(
    model: Model, batches: Iterable[Cases], preparations: Preparations, temperatures: Sequence[float | None]
) -> list[Heads]:
    """Return the mean entropy of attention rows over the cases, as a share of the greatest possible, by head.

    Args:
        temperatures: that all heads of a layer have in place of their own, None for their own.

    Returns:
        An item for every temperature; empty where the fusion has no attention.
    """
    model.eval()
    result: list[dict[tuple[int, str], list[np.ndarray]]] = [{} for _ in temperatures]
    for raw in batches:
        outputs, present = model.outputs(*inputs_of(model, preparations, raw))
        for some, there in portions(outputs, present):
            for parts, temperature in zip(result, temperatures, strict=True):
                for head, share in rows_entropy(model.fusion, some, there, temperature).items():
                    parts.setdefault(head, []).append(share)
    return [{head: _mean(np.concatenate(shares)) for head, shares in parts.items()} for parts in result]


def own_temperatures(model: Model) -> Heads:
    """Return the temperature of every head."""
    layers = model.fusion.temperatures()
    return {
        (layer, asking): tau.detach().double().cpu().numpy()
        for layer, by_branch in enumerate(layers, start=1)
        for asking, tau in by_branch.items()
    }


def rows_entropy(fusion: Fusion, outputs: Outputs, present: Present, temperature: float | None) -> Heads:
    """Return the mean entropy of every case's attention rows as a share of the greatest possible, [B, heads]."""
    result: Heads = {}
    asking = {name: unpadded(output, present[name]) for name, output in outputs.items()}
    for layer, attention in enumerate(fusion.attention(outputs, present, temperature), start=1):
        for branch in dict.fromkeys(asking for asking, _ in attention):
            observed = {other: weights for (asking, other), weights in attention.items() if asking == branch}
            rows, answers = (
                torch.cat([*observed.values()], dim=-1),
                torch.cat([asking[other] for other in observed], dim=1),
            )
            result[layer, branch] = information.attention_entropy(rows, asking[branch], answers).double().cpu().numpy()
    return result


def _mean(shares: np.ndarray) -> np.ndarray:
    """Return the mean of [n, heads] over the cases that had a choice, NaN without any."""
    return np.ma.masked_invalid(shares).mean(axis=0).filled(np.nan)


def portions(outputs: Outputs, present: Present) -> Iterable[tuple[Outputs, Present]]:
    """Cut a batch so small that attention weights, which no forward pass holds in memory, do not fill it."""
    tokens = sum(output.tokens.shape[1] for output in outputs.values())
    at_once = max(1, _WEIGHTS // tokens**2)
    for start in range(0, len(next(iter(present.values()))), at_once):
        part = slice(start, start + at_once)
        yield (
            {name: output.part(part) for name, output in outputs.items()},
            {name: there[part] for name, there in present.items()},
        )


def _of_heads(entropies: Heads, temperatures: Heads) -> dict[str, Any]:
    asking = sorted({branch for _, branch in entropies})
    return {
        "attention_entropy": {
            one: float(np.mean([share for (_, branch), share in entropies.items() if branch == one])) for one in asking
        },
        "heads": [
            {
                "layer": layer,
                "asking": branch,
                "entropy": share.tolist(),
                "temperature": temperatures[layer, branch].tolist(),
            }
            for (layer, branch), share in entropies.items()
        ],
    }
