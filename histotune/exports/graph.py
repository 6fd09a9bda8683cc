"""An export as one graph in tensors, from uint8 images to class probabilities, that other programs can run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from histotune.data.batches import images_as_cases
from histotune.errors import ConfigError, HistotuneError
from histotune.exports.model import Export
from histotune.ingest.datasets import DATASETS
from histotune.ingest.images import fit
from histotune.models.predictor import batch_logits

TOLERANCE = 1e-4  # of a probability
BATCHES = (1, 2, 7)
OUTPUT = "probabilities"


def input_name(size: int) -> str:
    """Name the graph's input for images of `size` px."""
    return f"images_{size}"


def check_images_only(model: Export, form: str) -> None:
    """Check that an export can be written as one graph.

    Raises:
        ConfigError: something else than images is read.
    """
    if not model.only_images:
        raise ConfigError(
            f"{model.name} reads {', '.join(f'{name} ({one.kind})' for name, one in model.reads.items())}, and "
            f"{form} is written of models that read images only: export it without"
        )


def trace(model: Export, form: str) -> ExportedProgram:
    """Trace an export: uint8 [n, S, S, 3], one input for every image size S of the members -> float64 [n, C].

    Standardisation, the flips and turns of `tta`, all members, their temperatures and the strategy are in it.

    Raises:
        HistotuneError: a member cannot be traced.
    """
    cases, whole = Dim("n"), Whole(model).eval()
    examples = tuple(torch.zeros(2, size, size, 3, dtype=torch.uint8) for size in model.image_sizes)
    shapes = {"images": tuple({0: cases} for _ in examples)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about its own modules
            return export(whole, examples, dynamic_shapes=shapes)
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise HistotuneError(
            f"{model.name} ({backbones(model)}) cannot be written as {form}: {reason}. Export it without"
        ) from error


def refuse_difference(model: Export, run: Callable[[Mapping[int, np.ndarray]], np.ndarray], form: str) -> float:
    """Return the largest difference between a probability that `run` finds and the export's, in batches of 1, 2 and 7.

    Args:
        run: maps {S: uint8 [n, S, S, 3]}, made-up images that no training saw, to [n, C].

    Raises:
        HistotuneError: it is above 1e-4.
    """
    difference = difference_of(model, run)
    if not difference <= TOLERANCE:  # also where it is not a number
        raise HistotuneError(
            f"the {form} of {model.name} ({backbones(model)}) gives other probabilities than PyTorch, by up to "
            f"{difference:.2g} where {TOLERANCE:g} is allowed, so it was not kept: export without it"
        )
    return difference


def difference_of(model: Export, run: Callable[[Mapping[int, np.ndarray]], np.ndarray]) -> float:
    """Return the largest difference as `refuse_difference` does, however large."""
    images, differences, start = _specimens(model, sum(BATCHES)), [], 0
    for count in BATCHES:
        batch = {size: array[start : start + count] for size, array in images.items()}
        differences.append(np.abs(run(batch) - model.probabilities(batch)).max())
        start += count
    return float(np.max(differences))


class Whole(nn.Module):
    """Everything between the images and the probabilities of an export, in tensors."""

    def __init__(self, export: Export) -> None:
        super().__init__()
        self.members, self.sizes, self.ensemble = export.members, export.image_sizes, export.ensemble
        parts = [part for member in export.members for part in member.predictor.parts]
        self.networks = nn.ModuleList(part.model for part in parts)  # whose weights are written

    def forward(self, *images: Tensor) -> Tensor:
        """Map uint8 [n, S, S, 3], one for every size, to float64 [n, C]."""
        sized = dict(zip(self.sizes, images, strict=True))
        logits = []
        for member in self.members:
            own = member.predictor
            cases = images_as_cases(sized[member.image_size], own.model.images)
            raw = [batch_logits(part.model, cases, part.preparations, tta=own.config.tta) for part in own.parts]
            logits.append(torch.stack(raw).mean(0).double() / member.temperature)
        return self.ensemble.join(torch.stack(logits))


def _specimens(model: Export, count: int) -> dict[int, np.ndarray]:
    """Draw made-up patches at every image size of an export, {S: uint8 [count, S, S, 3]}."""
    dataset = DATASETS.build("synthetic", cases=count, patients=count, side=max(16, *model.image_sizes))
    cases = dataset.scan(None).table.to_dict("records")
    drawn = [dataset.read(case, None).pixels for case in cases]
    return {size: np.stack([fit(pixels, size) for pixels in drawn]) for size in model.image_sizes}


def backbones(model: Export) -> str:
    """Name the backbones of an export's members."""
    configs = (member.predictor.config for member in model.members)
    return ", ".join(sorted({branch.backbone.name for config in configs for branch in config.model.branches.values()}))


def told_alone(model: Export) -> Mapping[str, str]:
    """Say what a graph that travels alone must tell."""
    threshold = {} if model.threshold is None else {"threshold": repr(model.threshold)}
    return {"classes": json.dumps(model.classes), "positive": str(model.positive), "digest": model.digest, **threshold}
