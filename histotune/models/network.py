"""A trial's network: branches -> fusion -> head -> objective; built from a configuration, loaded from a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from histotune.core.config import BranchConfig, ModelConfig, TrialConfig
from histotune.data.batches import Preparations
from histotune.data.modalities import MODALITIES, Batch
from histotune.errors import ConfigError, suggest
from histotune.models.backbones import Backbone, BackboneInput, BackboneOutput, build_backbone, check_kind
from histotune.models.fusions import build_fusion
from histotune.models.heads import Bottleneck, Head
from histotune.models.redundancies import build_redundancy

_INITIAL = ("weights", "pretrained")  # parameters of a backbone that matter before training only
IMAGE = "image"  # the kind of modality that flips and turns are for


Inputs = Mapping[str, Batch]
"""{modality: what a network gets of it, [B, ...]}."""
Outputs = Mapping[str, BackboneOutput]
Present = Mapping[str, Tensor]
"""{branch or modality: bool [B]}."""


Counts = Sequence[int] | Callable[[Collection[str]], Sequence[int]]
"""Training cases of each class, [C]; or what returns those that have any of some modalities."""


class Model(nn.Module):
    """branches -> fusion -> head -> objective; a branch that the fusion does not use is left out.

    Where the fusion gives every branch a head of its own, these are part of the objective, and there is no common one.

    Inputs are {modality: [B, ...]} and a mask {modality: bool [B]} of who has what; two branches may read the same
    modality.

    Attributes:
        modalities: {branch: modality}, of the branches in use.
        images: the modalities among them that are images.
    """

    def __init__(
        self, config: TrialConfig, counts: Counts, given: Mapping[str, BackboneInput], *, trained: bool
    ) -> None:
        super().__init__()
        branches: dict[str, Backbone] = {}
        for name, branch in _built(config.model).items():
            skipped = _INITIAL if trained else ()
            params = {k: v for k, v in branch.backbone.params.items() if k not in skipped}
            branches[name] = build_backbone(branch.backbone.name, branch.modality, given[branch.modality], **params)
        widths = {name: backbone.widths for name, backbone in branches.items()}
        self.fusion = build_fusion(config.model.fusion, widths)
        observed = [name for name in branches if name in self.fusion.embedding_dims]
        self.modalities = {name: config.model.branches[name].modality for name in observed}
        self.images = sorted({name for name in self.modalities.values() if given[name].kind == IMAGE})
        self.modality_dropout = config.model.modality_dropout
        self.branches = nn.ModuleDict({name: branches[name] for name in observed})
        self.dense = all(branches[name].dense for name in observed)

        def head(width: int, *modalities: str) -> Head:
            cases = counts(modalities) if callable(counts) else counts
            return Head(config.model.head, config.loss, width, cases)

        apart = self.fusion.objective(lambda branch, width: head(width, self.modalities[branch]))
        if apart is None:
            common = head(self.fusion.out_dim, *sorted(set(self.modalities.values())))
            self.bottleneck, self.head, self.objective = common.bottleneck, common.head, common.objective
        else:
            self.bottleneck, self.head, self.objective = Bottleneck(self.fusion.out_dim, 0, 0.0), nn.Sequential(), apart
        redundancy = config.model.redundancy
        dims = self.fusion.embedding_dims
        self.redundancy = build_redundancy(redundancy.name, redundancy.params, dims, len(config.model.branches))

    def forward(self, inputs: Inputs, present: Present) -> Tensor:
        """Map {modality: [B, ...]} to the features [B, D] that the objective sees."""
        return self.read(*self.outputs(inputs, present))

    def read(self, outputs: Outputs, masks: Present) -> Tensor:
        """Map what `outputs` returns to the features [B, D] that the objective sees."""
        joint, _ = self.bottleneck(self.fusion(outputs, masks))
        features: Tensor = self.head(joint)
        return features

    def loss(self, inputs: Inputs, present: Present, labels: Tensor) -> Tensor:
        """Return what training minimises: the objective's mean loss, redundancy and bottleneck, a float32 scalar."""
        if self.modality_dropout:
            present = withheld(present, self.modality_dropout)
        outputs, masks = self.outputs(inputs, present)
        embeddings = self.fusion.embed(outputs, masks)
        joint, information = self.bottleneck(self.fusion.join(embeddings, masks))
        features = self.head(joint)
        loss = self.objective.loss(features, labels)
        self.objective.observe(features.detach(), labels)
        return loss + self.redundancy(embeddings, masks).float() + information

    def logits(self, inputs: Inputs, present: Present) -> Tensor:
        """Map {modality: [B, ...]} to logits [B, C], float32."""
        return self.objective.scores(self(inputs, present))

    def outputs(self, inputs: Inputs, present: Present) -> tuple[Outputs, Present]:
        """Map {modality: [B, ...]} to every branch's output and who has which branch, as the fusion gets them."""
        outputs = {name: branch(inputs[self.modalities[name]]) for name, branch in self.branches.items()}
        return outputs, {name: present[modality] for name, modality in self.modalities.items()}

    def set_progress(self, fraction: float) -> None:
        """Record that `fraction` of the training, in [0, 1], is done."""
        self.fusion.set_progress(fraction)
        self.objective.set_progress(fraction)

    def parameter_count(self) -> int:
        """Return the number of trained weights that predict, the objective's included."""
        others = sum(parameter.numel() for parameter in self.redundancy.parameters())
        return sum(parameter.numel() for parameter in self.parameters()) - others


def build_model(
    config: TrialConfig,
    counts: Counts,
    given: Mapping[str, BackboneInput] | None = None,
    *,
    trained: bool = False,
) -> Model:
    """Build the network of `config` on the CPU.

    Args:
        config: names and parameters.
        counts: training cases of each class that the network has input of, [C]; or what returns them by modalities.
        given: {modality: kind and shape of one case}; what is not named is an image of the configuration's size.
        trained: weights will be loaded over it, so initial weights are not fetched.

    Raises:
        ConfigError: an unknown name, a parameter that is refused, a backbone for another kind of modality, or mixup
            with a loss that needs hard labels or with anything but images.
    """
    usual = BackboneInput((3, config.image_size, config.image_size))
    read = {branch.modality for branch in config.model.branches.values()}
    model = Model(config, counts, dict.fromkeys(read, usual) | dict(given or {}), trained=trained)
    if config.augment.mixup and not model.objective.soft_labels:
        raise ConfigError(
            f"augment.mixup={config.augment.mixup} needs a loss with soft labels, and {config.loss.name!r} has none: "
            "set augment.mixup to 0 or choose cross_entropy or focal"
        )
    if config.augment.mixup and (others := sorted(set(model.modalities.values()) - set(model.images))):
        raise ConfigError(f"augment.mixup={config.augment.mixup} is for images, but {others} are none: set it to 0")
    return model


def check_modalities(config: TrialConfig, kinds: Mapping[str, str]) -> None:
    """Check that a cohort has the modalities that a configuration names, of the kinds that its backbones read.

    Args:
        kinds: {modality: kind} of the cohort.

    Raises:
        ConfigError: a branch or `preprocess` names a modality that is not there, a backbone reads another kind, or an
            option is none of the modality's kind.
    """
    for name, branch in config.model.branches.items():
        if branch.modality not in kinds:
            raise ConfigError(
                f"model.branches.{name} reads modality {branch.modality!r}, but the cohort has {sorted(kinds)}. "
                f"{suggest(branch.modality, kinds)}"
            )
        check_kind(branch.backbone.name, branch.modality, kinds[branch.modality])
    for name, options in config.preprocess.items():
        if name not in kinds:
            raise ConfigError(f"preprocess names modality {name!r}, but the cohort has {sorted(kinds)}")
        MODALITIES.build(kinds[name]).check_options(options)


def inputs_given(preparations: Preparations) -> dict[str, BackboneInput]:
    """Return the shape of every modality, from which backbones are built."""
    return {name: BackboneInput(fitted.shape, fitted.kind) for name, fitted in preparations.items()}


def withheld(present: Present, probability: float) -> dict[str, Tensor]:
    """Withhold modalities of cases at random; a case keeps one at least of those that it has, any with equal chance."""
    names = sorted(present)
    there = torch.stack([present[name] for name in names], dim=1)  # [B, modalities]
    draws = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
    kept = there & ((draws >= probability) | (draws == draws.max(dim=1, keepdim=True).values))
    return {name: kept[:, place] for place, name in enumerate(names)}


def _built(config: ModelConfig) -> Mapping[str, BranchConfig]:
    """Return the branches without those of which it is known beforehand that the fusion keeps another one."""
    kept = str(config.fusion.params.get("branch", "")) if config.fusion.name == "none" else ""
    return {kept: config.branches[kept]} if kept in config.branches else config.branches
