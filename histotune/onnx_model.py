"""An export as one ONNX graph, from uint8 images to class probabilities, checked against the export itself."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histotune import files
from histotune.batches import images_as_cases
from histotune.datasets import DATASETS, fit
from histotune.errors import ConfigError, HistotuneError
from histotune.predict import EXPORT, ONNX, Export, file_digest, load
from histotune.predictor import batch_logits

OPSET = 18  # what torch's translations are written for; others are converted from it
TOLERANCE = 1e-4  # of a probability
BATCHES = (1, 2, 7)
OUTPUT = "probabilities"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 2**31 - 2**24  # bytes of weights: a file of ONNX is a protobuf, which ends at 2 GiB


def check_packages() -> None:
    """Check that what writes and checks a graph is installed.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"an ONNX export needs {' and '.join(missing)}: pip install 'histotune[onnx]'")


def add_onnx(folder: Path) -> dict[str, Any]:
    """Add `model.onnx` to an export folder, say so in `export.json`, and return what that then holds.

    The graph maps uint8 [n, S, S, 3], one input `images_S` for every image size S of the members, to `probabilities`,
    float64 [n, C]: standardisation, the flips and turns of `tta`, all members, their temperatures and the strategy. On
    images that no training saw, in batches of 1, 2 and 7, onnxruntime must find in it the probabilities of PyTorch.

    Raises:
        ConfigError: a package is missing, or something else than images is read.
        HistotuneError: a member has an operator without translation, the weights are too many for one file, or
            a probability differs by more than 1e-4. The folder is then as it was.
    """
    check_packages()
    model = load(folder, torch.device("cpu"))
    if not model.only_images:
        raise ConfigError(
            f"{model.name} reads {', '.join(f'{name} ({one.kind})' for name, one in model.reads.items())}, and an ONNX "
            "graph is written of models that read images only: export it without ONNX"
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx.") as unchecked:
        path = Path(unchecked) / ONNX
        _trace(model).save(path, external_data=False)
        difference = largest_difference(path, model)
        if not difference <= TOLERANCE:  # also where it is not a number
            raise HistotuneError(
                f"the ONNX graph of {model.name} ({_backbones(model)}) gives other probabilities than PyTorch, by up "
                f"to {difference:.2g} where {TOLERANCE:g} is allowed, so it was not kept: export without ONNX"
            )
        path.replace(folder / ONNX)
    told = {
        "file": ONNX,
        "sha256": file_digest(folder / ONNX),
        "opset": OPSET,
        "inputs": {input_name(size): [None, size, size, 3] for size in model.image_sizes},
        "largest_difference": difference,
    }
    info = {**model.info, "onnx": told}
    files.write_json(folder / EXPORT, info)
    return info


def input_name(size: int) -> str:
    """Name the graph's input for images of `size` px."""
    return f"images_{size}"


def largest_difference(path: Path, model: Export) -> float:
    """Return the largest difference between a probability of the graph at `path`, by onnxruntime, and of `model`.

    Raises:
        HistotuneError: onnxruntime cannot run the graph.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    images, differences, start = _specimens(model, sum(BATCHES)), [], 0
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for count in BATCHES:
            batch = {size: array[start : start + count] for size, array in images.items()}
            (found,) = session.run([OUTPUT], {input_name(size): array for size, array in batch.items()})
            differences.append(np.abs(found - model.probabilities(batch)).max())
            start += count
    except (refusals.Fail, refusals.InvalidGraph, refusals.NotImplemented, refusals.RuntimeException) as error:
        raise HistotuneError(f"onnxruntime cannot run the ONNX graph of {model.name}: {error}") from error
    return float(np.max(differences))


class _Whole(nn.Module):
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


def _trace(model: Export) -> Any:
    """Translate an export into an ONNX program that carries its classes, digest and threshold."""
    whole = _Whole(model).eval()
    weights = sum(value.numel() * value.element_size() for value in whole.state_dict().values())
    if weights > _LARGEST:
        raise HistotuneError(
            f"the members of {model.name} hold {weights / 2**30:.1f} GiB of weights, and a file of ONNX holds 2 GiB at "
            "most: export fewer members, or without ONNX"
        )
    cases = torch.export.Dim("n")
    examples = tuple(torch.zeros(2, size, size, 3, dtype=torch.uint8) for size in model.image_sizes)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about its own modules
            program = torch.onnx.export(
                whole,
                examples,
                input_names=[input_name(size) for size in model.image_sizes],
                output_names=[OUTPUT],
                dynamic_shapes={"images": tuple({0: cases} for _ in examples)},
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise HistotuneError(
            f"{model.name} ({_backbones(model)}) cannot be written as ONNX: {reason}. Export it without ONNX"
        ) from error
    assert program is not None
    program.model.metadata_props.update(_told(model))
    return program


def _told(model: Export) -> Mapping[str, str]:
    """Say what a file of ONNX that travels alone must tell."""
    threshold = {} if model.threshold is None else {"threshold": repr(model.threshold)}
    return {"classes": json.dumps(model.classes), "positive": str(model.positive), "digest": model.digest, **threshold}


def _specimens(model: Export, count: int) -> dict[int, np.ndarray]:
    """Draw made-up patches at every image size of an export, {S: uint8 [count, S, S, 3]}."""
    dataset = DATASETS.build("synthetic", cases=count, patients=count, side=max(16, *model.image_sizes))
    cases = dataset.scan(None).table.to_dict("records")
    drawn = [dataset.read(case, None).pixels for case in cases]
    return {size: np.stack([fit(pixels, size) for pixels in drawn]) for size in model.image_sizes}


def _backbones(model: Export) -> str:
    configs = (member.predictor.config for member in model.members)
    return ", ".join(sorted({branch.backbone.name for config in configs for branch in config.model.branches.values()}))
