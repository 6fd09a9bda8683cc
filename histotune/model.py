"""A trial's network: branches -> fusion -> head -> objective; built from a configuration, loaded from a folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from histotune import files, runtime
from histotune.augment import symmetry
from histotune.backbones import BACKBONES, Backbone, BackboneInput, BackboneOutput
from histotune.batches import Preprocessing
from histotune.bottleneck import Bottleneck
from histotune.config import HeadConfig, TrialConfig
from histotune.errors import ConfigError, DataError, HistotuneError
from histotune.fusions import FUSIONS
from histotune.losses import LOSSES, Objective, ObjectiveInput
from histotune.redundancies import build_redundancy
from histotune.store import networks

CONFIG, WEIGHTS, CLASSES, PREPROCESSING = "config.yaml", "model.safetensors", "model.json", "preprocessing.json"
_INITIAL = ("weights", "pretrained")  # parameters of a backbone that matter before training only
SYMMETRIES = 8  # of the square, over which a prediction with `tta` is averaged
_BATCH = 256


Outputs = Mapping[str, BackboneOutput]
Present = Mapping[str, Tensor]
"""{branch or modality: bool [B]}."""


class Model(nn.Module):
    """branches -> fusion -> head -> objective; a branch that the fusion does not hear is left out.

    Inputs are {modality: [B, ...]} and a mask {modality: bool [B]} of who has what; two branches may read the same
    modality.
    """

    def __init__(self, config: TrialConfig, counts: Sequence[int], *, trained: bool) -> None:
        super().__init__()
        given = BackboneInput((3, config.image_size, config.image_size))
        branches: dict[str, Backbone] = {}
        for name, branch in config.model.branches.items():
            skipped = _INITIAL if trained else ()
            params = {k: v for k, v in branch.backbone.params.items() if k not in skipped}
            branches[name] = BACKBONES.build(branch.backbone.name, given, **params)
        widths = {name: backbone.widths for name, backbone in branches.items()}
        self.fusion = FUSIONS.build(config.model.fusion.name, widths, **config.model.fusion.params)
        heard = [name for name in branches if name in self.fusion.embedding_dims]
        self.modalities = {name: config.model.branches[name].modality for name in heard}
        self.branches = nn.ModuleDict({name: branches[name] for name in heard})
        self.dense = all(branches[name].dense for name in heard)
        width = config.model.head.feature_dim or self.fusion.out_dim
        self.bottleneck = Bottleneck(self.fusion.out_dim, width, config.model.head.bottleneck)
        self.head = nn.Sequential()
        if config.model.head.feature_dim and not config.model.head.bottleneck:
            self.head.append(nn.Linear(self.fusion.out_dim, width))
        self.objective = LOSSES.build(config.loss.name, ObjectiveInput(width, tuple(counts)), **config.loss.params)
        self.head.extend(_after_projection(config.model.head, width, self.objective))
        redundancy = config.model.redundancy
        dims = self.fusion.embedding_dims
        self.redundancy = build_redundancy(redundancy.name, redundancy.params, dims, len(config.model.branches))

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Map {modality: [B, ...]} to the features [B, D] that the objective sees."""
        return self.read(*self.outputs(inputs, present))

    def read(self, outputs: Outputs, masks: Present) -> Tensor:
        """Map what `outputs` returns to the features [B, D] that the objective sees."""
        joint, _ = self.bottleneck(self.fusion(outputs, masks))
        features: Tensor = self.head(joint)
        return features

    def loss(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return what training minimises: the objective's mean loss, redundancy and bottleneck, a float32 scalar."""
        outputs, masks = self.outputs(inputs, present)
        embeddings = self.fusion.embed(outputs, masks)
        joint, information = self.bottleneck(self.fusion.join(embeddings, masks))
        features = self.head(joint)
        loss = self.objective.loss(features, labels)
        self.objective.observe(features.detach(), labels)
        return loss + self.redundancy(embeddings, masks).float() + information

    def logits(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Map {modality: [B, ...]} to logits [B, C], float32."""
        return self.objective.scores(self(inputs, present))

    def outputs(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Outputs, Present]:
        """Map {modality: [B, ...]} to every branch's output and who has which branch, as the fusion gets them."""
        outputs = {name: branch(inputs[self.modalities[name]]) for name, branch in self.branches.items()}
        return outputs, {name: present[modality] for name, modality in self.modalities.items()}

    def set_progress(self, fraction: float) -> None:
        """Hear that `fraction` of the training in [0, 1] is done."""
        self.fusion.set_progress(fraction)
        self.objective.set_progress(fraction)

    def parameter_count(self) -> int:
        """Return the number of trained weights that predict, the objective's included."""
        others = sum(parameter.numel() for parameter in self.redundancy.parameters())
        return sum(parameter.numel() for parameter in self.parameters()) - others


def build_model(config: TrialConfig, counts: Sequence[int], *, trained: bool = False) -> Model:
    """Build the network of `config` on the CPU.

    Args:
        config: names and parameters.
        counts: training cases of each class, [C].
        trained: weights will be loaded over it, so initial weights are not fetched.

    Raises:
        ConfigError: an unknown name, a parameter that is refused, or mixup with a loss that needs hard labels.
    """
    model = Model(config, counts, trained=trained)
    if config.augment.mixup and not model.objective.soft_labels:
        raise ConfigError(
            f"augment.mixup={config.augment.mixup} needs a loss with soft labels, and {config.loss.name!r} has none: "
            "set augment.mixup to 0 or choose cross_entropy or focal"
        )
    return model


@torch.inference_mode()
def features(model: Model, batches: Iterable[Tensor], preprocessing: Preprocessing) -> np.ndarray:
    """Return the features [n, D] (float32) that the objective sees of uint8 image batches [B, S, S, 3], in float32."""
    model.eval()
    return torch.cat([model(*inputs_of(model, preprocessing, images)).cpu() for images in batches]).numpy()


@torch.inference_mode()
def predict(model: Model, batches: Iterable[Tensor], preprocessing: Preprocessing, *, tta: bool = False) -> np.ndarray:
    """Return logits [n, C] (float32) of uint8 image batches [B, S, S, 3], always computed in float32.

    Args:
        model: the network; it is put into evaluation mode.
        batches: images on the model's device.
        preprocessing: as fitted with the model.
        tta: average the logits over the eight flips and turns.
    """
    model.eval()
    return torch.cat([batch_logits(model, images, preprocessing, tta=tta).cpu() for images in batches]).numpy()


def batch_logits(model: Model, images: Tensor, preprocessing: Preprocessing, *, tta: bool) -> Tensor:
    """Map uint8 images [B, S, S, 3] to logits [B, C] as `predict` does, in tensors only, so that it can be traced."""
    views = [symmetry(images, code) for code in range(SYMMETRIES if tta else 1)]
    return torch.stack([model.logits(*inputs_of(model, preprocessing, view)) for view in views]).mean(0)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors, whole or not at all; the same weights give the same bytes."""
    files.write_bytes(path, safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}))


@dataclass(frozen=True)
class Predictor:
    """A trained model ready to score images.

    Attributes:
        config: as trained.
        classes: class names in the order of the logits' columns; `positive` is the index of the positive one.
        preprocessing: as fitted on its training part.
        model: in evaluation mode, on `device`.
        folds: the models of a trial that was trained on folds, whose logits are averaged; the fields above are then
            those of the first. Empty otherwise.
    """

    config: TrialConfig
    classes: tuple[str, ...]
    positive: int
    preprocessing: Preprocessing
    model: Model
    device: torch.device
    folds: tuple[Predictor, ...] = ()

    @property
    def parts(self) -> tuple[Predictor, ...]:
        """The models whose mean logits are the prediction, each with its own preprocessing."""
        return self.folds or (self,)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Map uint8 images [n, S, S, 3] to logits [n, C], float32.

        Raises:
            DataError: another type, number of channels or size than the model was trained on.
        """
        if not len(self._checked(images)):
            return np.zeros((0, len(self.classes)), np.float32)
        if self.folds:
            return np.mean([fold.logits(images) for fold in self.folds], axis=0)
        return predict(self.model, self._batches(images), self.preprocessing, tta=self.config.tta)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Map uint8 images [n, S, S, 3], n >= 1, to the features [n, D] that the objective sees, float32.

        Raises:
            DataError: as `logits`.
            ConfigError: the models of several folds have no features in common.
        """
        if self.folds:
            raise ConfigError(f"{len(self.folds)} models of as many folds have no features in common: ask one of them")
        return features(self.model, self._batches(self._checked(images)), self.preprocessing)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        side = self.preprocessing.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise DataError(
                f"the model reads uint8 images [n, {side}, {side}, 3], got {images.dtype} {list(images.shape)}: "
                f"prepare them at image_size {side}"
            )
        return images

    def _batches(self, images: np.ndarray) -> Iterator[Tensor]:
        chunks = (images[start : start + _BATCH].copy() for start in range(0, len(images), _BATCH))
        return (torch.from_numpy(chunk).to(self.device) for chunk in chunks)


def load_model(folder: Path, device: torch.device | None = None) -> Predictor:
    """Load what training left in `folder`: config.yaml, model.json, preprocessing.json and model.safetensors.

    Where it trained on folds, each of them has these files in a folder of its own.

    Raises:
        HistotuneError: a file is missing or does not fit the others.
    """
    if (places := networks(folder)) != [folder]:
        folds = tuple(load_model(place, device) for place in places)
        return replace(folds[0], folds=folds)
    for name in (CONFIG, CLASSES, PREPROCESSING, WEIGHTS):
        if not (folder / name).is_file():
            raise HistotuneError(f"{folder} holds no trained model: {name} is missing (did the trial complete?)")
    device = device or runtime.device()
    config = TrialConfig.from_dict(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
    facts = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it would train
        model = build_model(config, facts["counts"], trained=True)
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise HistotuneError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    preprocessing = Preprocessing.load(folder / PREPROCESSING)
    return Predictor(config, tuple(facts["classes"]), facts["positive"], preprocessing, model, device)


def inputs_of(
    model: Model, preprocessing: Preprocessing, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what a model takes of uint8 images [B, S, S, 3]: every modality has them, standardised."""
    present = torch.ones(images.shape[0], dtype=torch.bool, device=images.device)
    modalities = set(model.modalities.values())
    return dict.fromkeys(modalities, preprocessing.standardise(images)), dict.fromkeys(modalities, present)


def _after_projection(config: HeadConfig, width: int, objective: Objective) -> list[nn.Module]:
    norm = objective.wanted_norm if config.feature_norm == "auto" else config.feature_norm
    layers: list[nn.Module] = []
    if norm != "none":
        layers.append(nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width))
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return layers
