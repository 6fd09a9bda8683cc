"""A frozen network turns images into vectors, once: they lie on disk under a digest of the network and the images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib import format as npy

from histotune.core import files, runtime
from histotune.core.files import open_array
from histotune.core.parameters import MEAN, STD
from histotune.core.progress import Progress, silent
from histotune.core.provenance import short_digest
from histotune.errors import ConfigError
from histotune.models.backbones import BackboneInput, build_backbone
from histotune.models.predictor import load_model
from histotune.storage import layout

if TYPE_CHECKING:
    from torch import nn

BACKBONE = "timm/tf_efficientnet_lite0"  # its ImageNet weights come as a package
PACKAGE = "package"
BATCH = 64  # images that go through the network at once

"""Is called with (images embedded, images in all)."""


@dataclass(frozen=True)
class Encoder:
    """A frozen network: images of one size in, one vector of each out.

    Attributes:
        name: what it is, in a few words.
        side: of the square images that it reads, pixels.
        width: D, numbers of a vector.
        digest: 16 hexadecimal digits over weights, image size and preprocessing.
        run: maps uint8 images [n, S, S, 3] to float32 [n, D].
    """

    name: str
    side: int
    width: int
    digest: str
    run: Callable[[np.ndarray], np.ndarray]


def load_encoder(
    backbone: str = BACKBONE,
    weights: str = PACKAGE,
    side: int = 224,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Encoder:
    """Build a frozen encoder, on the first GPU where there is one.

    Args:
        backbone: `timm/NAME`, whose pooled vector is taken; or the folder of a trial, or of the export of one, whose
            vector before the classifier is taken: then `weights` and `side` are its own.
        weights: a file (safetensors or a state dict), or `package` for ImageNet weights of an installed package.
        side: of the images, pixels.
        mean, std: of red, green and blue, of pixels in [0, 1], by which images are standardised: those that the
            weights were trained with. None takes the architecture's own, which many a file's are not.

    Raises:
        ConfigError: neither of these; no weights; a size that the network cannot take; an impossible mean or std.
    """
    given = {name: values for name, values in {"mean": mean, "std": std}.items() if values is not None}
    for name, allowed in {"mean": MEAN, "std": STD}.items():
        if name in given:
            allowed.check(name, given[name])
    if Path(backbone).is_dir() and given:
        raise ConfigError(
            f"{backbone!r} has {' and '.join(given)} of its own, with which it was trained: leave them out"
        )
    if Path(backbone).is_dir():
        return _trained(Path(backbone))
    if not backbone.startswith("timm/"):
        raise ConfigError(
            f"{backbone!r} embeds nothing: name timm/NAME with weights, or the folder of a trial or of its export"
        )
    return _frozen(backbone, weights, side, given)


def embed(
    encoder: Encoder,
    images: Callable[[int, int], np.ndarray],
    contents: Sequence[str],
    folder: Path,
    progress: Progress | None = None,
) -> np.ndarray:
    """Embed images, or open what was embedded of the same images by the same network; what a crash left is continued.

    Args:
        encoder: the network.
        images: gives the images from one number up to another, uint8 [n, S, S, 3].
        contents: what names the content of every image.
        folder: where embeddings are kept.
        progress: is called with how far it is.

    Returns:
        float32 [n, D], memory-mapped.
    """
    named = short_digest([encoder.digest, list(contents)], 16)
    path = folder / f"{named}.npy"
    if not path.exists():
        with files.lock(folder / f".{named}.lock", f"embedding {len(contents)} images", wait=True):
            if not path.exists():
                try:
                    _write(path, encoder, images, len(contents), progress or silent)
                except OSError as error:
                    raise files.unwritable(path, error) from error
    return open_array(path, "delete it, and the images are embedded anew")


def _write(
    path: Path, encoder: Encoder, images: Callable[[int, int], np.ndarray], count: int, progress: Progress
) -> None:
    """Append vectors to a partial file, whose length says how many are done; it takes its name when it is whole."""
    partial = path.with_suffix(".part")
    with partial.open("ab") as file:
        if not file.tell():
            npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, encoder.width)})
            file.flush()
        begin = _header(partial)
        done = (file.tell() - begin) // (4 * encoder.width)
        file.truncate(begin + done * 4 * encoder.width)  # the last vector may be half there
        while done < count:
            progress("embedding", done, count)
            stop = min(done + BATCH, count)
            file.write(encoder.run(images(done, stop)).astype("<f4", copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())
            done = stop
        progress("embedding", count, count)
    partial.replace(path)


def _header(path: Path) -> int:
    """Return where the numbers of an .npy file begin."""
    with path.open("rb") as file:
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        return file.tell()


def _frozen(name: str, weights: str, side: int, given: Mapping[str, Sequence[float]]) -> Encoder:
    from histotune.models.backbones.timm_image import input_statistics

    if not weights:
        raise ConfigError(f"{name!r} needs weights to embed images: a file, or {PACKAGE!r} where a package has them")
    device = runtime.device()
    backbone = build_backbone(name, "image", BackboneInput((3, side, side)), weights=weights)
    own = dict(zip(("mean", "std"), input_statistics(name, package=weights == PACKAGE), strict=True))
    mean, std = (tuple(map(float, given.get(key, own[key]))) for key in ("mean", "std"))
    backbone.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    shift, scale = (torch.tensor(values, device=device) * 255 for values in (mean, std))

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        pixels = torch.tensor(images, device=device)
        batch = ((pixels.float() - shift) / scale).permute(0, 3, 1, 2)
        vectors: np.ndarray = backbone(batch).pooled.float().cpu().numpy()
        return vectors

    digest = _digest([name, side, mean, std], backbone)
    return Encoder(f"{name} ({Path(weights).name}), {side} px", side, backbone.widths.pooled, digest, run)


def _trained(folder: Path) -> Encoder:
    listed = folder / layout.EXPORT
    model_folder = folder
    if listed.is_file():
        members = files.read_json(listed)["members"]
        if len(members) > 1:
            raise ConfigError(
                f"{folder} is an ensemble of {len(members)} trials, which have no vector in common: export one trial"
            )
        model_folder = folder / members[0]["folder"]
    predictor = load_model(model_folder)
    if set(predictor.modalities) != set(predictor.model.images):
        raise ConfigError(f"{folder} reads {', '.join(predictor.modalities)}: a model that embeds reads images alone")
    side = predictor.image_size
    width = predictor.features(np.zeros((1, side, side, 3), np.uint8)).shape[1]
    fitted = {name: preparation.to_dict() for name, preparation in predictor.preparations.items()}
    digest = _digest([fitted, predictor.config.to_dict()], predictor.model)
    return Encoder(f"{folder.name}, {side} px", side, width, digest, predictor.features)


def _digest(facts: Sequence[object], network: nn.Module) -> str:
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, value in sorted(network.state_dict().items()):
        hashed.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]
