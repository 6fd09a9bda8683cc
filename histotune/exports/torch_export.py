"""An export as one program of `torch.export`, which torch alone runs, checked against the export itself."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from histotune.core import files
from histotune.exports.graph import check_images_only, input_name, refuse_difference, told_alone, trace
from histotune.exports.model import file_digest, load
from histotune.storage import layout


def add_torch_export(folder: Path) -> dict[str, Any]:
    """Add `model.pt2` to an export folder, say so in `export.json`, and return what that then holds.

    `torch.export.load(FILE).module()` maps uint8 images [n, S, S, 3], one tensor for every image size S of the members,
    ascending, to probabilities, float64 [n, C]; see `one_graph.trace`. As it was read back from the file, on images
    that no training saw and in batches of 1, 2 and 7, it must find the probabilities of the export.

    Raises:
        ConfigError: something else than images is read.
        HistotuneError: a member cannot be traced, or a probability differs by more than 1e-4. The folder is then as it
            was.
    """
    model = load(folder, torch.device("cpu"))
    check_images_only(model, "a program of torch.export")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pt2.") as unchecked, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own modules
        path = Path(unchecked) / layout.PT2
        torch.export.save(trace(model, "torch.export"), path, extra_files=dict(told_alone(model)))
        program = torch.export.load(path).module()
        difference = refuse_difference(
            model,
            lambda images: program(*(torch.from_numpy(images[size]) for size in model.image_sizes)).detach().numpy(),
            "torch.export program",
        )
        path.replace(folder / layout.PT2)
    text = {
        "file": layout.PT2,
        "sha256": file_digest(folder / layout.PT2),
        "torch": torch.__version__,
        "inputs": {input_name(size): [None, size, size, 3] for size in model.image_sizes},
        "largest_difference": difference,
    }
    info = {**model.info, "torch_export": text}
    files.write_json(folder / layout.EXPORT, info)
    return info
