"""An export as one ONNX graph, from uint8 images to class probabilities, checked against the export itself."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histotune.core import files
from histotune.errors import ConfigError, HistotuneError
from histotune.exports.graph import (
    OUTPUT,
    backbones,
    check_images_only,
    difference_of,
    input_name,
    refuse_difference,
    told_alone,
    trace,
)
from histotune.exports.model import Export, file_digest, load
from histotune.storage import layout

OPSET = 18  # what torch's translations are written for; others are converted from it
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
    float64 [n, C]; see `one_graph.trace`. On images that no training saw, in batches of 1, 2 and 7, onnxruntime must
    find in it the probabilities of PyTorch.

    Raises:
        ConfigError: a package is missing, or something else than images is read.
        HistotuneError: a member has an operator without translation, the weights are too many for one file, or
            a probability differs by more than 1e-4. The folder is then as it was.
    """
    check_packages()
    model = load(folder, torch.device("cpu"))
    check_images_only(model, "an ONNX graph")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx.") as unchecked:
        path = Path(unchecked) / layout.ONNX
        _translated(model).save(path, external_data=False)
        difference = refuse_difference(model, lambda images: _run(path, model, images), "ONNX graph")
        path.replace(folder / layout.ONNX)
    text = {
        "file": layout.ONNX,
        "sha256": file_digest(folder / layout.ONNX),
        "opset": OPSET,
        "inputs": {input_name(size): [None, size, size, 3] for size in model.image_sizes},
        "largest_difference": difference,
    }
    info = {**model.info, "onnx": text}
    files.write_json(folder / layout.EXPORT, info)
    return info


def largest_difference(path: Path, model: Export) -> float:
    """Return the largest difference between a probability of the graph at `path`, by onnxruntime, and of `model`.

    Raises:
        HistotuneError: onnxruntime cannot run the graph.
    """
    return difference_of(model, lambda images: _run(path, model, images))


def _run(path: Path, model: Export, images: Mapping[int, np.ndarray]) -> np.ndarray:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (result,) = session.run([OUTPUT], {input_name(size): array for size, array in images.items()})
    except (refusals.Fail, refusals.InvalidGraph, refusals.NotImplemented, refusals.RuntimeException) as error:
        raise HistotuneError(f"onnxruntime cannot run the ONNX graph of {model.name}: {error}") from error
    return np.asarray(result)


def _translated(model: Export) -> Any:
    """Translate an export into an ONNX program that carries its classes, digest and threshold."""
    networks = [part.model for member in model.members for part in member.predictor.parts]
    weights = sum(value.numel() * value.element_size() for one in networks for value in one.state_dict().values())
    if weights > _LARGEST:
        raise HistotuneError(
            f"the members of {model.name} hold {weights / 2**30:.1f} GiB of weights, and a file of ONNX holds 2 GiB at "
            "most: export fewer members, or without ONNX"
        )
    traced = trace(model, "ONNX")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about its own modules
            program = torch.onnx.export(
                traced,
                input_names=[input_name(size) for size in model.image_sizes],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise HistotuneError(
            f"{model.name} ({backbones(model)}) cannot be written as ONNX: {reason}. Export it without ONNX"
        ) from error
    assert program is not None
    program.model.metadata_props.update(told_alone(model))
    return program
