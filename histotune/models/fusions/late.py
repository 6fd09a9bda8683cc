"""Late fusion: every branch has a head and a loss of its own, and what they predict is averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.core.parameters import Interval, OneOf
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.fusions._base import FUSIONS, Fusion, linear_maps, only_present, several
from histotune.models.heads import Head
from histotune.models.losses import Objective


class LateObjective(Objective):
    """The branches' own heads over the joint vector of `Late`; an absent branch has no share, and the others share 1.

    scores: the logarithm of sum_b w_b softmax(z_b) of the branches' logits z_b, or sum_b w_b z_b `of` logits; w is
    the softmax, over the branches that a case has, of numbers that are 0, or learned.
    loss: the mean over branches of (n_b / B) L_b, L_b the branch's own loss over its n_b of B cases: each branch learns
    as its own model does. Learned weights have the cross-entropy of the scores besides, whose gradient does not reach
    the branches. They are learned on the cases that the branches are trained on, so they favour the one that knows
    these by heart; weights that are fitted out of folds are those of `histotune ensemble`.

    Args:
        heads: {branch: head}, in the order of the joint vector.
        widths: {branch: width of its vector there}.
    """

    weights: Tensor

    def __init__(self, heads: Mapping[str, Head], widths: Mapping[str, int], *, of: str, learned: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(dict(heads))
        self.widths, self.of, self.learned = [widths[name] for name in heads], of, learned
        self.soft_labels = all(head.objective.soft_labels for head in heads.values())
        if learned:
            self.weights = nn.Parameter(torch.zeros(len(heads)))
        else:
            self.register_buffer("weights", torch.zeros(len(heads)), persistent=False)

    def scores(self, features: Tensor) -> Tensor:
        """Map the joint vector [B, D] to logits [B, C], float32."""
        parts, present = self._apart(features)
        own = [head.scores(part) for head, part in zip(self._heads(), parts, strict=True)]
        return self._average(torch.stack(own, dim=1), present)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of joint vectors [B, D]; adaptive schemes of the branches' losses observe it."""
        parts, present = self._apart(features)
        total = 0.0 * features.sum(dtype=torch.float32)
        logits: list[tuple[Tensor, Tensor] | None] = []
        for place, (head, part) in enumerate(zip(self._heads(), parts, strict=True)):
            rows = present[:, place].nonzero()[:, 0]
            if len(rows) < head.least:
                logits.append(None)
                continue
            seen, information = head(part[rows])
            loss = head.objective.loss(seen, labels[rows]) + information
            head.objective.observe(seen.detach(), labels[rows])
            total = total + loss * (len(rows) / len(labels) / len(parts))
            logits.append((rows, head.objective.scores(seen.detach()).detach()) if self.learned else None)
        return total + self._loss_of_weights(logits, present, labels) if self.learned else total

    def set_progress(self, fraction: float) -> None:
        """Pass it on to the branches' losses."""
        for head in self._heads():
            head.objective.set_progress(fraction)

    def adapt(self) -> None:
        """Update the branches' losses by what they observed."""
        for head in self._heads():
            head.objective.adapt()

    def _heads(self) -> list[Head]:
        return [head for head in self.heads.values() if isinstance(head, Head)]

    def _apart(self, joint: Tensor) -> tuple[list[Tensor], Tensor]:
        """Cut the joint vector into the branches' vectors [B, D_b] and who has which branch, bool [B, branches]."""
        *parts, present = joint.split([*self.widths, len(self.widths)], dim=1)
        return parts, present > 0.5

    def _average(self, logits: Tensor, present: Tensor) -> Tensor:
        """Average logits [B, branches, C] over the branches present, bool [B, branches]; returns [B, C]."""
        absent = torch.finfo(logits.dtype).min
        scores = self.weights.to(logits.dtype).expand(len(logits), -1).masked_fill(~present, absent)
        if self.of == "logits":
            return (scores.softmax(dim=1)[:, :, None] * logits).sum(dim=1)
        return (scores.log_softmax(dim=1)[:, :, None] + logits.log_softmax(dim=2)).logsumexp(dim=1)

    def _loss_of_weights(self, logits: list[tuple[Tensor, Tensor] | None], present: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the average of what the branches gave, [n_b] rows and [n_b, C] logits each."""
        known = [one for one in logits if one is not None]
        if not known:
            return self.weights.sum() * 0.0
        classes, like = known[0][1].shape[1], known[0][1]
        every = like.new_zeros(len(labels), len(logits), classes)
        there = torch.zeros_like(present)
        for place, one in enumerate(logits):
            if one is not None:
                every[one[0], place], there[one[0], place] = one[1], True
        rows = there.any(dim=1).nonzero()[:, 0]
        targets = labels[rows].to(every.dtype) if labels.is_floating_point() else labels[rows]
        with torch.autocast(every.device.type, enabled=False):
            average = self._average(every[rows], there[rows])
            return functional.cross_entropy(average, targets, reduction="sum") / len(labels)


class Late(Fusion):
    """The branches' vectors side by side, then for each branch 1 or 0, whether the case has it: input of their heads.

    A branch is what a model of that branch alone is: its backbone, a head and a loss of its own.
    """

    def __init__(self, names: list[str], widths: Mapping[str, Widths], dim: int, *, of: str, learned: bool) -> None:
        super().__init__()
        self.names, self.of, self.learned = names, of, learned
        pooled = {name: widths[name].pooled for name in names}
        self.maps = linear_maps(pooled, dim)
        self.embedding_dims = {name: dim or pooled[name] for name in names}
        self.out_dim = sum(self.embedding_dims.values()) + len(names)

    def embed(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: pooled [B, D_b]} to {branch: [B, D_b]}."""
        return {name: self.maps[name](only_present(branches[name].pooled, present[name])) for name in self.names}

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return [B, sum of the D_b and number of branches]."""
        there = torch.stack([present[name] for name in self.names], dim=1)
        parts = [embeddings[name] for name in self.names]
        return torch.cat([*parts, there.to(parts[0].dtype)], dim=1)

    def objective(self, build: Callable[[str, int], Head]) -> LateObjective:
        """Return a head for every branch, and what averages them."""
        heads = {name: build(name, self.embedding_dims[name]) for name in self.names}
        return LateObjective(heads, self.embedding_dims, of=self.of, learned=self.learned)


@FUSIONS.register(
    "late",
    ranges={
        "dim": Interval(0, 4096, whole=True),
        "of": OneOf("probabilities", "logits"),
        "weights": OneOf("mean", "learned"),
    },
)
def late(widths: Mapping[str, Widths], *, dim: int = 0, of: str = "probabilities", weights: str = "mean") -> Late:
    """Each branch has its own head and loss; the mean `of` their probabilities or logits, `weights` mean or learned.

    `dim` maps each branch's vector before its head; with 0, as it is, a branch is what its own model is.
    """
    return Late(several("late", widths), widths, dim, of=of, learned=weights == "learned")
